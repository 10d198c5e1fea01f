"""Projection heads against the published ones (golden mgca_heads), masked statistics, and degenerate batches."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from medvlp_jax.models.batch_norm import BatchNorm
from medvlp_jax.models.heads import ProjectionHead, normalize
from tests import golden

# torch's position in the published Sequential -> our layer, and torch's tensor -> our (collection, leaf)
LAYERS = {"0": "dense1", "1": "norm1", "3": "dense2", "4": "norm2"}
LEAVES = {
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def from_torch(tensors: dict) -> dict:
    """{"0.weight": ...} of a published head (1x1 convolutions too) -> variables of `ProjectionHead`."""
    variables = {"params": {}, "batch_stats": {}}
    for name, value in tensors.items():
        position, kind = name.split(".")
        if kind == "num_batches_tracked":
            continue
        if kind == "weight":
            collection, leaf = "params", "scale" if value.ndim == 1 else "kernel"
            value = value.reshape(value.shape[:2]).T if value.ndim > 1 else value
        else:
            collection, leaf = LEAVES[kind]
        variables[collection].setdefault(LAYERS[position], {})[leaf] = jnp.asarray(value)
    return variables


def strip(arrays, prefix):
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("kind", ["global", "local"])
def test_golden_forward_gradients_and_statistics(kind, train):
    meta, params, inputs, z = golden.load("mgca_heads")
    variables = from_torch(strip(params, f"{kind}.head."))
    model = ProjectionHead(meta["config"]["hidden_dim"], meta["config"]["output_dim"])
    x, probe = inputs[f"mgca_heads/{kind}_x"], inputs[f"mgca_heads/{kind}_probe"]

    def loss(params, x):
        y, state = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]}, x, train=train, mutable=["batch_stats"]
        )
        return (y * probe).sum(), (y, state)

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, (y, state)), (d_params, dx) = step(variables["params"], x)
    z = strip(z, f"{kind}_{'train' if train else 'eval'}/")
    assert golden.relative_l2(y, z["y"]) < 1e-6
    assert golden.relative_l2(dx, z["dx"]) < 2e-6
    want = from_torch(strip(z, "d_head."))["params"]
    assert jax.tree.structure(want) == jax.tree.structure(d_params)
    for layer, leaves in want.items():
        for leaf, grad in leaves.items():
            noise = train and layer.startswith("dense") and leaf == "bias"  # before a BatchNorm the truth is 0
            np.testing.assert_allclose(d_params[layer][leaf], grad, rtol=1e-5, atol=2e-5 if noise else 1e-5)
    after = from_torch(strip(z, "after_head."))["batch_stats"] if train else variables["batch_stats"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), state["batch_stats"], after)


def test_masked_entries_have_no_part_in_the_statistics():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 5, 6), np.float32)
    mask = (np.arange(5)[None] < np.array([5, 2, 0, 3])[:, None]).astype(np.int32)
    model = ProjectionHead(8, 3)
    variables = jax.jit(model.init)(jax.random.key(0), x)

    @jax.jit
    def apply(x, mask):
        return model.apply(variables, x, mask, True, mutable=["batch_stats"])

    y, state = apply(x, mask)
    changed = np.where(mask[..., None] == 1, x, np.float32(50))
    y_changed, state_changed = apply(changed, mask)
    chosen = mask == 1
    np.testing.assert_array_equal(np.asarray(y)[chosen], np.asarray(y_changed)[chosen])
    packed, state_packed = apply(x[chosen], np.ones(10, np.int32))
    np.testing.assert_allclose(np.asarray(y)[chosen], packed, atol=1e-5)
    for other in (state_changed, state_packed):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state, other)
    with pytest.raises(ValueError, match=r"mask \(4,\) does not fit features \(4, 5, 6\): expected \(4, 5\)"):
        model.apply(variables, x, np.ones(4, np.int32))


@pytest.mark.parametrize("count", [0, 1])
def test_batches_without_or_with_one_entry_stay_finite(count):
    x = np.random.default_rng(1).standard_normal((3, 4), np.float32)
    mask = np.arange(3) < count
    model = BatchNorm()
    variables = model.init(jax.random.key(0), x)

    def loss(x):
        y, state = model.apply(variables, x, mask, True, mutable=["batch_stats"])
        return jnp.where(mask[:, None], y, 0.0).sum(), state["batch_stats"]

    (value, state), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(x)
    assert np.isfinite(value) and np.isfinite(grad).all()
    if count == 0:
        assert float(value) == 0.0 and (grad == 0).all()
        jax.tree.map(np.testing.assert_array_equal, state, variables["batch_stats"])  # the averages are left alone


def test_statistics_are_of_the_global_batch():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    x = np.random.default_rng(2).standard_normal((16, 3, 6), np.float32)
    mask = (np.arange(16 * 3).reshape(16, 3) % 5 > 0).astype(np.float32)
    model = ProjectionHead(8, 4)
    variables = jax.jit(model.init)(jax.random.key(0), x)

    def loss(params, x, mask):
        y, state = model.apply({**variables, "params": params}, x, mask, True, mutable=["batch_stats"])
        return (y**3 * mask[..., None]).sum(), state

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    one = step(variables["params"], x, mask)
    eight = step(variables["params"], *(jax.device_put(a, NamedSharding(mesh, P("data"))) for a in (x, mask)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), one, eight)


def test_bfloat16_keeps_float32_parameters_and_embeddings():
    model, x = ProjectionHead(8, 4, dtype=jnp.bfloat16), jnp.ones((2, 3), jnp.bfloat16)
    y, variables = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), x, train=True))
    assert y.dtype == jnp.float32 and {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    hidden = jax.make_jaxpr(lambda: model.init_with_output(jax.random.key(0), x)[0])()
    assert "dot_general" in str(hidden) and "bf16[2,8] = dot_general" in str(hidden)


def test_normalize_has_a_finite_gradient_at_zero():
    x = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    np.testing.assert_allclose(normalize(x), [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: normalize(x).sum())(x)).all()
    assert normalize(jnp.ones((2, 3), jnp.bfloat16)).dtype == jnp.float32
