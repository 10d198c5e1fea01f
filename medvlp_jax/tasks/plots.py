"""Plots of an evaluation: about as wide as a telephone, so that they can be read there and stand side by side elsewhere.

A plot is a matplotlib Figure, an overlay a colour image; `png` and `jpeg` make bytes of them.
"""
import io
import math

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from sklearn.metrics import precision_recall_curve, roc_curve

from medvlp_jax.tasks import calibration, scores

WIDTH = 4.8  # inches; 72 points each, so text of 9 points stays about 9 CSS pixels on a telephone
COLORS = ("#0b57a4", "#b3541e")  # of two checkpoints: told apart by colour-blind readers too
TRUTH = (57, 255, 20)  # bright green: far from the overlay's colours and from grey
AXES = {"roc": ("false positive rate", "true positive rate"), "pr": ("recall", "precision")}
MANY = 20  # of more curves the 10 best and 10 worst are drawn


def png(figure: Figure) -> bytes:
    """A plot as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return buffer.getvalue()


def jpeg(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as JPEG."""
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()


def _plot(height: float):
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axis = figure.subplots()
    axis.grid(color="0.9")
    axis.set_axisbelow(True)
    return figure, axis


def _unit(axis, kind) -> None:
    x, y = AXES[kind]
    axis.set(xlabel=x, ylabel=y, xlim=(0, 1), ylim=(0, 1.01))


def _curve(labels, values, kind):
    """-> (x, y, area) of one finding; ROC points from left to right, precision at falling recall."""
    if kind == "roc":
        x, y, _ = roc_curve(labels, values)
        return x, y, scores.auc(labels, values)
    y, x, _ = precision_recall_curve(labels, values)
    return x, y, scores.average_precision(labels, values)


def curves(labels: np.ndarray, values: np.ndarray, names: list[str], kind: str = "roc") -> Figure:
    """ROC or precision-recall ("pr") curve of every finding, best first; of more than 20 the 10 best and the 10 worst.

    labels (N, C) in {-1, 0, 1}, values (N, C). A finding without both classes has no curve.
    """
    drawn = []
    for c, name in enumerate(names):
        known = labels[:, c] >= 0
        if 0 < labels[known, c].sum() < known.sum():
            drawn.append((*_curve(labels[known, c], values[known, c], kind), name.replace("_", " ")))
    drawn.sort(key=lambda item: -item[2])
    area = "AUC" if kind == "roc" else "Average precision"
    mean = np.mean([d[2] for d in drawn]) if drawn else math.nan
    title = f"{'ROC' if kind == 'roc' else 'Precision and recall'} of {len(drawn)} findings, mean {mean:.3f}"
    if len(drawn) > MANY:
        drawn, title = drawn[:10] + drawn[-10:], f"{title}\n(10 best and 10 worst shown)"
    rows = -(-(len(drawn) + (kind == "roc")) // 2)
    figure, axis = _plot(4.6 + 0.22 * rows)
    if kind == "roc":
        axis.plot([0, 1], [0, 1], color="0.55", linestyle=":", linewidth=1.2, label="0.500  chance")
    for i, (x, y, value, name) in enumerate(drawn):
        axis.plot(x, y, "-" if i < 10 else "--", color=matplotlib.colormaps["tab10"](i % 10), linewidth=1.4,
                  drawstyle="steps-post" if kind == "pr" else None, label=f"{value:.3f}  {name}")  # fmt: skip
    _unit(axis, kind)
    axis.set_title(title, fontsize=10)
    if drawn:
        figure.legend(loc="outside lower center", ncols=2, fontsize=9.5, frameon=False, title=area, title_fontsize=10,
                      columnspacing=1.0)  # fmt: skip
    return figure


def mean_curves(labels, columns: dict[str, np.ndarray], kind: str = "roc", points: int = 201) -> Figure:
    """The mean over the findings of each checkpoint's curve, at equal distances of the x axis.

    labels (N, C) in {-1, 0, 1}; columns: {name of a checkpoint: scores (N, C)}.
    """
    figure, axis = _plot(4.6)
    at = np.linspace(0, 1, points)
    if kind == "roc":
        axis.plot([0, 1], [0, 1], color="0.55", linestyle=":", linewidth=1.2)
    for (name, values), color, style in zip(columns.items(), COLORS, ("-", "--"), strict=False):
        lines, areas = [], []
        for c in range(labels.shape[1]):
            known = labels[:, c] >= 0
            if 0 < labels[known, c].sum() < known.sum():
                x, y, area = _curve(labels[known, c], values[known, c], kind)
                order = np.argsort(x, kind="stable")
                lines.append(np.interp(at, x[order], y[order]))
                areas.append(area)
        if lines:
            axis.plot(at, np.mean(lines, 0), style, color=color, linewidth=1.8, label=f"{np.mean(areas):.3f}  {name}")
    _unit(axis, kind)
    axis.set_title("Mean ROC of the findings" if kind == "roc" else "Mean precision and recall of the findings", fontsize=10)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=9, loc="lower right" if kind == "roc" else "upper right")
    return figure


def reliability(labels, columns: dict[str, np.ndarray], bins: int = calibration.BINS) -> Figure:
    """Observed share of positives against predicted probability, over all findings, and how often each is predicted.

    labels (N, C) in {-1, 0, 1}; columns: {label of a curve: probabilities (N, C)}.
    """
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    axis, below = figure.subplots(2, 1, height_ratios=[4, 1], sharex=True)
    axis.plot([0, 1], [0, 1], color="0.55", linestyle=":", linewidth=1.2, label="perfect")
    known = labels >= 0
    edges = np.linspace(0, 1, bins + 1)
    for i, (name, values) in enumerate(columns.items()):
        curve = calibration.reliability(labels[known], values[known], bins)
        there = curve["count"] > 0
        color = COLORS[i % 2]
        axis.plot(curve["predicted"][there], curve["observed"][there], "o-s-"[2 * i:2 * i + 2], color=color, markersize=4,
                  label=f"{name}, ECE {calibration.ece(labels[known], values[known], bins):.3f}")  # fmt: skip
        below.stairs(curve["count"] / max(curve["count"].sum(), 1), edges, color=color, linewidth=1.4,
                     linestyle="-" if i == 0 else "--")  # fmt: skip
    axis.set(ylabel="share that is present", ylim=(0, 1.01), xlim=(0, 1))
    axis.set_title(f"Reliability, {int(known.sum()):,} predictions of all findings", fontsize=10)
    axis.legend(fontsize=9, loc="upper left")
    axis.grid(color="0.9")
    below.set(xlabel="predicted probability", ylabel="of all")
    below.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    below.grid(color="0.9")
    return figure


def intervals(rows: list[tuple[str, float, list | None]], title: str, at: float) -> Figure:
    """One line a row (name, value, 95 % interval or None), best on top, with a dotted line at `at`."""
    rows = sorted((r for r in rows if r[1] is not None and math.isfinite(r[1])), key=lambda r: r[1])
    figure, axis = _plot(1.0 + 0.24 * len(rows))
    axis.axvline(at, color="0.4", linestyle=":", linewidth=1.2)
    for y, (_, value, ci) in enumerate(rows):
        if ci:
            axis.plot(ci, [y, y], color=COLORS[0], linewidth=2)
        axis.plot(value, y, "o", color=COLORS[0], markersize=5)
    axis.set_yticks(range(len(rows)), [r[0].replace("_", " ") for r in rows], fontsize=9)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_title(title, fontsize=10)
    return figure


def overlay(card: dict, side: int = 320) -> np.ndarray:
    """A card of tasks/kept.py -> (., side, 3) uint8: the image, its heat map, the map's maximum (cross), the truth (green)."""
    image = card["image"].astype(np.float32)
    low, high = float(image.min()), float(image.max())
    grey = (image - low) / (high - low) if high > low else np.zeros_like(image)
    factor = side / image.shape[1]
    size = side, round(image.shape[0] * factor)
    grey = np.clip(cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC), 0, 1)
    color = np.repeat(grey[..., None], 3, 2)
    heat = None if card.get("map") is None else np.asarray(card["map"], np.float32)
    if heat is not None and heat.max() > heat.min():
        scaled = scores.upsample((heat - heat.min()) / (heat.max() - heat.min()), size[::-1])
        weight = 0.15 + 0.5 * scaled[..., None]  # cold cells leave the image visible
        color = (1 - weight) * color + weight * matplotlib.colormaps["inferno"](scaled)[..., :3]
    canvas = np.ascontiguousarray(np.round(color * 255).astype(np.uint8))
    _truth(canvas, card, factor)
    if heat is not None and (at := scores.peak(heat)) >= 0:
        y, x = divmod(at, heat.shape[1])
        place = int((x + 0.5) * size[0] / heat.shape[1]), int((y + 0.5) * size[1] / heat.shape[0])
        for shade, width in (((255, 255, 255), 6), ((0, 0, 0), 2)):  # seen on any colour below it
            cv2.drawMarker(canvas, place, shade, cv2.MARKER_TILTED_CROSS, 20, width)
    return canvas


def _truth(canvas, card, factor) -> None:
    """Boxes of the finding, or the outline of its mask where it has no box."""
    shapes = []
    for x, y, w, h in card.get("boxes") or ():
        corners = np.asarray([[x, y], [x + w, y], [x + w, y + h], [x, y + h]]) * factor
        shapes.append(np.round(corners).astype(np.int32))
    if not shapes and (mask := card.get("mask")) is not None:
        big = cv2.resize(np.asarray(mask, np.uint8), canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        shapes = list(cv2.findContours(big, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0])
    for color, width in (((0, 0, 0), 5), (TRUTH, 2)):
        cv2.polylines(canvas, shapes, True, color, width)
