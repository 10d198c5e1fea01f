"""Rule-based report filter: text -> mentions (entity, position, exists) with character spans.

`matcher` finds the phrases, `clauses` splits sentences, `scopes`, `frames` and `lists` read negation and
uncertainty, `places` and `attach` the anatomy; here they meet.
Words are in `lexicon`, `anatomy` and `cues`. What a reader may rely on:
- exists: 1 stated, 0 denied ("no", "without", "has resolved", ...), 2 uncertain ("possible", "may represent", "cannot
  be excluded", "A versus B", "A or B").
- position: the finest of the 51 that the sentence gives; "bilateral" gives a left and a right mention (lung bases and
  apices have a position for both); a stated anatomy outside the 51 is "other", none at all "unspecified".
- an enlarged heart is cardiomegaly, by whichever words.
- what an earlier image showed, and why the image was taken, is not read (`not_this_image`).
- implied (switch, on by default): "normal heart size" also denies cardiomegaly, "the lungs are clear" also denies
  opacity, consolidation and infiltrate. The table `IMPLIED` has the reasons.
"""
import functools
import itertools

from medvlp_jax.reports import attach, clauses, matcher, not_this_image, places, scopes
from medvlp_jax.reports.anatomy import resolve
from medvlp_jax.reports.sections import sentences
from medvlp_jax.reports.triplets import Mention

# What a normal statement denies: {group: (normal words, {denied entity: group})}. Only findings whose absence is part
# of the statement's meaning, at the same position, so that a finding reported elsewhere keeps its label (present wins):
# a heart of normal size is not enlarged; a mediastinum of normal contour is not widened; sharp angles are not blunted;
# clear pleural spaces hold neither fluid nor air; intact bones are not broken; clear lungs show no opacity by whichever
# of its three names. But small nodules, scars or calcified granulomas are routinely left out of "clear", so those are
# not denied; nor is pneumonia, a diagnosis. "The lungs are otherwise clear" and "the right lung is clear" deny nothing.
IMPLIED = {
    "heart": (("normal", "unremarkable"), {"cardiomegaly": "heart", "enlarge": "heart"}),
    "cardiomediastinum": (("normal", "unremarkable"), {"cardiomegaly": "heart", "widen": "mediastinum"}),
    "mediastinum": (("normal", "unremarkable"), {"widen": "mediastinum"}),
    "costophrenic": (("sharp", "sharply", "clear", "normal", "unremarkable"), {"blunt": "costophrenic"}),
    "pleura": (("clear", "normal", "unremarkable"), {"effusion": "pleura", "pneumothorax": "pleura"}),
    "vessels": (("normal", "unremarkable"), {"congestion": "vessels"}),
    "bones": (("intact",), {"fracture": "bones"}),
    "lung": (("clear", "normal", "unremarkable"), dict.fromkeys(("opacity", "consolidation", "infiltrate"), "lung")),
}
_ASIDE = frozenset({"stable", "excluded_obs"})
_READ = frozenset({"affirm", "pronoun", "dash", "open", "close"})  # needed no more once `scopes` is done
_HEART = frozenset({"heart", "cardiomediastinum"})
_WORDS_OF_NEED = frozenset({"place", "absent"})
_CACHED_SENTENCES = 1 << 16  # report sentences repeat: half of a corpus is a few thousand of them


def _wanted(item: matcher.Item, groups: set) -> bool:
    needs = item.value.needs
    if not needs:
        return True
    if "absent" in needs:
        return item.exists == 0
    if "place" in needs:
        return bool(groups)
    return bool(needs & groups)


def _drop_idle(clause: list[matcher.Item]) -> list[matcher.Item]:
    """Without the words that cannot mean a finding here, so that they do not split phrases: those whose condition no
    place of the clause meets, and normal words inside the phrase of a finding ("no clear consolidation")."""
    named = {group for item in clause if item.kind == "place" for group in item.value}
    return [item for k, item in enumerate(clause)
            if item.kind != "finding" or not ((item.value.needs - _WORDS_OF_NEED and not item.value.needs & named)
                                              or clauses.is_epithet(clause, k))]


def _is_aside(clause: list[matcher.Item], k: int, told: list[tuple]) -> bool:
    """Whether "stable" or "unchanged" at k is said of a finding, not of an anatomy ("HEART: mildly enlarged, unchanged").

    told: findings of the clause before, which "but stable" goes on with.
    """
    if clause[k].value.entity not in _ASIDE or not clause[k].value.adjective:
        return False
    if k + 1 < len(clause) and clause[k + 1].kind == "anatomy":
        return False
    for i in range(k - 1, -1, -1):
        item, before = clause[i], clause[i - 1] if i else None
        if item.kind == "finding":
            return not clauses.is_normal(item)
        if item.kind == "anatomy" and item.value.groups and not (before is not None and (
                before.kind in ("prep", "over") or (before.kind == "finding" and before.value.adjective
                                                    and not clauses.is_normal(before)))):
            return False
        if item.kind in ("restart", "neg", "with"):
            return False
        if item.kind == "stop":
            break
    return k > 0 and any(not clauses.is_normal(finding) for finding, *_ in told)


def _clause_mentions(clause: list[matcher.Item], before: list[tuple]) -> list[tuple]:
    """(finding, its places, whether it is about the rest only) of a clause.

    before: the same of the clause before, whose subject an adjective after "but" continues.
    """
    clause = _drop_idle(clause)
    scopes.assign(clause)
    clause = places.merge([item for item in clause if item.kind not in _READ])
    attach.attach(clause)
    if before and clause and clause[0].kind == "stop":
        for item in clause:
            if item.kind == "finding" and item.value.adjective and not item.places and before[-1][0].value.adjective:
                item.places = before[-1][0].places  # "the lungs are low in volume but clear"
    rest = any(item.kind in ("rest", "otherwise") for item in clause)
    out = []
    for k, item in enumerate(clause):
        if item.kind == "finding" and not _is_aside(clause, k, before):
            settled = places.settle(item)
            if _wanted(item, {group for place in settled for group in place.groups} if item.places else set()):
                out.append((item, settled, rest))
    return out


def _since(clause: list[matcher.Item], before: list[tuple]) -> list[tuple]:
    """The finding of an earlier image that a clause without a finding calls gone, or else larger ("; it is no longer seen")."""
    kinds = {item.kind for item in clause if item.kind != "finding" or item.value.entity not in _ASIDE}
    nouns = {item.value.entity: (item, settled) for item, settled, _ in before
             if item.exists and not (item.value.adjective or clauses.is_normal(item))}
    if "finding" in kinds or "side" in kinds or len(nouns) != 1 or not kinds & {"neg_post", "gone_post", "affirm"}:
        return []
    ((item, settled),) = nouns.values()
    item.exists = item.exists if kinds.isdisjoint({"neg_post", "gone_post"}) else 0
    return [(item, settled, True)]


_ELLIPTICAL = frozenset({"affirm", "pronoun", "neg_next", "gone_post"})
_ELLIPTICAL_ABSENT = frozenset({"neg", "neg_next", "neg_post", "gone_post"})


def _elliptical(clause: list[matcher.Item], before: list[tuple]) -> list[tuple]:
    """The finding of the clause before at the side that a clause without a finding names.

    "No effusion on the right; small on the left", "the left opacity has cleared while that on the right persists". Only
    where one finding can be meant.
    """
    clause = [item for item in _drop_idle(clause) if item.kind != "finding" or item.value.entity not in _ASIDE]
    kinds = [item.kind for item in clause]
    nouns = {item.value.entity: item for item, *_ in before if not (item.value.adjective or clauses.is_normal(item))}
    if "finding" in kinds or len(nouns) != 1 or not (
            _ELLIPTICAL.intersection(kinds) or any(item.value == "absent" for item in clause)):
        return []
    at = [item.value for item in places.merge(clause) if item.kind == "anatomy"]
    if not any(place.sides for place in at):
        return []
    (told,) = nouns.values()
    item = matcher.Item("finding", told.value, told.first, told.last, told.start, told.end)
    item.places = at
    if kinds[-1] == "neg_next":  # "has not": the reverse of what was said before, known only where that was "gone"
        if told.exists:
            return []
        kinds.pop()
    item.exists = 0 if _ELLIPTICAL_ABSENT.intersection(kinds) else told.exists or 1
    return [(item, places.settle(item), True)]


@functools.lru_cache(maxsize=_CACHED_SENTENCES)
def _sentence(text: str, implied: bool) -> tuple[Mention, ...]:
    """Mentions of one sentence, with spans in it."""
    out: dict[Mention, None] = {}
    parts = clauses.split(matcher.items(text))
    if not parts or not_this_image.is_asked(text):
        return ()
    found: list[tuple] = []
    once: list[tuple] = []
    earlier = not_this_image.may_be_earlier(text)
    begins = [0, *(clause[0].start for clause in parts[1:]), len(text)]
    for clause, (begin, end) in zip(parts, itertools.pairwise(begins), strict=True):
        before, found = found, _clause_mentions(clause, found)
        told, once = _since(clause, once) if once else [], []
        if earlier and not_this_image.of_earlier_image(text[begin:end], last=end == len(text)):
            once, found = found, []
            continue
        for item, settled, rest in found or told or _elliptical(clause, before):
            entity, exists = item.value.entity, item.exists
            groups = [(group, place.sides) for place in settled for group in place.groups]
            for group, sides in groups:
                for position in resolve(group, sides):
                    out[Mention(entity, position, exists, item.start, item.end)] = None
                if entity == "enlarge" and group in _HEART:
                    out[Mention("cardiomegaly", "heart_size", exists, item.start, item.end)] = None
            if not groups:
                out[Mention(entity, "unspecified", exists, item.start, item.end)] = None
            if implied and exists == 1:
                out.update(dict.fromkeys(_implied(item, groups, rest)))
    return tuple(out)


def forget() -> None:
    """Empties the cache of sentences."""
    _sentence.cache_clear()


def remember(share: float) -> None:
    """Forgets all sentences, and keeps from now on this share of as many: for one of several worker processes."""
    global _sentence
    _sentence = functools.lru_cache(int(share * _CACHED_SENTENCES))(_sentence.__wrapped__)


def _implied(item: matcher.Item, groups: list[tuple], rest: bool):
    """Mentions of what a normal statement denies."""
    one_sided = len(frozenset().union(*(sides for _, sides in groups))) == 1
    for group, sides in groups:
        words, denied = IMPLIED.get(group, ((), {}))
        if item.value.entity in words and not (group == "lung" and (rest or one_sided)):
            for entity, at in denied.items():
                for position in resolve(at, sides):
                    yield Mention(entity, position, 0, item.start, item.end)


def extract(text: str, implied: bool = True) -> list[Mention]:
    """Mentions of a report (or any text), in order; see the module's text for what they mean.

    implied: also the absences that normal statements imply, with the span of the normal word.
    """
    out = []
    for start, end in sentences(text):
        for entity, position, exists, first, last in _sentence(text[start:end], implied):
            out.append(Mention(entity, position, exists, first + start, last + start))
    return out
