"""Opens the data set that a config names."""
import copy
import functools
from collections.abc import Callable
from pathlib import Path

from absl import logging

from medvlp_jax.input import annotations, check, datasets, prepared, verdicts, views
from medvlp_jax.input.exclusion import Exclusion, told
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.input.mixture import MixtureSource
from medvlp_jax.input.phantom import PhantomSource
from medvlp_jax.input.rows import Table


def make(data, split: str, seed: int, workdir: Path | None = None, first: Callable | None = None):
    """The source of one split of config.data; from train and val, rows that data.exclude names are left out.

    workdir: of the run, whose cache folder keeps which images are usable. first: see `check.check`.

    workdir: of the run, whose cache folder keeps which images are usable. first: see `check.check`.

    Raises:
      ValueError: unknown name; no path; no image of data.views; more unreadable records than data.max_bad_share; data.exclude
        leaves no row.
      FileNotFoundError: no manifest at data.path, or no file of data.exclude.
    """
    exclusion = Exclusion(data.exclude if "exclude" in data and split != "test" else ())
    source = _open(data, split, seed, exclusion, workdir, first)
    if split == "train":
        exclusion.warn(f"the training data, {data.name}")
    return source


def _open(data, split: str, seed: int, exclusion: Exclusion, workdir: Path | None, first: Callable | None):
    if data.name == "mixture":
        return _mixture(data, split, functools.partial(_open, seed=seed, exclusion=exclusion, workdir=workdir, first=first))
    targets = tuple(data.examples.targets) if "targets" in data.examples else ()

    def chosen(source, name: str):
        """The rows of the views in question that no exclusion names."""
        source = views.choose(source, data.views, name)
        return exclusion.leave_out(source) if exclusion else source

    def checked(source, name: str):
        return check.check(chosen(source, name), data.max_bad_share, targets=targets, level=data.check,
                           folder=verdicts.folder(workdir), first=first)[0]  # fmt: skip

    if data.name == "phantom":
        logging.info("using the embedded synthetic radiographs (data.name=phantom), split %s; "
                     "for your own images use the manifest variant", split)  # fmt: skip
        return PhantomSource(split, size=data.phantom_sizes[split], seed=seed, image_size=data.frame, cache=data.cache)
    if data.name == "manifest":
        if not data.path:
            raise ValueError("data.name=manifest needs --config.data.path=FILE.csv (columns: see README, 'Your own data')")
        source = ManifestSource(
            _annotated(Table(data.path), data), split, data.root or Path(data.path).expanduser().parent, **_labels(data)
        )
        return checked(source, source.table.path.name)
    if data.name == "prepared":
        if not data.path:
            raise ValueError("data.name=prepared needs --config.data.path=FOLDER made by python -m data.prepare (README)")
        if data.annotations:
            raise ValueError("data.annotations is joined when a data set is prepared: leave it out, or prepare it anew with "
                             "--annotations")
        source = prepared.PreparedSource(data.path, split, **_labels(data))
        source = chosen(source, source.card["dataset"])
        logging.info("%s, split %s: %d examples%s", source.root.name, split, len(source), told(source))
        return source
    if data.name in datasets.READERS:
        if not data.path:
            raise ValueError(f"data.name={data.name} needs --config.data.path=ROOT of the data set (data/README.md)")
        source = ManifestSource(
            _annotated(datasets.read(data.name, data.path), data), split, data.root or data.path, **_labels(data)
        )
        return checked(source, data.name)
    known = ", ".join(["phantom", "manifest", "prepared", "mixture", *sorted(datasets.READERS)])
    raise ValueError(f"unknown data.name {data.name!r}; known: {known}")


def _labels(data) -> dict:
    """Arguments of a ManifestSource that say how labels and reports are read."""
    return {"closed_world": data.closed_world, "report_sections": data.sections, "blank_labels": data.blank_labels,
            "label_precedence": data.label_precedence}  # fmt: skip


def _annotated(table, data):
    """The table with data.annotations joined, where there are any."""
    return annotations.join(table, data.annotations)[0] if data.annotations else table


def _mixture(data, split: str, open_part: Callable) -> MixtureSource:
    """data.mixture: (name, path, weight) of each part, which share all other settings. Parts without a split are left out of
    it, but not of training."""
    entries = list(data.mixture)
    if not entries or any(len(e) != 3 or isinstance(e, str) or e[0] == "mixture" for e in entries):
        raise ValueError("data.name=mixture needs data.mixture, such as --config.data.mixture=\"(('prepared', 'mimic', 1.0), "
                         f"('chestxray14', 'nih', 0.5))\": name, path and weight of each data set; came {entries!r}")
    if data.annotations:
        raise ValueError("data.annotations belongs to one data set: prepare that with --annotations, and mix it as 'prepared'")
    parts, weights = [], []
    for name, path, weight in entries:
        own = copy.deepcopy(data)
        own.name, own.path, own.root = name, path, ""
        try:
            parts.append(open_part(own, split))
        except ValueError as error:
            if split == "train" or "no row in split" not in str(error):
                raise
            logging.info("mixture: %s has no %s split", name, split)
            continue
        weights.append(weight)
    if not parts:
        raise ValueError(f"mixture has no row in split {split!r}")
    return MixtureSource(parts, weights)
