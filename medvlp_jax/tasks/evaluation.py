"""An evaluation as it lies on disk, for the page and for comparisons: nothing here computes a score."""
import json
from pathlib import Path
from typing import NamedTuple

import jax

from medvlp_jax import atomic
from medvlp_jax.tasks import kept, suite

PLACE = ("dataset", "split", "protocol", "step")


class Evaluation(NamedTuple):
    """Records, scores and examples of one evaluation, and how it was made.

    name: of the run's folder; place: dataset, split, protocol, step; facts: what `describe` was given;
    scores, cards: {task: arrays}, {task: list of cards}, see tasks/kept.py
    """

    name: str
    folder: Path
    place: dict
    facts: dict
    records: list[dict]
    scores: dict[str, dict]
    cards: dict[str, list[dict]]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks with records, in their order."""
        return list(dict.fromkeys(r["task"] for r in self.records))


def describe(workdir: Path, place: dict, facts: dict) -> None:
    """Writes eval/protocol.json: the last evaluation's place and how it was made (config, versions, data, tasks)."""
    if jax.process_index() != 0:
        return
    text = json.dumps({"place": place, **facts}, indent=1, default=str)
    atomic.write_text(Path(workdir) / "eval" / "protocol.json", text)


def load(workdir: str | Path) -> Evaluation:
    """The last evaluation of a run.

    Raises:
      FileNotFoundError: there is none, with how to make one. ValueError: its files do not belong together.
    """
    workdir = Path(workdir).expanduser().absolute()
    folder = workdir / "eval"
    path, results = folder / "protocol.json", folder / "results.jsonl"
    if not (path.is_file() and results.is_file()):
        raise FileNotFoundError(f"no evaluation in {workdir}: expected eval/protocol.json and eval/results.jsonl, which "
                                f"python -m medvlp_jax.evaluate --workdir={workdir} writes")
    facts = json.loads(path.read_text(encoding="utf-8"))
    place = facts.pop("place")
    records = [r for r in suite.read(results) if {k: r.get(k) for k in PLACE} == place]
    if not records:
        raise ValueError(f"{results} has no record of the evaluation that protocol.json describes: {place}")
    examples = kept.read_folder(folder / "examples", place)
    cards = {task: kept.cards(arrays) for task, arrays in examples.items()}
    return Evaluation(workdir.name, folder, place, facts, records, kept.read_folder(folder / "scores", place), cards)
