"""Findings over or beside the lungs: broken ribs, pacemaker, endotracheal tube, PICC; and ECG leads, no finding.

The functions are built as in `phantom_findings`.
"""

import cv2
import numpy as np

from medvlp_jax.input import phantom_canvas as pc
from medvlp_jax.input.phantom_anatomy import broken_rib, rib_lines
from medvlp_jax.input.phantom_scene import SIGN, Finding, height


def sample_fracture(scene, rng):
    side = rng.choice(["left", "right"])
    first, count = rng.randint(1, 4), rng.choice([2, 3, 3, 4])
    levels = {
        first + i: (rng.uniform(0.44, 0.68), rng.choice([-1, 1]) * rng.uniform(0.024, 0.032)) for i in range(count)
    }
    return Finding("fracture", side, ("rib",), (count - 2) / 2, {"levels": levels})


def draw_fracture(c, scene, f, rng):
    # The broken ribs are drawn with the other ribs; here their ends swell with callus, which makes the step-off plain.
    callus, gaps, where = c.layer(), c.layer(), c.layer()
    ribs, _ = rib_lines(scene, f.side)
    for level, (at, shift) in f.shape["levels"].items():
        inner, outer = broken_rib(ribs[level], at, shift)
        swell = np.array([0.014, 0.022, 0.030])
        c.fill(pc.ribbon(inner[-3:], swell), pc.ribbon(outer[:3], swell[::-1]), out=callus)
        middle = (inner[-1] + outer[0]) / 2
        c.disc(*middle, 0.012, out=gaps)
        c.disc(*middle, 0.034, out=where)
    c.d += 0.37 * c.soft(callus, 0.002) - 0.12 * c.soft(gaps, 0.004)
    c.mark("fracture", where)


def sample_pacemaker(scene, rng):
    side = "right" if rng.random() < 0.4 else "left"
    return Finding(
        "pacemaker",
        side,
        (f"{side}_upper_lung",),
        0.5,
        {
            "at": (SIGN[side] * scene.half * rng.uniform(0.55, 0.85), scene.apex + rng.uniform(0.10, 0.19)),
            "turn": rng.uniform(-0.6, 0.6),
            "leads": rng.choice([1, 2, 2]),
        },
    )


_CAN = np.array(
    [
        [-0.042, -0.024],
        [-0.030, -0.036],
        [0.030, -0.036],
        [0.042, -0.024],
        [0.040, 0.018],
        [0.022, 0.036],
        [-0.022, 0.036],
        [-0.040, 0.018],
    ]
)


def draw_pacemaker(c, scene, f, rng):
    (x, y), turn, sign = f.shape["at"], f.shape["turn"], SIGN[f.side]
    spin = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    can = c.fill(_CAN @ spin.T + [x, y])
    low, top = float(height(scene, 0.9)), scene.apex + scene.shoulders
    tips = np.array([[-0.055, low - 0.10], [0.07, low - 0.02]])[2 - f.shape["leads"] :]  # right atrium, right ventricle
    through = pc.smoother((0.0, 0.2, 0.45, 0.6, 0.85, 1.0), 24)
    leads = [
        through
        @ np.array(
            [
                [x, y - 0.03],
                [x - sign * 0.07, top + 0.03],
                [sign * 0.06, top + 0.05],
                [-0.03, top + 0.11],
                [-0.045, low - 0.13],
                tip,
            ]
        )
        for tip in tips
    ]
    wires = c.stroke(leads, 0.0055)
    c.mix(c.soft(wires) * 0.75, 1.0)
    c.mix(c.soft(can, 0.001), 1.02)
    c.mix(c.soft(c.fill(_CAN * 0.55 @ spin.T + [x, y])) * 0.35, 0.80)
    c.mark("pacemaker", can)


def sample_tube(scene, rng):
    return Finding("tube", "", ("trachea",), 0.5, {"tip": rng.uniform(0.10, 0.22)})


def draw_tube(c, scene, f, rng):
    x = 0.5 * scene.turn + 0.004
    tip = float(height(scene, f.shape["tip"]))
    bore = np.array([[x, -0.1], [x + 0.004, 0.5 * tip], [x - 0.002, tip]])
    band = c.fill(pc.ribbon(bore, 0.032))
    walls = c.stroke([bore - [0.0145, 0.0], bore + [0.0145, 0.0]], 0.012)
    c.d += 0.05 * c.soft(band)
    c.mix(c.soft(walls) * 0.75, 1.05)
    c.mark("tube", cv2.max(band, walls))


def sample_picc(scene, rng):
    side = rng.choice(["left", "right"])
    deep = rng.random() < 0.5
    tip = rng.uniform(0.44, 0.54) if deep else rng.uniform(0.26, 0.38)
    return Finding("picc", side, ("cavoatrial_junction" if deep else "svc",), 0.5, {"tip": tip})


def draw_picc(c, scene, f, rng):
    sign, top = SIGN[f.side], scene.apex + scene.shoulders
    path = np.array(
        [
            [sign * (scene.half + 0.20), top + 0.34],
            [sign * (scene.half + 0.06), top + 0.12],
            [sign * 0.24, top + 0.03],
            [sign * 0.08, top + 0.06],
            [-0.030, top + 0.12],
            [-0.040, float(height(scene, f.shape["tip"]))],
        ]
    )
    path[-2:, 0] += scene.turn
    line = c.stroke([pc.smoother((0.0, 0.3, 0.6, 0.78, 0.88, 1.0), 32) @ path], 0.013)
    c.mix(c.soft(line) * 0.85, 1.02)
    c.mark("picc", cv2.dilate(line, np.ones((max(1, int(0.012 * c.unit)),) * 2, np.uint8)))


def draw_leads(c, scene):
    """ECG electrodes with their wires, an overlay that is not a finding and has no mask."""
    rng = np.random.default_rng([scene.texture, 3])
    pads, holes, wires = c.layer(), c.layer(), []
    for _ in range(scene.exposure["leads"]):
        at = np.array([rng.uniform(-0.85, 0.85) * scene.half, rng.uniform(scene.apex + 0.08, scene.base + 0.05)])
        c.disc(*at, 0.015, out=pads)
        c.disc(*at, 0.006, out=holes)
        out = np.array([rng.choice([-1.0, 1.0]) * 0.2 + rng.normal(0, 0.1), rng.uniform(0.2, 0.5)])
        bow = np.array([rng.normal(0, 0.1), 0.0])
        wires.append(pc.smoother((0.0, 0.5, 1.0), 16) @ np.stack([at, at + 0.5 * out + bow, at + 1.4 * out]))
    c.mix(c.soft(c.stroke(wires, 0.004)) * 0.3, 1.0)
    c.mix(c.soft(cv2.subtract(pads, holes)) * 0.6, 0.95)


DEVICES = {
    "fracture": (sample_fracture, draw_fracture),
    "pacemaker": (sample_pacemaker, draw_pacemaker),
    "picc": (sample_picc, draw_picc),
    "tube": (sample_tube, draw_tube),
}
