"""Hugging Face Dinov2Model names (DINOv2, RAD-DINO) <-> `models.vit.ViT` with layer scale."""
import numpy as np

from medvlp_jax.weights import table as t
from medvlp_jax.weights import vit

TABLE = t.Table(
    rows=(
        *vit.hugging_face_rows("norm1", "norm2", "mlp.fc1", "mlp.fc2"),
        t.row("encoder.layer.{i}.layer_scale1.lambda1", f"{vit.BLOCK}/attention_layer_scale", t.SAME),
        t.row("encoder.layer.{i}.layer_scale2.lambda1", f"{vit.BLOCK}/mlp_layer_scale", t.SAME),
    ),
    dropped=(r"embeddings\.mask_token", r"classifier\..*"),  # token of masked pre-training; linear probe
    renames=((r"^module\.", ""), (r"^dinov2\.", ""), *vit.MODULE_RENAMES),
)


def config_of(tensors: dict[str, np.ndarray], num_heads: int | None = None) -> dict:
    """Fields of `ViT`; num_heads: default heads of 64."""
    return vit.fields_of(TABLE, t.renamed(TABLE, tensors), num_heads) | {"layer_scale": 1.0}


def from_torch(tensors: dict[str, np.ndarray], image_size: int | tuple[int, int] | None = None) -> dict:
    """Variables of `ViT(**config_of(...))`.

    image_size: pixels (int or height, width) that the positions are resampled for, as transformers does at run time.
    `ViT` resamples too, so this only saves work and fixes the grid that further training starts from.
    """
    return vit.read(TABLE, t.renamed(TABLE, tensors), config_of(tensors, num_heads=1), image_size)


def to_torch(variables: dict) -> dict[str, np.ndarray]:
    """Tensors of Dinov2Model; load them with strict=False, for the mask token is not among them."""
    return t.write(TABLE, variables)
