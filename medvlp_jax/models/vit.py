"""Vision transformer (arXiv 2010.11929) with the numerics of timm/DeiT, optionally with DINOv2's layer scale.

Learned positions are kept as a grid and resampled to the grid of the image, so one set of weights takes any resolution.
"""
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from medvlp_jax.models.attention import Mlp, SelfAttention, norm
from medvlp_jax.models.layout import constrain, materialize

LAYER_NORM_EPS = 1e-6
TOKEN_INIT = nn.initializers.truncated_normal(0.02)


def _size(patch_size: int, width: int, depth: int, num_heads: int) -> dict[str, int]:
    return dict(patch_size=patch_size, width=width, depth=depth, num_heads=num_heads, mlp_dim=4 * width)


SIZES = {
    "Ti/16": _size(16, 192, 12, 3),
    "S/14": _size(14, 384, 12, 6),
    "S/16": _size(16, 384, 12, 6),
    "B/14": _size(14, 768, 12, 12),
    "B/16": _size(16, 768, 12, 12),
    "L/14": _size(14, 1024, 24, 16),
    "L/16": _size(16, 1024, 24, 16),
}


def _cubic_matrix(old: int, new: int) -> np.ndarray:
    """(new, old) weights of bicubic resampling as torch does it: a = -0.75, half-pixel centres, clamped borders."""
    a = -0.75
    position = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(position).astype(int)
    matrix = np.zeros((new, old))
    for tap in range(-1, 3):
        d = np.abs(position - (first + tap))
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = a * (((d - 5) * d + 8) * d - 4)
        np.add.at(matrix, (np.arange(new), np.clip(first + tap, 0, old - 1)), np.where(d <= 1, near, far))
    return matrix


def interpolate_positions(positions: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Position grid (h, w, C) -> (*grid, C): bicubic, antialias=False, align_corners=False, as DINOv2 in transformers."""
    if positions.shape[:2] == tuple(grid):
        return positions
    rows, columns = (
        jnp.asarray(_cubic_matrix(old, new), positions.dtype)
        for old, new in zip(positions.shape[:2], grid, strict=True)
    )
    return jnp.einsum("yh,xw,hwc->yxc", rows, columns, positions)


class Block(nn.Module):
    """x += scale * Attention(LN(x)); x += scale * MLP(LN(x))."""

    num_heads: int
    mlp_dim: int
    layer_scale: float | None = None
    dropout: float = 0.0
    norm_eps: float = LAYER_NORM_EPS
    dtype: Any = jnp.float32
    attention_kernel: str = "xla"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        """x (B, N, C) -> (B, N, C), softmax weights of token 0 (B, heads, N)."""

        def branch(y, name):
            if self.layer_scale is not None:
                init = nn.initializers.constant(self.layer_scale)
                y = y * self.param(name, init, y.shape[-1:], jnp.float32).astype(y.dtype)[None, None]
            return nn.Dropout(self.dropout, deterministic=not train)(y)

        y = norm(x, self.norm_eps, self.dtype, "attention_norm")
        y, row = SelfAttention(self.num_heads, dtype=self.dtype, kernel=self.attention_kernel, name="attention")(y)
        x = materialize(constrain(x + branch(y, "attention_layer_scale")))  # (B, N, C)
        y = Mlp(self.mlp_dim, dtype=self.dtype, name="mlp")(norm(x, self.norm_eps, self.dtype, "mlp_norm"))
        return materialize(constrain(x + branch(y, "mlp_layer_scale"))), row


class ViT(nn.Module):
    """Pre-norm transformer on image patches and one class token.

    Fields:
      layer_scale: initial value of DINOv2's learned scale on each residual branch; None leaves the scales out.
      dropout: after the positions and on each residual branch (not on the attention weights); needs rng "dropout".
      norm_eps: of every LayerNorm; 1e-6 in timm and DINOv2, 1e-12 in Hugging Face's copies of Google's and DINO's weights.
      remat: recompute each block in the backward pass instead of keeping its activations.
      dtype: compute type; parameters are float32, LayerNorm and softmax at least float32.
      attention_kernel: of `attention.KERNELS`.
    """

    patch_size: int
    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    layer_scale: float | None = None
    dropout: float = 0.0
    norm_eps: float = LAYER_NORM_EPS
    remat: bool = False
    dtype: Any = jnp.float32
    attention_kernel: str = "xla"

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Encodes normalised images.

        Args:
          image: (B, H, W, 3) float; H and W multiples of the patch size, not necessarily those of training.
          train: applies dropout.

        Returns:
          x (B, width), the class token after the final norm, and out:
            patch_tokens (B, N, width) after the final norm, row-major;
            attention (B, N) of the last block from class token to patches, head mean (without the class token's own
            share, so a row sums to less than 1);
            patch_embedding (B, N, width) before positions; block_0.. (B, 1 + N, width) residual stream after each block.

        Raises:
          ValueError: the image is not a whole number of patches.
        """
        p, c = self.patch_size, self.width
        batch, *size, _ = image.shape
        if size[0] % p or size[1] % p:
            fit = " x ".join(str(max(round(s / p), 1) * p) for s in size)
            raise ValueError(f"image {size[0]} x {size[1]} is not a whole number of {p} px patches; {fit} would fit")
        grid, out = (size[0] // p, size[1] // p), {}
        patches = nn.Conv(c, (p, p), strides=(p, p), padding="VALID", dtype=self.dtype, name="patch")
        x = constrain(patches(image.astype(self.dtype)).reshape(batch, -1, c))  # (B, N, C)
        out["patch_embedding"] = x
        if self.has_variable("params", "position_embedding"):  # possibly of another grid, which self.param would refuse
            positions = self.get_variable("params", "position_embedding")
        else:
            positions = self.param("position_embedding", TOKEN_INIT, (*grid, c), jnp.float32)  # (h, w, C)
        positions = interpolate_positions(positions, grid).reshape(1, -1, c)
        token = self.param("class_token", TOKEN_INIT, (c,), jnp.float32)
        token = token + self.param("class_position_embedding", TOKEN_INIT, (c,), jnp.float32)
        token = jnp.broadcast_to(token.astype(self.dtype)[None, None], (batch, 1, c))
        x = jnp.concatenate([token, x + positions.astype(self.dtype)], axis=1)  # (B, 1 + N, C)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for i in range(self.depth):
            x, row = block(
                self.num_heads, self.mlp_dim, self.layer_scale, self.dropout, self.norm_eps, self.dtype,
                self.attention_kernel, name=f"block_{i}",
            )(x, train)  # fmt: skip
            out[f"block_{i}"] = x
        x = norm(x, self.norm_eps, self.dtype, "norm")
        out["attention"] = row[:, :, 1:].mean(axis=1)  # (B, N)
        out["patch_tokens"] = x[:, 1:]
        return x[:, 0], out
