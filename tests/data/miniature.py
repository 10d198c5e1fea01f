"""MIMIC-CXR in the official layout, small: JPG and DICOM releases, reports zip, splits, metadata, labels, RadGraph."""
import csv
import gzip
import io
import json
import zipfile

import cv2
import numpy as np

from tests.input.test_dicom import make as dicom

REPORTS = (
    "                                 FINAL REPORT\n INDICATION:  ___ year old man with cough.\n\n FINDINGS:\n\n The heart is "
    "enlarged.  Small left pleural\n effusion.  No pneumothorax.\n\n IMPRESSION:\n\n Cardiomegaly with small effusion.",
    "                                 FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n\n FINDINGS: \n\n Lungs are clear. "
    "There is no pleural effusion or pneumothorax.\n\n IMPRESSION: \n\n No acute cardiopulmonary process.",
    " WET READ: ___ ___ 9:21 PM\n  no acute process\n ____________________________________________________________________\n"
    "                                 FINAL REPORT\n CHEST RADIOGRAPH\n\n Right lower lobe opacity may represent pneumonia.",
    "",
)


def picture(seed: int, height=96, width=80) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (6, 5), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def table(path, header, rows):
    """A CSV, gzipped where its name says so."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerows([header, *rows])
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def mimic(root, patients: int = 12, release: str = "jpg", size=(96, 80)) -> list[dict]:
    """Writes the release below `root` -> facts of every image: subject, study, dicom, path, view, split, report.

    Each patient has two studies, each of a frontal and a lateral image; of every tenth patient two to val, two to test.
    """
    facts = []
    for p in range(patients):
        subject = str(10_000_032 + 977 * p + 1_000_000 * (p % 3))
        split = "validate" if p % 6 == 4 else "test" if p % 6 == 5 else "train"
        for s in range(2):
            study = str(50_000_000 + 100 * p + s)
            for v, view in enumerate(("PA" if s else "AP", "LATERAL")):
                name = "-".join(f"{x:08x}" for x in np.random.default_rng([p, s, v]).integers(0, 2**32, 5))
                path = f"files/p{subject[:2]}/p{subject}/s{study}/{name}.{'jpg' if release == 'jpg' else 'dcm'}"
                facts.append({"subject": subject, "study": study, "dicom": name, "path": path, "view": view, "split": split,
                              "report": REPORTS[(p + s) % 4]})  # fmt: skip
                file = root / path
                file.parent.mkdir(parents=True, exist_ok=True)
                if release == "jpg":
                    file.write_bytes(cv2.imencode(".jpg", picture(len(facts), *size))[1].tobytes())
                else:
                    file.write_bytes(dicom(ViewPosition=view))
    known = {f["study"]: [f["subject"], f["study"], f"{float(f['report'] in REPORTS[::2])}", "", "-1.0"] for f in facts}
    if release == "jpg":
        columns = ["dicom_id", "subject_id", "study_id", "ViewPosition", "Rows", "Columns"]
        table(root / "mimic-cxr-2.0.0-metadata.csv.gz", columns,
              [[f["dicom"], f["subject"], f["study"], f["view"], *size] for f in facts])  # fmt: skip
        table(root / "mimic-cxr-2.0.0-split.csv.gz", ["dicom_id", "study_id", "subject_id", "split"],
              [[f["dicom"], f["study"], f["subject"], f["split"]] for f in facts])  # fmt: skip
        table(root / "mimic-cxr-2.0.0-chexpert.csv.gz", ["subject_id", "study_id", "Cardiomegaly", "Edema", "Pneumonia"],
              list(known.values()))  # fmt: skip
    else:
        table(root / "cxr-record-list.csv.gz", ["subject_id", "study_id", "dicom_id", "path"],
              [[f["subject"], f["study"], f["dicom"], f["path"]] for f in facts])  # fmt: skip
    with zipfile.ZipFile(root / "mimic-cxr-reports.zip", "w") as z:
        for f in facts[::2]:
            if f["report"]:
                z.writestr(f"files/p{f['subject'][:2]}/p{f['subject']}/s{f['study']}.txt", f["report"])
    return facts


def radgraph(path, fact: dict) -> None:
    """A RadGraph file that says of one study: a definite effusion at the right pleura."""
    entities = {"1": {"tokens": "right", "label": "ANAT-DP", "start_ix": 0, "end_ix": 0, "relations": [["modify", "2"]]},
                "2": {"tokens": "pleural", "label": "ANAT-DP", "start_ix": 1, "end_ix": 1, "relations": []},
                "3": {"tokens": "effusion", "label": "OBS-DP", "start_ix": 2, "end_ix": 2, "relations": [["located_at", "2"]]}}
    key = f"p{fact['subject'][:2]}/p{fact['subject']}/s{fact['study']}.txt"
    path.write_text(json.dumps({key: {"text": "right pleural effusion .", "entities": entities}}))
