"""Several data sets as one: each keeps its label space, and what it does not tell stays unknown (-1, has_report 0)."""
import hashlib
import json

import numpy as np

from medvlp_jax.input import studies


class MixtureSource:
    """Sources one after the other; a Source itself.

    Args:
      parts: sources of the same split.
      weights: how often an example of each is seen, in relation to an example of weight 1. The order of training examples is
        that of `groups` and `weights` (pipeline.train_iterator): every part goes through its own epochs, each example once.

    Raises:
      ValueError: no parts, or a weight that is not positive.
    """

    def __init__(self, parts: list, weights: list[float]):
        if not parts or len(parts) != len(weights) or min(weights) <= 0:
            raise ValueError(f"a mixture needs data sets and a positive weight for each, came {len(parts)} and {list(weights)}")
        self.parts, self.weights, self.split = list(parts), tuple(float(w) for w in weights), parts[0].split
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _place(self, index: int):
        if not 0 <= index < len(self):
            raise IndexError(index)
        k = int(np.searchsorted(self._ends, index, side="right"))
        return k, int(index - (self._ends[k - 1] if k else 0))

    def __getitem__(self, index: int) -> dict:
        k, i = self._place(index)
        return self.parts[k][i]

    def text(self, index: int) -> str:
        """Report of an example, "" where there is none."""
        k, i = self._place(index)
        return self.parts[k].text(i)

    def patient(self, index: int) -> str:
        """Whose image it is; identifiers are of their data set."""
        k, i = self._place(index)
        return f"{k}:{self.parts[k].patient(i)}"

    def truth(self, index: int) -> dict:
        """What is known of an example (input/targets.py)."""
        k, i = self._place(index)
        return self.parts[k].truth(i)

    @property
    def groups(self) -> np.ndarray:
        """Number of the part that an example is of, int64 (N,)."""
        return np.repeat(np.arange(len(self.parts)), [len(part) for part in self.parts])

    @property
    def studies(self) -> np.ndarray:
        """Number of the study that an example is of, int64 (N,); no study is of two parts."""
        found, first = [], 0
        for part in self.parts:
            found.append(studies.numbers(part) + first)
            first = int(found[-1].max()) + 1
        return np.concatenate(found)

    @property
    def projections(self) -> list[str]:
        """Projection of each example."""
        return [name for part in self.parts for name in studies.projections(part)]

    @property
    def has_reports(self) -> np.ndarray:
        """Whether an example has a report, bool (N,)."""
        found = []
        for part in self.parts:
            has = getattr(part, "has_reports", None)
            if has is None:
                has = np.fromiter((bool(part.text(i).strip()) for i in range(len(part))), bool, len(part))
            found.append(np.broadcast_to(has, len(part)))
        return np.concatenate(found)

    @property
    def fingerprint(self) -> str:
        """Hash of the parts' fingerprints and weights."""
        told = [[part.fingerprint, weight] for part, weight in zip(self.parts, self.weights, strict=True)]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()
