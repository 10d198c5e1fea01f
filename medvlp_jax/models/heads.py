"""Projection of trunk features to the shared embedding space (specification of MLIP, "Encoders and projections")."""
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


def normalize(x: jax.Array, eps: float = 1e-12) -> jax.Array:
    """x / max(|x|, eps) over the last axis, in float32 or wider; the gradient at 0 is finite, not NaN."""
    x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), eps**2))


class BatchNorm(nn.Module):
    """Batch normalisation whose statistics leave out masked entries, with torch's running averages.

    flax's own layer stores the biased variance; torch (and so every published checkpoint) the unbiased one. On a global
    array the statistics are those of the global batch. A batch without a counting entry leaves the averages alone.
    """

    affine: bool = True
    momentum: float = 0.9  # weight of the old average; torch calls 0.1 the momentum
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """x (..., C), mask (...) nonzero where an entry counts -> (..., C) in float32 or wider."""
        width = x.shape[-1]
        x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (width,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (width,), jnp.float32)
        if train:
            weight = jnp.ones(x.shape[:-1], x.dtype) if mask is None else mask.astype(bool).astype(x.dtype)  # (...)
            count, axes = weight.sum(), tuple(range(x.ndim - 1))
            divisor, weight = jnp.maximum(count, 1.0), weight[..., None]
            mean = (x * weight).sum(axes) / divisor  # (C,)
            var = (jnp.square(x - _like(mean, x)) * weight).sum(axes) / divisor  # (C,)
            if not self.is_initializing():
                unbiased = var * divisor / jnp.maximum(divisor - 1.0, 1.0)
                for old, new in ((running_mean, mean), (running_var, unbiased)):
                    moved = self.momentum * old.value + (1.0 - self.momentum) * new.astype(old.value.dtype)
                    old.value = jnp.where(count > 0, moved, old.value)
        else:
            mean, var = running_mean.value.astype(x.dtype), running_var.value.astype(x.dtype)
        y = (x - _like(mean, x)) * _like(jax.lax.rsqrt(var + self.epsilon), x)
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, (width,), jnp.float32).astype(x.dtype)
            bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32).astype(x.dtype)
            y = y * _like(scale, x) + _like(bias, x)
        return y


def _like(vector: jax.Array, x: jax.Array) -> jax.Array:
    """(C,) -> (1, ..., 1, C) with the rank of x."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


class ProjectionHead(nn.Module):
    """Dense, BatchNorm, ReLU, Dense, BatchNorm without affine. The same head serves global and local features.

    Fields:
      hidden, out_dim: widths of the two layers.
      dtype: compute type of the two Dense layers; the BatchNorms and the result are float32 (losses take them as such).
    """

    hidden: int = 2048
    out_dim: int = 128
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None, train: bool = False) -> jax.Array:
        """x (..., C) -> (..., out_dim), not normalised; batch statistics over all leading axes.

        mask (...) is nonzero where an entry counts in the statistics; None counts all (as MGCA, padding included).

        Raises:
          ValueError: the mask is not of the leading shape of x.
        """
        if mask is not None and mask.shape != x.shape[:-1]:
            raise ValueError(f"mask {mask.shape} does not fit features {x.shape}: expected {x.shape[:-1]}")
        x = nn.Dense(self.hidden, dtype=self.dtype, name="dense1")(x)  # (..., hidden)
        x = nn.relu(BatchNorm(name="norm1")(x, mask, train))
        x = nn.Dense(self.out_dim, dtype=self.dtype, name="dense2")(x.astype(self.dtype))  # (..., out_dim)
        return BatchNorm(affine=False, name="norm2")(x, mask, train)  # (..., out_dim)
