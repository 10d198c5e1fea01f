"""Our side of `bench step`, a process of its own: `python -m medvlp_jax.bench.step_ours FOLDER`."""
import functools
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from medvlp_jax import experiment, train, trees
from medvlp_jax.bench import turns

STEPS_PER_EPOCH = 1000  # no data is opened: the length of an epoch changes numbers, not programs


class Trainer:
    """The compiled train step of a config, its state and one step."""

    def __init__(self, config, tables: dict[str, np.ndarray], batch: dict[str, np.ndarray]):
        exp = experiment.build(config, None)
        exp.__dict__["steps_per_epoch"] = STEPS_PER_EPOCH
        with jax.set_mesh(exp.mesh):
            abstract = train.abstract_state(exp, tables)
            shardings = jax.tree.map(lambda s: s.sharding, abstract)
            self.state = jax.jit(functools.partial(train.init_state, exp=exp), out_shardings=shardings)(tables)
            self.batch = exp.put(batch)
            start = time.perf_counter()
            self.program = train.step_function(exp, abstract).lower(self.state, self.batch).compile()
            self.compile_seconds = time.perf_counter() - start

    @property
    def parameters(self) -> int:
        """How many values are learnt."""
        return trees.count(self.state.params)

    def step(self) -> dict[str, float]:
        """One update -> loss, gradient norm and terms."""
        self.state, values = self.program(self.state, self.batch)
        jax.block_until_ready(self.state)
        return {name: float(value) for name, value in values.items()}


def main(folder: Path) -> None:
    """Answers the questions of `turns.Side` on stdin."""
    config = ConfigDict(json.loads((folder / "config.json").read_text()))
    trainer = Trainer(config, dict(np.load(folder / "tables.npz")), dict(np.load(folder / "batch.npz")))
    turns.serve(trainer.step, parameters=trainer.parameters, compile=trainer.compile_seconds)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
