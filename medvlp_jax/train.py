"""Trains any method on any mesh.

    python -m medvlp_jax.train --config=configs/mlip.py:quickstart --workdir=runs/mlip

Started again in the same workdir it resumes and repeats the uninterrupted run bit for bit.
"""
import functools
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from absl import app, flags, logging

from medvlp_jax import (
    bad_steps,
    checkpoint,
    cli,
    compiling,
    config_checks,
    distributed,
    errors,
    evaluate,
    experiment,
    initial_weights,
    loop,
    metrics,
    periods,
    schedules,
    sharding,
    timing,
    trees,
)  # fmt: skip
from medvlp_jax.frozen_trunk import put_function
from medvlp_jax.loop import variables
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


def train_step(train_state: TrainState, batch, *, method: Method, make_tx, schedule, seed: int, layouts, freeze=(),
               impl: str = config_checks.RNGS["threefry"]):  # fmt: skip
    """One update on one global batch -> (new state, metrics).

    Randomness is a function of (seed, step), so that a resumed run repeats it. A step whose loss or gradient is not
    finite changes nothing but the step counter and the counts of schedules, which follow it: the learning rate is always
    that of the step. Parameters whose names match a pattern of `freeze` have no gradient, so that no backward pass is
    computed for them.
    layouts: `sharding.layouts` of the parameters. impl: JAX's name of the random number generator.
    """
    rng = jax.random.fold_in(jax.random.key(seed, impl=impl), train_state.step)

    def loss_fn(params):
        params = trees.stop_gradients(sharding.to_use(params, *layouts), freeze)
        return method.loss(params, train_state.state, batch, rng)

    (loss, (state, terms)), grads = jax.value_and_grad(loss_fn, has_aux=True)(train_state.params)
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = make_tx(train_state.params).update(grads, train_state.opt_state, train_state.params)
    params = optax.apply_updates(train_state.params, updates)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

    def kept(new, old):
        if isinstance(new, optax.ScaleByScheduleState):
            return new
        return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

    params, state, opt_state = jax.tree.map(
        kept,
        (params, state, opt_state),
        (train_state.params, train_state.state, train_state.opt_state),
        is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState),
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
        impl=config_checks.RNGS[exp.config.rng],
    )  # fmt: skip
    shardings = (jax.tree.map(lambda s: s.sharding, abstract), None)
    return jax.jit(step_fn, donate_argnums=0, out_shardings=shardings, compiler_options=layout.options(exp.mesh))


def train(config, workdir: str | Path, profile: str = "") -> Any:
    """Trains `config` in `workdir`, resuming if it holds a checkpoint; ends with the config's evaluation.

    profile: "first:last" writes a trace of these steps to workdir/profile.

    Returns:
      the evaluation records, or None if a signal ended the run early (its state is saved).

    Raises:
      errors.BadValue (a ValueError): a config, batch size, data set or checkpoint that does not fit; says what would.
      errors.NotFinite (a FloatingPointError): too many steps were not finite; the last finite state is saved first.
    """
    clock = timing.Clock()
    compiling.count()
    with errors.opening():
        workdir = experiment.make_workdir(workdir)
        trace = timing.Profile(profile, workdir / "profile")
        compiling.use_cache(config.train.compilation_cache, workdir)
        exp = experiment.build(config, workdir)
        evaluate.check(exp)
        exp.tables  # noqa: B018 - each process makes them for itself, so before the mesh of all is in force
    with jax.set_mesh(exp.mesh), checkpoint.full_disk_told(workdir):
        with errors.opening():
            run, step_fn, state = start(exp, workdir, clock, trace)
        return _train(run, step_fn, state)


def start(exp: experiment.Experiment, workdir: Path, clock: timing.Clock, trace: timing.Profile):
    """Open data and checkpoints -> (loop.Run, step function, state to go on from)."""
    config, total = exp.config, exp.total_steps
    iterator, validating = exp.train_iterator(), loop.validates(exp)
    position = bad_steps.Position(iterator, bad_steps.BadSteps(config.train.max_bad_steps, config.train.bad_steps_window))
    mgr = checkpoint.manager(workdir, config.train.keep, config.train.best_metric if validating else "")
    abstract = abstract_state(exp, exp.tables)
    shardings = jax.tree.map(lambda s: s.sharding, abstract)
    changed = metrics.changes(workdir, config.to_dict())
    restored = checkpoint.restore_newest(mgr, abstract, position, changed)
    if restored is None:
        state = jax.jit(functools.partial(init_state, exp=exp), out_shardings=shardings)(exp.tables)
        state = initial_weights.load_into(state, exp.pretrained, shardings)
        first = 0
    else:
        state, first = restored
        logging.info("resuming at step %d of %d from %s", first, total, mgr.directory)
        for warning in filter(None, (changed, schedules.change(exp, workdir, first))):
            logging.warning(warning)
    put = put_function(exp, variables(state), workdir / "trunk")
    parameters = trees.count(abstract.params)
    logging.info("%s: %.2f M parameters, mesh %s", config.method, parameters / 1e6, dict(exp.mesh.shape))
    metrics.write_run_file(workdir, config.to_dict(), data=exp.fingerprints, training=exp.training, parameters=parameters)
    writer = metrics.Writer(workdir, total, first, tensorboard=config.train.tensorboard)
    rate = metrics.Rate(config.data.batch_size, first, clock.pauses)
    due = periods.Checkpoints(exp.periods, first)
    run = loop.Run(exp, workdir, put, mgr, writer, rate, position, first, validating, clock, trace, due)
    return run, step_function(exp, abstract), state


def _train(run: loop.Run, step_fn, state: TrainState) -> Any:
    exp, workdir = run.exp, run.workdir
    try:
        with Stop() as stop:
            state, step = loop.loop(run, step_fn, state, stop)
    except Exception as error:
        distributed.leave_if_lost(error)
        raise
    finally:
        run.profile.close()
        run.writer.close()
        run.mgr.close()
        run.position.iterator.close()
    logging.info("%s", run.clock.report(step - run.start))
    metrics.update_run_file(workdir, seconds=run.clock.split())
    if stop:
        logging.warning("signal %d: step %d is saved in %s; start again to resume", stop.signal, step, workdir)
        return None
    final, step = chosen_variables(run, state, step, workdir)
    return evaluate.run_tasks(exp, final, workdir, step)


def chosen_variables(run: loop.Run, state: TrainState, step: int, workdir: Path) -> tuple[dict, int]:
    """What the run is judged by and its step: with train.patience the best checkpoint, else the last state."""
    options = run.exp.config.train
    best = checkpoint.best_step(workdir, options.best_metric) if run.validating and options.patience else None
    if best in (None, step):
        return variables(state), step
    logging.info("evaluating step %d, the best by %s", best, options.best_metric)
    loaded, _ = checkpoint.load_variables(workdir, best)
    return jax.device_put(loaded, sharding.of_state(loaded, run.exp.mesh, run.exp.config.sharding)), best


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
