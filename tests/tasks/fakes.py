"""Eval batches without a data set, and predict functions that are perfect, random or constant on them.

What a "perfect" predictor may see is put into the batch under `answer_*`: predictors get device arrays only.
"""
import jax.numpy as jnp
import numpy as np

from medvlp_jax.reports import vocab
from medvlp_jax.tasks import common

FINDINGS = ("effusion", "pneumothorax", "nodule", "cardiomegaly")
SIZE, GRID, WIDTH = 28, 7, 16  # pixels, map cells a side, embedding size
F = len(vocab.ENTITIES)


def examples(n: int, seed: int = 0) -> list[dict]:
    """n host dicts; every finding has both classes and a box of 8 x 8 pixels, aligned to cells, where it is present."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        labels = {f: int(rng.random() < 0.4) for f in FINDINGS}
        corners = rng.integers(0, GRID - 1, (len(FINDINGS), 2)) * (SIZE // GRID)
        boxes = [(f, float(x), float(y), 8.0, 8.0) for f, (x, y) in zip(FINDINGS, corners, strict=True) if labels[f]]
        report = "; ".join(f"{f} {'seen' if v else 'absent'}" for f, v in labels.items()) + f" case {i}"
        out.append({"id": f"secret-{i}", "patient_id": f"p{i // 2}", "finding_labels": labels, "boxes": boxes,
                    "masks": {}, "report": report})
    return out


def batches(items: list[dict], size: int = 8, seed: int = 0):
    """-> callable giving fresh iterators of batches; the last one is filled up with padding rows (valid 0)."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((len(items), WIDTH)).astype(np.float32)
    noise = rng.random((len(items), F * GRID * GRID), np.float32)
    pixels = rng.integers(0, 256, (len(items), SIZE, SIZE, 1), dtype=np.uint8)

    def fresh():
        for at in range(0, len(items), size):
            part = items[at:at + size]
            rows = [*range(at, at + len(part)), *[at] * (size - len(part))]
            scores, maps = np.zeros((size, F), np.float32), np.zeros((size, F, GRID, GRID), np.float32)
            for i, row in enumerate(rows):
                for name, value in items[row].get("finding_labels", {}).items():
                    if common.entity_row(name) is not None:
                        scores[i, common.entity_row(name)] = value
                for name, *box in items[row].get("boxes", ()):
                    x, y, w, h = (int(v) * GRID // SIZE for v in box)  # in cells
                    maps[i, common.entity_row(name), y:y + h, x:x + w] = 0.5
                    maps[i, common.entity_row(name), y, x] = 1.0
            yield {"image": pixels[rows], "input_ids": np.zeros((size, 12), np.int32), "answer_score": scores,
                   "answer_map": maps, "answer_embedding": directions[rows], "row": np.asarray(rows, np.int32),
                   "noise": noise[rows],
                   "valid": (np.arange(size) < len(part)).astype(np.float32), "host": part}

    return fresh


def unit(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def noise(batch, *shape):
    """Random values that belong to the example, the same in every batch."""
    return batch["noise"][:, :int(np.prod(shape))].reshape(-1, *shape)


PERFECT = {
    "score_findings": lambda variables, batch: batch["answer_score"],
    "ground": lambda variables, batch: batch["answer_map"],
    "embed_image": lambda variables, batch: unit(batch["answer_embedding"]),
    "embed_text": lambda variables, batch: unit(batch["answer_embedding"]),
}
RANDOM = {
    "score_findings": lambda variables, batch: noise(batch, F),
    "ground": lambda variables, batch: noise(batch, F, GRID, GRID),
    "embed_image": lambda variables, batch: unit(noise(batch, WIDTH) - 0.5),
    "embed_text": lambda variables, batch: unit(noise(batch, 2, WIDTH)[:, 1] - 0.5),
}


def _constant(*shape):
    return lambda variables, batch: jnp.full((batch["row"].shape[0], *shape), 0.25, jnp.float32)


CONSTANT = {"score_findings": _constant(F), "ground": _constant(F, GRID, GRID), "embed_image": _constant(WIDTH),
            "embed_text": _constant(WIDTH)}


def values(records) -> dict[str, float]:
    return {r["metric"]: r["value"] for r in records}


def by_name(records) -> dict[str, dict]:
    return {r["metric"]: r for r in records}
