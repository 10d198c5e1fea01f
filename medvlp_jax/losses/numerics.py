"""Arithmetic shared by the losses: float32 inside, masks as weights with guarded denominators, no NaN from emptiness.

Conventions: a mask is any array that is nonzero where an entry counts. Entries that do not count are replaced *before*
any non-linear function, because a NaN or an overflow there would come back through the gradient as 0 * NaN.
"""
import jax
import jax.numpy as jnp

MASKED = -1e30  # logit of an excluded entry: finite, so that a row without entries gives finite values and gradients


def to_float(x: jax.Array) -> jax.Array:
    """float32, except that float64 stays (numerical checks)."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def keep(x: jax.Array, mask: jax.Array) -> jax.Array:
    """x (..., D) as float with the entries outside of mask (...) set to zero, for the gradient too."""
    return jnp.where(mask.astype(bool)[..., None], to_float(x), 0.0)


def counting(mask: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
    """Boolean mask of this shape; None means that all count.

    Raises:
      ValueError: the mask has another shape.
    """
    if mask is None:
        return jnp.ones(shape, bool)
    same_shape("mask", mask, shape)
    return mask.astype(bool)


def same_shape(name: str, x: jax.Array, shape: tuple[int, ...]) -> None:
    """Raises ValueError, naming what was expected and what came, unless x has this shape."""
    if tuple(x.shape) != tuple(shape):
        raise ValueError(f"{name}: expected shape {tuple(shape)}, came {tuple(x.shape)}")


def dot(subscripts: str, *operands: jax.Array) -> jax.Array:
    """Einsum in full float32: accelerators default to bfloat16 products, too coarse for a temperature of 0.07."""
    return jnp.einsum(subscripts, *operands, precision=jax.lax.Precision.HIGHEST)


def unit(x: jax.Array, eps: float = 1e-12) -> jax.Array:
    """x / max(|x|, eps) over the last axis; finite gradient at zero."""
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), eps**2))


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of the values whose mask (same shape) is nonzero; exactly 0 if there are none."""
    mask = mask.astype(bool)
    return jnp.where(mask, values, 0.0).sum() / jnp.maximum(mask.sum().astype(values.dtype), 1.0)


def masked_softmax(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax over the last axis among the entries that count; a row without any is all zeros."""
    mask = mask.astype(bool)
    return jnp.where(mask, jax.nn.softmax(jnp.where(mask, logits, MASKED), axis=-1), 0.0)
