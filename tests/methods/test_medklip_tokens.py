"""What MedKLIP's decoder reads of a frozen trunk: tokens of the whole image, normalised and dropped channels."""
import jax
import numpy as np
import pytest

from medvlp_jax.models import trunks
from tests import tiny

pytestmark = pytest.mark.usefixtures("quick_compiles")
N, C = 16, 16  # patches and width of the tiny trunk


def parts(**overrides):
    """(method, variables, batch) of a tiny MedKLIP."""
    method, batch = tiny.method(tiny.config("medklip", **overrides)), tiny.batch()
    return method, jax.jit(method.init)(jax.random.key(0), {**batch, "knowledge": tiny.tables()}), batch


def trained(method, variables, batch, key=1):
    """(loss, state after) of a training step's forward pass."""
    state = {k: v for k, v in variables.items() if k != "params"}
    loss, (after, _) = jax.jit(method.loss)(variables["params"], state, batch, jax.random.key(key))
    return float(loss), after


@pytest.mark.parametrize(
    "switch",
    [{}, {"model/global_blocks": (0,)}, {"model/token_norm": True}, {"model/global_blocks": (0,), "model/token_norm": True}],
)
def test_outputs_computed_before_give_the_same_loss(switch):
    method, variables, batch = parts(**switch)
    before = jax.jit(method.trunk_outputs)(variables, batch)
    assert {k: v.shape for k, v in before.items()} == {
        "tokens": (16, N, C), **({"wholes": (16, 2, C)} if "model/global_blocks" in switch else {})}  # fmt: skip
    brought = {k: v for k, v in batch.items() if k != "image"} | {f"trunk/{k}": v for k, v in before.items()}
    np.testing.assert_allclose(trained(method, variables, brought)[0], trained(method, variables, batch)[0], rtol=1e-5)


def test_each_switch_changes_the_loss_and_only_dropout_needs_luck():
    plain = trained(*parts())[0]
    for name, value in (("global_blocks", (0,)), ("token_norm", True), ("token_dropout", 0.5)):
        method, variables, batch = parts(**{f"model/{name}": value})
        losses = [trained(method, variables, batch, key)[0] for key in (1, 2)]
        assert abs(losses[0] - plain) > 1e-5, name
        assert (losses[0] != losses[1]) == (name == "token_dropout")
    first, second = (method.predict["score_findings"](variables, batch) for _ in range(2))
    np.testing.assert_array_equal(first, second)  # no dropout where findings are scored


def test_whole_image_tokens_get_attention_but_are_no_patches():
    method, variables, batch = parts(**{"model/global_blocks": (0,)})
    maps = np.asarray(method.predict["ground"](variables, batch))  # (B, K, 4, 4)
    assert maps.shape == (16, 75, 4, 4)
    share = maps.sum((2, 3))
    assert (share < 1).all() and (share > 0.5).all()
    assert method.predict["embed_patches"](variables, batch).shape == (16, N, 16)
    whole = np.asarray(parts()[0].predict["ground"](parts()[1], batch)).sum((2, 3))
    np.testing.assert_allclose(whole, 1, rtol=1e-5)


def test_normalised_tokens_have_mean_0_and_variance_1_and_running_averages():
    method, variables, batch = parts(**{"model/global_blocks": (0,), "model/token_norm": True})
    _, state = trained(method, variables, batch)
    outputs = method.trunk_outputs(variables, batch)
    tokens = np.asarray(outputs["tokens"], np.float64)  # (B, N, C)
    whole = np.asarray(outputs["wholes"], np.float64).reshape(16, 2 * C)
    for name, x in (("token_norm", tokens.reshape(-1, C)), ("global_norm", whole)):
        found = state["batch_stats"][name]
        np.testing.assert_allclose(found["mean"], 0.1 * x.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["var"], 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-4)
    size = {name: np.asarray(method.predict["score_findings"](variables | moved, batch)) for name, moved in
            (("start", {}), ("trained", {"batch_stats": state["batch_stats"]}))}  # fmt: skip
    assert np.abs(size["start"] - size["trained"]).max() > 1e-6  # scoring goes by the running averages


def test_whole_image_tokens_are_class_token_and_mean_patch_of_the_blocks():
    method, variables, batch = parts(**{"model/global_blocks": (0,)})
    image = trunks.normalise(batch["image"], *(tiny.config("medklip").normalisation[k] for k in ("mean", "std")))
    encoder = trunks.image_encoder(name="vit", patch_size=8, width=16, depth=1, num_heads=2, mlp_dim=32)
    _, out = encoder.apply({"params": variables["params"]["image_encoder"]}, image)
    expected = np.stack([out["block_0"][:, 0], np.asarray(out["block_0"])[:, 1:].mean(1)], 1)
    np.testing.assert_allclose(method.trunk_outputs(variables, batch)["wholes"], expected, atol=2e-5)


RESNET = {"name": "resnet", "depth": 18, "width": 8, "num_stages": 3, "init": ""}


@pytest.mark.parametrize("image", [{}, {"model/image": RESNET}])
def test_blocks_that_the_trunk_does_not_have_are_named(image):
    with pytest.raises(ValueError, match=r"global_blocks names \[3\]; this trunk has (block_0|no blocks)"):
        parts(**{"model/global_blocks": (0, 3) if not image else (3,), **image})
