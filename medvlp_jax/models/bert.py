"""BERT (arXiv 1810.04805) with the numerics of Hugging Face's BertModel without its pooler."""
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medvlp_jax.models.attention import Mlp, SelfAttention, norm
from medvlp_jax.models.layout import constrain, materialize

LAYER_NORM_EPS = 1e-12
INIT = nn.initializers.normal(0.02)


def _size(depth: int, width: int) -> dict[str, int]:
    return dict(width=width, depth=depth, num_heads=width // 64, mlp_dim=4 * width)


# Everything but the vocabulary, which belongs to the tokenizer. Names as in the released family.
SIZES = {
    "tiny": _size(2, 128),
    "mini": _size(4, 256),
    "small": _size(4, 512),
    "medium": _size(8, 512),
    "base": _size(12, 768),
    "large": _size(24, 1024),
}


class Block(nn.Module):
    """x = LN(x + Attention(x)); x = LN(x + MLP(x))."""

    num_heads: int
    mlp_dim: int
    dropout: float = 0.0
    norm_eps: float = LAYER_NORM_EPS
    dtype: Any = jnp.float32
    attention_kernel: str = "xla"

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """x (B, M, C), mask (B, M) -> (B, M, C), softmax weights of token 0 (B, heads, M)."""

        def drop(y):
            return nn.Dropout(self.dropout, deterministic=not train)(y)

        y, row = SelfAttention(self.num_heads, INIT, self.dtype, self.attention_kernel, name="attention")(x, mask)
        x = materialize(norm(constrain(x + drop(y)), self.norm_eps, self.dtype, "attention_norm"))  # (B, M, C)
        y = Mlp(self.mlp_dim, INIT, self.dtype, name="mlp")(x)
        return materialize(norm(constrain(x + drop(y)), self.norm_eps, self.dtype, "mlp_norm")), row


class Bert(nn.Module):
    """Post-norm transformer on word pieces.

    Fields:
      max_positions: rows of the position table, the longest text.
      type_vocab: rows of the token-type table; 0 leaves it out (MGCA's text encoder has none).
      dropout: on the embeddings and each residual branch (not on the attention weights); needs rng "dropout".
      norm_eps: of every LayerNorm.
      remat: recompute each block in the backward pass instead of keeping its activations.
      dtype: compute type; parameters are float32, LayerNorm and softmax at least float32.
      attention_kernel: of `attention.KERNELS`; with "fused" attention_mask must be a number of tokens, from the first on.
    """

    vocab_size: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    max_positions: int = 512
    type_vocab: int = 2
    dropout: float = 0.0
    norm_eps: float = LAYER_NORM_EPS
    remat: bool = False
    dtype: Any = jnp.float32
    attention_kernel: str = "xla"

    @nn.compact
    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        train: bool = False,
        position_ids: jax.Array | None = None,
        token_type_ids: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Encodes token ids.

        Args:
          input_ids: (B, M) int32.
          attention_mask: (B, M), nonzero for tokens that count. Outputs at the other positions mean nothing.
          train: applies dropout.
          position_ids: (B, M) int32; default 0..M-1.
          token_type_ids: (B, M) int32; default 0.

        Returns:
          hidden (B, M, width) of the last block, and out:
            cls (B, width), hidden at token 0; attention (B, M), head-mean weights of token 0 in the last block;
            embedding (B, M, width); block_0.. (B, M, width) after each block.

        Raises:
          ValueError: text longer than the position table, or token types given to a model without their table.
        """
        length = input_ids.shape[1]
        if position_ids is None and length > self.max_positions:
            raise ValueError(f"text of {length} tokens, but the position table has {self.max_positions} rows")
        if token_type_ids is not None and not self.type_vocab:
            raise ValueError("token_type_ids given to a model with type_vocab=0")

        def embed(rows, ids, name):
            return nn.Embed(rows, self.width, embedding_init=INIT, dtype=self.dtype, name=name)(ids)

        position_ids = jnp.arange(length, dtype=jnp.int32)[None] if position_ids is None else position_ids
        x = embed(self.vocab_size, input_ids, "word")  # (B, M, C)
        x = x + embed(self.max_positions, position_ids, "position")
        if self.type_vocab:
            types = jnp.zeros((1, 1), jnp.int32) if token_type_ids is None else token_type_ids
            x = x + embed(self.type_vocab, types, "token_type")
        x = norm(x, self.norm_eps, self.dtype, "embedding_norm")
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        out = {"embedding": x}
        block = nn.remat(Block, static_argnums=(3,)) if self.remat else Block
        for i in range(self.depth):
            x, row = block(
                self.num_heads, self.mlp_dim, self.dropout, self.norm_eps, self.dtype, self.attention_kernel,
                name=f"block_{i}",
            )(x, attention_mask, train)  # fmt: skip
            out[f"block_{i}"] = x
        return x, out | {"cls": x[:, 0], "attention": row.mean(axis=1)}
