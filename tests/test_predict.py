"""The command that asks a checkpoint: its table, its files, and one bad image among many."""
import csv

import cv2
import numpy as np
import pytest

from medvlp_jax import inference, predict
from medvlp_jax.input import decode

FINDINGS = ["effusion", "mass"]


class Model:
    """Stands for inference.Model: scores are the mean grey value, maps have their maximum top left."""

    method, step, predicts = "fake", 3, ("ground", "score_findings")
    prepare, way, to_pixels, peak = (getattr(inference.Model, n) for n in ("prepare", "way", "to_pixels", "peak"))
    _check_can = inference.Model._check_can

    def __init__(self):
        from types import SimpleNamespace as Space

        options = Space(image_size=32, eval_frame=None, eval_fit="stretch")
        self._exp, self.config = Space(options=options), Space(method="fake")
        self.calls = []

    def answers(self, images, findings, names):
        self.calls.append((len(images), names))
        for image in images:
            heat = np.zeros((2, 4, 4))
            heat[:, 0, 0] = 1
            yield image, {"score_findings": np.array([image.pixels.mean() / 255, 0.5]), "ground": heat}


@pytest.fixture
def pictures(tmp_path):
    """Good and bad files with names of all kinds -> (good, bad)."""
    names = ("a b.png", "[red]x.png", "A_b.png", "..png", "\u00e9\n.png", *(f"{i}.png" for i in range(14)))
    good = [tmp_path / name for name in names]
    for i, path in enumerate(good):
        path.write_bytes(cv2.imencode(".png", np.full((40, 60), 10 * i, np.uint8))[1].tobytes())
    (tmp_path / "bad.png").write_bytes(good[0].read_bytes()[:-20])
    bad = [tmp_path / "bad.png", tmp_path / "none\x1b[2J.png", tmp_path]
    return [str(p) for p in good], [str(p) for p in bad]


def test_good_images_are_done_and_bad_ones_named(pictures, tmp_path, capsys):
    good, bad = pictures
    model, out = Model(), tmp_path / "out"
    out.mkdir()
    assert predict.report(model, [*good[:3], *bad, *good[3:], good[0]], FINDINGS, out=out) == 1
    assert model.calls == [(13, ("score_findings", "ground")), (6, ("score_findings", "ground"))]  # chunks of 16 paths
    told = capsys.readouterr()
    assert "[red]x.png" in told.out and "fake, step 3: P(present)" in told.out and "\x1b" not in told.out + told.err
    assert "bad.png: truncated" in told.err and "is a folder" in told.err and told.err.count("skipped") == 3
    with (out / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", *FINDINGS] and [r[0] for r in rows[1:]] == good
    np.testing.assert_allclose([float(r[1]) for r in rows[1:]], np.arange(19) * 10 / 255, atol=1e-5)
    names = sorted(p.name for p in out.glob("*.png"))
    assert {"a_b-heat.png", "A_b-2-heat.png", "red_x-heat.png", "image-heat.png", "image-2-heat.png"} <= set(names)
    assert len(names) == 19
    overlay = decode.decode((out / "a_b-heat.png").read_bytes())
    assert overlay.shape[1] > 2 * overlay.shape[0]  # the image and two findings side by side


def test_exit_codes(pictures, capsys):
    good, bad = pictures
    assert predict.report(Model(), good[:2], FINDINGS) == 0
    assert predict.report(Model(), bad, FINDINGS) == 2
    assert "fake" not in capsys.readouterr().out.split("device.")[-1]  # no empty table


def test_many_findings_are_split_over_tables():
    findings = [f"finding{i}" for i in range(9)]
    tables = predict.tables({"a": np.arange(9.0)}, findings, "title")
    assert [len(t.columns) for t in tables] == [1 + predict.COLUMNS, 3]
    assert list(tables[1].columns[2].cells) == ["8.000"] and predict.COLUMNS == 7
