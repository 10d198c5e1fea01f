"""Outputs of a frozen image trunk, computed once: what lies on it then learns at many times the speed.

With config.train.cache_trunk the trunk reads every training image before the first step, as evaluation would, and the outputs
are kept in <workdir>/trunk; a batch then brings them in place of its images. The steps are those of a run without, up to
rounding. Evaluation reads images as ever.
"""
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import logging

from medvlp_jax import experiment, trees
from medvlp_jax.input import pipeline
from medvlp_jax.input.examples import ROW
from medvlp_jax.models import trunks


def check(exp: experiment.Experiment, variables: dict) -> None:
    """Raises a ValueError where outputs that are computed once would not be those of every step, and says what to set.

    variables: of the method, arrays or shapes.
    """
    config, o, faults = exp.config, exp.options, []
    if exp.method.trunk_outputs is None:
        raise ValueError(f"method {config.method!r} learns from images only: set train.cache_trunk=False")
    names = [name for name in trees.flatten(variables["params"]) if name.startswith("image_encoder/")]
    free = [name for name in names if not any(re.search(p, name) for p in config.optim.freeze)]
    if free:
        faults.append(f"optim.freeze='^image_encoder/' ({len(free)} of its {len(names)} parameters learn now)")
    if any(name.startswith("image_encoder/") for name in trees.flatten(variables.get("batch_stats", {}))):
        faults.append("an image encoder without BatchNorm (its statistics change in training though it is frozen)")
    if "dropout" in config.model.image and config.model.image.dropout:
        faults.append("model.image.dropout=0")
    for key, value, wanted in (("crop", o.crop, "none"), ("rand_augment", o.rand_augment or None, None), ("hflip", o.hflip, 0)):
        if value != wanted:
            faults.append(f"data.examples.{key}={wanted} (now {value!r}: each epoch sees other images)")
    if config.data.unit != "image":
        faults.append(f"data.unit='image' (now {config.data.unit!r}: each epoch may see another image of a study)")
    if jax.process_count() > 1:
        faults.append("a single process, on any number of devices")
    if faults:
        raise ValueError("train.cache_trunk=True needs " + "; ".join(faults))


class Outputs:
    """Arrays by name, a row for each training example that could be decoded, in files that are read as they are needed."""

    def __init__(self, folder: Path, put):
        self._put = put
        self.row_of = np.load(folder / "row_of.npy")  # (examples,) position in the arrays, -1 = not there
        self.arrays = {p.stem: np.load(p, mmap_mode="r") for p in sorted((folder / "arrays").glob("*.npy"))}

    def put(self, batch: dict) -> dict:
        """A host batch with "row" -> arrays on the mesh, "trunk/<name>" in place of "row" and "image"."""
        rest = {k: v for k, v in batch.items() if k not in (ROW, "image")}
        rows = self.row_of[batch[ROW]]
        return self._put(rest | {trunks.READ_BEFORE + name: array[rows] for name, array in self.arrays.items()})


def put_function(exp: experiment.Experiment, variables: dict, folder: Path) -> Callable[[dict], dict]:
    """Host batch -> arrays that a step takes: `exp.put`, with train.cache_trunk that of what the trunk gives for its images.

    They come from `folder` if this trunk read these images before, else are computed now and kept there.

    Raises:
      ValueError: see `check`. OSError: they would not fit on the disk.
    """
    if not exp.config.train.cache_trunk:
        return exp.put
    check(exp, variables)
    here = folder / _digest(exp, variables)
    if not (here / "row_of.npy").is_file():
        shutil.rmtree(folder, ignore_errors=True)  # of another trunk, or cut short
        _compute(exp, variables, here)
    return Outputs(here, exp.put).put


def _digest(exp, variables) -> str:
    """Of everything the outputs depend on."""
    o, config = exp.options, exp.config
    facts = (exp.source("train").fingerprint, o.image_size, o.fit, config.dtype, config.normalisation.to_dict(),
             {k: v for k, v in config.model.to_dict().items() if k in ("image", "patch_stage", "global_blocks")})  # fmt: skip
    return trees.digest(facts, variables["params"]["image_encoder"])


def _compute(exp, variables, here: Path) -> None:
    source, o, size = exp.source("train"), exp.options, exp.eval_batch_size
    # the view of a training step without augmentation
    view = o._replace(eval_fit=o.fit, eval_frame=None, needs=(), require_report=False, captions=False)
    fn = jax.jit(exp.method.trunk_outputs)
    row_of, arrays, done = np.full(len(source), -1, np.int64), {}, 0
    (here / "arrays").mkdir(parents=True)
    for batch in pipeline.eval_batches(source, exp.tokenizer, view, batch_size=size):
        host = batch.pop("host")
        found = {k: np.asarray(v)[: len(host)] for k, v in fn(variables, exp.put({"image": batch["image"]})).items()}
        if not arrays:
            _check_room(here, len(source) * sum(v[0].astype(np.float32).nbytes for v in found.values()))
            arrays = {k: np.lib.format.open_memmap(here / "arrays" / f"{k}.npy", "w+", np.float32, (len(source), *v.shape[1:]))
                      for k, v in found.items()}  # fmt: skip
        for name, value in found.items():
            arrays[name][done : done + len(host)] = value
        row_of[[h["row"] for h in host]] = np.arange(done, done + len(host))
        done += len(host)
        logging.log_every_n_seconds(logging.INFO, "frozen trunk: %d of %d images read", 15, done, len(source))
    for array in arrays.values():
        array.flush()
    np.save(here / "row_of.npy", row_of)  # last: what is there without it is not whole
    logging.info("frozen trunk: %d images read, %.2f GB in %s", done, sum(a.nbytes for a in arrays.values()) / 1e9, here)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OSError(f"train.cache_trunk: outputs of {needed / 1e9:.1f} GB do not fit in {folder}, where {free / 1e9:.1f} GB "
                      "are free; set it to False or give another --workdir")  # fmt: skip
