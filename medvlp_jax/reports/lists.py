"""Where a list of absent or uncertain findings ends.

The comma in "no effusion, edema or pneumothorax" does not end the negation, the one in "no effusion, mild edema" does.
After a comma these begin a statement of their own: a size, side, number or adjective of something that is there, a zone
of the lungs, an uncertainty, a thing that is never listed as absent (low volumes, a device), or a finding with a verb of
its own; but not where an "or" of the same list follows.
"""
from medvlp_jax.reports import vocab
from medvlp_jax.reports.anatomy import LUNG_ZONES
from medvlp_jax.reports.clauses import is_normal
from medvlp_jax.reports.matcher import Item

UNCERTAIN = ("unc", "unc_clause", "unsure", "if_any")
# What no one lists as absent without an "or".
_NEVER_LISTED = frozenset({"low", "degenerative", "tortuous", "borderline", "hyperinflate", "expand", *vocab.DEVICES})
# What lasts: said alone after a comma ("no infiltrate, emphysema") it is there, in a longer list it is not.
_LASTING = frozenset({"cardiomegaly", "emphysema", "calcification", "scar", "hernia", "deformity", "elevation", "disease"})
_ZONES = LUNG_ZONES - {"hilum", "both hila", "lung"}


def goes_on(clause: list[Item], k: int) -> bool:
    """Whether an "or" follows before the clause turns: then the comma at k is one of a list."""
    for item in clause[k + 1:]:
        if item.kind == "or":
            return True
        if (item.kind in ("neg", "restart", "with", "gone", "gone_post", "link", "versus", *UNCERTAIN)
                or (item.kind == "finding" and is_normal(item)) or (item.kind == "verb" and item.value != "closing")):
            return False
    return False


def _heads(clause: list[Item], k: int) -> list[Item]:
    """The items of the first phrase after k: one phrase may be a finding and a cue."""
    return [item for item in clause[k + 1:k + 4] if item.first == clause[k + 1].first]


def _first_comma(clause: list[Item], k: int) -> bool:
    """Whether no comma stands between the cue and the item at k."""
    for item in reversed(clause[:k]):
        if item.kind in ("comma", "neg"):
            return item.kind == "neg"
    return True


def _lasting(clause: list[Item], k: int) -> bool:
    """Whether the comma at k, the only one of its list, is followed by a lasting condition ("no infiltrate, emphysema")."""
    if not _first_comma(clause, k):
        return False
    finding = next((item for item in clause[k + 1:] if item.kind == "finding"), None)
    tail = clause[k + 1:]
    if finding is None or any(item.kind in ("comma", "and") for item in tail[:tail.index(finding)]):
        return False
    chronic = finding.value.entity in _LASTING or (
        finding.value.entity == vocab.TAIL and (finding.value.adjective or finding.value.group == "spine"))
    return chronic and not _bare_item_follows(clause, k)


def _own_predicate(clause: list[Item], k: int) -> bool:
    """Whether the next finding has a verb, a state or, after the first comma, a side of its own: "effusion is small",
    "effusion unchanged", "effusion at the left base"."""
    finding = governed = False
    first = _first_comma(clause, k)
    for n, item in enumerate(clause[k + 1:], k + 1):
        if finding and (item.kind == "prep" or (not governed and clause[n - 1].kind == "finding"
                                                and item.kind in ("side", "place"))):
            governed = True
            if item.kind == "side" or (item.kind == "place" and not _ZONES.isdisjoint(item.value)):
                return first  # "nodular opacity right apex"
        elif governed and item.kind == "affirm":
            continue
        elif governed and (item.kind == "side" or (item.kind == "place" and not _ZONES.isdisjoint(item.value))):
            return first
        elif item.kind == "finding" and not is_normal(item) and not (finding and not item.value.adjective):
            finding = finding or not item.value.adjective
        elif item.kind == "verb" and finding:
            run = [i for i in clause[n:n + 4] if i.kind == "verb"]
            return all(i.value != "closing" for i in run)
        elif finding and item.kind == "finding" and is_normal(item):
            return item.value.entity in ("stable", vocab.EXCLUDED)
        elif finding and item.kind == "affirm":
            return item.value == "still"
        elif item.kind not in ("affirm", "place", "side"):
            return False
    return False


def _bare_item_follows(clause: list[Item], k: int) -> bool:
    """Whether a later comma is followed by a finding without a size or side ("large effusion, pneumothorax")."""
    return any(item.kind == "comma" and n + 1 < len(clause) and _bare(_heads(clause, n))
               for n, item in enumerate(clause[k + 1:], k + 1))


def _bare(heads: list[Item]) -> bool:
    return {item.kind for item in heads} <= {"finding", "place"} and not any(
        (item.kind == "place" and not _ZONES.isdisjoint(item.value))
        or (item.kind == "finding" and item.value.entity in _NEVER_LISTED) for item in heads)


def turns(clause: list[Item], k: int, gone: bool = False) -> bool:
    """Whether the comma or "and" at k begins something that is stated on its own.

    gone: the list is one of things that are gone, of which each may have its side ("removal of the tube and left line").
    """
    if k + 1 >= len(clause):
        return False
    heads = _heads(clause, k)
    kinds, values = {item.kind for item in heads}, {item.value for item in heads if item.kind == "affirm"}
    if "still" in values or not kinds.isdisjoint({"restart", "link"}):
        return True
    if "large" in values:
        joined = any(item.kind == "and" for item in clause[k + 1:])  # "large effusion/pneumothorax"
        return not (joined or goes_on(clause, k) or _bare_item_follows(clause, k))
    if clause[k].kind == "and" and "side" in kinds and (gone or clause[k - 1].kind in ("side", "place")):
        return False  # "in the right and left lung"
    located = any((item.kind == "place" and not _ZONES.isdisjoint(item.value))
                  or (item.kind == "finding" and item.value.entity in _NEVER_LISTED) for item in heads)
    described = clause[k].kind == "comma" and _described_place(clause, k)
    begins = (described or not kinds.isdisjoint({"affirm", "side", *UNCERTAIN}) or (located and not gone)
              or _own_predicate(clause, k) or (clause[k].kind == "comma" and _lasting(clause, k)))
    return begins and not goes_on(clause, k)


def _described_place(clause: list[Item], k: int) -> bool:
    """Whether an adjective and its anatomy, the only other item, follow the comma ("no free air, distended stomach")."""
    tail = clause[k + 1:k + 4]
    after = [item for item in clause[k + 2:k + 5] if item.kind != "affirm"]
    if (after and tail[0].kind == "place" and after[0].kind == "finding" and after[0].value.adjective
            and (len(after) == 1 or after[1].kind in ("comma", "stop", "close"))):
        return _first_comma(clause, k) and not _bare_item_follows(clause, k)  # "no effusion, heart mildly enlarged"
    return (_first_comma(clause, k) and len(tail) > 1 and tail[0].kind == "finding" and tail[0].value.adjective
            and not is_normal(tail[0]) and "place" in (kinds := [item.kind for item in tail])
            and set(kinds[1:kinds.index("place")]) <= {"side"} and not _bare_item_follows(clause, k))


def breaks(clause: list[Item], k: int) -> bool:
    """Whether the dash, colon or bracket at k ends a negated list."""
    if k + 1 >= len(clause) or not k:
        return False
    mark, before = clause[k].kind, clause[k - 1]
    if mark == "dash":
        return clause[k + 1].kind not in ("or", "and", "neg_post", "gone_post") and not goes_on(clause, k) and (
            not _bare(_heads(clause, k)) or not _bare_item_follows(clause, k))
    cue = next((i for i in reversed(clause[:k]) if i.kind in ("neg", "finding")), before)
    if mark == "colon" and cue.kind == "neg":
        return clause[k].first != cue.last + 1  # "no addition to the above: cardiomegaly", not "negative for: edema"
    if mark == "colon" and before.kind in ("gone", "gone_post"):
        return False  # "resolved: left effusion"
    if mark == "open":
        end = next((n for n in range(k + 1, len(clause)) if clause[n].kind == "close"), len(clause))
        if any(i.kind == "link" or i.value == "only" or (i.kind == "verb" and not i.value) for i in clause[k + 1:end]):
            return True  # "no pneumonia (the opacity is due to atelectasis)"
    return turns(clause, k)


def runs_on(clause: list[Item], k: int) -> bool:
    """Whether a negated list ends at k without a comma ("no new nodules possible small effusion", "no edema chest tube in
    place")."""
    before, item = clause[k - 1] if k else None, clause[k]
    if before is None or not (before.kind == "finding" or before.value == "closing"):
        return False
    if item.kind == "finding":
        noun = before.kind != "finding" or not (before.value.adjective or before.value.entity in vocab.DEVICES)
        return noun and item.value.entity in _NEVER_LISTED and before.first != item.first
    return item.value == "adverb" and k + 1 < len(clause) and clause[k + 1].kind in ("affirm", "side", "place", "finding")
