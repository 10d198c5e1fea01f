"""Whether two checkpoints differ on the same examples: DeLong's test and the paired bootstrap by patient.

A difference is always b - a. DeLong's test takes images as independent; the bootstrap draws whole patients and is the
one to believe where a patient has several images.
"""
import math

import numpy as np
from scipy.stats import rankdata

from medvlp_jax.tasks import scores


def delong(labels, a, b) -> dict[str, float]:
    """DeLong's test (Biometrics 44, 1988) for two correlated AUCs, in O(N log N) by midranks (Sun and Xu, 2014).

    labels (N,) of 0/1; a, b (N,) scores of the same examples.

    Returns:
      {"auc_a", "auc_b", "difference", "se", "z", "p" (two-sided)}. All NaN unless both classes are there; se, z and p are
      NaN with a single positive or negative. Where the variance is 0, p is 1 for equal AUCs and NaN for others: the
      test says nothing then.
    """
    positive = np.asarray(labels) == 1
    m, n = int(positive.sum()), int((~positive).sum())
    names = ("auc_a", "auc_b", "difference", "se", "z", "p")
    if not (m and n):
        return dict.fromkeys(names, float("nan"))
    by_positive, by_negative = [], []
    for values in (np.asarray(a, np.float64), np.asarray(b, np.float64)):
        ranks, own = rankdata(values), np.zeros(m + n)
        own[positive], own[~positive] = rankdata(values[positive]), rankdata(values[~positive])
        by_positive.append((ranks - own)[positive] / n)  # share of negatives below each positive
        by_negative.append(1 - (ranks - own)[~positive] / m)  # share of positives above each negative
    auc = [float(v.mean()) for v in by_positive]
    difference = auc[1] - auc[0]
    parts = [np.diff(v, axis=0)[0] for v in (by_positive, by_negative)]
    if min(m, n) < 2:
        return dict(zip(names, (*auc, difference, *[float("nan")] * 3), strict=True))
    se = math.sqrt(sum(float(v.var(ddof=1)) / len(v) for v in parts))
    if se < 1e-12:  # also where rounding leaves a trace of two equal columns
        same = abs(difference) < 1e-12
        return dict(zip(names, (*auc, difference, 0.0, 0.0 if same else math.nan, 1.0 if same else math.nan), strict=True))
    z = difference / se
    return dict(zip(names, (*auc, difference, se, z, math.erfc(abs(z) / math.sqrt(2))), strict=True))


def bootstrap_p(differences) -> float:
    """Two-sided p-value of "no difference" from paired bootstrap differences: twice the smaller tail, each with the
    usual +1, so that it is never 0; NaN without a finite one."""
    d = np.asarray(differences, np.float64)
    d = d[np.isfinite(d)]
    if not len(d):
        return float("nan")
    return float(min(1.0, 2 * (min((d <= 0).sum(), (d >= 0).sum()) + 1) / (len(d) + 1)))


def holm(p) -> np.ndarray:
    """Holm's correction for testing several hypotheses at once, same order; undefined p-values stay NaN and do not count."""
    p = np.asarray(p, np.float64)
    out, known = np.full(len(p), np.nan), np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    raised = p[order] * (len(order) - np.arange(len(order)))
    out[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return out


def classes(labels, a, b, patients, names, resamples: int = 1000, seed: int = 0) -> tuple[dict, list[dict]]:
    """AUCs of two checkpoints -> (row of the mean, one row a class).

    labels (N, C) of 1, 0 and -1 (unknown); a, b (N, C) scores; patients (N,). Both are resampled together, by patient.
    A row: name, a, b, difference, ci of the difference, p (bootstrap) and, for a class, p_delong, p_holm (of the bootstrap p
    over the classes), n, positives. A class without both labels has NaN and is in no mean.
    """
    labels, a, b = np.asarray(labels), np.asarray(a), np.asarray(b)
    per_class = np.asarray([[scores.auc(labels[k, c], x[k, c]) for x in (a, b)]
                            for c, k in enumerate((labels >= 0).T)]).reshape(-1, 2)  # (C, 2)
    samples = np.full((0, len(names)), np.nan)
    if resamples and len(names):
        draws = [scores.bootstrap_auc(labels, x, patients, resamples, seed) for x in (a, b)]  # the same patients
        samples = draws[1] - draws[0]  # (R, C)
    known = np.isfinite(per_class).all(1)
    rows = []
    for c, name in enumerate(names):
        k = labels[:, c] >= 0
        rows.append({**_row(name, *per_class[c], samples[:, c], patients), "n": int(k.sum()),
                     "positives": int((labels[:, c] == 1).sum()),
                     "p_delong": delong(labels[k, c], a[k, c], b[k, c])["p"]})
    for row, p in zip(rows, holm([r["p"] for r in rows]), strict=True):
        row["p_holm"] = float(p)
    mean = per_class[known].mean(0) if known.any() else np.full(2, np.nan)
    used = (labels[:, known] >= 0).any(1).sum()
    return {**_row("mean", *mean, scores.row_means(samples[:, known]), patients), "n": int(used)}, rows


def values(name: str, a, b, patients, resamples: int = 1000, seed: int = 0) -> dict:
    """A row as in `classes` for a mean of one value an example, a and b (N,); examples undefined in either are left out."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    patients = np.asarray(patients)[both]
    mean = [float(x[both].mean()) if both.any() else float("nan") for x in (a, b)]
    draws = scores.bootstrap_mean((b - a)[both], patients, resamples, seed) if resamples and both.any() else []
    return {**_row(name, *mean, draws, patients), "n": int(both.sum())}


def _row(name, a, b, samples, patients) -> dict:
    several = len(np.unique(np.asarray(patients))) > 1  # else resampling patients says nothing
    return {"name": name, "a": float(a), "b": float(b), "difference": float(b - a),
            "ci": scores.interval(samples, patients), "p": bootstrap_p(samples) if several else float("nan")}
