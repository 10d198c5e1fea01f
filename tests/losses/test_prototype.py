"""Sinkhorn codes and the category loss against the published form in float64 and closed-form gradients."""
import jax
import numpy as np
import pytest

from medvlp_jax.losses.prototype import category_loss, report_knowledge, sinkhorn
from tests.losses.cases import unit


def naive_sinkhorn(scores, epsilon, iterations):
    q = np.exp(np.asarray(scores, np.float64) / epsilon)
    q /= q.sum()
    rows, prototypes = q.shape
    for _ in range(iterations):
        q /= q.sum(axis=0, keepdims=True) * prototypes
        q /= q.sum(axis=1, keepdims=True) * rows
    return q / q.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_sinkhorn_equals_the_plain_form(iterations):
    scores = np.random.default_rng(0).uniform(-1, 1, (10, 4)).astype(np.float32)
    got = jax.jit(sinkhorn, static_argnums=(1, 2))(scores, 0.05, iterations)
    np.testing.assert_allclose(got, naive_sinkhorn(scores, 0.05, iterations), atol=2e-6)


def test_sinkhorn_balances_prototypes_and_leaves_out_invalid_rows():
    rng = np.random.default_rng(1)
    scores = rng.uniform(-1, 1, (12, 3)).astype(np.float32)
    valid = np.arange(12) % 4 != 0
    balance = jax.jit(sinkhorn, static_argnums=(1, 2))
    codes = balance(scores, 0.2, 30, valid)
    np.testing.assert_allclose(np.asarray(codes)[valid].sum(axis=0), 9 / 3, rtol=1e-4)
    np.testing.assert_allclose(np.asarray(codes)[valid], balance(scores[valid], 0.2, 30), atol=1e-5)


def test_sinkhorn_is_finite_where_the_plain_form_overflows():
    scores = np.array([[100.0, -100.0], [90.0, 80.0], [-300.0, 5.0]], np.float32)
    balance = jax.jit(sinkhorn, static_argnums=(1, 2))
    codes = balance(scores, 0.01, 3)
    assert np.isfinite(codes).all()
    np.testing.assert_allclose(codes.sum(axis=1), 1.0, rtol=1e-6)
    assert np.isfinite(balance(scores, 0.05, 3, np.zeros(3, bool))).all()


def test_report_knowledge_is_the_normalised_mean():
    rng = np.random.default_rng(2)
    entities = unit(rng.standard_normal((4, 5))).astype(np.float32)
    present = np.array([[1, 0, 1, 0], [0, 0, 0, 0]], np.int8)
    mean, has = report_knowledge(entities, present)
    np.testing.assert_allclose(mean[0], unit(entities[[0, 2]].mean(axis=0)), atol=1e-6)
    assert has.tolist() == [True, False] and (mean[1] == 0).all()


def _scores(rows):
    rng = np.random.default_rng(3)
    return [rng.uniform(-1, 1, (rows, 5)).astype(np.float32) for _ in range(3)]


def _log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def test_category_loss_value_terms_and_gradient():
    image, text, knowledge = _scores(9)
    has, valid = np.arange(9) % 3 != 1, np.arange(9) != 4

    def loss(image, text, knowledge):
        return category_loss(image, text, knowledge, has, valid=valid, knowledge_weight=0.7)

    (value, terms), grads = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(image, text, knowledge)

    def codes(scores, rows):
        full = np.zeros(scores.shape)
        full[rows] = naive_sinkhorn(scores[rows], 0.05, 3)
        return full

    guided = has & valid
    ci, ct, ck = codes(image, valid), codes(text, valid), codes(knowledge, guided)
    li, lt = _log_softmax(image.astype(float) / 0.2), _log_softmax(text.astype(float) / 0.2)
    swap = -0.5 * ((ci * lt).sum() + (ct * li).sum()) / valid.sum()
    guide = -0.5 * ((ck * li).sum() + (ck * lt).sum()) / guided.sum()
    np.testing.assert_allclose([terms["swap"], terms["knowledge"]], [swap, guide], rtol=1e-5)
    np.testing.assert_allclose(value, swap + 0.7 * guide, rtol=1e-5)

    # d CE(code, softmax(s / T)) / ds = (softmax - code) / T: the codes carry no gradient
    for got, log_p, other in ((grads[0], li, ct), (grads[1], lt, ci)):
        p = np.exp(log_p)
        want = valid[:, None] * (p - other) / valid.sum() + 0.7 * guided[:, None] * (p - ck) / guided.sum()
        np.testing.assert_allclose(got, 0.5 * want / 0.2, atol=1e-5)
    assert (grads[2] == 0).all()


def test_reports_without_entities_weigh_nothing_in_the_guidance():
    image, text, knowledge = _scores(6)
    value, terms = jax.jit(category_loss)(image, text, knowledge, np.zeros(6, bool))
    assert float(terms["knowledge"]) == 0.0 and float(value) == float(terms["swap"]) > 0
    assert "knowledge" not in jax.eval_shape(category_loss, image, text)[1]
