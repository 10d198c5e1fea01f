"""The page and the comparison as `medvlp_jax.evaluate` writes them: by command, and never at the cost of the numbers."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from medvlp_jax import errors, evaluate, experiment
from medvlp_jax.tasks import comparison_page, page, suite
from tests import tiny
from tests.tasks import fakes, pages

ROOT = Path(__file__).parents[1]
ONE_TASK = {"zeroshot": {"resamples": 5}}


@pytest.fixture
def folders(tmp_path):
    for name, predict in (("one", fakes.RANDOM), ("two", fakes.PERFECT)):
        pages.evaluate(tmp_path / name, predict, ONE_TASK)
    return str(tmp_path / "one"), str(tmp_path / "two")


def test_a_page_that_fails_costs_no_numbers(tmp_path, monkeypatch, caplog):
    def broken(workdir):
        raise RuntimeError("no ink")

    written = [{"task": "zeroshot", "metric": "auc_macro", "value": 0.5, "n": 3}]
    monkeypatch.setattr(page, "write", broken)
    monkeypatch.setattr(suite, "evaluate", lambda *args, **options: written)
    config = tiny.run_config("medklip", **{"evals/figures": True})
    assert evaluate.run_tasks(experiment.build(config, tmp_path), {}, tmp_path, 4) == written
    assert "the report was not written" in caplog.text and "no ink" in caplog.text
    described = json.loads((tmp_path / "eval" / "protocol.json").read_text())
    assert described["place"]["step"] == 4 and described["config"]["method"] == "medklip"
    assert set(json.loads((tmp_path / "run.json").read_text())["data"]) == {"test", "val"}


def test_a_failed_task_is_on_the_page_of_the_others(tmp_path, monkeypatch):
    real = suite.evaluate

    def evaluated(*args, **options):
        monkeypatch.setattr(suite, "evaluate", real)
        pages.evaluate(tmp_path, fakes.RANDOM, {"zeroshot": {"resamples": 0}, "retrieval": {"gallery": "many"}})
        raise RuntimeError("1 of 2 tasks failed")

    monkeypatch.setattr(suite, "evaluate", evaluated)
    config = tiny.run_config("medklip", **{"evals/figures": True})
    with pytest.raises(RuntimeError, match="1 of 2 tasks failed"):
        evaluate.run_tasks(experiment.build(config, tmp_path), {}, tmp_path, pages.PLACE["step"])
    text = (tmp_path / "eval" / "report.html").read_text("utf-8")
    assert "Image and report retrieval failed: TypeError" in text and "AUC, mean of the findings" in text


def test_compare_takes_two_directories(folders, monkeypatch, tmp_path):
    path = evaluate.compare(list(folders))
    assert path == Path(folders[0]) / "eval" / "comparison.html" and path.with_suffix(".json").is_file()
    for wrong in (folders[:1], [*folders, "third"]):
        with pytest.raises(ValueError, match=rf"--compare takes two run directories, came {len(wrong)}"):
            evaluate.compare(list(wrong))
    with pytest.raises(FileNotFoundError, match="no evaluation in .*nowhere") as error:
        evaluate.compare([folders[0], str(tmp_path / "nowhere")])
    assert isinstance(error.value, errors.UserError)
    got = []
    monkeypatch.setattr(comparison_page, "write", lambda *args: got.append(args) or Path("page.html"))
    for words in (["--compare", "A", "B", "--out=C"], ["--compare=A,B", "--out=C"], ["--out=C", "--compare", "A", "B"]):
        values = flags.FlagValues()
        evaluate.define_flags(values)
        values.set_gnu_getopt(True)
        monkeypatch.setattr(evaluate, "FLAGS", values)
        evaluate.main(values(["evaluate", *words]))
    assert got == [("A", "B", "C")] * 3


def test_the_command_needs_no_config(folders, tmp_path):
    command = [sys.executable, "-m", "medvlp_jax.evaluate", "--compare", *folders, f"--out={tmp_path / 'c.html'}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "c.json").read_text())["tasks"]["zeroshot"]["rows"]
    assert rows[0]["metric"] == "auc_macro" and rows[0]["b"] == 1 > rows[0]["a"] and 0 < rows[0]["p"] < 0.05
