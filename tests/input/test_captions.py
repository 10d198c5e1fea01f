"""Captions made of labels: read back by the report filter, and what they change in the stream and in a run."""
import numpy as np
import pytest

from medvlp_jax import experiment
from medvlp_jax.input import captions, pipeline, tokens
from medvlp_jax.input.datasets.labels import CHEXPERT
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.input.pipeline import Options
from medvlp_jax.reports import rules, vocab
from tests import tiny
from tests.input.test_manifest import write

NIH = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
       "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia", "No Finding")  # fmt: skip
OPTIONS = Options(image_size=16, crop="none", fit="stretch", max_tokens=48)


def read_back(text: str) -> dict[str, int]:
    """{entity: 0 | 1 | 2} that the report filter finds."""
    return {m[0]: m[2] for m in rules.extract(text, implied=False)}


# What a caption says of another entity than its label's own is no less than the label says.
SURE = tuple(n for n in CHEXPERT if vocab.meanings(n)[0].relation in (vocab.SAME, vocab.NARROWER))


@pytest.mark.parametrize("names", [SURE, NIH])
def test_the_report_filter_reads_back_what_the_labels_say(names):
    rng = np.random.default_rng(0)
    for _ in range(120):
        given = {name: int(rng.integers(-1, 2)) for name in rng.permutation(names)[:5] if name != "No Finding"}
        want = {vocab.lookup(name): value % 3 for name, value in given.items()}  # -1 is 2
        got = read_back(captions.caption(given, rng))
        absent = [entity for entity, value in want.items() if value == 0]
        assert {k: v for k, v in want.items() if v} == {k: v for k, v in got.items() if v}
        assert sum(v == 0 for v in got.values()) == min(len(absent), captions.MAX_ABSENT)
        assert all(want[k] == 0 for k, v in got.items() if v == 0)


def test_a_caption_claims_no_more_than_its_label():
    """"Pleural Other" and "Nodule/Mass" are several findings of which one is there: told as they are, not as one of them."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        assert "thicken" not in read_back(text := captions.caption({"Pleural Other": 1}, rng)) and "pleural" in text.lower()
        assert "nodule or mass" in captions.caption({"Nodule/Mass": 1}, rng).lower()
        assert "widen" not in read_back(captions.caption({"Enlarged Cardiomediastinum": 1}, rng))


def test_normal_and_nothing():
    rng = np.random.default_rng(1)
    texts = {captions.caption({"No Finding": 1}, rng) for _ in range(50)}
    assert texts == set(captions.NORMAL)
    for nothing in ({}, {"No Finding": 0}, {"Gizmo": 1}, {"unchanged": 1}):
        assert captions.caption(nothing, rng) == "" and not captions.known(nothing)
    assert captions.known({"Mass": 0}) and captions.caption({"TB": 1, "COVID-19": 1}, rng).count("COVID-19") == 1


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Six rows with labels, three of them with a report; one with neither."""
    rows = [{"labels": "Mass;Effusion"}, {"labels": "Hernia"}, {"labels": "Gizmo", "report": "Mild edema is seen."},
            {"labels": "Mass", "report": "A large mass is there."}, {"labels": "No Finding"}, {}]  # fmt: skip
    return ManifestSource(write(tmp_path_factory.mktemp("captions"), rows), "train")


def stream(source, options, position=0, **fields):
    fields = {"batch_size": 6, "seed": 3, "threads": 0, **fields}
    iterator = pipeline.train_iterator(source, tokens.load(), options, **fields)
    iterator.set_state({**iterator.get_state(), "position": position})
    return iterator


def texts(iterator, n=1):
    words = tokens.load()
    return [words.decode(ids) for _ in range(n) for ids in next(iterator)["input_ids"]]


def test_the_switch_changes_what_is_fed_and_nothing_else(source):
    """An example without report gets words and has_report 1, others anew each epoch, the same again after a resume."""
    on = OPTIONS._replace(captions=True)
    without, with_captions = next(stream(source, OPTIONS)), next(stream(source, on))
    assert without["has_report"].sum() == 2 and with_captions["has_report"].sum() == 5
    for key in ("image", "labels"):
        np.testing.assert_array_equal(without[key], with_captions[key])
    epochs = [sorted(texts(it)) for it in [stream(source, on)] for _ in range(12)]
    changing = [tuple(t for t in epoch if "effusion" in t) for epoch in epochs]
    assert all(len(t) >= 1 for t in changing) and len(set(changing)) > 3
    assert all("mild edema is seen ." in epoch and "" in epoch for epoch in epochs)
    whole = texts(stream(source, on), 4)
    parts = [stream(source, on, 12, batch_size=3, process_index=p, process_count=2) for p in range(2)]
    assert [t for _ in range(2) for it in parts for t in texts(it)] == whole[12:]


def test_reports_may_be_required_of_captioned_sets_and_swaps_come_from_captions(source):
    assert pipeline.choose_rows(source, True).tolist() == [2, 3]
    assert pipeline.choose_rows(source, True, captioned=True).tolist() == [0, 1, 2, 3, 4]
    only = source.subset([0, 1])
    batch = next(stream(only, OPTIONS._replace(captions=True, require_report=True), batch_size=8))
    assert (batch["has_report"] == 1).all() and (batch["swapped_labels"] == 1).any(axis=1).all()
    with pytest.raises(ValueError, match="no example with a report"):
        stream(only, OPTIONS._replace(require_report=True))


def test_a_set_with_labels_beside_one_with_reports_in_one_run(tmp_path, source):
    """MLIP trains on both, each with its own labels; evaluation reads reports only."""
    told = "Small left pleural effusion. No edema."
    reports = write(tmp_path, [{"report": told, "split": s} for s in ("train", "test") * 4])
    (tmp_path / "labels").mkdir()
    labels = write(tmp_path / "labels", [{"labels": ("Mass", "Hernia")[i % 2], "source": "nih"} for i in range(8)])
    parts = (("manifest", str(reports), 1.0), ("manifest", str(labels), 1.0))
    c = tiny.run_config("mlip", **{"data/name": "mixture", "data/mixture": parts, "data/batch_size": 4, "data/max_tokens": 40})
    sizes = {}
    for c.data.captions in (False, True):
        run = experiment.build(c, tmp_path / str(c.data.captions))
        sizes[c.data.captions] = run.steps_per_epoch
        assert [h["report"] for b in run.eval_batches("test")() for h in b["host"]] == [told] * 4
    assert sizes == {False: 1, True: 3}
    batch = next(pipeline.train_iterator(run.source("train"), run.tokenizer, run.options, batch_size=12, seed=0))
    mass, edema = (batch["labels"][:, vocab.entity_index(name)].tolist() for name in ("mass", "edema"))
    assert (batch["has_report"] == 1).all()
    assert sorted(zip(mass, edema, strict=True)) == [(-1, 0)] * 4 + [(0, -1)] * 4 + [(1, -1)] * 4
    for text, m in zip(map(run.tokenizer.decode, batch["input_ids"]), mass, strict=True):
        assert read_back(text) == ({"effusion": 1, "edema": 0} if m == -1 else {"mass": m, "hernia": 1 - m})
