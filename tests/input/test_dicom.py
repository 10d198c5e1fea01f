"""DICOM files made by pydicom: contrast against pydicom's own functions and by hand, and what is no radiograph."""
import csv
import io

import numpy as np
import pydicom
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.pixels import apply_windowing
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from medvlp_jax.input import decode, dicom
from tests import golden

RAMP = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64)  # 0..3071 of 12 bits


def make(pixels=RAMP, kind="MONOCHROME2", bits=12, **tags) -> bytes:
    """A DICOM file of these stored values."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    file = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    file.PatientName, file.PatientID = "Secret^Name", "secret-1234"
    file.Rows, file.Columns = pixels.shape[:2]
    file.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        file.PlanarConfiguration = 0
    file.PhotometricInterpretation = kind
    file.BitsAllocated = 8 * pixels.itemsize
    file.BitsStored, file.HighBit = bits, bits - 1
    file.PixelRepresentation = int(pixels.dtype.kind == "i")
    file.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(file, name, value)
    buffer = io.BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


SMALL = make(RAMP[:4, :4].copy(), WindowCenter=5, WindowWidth=9, ViewPosition="PA")


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("centre, width", [(1500, 800), (100, 2500), ([1200, 5], [3000, 5])])
def test_windows_are_those_of_pydicom(function, centre, width):
    data = make(WindowCenter=centre, WindowWidth=width, VOILUTFunction=function)
    want = apply_windowing(RAMP, pydicom.dcmread(io.BytesIO(data))) / 4095 * 255
    got = decode.decode(data)  # the same door as for JPEG
    assert got.dtype == np.uint8 and got.shape == RAMP.shape
    assert np.abs(got - want).max() <= 0.51


def test_a_window_is_in_rescaled_units():
    """CT-like units: stored 1000 is 0 after the rescale, the middle of the window."""
    got = dicom.decode(make(RescaleSlope=2, RescaleIntercept=-2000, WindowCenter=0.5, WindowWidth=401))
    assert got.reshape(-1)[[0, 899, 900, 1000, 1100, 1101]].tolist() == [0, 0, 0, 128, 255, 255]
    negative = (RAMP.astype(np.int16) - 1500)
    signed = dicom.decode(make(negative, bits=16, WindowCenter=0.5, WindowWidth=201)).reshape(-1)
    assert signed[[1400, 1500, 1600]].tolist() == [0, 128, 255]


def test_without_window_8_bits_stay_and_more_are_stretched():
    eight = (RAMP % 200 + 20).astype(np.uint8)
    np.testing.assert_array_equal(dicom.decode(make(eight, bits=8)), eight)
    np.testing.assert_array_equal(dicom.decode(make(RAMP)), np.rint(RAMP / 3071 * 255))
    assert (dicom.decode(make(np.full((4, 4), 7, np.uint16))) == 0).all()  # a constant image has no contrast to show
    np.testing.assert_array_equal(dicom.decode(make(RAMP, WindowCenter=5, WindowWidth=0)), np.rint(RAMP / 3071 * 255))


def test_monochrome1_is_inverted_once():
    tags = {"WindowCenter": 1500, "WindowWidth": 800, "PresentationLUTShape": "INVERSE"}
    a, b = dicom.decode(make(**tags)), dicom.decode(make(kind="MONOCHROME1", **tags))
    np.testing.assert_array_equal(a.astype(int) + b, 255)


def test_padding_is_black_and_outside_the_range():
    pixels = RAMP + 100
    pixels[:, :5], pixels[:, -2:] = 0, 4095
    for kind, first in (("MONOCHROME2", 0), ("MONOCHROME1", 255)):
        got = dicom.decode(make(pixels, kind, PixelPaddingValue=0))
        assert (got[:, :5] == 0).all() and got[:, -1].tolist() == [255 - first] * 48
        both = dicom.decode(make(np.where(pixels == 4095, 3, pixels), kind, PixelPaddingValue=0, PixelPaddingRangeLimit=3))
        assert (both[:, :5] == 0).all() and (both[:, -2:] == 0).all()
        assert both[0, 5] == first and both[-1, -3] == 255 - first  # lowest and highest that are an image


def test_table_of_values_of_interest_wins_over_the_window():
    table = pydicom.Dataset()
    curve = np.linspace(0, 1, 1024) ** 2 * 1023  # of 10 bits, though the descriptor says 16: a common mistake
    table.LUTDescriptor, table.LUTData = [1024, 500, 16], curve.astype("<u2").tobytes()
    got = dicom.decode(make(VOILUTSequence=[table], WindowCenter=5, WindowWidth=2))
    want = np.rint(curve.astype(int)[np.clip(RAMP.astype(int) - 500, 0, 1023)] / 1023 * 255)
    assert np.abs(got - want).max() <= 1


def test_colour_is_weighed():
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    want = rgb @ np.array([0.299, 0.587, 0.114])
    assert np.abs(dicom.decode(make(rgb, "RGB", 8)) - want).max() <= 1


@pytest.mark.parametrize("data, reason", [
    (make()[:200], "unreadable: "),
    (make()[:-400], "unreadable: pixels of transfer syntax Explicit VR Little Endian .*needs pip install 'medvlp_jax"),
    (make(NumberOfFrames=2, PixelData=RAMP.tobytes() * 2), "a DICOM file of 2 frames; expected one radiograph"),
    (make(kind="PALETTE COLOR"), "PhotometricInterpretation 'PALETTE COLOR'; expected MONOCHROME1, MONOCHROME2 or RGB"),
    (make(Rows=40000, Columns=40000), "too large: 40000 x 40000 px"),
    (make(VOILUTFunction="CUBIC", WindowCenter=1, WindowWidth=9), "VOILUTFunction 'CUBIC'; known: LINEAR"),
    (b"\0" * 128 + b"DICM", "unreadable: "),
])  # fmt: skip
def test_what_is_no_radiograph_says_so_without_identifiers(data, reason):
    with pytest.raises(decode.ImageError, match=reason) as caught:
        decode.decode(data)
    assert "ecret" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(132, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=5))
@example([(SMALL.index(b"9.0"), ord("A"))])  # the width of the window is "A"
def test_damaged_tags_give_an_image_or_an_image_error(changes):
    """pydicom reads a tag when it is looked at: a letter in a window's width comes up then."""
    data = bytearray(SMALL)
    for at, value in changes:
        data[at] = value
    dicom.about(bytes(data))
    try:
        assert decode.decode(bytes(data)).dtype == np.uint8
    except decode.ImageError as e:
        assert e.reason in decode.REASONS


def test_without_pydicom_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ImportError, match=r"pip install 'medvlp_jax\[dicom\]'"):
        decode.decode(make())


def test_real_files_look_like_their_previews():
    with open(golden.shared("cxr", "dicom.csv"), newline="") as f:
        rows = list(csv.DictReader(f))
    for row in rows:
        got = decode.decode(golden.shared("cxr", row["file"]).read_bytes())
        preview = decode.decode(golden.shared("cxr", row["preview"]).read_bytes())
        assert got.shape == (int(row["rows"]), int(row["cols"]))
        step = got.shape[0] // preview.shape[0]
        small = got.reshape(preview.shape[0], step, preview.shape[1], step).mean((1, 3))
        assert np.abs(small - preview).mean() < 3
