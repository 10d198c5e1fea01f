"""Global contrast of images and reports, and the KL term of the divergence encoder.

Written on global arrays: under jit with a sharded batch the compiler gathers the embeddings (B x D), nothing larger.
"""
import math

import jax
import jax.numpy as jnp

from medvlp_jax.losses.numerics import MASKED, counting, dot, keep, masked_mean, same_shape, to_float


def info_nce(a: jax.Array, b: jax.Array, temperature, valid: jax.Array | None = None) -> jax.Array:
    """InfoNCE of matching rows of a and b, mean of both directions (specification of MLIP, "Global contrast").

    MGCA's ITA and ConVIRT-style sums of both directions are twice this.

    Args:
      a, b: (B, D) unit embeddings; row i of a belongs to row i of b.
      temperature: number or scalar array (learned).
      valid: (B,) nonzero where the pair exists; the others are neither rows nor negatives. No pair at all gives 0.

    Raises:
      ValueError: shapes that do not fit.
    """
    same_shape("b", b, a.shape)
    valid = counting(valid, a.shape[:1])  # (B,)
    a, b = keep(a, valid), keep(b, valid)
    scale = 1.0 / jnp.asarray(temperature, a.dtype)
    logits = dot("id,jd->ij", a, b) * scale  # (B, B)
    logits = jnp.where(valid[:, None] & valid[None, :], logits, MASKED)
    # The positives are computed again: taking the diagonal would gather the whole B x B matrix on every device.
    positive = dot("id,id->i", a, b) * scale  # (B,)
    rows = jax.nn.logsumexp(logits, axis=1) - positive  # (B,) a -> b
    columns = jax.nn.logsumexp(logits, axis=0) - positive  # (B,) b -> a
    return masked_mean(0.5 * (rows + columns), valid)


def kl_divergence(
    mu: jax.Array, log_var: jax.Array, sigma0: float | None = None, valid: jax.Array | None = None
) -> jax.Array:
    """KL(N(mu, sigma^2) || N(0, sigma0^2)) in closed form, in nats: summed over D, mean over the valid rows.

    It keeps the divergent views diverse (sigma cannot collapse) and close in meaning (mu stays small).

    Args:
      mu, log_var: (B, D) mean and log variance.
      sigma0: standard deviation of the prior; None gives 0.3 / sqrt(D), as in `models.divergence`.
      valid: (B,) nonzero where the row counts.
    """
    same_shape("log_var", log_var, mu.shape)
    valid = counting(valid, mu.shape[:1])  # (B,)
    prior = 2.0 * math.log(sigma0 or 0.3 / math.sqrt(mu.shape[-1]))  # log sigma0^2
    mu, offset = keep(mu, valid), keep(to_float(log_var) - prior, valid)  # (B, D)
    kl = 0.5 * (jnp.exp(offset) + mu * mu * math.exp(-prior) - 1.0 - offset)  # (B, D)
    return masked_mean(kl.sum(axis=-1), valid)
