"""RandAugment with the ten operations of MedKLIP's recipe (specs/medklip.md "Recipe of the reference"), on uint8 grey images.

Semantics are those of Pillow (auto-contrast, equalise, enhancement) and of affine maps about the top-left corner, with grey 128
outside of the image; magnitudes follow the family of programs MedKLIP belongs to: m = 0..10 gives enhancement factors
0.1..1.9, shears up to 0.3, rotations up to 30 degrees and shifts up to 10 px at 224 px, the signs random.
"""
import cv2
import numpy as np

FILL = 128
_RAMP = np.arange(256)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def histogram(image: np.ndarray) -> np.ndarray:
    """Counts of the 256 grey values, int64 (256,)."""
    return cv2.calcHist([image], [0], None, [256], [0, 256]).ravel().astype(np.int64)  # exact: no image has 2^24 such pixels


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretches the image's range to 0..255; an image of one value stays as it is."""
    low, high, _, _ = cv2.minMaxLoc(image)
    if high <= low:
        return image
    table = ((_RAMP - low) * (255.0 / (high - low))).clip(0, 255)
    return cv2.LUT(image, table.astype(np.uint8))


def equalize(image: np.ndarray) -> np.ndarray:
    """Flattens the histogram (Pillow's integer rule)."""
    counts = histogram(image)
    filled = np.flatnonzero(counts)
    step = (int(counts.sum()) - int(counts[filled[-1]])) // 255
    if len(filled) <= 1 or step == 0:
        return image
    before = np.cumsum(counts) - counts
    return cv2.LUT(image, ((step // 2 + before) // step).clip(0, 255).astype(np.uint8))


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with black: grey value times `factor`, truncated."""
    return cv2.LUT(image, (_RAMP * factor).clip(0, 255).astype(np.uint8))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """Blend with a smoothed copy: 0 smooth, 1 the image itself, above 1 sharper; the outermost pixels do not change."""
    kernel = (1 - factor) * _SMOOTH
    kernel[1, 1] += factor
    out = cv2.filter2D(image, -1, kernel)
    out[[0, -1]], out[:, [0, -1]] = image[[0, -1]], image[:, [0, -1]]
    return out


def affine(image: np.ndarray, matrix) -> np.ndarray:
    """Moves pixel (x, y) to matrix @ (x, y, 1), bilinear, `FILL` outside."""
    height, width = image.shape
    return cv2.warpAffine(image, np.asarray(matrix, np.float32), (width, height), flags=cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_CONSTANT, borderValue=FILL)


def translate(image: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """`affine` of a shift by (dx, dy) pixels; by whole ones it is a copy, ten times as fast."""
    if dx != int(dx) or dy != int(dy):
        return affine(image, [[1, 0, dx], [0, 1, dy]])
    height, width = image.shape
    x, y = max(min(int(dx), width), -width), max(min(int(dy), height), -height)
    out = np.full_like(image, FILL)
    out[max(y, 0) : height + min(y, 0), max(x, 0) : width + min(x, 0)] = image[
        max(-y, 0) : height - max(y, 0), max(-x, 0) : width - max(x, 0)]
    return out


def rotate(image: np.ndarray, degrees: float) -> np.ndarray:
    """Turns about the centre, anticlockwise."""
    height, width = image.shape
    return affine(image, cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0))


# name -> (image, m in 0..1, sign in {-1, 1}) -> image
OPERATIONS = {
    "Identity": lambda image, m, sign: image,
    "AutoContrast": lambda image, m, sign: auto_contrast(image),
    "Equalize": lambda image, m, sign: equalize(image),
    "Brightness": lambda image, m, sign: brightness(image, 0.1 + 1.8 * m),
    "Sharpness": lambda image, m, sign: sharpness(image, 0.1 + 1.8 * m),
    "ShearX": lambda image, m, sign: affine(image, [[1, 0.3 * m * sign, 0], [0, 1, 0]]),
    "ShearY": lambda image, m, sign: affine(image, [[1, 0, 0], [0.3 * m * sign, 1, 0]]),
    "TranslateX": lambda image, m, sign: translate(image, 10 * m * sign * image.shape[1] / 224, 0),
    "TranslateY": lambda image, m, sign: translate(image, 0, 10 * m * sign * image.shape[0] / 224),
    "Rotate": lambda image, m, sign: rotate(image, 30 * m * sign),
}
_NAMES = tuple(OPERATIONS)


def rand_augment(rng: np.random.Generator, image: np.ndarray, n: int = 2, m: float = 7,
                 probability: float = 0.5) -> np.ndarray:
    """Draws `n` of the ten operations with replacement and applies each with `probability` at magnitude `m` (0..10).

    image: contiguous uint8 (H, W). The same Generator state gives the same image.
    """
    if not 0 <= m <= 10:
        raise ValueError(f"RandAugment's magnitude is 0..10, got {m}")
    drawn = rng.random(3 * n).tolist()  # one draw of all: several of few numbers each take as long as an operation
    for i, use, sign in zip(drawn[::3], drawn[1::3], drawn[2::3], strict=True):
        if use < probability:
            image = OPERATIONS[_NAMES[int(i * len(_NAMES))]](image, m / 10, 1 if sign < 0.5 else -1)
    return image
