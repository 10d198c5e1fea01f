"""Knowledge tables: pooling, padding, standardising and a cache that can be trusted."""
import os

import numpy as np
import pytest

from medvlp_jax.input import knowledge_table, tokens
from medvlp_jax.input.knowledge_table import hash_arrays, tables
from tests.input.fakes import SENTENCES, write_vocab

TEXTS = {
    "entities": {f"e{i}": text for i, text in enumerate(SENTENCES)},
    "positions": {"left": "It is located at left.", "heart": "It is located at heart.", "size": "It is located at size."},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tokens.load(write_vocab(tmp_path_factory.mktemp("vocab")))


class Encoder:
    """hidden[n, l] = (sum of the row's ids, this token's id, 1, masked position), and a count of calls."""

    def __init__(self):
        self.shapes = []

    def __call__(self, ids, mask):
        self.shapes.append(ids.shape)
        total = (ids * mask).sum(1, keepdims=True) + 0 * ids
        return np.stack([total, ids, np.ones_like(ids), mask], -1).astype(np.float32)  # (n, L, 4)


def make(tokenizer, encoder=None, **fields):
    encoder = encoder or Encoder()
    return tables(fields.pop("texts", TEXTS), encoder, tokenizer, **{"weights_hash": "w", "batch_size": 4, **fields})


def test_rows_are_in_order_and_pooled_by_cls_or_mean(tokenizer):
    cls, mean = make(tokenizer), make(tokenizer, pooling="mean")
    assert {k: v.shape for k, v in cls.items()} == {"entities": (8, 4), "positions": (3, 4)}
    for group, named in TEXTS.items():
        for row, text in enumerate(named.values()):
            ids = tokenizer.pieces(text).ids.astype(np.float64)
            total = ids.sum() + tokenizer.cls + tokenizer.sep
            np.testing.assert_allclose(cls[group][row], [total, tokenizer.cls, 1, 1])
            np.testing.assert_allclose(mean[group][row], [total, total / (len(ids) + 2), 1, 1], rtol=1e-6)
            assert cls[group].dtype == np.float32


def test_sequences_and_named_texts_are_the_same(tokenizer, tmp_path):
    encoder = Encoder()
    named = make(tokenizer, encoder, cache_dir=tmp_path)
    calls = len(encoder.shapes)
    listed = make(tokenizer, encoder, cache_dir=tmp_path, texts={k: tuple(v.values()) for k, v in TEXTS.items()})
    assert len(encoder.shapes) == calls and all(np.array_equal(named[k], listed[k]) for k in named)


def test_one_shape_is_encoded_and_long_texts_are_cut(tokenizer):
    encoder = Encoder()
    make(tokenizer, encoder)
    assert set(encoder.shapes) == {(4, 16)} and len(encoder.shapes) == 3
    short = Encoder()
    cut = make(tokenizer, short, max_length=5)
    assert set(short.shapes) == {(4, 5)}
    ids = tokenizer.encode(SENTENCES[0], 5)["input_ids"]
    assert cut["entities"][0, 0] == ids.sum()


def test_pooled_encoders_are_taken_as_they_are(tokenizer):
    out = make(tokenizer, lambda ids, mask: ids[:, :2] + 0.5)
    assert out["entities"][0, 0] == tokenizer.cls + 0.5


def test_standardised_columns_and_queries_in_the_space_of_entities(tokenizer):
    texts = {**TEXTS, "queries": {"unseen": SENTENCES[2]}}
    raw, out = make(tokenizer, texts=texts, pooling="mean"), make(tokenizer, texts=texts, pooling="mean", standardize=True)
    for group in ("entities", "positions"):
        np.testing.assert_allclose(out[group][:, :2].mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(out[group][:, :2].std(0), 1, atol=1e-5)
        np.testing.assert_allclose(out[group][:, 2:], 0, atol=1e-6)  # constant columns stay finite
    np.testing.assert_allclose(out["queries"][0], out["entities"][2], atol=1e-5)
    assert not np.allclose(raw["queries"][0], out["queries"][0])


def test_cache_is_used_and_follows_everything_that_matters(tokenizer, tmp_path):
    encoder = Encoder()
    first = make(tokenizer, encoder, cache_dir=tmp_path / "new")
    calls = len(encoder.shapes)
    again = make(tokenizer, encoder, cache_dir=tmp_path / "new")
    assert len(encoder.shapes) == calls
    assert all(np.array_equal(first[k], again[k]) for k in first)
    other_text = {**TEXTS, "positions": {**TEXTS["positions"], "left": "It is located at right."}}
    cased = tokens.load(write_vocab(tmp_path), lowercase=False)
    changes = [{"texts": other_text}, {"weights_hash": "v"}, {"max_length": 6}, {"pooling": "mean"}, {"standardize": True},
               {"texts": {"entities": dict(reversed(TEXTS["entities"].items())), "positions": TEXTS["positions"]}}]
    for change in changes:
        before = len(encoder.shapes)
        make(tokenizer, encoder, cache_dir=tmp_path / "new", **change)
        assert len(encoder.shapes) > before, change
    before = len(encoder.shapes)
    make(cased, encoder, cache_dir=tmp_path / "new")
    assert len(encoder.shapes) > before
    assert len(list((tmp_path / "new").iterdir())) == len(changes) + 2  # and no temporary file is left


@pytest.mark.parametrize("damage", ["cut", "junk", "empty", "foreign"])
def test_a_damaged_cache_is_made_anew(tokenizer, tmp_path, damage):
    want = make(tokenizer, cache_dir=tmp_path)
    path, = tmp_path.iterdir()
    data = path.read_bytes()
    if damage == "foreign":
        np.savez(path, _key=np.array("another"), **{k: v + 1 for k, v in want.items()})
    else:
        path.write_bytes({"cut": data[: len(data) // 2], "junk": b"x" * 300, "empty": b""}[damage])
    encoder = Encoder()
    got = make(tokenizer, encoder, cache_dir=tmp_path)
    assert encoder.shapes and all(np.array_equal(got[k], want[k]) for k in want)
    np.testing.assert_array_equal(np.load(path)["entities"], want["entities"])


def test_a_failed_write_leaves_nothing(tokenizer, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        make(tokenizer, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fields, message", [
    ({"pooling": "max"}, "unknown pooling 'max'"), ({"texts": {"entities": {}}}, r"no texts in group\(s\) entities"),
])
def test_wrong_arguments(tokenizer, fields, message):
    with pytest.raises(ValueError, match=message):
        make(tokenizer, **fields)


@pytest.mark.parametrize("encoder, message", [
    (lambda ids, mask: ids[0], r"gave shape \(16,\); expected \(4, 16, Dt\)"),
    (lambda ids, mask: np.full((4, 3), np.nan), "not finite"),
])
def test_wrong_encoders(tokenizer, encoder, message):
    with pytest.raises(ValueError, match=message):
        make(tokenizer, encoder)


def test_hash_of_parameters():
    tree = {"a": {"w": np.arange(6.0).reshape(2, 3), "b": np.zeros(())}, "c": np.ones(2, np.float32)}
    same = {"c": np.ones(2, np.float32), "a": {"b": np.zeros(()), "w": np.arange(6.0).reshape(2, 3)}}
    assert hash_arrays(tree) == hash_arrays(same)
    others = [{**tree, "c": np.ones(2)}, {**tree, "c": np.zeros(2, np.float32)}, {**tree, "d": np.ones(2, np.float32)},
              {**tree, "a": {"w": np.arange(6.0).reshape(3, 2), "b": np.zeros(())}}]
    assert len({hash_arrays(t) for t in [tree, *others]}) == 5
    assert knowledge_table.hash_arrays(np.ones(2, np.float32)) != hash_arrays(np.ones(3, np.float32))
