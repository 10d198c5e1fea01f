"""Every loss once, on small random inputs, in a form that the property tests can turn over.

`arrays` are differentiated, `fixed` are labels, masks and weights. `empty` overrides fixed arrays so that nothing
counts; `ignored` marks, per differentiated array, the entries that the masks exclude.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from medvlp_jax.losses import contrastive, local, prototype, supervised

BATCH, DIM = 16, 6


class Case(NamedTuple):
    loss: Callable[..., Any]  # (**arrays, **fixed) -> scalar
    arrays: dict[str, np.ndarray]
    fixed: dict[str, np.ndarray] = {}
    empty: dict[str, np.ndarray] = {}
    ignored: dict[str, np.ndarray] = {}
    tables: tuple[str, ...] = ()  # arrays without a batch axis
    smooth: bool = True  # False: codes without gradient, finite differences do not apply


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _sum_with_probe(x):
    probe = np.random.default_rng(5).standard_normal(x.shape).astype(x.dtype)
    return (x * probe).sum()


def _gated(words, entities, gate, present, word_mask):
    context, _ = local.entity_context(words, entities, present)
    fused = local.knowledge_gate(words, context, gate, present)
    return _sum_with_probe(fused * word_mask.astype(fused.dtype)[..., None])


def build() -> dict[str, Case]:
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    def units(*shape):
        return unit(normal(*shape)).astype(np.float32)

    valid = (np.arange(BATCH) % 3 != 0).astype(np.float32)  # (B,)
    no_rows = {"valid": np.zeros(BATCH, np.float32)}
    dead = valid == 0
    rows = {"a": units(BATCH, DIM), "b": units(BATCH, DIM)}
    labels = rng.integers(-1, 3, (BATCH, 5)).astype(np.int8)
    unknown = np.full_like(labels, -1)
    masked = (labels != 0) & (labels != 1)
    lengths = np.arange(BATCH) % 6  # words of each report, some without any
    word_mask = (np.arange(6)[None] < lengths[:, None]).astype(np.float32)
    word_weights = word_mask * rng.uniform(0.1, 1, word_mask.shape).astype(np.float32)
    word_weights /= np.maximum(word_weights.sum(1, keepdims=True), 1e-6)
    patch_weights = rng.uniform(0.1, 1, (BATCH, 9)).astype(np.float32)
    patch_weights /= patch_weights.sum(1, keepdims=True)
    present = (rng.random((BATCH, 4)) < 0.4).astype(np.int8)
    present[0] = 0
    pixels = {"logits": 2 * normal(BATCH, 4, 3)}
    targets = (rng.random((BATCH, 4, 3)) < 0.3).astype(np.uint8)
    pixel_fixed = {"targets": targets, "valid": valid}
    no_pixel = {"logits": np.broadcast_to(dead[:, None, None], (BATCH, 4, 3))}
    scores = {k: 0.5 * normal(BATCH, 7) for k in ("image_scores", "text_scores", "knowledge_scores")}

    return {
        "info_nce": Case(
            contrastive.info_nce, rows | {"temperature": np.float32(0.1)}, {"valid": valid}, no_rows,
            {"a": dead[:, None] & np.ones((1, DIM), bool), "b": dead[:, None] & np.ones((1, DIM), bool)},
            tables=("temperature",),
        ),
        "kl_divergence": Case(
            lambda mu, log_var, valid: contrastive.kl_divergence(mu, log_var, 0.3 / np.sqrt(DIM), valid),
            {"mu": 0.1 * normal(BATCH, DIM), "log_var": normal(BATCH, DIM) - 4}, {"valid": valid}, no_rows,
            {"mu": dead[:, None] & np.ones((1, DIM), bool), "log_var": dead[:, None] & np.ones((1, DIM), bool)},
        ),
        "existence": Case(
            supervised.existence_loss, {"logits": normal(BATCH, 5, 2)}, {"labels": labels}, {"labels": unknown},
            {"logits": np.broadcast_to(masked[..., None], (BATCH, 5, 2))},
        ),
        "location": Case(
            supervised.location_loss, {"logits": 3 * normal(BATCH, 5, 8)}, {"labels": labels},
            {"labels": np.zeros_like(labels)}, {"logits": np.broadcast_to((labels != 1)[..., None], (BATCH, 5, 8))},
        ),
        "sigmoid": Case(
            supervised.sigmoid_loss, {"logits": 3 * normal(BATCH, 5)}, {"labels": labels}, {"labels": unknown},
            {"logits": masked},
        ),
        "matching": Case(
            supervised.matching_loss, {"logits": normal(BATCH, 2)},
            {"labels": (np.arange(BATCH) % 2).astype(np.int32), "valid": valid}, no_rows,
            {"logits": dead[:, None] & np.ones((1, 2), bool)},
        ),
        "token_swap": Case(
            supervised.token_swap_loss, {"logits": normal(BATCH, 5, 2)}, {"labels": np.minimum(labels, 1)},
            {"labels": unknown}, {"logits": np.broadcast_to((labels < 0)[..., None], (BATCH, 5, 2))},
        ),
        "bce_dice": Case(supervised.bce_dice_loss, pixels, pixel_fixed, no_rows, no_pixel),
        "focal_dice": Case(supervised.focal_dice_loss, pixels, pixel_fixed, no_rows, no_pixel),
        "alignment": Case(
            local.token_patch_alignment, {"words": units(BATCH, 6, DIM), "patches": units(BATCH, 9, DIM)},
            {"word_mask": word_mask, "word_weights": word_weights, "patch_weights": patch_weights},
            {"word_mask": np.zeros_like(word_mask)},
            {"words": np.broadcast_to((word_mask == 0)[..., None], (BATCH, 6, DIM))},
        ),
        "knowledge_gate": Case(
            _gated,
            {"words": units(BATCH, 6, DIM), "entities": units(4, DIM), "gate": rng.random((BATCH, 6), np.float32)},
            {"present": present, "word_mask": word_mask}, tables=("entities",),
        ),
        "knowledge_patch": Case(
            lambda entities, patches, labels: supervised.sigmoid_loss(
                10 * local.knowledge_patch(entities, patches)[0] - 3, labels
            ),
            {"entities": units(5, DIM), "patches": units(BATCH, 9, DIM)}, {"labels": labels}, {"labels": unknown},
            tables=("entities",),
        ),
        "category": Case(
            lambda valid, has, **s: prototype.category_loss(**s, has_knowledge=has, valid=valid)[0],
            scores, {"valid": valid, "has": present.any(1)}, no_rows,
            {k: dead[:, None] & np.ones((1, 7), bool) for k in scores}, smooth=False,
        ),
    }
