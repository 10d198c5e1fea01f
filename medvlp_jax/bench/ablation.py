"""What each term of MLIP is worth on the phantom: every term removed in turn, same budget, several seeds. The other terms
keep the paper's weights, not those of the quickstart.

    python -m medvlp_jax.bench ablation --steps=300 --seeds=0,1 --out=runs/ablation

Finished runs are kept in --out and not repeated; the table is printed (as Markdown) from what is there.
"""
import argparse
import json
from pathlib import Path

import numpy as np
from absl import logging

from configs import mlip
from medvlp_jax import train

TERMS = ("global_contrast", "alignment", "knowledge_patch", "category", "matching", "swapping", "kl")
COLUMNS = {
    "AUC, entity scores": ("zeroshot", "auc_macro"),
    "AUC, prompts": ("zeroshot", "auc_macro_prompts"),
    "pointing game": ("grounding", "pointing_game"),
    "i2t recall@5": ("retrieval", "i2t_recall@5"),
}


def run(out: Path, removed: str, seed: int, steps: int) -> None:
    """Trains the quickstart without one term ("" = the full loss) and leaves eval/results.jsonl in its folder."""
    folder = out / f"{removed or 'full'}-{seed}"
    if (folder / "eval" / "results.jsonl").exists():
        return
    c = mlip.get_config("quickstart")
    c.losses = mlip.get_config().losses
    c.seed, c.train.steps, c.train.best_metric, c.evals.figures = seed, steps, "", False
    if removed:
        c.losses[removed] = 0.0
    if train.train(c, folder) is None:
        raise SystemExit(f"stopped by a signal during {folder.name}; the same command goes on from there")


def values(out: Path, removed: str, seeds: list[int]) -> list[list[float]]:
    """For every column, the values of the seeds that have one."""
    found = []
    for seed in seeds:
        lines = (out / f"{removed or 'full'}-{seed}" / "eval" / "results.jsonl").read_text().splitlines()
        found.append({(r["task"], r["metric"]): r["value"] for r in map(json.loads, lines)})
    return [[f[key] for f in found if f.get(key) is not None] for key in COLUMNS.values()]


def table(out: Path, seeds: list[int]) -> str:
    """Markdown: one row a removed term, mean and half the range over the seeds."""
    lines = ["| removed | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for removed in ("", *TERMS):
        cells = [f"{np.mean(v):.3f} ± {np.ptp(v) / 2:.3f}" if v else "-" for v in values(out, removed, seeds)]
        lines.append(f"| {removed or 'nothing'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv) -> None:
    """Entry of the benchmark."""
    parser = argparse.ArgumentParser(prog="medvlp_jax.bench ablation", description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    options = parser.parse_args(argv)
    seeds = [int(s) for s in options.seeds.split(",")]
    logging.set_verbosity(logging.WARNING)
    for seed in seeds:
        for removed in ("", *TERMS):
            run(options.out, removed, seed, options.steps)
    print(table(options.out, seeds))
