"""The embedded data set: synthetic chest radiographs with reports, labels, boxes and masks, made on demand.

An example is a pure function of (seed, split, index): nothing is stored, any index can be asked for in any order and at
any image size. Two consecutive indices are two studies of one patient; splits never share patients. The pictures are
drawings that obey the anatomy, good for testing and teaching, and are of no medical use.
"""

import hashlib
import itertools
import operator
import random
import textwrap
import threading

import numpy as np

from medvlp_jax.input import phantom_canvas, phantom_report
from medvlp_jax.input.phantom_anatomy import draw_bones, draw_chest
from medvlp_jax.input.phantom_devices import DEVICES, draw_leads
from medvlp_jax.input.phantom_exposure import draw_study
from medvlp_jax.input.phantom_findings import CHEST_FINDINGS
from medvlp_jax.input.phantom_lesions import LESIONS
from medvlp_jax.input.phantom_scene import Scene, sample_anatomy
from medvlp_jax.reports import triplets

VERSION = 1  # to be raised whenever the same (seed, split, index) gives another example
SIZES = {"train": 20_000, "val": 1_000, "test": 1_000}

# How to sample and how to draw each finding. In this order: what changes the anatomy first, large before small.
_MADE = {**CHEST_FINDINGS, **LESIONS, **DEVICES}

# Name of the finding in `finding_labels`, boxes and masks -> MedKLIP entity: findings are named by their entity.
FINDINGS = {name: name for name in _MADE}

# How often a finding is drawn relative to the others, chosen so that each is in 10-20 % of the studies.
_WEIGHT = {
    "effusion": 1.35,
    "cardiomegaly": 1.2,
    "opacity": 1.15,
    "atelectasis": 1.15,
    "hyperinflate": 1.1,
    "edema": 1.1,
}
_COUNT = (0.20, 0.16, 0.24, 0.23, 0.17)  # probability of 0, 1, .. 4 findings
# Pairs that contradict each other or that no reader could tell apart when both are there.
_APART = {
    frozenset(p)
    for p in (
        ("hyperinflate", "cardiomegaly"),
        ("hyperinflate", "edema"),
        ("hyperinflate", "atelectasis"),
        ("edema", "opacity"),
    )
}


ANATOMY = ("left_lung", "right_lung", "heart")  # masks that every example has


def scene_of(seed: int, split: str, index: int) -> Scene:
    """The scene of one study; `index // 2` is the patient."""
    patient_id = f"phantom-{seed}-{split}-{index // 2:06d}"
    study = random.Random(f"{patient_id}/{index % 2}")
    scene = sample_anatomy(random.Random(patient_id), study, patient_id)
    count = study.choices(range(len(_COUNT)), _COUNT)[0]
    # Weighted order without replacement (Efraimidis and Spirakis, 2006): the largest u ** (1 / weight) come first.
    order = sorted(FINDINGS, key=lambda name: -(study.random() ** (1 / _WEIGHT.get(name, 1.0))))
    chosen: list[str] = []
    for name in order:
        if len(chosen) < count and not any(frozenset((name, other)) in _APART for other in chosen):
            chosen.append(name)
    for name, (sample, _) in _MADE.items():
        if name in chosen:
            scene.findings.append(sample(scene, study))
    return scene


def render(scene: Scene, size: int):
    """Draws a scene -> image (size, size) uint8, masks {name: (size, size) bool}, boxes [(name, x, y, w, h)]."""
    c = phantom_canvas.Canvas(size, scene.camera)
    rng = np.random.default_rng([scene.texture, 0])
    draw_chest(c, scene)
    for f in scene.findings:
        if f.name not in DEVICES:
            _MADE[f.name][1](c, scene, f, rng)
    draw_bones(c, scene)
    if scene.exposure["leads"]:
        draw_leads(c, scene)
    for f in scene.findings:
        if f.name in DEVICES:
            _MADE[f.name][1](c, scene, f, rng)
    image = draw_study(c, scene)
    return image, {name: mask > 0 for name, mask in c.masks.items()}, c.boxes


def _labels(scene: Scene) -> dict[str, int]:
    return {name: int(scene.find(name) is not None) for name in FINDINGS}


def _grades(scene: Scene) -> dict[str, int]:
    """0 absent, 1 slight, 2 moderate, 3 severe: thirds of the drawn severity."""
    found = {name: scene.find(name) for name in FINDINGS}
    return {name: 0 if f is None else 1 + min(int(3 * f.severity), 2) for name, f in found.items()}


class PhantomSource:
    """Synthetic examples by index (the Source protocol).

    source[i] -> {"id", "patient_id", "image" (S, S) uint8, "report", "presence" (51, 75) int8: what the report states,
    "finding_labels": {finding: 0 or 1}: what the image shows, "severity": {finding: 0 absent .. 3 severe}, "boxes":
    [(finding, x, y, w, h)] pixels, "masks": {finding or one of `ANATOMY`: (S, S) bool}, "attributes": {"view", "sex",
    "age"}}.

    split: "train", "val" or "test"; they never share a patient. size: number of examples (default `SIZES`); a longer
    source begins with the examples of a shorter one. image_size: S. cache: keep drawn examples in memory (30 kB each at
    128 px) so that later epochs cost nothing. Copies in other processes are small: they start with an empty cache.

    Raises:
      ValueError: unknown split; size below 1; image_size below 16.
    """

    def __init__(
        self, split: str = "train", size: int | None = None, seed: int = 0, image_size: int = 128, cache: bool = False
    ):
        if split not in SIZES:
            raise ValueError(f"unknown split {split!r}; the phantom has: {', '.join(SIZES)}")
        self.split, self.seed, self.image_size, self.cache = split, int(seed), int(image_size), bool(cache)
        self.size = SIZES[split] if size is None else int(size)
        if self.size < 1 or self.image_size < 16:
            raise ValueError(f"expected size >= 1 and image_size >= 16, got size={size}, image_size={image_size}")
        self._start_cache()

    def _start_cache(self) -> None:
        self._kept: dict[int, dict] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {k: v for k, v in self.__dict__.items() if k not in ("_kept", "_lock")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._start_cache()

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"PhantomSource({self.split!r}, size={self.size}, seed={self.seed}, image_size={self.image_size})"

    @property
    def fingerprint(self) -> str:
        """Hex digest of all that decides what the examples are."""
        return hashlib.sha256(f"phantom {VERSION} {self!r}".encode()).hexdigest()

    def _index(self, index) -> int:
        i = operator.index(index)
        if not -self.size <= i < self.size:
            raise IndexError(f"index {i} of a phantom with {self.size} examples")
        return i % self.size

    def text(self, index) -> str:
        """The report of an example, without drawing its image."""
        i = self._index(index)
        return self._report(scene_of(self.seed, self.split, i), i).text

    def patient(self, index) -> str:
        """Whose study it is, without drawing it."""
        return f"phantom-{self.seed}-{self.split}-{self._index(index) // 2:06d}"

    def truth(self, index) -> dict:
        """What can be known of an example without drawing it (input/targets.py): labels, grades and the names of boxes and
        masks."""
        scene = scene_of(self.seed, self.split, self._index(index))
        labels = _labels(scene)
        there = {name for name, value in labels.items() if value}
        return {"finding_labels": labels, "severity": _grades(scene), "boxes": there, "masks": there | set(ANATOMY)}

    def _report(self, scene: Scene, i: int) -> phantom_report.Report:
        return phantom_report.write(scene, random.Random(f"{scene.patient_id}/{i % 2}/report"))

    def __getitem__(self, index) -> dict:
        i = self._index(index)
        kept = self._kept.get(i)
        if kept is None:
            kept = self._make(i)
            if self.cache:
                with self._lock:
                    self._kept[i] = kept
        shape = (self.image_size, self.image_size)
        masks = {
            name: np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape).view(bool)
            for name, bits in kept["masks"].items()
        }
        # Callers may change what they get, but not what is kept.
        return {
            **kept,
            "image": kept["image"].copy(),
            "presence": kept["presence"].copy(),
            "boxes": list(kept["boxes"]),
            "finding_labels": dict(kept["finding_labels"]),
            "severity": dict(kept["severity"]),
            "attributes": dict(kept["attributes"]),
            "masks": masks,
        }

    def _make(self, i: int) -> dict:
        scene = scene_of(self.seed, self.split, i)
        report = self._report(scene, i)
        image, masks, boxes = render(scene, self.image_size)
        return {
            "id": f"{scene.patient_id}-{i % 2}",
            "patient_id": scene.patient_id,
            "image": image,
            "report": report.text,
            "presence": triplets.presence(report.mentions),
            "boxes": boxes,
            "finding_labels": _labels(scene),
            "severity": _grades(scene),
            "masks": {name: np.packbits(mask) for name, mask in masks.items()},  # an eighth of the memory
            "attributes": {"view": scene.view, "sex": scene.sex, "age": scene.age},
        }


def contact_sheet(path, n: int = 12, split: str = "train", seed: int = 0, image_size: int = 256) -> None:
    """Writes a picture of n abnormal examples with their boxes and the beginning of their reports."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    source = PhantomSource(split, seed=seed, image_size=image_size)
    shown = itertools.islice(
        (e for e in map(source.__getitem__, range(len(source))) if sum(e["finding_labels"].values()) > 1), n
    )
    columns = min(4, n)
    rows = -(-n // columns)
    figure = Figure(figsize=(3.2 * columns, 4.1 * rows), layout="constrained")
    for axis, example in itertools.zip_longest(figure.subplots(rows, columns, squeeze=False).flat, shown):
        axis.axis("off")
        if example is None:
            continue
        axis.imshow(example["image"], cmap="gray", vmin=0, vmax=255)
        for color, (name, x, y, w, h) in zip(
            itertools.cycle(["#ffd21f", "#4cc9ff", "#ff7ab8", "#7dff8a", "#ff9f45"]), example["boxes"], strict=False
        ):
            axis.add_patch(Rectangle((x, y), w, h, fill=False, color=color, linewidth=1.2))
            shade = {"facecolor": "black", "alpha": 0.5, "pad": 0.6, "linewidth": 0}
            axis.text(x + 1, max(y - 3, 10), name, color=color, fontsize=7, bbox=shade)
        said = example["report"].split("IMPRESSION:")[-1].strip()
        axis.set_title(textwrap.fill(textwrap.shorten(said, 150), 46), fontsize=7.5, loc="left")
    figure.savefig(path, dpi=110)
