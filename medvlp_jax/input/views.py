"""Which way a radiograph was taken: the words of published sets -> frontal, lateral, other or unknown; and choosing by it.

`data.views` and `data.prepare --views` take a comma list of kinds (frontal, lateral, other, unknown) and projections (PA, AP,
LL ...), or "all". An image whose view is not told is left out unless "unknown" is in the list, with one exception: where no
image of a split tells its view, all of it is kept.

The kinds follow the view filter published with the MIMIC-CXR code: decubitus, oblique, axial and swimmer's views are "other".
"""
import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
from absl import logging

KINDS = ("frontal", "lateral", "other", "unknown")
_OTHER = {"LLD", "RLD", "DECUBITUS", "AXIAL", "LORDOTIC", "OBLIQUE", "LPO", "RPO", "LAO", "RAO", "SWIMMERS", "COSTAL", "RIB",
          "RIBS", "EXCLUDE", "ABDOMEN", "KUB", "L5"}  # fmt: skip
_LATERAL = {"L", "LL", "RL", "LAT", "LATERAL", "LATERALS", "XTABLE"}
_PA, _AP = {"PA", "POSTEROANTERIOR"}, {"AP", "ANTEROPOSTERIOR"}
_FRONTAL = {"FRONTAL", *_PA, *_AP}


def _words(raw: str) -> set[str]:
    text = re.sub(r"[^A-Z0-9]+", " ", raw.upper())
    text = re.sub(r"\bPOSTERO ANTERIOR\b", "PA", re.sub(r"\bANTERO POSTERIOR\b", "AP", text))
    return set(re.sub(r"\b(P A|A P)\b", lambda m: m[0].replace(" ", ""), text).split())


def kind(raw: str) -> str:
    """The kind of a view as a table or a DICOM header words it: "PA", "AP_horizontal", "antero-posterior", "PA ERECT",
    "FRONTAL" are frontal; "LL", "LATERAL", "L" lateral; "AP LLD", "COSTAL" other; "", "CHEST", "PA AND LATERAL" unknown."""
    words = _words(raw)
    if words & _OTHER:
        return "other"
    frontal, lateral = bool(words & _FRONTAL), bool(words & _LATERAL)
    return "unknown" if frontal == lateral else "frontal" if frontal else "lateral"


def projection(raw: str) -> str:
    """ "PA" or "AP" of a frontal view, "" where it is not told which."""
    words = _words(raw)
    pa, ap = bool(words & _PA), bool(words & _AP)
    return "" if kind(raw) != "frontal" or pa == ap else "PA" if pa else "AP"


def rank(raw: str) -> int:
    """Order of the views of a study: 0 PA, 1 other frontal views, 2 unknown, 3 lateral and all others."""
    return {"frontal": int(projection(raw) != "PA"), "unknown": 2}.get(kind(raw), 3)


def parse(wanted: str | Iterable[str]) -> tuple[str, ...]:
    """ "frontal", "PA,AP", ("frontal", "unknown") ... -> names, sorted; () for "all" or "".

    Raises:
      ValueError: a name that is neither a kind nor a projection.
    """
    names = [n.strip() for n in (wanted.split(",") if isinstance(wanted, str) else wanted)]
    names = [n.lower() if n.lower() in (*KINDS, "all") else n.upper() for n in names if n]
    if wrong := [n for n in names if n != n.lower() and kind(n) == "unknown"]:
        raise ValueError(f"views {', '.join(wrong)}: expected 'all', or a list of {', '.join(KINDS)}, PA, AP, LL, ...")
    return () if not names or "all" in names else tuple(sorted(set(names)))


def keeps(raw: str, wanted: tuple[str, ...]) -> bool:
    """Whether a view is one of those that `parse` gave. A frontal view of unknown projection is, where PA and AP both are."""
    if not wanted:
        return True
    found, told = kind(raw), projection(raw)
    if found in wanted or raw.strip().upper() in wanted:
        return True
    return found == "frontal" and (told in wanted if told else {"PA", "AP"} <= set(wanted))


def chosen(found: Iterable[str], wanted: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Views of a split -> (whether each is kept, bool (n,); the names kept, which are `wanted` with "unknown" where no view of
    the split is told)."""
    found = list(found)
    kinds = {raw: kind(raw) for raw in set(found)}
    if wanted and set(kinds.values()) <= {"unknown"}:
        wanted = tuple(sorted({*wanted, "unknown"}))
    kept = {raw: keeps(raw, wanted) for raw in kinds}
    return np.fromiter((kept[raw] for raw in found), bool, len(found)), wanted


def told(found: Iterable[str]) -> str:
    """Views with their numbers, by kind, for messages: "lateral: 2 (LL 1, LATERAL 1); unknown: 3"."""
    counts, out = Counter(raw.strip().upper() for raw in found), []
    for name in KINDS:
        some = {raw or "not given": n for raw, n in counts.most_common() if kind(raw) == name}
        if some:
            words = ", ".join(f"{raw} {n:,}" for raw, n in list(some.items())[:6])
            out.append(f"{name}: {sum(some.values()):,} ({words})")
    return "; ".join(out)


def choose(source, wanted: str | Iterable[str], name: str):
    """The examples of a source (with `projections` and `subset`) whose view is wanted; says in the log what was left out.

    Raises:
      ValueError: unknown names in `wanted`; none is left, with the views there are.
    """
    names = parse(wanted)
    if not names:
        return source
    found = source.projections
    kept, used = chosen(found, names)
    what = f"{name}, split {source.split}: data.views={','.join(names)}"
    if used != names:
        logging.warning("%s keeps all %d images, since none tells its view (a column `view`, or python -m data.prepare, which "
                        "reads it from DICOM headers)", what, len(found))  # fmt: skip
        return source
    if not kept.any():
        raise ValueError(f"{what} leaves no image of {len(found):,}; there are {told(found)}. "
                         "Give --config.data.views=all, or some of these")
    if kept.all():
        return source
    logging.info("%s keeps %d of %d images; left out are %s", what, kept.sum(), len(found),
                 told(raw for raw, keep in zip(found, kept, strict=True) if not keep))  # fmt: skip
    return source.subset(np.flatnonzero(kept))
