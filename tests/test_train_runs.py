"""Whole runs of the command: killed, stopped, broken and resumed; what they leave on disk."""
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from medvlp_jax import checkpoint, train
from medvlp_jax.tasks import evaluation
from tests import tiny

ROOT = Path(__file__).parents[1]
STEPS = 12


def command(workdir, method, *options):
    """The tiny config as a user starts it, on 2 devices; compiled programs are shared by the runs of a test."""
    flags = [f"--config=tests/tiny_config.py:{method}", f"--workdir={workdir}", f"--config.train.steps={STEPS}"]
    flags += ["--config.train.checkpoint_every=3", "--config.evals.tasks=('zeroshot',)", "--config.evals.figures=False"]
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }  # fmt: skip
    return subprocess.Popen([sys.executable, "-m", "medvlp_jax.train", *flags, *options], cwd=ROOT, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip


def finish(process, code=0):
    output = process.communicate(timeout=900)[0]
    assert process.returncode == code, output[-3000:]
    return output


def records(workdir):
    """What metrics.jsonl says, but for speed."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "images_per_s"} for line in lines]


def wait_for_step(process, workdir, step):
    """Until metrics.jsonl has a record of that step (its last line may be half written)."""
    path, end = workdir / "metrics.jsonl", time.monotonic() + 600
    while f'"step": {step},' not in (path.read_text() if path.exists() else ""):
        assert process.poll() is None and time.monotonic() < end, process.communicate(timeout=60)[0][-3000:]
        time.sleep(0.01)


def test_killed_at_a_random_step_and_started_again_gives_the_same_metrics(tmp_path):
    finish(command(tmp_path / "whole", "mlip"))
    process = command(tmp_path / "killed", "mlip")
    wait_for_step(process, tmp_path / "killed", random.randint(1, STEPS - 1))
    process.send_signal(signal.SIGKILL)
    finish(process, -signal.SIGKILL)
    saved = checkpoint.steps(tmp_path / "killed")
    output = finish(command(tmp_path / "killed", "mlip"))
    assert not saved or saved[-1] == STEPS or f"resuming at step {saved[-1]} of {STEPS}" in output
    want = records(tmp_path / "whole")
    assert [r["step"] for r in want] == list(range(1, STEPS + 1)) and records(tmp_path / "killed") == want
    values = [checkpoint.load_variables(tmp_path / name)[0] for name in ("whole", "killed")]
    jax.tree.map(np.testing.assert_array_equal, *values)
    evals = [[r["value"] for r in map(json.loads, (tmp_path / name / "eval" / "results.jsonl").open())]
             for name in ("whole", "killed")]  # fmt: skip
    assert evals[0] == evals[1] and len(evals[0]) > 2


def test_sigterm_saves_and_ends_cleanly(tmp_path):
    process = command(tmp_path / "run", "medklip", "--config.train.steps=100000", "--config.train.checkpoint_every=0",
                      "--stopped_code=75")  # fmt: skip
    wait_for_step(process, tmp_path / "run", 2)
    process.send_signal(signal.SIGTERM)
    output = finish(process, 75)  # 0 without the flag: tests of several processes
    step = checkpoint.steps(tmp_path / "run")[-1]
    assert f"signal 15: step {step} is saved" in output and "start again to resume" in output
    assert records(tmp_path / "run")[-1]["step"] == step and not (tmp_path / "run" / "eval").exists()


@pytest.mark.usefixtures("optax_promotion", "quick_compiles")
class TestInThisProcess:
    def test_a_loss_that_is_not_finite_stops_the_run_with_its_last_good_state(self, tmp_path):
        config = tiny.run_config("medklip", **{"schedule/lr": 1e30, "schedule/start_lr": 1e30})
        with pytest.raises(FloatingPointError, match=r"step \d: loss or gradient is not finite: .*last finite state is saved"):
            train.train(config, tmp_path)
        variables, step = checkpoint.load_variables(tmp_path)
        assert step >= 2 and all(np.isfinite(x).all() for x in jax.tree.leaves(variables))

    def test_what_a_run_leaves_and_what_a_seed_fixes(self, tmp_path):
        results = {}
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            config = tiny.run_config("medklip", **{"seed": seed, "train/steps": 3, "train/tensorboard": name == "a"})
            config.evals.tasks = ("zeroshot", "grounding") if name == "a" else ()
            config.evals.figures = name == "a"
            results[name] = train.train(config, tmp_path / name)
        losses = {name: [r["loss"] for r in records(tmp_path / name)] for name in results}
        assert losses["a"] == losses["b"] != losses["c"]
        record = records(tmp_path / "a")[-1]
        assert set(record) == {"step", "loss", "existence", "location", "lr", "grad_norm"}
        assert all(math.isfinite(v) for v in record.values())
        run = json.loads((tmp_path / "a" / "run.json").read_text())
        assert run["config"]["seed"] == 0 and run["versions"]["jax"] == jax.__version__ and run["parameters"] > 1000
        other = json.loads((tmp_path / "b" / "run.json").read_text())
        assert set(run["data"]) == {"train", "val", "test"} and run["data"]["train"] == other["data"]["train"]
        assert list((tmp_path / "a" / "tensorboard").iterdir()) and not (tmp_path / "b" / "tensorboard").exists()
        assert {"zeroshot", "grounding"} == {r["task"] for r in results["a"]}
        assert list((tmp_path / "a" / "eval" / "figures").glob("*.png"))
        found = evaluation.load(tmp_path / "a")
        assert found.place == {"dataset": "phantom", "split": "test", "protocol": "default", "step": 3}
        assert set(found.scores) == set(found.cards) == {"zeroshot", "grounding"}
        assert {(r["checkpoint"], r["data"]) for r in found.records} == {("a, step 3", run["data"]["test"])}
        assert found.facts["config"]["seed"] == 0 and found.facts["tasks"]["zeroshot"]["resamples"] == 1000
        text = (tmp_path / "a" / "eval" / "report.html").read_text("utf-8")
        assert text.count("<img") > 10 and run["data"]["test"] in text and f"{results['a'][0]['value']:.3f}" in text
