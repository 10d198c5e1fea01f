"""Lists and comma splices, what is gone, what is uncertain, sides, run-ons, abbreviations and earlier images."""
import time

import pytest

from medvlp_jax.reports.rules import extract


def pairs(text):
    return {(m.entity, m.exists) for m in extract(text, implied=False)}


def check(text, expected):
    """expected: "effusion 0, edema 1"."""
    want = {(name, int(value)) for name, value in (part.rsplit(" ", 1) for part in expected.split(", ") if part)}
    assert pairs(text) == want, text


@pytest.mark.parametrize("text, expected", [
    ("No pneumothorax, new right effusion.", "pneumothorax 0, effusion 1"),
    ("No PTX, 5 mm nodule in the RUL.", "pneumothorax 0, nodule 1"),
    ("There is no pneumothorax, left pleural effusion is small.", "pneumothorax 0, effusion 1"),
    ("No focal infiltrate, right basilar subsegmental atelectasis.", "infiltrate 0, atelectasis 1"),
    ("No edema, left lower lobe atelectasis, small effusion.", "edema 0, atelectasis 1, effusion 1"),
    ("Mild vascular congestion without frank edema, small effusions, no pneumothorax.",
     "congestion 1, edema 0, effusion 1, pneumothorax 0"),
    ("No pneumothorax, bibasilar atelectasis.", "pneumothorax 0, atelectasis 1"),
    ("No pneumothorax, low lung volumes.", "pneumothorax 0, low 1"),
    ("No pneumothorax, chest tube in place.", "pneumothorax 0, tube 1"),
    ("No acute infiltrate, emphysema.", "infiltrate 0, emphysema 1"),
    ("No acute findings, scoliosis.", "finding 0, tail_abnorm_obs 1"),
    ("No pneumothorax, unchanged scarring or atelectasis.", "pneumothorax 0, scar 2, atelectasis 2"),
    ("No pneumothorax, atelectasis at the right base.", "pneumothorax 0, atelectasis 1"),
    ("No focal consolidation, possible small effusion.", "consolidation 0, effusion 2"),
    ("No consolidation, consistent with COPD.", "consolidation 0, disease 1"),
    ("No effusion and left basilar atelectasis.", "effusion 0, atelectasis 1"),
    ("No consolidation and previously seen effusion has decreased.", "consolidation 0, effusion 1"),
])
def test_a_comma_may_begin_a_statement(text, expected):
    check(text, expected)


@pytest.mark.parametrize("text, expected", [
    ("No effusion, pneumothorax, or focal consolidation.", "effusion 0, pneumothorax 0, consolidation 0"),
    ("No pneumothorax, pleural effusion, pulmonary edema.", "pneumothorax 0, effusion 0, edema 0"),
    ("Without left effusion, right effusion or edema.", "effusion 0, edema 0"),
    ("No consolidation, large effusion, pneumothorax.", "consolidation 0, effusion 0, pneumothorax 0"),
    ("No consolidation, large pleural effusion/pneumothorax.", "consolidation 0, effusion 0, pneumothorax 0"),
    ("No effusion, edema, mass is seen.", "effusion 0, edema 0, mass 0"),
    ("No edema, cardiomegaly, effusion.", "edema 0, cardiomegaly 0, effusion 0"),
    ("No opacity in the right and left lung.", "opacity 0"),
    ("There is no focal consolidation; pleural effusion or pneumothorax.", "consolidation 0, effusion 0, pneumothorax 0"),
    ("Interval removal of the endotracheal tube and right jugular line.", "tube 0, line 0"),
    ("Nodules, masses: none.", "nodule 0, mass 0"),
    ("Consolidation, effusion, and pneumothorax are all absent.", "consolidation 0, effusion 0, pneumothorax 0"),
])
def test_a_list_stays_a_list(text, expected):
    check(text, expected)


@pytest.mark.parametrize("text, expected", [
    ("There has been no resolution of the right pneumonia.", "pneumonia 1"),
    ("No longer seen is the left pneumothorax.", "pneumothorax 0"),
    ("Not seen are effusion or pneumothorax.", "effusion 0, pneumothorax 0"),
    ("The left pleural effusion is gone.", "effusion 0"),
    ("The effusion has not gone away.", "effusion 1"),
    ("Resolved left pneumothorax.", "pneumothorax 0"),
    ("No increase in the pneumothorax since tube removal.", "pneumothorax 1, tube 0"),
    ("The catheter has been pulled back.", "catheter 1"),
    ("There was a pneumothorax on the prior study.", ""),
    ("Prior radiograph demonstrated a large right effusion.", ""),
    ("The edema seen on the prior examination has cleared.", "edema 0"),
    ("The prior study demonstrated pneumonia, which has cleared.", "pneumonia 0"),
    ("INDICATION: r/o pneumonia.", ""),
    ("67-year-old man with a history of emphysema.", ""),
    ("History of pneumonia.", "pneumonia 2"),
])
def test_what_is_gone_and_what_is_not_of_this_image(text, expected):
    check(text, expected)


@pytest.mark.parametrize("text, expected", [
    ("Pneumothorax, if any, is tiny.", "pneumothorax 2"),
    ("Small, if any, left effusion.", "effusion 2"),
    ("Pneumonia is a consideration.", "pneumonia 2"),
    ("There is a possibility of pneumonia.", "pneumonia 2"),
    ("Atelectasis is favored over pneumonia.", "atelectasis 2, pneumonia 2"),
    ("Right base opacity: atelectasis is favored over pneumonia.", "opacity 1, atelectasis 2, pneumonia 2"),
    ("Is there a pneumothorax?", "pneumothorax 2"),
    ("?LLL infiltrate.", "infiltrate 2"),
    ("Density, ? infiltrate.", "density 1, infiltrate 2"),
    ("Atelectasis, scarring, or early pneumonia.", "atelectasis 2, scar 2, pneumonia 2"),
    ("I cannot say that there is no pneumothorax.", "pneumothorax 2"),
    ("Absence of a fracture cannot be assured.", "fracture 2"),
    ("Apparent cardiomegaly may be projectional.", "cardiomegaly 2"),
    ("The heart is borderline in size.", "borderline 1"),
    ("No opacity suspicious for pneumonia.", "opacity 0, pneumonia 0"),
])
def test_uncertainty(text, expected):
    check(text, expected)


@pytest.mark.parametrize("text, expected", [
    ("Lungs w/o infiltrate.", "infiltrate 0"),
    ("Neg for PNA.", "pneumonia 0"),
    ("Small L eff, atx, no consol.", "effusion 1, atelectasis 1, consolidation 0"),
    ("Opacity, DDx atelectasis, PNA, aspiration.", "opacity 1, atelectasis 2, pneumonia 2, aspiration 2"),
    ("r/o PNA.", "pneumonia 2"),
    ("Cannot r/o PNA.", "pneumonia 2"),
    ("Trace b/l effs w/ edema.", "effusion 1, edema 1"),
    ("PTX: neg. Effusion: N.", "pneumothorax 0, effusion 0"),
    ("Consolidation c/w pneunomia, small efussion.", "consolidation 1, pneumonia 1, effusion 1"),
])
def test_abbreviations_and_typing_errors(text, expected):
    check(text, expected)


@pytest.mark.parametrize("text, expected", [
    ("no acute infiltrate the heart is mildly enlarged", "infiltrate 0, enlarge 1, cardiomegaly 1"),
    ("no new nodules possible small effusion", "nodule 0, effusion 2"),
    ("no acute disease period stable cardiomegaly period", "disease 0, cardiomegaly 1"),
    ("lungs clear no effusion degenerative spine", "clear 1, effusion 0, degenerative 1"),
    ("infiltrate is suspected follow up recommended no effusion", "infiltrate 2, effusion 0"),
    ("HEART: Mildly enlarged, unchanged.", "enlarge 1, cardiomegaly 1"),
])
def test_dictated_sentences(text, expected):
    check(text, expected)


@pytest.mark.parametrize("text, expected", [
    ("No effusion on the right; small on the left.", {("right_pleural", 0), ("left_pleural", 1)}),
    ("No effusion on the left, small one on the right.", {("left_pleural", 0), ("right_pleural", 1)}),
    ("Effusion on the right, not on the left.", {("right_pleural", 1), ("left_pleural", 0)}),
    ("Effusion is small on the right and absent on the left.", {("right_pleural", 1), ("left_pleural", 0)}),
    ("The right effusion has cleared while that on the left persists.", {("right_pleural", 0), ("left_pleural", 1)}),
    ("Effusion on the right but none on the left.", {("right_pleural", 1)}),
])
def test_a_side_without_its_finding(text, expected):
    assert {(m.position, m.exists) for m in extract(text, implied=False)} == expected


@pytest.mark.parametrize("text, expected", [
    ("There is no evidence that the consolidation has resolved.", "consolidation 1"),
    ("One does not appreciate any diminution in the effusions, nor in the atelectasis.", "effusion 1, atelectasis 1"),
    ("No convincing regression of the mass.", "mass 1"),
    ("No interval enlargement of the left upper lobe nodule.", "nodule 1"),
    ("No enlargement of the hila.", "enlarge 0"),
    ("No new infiltrate and no increase in the effusion.", "infiltrate 0, effusion 1"),
    ("No radiographic changes of congestive heart failure.", "chf 0"),
    ("Neither the effusion nor the atelectasis has changed.", "effusion 1, atelectasis 1"),
    ("Neither effusion nor edema is seen.", "effusion 0, edema 0"),
    ("No other interval change: the left lower lobe remains atelectatic.", "atelectasis 1"),
    ("No addition to the resident's interpretation: cardiomegaly, no failure.", "cardiomegaly 1, chf 0"),
    ("Negative for: effusion, edema.", "effusion 0, edema 0"),
    ("Interval resolution of edema, not of the effusions.", "edema 0, effusion 1"),
])
def test_a_denied_change_leaves_what_changes(text, expected):
    check(text, expected)


@pytest.mark.parametrize("text, expected", [
    ("No consolidation -- mild left basilar atelectasis.", "consolidation 0, atelectasis 1"),
    ("No infiltrate — emphysema.", "infiltrate 0, emphysema 1"),
    ("No focal consolidation -- or effusion -- is seen.", "consolidation 0, effusion 0"),
    ("Pneumothorax - no.", "pneumothorax 0"),
    ("No edema (mild cardiomegaly is unchanged).", "edema 0, cardiomegaly 1"),
    ("No volume overload (edema, effusions).", "fluid 0, edema 0, effusion 0"),
    ("Small effusions (no pneumothorax) and cardiomegaly.", "effusion 1, pneumothorax 0, cardiomegaly 1"),
    ("No effusion (previously small) or edema.", "effusion 0, edema 0"),
    ("No pneumothorax [right chest tube in situ].", "pneumothorax 0, tube 1"),
    ("Bilateral infiltrates (edema vs. pneumonia).", "infiltrate 1, edema 2, pneumonia 2"),
    ("No free air, distended stomach.", "air 0, distention 1"),
    ("No effusion, heart mildly enlarged.", "effusion 0, enlarge 1, cardiomegaly 1"),
])
def test_dashes_brackets_and_described_anatomies(text, expected):
    check(text, expected)


@pytest.mark.parametrize("text, expected", [
    ("The chest tube is out.", "tube 0"),
    ("ETT out, NGT in place.", "tube 0, tube 1"),
    ("The right jugular line has been replaced by a PICC.", "line 0, picc 1"),
    ("The infiltrate described on the earlier study can no longer be appreciated.", "infiltrate 0"),
    ("An effusion was present on the previous examination; none is seen today.", "effusion 0"),
    ("The effusion was present on the prior study; it is larger now.", "effusion 1"),
    ("Edema was present yesterday; there is none now.", "edema 0"),
    ("The left apical pneumothorax described is a skin fold.", "pneumothorax 0"),
    ("Resolved: left effusion; unchanged: cardiomegaly.", "effusion 0, cardiomegaly 1"),
    ("No mets.", "tail_abnorm_obs 0"),
    ("Should symptoms persist, CT could be obtained to look for an abscess.", ""),
    ("Small pneumothorax. CT may be obtained to look for rib fractures.", "pneumothorax 1"),
])
def test_what_is_out_or_gone_or_only_looked_for(text, expected):
    check(text, expected)


@pytest.mark.parametrize("text, expected", [
    ("Superimposed pneumonia is difficult to exclude, given the extensive fibrosis.", "pneumonia 2, tail_abnorm_obs 1"),
    ("It is not possible to exclude a small infiltrate.", "infiltrate 2"),
    ("The absence of a consolidation does not exclude early pneumonia.", "consolidation 0, pneumonia 2"),
    ("It is conceivable that a component of the opacity relates to pleural fluid.", "opacity 1, effusion 2"),
    ("It is likely that the opacity is atelectasis.", "opacity 1, atelectasis 2"),
    ("It is possible that there is pneumonia.", "pneumonia 2"),
    ("The differential for the opacity would include atelectasis, pneumonia, and aspiration.",
     "opacity 1, atelectasis 2, pneumonia 2, aspiration 2"),
])
def test_what_cannot_be_excluded_or_is_one_of_several(text, expected):
    check(text, expected)


def test_long_sentences_take_no_time():
    start = time.process_time()
    for part in ("no effusion, ", "no effusion, large ", "edema, ", "effusion on the prior study was ", "? ", "large, ", "or, ",
                 "small on the left, ", "no effusion; edema or ", "that ", "none, ", "absent, ",
                 "year-old with ", "heart large, ", "no normal ", "no change in ", "no (edema ", "possible that opacity ",
                 "no edema - ", "neither effusion "):
        extract(part * 1500)
    assert time.process_time() - start < 10
