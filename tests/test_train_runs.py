"""Whole runs of the command: killed, stopped, broken and resumed; what they leave on disk."""
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax import checkpoint, cli, errors, evaluate, experiment, train
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
        config = tiny.run_config("medklip", **{"schedule/lr": 1e30, "schedule/start_lr": 1e30, "train/max_bad_steps": 0})
        with pytest.raises(FloatingPointError, match=r"step \d: loss or gradient is not finite: .*last finite state is saved"):
            train.train(config, tmp_path)
        variables, step = checkpoint.load_variables(tmp_path / "emergency")
        assert step >= 2 and all(np.isfinite(x).all() for x in jax.tree.leaves(variables))

    def test_bad_steps_are_left_out_counted_and_remembered(self, tmp_path, monkeypatch, caplog):
        """Steps 3, 5 and 6 of 8 are bad. Resumed after step 4, the run counts and ends as the whole one."""
        bad_batches(monkeypatch, {3, 5, 6})
        settings = {"train/steps": 8, "train/checkpoint_every": 4, "train/log_every": 2, "evals/tasks": ()}
        config = tiny.run_config("medklip", **settings, **{"train/max_bad_steps": 3})
        train.train(config, tmp_path / "whole")
        found = records(tmp_path / "whole")
        want = [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2), (6, 3), (8, 3)]
        assert [(r["step"], r["bad_steps"]) for r in found] == want
        assert [r["step"] for r in found if r["loss"] is None] == [3, 5, 6]
        assert "step 5: loss or gradient is not finite (loss nan, " in caplog.text
        assert "2 such of the last 100 steps, train.max_bad_steps=3" in caplog.text
        shutil.copytree(tmp_path / "whole", tmp_path / "again")
        shutil.rmtree(tmp_path / "again" / "checkpoints" / "8")
        train.train(config, tmp_path / "again")
        assert records(tmp_path / "again") == found
        values = [checkpoint.load_variables(tmp_path / name)[0] for name in ("whole", "again")]
        jax.tree.map(np.testing.assert_array_equal, *values)

        config = tiny.run_config("medklip", **settings, **{"train/max_bad_steps": 1, "train/bad_steps_window": 2})
        with pytest.raises(FloatingPointError, match="step 6: .* 2 of the last 2 steps; train.max_bad_steps=1"):
            train.train(config, tmp_path / "ended")

    def test_the_end_of_a_broken_run_costs_no_good_checkpoint(self, tmp_path, monkeypatch):
        bad_batches(monkeypatch, {6, 7})
        config = tiny.run_config("medklip", **{"train/steps": 9, "train/checkpoint_every": 2, "train/max_bad_steps": 1,
                                               "train/keep": 2, "evals/tasks": ()})  # fmt: skip
        for _ in range(2):  # the second time from the last checkpoint: the count of it is 1 already
            with pytest.raises(errors.NotFinite, match="emergency") as error:
                train.train(config, tmp_path)
            assert isinstance(error.value, errors.UserError) and str(tmp_path / "emergency") in str(error.value)
            assert checkpoint.steps(tmp_path) == [4, 6] and checkpoint.steps(tmp_path / "emergency") == [8]

    def test_a_resumed_run_of_another_length_says_what_becomes_of_its_rate(self, tmp_path, caplog):
        settings = {"train/checkpoint_every": 2, "evals/tasks": (), "train/log_every": 1}
        train.train(tiny.run_config("medklip", **settings, **{"train/steps": 4}), tmp_path)
        caplog.clear()
        train.train(tiny.run_config("medklip", **settings, **{"train/steps": 6}), tmp_path)
        assert "the learning rate at step 4 was 1e-05 and is now " in caplog.text
        assert "train.steps was 4, is now 6" in caplog.text
        caplog.clear()
        train.train(tiny.run_config("medklip", **settings, **{"train/steps": 6}), tmp_path)
        assert "learning rate at step" not in caplog.text

    def test_rbg_resumes_as_the_uninterrupted_run(self, tmp_path):
        found = {}
        for rng in ("threefry", "rbg"):
            config = tiny.run_config("medklip", **{"train/steps": 4, "train/checkpoint_every": 2, "evals/tasks": (),
                                                   "model/dropout": 0.5, "rng": rng})  # fmt: skip
            train.train(config, tmp_path / rng)
            found[rng] = records(tmp_path / rng)
        assert found["rbg"][0]["loss"] != found["threefry"][0]["loss"]
        shutil.rmtree(tmp_path / "rbg" / "checkpoints" / "4")
        train.train(config, tmp_path / "rbg")
        assert records(tmp_path / "rbg") == found["rbg"]

    def test_the_speed_of_a_run_leaves_out_evaluations_and_checkpoints(self, tmp_path, monkeypatch):
        """An evaluation of 3 s after step 2, a checkpoint of 2 s after step 4: the rates of 3 and 5 do not show them."""
        config = tiny.run_config("medklip", **{"train/steps": 6, "train/eval_every": 2, "train/log_every": 1,
                                               "train/checkpoint_every": 0, "evals/tasks": ()})  # fmt: skip
        monkeypatch.setattr(evaluate, "validate", lambda *_: time.sleep(3) or {})
        save = checkpoint.save
        monkeypatch.setattr(checkpoint, "save", lambda *args: time.sleep(2) or save(*args))
        train.train(config, tmp_path)
        rates = {r["step"]: r["images_per_s"] for r in map(json.loads, (tmp_path / "metrics.jsonl").open()) if "loss" in r}
        assert min(rates[3], rates[5]) > 16 / 3  # 5 s of pause between the records alone would give 3.2

    def test_a_shape_bug_in_the_loss_keeps_its_traceback(self, tmp_path, monkeypatch, capsys):
        """Even if our own code raised it on purpose; the same in the opening is a mistake of the user."""
        made = experiment.method.get

        def broken(config):
            def loss(*args):
                raise ValueError("zi: expected shape (16, 24), came (16, 25)")

            return made(config)._replace(loss=loss)

        monkeypatch.setattr(experiment.method, "get", broken)
        config = tiny.run_config("medklip", **{"train/steps": 1, "evals/tasks": ()})
        with pytest.raises(ValueError, match="zi: expected shape") as error:
            cli.guarded(train.train, config, tmp_path)
        assert not isinstance(error.value, errors.UserError) and "error:" not in capsys.readouterr().err
        config.data.batch_size = 12
        with pytest.raises(SystemExit) as end:
            cli.guarded(train.train, config, tmp_path)
        assert end.value.code == 2 and "error: data.batch_size=12 must be a multiple of" in capsys.readouterr().err

    def test_a_batch_per_device(self, tmp_path, caplog):
        config = tiny.run_config("medklip", **{"train/steps": 1, "data/batch_per_device": 3, "evals/tasks": ()})
        train.train(config, tmp_path)
        assert "steps of 24 examples an epoch, 1 in all; 8 devices have 3 examples each" in caplog.text
        assert json.loads((tmp_path / "run.json").read_text())["config"]["data"]["batch_size"] == 24


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
        assert set(record) == {"step", "loss", "existence", "location", "lr", "grad_norm", "bad_steps"}
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


def bad_batches(monkeypatch, steps):
    """Losses of these steps are NaN, whenever they are run."""
    step = train.train_step

    def broken(state, batch, *, method, **options):
        bad = jnp.isin(state.step + 1, jnp.array(sorted(steps)))

        def loss(*args):
            value, rest = method.loss(*args)
            return jnp.where(bad, jnp.nan, 1.0) * value, rest

        return step(state, batch, method=method._replace(loss=loss), **options)

    monkeypatch.setattr(train, "train_step", broken)
