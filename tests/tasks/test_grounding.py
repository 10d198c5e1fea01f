import numpy as np
import pytest

from medvlp_jax.reports import vocab
from medvlp_jax.tasks import common, grounding, scores
from tests.tasks import fakes


@pytest.fixture(scope="module")
def items():
    return fakes.examples(60)


def run(predict, items, context=common.DEFAULT, **options):
    return fakes.by_name(grounding.make(predict, context, **options)({}, fakes.batches(items)))


def test_perfect(items):
    found = run(fakes.PERFECT, items)
    pairs = sum(len(h["boxes"]) for h in items)
    assert found["pointing_game"]["value"] == 1 and found["pointing_game"]["n"] == pairs
    assert found["pointing_game"]["chance"] == found["pointing_game_chance"]["value"] == pytest.approx(64 / 28**2)
    assert found["iou_published"]["value"] == 1 and found["dice_published"]["value"] == 1
    assert found["pixel_auc"]["value"] == 1
    per_class = found["pointing_game"]["per_class"]
    present = {f: sum(h["finding_labels"][f] for h in items) for f in fakes.FINDINGS}
    assert {f: r["n"] for f, r in per_class.items()} == present


def test_constant_maps_hit_by_the_published_rule_only(items):
    found = run(fakes.CONSTANT, items)
    assert found["pointing_game"]["value"] == 0 and found["pointing_game_published"]["value"] == 1
    assert found["pixel_auc"]["value"] == 0.5


def test_random_maps_are_at_chance(items):
    found = run(fakes.RANDOM, items)
    low, high = found["pointing_game"]["ci"]
    assert low <= found["pointing_game"]["chance"] <= high
    assert found["pointing_game"]["value"] < 0.25 and 0.4 < found["pixel_auc"]["value"] < 0.6


def test_values_equal_a_plain_loop_over_pixels(items):
    found = run(fakes.RANDOM, items)
    maps, _ = common.collect(common.need(fakes.RANDOM, "ground"), {}, fakes.batches(items))
    hit, iou, dice = [], [], []
    for i, h in enumerate(items):
        for name, x, y, w, hh in h["boxes"]:
            big = maps["ground"][i, vocab.entity_index(name)].repeat(4, 0).repeat(4, 1)
            mask = np.zeros((28, 28), bool)
            mask[int(y):int(y + hh), int(x):int(x + w)] = True
            hit.append(mask[big == big.max()].any())  # boxes are aligned to cells: all pixels of the cell agree
            on = big > 0.008
            iou.append((on & mask).sum() / (on | mask).sum())
            dice.append(2 * (on & mask).sum() / (on.sum() + mask.sum()))
    assert found["pointing_game"]["value"] == found["pointing_game_published"]["value"] == pytest.approx(np.mean(hit))
    assert found["iou_published"]["value"] == pytest.approx(np.mean(iou))
    assert found["dice_published"]["value"] == pytest.approx(np.mean(dice))


def test_shuffled_shows_maps_that_only_know_the_usual_place():
    """All effusions at one place: a map without the image scores 1, and so does the shuffled baseline beside it."""
    same = [{"id": str(i), "finding_labels": {"effusion": 1}, "boxes": [("effusion", 8, 8, 8, 8)]} for i in range(12)]
    found = run(fakes.PERFECT, same)
    assert found["pointing_game"]["value"] == found["pointing_game_shuffled"]["value"] == 1
    moved = [{"id": str(i), "boxes": [("effusion", 4 * (i % 6), 4 * (i // 6), 4, 4)]} for i in range(12)]
    found = run(fakes.PERFECT, moved)
    assert found["pointing_game_shuffled"]["value"] == 0 and found["pointing_game_shuffled"]["n"] == 12
    assert np.isnan(run(fakes.PERFECT, moved[:1])["pointing_game_shuffled"]["value"])


def test_boxes_are_pointed_at_masks_are_covered_and_absent_findings_left_out():
    mask = np.zeros((28, 28), bool)
    mask[0:4, 0:1] = True  # a thin line, no cell's centre
    items = [{"id": "a", "boxes": [("effusion", 0, 0, 8, 8)], "masks": {"effusion": mask},
              "finding_labels": {"effusion": 1}},
             {"id": "b", "boxes": [("nodule", 0, 0, 8, 8)], "finding_labels": {"nodule": 0}},
             {"id": "c", "masks": {"Left Lung": mask, "mass": np.zeros((28, 28), bool)}}]
    found = run(fakes.PERFECT, items)
    game, dice = found["pointing_game"], found["dice_published"]
    assert game["value"] == 1 and game["n"] == 1 and game["chance"] == pytest.approx(64 / 784)
    assert game["truths"] == {"boxes": 1} and dice["truths"] == {"mask": 1}
    assert dice["value"] == pytest.approx(2 * 4 / (64 + 4))
    assert game["skipped"] == {"Left Lung: not an entity of the table": 1, "mass: empty truth": 1}
    del items[0]["boxes"]
    assert run(fakes.PERFECT, items)["pointing_game"]["value"] == 0


def test_several_boxes_of_a_finding_are_one_truth():
    item = {"id": "a", "boxes": [("mass", 0, 0, 4, 4), ("mass", 8, 8, 4, 4), ("nodule", 0, 0, 1, 1)]}
    found = {name: (kind, int(mask.sum())) for name, (kind, mask), _ in grounding.truths_of(item, (28, 28))}
    assert found == {"mass": ("boxes", 32), "nodule": ("boxes", 1)}


def test_mask_of_another_size_is_an_error():
    with pytest.raises(ValueError, match=r"mask of 'mass' is \(4, 4\), the evaluated image \(28, 28\)"):
        run(fakes.PERFECT, [{"id": "a", "masks": {"mass": np.ones((4, 4), bool)}}])


def test_nothing_to_ground_is_an_error(items):
    with pytest.raises(ValueError, match="no present finding with a box or mask"):
        run(fakes.PERFECT, [{**h, "boxes": []} for h in items])


def test_honest_threshold_comes_from_the_validation_pairs(items):
    """Maps plus 0.1: the published 0.008 takes every pixel, the threshold learnt on validation takes the right ones."""
    predict = {"ground": lambda v, b: b["answer_map"] + np.float32(0.1)}
    found = run(predict, items, common.Context(validation=fakes.batches(fakes.examples(20, seed=3))))
    assert found["dice_honest"]["value"] == 1 and found["dice_honest"]["threshold"] == pytest.approx(0.1)
    assert found["dice_published"]["value"] == pytest.approx(2 * 64 / (64 + 784))
    assert found["dice_published"]["threshold"] == scores.PUBLISHED_MAP_THRESHOLD
    none = [{**h, "boxes": []} for h in items]
    assert np.isnan(run(predict, items, common.Context(validation=fakes.batches(none)))["dice_honest"]["value"])
