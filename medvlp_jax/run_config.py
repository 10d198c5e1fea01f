"""The config a run was trained with, from its run.json, completed by the keys that came into being after it."""
import copy
import importlib
import importlib.util
from pathlib import Path

from absl import logging
from ml_collections import ConfigDict

from medvlp_jax import initial_weights, metrics, periods

# Arguments of functions with defaults of their own: a run may hold any of them, and what it does not hold is no gap.
OPEN = ("model.image", "model.text", "data.examples", "data.phantom_sizes", "evals.options")
FOLDERS = ("configs", "configs.tasks")  # of the files that a workload may be named after


def saved(workdir: str | Path) -> ConfigDict:
    """The config in run.json. Keys that the run's config file has got since are added with their values of today and logged.

    Raises:
      FileNotFoundError: no run.json there. ValueError: keys are missing and no file here is called as the run's was.
    """
    config, gaps, where = _completed(workdir)
    if gaps:
        logging.warning("run.json in %s is from before these config keys; they are as in %s: %s", workdir, where, _shown(gaps))
    return config


def _completed(workdir: str | Path) -> tuple[ConfigDict, dict, str]:
    """-> the config in run.json with what it lacks, {dotted key: value} of that, and the file it comes from."""
    record = metrics.read_run_file(Path(workdir).expanduser())
    if "config" not in record:
        raise FileNotFoundError(f"no run.json with a config in {workdir}: give the --workdir of a run, or --config")
    config = _tuples(record["config"])
    workload, variant, method = (config[key] if key in config else "" for key in ("workload", "variant", "method"))
    today, where = _today(workload, variant)
    if today is None:  # a file of the user's own: its method's shows what a config must have
        today, where = _today(method, "")
        if gaps := missing(config, today or {}):
            raise ValueError(
                f"run.json in {workdir} has no config keys {', '.join(gaps)}, and there is no configs/{workload}.py with "
                f"variant {variant!r} to take them from. Give --config=FILE.py[:variant], or add them to run.json; "
                f"{where} has: {_shown(gaps)}"
            )
        return periods.retype(ConfigDict(config)), {}, where
    gaps = missing(config, today)
    for name, value in gaps.items():
        *parents, key = name.split(".")
        node = config
        for part in parents:
            node = node[part]
        node[key] = value
    return periods.retype(ConfigDict(config)), gaps, where


def without_initial_weights(config: ConfigDict, workdir: str | Path) -> ConfigDict:
    """Copy of the config for a run that has checkpoints: the files that it began with need not be there any more.

    Of a text encoder's the tokenizer is still read. A model that is not the run's keeps its initial weights, from which its
    sizes are read.
    """
    config = copy.deepcopy(config)
    if config.model == _completed(workdir)[0].model:
        with config.unlocked():
            config.data.tokenizer = str(initial_weights.tokenizer_path(config) or "")
            config.init = ""
            for key in initial_weights.TRUNKS.keys() & config.model.keys():
                config.model[key].init = ""
    return config


def of_evaluation(config: ConfigDict, workdir: str | Path) -> ConfigDict:
    """`without_initial_weights`; and data.exclude, which is of the run's own data, does not hold for any other."""
    config, own = without_initial_weights(config, workdir), _completed(workdir)[0].data
    if any(config.data[key] != own[key] for key in ("name", "path", "mixture")):
        with config.unlocked():
            config.data.exclude = ()
    return config


def missing(config: dict, today: dict, prefix: str = "") -> dict:
    """{dotted key: value} of `today` that `config` does not have, a group that is missing as a whole as one; not in `OPEN`."""
    found = {}
    for key, value in today.items():
        name = prefix + key
        if key not in config:
            found[name] = value
        elif name not in OPEN and isinstance(value, dict) and isinstance(config[key], dict):
            found |= missing(config[key], value, f"{name}.")
    return found


def _today(workload: str, variant: str) -> tuple[dict | None, str]:
    """What the config file of that name gives now, and how it is called; None if there is none, or not that variant."""
    for folder in FOLDERS:
        name = f"{folder}.{workload}"
        if workload.isidentifier() and importlib.util.find_spec(name):
            try:
                config = importlib.import_module(name).get_config(variant)
            except ValueError:  # a variant that is there no more
                break
            return config.to_dict(), f"{name.replace('.', '/')}.py" + (f":{variant}" if variant else "")
    return None, ""


def _shown(gaps: dict) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in gaps.items())


def _tuples(value):
    """JSON has lists where configs have tuples."""
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
