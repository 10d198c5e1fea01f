"""YOLOv3-style detection (arXiv 1804.02767): a head on feature maps, pairing of boxes with anchors, and fixed-size NMS.

Anchors of all maps stand in one row of N = sum of h * w * A: maps from coarse to fine, row-major, anchors last. `Cells`
holds what is constant of each. Boxes are (x, y, w, h) in shares of the image, x and y of the upper left corner.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from medvlp_jax.models.attention import wide
from medvlp_jax.models.resunet import ConvNorm

PRIOR = 0.01  # objectness at the start: nearly all anchors are empty
LARGEST = 6.0  # bound of the logarithm of size / anchor


class Cells(NamedTuple):
    """Of each anchor, (N,) float32: column and row of its cell, columns and rows of its map, its width and height."""

    column: np.ndarray
    row: np.ndarray
    columns: np.ndarray
    rows: np.ndarray
    width: np.ndarray
    height: np.ndarray


def cells(grids: list[tuple[int, int]], anchors) -> Cells:
    """For maps of `grids` (h, w), coarse to fine; anchors: for each map the (w, h) of its A anchors, shares of the image."""
    parts = []
    for (h, w), sizes in zip(grids, anchors, strict=True):
        row, column, a = np.meshgrid(np.arange(h), np.arange(w), np.arange(len(sizes)), indexing="ij")
        sizes = np.asarray(sizes, np.float64)[a.ravel()]
        parts.append([column.ravel(), row.ravel(), np.full(a.size, w), np.full(a.size, h), sizes[:, 0], sizes[:, 1]])
    return Cells(*(np.concatenate(p).astype(np.float32) for p in zip(*parts, strict=True)))


class YoloHead(nn.Module):
    """Per map two convolutions and a linear layer; what a coarse map found is upsampled and put beside the next finer one.

    anchors: (A,) number of anchors of each map, coarse to fine.
    """

    classes: int
    anchors: tuple[int, ...]
    width: int = 128
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, maps: list[jax.Array], train: bool = False) -> jax.Array:
        """[(B, h, w, C)] coarse to fine -> (B, N, 5 + classes): see losses.detection.yolo_loss."""
        found, above = [], None
        for i, (x, count) in enumerate(zip(maps, self.anchors, strict=True)):
            if above is not None:
                above = jax.image.resize(above, (*x.shape[:3], above.shape[-1]), "nearest")
                x = jnp.concatenate([x, above.astype(x.dtype)], axis=-1)
            for j in (1, 2):
                x = ConvNorm(self.width, self.dtype, name=f"map{i}_conv{j}")(x, train)
            above, width = x, 5 + self.classes
            start = nn.initializers.normal(0.01)
            y = nn.Dense(count * width, kernel_init=start, dtype=self.dtype, name=f"map{i}_out")(x)  # (B, h, w, A * (5+C))
            found.append(y.reshape(y.shape[0], -1, width))
        raw = jnp.concatenate(found, axis=1).astype(wide(self.dtype))
        return raw.at[..., 4].add(np.log(PRIOR / (1 - PRIOR)))


def decode(raw: jax.Array, at: Cells) -> jax.Array:
    """Outputs (B, N, 5 + C) -> boxes (B, N, 4)."""
    xy = (jax.nn.sigmoid(raw[..., :2]) + jnp.stack([at.column, at.row], -1)[None]) / jnp.stack([at.columns, at.rows], -1)[None]
    wh = jnp.exp(jnp.minimum(raw[..., 2:4], LARGEST)) * jnp.stack([at.width, at.height], -1)[None]
    return jnp.concatenate([xy - wh / 2, wh], axis=-1)


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
    """Intersection over union of boxes (..., n, 4) and (..., m, 4), (..., n, m); 0 for empty boxes."""
    a, b = a[..., :, None, :], b[..., None, :, :]
    low = jnp.maximum(a[..., :2], b[..., :2])
    high = jnp.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    both = jnp.prod(jnp.maximum(high - low, 0.0), axis=-1)
    area = jnp.prod(a[..., 2:], -1) + jnp.prod(b[..., 2:], -1) - both
    return jnp.where(area > 0, both / jnp.where(area > 0, area, 1.0), 0.0)


def pair(boxes: jax.Array, classes: jax.Array, at: Cells) -> dict[str, jax.Array]:
    """Gives each box to the anchor of the best shape, in the cell of that anchor's map where the box's centre is.

    Args:
      boxes: (B, M, 4); classes: (B, M), -1 for no box. Of two boxes with one anchor the first gets it.

    Returns:
      the arrays of `losses.detection.yolo_loss`: offset, classes, owned, weight.
    """
    there = classes >= 0  # (B, M)
    centre = boxes[..., :2] + boxes[..., 2:] / 2
    size = jnp.where(there[..., None], boxes[..., 2:], 1.0)
    x, y = centre[..., :1] * at.columns[None, None], centre[..., 1:] * at.rows[None, None]  # (B, M, N) in cells
    last_x, last_y = (at.columns - 1)[None, None], (at.rows - 1)[None, None]
    inside = (jnp.minimum(jnp.floor(x), last_x) == at.column[None, None])
    inside &= jnp.minimum(jnp.floor(y), last_y) == at.row[None, None]
    w, h = size[..., :1], size[..., 1:]
    both = jnp.minimum(w, at.width[None, None]) * jnp.minimum(h, at.height[None, None])
    shape = both / (w * h + (at.width * at.height)[None, None] - both)  # IoU with both corners in one place
    best = jnp.argmax(jnp.where(inside, shape, -1.0), axis=-1)  # (B, M)
    takes = (jax.nn.one_hot(best, len(at.column)) > 0) & there[..., None]  # (B, M, N)
    owner = jnp.argmax(takes, axis=1)  # (B, N) the first that takes it

    def of_owner(values):
        return jnp.take_along_axis(values, owner.reshape(*owner.shape, *[1] * (values.ndim - 2)), axis=1)

    own_size = of_owner(size)  # (B, N, 4)
    place = of_owner(centre) * jnp.stack([at.columns, at.rows], -1)[None] - jnp.stack([at.column, at.row], -1)[None]
    offset = jnp.concatenate([place, jnp.log(own_size / jnp.stack([at.width, at.height], -1)[None])], axis=-1)
    return {"offset": offset, "classes": of_owner(classes), "owned": takes.any(1), "weight": 2.0 - jnp.prod(own_size, -1)}


def nms(boxes: jax.Array, scores: jax.Array, threshold: float, limit: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Greedy non-maximum suppression within each class, of fixed size.

    Args:
      boxes: (N, 4); scores: (N, C), not negative.
      threshold: a box is dropped if its IoU with a kept one of its class and a higher score is above it.
      limit: P, the best candidates (box and class) that take part.

    Returns:
      boxes (P, 4), scores (P,) by falling score with 0 for what was dropped, classes (P,) int32.
    """
    score, index = jax.lax.top_k(scores.reshape(-1), min(limit, scores.size))
    box, category = boxes[index // scores.shape[1]], index % scores.shape[1]
    clash = (iou(box, box) > threshold) & (category[:, None] == category[None])

    def visit(i, keep):  # everything before i is decided
        earlier = jnp.arange(len(score)) < i
        return keep.at[i].set(keep[i] & ~(clash[i] & keep & earlier).any())

    keep = jax.lax.fori_loop(1, len(score), visit, score > 0)
    score = jnp.where(keep, score, 0.0)
    order = jnp.argsort(-score, stable=True)
    return box[order], score[order], category[order].astype(jnp.int32)
