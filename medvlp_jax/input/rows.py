"""A table of studies (CSV or JSONL) read by random access: only the byte range of each row is kept in memory.

Columns are those of the manifest format (`COLUMNS`); a user's own names are given as `columns={"report": "findings_text"}`.
"""
import codecs
import csv
import difflib
import io
import json
import os
import weakref
from pathlib import Path

import numpy as np

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


class Table:
    """Rows of a CSV (with header; RFC 4180 quotes, optional BOM) or JSONL file.

    `rows[i]` reads row i from disk: {column of COLUMNS: str, or a decoded JSON value where the file holds one}. Pickling keeps
    the path and the byte ranges, not the contents.

    Raises:
      FileNotFoundError: no such file, with the path that was expected.
      ValueError: a git-LFS pointer, no `image` column, a probably misspelt one, text that is not UTF-8, a row that is damaged.
    """

    def __init__(self, path: str | Path, columns: dict[str, str | None] | None = None):
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise FileNotFoundError(f"no manifest at {self.path}: expected a .csv or .jsonl file with an 'image' column")
        self.kind = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}.get(self.path.suffix.lower())
        if self.kind is None:
            raise ValueError(f"a manifest is a .csv or .jsonl file, got {self.path.name!r}")
        refuse_pointer(self.path)
        spans, lines, header = _scan_csv(self.path) if self.kind == "csv" else _scan_jsonl(self.path)
        if not len(spans):
            raise ValueError(f"{self.path.name} has no rows below its header")
        self._spans, self.lines = spans, lines
        self._header = header
        self.columns = choose_columns(header, columns or {}, self.path.name)
        self._stamp, self._fd = _stamp(self.path), None

    def __getstate__(self):
        return {**self.__dict__, "_fd": None}

    def __len__(self) -> int:
        return len(self._spans)

    def __iter__(self):
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> dict:
        start, stop = self._spans[index].tolist()
        if self._fd is None:  # opened once: text swapping reads a row of another report for every example
            self._fd = os.open(self.path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._fd)
        data = os.pread(self._fd, stop - start, start)  # threads share it
        if _stamp(self.path) != self._stamp:
            raise RuntimeError(f"{self.path.name} was changed while it is in use; start again to read it anew")
        text = data.removeprefix(codecs.BOM_UTF8).decode()
        if self.kind == "jsonl":
            record = json.loads(text)
        else:
            fields = next(csv.reader(io.StringIO(text, newline=""), strict=True))
            record = dict(zip(self._header, fields, strict=True))
        return {ours: record.get(theirs) for ours, theirs in self.columns.items()}


class Rows:
    """Rows made by a program, with the interface of `Table`; kept as bytes, so that 100,000 of them are a few MB.

    rows: dicts with keys of COLUMNS. name: stands for the file's name in messages, which count the rows from 1.

    Raises:
      ValueError: no rows, or an unknown key.
    """

    def __init__(self, rows, name: str):
        self.path, parts, used = Path(name), [], set()
        for row in rows:
            used.update(row)
            parts.append(json.dumps(row, ensure_ascii=False).encode())
        if not parts or used - set(COLUMNS):
            raise ValueError(f"{name}: " + (f"unknown columns {sorted(used - set(COLUMNS))}" if parts else "no rows"))
        self._data, self._ends = b"".join(parts), np.cumsum([0, *map(len, parts)])
        self.lines, self.columns = np.arange(1, len(parts) + 1), {k: k for k in COLUMNS if k in used}

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> dict:
        row = json.loads(self._data[self._ends[index] : self._ends[index + 1]])
        return {k: row.get(k) for k in self.columns}

    def __iter__(self):
        return (self[i] for i in range(len(self)))


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
    spans, lines, header, start, line = [], [], None, 0, 1
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
                spans.append((start, ends[0]))
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
    spans, lines, names, start = [], [], {}, 0
    for number, text in enumerate(_decoded_lines(path, ends), 1):
        if text.strip():
            try:
                record = json.loads(text)
            except ValueError as e:
                raise ValueError(f"{path.name}, line {number}: not valid JSON ({e})") from None
            if not isinstance(record, dict):
                raise ValueError(f"{path.name}, line {number}: expected a JSON object, got {type(record).__name__}")
            names.update(dict.fromkeys(record))
            spans.append((start, ends[0]))
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
