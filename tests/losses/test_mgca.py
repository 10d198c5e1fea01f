"""The published MGCA losses and word aggregation, number by number (golden mgca_losses, mgca_aggregate)."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax.losses import local, prototype
from medvlp_jax.losses.contrastive import info_nce
from medvlp_jax.losses.numerics import unit
from medvlp_jax.models.fusion import MultiHeadAttention
from tests import golden

FEATURES = ("img_feat", "patch_feat", "report_feat", "word_feat")


def mha_params(params, prefix):
    """torch's packed attention weights -> parameters of `MultiHeadAttention`."""
    kernels = np.split(params[prefix + "in_proj_weight"], 3)
    biases = np.split(params[prefix + "in_proj_bias"], 3)
    ours = {n: {"kernel": w.T, "bias": b} for n, w, b in zip(("query", "key", "value"), kernels, biases, strict=True)}
    return ours | {"out": {"kernel": params[prefix + "out_proj.weight"].T, "bias": params[prefix + "out_proj.bias"]}}


@pytest.fixture(scope="module")
def case():
    _, params, inputs, outputs = golden.load("mgca_losses")
    return params, {k.removeprefix("mgca_losses/"): v for k, v in inputs.items()}, outputs


def word_weights(inputs):
    attention = inputs["word_attn_raw"] * inputs["word_mask"]
    return local.percentile_clip(attention, attention != 0)


def patch_weights(inputs):
    attention = jax.nn.softmax(inputs["attn_logits"], axis=-1)[:, :, 0, 1:].mean(axis=1)  # (B, P)
    return local.percentile_clip(attention, jnp.ones(attention.shape, bool))


def local_loss(tag, words, patches, params, inputs):
    weights, mask = word_weights(inputs), inputs["word_mask"]
    if tag == "vit":
        return local.token_patch_alignment(words, patches, weights, patch_weights(inputs), mask, published=True)
    if tag == "cnn":
        return local.token_patch_alignment(words, patches, weights, None, mask, published=True)
    if tag == "vit_unidir":
        return local.diagonal_contrast(words, unit(local.attend(words, patches)), weights).mean()
    attention = MultiHeadAttention(num_heads=1)  # vit_mha: learned pooling in place of the softmax
    read = {}
    for name, queries, keys, key_mask in (("word", words, patches, None), ("patch", patches, words, mask)):
        variables = {"params": mha_params(params, f"{name}_local_atten_layer.")}
        read[name], _ = attention.apply(variables, queries, keys, key_mask)
    both = local.diagonal_contrast(words, unit(read["word"]), weights)
    return (both + local.diagonal_contrast(patches, read["patch"], patch_weights(inputs))).mean()


@pytest.mark.parametrize("tag", ["vit", "cnn", "vit_unidir", "vit_mha"])
def test_golden_losses_and_gradients(case, tag):
    params, inputs, z = case

    def total(features, prototypes):
        image, patches, report, words = (unit(features[k]) for k in FEATURES)
        terms = {
            "ita": 2.0 * info_nce(image, report, 0.07),  # MGCA adds both directions
            "local": local_loss(tag, words, patches, params, inputs),
            "proto": prototype.category_loss(image @ prototypes.T, report @ prototypes.T)[0],
        }
        return terms["ita"] + 0.7 * terms["local"] + 0.5 * terms["proto"], terms

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (value, terms), (d_features, d_prototypes) = step(
        {k: inputs[k] for k in FEATURES}, z["vit/prototype_weight_normalised"]
    )
    np.testing.assert_allclose(value, z[f"{tag}/total"], rtol=1e-6)
    for name, term in terms.items():
        np.testing.assert_allclose(term, z[f"{tag}/loss_{name}"], rtol=1e-6, err_msg=name)
    for name, grad in d_features.items():
        assert golden.relative_l2(grad, z[f"{tag}/d_{name}"]) < 1e-5, name
    assert golden.relative_l2(d_prototypes, z[f"{tag}/d_prototype"]) < 1e-5


def test_golden_weights_attended_vectors_and_each_side(case):
    _, inputs, z = case
    words, patches = unit(inputs["word_feat"]), unit(inputs["patch_feat"])
    ww, pw = jax.jit(word_weights)(inputs), jax.jit(patch_weights)(inputs)
    attend, contrast = jax.jit(local.attend), jax.jit(local.diagonal_contrast)
    np.testing.assert_allclose(ww, z["vit/word_atten_weights"], atol=1e-7)
    np.testing.assert_allclose(pw, z["vit/patch_atten_weights"], atol=1e-7)
    read_words = unit(attend(words, patches))
    np.testing.assert_allclose(read_words, z["vit/word_atten_output"], atol=1e-6)
    np.testing.assert_allclose(contrast(words, read_words, ww).mean(), z["vit/loss_word"], rtol=1e-6)
    read_patches = attend(patches, words, inputs["word_mask"])
    for tag, read, weights in (("vit", read_patches, pw), ("cnn", unit(read_patches), jnp.full(pw.shape, 1 / 9))):
        np.testing.assert_allclose(read, z[f"{tag}/patch_atten_output"], atol=1e-6)
        loss = contrast(patches, read, weights).mean()
        np.testing.assert_allclose(loss, z[f"{tag}/loss_patch"], rtol=1e-6)


def test_golden_sinkhorn(case):
    _, _, z = case
    scores = 0.05 * np.log(z["vit/sinkhorn_in_img"].T)  # the stored input is exp(score / 0.05), (K, B)
    sinkhorn = jax.jit(prototype.sinkhorn, static_argnums=(1, 2))
    for iterations in (0, 1, 3, 10):
        codes = sinkhorn(scores, 0.05, iterations)
        np.testing.assert_allclose(codes, z[f"sinkhorn/iters{iterations}"], atol=2e-6)
    for name, scores in (("img", z["vit/img_proto_out"]), ("report", z["vit/report_proto_out"])):
        np.testing.assert_allclose(sinkhorn(scores, 0.05, 3), z[f"vit/{name}_code"], atol=5e-6)


def test_golden_word_aggregation():
    meta, _, inputs, z = golden.load("mgca_aggregate")
    captions = meta["captions"]
    word_ids = np.full((4, 10), -1, np.int32)
    for b, caption in enumerate(captions):
        word = -1
        for t, piece in enumerate(caption):
            if not piece.startswith("["):
                word += not piece.startswith("##")
                word_ids[b, t] = word
    attention_mask = np.array([[piece != "[PAD]" for piece in caption] for caption in captions], np.int32)
    row = np.concatenate([np.full((4, 1), 9.0, np.float32), inputs["mgca_aggregate/attention"]], axis=1)  # with [CLS]
    words, weights, mask = jax.jit(local.published_words)(
        inputs["mgca_aggregate/embeddings"], word_ids, attention_mask, row
    )
    np.testing.assert_allclose(words, z["word_feat"], atol=1e-6)
    np.testing.assert_allclose(weights, z["word_attention"], atol=1e-6)
    want = [[word != "[PAD]" for word in merged[1:]] for merged in meta["aggregated_words"]]
    np.testing.assert_array_equal(mask, want)
