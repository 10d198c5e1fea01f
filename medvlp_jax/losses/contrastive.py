"""Global contrast of images and reports, and the KL term of the divergence encoder.

Written on global arrays: under jit with a sharded batch the compiler gathers the embeddings (B x D), nothing larger.
`chunked_info_nce` says the same by hand, without the B x B logits.
"""
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from medvlp_jax.losses.numerics import MASKED, counting, dot, keep, masked_mean, same_shape, to_float

BATCH = ("data", "fsdp")  # mesh axes that split rows (models/layout.py, which losses do not import)


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


def chunked_info_nce(
    a: jax.Array, b: jax.Array, temperature, valid: jax.Array | None = None, chunk: int = 1024
) -> jax.Array:
    """`info_nce`, value and gradient, of which a device never holds more than (its rows) x `chunk` logits.

    Rows are split over the axes "data" and "fsdp" of the mesh in force (`jax.set_mesh`); without one all is in one place. Every
    device gathers the embeddings, B x D, and goes through them `chunk` rows at a time; the backward pass computes the logits
    again and adds the gradients of the embeddings up where they belong.

    Raises:
      ValueError: shapes that do not fit, or a chunk below 1.
    """
    same_shape("b", b, a.shape)
    if chunk < 1:
        raise ValueError(f"chunk must be positive, came {chunk}")
    valid = counting(valid, a.shape[:1])  # (B,)
    a, b = keep(a, valid), keep(b, valid)
    scale = 1.0 / jnp.asarray(temperature, a.dtype)
    axes = tuple(a for a in jax.sharding.get_abstract_mesh().axis_names if a in BATCH)
    local = functools.partial(_local_info_nce, axes=axes, chunk=chunk)
    if not axes:
        return local(a, b, scale, valid)
    return jax.shard_map(local, in_specs=(P(axes), P(axes), P(), P(axes)), out_specs=P())(a, b, scale, valid)


def _local_info_nce(a, b, scale, valid, axes, chunk):
    """Mean over all devices from this one's rows a, b (b, D) and valid (b,)."""

    def of_all(x):
        return jax.lax.all_gather(x, axes, tiled=True) if axes else x

    def total(x):
        return jax.lax.psum(x, axes) if axes else x

    everyone = of_all(valid)  # (B,)
    positive = dot("id,id->i", a, b) * scale  # (b,)
    rows = _chunked_logsumexp(a * scale, of_all(b), everyone, chunk)  # (b,) a -> b
    columns = _chunked_logsumexp(b * scale, of_all(a), everyone, chunk)  # (b,) b -> a
    losses = jnp.where(valid, 0.5 * (rows + columns) - positive, 0.0)
    return total(losses.sum()) / jnp.maximum(total(valid.sum().astype(losses.dtype)), 1.0)


def _chunked_logsumexp(x: jax.Array, y: jax.Array, valid: jax.Array, chunk: int) -> jax.Array:
    """logsumexp_j x_i . y_j over the valid j: x (b, D), y (B, D), valid (B,) -> (b,), `chunk` of the j at a time."""
    chunk = min(chunk, len(y))
    rest = -len(y) % chunk
    y, valid = jnp.pad(y, ((0, rest), (0, 0))), jnp.pad(valid, (0, rest))
    pieces = y.reshape(-1, chunk, y.shape[1]), valid.reshape(-1, chunk)

    @jax.checkpoint
    def piece(y, valid):
        return jax.nn.logsumexp(jnp.where(valid[None], dot("id,jd->ij", x, y), MASKED), axis=1)  # (b,)

    def add(so_far, of_piece):
        return jnp.logaddexp(so_far, piece(*of_piece)), None

    return jax.lax.scan(add, piece(pieces[0][0], pieces[1][0]), jax.tree.map(lambda p: p[1:], pieces))[0]


def chosen(chunk: int) -> Callable[..., jax.Array]:
    """`info_nce`, or with a chunk above 0 its chunked form: config.objective.contrast_chunk."""
    return functools.partial(chunked_info_nce, chunk=chunk) if chunk else info_nce


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
