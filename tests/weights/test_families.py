"""Every kind: exact round trip, other spellings of the names, options, and errors that name tensors."""
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from medvlp_jax import weights
from medvlp_jax.methods.medklip import MedKLIP
from medvlp_jax.methods.mgca_module import MGCA
from medvlp_jax.models import bert, resnet, vit
from medvlp_jax.weights import dinov2, mgca
from medvlp_jax.weights import vit as vit_weights
from tests import golden
from tests.models import filled

HEADS = {"num_heads": 4}


def vit_tensors():
    return golden.load("vit_tiny_golden")[1]


def bert_tensors():
    return golden.load("bert_tiny_golden")[1]


def resnet_tensors(depth=18, num_stages=4, **fields):
    """torchvision names; the golden ResNets are too large to be loaded in many tests."""
    model = resnet.ResNet(depth, width=8, num_stages=num_stages, **fields)
    return weights.to_torch("resnet", filled.variables(model, jnp.zeros((1, 32, 32, 3))))


def dinov2_tensors():
    model = vit.ViT(8, width=32, depth=2, num_heads=4, mlp_dim=64, layer_scale=1.0)
    return weights.to_torch("dinov2", filled.variables(model, jnp.zeros((1, 40, 40, 3))))


def medklip_tensors():
    model = MedKLIP(resnet.ResNet(18, width=8, num_stages=3), width=16, depth=2, mlp_dim=32)
    return weights.to_torch("medklip", filled.variables(model, jnp.zeros((1, 32, 32, 3)), jnp.zeros((5, 12))))


def mgca_tensors():
    image, text = vit.ViT(8, width=32, depth=2, num_heads=4, mlp_dim=64), bert.Bert(50, 32, 2, 4, 64, 16, type_vocab=0)
    fields = dict(embed_dim=8, hidden=16, num_prototypes=5, learned_attention=True)
    everything = types.SimpleNamespace(init=nn.init(mgca.call_all, MGCA(image, text, **fields)))
    return weights.to_torch("mgca", filled.variables(everything, jnp.zeros((2, 40, 40, 3)), jnp.ones((2, 4), jnp.int32)))


TENSORS = {
    "vit": vit_tensors,
    "bert": bert_tensors,
    "resnet": resnet_tensors,
    "dinov2": dinov2_tensors,
    "medklip": medklip_tensors,
    "mgca": mgca_tensors,
}
OPTIONS = {"mgca": {"learned_attention": True}}


def same(got, want):
    assert set(got) == set(want)
    for name in want:
        assert got[name].dtype == want[name].dtype == np.float32, name
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


@pytest.mark.parametrize("kind", TENSORS)
def test_round_trip_is_exact(kind):
    tensors = TENSORS[kind]()
    kept = {k: v for k, v in tensors.items() if not k.startswith("pooler.")}
    same(weights.to_torch(kind, weights.from_torch(kind, tensors, **OPTIONS.get(kind, {}))), kept)


@pytest.mark.parametrize("case", ["resnet18", "resnet50"])
def test_round_trip_of_torchvision_is_exact(case):
    _, params, _, _ = golden.load(case)
    kept = {k: v for k, v in params.items() if not k.startswith("fc.") and "num_batches" not in k}
    same(weights.to_torch("resnet", weights.from_torch("resnet", params)), kept)


def test_round_trip_of_published_medklip_is_exact():
    _, params, _, _ = golden.load("medklip_eval")
    kept = {k: v for k, v in params.items() if "num_batches" not in k}
    wrapped = {f"module.{k}": v for k, v in params.items()}  # torch's DataParallel
    same(weights.to_torch("medklip", weights.from_torch("medklip", wrapped)), kept)
    assert weights.config_of("medklip", wrapped) == dict(
        image=dict(name="resnet", depth=50, width=64, num_stages=3),
        patch_stage=3, width=256, depth=4, num_heads=4, mlp_dim=1024,
    )  # fmt: skip


def test_published_mgca_is_taken_without_what_it_never_calls():
    tensors = mgca_tensors()
    plain = {k: v for k, v in tensors.items() if "_local_atten_layer." not in k}
    unused = {
        "text_encoder_q.model.encoder.layer.0.crossattention.self.query.weight": np.zeros((32, 32), np.float32),
        "text_encoder_q.model.embeddings.position_ids": np.arange(16)[None],
        "img_encoder_q.global_embed.head.1.num_batches_tracked": np.array(3),
    }
    same(weights.to_torch("mgca", weights.from_torch("mgca", tensors | unused)), plain)
    assert len(tensors) == len(plain) + 8
    fields = weights.config_of("mgca", tensors, **HEADS)
    assert fields == dict(
        image=dict(name="vit", patch_size=8, width=32, depth=2, num_heads=4, mlp_dim=64),
        text=dict(vocab_size=50, width=32, depth=2, num_heads=4, mlp_dim=64, max_positions=16, type_vocab=0),
        patch_stage=3, embed_dim=8, hidden=16, num_prototypes=5, learned_attention=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="missing: patch_local_atten_layer.in_proj_bias, "):
        weights.from_torch("mgca", plain, learned_attention=True)


def test_both_families_of_vit_names_hold_the_same_model():
    tensors = vit_tensors()
    variables = weights.from_torch("vit", tensors)
    other = weights.to_torch("vit", variables, names="hugging_face")
    assert set(other) > {"embeddings.cls_token", "encoder.layer.1.attention.attention.query.weight", "layernorm.bias"}
    jax.tree.map(np.testing.assert_array_equal, weights.from_torch("vit", other), variables)
    # a classifier, as Hugging Face wraps it, and the module names of transformers 5
    wrapped = {f"vit.{k}": v for k, v in other.items()} | {"classifier.weight": np.zeros((3, 32), np.float32)}
    jax.tree.map(np.testing.assert_array_equal, weights.from_torch("vit", wrapped), variables)
    new = {
        k.replace("encoder.layer.", "layers.")
        .replace("attention.attention.query", "attention.q_proj")
        .replace("attention.attention.key", "attention.k_proj")
        .replace("attention.attention.value", "attention.v_proj")
        .replace("attention.output.dense", "attention.o_proj")
        .replace("intermediate.dense", "mlp.fc1")
        .replace(".output.dense", ".mlp.fc2"): v
        for k, v in other.items()
    }
    jax.tree.map(np.testing.assert_array_equal, weights.from_torch("vit", new), variables)
    with pytest.raises(ValueError, match="unknown names 'flax'; known: timm, hugging_face"):
        weights.to_torch("vit", variables, names="flax")


def test_prefixes_and_old_spellings_of_bert():
    tensors = bert_tensors()
    want = weights.from_torch("bert", tensors)
    old = {
        "bert." + k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in tensors.items()
    }
    old |= {"cls.predictions.bias": np.zeros(200, np.float32), "bert.embeddings.position_ids": np.arange(64)[None]}
    jax.tree.map(np.testing.assert_array_equal, weights.from_torch("bert", old), want)
    with pytest.raises(ValueError, match="and 'bert.embeddings.word_embeddings.weight' are both 'embeddings.word"):
        weights.from_torch("bert", tensors | old)


def test_config_of_gives_the_constructor_fields():
    assert weights.config_of("vit", vit_tensors(), **HEADS) == dict(
        patch_size=8, width=32, depth=2, num_heads=4, mlp_dim=128
    )
    assert weights.config_of("dinov2", dinov2_tensors(), **HEADS) == dict(
        patch_size=8, width=32, depth=2, num_heads=4, mlp_dim=64, layer_scale=1.0
    )
    assert weights.config_of("bert", bert_tensors(), **HEADS) == dict(
        vocab_size=200, width=48, depth=2, num_heads=4, mlp_dim=96, max_positions=64, type_vocab=2
    )
    assert weights.config_of("resnet", resnet_tensors(34)) == dict(depth=34, width=8, num_stages=4)
    assert weights.config_of("resnet", resnet_tensors(50, 3)) == dict(depth=50, width=8, num_stages=3)
    quick = resnet_tensors(num_stages=2, patch_stem=True)
    assert weights.config_of("resnet", quick) == dict(depth=18, width=8, num_stages=2, patch_stem=True)
    same(weights.to_torch("resnet", weights.from_torch("resnet", quick)), quick)
    for kind, tensors in (("vit", vit_tensors()), ("bert", bert_tensors())):
        with pytest.raises(ValueError, match="give num_heads"):
            weights.config_of(kind, tensors)


def test_timm_layer_scale_is_taken_where_it_is():
    tensors = vit_tensors() | {f"blocks.{i}.ls{n}.gamma": np.full(32, i + n, np.float32) for i in (0, 1) for n in (1, 2)}
    assert weights.config_of("vit", tensors, **HEADS)["layer_scale"] == 1.0
    params = weights.from_torch("vit", tensors)["params"]
    assert params["block_1"]["mlp_layer_scale"].tolist() == [3.0] * 32
    del tensors["blocks.1.ls2.gamma"]
    with pytest.raises(ValueError, match="missing: blocks.1.ls2.gamma$"):
        weights.from_torch("vit", tensors)


def test_options_keep_the_first_stages_and_blocks():
    tensors = resnet_tensors()
    part = weights.from_torch("resnet", tensors, num_stages=3)
    same(weights.to_torch("resnet", part), {k: v for k, v in tensors.items() if not k.startswith("layer4")})
    with pytest.raises(ValueError, match="num_stages=5 asked for, but the checkpoint has 4"):
        weights.from_torch("resnet", tensors, num_stages=5)
    tensors = bert_tensors()
    assert weights.config_of("bert", tensors, depth=1, **HEADS)["depth"] == 1
    part = weights.from_torch("bert", tensors, depth=1)["params"]
    assert "block_0" in part and "block_1" not in part
    with pytest.raises(ValueError, match="depth=3 blocks asked for, but the checkpoint has 2"):
        weights.from_torch("bert", tensors, depth=3)


def test_image_size_resamples_the_positions():
    tensors = dinov2_tensors()  # 5 x 5 positions of 8 px patches
    plain, other = (weights.from_torch("dinov2", tensors, image_size=s)["params"] for s in (40, (24, 56)))
    same(weights.to_torch("dinov2", {"params": plain}), tensors)
    want = vit.interpolate_positions(jnp.asarray(plain["position_embedding"]), (3, 7))
    np.testing.assert_array_equal(other["position_embedding"], want)
    with pytest.raises(ValueError, match="image size 40 x 41 is not a whole number of 8 px patches"):
        weights.from_torch("dinov2", tensors, image_size=(40, 41))
    with pytest.raises(ValueError, match="square position grids only, came 3 x 7"):
        weights.to_torch("dinov2", {"params": other})


FIRST = {
    "vit": "blocks.1.attn.qkv.weight",
    "bert": "encoder.layer.1.attention.self.key.weight",
    "resnet": "layer2.0.downsample.0.weight",
    "dinov2": "encoder.layer.1.layer_scale2.lambda1",
    "medklip": "decoder.layers.1.multihead_attn.in_proj_weight",
    "mgca": "text_encoder_q.local_embed.head.0.weight",
}


@pytest.mark.parametrize("kind", TENSORS)
def test_errors_name_the_tensor(kind):
    tensors, name = TENSORS[kind](), FIRST[kind]
    if kind == "mgca":
        tensors = {k: v for k, v in tensors.items() if "_local_atten_layer." not in k}
    without = {k: v for k, v in tensors.items() if k != name}
    with pytest.raises(ValueError, match=f"missing: {name}$"):
        weights.from_torch(kind, without)
    with pytest.raises(ValueError, match=r"not used: extra.weight \(2, 3\)$"):
        weights.from_torch(kind, tensors | {"extra.weight": np.zeros((2, 3), np.float32)})
    short = tensors[name][:-3]
    with pytest.raises(ValueError) as error:
        weights.from_torch(kind, tensors | {name: short})
    assert str(error.value).endswith(f"wrong: {name} {short.shape}, expected {tensors[name].shape}")
    with pytest.raises(ValueError, match=f"wrong: {name} is int64, expected floating point"):
        weights.from_torch(kind, tensors | {name: tensors[name].astype(np.int64)})
    with pytest.raises(ValueError, match="wrong: .*not used: |not used: .*wrong: ") as error:
        weights.from_torch(kind, without | {name + ".old": short, next(iter(without)): short[..., None, None, None]})
    assert "missing" in str(error.value)


def test_a_checkpoint_of_another_kind_says_what_is_missing():
    for kind, tensors, name in (
        ("bert", vit_tensors(), "embeddings.word_embeddings.weight"),
        ("vit", bert_tensors(), "cls_token"),
        ("resnet", bert_tensors(), "conv1.weight"),
        ("dinov2", vit_tensors(), "embeddings.cls_token"),
        ("medklip", resnet_tensors(), "res_features.0.weight"),
        ("mgca", resnet_tensors(), "img_encoder_q.model.conv1.weight"),
    ):
        with pytest.raises(ValueError, match=f"tensor '{name}' is missing"):
            weights.from_torch(kind, tensors)
    with pytest.raises(ValueError, match="unknown kind of weights 'clip'; known: bert, vit, dinov2, resnet"):
        weights.from_torch("clip", {})
    strange = {k: v for k, v in resnet_tensors().items() if not k.startswith("layer1.1")}
    with pytest.raises(ValueError, match=r"stages of \(1, 2, 2, 2\) basic blocks are no ResNet"):
        weights.from_torch("resnet", strange)


def test_writing_names_what_does_not_belong():
    variables = weights.from_torch("vit", vit_tensors())
    extra = {"params": variables["params"] | {"probe": {"kernel": np.zeros((2, 2))}}}
    with pytest.raises(ValueError, match="without a name in the published format: params/probe/kernel"):
        weights.to_torch("vit", extra)
    block = variables["params"]["block_0"]
    attention = {k: v for k, v in block["attention"].items() if k != "key"}
    part = {"params": variables["params"] | {"block_0": block | {"attention": attention}}}
    with pytest.raises(ValueError, match="missing: params/block_0/attention/key/kernel"):
        weights.to_torch("vit", part)


def test_published_medklip_has_a_resnet_only():
    trunk = vit.ViT(8, width=16, depth=1, num_heads=2, mlp_dim=32)
    model = MedKLIP(trunk, width=16, depth=1, mlp_dim=32)
    variables = filled.variables(model, jnp.zeros((1, 16, 16, 3)), jnp.zeros((5, 12)))
    with pytest.raises(ValueError, match="has a ResNet trunk; export the image encoder with kind vit or dinov2"):
        weights.to_torch("medklip", variables)


def test_half_precision_is_read_as_float32():
    tensors = vit_tensors()
    half = {k: v.astype(jnp.bfloat16) for k, v in tensors.items()}
    for leaf in jax.tree.leaves(weights.from_torch("vit", half)):
        assert leaf.dtype == np.float32
    np.testing.assert_allclose(weights.from_torch("vit", half)["params"]["class_token"], tensors["cls_token"][0, 0], rtol=1e-2)


def test_tables_cover_each_other():
    """The kinds share `ViT`, so what one table gives another can take."""
    assert {o for r in dinov2.TABLE.rows for o in r.ours} == {o for r in vit_weights.TIMM.rows for o in r.ours}
    model = bert.Bert(200, 48, 2, 4, 96)
    ids = jnp.zeros((1, 2), jnp.int32)
    assert set(weights.to_torch("bert", filled.variables(model, ids, ids))) == {
        k for k in bert_tensors() if not k.startswith("pooler.")
    }
