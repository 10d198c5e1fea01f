"""Manifest rows -> examples: labels, reports, boxes, masks, splits, and what must never happen to patients."""
import json
import pickle

import cv2
import numpy as np
import pytest

from medvlp_jax.input import columns
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.reports import vocab
from tests import golden

U = vocab.position_index("unspecified")


def picture(seed=0, shape=(40, 32)):
    image = cv2.resize(np.random.default_rng(seed).integers(0, 256, (5, 4), np.uint8), shape[::-1])
    return cv2.imencode(".png", image)[1].tobytes()


def write(folder, rows, name="data.jsonl", images=True):
    for i, row in enumerate(rows):
        row.setdefault("image", f"{i}.png")
        row.setdefault("split", "train")
        if images and ".." not in row["image"]:
            (folder / row["image"]).parent.mkdir(parents=True, exist_ok=True)
            (folder / row["image"]).write_bytes(picture(i))
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


def unspecified(example):
    """{entity: value} of what an example says at position unspecified."""
    row = example["presence"][U]
    return {vocab.ENTITIES[k]: int(row[k]) for k in np.flatnonzero(row != -1)}


def test_a_full_row(tmp_path):
    row = {"image": "a/x.png", "report": "FINDINGS: Small left pleural effusion. No pneumothorax.", "labels": "Mass",
           "boxes": [{"label": "Pleural Effusion", "x": 1, "y": 2, "w": 3, "h": 4},
                     {"label": "Left Lung", "x": 0, "y": 0, "w": 9, "h": 9}],
           "mask": "lung.png", "masks": {"Infiltration": "m1.png", "infiltrate": "m2.png"},
           "patient_id": 12, "sex": "F", "age": 60}
    path = write(tmp_path, [row])
    for name, where in (("lung.png", (0, 0)), ("m1.png", (1, 1)), ("m2.png", (2, 2))):
        pixels = np.zeros((40, 32), np.uint8)
        pixels[where] = 1
        (tmp_path / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    source = ManifestSource(path, "train")
    example = source[0]
    assert example["id"] == "a/x.png" and example["patient_id"] == "12" and example["image"] == picture(0)
    assert example["boxes"] == [("effusion", 1, 2, 3, 4), ("Left Lung", 0, 0, 9, 9)]
    assert set(example["masks"]) == {"lung", "infiltrate"}
    assert np.argwhere(example["masks"]["infiltrate"]).tolist() == [[1, 1], [2, 2]]
    assert example["attributes"] == {"sex": "F", "age": "60"} and example["finding_labels"] == {"Mass": 1}
    presence = example["presence"]
    effusion, pneumothorax = vocab.entity_index("effusion"), vocab.entity_index("pneumothorax")
    assert presence.shape == (51, 75) and presence.dtype == np.int8
    assert (presence[:, effusion] == 1).any() and presence[vocab.position_index("left_pleural"), effusion] == 1
    assert (presence[:, pneumothorax] == 0).any() and not (presence[:, pneumothorax] == 1).any()
    assert presence[U, vocab.entity_index("mass")] == 1
    assert "effusion" in source.text(0) and example["report"] == source.text(0)


def test_label_lists_are_closed_within_their_source(tmp_path):
    rows = [
        {"labels": "Effusion;Mass", "source": "nih"}, {"labels": "No Finding", "source": "nih"},
        {"labels": "Fibrosis", "source": "nih", "split": "test"}, {"labels": "Pneumonia", "source": "other"},
        {"labels": "", "source": "nih"}, {"labels": "Mass", "source": "nih", "report": "The lungs are well seen here."},
    ]
    source = ManifestSource(write(tmp_path, rows), "all")
    assert unspecified(source[0]) == {"effusion": 1, "mass": 1, "normal": 0}
    assert unspecified(source[1]) == {"effusion": 0, "mass": 0, "normal": 1}
    assert unspecified(source[2]) == {"effusion": 0, "mass": 0, "normal": 0, "tail_abnorm_obs": 1}
    assert unspecified(source[3]) == {"pneumonia": 1}
    assert unspecified(source[4]) == {}
    assert unspecified(source[5])["mass"] == 1 and "effusion" not in unspecified(source[5])
    assert source[1]["finding_labels"] == {"Effusion": 0, "Mass": 0, "No Finding": 1, "Fibrosis": 0}
    assert source[4]["finding_labels"] == {} and source[5]["finding_labels"] == {"Mass": 1}
    always = ManifestSource(tmp_path / "data.jsonl", "all", closed_world="always")
    assert unspecified(always[5])["effusion"] == 0
    never = ManifestSource(tmp_path / "data.jsonl", "all", closed_world="never")
    assert unspecified(never[0]) == {"effusion": 1, "mass": 1}


def test_a_special_case_implies_its_entity(tmp_path):
    rows = [{"labels": "COVID-19"}, {"labels": "Pneumonia"}, {"labels": "No Finding"}]
    source = ManifestSource(write(tmp_path, rows), "train")
    assert vocab.lookup("COVID-19") == "pneumonia"
    assert source[0]["finding_labels"] == {"COVID-19": 1, "Pneumonia": 1, "No Finding": 0}
    assert source[1]["finding_labels"] == {"COVID-19": 0, "Pneumonia": 1, "No Finding": 0}
    assert source[2]["finding_labels"] == {"COVID-19": 0, "Pneumonia": 0, "No Finding": 1}
    assert [unspecified(source[i])["pneumonia"] for i in range(3)] == [1, 1, 0]


def test_an_unknown_label_states_no_absence_but_that_of_normality(tmp_path):
    rows = [{"labels": "Mass"}, {"labels": "Normal"}, {"labels": "Gizmo"}, {"labels": ["Effusion", "Gizmo"]}]
    source = ManifestSource(write(tmp_path, rows), "train")
    assert vocab.lookup("Gizmo") is None
    assert unspecified(source[2]) == {"normal": 0} and unspecified(source[3]) == {"normal": 0, "effusion": 1}


def test_a_radiologists_label_wins_over_a_report_that_denies_it(tmp_path):
    row = {"labels": "Pneumonia", "report": "There is no pneumonia.", "labeller": "radiologist"}
    source = ManifestSource(write(tmp_path, [row]), "train")
    assert unspecified(source[0])["pneumonia"] == 1
    with pytest.raises(ValueError, match="line 1: labeller 'radiologists'; expected radiologist, automatic, other or nothing"):
        ManifestSource(write(tmp_path, [{**row, "labeller": "radiologists"}]), "train")


def test_reports_below_two_words_are_none(tmp_path):
    rows = [{"report": r} for r in ("", "normal", " ___ ", "Clear lungs.")]
    source = ManifestSource(write(tmp_path, rows), "train")
    assert [bool(source.text(i)) for i in range(4)] == [False, False, False, True]
    assert source[1]["report"] == "" and (source[1]["presence"] == -1).all()


def test_splits_are_read_or_made_by_patient(tmp_path):
    rows = [{"split": s} for s in ("train", "Validation", "val", "TEST", "training")]
    path = write(tmp_path, rows, images=False)
    assert [len(ManifestSource(path, s)) for s in ("train", "val", "test", "all")] == [2, 2, 1, 5]
    rows = [{"image": f"{i}.png", "patient_id": f"p{i // 3}"} for i in range(900)]
    path = tmp_path / "nosplit.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = {s: ManifestSource(path, s) for s in ("train", "val", "test")}
    owners = {s: {p.table[r]["patient_id"] for r in p.rows} for s, p in parts.items()}
    assert sum(map(len, parts.values())) == 900 and sum(map(len, owners.values())) == 300
    assert 210 < len(owners["train"]) < 270 and 12 < len(owners["val"]) < 50 and 12 < len(owners["test"]) < 50
    half = ManifestSource(path, "train", ratios=(0.5, 0.2))
    assert set(half.rows) < set(parts["train"].rows) and 120 < len(half) / 3 < 180
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(json.dumps(row) + "\n" for row in rows[::-1][:450]))
    again = ManifestSource(fewer, "val")
    assert {again.table[r]["patient_id"] for r in again.rows} <= owners["val"]


def test_a_patient_in_two_splits_is_an_error_without_the_name(tmp_path):
    rows = [{"patient_id": "Jane Doe"}, {"patient_id": "x"}, {"patient_id": "Jane Doe", "split": "test"}]
    with pytest.raises(ValueError, match=r"lines 1 \(train\) and 3 \(test\) are of one patient in two splits") as e:
        ManifestSource(write(tmp_path, rows, images=False), "train")
    assert "Jane" not in str(e.value)
    rows = [{"patient_id": "1", "source": "a"}, {"patient_id": "1", "source": "b", "split": "test"}]
    assert len(ManifestSource(write(tmp_path, rows, images=False), "all")) == 2  # identifiers are of their source


@pytest.mark.parametrize("row, message", [
    ({"split": "trian"}, "line 2: split 'trian'; expected train, val or test"),
    ({"boxes": "[{"}, "line 2: column 'boxes' is not as expected"),
    ({"boxes": [{"label": "a", "x": 1}]}, "line 2: column 'boxes'"),
    ({"masks": ["a.png"]}, "line 2: column 'masks' is not as expected .*expected a dict, got a list"),
])
def test_wrong_cells_are_named_by_line(tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        ManifestSource(write(tmp_path, [{}, row], images=False), "train")


def test_wrong_arguments(tmp_path):
    path = write(tmp_path, [{}], images=False)
    with pytest.raises(ValueError, match=r"no row in split 'test' \(train: 1, val: 0, test: 0\)"):
        ManifestSource(path, "test")
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        ManifestSource(path, "dev")
    with pytest.raises(ValueError, match="unknown closed_world 'yes'"):
        ManifestSource(path, "train", closed_world="yes")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../secret.png", "..\\..\\x/../../../y", "nul\0.png"])
def test_paths_stay_below_the_root(tmp_path, path):
    root = tmp_path / "data"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(picture())
    source = ManifestSource(write(root, [{"image": path}], images=False), "train")
    with pytest.raises(ValueError, match="leads out of the root|path outside root|missing file") as e:
        source[0]
    assert "secret" not in str(e.value)


def test_unicode_paths_other_roots_and_missing_files(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    path = write(tmp_path, [{"image": "bilder/тест ü.png"}, {"image": "p77/x.png", "patient_id": "77"}], images=False)
    (tmp_path / "elsewhere" / "bilder").mkdir()
    (tmp_path / "elsewhere" / "bilder" / "тест ü.png").write_bytes(picture())
    source = ManifestSource(path, "train", root=tmp_path / "elsewhere")
    assert source[0]["image"] == picture()
    with pytest.raises(ValueError, match=r"missing file: line 2: expected .*elsewhere/p\*/x\.png") as e:
        source[1]
    assert "77" not in str(e.value).split("elsewhere")[1]


def test_fingerprint_follows_contents_and_file_sizes(tmp_path):
    rows = [{"labels": "Mass", "patient_id": "a"}, {"labels": "Edema", "patient_id": "b"}]
    path = write(tmp_path, rows)
    first = ManifestSource(path, "train").fingerprint
    assert ManifestSource(path, "train").fingerprint == first and len(first) == 64
    assert ManifestSource(path, "train").subset([0]).fingerprint != first
    assert ManifestSource(path, "train", closed_world="never").fingerprint != first
    moved = tmp_path / "moved"
    moved.mkdir()
    assert ManifestSource(write(moved, [dict(row) for row in rows]), "train").fingerprint == first
    (tmp_path / "1.png").write_bytes(picture(1) + b"\0")
    assert ManifestSource(path, "train").fingerprint != first


def test_workers_get_a_small_copy(tmp_path):
    rows = [{"report": "The heart is large and the lungs are clear. " * 20, "labels": "Mass"} for _ in range(200)]
    source = ManifestSource(write(tmp_path, rows, images=False), "train")
    for i in range(200):
        source._cached_presence(i, source.table[i])
    data = pickle.dumps(source)
    assert len(data) < 40 * 200 < (tmp_path / "data.jsonl").stat().st_size / 10
    assert pickle.loads(data).text(3) == source.text(3)


def test_cached_presence_is_the_presence(tmp_path):
    source = ManifestSource(write(tmp_path, [{"report": "Small left pleural effusion. No edema.", "labels": "Mass"}]), "train")
    first, second = source[0]["presence"], source[0]["presence"]
    np.testing.assert_array_equal(first, source.presence(source.table[0]))
    first[:] = 9
    np.testing.assert_array_equal(second, source[0]["presence"])


def test_label_names_accepts_lists_and_text():
    assert columns.label_names({"labels": " A ; B;;A"}) == ["A", "B"] == columns.label_names({"labels": ["A", "B "]})
    assert columns.label_names({"labels": None}) == columns.label_names({}) == []


def test_real_manifest():
    path = golden.shared("cxr", "manifest.csv")
    sources = {split: ManifestSource(path, split) for split in ("train", "val", "test")}
    assert {split: len(source) for split, source in sources.items()} == {"train": 1462, "val": 212, "test": 287}
    source = sources["test"]
    sample = {name: [] for name in ("nih-chestxray14", "kermany-pneumonia", "covid-chestxray")}
    for i in range(0, len(source), 4):
        example = source[i]
        sample[example["attributes"]["source"]].append(example)
        assert all(box[3] > 0 and box[4] > 0 for box in example["boxes"])
    pneumonia = vocab.entity_index("pneumonia")
    for name in ("nih-chestxray14", "kermany-pneumonia"):
        values = {int(e["presence"][U, pneumonia]) for e in sample[name]}
        assert values == {0, 1}
        for e in sample[name]:
            listed = {vocab.lookup(label) for label, value in e["finding_labels"].items() if value}
            assert (e["presence"][U, pneumonia] == 1) == ("pneumonia" in listed)
    assert any(e["report"] and (e["presence"] >= 0).any() for e in sample["covid-chestxray"])
    mask = next(e["masks"]["lung"] for e in sample["covid-chestxray"] if "lung" in e["masks"])
    assert mask.dtype == bool and 0.05 < mask.mean() < 0.9
