"""What training leaves out: patients of a data set that the model is to be judged on (docs/leakage.md).

`python -m data.prepare --ids_of=...` writes a file of identifiers, `data.exclude` and `--exclude` read it. Identifiers are
those of input/identifiers.py. They are of patients: no message shows one.
"""
import hashlib
import json
from collections import Counter
from pathlib import Path

from absl import logging

from medvlp_jax import atomic
from medvlp_jax.input import identifiers
from medvlp_jax.input.columns import source_name

FORMAT = "medvlp_jax identifiers 1"
SPLITS = ("all", "train", "val", "test")
REASON = "named by the exclusion"  # of the rows that are left out, in cards and logs


def collect(table, splits, split: str, dataset: str, by: str = "patient", mapping: identifiers.Mapping | None = None) -> dict:
    """The record of a file: identifiers of the rows in `split`.

    Args:
      table, splits: rows, and the split of each (manifest.scan).
      dataset: what rows without a source are called.
      by: "patient" lists patients, studies and images, "study" studies and images, "image" images alone.
      mapping: other names of the same images.

    Raises:
      ValueError: unknown split or kind; no row in the split.
    """
    if split not in SPLITS or by not in identifiers.KINDS:
        raise ValueError(f"expected a split of {', '.join(SPLITS)} and a kind of {', '.join(identifiers.KINDS)}; "
                         f"came {split!r}, {by!r}")
    kinds, found, spaces, images = identifiers.KINDS[identifiers.KINDS.index(by) :], set(), {}, Counter()
    for row, part in zip(table, splits, strict=True):
        if split not in ("all", part):
            continue
        own, name = set(identifiers.of_row(row)), source_name(row) or dataset
        wide = mapping.widen(own, by) if mapping else own
        found |= {i for i in wide if identifiers.kind(i) in kinds}
        images[name] += 1
        if name == "covidx" and not any(i.startswith("rsna ") for i in own):
            continue  # of a source that no other set here has
        known = {i.split(" ")[0] for i in wide}
        if mapping and "nih" in known:
            known.add("rsna")  # the mapping names all images of RSNA, so one that it does not name is none of them
        spaces[name] = spaces.get(name, known) & known
    if not images:
        raise ValueError(f"{dataset} has no row in split {split!r}: nothing to write; give another --ids_of")
    of = [{"dataset": name, "split": split, "by": by, "images": n, "spaces": sorted(spaces.get(name, []))}
          for name, n in sorted(images.items())]  # fmt: skip
    ids = sorted(found)
    count = Counter(identifiers.kind(i) for i in ids)
    return {"format": FORMAT, "of": of, "count": {k: count[k] for k in kinds}, "sha256": digest(ids), "identifiers": ids}


def digest(ids) -> str:
    """SHA-256 of identifiers, whatever their order."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def write(path: str | Path, record: dict) -> None:
    """Writes what `collect` gave.

    Raises:
      ValueError: `path` is a folder.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ValueError(f"--out={path} is a folder; with --ids_of it is the file to write, such as ids.json")
    atomic.write_text(path, json.dumps(record, indent=0))


def _read(path: str) -> dict:
    file = Path(path).expanduser()
    how = "expected a file made by python -m data.prepare --dataset=NAME --src=ROOT --ids_of=test --out=ids.json"
    if not file.is_file():
        raise FileNotFoundError(f"no exclusion at {file}; {how}")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{file.name} is no JSON; {how}") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT or not record.get("identifiers"):
        raise ValueError(f"{file.name} is no file of identifiers; {how}")
    if digest(record["identifiers"]) != record["sha256"]:
        raise ValueError(f"{file.name} was changed after it was written or is not complete; make it anew")
    return record


class Exclusion:
    """Identifiers of all `files` (paths; one text may name several, separated by commas).

    Raises:
      FileNotFoundError, ValueError: a file is missing, or not one that data.prepare --ids_of wrote.
    """

    def __init__(self, files):
        files = [files] if isinstance(files, str) else list(files)
        paths = [part.strip() for file in files for part in str(file).split(",") if part.strip()]
        records = [_read(path) for path in paths]
        self._files = {Path(path).name: frozenset(record["identifiers"]) for path, record in zip(paths, records, strict=True)}
        self._ids = frozenset().union(*self._files.values())
        self._found, self.rows = Counter(), 0
        self._facts = {"sha256": digest(self._ids), "identifiers": len(self._ids),
                       "of": [entry for record in records for entry in record["of"]]}  # fmt: skip

    def __bool__(self) -> bool:
        return bool(self._ids)

    def facts(self) -> dict:
        """What cards, run.json and results say: the hash of all identifiers, their number, and which data they are of."""
        return json.loads(json.dumps(self._facts))

    def names(self, row: dict) -> bool:
        """Whether a row is of a patient, study or image that is to be left out; counted for `warn`."""
        hits = self._ids.intersection(identifiers.of_row(row))
        for name, ids in self._files.items() if hits else ():
            self._found[name] += not ids.isdisjoint(hits)
        self.rows += bool(hits)
        return bool(hits)

    def leave_out(self, source):
        """A ManifestSource without the rows that are named.

        Raises:
          ValueError: none would be left.
        """
        keep = [i for i, row in enumerate(source.rows.tolist()) if not self.names(source.table[row])]
        n = len(source) - len(keep)
        if not keep:
            raise ValueError(f"{source.table.path.name} has no row in split {source.split!r} that data.exclude leaves: "
                             f"all {n:,} are of patients, studies or images it names")
        source = source.subset(keep)
        source.exclusion = {**self.facts(), "rows_left_out": n}
        return source

    def warn(self, what: str) -> None:
        """Logs each file that named no row: it is of other patients, or their identifiers could not be compared."""
        for name in self._files:
            if not self._found[name]:
                logging.warning("the exclusion %s names no row of %s: is it of data with the same patients? docs/leakage.md",
                                name, what)  # fmt: skip


def line_of(facts: dict) -> str:
    """What an exclusion is of, in a sentence for a page."""
    of = ", ".join(f"{e['dataset']} {e['split']} (by {e['by']}, {e['images']:,} images)" for e in facts["of"])
    return f"Left out of training: {facts['identifiers']:,} identifiers of {of}; SHA-256 {facts['sha256']}."


def told(source) -> str:
    """Of a source: how many rows were left out and by which exclusion, as the end of a line of the log."""
    facts = getattr(source, "exclusion", None)
    if facts is None:
        return ""
    return f"; {facts['rows_left_out']} rows before that left out, {REASON} (SHA-256 {facts['sha256'][:12]})"


def made_of(source) -> list[dict]:
    """What a source is made of, a dictionary for each data set of a mixture: `sets`, names of data sets, and `exclusions`,
    facts of what was left out of them when they were prepared or opened."""
    while hasattr(source, "source"):  # a subset, or studies
        source = source.source
    if hasattr(source, "parts"):
        return [made for part in source.parts for made in made_of(part)]
    if not hasattr(source, "table"):
        return []
    card = getattr(source, "card", {})
    sets = [name for name in source.spaces if name]
    exclusions = [facts for facts in (card.get("exclusion"), getattr(source, "exclusion", None)) if facts]
    if "" in source.spaces:
        sets += [name for name in identifiers.recognised(source.table) if name not in sets]
    return [{"sets": sets, "exclusions": exclusions}]
