"""Several processes and one data set: one judges, all read the same, and what differs is told instead of waited for."""
import json
import types

import pytest

from medvlp_jax import agreement
from medvlp_jax.input import check
from medvlp_jax.input.manifest import ManifestSource
from tests import processes
from tests.input.test_file_check import Counted
from tests.input.test_manifest import picture, write

STEPS = ("--config.train.steps=3", "--config.data.name=manifest", "--config.data.batch_size=8", "--config.data.workers=0",
         "--config.data.max_bad_share=0.2", "--config.evals.split=train")  # fmt: skip


def data(folder, rows: int = 24):
    folder.mkdir()
    return write(folder, [{"labels": "Mass" if i % 2 else "Edema", "report": f"Mass of {i + 3} mm."} for i in range(rows)])


def test_two_hosts_with_other_rows_stop_and_name_them(tmp_path):
    paths = [data(tmp_path / "a"), data(tmp_path / "b", 23)]
    each = [[f"--config.data.path={path}"] for path in paths]
    started = processes.start(tmp_path / "run", *STEPS, processes=2, method="medklip", each=each)
    for text in processes.finish(tmp_path / "run", started, codes=[2, 2], timeout=120):
        (line,) = [line for line in text.splitlines() if line.startswith("error:")]
        assert "the processes would not read the same data (split train): process 0: 24 examples, fingerprint" in line
        assert "process 1: failed with data.jsonl, split train: 23 rows with hash" in line and "process 0 has 24" in line
        assert "Every host needs the same data at the same path" in line


def test_a_file_that_only_one_host_lacks_is_a_bad_record_there(tmp_path):
    """Each host used to leave out what it lacked, so that epochs of 24 and 20 rows met in one step."""
    paths = [data(tmp_path / "a"), data(tmp_path / "b")]
    for i in (4, 5, 6, 7):
        (tmp_path / f"b/{i}.png").unlink()
    each = [[f"--config.data.path={path}"] for path in paths]
    written = processes.run(tmp_path / "run", *STEPS, processes=2, method="medklip", each=each)
    assert "24 rows, 24 usable" in written[0] and "3 steps of 8 examples an epoch" in written[0]
    assert "usable" not in written[1]  # it did not look
    assert "(missing file" in written[1] and "skipped (" not in written[0]
    record = json.loads((tmp_path / "run/run.json").read_text())["data"]["train"]
    assert record == ManifestSource(paths[0], "train").fingerprint


def test_only_the_first_looks_at_files_and_the_others_take_its_rows(tmp_path, monkeypatch):
    path, sent = data(tmp_path / "a", 40), []
    (tmp_path / "a/7.png").write_bytes(b"junk")
    source, counted = ManifestSource(path, "train"), Counted(monkeypatch)
    first, summary = check.check(source, first=lambda make: sent.append(json.dumps(make())) or json.loads(sent[0]))
    assert len(first) == 39 and len(counted.names) == 40 and len(sent[0]) < 1000
    counted.names.clear()
    (tmp_path / "a/9.png").unlink()
    other, told = check.check(ManifestSource(path, "train"), first=lambda make: json.loads(sent[0]))
    assert not counted.names and other.rows.tolist() == first.rows.tolist() and told == summary
    assert other.fingerprint == first.fingerprint and other.has_reports.all() and len(other.has_reports) == 39
    with pytest.raises(ValueError, match=r"split train: 39 rows with hash .*, process 0 has 40 with hash"):
        check.check(ManifestSource(data(tmp_path / "b", 39), "train"), first=lambda make: json.loads(sent[0]))


class Store(dict):
    """A key-value store with what the other processes said before."""

    def key_value_set(self, key, value):
        self[key] = value

    def blocking_key_value_get(self, key, timeout):
        return self[key]


@pytest.fixture
def many(monkeypatch):
    """(process, of how many, {process: what it says}) -> that process's view."""

    def make(index: int, count: int, said: dict) -> Store:
        store = Store({f"medvlp/all/0/{i}": json.dumps(one) for i, one in said.items()})
        monkeypatch.setattr(agreement.jax, "process_count", lambda: count)
        monkeypatch.setattr(agreement.jax, "process_index", lambda: index)
        monkeypatch.setattr(agreement.distributed, "global_state", types.SimpleNamespace(client=store))
        agreement._numbers.clear()
        return store

    yield make
    agreement._numbers.clear()


def test_the_groups_are_named(many):
    many(0, 12, {i: {"told": "b" if i == 7 else "a"} for i in range(12)})
    with pytest.raises(agreement.Disagreement, match="same data: processes 0, 1, 2, 3, 4, 5, 6, 8 and 3 more: a; process 7: b"):
        agreement.on_all("data", lambda: "a", str)
    many(0, 2, {1: {"error": "no manifest there"}})
    with pytest.raises(agreement.Disagreement, match="process 0: a; process 1: failed with no manifest there"):
        agreement.on_all("data", lambda: "a", str)
    many(0, 2, {1: {"told": "a"}})
    assert agreement.on_all("data", lambda: "a", str) == "a"


def test_an_error_on_all_stays_itself_and_one_of_the_first_reaches_all(many):
    def fail():
        raise ValueError("no row in split 'val'")

    many(0, 2, {1: {"error": "no row in split 'val'"}})
    with pytest.raises(ValueError, match="^no row in split") as e:
        agreement.on_all("data", fail, str)
    assert not isinstance(e.value, agreement.Disagreement)
    store = many(0, 2, {})
    with pytest.raises(ValueError, match="^no row in split"):
        agreement.from_first(fail)
    said = dict(store)
    many(1, 2, {}).update(said)
    with pytest.raises(agreement.Disagreement, match="process 0 cannot use the data: no row in split 'val'"):
        agreement.from_first(lambda: pytest.fail("only process 0 makes it"))
    many(1, 2, {}).update({"medvlp/first/0": json.dumps({"value": [1]})})
    assert agreement.from_first(lambda: pytest.fail("only process 0 makes it")) == [1]


def test_a_picture_that_breaks_later_is_skipped_and_counted(tmp_path):
    """The header check lets damaged pixels pass; training replaces them, up to max_bad."""
    from medvlp_jax.input import pipeline
    from tests.input.test_file_check import damaged

    path = data(tmp_path / "a", 16)
    (tmp_path / "a/3.png").write_bytes(damaged())
    source = check.check(ManifestSource(path, "train"))[0]
    options = pipeline.Options(image_size=16, frame=16, crop="none", needs=())
    iterator = pipeline.train_iterator(source, None, options, batch_size=16, seed=0, max_bad=1)
    assert next(iterator)["image"].shape == (16, 16, 16, 1) and list(iterator.skipped) == ["3"]
    with pytest.raises(ValueError, match="1 examples cannot be decoded, 0 are allowed: 3: unreadable"):
        next(pipeline.train_iterator(source, None, options, batch_size=16, seed=0, max_bad=0))
    assert picture(3) != damaged()
