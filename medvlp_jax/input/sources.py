"""Opens the data set that a config names."""
from absl import logging

from medvlp_jax.input import check, datasets
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.input.phantom import PhantomSource


def make(data, split: str, seed: int):
    """The source of one split of config.data.

    Raises:
      ValueError: unknown name; no path; more unreadable records than data.max_bad_share.
      FileNotFoundError: no manifest at data.path.
    """
    targets = tuple(data.examples.targets) if "targets" in data.examples else ()
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
        return check.check(source, data.max_bad_share, targets=targets)[0]
    if data.name in datasets.READERS:
        if not data.path:
            raise ValueError(f"data.name={data.name} needs --config.data.path=ROOT of the data set (data/README.md)")
        source = ManifestSource(
            datasets.read(data.name, data.path), split, data.root or data.path, closed_world=data.closed_world,
            report_sections=data.sections,
        )  # fmt: skip
        return check.check(source, data.max_bad_share, targets=targets)[0]
    known = ", ".join(["phantom", "manifest", *sorted(datasets.READERS)])
    raise ValueError(f"unknown data.name {data.name!r}; known: {known}")
