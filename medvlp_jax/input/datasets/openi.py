"""Open-I (Indiana University): reports as XML, images as PNG or DICOM, and a rule for the view, which neither states.

The rule, on 6,531 images whose view is known (3,374 studies): it tells 94.0 % of them, 97.2 % of these rightly; of those it
calls frontal 97.8 % are, and it finds 90.8 % of the frontal ones. By the numbers alone it would be 91.5 % right.
"""
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

from absl import logging

from medvlp_jax.input import decode, dicom, views
from medvlp_jax.input.datasets.layout import Images, table
from medvlp_jax.input.manifest import hash_split

PROJECTIONS = "indiana_projections.csv"  # of Kaggle's package: uid, filename, projection
HEAD = 1 << 16  # bytes of a file that hold its header


def openi(root: Path):
    """Open-I: ecgen-radiology/*.xml or NLMCXR_reports/...; images <id>.png or .dcm anywhere below.

    The view of an image is that of indiana_projections.csv where it lies below `root`, else of the DICOM header, else by
    `views_of`.
    """
    images = Images(root, ".png", ".jpg", ".dcm", stems=True)
    reports = sorted(root.rglob("*.xml"))
    if not reports:
        raise FileNotFoundError(f"no report (.xml) below {root}; expected ecgen-radiology/*.xml of NLMCXR_reports")
    known, how = _projections(root), Counter()
    for path in reports:
        try:
            tree = ElementTree.parse(path).getroot()
        except ElementTree.ParseError as e:
            raise ValueError(f"{path.name} is not valid XML ({e})") from None
        texts = {t.get("Label", ""): (t.text or "").strip() for t in tree.iter("AbstractText")}
        report = "\n".join(f"{k}: {texts[k]}" for k in ("FINDINGS", "IMPRESSION") if texts.get(k))
        labels = ";".join(dict.fromkeys((m.text or "").strip().replace(";", ",") for m in tree.iter("major")))
        names = list(dict.fromkeys(image.get("id", "") for image in tree.iter("parentImage")))
        headers = [_header(root / images[name]) for name in names]
        guesses = views_of([_tail(name).partition("-")[2] for name in names], [shape for _, shape in headers])
        for name, (stated, _), guess in zip(names, headers, guesses, strict=True):
            listed = known.get((path.stem, _tail(name)), "")
            view = listed or (stated if views.kind(stated) != "unknown" else guess)
            how["table" if listed else "header" if view == stated and view else "rule" if view else "unknown"] += 1
            yield {"image": images[name], "report": report, "labels": labels, "patient_id": path.stem, "study_id": path.stem,
                   "split": hash_split("openi", path.stem), "view": view}  # fmt: skip
    logging.info("openi: views told by %s", ", ".join(f"{k}: {n:,}" for k, n in how.most_common()))


def views_of(numbers: list[str], shapes: list[tuple[int, int] | None]) -> list[str]:
    """Views of the images of one study: "FRONTAL", "LATERAL", or "" where nothing tells it.

    A frontal film is wider for its height than the lateral one of the same patient: where the ratios of width to height differ
    by 0.15 or more, images above the middle are frontal. Else the image whose series is 1001 is frontal and the others are
    lateral (one image of several has that number), or by their own number, 1002 and 2001, where they are no landscape.

    Args:
      numbers: end of each id, "1001" of CXR7_IM-2263-1001.
      shapes: (height, width) of each, None where it is not known.
    """
    ratios = [shape[1] / shape[0] if shape else None for shape in shapes]
    if len(ratios) > 1 and None not in ratios and max(ratios) - min(ratios) >= 0.15:
        middle = (max(ratios) + min(ratios)) / 2
        return ["FRONTAL" if ratio > middle else "LATERAL" for ratio in ratios]
    firsts, out = [number == "1001" for number in numbers], []
    for number, ratio, first in zip(numbers, ratios, firsts, strict=True):
        lateral = (sum(firsts) == 1 or number in ("1002", "2001")) and (ratio is None or ratio < 1.1)
        out.append("FRONTAL" if first else "LATERAL" if lateral else "")
    return out


def _tail(name: str) -> str:
    """ "0001-4001", what follows IM-, of CXR1_1_IM-0001-4001 and of 1_IM-0001-4001.dcm.png."""
    return re.sub(r"(\.dcm)?(\.png)?$", "", name.rpartition("IM-")[2])


def _projections(root: Path) -> dict[tuple[str, str], str]:
    """{(number of the study, tail of the name): view} of Kaggle's table; {} where it is not there."""
    if not (root / PROJECTIONS).is_file():
        return {}
    rows = table(root / PROJECTIONS, "uid", "filename", "projection")
    return {(row["uid"], _tail(row["filename"])): row["projection"].upper() for row in rows}


def _header(path: Path) -> tuple[str, tuple[int, int] | None]:
    """(view, (height, width)) in the first bytes of an image; ("", None) where it does not tell, or is not there."""
    try:
        with open(path, "rb") as file:
            data = file.read(HEAD)
    except OSError:
        return "", None
    if found := decode.probe(data):
        return "", (found.height, found.width)
    return dicom.about(data)[0], dicom.shape(data)
