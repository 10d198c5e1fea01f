"""The learning rate follows the batch by rule, and a run that goes on says where its own moved."""
import numpy as np
import pytest

from medvlp_jax import experiment, metrics, schedules
from tests import tiny

pytestmark = pytest.mark.usefixtures("optax_promotion")
STEPS = {"train/steps": 20, "schedule/warmup": 0.25, "schedule/lr": 1.0, "schedule/start_lr": 0.1, "schedule/final_lr": 0.01}


def curve(tmp_path, **overrides):
    schedule = experiment.build(tiny.run_config("medklip", **{**STEPS, **overrides}), tmp_path).schedule
    return np.array([float(schedule(np.int32(s))) for s in range(21)])


@pytest.mark.parametrize("rule, factor", [("off", 1), ("sqrt", 2), ("linear", 4)])
@pytest.mark.parametrize("kind", ["cosine", "medklip_published"])
def test_rates_follow_the_batch_by_the_rule_in_force(tmp_path, caplog, rule, factor, kind):
    common = {"data/batch_size": 64, "schedule/kind": kind, "train/epochs": 20}
    want = factor * curve(tmp_path, **common)
    caplog.clear()
    got = curve(tmp_path, **common, **{"schedule/base_batch": 16, "schedule/scale_lr": rule})
    np.testing.assert_allclose(got, want, rtol=1e-6)
    said = f"schedule.scale_lr={rule}: learning rates times {factor}, for a batch of 64 instead of 16; the highest is {factor}"
    assert (said in caplog.text) == (rule != "off") and ("scale_lr" in caplog.text) == (rule != "off")


@pytest.mark.parametrize("module, batch", [("mlip", 144), ("medklip", 48)])
def test_the_rule_is_off_and_starts_from_the_papers_batch(module, batch):
    import importlib

    config = importlib.import_module(f"configs.{module}").get_config()
    assert (config.schedule.scale_lr, config.schedule.base_batch, config.data.batch_size) == ("off", batch, batch)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("schedule/scale_lr", "cubic", "unknown schedule.scale_lr 'cubic'; known: off, sqrt, linear"),
        ("schedule/base_batch", 0, "schedule.base_batch must be positive, came 0"),
        ("schedule/warmup", "3 min", "schedule.warmup='3 min': expected a number of steps or epochs"),
    ],
)
def test_rules_that_cannot_be_meant(tmp_path, key, value, message):
    with pytest.raises(ValueError, match=message):
        experiment.build(tiny.run_config("medklip", **{key: value}), tmp_path)


@pytest.mark.parametrize("warmup, peak", [("2 epochs", 8), ("0.5 epochs", 2), ("3 steps", 3), ("3", 3)])
def test_a_warm_up_by_epochs_or_steps(tmp_path, warmup, peak):
    assert int(np.argmax(curve(tmp_path, **{"schedule/warmup": warmup}))) == peak  # 4 steps are an epoch


def test_a_published_warm_up_is_in_epochs(tmp_path):
    published = {"schedule/kind": "medklip_published", "train/epochs": 20}
    np.testing.assert_array_equal(*(curve(tmp_path, **published, **{"schedule/warmup": w}) for w in (3.0, "3 epochs")))
    with pytest.raises(ValueError, match="schedule.warmup='3 steps': expected epochs such as"):
        curve(tmp_path, **published, **{"schedule/warmup": "3 steps"})


def changed(tmp_path, step, before, after):
    metrics.write_run_file(tmp_path, tiny.run_config("medklip", **{**STEPS, **before}).to_dict())
    return schedules.change(experiment.build(tiny.run_config("medklip", **{**STEPS, **after}), tmp_path), tmp_path, step)


def test_another_length_of_the_run_is_said_with_both_rates(tmp_path):
    said = changed(tmp_path, 10, {}, {"train/steps": 40})
    was, now = (float(curve(tmp_path)[10]), float(curve(tmp_path, **{"train/steps": 40})[10]))
    assert was < now and f"learning rate at step 10 was {was:.4g} and is now {now:.4g}" in said
    assert "reached to step 20 now reaches to step 40" in said and "train.steps was 20, is now 40" in said
    epochs = {"train/steps": 0, "train/epochs": 5}
    assert "train.epochs was 5, is now 6" in changed(tmp_path, 10, epochs, {**epochs, "train/epochs": 6})


@pytest.mark.parametrize("key, value", [("schedule/lr", 0.5), ("data/batch_size", 32), ("schedule/warmup", "1 epochs")])
def test_whatever_else_moves_the_rate_is_said_too(tmp_path, key, value):
    epochs = {"train/steps": 0, "train/epochs": 5}
    assert f"{key.replace('/', '.')} was " in changed(tmp_path, 10, epochs, {**epochs, key: value})


def test_what_leaves_the_rate_alone_is_not_said(tmp_path):
    assert changed(tmp_path, 10, {}, {"train/log_every": 5, "train/eval_every": "1 epochs", "train/epochs": 9}) == ""
    assert changed(tmp_path, 10, {}, {"train/steps": 0, "train/epochs": 5}) == ""  # 20 steps, too
    old = tiny.run_config("medklip", **STEPS).to_dict()
    del old["schedule"]["scale_lr"], old["schedule"]["base_batch"]  # a run from before these keys
    metrics.write_run_file(tmp_path, old)
    exp = experiment.build(tiny.run_config("medklip", **STEPS), tmp_path)
    assert schedules.change(exp, tmp_path, 10) == ""
    assert schedules.change(exp, tmp_path / "none", 10) == ""
