"""Checkpoints hold everything a run needs, keep what they promise, and say what is wrong with a damaged or foreign one."""
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax import checkpoint, checksums, sharding, train, trees

BEST = "val/zeroshot/auc_macro"


class Iterator:
    """Stands for the data pipeline: a position."""

    def __init__(self, position=0):
        self.position = position

    def get_state(self):
        return {"position": self.position, "source": "abc"}

    def set_state(self, state):
        if state["source"] != "abc":
            raise ValueError("the saved data position is of another stream")
        self.position = state["position"]


def state(value=1.0, width=8):
    noise = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)  # does not compress: lies in a file of its own
    params = {"enc": {"kernel": jnp.full((width, 4), value), "bias": jnp.full(4, value + 0.5)}, "noise": jnp.asarray(noise)}
    moments = (jax.tree.map(lambda x: x * 2, params), {"count": jnp.int32(7)})
    rest = {"batch_stats": {"norm": {"mean": jnp.full(4, value)}}, "knowledge": {"entities": jnp.ones((3, 2))}}
    return train.TrainState(jnp.int32(5), params, rest, moments)


def abstract(tree, layout="replicated", **mesh):
    shapes = jax.eval_shape(lambda: tree)
    layouts = sharding.of_state(shapes, sharding.make_mesh(mesh or {"data": -1}), layout)
    return jax.tree.map(lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d), shapes, layouts)


def save(folder, steps, keep=2, best="", metrics=None):
    mgr = checkpoint.manager(folder, keep, best)
    for step in steps:
        checkpoint.save(mgr, step, state(float(step)), Iterator(step * 10), (metrics or {}).get(step))
    mgr.wait_until_finished()
    mgr.close()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with steps 3 and 5, to be copied before it is damaged."""
    folder = tmp_path_factory.mktemp("saved")
    save(folder, (3, 5))
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def restore(folder, like=None, iterator=None):
    mgr = checkpoint.manager(folder)
    try:
        return checkpoint.restore(mgr, abstract(state()) if like is None else like, iterator or Iterator())
    finally:
        mgr.close()


@pytest.mark.parametrize("layout, mesh", [("replicated", {"data": -1}), ("fsdp", {"data": 2, "fsdp": 4})])
def test_round_trip_of_state_and_data_position(saved, layout, mesh):
    """Bit for bit, onto the layout that is asked for, which need not be the one it was saved with."""
    iterator, like = Iterator(), abstract(state(), layout, **mesh)
    got, step = restore(saved, like, iterator)
    assert step == 5 and iterator.position == 50
    assert jax.tree.structure(got) == jax.tree.structure(state())
    for name, want in trees.flatten(state(5.0)).items():
        have = trees.flatten(got)[name]
        assert have.dtype == want.dtype and have.sharding == trees.flatten(like)[name].sharding, name
        np.testing.assert_array_equal(have, want, err_msg=name)


def test_a_saved_state_does_not_change_with_the_arrays_it_came_from(tmp_path):
    """The next step overwrites (donates) the arrays while the save still runs in the background."""
    mgr = checkpoint.manager(tmp_path, keep=5)
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda x: x * 0 - 1, tree), donate_argnums=0)
    for step in (1, 2, 3):
        big = {"params": {"x": jnp.full(2_000_000, float(step))}, "state": {}}
        checkpoint.save(mgr, step, big, Iterator())
        jax.block_until_ready(overwrite(big))
    mgr.wait_until_finished()
    mgr.close()
    for step in (1, 2, 3):
        assert set(np.unique(checkpoint.load_variables(tmp_path, step)[0]["params"]["x"])) == {step}


def test_load_variables_are_numpy_arrays_without_the_optimizer(saved):
    for which, step in ((None, 5), (3, 3)):
        variables, at = checkpoint.load_variables(saved, which)
        assert at == step and set(variables) == {"params", "batch_stats", "knowledge"}
        assert all(type(x) is np.ndarray for x in jax.tree.leaves(variables))
        np.testing.assert_array_equal(variables["params"]["enc"]["kernel"], np.full((8, 4), step, np.float32))
        np.testing.assert_array_equal(variables["batch_stats"]["norm"]["mean"], np.full(4, step, np.float32))


KEPT = [(1, "", [9]), (3, "", [6, 8, 9]), (2, BEST, [4, 8, 9]), (4, BEST, [4, 5, 6, 8, 9])]


@pytest.mark.parametrize("keep, best, want", KEPT)
def test_the_last_n_and_the_best_are_kept(tmp_path, keep, best, want):
    metrics = {1: {BEST: 0.5}, 4: {BEST: 0.9}, 5: {BEST: 0.7}, 8: {BEST: float("nan")}}
    save(tmp_path, (1, 4, 5, 6, 8, 9), keep, best, metrics)
    assert checkpoint.steps(tmp_path) == want
    assert checkpoint.best_step(tmp_path, BEST) == (4 if best else None)


def test_a_resumed_run_still_knows_its_best(tmp_path):
    save(tmp_path, (1, 2), 1, BEST, {1: {BEST: 0.9}, 2: {BEST: 0.4}})
    save(tmp_path, (3, 4), 1, BEST, {3: {BEST: 0.6}})
    assert checkpoint.steps(tmp_path) == [1, 4]
    save(tmp_path, (5, 6), 1, BEST, {5: {BEST: 0.95}})
    assert checkpoint.steps(tmp_path) == [5, 6] and checkpoint.choose(tmp_path, "best", BEST) == 5


def test_keep_below_one_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="train.keep must be at least 1, came 0"):
        checkpoint.manager(tmp_path, keep=0)


def test_choice_of_a_step(saved, tmp_path):
    assert checkpoint.choose(saved) == 5 and checkpoint.choose(saved, "3") == 3
    for which, error, message in (
        ("4", FileNotFoundError, r"no checkpoint of step 4 in .*checkpoints; steps there: \[3, 5\]"),
        ("best", FileNotFoundError, r"has the metric 'val/zeroshot/auc_macro'; steps there: \[3, 5\]"),
        ("newest", ValueError, r"unknown checkpoint 'newest'; expected last, best or one of the steps \[3, 5\]"),
    ):
        with pytest.raises(error, match=message):
            checkpoint.choose(saved, which, BEST)
    with pytest.raises(FileNotFoundError, match="no checkpoint in .*: train first, or give another --workdir"):
        checkpoint.load_variables(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()  # asking leaves no folders behind


def test_an_unfinished_save_is_no_checkpoint(copy):
    (copy / "checkpoints" / "5").rename(copy / "checkpoints" / "5.orbax-checkpoint-tmp")
    assert checkpoint.steps(copy) == [3] and checkpoint.load_variables(copy)[1] == 3
    assert restore(copy)[1] == 3


def test_another_model_is_told_by_its_leaves(saved):
    other = state()._replace(params={"enc": {"kernel": jnp.ones((9, 4)), "scale": jnp.ones(4)}})
    with pytest.raises(ValueError, match="is of another model or optimizer than the config") as error:
        restore(saved, abstract(other))
    text = str(error.value)
    assert "missing params/enc/scale (4,)" in text and "unexpected params/enc/bias (4,)" in text
    assert "params/enc/kernel: expected shape (9, 4), came (8, 4)" in text and "checkpoints/5" in text
    many = abstract(state()._replace(params={f"layer{i}": jnp.ones(2) for i in range(50)}))
    with pytest.raises(ValueError, match=r"and \d+ more$"):
        restore(saved, many)


def test_other_data_is_told_by_the_iterator(copy):
    path = copy / "checkpoints" / "5" / "data" / "metadata"
    path.write_text(json.dumps({**json.loads(path.read_text()), "source": "xyz"}))
    checksums.write(copy / "checkpoints" / "5")
    with pytest.raises(ValueError, match="of another stream"):
        restore(copy)


def damaged(folder, name):
    """One file that orbax needs, cut in half; or all files with arrays emptied.

    Which of these holds which array, and where in it, changes from run to run.
    """
    newest = folder / "checkpoints" / "5"
    if name == "arrays":
        for path in newest.glob("state/**/d/*"):
            path.write_bytes(b"")
    else:
        path = newest / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.filterwarnings("ignore")  # what orbax leaves behind when it fails to read
@pytest.mark.parametrize("name", ["arrays", "data/metadata", "state/_METADATA", "state/manifest.ocdbt"])
def test_a_damaged_checkpoint_is_named_with_a_way_on(copy, name):
    damaged(copy, name)
    with pytest.raises(ValueError, match=r"checkpoints/5 cannot be read \(.*\). Delete that folder to go on from step 3"):
        restore(copy)
    if name != "data/metadata":  # evaluation does not read it
        with pytest.raises(ValueError, match="checkpoints/5 cannot be read"):
            checkpoint.load_variables(copy)
    shutil.rmtree(copy / "checkpoints" / "5")
    assert restore(copy)[1] == 3  # as the message said
    damaged_only = copy / "checkpoints" / "3" / "state" / "_METADATA"
    damaged_only.write_text("{")
    with pytest.raises(ValueError, match="Delete that folder to start again from the beginning"):
        restore(copy)
