"""What a clause says of its findings: absent (0), present (1) or uncertain (2).

The idea is NegEx's (triggers with a scope that ends at conjunctions), on phrases instead of a window of words, and with
lists read as lists: the comma in "no effusion, edema or pneumothorax" does not end the negation, the one in "no
effusion, mild edema" does. After a comma these begin a statement of their own: a size, side, number or adjective of
something that is there, a zone of the lungs, an uncertainty, a thing that is never listed as absent (low volumes, a
device), or a finding with a verb of its own; but not where an "or" of the same list follows.
"""
from medvlp_jax.reports import frames, vocab
from medvlp_jax.reports.anatomy import LUNG_ZONES
from medvlp_jax.reports.clauses import is_normal, is_predicate
from medvlp_jax.reports.matcher import Item

# Things everyone has: "the markings are normal" denies what their mention alone would state.
_ORDINARY = frozenset({"marking", "engorgement"})
# What no one lists as absent without an "or".
_NEVER_LISTED = frozenset({"low", "degenerative", "tortuous", "borderline", "hyperinflate", "expand", *vocab.DEVICES})
# What lasts: said alone after a comma ("no infiltrate, emphysema") it is there, in a longer list it is not.
_LASTING = frozenset({"cardiomegaly", "emphysema", "calcification", "scar", "hernia", "deformity", "elevation", "disease"})
_ZONES = LUNG_ZONES - {"hilum", "both hila", "lung"}
# What a skin fold makes on the image all the same.
_SHADOWS = frozenset({"opacity", "density", "finding", "abnormality"})
_UNCERTAIN = ("unc", "unc_clause", "unsure", "if_any")


def _list_goes_on(clause: list[Item], k: int) -> bool:
    """Whether an "or" follows before the clause turns: then the comma at k is one of a list."""
    for item in clause[k + 1:]:
        if item.kind == "or":
            return True
        if (item.kind in ("neg", "restart", "with", "gone", "gone_post", "link", "versus", *_UNCERTAIN)
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


def _turns(clause: list[Item], k: int, gone: bool = False) -> bool:
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
        return not (joined or _list_goes_on(clause, k) or _bare_item_follows(clause, k))
    if clause[k].kind == "and" and "side" in kinds and (gone or clause[k - 1].kind in ("side", "place")):
        return False  # "in the right and left lung"
    located = any((item.kind == "place" and not _ZONES.isdisjoint(item.value))
                  or (item.kind == "finding" and item.value.entity in _NEVER_LISTED) for item in heads)
    described = clause[k].kind == "comma" and _described_place(clause, k)
    begins = (described or not kinds.isdisjoint({"affirm", "side", *_UNCERTAIN}) or (located and not gone) or _own_predicate(clause, k)
              or (clause[k].kind == "comma" and _lasting(clause, k)))
    return begins and not _list_goes_on(clause, k)


def _described_place(clause: list[Item], k: int) -> bool:
    """Whether an adjective and its anatomy, the only other item, follow the comma ("no free air, distended stomach")."""
    tail = clause[k + 1:k + 4]
    return (_first_comma(clause, k) and len(tail) > 1 and tail[0].kind == "finding" and tail[0].value.adjective
            and not is_normal(tail[0]) and "place" in (kinds := [item.kind for item in tail])
            and set(kinds[1:kinds.index("place")]) <= {"side"} and not _bare_item_follows(clause, k))


def _breaks(clause: list[Item], k: int) -> bool:
    """Whether the dash, colon or bracket at k ends a negated list."""
    if k + 1 >= len(clause) or not k:
        return False
    mark, before = clause[k].kind, clause[k - 1]
    if mark == "dash":
        return clause[k + 1].kind not in ("or", "and", "neg_post", "gone_post") and not _list_goes_on(clause, k) and (
            not _bare(_heads(clause, k)) or not _bare_item_follows(clause, k))
    if mark == "colon" and (cue := next((i for i in reversed(clause[:k]) if i.kind in ("neg", "finding")), before)).kind == "neg":
        return clause[k].first != cue.last + 1  # "no addition to the above: cardiomegaly", not "negative for: edema"
    if mark == "colon" and before.kind in ("gone", "gone_post"):
        return False  # "resolved: left effusion"
    if mark == "open" and any(item.kind == "link" or item.value == "only" for item in clause[k + 1:]):
        return True  # "no pneumonia (the opacity is due to atelectasis)"
    return _turns(clause, k)


def _runs_on(clause: list[Item], k: int) -> bool:
    """Whether a negated list ends at k without a comma ("no new nodules possible small effusion", "no edema chest tube in
    place")."""
    before, item = clause[k - 1] if k else None, clause[k]
    if before is None or not (before.kind == "finding" or before.value == "closing"):
        return False
    if item.kind == "finding":
        noun = before.kind != "finding" or not (before.value.adjective or before.value.entity in vocab.DEVICES)
        return noun and item.value.entity in _NEVER_LISTED and before.first != item.first
    return item.value == "adverb" and k + 1 < len(clause) and clause[k + 1].kind in ("affirm", "side", "place", "finding")


def _fronted(clause: list[Item], k: int) -> bool:
    """Whether the cue at k comes before what it denies ("no longer seen is the pneumothorax", "resolved edema")."""
    return (k + 1 < len(clause) and clause[k + 1].kind in ("verb", "side", "place", "finding", "affirm", "colon")
            and not any(item.kind == "finding" for item in clause[:k]))


def assign(clause: list[Item]) -> None:
    """Sets `exists` of every finding of a clause."""
    frames.read(clause)
    state, scope, gone = 1, "", False  # scope: how far the state reaches, "clause", "list" or "next"
    outside = (1, "", False)  # the same before a bracket
    for k, item in enumerate(clause):
        kind = item.kind
        if kind == "finding":
            if is_normal(item):
                item.exists = 0 if scope == "next" else 1
                state, scope = 1, ""
                before = clause[k - 2] if k > 1 and clause[k - 1].kind == "verb" else item
                if before.kind == "finding" and before.value.entity in _ORDINARY and item.exists:
                    before.exists = 0
            else:
                if state == 0 and scope == "list" and _runs_on(clause, k):
                    state, scope = 1, ""
                item.exists = state
                if scope == "next":
                    state, scope = 1, ""
        elif kind in ("neg", "gone") or (kind in ("neg_post", "gone_post") and _fronted(clause, k)):
            state, scope, gone = 0, "list", kind != "neg"
        elif kind == "neg_next":
            state, scope = 0, "next"
        elif kind in _UNCERTAIN and not ((kind == "if_any" and _said_before(clause, k))
                                         or (kind == "unc" and _predicate_cue(clause, k))):
            if state == 1 or kind == "unsure" or item.value == "open" or (state == 0 and _runs_on(clause, k)):
                state, scope = 2, "clause" if kind == "unc_clause" else "list"
        elif kind in ("stop", "restart", "otherwise", "with") or (kind == "nothing" and item.value == "change"):
            state, scope = (1, "") if kind != "with" or scope == "list" else (state, scope)
        elif kind == "open":
            outside = state, scope, gone
            if state == 0 and scope == "list" and _breaks(clause, k):
                state, scope = 1, ""
        elif kind == "close":
            (state, scope, gone), outside = outside, (1, "", False)
        elif kind in ("dash", "colon") and state == 0 and scope == "list" and _breaks(clause, k):
            state, scope = 1, ""
        elif kind == "comma" and scope == "next":
            state, scope = 1, ""
        elif kind == "comma" and scope == "list":
            if _turns(clause, k, gone) or (state == 2 and not _list_goes_on(clause, k)):
                state, scope = 1, ""
        elif kind == "and" and scope == "list":
            side = k + 1 < len(clause) and clause[k + 1].kind in ("side", "place")
            if _turns(clause, k, gone) or (state == 2 and side):
                state, scope = 1, ""
    for k, item in enumerate(clause):
        if item.kind in ("neg_post", "gone_post"):
            _backwards(clause, k, 0)
        elif (item.kind == "unc_post" or item.value == "artifact" or (item.kind == "unc" and _predicate_cue(clause, k))
              or (item.kind == "if_any" and _said_before(clause, k))):
            _backwards(clause, k, 2)
        elif (k and (item.value == "absent" or (item.kind in ("neg", "denial") and clause[k - 1].kind in ("colon", "dash")))
              and not _finding_follows(clause, k)):
            _backwards(clause, k, 0)
        elif item.kind == "versus":
            _backwards(clause, k, 2)
            _forward_one(clause, k)
    _alternatives(clause)


def _said_before(clause: list[Item], k: int) -> bool:
    """Whether a finding stands right before "if any" ("Effusion, if any, is small")."""
    return clause[k - 1 - (k > 1 and clause[k - 1].kind in ("comma", "dash", "open"))].kind == "finding" if k else False


def _predicate_cue(clause: list[Item], k: int) -> bool:
    """Whether the cue at k is said of what came before ("pneumonia is suspected", "pneumonia possible")."""
    before = next((item for item in reversed(clause[:k]) if item.kind != "affirm"), None)  # "is also possible"
    if clause[k].value == "question":
        return before is not None and not _finding_follows(clause, k)
    if before is None or before.kind not in ("verb", "finding") or before.first == clause[k].first:
        return False
    after = clause[k + 1].kind if k + 1 < len(clause) else ""
    return (not _finding_follows(clause, k) or after in ("neg", "restart", "otherwise")
            or (after in ("comma", "and") and before.kind == "verb"))


def _finding_follows(clause: list[Item], k: int) -> bool:
    return any(item.kind == "finding" for item in clause[k + 1:])


def _backwards(clause: list[Item], k: int, exists: int) -> None:
    """Gives a cue's value to the finding before it and those listed with it ("edema or mass is not seen")."""
    joined, some = clause[k - 1].kind == "colon" if k else False, False  # "nodules, masses: none"
    doubted = any(item.value == "absence" for item in clause[:k])  # "absence of a fracture cannot be assured"
    for item in reversed(clause[:k]):
        if item.kind == "finding":
            if is_normal(item) or (item.value.needs and "absent" not in item.value.needs):
                continue
            if some and not joined and clause[k].value == "removal":
                return  # "the pneumothorax since tube removal"
            if ((clause[k].value == "out" and item.value.entity not in vocab.DEVICES)
                    or (clause[k].value == "mimic" and item.value.entity in _SHADOWS)):
                return
            if exists == 0 or item.exists == 1 or doubted:
                item.exists = exists
            some = True
        elif item.kind in ("or", "and"):
            joined = True
        elif item.kind == "link" and exists == 0 and not some:
            continue  # "the infiltrate represents vessels and is not confirmed"
        elif (item.kind in ("neg", "stop", "restart", "neg_post", "gone_post", "with", "link", "unc_clause")
              or (item.kind == "colon" and some)):
            return
        elif item.kind == "verb" and some:
            return  # "edema is present and effusion is not seen"
        elif item.kind == "comma" and not joined and (some or clause[k].kind == "unc_post"):
            return  # but go on at "the effusion, which has resolved"


def _forward_one(clause: list[Item], k: int) -> None:
    for item in clause[k + 1:]:
        if item.kind == "finding" and not is_normal(item):
            if item.exists == 1:
                item.exists = 2
            if not item.value.adjective:
                return


def _alternatives(clause: list[Item]) -> None:
    """Affirmed nouns joined by "or" are alternatives ("scarring or atelectasis"): each is uncertain."""
    if any(item.kind == "nothing" for item in clause):
        return  # "no change in the effusion or pneumothorax": the "or" belongs to the "no"
    nouns = [k for k, item in enumerate(clause)
             if item.kind == "finding" and not item.value.adjective and not is_normal(item)]
    for a, b in zip(nouns, nouns[1:], strict=False):
        between = [item.kind for item in clause[a + 1:b] if item.kind not in ("side", "place", "finding", "prep", "affirm")]
        if between in (["or"], ["comma", "or"]) and clause[a].exists != 0 and clause[b].exists != 0:
            clause[a].exists = clause[b].exists = 2
            if between == ["comma", "or"]:  # "atelectasis, scarring, or pneumonia"
                _whole_list(clause, a)


def _whole_list(clause: list[Item], k: int) -> None:
    """Makes the nouns that a comma joins to the one at k uncertain too."""
    comma = False
    for item in reversed(clause[:k]):
        if item.kind == "comma":
            comma = True
        elif item.kind == "finding" and comma and item.exists == 1 and not item.value.adjective:
            item.exists, comma = 2, False
        elif item.kind not in ("side", "place", "affirm", "finding"):
            return
