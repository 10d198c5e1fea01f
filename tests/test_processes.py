"""Runs of several processes on this machine: the training of one process, faults, and checkpoints for another number."""
import random
import signal
import time

import jax
import numpy as np
import pytest

from medvlp_jax import checkpoint, distributed
from tests import processes

# Adam scales rounding up where a gradient is 0: what a bias before a normalisation does.
CLOSE = {"rtol": 2e-4, "atol": 2e-5}
STOPS_WITHIN = 45  # seconds from the loss of a process until the others have ended, with --heartbeat=15


def same(got: list[dict], want: list[dict]) -> None:
    assert [r["step"] for r in got] == [r["step"] for r in want]
    for a, b in zip(got, want, strict=True):
        assert set(a) == set(b)
        np.testing.assert_allclose([a[k] for k in b], list(b.values()), err_msg=str(b["step"]), **CLOSE)


def test_two_processes_train_as_one_and_only_the_first_writes(tmp_path):
    steps = "--config.train.steps=3"
    one = processes.start(tmp_path / "one", steps, devices=2, method="medklip")
    written = processes.run(tmp_path / "two", steps, processes=2, method="medklip")
    processes.finish(tmp_path / "one", one)
    same(processes.records(tmp_path / "two"), processes.records(tmp_path / "one"))
    values = [checkpoint.load_variables(tmp_path / name)[0]["params"] for name in ("one", "two")]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), *values)
    assert max(jax.tree.leaves(moved)) < 1e-3
    assert "goodput" in written[0] and "step 3/3" in written[0] and "process 0 of 2, 1 of 2 devices" in written[0]
    assert "step 3/3" not in written[1] and "goodput" not in written[1]


@pytest.mark.parametrize(
    "environment, want",
    [
        ({}, False),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, True),
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "16"}, True),
        ({"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "16"}, False),  # in a batch script, not under srun
        ({"TPU_WORKER_HOSTNAMES": "h0,h1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "h0"}, True),
    ],
)
def test_what_the_environment_says(environment, want):
    assert distributed.several(environment) is want


def test_processes_by_hand():
    given = {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
    assert distributed.by_hand({}) == {}
    assert distributed.by_hand(given) == {"coordinator_address": "h:1", "num_processes": 4, "process_id": 3}
    with pytest.raises(ValueError, match="JAX_COORDINATOR_ADDRESS without JAX_NUM_PROCESSES, JAX_PROCESS_ID"):
        distributed.by_hand({"JAX_COORDINATOR_ADDRESS": "h:1"})
    with pytest.raises(ValueError, match="JAX_PROCESS_ID=4, JAX_NUM_PROCESSES=4: expected numbers from 0 to below"):
        distributed.by_hand(given | {"JAX_PROCESS_ID": "4"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """12 steps of one process with 4 devices."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    processes.run(folder, "--config.train.steps=12", devices=4)
    return folder


OPTIONS = ("--config.train.steps=12", "--config.train.checkpoint_every=3", "--heartbeat=15")


@pytest.mark.soak
class TestSoak:
    def test_four_processes_train_as_one(self, whole, tmp_path):
        processes.run(tmp_path / "run", *OPTIONS, processes=4)
        same(processes.records(tmp_path / "run"), processes.records(whole))

    @pytest.mark.parametrize("count, victim", [(2, 0), (2, 1), (4, 2)])
    def test_a_killed_process_ends_the_others_and_all_start_again(self, count, victim, tmp_path):
        options = {"processes": count, "devices": 4 // count}
        processes.run(tmp_path / "whole", *OPTIONS, **options)
        started = processes.start(tmp_path / "run", *OPTIONS, **options)
        processes.wait_for_step(tmp_path / "run", started, random.randint(1, 9))
        started[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        for process in started:
            process.wait(120)
        took = time.monotonic() - killed
        print(f"{count} processes, number {victim} killed: the others ended after {took:.1f} s")
        assert took < STOPS_WITHIN
        for i, text in enumerate(processes.logs(tmp_path / "run", count)):
            if i != victim:
                assert started[i].returncode != 0 and f"process {i} of {count} stops: another process ended" in text
        processes.run(tmp_path / "run", *OPTIONS, **options)
        assert processes.records(tmp_path / "run") == processes.records(tmp_path / "whole")
        values = [checkpoint.load_variables(tmp_path / name)[0] for name in ("whole", "run")]
        jax.tree.map(np.testing.assert_array_equal, *values)

    @pytest.mark.parametrize("asked", [(0, 1, 2, 3), (2,)], ids=["all", "one"])
    def test_a_signal_gives_one_checkpoint_that_any_number_of_devices_goes_on_from(self, whole, asked, tmp_path):
        import shutil

        options = ("--config.train.steps=12", "--config.train.checkpoint_every=0")
        started = processes.start(tmp_path / "run", "--config.train.steps=100000", *options[1:], "--heartbeat=15",
                                  "--config.schedule.warmup=0.1", processes=4)  # fmt: skip
        processes.wait_for_step(tmp_path / "run", started, 2)
        for i in asked:
            started[i].send_signal(signal.SIGTERM)
        written = processes.finish(tmp_path / "run", started)
        (step,) = checkpoint.steps(tmp_path / "run")
        assert f"signal 15: step {step} is saved" in written[0]
        assert processes.records(tmp_path / "run")[-1]["step"] == step
        end = (f"--config.train.steps={step + 3}", "--config.train.checkpoint_every=0", "--config.schedule.warmup=0.1")
        found = {}
        for devices in (1, 2, 8):
            folder = shutil.copytree(tmp_path / "run", tmp_path / f"on{devices}")
            (text,) = processes.run(folder, *end, devices=devices)
            assert f"resuming at step {step} of {step + 3}" in text
            found[devices] = processes.records(folder)
            assert found[devices][-1]["step"] == step + 3
        same(found[2], found[1])
        same(found[8], found[1])
