"""Targets of supervised training: what is known, and that masks and boxes go where the image goes."""
import json
import types

import numpy as np
import pytest
from PIL import Image

from medvlp_jax.input import pipeline, targets, transforms
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.input.phantom import FINDINGS, PhantomSource

CROPS = {"random": dict(crop="random", frame=80), "random_resized": dict(crop="random_resized", crop_scale=(0.3, 0.9)),
         "none": dict(crop="none")}  # fmt: skip


def bright_block(height, width, box):
    x, y, w, h = box
    image = np.zeros((height, width), np.uint8)
    image[y : y + h, x : x + w] = 250
    return image


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("hflip", [0.0, 1.0])
def test_masks_and_boxes_follow_the_training_image(crop, hflip):
    """The image is its own truth: what is bright is the mask, and its bounds are the box."""
    box = (150, 90, 300, 260)
    image = bright_block(600, 700, box)
    options = pipeline.Options(image_size=64, hflip=hflip, rand_augment=None, needs=("findings", "masks", "boxes"),
                               targets=("nodule", "mass"), max_boxes=3, **CROPS[crop])  # fmt: skip
    example = {"image": image, "boxes": [("mass", *box), ("heart", 0, 0, 9, 9)], "masks": {"mass": image > 0},
               "finding_labels": {"mass": 1, "nodule": 0}}  # fmt: skip
    checked = 0
    for seed in range(8):
        view, geometry = transforms.train_view(
            np.random.default_rng(seed), image, size=64, crop=options.crop, frame=options.frame, how=options.fit,
            scale=options.crop_scale, hflip=hflip)
        out = targets.arrays(example, geometry, options)
        bright = view[..., 0] > 125
        assert (out["masks"][..., 1] != bright).mean() < 0.05 and not out["masks"][..., 0].any()
        assert out["finding_labels"].tolist() == [0, 1] and out["boxes_known"] == 1
        assert out["boxes"][:, 0].tolist() == [1, -1, -1]
        rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
        _, x, y, w, h = out["boxes"][0]
        want = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        np.testing.assert_allclose((x, y, x + w, y + h), want, atol=1.1)
        checked += 0 < bright.mean() < 1
    assert checked == 8


def test_a_jpeg_decoded_at_a_fraction_keeps_its_boxes():
    import io

    buffer = io.BytesIO()
    Image.fromarray(bright_block(900, 800, (200, 300, 400, 300))).save(buffer, "JPEG", quality=95)
    view, geometry = transforms.train_view(np.random.default_rng(0), buffer.getvalue(), size=96, crop="random", frame=112,
                                           how="stretch", hflip=1.0)  # fmt: skip
    ((_, x, y, w, h),) = transforms.map_boxes([("a", 200, 300, 400, 300)], geometry, 96)
    columns = np.flatnonzero((view[..., 0] > 120).any(0))
    np.testing.assert_allclose((x, x + w), (columns[0], columns[-1] + 1), atol=1.1)


def test_the_view_is_the_image_of_before():
    for crop in CROPS:
        make = dict(size=32, crop=crop, frame=40, how="pad", hflip=0.5)
        image = np.random.default_rng(0).integers(0, 255, (50, 60), np.uint8)
        view, _ = transforms.train_view(np.random.default_rng(5), image, **make)
        np.testing.assert_array_equal(view, transforms.train_image(np.random.default_rng(5), image, **make))


def test_what_is_not_told_is_unknown_and_what_is_absent_is_empty():
    truth = {"finding_labels": {"Effusion": 1, "Pneumothorax": 0}, "boxes": [("mass", 0, 0, 1, 1)], "masks": {"lung": None}}
    labels = [targets.label(truth["finding_labels"], n) for n in ("effusion", "pneumothorax", "mass")]
    assert labels == [1, 0, -1]
    assert [targets.known(truth, n, "masks") for n in ("lung", "pneumothorax", "effusion", "mass")] == [1, 1, 0, 0]
    assert [targets.known(truth, n, "boxes") for n in ("lung", "pneumothorax", "effusion", "mass")] == [0, 1, 0, 1]
    assert not targets.known(truth, "mass", "grade")


def write(folder, rows):
    for row in rows:
        Image.fromarray(np.full((20, 24), 90, np.uint8)).save(folder / row["image"])
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ManifestSource(folder / "m.jsonl", "train")


def test_manifest_rows_with_something_to_learn_are_found_without_reading_images(tmp_path):
    box = {"label": "Effusion", "x": 1, "y": 2, "w": 3, "h": 4}
    rows = [
        dict(image="a.png", labels="Effusion", boxes=[box], severity={"effusion": 2}, patient_id="1"),
        dict(image="b.png", labels="Mass", patient_id="2"),
        dict(image="c.png", report="The chest film shows no pleural fluid.", patient_id="3"),
        dict(image="d.png", labels="Effusion", patient_id="4"),
    ]
    source = write(tmp_path, [{"split": "train", **row} for row in rows])
    for name in "abcd":
        (tmp_path / f"{name}.png").unlink()
    names = ("effusion",)
    assert targets.known_rows(source, ("findings",), names).tolist() == [0, 1, 3]
    assert targets.known_rows(source, ("boxes",), names).tolist() == [0, 1]  # b lists no effusion, so there is none
    assert targets.known_rows(source, ("masks",), names).tolist() == [1]
    assert targets.known_rows(source, ("grade",), names).tolist() == [0]
    assert targets.known_rows(source, ("labels",), ()).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="no example of the train split tells the findings of flu; there are some of: Effus"):
        targets.known_rows(source, ("findings",), ("flu",))


def test_phantom_truth_agrees_with_its_drawing():
    source = PhantomSource("val", 12, image_size=32)
    assert len(targets.known_rows(source, ("boxes", "masks", "grade"), tuple(FINDINGS))) == 12
    for i in range(12):
        example, truth = source[i], source.truth(i)
        assert truth["finding_labels"] == example["finding_labels"] and truth["severity"] == example["severity"]
        assert {n: int(g > 0) for n, g in truth["severity"].items()} == truth["finding_labels"]
        assert set(example["masks"]) == truth["masks"] and {b[0] for b in example["boxes"]} <= truth["boxes"]
        assert source.patient(i) == example["patient_id"]
    grades = [g for i in range(12) for g in source.truth(i)["severity"].values()]
    assert set(grades) == {0, 1, 2, 3}


def test_batches_carry_targets_and_padding_rows_none():
    source = PhantomSource("val", 3, image_size=40)
    names = ("effusion", "heart")
    options = pipeline.Options(image_size=32, crop="random", frame=40, targets=names, max_boxes=4, eval_frame=40,
                               needs=("findings", "masks", "boxes", "grade"))  # fmt: skip
    (batch,) = pipeline.eval_batches(source, None, options, batch_size=4)
    assert batch["masks"].shape == (4, 32, 32, 2) and batch["boxes"].shape == (4, 4, 5)
    for i, host in enumerate(batch["host"]):
        assert batch["grade"][i] == source.truth(i)["severity"]["effusion"]
        np.testing.assert_array_equal(batch["masks"][i, ..., 1] == 1, host["masks"]["heart"])
    assert all((batch[k][3] == -1).all() for k in ("finding_labels", "masks", "grade")) and batch["boxes_known"][3] == 0
    first = next(pipeline.train_iterator(source, None, options, batch_size=2, seed=0, threads=0))
    assert {k: v.shape for k, v in first.items() if k in batch} == {k: (2, *batch[k].shape[1:]) for k in first}


def test_options_that_cannot_be_meant():
    source = types.SimpleNamespace()
    for fields, message in [
        (dict(needs=("masks",)), "name the targets"),
        (dict(needs=("boxes",), targets=("a",), rand_augment=(2, 7)), "rand_augment would move the image"),
        (dict(needs=("finding",)), "known groups: labels, text, swap, row, findings, masks, boxes, grade"),
    ]:
        with pytest.raises(ValueError, match=message):
            pipeline.train_iterator(source, None, pipeline.Options(**fields), batch_size=1, seed=0)


def test_of_labels_that_contradict_each_other_presence_counts_unless_the_own_name_is_there():
    labels = {"Effusion": 0, "Pleural Effusion": 1}
    for order in (list(labels), list(labels)[::-1]):
        assert targets.label({k: labels[k] for k in order}, "effusion") == 1
    for own in (0, 1):
        assert targets.label({"effusion": own, "Effusion": 1 - own}, "effusion") == own
    assert targets.label({"Effusion": -1}, "effusion") == -1


def test_of_too_many_boxes_the_largest_are_kept():
    """By area, largest first; a wide flat box is not larger than a square one. Boxes of other findings take no place."""
    image = np.zeros((64, 64), np.uint8)
    options = pipeline.Options(image_size=64, needs=("boxes",), targets=("nodule", "mass"), max_boxes=2)
    boxes = [("nodule", 0, 0, 4, 4), ("mass", 0, 0, 30, 2), ("mass", 8, 8, 20, 20), ("heart", 0, 0, 60, 60),
             ("nodule", 1, 2, 10, 12)]  # fmt: skip
    _, geometry = transforms.train_view(np.random.default_rng(0), image, size=64, crop="none", frame=64, how="pad", hflip=0.0)
    out = targets.arrays({"image": image, "boxes": boxes, "masks": {}, "finding_labels": {}}, geometry, options)
    np.testing.assert_allclose(out["boxes"], [[1, 8, 8, 20, 20], [0, 1, 2, 10, 12]])
