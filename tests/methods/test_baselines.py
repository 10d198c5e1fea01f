"""MGCA and the global-contrast baseline: terms, switches, predictions, and a few steps of whole training runs."""
import functools

import jax
import numpy as np
import pytest

from medvlp_jax import checkpoint, train, trees
from tests import tiny
from tests.models import filled

pytestmark = pytest.mark.usefixtures("quick_compiles")
TERMS = {"mgca": ["alignment", "category", "global_contrast"], "convirt": ["global_contrast"]}
PREDICTS = {"mgca": {"embed_image", "embed_text", "embed_patches"}, "convirt": {"embed_image", "embed_text"}}


@functools.cache
def start(name, **overrides):
    """-> config, variables, compiled (batch) -> loss, terms, grads; compiled once for all tests."""
    c = tiny.config(name, **overrides)
    method = tiny.method(c)
    variables = filled.variables(method, {**tiny.batch(), "knowledge": tiny.tables()})
    state = {k: v for k, v in variables.items() if k != "params"}
    step = jax.jit(jax.value_and_grad(method.loss, has_aux=True))

    def grads(batch):
        (loss, (_, terms)), grads = step(variables["params"], state, batch, jax.random.key(1, impl="rbg"))
        return float(loss), {k: float(v) for k, v in terms.items()}, grads

    return c, variables, grads


@pytest.mark.parametrize("name", TERMS)
def test_total_is_the_weighted_sum_and_every_weight_learns(name):
    c, variables, grads_of = start(name)
    loss, terms, grads = grads_of(tiny.batch())
    assert sorted(terms) == TERMS[name] and all(np.isfinite(v) and v > 0 for v in terms.values())
    np.testing.assert_allclose(loss, sum(c.losses[k] * v for k, v in terms.items()), rtol=1e-6)
    assert not [n for n, g in trees.flatten(grads).items() if "bias" not in n and not np.asarray(g).any()]
    parts = {n.split("/")[0] for n in trees.flatten(variables["params"])}
    heads = {"image_encoder", "text_encoder", "image_head", "text_head"}
    assert parts == heads | ({"patch_head", "token_head", "category"} if name == "mgca" else set())


@pytest.mark.parametrize("name", TERMS)
def test_predictions(name):
    c, variables, _ = start(name)
    method, shapes = tiny.method(c), {"embed_image": (16, 16), "embed_text": (16, 16), "embed_patches": (16, 16, 16)}
    assert set(method.predict) == PREDICTS[name]
    for key, fn in method.predict.items():
        got = jax.jit(fn)(variables, tiny.batch())
        assert got.shape == shapes[key]
        np.testing.assert_allclose(np.linalg.norm(got, axis=-1), 1, rtol=1e-5)


def test_published_program_is_blind_to_word_order_and_differs_in_every_term():
    c, variables, grads_of = start("mgca")
    published, _, published_grads_of = start("mgca", as_published=True)
    batch = tiny.batch()
    batch["has_report"][:] = 1
    other, length = {**batch, "input_ids": batch["input_ids"].copy()}, batch["attention_mask"].sum(1)
    for row, n in zip(other["input_ids"], length, strict=True):
        row[1 : n - 1] = row[1 : n - 1][::-1]
    embed = [jax.jit(tiny.method(k).predict["embed_text"]) for k in (published, c)]
    blind, change = (np.abs(f(variables, batch) - f(variables, other)).max() for f in embed)
    assert blind < 1e-5 < 1e-2 < change
    ours, theirs = grads_of(batch)[1], published_grads_of(batch)[1]
    assert all(abs(ours[k] - theirs[k]) > 1e-4 for k in ours)
    assert 1.5 < theirs["global_contrast"] / ours["global_contrast"] < 2.5  # the sum of both directions


def test_learned_attention_has_parameters_that_learn():
    c, variables, grads_of = start("mgca", **{"model/learned_attention": True})
    extra = set(trees.flatten(variables["params"])) - set(trees.flatten(start("mgca")[1]["params"]))
    assert {n.split("/")[0] for n in extra} == {"word_attention", "patch_attention"}
    _, terms, grads = grads_of(tiny.batch())
    assert np.isfinite(terms["alignment"])
    assert all(np.asarray(trees.flatten(grads)[n]).any() for n in extra if not n.endswith("key/bias"))


@pytest.mark.parametrize("name", TERMS)
def test_missing_reports_teach_nothing(name):
    batch = tiny.batch()
    batch["has_report"][:], batch["word_ids"][:] = 0, -1
    loss, _, grads = start(name)[2](batch)
    assert loss == 0 and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


@pytest.mark.usefixtures("optax_promotion")
def test_whole_run_and_zero_shot_by_prompts(tmp_path):
    """Without score_findings, findings are asked for by prompts alone."""
    zeroshot = {"evals/tasks": ("zeroshot",), "evals/options": {"zeroshot": {"resamples": 0}}, "evals/figures": False}
    config = tiny.run_config("mgca", **{"train/steps": 2, "train/eval_every": 1, **zeroshot})
    metrics = {r["metric"] for r in train.train(config, tmp_path)}
    assert "auc_macro_prompts" in metrics and "auc_macro" not in metrics
    assert checkpoint.best_step(tmp_path, config.train.best_metric)
