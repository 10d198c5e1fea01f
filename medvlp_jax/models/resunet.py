"""UNet on a ResNet: MedKLIP's published network for segmentation, for any number of classes and stages."""
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medvlp_jax.models.attention import wide
from medvlp_jax.models.batch_norm import BatchNorm
from medvlp_jax.models.resnet import KERNEL_INIT


class ConvNorm(nn.Module):
    """3x3 convolution with bias, BatchNorm, ReLU."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """(B, h, w, C) -> (B, h, w, features)."""
        x = nn.Conv(self.features, (3, 3), padding=1, kernel_init=KERNEL_INIT, dtype=self.dtype, name="conv")(x)
        return nn.relu(BatchNorm(name="norm")(x, None, train)).astype(self.dtype)


class UNetDecoder(nn.Module):
    """Reads the stages of a ResNet from the deepest up to the image and gives a logit per pixel and class.

    Two convolutions at the deepest stage; then, per level, a 2x2 transposed convolution that halves the channels, what the
    trunk has of that size (the last: the image itself) beside it, and two convolutions. The published network is this on
    stages 1 to 3 of a ResNet-50.

    Fields:
      classes: C.
      min_width: channels are halved down to this many; no part in the published sizes, which end at 64.
    """

    classes: int
    min_width: int = 16
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: jax.Array, out: dict[str, jax.Array], train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Normalised image (B, H, W, 3) and the `out` of the trunk on it -> logits and intermediates.

        Returns:
          logits (B, H, W, C) in float32 or wider; bridge (B, h, w, C'), up1 (B, 2h, 2w, C' / 2), up2, ...

        Raises:
          ValueError: H or W is not a whole number of cells of the deepest stage.
        """
        image = image.astype(self.dtype)
        skips = {x.shape[1:3]: x for x in (out["stem"], *(out[f"stage{s}"] for s in range(1, 5) if f"stage{s}" in out))}
        x = out[max(name for name in out if name.startswith("stage"))]  # (B, h, w, C')
        if any(size % cells for size, cells in zip(image.shape[1:3], x.shape[1:3], strict=True)):
            raise ValueError(f"images of {image.shape[1]} x {image.shape[2]} do not divide into {x.shape[1]} x {x.shape[2]} "
                             "cells; multiples of 32 px would fit any number of stages")
        skips[image.shape[1:3]] = image
        width, levels = x.shape[-1], {}
        for i in (1, 2):
            x = ConvNorm(width, self.dtype, name=f"bridge{i}")(x, train)
        levels["bridge"] = x
        while x.shape[1] < image.shape[1]:
            width, name = max(width // 2, self.min_width), f"up{len(levels)}"
            x = nn.ConvTranspose(width, (2, 2), (2, 2), "VALID", dtype=self.dtype, name=f"{name}_transposed")(x)
            beside = skips.get(x.shape[1:3])  # a patch stem has nothing of half the image's size
            x = x if beside is None else jnp.concatenate([x, beside], axis=-1)
            for i in (1, 2):
                x = ConvNorm(width, self.dtype, name=f"{name}_conv{i}")(x, train)
            levels[name] = x
        return nn.Dense(self.classes, dtype=self.dtype, name="classifier")(x).astype(wide(self.dtype)), levels


class ResUNet(nn.Module):
    """`UNetDecoder` on the trunk `image_encoder`, a ResNet."""

    image_encoder: nn.Module
    classes: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Normalised image (B, H, W, 3) -> logits (B, H, W, classes), intermediates of the decoder."""
        _, out = self.image_encoder(image, train)
        return UNetDecoder(self.classes, dtype=self.dtype, name="head")(image, out, train)
