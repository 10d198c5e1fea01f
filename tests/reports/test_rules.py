"""The rules by class of phenomenon; the gold set (test_gold.py) has many more sentences of each."""
import random
import time

import pytest

from medvlp_jax.reports import anatomy, cues, lexicon, matcher, vocab
from medvlp_jax.reports.rules import IMPLIED, extract
from medvlp_jax.reports.triplets import Mention, existence_labels, presence


def said(text, implied=False):
    """{(entity, position, exists)} of a text."""
    return {m[:3] for m in extract(text, implied)}


def exists(text, entity):
    values = {m.exists for m in extract(text, implied=False) if m.entity == entity}
    assert len(values) == 1, f"{entity} in {text!r}: {values}"
    return values.pop()


@pytest.mark.parametrize("text, expected", [
    ("No effusion but consolidation.", {"effusion": 0, "consolidation": 1}),
    ("No effusion, edema or mass.", {"effusion": 0, "edema": 0, "mass": 0}),
    ("No effusion, mild edema.", {"effusion": 0, "edema": 1}),
    ("Cardiomegaly without edema.", {"cardiomegaly": 1, "edema": 0}),
    ("Effusion or edema is not seen.", {"effusion": 0, "edema": 0}),
    ("Edema is present and effusion is not seen.", {"edema": 1, "effusion": 0}),
    ("The heart isn't enlarged.", {"enlarge": 0, "cardiomegaly": 0}),
    ("No change in effusion.", {"effusion": 1}),
    ("Not only effusion but also edema.", {"effusion": 1, "edema": 1}),
    ("Edema has resolved, effusion persists.", {"edema": 0, "effusion": 1}),
    ("Partially resolved effusion.", {"effusion": 1}),
    ("Possible pneumonia, small effusion.", {"pneumonia": 2, "effusion": 1}),
    ("Opacity may represent pneumonia.", {"opacity": 1, "pneumonia": 2}),
    ("No opacity to suggest pneumonia.", {"opacity": 0, "pneumonia": 0}),
    ("Pneumonia cannot be excluded.", {"pneumonia": 2}),
    ("Atelectasis versus pneumonia.", {"atelectasis": 2, "pneumonia": 2}),
    ("Scarring or atelectasis.", {"scar": 2, "atelectasis": 2}),
    ("No change in effusion or edema.", {"effusion": 1, "edema": 1}),
    ("Lungs are clear and the heart is enlarged.", {"clear": 1, "enlarge": 1}),
    ("No nodule; stable edema.", {"nodule": 0, "edema": 1}),
    ("Effusion: none.", {"effusion": 0}),
    ("Small effusion +/- atelectasis.", {"effusion": 1, "atelectasis": 2}),
    ("The lungs are not clear.", {"clear": 0}),
])
def test_negation_and_uncertainty(text, expected):
    assert {entity: exists(text, entity) for entity in expected} == expected


@pytest.mark.parametrize("text, expected", [
    ("Left effusion.", ("effusion", "left_pleural")),
    ("Opacity in the right lower lobe.", ("opacity", "lower_right_lobe")),
    ("Left basilar atelectasis.", ("atelectasis", "left_lower_lung")),
    ("Right apical pneumothorax.", ("pneumothorax", "right_apical_lung")),
    ("Retrocardiac density.", ("density", "retrocardiac")),
    ("The left costophrenic angle is blunted.", ("blunt", "left_costophrenic")),
    ("Tortuous aorta.", ("tortuous", "aorta")),
    ("Scoliosis.", ("tail_abnorm_obs", "spine")),
    ("Edema.", ("edema", "unspecified")),
    ("Shoulder arthritis.", ("degenerative", "other")),
    ("Left lung opacity.", ("opacity", "left_lung_unspec")),
    ("Opacity on the left.", ("opacity", "left_lung_unspec")),
    ("Lingular scarring.", ("scar", "upper_left_lobe")),
    ("Bibasilar atelectasis.", ("atelectasis", "lung_bases")),
    ("Pulmonary nodule in the left mid lung.", ("nodule", "left_mid_lung")),
    ("Nodule projecting over the right 4th rib.", ("nodule", "right_lung_unspec")),
])
def test_positions(text, expected):
    assert said(text) == {(*expected, 1)}


def test_bilateral_gives_both_sides():
    assert said("Small bilateral pleural effusions.") == {("effusion", "left_pleural", 1),
                                                          ("effusion", "right_pleural", 1)}
    assert said("Right and left lower lobe opacities.") == {("opacity", "lower_left_lobe", 1),
                                                            ("opacity", "lower_right_lobe", 1)}


def test_places_are_not_shared_across_findings():
    assert said("Small effusion at the left base and right apical scarring.") == {
        ("effusion", "left_pleural", 1), ("scar", "right_apical_lung", 1)}
    assert said("No pleural effusion or consolidation.") == {("effusion", "pleural_unspec", 0),
                                                             ("consolidation", "unspecified", 0)}
    assert said("Right base atelectasis or pneumonia.") == {("atelectasis", "right_lower_lung", 2),
                                                            ("pneumonia", "right_lower_lung", 2)}


def test_one_phrase_may_be_two_entities():
    assert said("Left hydropneumothorax.") == {("effusion", "left_pleural", 1), ("pneumothorax", "left_pleural", 1)}


def test_implied_absences():
    assert ("cardiomegaly", "heart_size", 0) in said("Normal heart size.", implied=True)
    assert ("cardiomegaly", "heart_size", 0) not in said("Normal heart size.")
    clear = said("The lungs are clear.", implied=True)
    assert {("opacity", "lung_volumes", 0), ("consolidation", "lung_volumes", 0)} <= clear
    assert not {"nodule", "pneumonia", "effusion", "mass"} & {e for e, _, _ in clear}
    for text in ("The lungs are otherwise clear.", "The right lung is clear.", "The lungs are not clear.",
                 "Normal lung volumes.", "The aorta is normal."):
        assert not any(value == 0 and e != "clear" for e, _, value in said(text, implied=True)), text


def test_an_implied_absence_never_hides_a_finding():
    labels = existence_labels(presence(extract("The lungs are clear. Opacity in the left base.")))
    assert labels[vocab.entity_index("opacity")] == 1 and labels[vocab.entity_index("consolidation")] == 0


def test_offsets():
    text = "FINDINGS: Heart size is normal.\n\nNo pneumothoraces.  Small, bilateral pleural EFFUSIONS (new)."
    spans = {m.entity: text[m.start:m.end] for m in extract(text, implied=False)}
    assert spans == {"normal": "normal", "pneumothorax": "pneumothoraces", "effusion": "EFFUSIONS"}
    assert extract("x. Edema.") == [Mention("edema", "unspecified", 1, 3, 8)]


@pytest.mark.parametrize("typo, word", [
    ("pnuemonia", "pneumonia"), ("effussion", "effusion"), ("cardiomegally", "cardiomegaly"),
    ("Atelectesis", "atelectasis"),
    ("opacitys", "opacity"), ("consolidatoin", "consolidation"), ("XXXX", "___"), ("_____", "___"), ("n't", "not"),
    ("injection", "injection"), ("lesson", "lesson"), ("normal", "normal"), ("bases", "base"), ("a" * 5000, "a" * 5000),
])
def test_spelling(typo, word):
    assert matcher.canonical(typo.lower()) == word


def test_capitals_blanks_and_lists():
    assert said("NO EVIDENCE OF PNEUMONIA.") == said("No evidence of pneumonia.")
    assert said("No XXXX of ___ effusion.") == {("effusion", "pleural_unspec", 0)}
    assert said("1. Edema 2. No effusion") == {("edema", "unspecified", 1), ("effusion", "pleural_unspec", 0)}


def test_normal_words_inside_a_finding_say_nothing():
    assert said("Stable cardiomegaly.") == {("cardiomegaly", "heart_size", 1)}
    assert said("No clear consolidation.") == {("consolidation", "unspecified", 0)}
    assert said("The mediastinum is stable.") == {("stable", "mediastinal", 1)}
    assert said("These findings are described above.") == set()


def test_tables_are_sound():
    assert set(lexicon.ENTITIES) == set(vocab.ENTITIES)
    for group in anatomy.GROUPS:
        for sides in (frozenset(), frozenset({"left"}), frozenset({"right"}), frozenset({"left", "right"})):
            assert set(anatomy.resolve(group, sides)) <= set(vocab.POSITIONS)
    reached = {p for g in anatomy.GROUPS for s in ((), ("left",), ("right",)) for p in anatomy.resolve(g, frozenset(s))}
    assert reached == set(vocab.POSITIONS) - {"unspecified"}
    for group, (words, denied) in IMPLIED.items():
        assert {group, *denied.values()} <= set(anatomy.GROUPS) and {*words, *denied} <= set(vocab.ENTITIES)
    kinds = {kind for phrase, kind, _ in matcher._phrases()}
    assert kinds == {"finding", "place", "side", *(cue.partition(":")[0] for cue in cues.CUES)}
    for phrase in (*cues.CUES["verb"], *cues.CUES["prep"]):  # lists of single words: a stray space would make pairs
        assert max(map(len, matcher.expand(phrase))) == 1 or phrase == "adjacent to"
    with pytest.raises(ValueError, match="names no group"):
        matcher._finding("edema", "edema @lungs")


def test_any_text_is_read_without_error():
    words = sorted(matcher._WORDS) + [",", ".", ";", ":", "/", "\n", "1.", "XXXX", "é", "胸"]
    rng = random.Random(0)
    for _ in range(1500):
        text = " ".join(rng.choices(words, k=rng.randint(0, 25)))
        for m in extract(text):
            assert 0 <= m.start < m.end <= len(text) and m.exists in (0, 1, 2)
            assert m.entity in vocab.ENTITIES and m.position in vocab.POSITIONS


def test_long_text_takes_no_time():
    start = time.process_time()
    for text in ("no effusion, " * 2000, "opacity in the left base or " * 2000, "left " * 5000, "a" * 100000):
        extract(text)
    assert time.process_time() - start < 10  # a square cost would take minutes
