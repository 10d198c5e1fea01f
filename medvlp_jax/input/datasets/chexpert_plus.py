"""CheXpert Plus by itself: df_chexpert_plus_*.csv with its reports, the PNG release, and the labels that came with it.

    df_chexpert_plus_240401.csv                      one row an image: path_to_image, sections of the report, split
    PNG/train/patient1/study1/view1_frontal.png      or PNG/PNG/...; the table says view1_frontal.jpg
    chexbert_labels/impression_fixed.json            JSON lines; findings_fixed.json, report_fixed.json
"""
import json
from itertools import islice
from pathlib import Path

from absl import logging

from medvlp_jax.input.datasets.labels import CHEXPERT, plus_report
from medvlp_jax.input.datasets.layout import find, official, table

LABELS = ("impression", "findings", "report")  # what the labeller read
COLUMNS = ("path_to_image", "frontal_lateral", "ap_pa", "deid_patient_id", "section_findings", "section_impression", "sex")
PROBED = 1000  # rows whose images are looked for before the folder counts as missing


def chexpert_plus(root: Path, labels: str = ""):
    """CheXpert Plus: its table and its PNG images. Rows of split `valid` are the test, a tenth of the training patients is val.

    labels: "" for none, or one of LABELS: 1 is present, 0 absent, -1 uncertain, null says nothing.
    """
    if labels and labels not in LABELS:
        raise ValueError(f"chexpert_plus: labels={labels!r}; known: {', '.join(LABELS)}, or nothing")
    file = find(root, "df_chexpert_plus_*.csv")
    known = _labels(find(root, *(f"{folder}{labels}_fixed.json" for folder in ("", "*/", "*/*/")))) if labels else {}
    prefix, suffix = _images(root, file)
    logging.warning("chexpert_plus: split valid is the test, as CheXpert Plus has no other")
    for row in table(file, *COLUMNS):
        path, patient = row["path_to_image"], row["deid_patient_id"]
        is_test = (row.get("split") or path.partition("/")[0]) == "valid"
        yield {"image": prefix + str(Path(path).with_suffix(suffix)), "report": plus_report(row), "patient_id": patient,
               "study_id": path.rpartition("/")[0], "split": official(is_test, "chexpert_plus", patient),
               "view": row["ap_pa"] or row["frontal_lateral"], "sex": row["sex"], "age": row.get("age", ""),
               **known.get(path, {})}  # fmt: skip


def _images(root: Path, file: Path) -> tuple[str, str]:
    """(folder below root with a slash, suffix) of the images that the table names."""
    folders = ["PNG/", "PNG/PNG/", "", *(f"{p.name}/" for p in sorted(root.iterdir()) if p.is_dir())]
    for row in islice(table(file, "path_to_image"), PROBED):
        for folder in folders:
            for suffix in (".png", ".jpg", ".dcm"):
                if (root / folder / Path(row["path_to_image"]).with_suffix(suffix)).is_file():
                    return folder, suffix
    raise FileNotFoundError(f"no image of the first {PROBED} rows of {file.name} below {root}; expected PNG/train/patient.../"
                            f"study.../view1_frontal.png; there are: {', '.join(sorted(p.name for p in root.iterdir())[:10])}")


def _labels(file: Path) -> dict[str, dict]:
    """{path_to_image: columns labels, absent, uncertain} of JSON lines.

    Raises:
      ValueError: a line that is no such object, or another value than 1, 0, -1 and null.
    """
    out = {}
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                said = {name: row[name] for name in CHEXPERT}
                path = row["path_to_image"]
            except (ValueError, KeyError, TypeError) as e:
                raise ValueError(f"{file.name}, line {number}: {type(e).__name__} {e}; expected an object with path_to_image, "
                                 f"{', '.join(CHEXPERT[:3])}, ...") from None
            if wrong := {str(v) for v in said.values()} - {"1", "0", "-1", "1.0", "0.0", "-1.0", "None", "nan"}:
                raise ValueError(f"{file.name}, line {number}: {', '.join(sorted(wrong))}; expected 1, 0, -1 or null")
            out[path] = {column: ";".join(n for n, v in said.items() if v is not None and v == value)
                         for column, value in (("labels", 1), ("absent", 0), ("uncertain", -1))}  # fmt: skip
    return out
