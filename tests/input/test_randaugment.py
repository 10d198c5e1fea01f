"""RandAugment's operations against Pillow, and the properties of the random draw."""
import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from medvlp_jax.input import randaugment as ra
from medvlp_jax.input.randaugment import OPERATIONS, rand_augment


def picture(seed=0, low=20, high=220):
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.integers(low, high, (14, 14), np.uint8), (96, 96), interpolation=cv2.INTER_LINEAR)
    return cv2.add(image, rng.integers(0, 6, image.shape, np.uint8))


def pillow(image, fn):
    return np.asarray(fn(Image.fromarray(image)), np.int32)


@pytest.mark.parametrize("seed", range(3))
def test_tables_are_pillows(seed):
    image = picture(seed, 40 * seed, 200)
    np.testing.assert_array_equal(ra.equalize(image), pillow(image, ImageOps.equalize))
    assert np.abs(ra.auto_contrast(image) - pillow(image, ImageOps.autocontrast)).max() <= 1
    for factor in (0.1, 0.7, 1.36, 1.9):
        want = pillow(image, lambda x, f=factor: ImageEnhance.Brightness(x).enhance(f))
        assert np.abs(ra.brightness(image, factor) - want).max() <= 1
        want = pillow(image, lambda x, f=factor: ImageEnhance.Sharpness(x).enhance(f))
        assert np.abs(ra.sharpness(image, factor) - want).max() <= 2


def test_constant_images_do_not_change():
    image = np.full((32, 32), 77, np.uint8)
    for fn in (ra.equalize, ra.auto_contrast, lambda x: ra.sharpness(x, 1.9)):
        np.testing.assert_array_equal(fn(image), image)


@pytest.mark.parametrize("name, matrix", [  # Pillow's matrix maps output to input
    ("ShearX", (1, -0.3, 0, 0, 1, 0)), ("ShearY", (1, 0, 0, -0.3, 1, 0)),
    ("TranslateX", (1, 0, -10, 0, 1, 0)), ("TranslateY", (1, 0, 0, 0, 1, -10)),
])
def test_affine_moves_as_pillow_does(name, matrix):
    image = cv2.resize(picture(), (224, 224))
    got = OPERATIONS[name](image, 1.0, 1).astype(np.int32)
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    want = pillow(image, lambda x: x.transform(x.size, affine, matrix, bilinear, fillcolor=128))
    assert np.abs(got - want)[4:-4, 4:-4].mean() < 1.5  # Pillow's shear is about pixel centres half a pixel off
    opposite = OPERATIONS[name](image, 1.0, -1).astype(np.int32)
    assert np.abs(opposite - want).mean() > 5


@pytest.mark.parametrize("dx, dy", [(0, 0), (7, 0), (-7, 0), (0, 7), (3, -5), (150, 0), (0, -96)])
def test_a_shift_by_whole_pixels_is_the_affine_map(dx, dy):
    image = picture()
    np.testing.assert_array_equal(ra.translate(image, dx, dy), ra.affine(image, [[1, 0, dx], [0, 1, dy]]))
    np.testing.assert_array_equal(ra.translate(image, dx + 0.5, dy), ra.affine(image, [[1, 0, dx + 0.5], [0, 1, dy]]))


def test_histogram_is_a_count():
    np.testing.assert_array_equal(ra.histogram(picture()), np.bincount(picture().ravel(), minlength=256))


def test_rotation_is_about_the_centre_and_by_30_degrees_at_most():
    image = picture()
    want = pillow(image, lambda x: x.rotate(30, Image.Resampling.BILINEAR, fillcolor=128))
    assert np.abs(OPERATIONS["Rotate"](image, 1.0, 1) - want)[20:-20, 20:-20].mean() < 1


def test_ten_operations_and_identity():
    assert set(OPERATIONS) == {"Identity", "AutoContrast", "Equalize", "Brightness", "Sharpness", "ShearX", "ShearY",
                               "TranslateX", "TranslateY", "Rotate"}
    image = picture()
    np.testing.assert_array_equal(OPERATIONS["Identity"](image, 0.7, 1), image)


def test_draws_are_deterministic_varied_and_leave_the_input_alone():
    image = picture()
    before = image.copy()
    outs = [rand_augment(np.random.default_rng(seed), image) for seed in range(40)]
    again = [rand_augment(np.random.default_rng(seed), image) for seed in range(40)]
    np.testing.assert_array_equal(outs, again)
    np.testing.assert_array_equal(image, before)
    assert all(o.shape == image.shape and o.dtype == np.uint8 for o in outs)
    assert len({o.tobytes() for o in outs}) > 15
    unchanged = sum(np.array_equal(o, image) for o in outs)
    assert 4 <= unchanged <= 24  # a quarter draws no operation, more draw Identity


def test_n_zero_is_identity_and_wrong_magnitude_is_an_error():
    image = picture()
    np.testing.assert_array_equal(rand_augment(np.random.default_rng(0), image, n=0), image)
    with pytest.raises(ValueError, match="magnitude is 0..10, got 30"):
        rand_augment(np.random.default_rng(0), image, 2, 30)
