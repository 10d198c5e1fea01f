"""Name maps between published torch checkpoints and our variables: rows (theirs, ours, transform), used both ways.

A row's names may hold {placeholders} for numbers: "blocks.{i}.norm1.weight" <-> "params/block_{i}/attention_norm/scale".
Our names are slash-joined and begin with the collection ("params", "batch_stats"). Where one of their tensors holds
several of ours stacked along its first axis (packed query, key, value), `ours` names all of them.
"""
import functools
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util


class Transform(NamedTuple):
    """into: (their tensor, number of our arrays) -> our arrays; back: our arrays -> their tensor. Exact inverses."""

    into: Callable[[np.ndarray, int], Sequence[np.ndarray]]
    back: Callable[[Sequence[np.ndarray]], np.ndarray]


class Row(NamedTuple):
    theirs: str
    ours: tuple[str, ...]
    transform: Transform


class Table(NamedTuple):
    """rows: the map. dropped: regular expressions of their tensors that we deliberately do not take.

    renames: (pattern, replacement) applied to their names first: prefixes and older spellings.
    """

    rows: tuple[Row, ...]
    dropped: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()


def _stacked(one: Callable[[np.ndarray], np.ndarray], back: Callable[[np.ndarray], np.ndarray]) -> Transform:
    return Transform(
        lambda tensor, n: [one(part) for part in np.split(tensor, n)],
        lambda arrays: np.concatenate([back(a) for a in arrays]) if len(arrays) > 1 else back(arrays[0]),
    )


SAME = _stacked(lambda t: t, lambda a: a)
LINEAR = _stacked(lambda t: t.transpose(1, 0), lambda a: a.transpose(1, 0))  # (out, in) <-> (in, out)
CONV = _stacked(lambda t: t.transpose(2, 3, 1, 0), lambda a: a.transpose(3, 2, 0, 1))  # (out, in, h, w) <-> (h, w, in, out)
TOKEN = Transform(lambda t, _: [t[0, 0]], lambda arrays: arrays[0][None, None])  # (1, 1, C) <-> (C,)


def _split_positions(tensor: np.ndarray, _: int) -> list[np.ndarray]:
    side = round((tensor.shape[1] - 1) ** 0.5)
    return [tensor[0, 0], tensor[0, 1:].reshape(side, side, tensor.shape[2])]


def _join_positions(arrays: Sequence[np.ndarray]) -> np.ndarray:
    token, (rows, columns, width) = arrays[0], arrays[1].shape
    if rows != columns:  # theirs would lose which is which
        raise ValueError(f"published formats hold square position grids only, came {rows} x {columns}")
    return np.concatenate([token[None], arrays[1].reshape(-1, width)])[None]


POSITIONS = Transform(_split_positions, _join_positions)  # (1, 1 + h * h, C) <-> class token's (C,), grid (h, h, C)


def row(theirs: str, ours: str | Sequence[str], transform: Transform) -> Row:
    """`ours` without collection is a parameter."""
    names = (ours,) if isinstance(ours, str) else tuple(ours)
    return Row(theirs, tuple(n if n.startswith("batch_stats/") else f"params/{n}" for n in names), transform)


def linear(theirs: str, ours: str | Sequence[str]) -> tuple[Row, Row]:
    """Weight and bias of a torch Linear <-> kernel and bias of our Dense layer(s)."""
    names = (ours,) if isinstance(ours, str) else tuple(ours)
    return (
        row(f"{theirs}.weight", [f"{n}/kernel" for n in names], LINEAR),
        row(f"{theirs}.bias", [f"{n}/bias" for n in names], SAME),
    )


def norm(theirs: str, ours: str) -> tuple[Row, Row]:
    """Weight and bias of a torch normalisation <-> scale and bias."""
    return row(f"{theirs}.weight", f"{ours}/scale", SAME), row(f"{theirs}.bias", f"{ours}/bias", SAME)


def attention(theirs: str, ours: str) -> tuple[Row, ...]:
    """torch's MultiheadAttention, whose query, key and value are packed, <-> `models.fusion.MultiHeadAttention`."""
    parts = [f"{ours}/{name}" for name in ("query", "key", "value")]
    return (
        row(f"{theirs}.in_proj_weight", [f"{n}/kernel" for n in parts], LINEAR),
        row(f"{theirs}.in_proj_bias", [f"{n}/bias" for n in parts], SAME),
        *linear(f"{theirs}.out_proj", f"{ours}/out"),
    )


def moved(table: Table, theirs: Callable[[str], str], ours: str) -> Table:
    """The table for a part of a whole checkpoint: `theirs` rewrites their names, `ours` is the subtree, e.g. "image".

    `dropped` is rewritten too (it must stay a regular expression); `renames` are left to the whole checkpoint's table.
    """

    def put(name):
        collection, rest = name.split("/", 1)
        return f"{collection}/{ours}/{rest}"

    rows = tuple(Row(theirs(r.theirs), tuple(map(put, r.ours)), r.transform) for r in table.rows)
    return Table(rows, tuple(map(theirs, table.dropped)))


def join(*tables: Table) -> Table:
    """One table of several; the first row that matches a name counts."""
    return Table(*(tuple(item for table in tables for item in table[field]) for field in range(3)))


@functools.cache
def _pattern(template: str) -> re.Pattern:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(template)))


def _match(template: str, name: str) -> dict[str, str] | None:
    """Numbers of the placeholders, or None where the name is not of this template."""
    hit = _pattern(template).fullmatch(name)
    return hit and hit.groupdict()


def _their_row(table: Table, name: str) -> Row | None:
    """The row for one of their names, with the numbers filled in."""
    for theirs, ours, transform in table.rows:
        if (numbers := _match(theirs, name)) is not None:
            return Row(name, tuple(o.format(**numbers) for o in ours), transform)
    return None


def _our_row(table: Table, name: str) -> Row | None:
    """The row for one of our names, with the numbers filled in."""
    for theirs, ours, transform in table.rows:
        for template in ours:
            if (numbers := _match(template, name)) is not None:
                return Row(theirs.format(**numbers), tuple(o.format(**numbers) for o in ours), transform)
    return None


def _list(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def renamed(table: Table, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors under the table's names, without the deliberately dropped ones.

    Raises:
      ValueError: two tensors get the same name.
    """
    out, origin = {}, {}
    for name, tensor in tensors.items():
        new = name
        for pattern, replacement in table.renames:
            new = re.sub(pattern, replacement, new)
        if any(re.fullmatch(pattern, new) for pattern in table.dropped):
            continue
        if new in out:
            raise ValueError(f"tensors {origin[new]!r} and {name!r} are both {new!r}: more than one model in the file?")
        out[new], origin[new] = tensor, name
    return out


def our_shapes(table: Table, tensors: dict[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """{our name: shape} of the tensors that the table knows and can transform: what constructor fields are read from."""
    shapes = {}
    for name, tensor in tensors.items():
        if found := _their_row(table, name):
            try:
                parts = found.transform.into(np.broadcast_to(np.int8(0), np.shape(tensor)), len(found.ours))
            except (ValueError, IndexError):  # wrong shape: `read` names it once the right one is known
                continue
            shapes |= {ours: part.shape for ours, part in zip(found.ours, parts, strict=True)}
    return shapes


def size(table: Table, shapes: dict[str, tuple[int, ...]], name: str, axis: int) -> int:
    """One dimension of the array with our name, from `our_shapes`.

    Raises:
      ValueError: the tensor it comes from is missing or has too few dimensions; it is named.
    """
    if name not in shapes or len(shapes[name]) <= axis:
        theirs = _our_row(table, name).theirs
        raise ValueError(f"tensor {theirs!r} is missing or wrongly shaped; without it the model's size is unknown")
    return shapes[name][axis]


def count(shapes: dict[str, tuple[int, ...]], pattern: str) -> int:
    """1 + the largest number that the group of `pattern` has at the beginning of our names; 0 without any."""
    return max((int(m[1]) + 1 for m in (re.match(pattern, name) for name in shapes) if m), default=0)


def model_shapes(init: Callable, *inputs: jax.ShapeDtypeStruct) -> dict[str, tuple[int, ...]]:
    """{our name: shape} of the variables that init(rng, *inputs) gives, without computing anything."""
    variables = jax.eval_shape(init, jax.ShapeDtypeStruct((2,), jnp.uint32), *inputs)
    return {name: x.shape for name, x in traverse_util.flatten_dict(variables, sep="/").items()}


def read(table: Table, tensors: dict[str, np.ndarray], shapes: dict[str, tuple[int, ...]]) -> dict:
    """Their tensors (already `renamed`) -> variables {"params": ..., "batch_stats": ...} of exactly `shapes`, float32.

    Raises:
      ValueError: names every tensor that is missing, not used, or of the wrong shape or kind.
    """
    flat, unused, wrong = {}, [], []
    for name, tensor in tensors.items():
        found = _their_row(table, name)
        if found is None or not all(o in shapes for o in found.ours):
            unused.append(f"{name} {tuple(tensor.shape)}")
            continue
        flat |= dict.fromkeys(found.ours)
        # strides of 0: the shape costs no memory
        expected = found.transform.back([np.broadcast_to(np.int8(0), shapes[o]) for o in found.ours]).shape
        if tuple(tensor.shape) != expected:
            wrong.append(f"{name} {tuple(tensor.shape)}, expected {expected}")
        elif not jnp.issubdtype(tensor.dtype, jnp.floating):
            wrong.append(f"{name} is {tensor.dtype}, expected floating point")
        else:
            parts = found.transform.into(np.asarray(tensor).astype(np.float32), len(found.ours))
            flat |= {o: np.ascontiguousarray(p) for o, p in zip(found.ours, parts, strict=True)}
    rows = {o: _our_row(table, o) for o in shapes if o not in flat}
    if unmapped := [o for o, found in rows.items() if found is None]:
        raise ValueError(f"the table has no row for: {_list(unmapped)}")
    missing = dict.fromkeys(found.theirs for found in rows.values())
    problems = {"missing": missing, "not used": unused, "wrong": wrong}
    if lines := [f"{what}: {_list(names)}" for what, names in problems.items() if names]:
        raise ValueError("the checkpoint does not fit the model; " + "; ".join(lines))
    return traverse_util.unflatten_dict(flat, sep="/")


def write(table: Table, variables: dict) -> dict[str, np.ndarray]:
    """Variables -> their tensors, in the table's order of rows; float32 stays float32.

    Raises:
      ValueError: names every array that the table does not know, or whose partners in one of their tensors are absent.
    """
    flat = traverse_util.flatten_dict({k: v for k, v in variables.items() if v}, sep="/")
    rows = {name: _our_row(table, name) for name in flat}
    if unknown := [name for name, found in rows.items() if found is None]:
        raise ValueError(f"arrays without a name in the published format: {_list(unknown)}")
    needed = {found.theirs: found for found in rows.values()}
    if absent := [o for found in needed.values() for o in found.ours if o not in flat]:
        raise ValueError(f"arrays that the published format needs are missing: {_list(absent)}")
    return {
        theirs: np.ascontiguousarray(found.transform.back([np.asarray(flat[o]) for o in found.ours]))
        for theirs, found in needed.items()
    }
