"""A plan through the compiler of an accelerator that is not there; skipped where the extra is not installed."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medvlp_jax.plan import topology

ROOT = Path(__file__).resolve().parents[2]


def test_a_plan_of_the_tiny_model_on_a_tpu(tmp_path):
    if not topology._there("libtpu"):
        pytest.skip("libtpu is not installed (extra tpu)")
    options = ["--config=tests/tiny_config.py:medklip", "--topology=v5e:2x2", "--batch=32", "--nolargest", "--scale_to=64"]
    command = [sys.executable, "-m", "medvlp_jax.plan", *options, f"--json={tmp_path / 'plan.json'}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "plan.json").read_text())
    assert record["chips"] == 4 and record["bound"] in ("compute", "memory", "network")
    assert record["memory"] > 4 * record["parameters"] and record["sent"] > 4 * record["parameters"]
    assert "all-reduce" in done.stdout and "step at least" in done.stdout and 0 < record["efficiency"][0] <= 1
