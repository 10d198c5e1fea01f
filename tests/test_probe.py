"""The linear probe: its solvers, its cache, its splits."""
import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from configs.tasks import linear
from medvlp_jax import probe

pytestmark = pytest.mark.usefixtures("optax_promotion", "quick_compiles")


def split(n, seed, unknown=0.0):
    """Features of which class 0 reads the first and class 1 the difference of the next two, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 8)).astype(np.float32)
    truth = np.stack([x[:, 0], x[:, 1] - x[:, 2]], -1) + 0.3 * rng.standard_normal((n, 2))
    labels = np.where(rng.random((n, 2)) < unknown, -1, truth > 0).astype(np.int8)
    return probe.Features(10 * x + 5, labels, np.array([f"p{i}" for i in range(n)]), np.arange(n))


@pytest.mark.parametrize("solver", probe.SOLVERS)
def test_a_linear_truth_is_found_from_the_rows_given_and_known(solver):
    n = {"adamw": 3000, "lbfgs": 300}[solver]  # 50 epochs at 5e-4 need many steps an epoch
    parts = {"train": split(n, 0, unknown=0.3), "val": split(100, 1), "test": split(200, 2)}
    few, many = (probe.score(parts, np.arange(k), ["a", "b"], solver=solver, seed=0, resamples=0) for k in (48, n))
    assert many[0]["metric"] == "auc_macro" and many[0]["value"] > 0.93 and many[0]["value"] > few[0]["value"]
    parts["train"].labels[:48] = 1 - np.abs(parts["train"].labels[:48])  # what is not in the rows is not read
    again = probe.score(parts, np.arange(48, n), ["a", "b"], solver=solver, seed=0, resamples=0)
    assert again[0]["value"] > 0.93


def test_macro_auc_equals_scikit_learn_over_known_labels():
    s = split(60, 3, unknown=0.4)
    want = [roc_auc_score(s.labels[s.labels[:, c] >= 0, c], s.x[s.labels[:, c] >= 0, c]) for c in range(2)]
    np.testing.assert_allclose(probe.macro_auc(s.labels, s.x[:, :2]), np.mean(want))
    assert np.isnan(probe.macro_auc(np.ones((4, 1), np.int8), s.x[:4, :1]))


def test_a_whole_probe_reads_every_image_once(tmp_path, monkeypatch):
    c = linear.get_config("quickstart")
    vit = {"name": "vit", "patch_size": 8, "width": 8, "depth": 1, "num_heads": 2, "mlp_dim": 8, "init": ""}
    c.model.image = vit
    c.data.examples.targets = ("effusion", "cardiomegaly")
    c.data.image_size = c.data.frame = c.data.examples.eval_frame = 32
    c.data.phantom_sizes = {"train": 24, "val": 16, "test": 16}
    c.data.eval_batch_size = 16
    records = probe.probe(c, tmp_path, shares=(0.5, 1.0), seeds=2, solver="lbfgs")
    macro = [r for r in records if r["metric"] == "auc_macro"]
    assert [(r["fraction"], r["seed"], r["examples"]) for r in macro] == [(0.5, 0, 12), (0.5, 1, 12), (1, 0, 24), (1, 1, 24)]
    assert len({r["split_file"] for r in macro}) == 4 and len(list((tmp_path / "splits").iterdir())) == 4
    assert len(list((tmp_path / "features").iterdir())) == 3
    lines = [json.loads(line) for line in (tmp_path / "eval" / "results.jsonl").open()]
    assert len(lines) == len(records) and {r["protocol"] for r in lines} == {r["protocol"] for r in records}
    monkeypatch.setattr(probe.common, "collect", None)  # the second time nothing is read again
    again = probe.probe(c, tmp_path, shares=(0.5,), seeds=1, solver="lbfgs")
    assert again[0]["value"] == macro[0]["value"]
    with pytest.raises(ValueError, match="unknown solver 'sgd'; known: adamw, lbfgs"):
        probe.probe(c, tmp_path, solver="sgd")
