"""Readers on rows of the real tables, byte for byte as published; images and what else they need are made here."""
import csv

import numpy as np
import pytest

from medvlp_jax.input import datasets, masks
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.reports import vocab
from tests.golden import shared
from tests.input.datasets.test_readers import fill


def table(name: str) -> tuple[bytes, list[dict]]:
    """(bytes, rows) of a published table."""
    data = shared("layouts", name).read_bytes()
    return data, list(csv.DictReader(data.decode().splitlines()))


def read(name: str, root) -> dict[str, dict]:
    """{image: row}; each image is there, and the label spaces and splits hold together."""
    rows = {row["image"]: row for row in datasets.read(name, root)}
    for image in rows:
        assert (root / image).is_file()
    ManifestSource(datasets.read(name, root), "all", root)
    return rows


@pytest.mark.parametrize("first_release", [False, True])
def test_chestxray14(first_release, tmp_path):
    data, real = table("Data_Entry_2017_v2020.csv")
    boxes, real_boxes = table("BBox_List_2017.csv")
    if first_release:  # a comma at the end of each line, ages with a unit, another name of the file
        head, *lines = data.decode().splitlines()
        fields = [line.split(",") for line in lines]
        data = "\n".join([head + ",", *(",".join([*f[:4], f"{int(f[4]):03d}Y", *f[5:], ""]) for f in fields)]).encode()
    name = "Data_Entry_2017.csv" if first_release else "Data_Entry_2017_v2020.csv"
    images = {f"images_001/images/{row['Image Index']}": None for row in real}
    tested = [row["Image Index"] for row in real if int(row["Patient ID"]) % 5 == 0]
    fill(tmp_path, {name: data, "BBox_List_2017.csv": boxes, "test_list.txt": "\n".join(tested), **images})
    got = read("chestxray14", tmp_path)
    assert len(got) == len(real) == 200
    for row in real:
        mine = got[f"images_001/images/{row['Image Index']}"]
        assert mine["labels"].split(";") == row["Finding Labels"].split("|") and mine["view"] == row["View Position"]
        assert (mine["patient_id"], mine["age"]) == (row["Patient ID"], row["Patient Age"])
        assert (mine["split"] == "test") == (row["Image Index"] in tested)
    # boxes are of other images than these rows; their table is read with its own, so join it with images of its own
    head = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
    names = list(dict.fromkeys(row["Image Index"] for row in real_boxes))
    own = head + "".join(f"{n},{'Effusion'},0,{int(n[:8])},58,M,AP\n" for n in names)
    (tmp_path / name).write_text(own)
    fill(tmp_path, {f"images_002/images/{n}": None for n in names})
    got = read("chestxray14", tmp_path)
    assert sum(len(row["boxes"]) for row in got.values()) == len(real_boxes) == 200
    first = got["images_002/images/00013118_008.png"]["boxes"][0]
    assert first["label"] == "Atelectasis" and [first[k] for k in "xywh"] == pytest.approx(
        [225.084745762712, 547.019216763771, 86.7796610169491, 79.1864406779661])  # fmt: skip
    assert {vocab.lookup(box["label"]) for row in got.values() for box in row["boxes"]} == {
        "atelectasis", "cardiomegaly", "effusion", "infiltrate", "mass", "nodule", "pneumonia", "pneumothorax"}  # fmt: skip


def test_chexpert(tmp_path):
    data, real = table("chexpert_train.csv")
    valid = ",".join(real[0]) + "\nCheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,Male,73,Frontal,AP" + \
        ",0.0" * 14 + "\n"  # fmt: skip
    fill(tmp_path, {"CheXpert-v1.0-small/train.csv": data, "CheXpert-v1.0-small/valid.csv": valid,
                    "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg": None,
                    **{row["Path"]: None for row in real}})  # fmt: skip
    got = read("chexpert", tmp_path)
    assert len(got) == len(real) + 1 == 201
    for row in real:
        mine = got[row["Path"]]
        for column, value in (("labels", "1.0"), ("uncertain", "-1.0")):
            assert [n for n in mine[column].split(";") if n] == [n for n in datasets.labels.CHEXPERT if row[n] == value]
        assert {n for n in datasets.labels.CHEXPERT if row[n] == "0.0"} <= set(mine["absent"].split(";"))
        assert mine["view"] == (row["AP/PA"] or "Lateral") and mine["patient_id"] in row["Path"]
        assert mine["study_id"] == "/".join(row["Path"].split("/")[1:4])
    views = [row["view"] for row in got.values()]
    assert (views.count("AP"), views.count("PA"), views.count("Lateral")) == (142, 27, 32)


def test_siim(tmp_path):
    data, _ = table("siim-pneumothorax-train-rle.csv")
    assert data.startswith(b"ImageId, EncodedPixels")
    lines = [line.split(",") for line in data.decode().splitlines()[1:]]
    names = {name for name, _ in lines}
    fill(tmp_path, {"train-rle.csv": data, **{f"dicom-images-train/{n}/{n}.dcm": None for n in names}})
    got = read("siim", tmp_path)
    assert len(got) == len(names)
    several = 0
    for name in names:
        mine = got[f"dicom-images-train/{name}/{name}.dcm"]
        runs = [text.strip() for other, text in lines if other == name]
        held = [text for text in runs if text != "-1"]
        assert (mine.get("labels"), mine.get("absent")) == (("Pneumothorax", None) if held else (None, "Pneumothorax"))
        stored = mine["masks"].get("Pneumothorax", [])
        several += len(stored) > 1
        assert len(stored) == len(held)
        for part, text in zip(stored, held, strict=True):
            plane = masks.from_rle(part)
            assert plane.shape == (1024, 1024) and plane.sum() == sum(map(int, text.split()[1::2]))
    assert several == sum(sum(o == n and t.strip() != "-1" for o, t in lines) > 1 for n in names)


def test_rsna(tmp_path):
    data, real = table("rsna_stage_2_train_labels.csv")
    names = list(dict.fromkeys(row["patientId"] for row in real))
    sick = {row["patientId"] for row in real if row["Target"] == "1"}
    classes = "patientId,class\n" + "".join(
        f"{n},{'Lung Opacity' if n in sick else ('Normal', 'No Lung Opacity / Not Normal')[k % 2]}\n"
        for k, n in enumerate(names))
    fill(tmp_path, {"stage_2_train_labels.csv": data, "stage_2_detailed_class_info.csv": classes,
                    **{f"stage_2_train_images/{n}.dcm": None for n in names}})  # fmt: skip
    got = read("rsna", tmp_path)
    assert len(got) == len(names) < len(real) == 199
    for name in names:
        mine = got[f"stage_2_train_images/{name}.dcm"]
        rows = [row for row in real if row["patientId"] == name and row["Target"] == "1"]
        assert [[box[k] for k in "xywh"] for box in mine["boxes"]] == [
            [float(row[k]) for k in ("x", "y", "width", "height")] for row in rows]  # fmt: skip
        assert (mine["labels"] == "Pneumonia") == bool(rows) and mine["view"] == "FRONTAL"


def test_vindr_of_kaggle(tmp_path):
    data, real = table("vinbigdata-train.csv")
    names = list(dict.fromkeys(row["image_id"] for row in real))
    fill(tmp_path, {"train.csv": data, **{f"train/{n}.dicom": None for n in names}})
    got = read("vindr", tmp_path)
    assert len(got) == len(names)
    for name in names:
        mine, rows = got[f"train/{name}.dicom"], [row for row in real if row["image_id"] == name]
        said = {}
        for row in rows:
            said.setdefault(row["rad_id"], set()).add(row["class_name"])
        for label in datasets.places.VINDR_KAGGLE:
            votes = sum(label in some for some in said.values())
            assert (label in mine["labels"].split(";")) == (2 * votes > len(said))
            assert (label in mine["absent"].split(";")) == (2 * votes < len(said))
        for box in mine["boxes"]:
            row = next(r for r in rows if r["class_name"] == box["label"] and float(r["x_min"] or -1) == box["x"])
            assert [box["y"], box["x"] + box["w"], box["y"] + box["h"]] == [float(row[k]) for k in ("y_min", "x_max", "y_max")]
    assert sum(len(row["boxes"]) for row in got.values()) > 50


def test_google_nih(tmp_path):
    data, real = table("google2019_nih-chest-xray-labels.csv")
    fill(tmp_path, {"google2019_nih-chest-xray-labels.csv": data,
                    **{f"images/{row['Image Index']}": None for row in real}})  # fmt: skip
    got = read("google_nih", tmp_path)
    tested = {row["Patient ID"] for row in real if row["Set Id"] == "test"}
    kept = [row for row in real if row["Set Id"] == "test" or row["Patient ID"] not in tested]
    assert len(got) == len(kept) > 150 and {row["split"] for row in got.values()} <= {"test", "val"}
    names = {"Fracture": "Fracture", "Pneumothorax": "Pneumothorax", "Airspace opacity": "Airspace opacity",
             "Nodule or mass": "Nodule/Mass"}  # fmt: skip
    for row in kept:
        mine = got[f"images/{row['Image Index']}"]
        for column, word in (("labels", "YES"), ("absent", "NO")):
            assert [n for n in mine[column].split(";") if n] == [names[c] for c in names if row[c] == word]
        assert (mine["split"] == "test") == (row["Set Id"] == "test") and mine["view"] == row["View Position"]
    assert np.array_equal(*[[v is not None for v in map(vocab.lookup, names.values())], [True] * 4])
