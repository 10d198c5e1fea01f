"""What the readers of published data sets share: files and columns that must be there, an index of images, splits."""
import csv
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from medvlp_jax.input.manifest import hash_split
from medvlp_jax.input.rows import refuse_pointer


def find(root: Path, *names: str) -> Path:
    """The first of `names` (glob patterns) that is below `root`.

    Raises:
      FileNotFoundError: none is; names what was expected and what is there.
    """
    for name in names:
        if found := sorted(root.glob(name)):
            return found[0]
    there = sorted(p.name for p in root.iterdir())[:10] if root.is_dir() else []
    raise FileNotFoundError(f"no {' or '.join(names)} in {root}" + (f"; there are: {', '.join(there)}" if there else
                            ", which is no folder: give --config.data.path=ROOT of the data set"))  # fmt: skip


def table(path: Path, *columns: str, delimiter: str = ",", names: tuple[str, ...] = ()) -> Iterator[dict]:
    """Rows of a CSV (or .csv.gz) with a header (or with the column `names`), white space around names and values removed.

    Raises:
      ValueError: one of `columns` is missing, or a row is too short; names what was expected. The file is damaged.
    """
    refuse_pointer(path)
    try:
        yield from _table(path, columns, delimiter, names)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as e:
        raise ValueError(f"{path.name} is damaged or was not copied in full ({type(e).__name__}: {e}); get it again") from None


def _table(path: Path, columns, delimiter: str, names) -> Iterator[dict]:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=delimiter)
        header = [name.strip() for name in names or next(reader, [])]
        if missing := [c for c in columns if c not in header]:
            raise ValueError(f"{path.name} has no column {', '.join(map(repr, missing))}; expected {', '.join(columns)}, "
                             f"it has {', '.join(header)}")
        for number, fields in enumerate(reader, 1 if names else 2):
            if not fields:
                continue
            if len(fields) < len(columns):
                raise ValueError(f"{path.name}, row {number}: {len(fields)} fields; expected {', '.join(header)}")
            yield {k: v.strip() for k, v in zip(header, fields, strict=False)}


def records(path: Path, *keys: str) -> list[dict]:
    """A JSON list of objects that have `keys`.

    Raises:
      ValueError: it is none; names what was expected.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ValueError(f"{path.name} is not valid JSON ({e})") from None
    if not isinstance(found, list) or any(not isinstance(r, dict) or set(keys) - set(r) for r in found):
        raise ValueError(f"{path.name}: expected a list of objects with {', '.join(keys)}")
    return found


def lines(path: Path) -> set[str]:
    """The non-empty lines of a text file."""
    return {line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}


class Images:
    """Where the image files of a data set are, by file name (or by stem), whatever folders they were unpacked into."""

    def __init__(self, root: Path, *suffixes: str, stems: bool = False):
        self._root, self._suffixes = root, suffixes
        self._paths = {}
        for folder, _, files in os.walk(root):
            for file in files:
                stem, suffix = os.path.splitext(file)
                if suffix.lower() in suffixes:
                    self._paths[stem if stems else file] = os.path.relpath(os.path.join(folder, file), root)
        if not self._paths:
            raise FileNotFoundError(f"no image ({', '.join(suffixes)}) below {root}")

    def __getitem__(self, name: str) -> str:
        """Path below the root; of a file that is not there its name, so that the check of the rows counts it as missing."""
        return self._paths.get(name, name)

    def __contains__(self, name: str) -> bool:
        return name in self._paths


def official(is_test: bool, source: str, patient: str) -> str:
    """The split where a data set has a test list only: a tenth of the other patients, by hash, is for validation."""
    return "test" if is_test else hash_split(source, patient, (0.9, 0.1))


def box(label: str, x, y, w, h) -> dict:
    """A box of the manifest format."""
    return {"label": label, "x": float(x), "y": float(y), "w": float(w), "h": float(h)}


def corners(label: str, x0, y0, x1, y1) -> dict:
    """A box given by two corners."""
    return box(label, x0, y0, float(x1) - float(x0), float(y1) - float(y0))


def number(value: str) -> float | None:
    """A number, or None for an empty field."""
    return float(value) if value else None
