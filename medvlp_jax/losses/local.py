"""Local alignment of report tokens, knowledge entities and image patches.

Source: MGCA (arXiv 2210.06044) section 3.3 for the token-patch alignment, the specification of MLIP ("Local
token-knowledge-patch alignment") for the rest. `published=True`, and `published_words`, reproduce what MGCA's program
does where that differs from what it should do: padding as negatives, one side not normalised, shifted word weights.
"""
import jax
import jax.numpy as jnp

from medvlp_jax.losses.numerics import (
    MASKED,
    counting,
    dot,
    keep,
    masked_mean,
    masked_softmax,
    same_shape,
    to_float,
    unit,
)


def aggregate_words(
    token_embeddings: jax.Array, word_ids: jax.Array, attention: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums the word pieces of each word, and the attention they receive.

    Args:
      token_embeddings: (B, M, D) last hidden states.
      word_ids: (B, M) index of the word a piece belongs to, -1 for special tokens and padding.
      attention: (B, M) attention of [CLS] to every token.

    Returns:
      words (B, M, D), word_attention (B, M), word_mask (B, M) bool. There are as many slots as tokens, for a static
      shape; unused ones are zero and masked.
    """
    tokens, length = keep(token_embeddings, word_ids >= 0), word_ids.shape[1]
    member = jax.nn.one_hot(word_ids, length, dtype=tokens.dtype)  # (B, M, W); -1 is a row of zeros
    words = dot("bmw,bmd->bwd", member, tokens)  # (B, W, D)
    word_attention = dot("bmw,bm->bw", member, to_float(attention))  # (B, W)
    return words, word_attention, member.sum(axis=1) > 0


def published_words(
    token_embeddings: jax.Array, word_ids: jax.Array, attention_mask: jax.Array, attention: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Word aggregation as MGCA's program does it; arguments and results as `aggregate_words`, one slot less.

    Its quirks: [SEP] counts as a word; every token receives the attention of the token after it; the last token is
    never reached, so a report that fills all M tokens loses its last word. Returns (B, M-1, D), (B, M-1), (B, M-1).
    """
    batch, length = word_ids.shape
    last = attention_mask.astype(jnp.int32).sum(axis=1, keepdims=True) - 1  # (B, 1) position of [SEP]
    position = jnp.arange(length)[None]  # (1, M)
    before = jnp.concatenate([jnp.full((batch, 1), -1, word_ids.dtype), word_ids[:, :-1]], axis=1)
    starts = (word_ids < 0) | (word_ids != before)  # (B, M)
    slot = jnp.cumsum(starts.astype(jnp.int32), axis=1) - 1  # (B, M) [CLS] is slot 0
    full = last >= length - 1  # (B, 1) [SEP] is the last token, which the walk does not reach: the open word is dropped
    slot = jnp.where(jnp.where(full, slot < slot[:, -2:-1], position <= last), slot, -1)
    shifted = jnp.concatenate([attention[:, 1:], jnp.zeros((batch, 1), attention.dtype)], axis=1)  # (B, M)
    words, weights, mask = aggregate_words(token_embeddings, slot, shifted)
    return words[:, 1:], weights[:, 1:], mask[:, 1:]


def percentile_clip(weights: jax.Array, mask: jax.Array, low: float = 10.0, high: float = 90.0) -> jax.Array:
    """Weights (B, T) clipped to their low..high percentiles among the mask (B, T), divided by their sum; no gradient.

    Percentiles are interpolated linearly, as numpy's default. A row sums to 1 over its mask, or is 0 where nothing
    counts. (MGCA: `mask = weights != 0`.)
    """
    same_shape("mask", mask, weights.shape)
    weights, mask = to_float(jax.lax.stop_gradient(weights)), mask.astype(bool)
    ordered = jnp.sort(jnp.where(mask, weights, jnp.finfo(weights.dtype).max), axis=1)  # masked ones last
    span = jnp.maximum(mask.sum(axis=1, keepdims=True) - 1, 0)  # (B, 1)

    def percentile(q):
        at = span.astype(weights.dtype) * (q / 100.0)  # (B, 1)
        below = jnp.floor(at).astype(span.dtype)
        x0 = jnp.take_along_axis(ordered, below, axis=1)
        x1 = jnp.take_along_axis(ordered, jnp.minimum(below + 1, span), axis=1)
        return x0 + (at - below.astype(at.dtype)) * (x1 - x0)  # (B, 1)

    clipped = jnp.where(mask, jnp.minimum(jnp.maximum(weights, percentile(low)), percentile(high)), 0.0)
    total = clipped.sum(axis=1, keepdims=True)
    return clipped / jnp.where(total > 0, total, 1.0)


def entity_context(
    words: jax.Array, entities: jax.Array, present: jax.Array, temperature: float = 0.1
) -> tuple[jax.Array, jax.Array]:
    """What each token reads from the entities of its report: sum_k a_mk e_k, a = softmax over the present k of w.e / T.

    words (B, W, D) and entities (K, D) unit, present (B, K) nonzero where the report has the entity
    -> context (B, W, D), attention (B, W, K); both are 0 for a report without entities.
    """
    words, entities = to_float(words), to_float(entities)
    similarity = dot("bwd,kd->bwk", words, entities) / temperature
    mask = jnp.broadcast_to(present.astype(bool)[:, None, :], similarity.shape)
    attention = masked_softmax(similarity, mask)  # (B, W, K)
    return dot("bwk,kd->bwd", attention, entities), attention


def knowledge_gate(words: jax.Array, context: jax.Array, gate: jax.Array, present: jax.Array) -> jax.Array:
    """w~_m = normalize(w_m + g_m * context_m); a report without entities leaves its words exactly as they are.

    words (B, W, D) unit, context (B, W, D) of `entity_context`, gate (B, W) in 0..1, present (B, K) -> (B, W, D).
    """
    same_shape("gate", gate, words.shape[:2])
    words = to_float(words)
    fused = unit(words + gate.astype(words.dtype)[..., None] * context.astype(words.dtype))
    return jnp.where(present.astype(bool).any(axis=1)[:, None, None], fused, words)


def attend(queries: jax.Array, keys: jax.Array, mask: jax.Array | None = None, temperature: float = 0.1) -> jax.Array:
    """(B, T, D) reads (B, S, D): sum_s softmax_s(q.k / temperature) k_s over the mask (B, S) -> (B, T, D), not unit."""
    queries, keys = to_float(queries), to_float(keys)
    similarity = dot("btd,bsd->bts", queries, keys) / temperature
    mask = counting(mask, keys.shape[:2])[:, None, :]
    return dot("bts,bsd->btd", masked_softmax(similarity, jnp.broadcast_to(mask, similarity.shape)), keys)


def diagonal_contrast(
    rows: jax.Array, attended: jax.Array, weights: jax.Array, mask: jax.Array | None = None, temperature: float = 0.1
) -> jax.Array:
    """Contrast within each example: rows[t] against attended[t'], right on the diagonal; mean of both directions.

    rows, attended (B, T, D); weights (B, T) of the T cross-entropies, which are summed; mask (B, T) of those that take
    part, None all -> (B,).
    """
    mask = counting(mask, rows.shape[:2])
    rows, attended = keep(rows, mask), keep(attended, mask)
    logits = dot("btd,bsd->bts", rows, attended) / temperature
    logits = jnp.where(mask[:, :, None] & mask[:, None, :], logits, MASKED)
    positive = dot("btd,btd->bt", rows, attended) / temperature
    ce = 0.5 * (jax.nn.logsumexp(logits, axis=2) + jax.nn.logsumexp(logits, axis=1)) - positive  # (B, T)
    return (jnp.where(mask, ce, 0.0) * jnp.where(mask, weights.astype(ce.dtype), 0.0)).sum(axis=1)


def token_patch_alignment(
    words: jax.Array,
    patches: jax.Array,
    word_weights: jax.Array,
    patch_weights: jax.Array | None,
    word_mask: jax.Array,
    temperature: float = 0.1,
    published: bool = False,
    read: tuple[jax.Array, jax.Array] | None = None,
) -> jax.Array:
    """Token -> patch plus patch -> token alignment (MGCA's CTA), each the mean over the reports that have words.

    Args:
      words: (B, W, D) unit. patches: (B, N, D) unit.
      word_weights: (B, W), patch_weights: (B, N), rows of sum 1 (`percentile_clip`); patch_weights None is uniform, for
        a ResNet.
      word_mask: (B, W) nonzero for words; padding is neither row, nor negative, nor read by patches.
      published: as MGCA's program: padding words are negatives of the token side (with weight 0 as rows), what patches
        read is normalised only for a ResNet (patch_weights None), and the mean is over all B.
      read: what words read (B, W, D) and what patches read (B, N, D), of any length; None is `attend` both ways.
    """
    same_shape("word_mask", word_mask, words.shape[:2])
    word_mask = word_mask.astype(bool)
    words, patches = to_float(words) if published else keep(words, word_mask), to_float(patches)
    uniform = patch_weights is None
    if uniform:
        patch_weights = jnp.full(patches.shape[:2], 1.0 / patches.shape[1], patches.dtype)
    has_words = word_mask.any(axis=1)  # (B,)

    if read is None:
        read = attend(words, patches, None, temperature), attend(patches, words, word_mask, temperature)
    by_words, by_patches = unit(to_float(read[0])), to_float(read[1])
    if uniform or not published:
        by_patches = unit(by_patches)
    token_mask = None if published else word_mask
    token_side = diagonal_contrast(words, by_words, word_weights, token_mask, temperature)  # (B,)
    patch_side = diagonal_contrast(patches, by_patches, patch_weights, None, temperature)  # (B,)
    both = token_side + patch_side
    return both.mean() if published else masked_mean(both, has_words)


def knowledge_patch(
    entities: jax.Array, patches: jax.Array, temperature: float = 0.1
) -> tuple[jax.Array, jax.Array]:
    """Every entity reads the patches: the heat maps of grounding, and how well the image answers.

    entities (K, D) and patches (B, N, D) unit -> cosine (B, K) of e_k with the normalised vector it read, and maps
    (B, K, N) = softmax_n(e_k . p_n / temperature). The score is s_bk = scale * cosine + bias, scalars of the method.
    """
    entities, patches = to_float(entities), to_float(patches)
    maps = jax.nn.softmax(dot("kd,bnd->bkn", entities, patches) / temperature, axis=-1)
    read = unit(dot("bkn,bnd->bkd", maps, patches))  # (B, K, D)
    return dot("kd,bkd->bk", entities, read), maps
