"""Linear probe: the frozen trunk reads every image once, then linear layers are fitted for several shares of the labels.

    python -m medvlp_jax.probe --config=configs/tasks/linear.py:quickstart --fractions=0.01,0.1,1 --seeds=3

Features are kept in <workdir>/features, the examples of each share in <workdir>/splits, results in <workdir>/eval. Two
solvers, told apart in every record: "adamw" is MGCA's protocol (5e-4, decay 1e-6, batch 48, 50 epochs, early stopping after
10); "lbfgs" is logistic regression at its optimum, its regularisation chosen on the validation split. Features are
standardised by the training examples in both.
"""
import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression

from medvlp_jax import atomic, cli, errors, experiment, initial_weights, leakage, sharding, train, trees
from medvlp_jax.input import fractions
from medvlp_jax.losses import supervised
from medvlp_jax.tasks import classification, common, scores, suite

FLAGS = flags.FLAGS
TASK = "probe"
STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # inverse regularisation that "lbfgs" tries


class Features(NamedTuple):
    """Of one split: x (N, D) float32, labels (N, C) in {-1, 0, 1}, patients (N,) text, row (N,) in the source."""

    x: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    row: np.ndarray


def start(exp: experiment.Experiment) -> dict:
    """Variables of the method with its initial weights, as training would begin with them."""
    init = functools.partial(train.init_state, exp=exp)
    shardings = sharding.of_state(jax.eval_shape(init, exp.tables), exp.mesh, exp.config.sharding)
    state = jax.jit(init, out_shardings=shardings)(exp.tables)
    return train.variables(initial_weights.load_into(state, exp.pretrained, shardings))


def features(exp: experiment.Experiment, variables: dict, split: str, folder: Path) -> Features:
    """Features of a split, from `folder` if these weights have read these images before; without augmentation."""
    facts = exp.source(split).fingerprint, exp.options, exp.config.normalisation.to_dict(), exp.config.model.to_dict()
    trunk = {k: v["image_encoder"] for k, v in variables.items() if "image_encoder" in v}
    path = folder / f"{split}-{trees.digest(facts, trunk)}.npz"
    if not path.is_file():
        fn = common.need(exp.method.predict, "embed_trunk")
        found, hosts = common.collect(fn, variables, exp.eval_batches(split), ("finding_labels",), put=exp.put)
        data = common.gather({"x": found["embed_trunk"], "labels": found["finding_labels"],
                              "row": np.asarray([h["row"] for h in hosts]), **common.origin(hosts)})  # fmt: skip
        with atomic.writing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **{k: data[k] for k in Features._fields})
    with np.load(path) as z:
        return Features(*(z[k] for k in Features._fields))


def macro_auc(labels, values) -> float:
    """Mean AUC of the classes that have both labels; NaN without any."""
    each = [scores.auc(labels[known, c], values[known, c]) for c, known in enumerate((labels >= 0).T)]
    return float(np.nanmean(each)) if np.isfinite(each).any() else float("nan")


@functools.partial(jax.jit, static_argnames="tx")
def _epoch(weights, opt_state, batches, *, tx):
    """One pass over batches (steps, size, ...) of features and labels."""

    def step(carry, batch):
        weights, opt_state = carry
        grads = jax.grad(lambda w: supervised.sigmoid_loss(batch[0] @ w["kernel"] + w["bias"][None], batch[1]))(weights)
        updates, opt_state = tx.update(grads, opt_state, weights)
        return (optax.apply_updates(weights, updates), opt_state), None

    return jax.lax.scan(step, (weights, opt_state), batches)[0]


@functools.cache
def _adamw(lr: float, decay: float):
    return optax.adamw(lr, weight_decay=decay)


def fit_adamw(x, labels, val_x, val_labels, *, seed: int, lr: float = 5e-4, decay: float = 1e-6, batch: int = 48,
              epochs: int = 50, patience: int = 10):
    """Kernel (D, C) and bias (C,) of the epoch with the best macro AUC on the validation features."""
    rng, tx, size = np.random.default_rng(seed), _adamw(lr, decay), min(batch, len(x))
    kernel = rng.normal(0, x.shape[1] ** -0.5, (x.shape[1], labels.shape[1])).astype(np.float32)
    weights = {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(labels.shape[1])}
    opt_state, best, since = tx.init(weights), (-np.inf, weights), 0
    for _ in range(epochs):
        order = rng.permutation(len(x))[: len(x) // size * size].reshape(-1, size)
        weights, opt_state = _epoch(weights, opt_state, (x[order], labels[order]), tx=tx)
        quality = macro_auc(val_labels, val_x @ np.asarray(weights["kernel"]) + np.asarray(weights["bias"]))
        best, since = ((quality, weights), 0) if quality > best[0] else (best, since + 1)
        if since >= patience:
            break
    return np.asarray(best[1]["kernel"]), np.asarray(best[1]["bias"])


def fit_lbfgs(x, labels, val_x, val_labels, *, seed: int = 0):
    """Kernel (D, C) and bias (C,) of logistic regressions, the strength of each class with the best AUC on the validation
    features; a class without both labels is constant."""
    del seed
    kernel, bias = np.zeros((x.shape[1], labels.shape[1]), np.float32), np.zeros(labels.shape[1], np.float32)
    for c in range(labels.shape[1]):
        known, told, best = labels[:, c] >= 0, val_labels[:, c] >= 0, -np.inf
        if len(set(labels[known, c].tolist())) < 2:
            continue
        for strength in STRENGTHS:
            model = LogisticRegression(C=strength, max_iter=500).fit(x[known], labels[known, c])
            quality = scores.auc(val_labels[told, c], model.decision_function(val_x[told]))
            if np.nan_to_num(quality, nan=0.0) > best:
                best, kernel[:, c], bias[c] = np.nan_to_num(quality, nan=0.0), model.coef_[0], model.intercept_[0]
    return kernel, bias


SOLVERS = {"adamw": fit_adamw, "lbfgs": fit_lbfgs}


def score(parts: dict[str, Features], rows, names, *, solver: str, seed: int, resamples: int = 200) -> list[dict]:
    """Records of a linear layer fitted on the training examples whose row is in `rows`; parts: train, val, test."""
    fit, known = parts["train"], np.isin(parts["train"].row, rows)
    mean, std = fit.x[known].mean(0), fit.x[known].std(0) + 1e-6
    x, val_x, test_x = ((p - mean) / std for p in (fit.x[known], parts["val"].x, parts["test"].x))
    kernel, bias = SOLVERS[solver](x, fit.labels[known], val_x, parts["val"].labels, seed=seed)
    values = 1 / (1 + np.exp(-(test_x @ kernel + bias)))
    test = parts["test"]
    return classification.label_records(TASK, values, test.labels, names, test.patients, resamples, seed)[0]


def probe(
    config, workdir: str | Path, shares=(0.01, 0.1, 1.0), seeds: int = 3, solver: str = "adamw", devices=None
) -> list[dict]:
    """Fits and scores a linear layer for each share of the training labels and each seed -> records, also written to
    workdir/eval/results.jsonl. The trunk runs on `devices` (default: all there are).

    Raises:
      ValueError: unknown solver; a config that is not of linear classification.
    """
    if solver not in SOLVERS:
        raise ValueError(f"unknown solver {solver!r}; known: {', '.join(SOLVERS)}")
    workdir = experiment.make_workdir(workdir)
    exp = experiment.build(config, workdir, devices)
    records, names = [], list(exp.options.targets)
    with jax.set_mesh(exp.mesh):  # for the trunk; a layer on its features is too small to be spread
        variables = start(exp)
        parts = {split: features(exp, variables, split, workdir / "features") for split in ("train", "val", "test")}
    leaks = leakage.facts(exp.training, exp.source("test"), "test")
    for share in shares:
        for seed in range(seeds):
            subset, digest = fractions.stored(exp.source("train"), share, seed, workdir / "splits")
            found = score(parts, subset.rows, names, solver=solver, seed=seed)
            place = {"dataset": config.data.name, "split": "test", "step": 0, "fraction": share, "seed": seed, "solver": solver,
                     "protocol": f"linear-{solver}, {share:g} of the labels, seed {seed}", "examples": len(subset),
                     "split_file": digest, "initial_weights": config.model.image.init or "none", **leaks}  # fmt: skip
            records += [{**r, **place} for r in found]
            logging.info("%g of the labels (%d examples), seed %d: AUC %.3f", share, len(subset), seed, found[0]["value"])
    suite.write(workdir / "eval" / "results.jsonl", records)
    show(records)
    return records


def show(records: list[dict]) -> None:
    """Prints macro AUC by share of the labels: mean and range over the seeds."""
    table = Table("share", "examples", "macro AUC", "of the seeds", title="linear probe")
    macro = [r for r in records if r["metric"] == "auc_macro"]
    for share in dict.fromkeys(r["fraction"] for r in macro):
        own = [r for r in macro if r["fraction"] == share]
        values = [r["value"] for r in own]
        spread = f"{min(values):.3f} .. {max(values):.3f}"
        table.add_row(f"{share:g}", str(own[0]["examples"]), f"{np.mean(values):.3f}", spread)
    Console().print(table)


def define_flags(flag_values=FLAGS) -> None:
    """Flags beside --config."""
    flags.DEFINE_string("workdir", "", "Run directory; default runs/<config>-<variant>-probe.", flag_values=flag_values)
    flags.DEFINE_list("fractions", ["0.01", "0.1", "1"], "Shares of the training labels.", flag_values=flag_values)
    flags.DEFINE_integer("seeds", 3, "Draws of each share.", lower_bound=1, flag_values=flag_values)
    flags.DEFINE_enum("solver", "adamw", list(SOLVERS), "How the layer is fitted.", flag_values=flag_values)


@errors.opening()
def main(argv):
    """Entry of `python -m medvlp_jax.probe`."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; options look like --fractions=0.1,1")
    workdir = FLAGS.workdir or experiment.default_workdir(FLAGS.config) + "-probe"
    probe(FLAGS.config, workdir, [float(v) for v in FLAGS.fractions], FLAGS.seeds, FLAGS.solver)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
