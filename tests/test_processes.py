"""Runs of several processes on this machine: the training of one process, faults, and checkpoints for another number."""
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from medvlp_jax import checkpoint, distributed
from tests import processes

# Adam scales rounding up where a gradient is 0: what a bias before a normalisation does.
CLOSE = {"rtol": 2e-4, "atol": 2e-5}
# After more steps: rounding grows with each (float32: grad_norm of 4 processes differs from that of 4 devices by 1e-5 at
# first and 5e-4 after nine steps, that of 1 device by 5e-5 and 1e-2; in float64 all three agree at first to 6e-14).
GROWN = {"rtol": 3e-3, "atol": 2e-5}
STOPS_WITHIN = 45  # seconds from the loss of a process until the others have ended, with --heartbeat=15
# Whoever notices a loss first says so: the process itself in a collective, or JAX's service, which aborts it.
SAID = {distributed.LOST: "stops: another process ended", -signal.SIGABRT: "JAX distributed service detected fatal errors"}


def same(got: list[dict], want: list[dict], grown: bool = False) -> None:
    assert [r["step"] for r in got] == [r["step"] for r in want]
    for a, b in zip(got, want, strict=True):
        assert set(a) == set(b)
        np.testing.assert_allclose([a[k] for k in b], list(b.values()), err_msg=str(b["step"]),
                                   **(GROWN if grown else CLOSE))  # fmt: skip


def deviation(got: list[dict], want: list[dict]) -> float:
    """Root mean square, over steps and values, of how far two runs differ relative to the second."""
    parts = [(a[k] - b[k]) / max(abs(b[k]), 1e-3) for a, b in zip(got, want, strict=True) for k in b]
    return float(np.sqrt(np.mean(np.square(parts))))


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
        ({"TPU_PROCESS_ADDRESSES": "h0:8471,h1:8471"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}, False),  # of how many nothing says
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
    job = {name: given[name] for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES")} | {"JOB_COMPLETION_INDEX": "2"}
    assert distributed.several(job) and distributed.by_hand(job)["process_id"] == 2
    assert distributed.by_hand(job | {"JAX_PROCESS_ID": "1"})["process_id"] == 1  # said outright
    assert distributed.by_hand({"JOB_COMPLETION_INDEX": "2"}) == {}
    with pytest.raises(ValueError, match="JAX_PROCESS_ID=4, JAX_NUM_PROCESSES=4: expected numbers from 0 to below"):
        distributed.by_hand(given | {"JAX_PROCESS_ID": "4"})


LOST = (
    "INTERNAL: NCCL operation ncclGroupEnd() failed: remote process exited or there was a network error. Last NCCL "
    "warning(error) log entry (may be unrelated) 'socketProgress: Connection closed by remote peer node7<41234>'.",
    "INTERNAL: NCCL operation ncclAllReduce(...) failed: unhandled system error (run with NCCL_DEBUG=INFO for details). "
    "Last NCCL warning(error) log entry 'Call to recv from 10.0.0.7<44310> failed : Connection timed out'",
    "UNKNOWN: Gloo all-reduce failed: [pair.cc:547] Connection closed by peer [127.0.0.1]:61234",
    "UNAVAILABLE: failed to connect to all addresses; last error: Socket closed",
    "INTERNAL: The following tasks are unhealthy (stopped sending heartbeats): /job:jax_worker/replica:0/task:3",
)
OF_THIS_PROCESS = (
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.",
    "INTERNAL: NCCL operation ncclCommInitRankConfig failed: unhandled cuda error (run with NCCL_DEBUG=INFO for details). "
    "Last NCCL warning(error) log entry (may be unrelated) 'Cuda failure 2 'out of memory''.",
    "INTERNAL: NCCL operation ncclGroupEnd() failed: unhandled system error. Last NCCL warning(error) log entry 'Cuda failure "
    "CUDA_ERROR_OUT_OF_MEMORY'",
    "INVALID_ARGUMENT: NCCL operation ncclAllGather(...) failed: invalid usage (run with NCCL_DEBUG=WARN for details)",
    "INTERNAL: NCCL operation ncclAllReduce failed: invalid argument (run with NCCL_DEBUG=WARN for details)",
    "INTERNAL: NCCL operation ncclGroupEnd() failed: unhandled cuda error. 'Cuda failure 719 'unspecified launch failure''",
    "INTERNAL: an illegal memory access was encountered",
)


@pytest.mark.parametrize("text, want", [*((t, True) for t in LOST), *((t, False) for t in OF_THIS_PROCESS)])
def test_a_lost_process_is_told_from_a_fault_of_this_one(text, want, monkeypatch):
    """Messages as XLA writes them; they may be the cause of what is raised."""
    error = RuntimeError("while saving")
    error.__cause__ = jax.errors.JaxRuntimeError(text)
    assert distributed.lost(error) is False  # alone nobody can be lost
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert distributed.lost(error) is want and distributed.lost(error.__cause__) is want
    assert not distributed.lost(ValueError(text))


ENDS = """
import sys
import jax
from medvlp_jax import cli, distributed

def fail():
    raise jax.errors.JaxRuntimeError(sys.argv[1])

jax.process_count = lambda: 2
cli.guarded(distributed.run, fail)
"""


@pytest.mark.parametrize("text, code", [(LOST[0], distributed.LOST), (OF_THIS_PROCESS[1], 1)])
def test_the_cause_is_always_printed(text, code):
    done = subprocess.run([sys.executable, "-c", ENDS, text], cwd=processes.ROOT, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "JAX_PLATFORMS": "cpu"})  # fmt: skip
    assert done.returncode == code and "Traceback" in done.stderr and text in done.stderr
    assert ("error: process 0 of 2 stops: another process ended" in done.stderr) == (code == distributed.LOST)


@pytest.mark.parametrize(
    "hosts, workers, want",
    [
        ("aaaaaaaa", 16, [2] * 8), ("aaaaaaaa", 20, [3, 3, 3, 3, 2, 2, 2, 2]), ("aaaabbbb", 16, [4] * 8),
        ("abababab", 5, [2, 2, 1, 1, 1, 1, 1, 1]), ("aaaaaaaa", 3, [1] * 8), ("ab", 0, [0, 0]), ("abc", 4, [4, 4, 4]),
    ],
)  # fmt: skip
def test_the_workers_of_a_host_are_shared_by_its_processes(hosts, workers, want, monkeypatch):
    sent = []

    def share(index):
        monkeypatch.setattr(distributed.socket, "gethostname", lambda: hosts[index])
        monkeypatch.setattr(jax, "process_index", lambda: index)
        return distributed.share_of_host(workers)

    monkeypatch.setattr(jax, "process_count", lambda: len(hosts))
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda x: sent.append(x) or np.stack([x] * len(hosts)))
    for index in range(len(hosts)):  # once to learn what each sends
        share(index)
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda x: np.stack(sent[: len(hosts)]))
    assert [share(index) for index in range(len(hosts))] == want


def test_two_processes_share_workers_and_agree_on_checkpoints_by_the_clock(tmp_path):
    """They are on one host, so that three workers are two and one. A step that only one saved would hang."""
    options = ("--config.train.steps=40", "--config.data.workers=3", "--config.train.checkpoint_every=0.02 min",
               "--config.train.keep=100")  # fmt: skip
    written = processes.run(tmp_path / "run", *options, processes=2, method="medklip")
    assert "data.workers=3 for the 2 processes of this host: 2 for this one" in written[0]
    steps = checkpoint.steps(tmp_path / "run")
    assert len(steps) > 1 and steps[-1] == 40 and steps[0] >= 5


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """12 steps of one process with 4 devices."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    processes.run(folder, "--config.train.steps=12", devices=4)
    return folder


OPTIONS = ("--config.train.steps=12", "--config.train.checkpoint_every=3")


@pytest.mark.soak
class TestSoak:
    """Not on a machine that stops all of them for longer than their --heartbeat (SIGSTOP, sleep): JAX ends them then."""

    def test_four_processes_train_as_one(self, whole, tmp_path):
        """As near as a process with 1 device is to one with 4: what is left is the order of sums."""
        processes.run(tmp_path / "run", *OPTIONS, processes=4)
        processes.run(tmp_path / "alone", *OPTIONS)
        want, got, alone = (processes.records(folder) for folder in (whole, tmp_path / "run", tmp_path / "alone"))
        print(f"4 processes {deviation(got, want):.1e}, 1 device {deviation(alone, want):.1e} from 4 devices")
        same(got[:1], want[:1])
        same(got, want, grown=True)
        assert deviation(got, want) < deviation(alone, want)

    @pytest.mark.parametrize("count, victim", [(2, 0), (2, 1), (4, 2)])
    def test_a_killed_process_ends_the_others_and_all_start_again(self, count, victim, tmp_path):
        options = {"processes": count, "devices": 4 // count, "method": "medklip"}
        processes.run(tmp_path / "whole", *OPTIONS, **options)
        started = processes.start(tmp_path / "run", *OPTIONS, "--heartbeat=15", **options)
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
                assert SAID[started[i].returncode] in text
                print(f"number {i}: code {started[i].returncode}")
        processes.run(tmp_path / "run", *OPTIONS, **options)
        assert processes.records(tmp_path / "run") == processes.records(tmp_path / "whole")
        values = [checkpoint.load_variables(tmp_path / name)[0] for name in ("whole", "run")]
        jax.tree.map(np.testing.assert_array_equal, *values)

    @pytest.mark.parametrize("asked", [(0, 1, 2, 3), (2,)], ids=["all", "one"])
    def test_a_signal_gives_one_checkpoint_that_any_number_of_devices_goes_on_from(self, asked, tmp_path):
        options = ("--config.train.checkpoint_every=0", "--config.schedule.warmup=0.1")
        started = processes.start(tmp_path / "run", "--config.train.steps=100000", *options, processes=4, method="medklip")
        processes.wait_for_step(tmp_path / "run", started, 2)
        for i in asked:
            started[i].send_signal(signal.SIGTERM)
        written = processes.finish(tmp_path / "run", started)
        (step,) = checkpoint.steps(tmp_path / "run")
        assert f"signal 15: step {step} is saved" in written[0]
        assert processes.records(tmp_path / "run")[-1]["step"] == step
        found = {}
        for devices in (1, 2, 8):
            folder = shutil.copytree(tmp_path / "run", tmp_path / f"on{devices}")
            (text,) = processes.run(folder, f"--config.train.steps={step + 3}", *options, devices=devices, method="medklip")
            assert f"resuming at step {step} of {step + 3}" in text
            found[devices] = processes.records(folder)
            assert found[devices][-1]["step"] == step + 3
        for devices in (2, 8):
            same(found[devices][: step + 1], found[1][: step + 1])  # the first step from the same state
            same(found[devices], found[1], grown=True)
