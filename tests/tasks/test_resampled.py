"""Bootstrap samples against scoring every resampled data set, spelled out, with the functions for one data set."""
import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from medvlp_jax.tasks import calibration, resampled, scores, zeroshot


def frame(step, n=50):
    rng = np.random.default_rng(3)
    labels = rng.integers(-1, 2, (n, 3))
    return labels, np.round(rng.random((n, 3)) / step) * step, rng.integers(0, 18, n)


@pytest.mark.parametrize("step", [1e-9, 0.25], ids=["no ties", "many ties"])
def test_every_metric_equals_scoring_each_resample(step):
    labels, values, patients = frame(step)
    thresholds = [0.5, 0.25, np.nan]
    found = resampled.points(labels, values, patients, 70, 5, thresholds, temperature=2.0)
    assert set(found) == {*resampled.CURVE, "f1_honest", "acc_honest", "ece", "ece_temperature_honest"}
    counts = np.concatenate(list(scores.patient_counts(patients, 70, seed=5)))
    for r in (0, 7, 63, 64, 69):
        rows = np.repeat(np.arange(len(labels)), counts[r])
        for c in range(3):
            k = rows[labels[rows, c] >= 0]
            y, s = labels[k, c], values[k, c]
            f1, accuracy, _ = zeroshot.published(y, s)
            want = {"ap_macro": average_precision_score(y, s), "f1_published": f1, "acc_published": accuracy,
                    "f1_honest": scores.f1_at(y, s, thresholds[c]), "acc_honest": scores.accuracy_at(y, s, thresholds[c]),
                    "ece": calibration.ece(y, s), "ece_temperature_honest": calibration.ece(y, calibration.scaled(s, 2.0))}
            if c == 2:
                want["f1_honest"] = want["acc_honest"] = np.nan  # no threshold, no number
            for name, value in want.items():
                assert found[name][r, c] == pytest.approx(value, abs=1e-12, nan_ok=True), name


def test_lost_classes_and_what_is_no_probability():
    labels, values = np.array([[1, 1], [0, 1], [0, 1]]), np.array([[0.5, 2.0], [0.5, 3.0], [0.1, 4.0]])
    found = resampled.points(labels, values, ["a", "b", "c"], 200)
    assert set(found) == set(resampled.CURVE)  # no thresholds, no probabilities
    counts = np.concatenate(list(scores.patient_counts(["a", "b", "c"], 200, 0)))
    both = (counts[:, 0] > 0) & (counts[:, 1:].sum(1) > 0)
    for name in resampled.CURVE:
        np.testing.assert_array_equal(np.isfinite(found[name][:, 0]), both)
        assert np.isnan(found[name][:, 1]).all()  # one class only
    unlabelled = resampled.points(np.full((2, 1), -1), np.zeros((2, 1)), ["a", "b"], 3, thresholds=[0.5])
    assert all(np.isnan(v).all() for v in unlabelled.values())


def test_median_equals_each_resample_spelled_out():
    rng = np.random.default_rng(0)
    values, patients = rng.integers(1, 9, 41).astype(float), rng.integers(0, 12, 41)
    found = scores.bootstrap_median(values, patients, 80, seed=2)
    counts = np.concatenate(list(scores.patient_counts(patients, 80, seed=2)))
    np.testing.assert_array_equal(found, [np.median(np.repeat(values, c)) for c in counts])
    assert len(np.unique(found)) > 2


def test_row_means_by_hand():
    np.testing.assert_array_equal(scores.row_means(np.array([[1, 3], [np.nan, 2], [np.nan, np.nan]])), [2, 2, np.nan])
    assert scores.row_means(np.zeros((0, 2))).shape == (0,)


def test_average_precision_by_hand_and_one_class():
    assert scores.average_precision([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert scores.average_precision([0, 1], [0.5, 0.5]) == 0.5  # a tie is no luck
    assert np.isnan(scores.average_precision([1, 1], [0.1, 0.2])) and np.isnan(scores.average_precision([0], [0.1]))
