"""Decoding: every kind of file a data set may hold, against Pillow where it applies, and every way it can be broken."""
import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medvlp_jax.input import decode


def smooth(height=120, width=160, seed=0):
    small = np.random.default_rng(seed).integers(0, 256, (9, 12), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def encode(image, kind, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


GREY = Image.fromarray(smooth())
RGB = Image.merge("RGB", [GREY] * 3)


@pytest.mark.parametrize("image, kind", [
    (GREY, "PNG"), (RGB, "PNG"), (RGB.convert("RGBA"), "PNG"), (GREY.convert("LA"), "PNG"), (GREY, "TIFF"), (RGB, "BMP"),
])
def test_lossless_grey_is_exact(image, kind):
    np.testing.assert_array_equal(decode.decode(encode(image, kind)), smooth())


@pytest.mark.parametrize("image, options", [
    (GREY, {}), (RGB, {}), (RGB, {"progressive": True}), (RGB.convert("CMYK"), {}), (GREY, {"progressive": True}),
])
def test_jpeg_is_near_pillow(image, options):
    data = encode(image, "JPEG", quality=95, **options)
    want = np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.int32)
    assert np.abs(decode.decode(data) - want).max() <= 4
    assert decode.probe(data)[:3] == ("jpeg", 120, 160)


def test_colour_uses_luma_weights():
    colours = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    data = encode(Image.fromarray(colours), "PNG")
    want = np.asarray(Image.fromarray(colours).convert("L"), np.int32)
    assert np.abs(decode.decode(data) - want).max() <= 1


def test_palette_and_one_bit():
    mask = smooth() > 128
    np.testing.assert_array_equal(decode.decode(encode(Image.fromarray(mask), "PNG")), np.where(mask, 255, 0))
    paletted = RGB.quantize(16)
    want = np.asarray(paletted.convert("RGB").convert("L"), np.int32)
    assert np.abs(decode.decode(encode(paletted, "PNG")) - want).max() <= 1


def test_16_bit_is_stretched_from_its_own_range():
    deep = 1000 + 12 * smooth().astype(np.uint16)  # 12 bits used
    got = decode.decode(cv2.imencode(".png", deep)[1].tobytes())
    low, high = int(deep.min()), int(deep.max())
    assert got.dtype == np.uint8 and got.min() == 0 and got.max() == 255
    np.testing.assert_array_equal(got, np.rint((deep - low) * 255.0 / (high - low)))
    constant = cv2.imencode(".png", np.full((4, 5), 700, np.uint16))[1].tobytes()
    assert not decode.decode(constant).any()


def test_hint_lets_a_jpeg_shrink_but_not_below_it():
    data = encode(Image.fromarray(smooth(400, 640)), "JPEG", quality=95)
    shapes = {hint: decode.decode(data, hint).shape for hint in (None, 500, 201, 200, 100, 50, 10)}
    assert shapes == {None: (400, 640), 500: (400, 640), 201: (400, 640), 200: (200, 320), 100: (100, 160), 50: (50, 80),
                      10: (50, 80)}
    half = cv2.resize(smooth(400, 640), (320, 200), interpolation=cv2.INTER_AREA).astype(np.int32)
    assert np.abs(decode.decode(data, 200) - half).mean() < 2


def test_exif_rotation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode.decode(encode(GREY, "JPEG", exif=exif)).shape == (120, 160)


def broken(kind):
    png, jpeg = encode(GREY, "PNG"), encode(GREY, "JPEG")
    return {
        "nothing": b"",
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
        "text": b"<html>404</html>" * 9,
        "cut jpeg": jpeg[: len(jpeg) * 3 // 4],
        "cut png": png[: len(png) // 2],
        "only head": jpeg[:4],
        "flipped png": png[:90] + bytes([png[90] ^ 255]) + png[91:],
    }[kind]


@pytest.mark.parametrize("kind, reason", [
    ("nothing", "empty file"), ("lfs", "git-LFS pointer"), ("text", "unreadable"), ("cut jpeg", "truncated"),
    ("cut png", "truncated"), ("only head", "unreadable"), ("flipped png", "unreadable"),
])
def test_broken_files_say_why(kind, reason):
    with pytest.raises(decode.ImageError) as e:
        decode.decode(broken(kind))
    assert e.value.reason == reason and e.value.reason in decode.REASONS


def test_a_thumbnail_end_marker_does_not_hide_a_cut():
    thumbnail = encode(GREY.resize((8, 6)), "JPEG")
    data = encode(GREY, "JPEG", exif=b"Exif\0\0" + thumbnail)
    assert decode.decode(data).shape == (120, 160)
    with pytest.raises(decode.ImageError, match="truncated"):
        decode.decode(data[:-400])


def test_huge_images_are_refused_before_they_are_decoded():
    data = bytearray(encode(GREY, "PNG"))
    data[16:24] = (30_000).to_bytes(4, "big") * 2
    with pytest.raises(decode.ImageError, match="too large: 30000 x 30000"):
        decode.decode(bytes(data))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.sampled_from([b"", b"\xff\xd8", b"\xff\xd8\xff\xe0\x00\x10", b"\x89PNG\r\n\x1a\n"]))
def test_any_bytes_give_an_image_or_an_image_error(tail, head):
    try:
        assert decode.decode(head + tail).dtype == np.uint8
    except decode.ImageError as e:
        assert e.reason in decode.REASONS


def test_error_survives_pickling():
    import pickle

    error = pickle.loads(pickle.dumps(decode.ImageError("truncated", "why")))
    assert (error.reason, error.detail, str(error)) == ("truncated", "why", "truncated: why")


@pytest.mark.parametrize("height, width", [(1, 1), (7, 5), (256, 256), (3, 60_000)])
def test_stored_png_is_a_png_and_a_view_of_its_bytes(height, width):
    pixels = np.random.default_rng(height).integers(0, 256, (height, width), np.uint8)
    data = decode.stored_png(pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)  # checks all sums
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), pixels)
    np.testing.assert_array_equal(decode.decode(data), pixels)
    view = decode.stored(data)
    np.testing.assert_array_equal(view, pixels)
    assert np.shares_memory(view, np.frombuffer(data, np.uint8)) and not view.flags.writeable


def test_only_a_stored_png_is_taken_for_one():
    data = decode.stored_png(smooth())
    others = [encode(GREY, "PNG"), encode(GREY, "PNG", compress_level=0), encode(GREY, "JPEG"), encode(RGB, "PNG")]
    others += [b"", data[:-1]]
    for row, place in ((0, 0), (5, 2), (119, 0), (60, 5)):  # heads of blocks, a filter
        at = 43 + 166 * row + place
        others.append(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert [decode.stored(other) for other in others] == [None] * len(others)
    at = len(data) // 2  # a pixel: the view has no check, the file has
    damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
    assert decode.stored(damaged) is not None
    with pytest.raises(decode.ImageError, match="unreadable"):
        decode.decode(damaged)
