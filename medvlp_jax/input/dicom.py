"""DICOM radiographs -> 8-bit grey pixels, as a viewer would show them (pydicom, the `dicom` extra).

Stored values -> modality transform (rescale or table) -> values of interest (table or window) -> inversion of MONOCHROME1.
"""
import io
from pathlib import Path

import cv2
import numpy as np

from medvlp_jax.input.decode import MAX_PIXELS, ImageError, to_uint8

MISSING = "reading DICOM needs pydicom: pip install 'medvlp_jax[dicom]'"
GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")  # pydicom gives all of them as RGB


def decode(data: bytes) -> np.ndarray:
    """A DICOM file -> uint8 (H, W), bright = dense.

    The first table or window of the file sets the contrast. Without one, values of at most 8 bits are taken over their whole
    range, others are stretched from the lowest to the highest that is no padding. Padding becomes black.

    Raises:
      decode.ImageError: no image in it, several frames, colours by palette, damaged pixels, or a compression that the
        installed pydicom plugins cannot read. Identifiers in the file appear in no message.
      ImportError: pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError as e:
        raise ImportError(MISSING) from e
    try:
        return _grey(pydicom.dcmread(io.BytesIO(data)))
    except ImageError:
        raise
    except Exception as e:  # pydicom raises a dozen kinds for damaged files, some only when a tag is looked at
        raise ImageError("unreadable", f"damaged DICOM file ({type(e).__name__})") from None


def _grey(file) -> np.ndarray:
    pixels = _stored(file)
    if pixels.ndim == 3:
        return to_uint8(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    shown = _shown(file, pixels)  # 0..1
    if file.PhotometricInterpretation == "MONOCHROME1":
        shown = 1.0 - shown
    return np.rint(np.where(_padding(file, pixels), 0.0, shown) * 255).astype(np.uint8)


def _stored(file) -> np.ndarray:
    """Stored values: (H, W) of any integer type, or (H, W, 3) RGB."""
    _check_header(file, pixels="PixelData" in file)
    kind = file.PhotometricInterpretation
    try:
        pixels = file.pixel_array
    except Exception as e:  # as many kinds as there are plugins
        name = getattr(file.file_meta.get("TransferSyntaxUID", ""), "name", "") or "unknown"
        raise ImageError(
            "unreadable", f"pixels of transfer syntax {name} ({type(e).__name__}); damaged, or it needs "
            "pip install 'medvlp_jax[dicom]'") from None  # fmt: skip
    if pixels.ndim != 2 and (kind in GREY or pixels.shape[2:] != (3,)):
        raise ImageError("unreadable", f"pixels of shape {pixels.shape}; expected one grey or RGB image")
    return pixels


def _check_header(file, pixels: bool) -> None:
    """Raise an ImageError where the tags say that there is no single radiograph of a usable size."""
    missing = [name for name in ("Rows", "Columns", "PhotometricInterpretation") if name not in file]
    if missing := missing + ["PixelData"] * (not pixels):
        raise ImageError("unreadable", f"a DICOM file without {', '.join(missing)}: no image")
    kind, frames = file.PhotometricInterpretation, int(file.get("NumberOfFrames") or 1)
    if frames != 1:
        raise ImageError("unreadable", f"a DICOM file of {frames} frames; expected one radiograph")
    if kind not in GREY + COLOUR:
        raise ImageError("unreadable", f"PhotometricInterpretation {str(kind)[:40]!r}; expected {', '.join(GREY)} or RGB")
    if file.Rows * file.Columns > MAX_PIXELS:
        raise ImageError("too large", f"{file.Columns} x {file.Rows} px, the limit is {MAX_PIXELS:,} pixels")


def size(path: Path) -> tuple[int, int]:
    """Return (height, width) of a DICOM file from its tags; the pixels are not read.

    Raises as `decode` does for what the tags tell, and for a file that ends before its pixels.
    """
    try:
        import pydicom
    except ImportError as e:
        raise ImportError(MISSING) from e
    try:
        with path.open("rb") as handle:
            file = pydicom.dcmread(handle, stop_before_pixels=True)
            before = handle.tell()
        _check_header(file, pixels=before < (length := path.stat().st_size))
        syntax = file.file_meta.TransferSyntaxUID
        if syntax.is_deflated:
            return decode(path.read_bytes()).shape
        needed = file.Rows * file.Columns * file.SamplesPerPixel * file.BitsAllocated // 8
        if not syntax.is_compressed and before + needed > length:
            raise ImageError("truncated", "the file ends before its pixels do")
        return int(file.Rows), int(file.Columns)
    except ImageError:
        raise
    except Exception as e:
        raise ImageError("unreadable", f"damaged DICOM file ({type(e).__name__})") from None


def _shown(file, stored: np.ndarray) -> np.ndarray:
    """Values of interest (H, W) in 0..1, before any inversion."""
    from pydicom.pixels import apply_modality_lut, apply_voi

    values = np.asarray(apply_modality_lut(stored, file), np.float64)
    if table := file.get("VOILUTSequence"):
        entries, first = (int(v) for v in table[0].LUTDescriptor[:2])
        span = np.arange(first, first + (entries or 2**16))
        curve = apply_voi(span, file)  # (entries,), whose range says more than the descriptor's bits, often wrong
        low, high = float(curve.min()), float(curve.max())
        return (apply_voi(np.clip(values, span[0], span[-1]).astype(np.int64), file) - low) / max(high - low, 1.0)
    centre, width = (_first(file.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is not None and width is not None and width >= 1:
        return window(values, centre, width, str(file.get("VOILUTFunction") or "LINEAR"))
    bits = int(file.get("BitsStored") or 8 * stored.itemsize)
    if bits <= 8 and np.array_equal(values, stored):
        return (values - (-(2 ** (bits - 1)) if stored.dtype.kind == "i" else 0)) / (2**bits - 1)
    real = values[~_padding(file, stored)]
    low, high = (float(real.min()), float(real.max())) if real.size else (0.0, 0.0)
    return np.clip((values - low) / max(high - low, 1e-6), 0, 1)


def window(values: np.ndarray, centre: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Window of DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3: values -> 0..1.

    Raises:
      decode.ImageError: unknown function.
    """
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -500, 500)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if function != "LINEAR":
        raise ImageError("unreadable", f"VOILUTFunction {function[:40]!r}; known: LINEAR, LINEAR_EXACT, SIGMOID")
    return np.clip((values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5, 0, 1)


def _padding(file, stored: np.ndarray) -> np.ndarray:
    """Pixels (H, W) that fill up what is no image: PixelPaddingValue, up to PixelPaddingRangeLimit where there is one."""
    value = file.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = file.get("PixelPaddingRangeLimit")
    ends = sorted((int(value), int(value if limit is None else limit)))
    return (stored >= ends[0]) & (stored <= ends[1])


def _first(value) -> float | None:
    """The first of a value that may have several; None where there is none."""
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def about(data: bytes) -> tuple[str, bool]:
    """ViewPosition of a DICOM file ("PA"), and whether it says that text is burnt into its pixels, which may be a name;
    ("", False) where it does not tell, or is no DICOM file. Nothing else of it is read."""
    if data[128:132] != b"DICM":
        return "", False
    import pydicom

    try:
        file = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=["ViewPosition", "BurnedInAnnotation"])
        view, burnt = (str(file.get(name) or "").strip().upper() for name in ("ViewPosition", "BurnedInAnnotation"))
    except Exception:  # as in `decode`, which will say what is wrong with the file
        return "", False
    return view, burnt == "YES"


def shape(data: bytes) -> tuple[int, int] | None:
    """(height, width) in the header of a DICOM file, of which the first bytes are enough; None where it does not tell."""
    if data[128:132] != b"DICM":
        return None
    import pydicom

    try:
        file = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return (int(file.Rows), int(file.Columns)) if file.Rows and file.Columns else None
    except Exception:  # as in `about`
        return None
