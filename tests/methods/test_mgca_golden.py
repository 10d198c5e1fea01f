"""MGCA, as published, against the published program: both towers, all losses, every gradient (golden mgca_*)."""
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import mgca as config_of_mgca
from medvlp_jax import method, trees, weights
from medvlp_jax.losses import local, prototype
from medvlp_jax.methods import mgca
from medvlp_jax.methods.mgca_module import MGCA
from medvlp_jax.models import resize, trunks
from medvlp_jax.weights import mgca as mgca_weights
from medvlp_jax.weights import resnet as resnet_weights
from medvlp_jax.weights import table as t
from tests import golden

pytestmark = pytest.mark.usefixtures("quick_compiles")

LAMBDAS = {"global_contrast": 1.0, "alignment": 0.7, "category": 0.5}


def network(fields, **options):
    fields = dict(fields)
    encoders = trunks.image_encoder(**fields.pop("image")), trunks.text_encoder(**fields.pop("text"))
    return MGCA(*encoders, **fields, as_published=True, **options)


def nhwc(images):
    return jnp.asarray(images.transpose(0, 2, 3, 1))


def words_of(ids):
    """Word numbers by the rule of the case: a piece continues a word if its id is a multiple of 3."""
    out = np.full(ids.shape, -1, np.int32)
    for b, row in enumerate(ids):
        word = -1
        for i, piece in enumerate(row):
            if piece > 102:
                word += piece % 3 != 0 or word < 0
                out[b, i] = word
    return out


@pytest.fixture(scope="module")
def full():
    meta, params, inputs, z = golden.load("mgca_full")
    ids, mask = (inputs[f"mgca_full/{k}"].astype(np.int32) for k in ("caption_ids", "attention_mask"))
    batch = {"image": nhwc(inputs["mgca_full/imgs"]), "input_ids": ids, "attention_mask": mask, "word_ids": words_of(ids)}
    batch["has_report"] = np.ones(len(ids), np.float32)
    c = meta["config"]
    o = types.SimpleNamespace(
        temperature=c["softmax_temperature"], local_temperature=c["local_temperature"],
        prototype_temperature=c["proto_temperature"], sinkhorn_epsilon=c["epsilon"],
        sinkhorn_iterations=c["sinkhorn_iterations"], contrast_chunk=0,
        equal_reports="negatives",
    )  # fmt: skip
    model = network(weights.config_of("mgca", params))
    return model, weights.from_torch("mgca", params), batch, o, meta, z


@pytest.mark.parametrize("train", [False, True])
def test_golden_forward_losses_and_gradients(full, train):
    model, variables, batch, o, meta, z = full
    z = {k.split("/")[1]: v for k, v in z.items() if k.startswith("train/" if train else "eval/")}
    kept = ("image_trunk", "text_trunk", "image_embedding", "text_embedding", "patch_embeddings")

    def keep(module, method):
        return method in kept or module.name == "token_head" and method == "__call__"

    def loss(params, batch):
        def fn(m):
            return mgca.objective(m, batch, None, None, LAMBDAS, o, train)

        apply = nn.apply(fn, model, mutable=["batch_stats"], capture_intermediates=keep)
        (total, terms), state = apply({**variables, "params": params})
        return total, (terms, state["intermediates"])

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (total, (terms, inside)), grads = step(variables["params"], batch)
    got = [terms[k] for k in ("global_contrast", "alignment", "category")]
    np.testing.assert_allclose(got, z["losses"][:3], rtol=1e-5)
    np.testing.assert_allclose(total, np.dot(z["losses"][:3], list(LAMBDAS.values())), rtol=1e-5)

    image, text, v, r, patches = (inside[k][0] for k in kept)
    read = jax.jit(local.published_words)
    words, attention, _ = read(text["tokens"], batch["word_ids"], batch["attention_mask"], text["attention"])
    prototypes = variables["params"]["category"]["prototypes"]
    unit = prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)
    projected = np.asarray(inside["token_head"]["__call__"][0])
    arrays = {
        "img_emb_q": v,
        "report_emb_q": r,
        "word_emb_q": projected / np.linalg.norm(projected, axis=-1, keepdims=True),
        "patch_atten_weights": image["weights"],
        "word_atten_weights": jax.jit(local.percentile_clip)(attention, attention != 0),
        "scores": v @ r.T / o.temperature,
        "img_code": prototype.sinkhorn(v @ unit.T),
        "report_code": prototype.sinkhorn(r @ unit.T),
        "patch_emb_slice": patches[:, ::8],
        "word_feat_slice": words[:, ::4, ::4],
        "report_feat": text["tokens"][:, 0],
    }
    others = {"losses", "loss_parts"}
    assert set(arrays) == {k for k in z if not k.startswith("grad_") and not k.endswith("_f64run")} - others
    for name, array in arrays.items():  # statistics of 5 rows: the reference's own rounding is 5e-6
        assert golden.relative_l2(array, z[name]) <= (3e-5 if train else 1e-5), name

    tensors = weights.to_torch("mgca", {"params": grads})
    for i, name in enumerate(meta["param_names"]):
        assert (name in tensors) is not bool(z["grad_is_none"][i]), name
        if name not in tensors:
            continue
        grad, norm = tensors[name], z["grad_norm"][i]
        if norm < 1e-5:  # of no effect: a bias before a normalisation, the key bias of an attention
            assert np.linalg.norm(grad) < 1e-4, name
            continue
        assert abs(np.linalg.norm(grad) - norm) <= 1e-3 * norm, name
        assert np.linalg.norm(grad.reshape(-1)[:8] - z["grad_head8"][i][: grad.size]) <= 1e-3 * norm, name
    assert set(tensors) <= set(meta["param_names"])


def test_published_variant_of_the_config_is_that_model(full):
    _, variables, _, _, _, _ = full
    c = config_of_mgca.get_config("published")
    c.model.text.vocab_size = 28996
    batch = {k: jax.ShapeDtypeStruct((2, 24), jnp.int32) for k in ("input_ids", "attention_mask", "word_ids")}
    batch |= {"image": jax.ShapeDtypeStruct((2, 224, 224, 1), jnp.uint8), "has_report": jnp.ones(2)}
    batch["knowledge"] = {k: jnp.zeros((1, 1)) for k in ("entities", "positions")}
    shapes = jax.eval_shape(method.get(c).init, jax.random.key(0), batch)
    assert c.as_published and trees.differences({k: shapes[k] for k in variables}, variables) == []


def test_golden_resnet_tower():
    """The ResNet branch: images brought to 299 px, stage 3 as local features, both heads. The case has no text tower."""
    _, params, inputs, z = golden.load("mgca_resnet50")
    tensors = t.renamed(mgca_weights.TABLE, {f"img_encoder_q.{k}": v for k, v in params.items()})
    variables = t.read(mgca_weights.TABLE, tensors, t.our_shapes(mgca_weights.TABLE, tensors))
    image = dict(name="resnet", **resnet_weights.fields_of(mgca_weights.TABLE, tensors, at="image_encoder/"))
    model = network(dict(image=image, text={"size": "tiny", "vocab_size": 8}, embed_dim=16, hidden=32))
    images = nhwc(inputs["mgca_resnet50/images"])

    @jax.jit
    def run(variables):
        def fn(m):
            trunk = m.image_trunk(images, False)
            return trunk, m.image_head(trunk["pooled"]), m.patch_head(trunk["patches"])

        return nn.apply(fn, model)(variables)

    trunk, pooled, patches = run(variables)
    assert trunk["weights"] is None
    features = np.asarray(trunk["patches"])
    got = {
        "global_feat": trunk["pooled"], "global_emb": pooled, "local_emb": patches,
        "local_feat_slice": features[:, ::20, ::8], "local_mean": features.mean(1), "local_std": features.std(1),
        "upsample_out": resize.bilinear(nhwc(inputs["mgca_resnet50/upsample_in"]), 9, 8).transpose(0, 3, 1, 2),
    }  # fmt: skip
    assert set(got) == set(z)
    for name, array in got.items():
        assert golden.relative_l2(array, z[name]) <= 1e-5, name


@pytest.mark.parametrize("as_published", [True, False])
def test_golden_text_tower(as_published):
    """Published: all positions are 0, so that word order does not matter."""
    _, params, _, z = golden.load("mgca_text_encoder")
    _, _, inputs, _ = golden.load("bert_tiny_golden")  # the same ids
    params = {k: v for k, v in params.items() if "crossattention" not in k}
    text = weights.config_of("bert", params, num_heads=4, token_types=False)
    image = dict(name="vit", patch_size=8, width=8, depth=1, num_heads=1, mlp_dim=8)
    model = network(dict(image=image, text=text)).clone(as_published=as_published)
    variables = {"params": {"text_encoder": weights.from_torch("bert", params, token_types=False)["params"]}}
    ids, mask = (jnp.asarray(inputs[f"bert_tiny_golden/{k}"], jnp.int32) for k in ("input_ids", "attention_mask"))
    out = jax.jit(nn.apply(lambda m: m.text_trunk(ids, mask, False), model))(variables)
    name = "as_called" if as_published else "with_positions"
    assert golden.relative_l2(out["tokens"], z[f"{name}_last_hidden"]) <= 1e-5
    if as_published:
        assert golden.relative_l2(out["attention"][:, 1:], z["as_called_last_cls_attention"]) <= 1e-5
