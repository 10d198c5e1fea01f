"""Which published data sets are of the same patients, and identifiers of patients, studies and images that match across them.

An identifier is a text of three words: its space, its kind and its value, such as "mimic patient 10000032". A space is a
numbering: the same value there is the same patient, study or image, whatever data set or folder names it.
"""
import json
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from medvlp_jax.input.columns import source_name

KINDS = ("patient", "study", "image")

# Data set -> (where its images are from, space of its identifiers). Sets of one origin are relatives: they share patients.
# A set that is not here has none. SIIM-ACR and RSNA renamed NIH's images; COVIDx takes its images without COVID-19 from RSNA.
RELATIVES = {
    "mimic_cxr": ("mimic", "mimic"), "ms_cxr": ("mimic", "mimic"), "edema_severity": ("mimic", "mimic"),
    "chestxray14": ("nih", "nih"), "google_nih": ("nih", "nih"), "chestxdet10": ("nih", "nih"),
    "rsna": ("nih", "rsna"), "covidx": ("nih", "rsna"), "siim": ("nih", "siim"),
    "chexpert": ("chexpert", "chexpert"), "chexpert5x200": ("chexpert", "chexpert"),
    "chexpert_plus": ("chexpert", "chexpert"),
}  # fmt: skip
LONG_NAMES = {"mimic": "MIMIC-CXR", "nih": "NIH ChestX-ray14", "chexpert": "CheXpert"}

_MIMIC_PATH = re.compile(r"(?:^|/)p(\d{8})/s(\d{8})/")
_MIMIC_IMAGE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_NIH_IMAGE = re.compile(r"(\d{8})_\d{3}")
_CHEXPERT_PATH = re.compile(r"patient(\d+)/(study\d+)/([^/]+)\.\w+$")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UID = re.compile(r"\d+(\.\d+){5,}")


def origin(dataset: str) -> str:
    """Where the images of a data set are from: one of LONG_NAMES, else the set itself."""
    return RELATIVES[dataset][0] if dataset in RELATIVES else dataset


def space(dataset: str) -> str:
    """The space of a data set's identifiers."""
    return RELATIVES[dataset][1] if dataset in RELATIVES else dataset


def of_row(row: dict) -> list[str]:
    """Identifiers of a manifest's row: of its image and, where they are known, of its study and patient.

    They are told by the row's source, and where it gives none by the form of its paths and names, so that the rows of a
    user's own manifest of MIMIC-CXR match those of MS-CXR.
    """
    source, image = source_name(row), str(row.get("image") or "").strip().replace("\\", "/")
    stem = PurePosixPath(image).stem
    patient, study = (str(row.get(column) or "").strip() for column in ("patient_id", "study_id"))
    if (path := _MIMIC_PATH.search(image)) or space(source) == "mimic" or _MIMIC_IMAGE.fullmatch(stem):
        patient, study = (path[1], path[2]) if path else (_digits("p", patient), _digits("s", study))
        return _named("mimic", patient, study, stem)
    nih = space(source) == "nih"
    if (name := _NIH_IMAGE.fullmatch(stem)) or nih and (name := re.fullmatch(r"(\d+)_\d+", stem)):
        return _named("nih", str(int(name[1])), "", stem)
    if path := _CHEXPERT_PATH.search(image):
        number = str(int(path[1]))
        return _named("chexpert", number, f"{number}/{path[2]}", f"{number}/{path[2]}/{path[3]}")
    if source == "rsna" or _UUID.fullmatch(stem):
        return _named("rsna", "", "", stem)
    if source == "siim" or _UID.fullmatch(stem):
        return _named("siim", "", "", stem)
    return _named(source or "manifest", patient, study, image)


def _digits(letter: str, value: str) -> str:
    found = re.fullmatch(rf"{letter}?(\d+)", value)
    return found[1] if found else ""


def _named(where: str, *values: str) -> list[str]:
    """Identifiers of patient, study and image, those that are given."""
    return [f"{where} {kind} {value}" for kind, value in zip(KINDS, values, strict=True) if value]


def kind(identifier: str) -> str:
    """One of KINDS."""
    return identifier.split(" ", 2)[1]


def unmatched(entry: dict) -> str:
    """Of an entry of a file of identifiers: the name of its origin if they do not match those of the origin, else ""."""
    where = origin(entry["dataset"])
    return LONG_NAMES[where] if where in LONG_NAMES and where not in entry["spaces"] else ""


def recognised(table) -> list[str]:
    """Spaces of the rows that name no source, as the form of their paths tells, by a sample of about 100 rows."""
    rows = (table[index] for index in range(0, len(table), max(len(table) // 100, 1)))
    found = dict.fromkeys(i.split(" ")[0] for row in rows if not source_name(row) for i in of_row(row))
    return [name for name in found if name != "manifest"]


class Mapping(NamedTuple):
    """Names of the same image in other sets. nih: {identifier of an image elsewhere: identifier of NIH's};
    others: {identifier of an image or patient of NIH: identifiers elsewhere}."""

    nih: dict[str, str]
    others: dict[str, list[str]]

    def widen(self, found: set[str], by: str) -> set[str]:
        """Identifiers and what the same images are called elsewhere; by "patient" also all other images of these patients."""
        out = set(found)
        for name in found & self.nih.keys():
            stem = self.nih[name].split(" ", 2)[2]
            out |= {i for i in _named("nih", str(int(stem.split("_")[0])), "", stem) if by == "patient" or kind(i) == "image"}
        for name in out & self.others.keys():
            if by == "patient" or kind(name) == "image":
                out.update(self.others[name])
        return out


def read_mapping(path: str | Path) -> Mapping:
    """RSNA's pneumonia-challenge-dataset-mappings_2018.json, a list of {"img_id": "00000001_000.png" of NIH, "subset_img_id":
    of RSNA, "SOPInstanceUID"}; a list of the same form of the user's own may give SIIM's ids as subset_img_id.

    Raises:
      FileNotFoundError: no such file. ValueError: not such a list.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no mapping at {path}; expected pneumonia-challenge-dataset-mappings_2018.json of RSNA")
    wanted = 'a list of {"img_id": "00000001_000.png", "subset_img_id": "..."}, as RSNA publishes it'
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ValueError(f"{path.name} is not valid JSON ({e}); expected {wanted}") from None
    nih, others = {}, defaultdict(list)
    for entry in entries if isinstance(entries, list) else [None]:
        found = _NIH_IMAGE.fullmatch(PurePosixPath(str(entry.get("img_id", ""))).stem) if isinstance(entry, dict) else None
        if not found or not entry.get("subset_img_id"):
            raise ValueError(f"{path.name} is not as expected: {wanted}")
        for value in {str(entry["subset_img_id"]), str(entry.get("SOPInstanceUID") or "")} - {""}:
            where = "siim" if _UID.fullmatch(value) else "rsna"  # a UID names one image in the world
            name = f"{where} image {value}"
            nih[name] = f"nih image {found[0]}"
            for own in _named("nih", str(int(found[1])), "", found[0]):
                others[own].append(name)
    if not nih:
        raise ValueError(f"{path.name} names no image; expected {wanted}")
    return Mapping(nih, dict(others))
