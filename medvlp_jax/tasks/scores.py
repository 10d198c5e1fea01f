"""Metric functions: numpy arrays in, plain floats out; scikit-learn where it has the metric.

`published` variants repeat the reference programs (thresholds chosen on the test set, ties counted as hits) so that
numbers can be compared with papers; `honest` variants are what a user should believe. They never share a name.
A metric that is not defined on its input (one class only, an empty truth) is NaN, never a silent 0 or 0.5.
"""
import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

PUBLISHED_MAP_THRESHOLD = 0.008  # MedKLIP's threshold on attention maps (uniform attention over 196 cells: 0.0051)


# ---- classification: labels (N,) of 0/1, scores (N,)


def auc(labels, scores) -> float:
    """Area under the ROC curve, NaN unless both classes are there."""
    labels = np.asarray(labels)
    return float(roc_auc_score(labels, scores)) if 0 < labels.sum() < len(labels) else float("nan")


def average_precision(labels, scores) -> float:
    """Area under the precision-recall curve by steps, NaN unless both classes are there; chance is the share of positives."""
    labels = np.asarray(labels)
    return float(average_precision_score(labels, scores)) if 0 < labels.sum() < len(labels) else float("nan")


def best_f1(labels, scores) -> tuple[float, float]:
    """-> (maximal F1, its threshold) with `score >= threshold` as positive; of equal maxima the lowest threshold.

    Choosing the threshold on the data it is scored on is the published zero-shot protocol (MedKLIP).
    """
    precision, recall, thresholds = precision_recall_curve(labels, scores)
    precision, recall = precision[:-1], recall[:-1]  # the last point (1, 0) has no threshold
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    best = int(np.argmax(f1))
    return float(f1[best]), float(thresholds[best])


def f1_at(labels, scores, threshold: float) -> float:
    """F1 of `score >= threshold`; NaN if nothing is positive in labels or prediction."""
    labels, predicted = np.asarray(labels) == 1, np.asarray(scores) >= threshold
    total = labels.sum() + predicted.sum()
    return float(2 * (labels & predicted).sum() / total) if total else float("nan")


def accuracy_at(labels, scores, threshold: float, strict: bool = False) -> float:
    """Accuracy of `score >= threshold`, or of the published strict `>`, which is not the operating point of the F1."""
    scores = np.asarray(scores)
    predicted = scores > threshold if strict else scores >= threshold
    return float(np.mean(predicted == (np.asarray(labels) == 1)))


# ---- bootstrap by patient


def patient_counts(patients, resamples: int, seed: int, chunk: int = 64):
    """Yields (r, N) uint16: how often each example counts in r resamples of whole patients with replacement.

    Images of one patient are not independent, so patients are drawn, not images.
    """
    _, patient = np.unique(np.asarray(patients), return_inverse=True)  # (N,)
    total = int(patient.max()) + 1
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, chunk):
        r = min(chunk, resamples - start)
        draws = rng.integers(0, total, (r, total)) + np.arange(r)[:, None] * total
        yield np.bincount(draws.ravel(), minlength=r * total).reshape(r, total).astype(np.uint16)[:, patient]  # (r, N)


def bootstrap_auc(labels, scores, patients, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """AUC of every class in every resample, (resamples, C); NaN where a resample lost one of the two classes.

    labels (N, C) of 1, 0 and -1 (unknown, left out of that class), scores (N, C), patients (N,) identifiers.
    Each class is sorted once; a resample is then a cumulative sum of its weights.
    """
    labels, scores = np.asarray(labels), np.asarray(scores)
    plans = [_sorted_class(labels[:, c], scores[:, c]) for c in range(labels.shape[1])]
    out = []
    for counts in patient_counts(patients, resamples, seed):
        out.append(np.stack([_weighted_auc(counts, *plan) for plan in plans], 1))
    return np.concatenate(out)  # (resamples, C)


def _sorted_class(labels, scores):
    """-> (negative rows by rising score, positive rows, negatives below each positive, negatives not above it)."""
    negative, positive = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    negative = negative[np.argsort(scores[negative], kind="stable")]
    below = np.searchsorted(scores[negative], scores[positive], side="left")
    upto = np.searchsorted(scores[negative], scores[positive], side="right")
    return negative, positive, below, upto


def _weighted_auc(counts, negative, positive, below, upto):
    weights = counts[:, positive].astype(np.float64)  # (r, P)
    mass = np.zeros((len(counts), len(negative) + 1), np.int32)
    np.cumsum(counts[:, negative], axis=1, out=mass[:, 1:])  # (r, Q+1)
    wins = np.einsum("rp,rp->r", weights, (mass[:, below] + mass[:, upto]) / 2)
    pairs = weights.sum(1) * mass[:, -1]
    return np.divide(wins, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)


def bootstrap_mean(values, patients, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Mean of the finite `values` (N,) in every resample, (resamples,)."""
    values = np.asarray(values, np.float64)
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    out = []
    for counts in patient_counts(patients, resamples, seed):
        total = counts @ known.astype(np.float64)
        out.append(np.divide(counts @ filled, total, out=np.full(len(counts), np.nan), where=total > 0))
    return np.concatenate(out)


def bootstrap_median(values, patients, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Median of `values` (N,) in every resample, (resamples,)."""
    values = np.asarray(values, np.float64)
    order = np.argsort(values, kind="stable")
    out = []
    for counts in patient_counts(patients, resamples, seed):
        upto = np.cumsum(counts[:, order], axis=1, dtype=np.int64)  # (r, N)
        middle = [(upto[:, -1] - 1) // 2, upto[:, -1] // 2]
        out.append(np.mean([values[order][(upto > k[:, None]).argmax(1)] for k in middle], axis=0))
    return np.concatenate(out)


def row_means(samples) -> np.ndarray:
    """Mean over the classes of each resample (R, C): one that lost a rare class is averaged over the others, like the published
    plain mean; NaN where all are lost."""
    known = np.isfinite(samples)
    total = np.where(known, samples, 0.0).sum(1)
    return np.divide(total, known.sum(1), out=np.full(len(samples), np.nan), where=known.any(1))


def interval(samples, patients) -> list[float] | None:
    """Central 95 % of the finite bootstrap samples; None without any, or for fewer than two patients, where resampling
    patients says nothing."""
    samples = np.asarray(samples)[np.isfinite(samples)]
    several = len(np.unique(np.asarray(patients))) > 1
    return [float(v) for v in np.percentile(samples, [2.5, 97.5])] if several and len(samples) else None


def mean_interval(values, patients, resamples: int = 1000, seed: int = 0) -> list[float] | None:
    """`interval` of the mean of the finite values; None for 0 resamples."""
    return interval(bootstrap_mean(values, patients, resamples, seed), patients) if resamples else None


# ---- heat maps of h x w cells, each repeated to its block of pixels (nearest neighbour), against a pixel mask


def cells_of(shape: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """Index of the map cell that covers each pixel, (H, W) int, row-major over the (h, w) grid."""
    rows, columns = (np.arange(n) * g // n for n, g in zip(shape, grid, strict=True))
    return rows[:, None] * grid[1] + columns[None]


def upsample(heat: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) -> (H, W) by nearest neighbour, as the reference does (no interpolation)."""
    return heat.reshape(-1)[cells_of(shape, heat.shape)]


def cell_truth(mask: np.ndarray, grid: tuple[int, int]):
    """-> (true pixels of each cell, pixels of each cell, whether the cell's centre pixel is true), each (h*w,).

    With nearest-neighbour maps every pixel metric is a function of these, without making the pixels.
    """
    cells = cells_of(mask.shape, grid)
    true = np.bincount(cells.ravel(), weights=mask.ravel(), minlength=grid[0] * grid[1])
    size = np.bincount(cells.ravel(), minlength=grid[0] * grid[1]).astype(np.float64)
    rows, columns = ((2 * np.arange(g) + 1) * n // (2 * g) for n, g in zip(mask.shape, grid, strict=True))
    return true, size, mask[rows[:, None], columns[None]].reshape(-1)


def box_mask(boxes, shape: tuple[int, int]) -> np.ndarray:
    """Union of boxes (x, y, w, h) in pixels, each truncated to integers as the reference does, (H, W) bool."""
    mask = np.zeros(shape, bool)
    for box in boxes:
        x, y, w, h = (int(v) for v in box)
        mask[max(y, 0):max(y + h, 0), max(x, 0):max(x + w, 0)] = True
    return mask


def peak(heat) -> int:
    """Index of the map's maximum if one cell alone has it, else -1: a constant or tied map points nowhere."""
    heat = np.asarray(heat).reshape(-1)
    best = np.flatnonzero(heat == heat.max())
    return int(best[0]) if len(best) == 1 else -1


def pointing(heat, centre) -> float:
    """Honest pointing game: 1 if the only maximal cell has its centre in the truth, else 0 (so for a constant map)."""
    at = peak(heat)
    return float(at >= 0 and bool(np.asarray(centre).reshape(-1)[at]))


def pointing_published(heat, true) -> float:
    """Published rule: 1 if any pixel that equals the maximum is true; a constant map always hits."""
    heat = np.asarray(heat).reshape(-1)
    return float((np.asarray(true)[heat == heat.max()] > 0).any())


def map_overlap(heat, true, size, threshold: float) -> tuple[float, float]:
    """-> (IoU, Dice) of the pixels with heat strictly above the threshold; NaN if truth and prediction are empty."""
    on = np.asarray(heat).reshape(-1) > threshold
    both, total = true[on].sum(), true.sum() + size[on].sum()
    return (float(both / (total - both)), float(2 * both / total)) if total else (float("nan"), float("nan"))


def map_auc(heat, true, size) -> float:
    """Pixel AUC of the upsampled map; NaN if all pixels are true or none is."""
    if not 0 < true.sum() < size.sum():
        return float("nan")
    labels = np.repeat([1, 0], len(size))
    heat = np.asarray(heat).reshape(-1)
    return float(roc_auc_score(labels, np.concatenate([heat, heat]), sample_weight=np.concatenate([true, size - true])))


# ---- segmentation: probabilities and masks (N, ...), one value an image


def _areas(probability, mask, threshold):
    predicted = (np.asarray(probability) > threshold).reshape(len(mask), -1)
    truth = (np.asarray(mask) > 0.5).reshape(len(mask), -1)
    return (predicted & truth).sum(1).astype(float), predicted.sum(1).astype(float), truth.sum(1).astype(float)


def segmentation_dice(probability, mask, threshold: float = 0.5) -> np.ndarray:
    """Dice an image (N,); on an empty mask 1 for an empty prediction and 0 otherwise (SIIM protocol)."""
    both, predicted, truth = _areas(probability, mask, threshold)
    return np.where(truth > 0, 2 * both / np.maximum(predicted + truth, 1), (predicted == 0).astype(float))


def segmentation_iou_published(probability, mask, threshold: float = 0.5) -> np.ndarray:
    """IoU an image (N,), smoothed as published: (intersection + 1) / (union + 1)."""
    both, predicted, truth = _areas(probability, mask, threshold)
    return (both + 1) / (predicted + truth - both + 1)


def segmentation_fbeta(probability, mask, beta: float = 2.0, threshold: float = 0.5) -> np.ndarray:
    """F-beta an image (N,); 0 where mask and prediction are both empty, as published."""
    both, predicted, truth = _areas(probability, mask, threshold)
    total = beta**2 * truth + predicted
    return np.divide((1 + beta**2) * both, total, out=np.zeros_like(total), where=total > 0)
