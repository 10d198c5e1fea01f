"""Zero-shot grounding: the heat map of a present finding against its boxes or mask.

MedKLIP protocol (arXiv 2301.02228, section 4): the map is repeated to the image size by nearest neighbour; pointing
game, IoU and Dice above the fixed threshold 0.008. The published pointing game counts ties as hits, so a constant map
is always right; it is kept under its own name. One pair is one example and one finding that is present in it.
"""
from collections import Counter

import numpy as np

from medvlp_jax.tasks import cases, common, figures, kept, scores, subgroups

TASK = "grounding"
FIGURE_ROWS = 5
CANDIDATES = 64  # thresholds tried on the validation pairs
CELLS = ("heat", "size", "area", "point", "centre")  # arrays (P, h*w) of the pairs
TEXTS = ("finding", "patient", "point_kind", "area_kind", "id", "example", *subgroups.ATTRIBUTES)  # arrays (P,)


def make(predict, context=common.DEFAULT, *, findings=None, resamples: int = 1000, seed: int = 0):
    """-> run(variables, batches) -> records.

    findings: names to evaluate; None takes every name with a box or mask that is an entity of the table.
    resamples, seed: of the bootstrap by patient; 0 resamples gives no intervals.

    Records, each with per_class: `pointing_game` (chance beside it), `pointing_game_chance` (mean share of the image
    that is true), `pointing_game_shuffled` (the map of another image of the same finding: what knowing only where a
    finding usually is would score), `pointing_game_published`, `iou_published`, `dice_published` (threshold 0.008),
    with context.validation `iou_honest` and `dice_honest` (one threshold, of the best mean Dice there), `pixel_auc`.
    Examples give boxes (name, x, y, w, h) and masks {name: (H, W)} in pixels of the evaluated image. Where a finding
    has both, the pointing game asks for the boxes and the overlaps and pixel AUC for the mask ("truths" counts them):
    no cell of a coarse map can have its centre on a thin line. Names that are no entity, and truths without a pixel in
    the image, are counted in "skipped". Where examples have attributes, `pointing_game/<attribute>=<group>`.

    Raises:
      ValueError: ground cannot be predicted, or an asked finding is no entity.
    """
    common.chosen_rows(findings, context.entities)
    names = ("ground", "score_findings") if "score_findings" in predict else ("ground",)  # the score is for the figure
    fn = common.need(predict, *names)

    def run(variables, batches) -> list[dict]:
        shown = {"fresh": [], "spare": []}
        data, skipped = _collect(fn, variables, batches, findings, context, shown)
        if not len(data["finding"]):
            raise ValueError(f"no present finding with a box or mask to ground; skipped: {skipped or 'nothing'}")
        values = {name: np.asarray(v) for name, v in _values(data).items()}  # metric -> (P,)
        published = scores.PUBLISHED_MAP_THRESHOLD
        more = {"iou_published": {"threshold": published}, "dice_published": {"threshold": published},
                "pointing_game": {"chance": float(values["pointing_game_chance"].mean())}}
        values["iou_published"], values["dice_published"] = _overlaps(data, published)
        if context.validation is not None:
            chosen = best_threshold(_collect(fn, variables, context.validation, findings, context)[0])
            values["iou_honest"], values["dice_honest"] = _overlaps(data, chosen)
            more["iou_honest"] = more["dice_honest"] = {"threshold": chosen}
        truths = {of: dict(Counter(data[f"{of}_kind"].tolist())) for of in ("point", "area")}
        records = []
        for metric, v in values.items():
            ci = scores.mean_interval(v, data["patient"], resamples, seed)
            records.append(_record(metric, v, data["finding"], ci=ci, skipped=skipped,
                                   truths=truths["point" if metric.startswith("pointing") else "area"],
                                   ci_unit="patient", **more.get(metric, {})))
        who = {"patients": data["patient"], **{a: data[a] for a in subgroups.ATTRIBUTES}}
        records += subgroups.mean_records(TASK, "pointing_game", who, values["pointing_game"], resamples, seed)
        kept.scores(context, TASK, {**{k: data[k] for k in ("id", "patient", "finding", *subgroups.ATTRIBUTES)},
                                    **{f"value_{k}": v.astype(np.float32) for k, v in values.items()}})
        kept.examples(context, TASK, lambda: _cards(data, values, batches))
        rows = (shown["fresh"] + shown["spare"])[:FIGURE_ROWS]
        common.draw(context.figures, "heatmaps.png", lambda path: figures.heat_maps(path, rows))
        return records

    return run


def _record(metric, values, finding, **extra):
    """Mean over the pairs where the metric is defined, and the same a finding."""
    known = np.isfinite(values)
    own = {str(f): values[known & (finding == f)] for f in np.unique(finding[known])}
    per_class = {f: {"value": float(v.mean()), "n": len(v)} for f, v in own.items()}
    mean = values[known].mean() if known.any() else float("nan")
    return common.record(TASK, metric, mean, known.sum(), per_class=per_class, **extra)


def _collect(fn, variables, batches, findings, context, shown=None):
    """Pairs of all processes as arrays and how many truths were left out, with the reason.

    Arrays: heat, size (pixels of each cell), area (true ones of them), point, centre (true pixels, and whether the
    centre is true, by the truth of the pointing game), all (P, h*w); finding, patient, point_kind, area_kind, id (P,).
    `shown` is filled with rows for the figure.
    """
    pairs, skipped, grid = [], Counter(), (1, 1)
    for outputs, batch in common.stream(fn, variables, batches, context.put):
        if "host" not in batch:
            raise ValueError("grounding needs batch['host'] with boxes or masks; the batches carry none")
        grid, shape = outputs["ground"].shape[2:], batch["image"].shape[1:3]
        for i, example in enumerate(batch["host"]):
            panels, groups = [], [column[0] for column in subgroups.columns([example]).values()]
            for name, (point_kind, point), (area_kind, area) in truths_of(example, shape, findings):
                row = common.entity_row(name, context.entities)
                if row is None or not (point.any() and area.any()):
                    skipped[f"{name}: " + ("not an entity of the table" if row is None else "empty truth")] += 1
                    continue
                heat = outputs["ground"][i, row].copy()  # a view would keep the maps of all entities
                true, size, centre = scores.cell_truth(point, grid)
                pairs.append((heat.reshape(-1), size, scores.cell_truth(area, grid)[0], true, centre,
                              name, common.patient(example), point_kind, area_kind, f"{example.get('id')} {name}",
                              str(example.get("id", "")), *groups))
                score = float(outputs["score_findings"][i, row]) if "score_findings" in outputs else None
                panels.append({"finding": name, "map": heat, "mask": area, "score": score,
                               "boxes": [b[1:] for b in example.get("boxes") or () if b[0] == name]})
            _show(shown, batch["image"][i].copy(), panels)
    columns = list(zip(*pairs, strict=True)) or [()] * (len(CELLS) + len(TEXTS))
    arrays = dict(zip(CELLS + TEXTS, (np.asarray(c) for c in columns), strict=True))
    for name in CELLS:  # a process without pairs joins the others with zero rows
        arrays[name] = arrays[name].reshape(-1, grid[0] * grid[1])
    for name in TEXTS:
        arrays[name] = arrays[name].astype(str)
    arrays = common.gather(arrays)
    arrays["grid"] = np.asarray(grid)
    reasons = common.gather({"names": np.asarray(list(skipped.elements()), dtype=str)})["names"]
    return arrays, dict(Counter(reasons.tolist()))


def _cards(data, values, batches, count: int = 4) -> list[dict]:
    """The first pair of every finding (the same for every checkpoint), then the best and the worst by pixel AUC."""
    quality = np.nan_to_num(values["pixel_auc"], nan=0.5)
    order = np.argsort(quality, kind="stable")
    groups = {"One of every finding": [int(np.flatnonzero(data["finding"] == f)[0]) for f in np.unique(data["finding"])],
              "Best by pixel AUC": _one_a_finding(order[::-1], data["finding"], count),
              "Worst by pixel AUC": _one_a_finding(order, data["finding"], count)}
    found = cases.fetch(batches, {str(data["example"][p]) for pairs in groups.values() for p in pairs})
    out = []
    for group, pairs in groups.items():
        for p in pairs:
            if (name := str(data["example"][p])) not in found:  # read by another process
                continue
            image, host = found[name]
            finding = str(data["finding"][p])
            pointed = "hit" if values["pointing_game"][p] else "miss"
            title = f"{finding.replace('_', ' ')}: {pointed}, pixel AUC {quality[p]:.2f}"
            out.append({"group": group, "id": data["id"][p], "image": image, "finding": finding, "title": title,
                        "map": data["heat"][p].reshape(data["grid"]), **cases.truth(host, finding)})
    return out


def _one_a_finding(order, finding, count) -> list[int]:
    first = {}
    for p in order:
        first.setdefault(str(finding[p]), int(p))
    return list(first.values())[:count]


def truths_of(example, shape, findings=None):
    """Present findings of an example with a place: [(name, truth to point at, truth to cover), ...].

    Each truth is (kind, (H, W) bool), kind "boxes" or "mask"; boxes are preferred for the first, a mask for the second.

    Raises:
      ValueError: a mask has another size than the image that is evaluated.
    """
    labels, masks, boxes = (example.get(k) or {} for k in ("finding_labels", "masks", "boxes"))
    out = []
    for name in dict.fromkeys([*masks, *(b[0] for b in boxes)]):
        if labels.get(name, 1) != 1 or (findings is not None and name not in findings):
            continue
        truths = []
        if own := [b[1:] for b in boxes if b[0] == name]:
            truths.append(("boxes", scores.box_mask(own, shape)))
        if name in masks:
            if masks[name].shape != tuple(shape):
                raise ValueError(f"mask of {name!r} is {masks[name].shape}, the evaluated image {tuple(shape)}")
            truths.append(("mask", masks[name].astype(bool)))
        out.append((name, truths[0], truths[-1]))
    return out


def _values(data) -> dict:
    """Metrics without a threshold, a list of P values each."""
    pairs = list(zip(*(data[name] for name in CELLS), strict=True))
    return {"pointing_game": [scores.pointing(heat, centre) for heat, _, _, _, centre in pairs],
            "pointing_game_chance": [point.sum() / size.sum() for _, size, _, point, _ in pairs],
            "pointing_game_shuffled": _shuffled(data),
            "pointing_game_published": [scores.pointing_published(heat, point) for heat, _, _, point, _ in pairs],
            "pixel_auc": [scores.map_auc(heat, area, size) for heat, size, area, _, _ in pairs]}


def _shuffled(data) -> np.ndarray:
    """Pointing game with the map of the next pair of the same finding; NaN for a finding with one pair."""
    out = np.full(len(data["heat"]), np.nan)
    for name in np.unique(data["finding"]):
        pairs = np.flatnonzero(data["finding"] == name)
        if len(pairs) > 1:
            for own, other in zip(pairs, np.roll(pairs, 1), strict=True):
                out[own] = scores.pointing(data["heat"][other], data["centre"][own])
    return out


def _overlaps(data, threshold) -> tuple[np.ndarray, np.ndarray]:
    """IoU and Dice a pair, (P,) each; not defined without a threshold."""
    if np.isnan(threshold):
        return np.full((2, len(data["heat"])), np.nan)
    pairs = zip(data["heat"], data["area"], data["size"], strict=True)
    iou, dice = zip(*(scores.map_overlap(h, t, s, threshold) for h, t, s in pairs), strict=True)
    return np.asarray(iou), np.asarray(dice)


def best_threshold(data) -> float:
    """The quantile of all map values with the best mean Dice over the pairs; NaN without pairs."""
    if not len(data["heat"]):
        return float("nan")
    candidates = np.unique(np.quantile(data["heat"], np.linspace(0, 1, CANDIDATES + 1)[:-1]))
    return float(candidates[int(np.argmax([np.nanmean(_overlaps(data, t)[1]) for t in candidates]))])


def _show(shown, image, panels) -> None:
    """Keeps rows for the figure: first examples with a finding that no earlier row has, others as spare ones."""
    if shown is None or not panels:
        return
    seen = {p["finding"] for row in shown["fresh"] for p in row["panels"]}
    fresh = [p for p in panels if p["finding"] not in seen]
    rows = shown["fresh" if fresh else "spare"]
    if len(rows) < FIGURE_ROWS:
        rows.append({"image": image, "panels": (fresh + [p for p in panels if p["finding"] in seen])[:3]})
