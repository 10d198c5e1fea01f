"""RadGraph annotations -> mentions, as the report filter published with MedKLIP reads them.

Three steps: `itemise` (one row per entity and relation, with its sentence), `observe` (anatomy heads and the
observations located at them), `mentions` (lemma groups and landmarks of the label space). `published=True` repeats the
published program to the letter, otherwise two of its slips are avoided:
- it counts RadGraph's token indices in a differently tokenised text, so that a word like "cannot" (two tokens there)
  shifts every later entity by one, possibly into another sentence;
- it drops uncertain observations (OBS-U), which here become 2 ("uncertain"); the losses mask both.
The honest variant also folds -ing nouns ("thickening", "widening") into their entity, which the published table misses.
"""
import functools
import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import PurePath, PurePosixPath
from typing import NamedTuple

from medvlp_jax.reports import vocab
from medvlp_jax.reports.lemmas import lemma
from medvlp_jax.reports.triplets import Mention

_EXISTS = {"OBS-DP": 1, "OBS-DA": 0, "OBS-U": 2}
# RadGraph-XL spells the same labels out.
_LONG_LABELS = {"Anatomy::definitely present": "ANAT-DP", "Observation::definitely present": "OBS-DP",
                "Observation::definitely absent": "OBS-DA", "Observation::uncertain": "OBS-U"}
_EXTRA_MERGE = {"thickening": "thicken", "widening": "widen", "crowding": "crowd", "calcify": "calcification"}

# How a treebank tokeniser cuts a word that holds no white space, as far as report text needs it.
_PIECES = re.compile(r"can(?=not$)|(?<=can)not$|n't$|'(?:s|m|d|ll|re|ve)$|\.\.\.|--|[][(){}<>;@#$%&?!]|[,:](?!\d)|\"|"
                     r"(?:(?!n't$|'(?:s|m|d|ll|re|ve)$|cannot$|--|\.\.\.|[,:](?!\d))[^][(){}<>;@#$%&?!\"])+", re.I)


class Item(NamedTuple):
    """One entity with one of its relations (empty strings where it has none). source, target: entity keys."""

    source: str
    token: str
    token_ix: int
    label: str
    relation: str
    target: str
    sentence_ix: int


class Observation(NamedTuple):
    """An observation word at an anatomy; `label` is None (and `observation` empty) for an anatomy without one.

    anatomy: head word and its modifiers joined by "|", or "unspecified"; modify, suggestive: words pointing at it
    """

    sentence_ix: int
    anatomy: str
    observation: str
    label: str | None
    modify: str
    suggestive: str
    source: str


@functools.cache
def _tables() -> dict:
    return json.loads(resources.files("medvlp_jax.reports").joinpath("knowledge/radgraph.json").read_text("utf-8"))


def study_id(key: str) -> str:
    """"p10/p10000001/s50000001.txt" -> "50000001"."""
    return PurePosixPath(key).stem[1:]


def sentence_of_tokens(text: str, published: bool = False) -> list[int]:
    """Sentence index of every token; RadGraph's tokens are split by white space.

    published: count the pieces that a treebank tokeniser makes instead, as the published program does.
    """
    out, sentence = [], 0
    for word in text.split():
        out += [sentence] * (len(_PIECES.findall(word)) or 1 if published else 1)
        sentence += word.endswith((".", "?", "!")) and not word.endswith("..")
    return out


def itemise(entry: Mapping, published: bool = False) -> list[Item]:
    """Rows of one report {"text": str, "entities": {key: {"tokens", "label", "start_ix", "end_ix", "relations"}}}.

    Raises:
      ValueError: the entry lacks a field, with what it has.
      KeyError: an entity starts beyond the end of the text.
    """
    found = (entry.get("text"), entry.get("entities")) if isinstance(entry, Mapping) else (None, None)
    if not isinstance(found[0], str) or not isinstance(found[1], Mapping):
        raise ValueError("a RadGraph entry needs 'text' and 'entities', this one has "
                         f"{sorted(entry) if isinstance(entry, Mapping) else type(entry).__name__}")
    sentences = sentence_of_tokens(entry["text"], published)
    rows = []
    for key, e in entry["entities"].items():
        tokens, label, start, relations = _fields(key, e)
        if not 0 <= start < len(sentences):
            raise KeyError(f"entity {key} ({tokens!r}) starts at token {start}, but the text has {len(sentences)} tokens")
        rows += [Item(key, tokens, start, _LONG_LABELS.get(label, label), relation, target, sentences[start])
                 for relation, target in relations or [("", "")]]
    return rows


def _fields(key: str, e) -> tuple[str, str, int, list]:
    """tokens, label, start_ix and relations of an entity. Raises a ValueError where they are not of their kind."""
    try:
        tokens, label, start, end, relations = (e[k] for k in ("tokens", "label", "start_ix", "end_ix", "relations"))
        relations = [(str(relation), str(target)) for relation, target in relations]
        if not isinstance(tokens, str) or not isinstance(label, str) or not start <= end:
            raise ValueError(f"tokens {tokens!r}, label {label!r}, tokens {start} to {end}")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"RadGraph entity {key} is not as expected ({type(error).__name__}: {error}); expected tokens, label, "
                         "start_ix, end_ix and relations [[name, entity], ...]") from None
    return tokens, label, start, relations


def _observe_sentence(rows: list[Item]) -> list[Observation]:
    ix = rows[0].sentence_ix
    heads = {r.source: r for r in rows if r.label == "ANAT-DP" and not r.relation}
    findings = [r for r in rows if r.label in _EXISTS]
    loose = [r for r in findings if not r.relation]

    def pointing_at(source: str, relation: str) -> str:
        return "|".join(r.token.lower() for r in rows
                        if r.label == "OBS-DP" and r.relation == relation and r.target == source)

    def observation(anatomy: str, r: Item) -> Observation:
        return Observation(ix, anatomy, r.token.lower(), r.label, pointing_at(r.source, "modify"),
                           pointing_at(r.source, "suggestive_of"), r.source)

    def empty(anatomy: str) -> Observation:
        return Observation(ix, anatomy, "", None, "", "", "")

    out = []
    for key, head in heads.items():
        modifiers = {r.source: r.token for r in rows if r.label == "ANAT-DP" and r.target == key}
        anatomy = "|".join([head.token, *modifiers.values()]).lower()
        located = [observation(anatomy, r) for r in findings
                   if r.relation == "located_at" and (r.target == key or r.target in modifiers)]
        # Loose observations are given once per head: duplicates across heads are part of the published output.
        out += list(dict.fromkeys(located or [empty(anatomy)])) + [observation("unspecified", r) for r in loose]
    if not heads:
        out = [observation("unspecified", r) for r in loose] or [empty("unspecified")]
    return out


def observe(rows: list[Item]) -> list[Observation]:
    """Observations of one report's rows, sentence by sentence; relations across sentences are not followed."""
    by_sentence: dict[int, list[Item]] = {}
    for r in rows:
        by_sentence.setdefault(r.sentence_ix, []).append(r)
    return [o for _, some in sorted(by_sentence.items()) for o in _observe_sentence(some)]


@functools.lru_cache(maxsize=1 << 14)
def landmark(anatomy: str) -> str:
    """The position of "lobe|right|lower": the first landmark of the table that fits, else "other"."""
    words = set(anatomy.split("|"))
    for name, rule in _tables()["landmarks"].items():
        fits = (words.intersection(rule["any"]) and all(words.intersection(some) for some in rule.get("all", ()))
                and not words.intersection(rule.get("none", ())))
        if fits or anatomy in rule.get("exact", ()):
            return name
    return "unspecified" if anatomy == "unspecified" else "other"


@functools.lru_cache(maxsize=1 << 14)
def merged_lemma(observation: str, published: bool = False) -> str:
    """"opacities" -> "opacity", "enlargement" -> "enlarge"; an empty observation -> "none"."""
    base = " ".join(map(lemma, observation.split())) or "none"
    if not published:
        base = _EXTRA_MERGE.get(base, base)
    return next((group for group, some in _tables()["merge"].items() if base in some), base)


def entity(merged: str) -> str:
    """The entity of a merged lemma; what is in no list goes to the catch-all."""
    if merged in vocab.RADGRAPH_EXCLUDED:
        return vocab.EXCLUDED
    return merged if merged in vocab.NORMAL or merged in vocab.ABNORMAL else vocab.TAIL


def mentions(entry: Mapping, published: bool = False) -> list[Mention]:
    """Mentions of one RadGraph entry, with spans in its text; `triplets.presence` makes the matrix of them.

    published: the published program's token shift, and no uncertain mentions.
    """
    observed = observe(itemise(entry, published))
    spans = [m.span() for m in re.finditer(r"\S+", entry["text"])]
    out = []
    for o in observed:
        if o.label is None or (published and o.label == "OBS-U"):
            continue
        e = entry["entities"][o.source]
        out.append(Mention(entity(merged_lemma(o.observation, published)), landmark(o.anatomy), _EXISTS[o.label],
                           spans[min(e["start_ix"], len(spans) - 1)][0], spans[min(e["end_ix"], len(spans) - 1)][1]))
    return out


def read(source: str | Mapping, published: bool = False) -> dict[str, list[Mention]]:
    """{study id: mentions} of a RadGraph JSON file or of its parsed content {"p10/p1/s2.txt": entry}.

    Raises:
      ValueError: the content is no mapping of report names to entries, or an entry lacks a field. RadGraph-XL's list, as of
        CheXpert Plus, has no names: it is joined by its texts (input/annotations.py).
    """
    if isinstance(source, str | PurePath):
        with open(source, encoding="utf-8") as f:
            source = json.load(f)
    if not isinstance(source, Mapping):
        raise ValueError(f"RadGraph JSON should map report names to entries, got a {type(source).__name__}; a list "
                         "without names, as of RadGraph-XL, is given as --annotations (data.annotations)")
    return {study_id(key): mentions(entry, published) for key, entry in source.items()}
