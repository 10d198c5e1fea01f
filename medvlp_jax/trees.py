"""Parameter trees by slash-joined name: rules, masks and merges whose errors name every leaf."""
import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np


def name_of(path) -> str:
    """Slash-joined name of a key path: "params/image_encoder/block_0/mlp/kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree) -> dict[str, Any]:
    """{name: leaf} in tree order."""
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def digest(facts: tuple, tree) -> str:
    """16 hexadecimal digits of SHA-256 over plain values and the bytes of all arrays: names what was computed from them."""
    found = hashlib.sha256(repr(facts).encode())
    for leaf in jax.tree.leaves(tree):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()[:16]


def map_named(fn: Callable[..., Any], tree, *rest):
    """Tree of fn(name, leaf), or of fn(name, leaf, other leaf, ...) with trees of the same structure in `rest`."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: fn(name_of(path), *leaves), tree, *rest)


def match(tree, rules: Sequence[tuple[str, Any]], what: str = "rule"):
    """Tree with, for each leaf, the value of the first rule whose regular expression is found in its name.

    Raises:
      ValueError: names every leaf that no rule covers (a silent default would hide a renamed parameter).
    """
    compiled = [(re.compile(pattern), value) for pattern, value in rules]
    uncovered = []

    def value_of(name, _):
        for pattern, value in compiled:
            if pattern.search(name):
                return value
        uncovered.append(name)

    out = map_named(value_of, tree)
    if uncovered:
        raise ValueError(f"no {what} covers: {', '.join(uncovered)}; rules: {[p for p, _ in rules]}")
    return out


def stop_gradients(tree, patterns: Sequence[str]):
    """The tree with constants in place of the leaves whose names match one of the patterns."""
    if not patterns:
        return tree
    frozen = re.compile("|".join(f"(?:{p})" for p in patterns))
    return map_named(lambda name, x: jax.lax.stop_gradient(x) if frozen.search(name) else x, tree)


def check_patterns_used(tree, patterns: Sequence[str], what: str) -> None:
    """A pattern that matches no leaf is a misspelling: raises ValueError with some of the names there are."""
    names = list(flatten(tree))
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            some = names[:: max(len(names) // 8, 1)]
            raise ValueError(f"{what} pattern {pattern!r} matches no parameter; some names: {some}")


def differences(expected, got) -> list[str]:
    """Human-readable differences of names and shapes between two trees of arrays (or ShapeDtypeStructs)."""
    want, have = flatten(expected), flatten(got)
    lines = [f"missing {n} {np.shape(want[n])}" for n in want if n not in have]
    lines += [f"unexpected {n} {np.shape(have[n])}" for n in have if n not in want]
    lines += [
        f"{n}: expected shape {np.shape(want[n])}, came {np.shape(have[n])}"
        for n in want
        if n in have and np.shape(want[n]) != np.shape(have[n])
    ]
    return lines


def merge(base: dict, part: dict, at: str, what: str) -> dict:
    """`base` (nested dicts) with the subtree at slash-joined name `at` replaced by `part`, cast to base's dtypes.

    Raises:
      ValueError: the subtree is absent, or names and shapes differ; every difference is named.
    """
    head, _, rest = at.partition("/")
    if head not in base:
        raise ValueError(f"{what}: no {head!r} to load into; there are: {', '.join(base)}")
    if rest:
        return {**base, head: merge(base[head], part, rest, what)}
    if lines := differences(base[head], part):
        shown = "; ".join(lines[:20]) + (f"; and {len(lines) - 20} more" if len(lines) > 20 else "")
        raise ValueError(f"{what} does not fit {at!r}: {shown}")
    loaded = jax.tree.map(lambda old, new: np.asarray(new).astype(old.dtype), base[head], part)
    return {**base, head: loaded}


def count(tree) -> int:
    """Number of values in a tree."""
    return sum(int(np.prod(np.shape(x))) for x in jax.tree.leaves(tree))
