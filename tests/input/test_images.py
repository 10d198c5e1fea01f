"""Anything that is an image gives the same grey pixels; anything else is an error that says what would do."""
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvlp_jax.input import images, transforms

GREY = np.random.default_rng(0).integers(0, 256, (30, 40), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (30, 40, 3), np.uint8)


def png(array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def pixels(image):
    return transforms.load(images.field(image))[0]


def test_every_way_to_give_a_grey_image(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(GREY))
    given = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), GREY, GREY[..., None], Image.open(path),
             np.asfortranarray(GREY), Image.fromarray(GREY).convert("RGBA"), np.stack([GREY] * 3, -1)]  # fmt: skip
    for image in given:
        np.testing.assert_array_equal(pixels(image), GREY, err_msg=repr(type(image)))


def test_colour_is_weighed_as_in_files():
    want = pixels(png(COLOUR)).astype(int)
    alpha = np.concatenate([COLOUR, np.full((30, 40, 1), 9, np.uint8)], -1)
    for image in (COLOUR, alpha, Image.fromarray(COLOUR), Image.fromarray(COLOUR).convert("RGBA")):
        assert np.abs(pixels(image) - want).max() <= 1.5
    assert np.abs(COLOUR @ np.array([0.299, 0.587, 0.114]) - want).max() <= 1.5


def test_more_than_8_bits_are_stretched_from_their_own_range():
    deep = np.linspace(500, 3500, 1200).reshape(30, 40)
    want = (deep - 500) / 3000 * 255
    sixteen = deep.astype(np.uint16)
    for image in (sixteen, deep.astype(np.int32), deep, (deep / 4096).astype(np.float32), png(sixteen),
                  Image.fromarray(sixteen), np.stack([deep] * 3, -1)):  # fmt: skip
        assert np.abs(pixels(image) - want).max() < 0.6


@pytest.mark.parametrize("image, kind, said", [
    (np.zeros((3, 30, 40)), ValueError, r"came shape \(3, 30, 40\); give several images as a list"),
    (np.zeros((2, 30, 40, 3)), ValueError, "give several images as a list"),
    (np.zeros(30), ValueError, r"\(H, W\), .* came shape \(30,\)$"),
    (np.zeros((0, 40)), ValueError, r"came shape \(0, 40\)"),
    (np.zeros((3, 3), bool), ValueError, "integers or floats, came bool"),
    (None, TypeError, "an image is a path, encoded bytes, an array or a PIL image, came a NoneType"),
    ({"image": 1}, TypeError, "came a dict"),
    ([[1, 2], [3]], TypeError, "came a list"),
    ("nowhere.png", FileNotFoundError, "no image at nowhere.png"),
    (Path("."), IsADirectoryError, "is a folder"),
])  # fmt: skip
def test_what_is_no_image_says_what_would_be(image, kind, said):
    with pytest.raises(kind, match=said):
        images.field(image)


def test_values_that_are_not_finite_are_an_error():
    with pytest.raises(ValueError, match="not finite"):
        pixels(np.full((4, 4), np.nan))
