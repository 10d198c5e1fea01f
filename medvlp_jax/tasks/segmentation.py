"""Segmentation of a transfer run: Dice and IoU of each target's mask, an image at a time."""
import numpy as np

from medvlp_jax.tasks import common, kept, scores

TASK = "segmentation"
THRESHOLD = 0.5  # strict, as published


def make(predict, context=common.DEFAULT, *, resamples: int = 1000, seed: int = 0):
    """-> run(variables, batches) -> records.

    resamples, seed: of the bootstrap by patient; 0 resamples gives no intervals.

    `dice` and `iou`: mean over targets of the mean over the images that have such a mask. `dice_all`: the same over all images
    whose plane is known, an empty mask scoring 1 for an empty prediction and 0 otherwise (SIIM protocol); `iou_published`:
    over all of them, smoothed as published; `f2_published`. `dice/<name>`, `iou/<name>`.

    Raises:
      ValueError: segment cannot be predicted, or no mask is known.
    """
    fn = common.need(predict, "segment")

    names = list(context.targets)

    def run(variables, batches) -> list[dict]:
        parts, hosts = [], []
        for outputs, batch in common.stream(fn, variables, batches, context.put):  # masks are never kept: 200 kB an image
            parts.append(_values(outputs["segment"], batch["masks"]))
            hosts.extend(batch["host"])
        data = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}  # (N, C)
        data = common.gather({**data, **common.origin(hosts)})
        patients = data["patients"]
        records = []
        for metric in parts[0]:
            values = data[metric]
            told = [c for c in range(len(names)) if np.isfinite(values[:, c]).any()]
            if not told:
                raise ValueError(f"no example has a mask of any of the targets: {', '.join(names)}")
            skipped = {names[c]: "no mask" for c in range(len(names)) if c not in told}
            more = {"threshold": THRESHOLD, "skipped": skipped, "ci_unit": "patient"}
            per_class = {names[c]: float(np.nanmean(values[:, c])) for c in told}
            own = {c: scores.bootstrap_mean(values[:, c], patients, resamples, seed) for c in told} if resamples else {}
            ci = scores.interval(np.mean(list(own.values()), 0), patients) if own else None
            n = int(np.isfinite(values).any(1).sum())
            records.append(common.record(TASK, metric, np.mean(list(per_class.values())), n, per_class=per_class,
                                         ci=ci, **more))  # fmt: skip
            for c in told if metric in ("dice", "iou") else ():
                ci = scores.interval(own[c], patients) if own else None
                n = np.isfinite(values[:, c]).sum()
                records.append(common.record(TASK, f"{metric}/{names[c]}", per_class[names[c]], n, ci=ci, **more))
        each = {f"value_{metric}/{name}": data[metric][:, c] for metric in ("dice", "iou") for c, name in enumerate(names)}
        kept.scores(context, TASK, {"id": data["id"], "patient": patients, **each})
        return records

    return run


def _values(probability, masks) -> dict[str, np.ndarray]:
    """Metrics (B, C) of probabilities and masks (B, H, W, C); NaN where the plane is unknown or, for some, empty."""
    columns = {name: [] for name in ("dice", "iou", "dice_all", "iou_published", "f2_published")}
    for c in range(masks.shape[-1]):
        p, mask = probability[..., c], masks[..., c]
        known, there = mask[:, 0, 0] >= 0, (mask == 1).any((1, 2))
        dice = scores.segmentation_dice(p, mask == 1, THRESHOLD)
        for name, values, where in (
            ("dice", dice, there),
            ("iou", dice / (2 - dice), there),  # exact for one mask
            ("dice_all", dice, known),
            ("iou_published", scores.segmentation_iou_published(p, mask == 1, THRESHOLD), known),
            ("f2_published", scores.segmentation_fbeta(p, mask == 1, threshold=THRESHOLD), known),
        ):
            columns[name].append(np.where(where, values, np.nan))
    return {name: np.stack(values, -1) for name, values in columns.items()}
