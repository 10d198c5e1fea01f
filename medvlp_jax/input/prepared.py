"""A data set that data/prepare.py wrote: images from ArrayRecord shards, everything else from rows.jsonl beside them.

Row i of rows.jsonl is record i of the shards in the order of card.json. What a row says was settled when it was prepared
(sections of the report, presence matrix, drops); nothing is checked or filtered anew.
"""
import functools
import hashlib
import json
from pathlib import Path

import numpy as np

from medvlp_jax.input import records
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.input.rows import refuse_pointer
from medvlp_jax.input.statements import Space

FORMAT = 2  # of card.json and the records; 1 read blanks and labels of kinds as absences


class PreparedSource(ManifestSource):
    """One split of a prepared data set, by random access.

    Args:
      path: folder that data/prepare.py was given as --out.
      split: "train", "val", "test", or "all".
      closed_world, report_sections, blank_labels, label_precedence: must be those it was prepared with.

    Raises:
      FileNotFoundError: no finished data set there, or one of its files is missing.
      ValueError: a file of another size than was written; options that it was not prepared with; no row in the split.
    """

    def __init__(self, path, split: str, closed_world: str = "auto", report_sections=("impression", "findings"),
                 blank_labels: str = "unknown", label_precedence: str = "report"):
        path = Path(path).expanduser()
        self.card = read_card(path)
        made = self.card["options"]
        wanted = {"sections": list(report_sections), "closed_world": closed_world, "blank_labels": blank_labels,
                  "label_precedence": label_precedence}  # fmt: skip
        for name, want in wanted.items():
            if made[name] != want:
                raise ValueError(f"{path.name} was prepared with {name}={_flag(made[name])}, now data.{name} is {_flag(want)}; "
                                 f"set --config.data.{name} to that, or prepare it anew with --{name}={_flag(want)}")
        super().__init__(path / "rows.jsonl", split, path, closed_world=closed_world, report_sections=report_sections,
                         blank_labels=blank_labels, label_precedence=label_precedence)
        stated = self.card["sources_stating_absences"]
        self.spaces = {k: Space(frozenset(names), k in stated) for k, names in self.card["label_spaces"].items()}
        shards = self.card["shards"]
        self._records = records.Shards([path / s["file"] for s in shards], [s["examples"] for s in shards])
        if len(self._records) != len(self.table):
            raise ValueError(f"{path.name}: rows.jsonl has {len(self.table)} rows, the shards {len(self._records)} records; "
                             "prepare it anew")

    def text_of(self, row: dict) -> str:
        """The report as it was cut out when it was prepared."""
        return self.locate_text(row)[0]

    def locate_text(self, row: dict) -> tuple[str, str]:
        """(text, "prepared") of a row: how it was found in the report stands in the card."""
        text = str(row.get("report") or "")
        return text, "prepared" if text else "none"

    @functools.cached_property
    def has_reports(self) -> np.ndarray:
        """Whether an example has a report, bool (N,)."""
        told = np.fromiter((bool(self.text_of(row)) for row in self.table), bool, len(self.table))
        return told[self.rows]

    def subset(self, keep) -> "PreparedSource":
        """The same source with only the examples `keep`."""
        other = super().subset(keep)
        other.__dict__.pop("has_reports", None)
        return other

    def __getitem__(self, index: int) -> records.Example:
        return records.Example(self._records[int(self.rows[index])])

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the records, as the card gives it, and of the rows taken."""
        digest = hashlib.sha256(self.card["fingerprint"].encode())
        digest.update(np.ascontiguousarray(self.rows, np.int64).tobytes())
        return digest.hexdigest()


def read_card(path: Path) -> dict:
    """card.json of a prepared data set, whose files are there in full. Raises as `PreparedSource` does."""
    file = path / "card.json"
    if not file.is_file():
        if (path / "plan.json").is_file():
            raise FileNotFoundError(f"the data set at {path} is not finished: run the same command again")
        raise FileNotFoundError(f"no prepared data set at {path}; expected a folder made by python -m data.prepare")
    refuse_pointer(file)
    card = json.loads(file.read_text(encoding="utf-8"))
    if card.get("format") != FORMAT:
        raise ValueError(f"{file} is of format {card.get('format')!r}, this version reads {FORMAT}; prepare it anew")
    for shard in card["shards"]:
        there = path / shard["file"]
        if not there.is_file():
            raise FileNotFoundError(f"shard {there} is missing; copy it, or run data.prepare again: it makes what is missing")
        if (size := there.stat().st_size) != shard["bytes"]:
            refuse_pointer(there)
            raise ValueError(f"shard {there} has {size:,} bytes, {shard['bytes']:,} were written: copied in part? Copy it, "
                             "or delete it and run data.prepare again, which makes what is missing")
    return card


def _flag(value) -> str:
    return ",".join(value) if isinstance(value, list) else value
