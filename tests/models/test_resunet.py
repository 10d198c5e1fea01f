"""UNet on a ResNet: MedKLIP's published network, and trunks of other shapes."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax import weights
from medvlp_jax.models.resnet import ResNet
from medvlp_jax.models.resunet import ResUNet
from tests import golden

# Which entries of our outputs (B, h, w, C) the golden file keeps.
KEPT = {"bridge": (1, 4), "up1": (1, 8), "up2": (1, 8), "up3": (1, 16), "up4": (2, 16)}  # every n-th pixel and channel


@pytest.fixture(scope="module")
def published():
    return golden.load("medklip_resunet")


def test_every_golden_output(published):
    _, params, inputs, want = published
    fields = weights.config_of("resunet", params)
    assert fields == {"image": dict(name="resnet", depth=50, width=64, num_stages=3), "classes": 1}
    fields["image"].pop("name")
    model = ResUNet(ResNet(**fields["image"]), fields["classes"])
    image = jnp.asarray(inputs["medklip_resunet/images"].transpose(0, 2, 3, 1))
    logits, levels = jax.jit(model.apply)(weights.from_torch("resunet", params), image)
    got = {"out": logits, **{k: levels[k][:, ::pixel, ::pixel, ::channel] for k, (pixel, channel) in KEPT.items()}}
    assert set(got) == set(want) and set(levels) == set(KEPT)
    for name, array in got.items():
        assert golden.relative_l2(array.transpose(0, 3, 1, 2), want[name]) <= 1e-5, name


def test_published_names_there_and_back(published):
    params = published[1]
    assert weights.kind_of(params) == "resunet"
    back = weights.to_torch("resunet", weights.from_torch("resunet", params))
    assert set(back) == {name for name in params if not name.endswith("num_batches_tracked")}
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, params[name], err_msg=name)


@pytest.mark.parametrize(("fields", "levels"), [
    (dict(num_stages=4), {"bridge": 64, "up1": 32, "up2": 16, "up3": 16, "up4": 16, "up5": 16}),
    (dict(num_stages=3, patch_stem=True), {"bridge": 32, "up1": 16, "up2": 16, "up3": 16, "up4": 16}),
])  # fmt: skip
def test_other_trunks_reach_every_pixel(fields, levels):
    model = ResUNet(ResNet(18, width=8, **fields), classes=3)
    image = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    (logits, out), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    assert logits.shape == (2, 64, 96, 3) and {k: v.shape[-1] for k, v in out.items()} == levels
    with pytest.raises(ValueError, match="72 x 64 do not divide into 5 x 4 cells"):
        jax.eval_shape(ResUNet(ResNet(18, 8, 3)).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 72, 64, 3), jnp.float32))
