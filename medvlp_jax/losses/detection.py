"""YOLOv3's loss (arXiv 1804.02767) on anchors that are already paired with their boxes."""
import jax
import jax.numpy as jnp

from medvlp_jax.losses.numerics import same_shape, to_float


def _bce(logits, positive):
    return jax.nn.softplus(jnp.where(positive, -logits, logits))


def yolo_loss(
    raw: jax.Array, offset: jax.Array, classes: jax.Array, owned: jax.Array, ignored: jax.Array, weight: jax.Array,
    empty_weight: float = 0.5,
) -> tuple[jax.Array, dict[str, jax.Array]]:  # fmt: skip
    """Sum over anchors, divided by the number of anchors that own a box (at least 1).

    Args:
      raw: (B, N, 5 + C) outputs: x, y (logits of the place within the cell), w, h (logarithms relative to the anchor's),
        objectness, classes.
      offset: (B, N, 4) what x, y (0..1), w, h should be; read where owned.
      classes: (B, N) int class of the owned box; read where owned.
      owned: (B, N) bool, anchors that a box was given to. ignored: (B, N) bool, anchors without a box that overlap one so
        well that they are not told to be empty.
      weight: (B, N) of an anchor's box terms: 2 - area, so that small boxes count as much.
      empty_weight: of anchors that should be empty.

    Returns:
      the sum of the terms, {"box", "object", "class"}: squared error of place and size, cross-entropies.
    """
    same_shape("offset", offset, (*raw.shape[:2], 4))
    raw = to_float(raw)
    count = jnp.maximum(owned.sum().astype(raw.dtype), 1.0)

    def mean(values, mask):
        return jnp.where(mask, values, 0.0).sum() / count

    place = jnp.concatenate([jax.nn.sigmoid(raw[..., :2]), raw[..., 2:4]], axis=-1)  # (B, N, 4)
    error = jnp.square(place - jnp.where(owned[..., None], offset, 0.0)).sum(-1)
    empty = ~(owned | ignored)
    hit = jax.nn.one_hot(classes, raw.shape[-1] - 5) > 0  # (B, N, C)
    terms = {
        "box": mean(weight * error, owned),
        "object": mean(_bce(raw[..., 4], owned), owned) + empty_weight * mean(_bce(raw[..., 4], owned), empty),
        "class": mean(_bce(raw[..., 5:], hit).sum(-1), owned),
    }
    return sum(terms.values()), terms
