"""Tests of a difference against naive loops over pairs and resamples, and cases worked out by hand."""
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medvlp_jax.tasks import comparison, scores


def data(n=60, seed=0, step=1e-9):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    a, b = (np.round((0.8 * k * labels + rng.standard_normal(n)) / step) * step for k in (1, 2))
    return labels, a, b


def naive_delong(labels, a, b):
    """The definition: kernel of every pair, structural components, their covariances."""
    positive, negative = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    parts = []
    for s in (a, b):
        kernel = np.array([[1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0 for j in negative] for i in positive])
        parts.append((kernel.mean(), kernel.mean(1), kernel.mean(0)))
    covariance = sum(np.cov([p[k] for p in parts]) / len(parts[0][k]) for k in (1, 2))
    difference = parts[1][0] - parts[0][0]
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    return parts[0][0], parts[1][0], difference, np.sqrt(variance)


@pytest.mark.parametrize("step", [1e-9, 0.5, 2.0], ids=["no ties", "ties", "nearly all tied"])
def test_delong_equals_the_definition(step):
    labels, a, b = data(step=step)
    found = comparison.delong(labels, a, b)
    auc_a, auc_b, difference, se = naive_delong(labels, a, b)
    assert (found["auc_a"], found["auc_b"]) == (pytest.approx(auc_a), pytest.approx(auc_b))
    assert found["auc_a"] == pytest.approx(roc_auc_score(labels, a)) and found["difference"] == pytest.approx(difference)
    assert found["se"] == pytest.approx(se) and found["z"] == pytest.approx(difference / se)
    assert 0 < found["p"] < 1


def test_delong_by_hand():
    """Positives 3, 1 and negatives 2, 0 by a; b ranks all right. V10(a) = 1, 1/2; V01(a) = 1/2, 1; b: all 1."""
    found = comparison.delong([1, 1, 0, 0], [3, 1, 2, 0], [3, 2, 1, 0])
    assert (found["auc_a"], found["auc_b"], found["difference"]) == (0.75, 1.0, 0.25)
    assert found["se"] == pytest.approx(np.sqrt(0.125 / 2 + 0.125 / 2)) and found["z"] == pytest.approx(0.25 / np.sqrt(0.125))
    assert found["p"] == pytest.approx(0.4795, abs=1e-4)  # of the normal distribution at 0.7071


def test_delong_of_degenerate_scores():
    labels, a, _ = data()
    assert all(np.isnan(v) for v in comparison.delong(np.ones(60), a, a).values())
    same = comparison.delong(labels, a, 2 * a + 1)
    assert same["difference"] == 0 and same["p"] == 1
    constant = comparison.delong(labels, np.zeros(60), np.zeros(60))
    assert constant["auc_a"] == 0.5 and constant["p"] == 1
    perfect = comparison.delong(labels, np.zeros(60), labels)  # neither varies: no test, although they differ
    assert perfect["difference"] == 0.5 and perfect["se"] == 0 and np.isnan(perfect["p"])
    single = comparison.delong([1, 0, 0], [0.5, 0.1, 0.9], [0.9, 0.1, 0.2])
    assert single["difference"] == 0.5 and np.isnan(single["p"])


def test_delong_is_calibrated_where_nothing_differs():
    """p-values of two equally good scores are uniform: 5 % of them below 0.05 (400 draws: 2 to 8 %)."""
    rng, p = np.random.default_rng(5), []
    for _ in range(400):
        labels = np.arange(100) < 40
        shared = labels + rng.standard_normal(100)
        p.append(comparison.delong(labels, *(shared + 0.7 * rng.standard_normal((2, 100))))["p"])
    assert 0.02 < np.mean(np.asarray(p) < 0.05) < 0.08 and 0.4 < np.median(p) < 0.6


def test_bootstrap_p_by_hand():
    assert comparison.bootstrap_p([1, 2, 3, -1]) == pytest.approx(2 * 2 / 5)
    assert comparison.bootstrap_p(np.ones(999)) == pytest.approx(2 / 1000)  # never 0
    assert comparison.bootstrap_p([0, 0]) == 1 and np.isnan(comparison.bootstrap_p([np.nan]))


def test_holm_by_hand():
    np.testing.assert_allclose(comparison.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(comparison.holm([0.9, np.nan, 0.6]), [1.0, np.nan, 1.0])
    assert comparison.holm([]).shape == (0,)


def test_classes_equal_scoring_each_paired_resample():
    rng = np.random.default_rng(2)
    labels, patients = rng.integers(-1, 2, (60, 3)), rng.integers(0, 25, 60)
    labels[:, 2] = np.where(labels[:, 2] == 1, 0, labels[:, 2])  # a class without positives
    a, b = rng.random((60, 3)), labels + 2 * rng.random((60, 3))
    mean, rows = comparison.classes(labels, a, b, patients, ["x", "y", "z"], resamples=40, seed=3)
    counts = np.concatenate(list(scores.patient_counts(patients, 40, seed=3)))
    differences = []
    for r in range(40):
        drawn = np.repeat(np.arange(60), counts[r])
        own = []
        for c in range(2):
            k = drawn[labels[drawn, c] >= 0]
            own.append(roc_auc_score(labels[k, c], b[k, c]) - roc_auc_score(labels[k, c], a[k, c]))
        differences.append(own)
    differences = np.asarray(differences)
    np.testing.assert_allclose(mean["ci"], np.percentile(differences.mean(1), [2.5, 97.5]))
    assert mean["p"] == pytest.approx(comparison.bootstrap_p(differences.mean(1)))
    for c, row in enumerate(rows[:2]):
        k = labels[:, c] >= 0
        assert row["a"] == pytest.approx(roc_auc_score(labels[k, c], a[k, c])) and row["n"] == k.sum()
        assert row["difference"] == pytest.approx(row["b"] - row["a"]) and row["positives"] == (labels[:, c] == 1).sum()
        np.testing.assert_allclose(row["ci"], np.percentile(differences[:, c], [2.5, 97.5]))
        assert row["p"] <= row["p_holm"] <= 1
        assert row["p_delong"] == comparison.delong(labels[k, c], a[k, c], b[k, c])["p"]
    assert mean["difference"] == pytest.approx(np.mean([r["difference"] for r in rows[:2]]))
    assert all(np.isnan(rows[2][k]) for k in ("a", "b", "difference", "p", "p_holm", "p_delong")) and rows[2]["ci"] is None


def test_values_are_paired_and_leave_undefined_ones_out():
    a, b = np.array([1.0, 0.0, np.nan, 1.0]), np.array([1.0, 1.0, 1.0, np.nan])
    row = comparison.values("hit", a, b, ["p", "q", "r", "s"], resamples=200)
    assert (row["a"], row["b"], row["difference"], row["n"]) == (0.5, 1.0, 0.5, 2)
    assert row["ci"] == [0, 1]  # both patients, in whatever share
    shifted = comparison.values("v", np.arange(30.0), np.arange(30.0) + 0.25, np.arange(30), resamples=100)
    assert shifted["ci"] == pytest.approx([0.25, 0.25]) and shifted["p"] == pytest.approx(2 / 101)  # pairing removes the spread
    alone = comparison.values("v", [0.0, 1.0], [1.0, 1.0], ["p", "p"], resamples=50)
    assert alone["ci"] is None and np.isnan(alone["p"])
    nothing = comparison.values("v", [np.nan], [1.0], ["p"])
    assert np.isnan(nothing["difference"]) and nothing["n"] == 0
