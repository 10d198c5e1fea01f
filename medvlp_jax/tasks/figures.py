"""PNG figures of an evaluation. Titles carry findings and numbers, never an identifier of a patient or study."""
import json
import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from medvlp_jax.tasks import plots, scores

DPI = 110
TRUTH = "#39ff14"  # bright green: far from the overlay's colours and from grey


def _axes(rows: int, columns: int, width: float, height: float):
    """A figure that belongs to no window system, so that threads and servers can draw."""
    figure = Figure(figsize=(columns * width, rows * height), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, facecolor="white")


def grey(image: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, 1) uint8 or (H, W, 3) normalised float -> (H, W) float in 0..1."""
    image = np.asarray(image, np.float32)
    image = image.mean(-1) if image.ndim == 3 else image
    low, high = float(image.min()), float(image.max())
    return (image - low) / (high - low) if high > low else np.zeros_like(image)


def heat_maps(path: Path, rows: list[dict]) -> None:
    """One row an example: the image with all truths, then an overlay of the predicted map for each of its findings.

    rows: [{"image": (H, W[, C]), "panels": [{"finding": str, "map": (h, w), "boxes": [(x, y, w, h), ...],
      "mask": (H, W) bool or None, "score": probability or None}, ...]}, ...]
    The colour runs from a map's own lowest to highest value; the cross marks the maximum of a map that has one.

    Raises:
      ValueError: no rows.
    """
    if not rows:
        raise ValueError("no example to draw: expected at least one row with panels")
    columns = 1 + max(len(r["panels"]) for r in rows)
    figure, axes = _axes(len(rows), columns, 2.9, 3.1)
    for line, row in zip(axes, rows, strict=True):
        image = grey(row["image"])
        for axis in line:
            axis.set_axis_off()
        line[0].imshow(image, cmap="gray")
        line[0].set_title("image and truth", fontsize=9)
        for axis, panel in zip(line[1:], row["panels"], strict=False):
            _overlay(axis, image, panel)
            _outline(line[0], panel, name=panel["finding"] if len(row["panels"]) > 1 else "")
    figure.suptitle("Predicted heat map (colour), its maximum (cross) and the truth (green)", fontsize=10)
    _save(figure, path)


def overlays(path: Path, image: np.ndarray, panels: list[dict], columns: int = 5) -> None:
    """The image (H, W[, C]) and beside it one overlay a finding, at most `columns` in a row.

    panels: [{"finding": str, "map": (H, W), "score": probability or None, "peak": (x, y) or None}, ...], in image pixels.

    Raises:
      ValueError: no panels.
    """
    if not panels:
        raise ValueError("no finding to draw: expected at least one panel")
    image, cells = grey(image), 1 + len(panels)
    rows = math.ceil(cells / columns)
    columns = math.ceil(cells / rows)
    height = min(max(2.9 * image.shape[0] / image.shape[1], 1.2), 5.8)
    figure, axes = _axes(rows, columns, 2.9, height + 0.3)
    for axis in axes.flat:
        axis.set_axis_off()
    axes.flat[0].imshow(image, cmap="gray")
    axes.flat[0].set_title("image", fontsize=9)
    for axis, panel in zip(axes.flat[1:], panels, strict=False):
        _overlay(axis, image, panel)
    _save(figure, path)


def _overlay(axis, image, panel) -> None:
    heat = np.asarray(panel["map"], np.float32)
    low, high = float(heat.min()), float(heat.max())
    scaled = (heat - low) / (high - low) if high > low else np.zeros_like(heat)
    big = scores.upsample(scaled, image.shape)
    axis.imshow(image, cmap="gray")
    axis.imshow(big, cmap="inferno", alpha=0.15 + 0.5 * big, vmin=0, vmax=1)  # cold cells leave the image visible
    _outline(axis, panel)
    place = panel["peak"] if "peak" in panel else _cell_peak(heat, image.shape)
    if place is not None:
        for color, width in (("white", 5), ("black", 2)):  # seen on any colour below it
            axis.plot(*place, "x", color=color, markersize=7 + width, markeredgewidth=width)
    title = panel["finding"].replace("_", " ")
    title += "" if panel.get("score") is None else f"  P = {panel['score']:.2f}"
    axis.set_title(title + ("  (constant map)" if low == high else ""), fontsize=9)


def _cell_peak(heat, shape) -> tuple[float, float] | None:
    """Centre (x, y) of the one cell with a map's maximum, in pixels; None where several share it."""
    at = scores.peak(heat)
    y, x = divmod(at, heat.shape[1])
    return None if at < 0 else ((x + 0.5) * shape[1] / heat.shape[1], (y + 0.5) * shape[0] / heat.shape[0])


def _outline(axis, panel, name: str = "") -> None:
    """The boxes of a finding, or the outline of its mask where it has no box, with its name if one is given."""
    mask = panel.get("mask")
    boxes = list(panel.get("boxes") or ())
    for x, y, w, h in boxes:
        axis.add_patch(Rectangle((x - 0.5, y - 0.5), w, h, fill=False, edgecolor=TRUTH, linewidth=1.5))
    if not boxes and mask is not None and mask.any() and not mask.all():
        axis.contour(mask.astype(float), levels=[0.5], colors=[TRUTH], linewidths=1.5)
        boxes = [(int(mask.any(0).argmax()), int(mask.any(1).argmax()))]  # where the name goes
    if name and boxes:
        x, y = boxes[0][:2]
        above = y > axis.get_ylim()[0] / 15  # else there is no room over the box
        axis.annotate(name.replace("_", " "), (x, y), xytext=(0, 3 if above else -3), textcoords="offset points",
                      color=TRUTH, fontsize=7, va="bottom" if above else "top", annotation_clip=True,
                      bbox={"facecolor": "black", "alpha": 0.55, "pad": 1, "linewidth": 0})


def roc(path: Path, labels: np.ndarray, values: np.ndarray, names: list[str]) -> None:
    """The ROC plot of `plots.curves`."""
    path.write_bytes(plots.png(plots.curves(labels, values, names)))


def training_curves(path: Path, metrics_file: Path) -> None:
    """One panel a quantity of metrics.jsonl, `loss` first; quantities that are not numbers are left out.

    Raises:
      ValueError: the file has no record with a step.
    """
    records = []
    for line in metrics_file.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:  # a run that was killed while writing leaves half a line
            continue
    records = [r for r in records if isinstance(r, dict) and "step" in r]
    if not records:
        raise ValueError(f"{metrics_file.name} has no record with a step")
    names = dict.fromkeys(k for r in records for k, v in r.items() if k != "step" and _number(v))
    names = sorted(names, key=lambda k: (k != "loss", k in ("lr", "images_per_s"), k.startswith("eval")))
    columns = min(3, len(names))
    figure, axes = _axes(math.ceil(len(names) / columns), columns, 4.0, 2.6)
    for axis in axes.flat[len(names):]:
        axis.set_axis_off()
    for axis, name in zip(axes.flat, names, strict=False):
        points = [(r["step"], r[name]) for r in records if _number(r.get(name))]
        x, y = np.asarray(points, np.float64).T
        axis.plot(x, y, color="tab:blue", linewidth=1.3, marker="." if len(x) < 30 else None)
        axis.set_title(name.replace("_", " "), fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.grid(color="0.9")
    _save(figure, path)


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
