"""Losses with labels against naive loops and the published programs' numbers."""
import jax
import numpy as np
import pytest

from medvlp_jax.losses import supervised
from tests import golden


def naive_ce(logits, target):
    weights = np.exp(np.asarray(logits, np.float64))
    return -np.log(weights[target] / weights.sum())


def test_existence_counts_only_labels_zero_and_one():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((4, 6, 2)).astype(np.float32)
    labels = rng.integers(-1, 3, (4, 6)).astype(np.int8)
    want = [naive_ce(logits[i], labels[i]) for i in np.ndindex(4, 6) if labels[i] in (0, 1)]
    assert 0 < len(want) < 24
    np.testing.assert_allclose(jax.jit(supervised.existence_loss)(logits, labels), np.mean(want), rtol=1e-6)


def test_location_is_contrast_of_candidate_zero_where_present():
    rng = np.random.default_rng(1)
    logits = 3 * rng.standard_normal((4, 6, 8)).astype(np.float32)
    labels = rng.integers(-1, 3, (4, 6)).astype(np.int8)
    want = [naive_ce(logits[i], 0) for i in np.ndindex(4, 6) if labels[i] == 1]
    np.testing.assert_allclose(jax.jit(supervised.location_loss)(logits, labels), np.mean(want), rtol=1e-6)


def test_sigmoid_matching_and_swap_equal_naive_loops():
    rng = np.random.default_rng(2)
    logits = 3 * rng.standard_normal((4, 6)).astype(np.float32)
    labels = rng.integers(-1, 3, (4, 6)).astype(np.int8)
    want = [naive_ce((0.0, logits[i]), labels[i]) for i in np.ndindex(4, 6) if labels[i] in (0, 1)]
    np.testing.assert_allclose(jax.jit(supervised.sigmoid_loss)(logits, labels), np.mean(want), rtol=1e-6)

    pairs = rng.standard_normal((5, 2)).astype(np.float32)
    match, valid = np.array([1, 0, 1, 0, 1], np.int32), np.array([1, 1, 0, 1, 1], np.float32)
    want = [naive_ce(pairs[i], match[i]) for i in range(5) if valid[i]]
    np.testing.assert_allclose(jax.jit(supervised.matching_loss)(pairs, match, valid), np.mean(want), rtol=1e-6)

    tokens = rng.standard_normal((4, 6, 2)).astype(np.float32)
    swapped = rng.integers(-1, 2, (4, 6)).astype(np.int8)
    want = [naive_ce(tokens[i], swapped[i]) for i in np.ndindex(4, 6) if swapped[i] >= 0]
    np.testing.assert_allclose(jax.jit(supervised.token_swap_loss)(tokens, swapped), np.mean(want), rtol=1e-6)


def test_extreme_logits_stay_finite():
    logits = np.array([[1e4, -1e4]], np.float32)
    labels = np.array([[0, 1]], np.int8)
    value, grad = jax.jit(jax.value_and_grad(supervised.sigmoid_loss))(logits, labels)
    assert float(value) == 1e4 and np.isfinite(grad).all()
    value, grad = jax.jit(jax.value_and_grad(supervised.focal_loss))(logits, labels)
    assert float(value) == 1e4 and np.isfinite(grad).all()


def test_logits_of_wrong_width_are_named():
    with pytest.raises(ValueError, match=r"logits: expected shape \(2, 3, 2\), came \(2, 3, 4\)"):
        supervised.existence_loss(np.ones((2, 3, 4), np.float32), np.ones((2, 3), np.int8))


@pytest.mark.parametrize("tag", ["bneval_cl", "bneval_excl", "bneval_nocl", "bntrain_cl"])
def test_golden_medklip_losses_from_its_logits(tag):
    meta, _, inputs, z = golden.load("medklip_train")
    labels = inputs["medklip_train/labels"].astype(np.int8)  # (3, 75)
    if tag.endswith("excl"):
        labels = labels[:, golden.load("medklip_labels")[0]["facts"]["keep_class_dim"]]  # (3, 68)
    existence = np.zeros(labels.shape + (2,), np.float32)
    existence[(labels == 0) | (labels == 1)] = z[f"{tag}/masked_logits"]
    _, want_existence, want_location = z[f"{tag}/losses"]
    np.testing.assert_allclose(jax.jit(supervised.existence_loss)(existence, labels), want_existence, rtol=1e-6)
    if not tag.endswith("nocl"):
        location = np.zeros(labels.shape + (8,), np.float32)
        location[labels == 1] = z[f"{tag}/cl_logits"]
        np.testing.assert_allclose(jax.jit(supervised.location_loss)(location, labels), want_location, rtol=1e-6)


def _segmentation():
    _, _, inputs, z = golden.load("metrics")
    logits = inputs["metrics/seg_logits"].copy()
    logits[4] = logits[5] = -5
    return logits, z["seg/mask"], z


def test_golden_segmentation_losses_and_gradients():
    logits, mask, z = _segmentation()
    np.testing.assert_allclose(jax.jit(supervised.soft_dice)(logits, mask), z["seg/mgca_dice_coeff"], rtol=1e-5)
    np.testing.assert_allclose(jax.jit(supervised.focal_loss)(logits, mask), z["seg/mgca_focal"], rtol=1e-5)
    for loss, name in ((supervised.bce_dice_loss, "dicebce"), (supervised.focal_dice_loss, "mgca_mixed")):
        value, grad = jax.jit(jax.value_and_grad(loss))(logits, mask)
        np.testing.assert_allclose(value, z[f"seg/{name}"], rtol=1e-5)
        assert golden.relative_l2(grad, z[f"seg/{name}_grad"]) < 1e-5


def test_padding_images_take_no_part_in_segmentation():
    logits, mask, _ = _segmentation()
    valid = np.array([1, 1, 1, 1, 0, 0], np.float32)
    for loss in (supervised.bce_dice_loss, supervised.focal_dice_loss):
        compiled = jax.jit(loss)
        want = compiled(logits[:4], mask[:4])
        np.testing.assert_allclose(compiled(logits, mask, valid=valid), want, rtol=1e-6)
