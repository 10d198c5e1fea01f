"""Pre-norm transformer decoder that lets queries (entities, report tokens) read image patches.

Source: MedKLIP (arXiv 2301.02228) section 3.3 and its published decoder; MLIP's matching and text swapping use the same
block. No positional encodings: patches are a set, and the attention maps say where each query looked.
"""
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medvlp_jax.models.attention import attend, attention_map, norm
from medvlp_jax.models.layout import TENSOR, constrain, materialize

LAYER_NORM_EPS = 1e-5


def _dense(features: int, init_std: float, dtype, name: str) -> nn.Dense:
    """Linear layer with weights from N(0, init_std), as the reference; biases start at zero."""
    return nn.Dense(features, kernel_init=nn.initializers.normal(init_std), dtype=dtype, name=name)


class MultiHeadAttention(nn.Module):
    """Attention of `queries` over `memory`, with the head-mean map of the softmax before dropout.

    Fields:
      num_heads: must divide the width of the queries.
      dropout: on the attention weights when training, where torch's MultiheadAttention has it.
    """

    num_heads: int
    dropout: float = 0.0
    init_std: float = 0.02
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, queries: jax.Array, memory: jax.Array, key_mask: jax.Array | None = None, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """(B, Q, C), (B, N, Cm), mask (B, N) of the keys that count or None -> (B, Q, C), map (B, Q, N) in float32.

        Raises:
          ValueError: the width is not a multiple of the number of heads.
        """
        width, heads = queries.shape[-1], self.num_heads
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of num_heads={heads}")

        def split(x, name):
            x = _dense(width, self.init_std, self.dtype, name)(x)
            return constrain(x.reshape(*x.shape[:-1], heads, width // heads), None, TENSOR)  # (B, L, heads, C / heads)

        q, k, v = split(queries, "query"), split(memory, "key"), split(memory, "value")
        weights = attention_map(q, k, key_mask)  # (B, heads, Q, N); jit drops it where no one reads it
        if train and self.dropout > 0.0:
            dropped = nn.Dropout(self.dropout, deterministic=False)(weights).astype(v.dtype)
            x = jnp.einsum("bhqn,bnhd->bqhd", dropped, v)  # (B, Q, heads, C / heads)
        else:
            x = attend(q, k, v, key_mask)  # (B, Q, heads, C / heads)
        x = _dense(width, self.init_std, self.dtype, "out")(x.reshape(queries.shape[:-1] + (width,)))  # (B, Q, C)
        return x, weights.mean(axis=1)


class DecoderLayer(nn.Module):
    """x += SelfAttention(LN(x)); x += CrossAttention(LN(x), memory); x += FFN(LN(x)) with ReLU."""

    num_heads: int
    mlp_dim: int
    dropout: float = 0.0
    init_std: float = 0.02
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, memory, query_mask, train):
        def normed(x, name):
            return norm(x, LAYER_NORM_EPS, self.dtype, name)

        def attention(name):
            return MultiHeadAttention(self.num_heads, self.dropout, self.init_std, self.dtype, name=name)

        def drop(x):
            return nn.Dropout(self.dropout, deterministic=not train)(x)

        y = normed(x, "norm_self")
        y, _ = attention("self_attention")(y, y, query_mask, train)
        x = materialize(x + drop(y))  # (B, Q, C)
        y, weights = attention("cross_attention")(normed(x, "norm_cross"), memory, None, train)
        x = materialize(x + drop(y))  # (B, Q, C)
        y = _dense(self.mlp_dim, self.init_std, self.dtype, "mlp_in")(normed(x, "norm_mlp"))
        y = drop(nn.relu(constrain(y, None, TENSOR)))  # (B, Q, mlp_dim)
        x = materialize(constrain(x + drop(_dense(x.shape[-1], self.init_std, self.dtype, "mlp_out")(y))))  # (B, Q, C)
        return x, weights


class FusionDecoder(nn.Module):
    """Decoder layers, a final LayerNorm, and every layer's cross-attention map.

    Defaults are MedKLIP's. The dropout that MedKLIP applies after the decoder belongs to the method.

    Fields:
      init_std: of all weights. The reference's 0.02 suits its width of 256; much narrower decoders start nearly blind with it.
      remat: recompute each layer in the backward pass instead of keeping its activations.
      dtype: compute type; parameters are float32, LayerNorm and softmax at least float32.
    """

    width: int = 256
    depth: int = 4
    num_heads: int = 4
    mlp_dim: int = 1024
    dropout: float = 0.1
    init_std: float = 0.02
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, queries: jax.Array, memory: jax.Array, query_mask: jax.Array | None = None, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Fuses queries with memory.

        Args:
          queries: (B, Q, C), C equal to `width`.
          memory: (B, N, Cm), any width.
          query_mask: (B, Q), nonzero where a query counts; the others are no keys of the self-attention.
          train: applies dropout (needs the "dropout" rng).

        Returns:
          x (B, Q, C) and {"attention": (B, depth, Q, N)}: head-mean cross-attention of the softmax without dropout, so
          every row sums to 1 (MedKLIP's program returns the dropped weights when training).

        Raises:
          ValueError: the queries have another width.
        """
        if queries.shape[-1] != self.width:
            raise ValueError(f"queries of width {queries.shape[-1]} given to a decoder of width={self.width}")
        layer = nn.remat(DecoderLayer, static_argnums=(4,)) if self.remat else DecoderLayer
        x, memory = queries.astype(self.dtype), memory.astype(self.dtype)
        maps = []
        for i in range(self.depth):
            block = layer(self.num_heads, self.mlp_dim, self.dropout, self.init_std, self.dtype, name=f"layer{i}")
            x, weights = block(x, memory, query_mask, train)
            maps.append(weights)
        x = norm(x, LAYER_NORM_EPS, self.dtype, "norm")
        return x, {"attention": jnp.stack(maps, axis=1)}  # (B, Q, C), (B, depth, Q, N)
