"""Directories as training leaves them: one checkpoint and the run's config, without any training."""
import types
from pathlib import Path
from typing import Any, NamedTuple

from medvlp_jax import checkpoint, metrics


class State(NamedTuple):
    """What a train state saves of the model."""

    params: Any
    state: Any


def save(workdir: Path, variables: dict, config=None, step: int = 7) -> None:
    """Writes a checkpoint of the variables and, with a config, run.json."""
    mgr = checkpoint.manager(workdir)
    state = State(variables["params"], {k: v for k, v in variables.items() if k != "params"})
    checkpoint.save(mgr, step, state, types.SimpleNamespace(get_state=dict))
    mgr.wait_until_finished()
    mgr.close()
    if config is not None:
        metrics.write_run_file(workdir, config.to_dict())
