"""SETR's progressive upsampling (arXiv 2012.15840): segmentation from the patch tokens of a ViT."""
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medvlp_jax.models.attention import wide
from medvlp_jax.models.resunet import ConvNorm


class SetrDecoder(nn.Module):
    """A 3x3 convolution with BatchNorm and ReLU and a bilinear upsampling by two, until the image's size is reached.

    Fields:
      classes: C. width: channels of every convolution (256 in the paper).
    """

    classes: int
    width: int = 256
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, size: tuple[int, int], train: bool = False) -> jax.Array:
        """Patch grid (B, h, w, D), size (H, W) of the image -> logits (B, H, W, C) in float32 or wider."""
        step = 0
        while x.shape[1] < size[0]:
            step += 1
            x = ConvNorm(self.width, self.dtype, name=f"conv{step}")(x.astype(self.dtype), train)
            new = tuple(min(2 * n, full) for n, full in zip(x.shape[1:3], size, strict=True))
            x = jax.image.resize(x, (x.shape[0], *new, x.shape[-1]), "bilinear")
        return nn.Dense(self.classes, dtype=self.dtype, name="classifier")(x).astype(wide(self.dtype))
