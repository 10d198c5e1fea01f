"""A plan through the compiler of an accelerator that is not there; skipped where the extra is not installed."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from medvlp_jax import sharding
from medvlp_jax.models.vit import Block
from medvlp_jax.plan import flops, hlo, program, topology

ROOT = Path(__file__).resolve().parents[2]


HERE = {
    "tpu": (topology._there("libtpu"), "libtpu is not installed (extra tpu)"),
    "gpu": (topology._there("jax_plugins.xla_cuda13") and shutil.which("ptxas"), "no CUDA plugin (extra cuda) or no ptxas"),
}


@pytest.mark.parametrize("name, platform", [("v5e:2x2", "tpu"), ("h100:8", "gpu")])
def test_a_plan_of_the_tiny_model(name, platform, tmp_path):
    there, reason = HERE[platform]
    if not there:
        pytest.skip(reason)
    options = ["--config=tests/tiny_config.py:medklip", f"--topology={name}", "--batch=32", "--nolargest", "--scale_to=64"]
    command = [sys.executable, "-m", "medvlp_jax.plan", *options, "--config.train.steps=9", f"--json={tmp_path / 'plan.json'}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (record,) = json.loads((tmp_path / "plan.json").read_text())
    assert record["chips"] == topology.number(name) and record["bound"] in ("compute", "memory", "network")
    assert record["memory"] > 4 * record["parameters"] and record["sent"] > 4 * record["parameters"]
    assert "all-reduce" in done.stdout and "step at least" in done.stdout and "9 steps" in done.stdout
    low, middle, high = record["efficiency"]
    assert 0 < low < middle <= high <= 1  # the compiler leaves something for sending to overlap with
    assert record["overlapped"] <= record["scheduled"] < record["exposed"]


def test_gradients_of_split_parameters_are_added_up_in_parts():
    """A TPU's compiler makes one reduce-scatter of a sum along "fsdp" and the part that is kept."""
    there, reason = HERE["tpu"]
    if not there:
        pytest.skip(reason)
    mesh = sharding.make_mesh({"data": 4, "fsdp": 4}, topology.devices("v5e:4x4").devices)

    def shape(*size):
        return jax.ShapeDtypeStruct(size, jnp.float32, sharding=jax.NamedSharding(mesh, jax.P("fsdp")))

    params = {"fc1": {"kernel": shape(512, 1024)}, "fc2": {"kernel": shape(1024, 512)}}
    x = jax.ShapeDtypeStruct((64, 512), jnp.float32, sharding=sharding.of_batch(mesh))
    used, held = sharding.layouts(params, mesh)

    def sums(to_use):
        """Collectives of the gradients' program by kind and axes, and what its sums send, of the parameters' bytes."""

        def loss(params, x):
            params = to_use(params)
            return jnp.square(jnp.tanh(x @ params["fc1"]["kernel"]) @ params["fc2"]["kernel"]).mean()

        with jax.set_mesh(mesh):
            compiled = jax.jit(jax.grad(loss), out_shardings=held).lower(params, x).compile()
        found = hlo.collectives(hlo.parse(compiled.as_text()), 16)
        sent = sum(c.times * c.sent for c in found if c.kind != "all-gather")
        return sorted({(c.kind, c.axes(dict(mesh.shape))) for c in found}), sent / (4 * 2 * 512 * 1024)

    whole = sums(lambda params: jax.lax.with_sharding_constraint(params, used))
    assert whole == ([("all-gather", "fsdp"), ("all-reduce", "data+fsdp")], 1.875)
    parts = sums(lambda params: sharding.to_use(params, used, held))
    assert parts == ([("all-gather", "fsdp"), ("all-reduce", "data"), ("reduce-scatter", "fsdp")], 1.125)


def block_for_tpu(devices, kernel, rows, mesh):
    """A block of ViT-B/16 with its gradients, four images a device, compiled -> Module, operations, scratch bytes."""
    block = Block(num_heads=12, mlp_dim=3072, dtype=jnp.bfloat16, attention_kernel=kernel)

    def loss(params, x):
        return block.apply(params, x, False)[0].astype(jnp.float32).sum()

    mesh = sharding.make_mesh(mesh, devices)
    x = jax.ShapeDtypeStruct((4 * len(devices), rows, 768), jnp.bfloat16, sharding=sharding.of_batch(mesh))
    params = jax.eval_shape(lambda key, x: block.init(key, x, False), jax.random.key(0), x)
    params = jax.tree.map(lambda p: p.update(sharding=jax.NamedSharding(mesh, jax.P())), params)
    step = jax.jit(jax.value_and_grad(loss, (0, 1)))
    with jax.set_mesh(mesh), jax.numpy_dtype_promotion("standard"):
        traced = step.trace(params, x)
        compiled = traced.lower().compile(compiler_options=program.options("tpu", False))
    return hlo.parse(compiled.as_text()), flops.of(traced.jaxpr), compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("mesh", [{"data": 4, "fsdp": 1, "tensor": 1}, {"data": 1, "fsdp": 2, "tensor": 2}])
def test_on_a_tpu_fused_attention_keeps_scores_out_of_memory(mesh):
    there, reason = HERE["tpu"]
    if not there:
        pytest.skip(reason)
    devices = topology.devices("v5e:2x2").devices
    plain, counted, scratch = block_for_tpu(devices, "xla", 197, mesh)
    fused, same, less = block_for_tpu(devices, "fused", 197, mesh)
    assert counted.total() == same.total() and less < 0.6 * scratch
    assert hlo.traffic(fused) < 0.85 * hlo.traffic(plain)
    assert sum(c.sent for c in hlo.collectives(fused, 4)) == sum(c.sent for c in hlo.collectives(plain, 4))
    types = {i.name: i.type for i in fused.computations[fused.entry]}
    kernels = {i.name.split(".")[0]: i for i in fused.computations[fused.entry] if "tpu_custom_call" in i.rest}
    array = 16 // mesh["data"] // mesh["fsdp"] * 197 * 768 // mesh["tensor"] * 2  # bytes on a device
    moved = {name: hlo.moved(i, types, {}) for name, i in kernels.items()}
    assert moved == {"attention_forward": 4 * array, "attention_backward": 7 * array}


def test_a_full_plan_leaves_out_what_only_saves_time():
    assert program.options("tpu", True) == {} != program.options("tpu", False)
    assert set(program.options("gpu", True)) == {"xla_gpu_enable_triton_gemm"} < set(program.options("gpu", False))
