"""Evaluation batches: every example once, in order, ground truth in the pixels of the image, ragged ends."""
import numpy as np
import pytest

from medvlp_jax.input import pipeline, tokens
from medvlp_jax.input.pipeline import Options, eval_batches
from tests.input.fakes import TinySource, write_vocab

OPTIONS = Options(image_size=24, max_tokens=40)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tokens.load(write_vocab(tmp_path_factory.mktemp("vocab")))


def rows(batches):
    return [host["row"] for batch in batches for host in batch["host"]]


def test_every_example_once_in_order_and_the_end_padded(tokenizer):
    batches = list(eval_batches(TinySource(10), tokenizer, OPTIONS, batch_size=4))
    assert rows(batches) == list(range(10))
    assert [batch["valid"].tolist() for batch in batches] == [[1, 1, 1, 1]] * 2 + [[1, 1, 0, 0]]
    last = batches[-1]
    assert len(last["host"]) == 2 and last["image"].shape == (4, 24, 24, 1) and not last["image"][2:].any()
    assert (last["labels"][2:] == -1).all() and (last["has_report"][2:] == 0).all()
    assert (last["attention_mask"][2:].sum(1) == 1).all() and (last["input_ids"][2:, 0] == tokenizer.cls).all()
    train = pipeline.train_iterator(TinySource(), tokenizer, OPTIONS, batch_size=4, seed=0, threads=0)
    arrays = {k: (v.shape, v.dtype) for k, v in next(train).items()}
    train.close()
    for batch in batches:
        assert {k: (v.shape, v.dtype) for k, v in batch.items() if k != "host"} == arrays


def test_evaluation_is_repeatable(tokenizer):
    a, b = (list(eval_batches(TinySource(7), tokenizer, OPTIONS, batch_size=3, threads=t)) for t in (1, 3))
    for left, right in zip(a, b, strict=True):
        for key in left.keys() - {"host"}:
            np.testing.assert_array_equal(left[key], right[key], err_msg=key)


def test_ground_truth_is_in_pixels_of_the_batch(tokenizer):
    source = TinySource(6)
    for options in (OPTIONS, OPTIONS._replace(eval_fit="pad", eval_frame=28)):
        for batch in eval_batches(source, tokenizer, options, batch_size=6):
            for host in batch["host"]:
                (name, x, y, w, h), mask = host["boxes"][0], host["masks"]["mass"]
                assert name == "mass" and mask.shape == (24, 24)
                columns, lines = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
                assert abs(x - columns[0]) <= 1 and abs(x + w - columns[-1] - 1) <= 1
                assert abs(y - lines[0]) <= 1 and abs(y + h - lines[-1] - 1) <= 1
                assert host["id"] == f"study{host['row']}" and host["report"] == source.text(host["row"])
                assert host["finding_labels"] == {"mass": host["row"] % 2} and host["patient_id"] == f"p{host['row'] // 2}"


def test_limit_and_reports_only(tokenizer):
    assert rows(eval_batches(TinySource(10), tokenizer, OPTIONS, batch_size=4, limit=5)) == list(range(5))
    silent = TinySource(10, silent=[0, 3])
    got = rows(eval_batches(silent, tokenizer, OPTIONS._replace(require_report=True), batch_size=4, limit=5))
    assert got == [1, 2, 4, 5, 6]


def test_undecodable_examples_become_invalid_rows(tokenizer):
    batches = list(eval_batches(TinySource(6, bad=[0, 1, 4]), tokenizer, OPTIONS, batch_size=2))
    assert rows(batches) == [2, 3, 5]
    assert [batch["valid"].tolist() for batch in batches] == [[0, 0], [1, 1], [1, 0]]
    with pytest.raises(ValueError, match="none of the 3 examples can be decoded"):
        list(eval_batches(TinySource(3, bad=range(3)), tokenizer, OPTIONS, batch_size=2))


def test_processes_share_the_batches(tokenizer):
    whole = list(eval_batches(TinySource(9), tokenizer, OPTIONS, batch_size=4))
    parts = [list(eval_batches(TinySource(9), tokenizer, OPTIONS, batch_size=2, process_index=p, process_count=2))
             for p in range(2)]
    assert len(parts[0]) == len(parts[1]) == len(whole) == 3
    for batch, *halves in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(batch["image"], np.concatenate([half["image"] for half in halves]))
        assert rows([batch]) == rows(halves)
