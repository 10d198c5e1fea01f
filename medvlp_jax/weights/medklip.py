"""The whole published MedKLIP checkpoint <-> `methods.medklip.MedKLIP` with a ResNet trunk.

The entity and position tables (the program's disease and anatomy books) are not in the checkpoint: they come from the
text encoder, as variables["knowledge"].
"""
import jax
import jax.numpy as jnp
import numpy as np

from medvlp_jax.methods.medklip import MedKLIP
from medvlp_jax.models.resnet import ResNet
from medvlp_jax.weights import resnet
from medvlp_jax.weights import table as t

LAYER, OURS = "decoder.layers.{i}", "decoder/layer{i}"
NUM_HEADS = 4  # of the published decoder; tensors do not tell


def _sequential(name: str) -> str:
    """torchvision's name -> that in the torch Sequential of the trunk, which has numbers for names."""
    for module, number in {"conv1.": 0, "bn1.": 1, "layer1.": 4, "layer2.": 5, "layer3.": 6}.items():
        if name.startswith(module):
            return f"res_features.{number}.{name.removeprefix(module)}"
    return name


def trunk_table() -> t.Table:
    """`resnet.TABLE` spelled out for each of the three stages, whose numbers in the Sequential are others."""

    def put(row, s):
        return t.Row(row.theirs.replace("{s}", s), tuple(o.replace("{s}", s) for o in row.ours), row.transform)

    rows = dict.fromkeys(put(row, s) for row in resnet.TABLE.rows for s in "123")
    return t.moved(t.Table(tuple(rows), resnet.TABLE.dropped), _sequential, "image_encoder")


TABLE = t.join(
    trunk_table(),
    t.Table(
        rows=(
            *t.linear("res_l1", "patch_hidden"),
            *t.linear("res_l2", "patch_projection"),
            *t.linear("disease_embedding_layer", "query_projection"),
            *t.attention(f"{LAYER}.self_attn", f"{OURS}/self_attention"),
            *t.attention(f"{LAYER}.multihead_attn", f"{OURS}/cross_attention"),
            *t.linear(f"{LAYER}.linear1", f"{OURS}/mlp_in"),
            *t.linear(f"{LAYER}.linear2", f"{OURS}/mlp_out"),
            *t.norm(f"{LAYER}.norm1", f"{OURS}/norm_self"),
            *t.norm(f"{LAYER}.norm2", f"{OURS}/norm_cross"),
            *t.norm(f"{LAYER}.norm3", f"{OURS}/norm_mlp"),
            *t.norm("decoder.norm", "decoder/norm"),
            *t.linear("classifier", "existence_head"),
            *t.linear("cl_fc", "location_head"),
        ),
        renames=((r"^module\.", ""),),  # torch's DataParallel
    ),
)


def config_of(tensors: dict[str, np.ndarray], num_heads: int | None = None) -> dict:
    """config.model of configs/medklip.py, as far as tensors tell it. num_heads: of the decoder; default 4.

    Raises:
      ValueError: a tensor that tells a size is missing, or the trunk is no ResNet.
    """
    tensors = t.renamed(TABLE, tensors)
    shapes = t.our_shapes(TABLE, tensors)
    image = resnet.fields_of(TABLE, tensors, at="image_encoder/")
    channels = t.size(TABLE, shapes, "params/patch_hidden/kernel", 0)
    stages = [s for s in range(1, image["num_stages"] + 1) if resnet.channels(image, s) == channels]
    return dict(
        image={"name": "resnet", **image},
        patch_stage=stages[0] if stages else image["num_stages"],  # the published model reads the third
        width=t.size(TABLE, shapes, "params/patch_projection/kernel", 1),
        depth=t.count(shapes, r"params/decoder/layer(\d+)/"),
        num_heads=num_heads or NUM_HEADS,
        mlp_dim=t.size(TABLE, shapes, "params/decoder/layer0/mlp_in/kernel", 1),
    )


def from_torch(tensors: dict[str, np.ndarray]) -> dict:
    """Variables of `MedKLIP` with the fields of `config_of`, without "knowledge"."""
    fields = config_of(tensors) | {"num_heads": 1}  # shapes do not depend on it
    image = fields.pop("image")
    image.pop("name")
    tensors = t.renamed(TABLE, tensors)
    table_width = t.size(TABLE, t.our_shapes(TABLE, tensors), "params/query_projection/kernel", 0)
    inputs = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((1, table_width), jnp.float32)
    return t.read(TABLE, tensors, t.model_shapes(MedKLIP(ResNet(**image), **fields).init, *inputs))


def to_torch(variables: dict) -> dict[str, np.ndarray]:
    """Tensors of the published model without `module.` and num_batches_tracked, which torch sets by itself.

    Raises:
      ValueError: the trunk is no ResNet: export it with its own kind.
    """
    variables = {k: variables[k] for k in ("params", "batch_stats") if k in variables}
    if "stem" not in variables["params"]["image_encoder"]:
        raise ValueError("the published MedKLIP has a ResNet trunk; export the image encoder with kind vit or dinov2")
    return t.write(TABLE, variables)
