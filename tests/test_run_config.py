"""The config in run.json is as it was written, and what an older run lacks is filled in and named, or asked for."""
import json
import logging

import pytest

from configs import mlip
from medvlp_jax import metrics, run_config
from tests import tiny


def write(folder, config, *without):
    """run.json of a config, without some of its dotted keys."""
    metrics.write_run_file(folder, config.to_dict())
    record = json.loads((folder / "run.json").read_text())
    for name in without:
        *parents, key = name.split(".")
        node = record["config"]
        for part in parents:
            node = node[part]
        del node[key]
    (folder / "run.json").write_text(json.dumps(record))


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


@pytest.mark.parametrize("variant", ["", "quickstart"])
def test_a_config_comes_back_as_it_was(variant, tmp_path, caplog):
    config = mlip.get_config(variant)
    write(tmp_path, config)
    assert run_config.saved(tmp_path) == config and not warnings(caplog)


def test_what_functions_have_defaults_for_is_no_gap(tmp_path, caplog):
    config = tiny.run_config("mlip")  # another trunk, other sizes of text than the config file's
    write(tmp_path, config, "data.examples.hflip", "evals.options.retrieval")
    saved = run_config.saved(tmp_path)
    assert saved.model == config.model and "hflip" not in saved.data.examples and not saved.evals.options
    assert not warnings(caplog)


def test_keys_that_came_later_are_filled_in_and_named(tmp_path, caplog):
    config = mlip.get_config("quickstart")
    write(tmp_path, config, "objective.contrast_chunk", "model.fusion_depth", "losses", "seed")
    saved = run_config.saved(tmp_path)
    assert saved == config and saved.model.fusion_depth == 1  # of the variant; the recipe has 2
    assert run_config.without_initial_weights(saved, tmp_path).model == config.model
    (said,) = warnings(caplog)  # once, though it is read twice
    assert "is from before these config keys; they are as in configs/mlip.py:quickstart: " in said
    for named in ("seed=0", "model.fusion_depth=1", "objective.contrast_chunk=0", "losses={'alignment': 0.7"):
        assert named in said
    config.objective.contrast_chunk = 8  # what the run has said stays
    write(tmp_path, config, "objective.divergence")
    assert run_config.saved(tmp_path).objective.contrast_chunk == 8


@pytest.mark.parametrize("key, value", [("workload", "mine"), ("variant", "gone"), ("workload", "not/a name")])
def test_without_its_config_file_the_keys_are_named_with_a_way_on(key, value, tmp_path):
    config = mlip.get_config("quickstart")
    config[key] = value
    write(tmp_path, config)
    assert run_config.saved(tmp_path) == config  # nothing is missing
    write(tmp_path, config, "objective.contrast_chunk", "train.patience")
    with pytest.raises(ValueError, match="no config keys objective.contrast_chunk, train.patience, and there is no conf") as e:
        run_config.saved(tmp_path)
    assert "Give --config=FILE.py" in str(e.value) and "objective.contrast_chunk=0" in str(e.value)


def test_transfer_runs_are_looked_up_among_the_tasks(tmp_path, caplog):
    from configs.tasks import linear

    config = linear.get_config("quickstart")
    write(tmp_path, config, "train.patience")
    assert run_config.saved(tmp_path) == config and "configs/tasks/linear.py:quickstart" in warnings(caplog)[0]


def test_no_run_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the --workdir of a run, or --config"):
        run_config.saved(tmp_path)
