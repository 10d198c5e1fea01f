"""Scores a checkpoint.

    python -m medvlp_jax.evaluate --workdir=runs/mlip-quickstart --tasks=zeroshot
    python -m medvlp_jax.evaluate --compare runs/mlip-quickstart runs/medklip-quickstart

The config is the one the run was trained with (its run.json) unless --config names another. `train` ends by calling the
same `run_tasks`. Numbers, scores and the page eval/report.html are left in the run's folder; --compare reads those of two
runs and computes no score again.
"""
import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict

from medvlp_jax import checkpoint, cli, distributed, errors, experiment, initial_weights, leakage, metrics, run_config, sharding
from medvlp_jax.tasks import common, comparison_page, evaluation, page, suite

FLAGS = flags.FLAGS


def task_options(exp: experiment.Experiment, tasks=None) -> dict[str, dict]:
    """{task: options} of `tasks`, or of those of config.evals.tasks that the method can do.

    Raises:
      ValueError: unknown task, with the known ones.
    """
    wanted = [name for text in tasks or exp.config.evals.tasks for name in text.split(",") if name]
    if unknown := sorted({*wanted, *exp.config.evals.options} - set(suite.TASKS)):
        raise ValueError(f"unknown task {', '.join(map(repr, unknown))}; known: {', '.join(sorted(suite.TASKS))}")
    names = wanted if tasks else suite.possible(exp.method, wanted)
    return {name: exp.config.evals.options.get(name, ConfigDict()).to_dict() for name in names}


def check(exp: experiment.Experiment, tasks=None) -> None:
    """Finds mistakes in config.evals before a run, not after it.

    Raises:
      ValueError: unknown task or option of a task; an option with a wrong value; a task the method cannot do.
    """
    context = common.Context(exp.put, exp.tokenizer, targets=exp.options.targets)
    for name, options in task_options(exp, tasks).items():
        try:
            suite.TASKS[name](exp.method.predict, context, **options)
        except TypeError as error:
            raise ValueError(f"evals.options.{name} {options} does not fit the task: {error}") from error


def run_tasks(exp: experiment.Experiment, variables, workdir: str | Path, step: int, tasks=None) -> list[dict]:
    """Runs `tasks` (default: those of config.evals.tasks that the method can do) on the evaluation split.

    Writes workdir/eval: results.jsonl, scores, protocol.json and, with config.evals.figures, figures and the page; adds the
    data's fingerprints to run.json. Returns the records.

    Raises:
      ValueError: unknown task. RuntimeError: a task failed, after all others were finished.
    """
    evals, options = exp.config.evals, task_options(exp, tasks)
    validation = exp.eval_batches("val", evals.limit) if evals.split != "val" and exp.has_split("val") else None
    place = {"dataset": exp.config.data.name, "split": evals.split, "protocol": "default", "step": int(step)}
    training = leakage.recorded(workdir, exp.config)
    leaks = leakage.facts(training, exp.source(evals.split), evals.split)
    try:
        return suite.evaluate(
            exp.method, variables, options, exp.eval_batches(evals.split, evals.limit), workdir, step,
            put=exp.put, tokenizer=exp.tokenizer, validation_fn=validation, dataset=place["dataset"], split=evals.split,
            protocol=place["protocol"], draw=evals.figures, targets=exp.options.targets,
            facts={"data": exp.source(evals.split).fingerprint, "checkpoint": f"{Path(workdir).name}, step {step}",
                   **leaks},
        )  # fmt: skip
    finally:
        metrics.update_run_file(Path(workdir), data=exp.fingerprints)
        _report(exp, workdir, place, options, {**leaks, "left_out_of_training": leakage.lines(training)})


def _report(exp, workdir, place, options, leaks) -> None:
    """The page and what it says of the protocol. Whatever goes wrong here never costs the numbers: it is only logged."""
    if not options:
        return
    try:
        config = exp.config
        given = metrics.read_run_file(Path(workdir)).get("parameters")
        evaluation.describe(workdir, place, {
            "checkpoint": {"step": place["step"], "method": config.method, "variant": config.variant,
                           "initial weights": config.init or "see the config", "parameters": given},
            "data_fingerprints": exp.fingerprints, "images": {k: config.data[k] for k in ("image_size", "frame")},
            "evaluated_examples": config.evals.limit or "all", "tasks": suite.settings(options),
            "computed_on": f"{jax.device_count()} {jax.default_backend()} device(s), {config.dtype}",
            "versions": metrics.versions(), "config": config.to_dict(), **leaks,
        })  # fmt: skip
        if config.evals.figures and jax.process_index() == 0:
            logging.info("report: %s", page.write(workdir))
    except Exception:
        logging.exception("the report was not written; the numbers are in eval/results.jsonl")


def validate(exp: experiment.Experiment, variables) -> dict[str, float]:
    """Summary metrics on (the first evals.quick_limit examples of) the validation split: {"val/task/metric": value}."""
    context = common.Context(exp.put, exp.tokenizer, targets=exp.options.targets)
    batches, values = exp.eval_batches("val", exp.config.evals.quick_limit), {}
    for name, options in task_options(exp).items():
        run = suite.TASKS[name](exp.method.predict, context, **{**options, "resamples": 0})
        for record in run(variables, batches):
            if "/" not in record["metric"]:
                values[f"val/{name}/{record['metric']}"] = record["value"]
    return values


def evaluate(config, workdir: str | Path, step: str = "last", tasks=None, devices=None) -> list[dict]:
    """Scores the checkpoint `step` ("last", "best" by config.train.best_metric, or a number) of a run, on `devices` (default:
    all there are).

    Without any checkpoint in `workdir`, the published model of config.init is scored, as step 0.

    Raises:
      FileNotFoundError: no such checkpoint. ValueError: the config does not fit the checkpoint, or `check`.
    """
    workdir = Path(workdir).expanduser().absolute()
    with errors.opening():
        published = config.init and not checkpoint.steps(workdir)
        number = 0 if published else checkpoint.choose(workdir, step, config.train.best_metric)
        has_config = not published and "config" in metrics.read_run_file(workdir)
        config = run_config.of_evaluation(config, workdir) if has_config else config
        exp = experiment.build(config, workdir, devices)
        check(exp, tasks)
        if published:
            variables = {**exp.pretrained[initial_weights.WHOLE], "knowledge": exp.tables}
        else:
            variables, _ = checkpoint.load_variables(workdir, number)
    where = f"{config.init} (the width of its queries is that of the encoder of knowledge.init)" if published else workdir
    logging.info("evaluating step %d of %s", number, workdir)
    with jax.set_mesh(exp.mesh):  # as in training: without it nothing is said about the layout of activations
        with errors.opening():
            variables = placed(exp, variables, where)
        return run_tasks(exp, variables, workdir, number, tasks)


@errors.opening()
def compare(folders: list[str], out: str = "") -> Path:
    """Writes the page and a JSON file of the differences of two evaluated runs, b - a -> path of the page.

    Raises:
      ValueError: not two folders, or evaluations that have no task or no example in common.
      FileNotFoundError: one has no evaluation.
    """
    if len(folders) != 2:
        raise ValueError(f"--compare takes two run directories, came {len(folders)}: {', '.join(folders)}")
    path = comparison_page.write(*folders, out or None)
    logging.info("comparison: %s and %s", path, path.with_suffix(".json").name)
    return path


def placed(exp: experiment.Experiment, variables: dict, where) -> dict:
    """Variables of a checkpoint on the mesh, laid out as the config says.

    Raises:
      ValueError: they are of another model than the config; names what differs.
    """
    tables = variables.get("knowledge", {})  # transfer has none
    checkpoint.check_fits(jax.eval_shape(lambda t: exp.init_variables(0, t), tables), variables, where)
    return jax.device_put(variables, sharding.of_state(variables, exp.mesh, exp.config.sharding))


def define_flags(flag_values=FLAGS) -> None:
    """Flags beside --config."""
    flags.DEFINE_string("workdir", "", "Run directory that holds checkpoints/; default runs/<method>-<variant>.",
                        flag_values=flag_values)  # fmt: skip
    flags.DEFINE_list("tasks", [], "Tasks to run; default: all that the method can do.", flag_values=flag_values)
    flags.DEFINE_string("step", "last", "Checkpoint to score: last, best or a number.", flag_values=flag_values)
    text = "Two evaluated run directories, as --compare A B or --compare=A,B: writes a page of their differences."
    flags.DEFINE_list("compare", [], text, flag_values=flag_values)
    flags.DEFINE_string("out", "", "Page of --compare; default A/eval/comparison.html.", flag_values=flag_values)
    distributed.define_flags(flag_values)


def main(argv):
    """Entry of `python -m medvlp_jax.evaluate`."""
    if FLAGS.compare:
        compare([*FLAGS.compare, *argv[1:]], FLAGS.out)
        return
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}; options look like --tasks=zeroshot,grounding")
    distributed.start(FLAGS.distributed, FLAGS.heartbeat)
    evaluate(FLAGS.config, FLAGS.workdir or experiment.default_workdir(FLAGS.config), FLAGS.step, FLAGS.tasks)


def _saved(argv):
    """What gives the config where none is named: the run's own, or for a comparison none."""
    if cli.flag_value(argv, "compare") is not None:
        return ConfigDict
    folder = cli.flag_value(argv, "workdir")
    return (lambda: run_config.saved(folder)) if folder else None


if __name__ == "__main__":
    define_flags()
    FLAGS.set_gnu_getopt(True)  # --compare A B --out=C: options may follow the second directory
    cli.run(main, saved=_saved(sys.argv))
