"""Runs an encoder over slices of the batch: the memory of one slice, yet losses over the whole batch.

This is gradient accumulation that keeps contrastive losses exact: embeddings of the whole global batch meet in the
loss, and the backward pass recomputes one slice at a time (a `jax.checkpoint`ed scan), adding up parameter gradients.
Plain accumulation would shrink the set of negatives to one slice.
"""
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn


def in_slices(encode: Callable[[nn.Module, Any], Any], module: nn.Module, inputs: Any, slices: int) -> Any:
    """encode(module, inputs), computed over `slices` slices of the leading axis, one after the other.

    Each slice takes every `slices`-th row, so that rows stay on the device they are on. BatchNorm statistics inside
    `encode` are those of one slice (and the running averages see every slice).

    Raises:
      ValueError: rows are not a multiple of `slices`.
    """
    if slices == 1 or module.is_initializing():
        return encode(module, inputs)
    rows = jax.tree.leaves(inputs)[0].shape[0]
    if rows % slices:
        raise ValueError(f"microbatches={slices} must divide the global batch of {rows}")

    def split(x):
        return x.reshape(rows // slices, slices, *x.shape[1:]).swapaxes(0, 1)  # (slices, rows / slices, ...)

    def join(x):
        return x.swapaxes(0, 1).reshape(rows, *x.shape[2:])

    def body(module, carry, piece):
        return carry, encode(module, piece)

    scan = nn.scan(
        nn.remat(body, prevent_cse=False),
        variable_broadcast="params",
        variable_carry="batch_stats",
        split_rngs={"params": False, "dropout": True},
    )
    _, out = scan(module, (), jax.tree.map(split, inputs))
    return jax.tree.map(join, out)
