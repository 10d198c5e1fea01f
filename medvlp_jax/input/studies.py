"""Studies of several images with one report, each as one example: a random view in training, the frontal one elsewhere."""
import hashlib

import numpy as np

from medvlp_jax.input import views


def numbers(source) -> np.ndarray:
    """Number of the study that each example of a source is of, int64 (N,); where it does not tell, every image is one."""
    found = getattr(source, "studies", None)
    return np.arange(len(source)) if found is None else found


def projections(source) -> list[str]:
    """Projection of each example of a source, in capitals, "" where it is not known."""
    found = getattr(source, "projections", None)
    return [""] * len(source) if found is None else found


class Studies:
    """The studies of a source in the order of their first images; a Source itself.

    `source[i]` is the frontal view of study i (PA before AP before what is not known before lateral, the first of equals),
    `source.draw(i, rng)` one of its views, all equally often. A view without report has that of the study, if another view
    has one, and what that view says; its own labels say the rest.
    """

    def __init__(self, source):
        self.source, self.split = source, source.split
        ranks = np.array([views.rank(p) for p in projections(source)], np.int64)  # (N,)
        number = np.unique(numbers(source), return_inverse=True)[1]
        first = np.full(number.max() + 1, len(number))
        np.minimum.at(first, number, np.arange(len(number)))
        place = np.argsort(np.argsort(first))[number]  # studies numbered by their first image
        self._views = np.lexsort((np.arange(len(number)), ranks, place))  # by study, the frontal view first
        self._starts = np.searchsorted(place[self._views], np.arange(len(first) + 1))
        if hasattr(source, "weights"):  # a mixture stays one
            self.weights, self.groups = source.weights, np.asarray(source.groups)[self._views[self._starts[:-1]]]

    def __len__(self) -> int:
        return len(self._starts) - 1

    def views(self, index: int) -> np.ndarray:
        """Examples of the source that are views of a study, the frontal one first, int64 (n,)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._views[self._starts[index] : self._starts[index + 1]]

    def __getitem__(self, index: int) -> dict:
        return self._example(index, 0)

    def draw(self, index: int, rng: np.random.Generator) -> dict:
        """A view at random. Raises as the source does."""
        return self._example(index, int(rng.integers(len(self.views(index)))))

    def _example(self, index: int, view: int) -> dict:
        rows = self.views(index)
        example = self.source[int(rows[view])]
        told = None if example["report"].strip() else self._telling(rows)
        if told is not None:
            other = self.source[told]
            theirs = np.asarray(other["presence"])
            presence = np.where((theirs != -1).any(0), theirs, example["presence"])  # an absence implied here is weaker
            example = {**example, "report": other["report"], "presence": presence}
        return example

    def _telling(self, rows) -> int | None:
        """The first of some views that has a report."""
        return next((int(row) for row in rows if self.source.text(int(row)).strip()), None)

    def text(self, index: int) -> str:
        """Report of a study: that of the first of its views that has one, "" if none."""
        row = self._telling(self.views(index))
        return "" if row is None else self.source.text(row)

    def patient(self, index: int) -> str:
        """Whose study it is."""
        return self.source.patient(int(self.views(index)[0]))

    def truth(self, index: int) -> dict:
        """What is known of the frontal view (input/targets.py)."""
        return self.source.truth(int(self.views(index)[0]))

    @property
    def has_reports(self) -> np.ndarray:
        """Whether a study has a report, bool (n,)."""
        has = getattr(self.source, "has_reports", None)
        if has is None:
            return np.fromiter((self._telling(self.views(i)) is not None for i in range(len(self))), bool, len(self))
        return np.logical_or.reduceat(np.broadcast_to(has, len(self.source))[self._views], self._starts[:-1])

    @property
    def fingerprint(self) -> str:
        """Hash of the source's."""
        return hashlib.sha256(f"studies {self.source.fingerprint}".encode()).hexdigest()
