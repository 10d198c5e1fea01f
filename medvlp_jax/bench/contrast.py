"""Where the chunked contrast of images and reports is worth it: time and scratch memory of both forms, value and gradient.

    python -m medvlp_jax.bench contrast --batches=1024,2048,4096,8192,16384,32768

On `--devices` virtual CPU devices (or the accelerators there are), which split the batch. Like MLIP's loss it contrasts
`--pairs` of views in one program. Both forms take turns in one run, so that a busy machine slows both; the best turn counts.
Batches above `--timed` are compiled only: the compiler says what they would hold.
"""
import argparse
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medvlp_jax import sharding
from medvlp_jax.losses import contrastive

TEMPERATURE = 0.07


class Row(NamedTuple):
    """Of one global batch: scratch bytes of a device and seconds (None: not run), plain and chunked."""

    batch: int
    scratch: tuple[int, int]
    seconds: tuple[float, float] | None


def program(mesh, batch: int, width: int, pairs: int, chunk: int):
    """Compiled value and gradient of the mean over `pairs` of two (pairs, batch, width) arrays of embeddings."""
    loss = contrastive.chosen(chunk)

    def total(a, b):
        return sum(loss(x, y, TEMPERATURE) for x, y in zip(a, b, strict=True)) / pairs

    shape = jax.ShapeDtypeStruct((batch, width), jnp.float32, sharding=sharding.of_batch(mesh))
    given = [shape] * pairs
    with jax.set_mesh(mesh):
        return jax.jit(jax.value_and_grad(total, (0, 1))).lower(given, given).compile()


def embeddings(mesh, batch: int, width: int, pairs: int) -> tuple[list[jax.Array], list[jax.Array]]:
    """Random unit rows, laid out as `program` takes them."""
    x = np.random.default_rng(0).standard_normal((2, pairs, batch, width)).astype(np.float32)
    x /= np.linalg.norm(x, axis=-1, keepdims=True)  # (2, pairs, B, D)
    a, b = ([jax.device_put(view, sharding.of_batch(mesh)) for view in side] for side in x)
    return a, b


def measure(batch: int, *, width: int, pairs: int, chunk: int, turns: int, timed: bool) -> Row:
    """Both forms at one global batch.

    Raises:
      ValueError: the devices do not divide the batch.
    """
    mesh = sharding.make_mesh({"data": -1})
    if batch % mesh.size:
        raise ValueError(f"a batch of {batch} does not divide over {mesh.size} devices")
    programs = [program(mesh, batch, width, pairs, c) for c in (0, chunk)]
    scratch = tuple(p.memory_analysis().temp_size_in_bytes for p in programs)
    if not timed:
        return Row(batch, scratch, None)
    given, best = embeddings(mesh, batch, width, pairs), [float("inf")] * 2
    values = [float(p(*given)[0]) for p in programs]  # the first call is not counted
    np.testing.assert_allclose(*values, rtol=1e-4)
    for _ in range(turns):
        for i, p in enumerate(programs):
            began = time.perf_counter()
            jax.block_until_ready(p(*given))
            best[i] = min(best[i], time.perf_counter() - began)
    return Row(batch, scratch, tuple(best))


HEAD = """| batch | rows a device | plain | chunked | times the time | plain, scratch | chunked | share of the scratch |
|---|---|---|---|---|---|---|---|"""


def line(row: Row, devices: int) -> str:
    """Of a Markdown table below `HEAD`; scratch is that of one device."""
    spent = ["-"] * 3
    if row.seconds:
        spent = [*(f"{1e3 * s:,.0f} ms" for s in row.seconds), f"{row.seconds[1] / row.seconds[0]:.2f}"]
    a, b = row.scratch
    held = [f"{a / 1e6:,.1f} MB", f"{b / 1e6:,.1f} MB", f"{b / a:.3f}"]
    return "| " + " | ".join([f"{row.batch:,}", f"{row.batch // devices:,}", *spent, *held]) + " |"


def main(argv) -> list[Row]:
    """Entry of the benchmark: prints the table."""
    parser = argparse.ArgumentParser(prog="python -m medvlp_jax.bench contrast", description=__doc__.splitlines()[0])
    parser.add_argument("--batches", default="1024,2048,4096,8192,16384,32768")
    parser.add_argument("--timed", type=int, default=8192)
    parser.add_argument("--chunk", type=int, default=1024)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--devices", type=int, default=8)
    o = parser.parse_args(argv)
    jax.config.update("jax_num_cpu_devices", o.devices)  # of no effect on accelerators
    print(f"{o.pairs} pairs of views, width {o.width}, chunk {o.chunk}, {jax.device_count()} {jax.default_backend()} devices\n")
    print(HEAD, flush=True)
    rows = []
    for batch in map(int, o.batches.split(",")):
        rows.append(measure(batch, width=o.width, pairs=o.pairs, chunk=o.chunk, turns=o.turns, timed=batch <= o.timed))
        print(line(rows[-1], jax.device_count()), flush=True)
    return rows
