"""Precision, recall and F1 of the rules on own sentences, by class of phenomenon and by entity.

testdata/report_gold.jsonl: one sentence a line, {"class", "text", "expect": [[entity, position or null, exists], ...]};
null: any position will do. The sentences and the rules have one author, and the rules were mended until all passed:
this is a specification and a regression test, not an estimate for an unseen hospital. (The last 128 sentences were
scored once before any mending: 123 of them were read without a fault.) Table: pytest -s.
"""
import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from medvlp_jax.reports import vocab
from medvlp_jax.reports.rules import extract

GOLD = Path(__file__).parents[1] / "testdata" / "report_gold.jsonl"


def match(expected, found):
    """-> (hits, missed, extra) lists of (entity, position, exists). A mention serves one expectation; one without a
    position takes all mentions that fit."""
    left, hits, missed = set(found), [], []
    for want in sorted(map(tuple, expected), key=lambda e: e[1] is None):
        fits = {m for m in left if (m[0], m[2]) == (want[0], want[2]) and want[1] in (None, m[1])}
        (hits if fits else missed).append(want)
        left -= fits
    return hits, missed, sorted(left)


def figures(tp, fp, fn):
    precision, recall = tp / max(tp + fp, 1), tp / max(tp + fn, 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)


def table(counts):
    """Lines "name n precision recall F1" of {name: Counter(tp, fp, fn)}."""
    lines = [f"{'':20s} {'n':>4s} {'P':>6s} {'R':>6s} {'F1':>6s}"]
    for name, c in sorted(counts.items()):
        p, r, f = figures(c["tp"], c["fp"], c["fn"])
        lines.append(f"{name:20s} {c['tp'] + c['fn']:4d} {p:6.3f} {r:6.3f} {f:6.3f}")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def gold():
    return [json.loads(line) for line in GOLD.read_text("utf-8").splitlines()]


def test_gold_is_well_formed(gold):
    assert len(gold) >= 300 and len({g["text"] for g in gold}) == len(gold)
    for g in gold:
        assert g["expect"] and set(g) == {"class", "text", "expect"}
        for entity, position, exists in g["expect"]:
            assert entity in vocab.ENTITIES and position in (None, *vocab.POSITIONS) and exists in (0, 1, 2)
    assert min(Counter(g["class"] for g in gold).values()) >= 5


def test_matching():
    assert match([["edema", None, 1]], {("edema", "other", 1), ("edema", "spine", 1)}) == ([("edema", None, 1)], [], [])
    hits, missed, extra = match([["edema", None, 1], ["mass", "rib", 0]], {("mass", "rib", 1), ("edema", "rib", 1)})
    assert hits == [("edema", None, 1)] and missed == [("mass", "rib", 0)] and extra == [("mass", "rib", 1)]


def test_precision_recall_f1(gold, capsys):
    by_class, by_entity, wrong = defaultdict(Counter), defaultdict(Counter), []
    for g in gold:
        hits, missed, extra = match(g["expect"], {m[:3] for m in extract(g["text"], implied=False)})
        for kind, some in (("tp", hits), ("fn", missed), ("fp", extra)):
            for mention in some:
                for counter in (by_class[g["class"]], by_class["ALL"], by_entity[mention[0]]):
                    counter[kind] += 1
        if missed or extra:
            wrong.append(f"{g['text']} | missed {missed} | extra {extra}")
    print("\n" + table(by_class) + "\n\n" + table(by_entity) + "\n\n" + "\n".join(wrong))
    low = {name: figures(c["tp"], c["fp"], c["fn"])[2] for name, c in by_class.items()}
    assert min(low.values()) >= 0.95, "\n".join([str(low), *wrong])
    entity_f1 = {name: figures(c["tp"], c["fp"], c["fn"])[2] for name, c in by_entity.items()}
    assert min(entity_f1.values()) >= 0.8, "\n".join([str(entity_f1), *wrong])
