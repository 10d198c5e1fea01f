"""The benchmarks of input and reports run; both loaders make what is compared."""
import csv

import numpy as np
import pytest

from medvlp_jax.bench import __main__ as bench
from medvlp_jax.bench import input as bench_input
from medvlp_jax.bench import pil_loader
from medvlp_jax.input import transforms
from tests.input.test_decode import GREY, encode


def test_the_table_has_every_recipe_and_origin(capsys):
    found = bench_input.main(["--images=4", "--turns=1", "--batches=1"])
    assert set(found) == {(r, o) for r in ("MedKLIP", "MLIP") for o in ("jpeg", "png", "512")}
    assert all(mine > 0 and theirs > 0 for mine, theirs in found.values())
    text = capsys.readouterr().out
    assert text.count("prepared, PNG") == 8 and "RandAugment" in text and text.count("(not measured here)") == 4


def test_cores_follow_from_the_rate_of_a_chip(capsys):
    assumed = bench_input.chip_rates("", 0.5)
    assert 1.5e4 < assumed["h100"]["MedKLIP"] < 3e4 and assumed["v5p"]["MLIP"] < 0.5 * assumed["h100"]["MLIP"]
    given = bench_input.chip_rates("MedKLIP=3000,MLIP=200", 0.5)
    found = {("MedKLIP", o, who): 1500.0 for o in bench_input.ORIGINS for who in ("ours", "rows", "Pillow")}
    found |= {("MLIP", *key[1:]): 400.0 for key in found}
    bench_input.show(found, {key[:2]: {"read": 1.0} for key in found}, given)
    lines = capsys.readouterr().out.splitlines()[-2:]
    with pytest.raises(ValueError, match="expected a number for MedKLIP or MLIP.*came 'mlip'"):
        bench_input.chip_rates("MedKLIP=1,mlip=2", 0.4)
    assert "at   3000" in lines[0] and lines[0].count("2.0 from") == 3 and lines[1].count("0.5 from") == 3


def test_the_plain_loader_makes_normalised_tensors_of_the_same_image():
    data, rng = encode(GREY, "PNG"), np.random.default_rng(0)
    for make in (pil_loader.medklip, pil_loader.mlip):
        out = make(rng, data)
        assert out.shape == (3, 224, 224) and out.dtype == np.float32 and 0.1 < out.std() < 3
    theirs = pil_loader.mlip(np.random.default_rng(1), data, 256, 256)[0] * 0.229 + 0.485
    ours = transforms.fit(np.asarray(GREY), 256, "pad")[0] / 255
    assert np.abs(theirs - ours).mean() < 0.02


def test_reports_from_a_file(tmp_path, capsys):
    with open(tmp_path / "reports.csv", "w", newline="") as file:
        csv.writer(file).writerows([["report"], *[[f"No effusion. Film {i}."] for i in range(9)]])
    bench.main(["reports", f"--src={tmp_path / 'reports.csv'}"])
    out = capsys.readouterr().out
    assert "9 reports: 9 usable" in out and "reports/s/core" in out


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(ValueError, match="no .jpg below"):
        bench_input.main([f"--src={tmp_path}"])
