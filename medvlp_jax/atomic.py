"""Files that are there as a whole or not at all, whatever stops the program and whoever else writes the same one."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def writing(path: str | Path, folder: str | Path | None = None) -> Iterator[Path]:
    """Gives a temporary name for `path`; what is there after the body takes its place at once, nothing if the body fails.

    folder: where the temporary file lies, on the same file system; default beside `path`. Both folders are made. Its name
      ends in .tmp and is like no other: processes of several hosts, which may have equal ids, write one file in turn.

    Raises:
      OSError: it cannot be written; what was there before stays.
    """
    path = Path(path)
    folder = Path(folder or path.parent)
    for needed in {folder, path.parent}:
        needed.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{path.name}.{uuid.uuid4().hex[:12]}.tmp"
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # else a power cut may leave the new name with an empty file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str, folder: str | Path | None = None) -> None:
    """A text file in UTF-8, by `writing`."""
    with writing(path, folder) as temporary:
        temporary.write_text(text, encoding="utf-8")
