"""Readers of data sets with labels: ChestX-ray14, Google's labels of it, CheXpert (+5x200), EdemaSeverity, PadChest."""
import ast
import collections
import os
import re
from pathlib import Path

from absl import logging

from medvlp_jax.input.datasets.layout import Images, box, find, lines, number, official, table
from medvlp_jax.input.datasets.mimic import views

CHEXPERT = ("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
            "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture",
            "Support Devices")  # fmt: skip
FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")


def chestxray14(root: Path):
    """NIH ChestX-ray14: Data_Entry_2017*.csv, BBox_List_2017.csv, the official test_list.txt, images anywhere below."""
    images, test, boxes = Images(root, ".png", ".jpg"), lines(find(root, "test_list.txt")), collections.defaultdict(list)
    if list(root.glob("BBox_List_2017.csv")):
        names = ("image", "label", "x", "y", "w", "h")
        for at, row in enumerate(table(root / "BBox_List_2017.csv", *names, names=names)):
            if at:  # the header, whose "Bbox [x,y,w,h]" is no list of names
                boxes[row["image"]].append(box(row["label"], *(row[k] for k in "xywh")))
    columns = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position")
    for row in table(find(root, "Data_Entry_2017*.csv"), *columns):
        name, patient = row["Image Index"], row["Patient ID"]
        yield {"image": images[name], "labels": row["Finding Labels"].replace("|", ";"), "boxes": boxes.get(name, []),
               "patient_id": patient, "split": official(name in test, "chestxray14", patient), **_nih_patient(row)}  # fmt: skip


def _nih_patient(row: dict) -> dict:
    """View, sex and age of a row of NIH's tables. Ages are "58", or "058Y", "011M", "003D" in the first release; the column of
    the sex is "Patient Gender", or "Patient Sex" in some copies."""
    age = row.get("Patient Age", "")
    if found := re.fullmatch(r"(\d+)([YMD]?)", age):
        age = "0" if found[2] in ("M", "D") else str(int(found[1]))
    sex = row.get("Patient Gender") or row.get("Patient Sex") or ""
    return {"view": row.get("View Position") or "FRONTAL", "sex": sex, "age": age}


_GOOGLE = {"Fracture": "Fracture", "Pneumothorax": "Pneumothorax", "Airspace opacity": "Airspace opacity",
           "Nodule or mass": "Nodule/Mass"}  # column -> label  # fmt: skip
_GOOGLE_BOTH = "google2019_nih-chest-xray-labels.csv*"  # one table of both parts, with a column `Set Id`
_GOOGLE_PARTS = {"test": "test_labels.csv", "val": "validation_labels.csv"}


def google_nih(root: Path):
    """Four findings of ChestX-ray14 images as three radiologists adjudicated them (Majkowska et al. 2019); no training part.

    YES is present, NO absent, HEDGE uncertain. NIH's own labels are not used. Patients of the test are left out of val.
    """
    images, rows = Images(root, ".png", ".jpg"), []
    if any(root.glob(_GOOGLE_BOTH)):
        rows = [(row, row["Set Id"]) for row in table(find(root, _GOOGLE_BOTH), "Image Index", *_GOOGLE, "Set Id")]
    else:
        for split, name in _GOOGLE_PARTS.items():
            file = find(root, f"four_findings_expert_labels*{name}", f"four_findings_expert_labels/{name}", name)
            rows += [(row, split) for row in table(file, "Image Index", *_GOOGLE)]
    if wrong := {s for _, s in rows} - {"test", "val", "validation"}:
        raise ValueError(f"Set Id is {', '.join(map(repr, sorted(wrong)))}; expected test or validation")
    tested = {_nih_owner(row) for row, split in rows if split == "test"}
    for row, split in rows:
        if split != "test" and _nih_owner(row) in tested:
            continue
        said = {label: row[column].upper() for column, label in _GOOGLE.items()}
        if wrong := set(said.values()) - {"YES", "NO", "HEDGE", ""}:
            raise ValueError(f"labels of google_nih are YES, NO, HEDGE or blank, came {', '.join(sorted(wrong))}")
        named = {column: ";".join(n for n, v in said.items() if v == word)
                 for column, word in (("labels", "YES"), ("absent", "NO"), ("uncertain", "HEDGE"))}  # fmt: skip
        yield {"image": images[row["Image Index"]], **named, "patient_id": _nih_owner(row),
               "split": "test" if split == "test" else "val", **_nih_patient(row)}  # fmt: skip


def _nih_owner(row: dict) -> str:
    """The patient of an image of ChestX-ray14, 1 of 00000001_000.png, as its table names them."""
    return row.get("Patient ID") or str(int(row["Image Index"].split("_")[0]))


def _chexpert_row(row: dict, names, folders: set[str], complete: bool = False) -> dict:
    """1 is present, 0 absent, -1 uncertain; a blank says nothing, unless the list is `complete`."""
    values = {name: number(row[name]) for name in names}
    if wrong := {v for v in values.values() if v not in (None, 0, 1, -1)}:
        raise ValueError(f"CheXpert labels are 1, 0, -1 or blank, came {sorted(wrong)}")
    absent = (0, None) if complete else (0,)
    named = {column: ";".join(n for n, v in values.items() if v in some)
             for column, some in (("labels", (1,)), ("absent", absent), ("uncertain", (-1,)))}  # fmt: skip
    path = row["Path"]
    if path.startswith("CheXpert-v1.0") and path.split("/")[0] not in folders:
        path = path.split("/", 1)[1]  # root is the folder of that name itself
    found = re.search(r"patient\d+", path)
    return {"image": path, **named, "patient_id": found[0] if found else path}


_PLUS = "df_chexpert_plus_*.csv"
_TESTS = ("test_labels.csv", "test.csv", "groundtruth.csv")  # CheXlocalize's, CheXpert's own, the repository of its labels


def _plus_reports(path: Path) -> dict[str, str]:
    """{"train/patient1/study1": findings and impression} of CheXpert Plus."""
    return {row["path_to_image"].rpartition("/")[0]: plus_report(row)
            for row in table(path, "path_to_image", "section_findings", "section_impression")}  # fmt: skip


def plus_report(row: dict) -> str:
    """The report of a row of CheXpert Plus."""
    parts = [f"{name.upper()}: {row[f'section_{name}']}" for name in ("findings", "impression") if row[f"section_{name}"]]
    return "\n".join(parts)


def chexpert(root: Path, reports: str | Path = ""):
    """CheXpert: train.csv, valid.csv (or CheXlocalize's val_labels.csv) and a table of the test where there is one.

    With a table of the test, valid.csv is val. Without one, valid.csv is the test, as in the papers from before its release
    (GLoRIA, MGCA, MLIP), and a tenth of the training patients is val; the log says so.

    reports: the table of CheXpert Plus, df_chexpert_plus_*.csv; it is taken without asking where it lies in `root`.
    """
    plus = [Path(reports)] if reports else sorted(root.glob(_PLUS))
    texts = _plus_reports(find(plus[0].parent, plus[0].name)) if plus else {}
    if plus and not any(root.glob("train.csv")) and not any(root.glob("CheXpert-v1.0*/train.csv")):
        raise FileNotFoundError(f"{root} has no train.csv of CheXpert; {plus[0].name} alone is data set chexpert_plus")
    base = find(root, "train.csv", "CheXpert-v1.0*/train.csv").parent
    test = _test_table(root, base)
    if test is None:
        logging.warning("chexpert: no table of the test (%s) below %s, so valid.csv is the test, as in the papers from before "
                        "its release, and a tenth of the training patients is val; CheXlocalize has test_labels.csv and the "
                        "images", ", ".join(_TESTS), root)  # fmt: skip
    columns = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT)
    folders, batches = {path.name for path in root.iterdir()}, _batches(root)
    for file in (find(base, "train.csv"), find(base, "valid.csv", "val_labels.csv")):
        is_train = file.name == "train.csv"
        for row in table(file, *(columns if file.name != "val_labels.csv" else ("Path", *CHEXPERT))):
            out = _chexpert_row(row, CHEXPERT, folders)
            if test is None:
                split = official(not is_train, "chexpert", out["patient_id"])
            else:
                split = "train" if is_train else "val"
            study = re.sub(r"^CheXpert-v1\.0[^/]*/", "", row["Path"]).rpartition("/")[0]
            image = _chexpert_image(out["image"], root, base, batches)
            yield {**out, "image": image, "labeller": "automatic" if is_train else "radiologist", "split": split,
                   **_chexpert_patient(row, study),
                   **({"report": texts.get(study, "")} if plus else {})}  # fmt: skip
    if test is not None:
        yield from _chexpert_test(root, base, test, bool(plus))


def _batches(root: Path) -> dict[str, str]:
    """{patient: folder below root} of the full-size release, whose training images come as "CheXpert-v1.0 batch 2 (train 1)"
    and so on, without the folder `train` that its table names."""
    found = (folder for folder in sorted(root.glob("CheXpert-v1.0 batch*(train*)")) if folder.is_dir())
    return {entry.name: f"{folder.name}/{entry.name}" for folder in found for entry in os.scandir(folder)}


def _chexpert_image(path: str, root: Path, base: Path, batches: dict[str, str]) -> str:
    """Path below root of an image that a table beside `base` names "train/patient1/..." or "<folder>/train/patient1/..."."""
    part, _, rest = path.partition("/")
    patient, _, name = rest.partition("/")
    if part == "train" and patient in batches:
        return f"{batches[patient]}/{name}"
    return f"{base.name}/{path}" if part in ("train", "valid", "val") and base != root else path


def _chexpert_patient(row: dict, study: str) -> dict:
    """View, sex, age and study; the view is also in the name of the file, view1_frontal.jpg."""
    view = row.get("AP/PA") or row.get("Frontal/Lateral")
    if not view and (found := re.search(r"_(frontal|lateral)\b", row["Path"])):
        view = found[1].upper()
    return {"view": view or "", "sex": row.get("Sex", ""), "age": row.get("Age", ""), "study_id": study}


def _test_table(root: Path, base: Path) -> Path | None:
    """The table of the test, wherever it was unpacked to: beside train.csv, in `test`, in CheXlocalize's CheXpert/ or another
    folder below `root`."""
    aside = [p for p in sorted(root.iterdir()) if p.is_dir() and p.name not in ("train", "valid", "val", "PNG")]
    inside = "CheXpert", "test", "chexlocalize/CheXpert"
    folders = [base, root, base / "test", *aside, *(p / k for p in aside for k in inside)]
    return next((folder / name for name in _TESTS for folder in folders if (folder / name).is_file()), None)


def _chexpert_test(root: Path, base: Path, file: Path, with_reports: bool):
    """Rows of the test. Its table has one row an image (column Path), or one a study (Study: all of its images)."""
    with open(file, encoding="utf-8-sig") as lines_of:
        by_study = lines_of.readline().split(",")[0].strip() == "Study"
    rows, places = table(file, "Study" if by_study else "Path", *CHEXPERT), None
    for row in rows:
        name = re.sub(r"^CheXpert-v1\.0[^/]*/", "", row["Study" if by_study else "Path"])
        if places is None:  # the same for all rows
            folders = [f for f in (file.parent, file.parent.parent, base, root) if f.is_relative_to(root)]
            places = next((f for f in folders if (f / name).exists()), base)
        images = sorted(p.name for p in (places / name).glob("*.*")) if by_study else [""]
        for image in images or ["view1_frontal.jpg"]:
            path = f"{name}/{image}" if by_study else name
            out = _chexpert_row({**row, "Path": path}, CHEXPERT, set())
            yield {**out, "image": os.path.relpath(places / path, root), "labeller": "radiologist", "split": "test",
                   **_chexpert_patient({**row, "Path": path}, path.rpartition("/")[0]),
                   **({"report": ""} if with_reports else {})}  # fmt: skip


def chexpert5x200(root: Path):
    """CheXpert 5x200 (GLoRIA): chexpert_5x200.csv, five findings of which exactly one is present; all of it is test."""
    folders, batches = ({path.name for path in root.iterdir()}, _batches(root)) if root.is_dir() else (set(), {})
    for row in table(find(root, "chexpert_5x200.csv"), "Path", *FIVE):
        out = _chexpert_row(row, FIVE, folders, complete=True)
        yield {**out, "image": _chexpert_image(out["image"], root, root, batches), "split": "test",
               **_chexpert_patient(row, out["image"].rpartition("/")[0])}  # fmt: skip


def edema_severity(root: Path):
    """EdemaSeverity of MIMIC-CXR: consensus grades are the test; grades by expression from other patients' reports the rest.

    Images are those of MIMIC-CXR-JPG, below `files/`. Grade 0 none, 1 congestion, 2 interstitial, 3 alveolar edema.
    """
    columns, test, known = ("subject_id", "study_id", "dicom_id", "edema_severity"), set(), views(root)
    for name in ("consensus_image", "regex_report"):
        for row in table(find(root, f"{name}_edema_severity.csv"), *columns):
            subject, grade = row["subject_id"], int(float(row["edema_severity"]))
            if not 0 <= grade <= 3:
                raise ValueError(f"{name}_edema_severity.csv: grade {grade}; expected 0 to 3")
            if name == "consensus_image":
                test.add(subject)
            elif subject in test:
                continue  # no patient of the test is learned from
            path = f"files/p{subject[:2]}/p{subject}/s{row['study_id']}/{row['dicom_id']}.jpg"
            yield {"image": path, "labels" if grade else "absent": "Edema", "severity": {"edema": grade}, "patient_id": subject,
                   "view": known.get(row["dicom_id"]) or "FRONTAL",
                   "labeller": "radiologist" if name == "consensus_image" else "automatic",
                   "split": official(name == "consensus_image", "edema_severity", subject)}  # fmt: skip


def padchest(root: Path):
    """PadChest: PADCHEST_chest_x_ray_images_labels_*.csv(.gz); patients with labels by a physician are the test.

    Their images with labels by a network are left out. Reports are Spanish and not read.
    """
    columns = ("ImageID", "PatientID", "Projection", "PatientSex_DICOM", "MethodLabel", "Labels")
    file, images = find(root, "PADCHEST_chest_x_ray_images_labels_*.csv*"), Images(root, ".png")
    test = {row["PatientID"] for row in table(file, *columns) if row["MethodLabel"] == "Physician"}
    for row in table(file, *columns):
        patient, physician = row["PatientID"], row["MethodLabel"] == "Physician"
        if patient in test and not physician:
            continue
        try:  # a few lists have a bare nan among the names
            found = ast.literal_eval(re.sub(r"(?<=[\[ ])nan(?=[\],])", "None", row["Labels"] or "[]"))
            found = [str(name).strip() for name in found if name is not None]
        except (ValueError, SyntaxError, TypeError):
            raise ValueError(f"{file.name}: Labels {row['Labels'][:60]!r}; expected a list such as ['normal']") from None
        yield {"image": images[row["ImageID"]], "labels": ";".join(n for n in found if n),
               "labeller": "radiologist" if physician else "automatic", "patient_id": patient,
               "split": official(physician, "padchest", patient),
               "view": row["Projection"] or row.get("ViewPosition_DICOM", ""),
               "study_id": row.get("StudyID", ""), "sex": row["PatientSex_DICOM"]}  # fmt: skip
