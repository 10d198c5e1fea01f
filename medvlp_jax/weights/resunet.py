"""MedKLIP's published segmentation network <-> `models.resunet.ResUNet`."""
import jax
import jax.numpy as jnp
import numpy as np

from medvlp_jax.models.resnet import ResNet
from medvlp_jax.models.resunet import ResUNet
from medvlp_jax.weights import medklip, resnet
from medvlp_jax.weights import table as t

# (in, out, h, w) <-> (h, w, in, out): torch's transposed convolution flips its kernel, flax's does not.
TRANSPOSED = t.Transform(
    lambda tensor, _: [tensor.transpose(2, 3, 0, 1)[::-1, ::-1]], lambda a: a[0][::-1, ::-1].transpose(2, 3, 0, 1)
)
POINTWISE = t.Transform(lambda tensor, _: [tensor[:, :, 0].T], lambda a: a[0].T[:, :, None])  # (out, in, 1) <-> (in, out)


def _conv_norm(theirs: str, ours: str) -> tuple[t.Row, ...]:
    return (
        t.row(f"{theirs}.conv.weight", f"{ours}/conv/kernel", t.CONV),
        t.row(f"{theirs}.conv.bias", f"{ours}/conv/bias", t.SAME),
        *resnet.batch_norm(f"{theirs}.bn", f"{ours}/norm"),
    )


def _rows():
    for i in range(2):
        yield from _conv_norm(f"bridge.bridge.{i}", f"head/bridge{i + 1}")
    for level in range(4):
        block, ours = f"up_blocks.{level}", f"head/up{level + 1}"
        yield t.row(f"{block}.upsample.weight", f"{ours}_transposed/kernel", TRANSPOSED)
        yield t.row(f"{block}.upsample.bias", f"{ours}_transposed/bias", t.SAME)
        for i in (1, 2):
            yield from _conv_norm(f"{block}.conv_block_{i}", f"{ours}_conv{i}")
    yield t.row("seg_classifier.weight", "head/classifier/kernel", POINTWISE)
    yield t.row("seg_classifier.bias", "head/classifier/bias", t.SAME)


TABLE = t.join(medklip.trunk_table(), t.Table(tuple(_rows()), renames=((r"^module\.", ""),)))


def config_of(tensors: dict[str, np.ndarray]) -> dict:
    """{"image": fields of the ResNet, "classes": number of masks}.

    Raises:
      ValueError: a tensor that tells a size is missing, or the trunk is no ResNet.
    """
    tensors = t.renamed(TABLE, tensors)
    image = resnet.fields_of(TABLE, tensors, at="image_encoder/")
    shapes = t.our_shapes(TABLE, tensors)
    return {"image": {"name": "resnet", **image}, "classes": t.size(TABLE, shapes, "params/head/classifier/kernel", 1)}


def from_torch(tensors: dict[str, np.ndarray]) -> dict:
    """Variables of `ResUNet` with the fields of `config_of`."""
    fields = config_of(tensors)
    fields["image"].pop("name")
    model = ResUNet(ResNet(**fields["image"]), fields["classes"])
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return t.read(TABLE, t.renamed(TABLE, tensors), t.model_shapes(model.init, image))


def to_torch(variables: dict) -> dict[str, np.ndarray]:
    """Tensors of the published network without num_batches_tracked, which torch sets by itself."""
    return t.write(TABLE, variables)
