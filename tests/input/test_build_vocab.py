"""The shipped vocabulary: how it is made, and that it covers our own texts and real ones."""
import numpy as np
import pytest

from medvlp_jax.input import build_vocab, tokens
from medvlp_jax.input.phantom import PhantomSource
from medvlp_jax.reports import knowledge
from tests import golden


@pytest.fixture(scope="module")
def shipped():
    return tokens.load()


def rates(tokenizer, texts):
    """-> (pieces per word, share of unknown pieces)."""
    pieces = [tokenizer.pieces(text) for text in texts]
    words = sum(len(np.unique(p.words)) for p in pieces)
    ids = np.concatenate([p.ids for p in pieces])
    return len(ids) / words, float((ids == tokenizer.unk).mean())


def test_same_texts_same_vocabulary():
    texts = {"descriptions": ["A pleural effusion is fluid."] * 3, "filter": ["pneumothorax", "effusion", "pleural"] * 2,
             "reports": ["Small effusion. No pneumothorax or effusion."] * 50}
    first, second = (build_vocab.build(texts, 300) for _ in range(2))
    assert first == second and len(first) == len(set(first)) <= 300
    assert first[:5] == list(tokens.SPECIAL) and {"effusion", "pneumothorax", "~", "##~", "q", "##q"} <= set(first)


def test_small_sizes_still_hold_every_character(tmp_path):
    pieces = build_vocab.build({"filter": ["effusion"]}, 170)
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(pieces) + "\n")
    tokenizer = tokens.load(path)
    text = "".join(chr(c) for c in range(32, 127)) + " xylophone_9"
    assert tokenizer.unk not in tokenizer.pieces(text).ids


def test_command_writes_what_it_is_asked_for(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(build_vocab, "corpus", lambda reports: seen.append(reports) or {"filter": ["effusion"] * 3})
    build_vocab.main([f"--out={tmp_path / 'v.txt'}", "--size=180", "--reports=7"])
    assert seen == [7] and "effusion" in (tmp_path / "v.txt").read_text().split("\n")
    assert "pieces to" in capsys.readouterr().out


def test_strings_of_nested_tables():
    assert list(build_vocab.strings({"a": ["b", ("c", {"d"})], 1: None})) == ["a", "b", "c", "d"]


def test_corpus_is_of_our_own_texts():
    texts = build_vocab.corpus(20)
    assert {k: len(v) > 15 for k, v in texts.items()} == dict.fromkeys(build_vocab.WEIGHTS, True)
    assert "effusion" in texts["filter"] and len(texts["reports"]) == 20


def test_shipped_vocabulary_fits_our_texts(shipped):
    assert 1500 <= shipped.vocab_size <= 2100
    texts = knowledge.load()
    phantom = PhantomSource("val")
    for some, most in (([phantom.text(i) for i in range(100)], 1.1), (texts.entities, 1.2), (texts.positions, 1.2)):
        per_word, unknown = rates(shipped, some)
        assert per_word < most and unknown == 0


def test_shipped_vocabulary_on_real_reports(shipped):
    import csv

    with open(golden.shared("cxr", "reports.csv"), encoding="utf-8-sig", newline="") as f:
        texts = [row[key] for row, _ in zip(csv.DictReader(f), range(400), strict=False) for key in ("findings", "impression")
                 if row.get(key)]
    per_word, unknown = rates(shipped, texts)
    assert len(texts) > 400 and per_word < 1.5 and unknown < 1e-3
