"""The label space: K = 75 entities and A = 51 positions, and data set labels mapped to entities.

Names and order are MedKLIP's (arXiv 2301.02228 and its published program), so that label matrices, knowledge tables
and checkpoints can be exchanged. Eight entities are normal observations, 65 are abnormal ones, `tail_abnorm_obs` takes
every other abnormality and `excluded_obs` what says nothing about this image ("unchanged", "postoperative").
"""
import difflib
import functools
import re
from collections.abc import Mapping
from typing import NamedTuple

from medvlp_jax.reports import aliases

NORMAL = ("normal", "clear", "sharp", "sharply", "unremarkable", "intact", "stable", "free")

ABNORMAL = (
    "effusion", "opacity", "pneumothorax", "edema", "atelectasis", "tube", "consolidation", "process", "abnormality",
    "enlarge", "tip", "low", "pneumonia", "line", "congestion", "catheter", "cardiomegaly", "fracture", "air",
    "tortuous", "lead", "disease", "calcification", "prominence", "device", "engorgement", "picc", "clip", "elevation",
    "expand", "nodule", "wire", "fluid", "degenerative", "pacemaker", "thicken", "marking", "scar", "hyperinflate",
    "blunt", "loss", "widen", "collapse", "density", "emphysema", "aerate", "mass", "crowd", "infiltrate", "obscure",
    "deformity", "hernia", "drainage", "distention", "shift", "stent", "pressure", "lesion", "finding", "borderline",
    "hardware", "dilation", "chf", "redistribution", "aspiration",
)

TAIL, EXCLUDED = "tail_abnorm_obs", "excluded_obs"

ENTITIES = NORMAL + ABNORMAL + (TAIL, EXCLUDED)

POSITIONS = (
    "trachea", "left_hilar", "right_hilar", "hilar_unspec", "left_pleural", "right_pleural", "pleural_unspec",
    "heart_size", "heart_border", "left_diaphragm", "right_diaphragm", "diaphragm_unspec", "retrocardiac",
    "lower_left_lobe", "upper_left_lobe", "lower_right_lobe", "middle_right_lobe", "upper_right_lobe",
    "left_lower_lung", "left_mid_lung", "left_upper_lung", "left_apical_lung", "left_lung_unspec",
    "right_lower_lung", "right_mid_lung", "right_upper_lung", "right_apical_lung", "right_lung_unspec",
    "lung_apices", "lung_bases", "left_costophrenic", "right_costophrenic", "costophrenic_unspec",
    "cardiophrenic_sulcus", "mediastinal", "spine", "clavicle", "rib", "stomach", "right_atrium", "right_ventricle",
    "aorta", "svc", "interstitium", "parenchymal", "cavoatrial_junction", "cardiopulmonary", "pulmonary",
    "lung_volumes", "unspecified", "other",
)

# Lemmas that MedKLIP's filter puts into `excluded_obs`: changes, sizes and history, nothing seen on this image.
RADGRAPH_EXCLUDED = (
    "none", "unchanged", "change", "great", "similar", "large", "small", "moderate", "mild", "median", "decrease",
    "bad", "more", "constant", "worsen", "new", "improve", "status", "position", "sternotomy", "cabg", "replacement",
    "postoperative", "assessment", "patient",
)

# What a tube, a wire or a pacemaker adds to an image: a device, not a disease.
DEVICES = ("tube", "tip", "line", "catheter", "lead", "device", "picc", "clip", "wire", "pacemaker", "drainage",
           "stent", "hardware")

# Words of the abnormal list that describe normal images as well ("well expanded", "lung markings", "upper limits of
# normal").
NEUTRAL = ("expand", "aerate", "marking", "pressure", "finding", "borderline")

_ENTITY_INDEX = {name: i for i, name in enumerate(ENTITIES)}
_POSITION_INDEX = {name: i for i, name in enumerate(POSITIONS)}


def hint(name: str, known) -> str:
    """The end of an error message: the nearest of the known names, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def entity_index(name: str) -> int:
    """Index of an entity in `ENTITIES`.

    Raises:
      KeyError: no such entity, with the nearest names.
    """
    return _index(name, _ENTITY_INDEX, "entity", "ENTITIES")


def position_index(name: str) -> int:
    """Index of a position in `POSITIONS`.

    Raises:
      KeyError: no such position, with the nearest names.
    """
    return _index(name, _POSITION_INDEX, "position", "POSITIONS")


def _index(name: str, table: dict[str, int], what: str, names: str) -> int:
    if name not in table:
        raise KeyError(f"unknown {what} {name!r}, expected one of the {len(table)} names of vocab.{names}" + hint(name, table))
    return table[name]


def _key(label: str) -> str:
    """One spelling for all: "Pleural_Thickening", "pleural thickening" and " Pleural-Thickening" are the same label."""
    return " ".join(re.sub(r"[_\-.,()]+", " ", label.lower()).split())


SAME, NARROWER, BROADER, RELATED = "same", "narrower", "broader", "related"


class Meaning(NamedTuple):
    """What a label has to do with an entity: `relation` is SAME, NARROWER, BROADER or RELATED (head of aliases.py)."""

    entity: str
    relation: str


def _meanings() -> dict[str, tuple[Meaning, ...]]:
    out = {_key(name): [Meaning(name, SAME)] for name in ENTITIES}
    for relation, table in ((SAME, aliases.SAME), (NARROWER, aliases.NARROWER), (BROADER, aliases.BROADER),
                            (RELATED, aliases.RELATED)):  # fmt: skip
        for entity, names in table.items():
            for name in names:
                out.setdefault(_key(name), []).append(Meaning(entity, relation))
    return {key: tuple(dict.fromkeys(some)) for key, some in out.items()}


_TABLE = _meanings()
_QUALIFIERS = {_key(name): (Meaning(entity, NARROWER),) for entity, names in aliases.QUALIFIERS.items() for name in names}
_INCOMPLETE = frozenset(map(_key, aliases.INCOMPLETE))
_NO_ENTITY = frozenset(map(_key, aliases.NO_ENTITY)) | _INCOMPLETE


@functools.lru_cache(1 << 14)
def meanings(label: str) -> tuple[Meaning, ...]:
    """The entities that a data set's label has to do with, the one that scores it first; () where no entity fits.

    Covers ChestX-ray14, CheXpert, PadChest, Open-I (MeSH), RSNA, SIIM, VinDr-CXR, ChestX-Det10, Object-CXR, MS-CXR and
    the COVID sets; case, underscores and hyphens do not matter. A MeSH path such as "Aorta, Thoracic/tortuous/mild" is
    looked up whole, then heading first, then by its qualifiers ("tortuous"). A path names a kind or a place of what its
    heading names, so it is never the same.
    """
    whole = _key(label)
    if whole in _TABLE:
        return _TABLE[whole]
    parts = [_key(part) for part in label.split("/")]
    if len(parts) == 1:
        return ()
    found = next((table[part] for table, some in ((_TABLE, parts[:1]), (_QUALIFIERS, parts[1:]), (_TABLE, parts[1:]))
                  for part in some if part in table), ())  # fmt: skip
    below = {SAME: NARROWER, NARROWER: NARROWER, BROADER: RELATED, RELATED: RELATED}
    return tuple(Meaning(entity, below[relation]) for entity, relation in found)


def lookup(label: str) -> str | None:
    """The entity that scores a label, or None where no entity fits. What the label says of it: `statement`."""
    found = meanings(label)
    return found[0].entity if found else None


def is_known(label: str) -> bool:
    """Whether a label has an entity, or has none on purpose ("nipple shadow")."""
    return bool(meanings(label)) or bool(_NO_ENTITY & {_key(label), _key(label.split("/")[0])})


def leaves_open(label: str) -> bool:
    """Whether a list with this label is not complete ("unchanged")."""
    return _key(label) in _INCOMPLETE


def statement(relation: str, value: int) -> int | None:
    """What a label's value (0 absent, 1 present, 2 uncertain) says of an entity that it has this relation to, or None.

    Absence of a kind is not absence of all kinds, and presence of one of several is doubt about each.
    """
    if relation == RELATED or (relation == NARROWER and value == 0):
        return None
    return 2 if relation == BROADER and value == 1 else value


class Said(NamedTuple):
    """What labels say of an entity: 0 absent, 1 present, 2 uncertain. inferred: doubt that comes from another name."""

    value: int
    inferred: bool


def said(labels: Mapping[str, int]) -> dict[str, Said]:
    """{label: 0 absent, 1 present, 2 uncertain} -> {entity: what they say of it}.

    Where several labels speak of one entity, presence wins, then doubt of its own name, then absence, then doubt that comes
    from another name.
    """
    out, rank = {}, {(2, True): 0, (0, False): 1, (2, False): 2, (1, False): 3}
    for label, value in labels.items():
        for entity, relation in meanings(label):
            passed = statement(relation, value)
            if passed is None or (passed == 0 and entity in (TAIL, EXCLUDED)):
                continue
            one = Said(passed, passed == 2 and relation != SAME)
            out[entity] = max(out.get(entity, one), one, key=rank.__getitem__)
    return out


def require(label: str) -> str:
    """As `lookup`, but a label that fits no entity is an error.

    Raises:
      KeyError: no entity fits, with the nearest labels that are known.
    """
    entity = lookup(label)
    if entity is None:
        raise KeyError(f"no entity for the label {label!r}; expected a label of a supported data set or one of "
                       f"vocab.ENTITIES" + label_hint(label))
    return entity


def label_hint(label: str) -> str:
    """As `hint`, among all labels that `lookup` knows."""
    return hint(_key(label), _TABLE)
