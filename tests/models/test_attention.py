"""Attention goes through jax.nn.dot_product_attention wherever its weights have no dropout, and is what einsums give."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax.models import attention, bert, vit
from medvlp_jax.models.fusion import FusionDecoder
from tests.models import filled

RNG = np.random.RandomState(0)
IDS = jnp.asarray(RNG.randint(1, 30, (2, 7)), jnp.int32)
MASK = jnp.asarray(np.arange(7)[None] < np.array([[7], [4]]), jnp.int32)
IMAGE = jnp.asarray(RNG.randn(2, 32, 32, 3), jnp.float32)
QUERIES, MEMORY = (jnp.asarray(RNG.randn(2, n, 16), jnp.float32) for n in (7, 5))
SMALL = dict(width=16, depth=2, num_heads=2, mlp_dim=32)
# name: (model, inputs, attentions of a forward pass)
CASES = {
    "vit": (vit.ViT(patch_size=8, **SMALL), (IMAGE,), 2),
    "bert": (bert.Bert(vocab_size=30, **SMALL), (IDS, MASK), 2),
    "fusion": (FusionDecoder(**SMALL, dropout=0.0), (QUERIES, MEMORY, MASK), 4),
}


def by_einsum(query, key, value, mask=None):
    """What `jax.nn.dot_product_attention` is for."""
    weights = attention.attention_map(query, key, None if mask is None else mask[:, 0, 0])
    return jnp.einsum("bhqn,bnhd->bqhd", weights, value)


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the queries of each call of jax.nn.dot_product_attention; `calls.instead` computes in its place."""
    class Calls(list):
        instead = staticmethod(jax.nn.dot_product_attention)

    made = Calls()

    def recorded(query, key, value, **options):
        made.append(query.shape)
        return made.instead(query, key, value, **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", recorded)
    return made


@pytest.mark.usefixtures("quick_compiles")
@pytest.mark.parametrize("name", CASES)
def test_every_attention_without_dropout_is_jaxs_and_equals_the_einsums(name, calls):
    model, inputs, count = CASES[name]
    variables = filled.variables(model, *inputs)
    calls.clear()

    def loss(params):
        x, out = model.apply({"params": params}, *inputs, train=True)
        return jnp.mean(jnp.sin(x) * (MASK[..., None] if name == "bert" else 1)), x

    def grads():
        (_, x), gradient = jax.jit(jax.value_and_grad(lambda params: loss(params), has_aux=True))(variables["params"])
        return x, gradient

    with jax.numpy_dtype_promotion("standard"):
        x, got = grads()
        assert len(calls) == count
        calls.instead = by_einsum
        y, want = grads()
    assert len(calls) == 2 * count
    np.testing.assert_allclose(x, y, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-4), got, want)
    kernels = [leaf for key, leaf in filled.flat(got).items() if key.endswith(("query/kernel", "value/kernel"))]
    assert len(kernels) == 2 * count and all(np.abs(leaf).max() > 0 for leaf in kernels)


def test_dropout_of_the_weights_is_the_one_case_that_needs_them(calls):
    """In the decoder, in training; the trunks' dropout is not on the weights and evaluation has none."""
    model, inputs, count = CASES["fusion"]
    variables = filled.variables(model, *inputs)
    dropped, key = model.clone(dropout=0.5), jax.random.key(0)

    def traced(model, inputs, variables, train):
        calls.clear()
        jax.eval_shape(lambda v: model.apply(v, *inputs, train=train, rngs={"dropout": key})[0], variables)
        return len(calls)

    assert traced(dropped, inputs, variables, True) == 0
    assert traced(dropped, inputs, variables, False) == count
    for name in ("vit", "bert"):
        model, inputs, count = CASES[name]
        assert traced(model.clone(dropout=0.5), inputs, filled.variables(model, *inputs), True) == count
