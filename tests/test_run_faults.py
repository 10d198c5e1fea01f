"""Faults and traces of real runs of `python -m medvlp_jax.train`: a full disk, a read-only one, another config."""
import gzip
import json
import os
import re
import shutil
import subprocess

import jax
import pytest

from medvlp_jax import checkpoint, checksums
from tests import processes

EVERY = ("--config.train.checkpoint_every=2", "--config.train.eval_every=0")


@pytest.fixture
def mounted(tmp_path):
    """(options of mount) -> a folder on a small disk of its own."""
    folder, there = tmp_path / "disk", []
    folder.mkdir()

    def mounted(options):
        if os.name != "posix" or shutil.which("mount") is None or os.geteuid() != 0:
            pytest.skip("mounting a small disk takes root and the program mount")
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        there.append(folder)
        return folder

    yield mounted
    for disk in there:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """-> (folder of a run of 6 steps, traced, what it wrote)."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    (text,) = processes.run(folder, "--config.train.steps=6", "--profile=3:4", *EVERY, method="medklip")
    return folder, text


def test_a_trace_and_the_split_of_the_time(whole):
    folder, text = whole
    assert f"trace of steps 3 to 4: {folder / 'profile'}" in text
    (trace,) = (folder / "profile").rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.open(trace).read())["traceEvents"]
    names = {e["name"] for e in events if e.get("ph") == "X"}
    assert any("train_step" in name for name in names), sorted(names)[:20]
    (planes,) = (folder / "profile").rglob("*.xplane.pb")
    assert any("train_step" in e.name for p in jax.profiler.ProfileData.from_file(str(planes)).planes for line in p.lines
               for e in line.events)  # fmt: skip
    found = re.search(r"goodput ([\d.]+)%: ([\d.]+) of ([\d.]+) s went into 6 steps; start ([\d.]+) s, input ([\d.]+) s, "
                      r"checkpoint ([\d.]+) s, evaluation ([\d.]+) s", text)  # fmt: skip
    share, steps, total, *parts = map(float, found.groups())
    assert abs(steps + sum(parts) - total) < 0.4 and abs(share - 100 * steps / total) < 100 * 0.1 / total + 0.1
    seconds = json.loads((folder / "run.json").read_text())["seconds"]
    assert seconds["checkpoint"] > 0 and seconds["start"] > seconds["evaluation"] == 0
    assert sum(v for k, v in seconds.items() if k != "total") == pytest.approx(seconds["total"])


def test_a_full_disk_ends_the_run_which_goes_on_when_there_is_room(mounted, tmp_path):
    """Whether the disk is full for a checkpoint or already for a line of metrics."""
    folder = mounted("size=32m")
    started = processes.start(folder, "--config.train.steps=100000", *EVERY, method="medklip")
    processes.wait_for_step(folder, started, 5)
    with (folder / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError):
        while True:
            filler.write(bytes(1 << 14))
    (text,) = processes.finish(folder, started, codes=[2])
    steps = checkpoint.steps(folder)
    assert steps and re.search(rf"error: .*; the last complete checkpoint is of step {steps[-1]}\. Make room", text)
    assert checksums.problems(folder / "checkpoints" / str(steps[-1])) == []
    (folder / "filler").unlink()
    (text,) = processes.run(folder, f"--config.train.steps={steps[-1] + 2}", "--config.schedule.lr=0.5e-4", *EVERY,
                            method="medklip")  # fmt: skip
    assert f"resuming at step {steps[-1]} of {steps[-1] + 2}" in text
    assert re.search(r"differs from the one the run began with in: schedule.lr \(was [\d.e-]+, now 5e-05\)\n", text)
    assert [r["step"] for r in processes.records(folder)] == list(range(1, steps[-1] + 3))


def test_a_read_only_workdir_fails_before_anything_is_computed(mounted):
    folder = mounted("ro")
    (text,) = processes.finish(folder, processes.start(folder, "--config.train.steps=6", method="medklip"), codes=[2])
    assert f"error: workdir {folder} cannot be written: " in text and "give another --workdir" in text
    assert "Read-only file system" in text and "steps of" not in text and "Traceback" not in text


def test_another_config_is_refused_with_both_values_of_what_differs(whole, tmp_path):
    folder = shutil.copytree(whole[0], tmp_path / "run")
    changed = ("--config.model.width=32", "--config.seed=7", "--config.train.log_every=2")
    started = processes.start(folder, "--config.train.steps=8", *changed, *EVERY, method="medklip")
    (text,) = processes.finish(folder, started, codes=[2])
    assert "error: checkpoint" in text and "is of another model or optimizer than the config" in text
    assert "differs from the one the run began with in: " in text and "log_every" not in text
    assert "seed (was 0, now 7)" in text and "model.width (was 16, now 32)" in text
    assert checkpoint.steps(folder) == checkpoint.steps(whole[0])
