"""Drawing in scene coordinates on a pixel canvas: shapes become soft-edged layers, layers mix into the picture."""

import functools

import cv2
import numpy as np

_SHIFT = 4  # cv2 takes polygon corners as integers in 1/16 pixel
_EDGE = 1.35  # pixels: what cv2's smooth edge adds to the width of a polygon, and the width of its thinnest line
_LATTICE = 256  # noise has this many cells across the image at any resolution, so that it is the same scene


class Canvas:
    """A picture under construction.

    d: (S, S) float32 brightness, about 0 (air) .. 1 (metal). masks: name -> (S, S) uint8 0/255; boxes: list of
    (name, x, y, w, h) in pixels. `camera` = (rotation in radians, scale, shift x, shift y).
    """

    def __init__(self, size: int, camera=(0.0, 1.0, 0.0, 0.0)):
        angle, scale, dx, dy = camera
        self.size = size
        turn = scale * size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        # The scene turns around the heart, which comes near the image's centre. A pixel's centre has integer
        # coordinates, hence the 0.5.
        self._turn = np.ascontiguousarray(turn.T)
        self._shift = np.array([0.5 + dx, 0.47 + dy]) * size - turn @ np.array([0.0, 0.45]) - 0.5
        self.unit = scale * size  # pixels of one scene unit
        self.d = np.zeros((size, size), np.float32)
        self.parts: dict[str, np.ndarray] = {}  # layers of the anatomy that findings are clipped to
        self.air = np.ones_like(self.d)  # weights of the lung that is seen, not hidden by the heart
        self.masks: dict[str, np.ndarray] = {}
        self.boxes: list[tuple] = []

    def pixels(self, points) -> np.ndarray:
        """Scene points (..., 2) -> pixel coordinates (..., 2)."""
        points = np.asarray(points)
        flat = points.reshape(-1, 2) @ self._turn  # one product: a stack of small ones is much slower
        flat += self._shift
        return flat.reshape(points.shape)

    def _corners(self, points) -> np.ndarray:
        corners = self.pixels(points)
        corners *= 1 << _SHIFT
        return np.rint(corners, out=corners).astype(np.int32)

    def layer(self) -> np.ndarray:
        """An empty layer (S, S) uint8."""
        return np.zeros((self.size, self.size), np.uint8)

    def fill(self, *polygons, out=None, value=255) -> np.ndarray:
        """Filled polygons, each (P, 2) -> layer (S, S) uint8 with smooth edges. Overlaps stay filled."""
        out = self.layer() if out is None else out
        for polygon in polygons:
            cv2.fillPoly(out, [self._corners(polygon)], value, cv2.LINE_AA, _SHIFT)
        return out

    def fill_apart(self, polygons, out=None) -> np.ndarray:
        """As `fill` in one call, for polygons (N, P, 2) that do not overlap (cv2 would leave overlaps empty)."""
        out = self.layer() if out is None else out
        cv2.fillPoly(out, list(self._corners(polygons)), 255, cv2.LINE_AA, _SHIFT)
        return out

    def stroke(self, lines, width: float, out=None, closed=False) -> np.ndarray:
        """Lines, a list of (P, 2) or an array (N, P, 2), `width` scene units thick -> layer (S, S) uint8.

        A line thinner than a pixel is drawn one pixel wide and fainter, so that resolutions agree.
        """
        out = self.layer() if out is None else out
        thick = width * self.unit
        if thick > 1.7 and not closed:  # cv2 draws thick smooth lines wider than asked for
            return self.fill(*(ribbon(line, width - _EDGE / self.unit) for line in lines), out=out)
        value = int(255 * min(1.0, max(thick / _EDGE, 0.3)))
        corners = self._corners(lines) if isinstance(lines, np.ndarray) else [self._corners(line) for line in lines]
        cv2.polylines(out, list(corners), closed, value, 1, cv2.LINE_AA, _SHIFT)
        return out

    def disc(self, x: float, y: float, radius: float, out=None) -> np.ndarray:
        """A filled circle -> layer (S, S) uint8."""
        return self.fill(circle(x, y, radius), out=out)

    def soft(self, layer: np.ndarray, sigma: float = 0.0) -> np.ndarray:
        """Layer -> weights (S, S) float32 in 0..1, blurred by `sigma` scene units."""
        pixels = sigma * self.unit
        if pixels < 0.25:
            return layer.astype(np.float32) * np.float32(1 / 255)
        if pixels > 4.0:
            return self.blur(layer, sigma).astype(np.float32) * np.float32(1 / 255)
        kernel = _kernel(round(pixels * 32), 255**-0.5)
        return cv2.sepFilter2D(layer, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_REPLICATE)

    def blur(self, layer: np.ndarray, sigma: float) -> np.ndarray:
        """Gaussian blur by `sigma` scene units; wide blurs are done on a small copy, which nobody can see."""
        pixels = sigma * self.unit
        if pixels < 0.25:
            return layer
        if pixels <= 4.0:
            kernel = _kernel(round(pixels * 32), 1.0)
            return cv2.sepFilter2D(layer, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)
        small = max(8, int(self.size * 2.0 / pixels))
        kernel = _kernel(round(pixels * small / self.size * 32), 1.0)
        reduced = cv2.resize(layer, (small, small), interpolation=cv2.INTER_AREA)
        reduced = cv2.sepFilter2D(reduced, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)
        return cv2.resize(reduced, (self.size, self.size), interpolation=cv2.INTER_LINEAR)

    def mix(self, weights: np.ndarray, target) -> None:
        """Moves the picture towards `target` (number or (S, S)) by `weights` (S, S) in 0..1."""
        self.d += weights * (target - self.d)

    def mark(self, name: str, layer: np.ndarray) -> None:
        """Records where a finding is: the layer's bright part joins the mask `name`, its bounding box the boxes."""
        mask = cv2.compare(layer, 100, cv2.CMP_GT)
        x, y, w, h = cv2.boundingRect(mask)
        if w and h:
            self.boxes.append((name, float(x), float(y), float(w), float(h)))
        self.masks[name] = cv2.bitwise_or(self.masks[name], mask) if name in self.masks else mask


@functools.lru_cache(maxsize=512)
def _kernel(sigma32: int, total: float) -> np.ndarray:
    """Gaussian of `sigma32` / 32 pixels whose sum is `total`; cv2.GaussianBlur on bytes is several times slower."""
    sigma = sigma32 / 32
    return (total * cv2.getGaussianKernel(2 * int(np.ceil(2.2 * sigma)) + 1, sigma)).astype(np.float32)


def clip(layer: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """The part of a layer inside another, both uint8."""
    return cv2.min(layer, inside)


_CIRCLE = np.stack(
    [np.cos(np.linspace(0, 2 * np.pi, 25)[:-1]), np.sin(np.linspace(0, 2 * np.pi, 25)[:-1])], -1
)  # (24, 2)


def circle(x: float, y: float, radius) -> np.ndarray:
    """Outline of a circle, or of a lump if `radius` is (24,) -> (24, 2)."""
    return np.array([x, y]) + np.reshape(radius, (-1, 1)) * _CIRCLE


def lump(rng: np.random.Generator, x: float, y: float, radius: float, rough: float, stretch: float = 1.0) -> np.ndarray:
    """Irregular round outline with lobes -> (24, 2); `rough` is the relative size of the lobes."""
    waves = rng.normal(size=(2, 4)) * np.array([1.0, 0.8, 0.6, 0.5]) * rough * 0.5
    angle = np.linspace(0, 2 * np.pi, 25)[:-1, None] * np.arange(2, 6)  # (24, 4)
    r = radius * (1.0 + (np.cos(angle) * waves[0] + np.sin(angle) * waves[1]).sum(1))
    return np.array([x, y]) + r[:, None] * _CIRCLE * np.array([stretch, 1.0 / stretch])


def ribbon(line: np.ndarray, width) -> np.ndarray:
    """Outline of bands along lines: (..., P, 2) and a width, number or broadcastable to (..., P) -> (..., 2 P, 2)."""
    along = np.empty_like(line)
    along[..., 1:-1, :] = line[..., 2:, :] - line[..., :-2, :]
    along[..., 0, :] = line[..., 1, :] - line[..., 0, :]
    along[..., -1, :] = line[..., -1, :] - line[..., -2, :]
    reach = 0.5 * width / np.maximum(np.hypot(along[..., 0], along[..., 1]), 1e-6)  # (..., P)
    across = along[..., ::-1] * reach[..., None] * np.array([-1.0, 1.0])
    return np.concatenate([line + across, (line - across)[..., ::-1, :]], axis=-2)


@functools.lru_cache(maxsize=8)
def smoother(knots: tuple, samples: int) -> np.ndarray:
    """Matrix (samples, K) of the natural cubic spline through K knots: `smoother(knots, n) @ values` -> (n, ...)."""
    t, k = np.array(knots), len(knots)
    h = np.diff(t)
    # Second derivatives m solve `lhs @ m = rhs @ values`; both ends are free (m = 0).
    lhs, rhs = np.eye(k), np.zeros((k, k))
    for i in range(1, k - 1):
        lhs[i, i - 1 : i + 2] = h[i - 1] / 6, (h[i - 1] + h[i]) / 3, h[i] / 6
        rhs[i, i - 1 : i + 2] = 1 / h[i - 1], -1 / h[i - 1] - 1 / h[i], 1 / h[i]
    second = np.linalg.solve(lhs, rhs)  # (K, K)
    x = np.linspace(t[0], t[-1], samples)
    i = np.clip(np.searchsorted(t, x, side="right") - 1, 0, k - 2)
    w = (x - t[i]) / h[i]
    values = np.eye(k)
    bend = h[i] ** 2 / 6
    return (
        (1 - w)[:, None] * values[i]
        + w[:, None] * values[i + 1]
        + (((1 - w) ** 3 - (1 - w)) * bend)[:, None] * second[i]
        + ((w**3 - w) * bend)[:, None] * second[i + 1]
    )


@functools.lru_cache(maxsize=1)
def _noise_table() -> np.ndarray:
    return np.random.default_rng(20230105).standard_normal((2 * _LATTICE, 2 * _LATTICE), np.float32)


def noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Random field (S, S) float32, unit variance at its lattice of `cells` x `cells`; any window of one big table.

    cells < S gives smooth clouds, `cells` = 256 gives grain that is averaged when S is smaller, as on a real detector.
    """
    y, x = rng.integers(0, 2 * _LATTICE - cells, 2)
    window = _noise_table()[y : y + cells, x : x + cells]
    if cells > size:
        # Averaging makes grain fainter; the factor keeps what one pixel of a 256 px image would show.
        return cv2.resize(window, (size, size), interpolation=cv2.INTER_AREA)
    return cv2.resize(window, (size, size), interpolation=cv2.INTER_CUBIC if cells < size else cv2.INTER_NEAREST)


@functools.lru_cache(maxsize=8)
def ramps(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(x (1, S), y (S, 1)) float32 from -0.5 to 0.5 across the image."""
    r = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    return r[None, :], r[:, None]
