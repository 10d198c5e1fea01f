"""Triplets (entity, position, exists) as label arrays, and the candidate positions of the location loss.

Spec: MedKLIP (arXiv 2301.02228), section "report filter" and the location contrast.
"""
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from medvlp_jax.reports import vocab

NOT_MENTIONED, ABSENT, PRESENT, UNCERTAIN = -1, 0, 1, 2
NUM_CANDIDATES = 8

# Within one cell a stronger statement stays: present, then uncertain, then absent.
_STRENGTH = {NOT_MENTIONED: 0, ABSENT: 1, UNCERTAIN: 2, PRESENT: 3}
_VALUE = np.asarray([NOT_MENTIONED, ABSENT, UNCERTAIN, PRESENT], np.int8)

_ABNORMAL = frozenset(vocab.ABNORMAL) - frozenset(vocab.NEUTRAL) | {vocab.TAIL}


class Mention(NamedTuple):
    """One statement of a report: `entity` at `position` is absent (0), present (1) or uncertain (2).

    entity: name of vocab.ENTITIES; position: name of vocab.POSITIONS
    start, end: character span in the text it was read from
    """

    entity: str
    position: str
    exists: int
    start: int
    end: int


def presence(mentions: Iterable[Mention]) -> np.ndarray:
    """-> (A, K) = (51, 75) int8: -1 not mentioned, 0 absent, 1 present, 2 uncertain.

    Where one cell is stated more than once, present wins over uncertain, and uncertain over absent.

    Raises:
      KeyError: a mention names an entity or position that is not in the vocabulary.
    """
    strength = np.zeros((len(vocab.POSITIONS), len(vocab.ENTITIES)), np.int8)
    for m in mentions:
        cell = vocab.position_index(m.position), vocab.entity_index(m.entity)
        strength[cell] = max(strength[cell], _STRENGTH[m.exists])
    return _VALUE[strength]  # (A, K)


def existence_labels(presence: np.ndarray) -> np.ndarray:
    """(A, K) -> (K,) int8: 1 if present at any position, else 2 if uncertain at any, else 0 if absent at any, else -1.

    On matrices without 2 (as the published filter makes them) this is the published rule.
    """
    _check(presence)
    strength = np.zeros(presence.shape, np.int8)
    for value, rank in _STRENGTH.items():
        strength[presence == value] = rank
    return _VALUE[strength.max(0)]  # (K,)


def candidate_positions(presence: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(A, K) -> (K, 8) int32 positions for the location contrast, drawn anew at each call.

    An entity that is present: candidate 0 is one of its true positions at random, the other 7 are drawn without
    replacement among the positions that are not true. Any other entity: 8 neighbours (the loss never reads
    them).

    Raises:
      ValueError: an entity is present at so many positions that too few are left.
    """
    _check(presence)
    true = presence.T == PRESENT  # (K, A)
    if true.sum(1).max() > true.shape[1] - NUM_CANDIDATES:
        worst = vocab.ENTITIES[int(true.sum(1).argmax())]
        raise ValueError(f"{worst!r} is present at {int(true.sum(1).max())} of {true.shape[1]} positions; the location "
                         f"contrast needs at least {NUM_CANDIDATES} others")
    k, a = true.shape
    out = ((rng.integers(a, size=(k, 1)) + np.arange(NUM_CANDIDATES)) % a).astype(np.int32)  # (K, 8)
    present = np.flatnonzero(true.any(1))  # (P,)
    true = true[present]
    keys = rng.random(true.shape, np.float32)  # (P, A)
    # The smallest keys among the positions that are not true are a draw without replacement.
    out[present, 1:] = np.argpartition(np.where(true, 2.0, keys), NUM_CANDIDATES - 2, axis=1)[:, :NUM_CANDIDATES - 1]
    out[present, 0] = np.where(true, keys, -1.0).argmax(1)
    return out


def present_entities(presence: np.ndarray) -> np.ndarray:
    """(A, K) -> (P,) int32 indices of the entities that are present, ascending."""
    return np.flatnonzero(existence_labels(presence) == PRESENT).astype(np.int32)


def is_abnormal(mentions: Iterable[Mention]) -> bool:
    """Whether a report is not normal: any abnormality is stated as present or possible.

    Counts the abnormal entities and the catch-all, devices too (a pacemaker makes a report "not normal"), but not words
    that describe normal images as well (vocab.NEUTRAL: "expand", "marking", ...), nor `excluded_obs`.
    """
    return any(m.exists in (PRESENT, UNCERTAIN) and m.entity in _ABNORMAL for m in mentions)


def _check(presence: np.ndarray) -> None:
    expected = (len(vocab.POSITIONS), len(vocab.ENTITIES))
    if np.shape(presence) != expected:
        raise ValueError(f"presence has shape {np.shape(presence)}, expected (positions, entities) = {expected}")
