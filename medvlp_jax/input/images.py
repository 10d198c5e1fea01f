"""Whatever a user calls an image -> the image field of an Example, which input/transforms.py takes."""
import sys
from pathlib import Path

import cv2
import numpy as np


def field(image) -> bytes | np.ndarray:
    """A path, encoded bytes (JPEG, PNG, DICOM, ...), an array or a PIL image -> encoded bytes, or an array (H, W).

    Arrays are (H, W) or (H, W, 1 | 3 | 4) of integers or floats: colours are weighed to grey (BT.601), an alpha channel is
    dropped. What is not 8-bit is stretched from its own lowest to its highest value when it is read, as it is for files.

    Raises:
      FileNotFoundError, IsADirectoryError, PermissionError: no readable file there.
      ValueError: an array of another shape or type. TypeError: something else altogether.
    """
    if isinstance(image, str | Path):
        return _read(Path(image).expanduser())
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if "PIL" in sys.modules and isinstance(image, sys.modules["PIL"].Image.Image):
        image = np.asarray(image if image.mode in ("L", "F", "I") or image.mode.startswith("I;16") else image.convert("RGB"))
    try:
        array = np.asarray(image)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.dtype == object or array.dtype.kind in "USV":
        raise TypeError(f"an image is a path, encoded bytes, an array or a PIL image, came a {type(image).__name__}")
    return _grey(array)


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; expected an image file")
    if not path.is_file():
        raise FileNotFoundError(f"no image at {path}")
    return path.read_bytes()


def _grey(array: np.ndarray) -> np.ndarray:
    """(H, W[, C]) of numbers -> (H, W)."""
    if array.dtype.kind not in "uif":
        raise ValueError(f"an image array holds integers or floats, came {array.dtype}")
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if not array.size or array.ndim != 2 and (array.ndim != 3 or array.shape[-1] not in (3, 4)):
        hint = "; give several images as a list" if array.ndim in (3, 4) else ""
        raise ValueError(f"an image array is (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), came shape {array.shape}{hint}")
    if array.ndim == 2:
        return array
    if array.dtype not in (np.uint8, np.uint16):
        array = array.astype(np.float32)
    return cv2.cvtColor(np.ascontiguousarray(array[..., :3]), cv2.COLOR_RGB2GRAY)  # (H, W)
