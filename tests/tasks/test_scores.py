"""Metric functions against the published programs' numbers, plain loops, and cases worked out by hand."""
import json
import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medvlp_jax.tasks import scores, zeroshot
from tests import golden


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def case():
    return golden.load("metrics")


def test_golden_zero_shot(case):
    meta, _, inputs, want = case
    rows = json.loads(golden.find("medklip_labels.json").read_text())["facts"]["chestxray14_to_query"]
    p = softmax(inputs["metrics/zs_logits"])[:, rows, 1]
    np.testing.assert_allclose(p, want["zs/pred"], atol=1e-6)
    labels, p = want["zs/gt"].astype(int), want["zs/pred"]
    found = [zeroshot.published(labels[:, c], p[:, c]) for c in range(14)]
    np.testing.assert_allclose([scores.auc(labels[:, c], p[:, c]) for c in range(14)], want["zs/auroc"], atol=1e-6)
    np.testing.assert_allclose([f[0] for f in found], want["zs/max_f1"], atol=1e-6)
    np.testing.assert_allclose([f[1] for f in found], want["zs/acc"], atol=1e-6)
    np.testing.assert_allclose([f[2] for f in found], want["zs/max_f1_threshold"], atol=1e-7)
    means = [np.mean([scores.auc(labels[:, c], p[:, c]) for c in range(14)]), *np.mean(found, 0)[:2]]
    np.testing.assert_allclose(means, [want[f"zs/{k}_mean"] for k in ("auroc", "f1", "acc")], atol=1e-6)


def golden_maps(inputs):
    """Mean over layers of the attention of query 20, (10, 196)."""
    return np.mean([softmax(inputs[f"metrics/gr_ws_logits_{k}"].astype(np.float64)) for k in range(4)], 0)[:, 20]


def golden_pairs(case):
    meta, _, inputs, want = case
    maps = golden_maps(inputs)
    for i, box in enumerate(meta["gr_boxes_xywh"]):
        if inputs["metrics/gr_labels"][i, 0] == 1:
            boxes = [box] + ([[150, 10, 50, 30]] if i == 7 else [])
            yield maps[i].reshape(14, 14), scores.box_mask(boxes, (224, 224))


def test_golden_grounding(case):
    want, iou, dice, hits = case[3], [], [], 0
    maps = golden_maps(case[2]).reshape(-1, 14, 14)
    np.testing.assert_allclose(maps, want["gr/pred_map_14"], atol=1e-7)
    for heat, mask in golden_pairs(case):
        true, size, _ = scores.cell_truth(mask, (14, 14))
        i, d = scores.map_overlap(heat, true, size, scores.PUBLISHED_MAP_THRESHOLD)
        iou.append(i)
        dice.append(d)
        hits += scores.pointing_published(heat, true)
    np.testing.assert_allclose(iou, want["gr/iou"], atol=1e-6)
    np.testing.assert_allclose(dice, want["gr/dice"], atol=1e-6)
    assert hits == int(want["gr/point_hits"]) and len(iou) == int(want["gr/total"])
    means = [np.mean(iou), np.mean(dice), hits / len(iou)]
    np.testing.assert_allclose(means, [want[f"gr/{k}"] for k in ("iou_mean", "dice_mean", "point_score")], atol=1e-6)


def test_golden_constant_map_hits_by_the_published_rule_only(case):
    flat = np.full((14, 14), 1 / 196)
    pairs = list(golden_pairs(case))[2:4]
    truths = [scores.cell_truth(mask, (14, 14)) for _, mask in pairs]
    assert sum(scores.pointing_published(flat, t) for t, _, _ in truths) == case[3]["gr/uniform_point_iou_dice"][0] == 2
    assert sum(scores.pointing(flat, c) for _, _, c in truths) == 0


def test_golden_segmentation(case):
    _, _, inputs, want = case
    logits = inputs["metrics/seg_logits"].astype(np.float64).copy()
    logits[4] = logits[5] = -5
    p, mask = 1 / (1 + np.exp(-logits)), want["seg/mask"]
    dice = scores.segmentation_dice(p, mask)
    empty = mask.reshape(6, -1).sum(1) == 0
    got = [dice.mean(), dice[empty].mean(), dice[~empty].mean(), empty.sum(), (~empty).sum()]
    np.testing.assert_allclose(dice, want["seg/dice_per_sample"], atol=1e-6)
    np.testing.assert_allclose(got, want["seg/dice_neg_pos_nneg_npos"], atol=1e-6)
    np.testing.assert_allclose(scores.segmentation_iou_published(p, mask), want["seg/miou_per_sample"], atol=1e-6)
    np.testing.assert_allclose(scores.segmentation_iou_published(p, mask).mean(), want["seg/miou"], atol=1e-6)
    np.testing.assert_allclose(scores.segmentation_fbeta(p, mask).mean(), want["seg/fbeta2"], atol=1e-6)


def test_auc_by_hand_and_one_class():
    assert scores.auc([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.3]) == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert np.isnan(scores.auc([1, 1], [0.1, 0.2])) and np.isnan(scores.auc([0, 0], [0.1, 0.2]))


def test_best_f1_takes_the_lowest_of_equal_thresholds():
    # >= 0.1: P 2/4, R 1 -> 2/3; >= 0.4: P 2/3, R 1 -> 0.8; >= 0.6: P 1, R 1/2 -> 2/3
    f1, threshold = scores.best_f1([0, 1, 0, 1], [0.1, 0.4, 0.5, 0.6])
    assert (f1, threshold) == (pytest.approx(0.8), 0.4)
    tied = scores.best_f1([1, 0, 0, 1], [0.9, 0.8, 0.1, 0.05])  # both >= 0.05 (1/2, 1) and >= 0.9 (1, 1/2) give 2/3
    assert tied == (pytest.approx(2 / 3), 0.05)


def test_accuracy_strict_counts_the_sample_at_the_threshold_as_negative():
    labels, values = [0, 1, 0, 1], [0.1, 0.4, 0.5, 0.6]
    assert scores.accuracy_at(labels, values, 0.4) == 0.75
    assert scores.accuracy_at(labels, values, 0.4, strict=True) == 0.5


def test_f1_at_is_undefined_without_any_positive():
    assert np.isnan(scores.f1_at([0, 0], [0.1, 0.2], 0.5))
    assert scores.f1_at([1, 0], [0.1, 0.2], 0.5) == 0


@pytest.mark.parametrize("step", [1e-9, 0.25], ids=["no ties", "many ties"])
def test_bootstrap_auc_equals_scoring_each_resample(step):
    rng = np.random.default_rng(1)
    labels = rng.integers(-1, 2, (60, 3))
    values = np.round(rng.random((60, 3)) / step) * step
    patients = rng.integers(0, 20, 60)
    got = scores.bootstrap_auc(labels, values, patients, resamples=70, seed=5)
    counts = np.concatenate(list(scores.patient_counts(patients, 70, seed=5)))
    assert got.shape == (70, 3)
    for r in (0, 13, 69):
        rows = np.repeat(np.arange(60), counts[r])  # the resampled data set, spelled out
        for c in range(3):
            known = rows[labels[rows, c] >= 0]
            assert got[r, c] == pytest.approx(roc_auc_score(labels[known, c], values[known, c]), abs=1e-12)


def test_patients_are_drawn_whole():
    patients = np.array(["a", "b", "a", "c", "b", "a"])
    counts = np.concatenate(list(scores.patient_counts(patients, 100, seed=0)))
    for name in "abc":
        own = counts[:, patients == name]
        assert (own == own[:, :1]).all()
    assert (counts[:, [0, 1, 3]].sum(1) == 3).all()  # three patients are drawn each time
    assert len(np.unique(counts, axis=0)) > 5


def test_interval_covers_and_is_none_for_one_patient():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, (300, 1))
    values = labels + rng.standard_normal((300, 1))
    samples = scores.bootstrap_auc(labels, values, np.arange(300), 300)[:, 0]
    low, high = scores.interval(samples, np.arange(300))
    assert low < scores.auc(labels[:, 0], values[:, 0]) < high and 0.03 < high - low < 0.2
    assert scores.interval(samples, np.zeros(300)) is None
    assert scores.interval([np.nan, np.nan], [1, 2]) is None


def test_repeated_images_of_a_patient_do_not_narrow_the_interval():
    rng = np.random.default_rng(3)
    values = rng.random(40)
    once = scores.mean_interval(values, np.arange(40), 400)
    ten = scores.mean_interval(np.repeat(values, 10), np.repeat(np.arange(40), 10), 400)
    np.testing.assert_allclose(once, ten)


def test_bootstrap_mean_leaves_undefined_values_out():
    lost = scores.bootstrap_mean([np.nan, 2.0], ["a", "b"], 50)
    assert set(lost[np.isfinite(lost)]) == {2.0} and np.isnan(lost).any()  # a resample of "a" alone has no value


def test_bootstrap_of_a_test_set_takes_less_than_two_seconds():
    rng = np.random.default_rng(0)
    labels, values, patients = rng.integers(0, 2, (2000, 12)), rng.random((2000, 12)), rng.integers(0, 800, 2000)
    start = time.process_time()
    scores.bootstrap_auc(labels, values, patients, resamples=1000)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("shape,grid", [((28, 28), (7, 7)), ((30, 25), (7, 4)), ((14, 14), (14, 14))])
def test_cell_metrics_equal_pixel_metrics(shape, grid):
    rng = np.random.default_rng(4)
    heat, mask = rng.integers(0, 6, grid) / 8, rng.random(shape) < 0.3
    true, size, centre = scores.cell_truth(mask, grid)
    big = scores.upsample(heat, shape)
    for row in range(shape[0]):
        for column in range(shape[1]):
            assert big[row, column] == heat[row * grid[0] // shape[0], column * grid[1] // shape[1]]
    on = big > 0.3
    both = (on & mask).sum()
    want = both / (on | mask).sum(), 2 * both / (on.sum() + mask.sum())
    assert scores.map_overlap(heat, true, size, 0.3) == pytest.approx(want)
    assert scores.map_auc(heat, true, size) == pytest.approx(roc_auc_score(mask.ravel(), big.ravel()))
    assert scores.pointing_published(heat, true) == mask[big == big.max()].any()
    for i in range(grid[0]):
        for j in range(grid[1]):
            at = int((i + 0.5) * shape[0] / grid[0]), int((j + 0.5) * shape[1] / grid[1])
            assert centre.reshape(grid)[i, j] == mask[at]


def test_pointing_by_hand():
    heat = np.zeros((4, 4))
    heat[1, 2] = 1
    inside = scores.cell_truth(scores.box_mask([(8, 4, 4, 4)], (16, 16)), (4, 4))
    corner = scores.cell_truth(scores.box_mask([(8, 4, 1, 1)], (16, 16)), (4, 4))  # touches the cell, not its centre
    beside = scores.cell_truth(scores.box_mask([(0, 4, 8, 4)], (16, 16)), (4, 4))
    assert [scores.pointing(heat, t[2]) for t in (inside, corner, beside)] == [1, 0, 0]
    assert [scores.pointing_published(heat, t[0]) for t in (inside, corner, beside)] == [1, 1, 0]
    heat[3, 3] = 1  # a tie across cells points nowhere, although the published rule lets it hit
    assert scores.pointing(heat, inside[2]) == 0 and scores.pointing_published(heat, inside[0]) == 1
    assert scores.peak(np.full((2, 2), np.float32(0.3))) == -1


def test_degenerate_maps_are_undefined_not_zero():
    heat = np.zeros((2, 2))
    true, size, _ = scores.cell_truth(np.zeros((4, 4), bool), (2, 2))
    assert np.isnan(scores.map_overlap(heat, true, size, 0.5)).all() and np.isnan(scores.map_auc(heat, true, size))
    true, size, _ = scores.cell_truth(np.ones((4, 4), bool), (2, 2))
    assert scores.map_overlap(heat, true, size, 0.5) == (0, 0) and np.isnan(scores.map_auc(heat, true, size))


def test_box_mask_truncates_and_clips():
    mask = scores.box_mask([(1.9, -2, 2.9, 3.5), (-5, 6, 3, 3)], (8, 8))
    want = np.zeros((8, 8), bool)
    want[0:1, 1:3] = True  # x 1..3, y -2..1
    np.testing.assert_array_equal(mask, want)


def test_segmentation_of_empty_masks():
    empty, full = np.zeros((1, 4, 4)), np.ones((1, 4, 4))
    assert scores.segmentation_dice(empty, empty)[0] == 1 and scores.segmentation_dice(full, empty)[0] == 0
    assert scores.segmentation_dice(empty, full)[0] == 0
    assert scores.segmentation_iou_published(empty, empty)[0] == 1
    assert scores.segmentation_fbeta(empty, empty)[0] == 0
    assert scores.segmentation_dice(np.full((1, 4, 4), 0.5), full)[0] == 0  # strictly greater
