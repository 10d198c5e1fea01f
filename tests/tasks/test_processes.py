"""An evaluation by several processes gives, in each, what one process gives; process 0 alone writes."""
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from medvlp_jax.method import Method
from medvlp_jax.tasks import suite
from tests.tasks import fakes

ROOT = Path(__file__).resolve().parents[2]


def test_two_processes_equal_one(tmp_path):
    tasks = {"zeroshot": {"resamples": 20}, "grounding": {"resamples": 20}, "retrieval": {"gallery": 5, "resamples": 20}}
    batches = fakes.batches(fakes.examples(21), size=8)
    want = fakes.values(suite.evaluate(Method(None, None, fakes.RANDOM), {}, tasks, batches, tmp_path / "one", 1,
                                          validation_fn=batches, draw=False))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    runs = [subprocess.Popen([sys.executable, "-m", "tests.tasks.process_worker", str(p), "2", str(port), str(tmp_path)],
                             cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for p in range(2)]
    try:
        logs = [run.communicate(timeout=240)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    for p, run in enumerate(runs):
        assert run.returncode == 0, logs[p][-3000:]
        assert json.loads((tmp_path / f"process{p}.json").read_text()) == pytest.approx(want)
    lines = (tmp_path / "eval" / "results.jsonl").read_text().splitlines()
    assert len(lines) == len(want)
    assert "auc_macro" in logs[0] and "auc_macro" not in logs[1]
