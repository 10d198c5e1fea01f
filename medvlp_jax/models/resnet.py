"""ResNet (arXiv 1512.03385) with the numerics of torchvision's v1.5: stride on the 3x3 convolution, symmetric padding."""
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from medvlp_jax.models.attention import wide
from medvlp_jax.models.batch_norm import BatchNorm
from medvlp_jax.models.layout import constrain, materialize, platform

# depth: (blocks of each stage, bottleneck blocks)
DEPTHS = {18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False), 50: ((3, 4, 6, 3), True), 101: ((3, 4, 23, 3), True)}
EXPANSION = 4  # of a bottleneck block
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def _conv(x: jax.Array, features: int, size: int, stride: int, dtype, name: str) -> jax.Array:
    """Convolution padded by size // 2 on every side ("SAME" would pad a stride of 2 to one side only)."""
    padding = ((size // 2, size // 2),) * 2
    conv = nn.Conv(
        features, (size, size), strides=(stride, stride), padding=padding, use_bias=False, kernel_init=KERNEL_INIT,
        dtype=dtype, name=name, conv_general_dilated=pointwise if size == 1 and platform() == "cpu" else None,
    )  # fmt: skip
    return materialize(conv(x))


def pointwise(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], *_, **__) -> jax.Array:
    """A 1x1 convolution as a product: on CPUs XLA's own takes up to twice the time, and up to five for a kernel's gradient.

    x (B, h, w, C), kernel (1, 1, C, D) -> (B, h / stride, w / stride, D).
    """
    return jnp.einsum("bhwc,cd->bhwd", x[:, :: strides[0], :: strides[1]], kernel[0, 0])


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1 - 3x3 - 1x1 with four times the features; the shortcut is projected when shapes differ."""

    features: int
    stride: int
    bottleneck: bool
    dtype: Any = jnp.float32
    batch_norm_rows: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """x (B, h, w, C) -> (B, h / stride, w / stride, features or EXPANSION * features)."""

        def conv_norm(x, features, size, stride, conv, norm):
            x = _conv(x, features, size, stride, self.dtype, conv)
            return BatchNorm(rows=self.batch_norm_rows, name=norm)(x, None, train).astype(self.dtype)

        f, s = self.features, self.stride
        sizes = ((f, 1, 1), (f, 3, s), (EXPANSION * f, 1, 1)) if self.bottleneck else ((f, 3, s), (f, 3, 1))
        y = x
        for i, layer in enumerate(sizes, start=1):
            y = conv_norm(y, *layer, f"conv{i}", f"norm{i}")
            y = nn.relu(y) if i < len(sizes) else y
        if x.shape != y.shape:
            x = conv_norm(x, y.shape[-1], 1, s, "shortcut", "shortcut_norm")
        return materialize(nn.relu(x + y))


class ResNet(nn.Module):
    """Residual network without classifier.

    Fields:
      depth: a key of `DEPTHS`.
      width: channels of the stem; 64 is standard, less for quick runs.
      num_stages: stages to build (MedKLIP reads stage 3, MLIP all four).
      patch_stem: one 4x4 convolution of stride 4 in place of 7x7 and pooling; those two take half of a small network's
        time on a CPU.
      remat: recompute each block in the backward pass instead of keeping its activations.
      batch_norm_rows: train with statistics of each so many consecutive rows; 0 = of the whole (global) batch.
      dtype: compute type; parameters, BatchNorm and its statistics (collection "batch_stats") are float32.
    """

    depth: int = 50
    width: int = 64
    num_stages: int = 4
    patch_stem: bool = False
    remat: bool = False
    batch_norm_rows: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array, train: bool = False) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Encodes normalised images.

        Args:
          image: (B, H, W, 3) float.
          train: normalise by the statistics of the batch (see batch_norm_rows) and update the running ones.

        Returns:
          x (B, C), mean over positions of the last stage, and out: stem (B, H/2, W/2, width), but H/4 and W/4 with a
          patch stem; stem_pool (B, H/4, W/4, width); stage1.. (B, h, w, C) with strides 4, 8, 16, 32.

        Raises:
          ValueError: unknown depth or number of stages, or rows that do not divide the batch.
        """
        if self.depth not in DEPTHS:
            raise ValueError(f"no ResNet of depth {self.depth}; known: {', '.join(map(str, DEPTHS))}")
        if not 1 <= self.num_stages <= 4:
            raise ValueError(f"num_stages must be 1 to 4, came {self.num_stages}")
        counts, bottleneck = DEPTHS[self.depth]
        if self.patch_stem:
            conv = nn.Conv(self.width, (4, 4), strides=(4, 4), use_bias=False, dtype=self.dtype, name="stem")
            x = conv(image.astype(self.dtype))  # (B, H/4, W/4, width)
        else:
            x = _conv(image.astype(self.dtype), self.width, 7, 2, self.dtype, "stem")
        x = nn.relu(BatchNorm(rows=self.batch_norm_rows, name="stem_norm")(x, None, train).astype(self.dtype))
        out = {"stem": x}
        if not self.patch_stem:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        out["stem_pool"] = x  # (B, H/4, W/4, width)
        block = nn.remat(Block, static_argnums=(2,)) if self.remat else Block
        for s, count in enumerate(counts[: self.num_stages], start=1):
            for i in range(count):
                stride = 2 if s > 1 and i == 0 else 1
                features = self.width * 2 ** (s - 1)
                x = block(features, stride, bottleneck, self.dtype, self.batch_norm_rows, name=f"stage{s}_block_{i}")(x, train)
            out[f"stage{s}"] = x = constrain(x)  # (B, h, w, C)
        return x.astype(wide(self.dtype)).mean(axis=(1, 2)).astype(self.dtype), out
