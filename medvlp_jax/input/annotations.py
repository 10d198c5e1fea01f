"""Labels and mentions from files of their own, joined to the rows of any data set (data.annotations, --annotations).

Three shapes, recognised by content:
- RadGraph: {"p10/p1/s2.txt": entry} of MIMIC-CXR, or RadGraph-XL's list [{"0": entry}, ...] as CheXpert Plus ships it. Gives
  mentions. The list has no keys, so an entry belongs to the rows whose findings or impression has its words.
- CheXbert: a record with the 14 conditions of CheXpert as 1, 0, -1 or blank; CSV, JSON list, or a JSON object a line as in
  CheXpert Plus (`findings_fixed.json`, key path_to_image). Gives labels; a blank says nothing.
- lists: a JSON object a line, {"study_id": ..., "labels": [...], "absent": [...], "uncertain": [...]}, or "mentions" as the
  column of that name, optionally "labeller". For what a language model found.

A record's key is study_id, or image, path_to_image, Path or dicom_id, or a report's text.
"""
import csv
import functools
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from absl import logging

from medvlp_jax.input.columns import label_names, parse_json
from medvlp_jax.input.datasets.labels import CHEXPERT
from medvlp_jax.input.rows import Rows, refuse_pointer
from medvlp_jax.input.statements import AUTOMATIC, VALUES, check_row
from medvlp_jax.reports import radgraph, sections, vocab

SHAPES = ('RadGraph ({"p10/p1/s2.txt": {"text", "entities"}} or [{"0": {"text", "entities"}}, ...]), CheXbert (records or '
          "a CSV with a key and the 14 conditions as 1, 0, -1 or blank), or a JSON object a line with study_id and labels, "
          "absent, uncertain or mentions")  # fmt: skip
STUDY, IMAGE, TEXT = "study_id", "image path", "report text"
KEYS = {"study_id": STUDY, "image": IMAGE, "path_to_image": IMAGE, "Path": IMAGE, "dicom_id": IMAGE,
        "Report Impression": TEXT, "report": TEXT, "text": TEXT}  # fmt: skip
MAX_BAD_SHARE = 0.01


class Annotations:
    """The entries of one file by key.

    Raises:
      FileNotFoundError: no such file. ValueError: none of SHAPES, a record without a key, a value that was not expected, or
        more than MAX_BAD_SHARE of the RadGraph entries are damaged.
    """

    def __init__(self, path: str | Path):
        path = Path(path).expanduser()
        if not path.is_file():
            raise FileNotFoundError(f"no annotation file at {path}; expected {SHAPES}")
        refuse_pointer(path)
        self.name, self.entries, self.bad, self.numbers = path.name, [], 0, []  # numbers: of entries with a key of their own
        self.index, self.depths, first = {STUDY: {}, IMAGE: {}, TEXT: {}}, set(), ""
        for number, (kind, key, entry) in enumerate(_entries(path), 1):
            try:
                made = entry()
            except (ValueError, KeyError) as e:
                self.bad += 1
                first = first or f"record {number}: {e}"
                continue
            key = _normal(kind, key)
            if kind == IMAGE:
                self.depths.add(key.count("/") + 1)
            if self.index[kind].setdefault(key, len(self.entries)) == len(self.entries):
                self.numbers.append(len(self.entries))
            self.entries.append(made)
        if self.bad > MAX_BAD_SHARE * (self.bad + len(self.entries)):
            total = self.bad + len(self.entries)
            raise ValueError(f"{self.name}: {self.bad:,} of {total:,} records are not as expected; {first}")
        if self.bad:
            logging.warning("%s: %d records skipped, not as expected", self.name, self.bad)

    def find(self, row: dict) -> list[int]:
        """Numbers of the entries of a row: by study, else by image, else by the text of the report and its sections."""
        study, image, report = (str(row.get(k) or "") for k in ("study_id", "image", "report"))
        if study and study in self.index[STUDY]:
            return [self.index[STUDY][study]]
        if self.index[IMAGE]:
            # CheXpert's full-size release has other folders than its tables name; the study keeps their name.
            for path in (image, f"{study}/{image.rpartition('/')[2]}"):
                parts = _normal(IMAGE, path).split("/")
                for depth in sorted(self.depths, reverse=True):
                    if (key := "/".join(parts[-depth:])) in self.index[IMAGE]:
                        return [self.index[IMAGE][key]]
        if self.index[TEXT] and report:
            texts = [report, *sections.sections(report).values(), *re.split(r"(?:\A|\n)(?:FINDINGS|IMPRESSION):", report)]
            found = (self.index[TEXT].get(_normal(TEXT, text)) for text in texts if text.strip())
            return list(dict.fromkeys(number for number in found if number is not None))
        return []

    def example_key(self) -> str:
        """A key of the file, with digits as #."""
        return next((_hidden(kind, next(iter(some))) for kind, some in self.index.items() if some), "none")


def _normal(kind: str, key: str) -> str:
    """One spelling of a key. An image goes by its path without ending, a text by a hash of its letters and digits: the tools
    put white space around punctuation."""
    if kind == IMAGE:
        return re.sub(r"\.[A-Za-z]{3,5}$", "", key.replace("\\", "/").strip("/"))
    if kind == TEXT:
        return hashlib.blake2b(re.sub(r"[\W_]+", "", key.lower()).encode(), digest_size=12).hexdigest()
    return key.strip()


def _hidden(kind: str, key: str) -> str:
    return f"{kind}" if kind == TEXT else f"{kind} {re.sub('[0-9]', '#', key)!r}"


def join(table, files: str) -> tuple[Rows, dict]:
    """The rows of `table` with what `files` (paths, commas between) say -> (rows, counts).

    It stands in columns `mentions` and `annotations`. Of several files all mentions are taken, and of a label the last that
    names it. Counts: {"file", "rows with an entry", "rows without an entry", "entries without a row", "entries skipped",
    "labels without entity"}, for all files together.

    Raises:
      ValueError: no row has an entry of a file; shows one key of each side, digits as #.
    """
    files = [_opened(Path(file.strip()).expanduser()) for file in str(files).split(",") if file.strip()]
    used, having, first = [np.zeros(len(f.entries), bool) for f in files], Counter(), None

    def rows():
        nonlocal first
        for row in table:
            first = first or row
            row, found = dict(row), []
            for file, taken in zip(files, used, strict=True):
                numbers = file.find(row)
                taken[numbers] = True
                found += [file.entries[number] for number in numbers]
            having[bool(found)] += 1
            yield {**row, **_merged(found)}

    out = Rows(rows(), table.path.name)
    out.path, out.lines = table.path, table.lines
    for file, taken in zip(files, used, strict=True):
        if not taken.any():
            told = {STUDY: str(first.get("study_id") or ""), IMAGE: _normal(IMAGE, str(first["image"]))}
            ours = ", ".join(_hidden(kind, key) for kind, key in told.items() if key)
            raise ValueError(f"{file.name}: none of its {len(file.entries):,} entries belongs to a row. A key of it: "
                             f"{file.example_key()}; a row: {ours}{', with a report' if first.get('report') else ''} "
                             "(# is a digit). Is it of another data set?")
    unused = sum(int((~taken[f.numbers]).sum()) for f, taken in zip(files, used, strict=True))
    strange = Counter(name for f in files for e in f.entries for column in VALUES for name in label_names(e, column)
                      if not vocab.is_known(name))  # fmt: skip
    counts = {"file": ", ".join(f.name for f in files), "rows with an entry": having[True],
              "rows without an entry": having[False], "entries without a row": unused,
              "entries skipped": sum(f.bad for f in files), "labels without entity": dict(strange.most_common())}  # fmt: skip
    logging.info("annotations: %s", ", ".join(f"{k}: {v}" for k, v in counts.items()))
    return out, counts


def _opened(path: Path) -> Annotations:
    """The file, read once for all splits of a run."""
    stamp = (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else ()
    return _cached(path, stamp)


@functools.lru_cache(4)
def _cached(path: Path, stamp) -> Annotations:
    return Annotations(path)


def _merged(found: list[dict]) -> dict:
    """Columns of a row, from its entries."""
    out, labels = {}, {}
    if told := [e["mentions"] for e in found if "mentions" in e]:
        out["mentions"] = [list(m) for m in dict.fromkeys(tuple(m) for some in told for m in some)]
    for entry in found:
        labels |= {name: column for column in ("absent", "uncertain", "labels") for name in label_names(entry, column)}
    if labels:
        who = {str(e.get("labeller") or AUTOMATIC) for e in found if "mentions" not in e}
        told = {column: [name for name, c in labels.items() if c == column] for column in VALUES}
        out["annotations"] = {**{k: v for k, v in told.items() if v}, "labeller": who.pop() if len(who) == 1 else AUTOMATIC}
    return out


def _entries(path: Path):
    """(kind of key, key, function that makes the entry) of every record of a file."""
    records = _records(path)
    if isinstance(records, Mapping) and _is_graph(next(iter(records.values()), None)) or (
            isinstance(records, list) and records and _graph_of(records[0]) is not None):  # fmt: skip
        yield from _graphs(path, records)
        return
    if isinstance(records, Mapping):
        records = [{"study_id": key, **r} if isinstance(r, Mapping) else r for key, r in records.items()]
    if not records or not all(isinstance(r, Mapping) for r in records):
        raise ValueError(f"{path.name}: expected {SHAPES}")
    chexbert = set(CHEXPERT) <= set(records[0])
    if not chexbert and not any(set(r) & {*VALUES, "mentions"} for r in records[:100]):
        some = sorted(set(CHEXPERT) & set(records[0]))
        lacks = f"; it lacks the conditions {', '.join(sorted(set(CHEXPERT) - set(some)))}" if some else ""
        raise ValueError(f"{path.name}: expected {SHAPES}; its first record has {', '.join(map(str, records[0]))}{lacks}")
    for number, record in enumerate(records, 1):
        name = next((name for name in KEYS if record.get(name) not in (None, "")), None)
        if name is None:
            raise ValueError(f"{path.name}, record {number}: no key; expected one of {', '.join(KEYS)}")
        try:
            entry = _conditions(record) if chexbert else _lists(record)
        except ValueError as e:
            raise ValueError(f"{path.name}, record {number}: {e}") from None
        yield KEYS[name], str(record[name]), lambda entry=entry: entry


def _records(path: Path):
    """The content of a JSON file, a file of JSON lines, or a CSV."""
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip()[:1] not in ("{", "["):
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        return [{str(k).strip(): v for k, v in row.items()} for row in rows]
    try:
        found = json.loads(text)
    except ValueError as e:
        if not str(e).startswith("Extra data"):
            raise ValueError(f"{path.name} is not valid JSON ({e}); expected {SHAPES}") from None
        found = []
        for number, line in enumerate(text.splitlines(), 1):
            try:
                found += [json.loads(line)] if line.strip() else []
            except ValueError as error:
                raise ValueError(f"{path.name}, line {number}: not valid JSON ({error})") from None
        return found
    one = isinstance(found, Mapping) and set(found) & {*KEYS} and not any(isinstance(v, Mapping) for v in found.values())
    return [found] if one else found


def _is_graph(entry) -> bool:
    return isinstance(entry, Mapping) and {"text", "entities"} <= set(entry)


def _graph_of(record):
    """The RadGraph entry of an element of a list, or None."""
    if _is_graph(record):
        return record
    inner = next(iter(record.values()), None) if isinstance(record, Mapping) and len(record) == 1 else None
    return inner if _is_graph(inner) else None


def _graphs(path: Path, records):
    """Entries of a RadGraph file: by the study of their key, or by their text where there is no key."""
    if isinstance(records, Mapping):
        for key, entry in records.items():
            study = re.sub(r"^s(?=\d+$)", "", key.rpartition("/")[2].removesuffix(".txt")) if key.endswith(".txt") else key
            by_text = key.isdecimal() and int(key) < len(records)  # a list's places, as the tool itself numbers them
            yield (TEXT, str(entry.get("text")), _mentions(entry)) if by_text else (STUDY, study, _mentions(entry))
        return
    for number, record in enumerate(records, 1):
        entry = _graph_of(record)
        if entry is None:
            raise ValueError(f'{path.name}, record {number}: expected {{"0": {{"text", "entities"}}}} as the records before it')
        kind = next((name for name in KEYS if name != "text" and entry.get(name)), "text")
        yield KEYS[kind], str(entry[kind]), _mentions(entry)


def _mentions(entry):
    return lambda: {"mentions": [list(m) for m in dict.fromkeys(m[:3] for m in radgraph.mentions(entry))]}


def _conditions(record: Mapping) -> dict:
    """Labels of a CheXbert record. Raises a ValueError for a value that is none of its four."""
    out = {"labels": [], "absent": [], "uncertain": []}
    for name in CHEXPERT:
        value = record.get(name)
        if value in (None, "") or value != value:
            continue
        column = {1.0: "labels", 0.0: "absent", -1.0: "uncertain"}.get(float(value))
        if column is None:
            raise ValueError(f"{name} is {value!r}; expected 1, 0, -1 or blank")
        out[column].append(name)
    return out


def _lists(record: Mapping) -> dict:
    """Labels or mentions of a record of lists. Raises a ValueError for a column that is not as expected."""
    out = {k: record[k] for k in (*VALUES, "mentions", "labeller") if record.get(k) not in (None, "")}
    if "mentions" in out:
        return {"mentions": [list(m) for m in parse_json(out, "mentions", [])]}
    check_row({"annotations": out})
    return out
