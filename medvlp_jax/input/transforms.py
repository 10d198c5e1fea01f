"""Geometry of images, boxes and masks: numpy and OpenCV, uint8 grey in and out, deterministic given a Generator.

Pixel convention: pixel i covers [i, i + 1); a box (x, y, w, h) is in these continuous coordinates. Conversion to float and
normalisation are done on the device.
"""
import math
from typing import NamedTuple

import cv2
import numpy as np

from medvlp_jax.input import decode
from medvlp_jax.input.randaugment import rand_augment

FITS = ("stretch", "pad", "short")
CROPS = ("random_resized", "random", "none")


class Geometry(NamedTuple):
    """x_out = x_in * sx + tx and y_out = y_in * sy + ty, in continuous pixel coordinates."""

    sx: float = 1.0
    sy: float = 1.0
    tx: float = 0.0
    ty: float = 0.0

    def then(self, sx=1.0, sy=1.0, tx=0.0, ty=0.0) -> "Geometry":
        """This map followed by another."""
        return Geometry(self.sx * sx, self.sy * sy, self.tx * sx + tx, self.ty * sy + ty)


def load(image, short_side: float | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """The image field of an Example (encoded bytes, or a uint8/uint16 (H, W) array) -> (uint8 (h, w), (H, W)).

    (H, W) is the size that boxes and masks refer to; (h, w) is smaller where `short_side` let a JPEG decode at a fraction.

    Raises:
      decode.ImageError: the bytes are no usable image.
    """
    if isinstance(image, np.ndarray):
        if image.ndim == 3 and image.shape[-1] == 1:
            image = image[..., 0]
        if image.ndim != 2:
            raise ValueError(f"an image array must be (H, W) grey, got shape {image.shape}")
        return decode.to_uint8(image), image.shape
    header = decode.probe(image)
    pixels = decode.read(image, header, short_side)
    return pixels, (header.height, header.width) if header else pixels.shape


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w) -> (height, width): bicubic, and where it shrinks without aliasing, as Pillow does it.

    A shrink by 1.25 to 2.5 goes through twice the target size (bilinear, then the mean of 2x2 pixels): as near to Pillow's
    result as OpenCV's area averaging of any ratio, and three times as fast.
    """
    if image.shape == (height, width):
        return image
    shrink = max(image.shape[0] / height, image.shape[1] / width)
    if shrink < 1.25:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    if shrink <= 2.5 and image.shape != (2 * height, 2 * width):
        image = cv2.resize(image, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def window(image: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    """The (size, size) window with its corner at (top, left), black outside the image."""
    height, width = image.shape
    if 0 <= top <= height - size and 0 <= left <= width - size:
        return image[top : top + size, left : left + size]
    out = np.zeros((size, size), image.dtype)
    y0, y1 = max(top, 0), min(top + size, height)
    x0, x1 = max(left, 0), min(left + size, width)
    if y1 > y0 and x1 > x0:
        out[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    return out


def _scaled(image: np.ndarray, size: int, how: str) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """What `fit` does but for the black around it -> (image, (top, left) of it in the result, the result's shape)."""
    height, width = image.shape
    if how == "stretch":
        return resize(image, size, size), (0, 0), (size, size)
    if how not in FITS:
        raise ValueError(f"unknown fit {how!r}; known: {', '.join(FITS)}")
    scale = size / (max if how == "pad" else min)(height, width)
    new_h, new_w = max(round(height * scale), 1), max(round(width * scale), 1)
    image = resize(image, new_h, new_w)
    if how == "short":
        return image, (0, 0), (new_h, new_w)
    return image, ((size - new_h) // 2, (size - new_w) // 2), (size, size)


def fit(image: np.ndarray, size: int, how: str) -> tuple[np.ndarray, Geometry]:
    """Brings an image to `size`: "stretch" to a square (MedKLIP's test), "pad" the long side to `size` and fill up with
    black to a square (MGCA), "short" the short side to `size`, not square. -> (image, its Geometry)."""
    scaled, (top, left), shape = _scaled(image, size, how)
    geometry = Geometry(scaled.shape[1] / image.shape[1], scaled.shape[0] / image.shape[0], left, top)
    return scaled if scaled.shape == shape else window(scaled, -top, -left, size), geometry


def center_crop(image: np.ndarray, size: int) -> tuple[np.ndarray, Geometry]:
    """The central (size, size) window, black where the image is smaller. -> (image, its Geometry)."""
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return window(image, top, left, size), Geometry(tx=-left, ty=-top)


def random_corner(rng: np.random.Generator, shape: tuple[int, int], size: int) -> tuple[int, int]:
    """(top, left) of a (size, size) window at a uniform place; central and outside where the image is smaller."""
    height, width = shape
    top = int(rng.integers(height - size + 1)) if height >= size else (height - size) // 2
    left = int(rng.integers(width - size + 1)) if width >= size else (width - size) // 2
    return top, left


def random_crop(rng: np.random.Generator, image: np.ndarray, size: int) -> np.ndarray:
    """A (size, size) window at a uniform place; an image smaller than that is padded first, centrally."""
    return window(image, *random_corner(rng, image.shape, size), size)


def random_area(rng: np.random.Generator, shape: tuple[int, int], scale=(0.2, 1.0),
                ratio=(3 / 4, 4 / 3)) -> tuple[int, int, int, int]:
    """(top, left, h, w) of a window of `scale` times the image's area and an aspect of `ratio` (log-uniform).

    As torchvision's transform of the same name, which MedKLIP uses: ten tries, then the largest central window that
    keeps the aspect within bounds.
    """
    height, width = shape
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        share, stretch, y, x = rng.random(4).tolist()
        area = height * width * (scale[0] + share * (scale[1] - scale[0]))
        aspect = math.exp(low + stretch * (high - low))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = int(y * (height - h + 1)), int(x * (width - w + 1))
            break
    else:
        w, h = min(width, round(height * ratio[1])), min(height, round(width / ratio[0]))
        top, left = (height - h) // 2, (width - w) // 2
    return top, left, h, w


def _load_area(rng: np.random.Generator, image, size: int, scale):
    """Draws the window first, so that a JPEG is decoded no larger than it needs -> (uint8 (h, w), (H, W), window in (h, w))."""
    header = None if isinstance(image, np.ndarray) else decode.probe(image)
    if not header:
        pixels, original = load(image)
        return pixels, original, random_area(rng, original, scale)
    original = header.height, header.width
    area = random_area(rng, original, scale)
    pixels = decode.read(image, header, min(original) * size / min(area[2:]))  # of which the window has `size` pixels a side
    if pixels.shape == original:
        return pixels, original, area
    sy, sx = pixels.shape[0] / original[0], pixels.shape[1] / original[1]
    top, left, h, w = round(area[0] * sy), round(area[1] * sx), round(area[2] * sy), round(area[3] * sx)
    return pixels, original, (min(top, pixels.shape[0] - h), min(left, pixels.shape[1] - w), h, w)


def random_resized_crop(rng: np.random.Generator, image: np.ndarray, size: int, scale=(0.2, 1.0)) -> np.ndarray:
    """The window of `random_area`, resized to (size, size)."""
    top, left, h, w = random_area(rng, image.shape, scale)
    return resize(image[top : top + h, left : left + w], size, size)


def train_image(rng: np.random.Generator, image, **options) -> np.ndarray:
    """The image of `train_view`, contiguous."""
    return np.ascontiguousarray(train_view(rng, image, **options)[0])


def train_view(rng: np.random.Generator, image, *, size: int, crop: str, frame: int, how: str, scale=(0.2, 1.0),
               hflip: float = 0.0, augment: tuple[int, int] | None = None) -> tuple[np.ndarray, Geometry]:
    """The image field of an Example -> (a randomly changed uint8 (size, size, 1), perhaps a view of the decoded image; Geometry
    from its own pixels, which knows nothing of `augment`).

    crop: "random_resized" (MedKLIP: `scale` of the area), "random" (MLIP: `fit` to `frame`, then a window) or "none" (`fit`
    to `size`). `augment` = (n, m) is RandAugment's number of operations and magnitude. `hflip` is a probability, 0 unless
    the labels name no sides.

    Raises:
      decode.ImageError: the bytes are no usable image.
      ValueError: unknown `crop` or `how`.
    """
    if crop == "random_resized":
        pixels, original, (top, left, h, w) = _load_area(rng, image, size, scale)
        loaded = pixels.shape
        pixels = resize(pixels[top : top + h, left : left + w], size, size)
        geometry = Geometry(tx=-left, ty=-top).then(size / w, size / h)
    elif crop == "random":
        pixels, original = load(image, frame)
        loaded = pixels.shape
        pixels, (inside_y, inside_x), shape = _scaled(pixels, frame, how)
        top, left = random_corner(rng, shape, size)
        geometry = Geometry(pixels.shape[1] / loaded[1], pixels.shape[0] / loaded[0], inside_x - left, inside_y - top)
        pixels = window(pixels, top - inside_y, left - inside_x, size)
    elif crop == "none":
        pixels, original = load(image, size)
        loaded = pixels.shape
        pixels, fitted = fit(pixels, size, how)
        pixels, cropped = center_crop(pixels, size)
        geometry = fitted.then(*cropped)
    else:
        raise ValueError(f"unknown crop {crop!r}; known: {', '.join(CROPS)}")
    geometry = Geometry(loaded[1] / original[1], loaded[0] / original[0]).then(*geometry)  # of a decode at a fraction
    if hflip and rng.random() < hflip:
        pixels, geometry = pixels[:, ::-1], geometry.then(sx=-1.0, tx=size)
    if augment:
        pixels = rand_augment(rng, np.ascontiguousarray(pixels), *augment)
    return pixels[..., None], geometry  # (size, size, 1)


def eval_image(image, *, size: int, frame: int, how: str) -> tuple[np.ndarray, Geometry]:
    """The image field of an Example -> (uint8 (size, size, 1), Geometry from its own pixels): `fit` to `frame`, then the
    central window of `size` (no crop where `frame` == `size`)."""
    return eval_pixels(*load(image, frame), size=size, frame=frame, how=how)


def eval_pixels(pixels: np.ndarray, shape: tuple[int, int], *, size: int, frame: int, how: str) -> tuple[np.ndarray, Geometry]:
    """As `eval_image`, of what `load` gave."""
    geometry = Geometry(pixels.shape[1] / shape[1], pixels.shape[0] / shape[0])  # of a decode at a fraction
    pixels, fitted = fit(pixels, frame, how)
    pixels, cropped = center_crop(pixels, size)
    geometry = geometry.then(*fitted).then(*cropped)
    return np.ascontiguousarray(pixels)[..., None], geometry  # (size, size, 1)


def map_boxes(boxes, geometry: Geometry, size: int) -> list[tuple[str, float, float, float, float]]:
    """[(name, x, y, w, h)] in source pixels -> the same in the (size, size) output, clipped to it; what lies outside of it
    or is thinner than a hundredth of a pixel is left out."""
    out = []
    for name, x, y, w, h in boxes:
        x0, x1 = sorted(min(max(v * geometry.sx + geometry.tx, 0.0), size) for v in (x, x + w))  # a flip turns them round
        y0, y1 = (min(max(v * geometry.sy + geometry.ty, 0.0), size) for v in (y, y + h))
        if x1 - x0 > 0.01 and y1 - y0 > 0.01:
            out.append((name, x0, y0, x1 - x0, y1 - y0))
    return out


def map_mask(mask: np.ndarray, geometry: Geometry, size: int) -> np.ndarray:
    """(H, W) bool in source pixels -> (size, size) bool: the source pixel under the centre of each output pixel."""
    inverse = np.array([  # output index -> source index; centres are at index + 0.5
        [1 / geometry.sx, 0, (0.5 - geometry.tx) / geometry.sx - 0.5],
        [0, 1 / geometry.sy, (0.5 - geometry.ty) / geometry.sy - 0.5],
    ])
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(mask.astype(np.uint8), inverse, (size, size), flags=flags).astype(bool)
