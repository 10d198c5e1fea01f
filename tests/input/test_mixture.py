"""Several data sets in one stream: shares, label spaces, and every example of an epoch once whatever happens to the run."""
import collections
import json

import numpy as np
import pytest
from ml_collections import ConfigDict

from medvlp_jax.input import fractions, pipeline, sources
from medvlp_jax.input.mixture import MixtureSource
from medvlp_jax.input.pipeline import Options
from medvlp_jax.reports import vocab
from tests.input.fakes import TinySource
from tests.input.test_manifest import write

PLAIN = Options(image_size=8, crop="none", fit="stretch", needs=())


class Numbered(TinySource):
    """Every pixel of image i is `first` + i."""

    def __init__(self, n, first=0, **fields):
        super().__init__(n, **fields)
        self.first = first

    def __getitem__(self, index):
        return {**super().__getitem__(index), "image": np.full((8, 8), self.first + index, np.uint8)}


def stream(source, position=0, **fields):
    return pipeline.train_iterator(source, None, fields.pop("options", PLAIN), **{"seed": 3, "threads": 0, **fields})


def numbers(*batches):
    return [int(image[0, 0, 0]) for batch in batches for image in batch["image"]]


def test_an_epoch_over_four_processes_a_kill_and_a_resume_shows_every_example_once(tmp_path):
    """96 examples; 4 processes of 4 take 3 steps, save, take one more and are killed; 2 processes of 8, then 3 of 16, go on."""
    source, seen = Numbered(96), []
    first = [stream(source, batch_size=4, process_index=p, process_count=4) for p in range(4)]
    for _ in range(3):
        seen += numbers(*(next(it) for it in first))
    (tmp_path / "state.json").write_text(json.dumps(first[0].get_state()))
    assert all(it.get_state() == first[0].get_state() for it in first)
    lost = numbers(*(next(it) for it in first))  # after the save: of a step that the checkpoint does not know
    second = [stream(source, batch_size=8, process_index=p, process_count=2, threads=2) for p in range(2)]
    for it in second:
        it.set_state(json.loads((tmp_path / "state.json").read_text()))
    again = numbers(*(next(it) for it in second))
    assert again == lost  # the same global batch, though cut in other pieces
    seen += again
    state = json.loads(json.dumps(second[1].get_state()))
    third = [stream(source, batch_size=16, process_index=p, process_count=2, workers=w) for p, w in ((0, 0), (1, 1))]
    for it in third:
        it.set_state(state)
    seen += numbers(*(next(it) for it in third))
    assert sorted(seen) == list(range(96))
    for it in (*first, *second, *third):
        it.close()


def test_weights_are_shares_and_each_part_has_its_own_epochs():
    source = MixtureSource([Numbered(60), Numbered(20, 100)], [1, 3])  # equally many of both
    iterator = stream(source, batch_size=8)
    seen = numbers(*(next(iterator) for _ in range(30)))  # 240: two epochs of the first, six of the second
    count = collections.Counter(seen)
    assert {count[i] for i in range(60)} == {2} and {count[100 + i] for i in range(20)} == {6}
    for k in range(0, 240, 8):
        assert sum(n < 100 for n in seen[k : k + 8]) in (3, 4, 5)
    assert sorted(n for n in seen if n < 100)[::2] == list(range(60)) and [n for n in seen if n < 100][:60] != list(range(60))
    state = json.loads(json.dumps(iterator.get_state()))
    want = numbers(*(next(iterator) for _ in range(4)))
    parts = [stream(source, batch_size=4, process_index=p, process_count=2) for p in range(2)]
    for part in parts:
        part.set_state(state)
    assert [n for _ in range(4) for part in parts for n in numbers(next(part))] == want
    other = stream(MixtureSource(source.parts, [1, 2]), batch_size=8)
    with pytest.raises(ValueError, match="the saved data position is of another stream: source was"):
        other.set_state(state)


def test_equal_weights_are_one_set():
    iterator = stream(MixtureSource([Numbered(9), Numbered(7, 100)], [2, 2]), batch_size=8)
    seen = numbers(*(next(iterator) for _ in range(4)))
    assert sorted(seen[:16]) == sorted(seen[16:]) == [*range(9), *range(100, 107)]


def test_subsets_and_report_filters_keep_the_shares():
    source = MixtureSource([Numbered(40, silent=range(0, 40, 2)), Numbered(10, 100)], [1, 2])
    iterator = stream(source, batch_size=8, options=PLAIN._replace(require_report=True))
    count = collections.Counter(numbers(*(next(iterator) for _ in range(5))))
    assert set(count) == {*range(1, 40, 2), *range(100, 110)} and sum(n for k, n in count.items() if k < 100) == 20
    part = fractions.Subset(source, [0, 2, 4, 40, 41])
    assert part.weights == (1.0, 2.0) and part.groups.tolist() == [0, 0, 0, 1, 1] and part[3]["id"] == "study0"
    count = collections.Counter(numbers(next(stream(part, batch_size=7))))
    assert [count[i] for i in (0, 2, 4, 100, 101)] == [1, 1, 1, 2, 2]


def test_label_spaces_stay_apart_and_what_is_missing_is_masked(tmp_path):
    folders = [tmp_path / name for name in ("reports", "labels")]
    for folder in folders:
        folder.mkdir()
    told = write(folders[0], [{"report": "Small left pleural effusion. No edema."} for _ in range(4)])
    rows = [{"labels": "Mass"}, {"labels": "Hernia"}, {"labels": "Mass"}, {"labels": "Mass", "split": "val"}]
    listed = write(folders[1], rows)
    data = ConfigDict({"name": "mixture", "path": "", "root": "", "closed_world": "auto", "sections": ("findings",),
                       "blank_labels": "unknown", "label_precedence": "report", "annotations": "",
                       "max_bad_share": 0.0, "check": "header", "views": "frontal",
                       "examples": {}})  # fmt: skip
    data.mixture = (("manifest", str(told), 1.0), ("manifest", str(listed), 2.0))
    source = sources.make(data, "train", 0)
    assert len(source) == 7 and source.has_reports.tolist() == [True] * 4 + [False] * 3 and source.weights == (1.0, 2.0)
    assert source.patient(0) != source.patient(4) and source.text(5) == "" and source.truth(5)["finding_labels"]["Mass"] == 0
    batch = next(stream(source, batch_size=10, options=Options(image_size=8, crop="none", needs=("labels",))))
    names = {k: vocab.entity_index(k) for k in ("effusion", "edema", "mass", "hernia")}
    with_text = batch["has_report"] == 1
    assert with_text.sum() == 4
    values = {k: batch["labels"][:, i] for k, i in names.items()}
    assert (values["effusion"][with_text] == 1).all() and (values["edema"][with_text] == 0).all()
    assert (values["mass"][with_text] == -1).all() and (values["effusion"][~with_text] == -1).all()
    assert ((values["mass"] + values["hernia"])[~with_text] == 1).all()  # one of the two, the other absent
    assert len(sources.make(data, "val", 0)) == 1
    with pytest.raises(ValueError, match="no row in split 'test'"):
        sources.make(data, "test", 0)
    for wrong in ((), (("manifest", "x"),), ("manifest", "x", 1.0)):
        data.mixture = wrong
        with pytest.raises(ValueError, match="needs data.mixture, such as"):
            sources.make(data, "train", 0)
    with pytest.raises(ValueError, match="a positive weight for each"):
        MixtureSource([TinySource()], [0.0])
