"""From a release in its official layout to a data set that training reads: contents, drops, restart, card, TFDS."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from data import prepare
from medvlp_jax.input import datasets, decode, pipeline, prepared, sources, tokens
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.input.prepared import PreparedSource
from medvlp_jax.reports import vocab
from tests.data import miniature
from tests.input.datasets.test_readers import ALL, fill
from tests.input.test_manifest import picture, write

ROOT = Path(__file__).parents[2]


def run(*options, **flags):
    prepare.main([f"--{k}={v}" for k, v in {"workers": 0, **flags}.items()] + list(options))


def fails(capsys, *options, **flags) -> str:
    """The one line that a mistake gives."""
    with pytest.raises(SystemExit) as e:
        run(*options, **flags)
    assert e.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    """(facts, root of the release, folder it was prepared in)."""
    folder = tmp_path_factory.mktemp("mimic")
    (folder / "src").mkdir()
    facts = miniature.mimic(folder / "src")
    run(dataset="mimic_cxr", src=folder / "src", out=folder / "out", size=64, shard_mb=0.005, max_bad_share=0.4)
    return facts, folder / "src", folder / "out"


def test_mimic_jpg(mimic):
    facts, root, out = mimic
    card = json.loads((out / "card.json").read_text())
    frontal = [f for f in facts if f["view"] != "LATERAL"]
    with_text = [f for f in frontal if f["report"]]
    assert card["drops"]["view LATERAL"]["rows"] == len(facts) // 2
    assert card["drops"]["no report, label, box or mask"]["rows"] == len(frontal) - len(with_text)
    assert card["rows"] == len(facts) and sum(card["examples"].values()) == len(with_text)
    for split, theirs in (("train", "train"), ("val", "validate"), ("test", "test")):
        source = PreparedSource(out, split)
        assert [source[i]["id"] for i in range(len(source))] == [f["path"] for f in with_text if f["split"] == theirs]
    whole = PreparedSource(out, "all")
    original = ManifestSource(datasets.read("mimic_cxr", root), "all", root)
    place = {original.table[i]["image"]: i for i in range(len(original))}
    for i in range(len(whole)):
        got, want = whole[i], original[place[whole[i]["id"]]]
        np.testing.assert_array_equal(got["presence"], want["presence"])
        assert got["report"] == want["report"] == whole.text(i) and got["finding_labels"] == want["finding_labels"] == {}
        assert got["patient_id"] == want["patient_id"] and got["attributes"] == want["attributes"]
        image, theirs = decode.decode(got["image"]), decode.decode(want["image"])
        assert image.shape == (64, 53) and abs(float(image.mean()) - float(theirs.mean())) < 3
    assert whole[0]["report"].startswith("Cardiomegaly with small effusion.") and "INDICATION" not in whole[0]["report"]
    assert whole[0]["presence"][vocab.position_index("left_pleural"), vocab.entity_index("effusion")] == 1


def test_shards_are_small_files_that_tfds_reads(mimic):
    import tensorflow_datasets as tfds

    out = mimic[2]
    card = prepared.read_card(out)
    assert len(card["shards"]) > 3 and not list(out.glob("*.tmp")) and not list((out / "work").glob("*.tmp"))
    builder = tfds.builder_from_directory(out)
    assert {k: v.num_examples for k, v in builder.info.splits.items()} == card["examples"]
    theirs, ours = builder.as_data_source(split="train"), PreparedSource(out, "train")
    assert len(theirs) == len(ours)
    for i in range(len(ours)):
        assert theirs[i]["report"].decode() == ours[i]["report"]
        np.testing.assert_array_equal(theirs[i]["presence"], ours[i]["presence"])
        np.testing.assert_array_equal(theirs[i]["image"][..., 0], decode.decode(ours[i]["image"]))
    assert "tensorflow" not in sys.modules


def test_radgraph_labels_patient_splits_and_report_only(mimic, tmp_path):
    facts, root, _ = mimic
    train = next(f for f in facts if f["split"] == "train" and "enlarged" in f["report"])
    miniature.radgraph(tmp_path / "graphs.json", train)
    run("--require_report", dataset="mimic_cxr", src=root, out=tmp_path / "out", size=64, radgraph=tmp_path / "graphs.json",
        labels="chexpert", split="patient", views="all", sections="findings")  # fmt: skip
    source = PreparedSource(tmp_path / "out", "all", report_sections=("findings",))
    examples = {e["id"]: e for e in (source[i] for i in range(len(source)))}
    assert set(examples) == {f["path"] for f in facts if f["report"]}
    example = examples[train["path"]]
    said = {(vocab.POSITIONS[a], vocab.ENTITIES[k]): int(example["presence"][a, k])
            for a, k in np.argwhere(example["presence"] != -1)}
    assert said == {("right_pleural", "effusion"): 1, ("unspecified", "cardiomegaly"): 1, ("unspecified", "pneumonia"): 2}
    assert example["finding_labels"] == {"Cardiomegaly": 1, "Pneumonia": -1} and example["report"].startswith("The heart")
    owners = {s: {e["patient_id"] for e in (x[i] for i in range(len(x)))} for s in ("train", "test")
              if len(x := PreparedSource(tmp_path / "out", s, report_sections=("findings",)))}
    assert not owners["train"] & owners.get("test", set())
    with pytest.raises(ValueError, match="was prepared with sections=findings, now data.sections is impression,findings"):
        PreparedSource(tmp_path / "out", "train")


def test_mimic_dicom_takes_the_view_from_the_file(tmp_path):
    (tmp_path / "src").mkdir()
    facts = miniature.mimic(tmp_path / "src", 4, "dicom")
    run(dataset="mimic_cxr", src=tmp_path / "src", out=tmp_path / "out", max_bad_share=0.5)
    source = PreparedSource(tmp_path / "out", "all")
    assert sorted(source[i]["id"] for i in range(len(source))) == sorted(
        f["path"] for f in facts if f["view"] != "LATERAL" and f["report"])  # fmt: skip
    assert {source[i]["attributes"]["view"] for i in range(len(source))} == {"PA", "AP"}
    assert all(b"Secret" not in (tmp_path / "out" / s["file"]).read_bytes() for s in source.card["shards"])


@pytest.mark.parametrize("name", ["chestxray14", "chexpert", "openi", "padchest", "rsna", "covid_rural", "vindr"])
def test_other_data_sets(name, tmp_path):
    root = fill(tmp_path / "src", ALL[name])
    run(dataset=name, src=root, out=tmp_path / "out", size=512)
    original, ours = ManifestSource(datasets.read(name, root), "all", root), PreparedSource(tmp_path / "out", "all")
    assert len(ours) == len(original)
    place = {original[i]["id"]: i for i in range(len(original))}
    for i in range(len(ours)):
        got, want = ours[i], original[place[ours[i]["id"]]]
        assert {k: got[k] for k in ("finding_labels", "severity", "attributes")} == {
            k: want[k] for k in ("finding_labels", "severity", "attributes")}  # fmt: skip
        np.testing.assert_array_equal(got["presence"], want["presence"])
        assert [b[0] for b in got["boxes"]] == [b[0] for b in want["boxes"]] and set(got["masks"]) == set(want["masks"])
        assert got["boxes"] == [tuple(b) for b in want["boxes"]]
        assert ours.truth(i)["finding_labels"] == got["finding_labels"] and set(ours.truth(i)["masks"]) == set(got["masks"])


def test_boxes_and_masks_shrink_with_the_image(tmp_path):
    import cv2

    mask = np.zeros((80, 64), np.uint8)
    mask[16:48, 8:40] = 255
    (tmp_path / "src").mkdir()
    box = {"label": "Mass", "x": 8, "y": 16, "w": 32, "h": 32}
    path = write(tmp_path / "src", [{"boxes": [box], "masks": {"Mass": "m.png"}}])
    (tmp_path / "src" / "0.png").write_bytes(picture(0, (80, 64)))
    (tmp_path / "src" / "m.png").write_bytes(cv2.imencode(".png", mask)[1].tobytes())
    run(dataset="manifest", src=path, out=tmp_path / "out", size=40)
    example = PreparedSource(tmp_path / "out", "train")[0]
    assert decode.decode(example["image"]).shape == (40, 32) and example["boxes"] == [("mass", 4, 8, 16, 16)]
    want = np.zeros((40, 32), bool)
    want[8:24, 4:20] = True
    np.testing.assert_array_equal(example["masks"]["mass"], want)


def test_batches_come_from_workers_and_by_name(mimic, tmp_path):
    data = ConfigDict({"name": "prepared", "path": str(mimic[2]), "closed_world": "auto",
                       "blank_labels": "unknown", "label_precedence": "report", "annotations": "",
                       "sections": ("impression", "findings"), "views": "frontal", "examples": {}})  # fmt: skip
    source = sources.make(data, "train", 0)
    options = pipeline.Options(image_size=32, frame=48, crop="random", require_report=True, max_tokens=24)
    batches = []
    for workers in (0, 1):
        iterator = pipeline.train_iterator(source, tokens.load(), options, batch_size=4, seed=1, workers=workers)
        batches.append([next(iterator) for _ in range(3)])
        iterator.close()
    for a, b in zip(*batches, strict=True):
        assert a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a) and a["image"].std() > 5


def test_the_card_escapes_text_and_counts(tmp_path):
    (tmp_path / "src").mkdir()
    rows = [{"labels": "Mass;<script>alert(1)</script>; Mass", "patient_id": "Jane Doe", "view": "<b>PA</b>"} for _ in range(3)]
    rows.append({"labels": "Edema", "image": "0.png"})
    rows.append({"labels": "Edema", "patient_id": "x"})
    path = write(tmp_path / "src", rows)
    (tmp_path / "src" / "4.png").write_bytes(b"")
    run(dataset="manifest", src=path, out=tmp_path / "out", max_bad_share=0.5, views="all")
    card, text = json.loads((tmp_path / "out/card.json").read_text()), (tmp_path / "out/card.html").read_text()
    assert card["drops"] == {"empty file": {"rows": 1, "lines": [5]}, "image named twice": {"rows": 1, "lines": [4]}}
    assert card["absences_withheld"] == {"rows": 3, "labels": {"<script>alert(1)</script>": 3}}
    assert "3 rows state no implied absence because of a label without entity: &lt;script&gt;" in text
    assert card["examples"] == {"train": 3} and card["patients"] == {"train": 1}
    assert card["entities"]["train"]["mass"] == [0, 3, 0]
    assert card["labels"]["train"]["present"]["Mass"] == 3 and card["labels_without_entity"] == {"<script>alert(1)</script>": 3}
    assert "<script" not in text and "<b>" not in text and "&lt;script&gt;" in text and "Jane" not in text
    assert str(tmp_path) not in text + json.dumps(card)  # nothing of this machine


def processes(*flags):
    command = [sys.executable, "-m", "data.prepare", *flags]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"})  # fmt: skip


def test_killed_and_started_again_makes_only_what_is_missing(tmp_path):
    (tmp_path / "src").mkdir()
    miniature.mimic(tmp_path / "src", 24, size=(900, 800))
    same = ["--dataset=mimic_cxr", f"--src={tmp_path / 'src'}", "--size=64", "--shard_mb=0.004", "--max_bad_share=0.4"]
    run(*same[2:], dataset="mimic_cxr", src=tmp_path / "src", out=tmp_path / "whole")
    out = tmp_path / "out"
    process = processes(*same, f"--out={out}", "--workers=2")
    end = time.monotonic() + 120
    while len(list((out / "work").glob("*.json"))) < 3:
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)  # its pipes close only when the workers are gone too
    assert process.returncode == -signal.SIGKILL and not (out / "card.json").exists()
    with pytest.raises(FileNotFoundError, match="not finished: run the same command again"):
        PreparedSource(out, "train")
    done = {p.name: (out / p.stem).stat().st_mtime_ns for p in (out / "work").glob("*.json")}
    torn = out / next(iter(done)).removesuffix(".json")
    torn.write_bytes(torn.read_bytes()[:100])  # a shard that lost its end is made anew
    again = processes(*same, f"--out={out}", "--workers=2")
    stdout, stderr = again.communicate(timeout=120)
    assert again.returncode == 0, stderr
    assert f"going on: {len(done) - 1} of" in stderr and "use it: --config.data.name=prepared" in stdout
    for name, stamp in done.items():
        assert ((out / name).with_suffix("").name == torn.name) == ((out / Path(name).stem).stat().st_mtime_ns != stamp)
    cards = [json.loads((p / "card.json").read_text()) for p in (tmp_path / "whole", out)]
    assert cards[0] == cards[1]
    assert (tmp_path / "whole/rows.jsonl").read_bytes() == (out / "rows.jsonl").read_bytes()
    leftovers = [p.name for p in (out / "work").iterdir() if p.name.endswith(".tmp")]
    assert not leftovers


def test_what_is_wrong_is_said_in_one_line(mimic, tmp_path, capsys):
    facts, root, out = mimic
    assert "--size=8" in fails(capsys, dataset="mimic_cxr", src=root, out=tmp_path, size=8)
    assert "unknown --dataset=mimik" in fails(capsys, dataset="mimik", src=root, out=tmp_path)
    assert "takes no --radgraph" in fails(capsys, dataset="openi", src=root, out=tmp_path, radgraph="x")
    message = fails(capsys, dataset="mimic_cxr", src=root, out=out, size=128, shard_mb=0.005)
    assert "size was 64, now it is 128" in message and "Give another --out" in message
    (tmp_path / "mine.txt").write_text("")
    assert "holds other files (mine.txt)" in fails(capsys, dataset="mimic_cxr", src=root, out=tmp_path)
    message = fails(capsys, dataset="mimic_cxr", src=root, out=tmp_path / "a", reports=tmp_path / "nowhere.zip")
    assert "no reports: expected mimic-cxr-reports.zip" in message and "--reports=none" in message
    assert "no mimic-cxr-2.*-split.csv" in fails(capsys, dataset="mimic_cxr", src=tmp_path, out=tmp_path / "b")
    message = fails(capsys, dataset="mimic_cxr", src=root, out=tmp_path / "c", max_bad_share=0.01)
    assert "rows cannot be used, 1.0% are allowed" in message and "no report, label, box or mask" in message


def test_missing_and_damaged_files_of_a_prepared_set_are_named(mimic, tmp_path):
    import shutil

    out = shutil.copytree(mimic[2], tmp_path / "copy")
    shard = prepared.read_card(out)["shards"][1]["file"]
    data = (out / shard).read_bytes()
    (out / shard).write_bytes(data[:-50])
    with pytest.raises(ValueError, match=f"{shard} has .* bytes, .* were written: copied in part"):
        PreparedSource(out, "train")
    (out / shard).unlink()
    with pytest.raises(FileNotFoundError, match=f"{shard} is missing"):
        PreparedSource(out, "train")
    with pytest.raises(FileNotFoundError, match="expected a folder made by python -m data.prepare"):
        PreparedSource(tmp_path, "train")
    run(dataset="mimic_cxr", src=mimic[1], out=out, size=64, shard_mb=0.005, max_bad_share=0.4)
    assert (out / shard).stat().st_size == len(data) and len(PreparedSource(out, "train"))


def test_one_in_ten_corrupt_shards_are_skipped_and_counted(tmp_path):
    (tmp_path / "src").mkdir()
    path = write(tmp_path / "src", [{"labels": "Mass"} for _ in range(40)])
    run(dataset="manifest", src=path, out=tmp_path / "out", size=32, shard_mb=0.0008)
    shards = prepared.read_card(tmp_path / "out")["shards"]
    assert len(shards) == 10
    file = tmp_path / "out" / shards[3]["file"]
    data = bytearray(file.read_bytes())
    for at in range(70, len(data) - 70, 5):
        data[at] ^= 255
    file.write_bytes(data)
    source = PreparedSource(tmp_path / "out", "train")
    good = 0
    for i in range(40):
        try:
            good += decode.decode(source[i]["image"]).size > 0
        except decode.ImageError as e:
            assert e.reason in decode.REASONS and 12 <= i < 16
    assert good == 36
    options = pipeline.Options(image_size=32, crop="none", needs=("labels",))
    iterator = pipeline.train_iterator(source, None, options, batch_size=8, seed=0, max_bad=4)
    for _ in range(5):
        assert next(iterator)["valid"].sum() == 8
    assert set(iterator.skipped) == {"12", "13", "14", "15"}
    iterator.close()
    strict = pipeline.train_iterator(source, None, options, batch_size=8, seed=0, max_bad=3)
    with pytest.raises(ValueError, match="4 examples cannot be decoded, 3 are allowed"):
        for _ in range(5):
            next(strict)
    strict.close()
