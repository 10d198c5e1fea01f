"""Trains any method on any mesh.

    python -m medvlp_jax.train --config=configs/mlip.py:quickstart --workdir=runs/mlip

Started again in the same workdir it resumes and repeats the uninterrupted run bit for bit.
"""
import functools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import app, flags, logging

from medvlp_jax import checkpoint, cli, distributed, evaluate, experiment, initial_weights, metrics, sharding, timing, trees
from medvlp_jax.frozen_trunk import put_function
from medvlp_jax.method import Method
from medvlp_jax.models import layout
from medvlp_jax.preemption import Stop

FLAGS = flags.FLAGS


class TrainState(NamedTuple):
    """Everything a step changes. `state` holds BatchNorm statistics and the (constant) knowledge tables."""

    step: jax.Array
    params: Any
    state: Any
    opt_state: Any


def init_state(tables: dict, exp: experiment.Experiment) -> TrainState:
    """Fresh state; under jit with output shardings no device ever holds more than its share."""
    variables = exp.init_variables(exp.config.seed, tables)
    state = {k: v for k, v in variables.items() if k != "params"}
    params = variables["params"]
    return TrainState(jnp.zeros([], jnp.int32), params, state, exp.optimizer(params).init(params))


def train_step(train_state: TrainState, batch, *, method: Method, make_tx, schedule, seed: int, layouts, freeze=()):
    """One update on one global batch -> (new state, metrics).

    Randomness is a function of (seed, step), so that a resumed run repeats it. A step whose loss or gradient is not
    finite changes nothing but the step counter: the state stays the last good one until the loop sees it and stops.
    Parameters whose names match a pattern of `freeze` have no gradient, so that no backward pass is computed for them.
    layouts: `sharding.layouts` of the parameters.
    """
    rng = jax.random.fold_in(jax.random.key(seed), train_state.step)

    def loss_fn(params):
        params = trees.stop_gradients(sharding.to_use(params, *layouts), freeze)
        return method.loss(params, train_state.state, batch, rng)

    (loss, (state, terms)), grads = jax.value_and_grad(loss_fn, has_aux=True)(train_state.params)
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = make_tx(train_state.params).update(grads, train_state.opt_state, train_state.params)
    params = optax.apply_updates(train_state.params, updates)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    params, state, opt_state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, state, opt_state),
        (train_state.params, train_state.state, train_state.opt_state),
    )
    values = {"loss": loss, **terms, "lr": schedule(train_state.step), "grad_norm": grad_norm}
    return TrainState(train_state.step + 1, params, state, opt_state), values


def abstract_state(exp: experiment.Experiment, tables: dict) -> TrainState:
    """The train state by shapes, each laid out on the mesh as config.sharding says; `tables` may be shapes too."""
    abstract = jax.eval_shape(functools.partial(init_state, exp=exp), tables)
    shardings = sharding.of_state(abstract, exp.mesh, exp.config.sharding)
    return jax.tree.map(lambda s, d: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=d), abstract, shardings)


def step_function(exp: experiment.Experiment, abstract: TrainState):
    """`train_step` of a config, jitted: (state, batch) -> (state, metrics); the state that goes in is overwritten."""
    step_fn = functools.partial(
        train_step, method=exp.method, make_tx=exp.optimizer, schedule=exp.schedule, seed=exp.config.seed,
        freeze=exp.config.optim.freeze, layouts=sharding.layouts(abstract.params, exp.mesh),
    )  # fmt: skip
    shardings = (jax.tree.map(lambda s: s.sharding, abstract), None)
    return jax.jit(step_fn, donate_argnums=0, out_shardings=shardings, compiler_options=layout.options(exp.mesh))


def variables(state: TrainState) -> dict:
    """What predict functions take."""
    return {"params": state.params, **state.state}


class Run(NamedTuple):
    """What the loop hands around: nothing in it changes what is computed."""

    exp: experiment.Experiment
    put: Callable  # host batch -> what a step takes
    mgr: Any
    writer: metrics.Writer
    rate: metrics.Rate
    iterator: Any
    start: int  # step at which this process began
    validating: bool
    clock: timing.Clock
    profile: timing.Profile


def train(config, workdir: str | Path, profile: str = "") -> Any:
    """Trains `config` in `workdir`, resuming if it holds a checkpoint; ends with the config's evaluation.

    profile: "first:last" writes a trace of these steps to workdir/profile.

    Returns:
      the evaluation records, or None if a signal ended the run early (its state is saved).

    Raises:
      ValueError: a config, batch size, data set or checkpoint that does not fit; says what would.
      FloatingPointError: the loss became NaN or infinite; the last finite state is saved first.
    """
    clock = timing.Clock()
    workdir = experiment.make_workdir(workdir)
    trace = timing.Profile(profile, workdir / "profile")
    exp = experiment.build(config, workdir)
    evaluate.check(exp)
    exp.tables  # noqa: B018 - each process makes them for itself, so before the mesh of all is in force
    with jax.set_mesh(exp.mesh), checkpoint.full_disk_told(workdir):
        return _train(exp, workdir, clock, trace)


def _train(exp: experiment.Experiment, workdir: Path, clock: timing.Clock, trace: timing.Profile) -> Any:
    config, total = exp.config, exp.total_steps
    iterator = exp.train_iterator()
    validating = validates(exp)
    mgr = checkpoint.manager(workdir, config.train.keep, config.train.best_metric if validating else "")
    abstract = abstract_state(exp, exp.tables)
    shardings = jax.tree.map(lambda s: s.sharding, abstract)
    changed = metrics.changes(workdir, config.to_dict())
    restored = checkpoint.restore_newest(mgr, abstract, iterator, changed)
    if restored is None:
        state = jax.jit(functools.partial(init_state, exp=exp), out_shardings=shardings)(exp.tables)
        state = initial_weights.load_into(state, exp.pretrained, shardings)
        start = 0
    else:
        state, start = restored
        logging.info("resuming at step %d of %d from %s", start, total, mgr.directory)
        if changed:
            logging.warning(changed)
    put = put_function(exp, variables(state), workdir / "trunk")
    parameters = trees.count(abstract.params)
    logging.info("%s: %.2f M parameters, mesh %s", config.method, parameters / 1e6, dict(exp.mesh.shape))
    metrics.write_run_file(workdir, config.to_dict(), data=exp.fingerprints, training=exp.training, parameters=parameters)

    step_fn = step_function(exp, abstract)
    writer = metrics.Writer(workdir, total, start, tensorboard=config.train.tensorboard)
    rate = metrics.Rate(config.data.batch_size, start)
    run = Run(exp, put, mgr, writer, rate, iterator, start, validating, clock, trace)
    try:
        with Stop() as stop:
            state, step = loop(run, step_fn, state, stop)
    except Exception as error:
        distributed.leave_if_lost(error)
        raise
    finally:
        trace.close()
        writer.close()
        mgr.close()
        iterator.close()
    logging.info("%s", clock.report(step - start))
    metrics.update_run_file(workdir, seconds=clock.split())
    if stop:
        logging.warning("signal %d: step %d is saved in %s; start again to resume", stop.signal, step, workdir)
        return None
    final, step = chosen_variables(run, state, step, workdir)
    return evaluate.run_tasks(exp, final, workdir, step)


def chosen_variables(run: Run, state: TrainState, step: int, workdir: Path) -> tuple[dict, int]:
    """What the run is judged by and its step: with train.patience the best checkpoint, else the last state."""
    options = run.exp.config.train
    best = checkpoint.best_step(workdir, options.best_metric) if run.validating and options.patience else None
    if best in (None, step):
        return variables(state), step
    logging.info("evaluating step %d, the best by %s", best, options.best_metric)
    loaded, _ = checkpoint.load_variables(workdir, best)
    return jax.device_put(loaded, sharding.of_state(loaded, run.exp.mesh, run.exp.config.sharding)), best


def validates(exp: experiment.Experiment) -> bool:
    """Whether the run stops in between to score the validation split (a run of one evaluation needs no best)."""
    every = exp.config.train.eval_every
    if not 0 < every < exp.total_steps:
        return False
    if not exp.has_split("val"):
        logging.warning("no validation split: train.eval_every and train.best_metric have no effect")
        return False
    return True


def loop(run: Run, step_fn, state: TrainState, stop: Stop) -> tuple[TrainState, int]:
    """Steps until the end or a signal, with what has to be logged, scored and saved on the way -> (state, step)."""
    options, total, clock = run.exp.config.train, run.exp.total_steps, run.clock
    pending, step = None, run.start
    while step < total and not stop.reached(step) and not _patience_is_over(run, step):
        try:
            with clock.part("input") as busy:
                batch = run.put(next(run.iterator))
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
        score = run.validating and (step % options.eval_every == 0 or step == total)
        if score or step == total or options.checkpoint_every and step % options.checkpoint_every == 0:
            _record(run, *pending, state)  # before saving: a run that resumes here has this record already
            pending = None
            quality = _quality(run, step, state) if score else None
            with clock.part("checkpoint"):
                checkpoint.save(run.mgr, step, state, run.iterator, quality)
    if pending is not None:
        _record(run, *pending, state)
    with clock.part("checkpoint"):
        if stop and run.mgr.latest_step() != step:
            checkpoint.save(run.mgr, step, state, run.iterator)
        checkpoint.finish(run.mgr)
    return state, step


def _patience_is_over(run, step: int) -> bool:
    """Whether the best checkpoint is train.patience evaluations old; a function of what is saved, so resuming repeats it."""
    options = run.exp.config.train
    if not (run.validating and options.patience and options.best_metric) or step % options.eval_every:
        return False
    best = run.mgr.best_step()
    return best is not None and step - best >= options.patience * options.eval_every


def _quality(run, step, state) -> dict[str, float]:
    """Scores the validation split and logs the result."""
    with run.clock.part("evaluation"):
        quality, best = evaluate.validate(run.exp, variables(state)), run.exp.config.train.best_metric
    run.writer.write(step, quality)
    if best and not math.isfinite(quality.get(best, math.nan)):
        logging.warning("train.best_metric %r is not among, or not finite in: %s", best, quality)
    return quality


def _record(run, step, values, state) -> None:
    """Logs the values of one step if it is due, and stops the run if its loss is not finite."""
    every, total, mgr = run.exp.config.train.log_every, run.exp.total_steps, run.mgr
    loss = float(values["loss"])
    if not (math.isfinite(loss) and math.isfinite(float(values["grad_norm"]))):
        values = {k: float(v) for k, v in values.items()}
        checkpoint.save(mgr, int(state.step), state, run.iterator)
        checkpoint.finish(mgr)
        raise FloatingPointError(
            f"step {step}: loss or gradient is not finite: {values}. The last finite state is saved in {mgr.directory}; "
            "try a lower schedule.lr, optim.clip_norm=1.0 or dtype=float32"
        )
    rate = run.rate(step) if (due := step in (1, total) or every and step % every == 0) or step == run.start + 1 else None
    if due:
        run.writer.write(step, {"loss": loss, **{k: float(v) for k, v in values.items()}, "images_per_s": rate})
    run.writer.show(step, loss, rate)


def define_flags(flag_values=FLAGS) -> None:
    """Flags beside --config."""
    flags.DEFINE_string("workdir", "", "Run directory; default runs/<method>-<variant>.", flag_values=flag_values)
    flags.DEFINE_string("profile", "", "FIRST:LAST: a trace of these steps in <workdir>/profile.", flag_values=flag_values)
    text = "Exit code where a signal ended the run early, for launchers that have to tell it from a finished one."
    flags.DEFINE_integer("stopped_code", 0, text, lower_bound=0, upper_bound=255, flag_values=flag_values)
    distributed.define_flags(flag_values)


def main(argv):
    """Entry of `python -m medvlp_jax.train`."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; options look like --config.train.steps=100")
    distributed.start(FLAGS.distributed, FLAGS.heartbeat)
    workdir = FLAGS.workdir or experiment.default_workdir(FLAGS.config)
    if distributed.run(lambda: train(FLAGS.config, workdir, FLAGS.profile)) is None:
        sys.exit(FLAGS.stopped_code)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
