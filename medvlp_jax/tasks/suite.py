"""Runs the evaluation tasks on one set of variables: records, a table, figures. `medvlp_jax.evaluate` calls it."""
import inspect
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import logging
from rich.console import Console
from rich.table import Table

from medvlp_jax import atomic
from medvlp_jax.method import Method
from medvlp_jax.tasks import classification, common, detection, figures, grounding, retrieval, segmentation, severity, zeroshot

TASKS = {
    "zeroshot": zeroshot.make, "grounding": grounding.make, "retrieval": retrieval.make,
    "classification": classification.make, "segmentation": segmentation.make, "detection": detection.make,
    "severity": severity.make,
}  # fmt: skip
# Predict names that a task can work with: one of these sets.
NEEDS = {
    "zeroshot": ({"score_findings"}, {"embed_image", "embed_text"}),
    "grounding": ({"ground"},),
    "retrieval": ({"embed_image", "embed_text"},),
    "classification": ({"classify"},),
    "segmentation": ({"segment"},),
    "detection": ({"detect"},),
    "severity": ({"grade"},),
}


def settings(tasks: dict[str, dict]) -> dict[str, dict]:
    """{task: all its options, those that were not given at their defaults}."""
    defaults = {name: inspect.signature(TASKS[name]).parameters.values() for name in tasks}
    return {name: {p.name: p.default for p in defaults[name] if p.kind is p.KEYWORD_ONLY} | dict(options)
            for name, options in tasks.items()}


def possible(method: Method, tasks) -> list[str]:
    """Those of `tasks` that the method predicts enough for."""
    return [name for name in tasks if any(names <= set(method.predict) for names in NEEDS[name])]


def evaluate(method: Method, variables, tasks: dict[str, dict], batches_fn: Callable, workdir, step: int, *,
             put: Callable = common.identity, tokenizer=None, validation_fn: Callable | None = None, entities=None, targets=(),
             dataset: str = "", split: str = "test", protocol: str = "default", facts: dict | None = None,
             draw: bool = True, raise_failed: bool = True) -> list[dict]:
    """Runs `tasks` and writes workdir/eval/results.jsonl (after every task, atomically), eval/scores/<task>.npz (see
    tasks/kept.py) and, with `draw`, eval/figures and eval/examples.

    Args:
      tasks: task name of `TASKS` -> options of that task's `make` (misspelt ones are an error of that task)
      batches_fn: () -> fresh iterator of evaluation batches with host fields
      put, tokenizer, validation_fn, entities, targets: see tasks.common.Context; without validation_fn no `honest` threshold
      step: of the checkpoint; dataset, split, protocol: where the numbers belong, written in every record
      facts: what else every record says of its origin, such as the data's fingerprint and the checkpoint's name
      draw: whether to make figures

    Returns:
      the records, one a metric: task, dataset, split, protocol, step, metric, value, n, and what the task adds.
      Records of the same task, data, protocol and step in an older file are replaced, others stay.

    Raises:
      ValueError: unknown task, with the known ones; nothing is run then.
      RuntimeError: tasks failed (with raise_failed); all others were finished and written first, and a failed task has
        one record with metric "failed" and the error.
    """
    if unknown := sorted(set(tasks) - set(TASKS)):
        raise ValueError(f"unknown task {', '.join(map(repr, unknown))}; known: {', '.join(sorted(TASKS))}")
    folder = Path(workdir) / "eval"
    place = {"dataset": dataset, "split": split, "protocol": protocol, "step": int(step)}
    context = common.Context(put, tokenizer, validation_fn, folder / "figures" if draw else None,
                             None if entities is None else tuple(entities), folder, place, tuple(targets))
    records, failed = [], {}
    for name, options in tasks.items():
        try:
            found = TASKS[name](method.predict, context, **dict(options))(variables, batches_fn)
        except Exception as error:  # whatever breaks in one task, the others' numbers are kept
            logging.exception("task %s failed", name)
            failed[name] = error
            found = [common.record(name, "failed", math.nan, 0, error=f"{type(error).__name__}: {error}")]
        records += [{"task": r["task"], **place, **(facts or {}), **r} for r in found]
        write(folder / "results.jsonl", records)
    curve = Path(workdir) / "metrics.jsonl"
    if curve.exists():
        common.draw(context.figures, "training.png", lambda path: figures.training_curves(path, curve))
    show(records)
    if failed and raise_failed:
        text = "; ".join(f"{name}: {type(e).__name__}: {e}" for name, e in failed.items())
        raise RuntimeError(f"{len(failed)} of {len(tasks)} tasks failed: {text}") from next(iter(failed.values()))
    return records


def write(path: Path, records: list[dict]) -> None:
    """Puts `records` into a JSON-lines file in place of older ones of the same task, data, protocol and step.

    The file is replaced as a whole, so a reader sees the old or the new one, never half; process 0 alone writes.
    """
    if jax.process_index() != 0:
        return
    new = {_key(r) for r in records}
    kept = [r for r in read(path) if _key(r) not in new] if path.exists() else []
    lines = (json.dumps(plain(r), allow_nan=False, ensure_ascii=False) + "\n" for r in kept + records)
    atomic.write_text(path, "".join(lines))


def read(path: Path) -> list[dict]:
    """Records of a results file; lines that are no JSON object are named in a warning and left out."""
    out = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            out.append(dict(json.loads(line)))
        except (json.JSONDecodeError, TypeError, ValueError):
            logging.warning("%s line %d is not a record and is dropped", path.name, number)
    return out


def _key(r: dict) -> tuple:
    return tuple(r.get(k) for k in ("task", "dataset", "split", "protocol", "step"))


def plain(value):
    """numpy and NaN -> what JSON can say; an undefined number is null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(records: list[dict], console: Console | None = None) -> None:
    """Prints the records as a table, the metrics of single findings (`metric/finding`) below the others."""
    if jax.process_index() != 0 or not records:
        return
    table = Table(title=f"step {records[0]['step']}, {records[0]['dataset'] or 'data'} {records[0]['split']}")
    for name in ("task", "metric", "value", "95 % interval", "chance", "n"):
        table.add_column(name, justify="left" if name in ("task", "metric") else "right", no_wrap=name != "value")
    for r in sorted(records, key=lambda r: "/" in r["metric"]):
        value = r.get("error") or _number(r["value"])
        ci = " .. ".join(_number(v) for v in r["ci"]) if r.get("ci") else ""
        table.add_row(r["task"], r["metric"], value, ci, _number(r.get("chance")), str(r["n"]))
    if console is None:
        console = Console(width=None if sys.stdout.isatty() else 120)  # a log file has no width; 80 would cut names off
    console.print(table)


def _number(value) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if math.isfinite(value) else "undefined"
