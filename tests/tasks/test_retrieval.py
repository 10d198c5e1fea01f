import tracemalloc

import numpy as np
import pytest

from medvlp_jax.tasks import retrieval
from tests.tasks import fakes


@pytest.fixture(scope="module")
def items():
    return fakes.examples(60)


def run(predict, items, **options):
    return fakes.by_name(retrieval.make(predict, **options)({}, fakes.batches(items)))


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def loop_ranks(queries, gallery):
    """1 + how many others are at least as similar, written out."""
    out = []
    for i, q in enumerate(queries):
        own = float(q @ gallery[i])
        out.append(1 + sum(float(q @ g) >= own - 1e-6 for j, g in enumerate(gallery) if j != i))
    return out


@pytest.mark.parametrize("block", [7, 40, 1000])
def test_ranks_equal_a_plain_loop(block):
    rng = np.random.default_rng(0)
    image = unit(rng.standard_normal((40, 4)))
    text = unit(image + rng.standard_normal((40, 4)))
    text[5], image[9] = text[3], image[8]  # exact ties
    i2t, t2i = retrieval.ranks(image, text, block)
    np.testing.assert_array_equal(i2t, loop_ranks(image, text))
    np.testing.assert_array_equal(t2i, loop_ranks(text, image))


def test_ties_by_hand():
    image = np.asarray([[1, 0], [0, 1], [0, 1]], np.float32)
    i2t, t2i = retrieval.ranks(image, image)
    np.testing.assert_array_equal(i2t, [1, 2, 2])
    np.testing.assert_array_equal(t2i, [1, 2, 2])


def test_perfect_random_and_constant(items):
    perfect, random, constant = (run(p, items) for p in (fakes.PERFECT, fakes.RANDOM, fakes.CONSTANT))
    for direction in ("i2t", "t2i"):
        assert perfect[f"{direction}_recall@1"]["value"] == 1 and perfect[f"{direction}_recall@1"]["ci"] == [1, 1]
        assert perfect[f"{direction}_median_rank"]["value"] == 1
        assert constant[f"{direction}_recall@10"]["value"] == 0  # ties never help
        assert constant[f"{direction}_median_rank"]["value"] == 60
        assert random[f"{direction}_recall@10"]["value"] < 0.4
        assert 15 < random[f"{direction}_median_rank"]["value"] < 46
    assert perfect["i2t_recall@5"]["chance"] == pytest.approx(5 / 60) and perfect["i2t_recall@5"]["n"] == 60


def test_galleries_are_disjoint_and_averaged(items):
    found = run(fakes.RANDOM, items, gallery=16)
    record = found["i2t_recall@5"]
    assert record["gallery"] == 16 and record["galleries"] == 3 and record["n"] == 48
    assert record["chance"] == pytest.approx(5 / 16)
    assert 0.1 < record["value"] < 0.6
    assert run(fakes.RANDOM, items, gallery=500)["i2t_recall@5"]["gallery"] == 60
    assert found == run(fakes.RANDOM, items, gallery=16)  # seeded


def test_examples_without_a_report_take_no_part(items):
    some = [h if i % 3 else {**h, "report": " "} for i, h in enumerate(items)]
    assert run(fakes.PERFECT, some)["i2t_recall@1"]["n"] == 40
    with pytest.raises(ValueError, match="at least 2 examples with a report; the batches have 0"):
        run(fakes.PERFECT, [{**h, "report": ""} for h in items])


def test_equal_reports_are_counted(items):
    same = [{**h, "report": "normal chest" if i < 10 else h["report"]} for i, h in enumerate(items)]
    assert run(fakes.PERFECT, same)["i2t_recall@1"]["duplicates"] == 9


def loop_precision(queries, gallery, category, k):
    out = []
    for q, own in zip(queries, category, strict=True):
        order = sorted(range(len(gallery)), key=lambda j: (-round(float(q @ gallery[j]), 4), category[j] == own))
        out.append(np.mean([category[j] == own for j in order[:k]]))
    return out


@pytest.mark.parametrize("block", [7, 100])
def test_category_precision_equals_a_plain_loop(block):
    rng = np.random.default_rng(1)
    queries, gallery = (unit(rng.standard_normal((30, 8))) for _ in range(2))
    gallery[::3] = gallery[0]  # ties: those of other categories come first
    category = rng.integers(0, 3, 30)
    got = retrieval.category_precision(queries, gallery, category, (1, 5, 30), block)
    for k in (1, 5, 30):
        np.testing.assert_allclose(got[k], loop_precision(queries, gallery, category, k))


def test_precision_by_category_uses_single_finding_examples(items):
    kinds = ("effusion", "nodule", "mass")
    single = [{**h, "finding_labels": dict.fromkeys(kinds, 0) | ({kinds[i % 3]: 1} if i < 45 else {})}
              for i, h in enumerate(items)]
    random = run(fakes.RANDOM, single)["i2t_precision@10"]
    assert random["n"] == 45 and random["chance"] == pytest.approx(1 / 3) and set(random["per_class"]) == set(kinds)
    assert 0.2 < random["value"] < 0.47
    assert run(fakes.CONSTANT, single)["t2i_precision@10"]["value"] == 0
    by_kind = {"embed_image": lambda v, b: fakes.unit(b["answer_score"][:, 8:] + np.float32(0.01))}
    assert run(by_kind | {"embed_text": by_kind["embed_image"]}, single)["i2t_precision@10"]["value"] == 1
    assert "i2t_precision@10" not in run(fakes.PERFECT, single, categories=["nodule"])


def test_memory_does_not_grow_with_the_square():
    x = unit(np.random.default_rng(0).standard_normal((6000, 8)))
    tracemalloc.start()
    retrieval.ranks(x, x, block=64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6000 * 6000 * 4 / 20  # bytes; the whole matrix would be 144 MB


def test_a_missing_embedding_is_named():
    with pytest.raises(ValueError, match="cannot predict 'embed_text'; it predicts: embed_image"):
        retrieval.make({"embed_image": len})
