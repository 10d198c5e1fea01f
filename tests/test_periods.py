"""Periods in steps, epochs and minutes, and checkpoints by the clock of process 0."""
import re

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import medklip, mlip
from medvlp_jax import cli, experiment, periods, run_config
from tests import tiny


@pytest.mark.parametrize(
    "value, want",
    [
        (50, (50, "steps")), (0, (0, "steps")), ("50", (50, "steps")), ("1 step", (1, "steps")), ("2 epochs", (2, "epochs")),
        ("0.5 epoch", (0.5, "epochs")), (".5epochs", (0.5, "epochs")), (" 10 MIN ", (10, "minutes")), (3.0, (3, "steps")),
    ],
)  # fmt: skip
def test_what_a_period_may_be(value, want):
    assert periods.parse("k", value, ("steps", "epochs", "minutes")) == want


@pytest.mark.parametrize("value", ["often", "-1", -1, "1.5 steps", 0.5, "2 weeks", "", None, True, "1 2 epochs", "nan"])
def test_what_is_none(value):
    with pytest.raises(ValueError, match=rf"train.x_every={re.escape(repr(value))}: expected a number of steps or epochs such"):
        periods.parse("train.x_every", value)


def test_periods_of_a_run(tmp_path):
    """The tiny data are 64 examples, so 4 steps of 16 are an epoch, and 2 of 32."""

    def of(**overrides):
        return experiment.build(tiny.run_config("medklip", **overrides), tmp_path).periods

    epochs = {"train/log_every": "0.25 epochs", "train/eval_every": "1.5 epochs", "train/checkpoint_every": "10 min"}
    assert of(**epochs) == (1, 6, 0, 10)
    assert of(**epochs, **{"data/batch_size": 32}) == (1, 3, 0, 10)  # never less than a step
    assert of(**{"train/log_every": 0, "train/checkpoint_every": "7"}) == (0, 100_000, 7, 0)
    for key, value in (("log", "1 min"), ("eval", "5 min"), ("checkpoint", "5 s")):  # what is logged never goes by the clock
        with pytest.raises(ValueError, match=f"train.{key}_every='{value}': expected"):
            of(**{f"train/{key}_every": value})


@pytest.mark.parametrize("module", [mlip, medklip])
def test_the_papers_config_keeps_its_sense_at_any_batch(module, tmp_path):
    config = module.get_config()
    config.knowledge.init = "random"
    exp = experiment.build(config, tmp_path)
    exp.__dict__["steps_per_epoch"] = 52  # 213,000 studies in batches of 4,096
    assert 20 <= exp.total_steps // exp.periods.eval <= 50 and exp.periods.checkpoint_minutes == 10


def test_periods_on_the_command_line_and_in_run_json(tmp_path, monkeypatch):
    from absl import flags

    from medvlp_jax import metrics, train

    given = ["--config.train.eval_every=0.5 epochs", "--config.train.checkpoint_every=30 min", "--config.train.log_every=7"]
    argv = ["train", "--config=configs/mlip.py", *given, "--config.schedule.warmup=2 epochs"]
    monkeypatch.setattr("sys.argv", argv)  # ml_collections reads it
    values = flags.FlagValues()
    train.define_flags(values)
    cli.define_config(argv, values)
    values(argv)
    t = values.config.train
    assert (t.eval_every, t.checkpoint_every, t.log_every) == ("0.5 epochs", "30 min", 7)
    assert values.config.schedule.warmup == "2 epochs"
    metrics.write_run_file(tmp_path, values.config.to_dict())
    saved = run_config.saved(tmp_path)
    assert saved.to_dict() == values.config.to_dict()
    assert saved.train.get_type("eval_every") is object is saved.schedule.get_type("warmup")  # as in the file
    assert periods.retype(ConfigDict({"train": {"steps": 1}})).train.steps == 1


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(periods.time, "monotonic", lambda: now[0])
    return now


def test_checkpoints_by_steps_or_never():
    due = periods.Checkpoints(periods.Periods(1, 1, 3, 0.0), 0)
    assert [s for s in range(1, 10) if due.due(s)] == [3, 6, 9]
    never = periods.Checkpoints(periods.Periods(1, 1, 0, 0.0), 0)
    assert not any(never.due(s) for s in range(1, 10))


def test_one_process_saves_when_the_time_has_passed(clock):
    due, saved = periods.Checkpoints(periods.Periods(1, 1, 0, 1.0), 100), []
    for step in range(101, 131):
        clock[0] += 7 if step != 110 else 25
        if due.due(step):
            saved.append((step, clock[0]))
            due.saved()
    assert saved == [(109, 1063.0), (115, 1123.0), (124, 1186.0)]
    due.saved()  # an evaluation saves too: the period starts again
    clock[0] += 59
    assert not due.due(131)


@pytest.mark.parametrize("seconds", [0.02, 3.0, 200.0])
def test_several_processes_agree_on_the_step_though_their_clocks_differ(seconds, clock, monkeypatch):
    """Each process in turn; what process 0 said is what the others hear. A question waits for the device, so there are few."""
    said = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)

    def run(index, drift):
        heard = iter(list(said))

        def broadcast(value):
            if index == 0:
                said.append(value)
                return value
            return next(heard)

        monkeypatch.setattr(periods.multihost_utils, "broadcast_one_to_all", broadcast)
        clock[0] = 1000.0
        due, saved, rng = periods.Checkpoints(periods.Periods(1, 1, 0, 10.0), 0), [], np.random.default_rng(index)
        for step in range(1, 3001 if seconds < 1 else 400):
            clock[0] += seconds * drift * rng.uniform(0.8, 1.2) * (200 if seconds < 1 else 1)
            if due.due(step):
                saved.append((step, clock[0]))
                due.saved()
        return saved

    first = run(0, 1.0)
    others = run(1, 5.0)
    assert [s for s, _ in others] == [s for s, _ in first] and len(first) > 1
    gaps = np.diff([1000.0, *(t for _, t in first)])
    assert gaps[1:].min() >= 600 and gaps.max() < 600 + 7 * max(seconds, 4)
    assert len(said) <= 14 * (len(first) + 1)


def test_a_rate_that_drops_is_noticed(clock, monkeypatch):
    """Steps that suddenly take 20 times as long: the period is not stretched by it."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(periods.multihost_utils, "broadcast_one_to_all", lambda x: x)
    due = periods.Checkpoints(periods.Periods(1, 1, 0, 10.0), 0)
    for step in range(1, 2000):
        clock[0] += 1 if step < 300 else 20
        if due.due(step):
            break
    assert clock[0] - 1000 < 600 * 6  # half of what was left, at the worst 20 times as slow, and no more
