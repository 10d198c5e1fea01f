"""Opens the data set that a config names."""
import copy
import functools
from collections.abc import Callable
from pathlib import Path

from absl import logging

from medvlp_jax.input import check, datasets, prepared, verdicts
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.input.mixture import MixtureSource
from medvlp_jax.input.phantom import PhantomSource


def make(data, split: str, seed: int, workdir: Path | None = None, first: Callable | None = None):
    """The source of one split of config.data.

    workdir: of the run, whose cache folder keeps which images are usable. first: see `check.check`.

    Raises:
      ValueError: unknown name; no path; more unreadable records than data.max_bad_share.
      FileNotFoundError: no manifest at data.path.
    """
    if data.name == "mixture":
        return _mixture(data, split, functools.partial(make, seed=seed, workdir=workdir, first=first))
    targets = tuple(data.examples.targets) if "targets" in data.examples else ()

    def checked(source):
        return check.check(source, data.max_bad_share, targets=targets, level=data.check, folder=verdicts.folder(workdir),
                           first=first)[0]  # fmt: skip

    if data.name == "phantom":
        logging.info("using the embedded synthetic radiographs (data.name=phantom), split %s; "
                     "for your own images use the manifest variant", split)  # fmt: skip
        return PhantomSource(split, size=data.phantom_sizes[split], seed=seed, image_size=data.frame, cache=data.cache)
    if data.name == "manifest":
        if not data.path:
            raise ValueError("data.name=manifest needs --config.data.path=FILE.csv (columns: see README, 'Your own data')")
        source = ManifestSource(
            data.path, split, data.root or None, closed_world=data.closed_world, report_sections=data.sections
        )
        return checked(source)
    if data.name == "prepared":
        if not data.path:
            raise ValueError("data.name=prepared needs --config.data.path=FOLDER made by python -m data.prepare (README)")
        return prepared.PreparedSource(data.path, split, data.closed_world, data.sections)
    if data.name in datasets.READERS:
        if not data.path:
            raise ValueError(f"data.name={data.name} needs --config.data.path=ROOT of the data set (data/README.md)")
        source = ManifestSource(
            datasets.read(data.name, data.path), split, data.root or data.path, closed_world=data.closed_world,
            report_sections=data.sections,
        )  # fmt: skip
        return checked(source)
    known = ", ".join(["phantom", "manifest", "prepared", "mixture", *sorted(datasets.READERS)])
    raise ValueError(f"unknown data.name {data.name!r}; known: {known}")


def _mixture(data, split: str, open_part: Callable) -> MixtureSource:
    """data.mixture: (name, path, weight) of each part, which share all other settings. Parts without a split are left out of
    it, but not of training."""
    entries = list(data.mixture)
    if not entries or any(len(e) != 3 or isinstance(e, str) or e[0] == "mixture" for e in entries):
        raise ValueError("data.name=mixture needs data.mixture, such as --config.data.mixture=\"(('prepared', 'mimic', 1.0), "
                         f"('chestxray14', 'nih', 0.5))\": name, path and weight of each data set; came {entries!r}")
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
