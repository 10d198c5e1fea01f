"""Ordinal regression with cumulative links (McCullagh 1980): P(y <= k) = sigmoid(theta_k - f)."""
import jax
import jax.numpy as jnp

from medvlp_jax.losses.numerics import masked_mean, same_shape, to_float

FAR = 1e4  # stands for the infinite outer thresholds


def cumulative_link_loss(scores: jax.Array, thresholds: jax.Array, grades: jax.Array) -> jax.Array:
    """Mean of -log P(y = grade) over the grades that are not negative; exactly 0 if there are none.

    Args:
      scores: f (B,), higher for more severe.
      thresholds: theta_0 < .. < theta_{G-2}, (G-1,).
      grades: (B,) from 0 to G-1; -1 unknown.
    """
    same_shape("grades", grades, scores.shape)
    mask = grades >= 0
    scores = jnp.where(mask, to_float(scores), 0.0)
    outer = jnp.full((1,), FAR, scores.dtype)
    edges = jnp.concatenate([-outer, to_float(thresholds), outer])  # (G+1,)
    grade = jnp.where(mask, grades, 0).astype(jnp.int32)
    low, high = edges[grade] - scores, edges[grade + 1] - scores  # (B,)
    # log(sigmoid(high) - sigmoid(low)) without cancellation
    log_p = jax.nn.log_sigmoid(high) + jax.nn.log_sigmoid(-low) + jnp.log1p(-jnp.exp(low - high))
    return masked_mean(-log_p, mask)
