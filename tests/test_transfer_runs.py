"""Whole transfer runs: every config builds, a run's trunk is taken over, patience ends a run and its best is what counts."""
import json
import types

import cv2
import jax
import numpy as np
import pytest

from medvlp_jax import checkpoint, cli, evaluate, experiment, initial_weights, metrics, run_config, train, trees
from tests import tiny
from tests.models import filled

pytestmark = pytest.mark.usefixtures("optax_promotion", "quick_compiles")
KINDS = {"linear": "classify", "finetune": "classify", "segment": "segment", "detect": "detect", "severity": "grade"}
VIT = {"name": "vit", "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32, "init": ""}


def config(name, **overrides):
    """configs/tasks/<name>.py:quickstart at 32 px."""
    c = cli.load_config(f"configs/tasks/{name}.py:quickstart")
    c.model.image = VIT
    c.data.image_size = c.data.frame = c.data.examples.eval_frame = 32
    c.data.phantom_sizes = {"train": 32, "val": 16, "test": 16}
    c.data.eval_batch_size = 16
    c.train.tensorboard, c.train.steps, c.train.eval_every, c.train.log_every = False, 8, 100, 1
    for key, value in overrides.items():
        node, *path = c, *key.split("/")
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value
    return c


@pytest.mark.parametrize("name", KINDS)
def test_every_config_names_what_it_needs_and_predicts_its_task(name, tmp_path):
    c = cli.load_config(f"configs/tasks/{name}.py:manifest")
    with pytest.raises(ValueError, match="(?s)model.image.init=.*data.examples.targets=.*data.path=") as error:
        experiment.build(c, tmp_path)
    assert "variant 'manifest' does not start without" in str(error.value)
    exp = experiment.build(config(name), tmp_path)
    assert KINDS[name] in exp.method.predict and exp.tables == {}
    assert experiment.default_workdir(exp.config) == f"runs/{name}-quickstart"
    with pytest.raises(ValueError, match=f"configs/tasks/{name}.py has no variant 'mimic_cxr'; known: quickstart, manifest"):
        cli.load_config(f"configs/tasks/{name}.py:mimic_cxr")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A MedKLIP run with a ViT of 5 x 5 positions."""
    path = tmp_path_factory.mktemp("pretrained")
    c = tiny.config("medklip")
    batch = {"image": np.zeros((2, 40, 40, 1), np.uint8), "knowledge": tiny.tables()}
    values = filled.variables(tiny.method(c), batch)
    state = train.TrainState(np.int32(1), values.pop("params"), values, ())
    mgr = checkpoint.manager(path)
    checkpoint.save(mgr, 1, state, types.SimpleNamespace(get_state=dict))
    mgr.close()
    metrics.write_run_file(path, c.to_dict())
    return path


def test_the_trunk_and_normalisation_of_a_run_are_taken_over(pretrained, tmp_path):
    trunk = {"name": "vit", "num_heads": 2, "init": str(pretrained)}
    c = config("linear", **{"model/image": trunk, "normalisation": {"mean": (0.1,) * 3, "std": (1.0,) * 3}})
    resolved, weights = initial_weights.resolve(c)
    assert resolved.model.image.to_dict() == {**VIT, "init": str(pretrained)}
    assert tuple(resolved.normalisation.mean) == (0.485, 0.456, 0.406)
    saved = checkpoint.load_variables(pretrained)[0]["params"]["image_encoder"]
    got = weights["image_encoder"]["params"]
    assert saved["position_embedding"].shape[:2] == (5, 5) and got["position_embedding"].shape[:2] == (4, 4)
    got, saved = trees.flatten({**got, "position_embedding": 0}), trees.flatten({**saved, "position_embedding": 0})
    assert got.keys() == saved.keys()
    for name in got:
        np.testing.assert_array_equal(got[name], saved[name])


def test_a_frozen_trunk_ends_as_it_began_and_patience_keeps_the_best(pretrained, tmp_path, monkeypatch):
    """The quality falls after the second evaluation: two more, and the run ends at step 8 of 40; step 4 is evaluated."""
    quality = iter([0.5, 0.7, 0.6, 0.6, 0.9])
    monkeypatch.setattr(train.evaluate, "validate", lambda exp, variables: {"val/classification/auc_macro": next(quality)})
    settings = {"train/steps": 40, "train/eval_every": 2, "train/patience": 2, "data/fraction": 0.5,
                "data/examples/targets": ("effusion", "cardiomegaly"), "model/image/init": str(pretrained)}  # fmt: skip
    records = train.train(config("linear", **settings), tmp_path)
    assert {r["step"] for r in records} == {4} and {r["task"] for r in records} == {"classification"}
    assert checkpoint.steps(tmp_path)[-1] == 8
    (split,) = (tmp_path / "splits").iterdir()
    assert len(json.loads(split.read_text())["rows"]) == 16
    before = initial_weights.resolve(config("linear", **settings))[1]["image_encoder"]["params"]
    after = checkpoint.load_variables(tmp_path)[0]["params"]["image_encoder"]
    jax.tree.map(np.testing.assert_array_equal, after, before)
    again = train.train(config("linear", **settings), tmp_path)  # nothing left to do
    assert {r["step"] for r in again} == {4} and checkpoint.steps(tmp_path)[-1] == 8
    scored = evaluate.evaluate(run_config.saved(tmp_path), tmp_path, "best")  # the command, long after training
    assert [(r["metric"], r["value"], r["step"]) for r in scored] == [(r["metric"], r["value"], r["step"]) for r in records]


def test_a_split_that_tells_nothing_of_the_targets_counts_as_absent(tmp_path):
    told = [("train", {"labels": "Zebra"}), ("train", {"labels": "Mass"}), ("train", {"report": "The lungs are clear."}),
            ("val", {"severity": {"effusion": 2}})]  # fmt: skip
    rows = [{"image": f"{i}.png", "split": split, "patient_id": str(i), **more} for i, (split, more) in enumerate(told)]
    for row in rows:
        cv2.imwrite(str(tmp_path / row["image"]), np.arange(4096, dtype=np.uint8).reshape(64, 64))
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data/name": "manifest", "data/path": str(tmp_path / "m.jsonl"), "data/examples/targets": ("Zebra",)}
    c = config("linear", **data)
    exp = experiment.build(c, tmp_path)
    assert len(exp.source("train")) == 2 and exp.has_split("train") and not exp.has_split("val")
    with pytest.raises(ValueError, match="no example of the val split tells the findings of Zebra"):
        exp.source("val")
