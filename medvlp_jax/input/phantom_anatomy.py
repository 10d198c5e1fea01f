"""Draws the normal chest of a scene: soft tissue, lungs with vessels, mediastinum, heart and bones."""

import cv2
import numpy as np

from medvlp_jax.input import phantom_canvas as pc
from medvlp_jax.input.phantom_scene import SIGN, Scene, diaphragm, height, lateral, lung_floor, lung_outline, lung_point

SOFT, WATER, LUNG = 0.60, 0.78, 0.25  # brightness of the chest wall, of organs, of aerated lung
RIBS = 9
_T = np.linspace(0.0, 1.0, 12)
# Shapes of a rib along its length: out to the wall, arched and falling; and back inwards, sinking.
_OUT, _ARCH, _FALL = np.sin(np.pi / 2 * _T), np.sin(np.pi * _T), _T**2.4
_IN, _SINK = np.cos(np.pi / 2 * 0.72 * _T), _T**0.9


def draw_chest(c: pc.Canvas, scene: Scene) -> None:
    """Everything behind the bones. Leaves the masks "left_lung", "right_lung", "heart" and the parts findings need."""
    rng = np.random.default_rng([scene.texture, 1])
    c.d += 0.03
    body, breasts = draw_body(c, scene)
    lungs = {side: c.fill(lung_outline(scene, side)) for side in SIGN}
    heart = c.fill(heart_outline(scene))
    c.parts = {**lungs, "lungs": cv2.max(lungs["left"], lungs["right"]), "body": body, "heart": heart}
    # The dome hides the lowest lung behind it: everything below the diaphragm is as bright as the liver.
    belly = np.concatenate(
        [
            lung_floor(scene, "right")[::-1],
            lung_floor(scene, "left"),
            [[scene.half + 0.02, 1.3], [-scene.half - 0.02, 1.3]],
        ]
    )
    c.parts["belly"] = c.fill(belly)
    c.mix(c.soft(c.parts["belly"], 0.006) * 0.9, WATER)
    if scene.exposure["gas"] > 0.5:  # gastric air bubble under the left dome, not a finding
        x, top = 0.55 * scene.half, float(diaphragm(scene, "left", 0.45))
        bubble = c.fill(pc.lump(rng, x, top + 0.055, 0.028 + 0.02 * scene.exposure["gas"], 0.1, 1.25))
        c.mix(c.soft(bubble, 0.006) * 0.35, 0.25)
    draw_lungs(c, scene, rng, breasts)
    draw_middle(c, scene, heart)
    c.air = c.soft(cv2.subtract(c.parts["lungs"], heart), 0.004)  # (S, S) where lung is seen, not heart
    for side in SIGN:
        free = cv2.subtract(lungs[side], heart)
        c.masks[f"{side}_lung"] = cv2.compare(free, 127, cv2.CMP_GT)
    c.masks["heart"] = cv2.compare(heart, 127, cv2.CMP_GT)


def draw_body(c: pc.Canvas, scene: Scene):
    """Neck, shoulders, torso and arms -> their layer, and the weights of breast shadows or None."""
    flank = scene.half + 0.035 + 0.09 * scene.fat
    top = scene.apex + scene.shoulders
    half = np.array(
        [
            [0.085, -0.2],
            [0.088, top - 0.09],
            [0.12, top - 0.045],
            [0.24, top - 0.01],
            [0.36, top + 0.005],
            [0.45, top + 0.05],
            [0.52, top + 0.14],
            [0.70, top + 0.30],
            [0.74, 1.3],
            [flank + 0.16, 1.3],
            [flank + 0.09, 0.62],
            [flank + 0.045, 0.40],
            [flank + 0.01, 0.42],
            [flank, 0.60],
            [flank + 0.02, 1.3],
        ]
    )
    if scene.fat > 0.6:  # the arm touches the chest
        half = np.delete(half, [9, 10, 11, 12, 13, 14], 0)
    body = c.fill(np.concatenate([half, half[::-1] * [-1, 1]]))
    c.mix(c.soft(body, 0.008), SOFT + 0.06 * scene.fat)
    if not scene.breast:
        return body, None
    x, y, r = 0.56 * scene.half, scene.base - 0.10, 0.17 + 0.03 * scene.fat
    flat = pc.circle(x, y, r) * [1, 0.9] + [0, 0.1 * y]
    return body, c.soft(c.fill(flat, flat * [-1, 1]), 0.012)


def draw_lungs(c: pc.Canvas, scene: Scene, rng, breasts) -> None:
    """Dark lungs, brighter towards their edges, with vessels that fan out from the hila."""
    lungs = c.parts["lungs"]
    depth = c.soft(lungs, 0.035)
    dark = LUNG - scene.lucency + 0.05 * scene.fat + 0.22 * (1.0 - depth)
    if breasts is not None:
        dark += scene.breast * breasts
    c.mix(c.soft(lungs, 0.003), dark)
    edema = scene.find("edema")
    thick, fine = c.layer(), c.layer()
    for side, sign in SIGN.items():
        root = lung_point(scene, side, 0.10, 0.45)
        n = 11
        angle = np.linspace(-1.45, 1.5, n) + rng.normal(0, 0.11, n)
        reach = scene.half * np.where(np.abs(angle) > 1.0, 0.95, 0.75) * rng.uniform(0.75, 1.1, n)
        bend = rng.normal(0, 0.22, n)
        s = np.linspace(0.04, 1.0, 6)
        turn = angle[:, None] + bend[:, None] * s * 2
        trunk = root + (reach[:, None] * s)[..., None] * np.stack([sign * np.cos(turn), np.sin(turn)], -1)  # (n, 6, 2)
        fork = np.repeat(trunk[:, 2:4].reshape(-1, 1, 2), 2, 1).reshape(-1, 1, 2)  # two twigs at two places of a trunk
        m = len(fork)
        twig = np.repeat(angle, 4) + np.tile([0.45, -0.45], m // 2) + rng.normal(0, 0.15, m)
        length = np.linspace(0.0, 1.0, 4) * rng.uniform(0.35, 0.6, m)[:, None] * scene.half
        twigs = fork + length[..., None] * np.stack([sign * np.cos(twig), np.sin(twig)], -1)[:, None]
        c.stroke(trunk[:, :3], 0.011, out=thick)
        c.stroke(trunk[:, 2:], 0.006, out=fine)
        c.stroke(twigs, 0.004, out=fine)
        hilum = pc.ribbon(
            np.array([root + [0, -0.05], root + [sign * 0.004, 0.0], root + [sign * 0.006, 0.075]]), 0.042
        )
        c.fill(hilum, out=thick)
    inside = c.soft(lungs)
    boost = 1.0 + (0.9 * edema.severity + 0.4 if edema else 0.0)
    c.d += (0.17 * c.soft(thick, 0.006) + 0.085 * boost * c.soft(fine, 0.003)) * inside
    c.d += 0.016 * pc.noise(rng, c.size, 44) * inside


_KNOTS = (0.0, 0.15, 0.29, 0.36, 0.45, 0.55, 0.66, 0.80, 0.92, 1.0)


def _middle_borders(scene: Scene):
    """y (41,), left and right reach of mediastinum and heart from the midline (41,)."""
    width = scene.heart * 2 * scene.half
    left, right = width * scene.heart_left, width * (1 - scene.heart_left)
    lower = scene.base - 0.35 * min(scene.dome.values())
    y = np.linspace(scene.apex - 0.03, lower, 41)
    k = scene.knob
    spread = pc.smoother(_KNOTS, 41)
    to_left = spread @ np.array([0.045, 0.048, k, k * 0.98, 0.055, 0.066, 0.68 * left, 0.93 * left, left, 0.88 * left])
    to_right = spread @ np.array(
        [0.045, 0.046, 0.048, 0.05, 0.052, 0.058, 0.86 * right, right, 0.94 * right, 0.78 * right]
    )
    return y, to_left + scene.turn, to_right - scene.turn


def heart_outline(scene: Scene) -> np.ndarray:
    """Closed outline of the heart's shadow -> (P, 2)."""
    y, left, right = _middle_borders(scene)
    y, left, right = y[21:], left[21:], right[21:]
    return np.concatenate([np.stack([left, y], -1), np.stack([-right, y], -1)[::-1]])


def draw_middle(c: pc.Canvas, scene: Scene, heart: np.ndarray) -> None:
    """Mediastinum, heart, spine, trachea with main bronchi."""
    y, left, right = _middle_borders(scene)
    column = np.concatenate([np.stack([left, y], -1), np.stack([-right, y], -1)[::-1]])
    c.mix(c.soft(c.fill(column), 0.005) * 0.9, WATER - 0.03)
    c.mix(c.soft(heart, 0.006) * 0.6, WATER)
    bones, gaps = c.layer(), c.layer()
    tilt = -0.4 * scene.turn
    c.fill(
        np.array([[-0.034 + tilt, -0.2], [0.034 + tilt, -0.2], [0.036 + tilt, 1.2], [-0.036 + tilt, 1.2]]), out=bones
    )
    step = 0.047
    level = np.arange(scene.apex - 0.10, 1.0, step)[:, None, None]
    disc = np.array([[-0.034 + tilt, 0.0], [0.034 + tilt, 0.0], [0.034 + tilt, 0.009], [-0.034 + tilt, 0.009]])
    c.fill_apart(disc + level * [0, 1], out=gaps)
    c.d += 0.07 * c.soft(bones, 0.004) - 0.04 * c.soft(gaps, 0.003)
    x, fork = 0.5 * scene.turn + 0.004, float(height(scene, 0.30))
    airway = c.fill(
        np.array([[x - 0.016, -0.1], [x + 0.016, -0.1], [x + 0.017, fork], [x, fork + 0.02], [x - 0.017, fork]])
    )
    for sign, drop in ((-1, 0.075), (1, 0.055)):
        c.fill(
            pc.ribbon(
                np.array([[x, fork - 0.005], [x + sign * 0.03, fork + 0.4 * drop], [x + sign * 0.07, fork + drop]]),
                np.array([0.022, 0.017, 0.013]),
            ),
            out=airway,
        )
    c.d -= 0.15 * c.soft(airway, 0.004)


def rib_lines(scene: Scene, side: str):
    """Centre lines of a side's ribs -> back (RIBS, 12, 2) from the spine out, front (RIBS - 2, 12, 2) back in."""
    span = scene.base - scene.apex
    level = np.arange(RIBS)[:, None]  # (RIBS, 1)
    start = scene.apex - 0.015 + level * span / (RIBS - 0.6)
    drop = scene.rib_slope * (0.75 + 0.05 * level)
    wall_y = start + drop
    wall = lateral(scene, np.clip((wall_y - scene.apex) / span, 0.04, 1.0)) + 0.008
    back = np.empty((RIBS, 12, 2))
    back[..., 0] = 0.036 + (wall - 0.036) * _OUT
    back[..., 1] = start - 0.02 * _ARCH + drop * _FALL
    front = np.empty((RIBS, 12, 2))
    front[..., 0] = wall * _IN
    front[..., 1] = wall_y + (0.10 + 0.012 * level) * _SINK
    mirror = np.array([SIGN[side], 1.0])
    return back * mirror, front[:-2] * mirror


def broken_rib(line: np.ndarray, at: float, shift: float) -> list[np.ndarray]:
    """A rib (12, 2) broken at the share `at` of its length, the outer part displaced by `shift` -> two (12, 2)."""

    def part(start, stop):
        where = np.linspace(start, stop, 12)
        return np.stack([np.interp(where, _T, line[:, 0]), np.interp(where, _T, line[:, 1])], -1)

    return [part(0.0, at - 0.03), part(at + 0.03, 1.0) + np.array([0.0, shift])]


def draw_bones(c: pc.Canvas, scene: Scene) -> None:
    """Ribs (posterior bright, anterior faint; broken where the scene says so), clavicles, scapulae."""
    broken = scene.find("fracture")
    back, front, edge, wide = c.layer(), c.layer(), c.layer(), c.layer()
    rear, fore = [], []
    thick = 0.019 + 0.0008 * np.arange(RIBS)[:, None]  # (RIBS, 1)
    for side in SIGN:
        behind, before = rib_lines(scene, side)
        bands = pc.ribbon(behind, thick)  # (RIBS, 24, 2)
        if broken and side == broken.side:
            parts = [p for level, place in broken.shape["levels"].items() for p in broken_rib(behind[level], *place)]
            bands = np.concatenate(
                [np.delete(bands, list(broken.shape["levels"]), 0), pc.ribbon(np.stack(parts), 0.022)]
            )
        rear.append(bands)
        fore.append(pc.ribbon(before, 0.022))
    rear = np.concatenate(rear)
    c.fill_apart(rear, out=back)
    c.fill_apart(np.concatenate(fore), out=front)
    c.stroke(rear, 0.003, out=edge, closed=True)
    collar = []
    for sign in SIGN.values():
        top = scene.apex + 0.045 + scene.shoulders
        line = pc.smoother((0.0, 0.3, 0.65, 1.0), 12) @ np.array(
            [[0.035, top + 0.03], [0.13, top], [0.25, top - 0.025], [0.37, top - 0.06]]
        )
        line = (line + [scene.turn * sign, 0]) * [sign, 1]
        collar.append(pc.ribbon(line, np.interp(_T, [0, 0.2, 0.7, 1], [0.034, 0.024, 0.022, 0.028])))
        out = 0.0 if scene.view == "AP" else 0.075  # arms forward turn the scapulae off the lungs in a PA view
        blade = np.array(
            [
                [0.25 + out, top - 0.01],
                [0.38 + out, top - 0.05],
                [0.42 + out, top],
                [0.36 + out, top + 0.12],
                [0.29 + out, top + 0.24],
                [0.265 + out, top + 0.1],
            ]
        ) * [sign, 1]
        c.fill(blade, out=wide)
        c.stroke([blade], 0.004, out=edge, closed=True)
        c.fill(pc.circle(sign * (0.47 + 0.3 * out), top - 0.01, 0.045), out=wide)
    c.fill_apart(np.stack(collar), out=back)
    c.stroke(np.stack(collar), 0.003, out=edge, closed=True)
    # Ribs show little in front of the belly, and less in the obese.
    inside = c.soft(c.parts["body"]) * (1.0 - 0.25 * scene.fat) * (1.0 - 0.75 * c.soft(c.parts["belly"]))
    inside *= 1.0 - 0.4 * c.soft(c.parts["heart"])
    c.d += (
        0.085 * c.soft(back, 0.002) + 0.045 * c.soft(front, 0.003) + 0.05 * c.soft(edge) + 0.06 * c.soft(wide, 0.004)
    ) * inside
