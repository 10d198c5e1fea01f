"""ResNet against the golden cases, truncation, training-mode statistics, and its error messages."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax import weights
from medvlp_jax.models import resnet
from medvlp_jax.models.resnet import ResNet
from tests import golden
from tests.models import filled

pytestmark = pytest.mark.usefixtures("quick_compiles")


def nhwc(x):
    return x.transpose(0, 2, 3, 1)


@pytest.mark.parametrize(("case", "depth", "sliced"), [("resnet18", 18, 1), ("resnet50", 50, 2)])
def test_matches_every_golden_output(case, depth, sliced):
    """The first `sliced` stages keep every 4th channel in the golden file."""
    _, params, inputs, want = golden.load(case)
    fields = weights.config_of("resnet", params)
    assert fields == dict(depth=depth, width=64, num_stages=4)
    image = jnp.asarray(nhwc(inputs[f"{case}/images"]))
    variables = weights.from_torch("resnet", params)
    x, out = jax.jit(ResNet(**fields).apply)(variables, image)
    got = {"stem": out["stem"][..., ::4], "stem_pool": out["stem_pool"][..., ::4], "pooled": x}
    for s in range(1, 5):
        got[f"layer{s}"] = out[f"stage{s}"][..., :: 4 if s <= sliced else 1]
    got["logits"] = np.asarray(x) @ params["fc.weight"].T + params["fc.bias"]  # our model has no classifier
    assert set(got) == set(want)
    for name, array in got.items():
        assert golden.relative_l2(array, nhwc(want[name]) if want[name].ndim == 4 else want[name]) <= 1e-5, name


def small(**fields):
    return ResNet(**{**dict(depth=18, width=8), **fields})


@pytest.mark.parametrize("depth", [18, 50])
def test_stages_have_the_documented_shapes(depth):
    model = small(depth=depth, num_stages=3)
    image = jax.ShapeDtypeStruct((2, 72, 64, 3), jnp.float32)
    (x, out), _ = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    expansion = 4 if depth == 50 else 1
    assert x.shape == (2, 32 * expansion)
    assert {k: v.shape for k, v in out.items()} == {
        "stem": (2, 36, 32, 8),
        "stem_pool": (2, 18, 16, 8),
        "stage1": (2, 18, 16, 8 * expansion),
        "stage2": (2, 9, 8, 16 * expansion),
        "stage3": (2, 5, 4, 32 * expansion),
    }


def test_a_patch_stem_keeps_the_strides_of_the_stages():
    image = jax.ShapeDtypeStruct((2, 72, 64, 3), jnp.float32)
    (_, out), variables = jax.eval_shape(small(patch_stem=True, num_stages=2).init_with_output, jax.random.key(0), image)
    assert variables["params"]["stem"]["kernel"].shape == (4, 4, 3, 8)
    assert {k: v.shape[1:3] for k, v in out.items()} == {
        "stem": (18, 16), "stem_pool": (18, 16), "stage1": (18, 16), "stage2": (9, 8)
    }  # fmt: skip


def test_training_normalises_by_the_batch_and_moves_the_running_statistics_as_torch_does():
    model = small(num_stages=1)
    image = jnp.asarray(np.random.RandomState(0).randn(2, 32, 32, 3) + 1.0, jnp.float32)
    variables = filled.variables(model, image)
    (_, out), state = jax.jit(
        lambda v: model.apply(
            v, image, True, mutable=["batch_stats", "intermediates"], capture_intermediates=lambda m, _: m.name == "stem"
        )
    )(variables)
    stem = np.asarray(state["intermediates"]["stem"]["__call__"][0], np.float64).reshape(-1, 8)
    moved = state["batch_stats"]["stem_norm"]
    old, params = variables["batch_stats"]["stem_norm"], variables["params"]["stem_norm"]
    np.testing.assert_allclose(moved["mean"], 0.9 * old["mean"] + 0.1 * stem.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved["var"], 0.9 * old["var"] + 0.1 * stem.var(0, ddof=1), rtol=1e-5)
    normalised = (stem - stem.mean(0)) / np.sqrt(stem.var(0) + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(np.asarray(out["stem"]).reshape(-1, 8), np.maximum(normalised, 0), atol=1e-5)


def test_errors_say_what_would_fit():
    image = jnp.zeros((1, 32, 32, 3))
    with pytest.raises(ValueError, match="no ResNet of depth 51; known: 18, 34, 50, 101"):
        jax.eval_shape(small(depth=51).init, jax.random.key(0), image)
    with pytest.raises(ValueError, match="num_stages must be 1 to 4, came 5"):
        jax.eval_shape(small(num_stages=5).init, jax.random.key(0), image)


def test_1x1_convolutions_as_products_on_a_cpu_are_convolutions(monkeypatch):
    """Output, statistics and gradients; with a stride, as in the shortcuts, and without."""
    model, rng = small(depth=50, num_stages=2), np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(2, 30, 34, 3)), jnp.float32)
    variables = model.init(jax.random.key(0), image)

    def run(platform):
        monkeypatch.setattr(resnet, "platform", lambda: platform)

        @jax.jit
        def loss(params):
            (x, out), stats = model.apply({**variables, "params": params}, image, train=True, mutable=["batch_stats"])
            return (x**2).sum() + (out["stage1"] ** 2).mean(), stats

        program = jax.make_jaxpr(loss)(variables["params"])
        return str(program).count("conv_general_dilated["), jax.value_and_grad(loss, has_aux=True)(variables["params"])

    (few, got), (many, want) = run("cpu"), run("tpu")
    assert many - few == 2 * (3 + 4) + 2  # the outer layers of each bottleneck, and a shortcut a stage
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert golden.relative_l2(a, b) <= 1e-4
