"""Writes a scene's report by grammar, and keeps the truth of what it says.

The truth is made with the sentences, never read back from them: each sentence carries its facts (entity, position,
exists). A slight finding is now and then left out, any finding may be only suspected, and not every absent finding is
denied, so that labels from reports are incomplete, as in life.
"""

import random
from typing import NamedTuple

from medvlp_jax.input import phantom_phrases as words
from medvlp_jax.input.phantom_scene import Finding, Scene
from medvlp_jax.reports.triplets import ABSENT, UNCERTAIN, Mention

# Chance that an absent finding is denied. Pleura, heart and lung are what every report comments on.
_DENY = {"effusion": 0.7, "pneumothorax": 0.7, "cardiomegaly": 0.65, "consolidation": 0.6}
_DENY_OTHER = 0.4
_OMIT, _DOUBT = 0.15, 0.06  # a slight finding (severity below 0.3) is not mentioned; any finding is only suspected
_FALSE_DOUBT = 0.04  # a report suspects something that is not there
_PRIOR = 0.2
_SILENT = {
    "calcification",
    "hernia",
    "pacemaker",
    "tube",
    "picc",
    "hyperinflate",
    "fracture",
}  # not "acute cardiopulmonary"

PART = {name: part for part, names in words.DENIED.items() for name in names}


class Report(NamedTuple):
    """text, and the mentions it makes: (entity, position, exists, span of the sentence that says so)."""

    text: str
    mentions: list[Mention]


def write(scene: Scene, rng: random.Random) -> Report:
    """The report of a scene: optional indication and comparison, findings, impression."""
    silent = {f.name for f in scene.findings if f.severity < 0.3 and rng.random() < _OMIT}
    said = [f for f in scene.findings if f.name not in silent]
    doubted = {f.name for f in said if rng.random() < _DOUBT}
    parts: dict[str, list] = {part: [] for part in words.DENIED}
    for f in said:
        parts[PART[f.name]].append(_doubt(f, rng) if f.name in doubted else _state(f, rng))
    _add_normal(scene, rng, parts)
    absent = {name for name in PART if not scene.find(name)}
    if absent and rng.random() < _FALSE_DOUBT:
        name = rng.choice(sorted(absent & {"opacity", "nodule", "edema", "effusion"}) or sorted(absent))
        noun, position = words.DENIED[PART[name]][name]
        parts[PART[name]].append((f"A subtle {noun[-1]} cannot be excluded.", [(name, position, UNCERTAIN)]))
        absent.discard(name)
    for part, statements in parts.items():
        statements += _deny(part, absent, rng)
    findings = [s for statements in parts.values() for s in statements]
    return _assemble(findings, _impression(scene, said, doubted, rng), rng)


def _facts(text: str) -> list[tuple[str, str, int]]:
    out = []
    for fact in text.split():
        place, exists = fact.split("=")
        entity, position = place.split("@")
        out.append((entity, position, int(exists)))
    return out


def _phrase(f: Finding, rng: random.Random, clauses: bool, plain: bool = False):
    """A phrase for a finding -> (kind, text, facts); sentences only if `clauses`, remarks only if not `plain`."""
    variants = [f"{f.name} both"] if f.side == "both" else []
    variants += [f"{f.name} apical"] if f.positions[0].endswith("apical_lung") else []
    step = min(2, int(3 * max(0.0, f.severity)))
    variants += [f"{f.name} {f.positions[0]}"] + [f"{f.name} slight"] * (step == 0) + [f.name]
    table = next(words.PHRASES[v] for v in variants if v in words.PHRASES)
    if not clauses:
        table = [p for p in table if p[0] != "."] or table
    if plain:
        table = [p for p in table if not p[2]] or table
    kind, text, facts = rng.choice(table)
    radius = f.shape.get("radius", 0.0)
    fill = {
        "side": f.side,
        "Side": f.side.capitalize(),
        "size": words.SIZES[step],
        "grade": words.GRADES[step],
        "at": f.positions[0],
        "adverb": words.ADVERBS[step],
        "where": rng.choice(words.PLACES.get(f.positions[0], ("",))),
        "mm": round(660 * radius),
        "cm": round(72 * radius),
    }
    own = _facts(facts.format(**fill))
    if not any(entity == f.name for entity, _, _ in own):
        own = [(f.name, position, 1) for position in f.positions] + own
    return kind, text.format(**fill), own


def _fill(frame: str, np: str, prior: str = "") -> str:
    article = "an" if np[0] in "aeio8" else "a"
    return frame.format(np=np, Np=np[0].upper() + np[1:], a=article, A=article.capitalize(), prior=prior)


def _state(f: Finding, rng: random.Random, brief: bool = False):
    """A sentence that states a finding -> (text, facts)."""
    kind, np, facts = _phrase(f, rng, clauses=not brief)
    prior = rng.choice(words.PRIOR) if not brief and rng.random() < _PRIOR and "pneumonia" not in np else ""
    return _fill("{Np}." if brief else rng.choice(words.PRESENT_FRAMES[kind]), np, prior), facts


def _doubt(f: Finding, rng: random.Random):
    """A sentence that only suspects a finding -> (text, facts)."""
    kind, np, facts = _phrase(f, rng, clauses=False, plain=True)
    if kind == ".":
        return _fill("{Np}.", np), facts
    return _fill(rng.choice(words.UNCERTAIN_FRAMES[kind]), np), [
        (entity, position, UNCERTAIN) for entity, position, _ in facts
    ]


def _add_normal(scene: Scene, rng: random.Random, parts: dict) -> None:
    for part, forbidden, sentences, facts in words.NORMAL:
        if rng.random() < 0.5 and not any(scene.find(name) for name in forbidden):
            parts[part].append((rng.choice(sentences), _facts(facts)))


def _deny(part: str, absent: set, rng: random.Random) -> list:
    """Sentences that deny some absent findings of one part of the body."""
    names = [n for n in words.DENIED[part] if n in absent and rng.random() < _DENY.get(n, _DENY_OTHER)]
    if not names:
        return []
    if len(names) == 1 and names[0] in words.DENIALS and rng.random() < 0.6:
        text, facts = rng.choice(words.DENIALS[names[0]])
        return [(text, _facts(facts))]
    rng.shuffle(names)
    nouns = [rng.choice(words.DENIED[part][n][0]) for n in names]
    listed = nouns[-1]
    if len(nouns) > 1:
        listed = ", ".join(nouns[:-1]) + (", or " if len(nouns) > 2 and rng.random() < 0.5 else " or ") + listed
    facts = [(name, words.DENIED[part][name][1], ABSENT) for name in names]
    return [(rng.choice(words.DENIAL_FRAMES).format(list=listed), facts)]


def _impression(scene: Scene, said: list, doubted: set, rng: random.Random) -> list:
    """Up to three findings once more, or that there is nothing."""
    if not scene.findings:
        return [(text, _facts(facts)) for text, facts in (rng.choice(words.UNREMARKABLE),)]
    chosen = rng.sample(said, min(len(said), 3))
    out = [_doubt(f, rng) if f.name in doubted else _state(f, rng, brief=True) for f in chosen]
    if all(f.name in _SILENT for f in scene.findings):
        text, facts = rng.choice(words.UNREMARKABLE[:2])
        out.append((text, _facts(facts)))
    return out


def _assemble(findings: list, impression: list, rng: random.Random) -> Report:
    text, mentions = "", []
    if rng.random() < 0.3:
        text += f"INDICATION: {rng.choice(words.INDICATIONS)}\n"
    followed = any("prior" in sentence or "removed" in sentence for sentence, _ in findings)
    if rng.random() < 0.3:
        text += f"COMPARISON: {rng.choice(words.COMPARISONS[1:] if followed else words.COMPARISONS)}\n"
    for heading, statements, numbered in (
        ("FINDINGS", findings, False),
        ("IMPRESSION", impression, len(impression) > 1 and rng.random() < 0.5),
    ):
        if not statements:
            continue
        text += f"{heading}:"
        for number, (sentence, facts) in enumerate(statements, 1):
            text += f" {number}. " if numbered else " "
            mentions += [
                Mention(entity, position, exists, len(text), len(text) + len(sentence))
                for entity, position, exists in facts
            ]
            text += sentence
        text += "\n"
    return Report(text.rstrip("\n"), mentions)
