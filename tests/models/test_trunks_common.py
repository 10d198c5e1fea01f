"""What holds for all three trunks: parameter counts, compute types, rematerialisation, dropout, names."""
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from medvlp_jax.models import attention, bert, vit
from medvlp_jax.models.resnet import ResNet
from tests import golden
from tests.models import filled

pytestmark = pytest.mark.usefixtures("quick_compiles")

IMAGE = jnp.asarray(np.random.RandomState(0).randn(2, 32, 32, 3), jnp.float32)
IDS = jnp.asarray(np.random.RandomState(1).randint(1, 30, (2, 7)), jnp.int32)
SMALL = {
    "vit": (vit.ViT, dict(patch_size=8, width=32, depth=2, num_heads=4, mlp_dim=64, layer_scale=0.5), (IMAGE,)),
    "bert": (bert.Bert, dict(vocab_size=30, width=32, depth=2, num_heads=4, mlp_dim=64), (IDS, jnp.ones_like(IDS))),
    "resnet": (ResNet, dict(depth=18, width=8, num_stages=2), (IMAGE,)),
}

# Counted on transformers' torch models without poolers and mask tokens; ViT at 224 px, BERT with 28,996 word pieces.
COUNTS = [
    *((vit.ViT(**vit.SIZES[size]), count) for size, count in (
        ("Ti/16", 5_524_416), ("S/14", 21_619_584), ("S/16", 21_665_664), ("B/14", 85_706_496), ("B/16", 85_798_656),
        ("L/14", 303_178_752),
    )),
    *((bert.Bert(28_996, **bert.SIZES[size]), count) for size, count in (
        ("tiny", 4_174_080), ("mini", 10_714_112), ("small", 27_719_680), ("medium", 40_329_216), ("base", 107_719_680),
    )),
    (ResNet(18), 11_176_512), (ResNet(34), 21_284_672), (ResNet(50), 23_508_032), (ResNet(50, num_stages=3), 8_543_296),
]  # fmt: skip


def shapes(model):
    inputs = [jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)]
    if isinstance(model, bert.Bert):
        inputs = [jax.ShapeDtypeStruct((1, 4), jnp.int32)] * 2
    return jax.eval_shape(model.init, jax.random.key(0), *inputs)


def test_parameter_counts_of_the_standard_sizes():
    for model, count in COUNTS:
        assert sum(x.size for x in jax.tree.leaves(shapes(model)["params"])) == count, model
    assert vit.SIZES["L/16"] == vit.SIZES["L/14"] | {"patch_size": 16}
    dinov2 = shapes(vit.ViT(**vit.SIZES["S/14"], layer_scale=1.0))["params"]
    assert sum(x.size for x in jax.tree.leaves(dinov2)) == 21_619_584 + 12 * 2 * 384


@pytest.mark.parametrize("kind", SMALL)
def test_parameters_are_float32_and_have_the_names_that_rules_go_by(kind):
    cls, fields, inputs = SMALL[kind]
    variables = jax.eval_shape(cls(**fields, dtype=jnp.bfloat16).init, jax.random.key(0), *inputs)
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert leaf.dtype == jnp.float32, name
        assert re.search(r"(kernel|bias|scale|embedding|class_token)$", name), name
        assert re.search(r"kernel$|embedding$", name) or leaf.ndim == 1, name


@pytest.mark.parametrize("kind", SMALL)
def test_bfloat16_is_close_to_float32(kind):
    cls, fields, inputs = SMALL[kind]
    variables = filled.variables(cls(**fields), *inputs)
    want, _ = jax.jit(cls(**fields).apply)(variables, *inputs)
    got, out = jax.jit(cls(**fields, dtype=jnp.bfloat16).apply)(variables, *inputs)
    assert got.dtype == jnp.bfloat16
    assert 1e-5 < golden.relative_l2(np.asarray(got, np.float32), want) < 2e-2  # really bfloat16, and no worse
    if "attention" in out:
        assert out["attention"].dtype == jnp.float32


def dropout_key(seed):
    """The default generator takes half a minute to compile on CPU."""
    return jax.random.key(seed, impl="rbg")


@pytest.mark.parametrize("kind", SMALL)
def test_rematerialisation_changes_neither_loss_nor_gradients(kind):
    cls, fields, inputs = SMALL[kind]
    fields = fields | ({"num_stages": 1} if kind == "resnet" else {"depth": 1, "dropout": 0.3})
    variables = filled.variables(cls(**fields), *inputs)
    state = {k: v for k, v in variables.items() if k != "params"}

    def grads(remat):
        def loss(params):
            (x, out), _ = cls(**fields, remat=remat).apply(
                {"params": params, **state}, *inputs, train=True, mutable=["batch_stats"],
                rngs={"dropout": dropout_key(1)},
            )  # fmt: skip
            return jnp.mean(jnp.square(x)) + jnp.sum(out.get("attention", x)[0] ** 2)

        traced = jax.jit(jax.value_and_grad(loss)).trace(variables["params"])
        return traced.lower().compile()(variables["params"]), str(traced.jaxpr).count("remat")

    (want, want_grads), without = grads(False)
    (got, got_grads), with_remat = grads(True)
    assert without == 0 and with_remat > 0
    np.testing.assert_allclose(got, want, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), got_grads, want_grads)


@pytest.mark.parametrize("kind", ["vit", "bert"])
def test_dropout_acts_in_training_only_and_follows_its_key(kind):
    cls, fields, inputs = SMALL[kind]
    model = cls(**fields, dropout=0.5)
    variables = filled.variables(model, *inputs)
    train = jax.jit(lambda key: model.apply(variables, *inputs, train=True, rngs={"dropout": key})[0])
    plain, _ = jax.jit(cls(**fields).apply)(variables, *inputs)
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, *inputs)[0], plain)
    first, again, other = train(dropout_key(1)), train(dropout_key(1)), train(dropout_key(2))
    np.testing.assert_array_equal(first, again)
    assert golden.relative_l2(first, plain) > 0.1 and golden.relative_l2(first, other) > 0.1


def test_norm_keeps_float32_inside_for_bfloat16():
    """A LayerNorm computed in bfloat16 would lose the spread around a large mean."""
    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x):
            return attention.norm(x, 1e-6, jnp.bfloat16, "norm")

    x = jnp.asarray(np.random.RandomState(0).randn(4, 64) + 30.0, jnp.bfloat16)
    got, _ = Norm().init_with_output(jax.random.key(0), x)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(1, keepdims=True)) / np.sqrt(exact.var(1, keepdims=True) + 1e-6)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(got, np.float64), exact, atol=0.01)


def test_gelu_is_torchs():
    """Values of torch.nn.functional.gelu in float64."""
    x = jnp.asarray([-3.0, -1.0, -0.1, 0.0, 0.5, 2.0], jnp.float32)
    want = [-0.00404969409489031, -0.15865525393145707, -0.046017216272297, 0.0, 0.34573123063700656, 1.954499736103642]
    np.testing.assert_allclose(attention.gelu(x), want, atol=1e-7)
