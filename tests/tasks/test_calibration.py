"""Calibration against scikit-learn, a plain loop, and cases worked out by hand."""
import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression

from medvlp_jax.tasks import calibration


def sample(n=400, seed=0, step=None):
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    p = p if step is None else np.round(p / step) * step  # many ties, also exactly on the edges of bins
    return (rng.random(n) < p).astype(int), p


@pytest.mark.parametrize("step", [None, 0.2], ids=["no ties", "ties on bin edges"])
@pytest.mark.parametrize("bins", [5, 15])
def test_ece_and_curve_equal_a_plain_loop(step, bins):
    labels, p = sample(step=step)
    edges = np.linspace(0, 1, bins + 1)
    want, total = 0.0, 0
    curve = calibration.reliability(labels, p, bins)
    for b in range(bins):
        own = [i for i in range(len(p)) if (edges[b] < p[i] or b == 0) and (p[i] <= edges[b + 1] or b == bins - 1)]
        assert curve["count"][b] == len(own)
        total += len(own)
        if own:
            seen, said = np.mean([labels[i] for i in own]), np.mean([p[i] for i in own])
            assert curve["observed"][b] == pytest.approx(seen) and curve["predicted"][b] == pytest.approx(said)
            want += abs(seen - said) * len(own) / len(p)
        else:
            assert np.isnan(curve["observed"][b]) and np.isnan(curve["predicted"][b])
    assert total == len(p) and calibration.ece(labels, p, bins) == pytest.approx(want)


def test_curve_equals_scikit_learn():
    labels, p = sample()
    observed, predicted = calibration_curve(labels, p, n_bins=15, strategy="uniform")
    curve = calibration.reliability(labels, p)
    there = curve["count"] > 0
    np.testing.assert_allclose(curve["observed"][there], observed)
    np.testing.assert_allclose(curve["predicted"][there], predicted)


def test_ece_by_hand_and_degenerate():
    # bins of 0.5: 0.2 and 0.4 (one of two present: 0.5 against 0.3), 0.9 alone (present: 1 against 0.9)
    assert calibration.ece([0, 1, 1], [0.2, 0.4, 0.9], bins=2) == pytest.approx((2 * 0.2 + 0.1) / 3)
    assert calibration.ece([0, 0, 0], [0.0, 0.5, 1.0]) == pytest.approx(0.5)  # one class only is no obstacle
    assert calibration.ece([1, 0, 1, 0], [0.5] * 4) == 0
    assert calibration.ece([1, 1], [0.25] * 2) == 0.75
    assert np.isnan(calibration.ece([], []))


def test_is_probability():
    assert calibration.is_probability([0, 0.3, 1])
    assert not any(calibration.is_probability(v) for v in ([-0.1, 0.5], [0.5, 1.1], [np.nan], []))


def test_temperature_equals_logistic_regression_without_intercept():
    """On the logits alone, 1 / T is the coefficient."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=800)
    labels = (rng.random(800) < expit(z)).astype(int)
    for factor in (3.0, 0.4):  # too sure, not sure enough
        p = expit(factor * z)
        fit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logit(p)[:, None], labels)
        found = calibration.temperature(labels, p)
        assert found == pytest.approx(1 / fit.coef_[0, 0], rel=1e-3) and found == pytest.approx(factor, rel=0.15)
        assert calibration.ece(labels, calibration.scaled(p, found)) < calibration.ece(labels, p)


def test_temperature_of_degenerate_scores():
    low, high = calibration.TEMPERATURES
    assert np.isnan(calibration.temperature([1, 1], [0.2, 0.9])) and np.isnan(calibration.temperature([], []))
    assert calibration.temperature([0, 1], [0.1, 0.9]) == pytest.approx(low, rel=1e-3)  # separable: as sure as is allowed
    assert calibration.temperature([1, 0], [0.1, 0.9]) == pytest.approx(high, rel=1e-2)  # reversed: as unsure
    assert low < calibration.temperature([0, 1, 1], [0.0, 1.0, 0.0]) <= high * 1.01  # 0 and 1 have no finite logit


def test_scaling_keeps_the_order_and_moves_towards_a_half():
    p = np.array([0.0, 0.1, 0.5, 0.8, 1.0])
    warm = calibration.scaled(p, 2.0)
    assert (np.diff(warm) > 0).all() and warm[2] == 0.5 and 0.1 < warm[1] < 0.5 and 0.5 < warm[3] < 0.8
    np.testing.assert_allclose(calibration.scaled(p[1:4], 1.0), p[1:4])
