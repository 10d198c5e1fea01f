"""The loop of a training run: steps, and what is logged, scored and saved on the way."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging

from medvlp_jax import bad_steps, checkpoint, compiling, errors, evaluate, experiment, metrics, periods, timing
from medvlp_jax.preemption import Stop


class Run(NamedTuple):
    """What the loop hands around: nothing in it changes what is computed."""

    exp: experiment.Experiment
    workdir: Path
    put: Callable  # host batch -> what a step takes
    mgr: Any
    writer: metrics.Writer
    rate: metrics.Rate
    position: bad_steps.Position  # data iterator and count of bad steps
    start: int  # step at which this process began
    validating: bool
    clock: timing.Clock
    profile: timing.Profile
    checkpoints: periods.Checkpoints


def variables(state) -> dict:
    """Return what predict functions take, from a `train.TrainState`."""
    return {"params": state.params, **state.state}


def validates(exp: experiment.Experiment) -> bool:
    """Whether the run stops in between to score the validation split (a run of one evaluation needs no best)."""
    if not 0 < exp.periods.eval < exp.total_steps:
        return False
    if not exp.has_split("val"):
        logging.warning("no validation split: train.eval_every and train.best_metric have no effect")
        return False
    return True


def loop(run: Run, step_fn, state, stop: Stop) -> tuple[Any, int]:
    """Steps until the end or a signal, with what has to be logged, scored and saved on the way -> (state, step)."""
    eval_every, total, clock = run.exp.periods.eval, run.exp.total_steps, run.clock
    pending, step = None, run.start
    while step < total and not stop.reached(step) and not _patience_is_over(run, step):
        try:
            with clock.part("input") as busy:
                batch = run.put(next(run.position.iterator))
                if pending is not None and not pending[1]["loss"].is_ready():
                    busy.append(True)  # the device still works on the step before: nothing waits for this batch
        except Exception:
            if stop:  # the signal reached the loader's processes too
                break
            raise
        run.profile.before(step + 1)
        state, values = step_fn(state, batch)
        step += 1
        run.profile.after(step, values)
        # The values of step n-1 are read while step n runs: the device never waits for the host.
        if pending is not None:
            _record(run, *pending, state)
        pending = step, values
        if step == run.start + 1:
            jax.block_until_ready(values)
            clock.started()
            compiling.report(clock.seconds["start"])
        score = run.validating and (step % eval_every == 0 or step == total)
        if run.checkpoints.due(step) or score or step == total:
            _record(run, *pending, state)  # before saving: a run that resumes here has this record already
            pending = None
            quality = _quality(run, step, state) if score else None
            with clock.part("checkpoint"):
                checkpoint.save(run.mgr, step, state, run.position, quality)
            run.checkpoints.saved()
    if pending is not None:
        _record(run, *pending, state)
    with clock.part("checkpoint"):
        if stop and run.mgr.latest_step() != step:
            checkpoint.save(run.mgr, step, state, run.position)
        checkpoint.finish(run.mgr)
    return state, step


def _patience_is_over(run, step: int) -> bool:
    """Whether the best checkpoint is train.patience evaluations old; a function of what is saved, so resuming repeats it."""
    options, every = run.exp.config.train, run.exp.periods.eval
    if not (run.validating and options.patience and options.best_metric) or step % every:
        return False
    best = run.mgr.best_step()
    return best is not None and step - best >= options.patience * every


def _quality(run, step, state) -> dict[str, float]:
    """Scores the validation split and logs the result."""
    with run.clock.part("evaluation"):
        quality, best = evaluate.validate(run.exp, variables(state)), run.exp.config.train.best_metric
    run.writer.write(step, quality)
    if best and not math.isfinite(quality.get(best, math.nan)):
        logging.warning("train.best_metric %r is not among, or not finite in: %s", best, quality)
    return quality


def _record(run, step, values, state) -> None:
    """Logs the values of one step if it is due or bad, and stops the run if too many are bad."""
    every, total, bad = run.exp.periods.log, run.exp.total_steps, run.position.bad
    loss, grad_norm = float(values["loss"]), float(values["grad_norm"])
    if broken := not (math.isfinite(loss) and math.isfinite(grad_norm)):
        too_many = bad.note(step, loss, grad_norm)
    rate = run.rate(step) if (due := step in (1, total) or every and step % every == 0) or step == run.start + 1 else None
    if due or broken:
        shown = {"loss": loss, **{k: float(v) for k, v in values.items()}, "bad_steps": bad.total}
        run.writer.write(step, shown if rate is None else {**shown, "images_per_s": rate})
    run.writer.show(step, loss, rate)
    if broken and too_many:
        _emergency(run, step, {k: float(v) for k, v in values.items()}, state)


def _emergency(run, step, values, state) -> None:
    """Save the state, in a folder of its own so that no good checkpoint makes room for it, and end the run."""
    bad, mgr = run.position.bad, checkpoint.manager(run.workdir / "emergency", keep=1)
    at = int(state.step)
    if at in mgr.all_steps():  # the run came to the same end before
        mgr.delete(at)
    checkpoint.save(mgr, at, state, run.position)
    checkpoint.finish(mgr)
    mgr.close()
    raise errors.NotFinite(
        f"step {step}: loss or gradient is not finite: {values}. That makes {len(bad.recent)} of the last {bad.window} steps; "
        f"train.max_bad_steps={bad.allowed}. The last finite state is saved in {mgr.directory}; the run's own checkpoints are "
        "as they were. Try a lower schedule.lr, optim.clip_norm=1.0 or dtype=float32"
    )
