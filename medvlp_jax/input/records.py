"""Records of a prepared data set (data/prepare.py): tf.train.Example in ArrayRecord shards, read without TFDS.

Every feature is a list of byte strings; `FEATURES` says what they hold. data/features.py tells TFDS the same.
"""
import json
import zlib
from bisect import bisect_right
from itertools import accumulate
from pathlib import Path

import numpy as np

from medvlp_jax.input import decode
from medvlp_jax.reports import vocab

FEATURES = {
    "id": "path of the image where it came from",
    "patient_id": "whose image it is",
    "study_id": "the examination that it belongs to",
    "image": "JPEG, grey, 8 bit",
    "report": "the sections of the report that are used",
    "presence": "(51 positions, 75 entities) int8, zlib: -1 not mentioned, 0 absent, 1 present, 2 uncertain",
    "finding_labels": "JSON {label: 1 | 0 | -1 uncertain}",
    "boxes": "JSON [[name, x, y, w, h]] in pixels of the stored image",
    "severity": "JSON {finding: grade}",
    "view": "projection",
    "sex": "sex of the patient",
    "age": "age in years",
    "source": "data set that the row comes from",
    "masks/name": "names of the masks",
    "masks/image": "PNG, 0 or 255, of the image's size",
}


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _fields(data: bytes, at: int, end: int):
    """(field number, begin, end) of the length-delimited fields of a protocol buffer message.

    Raises:
      ValueError: another kind of field, or one that is longer than the message.
    """
    while at < end:
        key, at = _varint(data, at)
        size, at = _varint(data, at)
        if key & 7 != 2 or at + size > end:
            raise ValueError("not a record of a prepared data set")
        yield key >> 3, at, at + size
        at += size


def parse(data: bytes) -> dict[str, list[bytes]]:
    """A serialised tf.train.Example whose features are bytes -> {name: values}.

    Raises:
      ValueError: it is none.
    """
    out = {}
    try:
        for _, begin, end in _fields(data, 0, len(data)):
            for _, a, b in _fields(data, begin, end):  # map entries
                name, values = "", []
                for number, c, d in _fields(data, a, b):
                    if number == 1:
                        name = data[c:d].decode()
                    else:
                        for _, e, f in _fields(data, c, d):  # the list
                            values = [data[g:h] for _, g, h in _fields(data, e, f)]
                out[name] = values
    except (IndexError, UnicodeDecodeError) as e:
        raise ValueError(f"not a record of a prepared data set ({type(e).__name__})") from None
    return out


def _bytes_field(number: int, data: bytes) -> bytes:
    """One length-delimited field."""
    size, length = len(data), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + bytes(length) + data


def serialise(features: dict[str, list[bytes]]) -> bytes:
    """The inverse of `parse`, with the features in the order given."""
    entries = []
    for name, values in features.items():
        listed = _bytes_field(1, b"".join(_bytes_field(1, value) for value in values))
        entries.append(_bytes_field(1, _bytes_field(1, name.encode()) + _bytes_field(2, listed)))
    return _bytes_field(1, b"".join(entries))


def pack(presence: np.ndarray) -> bytes:
    """Presence matrix int8 (A, K) -> bytes."""
    return zlib.compress(np.ascontiguousarray(presence, np.int8).tobytes())


def unpack(data: bytes) -> np.ndarray:
    """The inverse of `pack`, writable."""
    shape = len(vocab.POSITIONS), len(vocab.ENTITIES)
    return np.frombuffer(bytearray(zlib.decompress(data)), np.int8).reshape(shape)  # (A, K)


def example(data: bytes) -> dict:
    """A record -> its fields decoded, the image and the masks {name: PNG} still encoded.

    Raises:
      decode.ImageError: a damaged record.
    """
    try:
        raw = parse(data)
        text = {k: raw[k][0].decode() for k in FEATURES if k not in ("image", "presence", "masks/name", "masks/image")}
        return {
            **text, "image": raw["image"][0], "presence": unpack(raw["presence"][0]),
            "finding_labels": json.loads(text["finding_labels"]), "severity": json.loads(text["severity"]),
            "boxes": [tuple(box) for box in json.loads(text["boxes"])],
            "masks": dict(zip(map(bytes.decode, raw.get("masks/name", ())), raw.get("masks/image", ()), strict=True)),
        }  # fmt: skip
    except (ValueError, KeyError, IndexError, zlib.error) as e:
        raise decode.ImageError("unreadable", f"damaged record ({type(e).__name__})") from None


class Shards:
    """Records of several ArrayRecord files by random access, numbered through; a file is opened when it is first read.

    files: paths in order; lengths: records of each.
    """

    def __init__(self, files: list[Path], lengths: list[int]):
        self._files, self._ends, self._readers = [Path(f) for f in files], list(accumulate(lengths)), {}

    def __getstate__(self):
        return {**self.__dict__, "_readers": {}}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> bytes:
        """Raises: IndexError: there is no such record. decode.ImageError: it is damaged."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = bisect_right(self._ends, index)
        place = index - (self._ends[shard - 1] if shard else 0)
        try:
            return self._open(shard).read([place])[0]
        except (RuntimeError, ValueError, IndexError, OSError) as e:
            name = self._files[shard].name
            raise decode.ImageError("unreadable", f"record {place} of {name} is damaged ({type(e).__name__})") from None

    def _open(self, shard: int):
        if shard not in self._readers:
            from array_record.python import array_record_module

            self._readers[shard] = array_record_module.ArrayRecordReader(
                str(self._files[shard]), options="readahead_buffer_size:0", file_reader_buffer_size=32768)
        return self._readers[shard]
