"""Check one image file: by its header and its end (a few kB are read), or by decoding it."""
import os
import stat
from pathlib import Path

from medvlp_jax.input import decode, headers
from medvlp_jax.input.decode import ImageError

LEVELS = ("header", "full")
_HEAD, _TAIL = 4096, 1024  # bytes read of a file whose header and end marker lie there, as they nearly always do


def size(path: Path, level: str = "header") -> tuple[int, int]:
    """Return (height, width) of a usable image file.

    level "header": a regular file, not empty, no git-LFS pointer, a header of a known format, a size within the limit, and for
    JPEG and PNG the end marker. Pixels are not decoded: damage in the middle is found when the image is used. Files of formats
    whose header we do not read (PNM, JPEG 2000) are decoded. level "full": decode every file.

    Raises:
      ImageError: the file is not usable. OSError: it cannot be read.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would block the reader forever
        raise ImageError("unreadable", "not a regular file")
    if level == "full":
        return decode.decode(path.read_bytes()).shape
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        length = os.fstat(file.fileno()).st_size
        last = file.seek(max(length - _TAIL, 0))
        tail = file.read()
    decode.refuse_empty(head)
    if head[128:132] == b"DICM":
        from medvlp_jax.input import dicom

        found = dicom.size(path)
    elif (header := decode.probe(head)) and decode.ends(tail, header, last):
        found = header.height, header.width
    else:  # a long preview before the size, bytes after the end, or another format
        data = path.read_bytes()
        header = decode.probe(data)
        if header:
            decode.refuse_cut(data, header)
        found = (header.height, header.width) if header else headers.size(data) or decode.decode(data).shape
    decode.refuse_large(*found)
    return found
