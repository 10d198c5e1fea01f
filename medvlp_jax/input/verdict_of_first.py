"""The result of a check as JSON, so that one process checks and the others take its rows."""
import base64
import zlib

import numpy as np


def pack(source, kept, summary) -> dict:
    """Return what the other processes need, in a few hundred bytes where nearly all rows of `source` are in `kept`."""
    place = np.searchsorted(source.rows, kept.rows)  # both ascend
    keep = np.zeros(len(source), bool)
    keep[place] = True
    return {"rows": len(source), "contents": source.contents, "fingerprint": kept.fingerprint, "keep": _bits(keep),
            "has_reports": _bits(kept.has_reports), "summary": summary._asdict()}  # fmt: skip


def unpack(source, told: dict, kind):
    """Return (the source with the rows of the first process, its summary of type `kind`).

    Fingerprints contain the sizes of the image files; that of the first process counts. A file that differs or is missing here
    is a bad record when it is read.

    Raises:
      ValueError: the source has other rows than that of the first process.
    """
    here = len(source), source.contents
    if here != (told["rows"], told["contents"]):
        raise ValueError(f"{source.table.path.name}, split {source.split}: {here[0]} rows with hash {here[1][:12]}, "
                         f"process 0 has {told['rows']} with hash {told['contents'][:12]}")
    keep = np.flatnonzero(_flags(told["keep"], len(source)))
    kept = source.subset(keep)
    kept.has_reports = _flags(told["has_reports"], len(keep))
    kept.fingerprint = told["fingerprint"]
    return kept, kind(**told["summary"])


def _bits(flags: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.packbits(flags).tobytes())).decode()


def _flags(text: str, count: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8), count=count).astype(bool)
