"""Precision, recall and F1 of the rules on own sentences, by class of phenomenon and by entity.

testdata/report_gold.jsonl holds own sentences. They and the rules have one author, and the rules were mended until all
passed: this is a specification and a regression test, not an estimate for an unseen hospital. What comes nearer to one: of
sentences 186 to 313, scored once before any mending, 123 of 128 were read without a fault; of the 67 after them, written
later, 64 (F1 0.977; one of the three was a slip of the expectation, against an older sentence); of the 40 after those, 34 (F1
0.93; two of these faults remain). The last four came with their mending.
Table: python -m medvlp_jax.reports.gold FILE.
"""
from collections import Counter
from pathlib import Path

import pytest

from medvlp_jax.reports import gold as scoring
from medvlp_jax.reports import vocab

GOLD = Path(__file__).parents[1] / "testdata" / "report_gold.jsonl"
# 1,516 sentences and reports in many styles, judged before the filter read them; see docs/reports.md.
STYLES = GOLD.with_name("report_gold_styles.jsonl")
# How the sentences begin that the filter still reads wrongly. What is mended leaves this list.
KNOWN_FAULTS = [
    "The intra-aortic balloon pump has been removed since ___.",  # "... persists but frank edema does not"
    "On completion of treatment the left upper lobe cavity has closed",
    "Large right pleural effusion present on ___ has been drained, leaving no residual.",
    "lungs clear no effusion no edema hiatal hernia is noted",
    "Lymphangitic spread cannot be excluded given new septal lines at the right base; edema could look the same.",
    "Is there a pneumothorax? None on the right; a 5 mm one persists on the left.",
    "Left PICC line tip is not visualized beyond the mid SVC.",
    "Lungs grossly clear, CM stable.",
    "Airspace disease: none. Interstitial disease: mild edema.",
    "There is vague opacity at the right apex, which is probably summation of shadows.",
    "ADDENDUM: The nodule described above is a nipple shadow.",
    "Pneumothorax? No.",
    "CT would be more sensitive for small nodules.",
    "Without comparison, the chronicity of the left base opacity is uncertain.",
    "There is little change in the diffuse bilateral pulmonary opacifications, which could reflect",
    "No pneumothorax, displaced rib fractures.",
    "The effusions have not resolved; the edema has.",
    "No effusion or edema (cardiomegaly).",
    "The line interpreted as a pneumothorax is a skin fold.",
    "The lucency at the left apex likely represents a skin fold rather than a pneumothorax.",
    "Resolution of the right but not the left effusion.",
]


@pytest.fixture(scope="module")
def gold():
    return scoring.read(GOLD)


def test_gold_is_well_formed(gold):
    assert len(gold) >= 380 and len({g["text"] for g in gold}) == len(gold)
    for g in gold:
        assert g["expect"]
        for entity, position, exists in g["expect"]:
            assert entity in vocab.ENTITIES and position in (None, *vocab.POSITIONS) and exists in (0, 1, 2)
    assert min(Counter(g["class"] for g in gold).values()) >= 5


def test_matching():
    match = scoring.match
    assert match([["edema", None, 1]], {("edema", "other", 1), ("edema", "spine", 1)}) == ([("edema", None, 1)], [], [])
    hits, missed, extra = match([["edema", None, 1], ["mass", "rib", 0]], {("mass", "rib", 1), ("edema", "rib", 1)})
    assert hits == [("edema", None, 1)] and missed == [("mass", "rib", 0)] and extra == [("mass", "rib", 1)]


def test_figures_by_hand():
    found = scoring.score([{"class": "a", "text": "No effusion.", "expect": [["effusion", None, 0], ["edema", None, 1]]},
                           {"class": "b", "text": "Left effusion.", "expect": [["effusion", "right_pleural", 1]]}])
    assert found.by_class["ALL"] == {"tp": 1, "fn": 2, "fp": 1} and len(found.wrong) == 2
    precision, recall, f1 = scoring.figures(found.by_class["ALL"])
    assert (precision, recall, round(f1, 6)) == (1 / 2, 1 / 3, 0.4)
    assert "ALL                     3  0.500  0.333  0.400" in scoring.table(found.by_class)


def test_precision_recall_f1(gold):
    found = scoring.score(gold)
    low = {name: scoring.figures(c)[2] for name, c in found.by_class.items()}
    assert min(low.values()) >= 0.95, "\n".join([str(low), *found.wrong])
    entities = {name: scoring.figures(c)[2] for name, c in found.by_entity.items()}
    assert min(entities.values()) >= 0.8, "\n".join([str(entities), *found.wrong])


def test_existence_by_hand():
    compare = scoring.compare
    assert compare({("edema", 0), ("mass", 1)}, {("edema", 1), ("mass", 1)}) == {"tp": 1, "fp": 1, "fn": 1, "swaps": 1}
    assert compare({("edema", 0), ("edema", 1)}, {("edema", 1)}) == {"tp": 1, "fp": 0, "fn": 1, "swaps": 0}
    assert compare({("edema", 1)}, {("edema", 2)})["swaps"] == 0 == compare(set(), {("edema", 0)})["swaps"]
    found = scoring.score([{"class": "a", "text": "Left and right effusion.", "expect": [["effusion", None, 0]]}])
    assert found.existence == Counter(fp=1, fn=1, swaps=1) and found.by_class["ALL"]["fp"] == 2


def test_sentences_in_many_styles():
    sentences = scoring.read(STYLES)
    assert len({g["text"] for g in sentences}) == len(sentences) == 1516
    assert {e for g in sentences for e, _, _ in g["expect"]} <= set(vocab.ENTITIES)
    found = scoring.score(sentences)
    precision, recall, _ = scoring.figures(found.existence)
    assert precision >= 0.99 and recall >= 0.99 and found.existence["swaps"] <= 9, found.existence
    assert [next((k for k in KNOWN_FAULTS if line.startswith(k)), line) for line in found.wrong] == KNOWN_FAULTS


def test_the_command_and_a_damaged_file(tmp_path, capsys):
    scoring.main([str(GOLD)])
    said = capsys.readouterr().out
    assert said.count("ALL") == 1 and "entity, exists " in said and "0 present/absent swaps in 421 sentences" in said
    (tmp_path / "bad.jsonl").write_text('{"class": "a", "text": "b"}\n')
    with pytest.raises(ValueError, match="bad.jsonl, line 1: keys"):
        scoring.read(tmp_path / "bad.jsonl")
