"""The phantom's scene: one study described by plain numbers, before anything is drawn or written.

Scene coordinates are normalised: x is measured from the midline (x > 0 is the image's right, the patient's LEFT),
y runs from 0 (top edge) to 1 (bottom edge), both in units of the image width. Nothing here knows about pixels, so the
same scene can be drawn at any resolution, and a report can be written without drawing.
"""

import random
from dataclasses import dataclass, field

import numpy as np

SIGN = {"right": -1.0, "left": 1.0}  # image left is the patient's right


@dataclass
class Finding:
    """One finding of a scene.

    name: MedKLIP entity; side: "left", "right", "both" or ""; positions: names out of the 51 positions;
    severity: 0 (slight) .. 1 (severe); shape: numbers that only the finding's own drawing and phrase functions read.
    """

    name: str
    side: str
    positions: tuple[str, ...]
    severity: float
    shape: dict


@dataclass
class Scene:
    """A patient, the anatomy on the day of the study, the exposure, and the findings (lengths in image widths)."""

    patient_id: str
    sex: str
    age: int
    view: str  # "PA" or "AP"
    texture: int  # seed of everything that is drawn at random: vessels, mottle, noise
    apex: float  # y of the lung apices
    base: float  # y of the costophrenic angles
    half: float  # half the inner width of the chest at the base
    dome: dict  # side -> height of the diaphragm's dome above the costophrenic angle
    heart: float  # cardiothoracic ratio: heart width / (2 half)
    heart_left: float  # share of the heart's width that lies left of the midline
    knob: float  # reach of the aortic knob from the midline
    turn: float  # shift of the mediastinum against the ribs: a patient who stands slightly rotated
    fat: float  # 0 slim .. 1 obese: soft tissue beside the chest, less contrast inside
    breast: float  # brightness of breast shadows, 0 for none
    lucency: float  # darkness of the lungs
    rib_slope: float
    shoulders: float  # height of clavicles and scapulae relative to the apices
    camera: tuple  # rotation (radians), scale, shift x, shift y
    exposure: dict  # see `draw_study` in phantom_exposure
    findings: list = field(default_factory=list)
    occupied: list = field(default_factory=list)  # (x, y, radius) already taken by a focal finding

    def find(self, name: str):
        """The finding of this name, or None."""
        return next((f for f in self.findings if f.name == name), None)


def sample_anatomy(patient: random.Random, study: random.Random, patient_id: str) -> Scene:
    """A normal chest. `patient` draws what two studies of one person share, `study` what changes between them."""
    p, s = patient.uniform, study.uniform
    sex = patient.choice("MF")
    view = "AP" if study.random() < 0.4 else "PA"
    half = p(0.315, 0.365) + (0.01 if sex == "M" else 0.0)
    dome = p(0.075, 0.115)
    ap = view == "AP"
    return Scene(
        patient_id=patient_id,
        sex=sex,
        age=patient.randint(18, 92),
        view=view,
        texture=study.getrandbits(32),
        apex=p(0.11, 0.15),
        base=p(0.70, 0.78) + s(-0.025, 0.02) - (0.02 if ap else 0.0),
        half=half,
        dome={"right": dome + p(0.0, 0.02), "left": dome - p(0.0, 0.015)},
        heart=p(0.42, 0.48) + (0.03 if ap else 0.0),
        heart_left=p(0.62, 0.70),
        knob=p(0.062, 0.085),
        turn=s(-0.028, 0.028),
        fat=patient.betavariate(1.6, 2.2),
        breast=p(0.04, 0.11) if sex == "F" else 0.0,
        lucency=s(-0.03, 0.05),
        rib_slope=p(0.07, 0.11),
        shoulders=s(-0.02, 0.03) - (0.025 if ap else 0.0),
        camera=(s(-0.14, 0.14), s(0.95, 1.17), s(-0.075, 0.075), s(-0.065, 0.065)),
        exposure=sample_exposure(study),
    )


def sample_exposure(study: random.Random) -> dict:
    """Everything between the patient and the grey values; `draw_study` says what each number does."""
    s = study.uniform
    return {
        "gain": s(0.8, 1.2),
        "offset": s(-0.12, 0.12),
        "gamma": 2.0 ** s(-0.5, 0.5),
        "heel": (s(-0.2, 0.2), s(-0.2, 0.2)),
        "noise": s(0.005, 0.022),
        "mottle": s(0.02, 0.06),
        "blur": max(0.0, s(-0.003, 0.0035)),
        "sharpen": max(0.0, s(-0.5, 0.6)),
        "collimation": [max(0.0, s(-0.10, 0.05)) for _ in range(4)],
        "gas": s(0.0, 1.0),
        "marker": study.choice(["left", "left", "right", ""]),
        "marker_at": (s(0.36, 0.42), s(0.06, 0.14)),
        "leads": study.randint(2, 5) if study.random() < 0.3 else 0,
    }


def medial(scene: Scene, b):
    """Distance of the lung's inner border from the midline at height b (0 apex .. 1 base)."""
    return scene.half * (0.13 + 0.09 * np.maximum(0.0, 1.0 - b / 0.15) ** 2 + 0.10 * b * b)


def lateral(scene: Scene, b):
    """Distance of the lung's outer border from the midline at height b (0 apex .. 1 base)."""
    return scene.half * (0.28 + 0.72 * (1.0 - (1.0 - b) ** 2.4) ** 0.62)


def height(scene: Scene, b):
    """y of the height b (0 apex .. 1 base)."""
    return scene.apex + b * (scene.base - scene.apex)


def diaphragm(scene: Scene, side: str, a):
    """y of the diaphragm at a (0 medial .. 1 lateral): a dome that falls to the costophrenic angle."""
    return scene.base - scene.dome[side] * (1.0 - a**2.4) * (0.76 + 0.45 * a)


def lung_point(scene: Scene, side: str, a, b):
    """Scene point(s) at a (0 medial .. 1 lateral), b (0 apex .. 1 base) of a lung -> (..., 2)."""
    inner = medial(scene, b)
    x = SIGN[side] * (inner + (lateral(scene, b) - inner) * a)
    return np.stack(np.broadcast_arrays(x, height(scene, b)), -1)  # (..., 2)


_RISE = np.linspace(0.0, 1.0, 25) ** 1.5  # dense near the apex, where the outline bends most
_ALONG = np.linspace(0.0, 1.0, 17)


def lung_outline(scene: Scene, side: str) -> np.ndarray:
    """Closed outline of a lung -> (P, 2): up the mediastinal border, over the apex, down the wall, along the dome."""
    foot = (diaphragm(scene, side, 0.0) - scene.apex) / (scene.base - scene.apex)
    inner = lung_point(scene, side, 0.0, foot * _RISE[::-1])
    outer = lung_point(scene, side, 1.0, _RISE)
    floor = lung_floor(scene, side)[::-1]
    return np.concatenate([inner, outer, floor])


def lung_floor(scene: Scene, side: str) -> np.ndarray:
    """Points along the diaphragm from the midline outwards -> (P, 2)."""
    inner, outer = medial(scene, 1.0), lateral(scene, 1.0)
    return np.stack([SIGN[side] * (inner + (outer - inner) * _ALONG), diaphragm(scene, side, _ALONG)], -1)


def zone(b: float) -> str:
    """Upper, mid or lower third of a lung at height b."""
    return "upper" if b < 0.37 else "mid" if b < 0.63 else "lower"


def place(scene: Scene, rng: random.Random, radius: float, heights=(0.12, 0.82), sides=("left", "right")):
    """A free spot for a focal finding -> (side, a, b, x, y); it is kept clear of other focal findings and of the heart.

    After 20 tries the last spot is taken: an overlap is possible, as in life, but rare.
    """
    for _ in range(20):
        side, b, a = rng.choice(sides), rng.uniform(*heights), rng.uniform(0.25, 0.85)
        x, y = (float(v) for v in lung_point(scene, side, a, b))
        above_diaphragm = y + 0.9 * radius < diaphragm(scene, side, a)
        heart_edge = scene.heart * 2 * scene.half * (scene.heart_left if side == "left" else 1 - scene.heart_left)
        beside_heart = b < 0.5 or abs(x) - 0.7 * radius > heart_edge * min(1.0, (b - 0.3) / 0.4)
        inside = abs(x) + 0.75 * radius < lateral(scene, b) and abs(x) - 0.75 * radius > medial(scene, b)
        free = all((x - u) ** 2 + (y - v) ** 2 > (radius + r) ** 2 for u, v, r in scene.occupied)
        if above_diaphragm and beside_heart and inside and free:
            break
    scene.occupied.append((x, y, radius))
    return side, a, b, x, y
