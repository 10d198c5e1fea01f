"""MIMIC-CXR: the JPG release or the DICOM release, with reports from mimic-cxr-reports.zip.

    mimic-cxr-2.0.0-metadata.csv.gz, -split.csv.gz         JPG release; the split also serves the DICOM release
    cxr-record-list.csv.gz                                 DICOM release
    mimic-cxr-2.0.0-chexpert.csv.gz, -negbio.csv.gz, mimic-cxr-2.1.0-test-set-labeled.csv      labels, where asked for
    files/p10/p10000032/s50414267/<dicom_id>.jpg | .dcm
    mimic-cxr-reports.zip                                  files/p10/p10000032/s50414267.txt inside, or unpacked
"""
import json
import zipfile
import zlib
from pathlib import Path

from medvlp_jax.input.datasets.layout import find, number, table
from medvlp_jax.input.manifest import SPLITS, hash_split
from medvlp_jax.input.rows import refuse_pointer
from medvlp_jax.reports import radgraph as graphs

ZIP = "mimic-cxr-reports.zip"
LABELS = {"chexpert": "mimic-cxr-2.*-chexpert.csv*", "negbio": "mimic-cxr-2.*-negbio.csv*",
          "radiologist": "mimic-cxr-2.*-test-set-labeled.csv*"}  # fmt: skip


def mimic_cxr(root: Path, reports: str | Path = "", radgraph: str | Path = "", labels: str = ""):
    """Rows of all images of a release.

    Args:
      reports: the zip, or the folder that holds its `files/`; default: below `root`. "none" reads no reports.
      radgraph: MIMIC-CXR_graphs.json of RadGraph. A study in it gets its mentions from there; the report filter reads others.
      labels: "" for none, or one of LABELS: 1 is present, 0 absent, -1 uncertain, a blank says nothing.

    Raises:
      FileNotFoundError: a file of the release or the reports are missing. ValueError: a value that was not expected.
    """
    if labels and labels not in LABELS:
        raise ValueError(f"mimic_cxr: labels={labels!r}; known: {', '.join(LABELS)}, or nothing")
    splits = _splits(root)
    text = _Reports(root, reports)
    read = _mentions(Path(radgraph).expanduser()) if radgraph else {}
    known = _labels(root, labels) if labels else {}
    for subject, study, image, view in _images(root):
        split = splits.get(Path(image).stem, "") if splits else hash_split("mimic_cxr", subject)
        if not split:
            raise ValueError(f"image s{study}/{Path(image).stem[:8]}... is not in the split file; are both of one release?")
        yield {"image": image, "report": text(subject, study), "patient_id": subject, "study_id": study, "split": split,
               "view": view, **({"mentions": read[study]} if study in read else {}), **known.get(study, {})}  # fmt: skip


def _images(root: Path):
    """(subject, study, path, view) of every image."""
    if any(root.glob("mimic-cxr-2.*-metadata.csv*")) and not any(root.glob("cxr-record-list.csv*")):
        for row in table(find(root, "mimic-cxr-2.*-metadata.csv*"), "dicom_id", "subject_id", "study_id", "ViewPosition"):
            subject, study = row["subject_id"], row["study_id"]
            path = f"files/p{subject[:2]}/p{subject}/s{study}/{row['dicom_id']}.jpg"
            yield subject, study, path, _view(row)
        return
    known = views(root)
    lists = find(root, "cxr-record-list.csv*", "mimic-cxr-2.*-metadata.csv*")
    for row in table(lists, "subject_id", "study_id", "dicom_id", "path"):
        yield row["subject_id"], row["study_id"], row["path"], known.get(row["dicom_id"], "")


def views(root: Path) -> dict[str, str]:
    """{dicom_id: view} of the metadata of the JPG release; {} where it is not there."""
    if not any(root.glob("mimic-cxr-2.*-metadata.csv*")):
        return {}
    rows = table(find(root, "mimic-cxr-2.*-metadata.csv*"), "dicom_id", "ViewPosition")
    return {row["dicom_id"]: _view(row) for row in rows}


def _view(row: dict) -> str:
    """View of a row of the metadata; some 16,000 have no ViewPosition, most of these no other field that tells it.

    An examination called "CHEST (PORTABLE AP)" is of one frontal view, as the filter published with MIMIC-CXR's code takes it.
    """
    view = row["ViewPosition"] or row.get("ViewCodeSequence_CodeMeaning", "")
    return view or ("AP" if "PORTABLE" in row.get("PerformedProcedureStepDescription", "").upper() else "")


def _splits(root: Path) -> dict[str, str]:
    """{dicom_id: split} of the official list; {} where there is none, as in the DICOM release."""
    if not any(root.glob("mimic-cxr-2.*-split.csv*")):
        if any(root.glob("cxr-record-list.csv*")):
            return {}
        find(root, "mimic-cxr-2.*-split.csv.gz")  # raises, with what is there
    file, out = find(root, "mimic-cxr-2.*-split.csv*"), {}
    for row in table(file, "dicom_id", "split"):
        if row["split"] not in SPLITS:
            raise ValueError(f"{file.name}: split {row['split']!r}; expected train, validate or test")
        out[row["dicom_id"]] = SPLITS[row["split"]]
    return out


class _Reports:
    """(subject, study) -> text of the report, "" where there is none."""

    def __init__(self, root: Path, where: str | Path):
        self._zip, self._last, self._prefix = None, (None, ""), ""
        if str(where) == "none":
            self._read = lambda name: ""
            return
        place = Path(where).expanduser() if where else root / ZIP if (root / ZIP).is_file() else root
        if place.is_file():
            refuse_pointer(place)
            try:
                self._zip = zipfile.ZipFile(place)
            except zipfile.BadZipFile as e:
                raise ValueError(f"{place.name} is no zip, damaged, or was not copied in full ({e}); get it again") from None
            first = next((name for name in self._zip.namelist() if name.endswith(".txt")), None)
            if first is None or "files/" not in first:
                raise ValueError(f"{place.name} holds no files/p10/p<subject>/s<study>.txt; expected {ZIP} of MIMIC-CXR")
            self._prefix = first[: first.index("files/")]
            self._read = self._from_zip
            return
        if next((place / "files").glob("p1?/p*/s*.txt"), None) is None:
            raise FileNotFoundError(
                f"no reports: expected {ZIP} (PhysioNet mimic-cxr, not -jpg) in {place}, or its files/ unpacked; "
                "give --reports=ZIP or FOLDER, or --reports=none for images without reports")  # fmt: skip
        self._read = lambda name: _text(place / name)

    def _from_zip(self, name: str) -> str:
        try:
            return self._zip.read(self._prefix + name).decode("utf-8", "replace")
        except KeyError:
            return ""
        except (zipfile.BadZipFile, zlib.error, EOFError) as e:
            raise ValueError(f"{ZIP} is damaged ({type(e).__name__}); get it again") from None

    def __call__(self, subject: str, study: str) -> str:
        if self._last[0] != study:  # the images of a study follow each other
            self._last = study, self._read(f"files/p{subject[:2]}/p{subject}/s{study}.txt")
        return self._last[1]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _mentions(file: Path) -> dict[str, list]:
    """{study: [[entity, position, exists], ...]} of a RadGraph file."""
    if not file.is_file():
        raise FileNotFoundError(f"no RadGraph file at {file}; expected MIMIC-CXR_graphs.json (PhysioNet radgraph)")
    try:
        found = graphs.read(file)
    except json.JSONDecodeError as e:
        raise ValueError(f"{file.name} is not valid JSON ({e})") from None
    return {study: [list(m) for m in dict.fromkeys(m[:3] for m in some)] for study, some in found.items()}


def _labels(root: Path, kind: str) -> dict[str, dict]:
    """{study: columns labels, absent, uncertain}."""
    file, out = find(root, LABELS[kind]), {}
    for row in table(file, "study_id"):
        columns = {"labels": [], "absent": [], "uncertain": []}
        for name, value in row.items():
            if name not in ("study_id", "subject_id") and (v := number(value)) is not None:
                if v not in (1, 0, -1):
                    raise ValueError(f"{file.name}: {name} is {value!r}; expected 1, 0, -1 or blank")
                columns[{1: "labels", 0: "absent", -1: "uncertain"}[int(v)]].append(name)
        who = "radiologist" if kind == "radiologist" else "automatic"
        out[row["study_id"]] = {**{k: ";".join(v) for k, v in columns.items()}, "labeller": who}
    return out
