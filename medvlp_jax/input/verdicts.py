"""Image files that were found usable at an earlier start: a file on disk, so that only changed images are checked again.

Only good verdicts are kept. A bad file is checked at every start: there are few, and what was wrong may have been a missing
package or a mount that was not there. A verdict counts for a file of the same path, size and modification time, at the level
of the check that it was made with or a lower one.
"""
import hashlib
import os
from pathlib import Path

import numpy as np
from absl import logging

from medvlp_jax import atomic
from medvlp_jax.input import file_check

_MAGIC = b"medvlp verdicts 1\n"
_ENTRY = np.dtype([("path", "<i8"), ("size", "<i8"), ("mtime", "<i8"), ("height", "<i4"), ("width", "<i4"), ("level", "<i4")])


class Verdicts:
    """Usable files by path, 36 bytes each in memory and on disk.

    file: where they are kept; None keeps nothing. A damaged file is ignored with a log line. Several processes may write one
    file: each replaces it as a whole, the last one stays.
    """

    def __init__(self, file: Path | None):
        self._file, self._known = file, np.empty(0, _ENTRY)
        if file is not None and file.is_file():
            try:
                self._known = np.sort(_parse(file.read_bytes()), order="path")
            except (ValueError, OSError) as e:
                logging.warning("the verdicts of an earlier check in %s are ignored (%s)", file.name, e)
        self._paths = np.ascontiguousarray(self._known["path"])  # of a strided field each search would make a copy

    def size(self, path: Path, name: str, level: str) -> tuple[tuple[int, int], tuple, bool]:
        """Return (height, width) of a usable file, the entry to be kept of it, and whether the file was looked into.

        name: stands for the path where it is kept. Raises as `file_check.size`.
        """
        status, number = os.stat(path), file_check.LEVELS.index(level)
        key = hash_of(name)
        at = int(np.searchsorted(self._paths, np.int64(key)))
        if at < len(self._paths):
            entry = self._known[at].item()
            if entry[:3] == (key, status.st_size, status.st_mtime_ns) and entry[5] >= number:
                return entry[3:5], entry, False
        height, width = file_check.size(path, level)
        return (height, width), (key, status.st_size, status.st_mtime_ns, height, width, number), True

    def keep(self, entries: np.ndarray) -> None:
        """Write these entries in place of those that were there. A folder that cannot be written costs only the next start."""
        entries = np.unique(entries)
        if self._file is None or np.array_equal(entries, self._known):
            return
        body = entries.tobytes()
        try:
            with atomic.writing(self._file) as temporary:
                temporary.write_bytes(_MAGIC + hashlib.sha256(body).digest() + body)
        except OSError as e:
            logging.warning("the verdicts of this check are not kept, the next start checks anew: %s", e)


def from_flat(numbers) -> np.ndarray:
    """Return the array of entries whose fields follow each other in `numbers`, an array.array of 64-bit integers."""
    table, out = np.frombuffer(numbers, np.int64).reshape(-1, len(_ENTRY)), np.empty(len(numbers) // len(_ENTRY), _ENTRY)
    for column, field in zip(table.T, _ENTRY.names, strict=True):
        out[field] = column
    return out


def file_of(folder: Path | None, *names: str) -> Path | None:
    """Return where the verdicts of the data set that `names` tell are kept below `folder`."""
    return folder and folder / f"checked-{hash_of(chr(0).join(names)) % 2**64:016x}.bin"


def folder(workdir: Path | None) -> Path | None:
    """Return $MEDVLP_CACHE, without it <workdir>/cache, or None without either."""
    given = os.environ.get("MEDVLP_CACHE")
    return Path(given).expanduser() if given else workdir and Path(workdir) / "cache"


def _parse(data: bytes) -> np.ndarray:
    start = len(_MAGIC) + 32
    if data[: len(_MAGIC)] != _MAGIC or hashlib.sha256(data[start:]).digest() != data[len(_MAGIC) : start]:
        raise ValueError("damaged, or of another version")
    return np.frombuffer(data, _ENTRY, offset=start)


def hash_of(text: str) -> int:
    """Return a 64-bit number of a path. Two of a million paths share one with a chance of 3e-8."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little", signed=True)
