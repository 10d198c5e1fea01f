import numpy as np
import pytest

from medvlp_jax.input import phantom, phantom_phrases
from medvlp_jax.reports import rules, sections, triplets, vocab

N = 240


@pytest.fixture(scope="module")
def examples():
    source = phantom.PhantomSource("train", size=N, image_size=32)
    return [source[i] for i in range(N)]


def test_presence_states_only_what_is_true(examples):
    stated = {name: [0, 0, 0] for name in phantom.FINDINGS}
    doubts = 0
    for e in examples:
        labels = triplets.existence_labels(e["presence"])
        for name, truth in e["finding_labels"].items():
            label = labels[vocab.entity_index(name)]
            if label == 1:
                assert truth == 1, (e["id"], name)
            elif label == 0:
                assert truth == 0, (e["id"], name)
            doubts += label == 2
            if label in (0, 1):
                stated[name][label] += 1
            stated[name][2] += truth
    assert doubts > 5
    for name, (absent, present, true) in stated.items():
        assert absent > 0.15 * N, name  # enough denials to learn from
        assert present >= 0.6 * true, name


def test_presence_names_the_place(examples):
    right = total = 0
    for i, e in enumerate(examples):
        for f in phantom.scene_of(0, "train", i).findings:
            places = np.flatnonzero(e["presence"][:, vocab.entity_index(f.name)] == 1)
            if len(places):
                total += 1
                right += set(f.positions) <= {vocab.POSITIONS[p] for p in places}
    assert total > 200 and right / total > 0.85  # "pulmonary" edema, a hernia without a place


def test_the_words_of_the_report_agree_with_presence(examples):
    """The report is parsed by the rule-based filter, which knows nothing of the grammar."""
    agree = total = 0
    for e in examples:
        read = triplets.existence_labels(triplets.presence(rules.extract(sections.report_text(e["report"]))))
        truth = triplets.existence_labels(e["presence"])
        for name in phantom.FINDINGS:
            k = vocab.entity_index(name)
            if truth[k] != -1 or read[k] != -1:
                total += 1
                agree += truth[k] == read[k]
    assert agree / total > 0.97


def test_reports_vary(examples):
    assert len({e["report"] for e in examples}) == N
    text = " ".join(e["report"] for e in examples)
    for words in (
        "No ",
        "cannot be excluded",
        "ossible ",
        "unchanged",
        "left",
        "right",
        "bilateral",
        "clear",
        "IMPRESSION:",
    ):
        assert words in text
    assert "{" not in text and "  " not in text and ".." not in text
    median = np.median([len(e["report"].split()) for e in examples])
    assert 30 < median < 90


def test_every_phrase_of_the_grammar_uses_the_vocabulary():
    for phrases in phantom_phrases.PHRASES.values():
        for kind, _, facts in phrases:
            assert kind in ("a", "", "s", ".")
            for fact in facts.replace("{side}", "left").replace("{at}", "left_upper_lung").split():
                entity, rest = fact.split("@")
                assert entity in vocab.ENTITIES and rest.split("=")[0] in vocab.POSITIONS
    for names in phantom_phrases.DENIED.values():
        assert all(name in phantom.FINDINGS and position in vocab.POSITIONS for name, (_, position) in names.items())
    assert {n for names in phantom_phrases.DENIED.values() for n in names} == set(phantom.FINDINGS)
