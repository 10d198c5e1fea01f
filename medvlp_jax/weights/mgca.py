"""The published MGCA checkpoint, encoders, heads and prototypes <-> `methods.mgca_module.MGCA`.

Its text encoder has no token types and, as published, is called without positions: `as_published` of the method.
"""
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from medvlp_jax.methods.mgca_module import MGCA
from medvlp_jax.models import trunks
from medvlp_jax.weights import bert, resnet, vit
from medvlp_jax.weights import table as t

IMAGE, TEXT = "img_encoder_q", "text_encoder_q"

# 1x1 convolution along the tokens (out, in, 1) <-> (in, out)
CONV1D = t.Transform(lambda tensor, _: [tensor[:, :, 0].T], lambda arrays: arrays[0].T[:, :, None])


def _head(theirs: str, ours: str, transform: t.Transform) -> tuple[t.Row, ...]:
    """A projection head: a torch Sequential of Linear (or Conv1d), BatchNorm, ReLU, the same again, BatchNorm."""
    return (
        t.row(f"{theirs}.head.0.weight", f"{ours}/dense1/kernel", transform),
        t.row(f"{theirs}.head.0.bias", f"{ours}/dense1/bias", t.SAME),
        *resnet.batch_norm(f"{theirs}.head.1", f"{ours}/norm1"),
        t.row(f"{theirs}.head.3.weight", f"{ours}/dense2/kernel", transform),
        t.row(f"{theirs}.head.3.bias", f"{ours}/dense2/bias", t.SAME),
        t.row(f"{theirs}.head.4.running_mean", f"batch_stats/{ours}/norm2/mean", t.SAME),
        t.row(f"{theirs}.head.4.running_var", f"batch_stats/{ours}/norm2/var", t.SAME),
    )


def _image(name: str) -> str:
    return f"{IMAGE}.model.{name}"


TABLE = t.join(
    t.moved(vit.TIMM, _image, "image_encoder"),
    t.moved(resnet.TABLE, _image, "image_encoder"),
    t.moved(bert.TABLE, lambda name: f"{TEXT}.model.{name}", "text_encoder"),
    t.Table(
        rows=(
            *_head(f"{IMAGE}.global_embed", "image_head", t.LINEAR),
            *_head(f"{IMAGE}.local_embed", "patch_head", CONV1D),
            *_head(f"{TEXT}.global_embed", "text_head", t.LINEAR),
            *_head(f"{TEXT}.local_embed", "token_head", CONV1D),
            *t.attention("word_local_atten_layer", "word_attention"),
            *t.attention("patch_local_atten_layer", "patch_attention"),
            t.row("prototype_layer.weight", "category/prototypes", t.SAME),
        ),
        dropped=(
            r".*\.num_batches_tracked",
            rf"{TEXT}\.model\.encoder\.layer\.\d+\.crossattention\..*",  # created, but never called
        ),
        renames=((r"^module\.", ""),),
    ),
)

# Created by the program whether or not its use_local_atten calls them: taken only where they are asked for.
LEARNED_ATTENTION = ("word_local_atten_layer.", "patch_local_atten_layer.")


def has_learned_attention(tensors: dict[str, np.ndarray]) -> bool:
    """Whether a checkpoint holds the layers of `LEARNED_ATTENTION`."""
    return any(name.removeprefix("module.").startswith(LEARNED_ATTENTION) for name in tensors)


def _renamed(tensors: dict[str, np.ndarray], learned_attention: bool) -> dict[str, np.ndarray]:
    tensors = t.renamed(TABLE, tensors)
    return tensors if learned_attention else {k: v for k, v in tensors.items() if not k.startswith(LEARNED_ATTENTION)}


def config_of(tensors: dict[str, np.ndarray], num_heads: int | None = None, learned_attention: bool = False) -> dict:
    """config.model of configs/mgca.py, as far as tensors tell it.

    Args:
      num_heads: of both trunks; default those of the released models of their widths.
      learned_attention: take the learned local attention.

    Raises:
      ValueError: a tensor that tells a size is missing.
    """
    tensors = _renamed(tensors, learned_attention)
    shapes, at = t.our_shapes(TABLE, tensors), "image_encoder/"
    if "params/image_encoder/class_token" in shapes:
        image = {"name": "vit", **vit.fields_of(TABLE, tensors, num_heads, at=at)}
    else:
        image = {"name": "resnet", **resnet.fields_of(TABLE, tensors, at=at)}
    types = "params/text_encoder/token_type/embedding" in shapes  # never published; our own exports may have them
    return dict(
        image=image,
        text=bert.fields_of(TABLE, tensors, num_heads, token_types=types, at="text_encoder/"),
        patch_stage=3,
        embed_dim=t.size(TABLE, shapes, "params/image_head/dense2/kernel", 1),
        hidden=t.size(TABLE, shapes, "params/image_head/dense1/kernel", 1),
        num_prototypes=t.size(TABLE, shapes, "params/category/prototypes", 0),
        learned_attention=learned_attention,
    )


def from_torch(tensors: dict[str, np.ndarray], learned_attention: bool = False) -> dict:
    """Variables of `MGCA` with the fields of `config_of`, without "knowledge"."""
    fields = config_of(tensors, 1, learned_attention)  # shapes do not depend on the number of heads
    model = MGCA(trunks.image_encoder(**fields.pop("image")), trunks.text_encoder(**fields.pop("text")), **fields)
    size = 8 * getattr(model.image_encoder, "patch_size", 4)  # any grid: `read` takes that of the tensors
    image = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    ids = jax.ShapeDtypeStruct((2, 4), jnp.int32)
    shapes = t.model_shapes(nn.init(call_all, model), image, ids)
    tensors = _renamed(tensors, learned_attention)
    grid = "params/image_encoder/position_embedding"
    shapes |= {grid: t.our_shapes(TABLE, tensors).get(grid, shapes[grid])} if grid in shapes else {}
    return t.read(TABLE, tensors, shapes)


def call_all(m: MGCA, image: jax.Array, ids: jax.Array) -> None:
    """Calls every part of the bound module once: with nn.init, all its parameters."""
    image, text = m.image_trunk(image, False), m.text_trunk(ids, ids, False)
    m.category(m.image_embedding(image, False) + m.text_embedding(text, False))
    m.read(m.token_head(text["tokens"]), m.patch_embeddings(image, False), ids)


def to_torch(variables: dict) -> dict[str, np.ndarray]:
    """Tensors of the published model, without those that it never uses: load them with strict=False."""
    return t.write(TABLE, {k: variables[k] for k in ("params", "batch_stats") if k in variables})
