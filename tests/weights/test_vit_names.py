"""Published names of vision transformers, one by one.

timm's are held to a published program's outputs (golden vit_tiny_golden, in tests/models/test_vit.py). The other layouts
are spelt out here for the same tensors, so that a row of our tables that exchanges two tensors of one shape is seen without
any checkpoint: going out and coming in again hides it.
"""
import numpy as np
import pytest

from medvlp_jax import trees, weights
from tests import golden


def hugging_face(timm: dict, norms: tuple[str, str], mlp: tuple[str, str]) -> dict:
    """timm's tensors under the names of ViTModel and Dinov2Model (transformers), query, key and value apart."""
    out = {
        "embeddings.cls_token": timm["cls_token"],
        "embeddings.position_embeddings": timm["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": timm["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": timm["patch_embed.proj.bias"],
        "layernorm.weight": timm["norm.weight"],
        "layernorm.bias": timm["norm.bias"],
    }
    for i in range(2):
        theirs, layer = f"blocks.{i}", f"encoder.layer.{i}"
        for kind in ("weight", "bias"):
            parts = np.split(timm[f"{theirs}.attn.qkv.{kind}"], 3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                out[f"{layer}.attention.attention.{name}.{kind}"] = part
            out[f"{layer}.attention.output.dense.{kind}"] = timm[f"{theirs}.attn.proj.{kind}"]
            out[f"{layer}.{norms[0]}.{kind}"] = timm[f"{theirs}.norm1.{kind}"]
            out[f"{layer}.{norms[1]}.{kind}"] = timm[f"{theirs}.norm2.{kind}"]
            out[f"{layer}.{mlp[0]}.{kind}"] = timm[f"{theirs}.mlp.fc1.{kind}"]
            out[f"{layer}.{mlp[1]}.{kind}"] = timm[f"{theirs}.mlp.fc2.{kind}"]
    return out


def vit_model(timm):
    return "vit", hugging_face(timm, ("layernorm_before", "layernorm_after"), ("intermediate.dense", "output.dense"))


def dinov2_model(timm):
    """The same and layer scales, all different."""
    out = hugging_face(timm, ("norm1", "norm2"), ("mlp.fc1", "mlp.fc2"))
    layer = "encoder.layer.{}.layer_scale{}.lambda1"
    return "dinov2", out | {layer.format(i, n): np.full(32, 10 * i + n, np.float32) for i in (0, 1) for n in (1, 2)}


@pytest.mark.parametrize("layout", [vit_model, dinov2_model])
def test_every_tensor_goes_where_its_name_says(layout):
    timm = golden.load("vit_tiny_golden")[1]
    kind, tensors = layout(timm)
    variables = weights.from_torch(kind, tensors)
    got, want = (trees.flatten(x) for x in (variables, weights.from_torch("vit", timm)))
    if kind == "dinov2":
        for i in (0, 1):
            for n, name in ((1, "attention_layer_scale"), (2, "mlp_layer_scale")):
                assert (got.pop(f"params/block_{i}/{name}") == 10 * i + n).all()
    assert got.keys() == want.keys()
    for name, x in want.items():
        np.testing.assert_array_equal(got[name], x, err_msg=name)
    again = weights.to_torch(kind, variables, **({"names": "hugging_face"} if kind == "vit" else {}))
    assert again.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(again[name], tensor, err_msg=name)
