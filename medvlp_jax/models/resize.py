"""Bilinear resizing with the corners of both grids on each other, as torch's align_corners=True."""
import jax
import jax.numpy as jnp
import numpy as np


def _linear_matrix(old: int, new: int) -> np.ndarray:
    """(new, old) weights; a single output takes the first input, as torch does."""
    position = np.arange(new) * ((old - 1) / max(new - 1, 1))
    first = np.minimum(np.floor(position).astype(int), max(old - 2, 0))
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new), first), 1.0 - (position - first))
    np.add.at(matrix, (np.arange(new), np.minimum(first + 1, old - 1)), position - first)
    return matrix


def bilinear(image: jax.Array, height: int, width: int) -> jax.Array:
    """(B, H, W, C) -> (B, height, width, C) of the same type."""
    rows = jnp.asarray(_linear_matrix(image.shape[1], height), image.dtype)
    columns = jnp.asarray(_linear_matrix(image.shape[2], width), image.dtype)
    return jnp.einsum("yh,xw,bhwc->byxc", rows, columns, image, precision=jax.lax.Precision.HIGHEST)
