"""Our train step beside the same step written plainly in torch, on this machine, in one run.

    python -m medvlp_jax.bench step                                      # MLIP: ViT-B/16, BERT-base, 224 px
    python -m medvlp_jax.bench step --config=configs/medklip.py

Forward, backward, clipping and AdamW in float32 on all cores, the same sizes, batch and number of passes through every
encoder. Each side is a process of its own, so that its peak memory is its own; they take turns, whose first step is not
counted, and the figure is the median of the turns' ratios. CPU time (all threads together) is what to look at where others
use the machine too; `taskset -c 0` in front of the command compares one core with one core. Needs the extra "torch".
"""
import argparse
import importlib.util
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from medvlp_jax import cli, errors
from medvlp_jax.bench import turns
from medvlp_jax.input.tokens import SPECIAL
from medvlp_jax.models import bert, trunks
from medvlp_jax.models.resnet import ResNet
from medvlp_jax.models.vit import ViT
from medvlp_jax.reports import vocab

VOCABULARY = 28_996  # word pieces of Bio_ClinicalBERT, of which the shipped vocabulary has 2,000
BATCH = {"mlip": 4, "medklip": 8}
MODULES = {"jax": "medvlp_jax.bench.step_ours", "torch": "medvlp_jax.bench.torch_step"}
CLIP_NORM = 1.0
# The torch side is written for these values only.
FIXED = {
    "": {"dtype": "float32"},
    "model": {"remat": False, "microbatches": 1, "global_blocks": (), "token_norm": False, "token_dropout": 0.0},
    "objective": {"learn_temperature": False, "divergence": True, "knowledge_gate": True, "category_guidance": True},
}


def check(config) -> None:
    """Raises a ValueError for what the torch side does not have."""
    if config.method not in BATCH:
        raise ValueError(f"the torch side has {' and '.join(BATCH)}, not {config.method!r}")
    trunk = trunk_of(config)
    if config.method == "mlip" and (not isinstance(trunk, ViT) or trunk.layer_scale is not None):
        raise ValueError("the torch side of mlip reads images with a ViT without layer scale")
    if config.method == "medklip" and (not isinstance(trunk, ResNet) or trunk.depth != 50 or trunk.patch_stem):
        raise ValueError("the torch side of medklip reads images with a ResNet-50")
    for part, wanted in FIXED.items():
        node = config if not part else config[part] if part in config else {}
        for key, value in wanted.items():
            if key in node and node[key] != value:
                raise ValueError(f"the torch side is written for {f'{part}.' * bool(part)}{key}={value}, came {node[key]}")
    if getattr(trunk, "batch_norm_rows", 0):
        raise ValueError(f"the torch side is written for model.image.batch_norm_rows=0, came {trunk.batch_norm_rows}")
    if without := [name for name, weight in config.losses.items() if not weight]:
        raise ValueError(f"the torch side computes every term, and losses.{without[0]} is 0")


def trunk_of(config):
    """The image trunk's module, whose fields are its sizes."""
    return trunks.image_encoder(**{k: v for k, v in config.model.image.to_dict().items() if k != "init"})


@errors.opening()
def settled(config, batch: int):
    """A copy whose step depends on no data, epoch or schedule: constant rate, clipping, nothing frozen.

    Raises:
      ValueError: see `check`.
    """
    check(config)
    config = config.copy_and_resolve_references()
    config.data.batch_size = batch or BATCH[config.method]
    if config.method == "mlip":
        config.objective.matching_group = min(config.objective.matching_group or 8, config.data.batch_size)
        config.objective.equal_reports = "negatives"  # as the other side; the batch has none
    config.optim.clip_norm, config.optim.freeze_until_epoch = CLIP_NORM, ()
    config.schedule.kind, config.train.steps = "cosine", 1000
    config.schedule.start_lr = config.schedule.final_lr = config.schedule.lr
    return config


def plan_of(config) -> dict:
    """What the torch side has to know, in plain values. model.text.vocab_size must be set."""
    fields, trunk, text = config.model.to_dict(), trunk_of(config), {}
    del fields["image"]
    names = ("width", "num_stages")
    if config.method == "mlip":
        names = ("patch_size", "width", "depth", "num_heads", "mlp_dim", "dropout", "norm_eps")
        text = fields.pop("text")
        size = text.pop("size")
        text = {**(bert.SIZES[size] if size else {}), **text}
        del text["init"]
    image = {name: getattr(trunk, name) for name in names}
    if config.method == "mlip":
        image["image_size"] = config.data.image_size
    return {
        "method": config.method, "image": image, "text": text, "fields": fields, "losses": config.losses.to_dict(),
        "objective": config.objective.to_dict() if "objective" in config else {}, "lr": config.schedule.lr,
        "betas": config.optim.betas, "weight_decay": config.optim.weight_decay, "clip_norm": config.optim.clip_norm,
        "normalisation": config.normalisation.to_dict(),
    }  # fmt: skip


def random_batch(config, vocab_size: int) -> dict[str, np.ndarray]:
    """A batch as `input.pipeline` makes it, of noise: images, labels and reports that fill half to all of max_tokens."""
    rng, data = np.random.default_rng(0), config.data
    b, m, k = data.batch_size, data.max_tokens, len(vocab.ENTITIES)
    lengths = rng.integers(m // 2, m + 1, (b, 1))
    inside = np.arange(m)[None] < lengths  # (B, M)
    ids = np.where(inside, rng.integers(len(SPECIAL), vocab_size, (2, b, m)), 0).astype(np.int32)
    words = np.broadcast_to(np.arange(m)[None] * 3 // 4, (b, m))  # four pieces make three words
    words = np.where(inside & (np.arange(m) > 0) & (np.arange(m) < lengths - 1), words, -1).astype(np.int32)
    mask = inside.astype(np.int32)
    return {
        "image": rng.integers(0, 256, (b, data.image_size, data.image_size, 1), dtype=np.uint8),
        "labels": rng.choice([-1, 0, 1], (b, k), p=[0.6, 0.2, 0.2]).astype(np.int8),
        "positions": rng.integers(0, len(vocab.POSITIONS), (b, k, 8)).astype(np.int32),
        "input_ids": ids[0], "attention_mask": mask, "word_ids": words, "swapped_ids": ids[1], "swapped_mask": mask,
        "swapped_labels": np.where(words >= 0, rng.integers(0, 2, (b, m)), -1).astype(np.int8),
        "has_report": np.ones(b, np.float32), "valid": np.ones(b, np.float32),
    }  # fmt: skip


def write(folder: Path, config, vocab_size: int = VOCABULARY) -> None:
    """Leaves in `folder` what both sides start from: config, plan, knowledge tables, a batch, made-up words as vocabulary."""
    with config.unlocked():
        if config.method == "mlip":
            config.model.text.vocab_size = vocab_size
            (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *(f"w{i}" for i in range(vocab_size - len(SPECIAL)))]))
            config.data.tokenizer = str(folder)
    rng, width = np.random.default_rng(1), bert.SIZES[config.knowledge.size]["width"]
    rows = {"entities": len(vocab.ENTITIES), "positions": len(vocab.POSITIONS)}
    np.savez(folder / "tables.npz", **{name: rng.normal(size=(n, width)).astype(np.float32) for name, n in rows.items()})
    np.savez(folder / "batch.npz", **random_batch(config, vocab_size))
    (folder / "plan.json").write_text(json.dumps(plan_of(config)))
    (folder / "config.json").write_text(json.dumps(config.to_dict()))


def table(results: dict[str, turns.Result]) -> str:
    """Markdown: a row a side, and the median of the turns' ratios with the least and the largest.

    Raises:
      ValueError: the sides do not have equally many parameters.
    """
    counts = {name: result.facts["parameters"] for name, result in results.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"the sides have unequal numbers of parameters: {counts}")
    heads = ("", "step, median", "least - most", "CPU time", "first step", "of it compiling", "peak memory", "parameters")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, (first, each, cpu, peak, facts) in results.items():
        compiling = facts.get("compile")
        lines.append(
            f"| {name} | {np.median(each):.2f} s | {min(each):.2f} - {max(each):.2f} s | {np.median(cpu):.2f} s | "
            f"{first + (compiling or 0):.1f} s | " + (f"{compiling:.1f} s" if compiling else "-")
            + f" | {peak / 1e9:.1f} GB | {facts['parameters'] / 1e6:.2f} M |"
        )  # fmt: skip
    ours, theirs = results["jax"], results["torch"]
    for what, a, b in (("jax / torch", ours.turns, theirs.turns), ("of CPU time", ours.cpu, theirs.cpu)):
        median, least, most = turns.ratios(a, b)
        lines.append(f"{what}: {median:.3f}, median of {len(a)} turns ({least:.3f} - {most:.3f})")
    return "\n".join([*lines[:-2], "", *lines[-2:]])


def main(argv=None) -> dict[str, turns.Result]:
    """Prints the table -> what was measured.

    Raises:
      SystemExit: torch is not installed.
    """
    parser = argparse.ArgumentParser(prog="python -m medvlp_jax.bench step", description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/mlip.py")
    parser.add_argument("--batch", type=int, default=0, help=f"rows; default {BATCH}")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="of a turn that are counted")
    args = parser.parse_args(argv)
    if importlib.util.find_spec("torch") is None:
        raise SystemExit("error: the step to compare with is written in torch: pip install 'medvlp_jax[torch]'")
    config = cli.guarded(settled, cli.guarded(cli.load_config, args.config), args.batch)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), config)
        sides = {}
        try:
            for name, module in MODULES.items():
                sides[name] = turns.Side(module, Path(folder))
            results = turns.alternate(sides, args.turns, args.steps)
        finally:
            for side in sides.values():
                side.close()
    pages = os.environ.get("GLIBC_TUNABLES", "")
    print(f"{args.config}, batch {config.data.batch_size}, {turns.cores()} cores, float32" + (f", {pages}" if pages else ""))
    print(table(results))
    return results
