"""MLIP's objective once more, in numpy and naive loops, written from its specification and FIDELITY.md.

Start: what the two trunks give for a batch, the parameters, and the random draws. End: the seven terms. Nothing of
medvlp_jax is used. Rows, words and entities are looped over, so that an index can be read off. float64 throughout.

Where the specification is silent a comment says "our reading".
"""
from typing import NamedTuple

import numpy as np

from tests.methods.mlip_oracle_layers import entity_embeddings, mean, project, project_rows, unit, words_of
from tests.methods.mlip_oracle_terms import (
    alignment,
    category,
    divergence,
    existence,
    gated,
    hard_negatives,
    info_nce,
    kl,
    knowledge_patch,
    matching,
    swapping,
    temperature_of,
)


class Trunks(NamedTuple):
    """Outputs of the trunks for a batch of B images and reports."""

    image: np.ndarray  # (B, W) class token, or the pooled last stage
    patches: np.ndarray  # (B, N, W)
    patch_attention: np.ndarray | None  # (B, N) from the class token in the last block; a ResNet has none
    text: np.ndarray  # (B, W) [CLS]
    tokens: np.ndarray  # (B, M, W) word pieces, [CLS] first
    token_attention: np.ndarray  # (B, M) from [CLS] in the last block
    swapped_tokens: np.ndarray  # (B, M, W) of the report with an exchanged sentence


class Draws(NamedTuple):
    """Everything random in one step without dropout."""

    image_noise: np.ndarray  # (B, D) standard normal, divergence encoder of the images
    text_noise: np.ndarray  # (B, D)
    text_gumbel: np.ndarray  # (G, g, g) standard Gumbel: image i of a group draws report j
    image_gumbel: np.ndarray  # (G, g, g): report i draws image j


class Embedded(NamedTuple):
    """Unit embeddings; v, t and patches of rows that do not count are zero, words a list a row."""

    v: np.ndarray  # (B, D)
    t: np.ndarray  # (B, D)
    patches: np.ndarray  # (B, N, D)
    words: list
    word_weights: list
    entities: np.ndarray  # (K, D)


def embed(p, table, trunks: Trunks, batch, images, reports, running=None) -> Embedded:
    """images, reports (B,) bool: rows whose image or report counts. running: BatchNorm statistics of evaluation."""
    part = (lambda name: None) if running is None else running.get
    b, n, width = trunks.patches.shape
    patches = project_rows(trunks.patches.reshape(b * n, width), np.repeat(images, n), p["patch_head"], part("patch_head"))
    split = [words_of(trunks.tokens[i], trunks.token_attention[i], batch["word_ids"][i]) for i in range(b)]
    split = [s if reports[i] else ([], []) for i, s in enumerate(split)]
    flat = [w for words, _ in split for w in words]
    flat = iter(project(np.array(flat), p["token_head"], part("token_head")) if flat else [])
    words = [[next(flat) for _ in words] for words, _ in split]
    return Embedded(
        project_rows(trunks.image, images, p["image_head"], part("image_head")),
        project_rows(trunks.text, reports, p["text_head"], part("text_head")),
        patches.reshape(b, n, -1), words, [w for _, w in split], entity_embeddings(p, table),
    )  # fmt: skip


def terms(p, table, trunks: Trunks, batch, draws: Draws, o, model, codes: dict | None = None) -> dict[str, float]:
    """The seven terms of one training step, unweighted.

    Every row has an image; only those with has_report have a text. A training batch is never padded: a padded row, as
    evaluation has them, is a black image without labels and report, and counts as such (our reading).

    Args:
      p: parameters as nested dicts of numpy; o: `config.objective`; model: `config.model`, of which the heads of
        the fusion module and the length of the divergence encoders' noise are used.
      codes: filled with the codes of the category term, or, if they are there, read instead of computed: they have no
        gradient.
    """
    reports = batch["has_report"] > 0
    images, pairs = np.ones_like(reports), [int(i) for i in np.flatnonzero(reports)]
    e = embed(p, table, trunks, batch, images, reports)
    sigma0, heads = model["divergence_noise"] / np.sqrt(e.v.shape[1]), model["fusion_heads"]
    present = [[k for k in range(len(e.entities)) if batch["labels"][b, k] == 1] for b in range(len(images))]
    out = {}

    views = [(e.v, e.t)]
    if o["divergence"]:
        v2, mu_v, log_v = divergence(e.v, draws.image_noise, p["image_divergence"], sigma0)
        t2, mu_t, log_t = divergence(e.t, draws.text_noise, p["text_divergence"], sigma0)
        views += [(v2, e.t), (e.v, t2), (v2, t2)]
        # Our reading: the mean of both encoders' KL terms.
        out["kl"] = (kl(mu_v, log_v, sigma0, range(len(images))) + kl(mu_t, log_t, sigma0, pairs)) / 2
    temperature, ids = temperature_of(p, o), batch["input_ids"]
    same = lambda i, j: list(ids[i]) == list(ids[j])  # noqa: E731
    out["global_contrast"] = mean([info_nce(a, b, temperature, pairs, same, o["equal_reports"]) for a, b in views])

    words = e.words
    if o["knowledge_gate"]:
        read = lambda w, b: gated(w, e.entities, present[b], p["gate"], o["local_temperature"])  # noqa: E731
        words = [[read(w, b) for w in row] for b, row in enumerate(words)]
    out["alignment"] = alignment(words, e.word_weights, e.patches, trunks.patch_attention, o["local_temperature"])
    _, scores = knowledge_patch(e.entities, e.patches, p["knowledge_score"], o["local_temperature"])
    out["knowledge_patch"] = existence(scores, batch["labels"], range(len(images)))

    # Our reading: uncertain entities are not among the present ones.
    knowledge = {b: unit(sum(e.entities[k] for k in present[b])) for b in pairs if present[b]} if o["category_guidance"] else {}
    out["category"] = category(e.v, e.t, knowledge, p["category"]["prototypes"], o, pairs, {} if codes is None else codes)

    others = hard_negatives(e.v, e.t, ids, temperature, o["matching_group"], pairs, draws)
    out["matching"] = matching(trunks, batch["attention_mask"], p, heads, pairs, *others)
    out["swapping"] = swapping(trunks, batch["swapped_mask"], batch["swapped_labels"], p, heads, pairs)
    return out


def total(values: dict[str, float], weights) -> float:
    """Weighted sum of the terms."""
    return sum(weights[name] * value for name, value in values.items())
