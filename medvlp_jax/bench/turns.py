"""Two programs in processes of their own that take turns on one machine, asked by pipe; no library but the standard one.

Each answers a line, a number of steps, with a line: {"seconds": [...], "cpu": [...], "peak": ...}, of each step, wall clock
and over all threads, and bytes. A process waits without computing while it is not its turn.
"""
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def peak_bytes() -> int:
    """The most memory this process has held, without what its parent held (which getrusage counts on Linux)."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def serve(step: Callable[[], dict], **facts) -> None:
    """The child's side: runs `step` as often as each line of stdin asks for; `facts` go with every answer.

    step: one whole step -> numbers that it waited for.
    """
    for line in sys.stdin:
        seconds, cpu = [], []
        for _ in range(int(line)):
            start, busy = time.perf_counter(), time.process_time()
            values = step()
            seconds.append(time.perf_counter() - start)
            cpu.append(time.process_time() - busy)
        answer = {"seconds": seconds, "cpu": cpu, "peak": peak_bytes(), "values": values, **facts}
        print(json.dumps(answer), flush=True)


class Side:
    """The parent's side of a child: python -m `module` `folder`."""

    def __init__(self, module: str, folder: Path, python: str = sys.executable):
        self.module = module
        command = [python, "-m", module, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, steps: int) -> dict:
        """The child's answer after so many steps.

        Raises:
          RuntimeError: it ended instead; what it said is on stderr.
        """
        try:
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"{self.module} ended with code {self.process.wait()} (negative: killed by that signal)")
        return json.loads(line)

    def close(self) -> None:
        """Ends the child, which has nothing to save."""
        self.process.kill()
        self.process.communicate()


class Result(NamedTuple):
    """Of one side. first: seconds of its first step; turns, cpu: seconds a step of each turn, by the clock and of all threads
    together; peak: bytes."""

    first: float
    turns: list[float]
    cpu: list[float]
    peak: int
    facts: dict


def alternate(sides: dict[str, Side], count: int, steps: int) -> dict[str, Result]:
    """`count` turns of every side, in turned order each time, after its first step.

    A turn is a step that is not counted and `steps` that are: what a step gives back to the system the other side's takes, and
    to get it again cost up to 3 of 9 s, which a program that runs by itself does not pay.
    """
    answers = {name: [side.run(1)] for name, side in sides.items()}
    told = ", ".join(f"{name} {given[0]['seconds'][0]:.2f} s" for name, given in answers.items())
    print(f"first steps: {told}", file=sys.stderr, flush=True)
    for turn in range(count):
        for name in list(sides)[:: -1 if turn % 2 else 1]:
            sides[name].run(1)
            answers[name].append(sides[name].run(steps))
        told = ", ".join(
            f"{name} {statistics.mean(given[-1]['seconds']):.2f} s ({statistics.mean(given[-1]['cpu']):.2f} s of CPU)"
            for name, given in answers.items()
        )
        print(f"turn {turn + 1} of {count}: {told}", file=sys.stderr, flush=True)
    results = {}
    for name, (first, *rest) in answers.items():
        each = {key: [statistics.mean(a[key]) for a in rest] for key in ("seconds", "cpu")}
        results[name] = Result(first["seconds"][0], each["seconds"], each["cpu"], rest[-1]["peak"], rest[-1])
    return results


def ratios(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Median, least and largest of the turns' ratios ours / theirs."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(each), min(each), max(each)
