"""COVIDx: lists of two classes (positive, negative) and of three (normal, pneumonia, COVID-19), by the COVID-Net authors."""
import re
from pathlib import Path

from absl import logging

from medvlp_jax.input.datasets.layout import find, lines, official

# class -> names present, names absent. Three classes exclude each other: "pneumonia" is one that is not COVID-19. Of two,
# "negative" may be normal or another pneumonia, and "positive" is a test of the patient: the film may look normal.
CLASSES = {"normal": ("Normal", "Pneumonia;COVID-19"), "pneumonia": ("Pneumonia", "COVID-19;Normal"),
           "COVID-19": ("COVID-19", "Normal"), "positive": ("COVID-19", ""), "negative": ("", "COVID-19")}  # fmt: skip


def covidx(root: Path):
    """COVIDx: the list of three classes where there is one, else that of two; images in the folders train/ and test/.

    Lists are train_COVIDx9A.txt (A: three classes, B: two; also train_COVIDx_CXR-3A.txt, train_split_v2.txt), or train.txt of
    Kaggle's packages, with the test list of the same name and an optional val list. The latest is read. A line is
    `patient file class source`, without `source` in the first versions. Training images of test patients are left out.
    """
    train = _latest(root)
    logging.info("covidx: reading %s; others there: %s", train.name,
                 ", ".join(sorted(p.name for p in root.glob("train*.txt") if p != train)) or "none")  # fmt: skip
    parts = {part: root / train.name.replace("train", part, 1) for part in ("train", "val", "test")}
    find(root, parts["test"].name)
    has_val, rows = parts["val"].is_file(), {part: _rows(file) for part, file in parts.items() if file.is_file()}
    held_out, seen, left = {p: {r[0] for r in rows.get(p, ())} for p in ("test", "val")}, set(), 0
    for part in ("test", "val", "train"):
        for patient, file, name in rows.get(part, ()):
            if (part != "test" and patient in held_out["test"]) or (part == "train" and patient in held_out["val"]):
                left += 1
                continue
            if (part, file) in seen:
                continue
            seen.add((part, file))
            present, absent = CLASSES[name]
            split = part if has_val else official(part == "test", "covidx", patient)
            folder = part if part != "val" or (root / "val").is_dir() else "train"
            yield {"image": f"{folder}/{file}", "labels": present, "absent": absent, "patient_id": patient, "split": split,
                   "view": "FRONTAL"}  # fmt: skip
    if left:
        logging.warning("covidx: %d images of patients in val or test are left out of the parts before", left)


def _latest(root: Path) -> Path:
    """The training list to read: three classes before two, then the highest version, then train.txt."""
    def order(path: Path):
        found = re.search(r"(\d+)([AB]?)\.txt$", path.name)
        version, kind = (int(found[1]), found[2]) if found else (0, "")
        three = kind == "A" or (kind == "" and {r[2] for r in _rows(path)} & {"normal", "pneumonia"})
        return bool(three), "CXR-" in path.name, version

    found = [p for p in sorted(root.glob("train*.txt")) if not p.name.startswith("train_COVIDxSev")]
    return max(found, key=order) if found else find(root, "train*.txt")


def _rows(path: Path) -> list[tuple[str, str, str]]:
    """(patient, file, class) of each line; file names may hold spaces.

    Raises:
      ValueError: no class word where one is expected.
    """
    out = []
    for line in lines(path):
        words = line.split()
        at = next((k for k in (len(words) - 2, len(words) - 1) if k > 1 and words[k] in CLASSES), None)
        if at is None:
            raise ValueError(f"{path.name}: line {line[:60]!r}; expected `patient file class source` with class "
                             f"{', '.join(CLASSES)}")
        out.append((words[0], " ".join(words[1:at]), words[at]))
    return sorted(out)
