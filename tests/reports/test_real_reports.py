"""The whole filter on 3,469 real reports (shared development data; never copied into the repository)."""
import csv
from collections import Counter

import pytest

from medvlp_jax.reports import vocab
from medvlp_jax.reports.measure import reports_per_second, summarise
from medvlp_jax.reports.rules import extract
from medvlp_jax.reports.sections import report_text, sections
from medvlp_jax.reports.triplets import is_abnormal, presence
from tests.golden import shared

# Tags that say nothing of the patient: a report with no other tag is left out of the comparison.
NO_VERDICT = {"", "No Indexing", "Technical Quality of Image Unsatisfactory"}


@pytest.fixture(scope="module")
def reports():
    with open(shared("cxr", "reports.csv"), newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


@pytest.fixture(scope="module")
def mentions(reports):
    return [extract(report_text(r["report"])) for r in reports]


def test_no_error_and_sound_mentions(reports, mentions):
    assert len(reports) == 3469
    for r, found in zip(reports, mentions, strict=True):
        size = len(report_text(r["report"]))
        assert all(0 <= m.start < m.end <= size for m in found)
        assert found and presence(found).max() >= 0, r["report_id"]


def test_sections_are_those_of_the_source(reports):
    pairs = [(sections(r["report"]).get(name, ""), r[name]) for r in reports if r["source"] == "openi-iu"
             for name in ("findings", "impression")]
    different = [pair for pair in pairs if pair[0].split() != pair[1].split()]
    assert len(pairs) == 6930 and len(different) <= 10  # "Chest:" inside a section begins the findings anew


def test_agreement_on_normal_and_abnormal(reports, mentions, capsys):
    hits, total = Counter(), Counter()
    for r, found in zip(reports, mentions, strict=True):
        tags = set(r["labels"].split(";")) - NO_VERDICT
        if tags:
            total[r["split"]] += 1
            hits[r["split"]] += is_abnormal(found) == (tags != {"normal"})
    shares = {split: hits[split] / total[split] for split in total}
    print("\nnormal/abnormal agreement:", {k: f"{v:.3f} of {total[k]}" for k, v in shares.items()})
    assert sum(total.values()) > 3300 and min(shares.values()) >= 0.95


@pytest.mark.parametrize("entity, precision, recall", [
    ("cardiomegaly", 0.9, 0.9), ("effusion", 0.75, 0.95), ("opacity", 0.9, 0.95), ("degenerative", 0.9, 0.95),
    ("calcification", 0.85, 0.97), ("hyperinflate", 0.95, 0.85), ("tortuous", 0.95, 0.9), ("low", 0.9, 0.9),
])
def test_entities_against_tags(reports, mentions, entity, precision, recall):
    """The indexers tagged what is certain; "possible effusion" costs precision here by design."""
    c = Counter()
    for r, found in zip(reports, mentions, strict=True):
        if "No Indexing" not in r["labels"] and r["labels"]:
            tagged = entity in {vocab.lookup(tag) for tag in r["labels"].split(";")}
            c[tagged, any(m.entity == entity and m.exists in (1, 2) for m in found)] += 1
    assert c[True, True] / (c[True, True] + c[False, True]) >= precision
    assert c[True, True] / (c[True, True] + c[True, False]) >= recall


def test_speed_and_summary(reports):
    texts = [r["report"] for r in reports]
    summary = summarise(texts)
    assert summary[:4] == (3469, 0, 0, 0) and 2000 < summary.abnormal < 2500
    assert reports_per_second(texts[:1000]) > 500  # 4,000 on an idle core of 2026; other processes may run
