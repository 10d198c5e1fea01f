"""What the report filter found in each row, shared by all loader processes: a file with one small slot a row.

The filter takes as long as a small decode, and every epoch asks again. In a dictionary of each process it took 50 to 86 MB for
100,000 rows, 16 times on a host of 16 workers.
"""
import os
import threading
import weakref
import zlib

import numpy as np

from medvlp_jax.input import scratch

_lock = threading.Lock()
_SLOT = 128  # bytes: checksum, count, then 3 for each cell
_CELLS = (_SLOT - 5) // 3


class Memo:
    """Sparse int8 matrices by row. Any process may write any slot: all write the same, and a checksum tells a half-written one.

    A slot is read and written by the system's calls, not mapped: a full disk then costs speed, not the process.
    """

    def __init__(self, rows: int):
        self._rows, self._path, self._descriptor = rows, None, None

    def __getstate__(self):
        return {"_rows": self._rows, "_path": self._place(), "_descriptor": None}

    def _place(self):
        with _lock:  # workers are started by several threads
            if self._path is None:
                path = scratch.file(self, ".memo")
                with path.open("wb") as file:
                    file.truncate(self._rows * _SLOT)  # takes space only where slots are written
                self._path = path
            return self._path

    def _open(self) -> int:
        if self._descriptor is None:
            descriptor = os.open(self._place(), os.O_RDWR)
            weakref.finalize(self, os.close, descriptor)
            self._descriptor = descriptor
        return self._descriptor

    def get(self, row: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return (flat indices int16 (n,), values int8 (n,)) of a row, or None where they are not known."""
        slot = os.pread(self._open(), _SLOT, row * _SLOT)
        if len(slot) < _SLOT or not slot[4] or int.from_bytes(slot[:4], "little") != zlib.crc32(slot[4:]):
            return None
        count = slot[4] - 1
        return np.frombuffer(slot, "<i2", count, 5), np.frombuffer(slot, np.int8, count, 5 + 2 * count)

    def put(self, row: int, cells: np.ndarray, values: np.ndarray) -> None:
        """Keep the cells of a row; more than 41 are not kept."""
        if len(cells) > _CELLS:
            return
        body = bytes([len(cells) + 1]) + cells.astype("<i2").tobytes() + values.astype(np.int8).tobytes()
        body += bytes(_SLOT - 4 - len(body))
        try:
            os.pwrite(self._open(), zlib.crc32(body).to_bytes(4, "little") + body, row * _SLOT)
        except OSError:
            pass
