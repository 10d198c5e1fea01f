"""From text to items: every phrase of the lexicon, the anatomy and the cues, found in one pass over the words.

All phrases are in one trie of words, and the longest phrase that starts at a word wins; so the cost of a report grows
with its words, not with the size of the vocabulary.
"""
import functools
import itertools
import re
from typing import NamedTuple

from medvlp_jax.reports import anatomy, cues, lexicon
from medvlp_jax.reports.lemmas import plural_stem

# A word (with "n't" apart), a level of the spine ("L1"), a number, a blank, a mark that means something. Hyphens and
# quotes are no tokens: "left-sided" is two words.
_TOKEN = re.compile(r"[A-Za-z](?=\d)\w+|[A-Za-z]+(?=n['’]t\b)|n['’]t\b|[A-Za-z]+|\d[\d.]*|_+|\+/-|[,;:/?&]")
# A dash or a bracket between words. They are no words, so that "port - a - cath (new)" reads as without them.
_MARK = re.compile(r"(?P<dash>--+|[–—]|(?<=\s)-(?=\s))|(?P<open>[(\[])|(?P<close>[)\]])")
_MAY_MARK = re.compile(r"[-–—(\[]")  # a quick look before
_BLANK = re.compile(r"x{3,}|_+")
_TYPO_LENGTHS = range(7, 30)  # shorter words have too many neighbours, longer ones are no words
# Words of their own that are one letter from one of the vocabulary.
_NO_TYPOS = frozenset("injection rejection confusion healing internal interior expander lingual prevent destiny "
                      "resolve resolves believe dilution lobotomy deceased inflection".split())


class Finding(NamedTuple):
    """What the lexicon says of a phrase: its entity, and the notation's marks."""

    entity: str
    adjective: bool
    group: str | None
    needs: frozenset  # of groups, or {"place"}, {"absent"}, {}


class Item:
    """A phrase: kind "finding" | "place" | "side" | a cue; tokens first to last, characters [start, end)."""

    __slots__ = ("kind", "value", "first", "last", "start", "end", "exists", "places")

    def __init__(self, kind, value, first, last, start, end):
        self.kind, self.value, self.first, self.last, self.start, self.end = kind, value, first, last, start, end
        self.exists, self.places = 1, ()


def expand(phrase: str) -> list[tuple[str, ...]]:
    """All word sequences of a phrase in the notation of `lexicon`, without its marks."""
    choices = []
    for word in phrase.split():
        optional = word.endswith("?") and len(word) > 1
        choices.append(word.rstrip("?").split("|") + [""] * optional if len(word) > 1 else [word])
    return [tuple(filter(None, words)) for words in itertools.product(*choices)]


def _finding(entity: str, phrase: str) -> tuple[str, Finding]:
    words, _, needs = phrase.partition("!")
    words, _, group = words.partition("@")
    group = group.strip() or None
    needs = frozenset(filter(None, (need.strip() for need in needs.split(","))))
    unknown = (needs | {group}) - set(anatomy.GROUPS) - {"place", "absent", None}
    if unknown:
        raise ValueError(f"phrase {phrase!r} of {entity!r} names no group of anatomy.GROUPS: {sorted(unknown)}")
    return words.lstrip("~"), Finding(entity, words.startswith("~"), group, needs)


def _phrases():
    """(phrase, kind, value) of every table. Findings first: a phrase may be a finding and a cue ("free of")."""
    for entity, phrases in lexicon.ENTITIES.items():
        for phrase in phrases:
            words, finding = _finding(entity, phrase)
            yield words, "finding", finding
    for group, phrases in anatomy.GROUPS.items():
        for phrase in phrases:
            yield phrase, "place", (group,)
    for phrase, groups in anatomy.level_phrases():
        yield phrase, "place", groups
    for sides, phrases in anatomy.SIDES.items():
        for phrase in phrases:
            yield phrase, "side", sides
    for cue, phrases in cues.CUES.items():
        kind, _, value = cue.partition(":")
        for phrase in phrases:
            yield phrase, kind, value or None
    for phrase in lexicon.NOTHING:
        yield phrase, "nothing", None


def _build():
    root, words = {}, set()
    for phrase, kind, value in _phrases():
        for sequence in expand(phrase):
            words.update(sequence)
            node = root
            for word in sequence:
                node = node.setdefault(word, {})
            if (kind, value) not in node.setdefault(None, []):
                node[None].append((kind, value))
    return root, frozenset(words)


_TRIE, _WORDS = _build()


def _neighbours(word: str):
    return {word[:i] + word[i + 1:] for i in range(len(word))}


@functools.cache
def _typos() -> dict[str, set[str]]:
    """{a long word, or what is left of it without one letter: the words it may be}."""
    table: dict[str, set[str]] = {}
    for word in _WORDS:
        if len(word) in _TYPO_LENGTHS:
            for key in _neighbours(word) | {word, _letters(word), _single(word)}:
                table.setdefault(key, set()).add(word)
    return table


def _letters(word: str) -> str:
    """Key of the words made of the same letters."""
    return "#" + "".join(sorted(word))


def _single(word: str) -> str:
    """Key of the words that differ in doubled letters only ("efussion")."""
    return "=" + "".join(letter for letter, _ in itertools.groupby(word))


def _one_edit(a: str, b: str) -> bool:
    """Whether one letter added, dropped, replaced, or swapped with its neighbour makes `a` into `b`."""
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    rest, other = a[start:], b[start:]
    return (rest[1:] == other or rest == other[1:] or rest[1:] == other[1:]
            or (rest[:2] == other[1::-1] and rest[2:] == other[2:]))


def _same_letters(a: str, b: str) -> bool:
    """Whether two letters of `a` changed places ("pneunomia"), or the two differ in doubled letters only."""
    swapped = len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) == 2 and sorted(a) == sorted(b)
    return swapped or _single(a) == _single(b)


@functools.lru_cache(maxsize=1 << 16)
def canonical(word: str) -> str:
    """The vocabulary's form of a lower-case word: singular, misspellings mended; other words as they are."""
    if word in _WORDS:
        return word
    if word[0].isdigit():
        return "#"
    if word in ("n't", "n’t"):
        return "not"
    if _BLANK.fullmatch(word):
        return "___"
    single = plural_stem(word)
    if single in _WORDS:
        return single
    if len(word) not in _TYPO_LENGTHS or word in _NO_TYPOS:
        return word
    for guess in dict.fromkeys((word, single)):
        keys = _neighbours(guess) | {guess, _letters(guess), _single(guess)}
        near = set().union(*(_typos().get(key, ()) for key in keys))
        near = {other for other in near if other[0] == guess[0] and (_one_edit(guess, other) or _same_letters(guess, other))}
        if len(near) == 1:
            return near.pop()
    return word


def items(text: str, start: int = 0, end: int | None = None) -> list[Item]:
    """The phrases of text[start:end] in order; words outside the vocabulary leave gaps in the token numbers."""
    end = len(text) if end is None else end
    found = list(_TOKEN.finditer(text, start, end))
    words = [canonical(m.group().lower()) for m in found]
    out, i, n = [], 0, len(found)
    while i < n:
        node = _TRIE.get(words[i])
        if node is None:
            i += 1
            continue
        j, last, values = i, i, node.get(None)
        while (j := j + 1) < n and (node := node.get(words[j])) is not None:
            if None in node:
                last, values = j, node[None]
        if values:
            begin, stop = found[i].start(), found[last].end()
            for kind, value in values:
                out.append(Item(kind, value, i, last, begin, stop))
        i = last + 1
    return _with_marks(out, text, start, end) if out and _MAY_MARK.search(text, start, end) else out


def _with_marks(found: list[Item], text: str, start: int, end: int) -> list[Item]:
    """Puts the dashes and brackets that stand between phrases into the list; those within a phrase mean nothing."""
    marks = [Item(m.lastgroup, None, -1, -1, m.start(), m.end()) for m in _MARK.finditer(text, start, end)]
    if not marks:
        return found
    out = []
    marks.reverse()
    for item in found:
        while marks and marks[-1].start < item.start:
            out.append(marks.pop())
        while marks and marks[-1].start < item.end:
            marks.pop()
        out.append(item)
    return out + marks[::-1]
