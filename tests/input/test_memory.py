"""What a manifest of many rows takes: rows on disk, arrays mapped once by all workers, caches that workers divide."""
import concurrent.futures
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from medvlp_jax.bench import manifest as bench
from medvlp_jax.input import pipeline, scratch, studies, tokens
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.input.memo import Memo
from medvlp_jax.input.rows import Rows, Table
from medvlp_jax.input.shared import Shared
from medvlp_jax.reports import rules, sections
from tests.input.test_manifest import write


def traced(make) -> tuple[object, int, int]:
    """(what make() gives, bytes that are kept, peak)."""
    tracemalloc.start()
    try:
        made = make()
        return made, *tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()


def test_rows_of_a_reader_are_on_disk_and_not_in_memory():
    report = "The heart is large and the lungs are clear. " * 10
    table, kept, peak = traced(lambda: Rows(({"image": f"{i}.png", "report": f"{i} {report}"} for i in range(5000)), "set"))
    assert kept < 150_000 and peak < 400_000  # 2.4 MB of text
    assert table[4999] == {"image": "4999.png", "report": f"4999 {report}"} and len(table) == 5000
    assert pickle.loads(pickle.dumps(table))[7]["image"] == "7.png"
    path = table._file
    assert path.is_file() and path.parent.stat().st_mode & 0o077 == 0  # nobody else reads reports there
    del table
    assert not path.exists()


def test_opening_a_table_takes_few_bytes_a_row(tmp_path):
    path = write(tmp_path, [{"patient_id": f"p{i}", "labels": "Mass"} for i in range(20_000)], images=False)
    source, kept, peak = traced(lambda: ManifestSource(path, "train"))
    assert kept < 50 * len(source) and peak < 150 * len(source)


def test_what_the_filter_found_is_kept_outside_of_memory(tmp_path):
    rows = [{"report": f"Mass of {i} mm. No edema."} for i in range(500)]
    source = ManifestSource(write(tmp_path, rows, images=False), "train")
    want = [source.presence(source.table[i]) for i in range(500)]

    def visit(some):
        for i in range(500):
            some._cached_presence(i, some.table[i])

    visit(source)
    assert traced(lambda: visit(pickle.loads(pickle.dumps(source))))[1] < 50 * 500  # it was 400 bytes a row in each worker
    source.presence = None  # from here on only what is kept
    copy = pickle.loads(pickle.dumps(source))  # as a worker gets it
    part = copy.subset([3, 499])
    for i in range(500):
        np.testing.assert_array_equal(source._cached_presence(i, {}), want[i])
        np.testing.assert_array_equal(copy._cached_presence(i, {}), want[i])
    np.testing.assert_array_equal(part._cached_presence(1, {}), want[499])


def test_memo_slots(tmp_path):
    memo = Memo(10)
    assert memo.get(0) is None
    cells = {i: (np.arange(i, dtype=np.int16) * 90, np.arange(i, dtype=np.int8) % 3) for i in (0, 1, 41, 42)}
    for i, (places, values) in cells.items():
        memo.put(i % 10, places, values)
    for i in (0, 1):
        assert memo.get(i) is not None
    np.testing.assert_array_equal(np.stack(memo.get(1)), np.stack(cells[41]))
    assert memo.get(2) is None  # 42 cells find no room
    with open(memo._path, "r+b") as file:
        file.seek(128 + 20)
        file.write(b"\xff")
    assert memo.get(1) is None and memo.get(0) is not None  # half-written


def _look(shared, out) -> None:
    """In a worker: whether its array is mapped from a file, and what writing to it does."""
    array = shared.value["big"]
    mapped = ".arrays" in Path("/proc/self/maps").read_text()
    array[0] = 7
    out.put((mapped, int(array.sum()), shared.value["small"].tolist(), shared.value["text"]))


def test_workers_map_one_file():
    shared = Shared({"big": np.arange(100_000), "small": np.arange(3), "text": "x"})
    head = pickle.dumps(shared)
    assert len(head) < 2000 and pickle.dumps(shared) == head  # written once
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    process = context.Process(target=_look, args=(shared, out))
    process.start()
    assert out.get(timeout=60) == (True, 4999950000 + 7, [0, 1, 2], "x")
    process.join()
    assert shared.value["big"][0] == 0 and pickle.loads(head).value["big"][0] == 0
    (_, path, _) = shared._parts
    assert path.stat().st_size >= 800_000
    del shared
    assert not path.exists()


def test_threads_that_start_workers_at_once_get_the_same_file(monkeypatch):
    made, real = [], scratch.file
    monkeypatch.setattr(scratch, "file", lambda *a: (time.sleep(0.05), made.append(real(*a)), made[-1])[-1])
    memo = Memo(10)
    shared = Shared({"memo": memo, "big": np.arange(100_000)})
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: pickle.dumps(shared), range(8)))) == 1
        assert len(set(pool.map(lambda _: memo._place(), range(8)))) == 1 and len(made) == 2
        monkeypatch.setattr(scratch, "_own", {})
        assert len({path.parent for path in pool.map(lambda _: real(memo, ".x"), range(8))}) == 1


def test_the_stream_that_workers_get_is_small(tmp_path):
    """Ranges, rows and orders of 20,000 examples were a copy for each worker: 1.3 MB."""
    path = write(tmp_path, [{"labels": "Mass", "study_id": f"s{i // 2}"} for i in range(20_000)], images=False)
    options = pipeline.Options(image_size=8, needs=())
    for source in (ManifestSource(path, "train"), studies.Studies(ManifestSource(path, "train"))):
        iterator = pipeline.train_iterator(source, None, options, batch_size=8, seed=0, workers=2)
        assert len(pickle.dumps(iterator._shared)) < 20_000
        iterator.close()


def test_workers_divide_what_one_process_remembers(tmp_path):
    path = write(tmp_path, [{"report": "Clear lungs."}], images=False)
    loader = pipeline.Loader(ManifestSource(path, "train"), np.arange(1), tokens.load(), pipeline.DEFAULTS, workers=16)
    before = sections._locate, rules._sentence
    try:
        copy = pickle.loads(pickle.dumps(loader))
        assert sections._locate.cache_info().maxsize == 6250 and rules._sentence.cache_info().maxsize == 4096
        assert copy.tokenizer._room == tokens.CACHED_PIECES // 16 and loader.tokenizer._room == tokens.CACHED_PIECES
        assert sections.report_text("FINDINGS: Clear lungs.") == "Clear lungs." and rules.extract("Small effusion.")
    finally:
        sections._locate, rules._sentence = before


CODE = """
import sys, os, time
from medvlp_jax.input.rows import Rows
table = Rows([{"image": "a.png", "report": "secret"}], "set")
print(table._file, flush=True)
time.sleep(60 if len(sys.argv) > 1 else 0)
"""


def test_what_a_killed_process_left_is_deleted_and_what_lives_is_not(tmp_path):
    environment = {**os.environ, "MEDVLP_CACHE": str(tmp_path), "PYTHONPATH": str(Path(scratch.__file__).parents[2])}

    def start(*args):
        process = subprocess.Popen([sys.executable, "-c", CODE, *args], env=environment, stdout=subprocess.PIPE, text=True)
        return process, Path(process.stdout.readline().strip())

    (killed, left), (alive, used) = start("wait"), start("wait")
    try:
        assert left.is_file() and used.is_file()
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert left.is_file()
        ended, gone = start()
        ended.wait()
        assert not left.exists() and not gone.exists() and used.is_file() and used.parent.parent == tmp_path
    finally:
        killed.kill()
        alive.kill()
        alive.wait()


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    box = [{"label": "Mass", "x": 1.0, "y": 2.0, "w": 3.0, "h": 4.5}]
    rows = [{"image": f"{i}.png", "report": f"Mass of {i} mm.", "labels": ["Mass"], "age": 60.0 if i else float("nan"),
             "extra": b"x", "boxes": box, "split": "train"} for i in range(9000)]  # fmt: skip
    path = tmp_path / "data.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=2000)
    table, kept, peak = traced(lambda: Table(path))
    assert len(table) == 9000 and table.lines[-1] == 9000 and kept < 400_000
    assert table[0]["age"] is None and table[8999]["age"] == 60 and "extra" not in table[0]
    want = tmp_path / "data.jsonl"
    want.write_text("".join(json.dumps({k: v for k, v in table[i].items() if v is not None}) + "\n" for i in range(9000)))
    a, b = ManifestSource(path, "train"), ManifestSource(want, "train")
    assert a.text(17) == "Mass of 17 mm." and a.truth(17) == b.truth(17) and a.rows.tolist() == b.rows.tolist()
    assert pickle.loads(pickle.dumps(table))[5] == table[5]
    with pytest.raises(ValueError, match="no column 'report' .* did you mean 'reports'"):
        parquet.write_table(pa.Table.from_pylist([{"image": "a", "reports": "b"}]), tmp_path / "b.parquet")
        Table(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="c.parquet, row 1, column 'report': a value of type bytes"):
        parquet.write_table(pa.Table.from_pylist([{"image": "a", "report": b"b"}]), tmp_path / "c.parquet")
        Table(tmp_path / "c.parquet")
    (tmp_path / "d.parquet").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="d.parquet is no readable Parquet file"):
        Table(tmp_path / "d.parquet")
    data = bytearray(path.read_bytes())
    data[1000:3000] = bytes(2000)
    (tmp_path / "e.parquet").write_bytes(data)
    with pytest.raises(ValueError, match="e.parquet, after row .* is damaged"):
        Table(tmp_path / "e.parquet")
    with pytest.raises(ValueError, match="no rows"):
        parquet.write_table(pa.table({"image": pa.array([], pa.string())}), tmp_path / "f.parquet")
        Table(tmp_path / "f.parquet")


def test_two_patients_are_told_apart_however_many(tmp_path):
    rows = [{"patient_id": f"p{i}", "split": ("train", "val")[i % 2]} for i in range(3000)]
    path = write(tmp_path, [*rows, {"patient_id": "p4", "split": "test"}, {"patient_id": "p6", "split": "test"}], images=False)
    with pytest.raises(ValueError, match=r"lines 5 \(train\) and 3001 \(test\) are of one patient in two splits"):
        ManifestSource(path, "train")


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="proportional set sizes are read from Linux's /proc")
def test_bench(capsys, monkeypatch):
    monkeypatch.setattr(bench, "BASE_ROWS", 64)
    found = bench.main(["--rows=300", "--workers=1", "--examples=128"])
    assert set(found) == {64, 300} and all(v["all"] > v["workers"] > 20 for v in found.values())
    assert "cost of 236 rows" in capsys.readouterr().out
