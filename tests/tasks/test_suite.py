import json

import numpy as np
import pytest
from rich.console import Console

from medvlp_jax.method import Method
from medvlp_jax.tasks import suite
from tests.tasks import fakes


def method(predict):
    return Method(init=None, loss=None, predict=predict)


ALL = {"zeroshot": {"resamples": 50}, "grounding": {"resamples": 50}, "retrieval": {"gallery": 8, "resamples": 50}}


@pytest.fixture(scope="module")
def batches():
    return fakes.batches(fakes.examples(20))


def results(workdir):
    return [json.loads(line) for line in (workdir / "eval" / "results.jsonl").read_text().splitlines()]


def test_records_table_and_figures(tmp_path, batches, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    records = suite.evaluate(method(fakes.PERFECT), {}, ALL, batches, tmp_path, 7, dataset="phantom", split="val",
                                validation_fn=batches)
    found = {(r["task"], r["metric"]): r for r in results(tmp_path)}
    assert len(found) == len(records)
    for key in (("zeroshot", "auc_macro"), ("grounding", "pointing_game"), ("retrieval", "i2t_recall@5"),
                ("zeroshot", "f1_honest"), ("grounding", "dice_honest")):
        record = found[key]
        assert record["value"] == 1 and record["n"] > 0
        assert {k: record[k] for k in ("dataset", "split", "protocol", "step")} == {
            "dataset": "phantom", "split": "val", "protocol": "default", "step": 7}
    assert found["zeroshot", "auc_macro"]["ci"] == [1, 1]
    assert found["retrieval", "i2t_recall@5"]["chance"] == pytest.approx(5 / 8)
    text = capsys.readouterr().out
    assert "auc_macro" in text and "pointing_game" in text and "0.082" in text  # the chance of pointing
    assert sorted(p.name for p in (tmp_path / "eval" / "figures").iterdir()) == ["heatmaps.png", "roc.png", "training.png"]


def test_unknown_task_runs_nothing(tmp_path, batches):
    with pytest.raises(ValueError, match="unknown task 'zero_shot'; known: classification, detection, .*zeroshot"):
        suite.evaluate(method(fakes.PERFECT), {}, {"grounding": {}, "zero_shot": {}}, batches, tmp_path, 1)
    assert not (tmp_path / "eval").exists()


@pytest.mark.parametrize("bad", [{"retrieval": {}}, {"zeroshot": {"resample": 3}}], ids=["missing predict", "misspelt option"])
def test_a_failing_task_keeps_the_others(tmp_path, batches, bad):
    predict = {k: v for k, v in fakes.PERFECT.items() if not k.startswith("embed")}
    tasks = {**bad, "grounding": {"resamples": 0}}
    with pytest.raises(RuntimeError, match="1 of 2 tasks failed: "):
        suite.evaluate(method(predict), {}, tasks, batches, tmp_path, 1, draw=False)
    found = {r["metric"]: r for r in results(tmp_path)}
    assert found["pointing_game"]["value"] == 1
    assert found["failed"]["value"] is None
    assert "cannot predict 'embed_image'" in found["failed"]["error"] or "resample" in found["failed"]["error"]
    records = suite.evaluate(method(predict), {}, tasks, batches, tmp_path, 1, draw=False, raise_failed=False)
    assert any(r["metric"] == "pointing_game" for r in records)


def test_finished_tasks_are_on_disk_before_the_next_one_starts(tmp_path, batches):
    calls = []

    class Interrupt(BaseException):
        pass

    def interrupted():
        if calls:
            raise Interrupt  # as a kill in the second task would
        calls.append(True)
        return batches()

    with pytest.raises(Interrupt):
        suite.evaluate(method(fakes.PERFECT), {}, {"grounding": {"resamples": 0}, "retrieval": {}}, interrupted, tmp_path,
                          1, draw=False)
    assert any(r["metric"] == "pointing_game" for r in results(tmp_path))


def test_new_records_replace_those_of_the_same_place_only(tmp_path, batches):
    def run(predict, step, **tasks):
        suite.evaluate(method(predict), {}, tasks, batches, tmp_path, step, draw=False)

    run(fakes.CONSTANT, 1, grounding={"resamples": 0}, zeroshot={"resamples": 0})
    run(fakes.PERFECT, 2, zeroshot={"resamples": 0})
    run(fakes.PERFECT, 1, zeroshot={"resamples": 0})
    found = [(r["task"], r["step"], r["value"]) for r in results(tmp_path) if r["metric"] in ("auc_macro", "pointing_game")]
    assert found == [("grounding", 1, 0), ("zeroshot", 2, 1), ("zeroshot", 1, 1)]


def test_write_survives_a_damaged_file_and_says_what_json_can(tmp_path):
    path = tmp_path / "eval" / "results.jsonl"
    path.parent.mkdir()
    path.write_text('{"task": "a", "metric": "m", "value": 1}\n{"task": "b", "me')
    record = {"task": "c", "metric": "m", "value": np.float32(np.nan), "n": np.int64(3), "per_class": {1: np.ones(2)}}
    suite.write(path, [record])
    assert results(tmp_path) == [{"task": "a", "metric": "m", "value": 1},
                                 {"task": "c", "metric": "m", "value": None, "n": 3, "per_class": {"1": [1, 1]}}]
    assert [p.name for p in path.parent.iterdir()] == ["results.jsonl"]


def test_table_shows_undefined_and_failed(tmp_path):
    console = Console(record=True, width=120)
    place = {"dataset": "x", "split": "test", "step": 3}
    suite.show([{**place, "task": "zeroshot", "metric": "auc/mass", "value": 0.25, "n": 4, "ci": [0.1, 0.4]},
                   {**place, "task": "zeroshot", "metric": "f1_honest", "value": float("nan"), "n": 0},
                   {**place, "task": "retrieval", "metric": "failed", "value": float("nan"), "n": 0, "error": "KeyError"}],
                  console)
    text = console.export_text()
    assert text.index("f1_honest") < text.index("auc/mass")  # single findings come last
    assert "undefined" in text and "KeyError" in text and "0.100 .. 0.400" in text
