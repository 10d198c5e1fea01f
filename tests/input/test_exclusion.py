"""Patients that training leaves out: identifiers that match across data sets, rows that go, and files that are refused."""
import json

import pytest
from ml_collections import ConfigDict

from medvlp_jax.input import datasets, exclusion, identifiers, manifest, sources
from medvlp_jax.input.exclusion import Exclusion
from medvlp_jax.input.rows import Rows
from tests.input.datasets.test_readers import EDEMA, HEAD, MSCXR, fill
from tests.input.test_manifest import write

UUID, OTHER = "0004cfab-14fd-4e49-80ba-63a80b6bddd6", "00313ee0-9eaa-42f4-b0ab-c148ed3241cd"
UID = "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819"
DICOM = "02aa804e-bde0afdd-112c0b34-7bc16630-4e384014"


def data(name, path, **more):
    fields = {"root": "", "closed_world": "auto", "sections": ("findings",), "max_bad_share": 0.0, "examples": {},
              "exclude": (), "check": "header", "views": "all", "blank_labels": "unknown",
              "label_precedence": "report", "annotations": "", "mixture": ()}  # fmt: skip
    return ConfigDict({"name": name, "path": str(path), **fields, **more})


def ids_file(path, rows, split="all", by="patient", mapping=None, dataset="manifest"):
    """The identifiers of some rows, as data.prepare --ids_of writes them."""
    table = Rows(rows, dataset)
    exclusion.write(path, exclusion.collect(table, manifest.scan(table)[0], split, dataset, by, mapping))
    return str(path)


def mimic_rows(n=6):
    """Rows of n patients of MIMIC-CXR with two images each, under their paths in the release."""
    return [{"image": f"files/p10/p1000000{p}/s5000000{p}/{p}{i}.png", "patient_id": f"1000000{p}", "study_id": f"5000000{p}",
             "labels": "Mass", "source": "mimic_cxr", "split": "val" if p == n - 1 else "train"}
            for p in range(n) for i in range(2)]  # fmt: skip


def test_identifiers_of_one_image_are_the_same_in_all_sets():
    same = [
        {"image": f"files/p10/p10000032/s50414267/{DICOM}.jpg", "source": "mimic_cxr", "patient_id": "10000032",
         "study_id": "50414267"},
        {"image": f"elsewhere/{DICOM}.dcm", "source": "edema_severity", "patient_id": "p10000032", "study_id": "s50414267"},
        {"image": f"files/p10/p10000032/s50414267/{DICOM}.jpg", "source": "ms_cxr", "patient_id": "10000032"},
        {"image": f"mine/p10000032/s50414267/{DICOM}.png"},  # a user's own manifest
        {"image": f"{DICOM}.png", "patient_id": 10000032, "study_id": "50414267"},
    ]
    want = {"mimic patient 10000032", "mimic study 50414267", f"mimic image {DICOM}"}
    assert [set(identifiers.of_row(row)) for row in same] == [want] * 5
    nih = [{"image": "images_001/images/00000013_005.png", "source": "chestxray14", "patient_id": "13"},
           {"image": "00000013_005.png", "source": "chestxdet10", "patient_id": "00000013"}, {"image": "x/00000013_005.jpg"}]
    assert [set(identifiers.of_row(row)) for row in nih] == [{"nih patient 13", "nih image 00000013_005"}] * 3
    chexpert = [{"image": f"{folder}train/patient00042/study1/view1_frontal.jpg", "patient_id": "patient00042"}
                for folder in ("", "CheXpert-v1.0-small/", "PNG/")]  # fmt: skip
    assert len({tuple(identifiers.of_row(row)) for row in chexpert}) == 1
    assert identifiers.of_row(chexpert[0])[0] == "chexpert patient 42"
    rsna = [{"image": f"stage_2_train_images/{UUID}.dcm", "source": "rsna", "patient_id": UUID},
            {"image": f"train/{UUID}.png", "source": "covidx", "patient_id": UUID}]  # fmt: skip
    assert [identifiers.of_row(row) for row in rsna] == [[f"rsna image {UUID}"]] * 2
    assert identifiers.of_row({"image": f"{UID}.dcm", "source": "siim", "patient_id": UID}) == [f"siim image {UID}"]


def test_numbers_of_different_sets_are_not_mixed_up():
    """Patient 1 of one hospital is not patient 1 of another; a numbered ChestX-Det10 file is not taken for NIH's."""
    rows = [{"image": "00000001_000.png", "patient_id": "1", "source": "chestxray14"},
            *({"image": "a.png", "patient_id": "1", "source": source} for source in ("", "padchest", "mine")),
            {"image": "36204.png", "patient_id": "36204.png", "source": "chestxdet10"}]
    found = [set(identifiers.of_row(row)) for row in rows]
    assert sum(map(len, found)) == len(set().union(*found)) == 10


@pytest.mark.parametrize("by, left", [("patient", 2), ("study", 5), ("image", 6)])
def test_rows_of_a_manifest_are_left_out_by_patient(tmp_path, by, left, caplog):
    """MS-CXR shows another image of one of the four studies of patient 0."""
    rows = [{"image": f"p10000000/s5000000{k}/{k}.png", "labels": "Mass"} for k in range(4)]
    rows += [{"image": f"p1000000{k}/s6000000{k}/{k}{k}.png", "labels": "Mass"} for k in range(1, 3)]
    shown = {"image": "files/p10/p10000000/s50000003/x.jpg", "source": "ms_cxr", "split": "test"}
    ids = ids_file(tmp_path / "ids.json", [shown], by=by)
    path = write(tmp_path, rows)
    before = sources.make(data("manifest", path), "train", 0)
    caplog.set_level("INFO")
    source = sources.make(data("manifest", path, exclude=(ids,)), "train", 0)
    assert len(before) == 6 and len(source) == left
    assert f"{left} rows, {left} usable; {6 - left} rows before that left out, named by the exclusion" in caplog.text
    assert ("names no row of the training data" in caplog.text) == (left == 6)
    assert "10000000" not in caplog.text.replace(str(tmp_path), "")
    assert (source.fingerprint == before.fingerprint) == (left == 6)


def test_val_is_filtered_and_test_is_not(tmp_path):
    rows = [{"image": f"{split}/p1000000{k}/s5000000{k}/{k}.png", "labels": "Mass", "split": split, "patient_id": f"1000000{k}"}
            for k, split in enumerate(("train", "train", "val", "val", "test"))]  # fmt: skip
    path = write(tmp_path, rows)
    ids = ids_file(tmp_path / "ids.json", [dict(rows[k]) for k in (0, 2, 4)])
    chosen = data("manifest", path, exclude=(ids,))
    assert [len(sources.make(chosen, split, 0)) for split in ("train", "val", "test")] == [1, 1, 1]
    ids = ids_file(tmp_path / "ids.json", [dict(row) for row in rows])
    with pytest.raises(ValueError, match="no row in split 'val' that data.exclude leaves: all 2 are of patients"):
        sources.make(data("manifest", path, exclude=(ids,)), "val", 0)


def test_a_reader_leaves_out_the_patients_of_its_relative(tmp_path):
    """EdemaSeverity's training rows, without the patient that MS-CXR shows."""
    root = fill(tmp_path / "edema", {**EDEMA, "regex_report_edema_severity.csv": HEAD + "10000002,52,cc,2\n10000003,53,dd,2\n",
                                     "files/p10/p10000003/s53/dd.jpg": None})  # fmt: skip
    table = {k: v.replace("10000001/s1", "10000003/s9") if isinstance(v, str) else v for k, v in MSCXR.items()}
    record = exclusion.collect(datasets.read("ms_cxr", fill(tmp_path / "ms", table)), ["test"], "test", "ms_cxr")
    exclusion.write(tmp_path / "ids.json", record)
    splits = ("train", "val", "test")

    def patients(exclude):
        found = set()
        for split in splits:
            try:
                source = sources.make(data("edema_severity", root, exclude=exclude), split, 0)
            except ValueError as e:
                assert "no row in split" in str(e)
                continue
            found |= {source.patient(i).rpartition("/")[2] for i in range(len(source))}
        return found

    assert patients(()) == {"10000001", "10000002", "10000003"}
    assert patients((str(tmp_path / "ids.json"),)) == {"10000001", "10000002"}


def test_a_mixture_is_filtered_part_by_part_and_a_file_without_use_is_named(tmp_path, caplog):
    parts = []
    for name, rows in (("one", mimic_rows()), ("two", [{"labels": "Mass"} for _ in range(3)])):
        (tmp_path / name).mkdir()
        parts.append(("manifest", str(write(tmp_path / name, rows)), 1.0))
    good = ids_file(tmp_path / "good.json", mimic_rows()[:3])
    idle = ids_file(tmp_path / "idle.json", [{"image": "00000007_000.png", "source": "chestxray14"}])
    chosen = data("mixture", "", mixture=tuple(parts))
    assert len(sources.make(chosen, "train", 0)) == 13
    chosen.exclude = (good,)
    source = sources.make(chosen, "train", 0)
    assert [len(part) for part in source.parts] == [6, 3] and "names no row" not in caplog.text
    chosen.exclude = (f"{good},{idle}",)
    assert len(sources.make(chosen, "train", 0)) == 9
    assert "idle.json names no row of the training data" in caplog.text and "good.json" not in caplog.text
    made = exclusion.made_of(source)
    assert [m["sets"] for m in made] == [["mimic_cxr"], []] and [m["exclusions"][0]["rows_left_out"] for m in made] == [4, 0]


def mapping(path, entries):
    path.write_text(json.dumps([{"img_id": image, "subset_img_id": name, "orig_labels": ["x"], **({"SOPInstanceUID": uid} if uid
                                 else {})} for image, name, uid in entries]))  # fmt: skip
    return identifiers.read_mapping(path)


def test_the_mapping_joins_rsna_and_nih_both_ways(tmp_path):
    table = mapping(tmp_path / "m.json", [("00000013_005.png", UUID, UID), ("00000013_007.png", OTHER, "")])
    rsna = {"image": f"{UUID}.dcm", "source": "rsna", "patient_id": UUID, "split": "test"}
    nih = [{"image": f"0000001{p}_00{i}.png", "source": "chestxray14", "patient_id": f"1{p}"} for p in (3, 4) for i in (5, 6)]
    without, with_it = (Exclusion([ids_file(tmp_path / f"{k}.json", [rsna], mapping=m, dataset="rsna")])
                        for k, m in enumerate((None, table)))  # fmt: skip
    assert [without.names(row) for row in nih] == [False] * 4 and without.names(rsna)
    assert [with_it.names(row) for row in nih] == [True, True, False, False]  # both images of the patient
    sibling, siim = {"image": f"{OTHER}.dcm", "source": "rsna"}, {"image": f"{UID}.dcm", "source": "siim"}
    back = Exclusion([ids_file(tmp_path / "b.json", [nih[0]], mapping=table)])
    assert back.names(rsna) and back.names(sibling) and back.names(siim)
    image = Exclusion([ids_file(tmp_path / "i.json", [nih[0]], mapping=table, by="image")])
    assert image.names(rsna) and not image.names(sibling)
    spaces = [e.facts()["of"][0]["spaces"] for e in (without, with_it, back)]
    assert spaces == [["rsna"], ["nih", "rsna", "siim"], ["nih", "rsna", "siim"]]
    half = Exclusion([ids_file(tmp_path / "h.json", [rsna, {**rsna, "image": "x.dcm", "patient_id": "x"}], mapping=table)])
    assert half.facts()["of"][0]["spaces"] == ["rsna"]  # one image is not in the mapping: not all of NIH's are matched


def test_the_hash_is_of_the_identifiers_alone(tmp_path):
    rows = mimic_rows()
    one, two = ids_file(tmp_path / "1.json", rows[:4]), ids_file(tmp_path / "2.json", rows[4:])
    both = ids_file(tmp_path / "3.json", rows[::-1])
    assert Exclusion([one, two]).facts()["sha256"] == Exclusion([two, one]).facts()["sha256"] == Exclusion(
        [both]).facts()["sha256"]  # fmt: skip
    assert Exclusion([one]).facts()["sha256"] != Exclusion([two]).facts()["sha256"]
    assert Exclusion([both]).facts()["sha256"] == json.loads((tmp_path / "3.json").read_text())["sha256"]


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no exclusion at .*gone.json; expected a file made by .*--ids_of=test"):
        Exclusion([str(tmp_path / "gone.json")])
    for text in ("patient,1", "[1]", "{}", json.dumps({"format": "other"})):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(ValueError, match="x.json is no .*--ids_of=test"):
            Exclusion([str(tmp_path / "x.json")])
    path = ids_file(tmp_path / "y.json", mimic_rows())
    record = json.loads((tmp_path / "y.json").read_text())
    (tmp_path / "y.json").write_text(json.dumps({**record, "identifiers": record["identifiers"][1:]}))
    with pytest.raises(ValueError, match="y.json was changed after it was written or is not complete") as e:
        Exclusion([path])
    assert "10000" not in str(e.value)
    with pytest.raises(ValueError, match="is a folder; with --ids_of it is the file to write"):
        ids_file(tmp_path, mimic_rows())
    with pytest.raises(ValueError, match="manifest has no row in split 'test'"):
        ids_file(tmp_path / "z.json", mimic_rows(), split="test")
    with pytest.raises(FileNotFoundError, match="no mapping at .*pneumonia-challenge-dataset-mappings_2018.json"):
        identifiers.read_mapping(tmp_path / "gone.json")
    form = "not as expected"
    wrong = {"{": "not valid JSON", "[]": "names no image", '{"a": 1}': form, '[{"img_id": "x"}]': form}
    for text, words in wrong.items():
        (tmp_path / "m.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            identifiers.read_mapping(tmp_path / "m.json")
