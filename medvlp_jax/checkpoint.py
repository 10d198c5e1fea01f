"""Checkpoints: orbax holds the train state and the data iterator's position; params-only loading for evaluation.

The position is one small JSON for all processes, so that a run can go on with another number of them. A checkpoint comes
into being by one rename, its checksums included; a damaged one is set aside, and the run goes on from the one before.
"""
import contextlib
import errno
import json
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from medvlp_jax import checksums, errors, trees

SHOWN = 20  # differences named in an error
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}  # what a disk says that takes no more


class Damaged(errors.BadValue):
    """A checkpoint that cannot be read, or not as it was written."""


def manager(workdir: str | Path, keep: int = 2, best_metric: str = "", read_only: bool = False):
    """CheckpointManager of `workdir`/checkpoints: keeps the last `keep` and, with `best_metric`, the highest one too.

    Raises:
      ValueError: keep is below 1.
    """
    if keep < 1:
        raise ValueError(f"train.keep must be at least 1, came {keep}: without a checkpoint a run cannot resume")

    def quality(metrics):
        return metrics.get(best_metric, -math.inf)

    directory = (Path(workdir) / "checkpoints").absolute()

    def before_commit():
        for unfinished in directory.glob("*.orbax-checkpoint-tmp*"):
            checksums.write(unfinished)

    policies: list[Any] = [preservation_policy.LatestN(keep)]
    if best_metric:
        policies.append(preservation_policy.BestN(get_metric_fn=quality, n=1, keep_checkpoints_without_metrics=False))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
        best_fn=quality if best_metric else None,  # what makes orbax write the metrics: a resumed run knows its best
        enable_async_checkpointing=True,
        async_options=ocp.AsyncOptions(post_finalization_callback=before_commit),
        read_only=read_only,
        create=not read_only,
    )
    return ocp.CheckpointManager(directory, options=options)


def save(mgr: ocp.CheckpointManager, step: int, state, iterator, metrics: dict[str, float] | None = None) -> None:
    """Starts an asynchronous save of state and data position; the arrays are copied before this returns.

    A metric that is not a finite number is left out: it cannot be anyone's best.
    """
    args = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(iterator.get_state()))
    finite = {k: float(v) for k, v in (metrics or {}).items() if math.isfinite(v)}
    with _saving(mgr):
        mgr.save(step, args=args, metrics=finite, force=True)


def finish(mgr: ocp.CheckpointManager) -> None:
    """Waits until what was saved last is there.

    Raises:
      OSError: it could not be written.
    """
    with _saving(mgr):
        mgr.wait_until_finished()


@contextlib.contextmanager
def _saving(mgr):
    """Whatever keeps orbax from writing becomes a FileFault (an OSError) that says what is left."""
    try:
        yield
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:300]
        raise errors.FileFault(
            f"no checkpoint can be saved in {mgr.directory} ({type(error).__name__}: {reason}); {_left(mgr.directory)}"
        ) from error


@contextlib.contextmanager
def full_disk_told(workdir: Path):
    """Inside, a disk that takes no more, whatever was to be written, becomes a FileFault that says what is left."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise errors.FileFault(f"{workdir} takes no more files ({error}); {_left(workdir / 'checkpoints')}") from error


def _left(directory) -> str:
    there = ocp.utils.checkpoint_steps(directory) if Path(directory).is_dir() else []
    left = f"the last complete checkpoint is of step {max(there)}" if there else "there is no complete checkpoint yet"
    return f"{left}. Make room or give it back, then start again to go on from there"


def restore_newest(mgr: ocp.CheckpointManager, abstract_state, iterator, changed: str = "") -> tuple[Any, int] | None:
    """`restore` of the newest checkpoint that is sound; None if there is no checkpoint at all.

    Damaged ones are renamed to damaged-<step> and named in a warning. changed: what is known of how the config changed, said
    where the checkpoint does not fit it.

    Raises:
      ValueError: as `restore`; Damaged if none is sound.
    """
    while (step := mgr.latest_step()) is not None:
        try:
            return restore(mgr, abstract_state, iterator)
        except Damaged as error:
            before = [s for s in mgr.all_steps() if s < step]
            if not before:
                raise
            logging.warning("%s; going on from step %d instead, the damaged one is kept as damaged-%d",
                            str(error).split(". Delete")[0], max(before), step)  # fmt: skip
            _set_aside(Path(mgr.directory) / str(step))
            mgr.reload()
        except ValueError as error:
            if not changed:
                raise
            raise ValueError(f"{error}\n{changed}") from error
    return None


def _set_aside(path: Path) -> None:
    """Out of the numbered checkpoints, by process 0 for all."""
    if jax.process_index() == 0:
        target, n = path.with_name(f"damaged-{path.name}"), 1
        while target.exists():
            target, n = path.with_name(f"damaged-{path.name}-{n}"), n + 1
        path.rename(target)
    multihost_utils.sync_global_devices(f"set aside {path.name}")


def restore(mgr: ocp.CheckpointManager, abstract_state, iterator) -> tuple[Any, int]:
    """-> (the newest state laid out as `abstract_state` says, step); the data iterator is moved to the saved position.

    Raises:
      Damaged: the checkpoint was cut or altered.
      ValueError: it is of another model (missing, unexpected and differently shaped leaves are named) or of other data.
    """
    step = mgr.latest_step()
    with _readable(mgr.directory, step):
        _verify(Path(mgr.directory) / str(step))
        saved = saved_shapes(Path(mgr.directory) / str(step) / "state")
    check_fits(abstract_state, saved, Path(mgr.directory) / str(step))
    args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state), data=ocp.args.JsonRestore())
    with _readable(mgr.directory, step):
        restored = mgr.restore(step, args=args)
    iterator.set_state(restored["data"])
    return restored["state"], step


def _verify(path: Path) -> None:
    """Raises ValueError in every process if process 0 finds that files are not as they were written."""
    found = checksums.problems(path) if jax.process_index() == 0 else []
    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(found)))) if jax.process_count() > 1 else len(found)
    if count:
        raise ValueError("; ".join(found[:3]) or f"process 0 found {count} damaged files")


def steps(workdir: str | Path) -> list[int]:
    """Steps with a finished checkpoint, in order."""
    return sorted(ocp.utils.checkpoint_steps((Path(workdir) / "checkpoints").absolute()))


def choose(workdir: str | Path, which: str = "last", best_metric: str = "") -> int:
    """Step of the "last" checkpoint, of the "best" one by `best_metric`, or of the number given.

    Raises:
      FileNotFoundError: no checkpoint there, or not that step; says which steps there are.
      ValueError: `which` is none of these.
    """
    directory, there = Path(workdir) / "checkpoints", steps(workdir)
    if not there:
        raise FileNotFoundError(f"no checkpoint in {directory}: train first, or give another --workdir")
    if which == "last":
        return there[-1]
    if which == "best":
        best = best_step(workdir, best_metric)
        if best is None:
            raise FileNotFoundError(f"no checkpoint in {directory} has the metric {best_metric!r}; steps there: {there}")
        return best
    if not which.isdigit():
        raise ValueError(f"unknown checkpoint {which!r}; expected last, best or one of the steps {there}")
    if int(which) not in there:
        raise FileNotFoundError(f"no checkpoint of step {which} in {directory}; steps there: {there}")
    return int(which)


def saved_shapes(directory: Path):
    """Names and shapes in a checkpoint, without reading the arrays."""
    tree = ocp.PyTreeCheckpointHandler().metadata(epath.Path(directory)).tree
    return jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), tree)


@contextlib.contextmanager
def _readable(directory, step: int):
    """Whatever is raised inside becomes `Damaged`, which names the checkpoint and a way on."""
    try:
        yield
    except Exception as error:
        others = [s for s in ocp.utils.checkpoint_steps(directory) if s < step]
        way = f"go on from step {max(others)}" if others else "start again from the beginning"
        reason = (str(error).splitlines() or [""])[0][:200]
        raise Damaged(
            f"checkpoint {Path(directory) / str(step)} cannot be read ({type(error).__name__}: {reason}). "
            f"Delete that folder to {way}"
        ) from error


def check_fits(expected, saved, where) -> None:
    """Raises a ValueError that names what differs between a checkpoint and the state or model of this config."""
    if lines := trees.differences(trees.flatten(expected), trees.flatten(saved)):
        shown = "\n  ".join(lines[:SHOWN]) + (f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else "")
        raise ValueError(f"checkpoint {where} is of another model or optimizer than the config:\n  {shown}")


def load_variables(workdir: str | Path, step: int | None = None) -> tuple[dict, int]:
    """Model variables {"params", "batch_stats", "knowledge", ...} as numpy arrays, without optimizer state; their step.

    Raises:
      FileNotFoundError: no checkpoint there, or not that step; says which steps there are.
      Damaged: the checkpoint was cut or altered.
    """
    step = choose(workdir, "last" if step is None else str(step))
    directory = (Path(workdir) / "checkpoints").absolute()
    path = directory / str(step) / "state"
    with _readable(directory, step):
        if found := checksums.problems(path.parent):
            raise ValueError("; ".join(found[:3]))
        shapes = saved_shapes(path)
        wanted = {k: shapes[k] for k in ("params", "state")}
        restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        tree = ocp.PyTreeCheckpointer().restore(
            path, args=ocp.args.PyTreeRestore(item=wanted, restore_args=restore_args, partial_restore=True)
        )
    return {"params": tree["params"], **tree["state"]}, step


def best_step(workdir: str | Path, metric: str) -> int | None:
    """Step whose saved metric is highest (the later of equals), or None if no checkpoint carries it."""
    values = {}
    for step in steps(workdir):
        path = Path(workdir) / "checkpoints" / str(step) / "metrics" / "metrics"
        metrics = json.loads(path.read_text()) if path.is_file() else {}
        if metric in metrics:
            values[metrics[metric], step] = step
    return values[max(values)] if values else None
