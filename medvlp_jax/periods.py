"""How often something happens in a run: in steps, in epochs or in minutes.

A config says 50, "50 steps", "0.5 epochs" or "10 min"; 0 is never. Epochs keep their sense when the batch grows, minutes say
how much work a fault may cost.
"""

import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict, FieldReference

TEXT = re.compile(r"(\d+(?:\.\d*)?|\.\d+) *([a-z]*)")
UNITS = {
    **dict.fromkeys(("", "step", "steps"), "steps"), **dict.fromkeys(("epoch", "epochs"), "epochs"),
    **dict.fromkeys(("min", "minute", "minutes"), "minutes"),
}  # fmt: skip
FIRST_ASK = 5  # steps of several processes before they first compare clocks: by then the rate is known roughly
# Keys of a config that take a number or a text.
KEYS = ("train.log_every", "train.eval_every", "train.checkpoint_every", "schedule.warmup")


class Period(NamedTuple):
    """A number of "steps", "epochs" or "minutes"."""

    number: float
    unit: str


def either(value) -> FieldReference:
    """Return a config value that takes a number or a text, on the command line too."""
    return FieldReference(value, field_type=object)


def retype(config: ConfigDict) -> ConfigDict:
    """Give the `KEYS` of a config read from JSON the type that they have in a config file; returns the config."""
    for group, key in (name.split(".") for name in KEYS):
        if group in config and key in config[group]:
            config[group][key] = either(config[group][key])
    return config


def parse(key: str, value: Any, units=("steps", "epochs")) -> Period:
    """Read a config value.

    Raises:
      ValueError: not a period, or one in another unit than `units`.
    """
    match = TEXT.fullmatch(str(value).strip().lower())
    unit = UNITS.get(match[2]) if match else None
    whole = unit != "steps" or float(match[1]).is_integer()
    if unit not in units or not whole or isinstance(value, bool):
        forms = {"steps": "a number of steps", "epochs": "epochs such as '0.5 epochs'", "minutes": "minutes such as '10 min'"}
        raise ValueError(f"{key}={value!r}: expected {' or '.join(forms[u] for u in units)}; 0 is never")
    return Period(float(match[1]), unit)


def in_steps(period: Period, steps_per_epoch: Callable[[], int]) -> int:
    """Return the period in steps, at least 1 unless it is 0. The length of an epoch is asked for only if it is needed."""
    if not period.number:
        return 0
    return max(1, round(period.number * (steps_per_epoch() if period.unit == "epochs" else 1)))


class Periods(NamedTuple):
    """The periods of a run in steps (0 = never), and that of checkpoints in minutes, if they go by the clock."""

    log: int
    eval: int
    checkpoint: int
    checkpoint_minutes: float


def check(train: ConfigDict) -> dict[str, Period]:
    """Read the periods of config.train -> {name: period}.

    Raises:
      ValueError: see `parse`.
    """
    # Logs and evaluations are part of what a resumed run repeats, so they never go by the clock.
    units = {"log": ("steps", "epochs"), "eval": ("steps", "epochs"), "checkpoint": ("steps", "epochs", "minutes")}
    return {name: parse(f"train.{name}_every", train[f"{name}_every"], allowed) for name, allowed in units.items()}


def of_run(train: ConfigDict, steps_per_epoch: Callable[[], int]) -> Periods:
    """Return the periods of config.train in steps."""
    found = check(train)
    minutes = found["checkpoint"].number if found["checkpoint"].unit == "minutes" else 0.0
    if minutes:
        found["checkpoint"] = Period(0, "steps")
    return Periods(*(in_steps(found[name], steps_per_epoch) for name in ("log", "eval", "checkpoint")), minutes)


class Checkpoints:
    """Tells after which steps a checkpoint is due, in every process after the same ones.

    By the clock, process 0 decides. Asking it is a collective, which waits for the device, so processes ask only after steps
    that they have agreed on: each answer says whether a checkpoint is due and, if not, after how many steps to ask again,
    namely when half of the time that is left has passed. A period so takes a handful of questions.
    """

    def __init__(self, periods: Periods, step: int):
        self._every, self._seconds = periods.checkpoint, 60 * periods.checkpoint_minutes
        self._many = jax.process_count() > 1
        self._saved = self._asked = time.monotonic()
        self._asked_step, self._next = step, step + (FIRST_ASK if self._many else 1)

    def due(self, step: int) -> bool:
        """Return whether to save after `step`. To be asked after each step, in order."""
        if not self._seconds:
            return bool(self._every) and step % self._every == 0
        if step < self._next:
            return False
        now = time.monotonic()
        left = self._seconds - (now - self._saved)
        rate = max(now - self._asked, 1e-6) / (step - self._asked_step)  # seconds a step
        self._asked, self._asked_step = now, step
        due, wait = left <= 0, 1
        if self._many:
            wait = int(np.clip(left / rate / 2, 1, 1_000_000))
            due, wait = map(int, multihost_utils.broadcast_one_to_all(np.array([due, wait], np.int32)))
        self._next = step + wait
        return bool(due)

    def saved(self) -> None:
        """Note that a checkpoint has been written now, for whatever reason."""
        self._saved = time.monotonic()
