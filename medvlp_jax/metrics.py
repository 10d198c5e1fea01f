"""What a run writes: metrics.jsonl and TensorBoard files, run.json, and a progress bar or plain lines."""
import importlib.metadata
import json
import math
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
from absl import logging
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from medvlp_jax import atomic

# Keys that a resumed run may change: they do not touch what the next step computes.
FREE = re.compile(r"(train|evals|mesh|required)\b|sharding$|data\.(path|root|workers|cache|eval_batch_size|batch_per_device)$")
PACKAGES = ("medvlp_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    out = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a bare checkout
            out[name] = "not installed"
    return out


def write_run_file(workdir: Path, config: dict, **facts) -> None:
    """run.json: config, versions, devices and whatever the caller knows (data fingerprints, parameter count)."""
    devices = {"platform": jax.default_backend(), "devices": jax.device_count(), "processes": jax.process_count()}
    _write_json(workdir / "run.json", {"config": config, "versions": versions(), **devices, **facts})


def update_run_file(workdir: Path, **facts: dict) -> None:
    """Adds to the named dictionaries of run.json, such as data={"test": fingerprint}."""
    record = read_run_file(workdir)
    for name, more in facts.items():
        record[name] = {**record.get(name, {}), **more}
    _write_json(workdir / "run.json", record)


def read_run_file(workdir: Path) -> dict:
    """run.json as it is; {} if there is none."""
    path = Path(workdir) / "run.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _write_json(path: Path, record: dict) -> None:
    if jax.process_index() == 0:
        atomic.write_text(path, json.dumps(record, indent=1, default=str))


def changed_keys(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Keys of a config whose values differ, but for those of `FREE`, as "a.b (was 1, now 2)"; `old` is as run.json gives it."""
    found = []
    for key in dict.fromkeys([*old, *new]):
        a, b, name = old.get(key), json.loads(json.dumps(new.get(key), default=str)), f"{prefix}{key}"
        if isinstance(a, dict) and isinstance(b, dict):
            found += changed_keys(a, b, f"{name}.")
        elif a != b and not FREE.match(name):
            was, now = (repr(x) if key in side else "not there" for x, side in ((a, old), (b, new)))
            found.append(f"{name} (was {was}, now {now})")
    return found


def changes(workdir: Path, config: dict) -> str:
    """What a run that goes on in `workdir` has in its config that it did not begin with; "" if nothing that matters."""
    changed = changed_keys(read_run_file(workdir).get("config", config), config)
    return f"this config differs from the one the run began with in: {', '.join(changed)}" if changed else ""


class Writer:
    """Metrics of one run; on processes other than 0 it writes nothing.

    `metrics.jsonl` has one record a logged step. On resume, records after the restored step are cut off, so that the
    file reads as if the run had never stopped.
    """

    def __init__(self, workdir: Path, total_steps: int, resume_step: int = 0, tensorboard: bool = True):
        self.active = jax.process_index() == 0
        self.total_steps = total_steps
        if not self.active:
            return
        path = workdir / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        atomic.write_text(path, "".join(line + "\n" for line in lines if _step_of(line) <= resume_step))
        self.file = path.open("a")
        self.board = _tensorboard(workdir / "tensorboard", resume_step + 1) if tensorboard else None
        self.progress = _progress(total_steps, resume_step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One record; values must be plain numbers, of which those that are not finite are written as null."""
        if not self.active:
            return
        record = {"step": step, **{k: v if math.isfinite(v) else None for k, v in values.items()}}
        self.file.write(json.dumps(record, allow_nan=False) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)
        if not self.progress:
            shown = "  ".join(f"{k} {v:.4g}" for k, v in values.items())
            logging.info("step %d/%d  %s", step, self.total_steps, shown)

    def show(self, step: int, loss: float, images_per_s: float | None = None) -> None:
        """Moves the progress bar (where there is a terminal); without a new rate the last one stays."""
        if self.active and self.progress:
            fields = {} if images_per_s is None else {"rate": f"{images_per_s:.0f}"}
            self.progress.update(0, completed=step, loss=f"{loss:.4f}", **fields)

    def close(self) -> None:
        """Flushes and closes; safe to call twice."""
        if not self.active:
            return
        self.file.close()
        if self.board is not None:
            self.board.close()
        if self.progress:
            self.progress.stop()
            _log_to(sys.stderr)


def _tensorboard(folder: Path, purge_step: int):
    """TensorBoard's writer. tensorboardX imports torch wherever it is installed; hidden, it does as well without."""
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None
    try:
        from tensorboardX import SummaryWriter
    finally:
        if hide:
            del sys.modules["torch"]
    return SummaryWriter(str(folder), purge_step=purge_step)


def _step_of(line: str) -> float:
    """Step of a record; a half-written last line (power cut) counts as beyond any step and is dropped."""
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")


def _progress(total_steps: int, resume_step: int) -> Progress | None:
    console = Console(file=sys.stderr)
    if not console.is_terminal:
        return None
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]}"))
    columns += (TextColumn("{task.fields[rate]} images/s"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    progress = Progress(*columns, console=console)
    progress.add_task("training", total=total_steps, completed=resume_step, loss="-", rate="-")
    progress.start()
    _log_to(sys.stderr)  # rich has replaced it: what goes there appears above the bar
    return progress


def _log_to(stream) -> None:
    """Lets the log go to what is sys.stderr now."""
    logging.get_absl_handler().python_handler.stream = stream


class Rate:
    """Images per second between logged steps, pauses left out."""

    def __init__(self, batch_size: int, step: int, pauses: Callable[[], float] = lambda: 0.0):
        """pauses: seconds so far that did not go into training (evaluations, checkpoints)."""
        self.batch_size, self.pauses = batch_size, pauses
        self.step, self.time, self.paused = step, time.perf_counter(), pauses()

    def __call__(self, step: int) -> float:
        now, paused = time.perf_counter(), self.pauses()
        rate = (step - self.step) * self.batch_size / max(now - self.time - (paused - self.paused), 1e-9)
        self.step, self.time, self.paused = step, now, paused
        return rate
