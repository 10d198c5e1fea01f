"""Evaluation on several devices: what one device gives, a ragged end included, with activations laid out as said."""
import copy
import functools
import re

import jax
import numpy as np
import pytest

from configs.tasks import linear
from medvlp_jax import checkpoint, evaluate, experiment, metrics, probe, train
from medvlp_jax.tasks import common, kept
from tests import tiny
from tests.test_checkpoint import Iterator
from tests.test_train_steps import LAYOUTS

pytestmark = pytest.mark.usefixtures("optax_promotion", "quick_compiles")
TASKS = ["zeroshot", "retrieval"]
EXAMPLES = 21  # in batches of 8 rows: five in the last
SHARDED = ["8", "fsdp", "tensor"]


def placed(config, layout):
    """-> (the config with that mesh, its devices)."""
    count, mesh, rules = LAYOUTS[layout]
    config = copy.deepcopy(config)
    with config.unlocked():
        config.mesh, config.sharding = mesh, rules
    return config, jax.devices()[:count]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """-> (folder with a checkpoint of untrained weights, config)."""
    folder = tmp_path_factory.mktemp("run")
    c = tiny.run_config("mlip", **{"data/eval_batch_size": 8})
    c.data.phantom_sizes = {"train": 32, "val": 8, "test": EXAMPLES}
    with c.unlocked():
        c.evals.options = {task: {"resamples": 0} for task in TASKS}
    exp = experiment.build(c, folder, jax.devices()[:1])
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        state = jax.jit(functools.partial(train.init_state, exp=exp))(exp.tables)
    mgr = checkpoint.manager(folder)
    checkpoint.save(mgr, 1, state, Iterator())
    mgr.close()
    metrics.write_run_file(folder, c.to_dict())
    return folder, c


@pytest.fixture(scope="module")
def scored(run):
    """layout -> ({(task, metric): value}, {task: what it kept of every example})."""

    @functools.cache
    def scored(layout):
        config, devices = placed(run[1], layout)
        records = evaluate.evaluate(config, run[0], tasks=TASKS, devices=devices)
        examples = {task: kept.read(run[0] / "eval" / "scores" / f"{task}.npz")[1] for task in TASKS}
        return {(r["task"], r["metric"]): r["value"] for r in records}, examples

    return scored


@pytest.mark.parametrize("layout", SHARDED)
def test_scores_are_those_of_one_device(scored, layout):
    (values, examples), (want, expected) = scored(layout), scored("1")
    assert values.keys() == want.keys() and len(values) > 10
    for task in TASKS:
        assert len(expected[task]["id"]) == EXAMPLES  # the padding of the last batch is no example
        assert examples[task].keys() == expected[task].keys()
        for name, x in expected[task].items():
            if x.dtype.kind == "f":
                np.testing.assert_allclose(examples[task][name], x, rtol=1e-4, atol=1e-5, err_msg=name)
            else:
                np.testing.assert_array_equal(examples[task][name], x, err_msg=name)
    np.testing.assert_allclose([values[k] for k in want], list(want.values()), rtol=1e-4, atol=1e-5)


def linear_config():
    c = linear.get_config("quickstart")
    c.model.image = {"name": "vit", "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32, "init": ""}
    c.data.examples.targets = ("effusion", "cardiomegaly")
    c.data.image_size = c.data.frame = c.data.examples.eval_frame = 32
    c.data.phantom_sizes = {"train": 24, "val": 8, "test": EXAMPLES}
    c.data.eval_batch_size = 8
    return c


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """layout -> features of the test split."""

    @functools.cache
    def features(layout):
        config, devices = placed(linear_config(), layout)
        folder = tmp_path_factory.mktemp("probe")
        probe.probe(config, folder, shares=(1.0,), seeds=1, solver="lbfgs", devices=devices)
        (path,) = (folder / "features").glob("test-*.npz")
        with np.load(path) as z:
            return dict(z)

    return features


@pytest.mark.parametrize("layout", SHARDED)
def test_features_of_the_probe_are_those_of_one_device(features, layout):
    got, want = features(layout), features("1")
    assert want["x"].shape == (EXAMPLES, 2 * 16) and want["x"].std(0).min() > 0
    np.testing.assert_allclose(got["x"], want["x"], rtol=1e-4, atol=1e-5)
    for name in ("row", "labels", "patients"):
        np.testing.assert_array_equal(got[name], want[name])


HEADS = re.compile(r'sdy.sharding_constraint %\S+ <@mesh, \[\{"data", "fsdp"\}, \{\}, \{"tensor"\}, \{\}\]>')


def texts(exp, variables, name):
    """The program of a predict function as evaluation makes it, before and after compilation."""
    batch = next(iter(exp.eval_batches("test")()))
    batch = {k: v for k, v in batch.items() if k != "host"}
    lowered = common.need(exp.method.predict, name).lower(variables, exp.put(batch))
    return lowered.as_text(), lowered.compile().as_text()


def test_layouts_of_activations_stand_in_the_programs_of_evaluation(run, tmp_path, monkeypatch):
    """2 rows a device of 16 patches and a class token; one of two heads."""
    said = []
    monkeypatch.setattr(evaluate, "run_tasks", lambda exp, variables, *_: said.append(texts(exp, variables, "embed_image")))
    config, devices = placed(run[1], "tensor")
    evaluate.evaluate(config, run[0], devices=devices)

    class Enough(Exception):
        pass

    def features(exp, variables, *_):
        said.append(texts(exp, variables, "embed_trunk"))
        raise Enough

    monkeypatch.setattr(probe, "features", features)
    config, devices = placed(linear_config(), "tensor")
    with pytest.raises(Enough):
        probe.probe(config, tmp_path, devices=devices)
    for lowered, compiled in said:
        assert len(HEADS.findall(lowered)) == 3  # query, key, value of one block
        assert "f32[2,17,1,8]" in compiled and "f32[8,17,2,8]" not in compiled
    assert len(said) == 2
