"""Detection of a transfer run: mean average precision over IoU 0.4 to 0.75 (RSNA's thresholds, MGCA's protocol).

Average precision is COCO's: detections of a class over all images by falling score, each takes the free true box of its
image with the highest IoU if that reaches the threshold; precision made monotone and read at 101 recalls.
"""
import numpy as np

from medvlp_jax.tasks import common, kept, scores

TASK = "detection"
THRESHOLDS = tuple(np.round(np.arange(0.4, 0.7501, 0.05), 2))
CONFIDENCE = 0.5  # below it the published protocol drops a box
NEGLIGIBLE = 0.01  # below it nothing is counted: thousands of empty boxes that hardly move a number


def make(predict, context=common.DEFAULT, *, resamples: int = 200, seed: int = 0):
    """-> run(variables, batches) -> records.

    resamples, seed: of the bootstrap by patient; 0 resamples gives no intervals.

    `map`: mean over targets and IoU thresholds, detections from a score of 0.01 up; `map_published`: only those of at least
    0.5; `ap50`: at IoU 0.5, without interval; `map/<name>`. Images of which not every box is known are left out.

    Raises:
      ValueError: detect cannot be predicted, or there is no true box.
    """
    fn = common.need(predict, "detect")

    names = list(context.targets)

    def run(variables, batches) -> list[dict]:
        outputs, hosts = common.collect(fn, variables, batches, ("boxes", "boxes_known"), put=context.put)
        data = common.gather({**outputs, **common.origin(hosts)})
        keep = data["boxes_known"] > 0
        found, truth, patients = data["detect"][keep], data["boxes"][keep], data["patients"][keep]
        there = [c for c in range(len(names)) if (truth[..., 0] == c).any()]
        if not there:
            raise ValueError(f"no example has a box of any of the targets: {', '.join(names)}")
        more = {"skipped": {n: "no box" for c, n in enumerate(names) if c not in there}, "ci_unit": "patient"}
        records = []
        for metric, ious, least, draws in (
            ("map", THRESHOLDS, NEGLIGIBLE, resamples), ("map_published", THRESHOLDS, CONFIDENCE, resamples),
            ("ap50", (0.5,), NEGLIGIBLE, 0),
        ):  # fmt: skip
            tables = [match(found, truth, c, ious, least) for c in there]
            values = np.array([[average_precision(*t) for t in table] for table in tables])  # (classes, IoUs)
            drawn = _bootstrap(tables, patients, draws, seed)  # (resamples, classes)
            per_class = {names[c]: float(v) for c, v in zip(there, values.mean(1), strict=True)}
            records.append(common.record(TASK, metric, values.mean(), keep.sum(), per_class=per_class, iou=list(ious),
                                         least_score=least, ci=scores.interval(drawn.mean(1), patients), **more))  # fmt: skip
            if metric == "map":
                records += [
                    common.record(TASK, f"map/{names[c]}", per_class[names[c]], (truth[..., 0] == c).sum(),
                                  ci=scores.interval(drawn[:, i], patients), **more)
                    for i, c in enumerate(there)
                ]  # fmt: skip
        kept.scores(context, TASK, {"id": data["id"][keep], "patient": patients})  # no value of one image adds up to a mAP
        return records

    return run


def match(found, truth, category: int, ious, least: float = 0.0):
    """Detections (N, P, 6) and true boxes (N, M, 5) of one class -> for each IoU (score (D,), hit (D,), image (D,) by falling
    score, true boxes of each image (N,)). Equal scores keep the order of images."""
    tables = [[] for _ in ious]
    total = np.zeros(len(found), np.int64)
    for n, (boxes, own) in enumerate(zip(found, truth, strict=True)):
        boxes = boxes[(boxes[:, 0] == category) & (boxes[:, 1] > 0) & (boxes[:, 1] >= least)]
        boxes = boxes[np.argsort(-boxes[:, 1], kind="stable")]
        own = own[own[:, 0] == category]
        total[n] = len(own)
        overlap = iou(boxes[:, 2:], own[:, 1:])
        for rows, threshold in zip(tables, ious, strict=True):
            free = np.ones(len(own), bool)
            for i, score in enumerate(boxes[:, 1]):
                value = np.where(free, overlap[i], -1.0)
                best = int(value.argmax()) if len(own) else -1
                hit = best >= 0 and value[best] >= threshold
                if hit:
                    free[best] = False
                rows.append((score, hit, n))
    out = []
    for rows in tables:
        score, hit, image = (np.array(column) for column in zip(*rows, strict=True)) if rows else (np.zeros(0),) * 3
        order = np.argsort(-score, kind="stable")
        out.append((score[order], hit[order].astype(bool), image[order].astype(np.int64), total))
    return out


def iou(a, b) -> np.ndarray:
    """IoU of boxes (n, 4) and (m, 4) as x, y, w, h, (n, m)."""
    a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    side = np.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    both = np.prod(np.maximum(side, 0), -1)
    union = a[..., 2:].prod(-1) + b[..., 2:].prod(-1) - both
    return np.divide(both, union, out=np.zeros_like(both), where=union > 0)


def average_precision(score, hit, image, total, counts=None) -> float:
    """Mean of the interpolated precision at recalls 0, 0.01 .. 1; NaN without a true box.

    counts: (N,) how often each image counts (a bootstrap resample); default once.
    """
    weight = np.ones(len(total)) if counts is None else np.asarray(counts, np.float64)
    boxes = float((weight * total).sum())
    if not boxes:
        return float("nan")
    own = weight[image]
    true, false = np.cumsum(own * hit), np.cumsum(own * ~hit)
    recall = true / boxes
    precision = np.divide(true, true + false, out=np.zeros_like(true), where=true + false > 0)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101) - 1e-12)
    return float(np.where(at < len(precision), np.append(precision, 0.0)[np.minimum(at, len(precision))], 0.0).mean())


def _bootstrap(tables, patients, resamples, seed) -> np.ndarray:
    """Mean over IoUs of the average precision of each class in every resample of patients, (resamples, classes)."""
    out = [
        [np.nanmean([average_precision(*t, counts=row) for t in table]) if (row * table[0][3]).sum() else np.nan
         for table in tables]
        for counts in scores.patient_counts(patients, resamples, seed) for row in counts
    ]  # fmt: skip
    return np.asarray(out).reshape(-1, len(tables))
