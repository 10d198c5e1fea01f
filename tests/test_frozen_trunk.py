"""Steps on outputs that a frozen trunk gave once are the steps of a run whose trunk reads every batch."""
import functools
import json

import jax
import numpy as np
import pytest

from medvlp_jax import experiment, frozen_trunk, train
from tests import tiny

METHODS = ("medklip", "mlip")


def run_config(method, **overrides):
    fixed = {"optim/freeze": ("^image_encoder/",), "data/examples/crop": "none", "data/examples/rand_augment": (),
             "data/examples/fit": "pad", "evals/tasks": (), "train/steps": 4}  # fmt: skip
    return tiny.run_config(method, **{**fixed, **overrides})


def losses(workdir):
    lines = (json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines())
    return {r["step"]: (r["loss"], r["grad_norm"]) for r in lines if "loss" in r}


@pytest.mark.usefixtures("optax_promotion", "quick_compiles")
@pytest.mark.parametrize("method", METHODS)
def test_losses_and_gradients_are_those_of_a_run_without(method, tmp_path):
    train.train(run_config(method), tmp_path / "plain")
    train.train(run_config(method, **{"train/cache_trunk": True}), tmp_path / "cached")
    plain, cached = losses(tmp_path / "plain"), losses(tmp_path / "cached")
    assert list(plain) == list(cached) == [1, 2, 3, 4]
    np.testing.assert_allclose(cached[1], plain[1], rtol=5e-5)
    # AdamW and MLIP's draw of negatives scale rounding up
    np.testing.assert_allclose(list(cached.values()), list(plain.values()), rtol=1e-2)
    assert not (tmp_path / "plain" / "trunk").exists()
    assert list((tmp_path / "cached" / "trunk").glob("*/row_of.npy"))


def test_the_trunk_reads_once_and_again_for_other_weights(tmp_path, monkeypatch):
    config, reads = run_config("medklip", **{"train/cache_trunk": True}), []
    compute = frozen_trunk._compute
    monkeypatch.setattr(frozen_trunk, "_compute", lambda *a: (reads.append(1), compute(*a)))
    exp = experiment.build(config, tmp_path)
    with jax.set_mesh(exp.mesh):
        for seed, expected in ((0, 1), (0, 1), (1, 2)):
            frozen_trunk.put_function(exp, exp.init_variables(seed, exp.tables), tmp_path / "trunk")
            assert len(reads) == expected
    assert len(list((tmp_path / "trunk").iterdir())) == 1  # what no run can read again is not kept


def test_rows_are_those_of_the_examples(tmp_path):
    exp = experiment.build(run_config("medklip", **{"train/cache_trunk": True}), tmp_path)
    variables = exp.init_variables(0, exp.tables)
    iterator = exp.train_iterator()
    with jax.set_mesh(exp.mesh):
        put = frozen_trunk.put_function(exp, variables, tmp_path / "trunk")
        batch = next(iterator)
        brought = put(batch)
    expected = exp.method.trunk_outputs(variables, batch)["tokens"]
    np.testing.assert_allclose(brought["trunk/tokens"], expected, atol=2e-5)
    assert not {"image", "row"} & set(brought)
    iterator.close()


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("optim/freeze", (), "optim.freeze='^image_encoder/'"),
        ("data/examples/crop", "random", "data.examples.crop=none"),
        ("data/examples/hflip", 0.5, "data.examples.hflip=0"),
        ("data/examples/rand_augment", (2, 7), "data.examples.rand_augment=None"),
        ("model/image", {"name": "resnet", "depth": 18, "width": 8, "num_stages": 3, "init": ""}, "without BatchNorm"),
        ("model/image/dropout", 0.1, "model.image.dropout=0"),
    ],
)
def test_what_would_change_the_outputs_is_refused(key, value, named, tmp_path):
    exp = experiment.build(run_config("medklip", **{"train/cache_trunk": True, key: value}), tmp_path)
    with pytest.raises(ValueError, match="cache_trunk") as error:
        frozen_trunk.check(exp, jax.eval_shape(functools.partial(exp.init_variables, 0), exp.tables))
    assert named in str(error.value)


def test_what_does_not_fit_on_the_disk_is_refused(tmp_path, monkeypatch):
    exp = experiment.build(run_config("medklip", **{"train/cache_trunk": True}), tmp_path)
    monkeypatch.setattr(frozen_trunk.shutil, "disk_usage", lambda _: frozen_trunk.shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(OSError, match="do not fit"), jax.set_mesh(exp.mesh):
        frozen_trunk.put_function(exp, exp.init_variables(0, exp.tables), tmp_path / "trunk")
