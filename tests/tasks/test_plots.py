"""Plots and overlays: what is drawn, where, and that nothing breaks on data that has nothing to draw."""
import cv2
import numpy as np
import pytest

from medvlp_jax.tasks import plots


def shown(figure):
    return [t.get_text() for legend in figure.legends for t in legend.get_texts()]


@pytest.mark.parametrize("kind, extra", [("roc", 1), ("pr", 0)])
def test_curves_show_ten_best_and_ten_worst_of_many(kind, extra):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (50, 30))
    values = labels * np.linspace(0, 3, 30) + rng.standard_normal((50, 30))
    labels[:, 15] = 1  # has no curve
    figure = plots.curves(labels, values, [f"f_{c}" for c in range(30)], kind)
    names = [text.split("  ")[1] for text in shown(figure)]
    assert len(names) == 20 + extra and "f 29" in names[extra:extra + 10] and "f 0" in names[-10:] and "f 15" not in names
    areas = [float(text.split()[0]) for text in shown(figure)[extra:]]
    assert areas == sorted(areas, reverse=True)
    assert "of 29 findings" in figure.axes[0].get_title() and len(figure.axes[0].lines) == 20 + extra
    assert plots.png(figure).startswith(b"\x89PNG")


def test_plots_of_nothing():
    labels, values = np.ones((4, 1), int), np.full((4, 1), 0.5)
    for kind in ("roc", "pr"):
        assert "0 findings, mean nan" in plots.curves(labels, values, ["x"], kind).axes[0].get_title()
        plots.png(plots.mean_curves(labels, {"A": values}, kind))
    plots.png(plots.reliability(labels, {"as predicted": values}))
    plots.png(plots.intervals([("x", float("nan"), None)], "t", 0.5))


def test_mean_curves_and_intervals_and_reliability_draw_their_values():
    labels = np.array([[0, 1], [1, 0], [1, 1], [0, -1]])
    good, bad = np.where(labels == 1, 0.9, 0.2), np.where(labels == 1, 0.2, 0.9)
    lines = plots.mean_curves(labels, {"A: one": good, "B: two": bad}).axes[0].lines
    assert [line.get_label() for line in lines[1:]] == ["1.000  A: one", "0.000  B: two"]
    assert lines[1].get_ydata()[1:].tolist() == [1] * 200 and lines[2].get_ydata()[:-1].tolist() == [0] * 200
    axis = plots.intervals([("a_b", 0.7, [0.6, 0.8]), ("c", 0.9, None), ("gone", None, None)], "t", 0.5).axes[0]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["a b", "c"]
    assert [list(line.get_xdata()) for line in axis.lines[1:]] == [[0.6, 0.8], [0.7], [0.9]]
    axis = plots.reliability(labels, {"as predicted": good}).axes[0]
    np.testing.assert_allclose(axis.lines[1].get_xydata(), [[0.2, 0], [0.9, 1]])
    assert axis.get_legend_handles_labels()[1][1] == "as predicted, ECE 0.143"  # 3 off by 0.2 and 4 by 0.1, of 7


def green(image):
    return (np.abs(image.astype(int) - plots.TRUTH) < 10).all(-1)


def test_overlay_by_hand():
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 1
    image = np.tile(np.arange(32, dtype=np.uint8), (32, 1))
    drawn = plots.overlay({"image": image, "map": heat, "boxes": [[4, 8, 8, 16]]}, side=320)
    assert drawn.shape == (320, 320, 3) and drawn.dtype == np.uint8
    rows, columns = np.nonzero(green(drawn))
    np.testing.assert_allclose([rows.min(), rows.max(), columns.min(), columns.max()], [80, 240, 40, 120], atol=3)
    assert drawn[120, 200].tolist() == [0, 0, 0]  # the cross: centre of cell (row 1, column 2) of 80 pixels
    assert drawn[85, 165, 0] > drawn[85, 165, 2] + 50  # the hot cell is warm
    flat = plots.overlay({"image": image, "map": np.ones((4, 4))}, side=320)
    assert (np.ptp(flat, axis=-1) == 0).all() and flat[0, 0, 0] < 5 < 250 < flat[0, 319, 0]  # a constant map shows nothing
    assert (plots.overlay({"image": np.full((8, 4), 7, np.uint8)}, side=64).shape) == (128, 64, 3)


def test_overlay_outlines_the_mask_where_there_is_no_box():
    mask = np.zeros((32, 32), bool)
    mask[8:16, 20:28] = True
    image = np.zeros((32, 32), np.uint8)
    rows, columns = np.nonzero(green(plots.overlay({"image": image, "mask": mask, "boxes": []}, side=320)))
    np.testing.assert_allclose([rows.min(), rows.max(), columns.min(), columns.max()], [80, 160, 200, 280], atol=4)
    both = plots.overlay({"image": image, "mask": mask, "boxes": [[0, 0, 4, 4]]}, side=320)
    assert not green(both)[60:].any()


def test_jpeg_keeps_colours():
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 0] = 200
    back = cv2.imdecode(np.frombuffer(plots.jpeg(image), np.uint8), cv2.IMREAD_COLOR)
    assert abs(int(back[8, 8, 2]) - 200) < 12 and back[8, 8, 0] < 12  # OpenCV has blue first
