"""An object for worker processes whose large arrays they map from one file, instead of each having a copy."""
import mmap
import os
import pickle
import threading
from pathlib import Path

import cloudpickle

from medvlp_jax.input import scratch

_lock = threading.RLock()  # a value may hold another Shared
_MIN = 1 << 14  # bytes; smaller arrays are pickled


class Shared:
    """Wraps `value`. Pickling writes its arrays to a file once; every copy maps that file.

    A worker that writes to an array gets its own copy of that page (copy on write).
    """

    def __init__(self, value):
        self.value, self._parts = value, None

    def __reduce__(self):
        with _lock:  # workers are started by several threads
            self._parts = self._parts or self._write()
        return _load, self._parts

    def _write(self) -> tuple[bytes, Path | None, list[tuple[int, int]]]:
        """Pickle the value, its arrays apart -> (pickle, file of the arrays, byte range of each)."""
        arrays, spans, path = [], [], None

        def inside(buffer: pickle.PickleBuffer) -> bool:
            small = buffer.raw().nbytes < _MIN
            if not small:
                arrays.append(buffer.raw())
            return small

        head = cloudpickle.dumps(self.value, protocol=5, buffer_callback=inside)
        if arrays:
            path = scratch.file(self, ".arrays")
            with path.open("wb") as file:
                for raw in arrays:
                    spans.append((file.tell(), file.tell() + raw.nbytes))
                    file.write(raw)
                    file.write(bytes(-raw.nbytes % 64))  # arrays begin at whole cache lines
        return head, path, spans


def _load(head: bytes, path, spans: list[tuple[int, int]]) -> Shared:
    if not spans:
        return Shared(pickle.loads(head))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        whole = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY))
    finally:
        os.close(descriptor)
    return Shared(pickle.loads(head, buffers=[whole[a:b] for a, b in spans]))
