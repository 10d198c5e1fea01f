"""Builds the image and text trunks from plain config values, and reads local features from either image trunk."""
import jax
import jax.numpy as jnp
from flax import linen as nn

from medvlp_jax.models import bert, vit
from medvlp_jax.models.resnet import ResNet

READ_BEFORE = "trunk/"  # + name of an output: key of a batch


def image_encoder(name: str, size: str = "", **fields) -> nn.Module:
    """name "vit" with a `vit.SIZES` entry, or "resnet" with fields of `ResNet`; `fields` override the size's.

    Without a size the fields give everything.

    Raises:
      ValueError: unknown name or size, with the known ones.
    """
    if name == "vit":
        return vit.ViT(**{**_size(vit.SIZES, size, "model.image.size"), **fields})
    if name == "resnet":
        return ResNet(**fields)
    raise ValueError(f"unknown image encoder {name!r}; known: vit, resnet")


def text_encoder(size: str = "", **fields) -> nn.Module:
    """BERT of a `bert.SIZES` entry; `fields` (vocab_size, dtype, ...) override the size's."""
    return bert.Bert(**{**_size(bert.SIZES, size, "model.text.size"), **fields})


def _size(sizes: dict, size: str, what: str) -> dict:
    if not size:
        return {}
    if size not in sizes:
        raise ValueError(f"unknown {what} {size!r}; known: {', '.join(sizes)}")
    return sizes[size]


def patch_tokens(out: dict[str, jax.Array], stage: int) -> jax.Array:
    """Local features (B, N, C) in row-major order: a ViT's patch tokens, or stage `stage` of a ResNet."""
    if "patch_tokens" in out:
        return out["patch_tokens"]  # (B, N, C)
    x = out[f"stage{stage}"]  # (B, h, w, C)
    return x.reshape(x.shape[0], -1, x.shape[-1])  # (B, N, C)


def patch_grid(encoder: nn.Module, stage: int, image_shape: tuple[int, ...]) -> tuple[int, int]:
    """(h, w) of `patch_tokens` for images (B, H, W, C)."""
    stride = getattr(encoder, "patch_size", None)
    if stride:
        return image_shape[1] // stride, image_shape[2] // stride
    stride = 2 ** (stage + 1)  # 4 after the stem and stage 1, then doubled by every stage
    return -(-image_shape[1] // stride), -(-image_shape[2] // stride)


def images(batch: dict[str, jax.Array], mean, std) -> jax.Array | dict[str, jax.Array]:
    """A batch's images by `normalise`, or the outputs of the trunk by name that it brings in their place (frozen_trunk.py)."""
    outputs = {name.removeprefix(READ_BEFORE): x for name, x in batch.items() if name.startswith(READ_BEFORE)}
    return outputs or normalise(batch["image"], mean, std)


def normalise(image: jax.Array, mean, std) -> jax.Array:
    """uint8 (B, H, W, 1) -> float32 (B, H, W, 3), (x / 255 - mean) / std; float input is taken as already normalised.

    On the device, because one host core manages only about 2,300 images a second of it.

    Raises:
      ValueError: neither (B, H, W, 1) uint8 nor (B, H, W, 3) float.
    """
    if image.ndim == 4 and image.shape[-1] == 3 and jnp.issubdtype(image.dtype, jnp.floating):
        return image
    if image.ndim != 4 or image.shape[-1] != 1 or image.dtype != jnp.uint8:
        raise ValueError(f"images must be uint8 (B, H, W, 1) or normalised float (B, H, W, 3), came {image.dtype}{image.shape}")
    x = image.astype(jnp.float32) / 255.0
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)  # (3,)
    return (x - mean[None, None, None]) / std[None, None, None]  # (B, H, W, 3)
