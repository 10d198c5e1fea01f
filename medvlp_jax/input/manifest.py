"""The user's own data: a CSV or JSONL of image paths, reports, labels, boxes and masks (columns: `rows.COLUMNS`).

How a row becomes a presence matrix (51 positions x 75 entities; -1 not mentioned, 0 absent, 1 present, 2 uncertain):
- a report is read by the report filter (reports.rules, reports.triplets), unless column `mentions` says what is in it;
- labels (columns `labels`, `absent`, `uncertain`) join it by the rules of input/statements.py: which wins where both speak,
  what a blank says, and what a label for a kind of an entity says of the entity.
"""
import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medvlp_jax.input import decode, statements, verdicts
from medvlp_jax.input.columns import entity_name, mask_paths, parse_json, source_name
from medvlp_jax.input.masks import Masks
from medvlp_jax.input.memo import Memo
from medvlp_jax.input.rows import Rows, Table
from medvlp_jax.input.splits import SPLITS, hash_split, owner, scan  # noqa: F401 - readers take some of them from here
from medvlp_jax.reports import language, rules, sections, triplets, vocab

OUTSIDE = "path outside root"
LIFT_ROOT = ("paths outside the manifest's folder are read with data.root: give the folder above all images, such as "
             "--config.data.root=/ (data.prepare: --root=/)")  # fmt: skip
MIN_WORDS = 2  # a report below that ("normal", "___") is none


class ManifestSource:
    """One split of a manifest, by random access; images stay encoded and are read when asked for.

    Args:
      path: CSV or JSONL file, or a `rows.Table` or `rows.Rows` (with `root`).
      split: "train", "val", "test", or "all".
      root: folder that image and mask paths are relative to; default: the manifest's folder. Paths may not leave it.
      columns: {our column: the file's} where names differ; None for a column that is not to be read.
      ratios: shares of train and val where the file has no `split` column; the rest is test. A row's split is then the
        SHA-256 of its source and `owner` as a fraction of 2^256, so that it does not depend on other rows.
      closed_world: whether a label list is complete, so that entities known to the row's `source` (those that any of its
        rows lists, in any split) but not listed are absent. "auto": for rows without a report of a source that states no
        absence or doubt in any row (multi-label sets such as ChestX-ray14); "always", "never". A label that is no known
        entity may imply any of them, so its row implies no absences, other than that it is not normal; nothing is concluded
        about the catch-all entities either. A row that fills `absent` says itself what is absent.
      blank_labels, label_precedence: what a label that a row leaves blank says, and who wins where report and labels
        contradict each other (statements.Rules).
      report_sections: which sections of a report are used (reports.sections.report_text).

    Raises:
      FileNotFoundError: no manifest there.
      ValueError: columns, split names or JSON that are wrong; a patient in two splits; no row in the split. Rows are named
        by line number: patient identifiers appear in no message.
    """

    def __init__(self, path, split: str, root=None, columns: dict | None = None, ratios=(0.8, 0.1),
                 closed_world: str = "auto", report_sections=("impression", "findings"), blank_labels: str = "unknown",
                 label_precedence: str = "report"):
        if split not in ("train", "val", "test", "all"):
            raise ValueError(f"unknown split {split!r}; known: train, val, test, all")
        self.rules = statements.Rules(closed_world, blank_labels, label_precedence).check()
        self.table = path if isinstance(path, Rows | Table) else Table(path, columns)
        self.split, self.report_sections = split, tuple(report_sections)
        self.root = Path(os.path.abspath(self.table.path.parent if root is None else Path(root).expanduser()))
        splits, self.spaces = scan(self.table, ratios)
        self.rows = np.flatnonzero(splits == split) if split != "all" else np.arange(len(splits))
        if not len(self.rows):
            found = ", ".join(f"{name}: {int((splits == name).sum())}" for name in ("train", "val", "test"))
            raise ValueError(f"{self.table.path.name} has no row in split {split!r} ({found})")
        self._memo = Memo(len(self.table))

    def subset(self, keep) -> "ManifestSource":
        """The same source with only the examples `keep` (indices into this one)."""
        other = object.__new__(type(self))
        other.__dict__ = {k: v for k, v in self.__dict__.items() if k not in ("fingerprint", "contents", "has_reports")}
        other.rows = self.rows[np.asarray(keep, np.int64)]
        return other

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

    def read(self, path: str, line: int, patient: str = "", how: Callable[[Path], Any] = Path.read_bytes):
        """A file that the manifest names at `line`, as `how` reads it: its bytes.

        Raises:
          decode.ImageError: "missing file", with the path that was expected (the patient's identifier in it shown as *), or
            "path outside root".
        """
        if not path:
            raise decode.ImageError("missing file", f"line {line} names no image")
        try:
            full = self.resolve(path)
        except ValueError as e:
            raise decode.ImageError(OUTSIDE, f"line {line}: {e}; {LIFT_ROOT}") from None
        try:
            return how(full)
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
        found = np.empty(len(self.table), np.int64)
        for number, row in enumerate(self.table):
            study = str(row.get("study_id") or "")
            key = source_name(row), str(row.get("patient_id") or ""), study, "" if study else str(row["image"])
            found[number] = verdicts.hash_of("\0".join(key))
        _, first, place = np.unique(found, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[place][self.rows]  # numbered by their first row

    @property
    def projections(self) -> list[str]:
        """Projection of each example as its row gives it, in capitals."""
        names = {}  # a text for each name, not for each row
        found = [names.setdefault(name, name) for row in self.table for name in [str(row.get("view") or "").strip().upper()]]
        return [found[row] for row in self.rows.tolist()]

    def truth(self, index: int) -> dict:
        """What is known of an example without reading its files (input/targets.py)."""
        return self._truth(self.table[self.rows[index]])

    def _truth(self, row: dict) -> dict:
        boxes = parse_json(row, "boxes", [])
        return {
            "boxes": [(entity_name(b["label"]), *(float(b[k]) for k in "xywh")) for b in boxes],
            "phrases": [(b["phrase"], *(float(b[k]) for k in "xywh")) for b in boxes if b.get("phrase")],
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

    def _label_context(self, row: dict):
        """Arguments of the functions of `statements` after the row."""
        return self.spaces.get(source_name(row), statements.Space()), self.rules, bool(self.text_of(row))

    def _finding_labels(self, row: dict) -> dict[str, int]:
        return statements.finding_labels(row, *self._label_context(row))

    def withheld(self, row: dict) -> list[str]:
        """The unknown labels because of which a row states no implied absences."""
        return statements.withheld(row, *self._label_context(row))

    def _cached_presence(self, index: int, row: dict) -> np.ndarray:
        """Presence of an example, which all loader processes of this source share (input/memo.py)."""
        number = int(self.rows[index])
        if (found := self._memo.get(number)) is None:
            dense = self.presence(row)
            cells = np.flatnonzero(dense != -1)
            self._memo.put(number, cells, dense.reshape(-1)[cells])
            return dense
        dense = np.full((len(vocab.POSITIONS), len(vocab.ENTITIES)), -1, np.int8)
        dense.reshape(-1)[found[0]] = found[1]
        return dense  # (A, K)

    def presence(self, row: dict) -> np.ndarray:
        """Presence matrix int8 (A, K) of a row, from its report and its labels (see the head of this file)."""
        return self.read_labels(row).presence

    def read_labels(self, row: dict) -> statements.Reading:
        """As `presence`, with the entities of which report and labels say different things."""
        if row.get("mentions") not in (None, ""):
            told = (triplets.Mention(*mention, 0, 0) for mention in parse_json(row, "mentions", []))
            reported = triplets.presence(told).astype(np.int8)
        else:
            reported = _reported(self.text_of(row))
        return statements.read(row, reported, *self._label_context(row))

    def has_both(self, row: dict) -> bool:
        """Whether a row has labels and a report (or mentions), which may contradict each other."""
        return bool(statements.named(row)) and bool(row.get("mentions") or self.text_of(row))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the rows' contents, the label spaces and options that shape examples, and the size of every image file."""
        return self._hash(with_files=True)

    @functools.cached_property
    def contents(self) -> str:
        """Hash as `fingerprint`, without files: the same on hosts of which one lacks an image."""
        return self._hash(with_files=False)

    def _hash(self, with_files: bool) -> str:
        spaces = {k: [sorted(space.names), space.stated] for k, space in sorted(self.spaces.items())}
        options = [*self.rules, self.report_sections, spaces]
        digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
        for index in range(len(self)):
            row, size = self.table[self.rows[index]], 0
            if with_files:
                try:
                    size = self.resolve(str(row.get("image") or "")).stat().st_size
                except (OSError, ValueError):
                    size = -1
            digest.update(json.dumps([row, size], sort_keys=True, default=str).encode())
        return digest.hexdigest()


@functools.lru_cache(64)  # images of a study follow each other
def _reported(text: str) -> np.ndarray:
    """What the report filter reads, int8 (A, K); not to be written to."""
    return triplets.presence(rules.extract(text) if text else ()).astype(np.int8)
