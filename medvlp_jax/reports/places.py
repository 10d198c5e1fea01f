"""Sides and anatomies of a clause joined into places, and a finding's places made definite (its defaults, its side)."""
from typing import NamedTuple

from medvlp_jax.reports.anatomy import GENERIC, LUNG_ZONES
from medvlp_jax.reports.matcher import Item
from medvlp_jax.reports.vocab import DEVICES

_GAP = 3  # words that may stand between a side and its place ("left lateral 5th rib")

# Findings that are where their name says, whatever else the sentence names; only the side is read.
_FIXED = {"effusion": "pleura", "cardiomegaly": "heart"}
# ... unless the sentence gives one of these.
_USUAL = {"pneumothorax": ("pleura", {"apex", "lower lung", "upper lung", "mid lung"})}


class Place(NamedTuple):
    """Groups of `anatomy` with one set of sides; no group: a side alone ("on the left")."""

    groups: tuple[str, ...]
    sides: frozenset


def _sides_ahead(clause: list[Item], k: int) -> tuple[frozenset, int]:
    """Sides from item k on ("left", "right and left") and the number of items they take."""
    sides, n = set(clause[k].value), 1
    while k + n < len(clause):
        if clause[k + n].kind == "side":
            sides.update(clause[k + n].value)
            n += 1
        elif (clause[k + n].kind in ("and", "or") and k + n + 1 < len(clause) and clause[k + n + 1].kind == "side"
              and k + n + 2 < len(clause) and clause[k + n + 2].kind in ("place", "finding")):
            sides.update(clause[k + n + 1].value)
            n += 2
        else:
            break
    return frozenset(sides), n


def merge(clause: list[Item]) -> list[Item]:
    """Joins sides and places into items of kind "anatomy" whose value is a `Place`."""
    out: list[Item] = []
    k = 0
    while k < len(clause):
        item = clause[k]
        if item.kind == "place":
            out.append(_anatomy(item, item, (item.value, _inherited(out, item))))
            k += 1
        elif item.kind == "side":
            sides, n = _sides_ahead(clause, k)
            last, following = clause[k + n - 1], clause[k + n] if k + n < len(clause) else None
            if following is not None and following.kind == "place" and following.first - last.last <= _GAP + 1:
                out.append(_anatomy(item, following, (following.value, sides)))
                n += 1
            elif not _give_back(out, sides, following):
                out.append(_anatomy(item, last, ((), sides)))
            k += n
        else:
            out.append(item)
            k += 1
    return out


def _anatomy(first: Item, last: Item, place) -> Item:
    groups, sides = place
    if sides and groups in (("pulmonary",), ("parenchyma",)):
        groups = ("lung",)  # "bilateral pulmonary nodules"
    return Item("anatomy", Place(groups, sides), first.first, last.last, first.start, last.end)


def _inherited(out: list[Item], item: Item) -> frozenset:
    """The side of the place before ("left lower lobe basilar", "left costophrenic angle and hemidiaphragm")."""
    if not out or "lung" in item.value:
        return frozenset()
    near = out[-1]
    if near.kind == "and" and len(out) > 1:
        near = out[-2]
    return near.value.sides if near.kind == "anatomy" and item.first - near.last <= _GAP + 1 else frozenset()


def _give_back(out: list[Item], sides: frozenset, following: Item | None) -> bool:
    """A side after its place ("the costophrenic angle on the left", "lungs bilaterally") goes to that place."""
    if following is not None and following.kind == "finding":
        return False
    for item in reversed(out):
        if item.kind == "anatomy":
            if item.value.sides or not item.value.groups:
                return False
            item.value = Place(item.value.groups, sides)
            return True
        if item.kind != "prep":
            return False
    return False


def zones(places: list[Place]) -> list[Place]:
    """Those that are zones of the lungs, or sides alone."""
    return [p for p in places if not p.groups or LUNG_ZONES.issuperset(p.groups)]


def _with_side_of_lung(places: list[Place]) -> list[Place]:
    """"The apex of the right lung" is one place."""
    lung = next((p.sides for p in places if p.groups == ("lung",) and p.sides), None)
    if lung is None or not any(p.groups != ("lung",) and LUNG_ZONES.issuperset(p.groups) for p in places):
        return places
    return [Place(p.groups, p.sides or lung) for p in places if p.groups != ("lung",)]


def settle(item: Item) -> list[Place]:
    """The finding's places with its own defaults applied, never empty if it has a default group."""
    entity, group = item.value.entity, item.value.group
    if not item.places:  # the most frequent case, sooner
        usual = _FIXED.get(entity) or (_USUAL[entity][0] if entity in _USUAL else group)
        return [Place((usual,), frozenset())] if usual else []
    places = [p for p in item.places if entity not in DEVICES or p.groups != ("heart",)]  # "cardiac pacemaker"
    sides = frozenset().union(*(p.sides for p in places))
    if entity in _FIXED:
        return [Place((_FIXED[entity],), sides)]
    if entity in _USUAL:
        usual, better = _USUAL[entity]
        return [p for p in places if better.intersection(p.groups)] or [Place((usual,), sides)]
    named = _with_side_of_lung([p for p in places if p.groups])
    if group is not None and not named:
        return [Place((group,), sides)]
    bare = [p for p in places if not p.groups]
    if named:
        named = [Place(p.groups, p.sides or sides) if p.groups == ("pleura",) else p for p in named]
        exact = [p for p in named if p.sides or not GENERIC.issuperset(p.groups)]
        out = exact if zones(exact) else named  # "pulmonary nodule in the left base"
        if bare and not any(p.sides for p in out):
            out = [Place(p.groups, sides) for p in out]  # "blunting of the angle is seen on the left"
        return out
    return [Place(("lung",), sides)] if bare else []
