"""Sizes in headers against Pillow, of files that OpenCV and Pillow wrote, and of headers that lie."""
import io

import cv2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medvlp_jax.input import decode, headers
from tests.input.test_decode import GREY, RGB, encode, smooth

FILES = {
    "bmp": encode(GREY, "BMP"), "bmp rgb": encode(RGB, "BMP"), "tiff": encode(GREY, "TIFF"),
    "tiff lzw": encode(GREY, "TIFF", compression="tiff_lzw"), "tiff cv2": cv2.imencode(".tiff", smooth())[1].tobytes(),
    "webp": encode(RGB, "WEBP"), "webp lossless": encode(RGB, "WEBP", lossless=True),
    "webp alpha": encode(RGB.convert("RGBA"), "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
    "bigtiff": encode(GREY, "TIFF", big_tiff=True),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_sizes_are_those_of_pillow(name):
    image = Image.open(io.BytesIO(FILES[name]))
    assert headers.size(FILES[name]) == (image.height, image.width) == (120, 160)


def test_big_endian_tiff_top_down_and_old_bmp():
    entries = [(256, 3, 30_000), (257, 4, 20_000), (258, 3, 8)]
    directory = b"".join(t.to_bytes(2, "big") + k.to_bytes(2, "big") + (1).to_bytes(4, "big")
                         + v.to_bytes(2 if k == 3 else 4, "big").ljust(4, b"\0") for t, k, v in entries)  # fmt: skip
    tiff = b"MM\0*" + (12).to_bytes(4, "big") + b"\0" * 4 + len(entries).to_bytes(2, "big") + directory
    assert headers.size(tiff) == (20_000, 30_000)
    bmp = bytearray(FILES["bmp"])
    bmp[22:26] = (-120).to_bytes(4, "little", signed=True)
    assert headers.size(bytes(bmp)) == (120, 160)
    old = b"BM" + bytes(12) + (12).to_bytes(4, "little") + (160).to_bytes(2, "little") + (120).to_bytes(2, "little") + bytes(6)
    assert headers.size(old) == (120, 160)
    assert headers.size(encode(GREY, "PNG")) is None and headers.size(b"II*\0") is None and headers.size(b"") is None


def huge(kind: str) -> bytes:
    """A small file whose header says 30,000 x 30,000."""
    data = bytearray(FILES[kind])
    if kind == "bmp":
        data[18:26] = (30_000).to_bytes(4, "little") * 2
        return bytes(data)
    start = int.from_bytes(data[4:8], "little")
    for entry in range(start + 2, start + 2 + 12 * int.from_bytes(data[start : start + 2], "little"), 12):
        if int.from_bytes(data[entry : entry + 2], "little") in (256, 257):
            data[entry + 2 : entry + 4], data[entry + 8 : entry + 12] = b"\4\0", (30_000).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize("data, side", [
    (huge("bmp"), 30_000), (huge("tiff"), 30_000),
    (encode(Image.new("1", (12_000, 12_000)), "TIFF", compression="group4"), 12_000),  # a valid one, of 18 kB
])  # fmt: skip
def test_a_huge_one_is_refused_before_it_is_decoded(data, side, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    with pytest.raises(decode.ImageError, match=f"too large: {side} x {side} px, the limit is 100,000,000 pixels"):
        decode.decode(data)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([b"BM", b"II*\0", b"MM\0*", b"II+\0", b"RIFFxxxxWEBPVP8X", b"RIFFxxxxWEBPVP8L"]), st.binary(max_size=60))
def test_any_header_gives_a_size_or_none(head, tail):
    found = headers.size(head + tail)
    assert found is None or all(n >= 0 for n in found)
    try:
        decode.decode(head + tail)
    except decode.ImageError as e:
        assert e.reason in decode.REASONS
