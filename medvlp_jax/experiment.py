"""Puts a run together from its config: method, mesh, tokenizer, data sources, knowledge tables and schedule."""
import copy
import dataclasses
import functools
import re
import shutil
import uuid
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax.sharding import Mesh

from medvlp_jax import (
    agreement,
    distributed,
    errors,
    initial_weights,
    knowledge,
    leakage,
    method,
    optim,
    periods,
    schedules,
    sharding,
    trees,
)
from medvlp_jax.config_checks import check_required, check_values
from medvlp_jax.input import examples, fractions, pipeline, sources, studies, targets, tokens
from medvlp_jax.reports import vocab


@dataclasses.dataclass(frozen=True, eq=False)
class Experiment:
    """What training and evaluation share; splits and tables are made when they are first asked for."""

    config: Any
    method: method.Method
    mesh: Mesh
    tokenizer: tokens.Tokenizer
    pretrained: dict  # {name of a trunk in the params: variables to start from}
    workdir: Path
    opened: dict = dataclasses.field(default_factory=dict)  # {split: its source}

    @errors.opening()
    def source(self, split: str):
        """The data set's split; where targets are learnt, its examples that tell them, and in training data.fraction of those.

        The chosen examples are written to <workdir>/splits. With data.unit = "study" the images of a study are one example.

        Raises:
          agreement.Disagreement: another process would read other examples, or failed.
        """
        if split not in self.opened:
            self.opened[split] = agreement.on_all(
                f"data (split {split})", lambda: self._open(split), lambda s: f"{len(s)} examples, fingerprint {s.fingerprint}"
            )
        return self.opened[split]

    def _open(self, split: str):
        first = agreement.from_first if jax.process_count() > 1 else None
        source = sources.make(self.config.data, split, self.config.seed, self.workdir, first)
        data, o = self.config.data, self.options
        if o.targets:
            source = fractions.Subset(source, targets.known_rows(source, o.needs, o.targets))
        if split == "train" and data.fraction != 1:
            source, digest = fractions.stored(source, data.fraction, data.fraction_seed, self.workdir / "splits")
            logging.info("%d training examples, %g of all; split file SHA-256 %s", len(source), data.fraction, digest)
        return studies.Studies(source) if data.unit == "study" else source

    def has_split(self, split: str) -> bool:
        """Whether the data set has any example in that split; any other fault of the split is raised."""
        try:
            return len(self.source(split)) > 0
        except agreement.Disagreement:
            raise
        except ValueError as error:
            # a manifest that is all training rows, say, or has no masks in this split
            if "no row in split" in str(error) or "no example of the" in str(error):
                return False
            raise

    @functools.cached_property
    def tables(self) -> dict:
        """Knowledge tables of config.knowledge; none for methods without."""
        if "knowledge" not in self.config:
            return {}
        return knowledge.tables(self.config.knowledge, self.tokenizer, self.workdir / "knowledge")

    @functools.cached_property
    def options(self) -> pipeline.Options:
        """How examples become batches."""
        data = self.config.data
        fields = data.examples.to_dict()
        if self.config.train.cache_trunk:
            fields["needs"] = (*fields["needs"], examples.ROW)
        return pipeline.Options(
            image_size=data.image_size, frame=data.frame, max_tokens=data.max_tokens, captions=data.captions, **fields,
        )

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Whole global batches of one pass over the training split."""
        o = self.options
        rows = len(pipeline.choose_rows(self.source("train"), o.require_report, o.captions))
        if rows < self.config.data.batch_size:
            raise ValueError(f"data.batch_size={self.config.data.batch_size} is more than the {rows} training examples")
        return rows // self.config.data.batch_size

    @functools.cached_property
    def total_steps(self) -> int:
        """train.steps, or train.epochs in steps."""
        train = self.config.train
        steps = train.steps or train.epochs * self.steps_per_epoch
        if steps < 1:
            raise ValueError(f"nothing to train: train.steps={train.steps}, train.epochs={train.epochs}; set one of them")
        return steps

    @functools.cached_property
    def schedule(self):
        """Step -> learning rate, see `schedules.make`."""
        return schedules.make(self.config, self.total_steps, lambda: self.steps_per_epoch)

    @functools.cached_property
    def periods(self) -> periods.Periods:
        """How often the run logs, evaluates and saves."""
        return periods.of_run(self.config.train, lambda: self.steps_per_epoch)

    def optimizer(self, params):
        """The optimizer of config.optim for these parameters (arrays or shapes).

        A freeze_until_epoch pattern without a parameter is dropped with a warning, for a loss of weight 0 leaves none behind.
        """
        fields, names, frozen = self.config.optim.to_dict(), list(trees.flatten(params)), []
        for pattern, epochs in fields.pop("freeze_until_epoch"):
            if any(re.search(pattern, name) for name in names):
                frozen.append((pattern, int(epochs * self.steps_per_epoch)))
            else:
                logging.log_first_n(logging.WARNING, "optim.freeze_until_epoch: %r matches no parameter", 1, pattern)
        return optim.make(params, self.schedule, freeze_until_step=frozen, **fields)

    def train_iterator(self):
        """This process's share of the shuffled, augmented training batches, at its beginning."""
        data, processes = self.config.data, jax.process_count()
        if data.batch_size % (parts := sharding.batch_parts(self.mesh)):
            near = [n for n in (data.batch_size // parts * parts, -(-data.batch_size // parts) * parts) if n]
            raise ValueError(
                f"data.batch_size={data.batch_size} must be a multiple of the {parts} devices that share a batch: "
                f"{' or '.join(map(str, near))}, or data.batch_per_device={max(near[0] // parts, 1)}"
            )
        slices = self.config.model.get("microbatches", 1)  # transfer has none
        if slices < 1 or data.batch_size % slices:
            raise ValueError(f"model.microbatches={slices} must divide data.batch_size={data.batch_size}")
        logging.info("%d steps of %d examples an epoch, %d in all; %d devices have %d examples each",
                     self.steps_per_epoch, data.batch_size, self.total_steps, parts, data.batch_size // parts)  # fmt: skip
        return pipeline.train_iterator(
            self.source("train"), self.tokenizer, self.options, batch_size=data.batch_size // processes,
            seed=self.config.seed, process_index=jax.process_index(), process_count=processes,
            workers=distributed.share_of_host(data.workers), max_bad=int(data.max_bad_share * len(self.source("train"))),
        )  # fmt: skip

    @property
    def eval_batch_size(self) -> int:
        """data.eval_batch_size, or the nearest that the devices share."""
        return self.config.data.eval_batch_size // self.mesh.size * self.mesh.size or self.mesh.size

    def eval_batches(self, split: str, limit: int = 0):
        """() -> one ordered pass over (the first `limit` examples of) a split, every example once."""
        needs = ("labels", "text") if "embed_text" in self.method.predict else ("labels",)
        needs += tuple(n for n in self.options.needs if n in targets.GROUPS)
        return lambda: pipeline.eval_batches(
            self.source(split), self.tokenizer, self.options._replace(needs=needs, require_report=False, captions=False),
            batch_size=self.eval_batch_size // jax.process_count(), limit=limit or None,
            process_index=jax.process_index(), process_count=jax.process_count(),
        )  # fmt: skip

    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Every array a global training batch may hold (input/examples.py, input/targets.py), by shape and type."""
        o, rows = self.options, self.config.data.batch_size
        k, m, c, size = len(vocab.ENTITIES), o.max_tokens, len(o.targets), o.image_size
        tokens_of = {f: ((m,), jnp.int32) for f in ("input_ids", "attention_mask", "word_ids", "swapped_ids", "swapped_mask")}
        shapes = {
            "image": ((size, size, 1), jnp.uint8), "has_report": ((), jnp.float32), "valid": ((), jnp.float32),
            "labels": ((k,), jnp.int8), "positions": ((k, 8), jnp.int32), **tokens_of, "swapped_labels": ((m,), jnp.int8),
        }  # fmt: skip
        groups = {
            "findings": {"finding_labels": ((c,), jnp.int8)}, "masks": {"masks": ((size, size, c), jnp.int8)},
            "boxes": {"boxes": ((o.max_boxes, 5), jnp.float32), "boxes_known": ((), jnp.float32)},
            "grade": {"grade": ((), jnp.int8)},
        }  # fmt: skip
        shapes |= {name: of for group in o.needs if group in groups for name, of in groups[group].items()}
        return {name: jax.ShapeDtypeStruct((rows, *shape), kind) for name, (shape, kind) in shapes.items()}

    def init_variables(self, seed: int, tables: dict):
        """Fresh variables, as a function to be jitted: the batch of zeros that shows the shapes is never computed on."""
        batch = {name: jnp.zeros(s.shape, s.dtype) for name, s in self.abstract_batch().items()}
        batch |= {f: jnp.ones_like(batch[f]) for f in ("has_report", "valid")}
        return self.method.init(jax.random.key(seed), {**batch, "knowledge": tables})

    def put(self, batch):
        """Host batch -> global arrays on the mesh."""
        return sharding.put(batch, self.mesh)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Hash of every split opened so far, by which runs on the same data can be told."""
        return {split: source.fingerprint for split, source in self.opened.items()}

    @property
    def training(self) -> list[dict]:
        """What the run learns from, the runs it begins with included, and what was left out (leakage.py)."""
        return leakage.seen(self.source("train"), self.config)


@errors.opening()
def build(config, workdir: Path | None, devices=None) -> Experiment:
    """Everything a run of `config` needs, on `devices` (default: all there are). A plan has no `workdir` and needs no weights.

    Raises:
      ValueError, FileNotFoundError: a required key is empty, or something it names is missing or does not fit.
    """
    config = _with_knowledge_encoder(config)
    if workdir is not None:
        check_required(config)
    check_values(config)
    config, pretrained = initial_weights.resolve(config)
    text_path = initial_weights.tokenizer_path(config)
    tokenizer = tokens.load(text_path)
    if "text" in config.model:
        with config.unlocked():
            config.model.text.vocab_size = config.model.text.vocab_size or tokenizer.vocab_size
        tokens.check_fits(tokenizer, config.model.text.vocab_size, config.model.text.init or "model.text")
    mesh = sharding.make_mesh(config.mesh.to_dict(), devices)
    if config.data.batch_per_device:
        with config.unlocked():
            config.data.batch_size = config.data.batch_per_device * sharding.batch_parts(mesh)
    return Experiment(config, method.get(config), mesh, tokenizer, pretrained, workdir)


def _with_knowledge_encoder(config):
    """The config, with the method's own text weights as the knowledge encoder where no other is named."""
    if "knowledge" in config and "text" in config.model and not config.knowledge.init and config.model.text.init:
        config = copy.deepcopy(config)
        config.knowledge.init = config.model.text.init
    return config


@errors.opening()
def make_workdir(path: str | Path) -> Path:
    """Creates the run directory and proves now, not at the first save, that checkpoints can be written there: a folder with a
    file in it is made under another name and renamed (which a mounted bucket may refuse).

    Raises:
      OSError: it cannot.
    """
    path = Path(path).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if (path / "checkpoints").is_file():
            raise FileExistsError("checkpoints is a file there")
        probe = path / f".writable-{uuid.uuid4().hex[:12]}"  # not by process: those of several hosts may have equal ids
        probe.mkdir()
        (probe / "file").write_text("probe")
        shutil.rmtree(probe.rename(path / f"{probe.name}-renamed"))
    except OSError as error:
        raise type(error)(f"workdir {path} cannot be written: {error}; give another --workdir") from error
    return path


def default_workdir(config) -> str:
    """runs/<config file>[-<variant>]."""
    return f"runs/{config.workload}" + (f"-{config.variant}" if config.variant else "")
