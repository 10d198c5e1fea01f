"""Every reader on a small copy of the official layout, made here: rows, boxes, masks, splits, and what is missing."""
import json

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from medvlp_jax.input import datasets, decode, masks, sources, views
from medvlp_jax.input.datasets import chexpert_plus, labels, layout, places
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.reports import vocab
from tests.input.test_dicom import make as dicom

PNG = cv2.imencode(".png", np.arange(48, dtype=np.uint8).reshape(6, 8))[1].tobytes()
JPG = cv2.imencode(".jpg", np.arange(48, dtype=np.uint8).reshape(6, 8))[1].tobytes()


def fill(root, files: dict):
    """Writes {path: text, bytes, or None for a small picture}."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            content = JPG if path.suffix == ".jpg" else PNG if path.suffix == ".png" else dicom()
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def rows(name, root) -> dict[str, dict]:
    """{image: row without what is empty}."""
    return {r["image"]: {k: v for k, v in r.items() if v} for r in datasets.read(name, root)}


CXR14 = {
    "Data_Entry_2017_v2020.csv": "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
    "1_000.png,Infiltration|Hernia,0,1,058Y,M,PA\n1_001.png,No Finding,1,1,59,M,AP\n2_000.png,Pleural_Thickening,0,2,3,F,PA\n",
    "BBox_List_2017.csv": "Image Index,Finding Label,Bbox [x,y,w,h],,,\n1_000.png,Infiltrate,1.5,2,3,4,,,\n",
    "test_list.txt": "1_000.png\r\n1_001.png\r\n",
    "images_001/images/1_000.png": None, "images_002/images/1_001.png": None, "images/2_000.png": None,
}  # fmt: skip
CHEX = ",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *labels.CHEXPERT]) + "\n"
TRAIN_LABELS = ",,1.0,,,-1.0,0.0,,,,,,,"  # cardiomegaly, edema uncertain, consolidation absent, the others blank
CHEXPERT = {
    f"CheXpert-v1.0-small/{part}/patient0000{i}/study1/view1_frontal.jpg": None for i, part in enumerate(("train", "valid"))
} | {
    f"CheXpert-v1.0-small/{part}.csv": CHEX + f"CheXpert-v1.0-small/{part}/patient0000{i}/study1/view1_frontal.jpg,"
    f"Female,68,Frontal,AP,{TRAIN_LABELS}\n" for i, part in enumerate(("train", "valid"))
}  # fmt: skip
FIVE = {"chexpert_5x200.csv": "Path," + ",".join(labels.FIVE) + "\nCheXpert-v1.0/train/patient9/study1/a.jpg,0,1,0,0,0\n",
        "train/patient9/study1/a.jpg": None}  # fmt: skip
GOOGLE = {"four_findings_expert_labels/test_labels.csv": "Image Index,Patient ID,View Position,Fracture,Pneumothorax,"
          "Airspace opacity,Nodule or mass\n00000013_008.png,13,AP,NO,HEDGE,YES,NO\n",
          "four_findings_expert_labels/validation_labels.csv": "Image Index,Fracture,Pneumothorax,Airspace opacity,"
          "Nodule or mass\n00000014_000.png,NO,NO,NO,YES\n00000013_001.png,NO,NO,NO,YES\n",
          **{f"images/{n}.png": None for n in ("00000013_008", "00000014_000", "00000013_001")}}  # fmt: skip
PLUS = {"df_chexpert_plus_240401.csv": ",".join(chexpert_plus.COLUMNS) + ",age,split\n"
        "train/patient1/study1/view1_frontal.jpg,Frontal,AP,patient1,No effusion.,Normal chest.,Male,61,train\n"
        "valid/patient2/study1/view2_lateral.jpg,Lateral,,patient2,,Large effusion.,Female,50,valid\n",
        "PNG/train/patient1/study1/view1_frontal.png": None, "PNG/valid/patient2/study1/view2_lateral.png": None}  # fmt: skip
COVIDX = {"train.txt": "7 ab.png positive rsna\n", "test.txt": "8 c.png negative sirm\n",
          "train/ab.png": None, "test/c.png": None}  # fmt: skip
HEAD = "subject_id,study_id,dicom_id,edema_severity\n"
EDEMA = {"consensus_image_edema_severity.csv": HEAD + "10000001,50,aa,0\n",
         "regex_report_edema_severity.csv": HEAD + "10000001,51,bb,3\n10000002,52,cc,2\n",
         "files/p10/p10000001/s50/aa.jpg": None, "files/p10/p10000002/s52/cc.jpg": None}  # fmt: skip
OPENI = {"NLMCXR_reports/ecgen-radiology/1.xml": "<eCitation><Abstract><AbstractText Label='INDICATION'>Cough</AbstractText>"
         "<AbstractText Label='FINDINGS'>Heart size is normal.</AbstractText><AbstractText Label='IMPRESSION'/></Abstract>"
         "<MeSH><major>Aorta/tortuous</major><major>Cardiomegaly/mild</major></MeSH>"
         "<parentImage id='CXR1_1'/><parentImage id='CXR1_2'/></eCitation>",
         "NLMCXR_png/CXR1_1.png": None, "NLMCXR_png/CXR1_2.png": None}  # fmt: skip
PAD = {"PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv":
       ",ImageID,ImageDir,PatientID,Projection,PatientSex_DICOM,MethodLabel,Labels\n"
       "0,a.png,0,P1,PA,F,Physician,\"['pleural effusion ', 'exclude']\"\n1,b.png,0,P1,L,F,RNN_model,['normal']\n"
       "2,c.png,1,P2,PA,M,RNN_model,['normal']\n", "0/a.png": None, "0/b.png": None, "1/c.png": None}  # fmt: skip
RSNA = {"stage_2_train_labels.csv": "patientId,x,y,width,height,Target\na,1.0,2.0,3.0,4.0,1\na,5,6,7,8,1\nb,,,,,0\nc,,,,,0\n",
        "stage_2_detailed_class_info.csv": "patientId,class\na,Lung Opacity\nb,Normal\nc,No Lung Opacity / Not Normal\n",
        **{f"stage_2_train_images/{n}.dcm": None for n in "abc"}}  # fmt: skip
SIIM = {"train-rle.csv": "ImageId, EncodedPixels\na, 3 2 1022 1\na, 1048575 1\nb, -1\n",
        "dicom-images-train/x/y/a.dcm": None, "dicom-images-train/x/z/b.dcm": None}  # fmt: skip
RURAL = {"covid_rural_annot/jpgs/COVID-19-AR-1_01-02-2012-XR.jpg": None, "covid_rural_annot/pngs_masks/"
         "COVID-19-AR-1_01-02-2012-XR.png": None, "covid_rural_annot/jpgs/COVID-19-AR-2_01-02-2012-XR.jpg": None}  # fmt: skip
OBJECT = {"train.csv": "image_name,annotation\n1.jpg,0 1 2 11 22;2 5 5 9 1 7 8\n2.jpg,\n", "dev.csv":
          "image_name,annotation\n3.jpg,1 1 1 4 4\n", 
          "train/1.jpg": None, "train/2.jpg": None, "dev/3.jpg": None}  # fmt: skip
DET10 = {"train.json": json.dumps([{"file_name": "1_000.png", "syms": [], "boxes": []},
                                   {"file_name": "2_000.png", "syms": ["Mass", "Mass"],
                                    "boxes": [[1, 2, 4, 6], [0, 0, 1, 1]]}]),
         "test.json": json.dumps([{"file_name": "1_001.png", "syms": [], "boxes": []}]),
         "train_data/1_000.png": None, "train_data/2_000.png": None, "test_data/1_001.png": None}  # fmt: skip
MSCXR = {"MS_CXR_Local_Alignment_v1.0.0.csv": "category_name,label_text,path,x,y,w,h,dicom_id,image_width,image_height\n"
         "Edema,mild,files/p10/p10000001/s1/a.jpg,1,2,3,4,a,8,6\nPneumonia,x,files/p10/p10000001/s1/a.jpg,0,0,1,1,a,8,6\n",
         "files/p10/p10000001/s1/a.jpg": None}  # fmt: skip
MIMIC_IMAGE = "files/p10/p10000001/s50/aa-bb.jpg"
MIMIC = {"mimic-cxr-2.0.0-metadata.csv": "dicom_id,subject_id,study_id,ViewPosition\naa-bb,10000001,50,PA\n",
         "mimic-cxr-2.0.0-split.csv": "dicom_id,study_id,subject_id,split\naa-bb,50,10000001,validate\n",
         "files/p10/p10000001/s50.txt": b"FINDINGS: No effusion.", MIMIC_IMAGE: None}  # fmt: skip
VHEAD = "image_id,class_name,x_min,y_min,x_max,y_max\n"
VINDR = {"annotations/annotations_train.csv": "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"
         "a,R1,ILD,1,2,3,5\na,R2,ILD,1,1,2,2\na,R3,Nodule/Mass,0,0,1,1\n",
         "annotations/image_labels_train.csv": "image_id,rad_id,ILD,Nodule/Mass,No finding\n"
         "a,R1,1,0,0\na,R2,1,0,0\na,R3,0,1,0\n",
         "annotations/annotations_test.csv": VHEAD + "b,No finding,,,,\n",
         "annotations/image_labels_test.csv": "image_id,ILD,Nodule/Mass,No finding\nb,0,0,1\n",
         "train/a.dicom": None, "test/b.dicom": None}  # fmt: skip
ALL = {"chestxray14": CXR14, "chexpert": CHEXPERT, "chexpert5x200": FIVE, "covidx": COVIDX, "edema_severity": EDEMA,
       "openi": OPENI, "padchest": PAD, "rsna": RSNA, "siim": SIIM, "covid_rural": RURAL, "object_cxr": OBJECT,
       "chestxdet10": DET10, "ms_cxr": MSCXR, "vindr": VINDR, "mimic_cxr": MIMIC, "google_nih": GOOGLE,
       "chexpert_plus": PLUS}  # fmt: skip

# name -> [(end of the image's path, what its row holds)]
WANT = {
    "chestxray14": [("1_000.png", {"labels": "Infiltration;Hernia", "split": "test", "sex": "M",
                                   "age": "58", "patient_id": "1",
                                   "boxes": [layout.box("Infiltrate", 1.5, 2, 3, 4)]}),
                    ("2_000.png", {"labels": "Pleural_Thickening", "view": "PA"})],
    "chexpert": [("patient00000/study1/view1_frontal.jpg", {"labels": "Cardiomegaly", "uncertain": "Edema", "view": "AP",
                  "absent": "Consolidation", "labeller": "automatic"}),
                 ("patient00001/study1/view1_frontal.jpg", {
                     "split": "test", "patient_id": "patient00001", "labeller": "radiologist"})],
    "chexpert5x200": [("train/patient9/study1/a.jpg", {"labels": "Cardiomegaly", "split": "test", "patient_id": "patient9",
                       "absent": "Atelectasis;Consolidation;Edema;Pleural Effusion"})],
    "covidx": [("train/ab.png", {"labels": "COVID-19", "patient_id": "7"}), ("c.png", {"absent": "COVID-19", "split": "test"})],
    "edema_severity": [("aa.jpg", {"absent": "Edema", "severity": {"edema": 0}, "split": "test"}),
                       ("cc.jpg", {"labels": "Edema", "severity": {"edema": 2}})],
    "openi": [(f"CXR1_{i}.png", {"report": "FINDINGS: Heart size is normal.", "labels": "Aorta/tortuous;Cardiomegaly/mild"})
              for i in (1, 2)],
    "padchest": [("a.png", {"labels": "pleural effusion;exclude", "split": "test", "sex": "F", "labeller": "radiologist"}),
                 ("c.png", {"labels": "normal"})],
    "rsna": [("a.dcm", {"labels": "Pneumonia", "absent": "Normal",
                        "boxes": [layout.box("Pneumonia", 1, 2, 3, 4), layout.box("Pneumonia", 5, 6, 7, 8)]}),
             ("b.dcm", {"labels": "Normal", "absent": "Pneumonia"}),
             ("c.dcm", {"labels": "Abnormal", "absent": "Pneumonia;Normal"})],
    "siim": [("a.dcm", {"labels": "Pneumothorax"}), ("b.dcm", {"absent": "Pneumothorax"})],
    "covid_rural": [("AR-1_01-02-2012-XR.jpg", {"labels": "COVID-19", "patient_id": "COVID-19-AR-1", "masks": {
        "Opacity": "covid_rural_annot/pngs_masks/COVID-19-AR-1_01-02-2012-XR.png"}}), ("2_01-02-2012-XR.jpg", {})],
    "object_cxr": [("train/1.jpg", {"boxes": [layout.box("Foreign object", 1, 2, 10, 20),
                                               layout.box("Foreign object", 5, 1, 4, 7)]}),
                   ("train/2.jpg", {"absent": "Foreign object"}), ("dev/3.jpg", {"split": "test"})],
    "chestxdet10": [("2_000.png", {"labels": "Mass", "boxes": [
        layout.box("Mass", 1, 2, 3, 4), layout.box("Mass", 0, 0, 1, 1)]}),
                    ("1_001.png", {"split": "test", "absent": ";".join(places.DET10)})],
    "ms_cxr": [("a.jpg", {"labels": "Edema;Pneumonia", "split": "test", "patient_id": "10000001",
                          "boxes": [{**layout.box("Edema", 1, 2, 3, 4), "phrase": "mild"},
                                    {**layout.box("Pneumonia", 0, 0, 1, 1), "phrase": "x"}]})],
    "google_nih": [("13_008.png", {"labels": "Airspace opacity", "absent": "Fracture;Nodule/Mass", "uncertain": "Pneumothorax",
                                   "split": "test", "patient_id": "13", "view": "AP"}),
                   ("14_000.png", {"labels": "Nodule/Mass", "split": "val", "patient_id": "14", "view": "FRONTAL"})],
    "chexpert_plus": [("view1_frontal.png", {"report": "FINDINGS: No effusion.\nIMPRESSION: Normal chest.", "view": "AP",
                                             "study_id": "train/patient1/study1", "age": "61"}),
                      ("view2_lateral.png", {"report": "IMPRESSION: Large effusion.", "view": "Lateral", "split": "test"})],
    "mimic_cxr": [(MIMIC_IMAGE, {"report": "FINDINGS: No effusion.", "patient_id": "10000001", "study_id": "50", "view": "PA",
                                 "split": "val"})],
    "vindr": [("train/a.dicom", {"labels": "ILD", "absent": "Nodule/Mass;No finding",
                                 "boxes": [layout.box("ILD", 1, 2, 2, 3), layout.box("ILD", 1, 1, 1, 1)]}),
              ("test/b.dicom", {"labels": "No finding", "split": "test"})],
}  # fmt: skip


@pytest.mark.parametrize("name", datasets.READERS)
def test_rows_of_the_official_layout(name, tmp_path):
    got = rows(name, fill(tmp_path, ALL[name]))
    wanted = WANT[name]
    assert len(got) == len(wanted) + (name == "chestxray14")  # one image there is not looked at
    for end, want in wanted:
        (image, row), = [(k, v) for k, v in got.items() if k.endswith(end)]
        assert (tmp_path / image).is_file() and row["source"] == name
        assert {k: row.get(k) for k in want} == want
        assert want.get("split") == "test" or row["split"] in ("train", "val", "test")
        if name not in ("openi", "rsna", "siim", "covid_rural") and "split" not in want:
            assert row["split"] != "test"  # an official test is the whole test


@pytest.mark.parametrize("name", datasets.READERS)
def test_examples_reach_the_pipeline(name, tmp_path):
    """Images decode, DICOM among them; labels become entities; the test examples have known labels."""
    source = ManifestSource(datasets.read(name, fill(tmp_path, ALL[name])), "all", tmp_path)
    for i in range(len(source)):
        example = source[i]
        assert decode.decode(example["image"]).ndim == 2
        # That COVID-19 or a foreign object is absent says nothing of pneumonia or devices.
        assert (example["presence"] >= 0).any() or name in ("covidx", "object_cxr")
        assert set(example["finding_labels"].values()) <= {-1, 0, 1}
        assert example["attributes"]["source"] == name


@pytest.mark.parametrize("name", datasets.READERS)
def test_each_missing_table_and_column_is_named(name, tmp_path):
    tables = [p for p, content in ALL[name].items() if isinstance(content, str) and not p.startswith(("BBox", "NLMCXR"))]
    with pytest.raises(FileNotFoundError):
        datasets.read(name, tmp_path / "nowhere")
    fill(tmp_path, ALL[name])
    for path in tables:
        content = (tmp_path / path).read_bytes()
        (tmp_path / path).unlink()
        with pytest.raises(FileNotFoundError, match="^no .* in .*; there are: "):
            datasets.read(name, tmp_path)
        if path.endswith(("csv", "json")):
            (tmp_path / path).write_text("a,b\n1,2\n" if path.endswith("csv") else '[{"a": 1}]')
            with pytest.raises(ValueError, match="has no column .*expected|expected a list of objects with file_name, syms"):
                datasets.read(name, tmp_path)
        (tmp_path / path).write_bytes(content)


def test_run_lengths_against_a_loop(tmp_path):
    """Gap, length, gap, length ... down the columns."""
    got = masks.from_rle("rle:4,3:1 2 3 4")
    flat = [0] * 12
    for start, n in ((1, 2), (6, 4)):
        flat[start : start + n] = [1] * n
    assert got.shape == (4, 3) and [[flat[x * 4 + y] for x in range(3)] for y in range(4)] == got.astype(int).tolist()
    source = ManifestSource(datasets.read("siim", fill(tmp_path, SIIM)), "all", tmp_path)
    mask = next(source[i] for i in range(2) if source[i]["masks"])["masks"]["pneumothorax"]
    assert mask.shape == (1024, 1024) and np.argwhere(mask.T).tolist() == [[0, 3], [0, 4], [1, 3], [1023, 1023]]
    for wrong in ("rle:4,3:1", "rle:4,3:1 99", "rle:4,3:1 x", "rle:4:1 2", "rle:4,3:-1 2"):
        with pytest.raises(decode.ImageError, match="run lengths of a mask"):
            masks.from_rle(wrong)


def test_uncertain_labels_are_no_class(tmp_path):
    source = ManifestSource(datasets.read("chexpert", fill(tmp_path, CHEXPERT)), "test", tmp_path)
    example = source[0]
    assert example["finding_labels"]["Edema"] == -1 and example["finding_labels"]["Cardiomegaly"] == 1
    assert sum(v == 0 for v in example["finding_labels"].values()) == 1  # a blank is unknown
    names = ("edema", "cardiomegaly", "consolidation", "scar")
    values = {n: example["presence"][:, vocab.entity_index(n)].max() for n in names}
    assert values == {"edema": 2, "cardiomegaly": 1, "consolidation": 0, "scar": -1}


def test_by_name_from_a_config(tmp_path):
    data = ConfigDict({"name": "chestxray14", "path": str(fill(tmp_path, CXR14)), "root": "", "closed_world": "auto",
                       "blank_labels": "unknown", "label_precedence": "report", "annotations": "",
                       "sections": ("findings",), "max_bad_share": 0.0, "check": "header", "views": "frontal",
                       "examples": {}})  # fmt: skip
    source = sources.make(data, "test", 0)
    assert len(source) == 2 and source[0]["finding_labels"] == {
        "Infiltration": 1, "Hernia": 1, "No Finding": 0, "Pleural_Thickening": 0}  # fmt: skip
    data.path = ""
    with pytest.raises(ValueError, match="data.name=chestxray14 needs --config.data.path=ROOT"):
        sources.make(data, "test", 0)
    data.name = "chestxray15"
    with pytest.raises(ValueError, match="unknown data.name 'chestxray15'; known: phantom, manifest, prepared, mixture, "):
        sources.make(data, "test", 0)


THREE = {"train_COVIDx9A.txt": "7 ab c.png normal rsna\n8 d.png pneumonia cohen\n9 e.png COVID-19 sirm\n"
         "5 g.jpg COVID-19 cohen\n",
         "test_COVIDx9A.txt": "5 f.png COVID-19 ricord\n6 h.png normal rsna\n",
         **{f"train/{n}": None for n in ("ab c.png", "d.png", "e.png", "g.jpg")}, "test/f.png": None,
         "test/h.png": None}  # fmt: skip


def test_covidx_of_three_classes(tmp_path, caplog):
    """The classes exclude each other; a patient of the test trains nothing; a list of three comes before one of two."""
    fill(tmp_path, THREE | {"train.txt": "7 ab.png negative rsna\n", "test.txt": "6 h.png negative rsna\n"})
    with caplog.at_level("INFO"):
        got = rows("covidx", tmp_path)
    assert "covidx: reading train_COVIDx9A.txt; others there: train.txt" in caplog.text
    assert "covidx: 1 images of patients in val or test are left out" in caplog.text
    said = {image: (row.get("labels"), row.get("absent")) for image, row in got.items()}
    assert said == {
        "train/ab c.png": ("Normal", "Pneumonia;COVID-19"), "train/d.png": ("Pneumonia", "COVID-19;Normal"),
        "train/e.png": ("COVID-19", "Normal"), "test/f.png": ("COVID-19", "Normal"),
        "test/h.png": ("Normal", "Pneumonia;COVID-19"),
    }  # fmt: skip
    source = ManifestSource(datasets.read("covidx", tmp_path), "all", tmp_path)
    pneumonia, normal = vocab.entity_index("pneumonia"), vocab.entity_index("normal")
    values = {source[i]["id"]: (source[i]["presence"][:, pneumonia].max(), source[i]["presence"][:, normal].max())
              for i in range(len(source))}  # fmt: skip
    assert values["train/d.png"] == values["train/e.png"] == (1, 0) and values["train/ab c.png"] == (0, 1)


def test_covidx_lists_of_the_first_versions_have_no_source(tmp_path):
    fill(tmp_path, {"train_split_v2.txt": "7 ab.png normal\n", "test_split_v2.txt": "8 c.jpeg COVID-19\n", "train/ab.png": None,
                    "test/c.jpeg": JPG})  # fmt: skip
    got = {image: row["labels"] for image, row in rows("covidx", tmp_path).items()}
    assert got == {"train/ab.png": "Normal", "test/c.jpeg": "COVID-19"}
    (tmp_path / "test_split_v2.txt").write_text("8 c.jpeg covid sirm\n")
    with pytest.raises(ValueError, match="line '8 c.jpeg covid sirm'; expected `patient file class source` with class normal"):
        datasets.read("covidx", tmp_path)


def test_a_positive_test_says_nothing_of_a_normal_film(tmp_path):
    assert rows("covidx", fill(tmp_path, COVIDX))["train/ab.png"].get("absent") is None


def test_vindr_votes(tmp_path):
    """A blank is no vote, a tie is neither, and both tables name the last label alike."""
    files = VINDR | {
        "annotations/image_labels_train.csv": "image_id,rad_id,ILD,Nodule/Mass,COPD,Other diseases,No finding\n"
        "a,R1,1,0,,1,0\na,R2,1,1,,1,0\na,R3,0,,,0,0\n",
        "annotations/image_labels_test.csv": "image_id,ILD,Nodule/Mass,COPD,Other disease,No finding\nb,0,0,0,1,0\n",
    }
    got = rows("vindr", fill(tmp_path, files))
    assert got["train/a.dicom"]["labels"] == "ILD;Other diseases" and got["train/a.dicom"]["absent"] == "No finding"
    assert got["test/b.dicom"]["labels"] == "Other diseases"


def test_object_cxr_with_the_column_of_its_documentation(tmp_path):
    tables = {"train.csv": "image_path,annotation\n/data/1.jpg,0 1 2 11 22\n/data/2.jpg,\n",
              "dev.csv": "image_path,annotation\n/data/3.jpg,1 1 1 4 4\n"}  # fmt: skip
    files = OBJECT | tables
    assert set(rows("object_cxr", fill(tmp_path, files))) == {"train/1.jpg", "train/2.jpg", "dev/3.jpg"}


def test_padchest_lists_with_nan_and_views_of_the_header(tmp_path):
    head = ",ImageID,ImageDir,PatientID,Projection,ViewPosition_DICOM,PatientSex_DICOM,MethodLabel,Labels\n"
    name = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    fill(tmp_path, {name: head + "0,a.png,0,P1,,POSTEROANTERIOR,F,RNN_model,\"['normal', nan]\"\n"
                    "1,c.png,1,P2,AP_horizontal,AP,M,RNN_model,\"[nan, 'kyphosis']\"\n"
                    "2,d.png,1,P3,COSTAL,,M,RNN_model,['rib fracture']\n",
                    "0/a.png": None, "1/c.png": None, "1/d.png": None})  # fmt: skip
    got = rows("padchest", tmp_path)
    assert {k: (r["labels"], views.kind(r["view"])) for k, r in got.items()} == {
        "0/a.png": ("normal", "frontal"), "1/c.png": ("kyphosis", "frontal"), "1/d.png": ("rib fracture", "other")}  # fmt: skip


def test_mimic_views_where_the_position_is_blank(tmp_path):
    head = "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,ViewCodeSequence_CodeMeaning\n"
    told = ["CHEST (PA AND LAT),LATERAL,lateral", "CHEST (PA AND LAT),,postero-anterior", "CHEST (PORTABLE AP),,",
            "CHEST (PA AND LAT),,"]  # fmt: skip
    fill(tmp_path, {"mimic-cxr-2.0.0-metadata.csv": head + "".join(f"a{i},10000001,50,{t}\n" for i, t in enumerate(told)),
                    "mimic-cxr-2.0.0-split.csv": "dicom_id,split\n" + "".join(f"a{i},train\n" for i in range(4)),
                    "files/p10/p10000001/s50.txt": b"FINDINGS: No effusion."})  # fmt: skip
    got = [views.kind(row.get("view", "")) for row in rows("mimic_cxr", tmp_path).values()]
    assert got == ["lateral", "frontal", "frontal", "unknown"]


@pytest.mark.parametrize("name, files, image", [("ms_cxr", MSCXR, "files/p10/p10000001/s1/a.jpg"),
                                                ("edema_severity", EDEMA, "files/p10/p10000002/s52/cc.jpg")])  # fmt: skip
def test_views_of_mimic_s_relatives_are_those_of_its_metadata(name, files, image, tmp_path):
    assert rows(name, fill(tmp_path, files))[image]["view"] == "FRONTAL"
    stem = image.rpartition("/")[2].removesuffix(".jpg")
    fill(tmp_path, {"mimic-cxr-2.0.0-metadata.csv": f"dicom_id,subject_id,study_id,ViewPosition\n{stem},1,1,AP\n"})
    assert rows(name, tmp_path)[image]["view"] == "AP"
