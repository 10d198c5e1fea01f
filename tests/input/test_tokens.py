"""Tokenizer arrays, sentences and text swapping, on a small vocabulary written by the test."""
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp_jax.input import tokens
from medvlp_jax.reports import sections
from tests.input.fakes import SENTENCES, write_vocab

TEXT = "No pleural effusion. There is a small left pneumothorax. Mild edema."
OTHER = "Lungs are clear. Stable cardiomegaly."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tokens.load(write_vocab(tmp_path_factory.mktemp("vocab")))


def test_arrays_of_a_text(tokenizer):
    out = tokenizer.encode("Small left pneumothorax.", 10)
    assert tokenizer.tokens(out["input_ids"]) == [
        "[CLS]", "small", "left", "pneumo", "##thorax", ".", "[SEP]", "[PAD]", "[PAD]", "[PAD]"]
    assert out["attention_mask"].tolist() == [1] * 7 + [0] * 3
    assert out["word_ids"].tolist() == [-1, 0, 1, 2, 2, 3, -1, -1, -1, -1]
    assert all(v.dtype == np.int32 and v.shape == (10,) for v in out.values())


def test_long_texts_are_cut_and_empty_ones_are_two_tokens(tokenizer):
    out = tokenizer.encode(TEXT, 6)
    assert tokenizer.tokens(out["input_ids"]) == ["[CLS]", "no", "pleural", "effusion", ".", "[SEP]"]
    assert tokenizer.encode("", 4)["input_ids"].tolist() == [tokenizer.cls, tokenizer.sep, tokenizer.pad, tokenizer.pad]
    with pytest.raises(ValueError, match="max_tokens must leave room"):
        tokenizer.encode(TEXT, 2)


def test_agrees_with_transformers(tokenizer, tmp_path):
    from transformers import BertTokenizerFast

    fast = BertTokenizerFast(vocab=write_vocab(tmp_path))
    want = fast([TEXT, OTHER, ""], padding="max_length", truncation=True, max_length=12, return_tensors="np")
    got = tokenizer.encode_batch([TEXT, OTHER, ""], 12)
    np.testing.assert_array_equal(got["input_ids"], want["input_ids"])
    np.testing.assert_array_equal(got["attention_mask"], want["attention_mask"])
    for row in range(3):
        np.testing.assert_array_equal(got["word_ids"][row], [-1 if w is None else w for w in want.word_ids(row)])


def test_sentences(tokenizer):
    pieces = tokenizer.pieces(TEXT)
    spoken = [tokenizer.decode(pieces.ids[pieces.sentences == s]) for s in range(3)]
    assert spoken == ["no pleural effusion .", "there is a small left pneumothorax .", "mild edema ."]
    out = tokenizer.encode_pieces(pieces, 12)
    np.testing.assert_array_equal(out["input_ids"], tokenizer.encode(TEXT, 12)["input_ids"])
    assert out["sentence_ids"].tolist() == [-1, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, -1]


@pytest.mark.parametrize("seed", range(12))
def test_swapping_exchanges_exactly_one_sentence(tokenizer, seed):
    own, new = tokenizer.pieces(TEXT), tokenizer.pieces(OTHER)
    out = tokenizer.swap_sentence(np.random.default_rng(seed), TEXT, OTHER, 40)
    ids, labels = out["swapped_ids"], out["swapped_labels"]
    n = int(out["swapped_mask"].sum())
    assert ids[0] == tokenizer.cls and ids[n - 1] == tokenizer.sep and (ids[n:] == tokenizer.pad).all()
    assert labels[0] == labels[n - 1] == -1 and (labels[n:] == -1).all() and set(labels[1 : n - 1]) <= {0, 1}
    came = tuple(ids[labels == 1])
    kept = tuple(ids[labels == 0])
    assert came in {tuple(new.ids[new.sentences == s]) for s in range(2)}
    left = [tuple(own.ids[own.sentences != s]) for s in range(3)]
    assert kept in left
    gone = left.index(kept)
    start = int((own.sentences < gone).sum())
    assert labels[1 : 1 + start].sum() == 0 and labels[1 + start] == 1  # at the place of the one that left


@pytest.mark.parametrize("room, splits", [(tokens.CACHED_PIECES, 3), (1, 5), (0, 8)])
def test_what_is_kept_of_a_text_is_what_it_gives_anew(tokenizer, monkeypatch, room, splits):
    monkeypatch.setattr(tokens, "CACHED_PIECES", room)
    fresh, asked = pickle.loads(pickle.dumps(tokenizer)), []
    monkeypatch.setattr(fresh, "_split", lambda text, split=fresh._split: asked.append(text) or split(text))
    for text in (TEXT, OTHER, "", TEXT) * 2:
        want, got = tokenizer.backend.encode(text, add_special_tokens=False), fresh.pieces(text)
        assert got.ids.tolist() == want.ids and got.words.tolist() == want.word_ids
        assert {array.dtype.name for array in got} == {"int32"}
        got.ids[:] = 0  # what is kept does not change with it
    assert len(asked) == splits


def test_a_sentence_has_the_same_pieces_alone(tokenizer):
    for text in (TEXT, OTHER, "1. Mild edema. 2. Lungs are clear.", "No acute process.\nHeart size is normal; tube at T4."):
        pieces = tokenizer.pieces(text)
        for i, span in enumerate(sections.sentences(text)):
            alone = tokenizer.backend.encode(text[slice(*span)], add_special_tokens=False).ids
            assert pieces.ids[pieces.sentences == i].tolist() == alone


def test_list_numbers_stay_where_they_are(tokenizer):
    text = "1. Mild edema. 2. Lungs are clear."
    pieces = tokenizer.pieces(text)
    outside = pieces.ids[pieces.sentences == -1]
    assert tokenizer.decode(outside) == "1 . 2 ."
    for seed in range(6):
        out = tokenizer.swap_sentence(np.random.default_rng(seed), text, "3. Stable cardiomegaly.", 40)
        said = tokenizer.decode(out["swapped_ids"])
        assert said in ("1 . stable cardiomegaly . 2 . lungs are clear .", "1 . mild edema . 2 . stable cardiomegaly .")


def test_every_sentence_can_leave_and_come(tokenizer):
    outs = [tokenizer.swap_sentence(np.random.default_rng(s), TEXT, OTHER, 40) for s in range(60)]
    assert len({out["swapped_ids"].tobytes() for out in outs}) == 6
    again = [tokenizer.swap_sentence(np.random.default_rng(s), TEXT, OTHER, 40) for s in range(60)]
    assert all(np.array_equal(a["swapped_ids"], b["swapped_ids"]) for a, b in zip(outs, again, strict=True))


@pytest.mark.parametrize("own, other", [("", OTHER), (TEXT, ""), ("Mild edema.", "mild EDEMA."), ("", "")])
def test_where_nothing_can_be_exchanged_the_text_stays(tokenizer, own, other):
    out = tokenizer.swap_sentence(np.random.default_rng(0), own, other, 40)
    want = tokenizer.encode(own, 40)
    np.testing.assert_array_equal(out["swapped_ids"], want["input_ids"])
    np.testing.assert_array_equal(out["swapped_mask"], want["attention_mask"])
    np.testing.assert_array_equal(out["swapped_labels"], np.where(want["word_ids"] >= 0, 0, -1))


def test_what_comes_in_is_always_seen(tokenizer):
    own = " ".join(SENTENCES * 3)
    for seed in range(30):
        out = tokenizer.swap_sentence(np.random.default_rng(seed), own, OTHER, 16)
        assert (out["swapped_labels"] == 1).any() and out["swapped_mask"].sum() == 16


def test_decode_joins_pieces_and_drops_specials(tokenizer):
    assert tokenizer.decode(tokenizer.encode("Left pneumothorax, mild", 12)["input_ids"]) == "left pneumothorax , mild"


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=200), st.text(max_size=80))
def test_any_text_tokenizes_and_swaps(tokenizer, text, other):
    out = tokenizer.encode(text, 20)
    assert out["input_ids"].shape == (20,) and out["attention_mask"].sum() >= 2
    assert ((out["word_ids"] >= 0).sum() == out["attention_mask"].sum() - 2)
    swapped = tokenizer.swap_sentence(np.random.default_rng(0), text, other, 20)
    assert swapped["swapped_mask"].sum() >= 2


def test_pickles_small_and_equal(tokenizer):
    other = pickle.loads(pickle.dumps(tokenizer))
    assert other.fingerprint == tokenizer.fingerprint and other.pad == tokenizer.pad
    np.testing.assert_array_equal(other.encode(TEXT)["input_ids"], tokenizer.encode(TEXT)["input_ids"])


def test_loads_folders_and_files_of_hugging_face(tokenizer, tmp_path):
    from transformers import BertTokenizerFast

    write_vocab(tmp_path)
    assert tokens.load(tmp_path).fingerprint == tokenizer.fingerprint
    saved = tmp_path / "saved"
    BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"), do_lower_case=False).save_pretrained(saved)
    cased = tokens.load(saved)
    assert cased.fingerprint != tokenizer.fingerprint and cased.vocab_size == tokenizer.vocab_size
    np.testing.assert_array_equal(cased.encode("mild edema")["input_ids"], tokenizer.encode("mild edema")["input_ids"])


def test_embeddings_must_fit(tokenizer):
    size = tokenizer.vocab_size
    tokens.check_fits(tokenizer, size, "w")
    tokens.check_fits(tokenizer, size + 60, "w")  # padded
    for wrong in (size - 1, size + 5000):
        with pytest.raises(ValueError, match=f"{size} word pieces, but hf:x has {wrong:,} embeddings"):
            tokens.check_fits(tokenizer, wrong, "hf:x")


def test_errors_say_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected vocab.txt or tokenizer.json"):
        tokens.load(tmp_path)
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nword\n")
    with pytest.raises(ValueError, match=r"lacks the special token"):
        tokens.load(tmp_path)
