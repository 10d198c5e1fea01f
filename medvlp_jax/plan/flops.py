"""Counts the matrix products and convolutions of a function, platform by none: from its jaxpr, loops as often as they run.

Compilers count otherwise (XLA takes the body of a loop once, and says nothing at all for GPUs); where they do count, the two
agree on programs without loops, which a test holds.
"""

import math
from collections import Counter

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

# cuDNN's attention, primitives of jax that only 16-bit types reach: products of the size of the scores. What it computes again
# on the way back is no work, nor in a Pallas kernel, which says its number itself.
FUSED_ATTENTION = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 4}


def count(fn, *args) -> Counter:
    """Floating-point operations (2 a multiply-add) of fn(*args) on all devices together, by kind of product.

    args: arrays or ShapeDtypeStructs. Kinds: "bfloat16", "float32" (default precision) and "float32_highest". What no output
    needs does not count. Elementwise work is left out: it is bound by memory, not by arithmetic.
    """
    return of(jax.make_jaxpr(fn)(*args))


def of(closed) -> Counter:
    """`count` of a function that has been traced: its ClosedJaxpr."""
    live, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    return _of(live)


def _of(jaxpr) -> Counter:
    total = Counter()
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            total[_kind(eqn)] += _dot(eqn)
        elif name == "conv_general_dilated":
            total[_kind(eqn)] += _convolution(eqn)
        elif name in FUSED_ATTENTION:
            query, key = (v.aval for v in eqn.invars[:2])  # (B, Q, heads, D), (B, N, heads, D)
            total["bfloat16"] += FUSED_ATTENTION[name] * 2.0 * query.size * key.shape[1]
        elif name == "pallas_call":
            kind = "bfloat16" if eqn.invars[0].aval.dtype == jnp.bfloat16 else "float32"
            total[kind] += float(params["cost_estimate"].flops)
        elif name == "cond":
            total += max((_of(b.jaxpr) for b in params["branches"]), key=lambda c: sum(c.values()))
        else:
            times = params["length"] if name == "scan" else params["mesh"].size if name == "shard_map" else 1
            for inner in jax.tree.leaves(list(params.values()), is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += Counter({kind: n * times for kind, n in _of(inner).items()})
    return total


def _kind(eqn) -> str:
    if all(v.aval.dtype == jnp.bfloat16 for v in eqn.invars):
        return "bfloat16"
    precision = eqn.params["precision"]
    chosen = precision if isinstance(precision, tuple) else (precision,)
    return "float32_highest" if jax.lax.Precision.HIGHEST in chosen else "float32"


def _dot(eqn) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return 2.0 * eqn.outvars[0].aval.size * math.prod(eqn.invars[0].aval.shape[d] for d in contracted)


def _convolution(eqn) -> float:
    """Zeros that a dilated input or the padding brings in are no work: only taps on real values count."""
    p, (left, right), out = eqn.params, eqn.invars, eqn.outvars[0]
    numbers = p["dimension_numbers"]
    features = right.aval.shape[numbers.rhs_spec[1]]  # input features of a group
    positions = 1.0
    for k in range(len(numbers.lhs_spec) - 2):
        positions *= _taps(
            left.aval.shape[numbers.lhs_spec[2 + k]],
            right.aval.shape[numbers.rhs_spec[2 + k]],
            out.aval.shape[numbers.out_spec[2 + k]],
            p["window_strides"][k],
            p["padding"][k][0],
            p["lhs_dilation"][k],
            p["rhs_dilation"][k],
        )
    batch, channels = out.aval.shape[numbers.out_spec[0]], out.aval.shape[numbers.out_spec[1]]
    return 2.0 * batch * channels * features * positions


def _taps(size, window, outputs, stride, padding, dilation, window_dilation) -> int:
    """Pairs (output, tap of the window) along one dimension that meet a real value of the input."""
    total, span = 0, (size - 1) * dilation
    for tap in range(window):
        for position in range(outputs):
            at = position * stride + tap * window_dilation - padding
            total += 0 <= at <= span and at % dilation == 0
    return total
