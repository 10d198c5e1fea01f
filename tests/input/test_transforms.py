"""Geometry: crops and fits, and that boxes and masks stay on what they mark."""
import cv2
import numpy as np
import pytest
from PIL import Image

from medvlp_jax.input import decode, transforms
from medvlp_jax.input.transforms import Geometry
from tests.input.test_decode import encode, smooth


def marked(height, width, box):
    """A dark image with a bright box (x, y, w, h)."""
    x, y, w, h = box
    image = np.full((height, width), 20, np.uint8)
    image[y : y + h, x : x + w] = 220
    return image


def gradient(height, width):
    return np.add.outer(np.arange(height), np.arange(width)).astype(np.uint8)


def test_window_is_black_outside():
    image = gradient(5, 7) + 1
    np.testing.assert_array_equal(transforms.window(image, 1, 2, 3), image[1:4, 2:5])
    out = transforms.window(image, -2, 5, 6)
    np.testing.assert_array_equal(out[2:6, :2], image[0:4, 5:7])
    assert out[:2].sum() == 0 and out[:, 2:].sum() == 0
    assert not transforms.window(image, 20, 20, 4).any()


@pytest.mark.parametrize("how, shape", [("stretch", (64, 64)), ("pad", (64, 64)), ("short", (64, 128))])
def test_fit_shapes(how, shape):
    image, geometry = transforms.fit(smooth(100, 200), 64, how)
    assert image.shape == shape
    if how == "pad":
        assert not image[:16].any() and not image[48:].any() and geometry == Geometry(0.32, 0.32, 0, 16)


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="unknown fit 'squash'; known: stretch, pad, short"):
        transforms.fit(smooth(), 64, "squash")
    with pytest.raises(ValueError, match="unknown crop 'middle'"):
        transforms.train_image(np.random.default_rng(0), smooth(), size=32, crop="middle", frame=40, how="pad")


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.1, 1.3, 1.7, 2.0, 2.6, 3.7, 6.0])
def test_resize_is_near_pillow_and_does_not_alias(factor):
    noise = np.random.default_rng(0).normal(0, 12, (240, 300))
    image = np.clip(smooth(240, 300) + noise, 0, 255).astype(np.uint8)
    height, width = round(240 / factor), round(300 / factor)
    want = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC), np.int32)
    assert np.abs(transforms.resize(image, height, width) - want).mean() < 2.6
    stripes = np.tile(np.array([0, 255], np.uint8), (240, 150))  # one pixel wide: nothing of them may survive a shrink by 2
    if factor >= 2:
        assert np.abs(transforms.resize(stripes, height, width).astype(int) - 127.5).max() < 70


def test_random_crop_covers_every_place():
    image = gradient(12, 14)
    corners = {int(transforms.random_crop(np.random.default_rng(s), image, 10)[0, 0]) for s in range(200)}
    assert corners == set(range(0, 7))  # rows 0..2 plus columns 0..4
    padded = transforms.random_crop(np.random.default_rng(0), image, 20)
    np.testing.assert_array_equal(padded[4:16, 3:17], image)


def test_random_resized_crop_takes_the_area_and_aspect_it_should(monkeypatch):
    taken = []
    monkeypatch.setattr(transforms, "resize", lambda image, h, w: taken.append(image.shape) or np.zeros((h, w), np.uint8))
    image = np.zeros((300, 400), np.uint8)
    for seed in range(400):
        assert transforms.random_resized_crop(np.random.default_rng(seed), image, 224, (0.2, 1.0)).shape == (224, 224)
    area = np.array([h * w for h, w in taken]) / image.size
    aspect = np.array([w / h for h, w in taken])
    assert 0.195 < area.min() < 0.25 and area.max() > 0.9 and 0.45 < area.mean() < 0.62
    assert aspect.min() > 0.74 and aspect.max() < 1.35 and abs(np.log(aspect).mean()) < 0.05


def test_random_resized_crop_of_a_sliver_falls_back_to_its_centre(monkeypatch):
    taken = []
    monkeypatch.setattr(transforms, "resize", lambda image, h, w: taken.append(image) or np.zeros((h, w), np.uint8))
    transforms.random_resized_crop(np.random.default_rng(0), gradient(10, 200), 32, (0.9, 1.0))
    np.testing.assert_array_equal(taken[0], gradient(10, 200)[:, 93:106])


@pytest.mark.parametrize("shape, scales", [((512, 512), {1, 2}), ((900, 1400), {1, 2}), ((3000, 2500), {4, 8})])
def test_a_jpeg_is_decoded_no_larger_than_the_crop_needs(shape, scales, monkeypatch):
    image = smooth(*shape)
    data, whole = encode(Image.fromarray(image), "JPEG", quality=95), []
    read = decode.read
    monkeypatch.setattr(decode, "read", lambda *args: whole.append(read(*args)) or whole[-1])
    for seed in range(12):
        crop = {"size": 224, "crop": "random_resized", "frame": 256, "how": "pad"}
        got, geometry = transforms.train_view(np.random.default_rng(seed), data, **crop)
        want, unscaled = transforms.train_view(np.random.default_rng(seed), image, **crop)  # an array is not shrunk
        window = transforms.random_area(np.random.default_rng(seed), shape)
        scale = round(shape[0] / whole[-1].shape[0])
        assert scale in scales and 224 <= min(window[2:]) / scale and (scale == 8 or min(window[2:]) < 448 * scale)
        assert np.abs(got.astype(int) - want).mean() < 2.5
        np.testing.assert_allclose(geometry, unscaled, rtol=0.02, atol=224 * scale / min(window[2:]))
    assert len({pixels.shape for pixels in whole}) == len(scales)


@pytest.mark.parametrize("crop", transforms.CROPS)
def test_train_image_is_a_function_of_the_generator(crop):
    data = encode(Image.fromarray(smooth(300, 260)), "PNG")
    make = lambda seed: transforms.train_image(  # noqa: E731
        np.random.default_rng(seed), data, size=64, crop=crop, frame=80, how="pad", augment=(2, 7))
    a, b = make(1), make(1)
    np.testing.assert_array_equal(a, b)
    assert a.shape == (64, 64, 1) and a.dtype == np.uint8 and a.flags.c_contiguous
    assert len({make(seed).tobytes() for seed in range(8)}) > 1


def test_horizontal_flip_is_off_unless_asked_for():
    image = gradient(64, 64)
    make = lambda seed, p: transforms.train_image(  # noqa: E731
        np.random.default_rng(seed), image, size=64, crop="none", frame=64, how="stretch", hflip=p)[..., 0]
    assert all(np.array_equal(make(s, 0.0), image) for s in range(10))
    flipped = [np.array_equal(make(s, 0.5), image[:, ::-1]) for s in range(40)]
    assert 8 < sum(flipped) < 32


@pytest.mark.parametrize("frame, how", [(96, "stretch"), (96, "pad"), (112, "pad"), (112, "short")])
@pytest.mark.parametrize("shape", [(200, 160), (160, 200), (900, 800)])
def test_boxes_and_masks_follow_the_image(frame, how, shape):
    height, width = shape
    box = (width // 3, height // 4, width // 4, height // 3)
    image = marked(height, width, box)
    data = encode(Image.fromarray(image), "JPEG", quality=95)  # (900, 800) decodes at a fraction
    out, geometry = transforms.eval_image(data, size=96, frame=frame, how=how)
    assert out.shape == (96, 96, 1)
    (name, x, y, w, h), = transforms.map_boxes([("mass", *box)], geometry, 96)
    bright = out[..., 0] > 120
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    assert name == "mass"
    for got, want in ((x, columns[0]), (x + w, columns[-1] + 1), (y, rows[0]), (y + h, rows[-1] + 1)):
        assert abs(got - want) <= 1.01
    mask = transforms.map_mask(image > 120, geometry, 96)
    assert mask.dtype == bool and mask.shape == (96, 96)
    overlap = (mask & bright).sum() / (mask | bright).sum()
    assert overlap > 0.9


def test_boxes_are_clipped_and_dropped_outside():
    geometry = Geometry(0.5, 0.5, -10, 0)
    boxes = [("a", 10, 0, 20, 20), ("b", 0, 0, 10, 10), ("c", 200, 0, 100, 40)]
    assert transforms.map_boxes(boxes, geometry, 100) == [("a", 0.0, 0.0, 5.0, 10.0), ("c", 90.0, 0.0, 10.0, 20.0)]


def test_load_takes_arrays_and_refuses_colour():
    pixels, size = transforms.load(smooth()[..., None])
    assert pixels.shape == size == (120, 160)
    assert transforms.load(smooth().astype(np.uint16) * 100)[0].dtype == np.uint8
    with pytest.raises(ValueError, match=r"must be \(H, W\) grey, got shape \(4, 4, 3\)"):
        transforms.load(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(decode.ImageError):
        transforms.load(b"junk")


def test_opencv_works_in_one_thread():
    assert cv2.getNumThreads() == 1
