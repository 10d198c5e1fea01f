"""A plan through the compiler of an accelerator that is not there; skipped where the extra is not installed."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medvlp_jax.plan import program, topology

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


def test_a_full_plan_leaves_out_what_only_saves_time():
    assert program.options("tpu", True) == {} != program.options("tpu", False)
    assert set(program.options("gpu", True)) == {"xla_gpu_enable_triton_gemm"} < set(program.options("gpu", False))
