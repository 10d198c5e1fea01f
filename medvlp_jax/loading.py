"""Opens a checkpoint for use: the run's or the published model's config, its variables on this machine's devices."""
import copy
import importlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from medvlp_jax import checkpoint, cli, evaluate, experiment, initial_weights, knowledge, metrics, run_config, weights
from medvlp_jax.method import METHODS
from medvlp_jax.reports import vocab
from medvlp_jax.weights import hub


def config_of(path, overrides: Mapping = {}) -> ConfigDict:  # noqa: B006  (never written to)
    """The config of a run (its run.json), or the paper's config for a published checkpoint, with `overrides` in place.

    Raises:
      FileNotFoundError: neither there. ValueError: a trunk only; an unknown key of the config, or a value of a wrong type.
    """
    folder = Path(str(path)).expanduser()
    config = run_config.saved(folder) if "config" in metrics.read_run_file(folder) else _published_config(str(path))
    for key, value in overrides.items():
        cli.check_key(config, key)
        try:
            config.update_from_flattened_dict({key: value})
        except TypeError as error:
            raise ValueError(f"{key}={value!r} does not fit the config: {error}") from error
    return config


def _published_config(location: str) -> ConfigDict:
    folder = Path(location).expanduser()
    if folder.is_dir() and not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise FileNotFoundError(f"{folder} is neither a run (no run.json) nor an imported checkpoint (no model.safetensors)")
    kind = weights.kind_of(weights.read(hub.resolve(location)))
    whole = [k for k in weights.WHOLE if k in METHODS]
    if kind not in whole:
        raise ValueError(f"{location} holds weights of kind {kind or 'unknown'!r}, not a whole model "
                         f"({', '.join(whole)}); a trunk is where a run begins: --config.model.image.init")
    config = importlib.import_module(f"configs.{kind}").get_config()
    config.init = location
    return config


def open_model(config, path, step: str = "last"):
    """-> (Experiment, variables on the devices, step), step 0 for a published checkpoint.

    The mesh is that of this machine. A run's initial weights and data need not be there any more.

    Raises:
      FileNotFoundError: no such checkpoint. ValueError: the config does not fit it; a published MedKLIP without its text
        encoder.
    """
    folder = Path(str(path)).expanduser().absolute()
    config = copy.deepcopy(config)
    run = bool(checkpoint.steps(folder))
    if not run and not config.init:
        checkpoint.choose(folder, step)  # says what is missing
    with config.unlocked():
        config.required, config.mesh, config.sharding = (), ConfigDict({"data": -1, "fsdp": 1}), "replicated"
    config = run_config.without_initial_weights(config, folder) if run else config
    exp = experiment.build(config, folder)
    if run:
        number = checkpoint.choose(folder, step, config.train.best_metric)
        variables, _ = checkpoint.load_variables(folder, number)
    else:
        number, variables = 0, exp.pretrained[initial_weights.WHOLE] | {"knowledge": _tables(exp, folder)}
    where = folder if run else f"{path} (the width of its queries is that of the encoder of knowledge.init)"
    return exp, evaluate.placed(exp, variables, where), number


def _tables(exp, folder: Path) -> dict:
    """Knowledge tables for a published model."""
    k = exp.config.knowledge
    if "score_findings" not in exp.method.predict:  # nothing reads them
        return {name: np.zeros((len(rows), 1), np.float32)
                for name, rows in (("entities", vocab.ENTITIES), ("positions", vocab.POSITIONS))}  # fmt: skip
    if knowledge.is_random(k):
        raise ValueError(
            "a published MedKLIP answers to queries made by its text encoder, which is not among its weights: give it by "
            'overrides={"knowledge.init": "hf:emilyalsentzer/Bio_ClinicalBERT"} or --config.knowledge.init=DIRECTORY'
        )
    return knowledge.tables(k, exp.tokenizer, folder / "knowledge" if os.access(folder, os.W_OK) and folder.is_dir() else None)
