"""Records of a prepared data set (data/prepare.py): tf.train.Example in ArrayRecord shards, read without TFDS.

Every feature is a list of byte strings; `FEATURES` says what they hold. data/features.py tells TFDS the same.
"""
import functools
import json
import zlib
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

import numpy as np

from medvlp_jax.input import decode
from medvlp_jax.input.masks import Masks
from medvlp_jax.reports import vocab

FEATURES = {
    "id": "path of the image where it came from",
    "patient_id": "whose image it is",
    "study_id": "the examination that it belongs to",
    "image": "JPEG or PNG, grey, 8 bit",
    "report": "the sections of the report that are used",
    "presence": "(51 positions, 75 entities) int8, zlib: -1 not mentioned, 0 absent, 1 present, 2 uncertain",
    "finding_labels": "JSON {label: 1 | 0 | -1 uncertain}",
    "boxes": "JSON [[name, x, y, w, h]], or [[name, x, y, w, h, phrase]], in pixels of the stored image",
    "severity": "JSON {finding: grade}",
    "view": "projection",
    "sex": "sex of the patient",
    "age": "age in years",
    "source": "data set that the row comes from",
    "masks/name": "names of the masks",
    "masks/image": "PNG, 0 or 255, of the image's size",
}

_ATTRIBUTES = ("view", "sex", "age", "source")
_LOOKED_UP = ("id", "patient_id", "image", "report", "presence", "finding_labels", "boxes", "phrases", "severity", "masks",
              "attributes")  # fmt: skip


@functools.cache
def _message():
    """The class of tf.train.Example as far as it is used here, without TensorFlow or TFDS: a map of names to lists of bytes."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="medvlp_jax/example.proto", package="medvlp_jax", syntax="proto3")

    def message(parent, name, *fields):
        one = parent.add(name=name)
        for number, (field, kind, of, repeated) in enumerate(fields, 1):
            one.field.add(name=field, number=number, type=kind, type_name=of, label=3 if repeated else 1)
        return one

    text, data, nested = 9, 12, 11  # types of descriptor.proto
    message(file.message_type, "BytesList", ("value", data, None, True))
    message(file.message_type, "Feature", ("bytes_list", nested, ".medvlp_jax.BytesList", False))
    features = message(file.message_type, "Features", ("feature", nested, ".medvlp_jax.Features.FeatureEntry", True))
    entry = message(features.nested_type, "FeatureEntry", ("key", text, None, False),
                    ("value", nested, ".medvlp_jax.Feature", False))  # fmt: skip
    entry.options.map_entry = True
    message(file.message_type, "Example", ("features", nested, ".medvlp_jax.Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("medvlp_jax.Example"))


def parse(data: bytes):
    """A serialised tf.train.Example -> {name: object whose bytes_list.value are its values}, empty for other kinds than bytes.

    Raises:
      ValueError: it is none.
    """
    from google.protobuf.message import DecodeError

    try:
        return _message().FromString(data).features.feature
    except DecodeError:
        raise ValueError("not a record of a prepared data set") from None


def serialise(features: dict[str, list[bytes]]) -> bytes:
    """The inverse of `parse`; the same bytes at every call."""
    out = _message()()
    for name, values in features.items():
        out.features.feature[name].bytes_list.value.extend(values)
    return out.SerializeToString(deterministic=True)


def pack(presence: np.ndarray) -> bytes:
    """Presence matrix int8 (A, K) -> bytes."""
    return zlib.compress(np.ascontiguousarray(presence, np.int8).tobytes())


def unpack(data: bytes) -> np.ndarray:
    """The inverse of `pack`, writable."""
    shape = len(vocab.POSITIONS), len(vocab.ENTITIES)
    return np.frombuffer(bytearray(zlib.decompress(data)), np.int8).reshape(shape)  # (A, K)


class Example(Mapping):
    """A record as an Example of a source. A field is decoded when it is first looked up, for a training row needs few of them.

    image: JPEG as it is stored, or uint8 (H, W) of an uncompressed PNG, read-only; ArrayRecord has checked the bytes.

    Raises, when it is made or when a field is looked up:
      decode.ImageError: a damaged record.
    """

    def __init__(self, data: bytes):
        try:
            self._record = parse(data)
            image = self._value("image")
        except (ValueError, IndexError) as e:
            raise _damaged(e) from None
        pixels = decode.stored(image)
        self._fields = {"image": image if pixels is None else pixels}

    def _value(self, name: str) -> bytes:
        return self._record[name].bytes_list.value[0]

    def __getitem__(self, name: str):
        if name not in self._fields:
            if name not in _LOOKED_UP:
                raise KeyError(name)
            try:
                self._fields[name] = self._decode(name)
            except (ValueError, KeyError, IndexError, zlib.error) as e:
                raise _damaged(e) from None
        return self._fields[name]

    def _decode(self, name: str):
        if name == "presence":
            return unpack(self._value(name))
        if name == "masks":
            names, images = (self._record[f"masks/{k}"].bytes_list.value for k in ("name", "image"))
            stored = {name.decode(): image for name, image in zip(names, images, strict=True)}
            return Masks(stored.__getitem__, {name: [name] for name in stored})
        if name == "attributes":
            return {k: text for k in _ATTRIBUTES if (text := self._value(k).decode())}
        if name == "phrases":
            return [(box[5], *box[1:5]) for box in json.loads(self._value("boxes")) if len(box) > 5]
        text = self._value(name).decode()
        if name == "boxes":
            return [tuple(box[:5]) for box in json.loads(text)]
        return json.loads(text) if name in ("finding_labels", "severity") else text

    def __iter__(self):
        return iter(_LOOKED_UP)

    def __len__(self) -> int:
        return len(_LOOKED_UP)


def _damaged(error: Exception) -> decode.ImageError:
    return decode.ImageError("unreadable", f"damaged record ({type(error).__name__})")


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
