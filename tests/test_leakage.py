"""A run that learnt from a set and is scored on its relative: a warning in log, results and page, unless it was left out."""
import json

import pytest

from configs.tasks import linear
from medvlp_jax import evaluate, experiment, leakage, metrics, probe, run_config, train
from medvlp_jax.input import identifiers
from medvlp_jax.tasks import page
from tests import tiny
from tests.input.test_exclusion import UUID, ids_file
from tests.input.test_exclusion import mapping as mapped
from tests.input.test_manifest import write
from tests.tasks import fakes, pages


def part(*names, of=(), **more):
    return {"sets": list(names), "exclusions": [{"sha256": "f" * 64, "of": list(of)}] if of else [], **more}


def entry(dataset, split="test", by="patient", spaces=("mimic",)):
    return {"dataset": dataset, "split": split, "by": by, "images": 1, "spaces": list(spaces)}


PAIRS = [("mimic_cxr", "ms_cxr"), ("mimic_cxr", "edema_severity"), ("chestxray14", "rsna"), ("chestxray14", "siim"),
         ("chestxdet10", "chestxray14"), ("covidx", "rsna"), ("chexpert", "chexpert5x200"), ("ms_cxr", "mimic_cxr"),
         ("nih", "chestxdet10")]  # fmt: skip


@pytest.mark.parametrize("one, other", PAIRS)
def test_relatives_are_warned_of(one, other):
    (text,) = leakage.warnings([part("padchest"), part(one)], [other], "test")
    assert f"learnt from {one}, and {other} shares patients" in text and f"patients of {other} test may" in text
    assert ("no list is published" in text) == ("siim" in (one, other))
    assert ("--mapping=FILE" in text) == ({one, other} in ({"chestxray14", "rsna"},))


def test_others_and_a_set_itself_are_not():
    assert leakage.warnings([part("mimic_cxr", "padchest")], ["mimic_cxr", "vindr", "openi", "chestxray14"], "test") == []
    assert identifiers.origin("vindr") == "vindr" and leakage.warnings([part("vindr")], ["chestxray14"], "test") == []


def test_only_an_exclusion_that_fits_is_enough():
    def leaks(one, other, *of, split="test"):
        return len(leakage.warnings([part(one, of=of)], [other], split))

    assert leaks("mimic_cxr", "ms_cxr", entry("ms_cxr")) == leaks("mimic_cxr", "ms_cxr", entry("ms_cxr", "all")) == 0
    assert leaks("mimic_cxr", "ms_cxr", entry("ms_cxr", "val")) == 1  # another split
    assert leaks("mimic_cxr", "ms_cxr", entry("edema_severity")) == 1  # another set
    assert leaks("mimic_cxr", "ms_cxr", entry("ms_cxr", by="image")) == 1  # other images of the patients stayed
    assert leaks("chestxray14", "rsna", entry("rsna", spaces=["rsna"])) == 1  # their names could not be compared
    assert leaks("chestxray14", "rsna", entry("rsna", spaces=["nih", "rsna"])) == 0
    assert leaks("siim", "chestxray14", entry("chestxray14", spaces=["nih", "rsna"])) == 1
    assert leakage.warnings([part("ms_cxr", of=[entry("mimic_cxr")]), part("mimic_cxr")], ["mimic_cxr"], "test") == []


def test_what_older_runs_learnt_from_is_told_by_their_config(tmp_path):
    def of(**data):
        config = {"data": {"path": "", **data}, "init": "", "model": {"image": {"init": ""}}}
        metrics.write_run_file(tmp_path, config)
        return [made["sets"] for made in leakage.recorded(tmp_path, config)]

    (tmp_path / "out").mkdir()
    (tmp_path / "out/card.json").write_text(json.dumps({"dataset": "mimic_cxr"}))
    metrics.write_run_file(tmp_path, {"data": {"name": "rsna"}, "model": {}})  # before `init` and `mixture` were keys
    assert [made["sets"] for made in leakage.recorded(tmp_path, {})] == [["rsna"]]
    assert of(name="chexpert") == [["chexpert"]] and of(name="manifest") == []
    assert of(name="prepared", path=str(tmp_path / "out")) == [["mimic_cxr"]]
    assert of(name="mixture", mixture=[["prepared", str(tmp_path / "out"), 1], ["rsna", "x", 2]]) == [["mimic_cxr"], ["rsna"]]


def test_runs_that_a_run_begins_with_count(tmp_path):
    """Fine-tuned on RSNA from a run on ChestX-ray14; and a published model, which learnt from MIMIC-CXR."""
    config = {"data": {"name": "chestxray14", "path": ""}, "init": "", "model": {"image": {"init": ""}}}
    (tmp_path / "first").mkdir()
    metrics.write_run_file(tmp_path / "first", config)
    later = {"data": {"name": "rsna", "path": ""}, "init": "", "model": {"image": {"init": str(tmp_path / "first")}}}
    (tmp_path / "second").mkdir()
    metrics.write_run_file(tmp_path / "second", later)
    (text,) = leakage.warnings(leakage.recorded(tmp_path / "second", later), ["rsna"], "test")
    assert text.startswith("The run first that it began with learnt from chestxray14, and rsna shares patients")
    published = {"init": "hf:someone/model", "model": {"image": {"init": ""}}}
    (text,) = leakage.warnings(leakage.recorded(tmp_path / "none", published), ["ms_cxr"], "test")
    assert text.startswith("The published model that it began with learnt from mimic_cxr")


def mimic_manifest(folder, source, splits):
    """A manifest of `source` with one image and report for each patient of MIMIC-CXR; {split: patients}."""
    folder.mkdir()
    rows = [{"image": f"files/p10/p1000{p:04}/s5000{p:04}/{p}.png", "patient_id": f"1000{p:04}", "source": source,
             "split": split, **dict(zip(("labels", "absent"), ("Effusion", "Edema")[:: 1 if p % 2 else -1], strict=True)),
             "report": "Small left pleural effusion. No edema." if p % 2 else "No effusion. Mild edema."}
            for split, patients in splits.items() for p in patients]  # fmt: skip
    return rows, str(write(folder, rows))


@pytest.mark.usefixtures("optax_promotion", "quick_compiles")
def test_a_run_writes_down_what_it_left_out(tmp_path, caplog):
    """Trained on MIMIC-CXR, scored on MS-CXR: a warning without the exclusion; with it, none, and its hash stands in run.json,
    in the results and on the page."""
    _, path = mimic_manifest(tmp_path / "mimic", "mimic_cxr", {"train": range(24), "val": range(24, 28), "test": range(28, 32)})
    rows, other = mimic_manifest(tmp_path / "ms", "ms_cxr", {"test": range(20, 26)})
    ids = ids_file(tmp_path / "ids.json", rows, split="test")
    settings = {"data/name": "manifest", "data/path": path, "train/steps": 1, "evals/tasks": (), "data/exclude": (ids,)}
    workdir = tmp_path / "run"
    train.train(tiny.run_config("medklip", **settings), workdir)
    assert "may have been trained on" not in caplog.text
    again, found = run_config.saved(workdir), {}
    assert run_config.of_evaluation(again, workdir).data.exclude == (ids,)
    again.data.path, again.evals.figures = other, True
    assert run_config.of_evaluation(again, workdir).data.exclude == ()  # MS-CXR's own patients are what is scored
    again.evals.options.zeroshot = {"min_positives": 1, "resamples": 0}
    for name in ("with", "without"):
        if name == "without":  # as a run writes it that left nothing out
            whole = experiment.build(tiny.run_config("medklip", **{**settings, "data/exclude": ()}), tmp_path / "whole")
            metrics.write_run_file(workdir, whole.config.to_dict(), data=whole.fingerprints, training=whole.training)
        evaluate.evaluate(again, workdir, tasks=["zeroshot"])
        results = [json.loads(line) for line in (workdir / "eval/results.jsonl").open()]
        assert results and all(r["n"] == 6 for r in results if "/" not in r["metric"])
        found[name] = (json.loads((workdir / "run.json").read_text()), results, caplog.text,
                       (workdir / "eval/report.html").read_text())  # fmt: skip
        caplog.clear()
    digest = json.loads((tmp_path / "ids.json").read_text())["sha256"]
    run, results, log, text = found["without"]
    warning = "The run learnt from mimic_cxr, and ms_cxr shares patients with it (MIMIC-CXR)"
    assert run["training"] == [{"sets": ["mimic_cxr"], "exclusions": []}]
    assert warning in log and warning in text and all(r["leakage"][0].startswith(warning) for r in results)
    assert not any("excluded_from_training" in r for r in results) and digest not in text
    run, results, log, text = found["with"]
    (facts,) = run["training"][0]["exclusions"]
    assert facts["sha256"] == digest and facts["rows_left_out"] == 4 and "learnt from" not in log + text
    assert all(r["excluded_from_training"] == [digest] and "leakage" not in r for r in results) and digest in text
    assert "10000020" not in log + json.dumps(run)


def test_a_probe_says_it_in_every_record(tmp_path, monkeypatch):
    """A mixture that learns from MIMIC-CXR and is scored on MS-CXR; no layer is fitted here."""
    splits = {"mimic_cxr": {"train": range(8), "val": range(8, 10)}, "ms_cxr": {"train": range(20, 22), "test": range(4)}}
    parts = [("manifest", mimic_manifest(tmp_path / name, name, own)[1], 1.0) for name, own in splits.items()]
    monkeypatch.setattr(probe, "start", lambda exp: {})
    monkeypatch.setattr(probe, "features", lambda *args: None)
    scored = lambda *args, **options: [{"task": "classification", "metric": "auc_macro", "value": 0.5, "n": 4}]  # noqa: E731
    monkeypatch.setattr(probe, "score", scored)
    c = linear.get_config("quickstart")
    c.model.image = {"name": "vit", "patch_size": 8, "width": 8, "depth": 1, "num_heads": 2, "mlp_dim": 8, "init": ""}
    c.data.name, c.data.mixture, c.data.examples.targets = "mixture", tuple(parts), ("Edema", "Effusion")
    (record,) = probe.probe(c, tmp_path / "run", shares=(1.0,), seeds=1)
    assert record["leakage"][0].startswith("The run learnt from mimic_cxr, and ms_cxr shares patients with it")


def test_the_page_puts_the_warning_first(tmp_path):
    pages.evaluate(tmp_path, fakes.RANDOM, {"zeroshot": {"resamples": 0}}, leakage=["The run learnt <b>"],
                   left_out_of_training=["Left out of training: 3 identifiers"])  # fmt: skip
    text = page.write(tmp_path).read_text("utf-8")
    order = [text.index(part) for part in ("The run learnt &lt;b&gt;", "Left out of training: 3", "AUC, mean of the findings")]
    assert order == sorted(order)


def test_the_mapping_silences_the_warning_for_rsna(tmp_path):
    table = mapped(tmp_path / "m.json", [("00000013_005.png", UUID, "")])
    rsna = [{"image": f"{UUID}.dcm", "source": "rsna", "split": "test"}]
    for mapping, count in ((None, 1), (table, 0)):
        ids_file(tmp_path / "ids.json", rsna, "test", mapping=mapping)
        of = json.loads((tmp_path / "ids.json").read_text())["of"]
        assert len(leakage.warnings([part("chestxray14", of=of)], ["rsna"], "test")) == count
