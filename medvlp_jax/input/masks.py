"""Masks of an example, decoded when they are looked up: image files, or run lengths in the text of a table."""
import functools
from collections.abc import Callable, Mapping

import numpy as np

from medvlp_jax.input import decode

RLE = "rle:"  # "rle:HEIGHT,WIDTH:start length start length ..."


class Masks(Mapping):
    """{name: bool (H, W)} that decodes a mask when it is looked up: training never does.

    paths: {name: files or run lengths (`from_rle`), whose union it is}.
    """

    def __init__(self, read: Callable[[str], bytes], paths: dict[str, list[str]]):
        self._read, self._paths = read, paths

    def __getitem__(self, name: str) -> np.ndarray:
        return functools.reduce(np.logical_or, [self._one(path) for path in self._paths[name]])  # (H, W)

    def _one(self, path: str) -> np.ndarray:
        if path.startswith(RLE):
            return from_rle(path)
        part = decode.decode(self._read(path))
        return part > part.max() // 2  # 0/1 and 0/255 files

    def __iter__(self):
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


def from_rle(text: str) -> np.ndarray:
    """"rle:H,W:a n a n ..." -> bool (H, W): each run of n pixels begins a pixels after the end of the one before, counted down
    the columns (the relative run lengths of the SIIM-ACR challenge).

    Raises:
      decode.ImageError: not of that form, or longer than the image.
    """
    try:
        shape, runs = text.removeprefix(RLE).split(":")
        height, width = (int(v) for v in shape.split(","))
        gaps, lengths = np.asarray(runs.split(), np.int64).reshape(-1, 2).T
        if gaps.size and min(gaps.min(), lengths.min()) < 0 or gaps.sum() + lengths.sum() > height * width:
            raise ValueError("runs outside of the image")
    except ValueError as e:
        raise decode.ImageError("unreadable", f"run lengths of a mask ({e})") from None
    flat, at = np.zeros(height * width, bool), 0
    for gap, length in zip(gaps.tolist(), lengths.tolist(), strict=True):
        flat[at + gap : at + gap + length] = True
        at += gap + length
    return flat.reshape(width, height).T  # (H, W)
