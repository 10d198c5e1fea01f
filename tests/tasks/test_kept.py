"""What is kept of an evaluation: pseudonyms, score files, example cards, and which examples are shown."""
import numpy as np
import pytest

from medvlp_jax.tasks import cases, common, kept
from tests.tasks import fakes

PLACE = {"dataset": "phantom", "split": "test", "protocol": "default", "step": 3}


def context(tmp_path, **changes):
    return common.DEFAULT._replace(folder=tmp_path, place=PLACE, figures=tmp_path / "figures", **changes)


def card(**changes):
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    return {"group": "g", "id": "secret-1", "image": image, "finding": "mass", "title": "t", **changes}


def test_pseudonyms_hide_and_match():
    names = kept.pseudonyms(["secret-1", "secret-2", "secret-1"])
    assert names[0] == names[2] != names[1] and all(len(n) == 16 and "secret" not in n for n in names)
    assert kept.pseudonyms([]).shape == (0,)


def test_scores_round_trip_without_identifiers(tmp_path):
    kept.scores(context(tmp_path), "zeroshot", {"id": np.array(["secret-1", "b"]), "patient": np.array(["secret-p", "q"]),
                                                "scores": np.array([[0.5], [np.nan]], np.float32)})
    path = tmp_path / "scores" / "zeroshot.npz"
    place, arrays = kept.read(path)
    assert place == PLACE and arrays["id"].tolist() == kept.pseudonyms(["secret-1", "b"]).tolist()
    np.testing.assert_array_equal(arrays["scores"], [[0.5], [np.nan]])
    text = b"".join(v.tobytes() for v in arrays.values())
    assert "secret".encode("utf-32-le") not in text and b"secret" not in path.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["zeroshot.npz"]


def test_only_files_of_the_evaluation_are_read(tmp_path, caplog):
    folder = tmp_path / "scores"
    kept.write(folder / "a.npz", PLACE, {"x": np.ones(2)})
    kept.write(folder / "b.npz", {**PLACE, "step": 4}, {"x": np.ones(2)})
    (folder / "c.npz").write_bytes(b"half a fi")
    np.savez(folder / "d.npz", x=np.ones(2))
    assert list(kept.read_folder(folder, PLACE)) == ["a"]
    assert "c.npz cannot be read" in caplog.text and "d.npz cannot be read (d.npz does not say" in caplog.text
    assert kept.read_folder(tmp_path / "none", PLACE) == {}


def test_cards_round_trip(tmp_path):
    mask = np.zeros((4, 4), bool)
    mask[1, 2] = True
    heat = np.array([[0.1, 0.4], [0.2, 0.3]], np.float32)
    given = [card(mask=mask, map=heat, boxes=[[0.0, 1.0, 2.0, 3.0]]),
             card(id="x", image=np.full((4, 4, 3), -2.5), text={"rank": 3})]
    kept.examples(context(tmp_path), "t", lambda: given)
    first, second = kept.cards(kept.read_folder(tmp_path / "examples", PLACE)["t"])
    np.testing.assert_array_equal(first["image"], given[0]["image"][..., 0])
    np.testing.assert_array_equal(first["mask"], mask)
    np.testing.assert_array_equal(first["map"], heat)
    assert first["boxes"] == [[0, 1, 2, 3]] and first["id"] == kept.pseudonyms(["secret-1"])[0] and first["text"] is None
    assert second["map"] is None and second["mask"] is None and second["boxes"] is None and second["text"] == {"rank": 3}
    assert (second["image"] == 0).all()  # a constant float image has no range to stretch


def test_float_images_are_stretched(tmp_path):
    kept.examples(context(tmp_path), "t", lambda: [card(image=np.array([[-1.0, 0.0], [0.5, 1.0]]))])
    shown = kept.cards(kept.read_folder(tmp_path / "examples", PLACE)["t"])[0]
    assert shown["image"].tolist() == [[0, 128], [191, 255]]


def test_failures_are_logged_and_nothing_is_kept_where_not_wanted(tmp_path, caplog):
    kept.examples(context(tmp_path), "t", lambda: 1 / 0)
    assert "examples of task t were not kept" in caplog.text and "ZeroDivisionError" in caplog.text
    kept.examples(context(tmp_path), "t", lambda: [])
    kept.examples(context(tmp_path)._replace(figures=None), "t", lambda: pytest.fail("asked for examples"))
    kept.scores(common.DEFAULT, "t", {"id": np.array(["a"])})
    assert not list(tmp_path.rglob("*.npz"))


def test_extremes_by_hand():
    labels = np.array([[1, 1], [1, 0], [0, 0], [0, -1], [1, 1]])
    values = np.array([[0.9, 0.2], [0.1, 0.8], [0.5, 0.1], [0.3, 9.0], [0.4, 0.3]])
    # class 0: positives 0.9 (above both negatives), 0.1 (above none), 0.4 (above one); negatives 0.5 (above 2 of 3), 0.3
    # (above 1); class 1: positives 0.2 and 0.3 (above one of two); negatives 0.8 (above both), 0.1; unknown ones do not count
    found = cases.extremes(labels, values, ["x", "y"], np.ones(5, bool))
    assert found == [(cases.FOUND, 0, 0), (cases.FOUND, 4, 1), (cases.MISSED, 1, 0), (cases.ALARM, 2, 0)]
    # row 0 is the miss of y and row 1 its false alarm, but each example is shown once
    hidden = cases.extremes(labels, values, ["x", "y"], np.array([False, True, True, True, True]))
    assert (cases.FOUND, 4, 0) in hidden and all(row != 0 for _, row, _ in hidden)


def test_extremes_of_degenerate_scores():
    assert cases.extremes(np.ones((3, 1)), np.ones((3, 1)), ["x"], np.ones(3, bool)) == []
    flat = cases.extremes(np.array([[1], [0], [1], [0]]), np.zeros((4, 1)), ["x"], np.ones(4, bool))
    assert flat == [(cases.FOUND, 0, 0), (cases.ALARM, 1, 0)]  # the miss would be row 0 again
    assert cases.extremes(np.array([[1], [0]]), np.zeros((2, 1)), ["x"], np.zeros(2, bool)) == []


def test_fetch_finds_examples_behind_padding_and_stops():
    items = fakes.examples(20)
    fresh, seen = fakes.batches(items), []

    def counted():
        for batch in fresh():
            seen.append(1)
            yield batch

    found = cases.fetch(counted, ["secret-9", "secret-3", "nobody"])
    assert set(found) == {"secret-9", "secret-3"} and len(seen) == 3  # to the end: one is nowhere
    rows = [b for b in fresh()]
    np.testing.assert_array_equal(found["secret-9"][0], rows[1]["image"][1])
    assert found["secret-9"][1] is items[9]
    seen.clear()
    assert set(cases.fetch(counted, ["secret-9"])) == {"secret-9"} and len(seen) == 2


def test_fetch_with_bad_rows_in_the_middle():
    items = fakes.examples(4)
    batch = next(iter(fakes.batches(items, size=4)()))
    batch["valid"] = np.array([1, 0, 1, 1], np.float32)
    batch["host"] = [items[0], items[2], items[3]]
    np.testing.assert_array_equal(cases.fetch([batch], ["secret-2"])["secret-2"][0], batch["image"][2])


def test_truth_of_a_card():
    host = {"boxes": [("a", 1, 2, 3, 4), ("b", 5, 6, 7, 8)], "masks": {"b": np.ones((2, 2))}}
    assert cases.truth(host, "a") == {"boxes": [[1, 2, 3, 4]], "mask": None}
    assert cases.truth(host, "b")["mask"].all() and cases.truth({}, "b") == {"boxes": [], "mask": None}
