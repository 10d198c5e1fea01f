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


EQUAL = ("negatives", "masked", "positives")  # what equal reports of other rows are


def info_nce(
    a: jax.Array, b: jax.Array, temperature, valid: jax.Array | None = None, keys: jax.Array | None = None,
    equal: str = "negatives",
) -> jax.Array:  # fmt: skip
    """InfoNCE of matching rows of a and b, mean of both directions (specification of MLIP, "Global contrast").

    MGCA's ITA and ConVIRT-style sums of both directions are twice this.

    Args:
      a, b: (B, D) unit embeddings; row i of a belongs to row i of b.
      temperature: number or scalar array (learned).
      valid: (B,) nonzero where the pair exists; the others are neither rows nor negatives. No pair at all gives 0.
      keys: (B, G) integers that are the same where the reports are (`report_keys`); None: all reports differ.
      equal: what rows with the report of row i are to row i: "negatives"; "masked", out of its denominator; "positives", so
        that the loss is the mean of -log p over them and its own pair (Khosla et al. 2020, L_out).

    Raises:
      ValueError: shapes that do not fit, or an unknown `equal`.
    """
    same_shape("b", b, a.shape)
    valid = counting(valid, a.shape[:1])  # (B,)
    a, b = keep(a, valid), keep(b, valid)
    scale = 1.0 / jnp.asarray(temperature, a.dtype)
    logits = dot("id,jd->ij", a, b) * scale  # (B, B)
    keys, row = _keys(keys, equal, len(a)), jnp.arange(len(a))
    same = _same(keys, keys) & valid[:, None] & valid[None, :]  # (B, B)
    itself = row[:, None] == row[None, :]
    allowed = valid[:, None] & valid[None, :]
    if equal == "masked":
        allowed &= itself | ~same
    logits = jnp.where(allowed, logits, MASKED)
    # The positives are computed again: taking the diagonal would gather the whole B x B matrix on every device.
    a_mean, b_mean = a, b
    if equal == "positives":
        share = (same | itself).astype(a.dtype)
        share = share / share.sum(1, keepdims=True)
        a_mean, b_mean = dot("ij,jd->id", share, a), dot("ij,jd->id", share, b)
    rows = jax.nn.logsumexp(logits, axis=1) - dot("id,id->i", a, b_mean) * scale  # (B,) a -> b
    columns = jax.nn.logsumexp(logits, axis=0) - dot("id,id->i", b, a_mean) * scale  # (B,) b -> a
    return masked_mean(0.5 * (rows + columns), valid)


def report_keys(ids: jax.Array) -> jax.Array:
    """Token ids (B, M) -> (B, 2) uint32 that are equal for equal reports, and for others but once in 2^64 pairs.

    Two polynomials modulo 2^32: the rows are compared without B x B x M values.
    """
    bases = jnp.array([[0x9E3779B1], [0x85EBCA77]], jnp.uint32)  # odd, so that no place loses bits
    powers = jnp.cumprod(jnp.broadcast_to(bases, (2, ids.shape[1])), axis=1)[None]  # (1, 2, M)
    mixed = ids.astype(jnp.uint32) * jnp.uint32(0xC2B2AE3D)
    mixed = (mixed ^ (mixed >> jnp.uint32(15))) * jnp.uint32(0x27D4EB2F)
    return (mixed[:, None] * powers).sum(-1, dtype=jnp.uint32)  # (B, 2)


def _keys(keys, equal: str, rows: int) -> jax.Array:
    """Keys (B, G), a different one for each row where nothing asks for more."""
    if equal not in EQUAL:
        raise ValueError(f"unknown equal={equal!r}; known: {', '.join(EQUAL)}")
    if keys is None or equal == "negatives":
        return jnp.arange(rows, dtype=jnp.uint32)[:, None]
    if keys.shape[0] != rows or keys.ndim != 2:
        raise ValueError(f"keys: expected shape ({rows}, G), came {tuple(keys.shape)}")
    return keys


def _same(x: jax.Array, y: jax.Array) -> jax.Array:
    """Keys (n, G), (m, G) -> (n, m) bool, true where they are equal."""
    return (x[:, None] == y[None]).all(-1)


def chunked_info_nce(
    a: jax.Array, b: jax.Array, temperature, valid: jax.Array | None = None, keys: jax.Array | None = None,
    equal: str = "negatives", chunk: int = 1024,
) -> jax.Array:  # fmt: skip
    """`info_nce`, value and gradient, of which a device never holds more than (its rows) x `chunk` logits.

    Rows are split over the axes "data" and "fsdp" of the mesh in force (`jax.set_mesh`); without one all is in one place. Every
    device gathers the embeddings, B x D, and goes through them `chunk` rows at a time; the backward pass computes the logits
    again and adds the gradients of the embeddings up where they belong.

    Raises:
      ValueError: as `info_nce`, or a chunk below 1.
    """
    same_shape("b", b, a.shape)
    if chunk < 1:
        raise ValueError(f"chunk must be positive, came {chunk}")
    valid = counting(valid, a.shape[:1])  # (B,)
    a, b = keep(a, valid), keep(b, valid)
    scale = 1.0 / jnp.asarray(temperature, a.dtype)
    keys, row = _keys(keys, equal, len(a)), jnp.arange(len(a))
    axes = tuple(a for a in jax.sharding.get_abstract_mesh().axis_names if a in BATCH)
    local = functools.partial(_local_info_nce, axes=axes, equal=equal, chunk=chunk)
    if not axes:
        return local(a, b, scale, valid, keys, row)
    specs = P(axes), P(axes), P(), P(axes), P(axes), P(axes)
    return jax.shard_map(local, in_specs=specs, out_specs=P())(a, b, scale, valid, keys, row)


def _local_info_nce(a, b, scale, valid, keys, row, axes, equal, chunk):
    """Mean over all devices from this one's rows a, b (b, D), valid (b,), keys (b, G) and row numbers (b,)."""

    def of_all(x):
        return jax.lax.all_gather(x, axes, tiled=True) if axes else x

    def total(x):
        return jax.lax.psum(x, axes) if axes else x

    known = of_all(valid), of_all(keys), of_all(row)  # (B,), (B, G), (B,)

    def one_way(x, y):
        """Loss (b,) of this device's x (b, D) against all y."""
        size, positive = _chunked(x * scale, of_all(y), (keys, row), known, equal, chunk)
        return size - (dot("id,id->i", x, positive if equal == "positives" else y) * scale)

    losses = jnp.where(valid, 0.5 * (one_way(a, b) + one_way(b, a)), 0.0)
    return total(losses.sum()) / jnp.maximum(total(valid.sum().astype(losses.dtype)), 1.0)


def _chunked(x: jax.Array, y: jax.Array, mine: tuple, known: tuple, equal: str, chunk: int) -> tuple[jax.Array, jax.Array]:
    """Goes through y (B, D) `chunk` rows at a time, for x (b, D) with keys and row numbers `mine`.

    known: valid, keys and row numbers of all rows.

    Returns:
      logsumexp_j x_i . y_j (b,) over the valid j that `equal` allows, and the mean (b, D) of the valid y_j with x_i's report.
    """
    chunk, (keys, row) = min(chunk, len(y)), mine
    rest = -len(y) % chunk
    padded = [jnp.pad(z, ((0, rest), *((0, 0),) * (z.ndim - 1))) for z in (y, *known)]
    pieces = tuple(z.reshape(-1, chunk, *z.shape[1:]) for z in padded)

    @jax.checkpoint
    def piece(y, valid, their_keys, their_row):
        itself = row[:, None] == their_row[None, :]  # padding has row 0, too, but is not valid
        same = (_same(keys, their_keys) | itself) & valid[None]  # (b, chunk)
        allowed = valid[None] & (itself | ~same) if equal == "masked" else valid[None]
        size = jax.nn.logsumexp(jnp.where(allowed, dot("id,jd->ij", x, y), MASKED), axis=1)  # (b,)
        if equal != "positives":
            return size, jnp.zeros(x.shape, x.dtype), jnp.zeros(row.shape, x.dtype)
        share = same.astype(x.dtype)
        return size, dot("ij,jd->id", share, y), share.sum(1)

    def add(so_far, of_piece):
        size, positive, count = piece(*of_piece)
        return (jnp.logaddexp(so_far[0], size), so_far[1] + positive, so_far[2] + count), None

    first = piece(*(p[0] for p in pieces))
    size, positive, count = jax.lax.scan(add, first, tuple(p[1:] for p in pieces))[0]
    return size, positive / jnp.maximum(count, 1.0)[:, None]


def chosen(chunk: int, equal: str = "negatives") -> Callable[..., jax.Array]:
    """`info_nce`, or with a chunk above 0 its chunked form: config.objective.contrast_chunk and .equal_reports."""
    form = functools.partial(chunked_info_nce, chunk=chunk) if chunk else info_nce
    return functools.partial(form, equal=equal)


def kl_divergence(
    mu: jax.Array, log_var: jax.Array, sigma0: float, valid: jax.Array | None = None
) -> jax.Array:
    """KL(N(mu, sigma^2) || N(0, sigma0^2)) in closed form, in nats: summed over D, mean over the valid rows.

    It keeps the divergent views diverse (sigma cannot collapse) and close in meaning (mu stays small).

    Args:
      mu, log_var: (B, D) mean and log variance.
      sigma0: standard deviation of the prior.
      valid: (B,) nonzero where the row counts.
    """
    same_shape("log_var", log_var, mu.shape)
    valid = counting(valid, mu.shape[:1])  # (B,)
    prior = 2.0 * math.log(sigma0)  # log sigma0^2
    mu, offset = keep(mu, valid), keep(to_float(log_var) - prior, valid)  # (B, D)
    kl = 0.5 * (jnp.exp(offset) + mu * mu * math.exp(-prior) - 1.0 - offset)  # (B, D)
    return masked_mean(kl.sum(axis=-1), valid)
