"""Batch normalisation (arXiv 1502.03167) that sends as little as it can where the batch lies on many devices.

Latency, not bytes, is what statistics over a global batch cost: each is a few kilobytes that everything waits for. So both
sums that the way forward needs are taken in one pass over the input, and both that the way back needs in another; the
compiler combines two sums that do not wait for each other. Groups of rows that live on one device send nothing.
"""
import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn


class BatchNorm(nn.Module):
    """Batch normalisation whose statistics leave out masked entries, with torch's running averages.

    flax's own layer stores the biased variance; torch (and so every published checkpoint) the unbiased one. On a global
    array the statistics are those of the global batch. A batch without a counting entry leaves the averages alone.

    Fields:
      momentum: weight of the old average; torch calls 0.1 the momentum.
      rows: 0 = statistics over all rows; N = each N consecutive rows are normalised by their own, and the running averages
        move towards the mean of the groups' statistics (of those that have a counting entry).
    """

    affine: bool = True
    momentum: float = 0.9
    epsilon: float = 1e-5
    rows: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """x (B, ..., C), mask (B, ...) nonzero where an entry counts -> (B, ..., C) in float32 or wider.

        Raises:
          ValueError: `rows` does not divide B, in training.
        """
        width, shape = x.shape[-1], x.shape
        dtype = x.dtype if x.dtype == jnp.float64 else jnp.float32
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (width,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (width,), jnp.float32)
        scale, bias = jnp.ones(width, dtype), jnp.zeros(width, dtype)  # (C,)
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, (width,), jnp.float32).astype(dtype)
            bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32).astype(dtype)
        if not train:
            mean, var = running_mean.value.astype(dtype), running_var.value.astype(dtype)
            inverse = jax.lax.rsqrt(var + self.epsilon)  # (C,)
            return (x.astype(dtype) - _like(mean, x)) * _like(inverse, x) * _like(scale, x) + _like(bias, x)
        x = in_groups(x, self.rows)  # (G, N, ..., C)
        weight = None if mask is None else in_groups(mask, self.rows).astype(bool).astype(dtype)  # (G, N, ...)
        near = jax.lax.stop_gradient(running_mean.value).astype(dtype)  # (C,)
        y, mean, var, count = normalize_groups(x, weight, scale, bias, near, self.epsilon)
        if not self.is_initializing():
            some = (count > 0).astype(dtype)[:, None]  # (G, 1)
            unbiased = var * (count / jnp.maximum(count - 1.0, 1.0))[:, None]  # (G, C)
            for old, new in ((running_mean, mean), (running_var, unbiased)):
                new = (new * some).sum(0) / jnp.maximum(some.sum(), 1.0)  # (C,)
                moved = self.momentum * old.value + (1.0 - self.momentum) * new.astype(old.value.dtype)
                old.value = jnp.where(some.sum() > 0, moved, old.value)
        return y.reshape(shape)


def in_groups(x: jax.Array, rows: int) -> jax.Array:
    """(B, ...) -> (G, N, ...): groups of `rows` consecutive rows; 0 = one group of all.

    Raises:
      ValueError: `rows` does not divide B; says what would.
    """
    batch = x.shape[0]
    rows = rows or batch
    if rows < 0 or batch % rows:
        fitting = [n for n in range(1, batch + 1) if batch % n == 0]
        below, above = [n for n in fitting if n < rows][-1:], [n for n in fitting if n > rows][:1]
        raise ValueError(
            f"batch_norm_rows={rows} must divide the {batch} rows that are normalised at once (the global batch, over "
            f"model.microbatches); {' or '.join(map(str, below + above))} would fit, 0 takes all of them together"
        )
    return x.reshape(batch // rows, rows, *x.shape[1:])


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def normalize_groups(x, weight, scale, bias, near, epsilon: float):
    """Normalises each group by its own statistics.

    The variance is the mean square less the square of the mean, both taken about `near`, so that one pass gives both; the
    better `near` guesses the mean, the less rounding there is. It changes nothing else and has no gradient. Vectors of whole
    images and reports are nearly the same for all rows at first, far from any guess: in float32 and wider their mean is taken
    in a pass of its own (16-bit ones are rounded more than that mends).

    Args:
      x: (G, N, ..., C). weight: (G, N, ...) 0 or 1, None = all count. scale, bias, near: (C,) of the result's type.

    Returns:
      y (G, N, ..., C); mean, biased variance (G, C) and count (G,) of each group, which pass no gradient back.
    """
    return _forward(x, weight, scale, bias, near, epsilon)[0]


def _forward(x, weight, scale, bias, near, epsilon):
    axes = tuple(range(1, x.ndim - 1))
    if weight is None:
        count = jnp.full(x.shape[0], math.prod(x.shape[1:-1]), near.dtype)  # (G,)
    else:
        count = weight.sum(axes)  # (G,)
    divisor = jnp.maximum(count, 1.0)[:, None]  # (G, 1)

    def mean_of(x):
        return (x if weight is None else x * weight[..., None]).sum(axes) / divisor  # (G, C)

    near = jnp.broadcast_to(near, (x.shape[0], x.shape[-1]))  # (G, C)
    if x.ndim == 3 and x.dtype.itemsize > 2:
        near = near + mean_of(x - _spread(near, x))
    away = x.astype(near.dtype) - _spread(near, x)  # (G, N, ..., C)
    first, second = mean_of(away), mean_of(jnp.square(away))  # (G, C)
    mean, var = near + first, jnp.maximum(second - jnp.square(first), 0.0)  # (G, C)
    inverse = jax.lax.rsqrt(var + epsilon)  # (G, C)
    y = (x.astype(near.dtype) - _spread(mean, x)) * _spread(inverse, x) * _like(scale, x) + _like(bias, x)
    return (y, mean, var, count), (x, weight, scale, mean, inverse, divisor)


def _backward(epsilon, saved, cotangents):
    x, weight, scale, mean, inverse, divisor = saved
    dy, axes = cotangents[0], tuple(range(1, x.ndim - 1))
    unit = (x.astype(dy.dtype) - _spread(mean, x)) * _spread(inverse, x)  # (G, N, ..., C)
    total, along = dy.sum(axes), (dy * unit).sum(axes)  # (G, C): gradients of bias and scale, too
    common = _spread(total / divisor, x) + unit * _spread(along / divisor, x)  # by way of mean and variance
    common = common if weight is None else common * weight[..., None]
    dx = (dy - common) * _spread(inverse * scale[None], x)
    no_gradient = None if weight is None else jnp.zeros_like(weight)
    return dx.astype(x.dtype), no_gradient, along.sum(0), total.sum(0), jnp.zeros_like(scale)


normalize_groups.defvjp(_forward, _backward)


def _like(vector: jax.Array, x: jax.Array) -> jax.Array:
    """(C,) -> (1, ..., 1, C) with the rank of x."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def _spread(groups: jax.Array, x: jax.Array) -> jax.Array:
    """(G, C) -> (G, 1, ..., 1, C) with the rank of x."""
    return groups.reshape(groups.shape[:1] + (1,) * (x.ndim - 2) + groups.shape[1:])
