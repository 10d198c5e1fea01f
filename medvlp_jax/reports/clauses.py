"""Clauses of a sentence: where a statement ends and the next one begins.

A clause ends at "but", ";", ..., and where a comma or "and" begins a statement with a subject and verb of its own. What
each clause says of its findings is read in `scopes`.
"""
from medvlp_jax.reports import vocab
from medvlp_jax.reports.matcher import Item

# What a run-on sentence goes on with.
_SUBJECTS = frozenset({"heart", "cardiomediastinum", "mediastinum", "aorta", "lung", "bones", "volumes"})
_LONGEST = 200  # items of a clause; looking ahead in a longer one would cost its square
_AHEAD = 20  # items that tell how a statement begins
_NORMAL = frozenset(vocab.NORMAL) | {vocab.EXCLUDED}


def is_normal(item: Item) -> bool:
    """Whether the finding says "as it should be" or "as before" rather than names an abnormality."""
    return item.value.entity in _NORMAL


def is_predicate(clause: list[Item], k: int) -> bool:
    """Whether the finding at k is an adjective said after a verb ("is tortuous")."""
    return clause[k].value.adjective and k > 0 and clause[k - 1].kind == "verb"


def is_epithet(clause: list[Item], k: int) -> bool:
    """Whether the normal word at k belongs to a finding's phrase ("no clear consolidation", "stable cardiomegaly")."""
    if not is_normal(clause[k]) or not clause[k].value.adjective or is_predicate(clause, k):
        return False
    for i in range(k + 1, len(clause)):
        item = clause[i]
        if item.kind == "finding":
            if clause[k].value.entity == "intact" and item.value.entity in vocab.DEVICES:
                return False  # "intact leads" says so of the leads
            return not is_normal(item) and not is_predicate(clause, i)
        if item.kind not in ("side", "place", "affirm", "unc"):
            return False
    return False


def split(items: list[Item]) -> list[list[Item]]:
    """Splits one sentence's items: at "but", ";", ..., and where a comma or "and" begins a statement with a subject and
    verb of its own ("the lungs are clear and the heart is enlarged")."""
    out, current, some = [], [], False
    for k, item in enumerate(items):
        if item.value == "semicolon" and some and _list_in_pieces(current, items, k + 1):
            current.append(Item("comma", None, item.first, item.last, item.start, item.end))
        elif item.kind == "stop" or len(current) >= _LONGEST:
            out.append(current)
            current, some = [item], False
        elif some and item.kind in ("comma", "and", "dash", "open") and (
                _own_statement(items, k + 1) or _elliptical(items, k + 1)):
            out.append(current)
            current, some = [], False
        elif some and _runs_into(items, k):
            out.append(current)
            current, some = [item], item.kind == "finding"
        else:
            current.append(item)
            some = some or item.kind == "finding"
    return [clause for clause in (*out, current) if clause]


def _own_statement(items: list[Item], k: int) -> bool:
    """Whether an anatomy and then a verb come next, before any finding ("and the heart is")."""
    place = False
    for item in items[k:k + _AHEAD]:
        if item.kind == "verb":
            return place
        if item.kind == "place":
            place = True
        elif item.kind not in ("side", "and", "comma", "affirm", "prep", "rest"):
            return False
    return False


def _runs_into(items: list[Item], k: int) -> bool:
    """Whether a statement with a subject of its own begins at k without a comma ("no infiltrate the heart is enlarged")."""
    item, before = items[k], items[k - 1]
    noun = before.kind == "finding" and (not before.value.adjective or is_predicate(items, k - 1))
    if not (noun or before.value == "closing") or before.first == item.first:
        return False
    subject = item.value == "article" or (item.kind == "place" and not _SUBJECTS.isdisjoint(item.value))
    return subject and _own_statement(items, k)


def _elliptical(items: list[Item], k: int) -> bool:
    """Whether a size (or a pronoun, or "not") and then a side come next but no finding: "No effusion on the left, small one
    on the right"."""
    size = side = False
    for item in items[k:k + _AHEAD]:
        if (item.kind in ("pronoun", "neg_next", "gone_post") or item.value == "absent"
                or (item.kind == "affirm" and item.value != "article")):
            size = True
        elif item.kind in ("side", "place"):
            if not size:
                return False
            side = side or item.kind == "side"
        elif item.kind in ("comma", "stop"):
            break
        elif item.kind not in ("prep", "verb", "gone_post", "neg_post", "affirm") and not (
                item.kind == "finding" and item.value.needs - {"place", "absent"}):
            return False
    return size and side


def _list_in_pieces(clause: list[Item], items: list[Item], k: int) -> bool:
    """Whether bare findings with an "or" follow a negated clause ("No edema; effusion or pneumothorax")."""
    kinds = set()
    for item in items[k:k + _AHEAD]:
        if item.kind == "stop":
            break
        kinds.add("normal" if item.kind == "finding" and is_normal(item) else item.value or item.kind
                  if item.kind == "verb" else item.kind)
    return "or" in kinds and kinds <= {"finding", "place", "comma", "or", "closing"} and any(i.kind == "neg" for i in clause)
