"""A table of studies (CSV, JSONL or Parquet) read by random access: only the byte range of each row is kept in memory.

Columns are those of the manifest format (`COLUMNS`); a user's own names are given as `columns={"report": "findings_text"}`.
"""
import array
import codecs
import csv
import difflib
import io
import json
import os
import weakref
from pathlib import Path

import numpy as np

from medvlp_jax.input import scratch
from medvlp_jax.input.decode import LFS_PREFIX

csv.field_size_limit(2**24)  # 131,072 by default: run lengths of a mask may be longer; a lost quote is still an error

COLUMNS = {
    "image": "path of the image below the root (the only one that is needed)",
    "report": "radiology report, plain text",
    "labels": "names of findings, separated by ';'",
    "absent": "names of findings that are not there, separated by ';'",
    "uncertain": "names of findings that may be there, separated by ';'",
    "boxes": "JSON list of {label, x, y, w, h} in pixels of the image, with the `phrase` of the report that it shows if any",
    "mask": "path of a mask image (of the lungs)",
    "masks": "JSON object {name: path of a mask image, or a list of them}",
    "severity": "JSON object {finding: grade}, 0 = absent",
    "mentions": "JSON list of [entity, position, 0 absent | 1 present | 2 uncertain]: what the report says, as of RadGraph",
    "labeller": "who made the labels: radiologist, automatic or other; default: by `source`",
    "annotations": "JSON object {labels, absent, uncertain, labeller} of another labeller (data.annotations)",
    "patient_id": "whose image it is",
    "study_id": "examination that the image belongs to",
    "split": "train, val or test",
    "source": "data set that the row comes from; label names are comparable within one source",
    "view": "projection, such as PA",
    "sex": "sex of the patient",
    "age": "age in years",
}


class _Lines:
    """Rows of a file of CSV records or JSON lines by byte range. Pickling keeps the path and the ranges, not the contents."""

    def __init__(self, path: Path, file: Path, kind: str, spans: np.ndarray, lines: np.ndarray, header, columns: dict):
        self.path, self._file, self.kind = path, file, kind  # path: of the messages
        self._spans, self.lines, self._header, self.columns = spans, lines, header, columns
        self._stamp, self._descriptor = _stamp(path if path.is_file() else file), None

    def __getstate__(self):
        return {**self.__dict__, "_descriptor": None}

    def __len__(self) -> int:
        return len(self._spans)

    def __iter__(self):
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict:
        start, stop = self._spans[index].tolist()
        if self._descriptor is None:  # opened once: text swapping reads a row of another report for every example
            descriptor = os.open(self._file, os.O_RDONLY)
            weakref.finalize(self, os.close, descriptor)
            self._descriptor = descriptor
        data = os.pread(self._descriptor, stop - start, start)  # threads share it
        self._assert_unchanged()
        text = data.removeprefix(codecs.BOM_UTF8).decode()
        if self.kind == "jsonl":
            record = json.loads(text)
        else:
            fields = next(csv.reader(io.StringIO(text, newline=""), strict=True))
            record = dict(zip(self._header, fields, strict=True))
        return {ours: record.get(theirs) for ours, theirs in self.columns.items()}

    def _assert_unchanged(self) -> None:
        pass


class Table(_Lines):
    """Rows of a CSV (with header; RFC 4180 quotes, optional BOM), JSONL or Parquet file.

    `rows[i]` reads row i from disk: {column of COLUMNS: str, or a decoded JSON value where the file holds one}. Rows of a
    Parquet file are counted from 1, and copied to a temporary file (input/scratch.py): Parquet has no access to single rows.

    Raises:
      FileNotFoundError: no such file, with the path that was expected.
      ValueError: a git-LFS pointer, no `image` column, a probably misspelt one, text that is not UTF-8, a row that is damaged.
    """

    def __init__(self, path: str | Path, columns: dict[str, str | None] | None = None):
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no manifest at {path}: expected a .csv, .jsonl or .parquet file with an 'image' column")
        kind = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}.get(path.suffix.lower())
        if kind is None:
            raise ValueError(f"a manifest is a .csv, .jsonl or .parquet file, got {path.name!r}")
        refuse_pointer(path)
        if kind == "parquet":
            from medvlp_jax.input import parquet  # which loads pyarrow: 30 MB that no worker needs

            header, records = parquet.read(path, lambda names: choose_columns(names, columns or {}, path.name))
            file, spans = _spool(self, records)
            lines, kind = np.arange(1, len(spans) + 1), "jsonl"
        else:
            file, (spans, lines, header) = path, _scan_csv(path) if kind == "csv" else _scan_jsonl(path)
        if not len(spans):
            raise ValueError(f"{path.name} has no rows below its header")
        super().__init__(path, file, kind, spans, lines, header, choose_columns(header, columns or {}, path.name))

    def _assert_unchanged(self) -> None:
        if _stamp(self.path) != self._stamp:
            raise RuntimeError(f"{self.path.name} was changed while it is in use; start again to read it anew")


class Rows(_Lines):
    """Rows made by a program, with the interface of `Table`; kept in a temporary file (input/scratch.py), not in memory.

    rows: dicts with keys of COLUMNS. name: stands for the file's name in messages, which count the rows from 1.

    Raises:
      ValueError: no rows, or an unknown key.
    """

    def __init__(self, rows, name: str):
        used = set()
        file, spans = _spool(self, (row for row in rows if used.update(row) is None))
        if not len(spans) or used - set(COLUMNS):
            raise ValueError(f"{name}: " + (f"unknown columns {sorted(used - set(COLUMNS))}" if len(spans) else "no rows"))
        super().__init__(Path(name), file, "jsonl", spans, np.arange(1, len(spans) + 1), None,
                         {k: k for k in COLUMNS if k in used})  # fmt: skip


def _spool(owner, records) -> tuple[Path, np.ndarray]:
    """Writes records as JSON lines to a file that lives as long as `owner` -> (path, byte ranges (n, 2))."""
    file, ends = scratch.file(owner, ".jsonl"), array.array("q", [0])
    with file.open("wb") as out:
        for record in records:
            ends.append(ends[-1] + out.write(json.dumps(record, ensure_ascii=False).encode() + b"\n"))
    return file, np.stack([np.array(ends[:-1], np.int64), np.array(ends[1:], np.int64)], axis=1)


def refuse_pointer(path: Path) -> None:
    """Raises a ValueError where a file is the pointer of git-LFS instead of the data."""
    with open(path, "rb") as file:
        if file.read(len(LFS_PREFIX)) == LFS_PREFIX:
            raise ValueError(f"{path.name} is a git-LFS pointer, not the data; fetch the real file with `git lfs pull`")


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _decoded_lines(path: Path, ends: list[int]):
    """Lines of a file as text; `ends[0]` is the byte offset after the line given last."""
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            ends[0] += len(line)
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as e:
                raise ValueError(f"{path.name}, line {number}: not UTF-8 ({e.reason}); save the file as UTF-8") from None


def _scan_csv(path: Path):
    """-> (byte range (n, 2), first line number (n,), header) of the non-empty records."""
    ends = [0]
    reader = csv.reader(_decoded_lines(path, ends), strict=True)
    spans, lines, header, start, line = array.array("q"), array.array("q"), None, 0, 1
    try:
        for record in reader:
            if header is None:
                header = [name.strip() for name in record]
                if len(set(header)) != len(header):
                    twice = sorted({name for name in header if header.count(name) > 1})
                    raise ValueError(f"{path.name}: column(s) {', '.join(map(repr, twice))} appear twice in the header")
            elif record:
                if len(record) != len(header):
                    raise ValueError(f"{path.name}, line {line}: {len(record)} fields, the header has {len(header)}; "
                                     "a comma, quote or line break in a field needs quotes around the field")
                spans.extend((start, ends[0]))
                lines.append(line)
            start, line = ends[0], reader.line_num + 1
    except csv.Error as e:
        raise ValueError(f"{path.name}, line {line}: not valid CSV ({e})") from None
    if header is None:
        raise ValueError(f"{path.name} is empty; expected a header with at least an 'image' column")
    return np.array(spans, np.int64).reshape(-1, 2), np.array(lines, np.int64), header


def _scan_jsonl(path: Path):
    """-> (byte range (n, 2), line number (n,), names used in any row) of the non-empty lines."""
    ends = [0]
    spans, lines, names, start = array.array("q"), array.array("q"), {}, 0
    for number, text in enumerate(_decoded_lines(path, ends), 1):
        if text.strip():
            try:
                record = json.loads(text)
            except ValueError as e:
                raise ValueError(f"{path.name}, line {number}: not valid JSON ({e})") from None
            if not isinstance(record, dict):
                raise ValueError(f"{path.name}, line {number}: expected a JSON object, got {type(record).__name__}")
            names.update(dict.fromkeys(record))
            spans.extend((start, ends[0]))
            lines.append(number)
        start = ends[0]
    return np.array(spans, np.int64).reshape(-1, 2), np.array(lines, np.int64), list(names)


def choose_columns(header: list[str], columns: dict[str, str | None], name: str) -> dict[str, str]:
    """{our column: theirs} for the columns that the file has.

    A column of ours that is absent while a nearly equal name is there counts as misspelt: an unread 'reports' column would
    silently train without reports. `columns={"report": None}` says that it is meant so.
    """
    for ours in columns:
        if ours not in COLUMNS:
            close = difflib.get_close_matches(ours, COLUMNS, n=1)
            raise ValueError(f"columns: unknown key {ours!r}" + (f"; did you mean {close[0]!r}?" if close else "")
                             + f" Known: {', '.join(COLUMNS)}")
    chosen = {}
    for ours in COLUMNS:
        theirs = columns.get(ours, ours)
        if theirs is None:
            continue
        if theirs in header:
            chosen[ours] = theirs
            continue
        free = {h.lower().strip(" _"): h for h in header if h not in COLUMNS}
        close = difflib.get_close_matches(theirs.lower(), free, n=1, cutoff=0.6 if ours == "image" else 0.8)
        if ours in ("study_id", "annotations"):
            continue  # nothing is lost without it, and it is not the user's column
        hint = f"; did you mean {free[close[0]]!r}? Rename it or give columns={{{ours!r}: {free[close[0]]!r}}}" if close else ""
        if ours == "image" or ours in columns or close:
            also = f", or columns={{{ours!r}: None}} if it is not meant" if close and ours != "image" else ""
            raise ValueError(f"{name} has no column {theirs!r} ({COLUMNS[ours]}){hint}{also}. It has: {', '.join(header)}")
    return chosen
