"""Sizes and CRC-32 of the files of a checkpoint, by which a cut or altered one is told before it is read."""

import concurrent.futures
import json
import zlib
from pathlib import Path

NAME = "checksums.json"
OWN = {NAME, "_CHECKPOINT_METADATA", "commit_success.txt"}  # the last two are finished after the checksums
_PIECE = 1 << 22


def write(directory: Path) -> None:
    """Leaves `NAME` in a checkpoint whose files are all there."""
    paths = _files(directory)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:  # zlib works without the interpreter lock
        sums = list(pool.map(_sum, paths))
    record = {str(p.relative_to(directory)): s for p, s in zip(paths, sums, strict=True)}
    (directory / NAME).write_text(json.dumps(record))


def problems(directory: Path) -> list[str]:
    """What differs from the checksums, a line each; [] if nothing does, or if there are none (an older checkpoint)."""
    if not (directory / NAME).is_file():
        return []
    try:
        record = json.loads((directory / NAME).read_text())
    except ValueError:
        return [f"{NAME} is no JSON"]
    there = {str(p.relative_to(directory)): p for p in _files(directory)}
    found = [f"{name} is missing" for name in record if name not in there]
    names = [name for name in record if name in there]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(lambda name: _sum(there[name]), names))
    for name, (size, crc) in zip(names, sums, strict=True):
        if size != record[name][0]:
            found.append(f"{name} has {size} bytes, not {record[name][0]}")
        elif crc != record[name][1]:
            found.append(f"{name} was altered: its checksum differs")
    return found


def _files(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.is_file() and p.name not in OWN)


def _sum(path: Path) -> list[int]:
    """[bytes, CRC-32]."""
    size = crc = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
    return [size, crc]
