"""Running predict functions over batches: padding, host fields, sharding, one compile, clear errors."""
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from medvlp_jax.tasks import common, grounding, retrieval
from tests.tasks import fakes


@pytest.fixture(scope="module")
def items():
    return fakes.examples(21)


def test_collect_drops_padding_and_keeps_order(items):
    fn = common.need(fakes.PERFECT, "score_findings", "embed_image")
    out, hosts = common.collect(fn, {}, fakes.batches(items), keys=("row",))
    assert out["score_findings"].shape == (21, fakes.F) and out["embed_image"].shape == (21, fakes.WIDTH)
    np.testing.assert_array_equal(out["row"], np.arange(21))
    assert [h["id"] for h in hosts] == [f"secret-{i}" for i in range(21)]
    want = [h["finding_labels"]["nodule"] for h in hosts]
    np.testing.assert_array_equal(out["score_findings"][:, common.entity_row("nodule")], want)


def test_host_entries_may_cover_padding_rows_too(items):
    def padded():
        for batch in fakes.batches(items)():
            yield {**batch, "host": batch["host"] + [{"id": "padding"}] * (8 - len(batch["host"]))}

    _, hosts = common.collect(common.need(fakes.PERFECT, "score_findings"), {}, padded)
    assert [h["id"] for h in hosts] == [h["id"] for h in items]


def test_sharded_batches_give_the_same(items):
    sharding = NamedSharding(jax.make_mesh((8,), ("data",)), PartitionSpec("data"))
    puts = []

    def put(batch):
        puts.append(sorted(batch))
        return {k: jax.device_put(v, sharding) for k, v in batch.items()}

    fn = common.need(fakes.RANDOM, "ground")
    plain, _ = common.collect(fn, {}, fakes.batches(items))
    sharded, _ = common.collect(fn, {}, fakes.batches(items), put=put)
    np.testing.assert_allclose(sharded["ground"], plain["ground"], rtol=1e-6)
    assert len(puts) == 3 and all("host" not in keys for keys in puts)


def test_predict_is_compiled_once_a_shape_over_several_evaluations(items):
    traces = []

    def score(variables, batch):
        traces.append(batch["image"].shape)
        return batch["answer_score"]

    for _ in range(2):
        common.collect(common.need({"score_findings": score}, "score_findings"), {}, fakes.batches(items))
    assert traces == [(8, fakes.SIZE, fakes.SIZE, 1)]


def test_variables_are_arguments_not_constants(items):
    fn = common.need({"score_findings": lambda v, b: b["answer_score"] * v["scale"]}, "score_findings")
    one, two = (common.collect(fn, {"scale": np.float32(s)}, fakes.batches(items))[0]["score_findings"] for s in (1, 2))
    np.testing.assert_allclose(two, 2 * one)
    assert one.max() == 1


def test_missing_name_lists_what_there_is():
    with pytest.raises(ValueError, match="cannot predict 'embed_text'; it predicts: ground, score_findings"):
        common.need({"score_findings": len, "ground": len}, "embed_text")


def test_outputs_that_are_not_finite_are_an_error(items):
    bad = {"score_findings": lambda v, b: b["answer_score"] / b["answer_score"]}
    with pytest.raises(ValueError, match="score_findings is not finite for 8 of 8 examples of batch 0"):
        common.collect(common.need(bad, "score_findings"), {}, fakes.batches(items))


def test_wrong_host_length_and_no_batches(items):
    def short():
        yield {**next(fakes.batches(items)()), "host": items[:5]}

    fn = common.need(fakes.PERFECT, "score_findings")
    with pytest.raises(ValueError, match=r"5 host entries; expected 8"):
        common.collect(fn, {}, short)
    with pytest.raises(ValueError, match="no batch to evaluate"):
        common.collect(fn, {}, [])


def test_entity_rows():
    assert common.entity_row("Pleural_Thickening") == common.entity_row("thicken") is not None
    assert common.entity_row("left elbow") is None
    assert common.entity_row("aortic dissection", ("mass", "aortic dissection")) == 1  # an unseen entity's own table
    assert common.entity_row("Pleural Effusion", ("mass", "effusion")) == 1
    assert common.entity_row("nodule", ("mass", "effusion")) is None


def test_gathered_rows_do_not_depend_on_the_order_of_the_examples(items):
    """Disjoint galleries and the shuffled baseline pair examples by their place, which must not be an accident."""
    def found(examples):
        order = [int(h["id"].split("-")[1]) for h in examples]
        rows = next(fakes.batches(items, size=21)())
        batch = {k: v[order] for k, v in rows.items() if k != "host"} | {"host": examples}
        records = grounding.make(fakes.RANDOM, resamples=0)({}, [batch])
        return fakes.values(records + retrieval.make(fakes.RANDOM, gallery=5)({}, [batch]))

    assert found(items) == pytest.approx(found(items[::-1]))


def test_a_failing_figure_is_only_logged(tmp_path):
    def fail(path):
        raise OSError("disk full")

    common.draw(tmp_path / "figures", "a.png", fail)
    common.draw(None, "b.png", fail)
    assert (tmp_path / "figures").is_dir()
