"""The clock of a run and traces of chosen steps."""
import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from medvlp_jax import timing


@pytest.fixture
def clock(monkeypatch):
    """-> (clock, pass time)."""
    now = [100.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return timing.Clock(), wait


def test_goodput_is_what_the_parts_leave(clock):
    clock, wait = clock
    with clock.part("input"):
        wait(7)  # part of the start
    wait(3)
    clock.started()
    with clock.part("input"):
        wait(2)
    with clock.part("input") as busy:
        wait(50)
        busy.append(True)  # the device had work: nothing waited
    with clock.part("checkpoint"):
        wait(8)
    with pytest.raises(ZeroDivisionError), clock.part("evaluation"):
        wait(5)
        _ = 1 / 0
    wait(25)
    assert clock.pauses() == 13  # input is waited for while training
    assert clock.split() == {"start": 10, "input": 2, "checkpoint": 8, "evaluation": 5, "steps": 75, "total": 100}
    assert clock.report(9) == (
        "goodput 75.0%: 75.0 of 100.0 s went into 9 steps; start 10.0 s, input 2.0 s, checkpoint 8.0 s, evaluation 5.0 s"
    )


@pytest.mark.parametrize("text", ["3", "5:3", "0:2", "a:b", "1:2:3"])
def test_profiles_that_do_not_fit(text, tmp_path):
    with pytest.raises(ValueError, match="expected FIRST:LAST, two steps in order"):
        timing.Profile(text, tmp_path)


def test_a_trace_of_the_steps_asked_for(tmp_path):
    fn = jax.jit(lambda x: jnp.sin(x) @ x)
    x = fn(jnp.ones((64, 64)))
    profile = timing.Profile("2:3", tmp_path / "profile")
    for step in range(1, 5):
        profile.before(step)
        x = fn(x)
        profile.after(step, x)
        assert bool(list((tmp_path / "profile").rglob("*.xplane.pb"))) == (step >= 3)
    (trace,) = (tmp_path / "profile").rglob("perfetto_trace.json.gz")
    assert json.loads(gzip.open(trace).read())["traceEvents"]
    silent = timing.Profile("", tmp_path / "none")
    silent.before(1), silent.after(1, x), silent.close()
    assert not (tmp_path / "none").exists()
