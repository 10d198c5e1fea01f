"""Divergence encoder: a learned Gaussian around an embedding, i.e. augmentation in feature space.

MLIP (arXiv 2402.02045) states that there is one per modality; its form is our reading (specification of MLIP, "Global
contrast with the divergence encoder"). Embedding in, view out: another reading can be put in its place.
"""
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medvlp_jax.models.heads import normalize


class DivergenceEncoder(nn.Module):
    """Two-layer MLP z -> mu, log sigma^2; view = normalize(z + mu + sigma * eps).

    log sigma^2 is learned as an offset to log sigma0^2: at the start mu is near 0 and sigma near sigma0, and weight
    decay pulls towards the prior, not towards sigma = 1, which would drown a unit vector in noise.

    Fields:
      hidden: width of the hidden layer.
      noise: expected length of the prior's noise; its standard deviation is noise / sqrt(D) in each direction.
      dtype: compute type of the Dense layers; mu, log_var and view are float32.
    """

    hidden: int = 512
    noise: float = 0.3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, eps: jax.Array | None = None) -> tuple[jax.Array, dict[str, jax.Array]]:
        """z (B, D), eps (B, D) standard normal or None (no noise) -> view (B, D) unit, {"mu", "log_var"} (B, D).

        Raises:
          ValueError: eps is not of the shape of z.
        """
        if eps is not None and eps.shape != z.shape:
            raise ValueError(f"eps {eps.shape} does not fit embeddings {z.shape}: the shapes must be equal")
        wide = jnp.float64 if jnp.dtype(self.dtype) == jnp.float64 else jnp.float32
        dim = z.shape[-1]
        small = nn.initializers.normal(1e-3)
        sigma0 = self.noise / math.sqrt(dim)

        h = nn.relu(nn.Dense(self.hidden, dtype=self.dtype, name="hidden_layer")(z))  # (B, hidden)
        mu = nn.Dense(dim, kernel_init=small, dtype=self.dtype, name="mu")(h).astype(wide)  # (B, D)
        offset = nn.Dense(dim, kernel_init=small, dtype=self.dtype, name="log_var_offset")(h).astype(wide)
        log_var = 2.0 * math.log(sigma0) + offset  # (B, D)

        view = z.astype(wide) + mu
        if eps is not None:
            view = view + jnp.exp(0.5 * log_var) * eps.astype(wide)
        return normalize(view), {"mu": mu, "log_var": log_var}
