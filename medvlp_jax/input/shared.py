"""An object for worker processes whose large arrays they map from one file, instead of each having a copy."""
import mmap
import os
import pickle

import cloudpickle

from medvlp_jax.input import scratch

_MIN = 1 << 14  # bytes; smaller arrays are pickled


class Shared:
    """Wraps `value`. Pickling writes its arrays to a file once; every copy maps that file.

    A worker that writes to an array gets its own copy of that page (copy on write).
    """

    def __init__(self, value):
        self.value, self._parts = value, None

    def __reduce__(self):
        if self._parts is None:
            arrays = []

            def keep(buffer) -> bool:
                if (inside := buffer.raw().nbytes < _MIN) is False:
                    arrays.append(buffer)
                return inside

            head, path = cloudpickle.dumps(self.value, protocol=5, buffer_callback=keep), None
            spans, at = [], 0
            if arrays:
                path = scratch.file(self, ".arrays")
                with path.open("wb") as file:
                    for buffer in arrays:
                        raw = buffer.raw()
                        file.write(raw)
                        spans.append((at, at + raw.nbytes))
                        at += raw.nbytes + file.write(bytes(-raw.nbytes % 64))
            self._parts = head, path, spans
        return _load, self._parts


def _load(head: bytes, path, spans: list[tuple[int, int]]) -> Shared:
    if not spans:
        return Shared(pickle.loads(head))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        whole = memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY))
    finally:
        os.close(descriptor)
    return Shared(pickle.loads(head, buffers=[whole[a:b] for a, b in spans]))
