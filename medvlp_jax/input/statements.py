"""What the labels of a row state, and how they and the report become one presence matrix (docs/labels.md).

A label is a statement where a row names it: present, absent or uncertain. A blank is none, unless the list is complete
(closed world) or a protocol reads blanks as absent (data.blank_labels); that absence is implied and contradicts nothing.
"""
import functools
from typing import NamedTuple

import numpy as np

from medvlp_jax.input.columns import label_names, parse_json, source_name
from medvlp_jax.reports import triplets, vocab

BLANKS = ("unknown", "absent")
PRECEDENCES = ("report", "labels")
CLOSED = ("auto", "always", "never")
RADIOLOGIST, AUTOMATIC, OTHER = LABELLERS = ("radiologist", "automatic", "other")
# Who made the labels of a set, where no row says it; a set that is not named here counts as OTHER.
OF_SOURCE = {
    "rsna": RADIOLOGIST, "siim": RADIOLOGIST, "vindr": RADIOLOGIST, "ms_cxr": RADIOLOGIST, "chestxdet10": RADIOLOGIST,
    "object_cxr": RADIOLOGIST, "google_nih": RADIOLOGIST, "chestxray14": AUTOMATIC, "chexpert": AUTOMATIC,
    "chexpert5x200": AUTOMATIC, "chexpert_plus": AUTOMATIC,
    "mimic_cxr": AUTOMATIC, "edema_severity": AUTOMATIC, "padchest": AUTOMATIC,
}  # fmt: skip
VALUES = {"labels": 1, "absent": 0, "uncertain": 2}  # column: what it says
CONFLICTS = ("report present, label absent", "report absent, label present", "one uncertain")
UNSPECIFIED = vocab.position_index("unspecified")


class Space(NamedTuple):
    """Label names of a source, and whether any of its rows states absences or doubt, so that its lists are not complete."""

    names: frozenset[str] = frozenset()
    stated: bool = False


class Rules(NamedTuple):
    """How rows are read: data.closed_world, data.blank_labels, data.label_precedence.

    closed: "auto": a row without report of a source that never states an absence has a complete list; "always", "never".
    blank: "unknown", or "absent": a label that the source knows and the row does not name is absent, in rows that name any.
    precedence: "report": a mention wins over a label, unless a radiologist made that; "labels": a label wins.
    """

    closed: str = "auto"
    blank: str = "unknown"
    precedence: str = "report"

    def check(self) -> "Rules":
        """Raises a ValueError for a value that is not known."""
        for name, value, known in (("closed_world", self.closed, CLOSED), ("blank_labels", self.blank, BLANKS),
                                   ("label_precedence", self.precedence, PRECEDENCES)):  # fmt: skip
            if value not in known:
                raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        return self


class Reading(NamedTuple):
    """presence: int8 (A, K); conflicts: (entity, kind of CONFLICTS) where report and labels differ."""

    presence: np.ndarray
    conflicts: list[tuple[str, str]]


def labeller(row: dict) -> str:
    """Who made the labels of a row: its column, else what is known of its source.

    Raises:
      ValueError: a labeller that is none of LABELLERS.
    """
    return _labeller(row.get("labeller")) or OF_SOURCE.get(source_name(row), OTHER)


def _labeller(value) -> str:
    name = str(value or "").strip().lower()
    if name and name not in LABELLERS:
        raise ValueError(f"labeller {value!r}; expected {', '.join(LABELLERS)} or nothing")
    return name


def own(row: dict) -> dict[str, int]:
    """{label: 1 | 0 | 2} that the columns of a row name; what is named twice is present, else uncertain."""
    return {name: VALUES[column] for column in ("absent", "uncertain", "labels") for name in label_names(row, column)}


def annotated(row: dict) -> tuple[dict[str, int], str]:
    """({label: 1 | 0 | 2}, labeller) of column `annotations` (data.annotations)."""
    told = parse_json(row, "annotations", {})
    return own(told), _labeller(told.get("labeller")) or AUTOMATIC


def _voices(row: dict) -> list[tuple[dict[str, int], bool]]:
    """(labels, whether by a radiologist) of a row, the weaker first: an annotation file is given to replace the row's own
    labels, but not those of a radiologist by automatic ones."""
    mine, (theirs, who) = own(row), annotated(row)
    pair = [(mine, labeller(row) == RADIOLOGIST), (theirs, who == RADIOLOGIST)]
    return pair if pair[1][1] or not pair[0][1] else pair[::-1]


def named(row: dict) -> dict[str, int]:
    """{label: 1 | 0 | 2} of a row and its annotation."""
    return {name: value for labels, _ in _voices(row) for name, value in labels.items()}


def check_row(row: dict) -> None:
    """Raises a ValueError for a column of labels that is not as expected."""
    parse_json(row, "mentions", [])
    labeller(row)
    annotated(row)


def blanks_are_absent(mine: dict[str, int], space: Space, rules: Rules, has_text: bool) -> bool:
    """Whether labels that the source knows and a row with the labels `mine` does not name are absent."""
    if not mine or any(map(vocab.leaves_open, mine)):
        return False
    closed = rules.closed == "always" or (rules.closed == "auto" and not has_text and not space.stated)
    return (closed and 1 in mine.values() and 0 not in mine.values()) or rules.blank == "absent"


def withheld(row: dict, space: Space, rules: Rules, has_text: bool) -> list[str]:
    """The unknown labels because of which a row states no implied absence; [] where it implies none anyway."""
    mine = own(row)
    strange = [name for name in mine if not vocab.is_known(name)]
    if not strange or not blanks_are_absent(mine, space, rules, has_text):
        return []
    return strange if _absences(space.names) - _spoken(mine) - set(vocab.NORMAL) else []


@functools.lru_cache(64)
def _absences(names: frozenset[str]) -> frozenset[str]:
    """Entities that are absent if all labels are."""
    return frozenset(vocab.said(dict.fromkeys(names, 0)))


def _spoken(labels) -> set[str]:
    """Entities that labels have to do with, whatever they say."""
    return {entity for name in labels for entity, _ in vocab.meanings(name)}


def implied(row: dict, space: Space, rules: Rules, has_text: bool) -> set[str]:
    """Entities that are absent because the row does not name them.

    A label that fits no entity may stand for any of them: its row implies no absence, other than that it is not normal. That
    needs something that is present or may be.
    """
    mine = own(row)
    if not blanks_are_absent(mine, space, rules, has_text):
        return set()
    out = _absences(space.names) - _spoken(mine)  # a label that is named is not blank
    strange = [name for name in mine if not vocab.is_known(name)]
    if strange:
        out &= set(vocab.NORMAL)
    abnormal = any(mine[name] and vocab.lookup(name) not in (None, *vocab.NORMAL) for name in mine)
    if not abnormal and not any(mine[name] for name in strange):
        out -= set(vocab.NORMAL)
    return set(out)


def read(row: dict, reported: np.ndarray, space: Space, rules: Rules, has_text: bool) -> Reading:
    """Report and labels as one matrix.

    reported: int8 (A, K), what the report says. Where both agree, the report's positions stay; a label that wins stands at
    position `unspecified` alone. Doubt that comes from another name ("Nodule/Mass") says nothing against a mention.
    """
    out, conflicts = reported.copy(), []
    mentioned = triplets.existence_labels(reported)  # (K,)
    stated = {}
    for labels, expert in _voices(row):
        stated.update({entity: (one, expert) for entity, one in vocab.said(labels).items()
                       if not (one.inferred and entity in stated)})  # fmt: skip
    for entity, (one, expert) in stated.items():
        k = vocab.entity_index(entity)
        before = int(mentioned[k])
        if before in (one.value, -1) or one.inferred:
            if before == -1:
                out[UNSPECIFIED, k] = one.value
            continue
        conflicts.append((entity, _kind(before, one.value)))
        if expert or rules.precedence == "labels":
            out[:, k] = -1
            out[UNSPECIFIED, k] = one.value
    for entity in implied(row, space, rules, has_text) - stated.keys():
        k = vocab.entity_index(entity)
        if mentioned[k] == -1:
            out[UNSPECIFIED, k] = 0
    return Reading(out, conflicts)


def _kind(report: int, label: int) -> str:
    return CONFLICTS[2] if 2 in (report, label) else CONFLICTS[0] if report else CONFLICTS[1]


def finding_labels(row: dict, space: Space, rules: Rules, has_text: bool) -> dict[str, int]:
    """{label: 1 present, 0 absent, -1 uncertain} as evaluations take them, whatever the report says.

    Where a blank is absent, a label is what the named ones say of its entity: with "COVID-19" alone "Pneumonia" is 1, not 0;
    the other way round "COVID-19" is 0.
    """
    mine, stated = own(row), named(row)
    blank = space.names - mine.keys() if blanks_are_absent(mine, space, rules, has_text) else ()
    entities = vocab.said(mine) if blank else {}
    blanks = {name: _of_others(name, entities) for name in sorted(blank)}
    return {name: -1 if value == 2 else value for name, value in {**blanks, **stated}.items()}


def _of_others(name: str, entities: dict[str, vocab.Said]) -> int:
    """Value of a label that a complete list does not name, by what its other labels say of the same entity."""
    about = [entities[entity].value for entity, relation in vocab.meanings(name)
             if relation in (vocab.SAME, vocab.BROADER) and entity in entities]  # fmt: skip
    return 1 if 1 in about else 2 if 2 in about else 0
