"""From the drawn chest to grey values: all that is between the patient and the file, and the marks on the film."""

import cv2
import numpy as np

from medvlp_jax.input import phantom_canvas as pc
from medvlp_jax.input.phantom_scene import SIGN, Scene


def draw_study(c: pc.Canvas, scene: Scene) -> np.ndarray:
    """Exposure, processing, side marker, noise -> image (S, S) uint8."""
    e = scene.exposure
    rng = np.random.default_rng([scene.texture, 2])
    d = c.d
    x, y = pc.ramps(c.size)
    d += e["mottle"] * pc.noise(rng, c.size, 7) + e["heel"][0] * x + e["heel"][1] * y
    if e["blur"] > 0:
        d = c.blur(d, e["blur"])
    if e["sharpen"] > 0:
        d = d + np.float32(e["sharpen"]) * (d - c.blur(d, 0.05))
    np.clip((d - 0.5) * (0.95 * e["gain"]) + (0.5 + e["offset"]), 0.0, 1.0, out=d)
    d = cv2.pow(d, e["gamma"])
    stamp(d, scene)
    d += e["noise"] * pc.noise(rng, c.size, 256)
    for i, border in enumerate(e["collimation"]):
        n = int(round(border * c.size))
        if n > 0:  # shutters at the four edges
            d[
                (slice(0, n), slice(c.size - n, None))[i] if i < 2 else slice(None),
                slice(None) if i < 2 else (slice(0, n), slice(c.size - n, None))[i - 2],
            ] = 0.02
    return cv2.convertScaleAbs(np.maximum(d, 0.0), alpha=255.0)


_LETTER = {
    "left": [np.array([[0.0, 0.0], [0.0, 0.05], [0.028, 0.05]])],
    "right": [
        np.array([[0.0, 0.05], [0.0, 0.0], [0.022, 0.0], [0.03, 0.012], [0.022, 0.025], [0.0, 0.025]]),
        np.array([[0.012, 0.025], [0.03, 0.05]]),
    ],
}


def stamp(d: np.ndarray, scene: Scene) -> None:
    """Side marker: a lead letter at the shoulder of its side, upright in the image however the patient lies."""
    side = scene.exposure["marker"]
    if side:
        plain = pc.Canvas(d.shape[0])
        x, y = scene.exposure["marker_at"]
        letter = plain.soft(plain.stroke([line + [SIGN[side] * x - 0.015, y] for line in _LETTER[side]], 0.009))
        d += letter * (0.97 - d)
