"""Subsets of a training split by patient (1, 10, 100 % of the labels), written down in files with hashes.

The order of patients is that of SHA-256 of (seed, patient), so a smaller share is part of a larger one, and neither the
other rows nor the machine matter.
"""
import hashlib
import json
from pathlib import Path

import numpy as np

from medvlp_jax import atomic
from medvlp_jax.input import studies


class Subset:
    """Some examples of a source, in the order given; a Source itself."""

    def __init__(self, source, rows):
        self.source, self.rows = source, np.asarray(rows, np.int64)
        self.split = source.split
        if hasattr(source, "weights"):  # a mixture stays one
            self.weights, self.groups = source.weights, source.groups[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index):
        return self.source[int(self.rows[index])]

    def text(self, index) -> str:
        """Report of an example."""
        return self.source.text(int(self.rows[index]))

    def patient(self, index) -> str:
        """Whose image it is."""
        return self.source.patient(int(self.rows[index]))

    def truth(self, index) -> dict:
        """What is known of an example (input/targets.py)."""
        return self.source.truth(int(self.rows[index]))

    @property
    def studies(self) -> np.ndarray:
        """Number of the study that an example is of, int64 (N,)."""
        return studies.numbers(self.source)[self.rows]

    @property
    def projections(self) -> list[str]:
        """Projection of each example."""
        found = studies.projections(self.source)
        return [found[row] for row in self.rows.tolist()]

    @property
    def fingerprint(self) -> str:
        """Hash of the source and of the rows taken."""
        return hashlib.sha256(f"{self.source.fingerprint} {self.rows.tolist()}".encode()).hexdigest()


def choose(source, share: float, seed: int) -> np.ndarray:
    """Rows of whole patients, in order, as few patients as give at least `share` of the rows, int64 (n,).

    Raises:
      ValueError: share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"data.fraction must be above 0 and at most 1, came {share}")
    order = [hashlib.sha256(json.dumps([seed, source.patient(i)]).encode()).digest() for i in range(len(source))]
    rows = np.array(sorted(range(len(source)), key=lambda i: (order[i], i)), np.int64)
    last = max(round(share * len(rows)), 1) - 1
    while last + 1 < len(rows) and order[rows[last]] == order[rows[last + 1]]:  # the rest of the last patient
        last += 1
    return np.sort(rows[: last + 1])


def stored(source, share: float, seed: int, folder: Path) -> tuple[Subset, str]:
    """The subset of `choose` -> (source, SHA-256 of its file), from `folder` if it was written there before.

    The file names rows, the source by its fingerprint, and no patient.

    Raises:
      ValueError: the file there is damaged, or of other data.
    """
    path = Path(folder) / f"{source.split}-{share:g}-seed{seed}.json"
    if not path.is_file():
        record = {"share": share, "seed": seed, "source": source.fingerprint, "examples": len(source),
                  "rows": choose(source, share, seed).tolist()}  # fmt: skip
        atomic.write_text(path, json.dumps({**record, "sha256": _digest(record)}))  # every process of a run writes the same
    return load(source, path)


def load(source, path: Path) -> tuple[Subset, str]:
    """A subset from its file -> (source, SHA-256).

    Raises:
      FileNotFoundError: not there. ValueError: damaged, or of other data.
    """
    record = json.loads(Path(path).read_text())
    digest = record.pop("sha256", None)
    if digest != _digest(record):
        raise ValueError(f"split file {path} was changed since it was written: its hash is not that of its rows")
    if record["source"] != source.fingerprint:
        raise ValueError(f"split file {path} is of other data: it has {record['examples']} examples of fingerprint "
                         f"{record['source'][:12]}, came {len(source)} of {source.fingerprint[:12]}")
    return Subset(source, record["rows"]), digest


def _digest(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
