"""Attention whose scores never reach main memory: by cuDNN's kernel on a GPU, on a TPU by the Pallas kernel of this file.

JAX ships Pallas kernels for TPUs too, for long sequences: they take blocks of 128 rows and write the softmax's maxima and sums
128 times each, which for the 197 rows of a ViT is more than the scores. (Attention of ViT-B/16 with its four projections,
forward and back, 32 images, compiled for a v5e: traffic of 0.96 GB by XLA, 1.63 by JAX's flash_attention, 0.97 by its
splash_attention, 0.44 by this one.) Here a step of the grid holds all rows of a few heads of one image or report on the chip:
rows need no padding, queries, keys and values are read once, as the layers before gave them, and the way back keeps nothing but
them, for it computes the weights again.
"""
import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import PartitionSpec as P

from medvlp_jax.models.layout import BATCH, TENSOR

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)
ROWS = 512  # the most that the TPU kernel takes: with more, its scores do not fit on the chip beside each other
LANES = 128  # a TPU's vectors; what a step of the grid holds of the heads is a multiple of it, or all
HELD = 2**19  # bytes it holds of an array at most, where heads allow: seven arrays twice and a head's scores are in 16 MB


def by_cudnn(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None) -> jax.Array:
    """`attention.attend` in 16-bit types by cuDNN. The keys that count must come first: it takes their number."""
    rows, keys = query.shape[1], key.shape[1]
    # The kernel takes even numbers of rows. What is added is not looked at (keys) or cut off again (queries).
    query, key, value = (jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0))) for x in (query, key, value))
    lengths = jnp.full(len(query), keys, jnp.int32) if mask is None else mask.astype(bool).sum(-1, dtype=jnp.int32)  # (B,)
    y = jax.nn.dot_product_attention(
        query, key, value, key_value_seq_lengths=jnp.maximum(lengths, 1), implementation="cudnn"
    )  # (B, Q, heads, D)
    return y[:, :rows]


def fits_tpu(query: jax.Array, key: jax.Array) -> bool:
    """Whether `by_pallas` takes them: in type and rows, and split evenly over the mesh in force, as in `layout.constrain`."""
    mesh, (rows, queries, heads, _) = jax.sharding.get_abstract_mesh(), query.shape
    if not mesh.empty:
        batch = math.prod(mesh.shape.get(axis, 1) for axis in BATCH)
        if rows % batch or heads % mesh.shape.get(TENSOR, 1):
            return False
    return query.dtype in (jnp.bfloat16, jnp.float32) and max(queries, key.shape[1]) <= ROWS


@jax.custom_vjp
def by_pallas(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None) -> jax.Array:
    """`attention.attend` by a TPU kernel, for what `fits_tpu`; with any mask.

    The partitioner does not know the kernel: each device runs it for its own rows and heads, and nothing is sent.
    """
    (y,) = _everywhere(_forward, (query, key, value), mask, 2)
    return y


def _keep(query, key, value, mask):
    return by_pallas(query, key, value, mask), (query, key, value, mask)


def _back(kept, gradient):
    *qkv, mask = kept
    # Of the five products of the way back, the scores are computed again, which is no work.
    return *_everywhere(_backward, (*qkv, gradient), mask, 4), None


by_pallas.defvjp(_keep, _back)


def _everywhere(kernel, arrays, mask, products):
    """arrays: query, key, value and for `_backward` the output's gradient -> output, or gradients of the three."""
    mesh, heads, width = jax.sharding.get_abstract_mesh(), *arrays[0].shape[2:]
    results = arrays[:1] if kernel is _forward else arrays[:3]
    # As the Dense layers give it, so that heads are told apart on the chip only, and before the mesh is, where XLA sees it.
    flat = [x.reshape(*x.shape[:2], heads * width) for x in arrays]  # (B, N, heads D)
    run = functools.partial(_call, kernel, len(results), products, width)
    if mesh.empty:
        out = run(flat, mask)
    else:
        batch = tuple(axis for axis in BATCH if axis in mesh.axis_names)
        split = P(batch, None, TENSOR if TENSOR in mesh.axis_names else None)
        # check_vma: pallas_call does not say along which axes its results differ.
        out = jax.shard_map(run, in_specs=(split, P(batch)), out_specs=split, check_vma=False)(flat, mask)
    return tuple(y.reshape(x.shape) for y, x in zip(out, results, strict=True))


def _call(kernel, results, products, width, arrays, mask):
    """The kernel on one device's arrays (B, N, heads D) and mask (B, N); its results are like the first `results` arrays."""
    (batch, queries, total), keys = arrays[0].shape, arrays[1].shape[1]
    group = _heads_at_once(total // width, width, max(queries, keys) * arrays[0].dtype.itemsize)

    def block(x):
        return pl.BlockSpec((1, x.shape[1], group * width), lambda b, h: (b, 0, h))

    masks = [] if mask is None else [mask.astype(jnp.int32)[:, None]]  # (B, 1, N)
    return pl.pallas_call(
        functools.partial(kernel, heads=group, masked=mask is not None),
        grid=(batch, total // (group * width)),
        in_specs=[*map(block, arrays), *[pl.BlockSpec((1, 1, keys), lambda b, h: (b, 0, 0)) for _ in masks]],
        out_specs=[block(x) for x in arrays[:results]],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in arrays[:results]],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        cost_estimate=pl.CostEstimate(
            flops=products * 2 * batch * queries * keys * total,
            transcendentals=batch * queries * keys * total // width,
            bytes_accessed=sum(x.size * x.dtype.itemsize for x in (*arrays, *masks, *arrays[:results])),
        ),
        name=f"attention{kernel.__name__}",
    )(*arrays, *masks)


def _heads_at_once(heads: int, width: int, column: int) -> int:
    """Heads of a step of the grid, whole vectors of their width or all: as many as `HELD` holds, `column` bytes a lane."""
    whole = [n for n in range(1, heads + 1) if heads % n == 0 and (n == heads or n * width % LANES == 0)]
    return max((n for n in whole if n * width * column <= HELD), default=whole[0])


def _dot(a, b, along):
    return jax.lax.dot_general(a, b, (along, ((), ())), preferred_element_type=jnp.float32)


def _weights(q, k, counts):
    """q (Q, D), k (N, D), counts (1, N) or None -> (Q, N) float32."""
    scores = _dot(q, k, ((1,), (1,))) * q.shape[-1] ** -0.5  # (Q, N)
    if counts is not None:
        scores = jnp.where(counts, scores, MASKED)
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _of_heads(refs, heads, masked, inputs):
    """Yields of each head what `inputs` references hold (N, D), the mask (1, N) or None, and its slice of the width."""
    width = refs[0].shape[-1] // heads
    counts = refs[inputs][0] != 0 if masked else None
    for h in range(heads):
        at = slice(h * width, (h + 1) * width)
        yield *(ref[0, :, at] for ref in refs[:inputs]), counts, at


def _forward(*refs, heads, masked):
    out = refs[-1]
    for q, k, v, counts, at in _of_heads(refs, heads, masked, 3):
        out[0, :, at] = _dot(_weights(q, k, counts).astype(v.dtype), v, ((1,), (0,))).astype(out.dtype)  # (Q, D)


def _backward(*refs, heads, masked):
    dq, dk, dv = refs[-3:]
    for q, k, v, dy, counts, at in _of_heads(refs, heads, masked, 4):
        weights = _weights(q, k, counts)  # (Q, N)
        dv[0, :, at] = _dot(weights.astype(dy.dtype), dy, ((0,), (0,))).astype(dv.dtype)  # (N, D)
        d = _dot(dy, v, ((1,), (1,)))  # (Q, N), of the weights
        d = weights * (d - (weights * d).sum(-1, keepdims=True)) * q.shape[-1] ** -0.5  # of query key^T
        if counts is not None:
            d = jnp.where(counts, d, 0.0)  # a row without any key that counts has weights, but of constants
        d = d.astype(q.dtype)
        dq[0, :, at] = _dot(d, k, ((1,), (0,))).astype(dq.dtype)  # (Q, D)
        dk[0, :, at] = _dot(d, q, ((0,), (0,))).astype(dk.dtype)  # (N, D)
