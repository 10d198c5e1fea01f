"""Figures are PNGs with something on them; their look was checked by eye, their text is checked here."""
import json

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from medvlp_jax.tasks import common, figures, grounding, zeroshot
from tests.tasks import fakes


@pytest.fixture
def drawn(monkeypatch):
    """Figures that were saved, by file name."""
    out, save = {}, Figure.savefig

    def savefig(self, path, **options):
        out[getattr(path, "name", "bytes")] = self
        save(self, path, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return out


def texts(figure):
    return [t.get_text() for a in figure.axes for t in (a.title, *a.texts)]


def panel(finding, **extra):
    heat = np.zeros((4, 4))
    heat[1, 2] = 1
    return {"finding": finding, "map": heat, "boxes": [(2, 3, 5, 6)], "mask": None, "score": None, **extra}


def test_heat_maps(tmp_path, drawn):
    mask = np.zeros((32, 32), bool)
    mask[4:9, 4:9] = True
    rows = [{"image": np.arange(1024, dtype=np.uint8).reshape(32, 32, 1), "panels": [
        panel("effusion", score=0.934), panel("tail_abnorm_obs", boxes=[], mask=mask)]},
            {"image": np.zeros((32, 32, 3), np.float32), "panels": [panel("mass", map=np.full((4, 4), 0.5))]}]
    figures.heat_maps(tmp_path / "a.png", rows)
    pixels = matplotlib.image.imread(tmp_path / "a.png")
    assert pixels.shape[0] > 500 and pixels.shape[1] > 800 and pixels.std() > 0.1
    green = (pixels[..., 1] > 0.9) & (pixels[..., 0] < 0.4) & (pixels[..., 2] < 0.3)
    assert green.sum() > 200  # the boxes
    assert texts(drawn["a.png"]) == ["image and truth", "effusion", "tail abnorm obs", "effusion  P = 0.93",
                                     "tail abnorm obs", "image and truth", "mass  (constant map)", ""]
    cross = [line.get_xydata()[0].tolist() for line in drawn["a.png"].axes[1].lines]
    assert cross == [[20, 12], [20, 12]]  # centre of cell (row 1, column 2) of 8 pixels
    with pytest.raises(ValueError, match="no example to draw"):
        figures.heat_maps(tmp_path / "b.png", [])


def test_training_curves(tmp_path, drawn):
    lines = [json.dumps({"step": s, "loss": 1 / s, "lr": 1e-4, "note": "text", "loss_ce": None if s == 1 else 0.5 / s})
             for s in range(1, 50)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 50, "lo')
    figures.training_curves(tmp_path / "t.png", tmp_path / "metrics.jsonl")
    axes = drawn["t.png"].axes
    assert [a.get_title() for a in axes] == ["loss", "loss ce", "lr"]
    assert [len(a.lines[0].get_xdata()) for a in axes] == [49, 48, 49]
    (tmp_path / "metrics.jsonl").write_text("not json\n")
    with pytest.raises(ValueError, match="metrics.jsonl has no record with a step"):
        figures.training_curves(tmp_path / "t.png", tmp_path / "metrics.jsonl")


def test_tasks_draw_without_identifiers(tmp_path, drawn):
    items = fakes.examples(16)
    context = common.Context(figures=tmp_path)
    zeroshot.make(fakes.PERFECT, context, resamples=0)({}, fakes.batches(items))
    grounding.make(fakes.PERFECT, context, resamples=0)({}, fakes.batches(items))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["heatmaps.png", "roc.png"]
    shown = texts(drawn["heatmaps.png"])
    assert sum(t == "image and truth" for t in shown) == grounding.FIGURE_ROWS
    for name in fakes.FINDINGS:
        assert any(t.startswith(f"{name}  P = 1.00") for t in shown)
    assert not any(word in t for t in shown for word in ("secret", "p0", "p1", "case"))
