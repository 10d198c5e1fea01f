"""Compressed DICOM files: every kind that archives hold, made here, against the pixels that went in."""
import io

import cv2
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import get_decoder, get_encoder

from medvlp_jax.input import decode, dicom
from tests import golden
from tests.input.test_dicom import RAMP, make

SMOOTH = cv2.resize(np.random.default_rng(0).integers(0, 4096, (6, 8)).astype(np.uint16), (64, 48))  # 12 bits
WINDOW = {"WindowCenter": 2048, "WindowWidth": 4096}


def lossless_jpeg(pixels: np.ndarray, bits: int) -> bytes:
    """ITU T.81, process 14, selection value 1: each pixel as its difference from the left one (in the first column: from that
    above), the number of its bits as a code of five bits."""
    height, width = pixels.shape
    values = pixels.astype(int)
    before = np.empty_like(values)
    before[:, 1:], before[1:, 0], before[0, 0] = values[:, :-1], values[:-1, 0], 1 << (bits - 1)
    stream = []
    for d in (values - before).reshape(-1).tolist():
        size = abs(d).bit_length()
        stream.append(f"{size:05b}" + (f"{d if d > 0 else d + (1 << size) - 1:0{size}b}" if size else ""))
    text = "".join(stream)
    text += "1" * (-len(text) % 8)
    scan = bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8)).replace(b"\xff", b"\xff\0")

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body

    frame = bytes([bits]) + height.to_bytes(2, "big") + width.to_bytes(2, "big") + b"\1\1\x11\0"
    codes = b"\0" + bytes([0, 0, 0, 0, 17] + [0] * 11) + bytes(range(17))
    return (b"\xff\xd8" + segment(0xC3, frame) + segment(0xC4, codes) + segment(0xDA, b"\1\1\0\1\0\0") + scan + b"\xff\xd9")


def compressed(syntax, data: bytes, pixels=SMOOTH, **tags) -> bytes:
    """A DICOM file whose pixels are `data` of the given transfer syntax."""
    file = pydicom.dcmread(io.BytesIO(make(pixels, **tags)))
    file.file_meta.TransferSyntaxUID = syntax
    file.PixelData = encapsulate([data])
    file["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def by_pydicom(syntax, **options) -> bytes:
    file = pydicom.dcmread(io.BytesIO(make(SMOOTH, **WINDOW)))
    file.compress(syntax, **options)
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def readable(*syntaxes) -> None:
    """Skips where the extra `dicom` is not installed: pydicom alone reads these not."""
    if not all(get_decoder(s).is_available for s in syntaxes):
        pytest.skip("pip install 'medvlp_jax[dicom]'")


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEGLossless])
def test_jpeg_lossless_is_exact(syntax):
    readable(syntax)
    for pixels in (SMOOTH, RAMP):
        got = decode.decode(compressed(syntax, lossless_jpeg(pixels, 12), pixels, **WINDOW))
        np.testing.assert_array_equal(got, decode.decode(make(pixels, **WINDOW)))


@pytest.mark.parametrize("kind", ["MONOCHROME2", "MONOCHROME1"])
def test_jpeg_baseline_is_near(kind):
    eight = (SMOOTH >> 4).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(eight).save(buffer, "JPEG", quality=95)
    got = decode.decode(compressed(uid.JPEGBaseline8Bit, buffer.getvalue(), eight, kind=kind, bits=8)).astype(int)
    assert np.abs((255 - got if kind == "MONOCHROME1" else got) - eight).max() <= 6


def test_jpeg_2000_is_exact_or_near():
    readable(uid.JPEG2000Lossless, uid.JPEG2000)
    if not get_encoder(uid.JPEG2000Lossless).is_available:
        pytest.skip("making it needs pylibjpeg-openjpeg, of the extra dicom")
    want = decode.decode(make(SMOOTH, **WINDOW))
    np.testing.assert_array_equal(decode.decode(by_pydicom(uid.JPEG2000Lossless)), want)
    assert np.abs(decode.decode(by_pydicom(uid.JPEG2000, j2k_cr=[4])).astype(int) - want).max() <= 3


def test_run_lengths_and_deflate_are_exact():
    want = decode.decode(make(SMOOTH, **WINDOW))
    np.testing.assert_array_equal(decode.decode(by_pydicom(uid.RLELossless)), want)
    file = pydicom.dcmread(io.BytesIO(make(SMOOTH, **WINDOW)))
    for syntax in (uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian):
        file.file_meta.TransferSyntaxUID = syntax
        buffer = io.BytesIO()
        file.save_as(buffer, enforce_file_format=True, implicit_vr=syntax == uid.ImplicitVRLittleEndian, little_endian=True)
        np.testing.assert_array_equal(decode.decode(buffer.getvalue()), want)


@pytest.mark.parametrize("syntax", [uid.JPEGLosslessSV1, uid.JPEG2000Lossless, uid.RLELossless, uid.JPEGBaseline8Bit])
def test_damaged_streams_are_counted_not_crashes(syntax):
    for data in (b"\0\0", b"\xff\xd8\xff", bytes(range(200))):
        with pytest.raises(decode.ImageError, match="unreadable: pixels of transfer syntax .*needs pip install") as caught:
            decode.decode(compressed(syntax, data))
        assert "ecret" not in str(caught.value)


def test_what_a_file_says_of_view_and_burnt_in_text():
    """Tags may be missing, or of any spelling; text in the pixels may be a name, so data.prepare leaves such images out."""
    for tags, want in (({}, ("", False)), ({"ViewPosition": "PA "}, ("PA", False)),
                       ({"BurnedInAnnotation": "YES"}, ("", True)), ({"BurnedInAnnotation": "NO"}, ("", False)),
                       ({"BurnedInAnnotation": ""}, ("", False))):  # fmt: skip
        assert dicom.about(make(**tags)) == want
    assert dicom.about(b"junk") == dicom.about(make()[:140]) == ("", False)


@pytest.mark.parametrize("missing", ["Rows", "PhotometricInterpretation", "PixelData", "BitsAllocated", "SamplesPerPixel"])
def test_a_file_without_a_tag_that_it_needs_is_counted(missing):
    file = pydicom.dcmread(io.BytesIO(make()))
    delattr(file, missing)
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    with pytest.raises(decode.ImageError, match="^unreadable: ") as caught:
        decode.decode(buffer.getvalue())
    assert "ecret" not in str(caught.value)


@pytest.mark.parametrize("missing", ["BitsStored", "HighBit", "PixelRepresentation"])
def test_a_file_without_a_tag_that_can_be_guessed_never_crashes(missing):
    file = pydicom.dcmread(io.BytesIO(make()))
    delattr(file, missing)
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    try:
        assert decode.decode(buffer.getvalue()).shape == RAMP.shape
    except decode.ImageError as e:
        assert e.reason == "unreadable"


def test_the_real_files_are_jpeg_baseline():
    kinds = {pydicom.dcmread(p).file_meta.TransferSyntaxUID for p in golden.shared("cxr", "dicom").glob("*.dcm")}
    assert kinds == {uid.JPEGBaseline8Bit}  # looked at in tests/input/test_dicom.py
