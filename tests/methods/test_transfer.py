"""Heads on a trunk: shapes, what is frozen, what is unknown, and that each kind can learn its batch."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from medvlp_jax import method as methods
from medvlp_jax.losses import supervised
from medvlp_jax.methods import transfer
from medvlp_jax.models import detector
from tests.models import filled

pytestmark = pytest.mark.usefixtures("quick_compiles")
TRUNKS = {
    "vit": {"name": "vit", "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32, "init": ""},
    "resnet": {"name": "resnet", "depth": 18, "width": 8, "num_stages": 2, "patch_stem": True, "init": ""},
}
HEADS = {
    "classify": dict(kind="classify", pooling="mean_max", stage=2),
    "grade": dict(kind="grade", pooling="mean", stage=2, grades=4),
    "segment": dict(kind="segment", loss="focal_dice", width=16),
    "detect": dict(kind="detect", width=16, anchors=(((0.3, 0.3), (0.6, 0.4)),)),
}
ROWS, SIZE, C = 4, 32, 3
CELLS = detector.cells([(8, 8)], (((0.3, 0.3), (0.6, 0.4)),))


def config(kind, trunk, freeze=()):
    return ConfigDict({
        "method": "transfer", "dtype": "float32", "model": {"image": TRUNKS[trunk], "head": HEADS[kind], "remat": False},
        "data": {"examples": {"targets": ("a", "b", "c")}}, "optim": {"freeze": freeze},
        "normalisation": {"mean": (0.5,) * 3, "std": (0.5,) * 3},
    })  # fmt: skip


def batch(seed=0):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 90, (ROWS, SIZE, SIZE, 1), dtype=np.uint8)
    masks, boxes = np.zeros((ROWS, SIZE, SIZE, C), np.int8), np.zeros((ROWS, 5, 5), np.float32)
    boxes[..., 0] = -1
    for b in range(ROWS):  # a bright rectangle of one class
        x, y = rng.integers(0, 20, 2)
        image[b, y : y + 12, x : x + 10] = 250
        masks[b, y : y + 12, x : x + 10, b % C] = 1
        boxes[b, 0] = [b % C, x, y, 10, 12]
    masks[1, ..., 2] = -1
    labels = rng.integers(-1, 2, (ROWS, C)).astype(np.int8)
    return {"image": image, "masks": masks, "boxes": boxes, "boxes_known": np.ones(ROWS, np.float32),
            "finding_labels": labels, "grade": np.array([0, 2, 3, -1], np.int8)}  # fmt: skip


@functools.cache
def start(kind, trunk, freeze=()):
    model = methods.get(config(kind, trunk, freeze))
    return model, filled.variables(model, {"image": batch()["image"]})


def grads(model, variables, data):
    state = {k: v for k, v in variables.items() if k != "params"}
    fn = jax.jit(jax.value_and_grad(model.loss, has_aux=True))
    return fn(variables["params"], state, data, jax.random.key(0))


@pytest.mark.parametrize(
    "kind, trunk",
    [("classify", "vit"), ("grade", "resnet"), ("segment", "resnet"), ("detect", "resnet")],
)
def test_every_kind_gives_finite_losses_and_what_it_promises(kind, trunk):
    """The frozen trunk is a constant, its statistics included; the free one learns."""
    shapes = {"classify": (ROWS, C), "grade": (ROWS, 4), "segment": (ROWS, SIZE, SIZE, C), "detect": (ROWS, 96, 6)}
    freeze = ("^image_encoder/",) if trunk == "resnet" else ()
    model, variables = start(kind, trunk, freeze)
    (value, (state, _)), found = grads(model, variables, batch())
    norms = {part: float(optax.tree.norm(g)) for part, g in found.items()}
    assert np.isfinite([float(value), *norms.values()]).all() and norms["head"] > 0
    assert (norms["image_encoder"] == 0) == bool(freeze)
    if freeze:
        jax.tree.map(np.testing.assert_array_equal, state["batch_stats"]["image_encoder"],
                     variables["batch_stats"]["image_encoder"])  # fmt: skip
    out = jax.jit(model.predict[kind])(variables, batch())
    assert out.shape == shapes[kind] and np.isfinite(out).all()
    if kind == "grade":
        np.testing.assert_allclose(out.sum(-1), 1, rtol=1e-5)
        assert (np.asarray(out) >= 0).all()


@pytest.mark.parametrize("kind, shape", [("segment", (ROWS, SIZE, SIZE, C)), ("detect", (ROWS, 96, 6)), ("grade", (ROWS, 4))])
def test_a_vit_carries_every_head(kind, shape):
    model, variables = start(kind, "vit")
    assert jax.eval_shape(model.predict[kind], variables, batch()).shape == shape
    state = {k: v for k, v in variables.items() if k != "params"}
    value, _ = jax.eval_shape(model.loss, variables["params"], state, batch(), jax.random.key(0))
    assert value.shape == ()


def test_a_free_trunk_moves_its_statistics():
    model, variables = start("classify", "resnet")
    (_, (state, _)), found = grads(model, variables, batch())
    moved = state["batch_stats"]["image_encoder"]["stem_norm"]["mean"]
    assert (moved != variables["batch_stats"]["image_encoder"]["stem_norm"]["mean"]).all()
    assert 0 < optax.tree.norm(found["image_encoder"]) < 1e3


def test_pooled_features_are_what_the_linear_layer_reads():
    model, variables = start("classify", "resnet")
    features = jax.jit(model.predict["embed_trunk"])(variables, batch())
    assert features.shape == (ROWS, 32)  # mean and maximum of 16 channels
    head = variables["params"]["head"]
    want = 1 / (1 + np.exp(-(np.asarray(features, np.float64) @ head["kernel"] + head["bias"])))
    np.testing.assert_allclose(jax.jit(model.predict["classify"])(variables, batch()), want, atol=1e-5)
    patches = jnp.asarray(np.random.default_rng(0).random((2, 3, 3, 4)), jnp.float32)
    for pooling, want in {"mean": patches.mean((1, 2)), "max": patches.max((1, 2)), "trunk": jnp.zeros((2, 1))}.items():
        np.testing.assert_allclose(transfer.pooled(jnp.zeros((2, 1)), {"stage2": patches}, pooling, 2), want, rtol=1e-6)
    with pytest.raises(ValueError, match="unknown model.head.pooling 'sum'; known: trunk, mean"):
        transfer.pooled(patches, {}, "sum", 2)


@pytest.mark.parametrize("name", ["focal_dice"])
def test_the_mask_loss_is_the_mean_over_classes_of_their_known_images(name):
    rng, data = np.random.default_rng(0), batch()
    logits = rng.standard_normal(data["masks"].shape).astype(np.float32)
    loss = supervised.focal_dice_loss
    each = []
    for c in range(C):
        known = data["masks"][:, 0, 0, c] >= 0
        each.append(loss(jnp.asarray(logits[known, ..., c]), jnp.asarray(data["masks"][known, ..., c] == 1)))
    np.testing.assert_allclose(transfer.segment_loss(logits, data, name)[0], np.mean(each), rtol=1e-5)


def test_images_without_known_boxes_weigh_nothing():
    data, raw = batch(), np.random.default_rng(0).standard_normal((ROWS, 128, 8)).astype(np.float32)
    loss = jax.jit(lambda raw, data: transfer.detect_loss((raw, CELLS), data, None))
    want, _ = loss(raw[:2], {k: v[:2] for k, v in data.items()})
    data["boxes_known"][2:] = 0
    got, terms = loss(raw, data)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert set(terms) == {"box", "object", "class"} and all(v > 0 for v in terms.values())


def test_detection_of_a_perfect_output_is_the_truth():
    data = batch()
    paired = jax.jit(detector.pair)(data["boxes"][..., 1:] / SIZE, data["boxes"][..., 0].astype(np.int32), CELLS)
    raw = np.full((ROWS, 128, 8), -20, np.float32)
    for i in zip(*np.nonzero(paired["owned"]), strict=True):
        offset = np.asarray(paired["offset"][i])
        raw[i][:5] = [*np.log(np.maximum(offset[:2], 1e-6) / (1 - offset[:2])), *offset[2:], 20]
        raw[i][5 + int(paired["classes"][i])] = 20
    out = np.asarray(jax.jit(lambda raw: transfer.detect((raw, CELLS), data))(raw))
    assert (out[:, 0, 1] > 0.99).all() and (out[:, 1:, 1] < 1e-6).all()
    np.testing.assert_allclose(out[:, 0, [0, 2, 3, 4, 5]], data["boxes"][:, 0], atol=1e-3)


def test_errors_name_what_is_known():
    c = config("detect", "resnet")
    c.model.head.anchors = (((0.1, 0.1),),) * 4
    with pytest.raises(ValueError, match="anchors has 4 groups; this trunk has 2 feature maps"):
        jax.eval_shape(methods.get(c).init, jax.random.key(0), batch())
    c.model.head.kind = "count"
    with pytest.raises(ValueError, match="known kinds: classify, grade, segment, detect"):
        methods.get(c)
