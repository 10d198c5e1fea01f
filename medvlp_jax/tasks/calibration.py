"""Whether a probability means what it says: expected calibration error, reliability curve, temperature scaling.

All for the probability of a finding, P(present), not for the confidence of a chosen class: labels (N,) of 0/1,
probabilities (N,) in [0, 1].
"""
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

BINS = 15  # Guo et al., arXiv 1706.04599
TEMPERATURES = (0.05, 20.0)  # beyond these a fit is a sign of separable or reversed scores, not of calibration
SMALLEST = 1e-7  # probabilities are kept this far from 0 and 1: float32 cannot tell them apart further out


def is_probability(values) -> bool:
    """Whether all values are in [0, 1] (a difference of similarities is not)."""
    values = np.asarray(values)
    return bool(values.size and (values >= 0).all() and (values <= 1).all())


def reliability(labels, probabilities, bins: int = BINS) -> dict[str, np.ndarray]:
    """-> {"predicted": mean probability, "observed": share of positives (both NaN in an empty bin), "count"}, each (bins,).

    Bins have equal width and own their upper edge; 0 belongs to the first.
    """
    labels, p = np.asarray(labels, np.float64), np.asarray(probabilities, np.float64)
    which = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], p, side="left")
    count = np.bincount(which, minlength=bins)
    means = [np.divide(np.bincount(which, weights=v, minlength=bins), count, out=np.full(bins, np.nan), where=count > 0)
             for v in (p, labels)]
    return {"predicted": means[0], "observed": means[1], "count": count}


def ece(labels, probabilities, bins: int = BINS) -> float:
    """Expected calibration error: the mean of |observed - predicted| over the bins by their size; NaN without examples."""
    if not len(labels):
        return float("nan")
    curve = reliability(labels, probabilities, bins)
    gap = np.abs(curve["observed"] - curve["predicted"])
    return float(np.nansum(gap * curve["count"]) / curve["count"].sum())


def temperature(labels, probabilities) -> float:
    """T for which sigmoid(logit(p) / T) has the lowest cross-entropy on these labels (Guo et al., section 4.2).

    Fit it on validation data only. The loss is convex in 1 / T, so the minimum is the only one; it is kept within
    `TEMPERATURES`. NaN unless both classes are there.
    """
    labels = np.asarray(labels, np.float64)
    if not 0 < labels.sum() < len(labels):
        return float("nan")
    z = logit(np.clip(np.asarray(probabilities, np.float64), SMALLEST, 1 - SMALLEST))
    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]

    def loss(inverse):
        return np.mean(np.logaddexp(0.0, inverse * z) - labels * inverse * z)

    return float(1 / minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)


def scaled(probabilities, temperature: float) -> np.ndarray:
    """sigmoid(logit(p) / temperature): the same order, another confidence."""
    return expit(logit(np.clip(np.asarray(probabilities, np.float64), SMALLEST, 1 - SMALLEST)) / temperature)
