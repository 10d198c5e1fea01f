"""Readers of data sets with labels: ChestX-ray14, CheXpert (+5x200), COVIDx CXR-2, EdemaSeverity, Open-I, PadChest."""
import ast
import collections
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from medvlp_jax.input.datasets.layout import Images, box, find, lines, number, official, table
from medvlp_jax.input.manifest import hash_split

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
    columns = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
    for row in table(find(root, "Data_Entry_2017*.csv"), *columns):
        name, patient = row["Image Index"], row["Patient ID"]
        yield {"image": images[name], "labels": row["Finding Labels"].replace("|", ";"), "boxes": boxes.get(name, []),
               "patient_id": patient, "split": official(name in test, "chestxray14", patient), "view": row["View Position"],
               "sex": row["Patient Gender"], "age": row["Patient Age"].rstrip("Y")}  # fmt: skip


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


def _plus_reports(path: Path) -> dict[str, str]:
    """{"train/patient1/study1": findings and impression} of CheXpert Plus."""
    out = {}
    for row in table(path, "path_to_image", "section_findings", "section_impression"):
        parts = [f"{name.upper()}: {row[f'section_{name}']}" for name in ("findings", "impression") if row[f"section_{name}"]]
        out[row["path_to_image"].rpartition("/")[0]] = "\n".join(parts)
    return out


def chexpert(root: Path, reports: str | Path = ""):
    """CheXpert: train.csv, valid.csv and, where there is one, test.csv; without it valid.csv is the test.

    reports: the table of CheXpert Plus, df_chexpert_plus_*.csv; it is taken without asking where it lies in `root`.
    """
    plus = [Path(reports)] if reports else sorted(root.glob(_PLUS))
    texts = _plus_reports(find(plus[0].parent, plus[0].name)) if plus else {}
    base = find(root, "train.csv", "CheXpert-v1.0*/train.csv").parent
    has_test, folders = (base / "test.csv").is_file(), {path.name for path in root.iterdir()}
    columns = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT)
    for name in ("train", "valid", *(["test"] if has_test else [])):
        for row in table(find(base, f"{name}.csv"), *(columns if name != "test" else ("Path", *CHEXPERT))):
            out = _chexpert_row(row, CHEXPERT, folders)
            split = {"train": "train", "valid": "val", "test": "test"}[name] if has_test else official(
                name == "valid", "chexpert", out["patient_id"])  # fmt: skip
            view = row.get("AP/PA") or row.get("Frontal/Lateral") or ""
            study = re.sub(r"^CheXpert-v1\.0[^/]*/", "", row["Path"]).rpartition("/")[0]
            who = "automatic" if name == "train" else "radiologist"
            yield {**out, "labeller": who, "split": split, "view": view, "sex": row.get("Sex", ""), "age": row.get("Age", ""),
                   "study_id": study, **({"report": texts.get(study, "")} if plus else {})}  # fmt: skip


def chexpert5x200(root: Path):
    """CheXpert 5x200 (GLoRIA): chexpert_5x200.csv, five findings of which exactly one is present; all of it is test."""
    folders = {path.name for path in root.iterdir()} if root.is_dir() else set()
    for row in table(find(root, "chexpert_5x200.csv"), "Path", *FIVE):
        yield {**_chexpert_row(row, FIVE, folders, complete=True), "split": "test"}


def covidx(root: Path):
    """COVIDx CXR-2: train.txt, test.txt (and val.txt) of `patient file class source`; images in folders of those names."""
    names, has_val = ("patient", "file", "class", "source"), (root / "val.txt").is_file()
    for part in ("train", "test", *(["val"] if has_val else [])):
        for row in table(find(root, f"{part}.txt"), *names, names=names, delimiter=" "):
            if row["class"] not in ("positive", "negative"):
                raise ValueError(f"{part}.txt: class {row['class']!r}; expected positive or negative (COVIDx CXR-2)")
            split = part if has_val else official(part == "test", "covidx", row["patient"])
            yield {"image": f"{part}/{row['file']}", "labels" if row["class"] == "positive" else "absent": "COVID-19",
                   "patient_id": row["patient"], "split": split}  # fmt: skip


def edema_severity(root: Path):
    """EdemaSeverity of MIMIC-CXR: consensus grades are the test; grades by expression from other patients' reports the rest.

    Images are those of MIMIC-CXR-JPG, below `files/`. Grade 0 none, 1 congestion, 2 interstitial, 3 alveolar edema.
    """
    columns, test = ("subject_id", "study_id", "dicom_id", "edema_severity"), set()
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
                   "labeller": "radiologist" if name == "consensus_image" else "automatic",
                   "split": official(name == "consensus_image", "edema_severity", subject)}  # fmt: skip


def openi(root: Path):
    """Open-I (Indiana University): ecgen-radiology/*.xml or NLMCXR_reports/...; images <id>.png anywhere below."""
    images = Images(root, ".png", ".jpg", ".dcm", stems=True)
    reports = sorted(root.rglob("*.xml"))
    if not reports:
        raise FileNotFoundError(f"no report (.xml) below {root}; expected ecgen-radiology/*.xml of NLMCXR_reports")
    for path in reports:
        try:
            tree = ElementTree.parse(path).getroot()
        except ElementTree.ParseError as e:
            raise ValueError(f"{path.name} is not valid XML ({e})") from None
        texts = {t.get("Label", ""): (t.text or "").strip() for t in tree.iter("AbstractText")}
        report = "\n".join(f"{k}: {texts[k]}" for k in ("FINDINGS", "IMPRESSION") if texts.get(k))
        labels = ";".join(dict.fromkeys((m.text or "").strip().replace(";", ",") for m in tree.iter("major")))
        for image in tree.iter("parentImage"):
            yield {"image": images[image.get("id", "")], "report": report, "labels": labels, "patient_id": path.stem,
                   "study_id": path.stem, "split": hash_split("openi", path.stem)}  # fmt: skip


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
        try:
            found = [str(name).strip() for name in ast.literal_eval(row["Labels"] or "[]")]
        except (ValueError, SyntaxError):
            raise ValueError(f"{file.name}: Labels {row['Labels'][:60]!r}; expected a list such as ['normal']") from None
        yield {"image": images[row["ImageID"]], "labels": ";".join(n for n in found if n),
               "labeller": "radiologist" if physician else "automatic",
               "patient_id": patient, "split": official(physician, "padchest", patient), "view": row["Projection"],
               "study_id": row.get("StudyID", ""), "sex": row["PatientSex_DICOM"]}  # fmt: skip
