"""Studies of several images as one example: which view comes when, whose report it has, and where the run goes on."""
import collections
import json
import pickle

import cv2
import numpy as np
import pytest

from data import prepare
from medvlp_jax import experiment
from medvlp_jax.input import fractions, pipeline, studies, views
from medvlp_jax.input.manifest import ManifestSource, scan
from medvlp_jax.input.mixture import MixtureSource
from medvlp_jax.input.prepared import PreparedSource
from medvlp_jax.input.rows import Table
from medvlp_jax.reports import vocab
from tests import tiny
from tests.input.test_manifest import write
from tests.input.test_mixture import Numbered, numbers, stream

SIZES = (1, 2, 3, 2) * 6  # images of a study
OF = np.repeat(np.arange(len(SIZES)), SIZES)  # number of the study of each image


class Views(Numbered):
    """Image i shows the number i and is a view of study OF[i]; the last of each study is its frontal one."""

    studies = OF
    projections = ["PA" if i + 1 == len(OF) or OF[i + 1] != OF[i] else "LATERAL" for i in range(len(OF))]


def test_each_epoch_shows_every_study_once_and_in_time_every_view():
    source = studies.Studies(Views(len(OF)))
    assert len(source) == len(SIZES)
    iterator, seen = stream(source, batch_size=8), collections.Counter()
    drawn = []
    for _ in range(40):
        epoch = numbers(*(next(iterator) for _ in range(3)))
        assert sorted(OF[epoch]) == list(range(len(SIZES)))
        seen.update(epoch)
        drawn.append(epoch)
    assert set(seen) == set(range(len(OF))) and drawn[0] != drawn[1]
    for i, n in seen.items():  # uniform: mean 40 / size, deviation below 3.2
        assert n == 40 if SIZES[OF[i]] == 1 else abs(n - 40 / SIZES[OF[i]]) < 14
    other = numbers(*(next(stream(source, batch_size=24, seed=4)) for _ in range(1)))
    assert other != drawn[0]


def test_views_are_the_same_for_other_processes_and_after_a_resume():
    source = studies.Studies(Views(len(OF)))
    whole = stream(source, batch_size=8)
    want = [numbers(next(whole)) for _ in range(7)]
    first = [stream(source, batch_size=2, process_index=p, process_count=4) for p in range(4)]
    assert [numbers(*(next(it) for it in first)) for _ in range(2)] == want[:2]
    second = [stream(source, batch_size=4, process_index=p, process_count=2, threads=2 * p) for p in range(2)]
    copy = pickle.loads(pickle.dumps(source))  # as worker processes get it
    assert numbers(next(stream(copy, batch_size=8))) == want[0]
    for it in second:
        it.set_state(json.loads(json.dumps(first[0].get_state())))
    assert [numbers(*(next(it) for it in second)) for _ in range(5)] == want[2:]
    with pytest.raises(ValueError, match="of another stream: source was"):
        stream(source.source, batch_size=8).set_state(whole.get_state())
    for it in second:
        it.close()


def test_evaluation_sees_the_frontal_view():
    source = studies.Studies(Views(len(OF)))
    batches = list(pipeline.eval_batches(source, None, pipeline.Options(image_size=8, needs=()), batch_size=8))
    assert numbers(*batches) == [int(i) for i in np.cumsum(SIZES) - 1]
    assert [views.rank(p) for p in ("PA", "AP", "AP SUPINE", "FRONTAL", "", "LATERAL", "LL")] == [0, 1, 1, 1, 2, 3, 3]


def test_the_report_of_a_study_serves_its_views(tmp_path):
    rows = [{"image": "a.png", "study_id": "1", "view": "lateral", "labels": "Mass", "patient_id": "x"},
            {"image": "b.png", "study_id": "1", "view": "ap", "report": "Small left pleural effusion.", "patient_id": "x"},
            {"image": "c.png", "labels": "Edema", "patient_id": "x"}, {"image": "d.png", "labels": "Edema", "patient_id": "x"},
            {"image": "e.png", "study_id": "1", "labels": "Mass", "patient_id": "y"}]  # fmt: skip
    plain = ManifestSource(write(tmp_path, rows), "all")
    assert plain.studies.tolist() == [0, 0, 1, 2, 3]  # an identifier is its patient's; without one each image is alone
    source = studies.Studies(plain)
    assert source.views(0).tolist() == [1, 0] and source[0]["id"] == "b.png" and source.has_reports.tolist() == [1, 0, 0, 0]
    assert source.text(0) == "Small left pleural effusion." and source.text(1) == "" and source.patient(3) == "/y"
    rng = np.random.default_rng(0)
    lateral = next(e for e in (source.draw(0, rng) for _ in range(50)) if e["id"] == "a.png")
    mass, effusion = vocab.entity_index("mass"), vocab.entity_index("effusion")
    assert lateral["report"] == source.text(0) and lateral["presence"][:, mass].max() == 1
    assert lateral["presence"][vocab.position_index("left_pleural"), effusion] == 1
    with pytest.raises(IndexError):
        source[4]


def test_a_study_without_patient_stays_in_one_split(tmp_path):
    rows = [{"image": f"{i}.png", "study_id": f"s{i // 4}"} for i in range(400)]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = scan(Table(path))[0]
    assert len(set(splits)) == 3 and all(len(set(splits[i : i + 4])) == 1 for i in range(0, 400, 4))
    path.write_text("".join(json.dumps({**row, "split": s}) + "\n" for row, s in zip(rows, ("train", "test"), strict=False)))
    with pytest.raises(ValueError, match=r"lines 1 \(train\) and 2 \(test\) are of one study in two splits"):
        scan(Table(path))


def test_mixtures_and_subsets_keep_their_studies():
    source = studies.Studies(MixtureSource([Views(len(OF)), Numbered(6, 100)], [1, 4]))
    assert len(source) == len(SIZES) + 6 and source.groups.tolist() == [0] * 24 + [1] * 6
    assert numbers({"image": np.stack([source[i]["image"][..., None] for i in (1, 24)])}) == [2, 100]
    seen = collections.Counter(numbers(*(next(it) for it in [stream(source, batch_size=8)] for _ in range(6))))
    assert {seen[100 + i] for i in range(6)} == {4} and sum(n for k, n in seen.items() if k < 100) == 24
    part = studies.Studies(fractions.Subset(Views(len(OF)), [1, 3, 4, 5]))
    assert [part.views(i).tolist() for i in range(len(part))] == [[0], [3, 1, 2]]


def test_prepared_and_config(tmp_path):
    """The same studies through a manifest, data.prepare and the config, whose switch changes what a run sees."""
    src = tmp_path / "src"
    src.mkdir()
    rows = [{"image": f"{i}.png", "study_id": f"s{i // 3}", "patient_id": f"p{i // 6}", "report": f"Mass of {i // 3} mm.",
             "view": ("LL", "PA", "AP")[i % 3], "split": "train" if i < 18 else "val"} for i in range(24)]  # fmt: skip
    path = write(src, rows)
    for i in range(24):
        (src / f"{i}.png").write_bytes(cv2.imencode(".png", np.full((40, 40), 10 * i, np.uint8))[1].tobytes())
    prepare.main(["--dataset=manifest", f"--src={path}", f"--out={tmp_path / 'out'}", "--workers=0", "--size=40",
                  "--views=all"])  # fmt: skip
    told = [ManifestSource(path, "train"), PreparedSource(tmp_path / "out", "train")]
    for source in told:
        assert source.studies.tolist() == [i // 3 for i in range(18)] and source.projections[:3] == ["LL", "PA", "AP"]
    c = tiny.run_config("medklip", **{"data/name": "prepared", "data/path": str(tmp_path / "out"), "data/batch_size": 6,
                                     "data/views": "all"})  # fmt: skip
    sizes, seen = {}, {}
    for c.data.unit in ("image", "study"):
        run = experiment.build(c, tmp_path / c.data.unit)
        sizes[c.data.unit] = (len(run.source("train")), run.steps_per_epoch, len(run.source("val")))
        host = [h["id"] for b in run.eval_batches("val")() for h in b["host"]]
        seen[c.data.unit] = host
    assert sizes == {"image": (18, 3, 6), "study": (6, 1, 2)}
    assert seen == {"image": [f"{i}.png" for i in range(18, 24)], "study": ["19.png", "22.png"]}
    c.data.unit = "patient"
    with pytest.raises(ValueError, match="unknown data.unit 'patient'; known: image, study"):
        experiment.build(c, tmp_path)
