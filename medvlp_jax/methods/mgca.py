"""MGCA (NeurIPS 2022, arXiv 2210.06044), the baseline MLIP is compared with: alignment at three levels.

Instances (image with report), tokens (words with patches, both ways) and categories (prototypes). `config.as_published`
makes it the published program, number by number; FIDELITY.md lists where that differs.
"""
import functools

import jax

from medvlp_jax.losses import contrastive, local, prototype
from medvlp_jax.method import Method
from medvlp_jax.methods import towers
from medvlp_jax.methods.mgca_module import MGCA
from medvlp_jax.models.heads import normalize


def objective(
    m: MGCA, batch: dict, table: jax.Array | None, rng: jax.Array | None, weights: dict, o, train: bool = True
) -> tuple[jax.Array, dict]:
    """Weighted sum of the three terms on a global batch, and each term (sections 3.2 to 3.4).

    Args:
      m: the bound module.
      batch: as `input.pipeline` makes it, with normalised images.
      table, rng: not used; MGCA knows no entities and draws nothing.
      weights: config.losses; o: config.objective.
      train: BatchNorm by the batch, dropout on.
    """
    del table, rng
    on = {name for name, weight in weights.items() if weight}
    valid = batch["has_report"]  # (B,)
    image = m.image_trunk(batch["image"], train)
    text = m.text_trunk(batch["input_ids"], batch["attention_mask"], train)
    terms = {}
    if on & {"global_contrast", "category"}:
        v, t = m.image_embedding(image, train), m.text_embedding(text, train)  # (B, D)
    if "global_contrast" in on:
        directions = 2.0 if m.as_published else 1.0  # their sum, or their mean
        terms["global_contrast"] = directions * contrastive.chosen(o.contrast_chunk, o.equal_reports)(
            v, t, o.temperature, valid, contrastive.report_keys(batch["input_ids"])
        )  # fmt: skip
    if "alignment" in on:
        terms["alignment"] = alignment(m, image, text, batch, o.local_temperature, train)
    if "category" in on:
        terms["category"], _ = prototype.category_loss(
            m.category(v), m.category(t), temperature=o.prototype_temperature, epsilon=o.sinkhorn_epsilon,
            iterations=o.sinkhorn_iterations, valid=valid,
        )  # fmt: skip
    return sum(weights[name] * value for name, value in terms.items()), terms


def alignment(m: MGCA, image: dict, text: dict, batch: dict, temperature: float, train: bool) -> jax.Array:
    """Token-wise alignment (section 3.3): words with patches of the same study, both ways."""
    word_ids, mask = batch["word_ids"], batch["attention_mask"]
    if m.as_published:
        words, attention, word_mask = local.published_words(text["tokens"], word_ids, mask, text["attention"])
        words = m.token_head(words, None, train)  # its BatchNorm sees the padding too
        counted = attention != 0
    else:
        words, attention, word_mask = local.aggregate_words(text["tokens"], word_ids, text["attention"])
        words, counted = m.token_head(words, word_mask, train), word_mask
    words, patches = normalize(words), m.patch_embeddings(image, train)  # (B, W, D), (B, N, D)
    return local.token_patch_alignment(
        words, patches, local.percentile_clip(attention, counted), image["weights"], word_mask, temperature,
        published=m.as_published, read=m.read(words, patches, word_mask),
    )  # fmt: skip


def make(config) -> Method:
    """MGCA as a `Method`, from config.model, .losses, .objective, .as_published and .normalisation."""
    weights = config.losses.to_dict()
    model = towers.build(MGCA, config, as_published=config.as_published)
    method = towers.make_method(model, functools.partial(objective, weights=weights, o=config.objective), config)
    return method if weights["alignment"] else method._replace(predict=towers.without_patches(method.predict))
