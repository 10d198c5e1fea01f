"""What every task shares: running a predict function over batches, the context of an evaluation, records.

A task module has `make(predict, context=DEFAULT, **options) -> run(variables, batches) -> [record, ...]`;
`batches` is a callable giving a fresh iterator of evaluation batches (or an iterable of them).
"""
import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from medvlp_jax import method
from medvlp_jax.reports import vocab


def identity(x):
    return x


class Context(NamedTuple):
    """What an evaluation gives to all its tasks.

    put: numpy batch (no host fields) -> device arrays; identity leaves that to jit
    tokenizer: has encode(text, max_tokens) -> {"input_ids": (M,), "attention_mask": (M,), ...}; needed for prompts
    validation: () -> iterator of validation batches, from which the `honest` thresholds are chosen
    figures: folder for PNG figures, None draws none
    entities: names of the rows of variables["knowledge"]["entities"]; None for the 75 of the vocabulary
    folder: where scores and examples are kept (tasks/kept.py), None keeps none; place: what they belong to
    targets: names of what a transfer run learnt, in the order of its outputs
    """

    put: Callable[..., Any] = identity
    tokenizer: Any = None
    validation: Callable[[], Iterator[dict]] | None = None
    figures: Path | None = None
    entities: tuple[str, ...] | None = None
    folder: Path | None = None
    place: dict | None = None
    targets: tuple[str, ...] = ()


DEFAULT = Context()


def record(task: str, metric: str, value: float, n: int, **extra) -> dict:
    """One result; `value` may be NaN (not defined), which is written as null."""
    return {"task": task, "metric": metric, "value": float(value), "n": int(n), **extra}


def need(predict: dict[str, Callable], *names: str) -> Callable:
    """One function that gives {name: array} for all names, so that shared work is done once.

    Raises:
      ValueError: a name is missing, with those there are.
    """
    return _together(tuple((n, method.predictor(SimpleNamespace(predict=predict), n)) for n in names))


@functools.lru_cache(maxsize=64)  # the same function object again: jit then compiles once a shape, not once a call
def _together(named):
    return jax.jit(lambda variables, batch: {name: fn(variables, batch) for name, fn in named})


def entity_row(name: str, entities: tuple[str, ...] | None = None) -> int | None:
    """Row of `name` (an entity or a data set's label for one) in the entity table; None if it is not there."""
    known = vocab.ENTITIES if entities is None else entities
    for candidate in (name, vocab.lookup(name)):
        if candidate in known:
            return known.index(candidate)
    return None


def chosen_rows(findings, entities) -> None:
    """Checks names a user asked for.

    Raises:
      ValueError: one is no row of the entity table.
    """
    for name in findings or ():
        if entity_row(name, entities) is None:
            known = ", ".join(vocab.ENTITIES if entities is None else entities)
            raise ValueError(f"finding {name!r} is no entity of the table; known: {known}")


def start(batches) -> Iterator[dict]:
    """A fresh pass over `batches`."""
    return iter(batches() if callable(batches) else batches)


def stream(fn, variables, batches, put: Callable = identity) -> Iterator[tuple[dict, dict]]:
    """Runs a function of `need` batch by batch.

    Yields:
      (outputs, batch) as numpy with padding rows dropped; batch["host"] is the list of examples of the same rows.
      With several processes these are the rows that this process put in.
    Raises:
      ValueError: no batch, host fields that do not fit the rows, or an output that is not finite.
    """
    empty = True
    for number, batch in enumerate(start(batches)):
        empty = False
        host = batch.get("host")
        arrays = {k: np.asarray(v) for k, v in batch.items() if k != "host"}
        rows = len(next(iter(arrays.values())))
        keep = np.flatnonzero(arrays["valid"] > 0) if "valid" in arrays else np.arange(rows)
        outputs = {k: v[keep] for k, v in _own_rows(fn, variables, arrays, rows, put).items()}
        for name, value in outputs.items():
            if not np.isfinite(value).all():
                bad = int((~np.isfinite(value)).reshape(len(value), -1).any(1).sum())
                raise ValueError(f"{name} is not finite for {bad} of {len(value)} examples of batch {number}")
        out = {k: v[keep] for k, v in arrays.items()}
        if host is not None:
            if len(host) not in (rows, len(keep)):
                raise ValueError(f"batch {number} has {len(host)} host entries; expected {rows} (its rows) or "
                                 f"{len(keep)} (its valid ones)")
            out["host"] = list(host) if len(host) == len(keep) else [host[i] for i in keep]
        yield outputs, out
    if empty:
        raise ValueError("no batch to evaluate: expected an iterable, or a callable that gives a fresh iterator")


def _own_rows(fn, variables, arrays, rows, put):
    """Outputs of the rows this process gave; the compiler may leave them anywhere on a mesh of several processes."""
    if jax.process_count() == 1:
        return {k: np.asarray(v) for k, v in fn(variables, put(arrays)).items()}
    first = jax.process_index() * rows
    index = multihost_utils.process_allgather(put({"row": np.arange(first, first + rows)})["row"], tiled=True)
    order = np.argsort(index)[first:first + rows]
    outputs = fn(variables, put(arrays))
    return {k: np.asarray(multihost_utils.process_allgather(v, tiled=True))[order] for k, v in outputs.items()}


def collect(fn, variables, batches, keys: tuple[str, ...] = (), put: Callable = identity) -> tuple[dict, list[dict]]:
    """-> ({output or batch key: (N, ...)}, the N host entries) over all batches, padding rows dropped.

    keys: batch arrays wanted beside the outputs of `fn`.
    """
    parts, hosts = [], []
    for outputs, batch in stream(fn, variables, batches, put):
        parts.append({**outputs, **{k: batch[k] for k in keys}})
        hosts.extend(batch.get("host", ()))
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}, hosts


def gather(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of all processes, the same on each; text is fine as numpy's fixed-width strings.

    With an array "id" the rows are sorted by it, so that nothing depends on how examples were dealt to processes.
    """
    if jax.process_count() > 1:
        arrays = _all_processes(arrays)
    if "id" in arrays:
        order = np.argsort(arrays["id"], kind="stable")
        arrays = {k: v[order] for k, v in arrays.items()}
    return arrays


def _all_processes(arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.asarray([len(data)]))).reshape(-1)
    padded = np.zeros(sizes.max(), np.uint8)
    padded[:len(data)] = data
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    parts = [np.load(io.BytesIO(row[:n].tobytes()), allow_pickle=False) for row, n in zip(rows, sizes, strict=True)]
    return {k: np.concatenate([p[k] for p in parts]) for k in arrays}


def ids(hosts: list[dict]) -> np.ndarray:
    """Identifiers of examples as an array of text (N,), only ever used for ordering."""
    return np.asarray([str(h.get("id", "")) for h in hosts], dtype=str)


def patient(example: dict) -> str:
    """Whose image this is; an example without a patient counts as its own."""
    return str(example.get("patient_id") or example.get("id", ""))


def origin(hosts: list[dict]) -> dict[str, np.ndarray]:
    """{"id", "patients"} of examples, (N,) text each."""
    return {"id": ids(hosts), "patients": np.asarray([patient(h) for h in hosts], dtype=str)}


def draw(figures: Path | None, name: str, plot: Callable[[Path], None]) -> None:
    """Draws a figure where figures are wanted. A picture never costs the numbers: its failure is only logged."""
    if figures is None or jax.process_index() != 0:
        return
    try:
        figures.mkdir(parents=True, exist_ok=True)
        plot(figures / name)
    except Exception:
        logging.exception("figure %s was not drawn", name)
