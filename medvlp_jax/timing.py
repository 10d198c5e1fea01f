"""Where the wall time of a run goes, and traces of chosen steps."""

import contextlib
import re
import time
from collections import defaultdict
from pathlib import Path

import jax
from absl import logging

PARTS = ("start", "input", "checkpoint", "evaluation")  # what is not spent on steps


class Clock:
    """Seconds of wall time by part; what is in none of `PARTS` went into steps.

    "start" is everything up to the end of the first step: opening data, restoring, compiling. Waiting for input counts only
    where the accelerator had nothing left to do.
    """

    def __init__(self):
        self._began, self.seconds = time.perf_counter(), defaultdict(float)

    @contextlib.contextmanager
    def part(self, name: str):
        """Adds the time inside to a part; reports True in what it gives if it is not to count."""
        skip = []
        began = time.perf_counter()
        try:
            yield skip
        finally:
            if not skip:
                self.seconds[name] += time.perf_counter() - began

    def pauses(self) -> float:
        """Seconds so far in which no step was asked for."""
        return self.seconds["checkpoint"] + self.seconds["evaluation"]

    def started(self) -> None:
        """The first step is done."""
        self.seconds = defaultdict(float, start=time.perf_counter() - self._began)

    def split(self) -> dict[str, float]:
        """{part: seconds}, with "steps" and "total"."""
        total = time.perf_counter() - self._began
        spent = {name: self.seconds[name] for name in PARTS}
        return {**spent, "steps": max(total - sum(spent.values()), 0.0), "total": total}

    def report(self, steps: int) -> str:
        """One line: goodput is the share of the wall time that went into steps."""
        s = self.split()
        parts = ", ".join(f"{name} {s[name]:.1f} s" for name in PARTS)
        share = s["steps"] / max(s["total"], 1e-9)
        return f"goodput {share:.1%}: {s['steps']:.1f} of {s['total']:.1f} s went into {steps} steps; {parts}"


class Profile:
    """Writes a trace of steps first..last to `folder`, for TensorBoard's profile plugin and for Perfetto."""

    def __init__(self, text: str, folder: Path):
        """text: "first:last", or "" for no trace.

        Raises:
          ValueError: not two steps in order.
        """
        match = re.fullmatch(r"(\d+):(\d+)", text)
        if text and not (match and 1 <= int(match[1]) <= int(match[2])):
            raise ValueError(f"--profile={text!r}: expected FIRST:LAST, two steps in order such as 10:12")
        self.first, self.last = (int(match[1]), int(match[2])) if match else (0, -1)
        self.folder, self._running = folder, False

    def before(self, step: int) -> None:
        """Starts the trace if `step` is the first to be traced."""
        if step == self.first:
            jax.profiler.start_trace(str(self.folder), create_perfetto_trace=True)
            self._running = True

    def after(self, step: int, values) -> None:
        """Ends it once `values`, the results of the last step to be traced, are there."""
        if self._running and step >= self.last:
            jax.block_until_ready(values)
            self.close()

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            logging.info("trace of steps %d to %d: %s", self.first, self.last, self.folder)
