"""What the transformer trunks share: LayerNorm in float32, multi-head attention, attention maps, and the MLP."""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medvlp_jax.models import fused_attention
from medvlp_jax.models.layout import TENSOR, constrain, platform

# Of self-attention. "xla": products and softmax, whose scores go through main memory. "fused": one kernel that keeps them on
# the chip (fused_attention.py): on a GPU cuDNN's, for 16-bit types; on a TPU ours, for rows and a mesh that it fits. Everywhere
# else, and for other types, the same as "xla".
KERNELS = ("xla", "fused")


def wide(dtype) -> Any:
    """Type of LayerNorm and softmax for a compute type: float32, but float64 for float64."""
    return jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32


def norm(x: jax.Array, epsilon: float, dtype, name: str) -> jax.Array:
    """LayerNorm submodule `name` of the calling compact method: computed in float32 or wider, returned as `dtype`.

    The two-pass variance is kept: features of trained trunks have channels far from zero.
    """
    layer = nn.LayerNorm(epsilon, dtype=wide(dtype), use_fast_variance=False, name=name)
    with jax.numpy_dtype_promotion("standard"):  # flax's own code mixes float64 and float32
        return layer(x.astype(wide(dtype))).astype(dtype)


def attention_map(query: jax.Array, key: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Softmax weights that `jax.nn.dot_product_attention` uses but does not give out.

    Args:
      query: (B, Q, heads, D); pass only the rows that are wanted.
      key: (B, N, heads, D).
      mask: (B, N), nonzero for the keys that count; a row without any is uniform, not NaN.

    Returns:
      (B, heads, Q, N) in float32 or wider.
    """
    logits = jnp.einsum("bqhd,bnhd->bhqn", query, key, preferred_element_type=wide(query.dtype))
    logits = logits * query.shape[-1] ** -0.5
    if mask is not None:
        logits = jnp.where(mask.astype(bool)[:, None, None, :], logits, -0.7 * jnp.finfo(logits.dtype).max)
    return jax.nn.softmax(logits, axis=-1)  # (B, heads, Q, N)


def attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None, kernel: str = "xla"
) -> jax.Array:
    """softmax(query key^T / sqrt(D)) value, through jax.nn.dot_product_attention or a fused kernel.

    Args:
      query: (B, Q, heads, D); key, value: (B, N, heads, D).
      mask: (B, N), nonzero for the keys that count; with "fused" they must come first (padding at the end), as cuDNN wants.
      kernel: of `KERNELS`.

    Returns:
      (B, Q, heads, D).

    Raises:
      ValueError: an unknown kernel.
    """
    if kernel not in KERNELS:
        raise ValueError(f"unknown attention_kernel {kernel!r}; known: {', '.join(KERNELS)}")
    target = platform() if kernel == "fused" else ""
    if target == "gpu" and query.dtype in (jnp.bfloat16, jnp.float16):
        return fused_attention.by_cudnn(query, key, value, mask)
    if target == "tpu" and fused_attention.fits_tpu(query, key):
        return fused_attention.by_pallas(query, key, value, mask)
    if query.dtype == jnp.float64:  # jax's softmax is float32 always
        return jnp.einsum("bhqn,bnhd->bqhd", attention_map(query, key, mask), value)
    mask = None if mask is None else mask.astype(bool)[:, None, None, :]  # (B, 1, 1, N)
    with jax.numpy_dtype_promotion("standard"):  # jax's own code mixes bfloat16 and float32
        return jax.nn.dot_product_attention(query, key, value, mask=mask)


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU by erf, as torch computes it; jax.nn.gelu goes by erfc, which XLA makes four times slower on CPU."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


class SelfAttention(nn.Module):
    """Multi-head self-attention without dropout on its weights (fused kernels cannot have it).

    Fields:
      num_heads: must divide the width.
      kernel_init: of the four projections query, key, value, out.
      kernel: of `KERNELS`.
    """

    num_heads: int
    kernel_init: Callable = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32
    kernel: str = "xla"

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """x (B, N, C), mask (B, N) nonzero for the keys that count -> (B, N, C), first row's weights (B, heads, N).

        The first row is that of the class token; jit drops it where no one reads it.

        Raises:
          ValueError: the width is not a multiple of the number of heads.
        """
        width = x.shape[-1]
        if width % self.num_heads:
            raise ValueError(f"width {width} is not a multiple of num_heads={self.num_heads}")

        def dense(name, x):
            return nn.Dense(width, kernel_init=self.kernel_init, dtype=self.dtype, name=name)(x)

        heads = (*x.shape[:-1], self.num_heads, width // self.num_heads)
        q, k, v = (
            constrain(dense(name, x).reshape(heads), None, TENSOR) for name in ("query", "key", "value")
        )  # (B, N, heads, D)
        y = attend(q, k, v, mask, self.kernel)  # (B, N, heads, D)
        return dense("out", y.reshape(x.shape)), attention_map(q[:, :1], k, mask)[:, :, 0]


class Mlp(nn.Module):
    """Dense, exact (erf) GELU, Dense back to the width of the input."""

    hidden: int
    kernel_init: Callable = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x (..., C) -> (..., C)."""
        y = nn.Dense(self.hidden, kernel_init=self.kernel_init, dtype=self.dtype, name="fc1")(x)  # (..., hidden)
        y = gelu(constrain(y, *[None] * (y.ndim - 2), TENSOR))
        return nn.Dense(x.shape[-1], kernel_init=self.kernel_init, dtype=self.dtype, name="fc2")(y)
