"""Phrases whose parts stand apart, read before `scopes` reads a clause.

A denied change leaves what changes ("no convincing decrease in the effusion, nor in the atelectasis"; "no evidence that
the effusion has cleared"). What is possible of a statement is its end ("it is possible that the opacity represents
edema"). A differential for a finding leaves that finding ("the differential for the opacity would include edema"). What
an image is taken "to look for" is not read.
"""
from medvlp_jax.reports.clauses import is_normal
from medvlp_jax.reports.matcher import Item

_DENIAL, _DOUBT = ("neg", "neg_next"), ("unc", "unc_clause")
_CUES = frozenset({*_DENIAL, *_DOUBT, "differential"})  # without one of these no part means anything
_PARTS = frozenset({"change", "gone", "pronoun", "restart", "differential", "finding"})
_DONE = frozenset({"change", "changed", "differential"})


def read(clause: list[Item]) -> None:
    """Changes the kinds of the items that mean something else together than alone, and drops what is needed no more."""
    kinds = {item.kind for item in clause}
    if "sought" in kinds:
        del clause[next(k for k, item in enumerate(clause) if item.kind == "sought"):]
    if not _CUES.isdisjoint(kinds):
        for k, item in enumerate(clause):
            if item.kind in _PARTS or item.value == "neither":
                _read_at(clause, k)
    if not _DONE.isdisjoint(kinds):
        clause[:] = [item for item in clause if item.kind not in _DONE]


def _read_at(clause: list[Item], k: int) -> None:
    item, before = clause[k], clause[k - 1] if k else None
    if item.value == "neither":
        _neither_changed(clause, k)
    elif item.kind == "differential":
        _differential(clause, k)
    elif item.kind == "gone" or (item.kind == "change" and _of_something(clause, k)) or _is_growth(clause, k):
        _denied_change(clause, k)
    elif item.kind == "pronoun" and before and item.first - before.last <= 2:
        if before.kind in _DENIAL:
            _denied_statement(clause, k)
        elif before.kind in _DOUBT:
            _possible_statement(clause, k)
    elif item.kind == "restart" and before and before.kind == "unc" and item.first == before.last + 1:
        item.kind = "nothing"  # "it is possible there is edema"


def _of_something(clause: list[Item], k: int) -> bool:
    """Whether "in", "of", "from" follow the word at k. "No changes of failure" are no change of something."""
    following = next((item for item in clause[k + 1:k + 3] if item.kind == "prep"), None)
    return (following is not None and following.first == clause[k].last + 1
            and not (clause[k].value == "in" and following.value == "of"))


def _is_growth(clause: list[Item], k: int) -> bool:
    """Whether the enlargement at k is one of a finding ("enlargement of the nodule"), not of an anatomy."""
    item = clause[k]
    if item.kind != "finding" or item.value.entity != "enlarge" or item.value.adjective:
        return False
    tail = clause[k + 1:]
    if not tail or tail[0].kind != "prep" or tail[0].first != item.last + 1:
        return False
    finding = next((i for i in tail[1:] if i.kind not in ("affirm", "side", "place", "pronoun")), None)
    return finding is not None and finding.kind == "finding" and not is_normal(finding)


def _denied_change(clause: list[Item], k: int) -> None:
    """Takes the change at k and the negation right before it out, with the "nor in" that goes on with it."""
    j = k - 1
    while j >= 0 and (clause[j].kind == "affirm" or clause[j].first == clause[k].first):
        j -= 1
    if j < 0 or clause[j].kind not in _DENIAL:
        return
    clause[j].kind = clause[k].kind = "nothing"
    clause[k].value = "change"
    for item, following in zip(clause[k + 1:], clause[k + 2:], strict=False):
        if item.kind == "neg" and following.kind == "prep" and following.first == item.last + 1:
            item.kind = "or"


def _denied_statement(clause: list[Item], k: int) -> None:
    """Takes the negation before "that" out, and the change that it denies ("no evidence that the effusion has cleared")."""
    finding = verb = False
    for item in clause[k + 1:]:
        if item.kind == "finding" and not is_normal(item):
            finding = True
        elif item.kind == "verb" and finding:
            verb = True
        elif verb and item.kind in ("gone_post", "affirm", "changed"):
            item.kind = clause[k - 1].kind = "nothing"
            return
        elif item.kind not in ("affirm", "side", "place", "prep"):
            return


def _neither_changed(clause: list[Item], k: int) -> None:
    """Takes a denied change of two findings out ("neither the effusion nor the atelectasis has cleared")."""
    finding = verb = False
    for n, item in enumerate(clause[k + 1:], k + 1):
        if verb and finding and item.kind in ("gone_post", "affirm", "changed") and clause[-1].kind != "finding":
            for other in clause[k:n + 1]:
                if other.kind == "neg" or other is item:
                    other.kind = "nothing"
            return
        if verb or item.kind not in ("verb", "finding", "neg", "affirm", "side", "place", "prep"):
            return
        finding, verb = finding or item.kind == "finding", item.kind == "verb"


def _possible_statement(clause: list[Item], k: int) -> None:
    """Moves the doubt before "that" to what the finding after it is said to be; "that there is" ends no doubt."""
    finding = False
    for n, item in enumerate(clause[k + 1:], k + 1):
        if item.kind == "restart" and not finding:
            item.kind = "nothing"
            return
        if item.kind == "finding":
            finding = True
        elif finding and (item.kind == "link" or (item.kind == "verb" and _noun_follows(clause, n))):
            clause[k - 1].kind, item.kind = "nothing", "unc_clause"
            return
        elif item.kind not in ("affirm", "side", "place", "prep", "rest", "pronoun", "verb"):
            return


def _noun_follows(clause: list[Item], k: int) -> bool:
    """Whether what the verb at k says is a finding of its own ("the opacity is atelectasis")."""
    item = next((i for i in clause[k + 1:] if i.kind not in ("affirm", "side", "place")), None)
    return item is not None and item.kind == "finding" and not item.value.adjective


def _differential(clause: list[Item], k: int) -> None:
    """Makes what follows the verb or colon after a finding uncertain."""
    finding = False
    for item in clause[k + 1:]:
        finding = finding or item.kind == "finding"
        if finding and (item.kind == "colon" or (item.kind == "verb" and item.value != "closing")):
            item.kind = "unc_clause"
            return
