"""The commands of docs/your-data.md on a miniature MIMIC-CXR: prepared, trained, killed, resumed, evaluated."""
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from medvlp_jax import checkpoint
from tests.data import miniature
from tests.test_train_runs import ROOT, finish, records


def start(*arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)  # fmt: skip


@pytest.mark.soak
def test_prepared_trained_killed_resumed_and_evaluated(tmp_path):
    (tmp_path / "src").mkdir()
    miniature.mimic(tmp_path / "src", 36)
    out = finish(start("data.prepare", "--dataset=mimic_cxr", f"--src={tmp_path / 'src'}", f"--out={tmp_path / 'mimic'}",
                       "--workers=2", "--labels=chexpert", "--size=48"))  # fmt: skip
    assert "use it: --config.data.name=prepared" in out

    def train(name):
        return start("medvlp_jax.train", "--config=tests/tiny_config.py:medklip", f"--workdir={tmp_path / name}",
                     "--config.data.name=prepared", f"--config.data.path={tmp_path / 'mimic'}", "--config.train.steps=40",
                     "--config.train.checkpoint_every=2", "--config.evals.tasks=('zeroshot',)")  # fmt: skip

    finish(train("whole"))
    process = train("killed")
    while not checkpoint.steps(tmp_path / "killed"):
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    finish(process, -signal.SIGKILL)
    assert "resuming at step" in finish(train("killed"))
    assert records(tmp_path / "killed") == records(tmp_path / "whole") and len(records(tmp_path / "whole")) == 40
    finish(start("medvlp_jax.evaluate", f"--workdir={tmp_path / 'killed'}"))
    results = [json.loads(line) for line in (tmp_path / "killed/eval/results.jsonl").open()]
    assert {r["metric"] for r in results} >= {"auc_macro"} and all(r["n"] > 0 for r in results)
