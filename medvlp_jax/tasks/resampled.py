"""Bootstrap samples, by patient, of the classification metrics that are more than a mean over examples.

Like scores.bootstrap_auc: each class is sorted once, a resample is then a cumulative sum of its weights.
"""
import numpy as np

from medvlp_jax.tasks import calibration, scores

CURVE = ("ap_macro", "f1_published", "acc_published")


def points(labels, values, patients, resamples: int = 1000, seed: int = 0, thresholds=None,
           temperature: float = float("nan"), bins: int = calibration.BINS) -> dict[str, np.ndarray]:
    """{metric: (resamples, C)}: those of `CURVE`; f1_honest and acc_honest with `thresholds`; ece where values are
    probabilities and ece_temperature_honest with a temperature.

    labels (N, C) of 1, 0 and -1 (left out of that class), values (N, C), patients (N,); thresholds (C,), NaN where a class has
    none. NaN where a resample lost one of the classes; thresholds and temperature stay those of the whole validation set.
    """
    labels, values = np.asarray(labels), np.asarray(values, np.float64)
    known = labels >= 0
    columns = {}
    if thresholds is not None:
        columns["honest"] = values >= np.asarray(thresholds)
    if calibration.is_probability(values):
        columns["ece"] = values
        if np.isfinite(temperature):
            columns["ece_temperature_honest"] = calibration.scaled(values, temperature)
    plans = [_descending(labels[:, c], values[:, c]) for c in range(labels.shape[1])]
    parts = {}
    for counts in scores.patient_counts(patients, resamples, seed):
        for c, plan in enumerate(plans):
            weights = counts[:, known[:, c]].astype(np.float64)
            truth = labels[known[:, c], c] == 1
            both = (weights @ truth > 0) & (weights @ ~truth > 0)
            found = dict(zip(CURVE, _curve(counts, *plan), strict=True))
            for name, column in columns.items():
                own = column[known[:, c], c]
                if name == "honest":
                    found["f1_honest"], found["acc_honest"] = _fixed(weights, truth, own)
                    if np.isnan(thresholds[c]):
                        found["f1_honest"] = found["acc_honest"] = np.full(len(counts), np.nan)
                else:
                    found[name] = _ece(weights, truth, own, bins)
            for name, v in found.items():
                parts.setdefault(name, [[] for _ in plans])[c].append(np.where(both, v, np.nan))
    return {name: np.stack([np.concatenate(v) for v in own], 1) for name, own in parts.items()}


def _descending(labels, values):
    """Groups of equal scores that hold a positive: only there does precision-recall gain or F1 have its maximum.

    -> (rows by falling score, whether each is positive, first position of every such group, position after its last).
    """
    rows = np.flatnonzero(labels >= 0)
    rows = rows[np.argsort(-values[rows], kind="stable")]
    truth = labels[rows] == 1
    first = np.flatnonzero(np.append(True, np.diff(values[rows]) != 0)) if len(rows) else np.zeros(0, int)
    after = np.append(first[1:], len(rows))[:len(first)]
    held = np.append(0, np.cumsum(truth))
    gains = held[after] > held[first]
    return rows, truth, first[gains], after[gains]


def _curve(counts, rows, truth, first, after):
    """Average precision, best F1 and the published accuracy (strictly above that threshold) of each resample, (r,) each."""
    if not len(first):
        return np.full((3, len(counts)), np.nan)
    weights = counts[:, rows]
    taken, hits = np.zeros((2, len(counts), len(rows) + 1), np.int32)
    np.cumsum(weights, axis=1, out=taken[:, 1:])
    np.cumsum(weights * truth, axis=1, out=hits[:, 1:])
    positives, total = hits[:, -1], taken[:, -1]
    n, tp = taken[:, after], hits[:, after]  # above or at each threshold, (r, E)
    precision, recall = tp / np.maximum(n, 1), tp / np.maximum(positives, 1)[:, None]
    ap = (np.diff(recall, axis=1, prepend=0) * precision).sum(1)
    both = precision + recall  # the terms of scores.best_f1, so that rounding parts equal maxima as it does there
    f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
    f1[n == taken[:, first]] = -1.0  # a threshold exists only where an example was drawn
    best = f1.shape[1] - 1 - np.argmax(f1[:, ::-1], axis=1)  # of equal ones the lowest threshold
    line = np.arange(len(counts))
    above, right = taken[line, first[best]], hits[line, first[best]]
    right = right + (total - positives) - (above - right)
    return ap, f1[line, best], right / np.maximum(total, 1)


def _fixed(weights, truth, predicted):
    """F1 and accuracy of fixed predictions; F1 is never undefined where a positive was drawn."""
    both = weights @ (truth & predicted)
    f1 = 2 * both / np.maximum(weights @ truth + weights @ predicted, 1)
    return f1, weights @ (truth == predicted) / np.maximum(weights.sum(1), 1)


def _ece(weights, truth, p, bins):
    which = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], p, side="left")
    order = np.argsort(which, kind="stable")
    starts = np.flatnonzero(np.diff(which[order], prepend=-1))  # of every bin that has examples
    if not len(starts):
        return np.full(len(weights), np.nan)
    gap = np.add.reduceat(weights[:, order] * (truth - p)[order], starts, axis=1)
    return np.abs(gap).sum(1) / np.maximum(weights.sum(1), 1)
