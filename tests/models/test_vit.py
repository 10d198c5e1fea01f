"""ViT against the golden cases, at other resolutions, and its error messages."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax import weights
from medvlp_jax.models import attention, vit
from tests import golden
from tests.models import filled

pytestmark = pytest.mark.usefixtures("quick_compiles")


def test_tiny_matches_every_golden_output():
    _, params, inputs, want = golden.load("vit_tiny_golden")
    model = vit.ViT(**weights.config_of("vit", params, num_heads=4))
    variables = weights.from_torch("vit", params)
    image = inputs["vit_tiny_golden/images"].transpose(0, 2, 3, 1)
    probe = inputs["vit_tiny_golden/probe"]

    def loss(params):
        (x, out), state = model.apply(
            {"params": params}, image, capture_intermediates=lambda m, _: m.name in ("query", "key")
        )
        heads = {n: y["__call__"][0] for n, y in state["intermediates"]["block_1"]["attention"].items()}
        tokens = jnp.concatenate([x[:, None], out["patch_tokens"]], axis=1)
        return jnp.sum(tokens * probe), (x, out, heads)

    (value, (x, out, heads)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    q, k = (heads[n].reshape(2, 17, 4, 8) for n in ("query", "key"))
    got = {
        "cls": x,
        "patch_tokens": out["patch_tokens"],
        "patch_embed_slice": out["patch_embedding"][:, ::4],
        "block0_out_slice": out["block_0"][:, ::4],
        "last_attention": attention.attention_map(q, k),
        "last_cls_attention": attention.attention_map(q[:, :1], k)[:, :, 0, 1:],
        "loss": value,
    }
    for name, array in got.items():
        assert golden.relative_l2(array, want[name]) <= 1e-5, name
    assert golden.relative_l2(out["attention"], want["last_cls_attention"].mean(1)) <= 1e-5
    grads = weights.to_torch("vit", {"params": grads})  # torch's layout, which the golden heads are in
    flat = [grads[name].ravel() for name in params]
    np.testing.assert_allclose([np.linalg.norm(g) for g in flat], want["grad_norm"], rtol=1e-4)
    assert golden.relative_l2([g[:8] for g in flat], want["grad_head8"]) <= 1e-5
    assert set(got) | {"grad_norm", "grad_head8"} == set(want)


def test_base_matches_every_golden_output():
    _, params, inputs, want = golden.load("vit_base_patch16_224")
    model = vit.ViT(**weights.config_of("vit", params))
    assert weights.config_of("vit", params) == vit.SIZES["B/16"]
    image = inputs["vit_base_patch16_224/images"].transpose(0, 2, 3, 1)

    @jax.jit
    def outputs(variables):
        (x, out), state = model.apply(
            variables, image, capture_intermediates=lambda m, _: isinstance(m, attention.SelfAttention)
        )
        row = state["intermediates"]["block_11"]["attention"]["__call__"][0][1]
        return x, out["patch_tokens"], out["patch_embedding"], out["block_0"], out["attention"], row

    x, tokens, embedding, block_0, mean_map, row = outputs(weights.from_torch("vit", params))
    got = {
        "cls": x,
        "patch_tokens": tokens,
        "last_cls_attention": row[:, :, 1:],
        "patch_embed_slice": embedding[:, ::4],
        "block0_out_slice": block_0[:, ::4],
    }
    assert set(got) == set(want)
    for name, array in got.items():
        assert golden.relative_l2(array, want[name]) <= 1e-5, name
    assert golden.relative_l2(mean_map, want["last_cls_attention"].mean(1)) <= 1e-5


def test_positions_are_resampled_as_torch_does():
    """Numbers from torch.nn.functional.interpolate(mode="bicubic", align_corners=False) of this 3 x 4 table."""
    table = np.array([[0.0, 0.1, 0.2, 0.3], [0.7, 0.0, 0.4, 0.8], [0.6, 0.2, 0.9, 0.5]], np.float32)
    want = [
        [-0.043062, 0.1551, 0.243018],
        [0.242122, 0.096763, 0.479658],
        [0.592593, 0.096875, 0.749537],
        [0.596313, 0.370363, 0.672666],
        [0.524473, 0.5935, 0.552282],
    ]
    got = vit.interpolate_positions(jnp.asarray(table)[..., None], (5, 3))
    np.testing.assert_allclose(got[..., 0], want, atol=2e-6)


def small(**fields):
    return vit.ViT(**{**dict(patch_size=4, width=16, depth=2, num_heads=2, mlp_dim=32), **fields})


def test_one_set_of_weights_takes_any_resolution():
    model, rng = small(), np.random.RandomState(0)
    image = jnp.asarray(rng.randn(2, 24, 16, 3), jnp.float32)
    variables = filled.variables(model, jnp.zeros((1, 16, 16, 3)))
    apply = jax.jit(model.apply)
    x, out = apply(variables, image)
    assert x.shape == (2, 16) and out["patch_tokens"].shape == (2, 24, 16) and out["attention"].shape == (2, 24)
    grid = vit.interpolate_positions(variables["params"]["position_embedding"], (6, 4))
    resampled = {"params": {**variables["params"], "position_embedding": grid}}
    assert golden.relative_l2(apply(resampled, image)[0], x) < 1e-6
    with pytest.raises(ValueError, match="24 x 18 is not a whole number of 4 px patches; 24 x 16 would fit"):
        model.apply(variables, jnp.zeros((1, 24, 18, 3)))


def test_patch_tokens_are_row_major():
    """Only the patch whose pixels change may change in the embedding."""
    model = small()
    variables = filled.variables(model, jnp.zeros((1, 16, 16, 3)))
    changed = np.zeros((1, 16, 16, 3), np.float32)
    changed[0, 5, 9] = 1.0  # row 1, column 2 of the 4 x 4 patches
    embed = jax.jit(lambda image: model.apply(variables, image)[1]["patch_embedding"])
    difference = np.abs(embed(changed) - embed(jnp.zeros((1, 16, 16, 3)))).sum(-1)[0]
    assert np.flatnonzero(difference).tolist() == [1 * 4 + 2]


def test_layer_scale_of_zero_makes_blocks_the_identity():
    model = small(layer_scale=1.0)
    image = jnp.asarray(np.random.RandomState(0).randn(1, 16, 16, 3), jnp.float32)
    variables = filled.variables(model, image)
    for block in ("block_0", "block_1"):
        for branch in ("attention", "mlp"):
            variables["params"][block][f"{branch}_layer_scale"] = np.zeros(16, np.float32)
    _, out = jax.jit(model.apply)(variables, image)
    embedded = out["patch_embedding"] + variables["params"]["position_embedding"].reshape(1, 16, 16)
    np.testing.assert_allclose(out["block_0"][:, 1:], embedded, atol=1e-6)
    np.testing.assert_array_equal(out["block_1"], out["block_0"])


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="width 16 is not a multiple of num_heads=3"):
        jax.eval_shape(small(num_heads=3).init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
