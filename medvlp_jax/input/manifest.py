"""The user's own data: a CSV or JSONL of image paths, reports, labels, boxes and masks (columns: `rows.COLUMNS`).

How a row becomes a presence matrix (51 positions x 75 entities; -1 not mentioned, 0 absent, 1 present, 2 uncertain):
- a report is read by the report filter (reports.rules, reports.triplets), unless column `mentions` says what is in it;
- a listed label is 1 at position `unspecified`, whatever the report says;
- a label listed in column `absent` is 0 there, one in `uncertain` 2;
- where the label list is complete, a label that it does not list is 0: see `ManifestSource`, closed_world.
"""
import functools
import hashlib
import json
import os
from pathlib import Path

import numpy as np

from medvlp_jax.input import decode
from medvlp_jax.input.columns import entity_name, label_names, mask_paths, parse_json, source_name
from medvlp_jax.input.masks import Masks
from medvlp_jax.input.rows import Rows, Table
from medvlp_jax.reports import language, rules, sections, triplets, vocab

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val",
          "dev": "val", "test": "test", "testing": "test"}
UNSPECIFIED = vocab.position_index("unspecified")
# Entities of which a label list says nothing when it does not name them.
_CATCH_ALL = {vocab.TAIL, vocab.EXCLUDED}
MIN_WORDS = 2  # a report below that ("normal", "___") is none


class ManifestSource:
    """One split of a manifest, by random access; images stay encoded and are read when asked for.

    Args:
      path: CSV or JSONL file, or a `rows.Rows` (with `root`).
      split: "train", "val", "test", or "all".
      root: folder that image and mask paths are relative to; default: the manifest's folder. Paths may not leave it.
      columns: {our column: the file's} where names differ; None for a column that is not to be read.
      ratios: shares of train and val where the file has no `split` column; the rest is test. A row's split is then the
        SHA-256 of its source and `owner` as a fraction of 2^256, so that it does not depend on other rows.
      closed_world: whether a label list is complete, so that entities known to the row's `source` (those that any of its
        rows lists, in any split) but not listed are absent. "auto": for rows without a report (multi-label sets such as
        ChestX-ray14); "always", "never". A label that is no known entity may imply any of them, so its row states no
        absences, other than that it is not normal; nothing is concluded about the catch-all entities either. A row that
        fills `absent` says itself what is absent.
      report_sections: which sections of a report are used (reports.sections.report_text).

    Raises:
      FileNotFoundError: no manifest there.
      ValueError: columns, split names or JSON that are wrong; a patient in two splits; no row in the split. Rows are named
        by line number: patient identifiers appear in no message.
    """

    def __init__(self, path, split: str, root=None, columns: dict | None = None, ratios=(0.8, 0.1),
                 closed_world: str = "auto", report_sections=("impression", "findings")):
        if split not in ("train", "val", "test", "all"):
            raise ValueError(f"unknown split {split!r}; known: train, val, test, all")
        if closed_world not in ("auto", "always", "never"):
            raise ValueError(f"unknown closed_world {closed_world!r}; known: auto, always, never")
        self.table = path if isinstance(path, Rows) else Table(path, columns)
        self.split, self.closed_world, self.report_sections = split, closed_world, tuple(report_sections)
        self.root = Path(os.path.abspath(self.table.path.parent if root is None else Path(root).expanduser()))
        splits, self.spaces = scan(self.table, ratios)
        self.rows = np.flatnonzero(splits == split) if split != "all" else np.arange(len(splits))
        if not len(self.rows):
            found = ", ".join(f"{name}: {int((splits == name).sum())}" for name in ("train", "val", "test"))
            raise ValueError(f"{self.table.path.name} has no row in split {split!r} ({found})")
        self._presence = {}

    def subset(self, keep) -> "ManifestSource":
        """The same source with only the examples `keep` (indices into this one)."""
        other = object.__new__(ManifestSource)
        other.__dict__ = {k: v for k, v in self.__dict__.items() if k != "fingerprint"}
        other.rows, other._presence = self.rows[np.asarray(keep, np.int64)], {}
        return other

    def __getstate__(self):
        return {**self.__dict__, "_presence": {}}

    def __len__(self) -> int:
        return len(self.rows)

    def line(self, index: int) -> int:
        """Line number of an example in the manifest: how it is named in messages."""
        return int(self.table.lines[self.rows[index]])

    def text(self, index: int) -> str:
        """The sections of the report that are used; "" if there is none, it has fewer than two words or is not in English."""
        return self.text_of(self.table[self.rows[index]])

    def text_of(self, row: dict) -> str:
        """As `text`, of a row of the table."""
        return self.locate_text(row)[0]

    def locate_text(self, row: dict) -> tuple[str, str]:
        """(text of a row, how it was found): as `sections.locate` says, or "" and "too short" or "not in English"."""
        raw = str(row.get("report") or "").strip()
        text, how = sections.locate(raw, self.report_sections) if raw else ("", "none")
        if len(text.split()) < MIN_WORDS:
            return "", "too short" if text else how
        return (text, how) if language.is_english(text) else ("", "not in English")

    def resolve(self, path: str) -> Path:
        """A path of the manifest below the root; symbolic links are the user's own affair.

        Raises:
          ValueError: it leads out of the root.
        """
        full = Path(os.path.normpath(self.root / path))
        if not full.is_relative_to(self.root) or "\0" in path:
            raise ValueError(f"path leads out of the root folder {self.root}")
        return full

    def read(self, path: str, line: int, patient: str = "") -> bytes:
        """A file that the manifest names at `line`.

        Raises:
          decode.ImageError: "missing file", with the path that was expected (the patient's identifier in it shown as *), or
            "path outside root".
        """
        if not path:
            raise decode.ImageError("missing file", f"line {line} names no image")
        try:
            return self.resolve(path).read_bytes()
        except ValueError as e:
            raise decode.ImageError("path outside root", f"line {line}: {e}") from None
        except OSError:
            expected = self.root / (path.replace(patient, "*") if patient else path)
            raise decode.ImageError("missing file", f"line {line}: expected {expected}") from None

    def files(self, index: int, row: dict) -> tuple[bytes, "Masks"]:
        """The encoded image and the masks of a row of the table, which is example `index`. Raises as `read` does."""
        read = functools.partial(self.read, line=self.line(index), patient=str(row.get("patient_id") or ""))
        return read(str(row.get("image") or "").strip()), Masks(read, mask_paths(row))

    def patient(self, index: int) -> str:
        """Whose image it is; an image without a patient is its study's, without that its own."""
        row = self.table[self.rows[index]]
        return f"{source_name(row)}/{owner(row)}"

    @property
    def studies(self) -> np.ndarray:
        """Number of the study that an example is of, int64 (N,); an image without study_id is one of its own."""
        seen, found = {}, []
        for row in self.table:
            study = str(row.get("study_id") or "")
            key = source_name(row), str(row.get("patient_id") or ""), study, "" if study else str(row["image"])
            found.append(seen.setdefault(key, len(seen)))
        return np.array(found, np.int64)[self.rows]

    @property
    def projections(self) -> list[str]:
        """Projection of each example as its row gives it, in capitals."""
        found = [str(row.get("view") or "").strip().upper() for row in self.table]
        return [found[row] for row in self.rows.tolist()]

    def truth(self, index: int) -> dict:
        """What is known of an example without reading its files (input/targets.py)."""
        return self._truth(self.table[self.rows[index]])

    def _truth(self, row: dict) -> dict:
        return {
            "boxes": [(entity_name(b["label"]), *(float(b[k]) for k in "xywh")) for b in parse_json(row, "boxes", [])],
            "masks": mask_paths(row),
            "finding_labels": self._finding_labels(row),
            "severity": {str(k): int(v) for k, v in parse_json(row, "severity", {}).items()},
        }

    def __getitem__(self, index: int) -> dict:
        row = self.table[self.rows[index]]
        image, masks = self.files(index, row)
        return {
            "id": str(row["image"]),
            "patient_id": str(row.get("patient_id") or ""),
            "image": image,
            "report": self.text_of(row),
            "presence": self._cached_presence(index, row),
            **self._truth(row),
            "masks": masks,
            "attributes": {k: str(row[k]) for k in ("view", "sex", "age", "source") if row.get(k) not in (None, "")},
        }

    def _closed(self, row: dict) -> bool:
        if label_names(row, "absent"):
            return False
        return self.closed_world == "always" or (self.closed_world == "auto" and not self.text_of(row))

    def _finding_labels(self, row: dict) -> dict[str, int]:
        """{label: 1 listed, 0 known to the source but not listed}. An entity's own name counts as listed where a special case
        of it is: with "COVID-19" alone, "Pneumonia" is 1, not 0; the other way round "COVID-19" is 0."""
        listed = label_names(row)
        known = sorted(self.spaces[source_name(row)]) if listed and self._closed(row) else ()
        entities = {vocab.lookup(name) for name in listed}
        implied = {name: int(name.lower() in entities and vocab.lookup(name) == name.lower()) for name in known}
        said = {**dict.fromkeys(label_names(row, "absent"), 0), **dict.fromkeys(label_names(row, "uncertain"), -1)}
        return {**implied, **said, **dict.fromkeys(listed, 1)}

    def _cached_presence(self, index: int, row: dict) -> np.ndarray:
        """Presence of an example; what a report says is kept sparsely, since the filter costs as much as a small decode."""
        if index not in self._presence:
            dense = self.presence(row)
            cells = np.flatnonzero(dense != -1)
            self._presence[index] = cells.astype(np.int16), dense.reshape(-1)[cells]
        cells, values = self._presence[index]
        dense = np.full((len(vocab.POSITIONS), len(vocab.ENTITIES)), -1, np.int8)
        dense.reshape(-1)[cells] = values
        return dense  # (A, K)

    def presence(self, row: dict) -> np.ndarray:
        """Presence matrix int8 (A, K) of a row, from its report and its labels (see the head of this file)."""
        text = self.text_of(row)
        if row.get("mentions") not in (None, ""):
            told = (triplets.Mention(*mention, 0, 0) for mention in parse_json(row, "mentions", []))
            out = triplets.presence(told).astype(np.int8)
        elif text:
            out = triplets.presence(rules.extract(text)).astype(np.int8)
        else:
            out = np.full((len(vocab.POSITIONS), len(vocab.ENTITIES)), -1, np.int8)
        listed = label_names(row)
        entities = {name: vocab.lookup(name) for name in listed}
        if listed and self._closed(row):
            known = {vocab.lookup(name) for name in self.spaces[source_name(row)]} - {None} - _CATCH_ALL
            if None in entities.values():
                known &= set(vocab.NORMAL)
            for entity in known:
                out[UNSPECIFIED, vocab.entity_index(entity)] = 0
        said = {vocab.lookup(name): value for value, column in ((0, "absent"), (2, "uncertain"))
                for name in label_names(row, column)}  # fmt: skip
        for entity, value in {**said, **dict.fromkeys(entities.values(), 1)}.items():
            if entity is not None and not (value == 0 and entity in _CATCH_ALL):
                out[UNSPECIFIED, vocab.entity_index(entity)] = value
        return out  # (A, K)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the rows' contents, the label spaces and options that shape examples, and the size of every image file."""
        options = [self.closed_world, self.report_sections, {k: sorted(v) for k, v in sorted(self.spaces.items())}]
        digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
        for index in range(len(self)):
            row = self.table[self.rows[index]]
            try:
                size = self.resolve(str(row.get("image") or "")).stat().st_size
            except (OSError, ValueError):
                size = -1
            digest.update(json.dumps([row, size], sort_keys=True, default=str).encode())
        return digest.hexdigest()


def owner(row: dict) -> str:
    """Whose image a row is: its patient; where none is given its study, without that its own."""
    return str(row.get("patient_id") or row.get("study_id") or row["image"])


def scan(table: Table, ratios=(0.8, 0.1)) -> tuple[np.ndarray, dict[str, set[str]]]:
    """One pass over the table -> split name of each row (n,), {source: label names}. Checks patients and JSON columns."""
    splits, spaces, first = [], {}, {}
    for row, line in zip(table, table.lines.tolist(), strict=True):
        source, patient = source_name(row), str(row.get("patient_id") or row.get("study_id") or "")
        what = "patient" if row.get("patient_id") else "study"
        try:
            spaces.setdefault(source, set()).update(*(label_names(row, c) for c in ("labels", "absent", "uncertain")))
            parse_json(row, "boxes", [])
            parse_json(row, "masks", {})
            parse_json(row, "severity", {})
            parse_json(row, "mentions", [])
        except ValueError as e:
            raise ValueError(f"{table.path.name}, line {line}: {e}") from None
        if "split" in table.columns:
            split = SPLITS.get(str(row["split"] or "").strip().lower())
            if split is None:
                raise ValueError(f"{table.path.name}, line {line}: split {row['split']!r}; expected train, val or test")
        else:
            split = hash_split(source, owner(row), ratios)
        splits.append(split)
        if patient:
            before, there = first.setdefault((source, what, patient), (split, line))
            if before != split:
                raise ValueError(f"{table.path.name}: lines {there} ({before}) and {line} ({split}) are of one {what} in two "
                                 "splits, so that scores would be too good; correct the split column, or leave it out for a "
                                 "patient-wise split")
    return np.array(splits), spaces


def hash_split(source: str, key: str, ratios=(0.8, 0.1)) -> str:
    """The split of a patient (or image) by hash: the same in every run, on every machine and whatever other rows there are."""
    digest = hashlib.sha256(json.dumps([source, key]).encode()).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    train, val = ratios
    return "train" if fraction < train else "val" if fraction < train + val else "test"
