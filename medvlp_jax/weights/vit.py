"""Vision transformers: timm / DeiT names and Hugging Face ViTModel names <-> `models.vit.ViT`."""
import jax
import jax.numpy as jnp
import numpy as np

from medvlp_jax.models.vit import ViT, interpolate_positions
from medvlp_jax.weights import table as t

POSITIONS = ("class_position_embedding", "position_embedding")
BLOCK = "block_{i}"

TIMM = t.Table(
    rows=(
        t.row("cls_token", "class_token", t.TOKEN),
        t.row("pos_embed", POSITIONS, t.POSITIONS),
        t.row("patch_embed.proj.weight", "patch/kernel", t.CONV),
        t.row("patch_embed.proj.bias", "patch/bias", t.SAME),
        *t.norm("blocks.{i}.norm1", f"{BLOCK}/attention_norm"),
        *t.linear("blocks.{i}.attn.qkv", [f"{BLOCK}/attention/{name}" for name in ("query", "key", "value")]),
        *t.linear("blocks.{i}.attn.proj", f"{BLOCK}/attention/out"),
        t.row("blocks.{i}.ls1.gamma", f"{BLOCK}/attention_layer_scale", t.SAME),
        *t.norm("blocks.{i}.norm2", f"{BLOCK}/mlp_norm"),
        *t.linear("blocks.{i}.mlp.fc1", f"{BLOCK}/mlp/fc1"),
        *t.linear("blocks.{i}.mlp.fc2", f"{BLOCK}/mlp/fc2"),
        t.row("blocks.{i}.ls2.gamma", f"{BLOCK}/mlp_layer_scale", t.SAME),
        *t.norm("norm", "norm"),
    ),
    dropped=(r"head\..*", r"mask_token"),  # classifier; token of masked pre-training
    renames=((r"^module\.", ""),),
)


def hugging_face_rows(norm1: str, norm2: str, fc1: str, fc2: str) -> tuple[t.Row, ...]:
    """What ViTModel and Dinov2Model share; the arguments are where their layers differ."""
    layer = "encoder.layer.{i}"
    return (
        t.row("embeddings.cls_token", "class_token", t.TOKEN),
        t.row("embeddings.position_embeddings", POSITIONS, t.POSITIONS),
        t.row("embeddings.patch_embeddings.projection.weight", "patch/kernel", t.CONV),
        t.row("embeddings.patch_embeddings.projection.bias", "patch/bias", t.SAME),
        *t.norm(f"{layer}.{norm1}", f"{BLOCK}/attention_norm"),
        *t.linear(f"{layer}.attention.attention.query", f"{BLOCK}/attention/query"),
        *t.linear(f"{layer}.attention.attention.key", f"{BLOCK}/attention/key"),
        *t.linear(f"{layer}.attention.attention.value", f"{BLOCK}/attention/value"),
        *t.linear(f"{layer}.attention.output.dense", f"{BLOCK}/attention/out"),
        *t.norm(f"{layer}.{norm2}", f"{BLOCK}/mlp_norm"),
        *t.linear(f"{layer}.{fc1}", f"{BLOCK}/mlp/fc1"),
        *t.linear(f"{layer}.{fc2}", f"{BLOCK}/mlp/fc2"),
        *t.norm("layernorm", "norm"),
    )


# Files have the names of transformers 4, and transformers 5 still writes them, but its modules are called otherwise.
MODULE_RENAMES = (
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)

HUGGING_FACE = t.Table(
    rows=hugging_face_rows("layernorm_before", "layernorm_after", "intermediate.dense", "output.dense"),
    dropped=(r"pooler\..*", r"classifier\..*", r"embeddings\.mask_token"),
    renames=(
        (r"^module\.", ""),
        (r"^vit\.", ""),
        (r"^layers\.", "encoder.layer."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
        *MODULE_RENAMES,
    ),
)

TABLES = {"timm": TIMM, "hugging_face": HUGGING_FACE}


def fields_of(table: t.Table, tensors: dict[str, np.ndarray], num_heads: int | None, at: str = "") -> dict:
    """Fields of `ViT` for `renamed` tensors of any of the tables; layer scale where the tensors have it.

    at: what our names begin with in the table of a whole checkpoint, e.g. "image_encoder/".

    Raises:
      ValueError: a tensor that tells a size is missing, or heads of 64 (all released models) do not divide the width.
    """
    shapes = t.our_shapes(table, tensors)

    def size(name, axis):
        return t.size(table, shapes, f"params/{at}{name}", axis)

    width = size("class_token", 0)
    if num_heads is None and width % 64:
        raise ValueError(f"give num_heads: heads are not 64 wide in a model of width {width}")
    scaled = any(name.endswith("_layer_scale") for name in shapes)
    return dict(
        patch_size=size("patch/kernel", 0),
        width=width,
        depth=t.count(shapes, rf"params/{at}block_(\d+)/"),
        num_heads=num_heads or width // 64,
        mlp_dim=size("block_0/mlp/fc1/kernel", 1),
    ) | ({"layer_scale": 1.0} if scaled else {})


def read(table: t.Table, tensors: dict[str, np.ndarray], fields: dict, image_size: int | tuple[int, int] | None) -> dict:
    """Variables of `ViT(**fields)`; `image_size` (px) resamples the position grid to that of other images."""
    patch, shapes = fields["patch_size"], t.our_shapes(table, tensors)
    side = patch * t.size(table, shapes, "params/position_embedding", 0)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = t.read(table, tensors, t.model_shapes(ViT(**fields | {"num_heads": 1}).init, image))
    if image_size is not None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if height % patch or width % patch:
            raise ValueError(f"image size {height} x {width} is not a whole number of {patch} px patches")
        positions = jnp.asarray(variables["params"]["position_embedding"])
        positions = interpolate_positions(positions, (height // patch, width // patch))
        variables["params"]["position_embedding"] = np.asarray(positions)
    return variables


def family(tensors: dict[str, np.ndarray]) -> str:
    """The key of `TABLES` whose names these are."""
    return "hugging_face" if any(k.endswith("embeddings.cls_token") for k in tensors) else "timm"


def config_of(tensors: dict[str, np.ndarray], num_heads: int | None = None) -> dict:
    """Fields of `ViT`; num_heads: default heads of 64."""
    table = TABLES[family(tensors)]
    return fields_of(table, t.renamed(table, tensors), num_heads)


def from_torch(tensors: dict[str, np.ndarray], image_size: int | tuple[int, int] | None = None) -> dict:
    """Variables of `ViT(**config_of(...))`, from either family of names."""
    table = TABLES[family(tensors)]
    tensors = t.renamed(table, tensors)
    return read(table, tensors, fields_of(table, tensors, num_heads=1), image_size)


def to_torch(variables: dict, names: str = "timm") -> dict[str, np.ndarray]:
    """Tensors under the names of `names`, a key of `TABLES`."""
    if names not in TABLES:
        raise ValueError(f"unknown names {names!r}; known: {', '.join(TABLES)}")
    return t.write(TABLES[names], variables)
