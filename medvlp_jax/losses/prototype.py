"""Knowledge-guided category-level contrast: swapped prediction of prototype codes.

Source: MGCA (arXiv 2210.06044) section 3.4 for codes and swapped prediction, the specification of MLIP
("Knowledge-guided category-level contrast") for the guidance by knowledge.
"""
import jax
import jax.numpy as jnp

from medvlp_jax.losses.numerics import MASKED, counting, dot, masked_mean, same_shape, to_float, unit


def sinkhorn(
    scores: jax.Array, epsilon: float = 0.05, iterations: int = 3, valid: jax.Array | None = None
) -> jax.Array:
    """Codes of the batch by Sinkhorn-Knopp: every prototype gets an equal share of the rows, every row sums to 1.

    In the log domain: exp(score / epsilon) of the published form overflows float32 for epsilon < 0.012. No gradient.

    Args:
      scores: (B, C) cosine of embedding and prototype, over the global batch.
      epsilon: smoothing; smaller is nearer to a hard assignment.
      valid: (B,) rows that take part in the balancing; the codes of the others are without meaning (but finite).

    Returns:
      codes (B, C), rows of sum 1.
    """
    logits = to_float(jax.lax.stop_gradient(scores)) / epsilon  # (B, C)
    valid = counting(valid, scores.shape[:1])
    logits = jnp.where(valid[:, None], logits, 0.0)
    row = jnp.zeros(logits.shape[:1], logits.dtype)  # (B,) log scale of each row
    column = jnp.zeros(logits.shape[1:], logits.dtype)  # (C,) log scale of each prototype
    for _ in range(iterations):
        column = -jax.nn.logsumexp(jnp.where(valid[:, None], logits + row[:, None], MASKED), axis=0)
        row = -jax.nn.logsumexp(logits + column[None], axis=1)
    return jax.nn.softmax(logits + column[None], axis=1)


def report_knowledge(entities: jax.Array, present: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean embedding of a report's entities, normalised: entities (K, D), present (B, K) -> (B, D), has (B,) bool."""
    entities, present = to_float(entities), present.astype(bool)
    total = dot("bk,kd->bd", present.astype(entities.dtype), entities)
    return unit(total), present.any(axis=1)  # unit() divides by the number of entities too


def category_loss(
    image_scores: jax.Array,
    text_scores: jax.Array,
    knowledge_scores: jax.Array | None = None,
    has_knowledge: jax.Array | None = None,
    temperature: float = 0.2,
    epsilon: float = 0.05,
    iterations: int = 3,
    valid: jax.Array | None = None,
    knowledge_weight: float = 1.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Swapped prediction image <-> report, plus knowledge codes that supervise both.

    Args:
      image_scores, text_scores, knowledge_scores: (B, C) cosine with the unit prototypes; the last of what
        `report_knowledge` gives.
      has_knowledge: (B,) nonzero where a report has entities; the others weigh 0. None: all have.
      temperature: of the predictions.
      valid: (B,) nonzero where the pair exists; the others take no part in codes or losses.

    Returns:
      swap + knowledge_weight * knowledge, and the terms {"swap", "knowledge"}; each is the mean of the image's and the
      report's cross-entropy (MGCA's CPA is "swap").
    """
    same_shape("text_scores", text_scores, image_scores.shape)
    valid = counting(valid, image_scores.shape[:1])  # (B,)

    def log_prediction(scores):
        return jax.nn.log_softmax(jnp.where(valid[:, None], to_float(scores), 0.0) / temperature, axis=1)  # (B, C)

    def cross_entropy(codes, log_p, mask):
        return masked_mean(-(codes * log_p).sum(axis=1), mask)

    image, text = log_prediction(image_scores), log_prediction(text_scores)
    image_codes = sinkhorn(image_scores, epsilon, iterations, valid)
    text_codes = sinkhorn(text_scores, epsilon, iterations, valid)
    swap = 0.5 * (cross_entropy(image_codes, text, valid) + cross_entropy(text_codes, image, valid))
    if knowledge_scores is None:
        return swap, {"swap": swap}

    same_shape("knowledge_scores", knowledge_scores, image_scores.shape)
    guided = counting(has_knowledge, image_scores.shape[:1]) & valid  # (B,)
    codes = sinkhorn(knowledge_scores, epsilon, iterations, guided)
    knowledge = 0.5 * (cross_entropy(codes, image, guided) + cross_entropy(codes, text, guided))
    return swap + knowledge_weight * knowledge, {"swap": swap, "knowledge": knowledge}
