"""Compiles the real train step of a config for devices that need not be there, and reads off what it costs."""

import re
import time
from typing import NamedTuple
from unittest import mock

import jax
import numpy as np
from jax._src.cudnn import fused_attention_stablehlo

from medvlp_jax import experiment, sharding, train
from medvlp_jax.models import bert
from medvlp_jax.plan import flops, hlo, roofline, timeline
from medvlp_jax.plan.topology import Topology
from medvlp_jax.reports import vocab

# What the compilers are asked for. TPU: no search for the fastest tiling of every fusion, which takes most of the compile time
# (one block of ViT-B: 51 s of CPU with it, 4 s without). Fewer fusions are found: scratch memory of that block was 0.35 GB
# instead of 0.26 GB. GPU: products by cuBLAS; without a GPU XLA's own kernels cannot be tuned, and the tile that they fall back
# to does not fit products of ordinary size ("Couldn't find output tile sizes"). The rest is about the kernels' machine code,
# which a plan does not read.
OPTIONS = {
    "tpu": {"exec_time_optimization_effort": -1.0},
    "gpu": {
        "xla_gpu_enable_triton_gemm": False,
        "xla_backend_optimization_level": 0,
        "xla_gpu_disable_gpuasm_optimizations": True,
        "xla_llvm_disable_expensive_passes": True,
    },
}
NEEDED = "xla_gpu_enable_triton_gemm"
CUDNN = 91000  # version 9.10, that of `chips.H100_TARGET`


def options(platform: str, full: bool) -> dict:
    """Compiler options of a plan; `full` leaves out those that only save time."""
    return {k: v for k, v in OPTIONS[platform].items() if not full or k == NEEDED}


class Program(NamedTuple):
    """A compiled step. `mesh`: {axis: size}; batch: rows of all devices; shapes: of the parameters; seconds: to compile.

    state: bytes of the train state on one device.
    """

    step: roofline.Step
    mesh: dict[str, int]
    batch: int
    shapes: list[tuple[int, ...]]
    seconds: float
    state: float

    @property
    def parameters(self) -> int:
        """Their number."""
        return sum(int(np.prod(shape)) for shape in self.shapes)


class DoesNotFit(Exception):
    """The compiler found that the step needs more memory than a device has. `needed`: bytes, if it said so."""

    def __init__(self, needed: float | None):
        self.needed = needed
        super().__init__(f"does not fit: {needed / 1e9:.1f} GB" if needed else "does not fit")


def prepare(config, topology: Topology, batch: int, mesh: dict[str, int]):
    """-> (experiment, jitted step, shapes of its state, shapes of its batch) for a global batch on a mesh.

    Raises:
      ValueError: what `experiment.build` finds wrong, or a batch that does not divide over the devices.
    """
    config = config.copy_and_resolve_references()
    config.data.batch_size, config.data.batch_per_device = batch, 0
    config.mesh.update(mesh)
    if batch % len(topology.devices):
        raise ValueError(f"a batch of {batch} does not divide over {len(topology.devices)} devices")
    exp = experiment.build(config, None, topology.devices)
    exp.__dict__["steps_per_epoch"] = 1000  # no data is opened: the length of an epoch changes numbers, not programs
    state = train.abstract_state(exp, tables(exp))
    rows = sharding.of_batch(exp.mesh)
    example = {k: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=rows) for k, s in exp.abstract_batch().items()}
    return exp, train.step_function(exp, state), state, example


def operations(config, topology: Topology, batch: int, mesh: dict[str, int], devices: int) -> dict[str, float]:
    """Operations of one of `devices` devices by kind, for a global batch; nothing is compiled."""
    exp, step_fn, state, example = prepare(config, topology, batch, mesh)
    with jax.set_mesh(exp.mesh), cudnn():
        return {kind: n / devices for kind, n in flops.of(step_fn.trace(state, example).jaxpr).items()}


def compile_step(config, topology: Topology, batch: int, mesh: dict[str, int], full: bool = False) -> Program:
    """The program of config's train step for a global batch on a mesh; `full`: with all that `train` lets the compiler do.

    Raises:
      ValueError: see `prepare`. DoesNotFit: too little memory on a device.
    """
    started = time.perf_counter()
    exp, step_fn, state, example = prepare(config, topology, batch, mesh)
    with jax.set_mesh(exp.mesh), cudnn():
        traced = step_fn.trace(state, example)
        counted = flops.of(traced.jaxpr)
        try:
            compiled = traced.lower().compile(compiler_options=options(topology.chip.platform, full))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise DoesNotFit(_needed(str(error))) from None
    module = hlo.parse(compiled.as_text())
    devices = len(topology.devices)
    collectives = hlo.collectives(module, devices)
    step = roofline.Step(
        {kind: n / devices for kind, n in counted.items()},
        hlo.traffic(module),
        held(compiled),
        collectives,
        places(exp.mesh.devices.ravel(), topology),
        timeline.tasks(module, collectives),
    )
    shapes = [x.shape for x in jax.tree.leaves(state.params)]
    return Program(step, dict(exp.mesh.shape), batch, shapes, time.perf_counter() - started, of_one_device(state))


def cudnn():
    """Context in which cuDNN's kernels can be asked for without it: jax wants to know its version, which only a GPU has."""
    return mock.patch.object(fused_attention_stablehlo, "check_cudnn_version", lambda: CUDNN)


def of_one_device(tree) -> float:
    """Bytes of a tree of shapes with shardings on one device."""
    return float(sum(np.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)))


def tables(exp) -> dict:
    """Shapes of the knowledge tables; with a text encoder from a file, the tables themselves."""
    k = exp.config.get("knowledge")
    if k is None or k.init:
        return exp.tables
    width = bert.SIZES[k.size]["width"]
    counts = {"entities": len(vocab.ENTITIES), "positions": len(vocab.POSITIONS)}
    return {name: jax.ShapeDtypeStruct((n, width), np.float32) for name, n in counts.items()}


def held(compiled) -> float:
    """Bytes a device holds at the peak: what goes in, what comes out (but for what is overwritten in place) and scratch."""
    m = compiled.memory_analysis()
    return m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes + m.temp_size_in_bytes


def places(devices, topology: Topology) -> np.ndarray:
    """(devices, dims) for `roofline.Step`."""
    chip = topology.chip
    if chip.torus:
        return np.array([[*d.coords[: chip.torus], getattr(d, "slice_index", 0) or 0] for d in devices])
    first = {d.id: i for i, d in enumerate(topology.devices)}
    return np.array([[first[d.id] // chip.node] for d in devices])


def _needed(message: str) -> float | None:
    """ "Used 45.2G of 31.25G hbm" -> bytes."""
    match = re.search(r"[Uu]sed ([\d.]+)([KMGT])\b", message)
    return float(match[1]) * 1024 ** ("KMGT".index(match[2]) + 1) if match else None
