"""Cumulative links against probabilities written out."""
import jax
import numpy as np

from medvlp_jax.losses import ordinal

THRESHOLDS = np.array([-0.5, 0.7, 1.9], np.float32)


def naive(scores, thresholds, grades):
    """-log of the difference of neighbouring cumulative probabilities, one example after the other, in float64."""
    values = []
    for f, y in zip(np.asarray(scores, np.float64), grades, strict=True):
        if y >= 0:
            cumulative = [0.0, *(1 / (1 + np.exp(-(t - f))) for t in np.asarray(thresholds, np.float64)), 1.0]
            values.append(-np.log(cumulative[y + 1] - cumulative[y]))
    return np.mean(values)


def test_value_and_gradient_equal_the_naive_form():
    rng = np.random.default_rng(0)
    scores, grades = (2 * rng.standard_normal(9)).astype(np.float32), np.array([0, 1, 2, 3, -1, 3, 0, 1, -1], np.int8)
    fn = jax.jit(jax.value_and_grad(ordinal.cumulative_link_loss, (0, 1)))
    value, (by_score, by_threshold) = fn(scores, THRESHOLDS, grades)
    np.testing.assert_allclose(value, naive(scores, THRESHOLDS, grades), rtol=1e-6)
    for i in range(9):
        step = 1e-5 * (np.arange(9) == i)
        want = (naive(scores + step, THRESHOLDS, grades) - naive(scores - step, THRESHOLDS, grades)) / 2e-5
        np.testing.assert_allclose(by_score[i], want, atol=2e-6)
    for i in range(3):
        step = 1e-5 * (np.arange(3) == i)
        want = (naive(scores, THRESHOLDS + step, grades) - naive(scores, THRESHOLDS - step, grades)) / 2e-5
        np.testing.assert_allclose(by_threshold[i], want, atol=2e-6)


def test_far_scores_and_nothing_known_stay_finite():
    fn = jax.jit(jax.value_and_grad(ordinal.cumulative_link_loss))
    value, grad = fn(np.array([500.0, -500.0], np.float32), THRESHOLDS, np.array([0, 3], np.int8))
    np.testing.assert_allclose(value, (500.5 + 501.9) / 2, rtol=1e-6)
    assert np.isfinite(grad).all() and grad[0] > 0 > grad[1]
    value, grad = fn(np.ones(2, np.float32), THRESHOLDS, np.full(2, -1, np.int8))
    assert value == 0 and (grad == 0).all()
