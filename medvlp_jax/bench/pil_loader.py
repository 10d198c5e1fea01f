"""A plain loader as published PyTorch programs write it: Pillow image by image, float tensors. For comparison only."""
import io
import math

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
GREY = (128, 128, 128)


def _affine(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=GREY)


# RandAugment of MedKLIP's program: (image, m in 0..1, sign) -> image
OPERATIONS = (
    lambda x, m, s: x,
    lambda x, m, s: ImageOps.autocontrast(x),
    lambda x, m, s: ImageOps.equalize(x),
    lambda x, m, s: ImageEnhance.Brightness(x).enhance(0.1 + 1.8 * m),
    lambda x, m, s: ImageEnhance.Sharpness(x).enhance(0.1 + 1.8 * m),
    lambda x, m, s: _affine(x, 1, 0.3 * m * s, 0, 0, 1, 0),
    lambda x, m, s: _affine(x, 1, 0, 0, 0.3 * m * s, 1, 0),
    lambda x, m, s: _affine(x, 1, 0, 10 * m * s, 0, 1, 0),
    lambda x, m, s: _affine(x, 1, 0, 0, 0, 1, 10 * m * s),
    lambda x, m, s: x.rotate(30 * m * s, Image.Resampling.BILINEAR, fillcolor=GREY),
)


def to_tensor(image) -> np.ndarray:
    """RGB image -> float32 (3, H, W), scaled and normalised as torchvision's ToTensor and Normalize do."""
    x = np.asarray(image, np.float32) / 255
    return np.ascontiguousarray(((x - MEAN) / STD).transpose(2, 0, 1))


def medklip(rng, data: bytes, size: int = 224) -> np.ndarray:
    """RandomResizedCrop (bicubic), RandAugment(2, 7), tensor."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    for _ in range(10):
        area, aspect = width * height * rng.uniform(0.2, 1.0), math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        w, h = width, height
    left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
    image = image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + w, top + h))
    for k in rng.integers(len(OPERATIONS), size=2):
        if rng.random() < 0.5:
            image = OPERATIONS[k](image, 0.7, 1 - 2 * int(rng.integers(2)))
    return to_tensor(image)


def mlip(rng, data: bytes, size: int = 224, frame: int = 256) -> np.ndarray:
    """Long side to `frame`, padded to a square, random window, tensor."""
    image = ImageOps.pad(Image.open(io.BytesIO(data)).convert("RGB"), (frame, frame), Image.Resampling.BILINEAR)
    left, top = (int(v) for v in rng.integers(frame - size + 1, size=2))
    return to_tensor(image.crop((left, top, left + size, top + size)))
