"""Several processes that read the same data: one judges the records, all compare what they will read.

Messages go through JAX's key-value store, not through a collective: a collective may time out while process 0 checks millions
of files, and cannot carry an error. A process that dies meanwhile is noticed by the heartbeat (distributed.py).
"""
import collections
import itertools
import json
from collections.abc import Callable
from typing import Any

import jax
from jax._src import distributed  # the store has no public name

_WAIT = 60_000  # milliseconds of one request; waiting goes on after it
_numbers = collections.defaultdict(itertools.count)  # of calls; the same on all processes, which make them in the same order


class Disagreement(ValueError):
    """The processes would not read the same data."""


def from_first(make: Callable[[], Any]) -> Any:
    """Return make() of process 0, a JSON value, on all processes. The others do not call it.

    Raises:
      Disagreement: make() raised an error on process 0, which itself gets that error.
    """
    if jax.process_count() == 1:
        return make()
    key = f"medvlp/first/{next(_numbers['first'])}"
    if jax.process_index():
        found = json.loads(_get(key))
        if "error" in found:
            raise Disagreement(f"process 0 cannot use the data: {found['error']}")
        return found["value"]
    try:
        value = make()
    except Exception as error:
        _set(key, json.dumps({"error": _text(error)}))
        raise
    _set(key, json.dumps({"value": value}))
    return value


def on_all(what: str, make: Callable[[], Any], describe: Callable[[Any], str]) -> Any:
    """Return make() of this process where describe() of it is the same text on all processes.

    Raises:
      Disagreement: it differs, or make() failed on some processes only; the same message on all of them.
      Exception: make() failed on all; each gets its own error.
    """
    if jax.process_count() == 1:
        return make()
    value = error = None
    try:
        value = make()
        mine = {"told": describe(value)}
    except Exception as e:
        error, mine = e, {"error": _text(e)}
    if differs := _differs(mine):
        raise Disagreement(f"the processes would not read the same {what}: {differs}. Every host needs the same data at the "
                           "same path, and the same options") from error
    if error is not None:
        raise error
    return value


def _differs(mine: dict) -> str:
    """Collect what each process says on process 0, and return on all what differs; "" if nothing does."""
    key = f"medvlp/all/{next(_numbers['all'])}"
    _set(f"{key}/{jax.process_index()}", json.dumps(mine))
    if jax.process_index() == 0:
        said = [json.loads(_get(f"{key}/{i}")) for i in range(jax.process_count())]
        _set(f"{key}/verdict", _compare(said))
    return _get(f"{key}/verdict")[1:]


def _compare(said: list[dict]) -> str:
    """Return "=" where all agree, else "!" and the processes by what they say, the largest group first."""
    if all("error" in one for one in said):
        return "="
    groups = collections.defaultdict(list)
    for number, one in enumerate(said):
        groups[one.get("told") or f"failed with {one['error']}"].append(number)
    if len(groups) == 1:
        return "="
    parts = []
    for text, numbers in sorted(groups.items(), key=lambda item: -len(item[1])):
        names = ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
        parts.append(f"process{'es' if len(numbers) > 1 else ''} {names}: {text}")
    return "!" + "; ".join(parts)


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"


def _set(key: str, value: str) -> None:
    distributed.global_state.client.key_value_set(key, value)


def _get(key: str) -> str:
    while True:
        try:
            return distributed.global_state.client.blocking_key_value_get(key, _WAIT)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
