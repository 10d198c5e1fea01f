"""Focal findings of the lung, each at one free spot: consolidation, opacity, nodule, mass, calcified granuloma.

What sets them apart in the image: a consolidation is dense and even, has a straight edge and dark bronchi inside; an
opacity is a patchy veil without an edge; a nodule is a small ball; a mass is large, lobed and spiculated; a granuloma
is a cluster of grains as bright as metal. The functions are built as in `phantom_findings`.
"""

import cv2
import numpy as np

from medvlp_jax.input import phantom_canvas as pc
from medvlp_jax.input.phantom_scene import Finding, lung_point, place, zone


def sample_consolidation(scene, rng):
    side, a, b, x, y = place(scene, rng, 0.105, (0.2, 0.72))
    if side == "right":
        lobe = "upper" if b < 0.37 else "middle" if b < 0.6 else "lower"
    else:
        lobe = "upper" if b < 0.5 else "lower"
    return Finding(
        "consolidation",
        side,
        (f"{lobe}_{side}_lobe",),
        rng.random(),
        {"at": (x, y), "radius": rng.uniform(0.085, 0.115), "cut": rng.uniform(-0.2, 0.35), "down": b < 0.5},
    )


def draw_consolidation(c, scene, f, rng):
    (x, y), radius = f.shape["at"], f.shape["radius"]
    patch = c.fill(pc.lump(rng, x, y, radius, 0.28, 1.12))
    # A fissure cuts it off in a straight line; below it (above, in the lower lobes) the lung is aerated.
    sign = 1.0 if f.shape["down"] else -1.0
    cut = y + sign * radius * 0.45
    slope = f.shape["cut"] * radius
    beyond = np.array(
        [
            [x - 2 * radius, cut - 2 * slope],
            [x + 2 * radius, cut + 2 * slope],
            [x + 2 * radius, cut + sign * 3 * radius],
            [x - 2 * radius, cut + sign * 3 * radius],
        ]
    )
    patch = c.blur(patch, 0.007)
    c.fill(beyond, out=patch, value=0)
    patch = pc.clip(patch, c.parts[f.side])
    c.mix(c.soft(patch, 0.002) * (0.70 + 0.22 * f.severity), 0.75)
    # Air bronchograms: dark twigs that come from the hilum.
    root = lung_point(scene, f.side, 0.05, 0.45)
    aim = np.array([x, y]) - root
    aim = aim / max(float(np.linalg.norm(aim)), 1e-3)
    across = np.array([-aim[1], aim[0]])
    s = np.array([-0.75, 0.0, 0.75])[:, None]
    twigs = [
        np.array([x, y]) + radius * (s * (aim + fan * across * 0.7) + shift * across * 0.55)
        for shift, fan in ((-0.6, -0.5), (0.05, 0.15), (0.65, 0.6))
    ]
    air = pc.clip(c.stroke(twigs, 0.012), patch)
    c.d -= 0.26 * c.soft(air, 0.001)
    c.mark("consolidation", patch)


def sample_opacity(scene, rng):
    side, _, b, x, y = place(scene, rng, 0.095, (0.18, 0.74))
    spots = [
        (x + rng.gauss(0, 0.045), y + rng.gauss(0, 0.045), rng.uniform(0.024, 0.038)) for _ in range(rng.randint(8, 12))
    ]
    return Finding("opacity", side, (f"{side}_{zone(b)}_lung",), rng.random(), {"spots": spots})


def draw_opacity(c, scene, f, rng):
    haze = c.layer()
    for x, y, r in f.shape["spots"]:
        c.disc(x, y, r, out=haze)
    whole = pc.clip(haze, c.parts[f.side])
    veil = c.soft(whole, 0.02)
    grain = 1.0 + 0.35 * pc.noise(rng, c.size, 30)  # patchy, unlike the even density of a consolidation
    c.d += (0.36 + 0.10 * f.severity) * veil * np.maximum(grain, 0.0) * c.air
    c.mark("opacity", c.blur(whole, 0.012))


def sample_nodule(scene, rng):
    radius = rng.uniform(0.031, 0.043)
    side, _, b, x, y = place(scene, rng, radius + 0.01, (0.12, 0.78))
    return Finding(
        "nodule", side, (f"{side}_{zone(b)}_lung",), (radius - 0.031) / 0.012, {"at": (x, y), "radius": radius}
    )


def draw_nodule(c, scene, f, rng):
    ball = c.disc(*f.shape["at"], f.shape["radius"])
    dome = c.soft(ball, 0.004)
    c.mix(dome * rng.uniform(0.8, 0.92), 0.82)
    c.mark("nodule", ball)


def sample_mass(scene, rng):
    radius = rng.uniform(0.065, 0.095)
    side, _, b, x, y = place(scene, rng, radius, (0.16, 0.74))
    return Finding("mass", side, (f"{side}_{zone(b)}_lung",), (radius - 0.065) / 0.03, {"at": (x, y), "radius": radius})


def draw_mass(c, scene, f, rng):
    (x, y), radius = f.shape["at"], f.shape["radius"]
    body = c.fill(pc.lump(rng, x, y, radius, 0.16))
    angle = np.linspace(0, 2 * np.pi, 16)[:-1] + rng.normal(0, 0.1, 15)
    ray = np.stack([np.cos(angle), np.sin(angle)], -1)[:, None] * (radius * rng.uniform(1.2, 1.5, 15)[:, None, None])
    spikes = c.stroke(np.array([x, y]) + ray * np.array([[0.55], [1.0]]), 0.005)
    c.d += 0.12 * c.soft(spikes, 0.001)
    c.mix(c.soft(body, 0.004) * 0.85, 0.76)
    c.mark("mass", body)


def sample_calcification(scene, rng):
    side, _, b, x, y = place(scene, rng, 0.035, (0.14, 0.76))
    grains = [
        (x + rng.uniform(-0.03, 0.03), y + rng.uniform(-0.03, 0.03), rng.uniform(0.010, 0.014))
        for _ in range(rng.randint(4, 6))
    ]
    return Finding("calcification", side, (f"{side}_{zone(b)}_lung",), rng.random(), {"grains": grains})


def draw_calcification(c, scene, f, rng):
    spots = c.layer()
    for x, y, r in f.shape["grains"]:
        c.disc(x, y, r, out=spots)
    c.mix(c.soft(spots, 0.0015), 1.08)
    k = max(1, int(0.03 * c.unit))
    c.mark("calcification", cv2.morphologyEx(spots, cv2.MORPH_CLOSE, np.ones((k, k), np.uint8)))


LESIONS = {
    "consolidation": (sample_consolidation, draw_consolidation),
    "mass": (sample_mass, draw_mass),
    "opacity": (sample_opacity, draw_opacity),
    "nodule": (sample_nodule, draw_nodule),
    "calcification": (sample_calcification, draw_calcification),
}
