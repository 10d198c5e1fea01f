"""Findings that follow the anatomy: heart, pleura, diaphragm, whole lungs, hiatus.

For each a `sample` (numbers and position names) and a `draw` (pixels and mask). A sample function gets (scene, rng:
random.Random) and may change the anatomy (a large heart, a raised diaphragm); a draw function gets (canvas, scene,
finding, rng: np.random.Generator), paints, and marks the mask of what it painted.
"""

import cv2
import numpy as np

from medvlp_jax.input import phantom_canvas as pc
from medvlp_jax.input.phantom_anatomy import WATER
from medvlp_jax.input.phantom_scene import SIGN, Finding, diaphragm, lateral, lung_outline, lung_point

_A = np.linspace(0.0, 1.0, 15)


def sides(side: str) -> tuple[str, ...]:
    """The single sides of a finding."""
    return ("right", "left") if side == "both" else (side,)


def sample_effusion(scene, rng):
    side = rng.choice(["left", "left", "right", "right", "both"])
    severity = rng.random()
    level = {s: 0.045 + 0.22 * severity * rng.uniform(0.75, 1.1) for s in sides(side)}
    for s in sides(side):  # keep focal findings out of the fluid
        x = SIGN[s] * 0.6 * scene.half
        scene.occupied.append((x, scene.base - 0.02, 0.08 + 0.8 * level[s]))
    return Finding("effusion", side, tuple(f"{s}_pleural" for s in sides(side)), severity, {"level": level})


def draw_effusion(c, scene, f, rng):
    for side in sides(f.side):
        inner, outer = float(lung_point(scene, side, 0.0, 1.0)[0]), float(lung_point(scene, side, 1.0, 1.0)[0]) * 1.03
        level = f.shape["level"][side]
        # The meniscus: lowest medially, climbing the lateral wall.
        top = scene.base - 0.55 * scene.dome[side] - level * (0.45 + 0.75 * _A**3)
        line = np.stack([inner + (outer - inner) * _A, top], -1)
        pool = c.fill(np.concatenate([line, [[outer, scene.base + 0.02], [inner, scene.base + 0.02]]]))
        inside = pc.clip(pool, c.parts[side])
        # Fluid is as bright as the belly, so the diaphragm's edge under it must vanish.
        c.mix(c.soft(pc.clip(pool, cv2.max(c.parts[side], c.parts["belly"])), 0.006), WATER - 0.015)
        c.mark("effusion", inside)


def sample_pneumothorax(scene, rng):
    side = rng.choice(["left", "right"])
    severity = rng.random()
    scene.occupied.append((*(float(v) for v in lung_point(scene, side, 0.75, 0.2)), 0.11))
    return Finding(
        "pneumothorax",
        side,
        (f"{side}_apical_lung" if severity < 0.5 else f"{side}_pleural",),
        severity,
        {"inset": 0.045 + 0.06 * severity, "reach": rng.uniform(0.55, 0.75) + 0.4 * severity},
    )


def draw_pneumothorax(c, scene, f, rng):
    outline = lung_outline(scene, f.side)
    b = (outline[:, 1] - scene.apex) / (scene.base - scene.apex)
    root = lung_point(scene, f.side, 0.0, 0.45)
    away = outline - root
    length = np.linalg.norm(away, axis=-1, keepdims=True)
    # The visceral pleura falls back from apex and lateral wall, and touches the wall again further down.
    laid = np.clip((min(f.shape["reach"], 1.0) - b) / 0.35, 0.0, 1.0)
    laid[:24], laid[50:] = 0.0, 0.0  # the mediastinal border and the dome stay
    pleura = (
        outline - away / length * (f.shape["inset"] * laid * (1.0 + 0.5 * np.clip((0.2 - b) / 0.15, 0.0, 1.0)))[:, None]
    )
    lung = c.fill(pleura)
    gap = cv2.subtract(c.parts[f.side], lung)
    c.mix(c.soft(gap, 0.002) * 0.85, 0.13 - scene.lucency)
    edge = pc.clip(c.stroke([pleura[laid > 0.02]], 0.005), c.parts[f.side])
    c.d += 0.14 * c.soft(edge, 0.001)
    c.mark("pneumothorax", gap)


def sample_cardiomegaly(scene, rng):
    severity = rng.random()
    scene.heart = rng.uniform(0.56, 0.59) + 0.10 * severity
    return Finding("cardiomegaly", "", ("heart_size",), severity, {})


def draw_cardiomegaly(c, scene, f, rng):
    c.mark("cardiomegaly", c.parts["heart"])


def sample_hyperinflate(scene, rng):
    severity = rng.random()
    scene.base += 0.02 + 0.02 * severity
    scene.apex -= 0.015
    scene.dome = {s: rng.uniform(0.004, 0.014) for s in SIGN}
    scene.heart = min(scene.heart, rng.uniform(0.34, 0.38))
    scene.lucency = 0.03 + 0.04 * severity
    scene.rib_slope *= 0.7
    return Finding("hyperinflate", "", ("lung_volumes",), severity, {})


def draw_hyperinflate(c, scene, f, rng):
    c.mark("hyperinflate", c.parts["lungs"])


def sample_atelectasis(scene, rng):
    side = rng.choice(["left", "left", "right", "right", "both"])
    for s in sides(side):
        scene.dome[s] += 0.03
    bands = {
        s: [
            (rng.uniform(0.70, 0.76) - 0.075 * i, rng.uniform(-0.35, 0.1), rng.uniform(0.34, 0.46))
            for i in range(rng.choice([2, 3]))
        ]
        for s in sides(side)
    }
    for s in sides(side):
        scene.occupied.append((*(float(v) for v in lung_point(scene, s, 0.6, 0.74)), 0.10))
    if side == "both":
        positions = ("lung_bases",)
    else:
        positions = (rng.choice([f"{side}_lower_lung", f"lower_{side}_lobe"]),)
    return Finding("atelectasis", side, positions, rng.random(), {"bands": bands})


def draw_atelectasis(c, scene, f, rng):
    for side in sides(f.side):
        plates = c.layer()
        for b, tilt, length in f.shape["bands"][side]:
            middle = lung_point(scene, side, 0.60, b)
            half = 0.5 * length * (lateral(scene, b) - 0.2 * scene.half) * np.array([SIGN[side], tilt])
            bow = np.array([0.0, -0.006])
            c.fill(
                pc.ribbon(
                    np.stack([middle - 1.2 * half, middle + bow, middle + 1.2 * half]), np.array([0.007, 0.023, 0.010])
                ),
                out=plates,
            )
        plates = pc.clip(plates, c.parts[side])
        c.mix(c.soft(plates, 0.004) * (0.65 + 0.2 * f.severity), 0.74)
        c.mark(
            "atelectasis",
            cv2.morphologyEx(plates, cv2.MORPH_CLOSE, np.ones((max(1, int(0.06 * c.unit)),) * 2, np.uint8)),
        )


def sample_edema(scene, rng):
    severity = rng.random()
    return Finding("edema", "both", (rng.choice(["hilar_unspec", "interstitium", "pulmonary"]),), severity, {})


def draw_edema(c, scene, f, rng):
    kerley = c.layer()
    for side in SIGN:
        wing = c.fill(pc.lump(rng, *lung_point(scene, side, 0.33, 0.50), 0.115 + 0.02 * f.severity, 0.12, 0.80))
        wing = pc.clip(wing, c.parts[side])
        veil = c.soft(wing, 0.02)
        c.d += (0.12 + 0.12 * f.severity) * veil * c.air * (1.0 + 0.35 * pc.noise(rng, c.size, 56))
        c.mark("edema", c.blur(wing, 0.01))
        b = np.linspace(0.62, 0.93, 9) + rng.normal(0, 0.008, 9)
        ends = np.stack(
            [lung_point(scene, side, 0.99, b), lung_point(scene, side, rng.uniform(0.72, 0.82, 9), b)], 1
        )  # (9, 2, 2)
        c.stroke(ends, 0.005, out=kerley)
    c.d += 0.15 * c.soft(pc.clip(kerley, c.parts["lungs"]), 0.0008)


def sample_hernia(scene, rng):
    radius = rng.uniform(0.055, 0.072)
    return Finding(
        "hernia",
        "",
        ("retrocardiac",),
        (radius - 0.055) / 0.017,
        {"x": rng.uniform(-0.03, 0.06), "radius": radius, "level": rng.uniform(0.0, 0.3)},
    )


def draw_hernia(c, scene, f, rng):
    x, r = f.shape["x"] + 0.3 * scene.turn, f.shape["radius"]
    y = float(diaphragm(scene, "left", 0.0)) - rng.uniform(0.7, 1.2) * r
    sac = c.fill(pc.lump(rng, x, y, r, 0.05, 1.1))
    c.mix(c.soft(sac, 0.005) * 0.8, WATER + 0.13)
    gas = c.fill(pc.circle(x, y, 0.86 * r) * [1.1, 0.9] + [-0.1 * x, 0.1 * y])
    level = y + f.shape["level"] * r
    c.fill(
        np.array([[x - 2 * r, level], [x + 2 * r, level], [x + 2 * r, level + 2 * r], [x - 2 * r, level + 2 * r]]),
        out=gas,
        value=0,
    )
    c.mix(c.soft(gas, 0.003) * 0.75, 0.40)
    c.mark("hernia", sac)


CHEST_FINDINGS = {
    "hyperinflate": (sample_hyperinflate, draw_hyperinflate),
    "cardiomegaly": (sample_cardiomegaly, draw_cardiomegaly),
    "atelectasis": (sample_atelectasis, draw_atelectasis),
    "edema": (sample_edema, draw_edema),
    "effusion": (sample_effusion, draw_effusion),
    "pneumothorax": (sample_pneumothorax, draw_pneumothorax),
    "hernia": (sample_hernia, draw_hernia),
}
