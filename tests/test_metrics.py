"""metrics.jsonl, TensorBoard, run.json and the progress bar."""
import json
import os
import pty
import re
import sys
import time

import jax
import pytest
from absl import logging

from medvlp_jax import metrics


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(folder, steps, resume=0, **options):
    writer = metrics.Writer(folder, 10, resume, **{"tensorboard": False, **options})
    for step in steps:
        writer.write(step, {"loss": 1 / step, "lr": 0.1})
    writer.close()


def test_records_are_one_json_object_a_line(tmp_path):
    write(tmp_path, (1, 2))
    assert records(tmp_path) == [{"step": 1, "loss": 1.0, "lr": 0.1}, {"step": 2, "loss": 0.5, "lr": 0.1}]


def test_a_record_can_be_read_at_once(tmp_path):
    """A killed run has lost nothing that it logged."""
    writer = metrics.Writer(tmp_path, 10, tensorboard=False)
    writer.write(1, {"loss": 2.0})
    assert records(tmp_path) == [{"step": 1, "loss": 2.0}]
    writer.close()
    writer.close()  # twice does no harm


def test_undefined_values_are_null(tmp_path):
    writer = metrics.Writer(tmp_path, 10, tensorboard=True)
    writer.write(1, {"auc": float("nan"), "rank": float("inf"), "loss": 1.0})
    writer.close()
    assert records(tmp_path) == [{"step": 1, "auc": None, "rank": None, "loss": 1.0}]


def test_resuming_cuts_what_came_after_the_checkpoint(tmp_path):
    write(tmp_path, range(1, 8))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed while writing
    write(tmp_path, (6, 7, 8), resume=5)
    assert [r["step"] for r in records(tmp_path)] == [1, 2, 3, 4, 5, 6, 7, 8]
    write(tmp_path, (1,))  # killed before its first checkpoint: a new beginning
    assert [r["step"] for r in records(tmp_path)] == [1]
    assert not list(tmp_path.glob("*.tmp"))


def test_tensorboard_shows_the_resumed_curve_once(tmp_path):
    """The event files hold every scalar; the second one tells TensorBoard to forget steps after the checkpoint."""
    write(tmp_path, (1, 2, 3, 4), tensorboard=True)
    first = {p.name for p in (tmp_path / "tensorboard").iterdir()}
    time.sleep(1.1)  # the names of event files go by seconds
    write(tmp_path, (3, 4), resume=2, tensorboard=True)
    (second,) = [p for p in (tmp_path / "tensorboard").iterdir() if p.name not in first]
    events = list(read_events(second))
    assert [e.step for e in events if e.session_log.status == e.session_log.START] == [3]
    assert [(e.step, v.tag) for e in events for v in e.summary.value] == [(3, "loss"), (3, "lr"), (4, "loss"), (4, "lr")]


def read_events(path):
    """TFRecords by hand: length (8), checksum (4), data, checksum (4)."""
    from tensorboardX.proto import event_pb2

    data = path.read_bytes()
    while data:
        size = int.from_bytes(data[:8], "little")
        yield event_pb2.Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]


def test_processes_other_than_0_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    write(tmp_path, (1, 2), tensorboard=True)
    metrics.Writer(tmp_path, 10).show(1, 2.0, 3.0)
    metrics.write_run_file(tmp_path, {"seed": 0}, data={})
    assert not list(tmp_path.iterdir())


def test_run_file(tmp_path):
    assert metrics.read_run_file(tmp_path) == {}
    metrics.write_run_file(tmp_path, {"seed": 3, "betas": (0.9, 0.95)}, data={"train": "ab"}, parameters=12)
    metrics.update_run_file(tmp_path, data={"test": "cd"})
    record = metrics.read_run_file(tmp_path)
    assert record["config"] == {"seed": 3, "betas": [0.9, 0.95]} and record["parameters"] == 12
    assert record["data"] == {"train": "ab", "test": "cd"}
    assert (record["platform"], record["devices"], record["processes"]) == ("cpu", 8, 1)
    assert record["versions"]["jax"] == jax.__version__ and record["versions"]["python"].startswith("3.")
    assert set(metrics.PACKAGES) < set(record["versions"])


def test_changed_keys_of_a_config():
    old = {"seed": 0, "optim": {"lr": 1.0, "betas": [0.9, 0.95], "gone": 1}, "train": {"steps": 5}, "model": {"image": None},
           "data": {"path": "a.csv", "batch_size": 8}}  # fmt: skip
    new = {"seed": 0, "optim": {"lr": 2.0, "betas": (0.9, 0.95), "new": 1}, "train": {"steps": 9}, "model": {"image": {"w": 1}},
           "data": {"path": "b.csv", "batch_size": 16}}  # fmt: skip
    assert metrics.changed_keys(old, new) == [
        "optim.lr (was 1.0, now 2.0)", "optim.gone (was 1, now not there)", "optim.new (was not there, now 1)",
        "model.image (was None, now {'w': 1})", "data.batch_size (was 8, now 16)",
    ]  # fmt: skip
    assert metrics.changed_keys(json.loads(json.dumps(new)), new) == []


def test_rate_is_of_the_steps_since_it_was_asked_last(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    rate = metrics.Rate(batch_size=4, step=100)
    now[0] = 12.0
    assert rate(110) == pytest.approx(20)
    now[0] = 12.5
    assert rate(115) == pytest.approx(40)


def test_rate_leaves_out_pauses(monkeypatch):
    now, paused = [10.0], [3.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    rate = metrics.Rate(4, 100, lambda: paused[0])
    now[0], paused[0] = 20.0, 11.0  # an evaluation of 8 s
    assert rate(110) == pytest.approx(20)
    now[0] = 22.0  # none since
    assert rate(115) == pytest.approx(10)


def screen(master) -> str:
    """What a terminal has been sent so far, without its control sequences."""
    os.set_blocking(master, False)
    parts = []
    while True:
        try:
            parts.append(os.read(master, 65536))
        except BlockingIOError:
            return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", b"".join(parts).decode()).replace("\r\n", "\n")


def test_the_progress_bar_shows_rate_and_time_left(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    master, slave = pty.openpty()
    handler = logging.get_absl_handler().python_handler
    monkeypatch.setattr(handler, "stream", handler.stream)  # put back afterwards
    with os.fdopen(slave, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        writer = metrics.Writer(tmp_path, 1000, 100, tensorboard=False)
        writer.write(101, {"loss": 2.5})
        writer.show(101, 2.5, 321.4)
        for step in range(102, 120):
            time.sleep(0.02)
            writer.show(step, 2.0)
        print("a message in between", file=handler.stream)
        writer.show(120, 1.25)
        writer.close()
        assert handler.stream is stderr is sys.stderr
        text = screen(master)
    os.close(master)
    lines = re.split(r"[\r\n]+", text.strip())
    assert re.search(r"^training .* 120/1000 loss 1\.2500 321 images/s 0:00:00 left 0:00:\d\d$", lines[-1]), lines[-1]
    assert "a message in between" in lines  # on a line of its own, above the bar
    assert [r["step"] for r in records(tmp_path)] == [101]


def test_without_a_terminal_records_are_log_lines(tmp_path, caplog):
    write(tmp_path, (2,))
    assert "step 2/10  loss 0.5  lr 0.1" in caplog.text
