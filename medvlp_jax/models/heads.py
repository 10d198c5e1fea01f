"""Projection of trunk features to the shared embedding space (specification of MLIP, "Encoders and projections")."""
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medvlp_jax.models.batch_norm import BatchNorm


def normalize(x: jax.Array, eps: float = 1e-12) -> jax.Array:
    """x / max(|x|, eps) over the last axis, in float32 or wider; the gradient at 0 is finite, not NaN."""
    x = x if x.dtype == jnp.float64 else x.astype(jnp.float32)
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), eps**2))


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
