"""MedKLIP against the published program: forward, losses, gradients and running statistics (golden medklip_eval, _train)."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import medklip as config_of_medklip
from medvlp_jax import method, trees, weights
from medvlp_jax.methods import medklip
from medvlp_jax.models import trunks
from medvlp_jax.reports import vocab
from tests import golden

# What the published exclude_class leaves out; "fibrosis", which it also names, is no entity.
EXCLUDED = ("pneumonia", "infiltrate", "mass", "nodule", "emphysema", "thicken", "hernia")


def load(case, dtype=jnp.float32):
    """-> (model without dropout, variables, {"image", "entities", "positions", ...} as `dtype`, meta, outputs)."""
    meta, params, inputs, z = golden.load(case)
    fields = weights.config_of("medklip", params)
    encoder = trunks.image_encoder(**fields.pop("image"), dtype=dtype)
    model = medklip.MedKLIP(encoder, **fields, dropout=0.0, dtype=dtype)
    tables = {"image": inputs[f"{case}/images"].transpose(0, 2, 3, 1)}
    tables |= {"entities": inputs["disease_book"], "positions": inputs["ana_book"]}
    return model, weights.from_torch("medklip", params), {k: v.astype(dtype) for k, v in tables.items()}, meta, inputs, z


def spatial(x, channels, step):
    """(B, h, w, C) -> the stored slice, as torch lays it out."""
    return np.transpose(x, (0, 3, 1, 2))[:, ::channels, ::step, ::step]


def test_golden_forward():
    model, variables, inputs, _, _, z = load("medklip_eval")

    @jax.jit
    def run(variables):
        keep = ("image_encoder", "query_projection", "decoder")
        out, state = model.apply(
            variables, inputs["image"], inputs["entities"], capture_intermediates=lambda m, _: m.name in keep
        )
        return out, {k: v["__call__"][0] for k, v in state["intermediates"].items() if k in keep}

    out, inside = run(variables)
    got = {
        "image_encoder": out["patches"],
        "logits": out["existence"],
        "prob": jax.nn.softmax(out["existence"]),
        "query_embed": inside["query_projection"],
        "decoder_out": np.swapaxes(inside["decoder"][0], 0, 1),
        "ws_mean": out["attention"].mean(1),
    }
    got |= {f"ws_{i}": out["attention"][:, i] for i in range(4)}
    stages = {"stem_pool": (16, 4), "stage1": (16, 4), "stage2": (16, 2), "stage3": (16, 2)}
    for name, (channels, step) in stages.items():
        x, theirs = np.asarray(inside["image_encoder"][1][name]), name.replace("stage", "layer")
        got[f"{theirs}_slice"] = spatial(x, channels, step)
        got |= {f"{theirs}_channel_mean": x.mean((1, 2)), f"{theirs}_channel_std": x.std((1, 2))}
    assert set(got) == set(z)
    for name, array in got.items():
        assert golden.relative_l2(array, z[name]) <= 1e-5, name


def test_golden_predictions():
    """What the tasks read: the probability of the second class, present, and the mean of all layers' maps."""
    _, variables, inputs, _, _, z = load("medklip_eval")
    predict = method.get(config_of_medklip.get_config()).predict
    variables = {**variables, "knowledge": {k: inputs[k] for k in ("entities", "positions")}}
    both = jax.jit(lambda v, b: [predict[name](v, b) for name in ("score_findings", "ground")])
    score, ground = both(variables, {"image": inputs["image"]})
    assert golden.relative_l2(score, z["prob"][..., 1]) <= 1e-5
    assert golden.relative_l2(ground.reshape(*ground.shape[:2], -1), z["ws_mean"]) <= 1e-5
    assert np.abs(z["prob"][..., 1] - z["prob"][..., 0]).max() > 0.01


@pytest.fixture(scope="module")
def train_case():
    """One compiled gradient for all variants of a number type: the entities that count and the weights are arguments."""
    runs = {}

    def run(train: bool, dtype, variant: str):
        if train not in runs:
            model, variables, inputs, meta, raw, z = load("medklip_train", dtype)
            batch = {"labels": jnp.asarray(raw["medklip_train/labels"], jnp.int8)}
            batch["positions"] = jnp.asarray(raw["medklip_train/sample_index"], jnp.int32)

            @jax.jit
            def grad(params, keep, location):
                def loss(params):
                    out, state = model.apply(
                        {**variables, "params": params}, inputs["image"], inputs["entities"], train, mutable=["batch_stats"]
                    )
                    both = {"existence": 1.0, "location": 1.0}
                    _, terms = medklip.losses(out, inputs["positions"], batch, both, keep)
                    return terms["existence"] + location * terms["location"], (out, terms, state)

                return jax.value_and_grad(loss, has_aux=True)(params)

            runs[train] = grad, variables, inputs, batch, meta, z
        grad, variables, inputs, batch, meta, z = runs[train]
        out = [vocab.entity_index(n) for n in EXCLUDED] if variant == "excl" else []
        keep = np.isin(np.arange(len(vocab.ENTITIES)), out, invert=True)
        result = grad(variables["params"], keep, np.asarray(variant != "nocl", dtype))
        return *result, inputs, {**batch, "keep": keep}, meta, z

    return run


def check_gradients(grads, z, tag, names, stored, norms, heads):
    """Every parameter's norm and first eight entries, in torch's layout."""
    tensors = weights.to_torch("medklip", {"params": grads})
    assert set(tensors) == set(names)
    nothing = z[f"{tag}/grad_is_none"]
    for i, name in enumerate(names):
        grad = np.asarray(tensors[name], np.float64)
        if nothing[i]:
            assert not grad.any(), name
            continue
        norm = z[f"{tag}/grad_norm{stored}"][i]
        assert abs(np.linalg.norm(grad) - norm) <= norms * norm, name
        want = z[f"{tag}/grad_head8{stored}"][i]
        assert np.linalg.norm(grad.reshape(-1)[:8] - want[: grad.size]) <= heads * norm, name


@pytest.mark.parametrize("variant", ["cl", "excl", "nocl"])
def test_golden_losses_and_gradients_in_eval_mode(train_case, variant):
    (total, (out, terms, _)), grads, inputs, batch, meta, z = train_case(False, np.float32, variant)
    tag = f"bneval_{variant}"
    location = terms["location"] if variant != "nocl" else 0.0
    np.testing.assert_allclose([total, terms["existence"], location], z[f"{tag}/losses"], rtol=1e-5)
    labels = np.where(batch["keep"], batch["labels"], -1)
    assert golden.relative_l2(np.asarray(out["existence"])[(labels == 0) | (labels == 1)], z[f"{tag}/masked_logits"]) <= 1e-5
    if variant != "nocl":
        chosen = inputs["positions"][batch["positions"]]
        logits = np.einsum("bkt,bkpt->bkp", out["location"], chosen)
        assert golden.relative_l2(logits[labels == 1], z[f"{tag}/cl_logits"]) <= 1e-5
    # single entries feel a ReLU that flips under float32 rounding; the norms do not
    check_gradients(grads, z, tag, meta["param_names"], "", norms=1e-3, heads=1e-2)


@pytest.mark.parametrize("variant", ["cl", "excl"])
def test_golden_losses_and_gradients_in_training_mode(train_case, variant):
    """In float64: with batch statistics of 3 images the gradient of a random ResNet is ill-conditioned."""
    with jax.enable_x64(True):
        (total, (_, terms, state)), grads, _, _, meta, z = train_case(True, np.float64, variant)
        assert total.dtype == np.float64
        tag = f"bntrain_{variant}"
        np.testing.assert_allclose([total, terms["existence"], terms["location"]], z[f"{tag}/losses_f64run"], rtol=1e-6)
        check_gradients(grads, z, tag, meta["param_names"], "_f64run", norms=1e-5, heads=1e-5)
    if variant == "excl":  # the statistics are those of "cl"
        return
    tensors = weights.to_torch("medklip", {"params": grads, **state})
    for i, name in enumerate(meta["bn_buffer_names"]):
        np.testing.assert_allclose(np.linalg.norm(tensors[name]), z[f"{tag}/bn_after_l2"][i], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(tensors[name][:8], z[f"{tag}/bn_after_head8"][i], rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_config_without_variant_is_that_model():
    _, variables, inputs, _, _, _ = load("medklip_eval")
    batch = {"image": jax.ShapeDtypeStruct((2, 224, 224, 1), jnp.uint8)}
    batch["knowledge"] = {k: inputs[k] for k in ("entities", "positions")}
    shapes = jax.eval_shape(method.get(config_of_medklip.get_config()).init, jax.random.key(0), batch)
    assert trees.differences({k: shapes[k] for k in variables}, variables) == []
