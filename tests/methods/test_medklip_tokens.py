"""What MedKLIP's decoder reads of a frozen trunk: tokens of the whole image, normalised and dropped channels."""
import jax
import numpy as np
import pytest

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
    "switch", [{}, {"model/global_tokens": True}, {"model/token_norm": True}, {"model/global_tokens": True, "model/token_norm": True}]
)
def test_outputs_computed_before_give_the_same_loss(switch):
    method, variables, batch = parts(**switch)
    before = jax.jit(method.predict["trunk_outputs"])(variables, batch)
    assert {k: v.shape for k, v in before.items()} == {
        "tokens": (16, N, C), **({"pooled": (16, C)} if "model/global_tokens" in switch else {})}  # fmt: skip
    brought = {k: v for k, v in batch.items() if k != "image"} | {f"trunk/{k}": v for k, v in before.items()}
    np.testing.assert_allclose(trained(method, variables, brought)[0], trained(method, variables, batch)[0], rtol=1e-5)


def test_each_switch_changes_the_loss_and_only_dropout_needs_luck():
    plain = trained(*parts())[0]
    for name, value in (("global_tokens", True), ("token_norm", True), ("token_dropout", 0.5)):
        method, variables, batch = parts(**{f"model/{name}": value})
        losses = [trained(method, variables, batch, key)[0] for key in (1, 2)]
        assert abs(losses[0] - plain) > 1e-5, name
        assert (losses[0] != losses[1]) == (name == "token_dropout")
    first, second = (method.predict["score_findings"](variables, batch) for _ in range(2))
    np.testing.assert_array_equal(first, second)  # no dropout where findings are scored


def test_whole_image_tokens_get_attention_but_are_no_patches():
    method, variables, batch = parts(**{"model/global_tokens": True})
    maps = np.asarray(method.predict["ground"](variables, batch))  # (B, K, 4, 4)
    assert maps.shape == (16, 75, 4, 4)
    share = maps.sum((2, 3))
    assert (share < 1).all() and (share > 0.5).all()
    assert method.predict["embed_patches"](variables, batch).shape == (16, N, 16)
    whole = np.asarray(parts()[0].predict["ground"](parts()[1], batch)).sum((2, 3))
    np.testing.assert_allclose(whole, 1, rtol=1e-5)


def test_normalised_tokens_have_mean_0_and_variance_1_and_running_averages():
    method, variables, batch = parts(**{"model/global_tokens": True, "model/token_norm": True})
    _, state = trained(method, variables, batch)
    tokens = np.asarray(method.predict["trunk_outputs"](variables, batch)["tokens"], np.float64)  # (B, N, C)
    pooled = np.asarray(method.predict["trunk_outputs"](variables, batch)["pooled"], np.float64)
    whole = np.concatenate([pooled, tokens.mean(1)], 1)  # (B, 2 C)
    for name, x in (("token_norm", tokens.reshape(-1, C)), ("global_norm", whole)):
        found = state["batch_stats"][name]
        np.testing.assert_allclose(found["mean"], 0.1 * x.mean(0), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["var"], 0.9 + 0.1 * x.var(0, ddof=1), rtol=1e-4)
    size = {name: np.asarray(method.predict["score_findings"](variables | moved, batch)) for name, moved in
            (("start", {}), ("trained", {"batch_stats": state["batch_stats"]}))}  # fmt: skip
    assert np.abs(size["start"] - size["trained"]).max() > 1e-6  # scoring goes by the running averages


def test_a_resnet_whose_pooled_output_is_wider_is_refused():
    image = {"name": "resnet", "depth": 18, "width": 8, "num_stages": 3, "init": ""}
    with pytest.raises(ValueError, match="as wide as its patches, came"):
        parts(**{"model/global_tokens": True, "model/image": image, "model/patch_stage": 2})
