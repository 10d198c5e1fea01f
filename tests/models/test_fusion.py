"""The fusion decoder against the published one (golden medklip_decoder_only), and its masks, dropout and types."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medvlp_jax.models.fusion import FusionDecoder, MultiHeadAttention
from tests import golden

pytestmark = pytest.mark.usefixtures("quick_compiles")

# torch's name inside of a layer -> ours; kernels are transposed, packed q/k/v are split.
PACKED = (("self_attn.in_proj_{}", "self_attention"), ("multihead_attn.in_proj_{}", "cross_attention"))
LAYER = (
    ("self_attn.out_proj.{}", "self_attention/out"),
    ("multihead_attn.out_proj.{}", "cross_attention/out"),
    ("linear1.{}", "mlp_in"),
    ("linear2.{}", "mlp_out"),
    ("norm1.{}", "norm_self"),
    ("norm2.{}", "norm_cross"),
    ("norm3.{}", "norm_mlp"),
)


def from_torch(tensors: dict, depth: int) -> dict:
    """Tensors of the published decoder (weights or gradients) -> nested parameters of `FusionDecoder`."""
    flat = {}

    def put(name, weight, bias):
        flat[f"{name}/{'scale' if 'norm' in name else 'kernel'}"] = weight.T
        flat[f"{name}/bias"] = bias

    for i in range(depth):
        for theirs, ours in LAYER:
            put(f"layer{i}/{ours}", *(tensors[f"layers.{i}." + theirs.format(k)] for k in ("weight", "bias")))
        for theirs, ours in PACKED:
            parts = (np.split(tensors[f"layers.{i}." + theirs.format(k)], 3) for k in ("weight", "bias"))
            for name, weight, bias in zip(("query", "key", "value"), *parts, strict=True):
                put(f"layer{i}/{ours}/{name}", weight, bias)
    put("norm", tensors["norm.weight"], tensors["norm.bias"])
    tree = {}
    for name, value in flat.items():
        *path, leaf = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[leaf] = jnp.asarray(value)
    return tree


def batch_first(x):
    return np.swapaxes(x, 0, 1)


@pytest.fixture(scope="module")
def case():
    meta, params, inputs, z = golden.load("medklip_decoder_only")
    c = meta["config"]
    model = FusionDecoder(c["d_model"], c["num_layers"], c["nhead"], c["dim_feedforward"], dropout=0.0)
    queries, memory, probe = (batch_first(inputs[f"medklip_decoder_only/{k}"]) for k in ("tgt", "memory", "probe"))
    return meta, model, from_torch(params, 2), queries, memory, probe, z


def test_golden_forward_and_gradients(case):
    _, model, params, queries, memory, probe, z = case

    def loss(params, queries, memory):
        (x, out), inside = model.apply({"params": params}, queries, memory, train=True, capture_intermediates=True)
        return (x * probe).sum(), (x, out["attention"], inside["intermediates"]["layer0"]["__call__"][0][0])

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (value, (x, maps, first)), (d_params, d_queries, d_memory) = step(params, queries, memory)
    assert golden.relative_l2(batch_first(x), z["out"]) < 1e-6
    assert golden.relative_l2(batch_first(first), z["layer0_out"]) < 1e-6
    assert maps.shape == (3, 2, 5, 9)
    for i in range(2):
        assert golden.relative_l2(maps[:, i], z[f"ws_{i}"]) < 1e-6
    np.testing.assert_allclose(value, z["loss"], rtol=1e-6)
    assert golden.relative_l2(batch_first(d_queries), z["d_tgt"]) < 1e-5
    assert golden.relative_l2(batch_first(d_memory), z["d_memory"]) < 1e-5
    want = from_torch({k.removeprefix("grad/"): v for k, v in z.items() if k.startswith("grad/")}, 2)
    scale = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(want):
        scale[path[:-2]] = max(scale.get(path[:-2], 0.0), float(jnp.abs(leaf).max()))
    got = dict(jax.tree_util.tree_leaves_with_path(d_params))
    assert len(got) == 2 * (8 * 2 + 2 * 2 + 3 * 2) + 2
    for path, leaf in jax.tree_util.tree_leaves_with_path(want):
        # the gradient of a key bias is zero: its rounding noise is judged by the scale of its module
        np.testing.assert_allclose(got[path], leaf, atol=1e-5 * scale[path[:-2]], rtol=1e-5, err_msg=str(path))


def test_float64_runs_in_float64(case):
    _, model, params, queries, memory, _, z = case
    with jax.enable_x64(True):
        queries, memory = np.float64(queries), np.float64(memory)
        x, out = jax.jit(model.clone(dtype=jnp.float64).apply)({"params": params}, queries, memory)
    assert x.dtype == np.float64 and out["attention"].dtype == np.float64
    assert golden.relative_l2(batch_first(x), z["out"]) < 6e-7  # the rounding of the stored float32 run: 4.5e-7


def test_golden_three_adamw_steps(case):
    meta, model, params, queries, memory, probe, z = case
    adamw = meta["adamw"]
    optimizer = optax.adamw(
        adamw["lr"], weight_decay=adamw["weight_decay"], mask=lambda p: jax.tree.map(lambda x: x.ndim >= 2, p)
    )

    @jax.jit
    def step(params, state):
        def loss(params):
            x, _ = model.apply({"params": params}, queries, memory)
            return ((x * probe) ** 2).mean()

        value, grads = jax.value_and_grad(loss)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes float and int scalars
            updates, state = optimizer.update(grads, state, params)
        return value, optax.apply_updates(params, updates), state

    state, losses = optimizer.init(params), []
    for _ in range(adamw["steps"]):
        value, params, state = step(params, state)
        losses.append(value)
    np.testing.assert_allclose(losses, z["adamw_losses"], rtol=2e-5)
    x, _ = jax.jit(model.apply)({"params": params}, queries, memory)
    assert golden.relative_l2(batch_first(x), z["adamw_out_after3"]) < 1e-4
    for name, got in {
        "layers.0.linear1.weight": params["layer0"]["mlp_in"]["kernel"].T,
        "layers.0.linear1.bias": params["layer0"]["mlp_in"]["bias"],
        "layers.1.norm2.weight": params["layer1"]["norm_cross"]["scale"],
        "norm.bias": params["norm"]["bias"],
    }.items():
        assert golden.relative_l2(got, z[f"adamw_after3/{name}"]) < 1e-4, name
    # The L2 norm of every tensor. Packed biases are left out: their
    # key third has no gradient, so Adam moves it by rounding noise, in the reference too.
    norms = dict(zip(meta["param_names"], z["adamw_param_l2_after3"], strict=True))
    for i in range(2):
        leaves = jax.tree_util.tree_leaves_with_path(params[f"layer{i}"])
        layer = {"/".join(key.key for key in path): leaf for path, leaf in leaves}
        for theirs, ours in LAYER:
            weight = "scale" if ours.startswith("norm") else "kernel"
            for kind, leaf in (("weight", weight), ("bias", "bias")):
                got = np.linalg.norm(layer[f"{ours}/{leaf}"])
                np.testing.assert_allclose(got, norms[f"layers.{i}." + theirs.format(kind)], rtol=1e-4)
        for theirs, ours in PACKED:
            got = np.linalg.norm([layer[f"{ours}/{k}/kernel"] for k in ("query", "key", "value")])
            np.testing.assert_allclose(got, norms[f"layers.{i}." + theirs.format("weight")], rtol=1e-4)


def test_masked_queries_do_not_reach_the_others(case):
    _, model, params, queries, memory, _, _ = case
    mask = np.array([[1, 1, 1, 0, 0]] * 3, np.int32)
    apply = jax.jit(lambda q, m: model.apply({"params": params}, q, memory, m)[0])
    masked = apply(queries, mask)
    changed = queries.copy()
    changed[:, 3:] = 7.0
    np.testing.assert_array_equal(np.asarray(masked)[:, :3], np.asarray(apply(changed, mask))[:, :3])
    short = jax.jit(lambda q: model.apply({"params": params}, q, memory)[0])(queries[:, :3])
    np.testing.assert_allclose(np.asarray(masked)[:, :3], short, atol=1e-5)
    assert np.isfinite(apply(queries, np.zeros((3, 5), np.int32))).all()


def test_dropout_acts_on_features_but_not_on_the_maps():
    model = FusionDecoder(16, 1, 4, 32, dropout=0.5)
    rng = np.random.default_rng(0)
    queries, memory = rng.standard_normal((2, 5, 16), np.float32), rng.standard_normal((2, 7, 12), np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), queries, memory)

    @jax.jit
    def apply(key):
        return model.apply(variables, queries, memory, train=True, rngs={"dropout": key})

    (a, out_a), (b, _), (c, _) = (apply(jax.random.key(seed, impl="rbg")) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.abs(np.asarray(a) - np.asarray(c)).max() > 0.01
    np.testing.assert_allclose(out_a["attention"].sum(axis=-1), 1.0, rtol=1e-5)


def test_attention_dropout_keeps_the_expectation():
    layer = MultiHeadAttention(num_heads=2, dropout=0.3)
    rng = np.random.default_rng(1)
    queries, memory = rng.standard_normal((1, 3, 8), np.float32), rng.standard_normal((1, 6, 8), np.float32)
    variables = layer.init(jax.random.key(0), queries, memory)
    variables = jax.tree.map(lambda x: 20 * x, variables)  # weights of useful size
    keys = jax.random.split(jax.random.key(1), 4000)
    sample = jax.vmap(lambda key: layer.apply(variables, queries, memory, None, True, rngs={"dropout": key})[0])
    dropped, plain = jax.jit(sample)(keys), layer.apply(variables, queries, memory)[0]
    deviation = np.asarray(dropped).std(axis=0)
    assert deviation.min() > 0
    np.testing.assert_array_less(np.abs(dropped.mean(axis=0) - plain), 5 * deviation / np.sqrt(len(keys)))


def test_initialisation_parameter_count_and_types():
    model = FusionDecoder(remat=True, dtype=jnp.bfloat16)  # MedKLIP's size
    queries, memory = jnp.ones((1, 3, 256), jnp.bfloat16), jnp.ones((1, 4, 256), jnp.bfloat16)
    variables = jax.eval_shape(model.init, jax.random.key(0), queries, memory)
    attention, mlp, norms = 4 * (256 * 256 + 256), 2 * 256 * 1024 + 1024 + 256, 3 * 2 * 256
    leaves = jax.tree.leaves(variables)
    assert sum(x.size for x in leaves) == 4 * (2 * attention + mlp + norms) + 2 * 256
    assert all(x.dtype == jnp.float32 for x in leaves)
    x, out = jax.eval_shape(model.apply, variables, queries, memory)
    assert x.dtype == jnp.bfloat16 and out["attention"].dtype == jnp.float32
    assert out["attention"].shape == (1, 4, 3, 4)
    layer = jax.jit(model.clone(depth=1).init)(jax.random.key(0), queries, memory)["params"]["layer0"]
    assert abs(float(layer["cross_attention"]["key"]["kernel"].std()) - 0.02) < 1e-3
    assert float(jnp.abs(layer["mlp_in"]["bias"]).max()) == 0.0


def test_remat_and_bfloat16_agree_with_the_plain_decoder(case):
    _, model, params, queries, memory, probe, _ = case

    def grads(model):
        def loss(params, key):
            x, out = model.apply({"params": params}, queries, memory, train=True, rngs={"dropout": key})
            return (x.astype(jnp.float32) * probe).sum() + out["attention"].max()

        key = jax.random.key(3, impl="rbg")  # threefry takes long to compile
        return jax.jit(jax.value_and_grad(loss))(params, key)

    params = {k: params[k] for k in ("layer0", "norm")}
    model = model.clone(depth=1)
    value, plain = grads(model.clone(dropout=0.1))
    value_remat, remat = grads(model.clone(dropout=0.1, remat=True))
    np.testing.assert_allclose(value, value_remat, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), plain, remat)
    x, _ = jax.jit(model.apply)({"params": params}, queries, memory)
    low, _ = jax.jit(model.clone(dtype=jnp.bfloat16).apply)({"params": params}, queries, memory)
    assert 0 < golden.relative_l2(low, x) < 0.03


def test_wrong_widths_are_named():
    memory = jnp.ones((1, 2, 8))
    with pytest.raises(ValueError, match="queries of width 8 given to a decoder of width=16"):
        FusionDecoder(16, 1, 2, 8).init(jax.random.key(0), memory, memory)
    with pytest.raises(ValueError, match="width 8 is not a multiple of num_heads=3"):
        MultiHeadAttention(3).init(jax.random.key(0), memory, memory)
