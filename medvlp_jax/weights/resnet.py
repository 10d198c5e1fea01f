"""torchvision ResNet names (18, 34, 50, 101) <-> `models.resnet.ResNet`."""
import jax
import jax.numpy as jnp
import numpy as np

from medvlp_jax.models.resnet import DEPTHS, EXPANSION, ResNet
from medvlp_jax.weights import table as t

LAYER, BLOCK = "layer{s}.{i}", "stage{s}_block_{i}"


def batch_norm(theirs: str, ours: str) -> tuple[t.Row, ...]:
    """Scale, bias and running statistics."""
    return (
        *t.norm(theirs, ours),
        t.row(f"{theirs}.running_mean", f"batch_stats/{ours}/mean", t.SAME),
        t.row(f"{theirs}.running_var", f"batch_stats/{ours}/var", t.SAME),
    )


TABLE = t.Table(
    rows=(
        t.row("conv1.weight", "stem/kernel", t.CONV),
        *batch_norm("bn1", "stem_norm"),
        t.row(f"{LAYER}.conv{{n}}.weight", f"{BLOCK}/conv{{n}}/kernel", t.CONV),
        *batch_norm(f"{LAYER}.bn{{n}}", f"{BLOCK}/norm{{n}}"),
        t.row(f"{LAYER}.downsample.0.weight", f"{BLOCK}/shortcut/kernel", t.CONV),
        *batch_norm(f"{LAYER}.downsample.1", f"{BLOCK}/shortcut_norm"),
    ),
    dropped=(
        r"fc\..*",  # classifier
        r".*\.num_batches_tracked",  # torch reads it only when momentum is None
    ),
    renames=((r"^module\.", ""),),
)


def config_of(tensors: dict[str, np.ndarray], num_stages: int | None = None) -> dict:
    """Fields of `ResNet`. num_stages: keep only the first stages (MedKLIP has 3).

    Raises:
      ValueError: a tensor that tells a size is missing, the blocks of the stages are those of no known depth, or there
        are fewer stages than asked for.
    """
    return fields_of(TABLE, t.renamed(TABLE, tensors), num_stages)


def fields_of(table: t.Table, tensors: dict[str, np.ndarray], num_stages: int | None = None, at: str = "") -> dict:
    """As `config_of`, for `renamed` tensors of any table in which our names begin with `at`, e.g. "image_encoder/"."""
    shapes, at = t.our_shapes(table, tensors), f"params/{at}"
    height, _, _, width = (t.size(table, shapes, f"{at}stem/kernel", axis) for axis in range(4))
    bottleneck = f"{at}stage1_block_0/conv3/kernel" in shapes
    counts = tuple(t.count(shapes, rf"{at}stage{s}_block_(\d+)/") for s in range(1, 5))
    stages = sum(1 for c in counts if c)
    depths = [d for d, (c, b) in DEPTHS.items() if b == bottleneck and c[:stages] == counts[:stages]]
    if not stages or not depths:
        kind = "bottleneck" if bottleneck else "basic"
        raise ValueError(f"stages of {counts} {kind} blocks are no ResNet of depth {', '.join(map(str, DEPTHS))}")
    if num_stages is not None and not 1 <= num_stages <= stages:
        raise ValueError(f"num_stages={num_stages} asked for, but the checkpoint has {stages}")
    fields = dict(depth=depths[0], width=width, num_stages=num_stages or stages)
    return fields | ({"patch_stem": True} if height == 4 else {})  # none is published; our own exports have it


def channels(fields: dict, stage: int) -> int:
    """Channels of a stage's output."""
    return fields["width"] * 2 ** (stage - 1) * (EXPANSION if DEPTHS[fields["depth"]][1] else 1)


def from_torch(tensors: dict[str, np.ndarray], num_stages: int | None = None) -> dict:
    """Variables of `ResNet(**config_of(...))`, with BatchNorm statistics. num_stages: keep only the first stages."""
    fields = config_of(tensors, num_stages)
    tensors = t.renamed(TABLE, tensors)
    if num_stages is not None:
        later = tuple(f"layer{s}." for s in range(num_stages + 1, 5))
        tensors = {k: v for k, v in tensors.items() if not k.startswith(later)}
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return t.read(TABLE, tensors, t.model_shapes(ResNet(**fields).init, image))


def to_torch(variables: dict) -> dict[str, np.ndarray]:
    """Tensors of torchvision's model without `fc`; torch's strict loading asks for the classifier only."""
    return t.write(TABLE, variables)
