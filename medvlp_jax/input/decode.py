"""Encoded image bytes -> 8-bit grey pixels, with errors that say what is wrong with the bytes.

Formats: whatever OpenCV reads (JPEG, PNG, BMP, TIFF, WebP); 8 or 16 bits; grey, RGB, CMYK, with or without alpha; and
DICOM (input/dicom.py).
"""
import zlib
from typing import NamedTuple

import cv2
import numpy as np

from medvlp_jax.input import headers

# One image is one task here: OpenCV's own threads would only fight with the pipeline's.
cv2.setNumThreads(1)
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what fails is raised as an ImageError

MAX_PIXELS = 100_000_000  # decoded; a 30,000 px square would take 900 MB of one worker's memory
LFS_PREFIX = b"version https://git-lfs"
_FRAME_MARKERS = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG start-of-frame segments


class ImageError(ValueError):
    """Bytes that are no usable image. `reason` is one of REASONS; `detail` may add what was found."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self):  # keeps both fields when a worker process raises it
        return ImageError, (self.reason, self.detail)


REASONS = ("empty file", "git-LFS pointer", "unreadable", "truncated", "too large")


class Header(NamedTuple):
    """What the first bytes tell: kind "jpeg" or "png", size in pixels, and a place before the pixel data, behind previews."""

    kind: str
    height: int
    width: int
    start: int


def probe(data: bytes) -> Header | None:
    """The header of a JPEG or PNG without decoding it; None for any other format or a damaged header."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        height, width = int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
        return Header("png", height, width, 24) if height and width else None
    if data[:2] != b"\xff\xd8":
        return None
    at = 2
    while at + 9 <= len(data):  # walk the segments up to the start of frame
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in _FRAME_MARKERS:
            height, width = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
            return Header("jpeg", height, width, at) if height and width else None
        at += 2 + length
    return None


def refuse_empty(data: bytes) -> None:
    """Raise an ImageError where the first bytes of a file are none, or a git-LFS pointer."""
    if not data:
        raise ImageError("empty file")
    if data[: len(LFS_PREFIX)] == LFS_PREFIX:
        raise ImageError("git-LFS pointer", "fetch the real file with `git lfs pull`")


def ends(data: bytes, header: Header, first: int = 0) -> bool:
    """Return whether the end marker is in the bytes from number `first` of a file on, behind its header."""
    at = data.rfind(b"\xff\xd9" if header.kind == "jpeg" else b"IEND")
    return at >= 0 and first + at > header.start


def refuse_cut(data: bytes, header: Header) -> None:
    """Raise an ImageError where the end marker is missing: OpenCV fills the rest of a cut file with grey and says nothing."""
    if not ends(data, header):
        raise ImageError("truncated", f"the end marker of the {header.kind} is missing")


def refuse_large(height: int, width: int, scale: int = 1) -> None:
    """Raise an ImageError for an image above the pixel limit when it is decoded at 1/scale of its size."""
    if height * width > MAX_PIXELS * scale**2:
        raise ImageError("too large", f"{width} x {height} px, the limit is {MAX_PIXELS:,} pixels")


def reduction(height: int, width: int, short_side: float | None) -> int:
    """The largest of 1, 2, 4, 8 by which an image can shrink with its short side staying >= `short_side`."""
    if not short_side:
        return 1
    return next((k for k in (8, 4, 2) if min(height, width) >= k * short_side), 1)


_REDUCED = {2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8}


def decode(data: bytes, short_side: float | None = None) -> np.ndarray:
    """Encoded bytes -> uint8 (h, w) grey image.

    `short_side` is a hint: a JPEG whose short side is at least 2, 4 or 8 times as large is decoded at 1/2, 1/4 or 1/8 of
    its size (scaled DCT, several times faster). 16-bit images are stretched from their own range to 0..255: detectors
    store 10 to 15 bits of them. EXIF rotation is not applied, so boxes in stored pixels stay right.

    Raises:
      ImageError: with one of `REASONS`.
    """
    return read(data, probe(data), short_side)


def read(data: bytes, header: Header | None, short_side: float | None = None) -> np.ndarray:
    """As `decode`, where `probe(data)` is known already."""
    refuse_empty(data)
    if data[128:132] == b"DICM":
        from medvlp_jax.input import dicom  # which needs an extra, and this file

        return dicom.decode(data)
    scale = 1
    if header:
        refuse_cut(data, header)
        if header.kind == "png" and (plain := _uncompressed(data, header)) is not None:
            return plain
        scale = reduction(header.height, header.width, short_side) if header.kind == "jpeg" else 1
        refuse_large(header.height, header.width, scale)
    elif size := headers.size(data):
        refuse_large(*size)
    flags = _REDUCED[scale] if scale > 1 else cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as e:
        raise ImageError("unreadable", str(e).strip().splitlines()[-1][:200]) from None
    if image is None or image.size == 0:
        raise ImageError("unreadable", f"{len(data)} bytes that are no image known to OpenCV")
    return to_uint8(image)


def stored_png(pixels: np.ndarray) -> bytes:
    """uint8 (h, w), w < 65,535 -> a PNG without filter or compression, each row a block of its own, for `stored` to read."""
    height, width = pixels.shape
    rows = np.empty((height, width + 6), np.uint8)  # head of a block, filter of a row, the row
    rows[:, :6], rows[:, 6:] = np.frombuffer(_row_head(width), np.uint8), pixels
    rows[-1, 0] = 1  # the last block
    total = zlib.adler32(np.ascontiguousarray(rows[:, 5:]))
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    chunks = (b"IHDR", header), (b"IDAT", b"\x78\x01" + rows.tobytes() + total.to_bytes(4, "big")), (b"IEND", b"")
    parts = [len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _row_head(width: int) -> bytes:
    """What stands before each row: flags of a stored block, its length and the complement; no filter."""
    length = width + 1
    return b"\0" + length.to_bytes(2, "little") + (length ^ 0xFFFF).to_bytes(2, "little") + b"\0"


def stored(data: bytes) -> np.ndarray | None:
    """The pixels (h, w) of what `stored_png` made, as a read-only view into `data`; None for other bytes. The sums in it are
    not looked at, so it is for bytes that something else has checked."""
    if data[:4] != b"\x89PNG" or data[24:29] != b"\x08\0\0\0\0" or data[37:43] != b"IDAT\x78\x01":
        return None
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    step, end = width + 6, 43 + height * (width + 6)
    if not 0 < width < 0xFFFF or len(data) != end + 20:  # Adler-32, sum of the chunk, IEND
        return None
    heads = [bytes([value]) * height for value in _row_head(width)]
    heads[0] = heads[0][1:] + b"\1"
    if any(data[43 + i : end : step] != head for i, head in enumerate(heads)):
        return None
    return np.frombuffer(data, np.uint8, end - 43, 43).reshape(height, step)[:, 6:]


def _uncompressed(data: bytes, header: Header) -> np.ndarray | None:
    """Pixels of an 8-bit grey PNG that is not compressed, several times faster than OpenCV reads it; None for any other PNG.
    zlib checks its sum, so a damaged file is no image here either."""
    end = 41 + int.from_bytes(data[33:37], "big")  # of the first chunk after the header's 33 bytes
    if data[24:29] != b"\x08\0\0\0\0" or data[37:41] != b"IDAT" or data[end + 8 : end + 12] != b"IEND" or data[43] & 6:
        return None  # colour, depth, several chunks, or a first block that is compressed
    try:
        pixels = np.frombuffer(zlib.decompress(data[41:end]), np.uint8).reshape(header.height, header.width + 1)
    except (zlib.error, ValueError):
        return None  # OpenCV will say what is wrong
    return None if pixels[:, 0].any() else np.ascontiguousarray(pixels[:, 1:])


def to_uint8(image: np.ndarray) -> np.ndarray:
    """(h, w) of any real dtype -> uint8; other than 8-bit values are stretched from their own minimum..maximum."""
    if image.dtype == np.uint8:
        return image
    image = image.astype(np.float32)
    low, high = float(image.min()), float(image.max())
    if not np.isfinite(low + high):
        raise ImageError("unreadable", "pixel values that are not finite")
    return np.rint((image - low) * (255.0 / max(high - low, 1e-6))).astype(np.uint8)
