"""Training batches: the endless, shuffled, augmented and resumable stream of rows (arrays: see input/examples.py).

The whole stream is a function of (source, seed): example number g of it is the same for any number of processes and
workers. Global batch n of B x P examples is the stream's n-th piece of that size, of which process p holds the p-th B.
"""
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import grain
import numpy as np
from absl import flags, logging

from medvlp_jax import errors
from medvlp_jax.input import decode, transforms
from medvlp_jax.input.evaluation import eval_batches
from medvlp_jax.input.examples import DEFAULTS, NEEDS, Options, check_options, choose_rows, make_row
from medvlp_jax.input.shared import Shared
from medvlp_jax.reports import rules, sections

__all__ = ["NEEDS", "Loader", "Options", "TrainIterator", "eval_batches", "images_per_second", "train_iterator"]

_TRIES = 20  # draws for a slot whose images cannot be decoded


class Loader:
    """(index into `rows`, Generator) -> training row. A row that cannot be decoded is noted, and another random one takes its
    slot: batches keep their shape and the stream stays a function of its position."""

    def __init__(self, source, rows, tokenizer, options: Options, workers: int = 0):
        self.source, self.rows, self.tokenizer, self.options = source, rows, tokenizer, options
        self._draws = hasattr(source, "draw")  # of studies, a view
        self._workers = max(workers, 1)

    def __setstate__(self, state):
        """In a worker: what it remembers of texts is its share of what one process would."""
        self.__dict__ = state
        for remembers in (sections, rules, self.tokenizer):
            if remembers is not None:
                remembers.remember(1 / self._workers)

    def __call__(self, index: int, rng: np.random.Generator) -> dict[str, Any]:
        o, bad = self.options, []
        for _ in range(_TRIES):
            row = int(self.rows[index])
            try:
                example = self.source.draw(row, rng) if self._draws else self.source[row]
                image, geometry = transforms.train_view(rng, example["image"], size=o.image_size, crop=o.crop, frame=o.frame,
                                                        how=o.fit, scale=o.crop_scale, hflip=o.hflip, augment=o.rand_augment)
                arrays = make_row(self.source, example, row, image, geometry, self.rows, rng, self.tokenizer, o)
            except (decode.ImageError, OSError) as e:
                bad.append([row, str(e)])
                index = int(rng.integers(len(self.rows)))
                continue
            return {**arrays, "bad": bad}
        raise errors.BadValue(f"{_TRIES} examples in a row cannot be decoded: {bad}")


def collate(rows: Iterable[dict], size: int) -> dict[str, Any]:
    """`size` rows of `Loader` -> arrays, each row copied while it is warm in the cache; what was unreadable as one JSON text,
    which passes between processes unchanged."""
    out, bad = {}, []
    for i, row in enumerate(rows):
        bad += row.pop("bad")
        if not out:
            out = {k: np.empty((size, *np.shape(v)), v.dtype) for k, v in row.items()}
        for k, v in row.items():
            out[k][i] = v
    return {**out, "bad": json.dumps(bad)}


class TrainIterator(grain.DatasetIterator):
    """Endless training batches. The state is the number of examples that all processes together have used, so it may be
    continued with another number of workers or processes, or batch size. Make one with `train_iterator`."""

    def __init__(self, stream, identity: dict, batch_size: int, process_index: int, process_count: int, workers: int,
                 threads: int, max_bad: int):
        super().__init__()
        self._shared, self._identity, self._batch_size = Shared(stream), identity, batch_size
        self._process_index, self._process_count = process_index, process_count
        self._workers, self._threads, self._max_bad = workers, threads, max_bad
        self._position, self._bad, self._inner = 0, {}, None
        self._last = None  # (position, batch) given last: going back by it costs nothing

    def _open(self):
        size = self._batch_size
        first, step = self._position + self._process_index * size, self._process_count * size
        pieces = grain.MapDataset.source(_Pieces(self._shared, first, step, size))
        threads = 0 if self._workers else self._threads
        data = pieces.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
        if self._workers:
            data = data.mp_prefetch(grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=2))
        return iter(data)

    def __next__(self) -> dict[str, np.ndarray]:
        self._assert_not_closed()
        if self._last is not None and self._last[0] == self._position:
            batch = self._last[1]
        else:
            self._inner = self._open() if self._inner is None else self._inner
            batch = dict(next(self._inner))
            self._note(json.loads(batch.pop("bad")))
            if self._workers:  # out of the shared memory, which would leak where a batch lives until the program ends
                batch = {k: np.array(v) for k, v in batch.items()}
            self._last = self._position, batch
        self._position += self._batch_size * self._process_count
        return dict(batch)

    def _note(self, bad) -> None:
        for row, why in bad:
            if str(row) not in self._bad:
                self._bad[str(row)] = why
                logging.warning("example %d skipped (%s); %d so far", row, why, len(self._bad))
        if len(self._bad) > self._max_bad:
            shown = "; ".join(f"{row}: {why}" for row, why in list(self._bad.items())[:20])
            raise errors.BadValue(f"{len(self._bad)} examples cannot be decoded, {self._max_bad} are allowed: {shown}")

    @property
    def skipped(self) -> dict[str, str]:
        """{index of an example: why it was skipped} so far."""
        return dict(self._bad)

    def get_state(self) -> dict[str, Any]:
        """A JSON-able position, to be given to `set_state`."""
        return {"position": self._position, "skipped": self.skipped, **self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues from a saved position.

        Raises:
          ValueError: the state is of other data or another seed.
        """
        for key, value in self._identity.items():
            if state.get(key) != value:
                raise ValueError(f"the saved data position is of another stream: {key} was {state.get(key)!r}, now it is "
                                 f"{value!r}; go on with the same data and seed, or start in a new workdir")
        position, after = int(state["position"]), self._position
        self._bad, self._position = dict(state["skipped"]), position
        step = self._batch_size * self._process_count
        if position == after or (self._last and (position, after) == (self._last[0], self._last[0] + step)):
            return
        self._last = None
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    def start_prefetch(self) -> None:
        """Begins to work ahead of the first `next`."""
        self._assert_not_closed()
        self._inner = self._open() if self._inner is None else self._inner
        self._inner.start_prefetch()

    def close(self) -> None:
        """Ends worker processes and threads."""
        if self._inner is not None:
            self._inner.close()
        self._inner = self._last = None
        super().close()


def train_iterator(source, tokenizer, options: Options = DEFAULTS, *, batch_size: int, seed: int, process_index: int = 0,
                   process_count: int = 1, workers: int = 0, threads: int = 2, max_bad: int = 100) -> TrainIterator:
    """Endless batches of this process, in a new order each epoch.

    Args:
      source: Example source (len, [i], text(i), fingerprint); pickled to worker processes.
      tokenizer: tokens.Tokenizer; None where `options.needs` has neither "text" nor "swap".
      batch_size: rows of this process; the global batch is `process_count` times that.
      seed: of order and augmentation, 0..2^32-1.
      workers: worker processes (spawned, so the main module needs its `__main__` guard); 0 works in `threads` threads.
      max_bad: distinct examples that may fail to decode before the run stops with their list.

    Raises:
      ValueError: an option that does not fit, or a source without usable examples.
    """
    check_options(options, tokenizer)
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index {process_index} is not below process_count {process_count}")
    if not flags.FLAGS.is_parsed():  # grain reads flags; a program without absl.app has not parsed any
        flags.FLAGS.mark_as_parsed()
    rows = choose_rows(source, options.require_report, options.captions)
    stream = _Stream(order(source, rows, seed), Loader(source, rows, tokenizer, options, workers), seed)
    identity = {"source": source.fingerprint, "examples": len(rows), "seed": seed, "order": 2}  # 2: by numpy's permutations
    return TrainIterator(stream, identity, batch_size, process_index, process_count, workers, threads, max_bad)


class _Stream:
    """The rows of the whole stream: row k has a random generator of its own, Philox with the key (seed, k)."""

    def __init__(self, order, loader: Loader, seed: int):
        self._order, self._loader, self._seed = order, loader, seed

    def rows(self, begin: int, size: int) -> Iterator[dict[str, Any]]:
        """Rows `begin` to `begin` + `size`. One generator is set to each key in turn: a new one takes ten times as long."""
        bits = np.random.Philox(key=np.array([self._seed, begin], np.uint64))
        rng, fresh = np.random.Generator(bits), bits.state
        for k in range(begin, begin + size):
            fresh["state"]["key"][1] = k
            bits.state = fresh
            yield self._loader(self._order[k], rng)


class _Pieces:
    """Number n -> the batch of `size` rows that begins at `first` + n * `step`: Grain sees batches, and costs little a row."""

    def __init__(self, stream: Shared, first: int, step: int, size: int):
        self._stream, self._first, self._step, self._size = stream, first, step, size

    def __len__(self) -> int:
        return (sys.maxsize - self._first) // self._step

    def __getitem__(self, n: int) -> dict[str, Any]:
        begin = self._first + int(n) * self._step
        return collate(self._stream.value.rows(begin, self._size), self._size)


def order(source, rows: np.ndarray, seed: int):
    """Indices into `rows` without end: every epoch each once, in a new order.

    A source with `groups` (N,) and unequal `weights` of them is a mixture: each group goes through epochs of its own, and of
    the stream group g has a share of weights[g] times its size, as nearly as whole numbers allow.
    """
    weights = getattr(source, "weights", (1.0,))
    if len(set(weights)) == 1:
        return _Epochs(np.arange(len(rows)), [seed])
    groups = np.asarray(source.groups)[rows]
    members = {g: np.flatnonzero(groups == g) for g in range(len(weights))}
    members = {g: some for g, some in members.items() if len(some)}
    shares = [Fraction(str(weights[g])) * len(some) for g, some in members.items()]
    return _Mixed([_Epochs(some, [seed, g]) for g, some in members.items()], shares)


class _Epochs:
    """`members` again and again, in a new order each time; the orders of the last two epochs are kept (4 bytes a member)."""

    def __init__(self, members: np.ndarray, seed: list[int]):
        members = members.astype(np.int32)
        self._members, self._seed, self._orders = members, seed, {}

    def __getstate__(self):
        return {**self.__dict__, "_orders": {}}

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, k: int) -> int:
        epoch, place = divmod(int(k), len(self._members))
        found = self._orders.get(epoch)
        if found is None:
            found = self._members[np.random.default_rng([*self._seed, epoch]).permutation(len(self._members))]
            self._orders = {epoch: found, **{e: o for e, o in self._orders.items() if e == epoch - 1}}  # threads may read it
        return int(found[place])


class _Mixed:
    """Endless streams in fixed proportions: number k is the next of the stream that is most behind its share."""

    def __init__(self, streams, shares: list[Fraction]):
        whole = math.lcm(*(share.denominator for share in shares))
        self._streams, self._shares = streams, [int(share * whole) for share in shares]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, k: int):
        before, after, left = int(k), int(k) + 1, sum(self._shares)  # of the streams not looked at yet
        for stream, share in zip(self._streams, self._shares, strict=True):
            rest, rest_after = before * (left - share) // left, after * (left - share) // left
            if rest_after == rest:  # k is none of the rest
                return stream[before - rest]
            before, after, left = rest, rest_after, left - share
        raise IndexError(k)


def images_per_second(iterator, batches: int = 10, warmup: int = 2) -> float:
    """Images a second that an iterator of batches gives by itself, after `warmup` batches."""
    for _ in range(warmup):
        next(iterator)
    start = time.perf_counter()
    images = sum(len(next(iterator)["image"]) for _ in range(batches))
    return images / (time.perf_counter() - start)
