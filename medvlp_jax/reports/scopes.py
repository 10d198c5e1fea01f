"""What a clause says of its findings: absent (0), present (1) or uncertain (2).

The idea is NegEx's (triggers with a scope that ends at conjunctions), on phrases instead of a window of words, and with
lists read as lists (see `lists`).
"""
from medvlp_jax.reports import frames, lists, vocab
from medvlp_jax.reports.clauses import is_normal
from medvlp_jax.reports.matcher import Item

# Things everyone has: "the markings are normal" denies what their mention alone would state.
_ORDINARY = frozenset({"marking", "engorgement"})
# What a skin fold makes on the image all the same.
_SHADOWS = frozenset({"opacity", "density", "finding", "abnormality"})


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
                if state == 0 and scope == "list" and lists.runs_on(clause, k):
                    state, scope = 1, ""
                item.exists = state
                if scope == "next":
                    state, scope = 1, ""
        elif kind in ("neg", "gone") or (kind in ("neg_post", "gone_post") and _fronted(clause, k)):
            state, scope, gone = 0, "list", kind != "neg"
        elif kind == "neg_next" and gone and k + 1 < len(clause) and clause[k + 1].value == "of":
            state, scope = 1, ""  # "resolution of edema, not of the effusion"
        elif kind == "neg_next":
            state, scope = 0, "next"
        elif kind in lists.UNCERTAIN and not ((kind == "if_any" and _said_before(clause, k))
                                         or (kind == "unc" and _predicate_cue(clause, k))):
            if state == 1 or kind == "unsure" or item.value == "open" or (state == 0 and lists.runs_on(clause, k)):
                state, scope = 2, "clause" if kind == "unc_clause" else "list"
        elif kind in ("stop", "restart", "otherwise", "with") or (kind == "nothing" and item.value == "change"):
            state, scope = (1, "") if kind != "with" or scope == "list" else (state, scope)
        elif kind == "open":
            outside = state, scope, gone
            if state == 0 and scope == "list" and lists.breaks(clause, k):
                state, scope = 1, ""
        elif kind == "close":
            (state, scope, gone), outside = outside, (1, "", False)
        elif kind in ("dash", "colon") and state == 0 and scope == "list" and lists.breaks(clause, k):
            state, scope = 1, ""
        elif kind == "comma" and scope == "next":
            state, scope = 1, ""
        elif kind == "comma" and scope == "list":
            if lists.turns(clause, k, gone) or (state == 2 and not lists.goes_on(clause, k)):
                state, scope = 1, ""
        elif kind == "and" and scope == "list":
            side = k + 1 < len(clause) and clause[k + 1].kind in ("side", "place")
            if lists.turns(clause, k, gone) or (state == 2 and side):
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
        elif item.kind in ("open", "dash") and some:
            return  # "infiltrates (edema vs. pneumonia)"
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
