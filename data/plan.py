"""What is to be made: the rows of a data set, in splits and shards, the same at every start."""
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np

from data.shards import Job, Settings
from medvlp_jax import atomic
from medvlp_jax.input import annotations, datasets, manifest, views
from medvlp_jax.input.exclusion import Exclusion
from medvlp_jax.input.rows import Rows, Table

SPLITS = ("train", "val", "test")
BYTES_PER_PIXEL = 0.19  # of a grey JPEG of a radiograph, quality 95; for the number of rows of a shard only


class Plan:
    """Rows of a data set in shards; `jobs` are made one at a time, since all rows at once may be gigabytes.

    Args:
      dataset: a name of datasets.READERS, or "manifest".
      src: root of the data set, or the manifest.
      out: folder of the prepared data set.
      settings: what shapes an example.
      split: "official" (what the reader or the column says, else by hash) or "patient" (by hash of the patient, 80/10/10).
      shard_mb: rough size of a shard.
      exclude: files of identifiers; rows of train and val that they name are left out.
      annotation_files: paths, commas between, of labels and mentions to be joined (input/annotations.py).
      root, options: folder that the manifest's paths are relative to; options of the reader (reports, radgraph, labels).

    Raises:
      FileNotFoundError, ValueError: as the reader raises; a patient in two splits; no row of a split has a
        view that is kept.
    """

    def __init__(self, dataset: str, src, out, settings: Settings, split: str = "official", shard_mb: float = 100.0, root=None,
                 exclude=(), annotation_files: str = "", **options):
        src = Path(src).expanduser()
        self.dataset, self.out, self.settings = dataset, Path(out).expanduser().absolute(), settings
        self.table = open_table(dataset, src, **options)
        self.root = os.path.abspath(Path(root).expanduser() if root else src.parent if dataset == "manifest" else src)
        self.joined = {}  # counts of the annotations
        if annotation_files:
            self.table, self.joined = annotations.join(self.table, annotation_files)
        if split == "patient":
            self.table.columns.pop("split", None)
        splits, self.spaces = manifest.scan(self.table)
        first = _first_of_each(self.table)
        left, self.exclusion = _left(self.table, splits, Exclusion(exclude))
        self.excluded = [int(self.table.lines[i]) for i in np.flatnonzero(~left & first)]
        self.twice = [int(self.table.lines[i]) for i in np.flatnonzero(~first)]
        per_pixel = {"jpeg": BYTES_PER_PIXEL, "png": 0.85}[settings.format]  # few radiographs are square
        per_shard = max(int(shard_mb * 1e6 / (settings.size**2 * per_pixel)), 1)
        self.shards = []  # (file, split, indices of rows)
        told, self.views = [str(row.get("view") or "").strip() for row in self.table], {}
        for name in SPLITS:
            rows = np.flatnonzero((splits == name) & first & left)
            self.views[name] = self._views(name, [told[i] for i in rows.tolist()])
            parts = [rows[k : k + per_shard] for k in range(0, len(rows), per_shard)]
            self.shards += [(f"{dataset}-{name}.array_record-{i:05d}-of-{len(parts):05d}", name, part)
                            for i, part in enumerate(parts)]  # fmt: skip
        used = {k: (Path(v).name if k != "labels" else v) for k, v in options.items() if v}
        if annotation_files:
            used["annotations"] = self.joined["file"]
        self.options = {"dataset": dataset, **settings._asdict(), "split": split, "shard_mb": shard_mb, **used}
        if self.exclusion:
            self.options["exclude"] = self.exclusion["sha256"]

    def _views(self, split: str, told: list[str]) -> tuple[str, ...]:
        """Views of a split to keep: all whose view is unknown are kept where no row of the split tells one.

        Raises:
          ValueError: none of its rows would be left, with the views there are.
        """
        kept, names = views.chosen(told, self.settings.views)
        if names != self.settings.views and told:
            print(f"split {split}: no row tells its view; kept are all but DICOM images whose header tells another than "
                  f"--views={','.join(self.settings.views)}", file=sys.stderr)  # fmt: skip
        if told and not kept.any() and "FRONTAL" not in map(str.upper, told):
            raise ValueError(f"--views={','.join(self.settings.views)} leaves none of the {len(told):,} rows of split {split}; "
                             f"there are {views.told(told)}. Give --views=all, or some of these")
        return names

    def identity(self) -> dict:
        """What a started preparation must agree with to be continued."""
        digest = hashlib.sha256()
        for row in self.table:
            digest.update(json.dumps(row, sort_keys=True, default=str).encode())
        options = json.loads(json.dumps(self.options))
        return {"options": options, "rows": digest.hexdigest(), "shards": [[f, s, len(rows)] for f, s, rows in self.shards]}

    def begin(self) -> None:
        """Writes plan.json, or compares with the one that is there.

        Raises:
          ValueError: the folder holds something else, or what was begun with other options or data.
        """
        (self.out / "work").mkdir(parents=True, exist_ok=True)
        file, mine = self.out / "plan.json", self.identity()
        if not file.is_file():
            if found := sorted(p.name for p in self.out.iterdir() if p.name not in ("work", "plan.json"))[:5]:
                raise ValueError(f"--out={self.out} holds other files ({', '.join(found)}); give an empty or new folder")
            atomic.write_text(file, json.dumps(mine, indent=1), self.out / "work")
            return
        before = json.loads(file.read_text(encoding="utf-8"))
        if before != mine:
            names = sorted({*before["options"], *mine["options"]})
            changed = [f"{k} was {before['options'].get(k)!r}, now it is {mine['options'].get(k)!r}" for k in names
                       if before["options"].get(k) != mine["options"].get(k)]  # fmt: skip
            raise ValueError(f"--out={self.out} was begun with other {'options' if changed else 'rows'}: "
                             f"{'; '.join(changed) or 'the source has changed'}. Give another --out, or delete that one")

    def job(self, number: int) -> Job:
        """Shard `number`, with its rows."""
        file, split, rows = self.shards[number]
        chosen, lines = [self.table[int(i)] for i in rows], [int(self.table.lines[i]) for i in rows]
        return Job(str(self.out), file, split, chosen, lines, self.table.path.name, self.root, self.spaces,
                   list(self.table.columns), self.settings._replace(views=self.views[split]))  # fmt: skip


def open_table(dataset: str, src, **options) -> Table | Rows:
    """The rows of a data set, or of a manifest.

    Raises:
      FileNotFoundError, ValueError: as the reader raises; an unknown name.
    """
    if dataset != "manifest" and dataset not in datasets.READERS:
        raise ValueError(f"unknown --dataset={dataset}; known: manifest, {', '.join(sorted(datasets.READERS))}")
    return Table(src) if dataset == "manifest" else datasets.read(dataset, src, **options)


def _left(table, splits, exclusion: Exclusion) -> tuple[np.ndarray, dict | None]:
    """Whether a row stays, bool (n,), and the facts of the exclusion; None where there is none."""
    left = np.ones(len(splits), bool)
    if not exclusion:
        return left, None
    for i in np.flatnonzero(splits != "test"):
        left[i] = not exclusion.names(table[int(i)])
    exclusion.warn("the training data")
    return left, {**exclusion.facts(), "rows_left_out": int((~left).sum())}


def _first_of_each(table) -> np.ndarray:
    """Whether a row is the first with its image, bool (n,)."""
    seen, out = set(), []
    for row in table:
        name = str(row.get("image") or "").strip()
        out.append(name not in seen or not name)
        seen.add(name)
    return np.array(out, bool)
