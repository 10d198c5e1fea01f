"""The training stream: contents, order, slices, workers, restoring, and bad records."""
import collections
import json

import numpy as np
import pytest

from medvlp_jax.input import pipeline, tokens
from medvlp_jax.input.pipeline import Options
from tests.input.fakes import TinySource, write_vocab

OPTIONS = Options(image_size=24, frame=28, max_tokens=40, rand_augment=(2, 7))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tokens.load(write_vocab(tmp_path_factory.mktemp("vocab")))


@pytest.fixture
def make(tokenizer):
    made = []

    def make(source=None, options=OPTIONS, **fields):
        fields = {"batch_size": 4, "seed": 3, "threads": 0, **fields}
        made.append(pipeline.train_iterator(source or TinySource(), tokenizer, options, **fields))
        return made[-1]

    yield make
    for iterator in made:
        iterator.close()


def take(iterator, n):
    return [next(iterator) for _ in range(n)]


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype, key
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


class Numbered(TinySource):
    """Every pixel of image i is i, so that a batch tells which examples it holds."""

    def __getitem__(self, index):
        return {**super().__getitem__(index), "image": np.full((24, 24), index, np.uint8)}


PLAIN = Options(image_size=24, crop="none", fit="stretch", needs=())


def numbers(batches):
    return [int(image[0, 0, 0]) for batch in batches for image in batch["image"]]


def test_a_batch_has_the_arrays_of_the_contract(make):
    batch = next(make())
    shapes = {k: (v.shape, v.dtype.name) for k, v in batch.items()}
    assert shapes == {
        "image": ((4, 24, 24, 1), "uint8"), "has_report": ((4,), "float32"), "valid": ((4,), "float32"),
        "labels": ((4, 75), "int8"), "positions": ((4, 75, 8), "int32"),
        "input_ids": ((4, 40), "int32"), "attention_mask": ((4, 40), "int32"), "word_ids": ((4, 40), "int32"),
        "swapped_ids": ((4, 40), "int32"), "swapped_mask": ((4, 40), "int32"), "swapped_labels": ((4, 40), "int8"),
    }
    assert (batch["valid"] == 1).all() and (batch["has_report"] == 1).all()
    assert set(np.unique(batch["swapped_labels"])) == {-1, 0, 1}
    assert set(np.unique(batch["labels"])) <= {-1, 0, 1, 2}


def test_labels_positions_and_text_are_of_the_same_example(make, tokenizer):
    source = TinySource()
    by_text = {tuple(tokenizer.encode(source.text(i), 40)["input_ids"]): i for i in range(len(source))}
    for batch in take(make(source), 3):
        for row in range(4):
            presence = source[by_text[tuple(batch["input_ids"][row])]]["presence"]
            present = (presence == 1).any(0)
            np.testing.assert_array_equal(batch["labels"][row] == 1, present)
            candidates = batch["positions"][row]  # (K, 8)
            columns = np.arange(75)[:, None]
            values = presence[candidates, columns]  # (K, 8)
            assert (values[present, 0] == 1).all() and (values[present, 1:] != 1).all() and (values[~present] != 1).all()


@pytest.mark.parametrize("needs, keys", [
    ((), set()), (("labels",), {"labels", "positions"}), (("text",), {"input_ids", "attention_mask", "word_ids"}),
])
def test_only_what_is_needed_is_made(make, needs, keys):
    assert set(next(make(options=OPTIONS._replace(needs=needs)))) == {"image", "has_report", "valid"} | keys


def test_without_tokens_no_text_is_read(tokenizer):
    class Mute(TinySource):
        def text(self, index):
            raise AssertionError("text was read")

        def __getitem__(self, index):
            self.silent = frozenset(range(self.n))
            return {**TinySource(self.n).__getitem__(index), "report": "x y"}

    iterator = pipeline.train_iterator(Mute(), None, OPTIONS._replace(needs=("labels",)), batch_size=2, seed=0, threads=0)
    assert next(iterator)["labels"].shape == (2, 75)
    iterator.close()


def test_every_epoch_shows_every_example_once_in_another_order(make):
    seen = numbers(take(make(Numbered(20), PLAIN, batch_size=5), 12))
    epochs = [seen[i : i + 20] for i in range(0, 60, 20)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] and epochs[0] != sorted(epochs[0])


def test_seeds_change_order_and_augmentation(make):
    a, b, c = (take(make(seed=seed), 2) for seed in (3, 3, 4))
    assert_same(a, b)
    assert not np.array_equal(a[0]["image"], c[0]["image"])


def test_slices_of_processes_are_disjoint_and_cover(make):
    whole = take(make(Numbered(23), PLAIN, batch_size=6), 23)  # 6 epochs
    parts = [take(make(Numbered(23), PLAIN, batch_size=3, process_index=p, process_count=2), 23) for p in range(2)]
    joined = [number for a, b in zip(*parts, strict=True) for number in numbers([a, b])]
    assert joined == numbers(whole)
    assert set(collections.Counter(joined).values()) == {6}


def test_global_batches_do_not_depend_on_the_process_count(make):
    whole = take(make(batch_size=6), 3)
    parts = [take(make(batch_size=2, process_index=p, process_count=3), 3) for p in range(3)]
    assert_same(whole, [{k: np.concatenate([part[k] for part in step]) for k in step[0]} for step in zip(*parts, strict=True)])


def test_threads_give_the_same_batches(make):
    assert_same(take(make(threads=0), 8), take(make(threads=3), 8))


@pytest.mark.parametrize("before", [0, 2, 5, 6, 9])  # an epoch is 23 examples: it ends within the sixth batch
def test_restore_is_bit_exact_mid_epoch_and_across_epochs(make, before):
    iterator = make(threads=2)
    take(iterator, before)
    state = json.loads(json.dumps(iterator.get_state()))
    want = take(iterator, 4)
    again = make()
    take(again, 3)
    again.set_state(state)
    assert_same(take(again, 4), want)
    assert again.get_state() == iterator.get_state()


def test_going_back_to_the_beginning_repeats_it(make):
    iterator = make()
    beginning = iterator.get_state()
    first = take(iterator, 1)
    iterator.set_state(beginning)
    after = iterator.get_state()
    assert after == beginning
    assert_same(take(iterator, 3), first + take(make(), 3)[1:])


def test_a_run_goes_on_with_other_processes_and_batch_size(make):
    want = numbers(take(make(Numbered(23), PLAIN, batch_size=4), 12))
    parts = [make(Numbered(23), PLAIN, batch_size=2, process_index=p, process_count=2) for p in range(2)]
    got = [n for _ in range(4) for part in parts for n in numbers([next(part)])]
    states = [part.get_state() for part in parts]
    assert states[0] == states[1]
    alone = make(Numbered(23), PLAIN, batch_size=8)
    alone.set_state(states[0])
    assert got + numbers(take(alone, 4)) == want


def test_two_workers_give_the_same_batches_and_restore(make):
    want = take(make(TinySource(bad=[4])), 9)
    workers = make(TinySource(bad=[4]), workers=2)
    got = take(workers, 3)
    state = workers.get_state()
    got += take(workers, 4)
    assert_same(got, want[:7])
    assert {type(v) for v in got[0].values()} == {np.ndarray}  # no shared memory is held
    assert set(workers.skipped) == {"4"}
    workers.set_state(state)
    assert_same(take(workers, 2), want[3:5])
    alone = make(TinySource(bad=[4]))
    alone.set_state(state)
    assert_same(take(alone, 6), want[3:])


def test_a_state_of_other_data_or_seed_is_refused(make):
    state = make().get_state()
    with pytest.raises(ValueError, match="seed was 3, now it is 4"):
        make(seed=4).set_state(state)
    with pytest.raises(ValueError, match="source was '.*', now it is '.*'; go on with the same data"):
        make(TinySource(24)).set_state(state)


def test_bad_examples_are_skipped_counted_and_replaced(make):
    iterator = make(TinySource(bad=[2, 5]), threads=2)
    batches = take(iterator, 7)
    assert all(batch["image"].shape == (4, 24, 24, 1) for batch in batches)
    assert set(iterator.skipped) == {"2", "5"} and "unreadable" in iterator.skipped["2"]
    again = make(TinySource(bad=[2, 5]))
    assert_same(take(again, 7), batches)
    again.set_state(iterator.get_state())
    assert again.skipped == iterator.skipped


def test_too_many_bad_examples_stop_the_run(make):
    iterator = make(TinySource(bad=range(8)), max_bad=3)
    with pytest.raises(ValueError, match=r"4 examples cannot be decoded, 3 are allowed: \d+: unreadable"):
        take(iterator, 12)
    with pytest.raises(ValueError, match="20 examples in a row cannot be decoded"):
        next(make(TinySource(bad=range(23))))


def test_only_examples_with_a_report_where_that_is_asked_for(make):
    source = Numbered(12, silent=range(0, 12, 2))
    seen = numbers(take(make(source, PLAIN._replace(require_report=True), batch_size=3), 4))
    assert sorted(seen) == sorted(list(range(1, 12, 2)) * 2)
    without = next(make(source, OPTIONS, batch_size=12))
    assert without["has_report"].sum() == 6
    empty = without["has_report"] == 0
    assert (without["attention_mask"][empty].sum(1) == 2).all() and not (without["swapped_labels"][empty] == 1).any()
    with pytest.raises(ValueError, match="no example with a report"):
        make(TinySource(3, silent=range(3)), OPTIONS._replace(require_report=True))


def test_swapped_sentence_comes_from_another_report(make, tokenizer):
    source = TinySource()
    sentences = {tuple(p.ids[p.sentences == s]) for i in range(len(source)) for p in [tokenizer.pieces(source.text(i))]
                 for s in np.unique(p.sentences)}
    for batch in take(make(source), 4):
        for ids, labels in zip(batch["swapped_ids"], batch["swapped_labels"], strict=True):
            assert tuple(ids[labels == 1]) in sentences


@pytest.mark.parametrize("change, message", [
    ({"crop": "midle"}, "crop is 'midle'; expected one of random_resized, random, none"),
    ({"needs": ("label",)}, "needs names 'label'; known groups: labels, text, swap"),
    ({"crop": "random", "frame": 20}, "frame is 20 px, expected at least image_size = 24"),
    ({"eval_fit": "x"}, "eval_fit is 'x'"),
])
def test_wrong_options_are_named(make, change, message):
    with pytest.raises(ValueError, match=message):
        make(options=OPTIONS._replace(**change))


def test_wrong_process_and_missing_tokenizer_are_errors():
    with pytest.raises(ValueError, match="process_index 2 is not below process_count 2"):
        pipeline.train_iterator(TinySource(), None, PLAIN, batch_size=1, seed=0, process_index=2, process_count=2)
    with pytest.raises(ValueError, match="a tokenizer is needed"):
        pipeline.train_iterator(TinySource(), None, OPTIONS, batch_size=1, seed=0)


def test_orbax_saves_and_restores_the_position(make, tmp_path):
    import grain
    import orbax.checkpoint as ocp

    iterator = make()
    take(iterator, 3)
    with ocp.CheckpointManager(tmp_path.absolute()) as manager:
        manager.save(1, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)))
        manager.wait_until_finished()
        other = make()
        manager.restore(1, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(other)))
    assert_same(take(other, 2), take(iterator, 2))


def test_rate_is_measured(make):
    assert pipeline.images_per_second(make(options=PLAIN), batches=2, warmup=1) > 10


def test_real_images_and_reports():
    from medvlp_jax.input.manifest import ManifestSource
    from tests import golden

    source = ManifestSource(golden.shared("cxr", "manifest.csv"), "val")
    options = Options(crop="random", require_report=True)
    iterator = pipeline.train_iterator(source, tokens.load(), options, batch_size=8, seed=0)
    batch = next(iterator)
    iterator.close()
    assert batch["image"].shape == (8, 224, 224, 1) and (batch["image"].std((1, 2, 3)) > 5).all()
    assert (batch["has_report"] == 1).all() and (batch["attention_mask"].sum(1) > 5).all()
    assert not iterator.skipped and (batch["swapped_labels"] == 1).any()
    labelled = pipeline.train_iterator(source, None, Options(needs=("labels",), rand_augment=(2, 7)), batch_size=32, seed=0)
    labels = next(labelled)["labels"]
    labelled.close()
    assert {-1, 0, 1} <= set(np.unique(labels)) and ((labels == 0) | (labels == 1)).any(1).mean() > 0.8
    rows = [host for batch in pipeline.eval_batches(source, None, Options(needs=("labels",)), batch_size=16, limit=40)
            for host in batch["host"]]
    assert len(rows) == 40 and any(host["boxes"] for host in rows) and any(host["masks"] for host in rows)
