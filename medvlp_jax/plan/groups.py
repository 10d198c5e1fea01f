"""Which devices a collective joins, in any of the notations of XLA's HLO text."""

import re

import numpy as np


def replica_groups(text: str, devices: int) -> np.ndarray:
    """(groups, members) of the attribute replica_groups or source_target_pairs, in any of its notations.

    A permutation is one group of all devices that send or receive; no groups at all are one of all devices.

    Raises:
      ValueError: a notation that is not known.
    """
    if pairs := re.search(r"source_target_pairs=\{((?:\{[\d,]+\},?)*)\}", text):
        return np.array([sorted({int(n) for n in re.findall(r"\d+", pairs[1])})])
    if iota := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        return _iota(iota[2], iota[3]).reshape(_numbers(iota[1]))
    if mesh := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? ?\{([^}]*)\}", text
    ):
        sizes = {name: int(n) for name, n in re.findall(r"('[^']+')=(\d+)", mesh[1])}
        along = [part.strip() for part in mesh[4].split(",")]
        if set(along) <= set(sizes):  # whole axes
            shape = list(sizes.values())
            ids = _iota(mesh[2], mesh[3]) if mesh[2] else np.arange(np.prod(shape))
            order = [list(sizes).index(name) for name in [n for n in sizes if n not in along] + along]
            return ids.reshape(shape).transpose(order).reshape(-1, np.prod([sizes[name] for name in along]))
    if listed := re.search(r"replica_groups=\{(\{.*?\})\}", text):
        return np.array([[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", listed[1])])
    if unknown := re.search(r"replica_groups=(?!\{\}).{1,120}", text):
        raise ValueError(f"the compiler writes {unknown[0]!r}, a notation of groups that the planner does not know")
    return np.arange(devices)[None]


def _numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def _iota(dims: str, order: str | None) -> np.ndarray:  # positions in the order of "2,4" and, transposed, "1,0"
    ids = np.arange(np.prod(_numbers(dims))).reshape(_numbers(dims))
    return (ids.transpose(_numbers(order)) if order else ids).ravel()
