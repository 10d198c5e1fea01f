"""Faults of checkpoints: killed while saving, full disks, files cut or altered, a folder that cannot be written."""
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from medvlp_jax import checkpoint, checksums, experiment, trees
from tests.save_worker import of_step
from tests.test_checkpoint import Iterator, abstract, copy, save, saved, state  # noqa: F401 - copy and saved are fixtures

ROOT = Path(__file__).parents[1]


def newest(folder, like=None):
    """-> (state, step, iterator) that a run would go on from."""
    mgr, iterator = checkpoint.manager(folder), Iterator()
    try:
        found = checkpoint.restore_newest(mgr, abstract(state()) if like is None else like, iterator)
    finally:
        mgr.close()
    return None if found is None else (*found, iterator)


def killed_while_saving(folder: Path) -> None:
    """Starts the worker where the last one was killed, kills it at a random moment, and checks what is there."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    worker = subprocess.Popen([sys.executable, "-m", "tests.save_worker", str(folder)], cwd=ROOT, env=environment,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)  # fmt: skip
    lines = [worker.stdout.readline() for _ in range(2 * random.randint(0, 2) + 1)]  # the last one: "saving <step>"
    time.sleep(random.uniform(0, 0.15))
    worker.send_signal(signal.SIGKILL)
    lines += worker.communicate()[0].splitlines()
    safe = max([int(line.split()[1]) for line in lines if line.startswith("saved")], default=0)
    begun = max(int(line.split()[1]) for line in lines if line.startswith("saving"))
    found = newest(folder, abstract(of_step(0)))
    assert found is not None or safe == 0 and begun == 1
    if found is None:
        return
    tree, step, iterator = found
    assert max(safe, begun - 1) <= step <= begun and iterator.position == step * 10
    for name, want in trees.flatten(of_step(step)).items():
        np.testing.assert_array_equal(trees.flatten(tree)[name], want, err_msg=name)
    assert not list((folder / "checkpoints").glob("damaged*"))


def test_killed_while_saving(tmp_path):
    for _ in range(2):
        killed_while_saving(tmp_path)


@pytest.mark.soak
def test_killed_while_saving_a_hundred_times(tmp_path):
    for _ in range(100):
        killed_while_saving(tmp_path)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {"bit flipped": flip, "cut": cut, "missing": Path.unlink, "empty": lambda path: path.write_bytes(b"")}


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damaged_file_is_noticed_and_the_run_goes_on_from_the_one_before(copy, damage, caplog):
    files = [p for p in (copy / "checkpoints" / "5").rglob("*") if p.is_file() and p.name not in checksums.OWN]
    path = random.choice(sorted(p for p in files if p.stat().st_size))
    DAMAGES[damage](path)
    tree, step, iterator = newest(copy)
    assert step == 3 and iterator.position == 30, path
    np.testing.assert_array_equal(tree.params["enc"]["kernel"], state(3.0).params["enc"]["kernel"])
    (said,) = [r.getMessage() for r in caplog.records if "going on from step" in r.getMessage()]
    assert "checkpoints/5 cannot be read" in said and "going on from step 3 instead" in said and "damaged-5" in said
    assert checkpoint.steps(copy) == [3] and (copy / "checkpoints" / "damaged-5").is_dir()
    save(copy, (5,))  # the step that is done again
    assert newest(copy)[1] == 5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(checksums.OWN))
def test_damage_to_what_has_no_checksum_never_gives_wrong_values(copy, name):
    cut(copy / "checkpoints" / "5" / name)
    tree, step, _ = newest(copy)
    np.testing.assert_array_equal(tree.params["enc"]["kernel"], state(float(step)).params["enc"]["kernel"])


def test_every_single_flipped_bit_of_the_arrays_is_noticed(saved):
    """By the checksums themselves, for a file of each item."""
    folder = saved / "checkpoints" / "5"
    assert checksums.problems(folder) == []
    record = json.loads((folder / checksums.NAME).read_text())
    assert any(name.startswith("state/") for name in record) and any(name.startswith("data/") for name in record)
    for name in record:
        original = (folder / name).read_bytes()
        flip(folder / name) if original else cut(folder / name)
        found = checksums.problems(folder)
        (folder / name).write_bytes(original)
        assert found == ([f"{name} was altered: its checksum differs"] if original else [])


def test_all_damaged_is_an_error_with_a_way_on(copy):
    for step in (3, 5):
        cut(copy / "checkpoints" / str(step) / "state" / "_METADATA")
    with pytest.raises(checkpoint.Damaged, match="checkpoints/3 cannot be read .*Delete that folder to start again"):
        newest(copy)


def test_evaluation_does_not_score_altered_arrays(copy):
    flip(max((p for p in (copy / "checkpoints" / "5").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size))
    with pytest.raises(checkpoint.Damaged, match="was altered: its checksum differs.* go on from step 3"):
        checkpoint.load_variables(copy)


def test_another_model_is_no_damage(copy):
    other = abstract(state()._replace(params={"enc": {"kernel": np.ones((9, 4), np.float32)}}))
    with pytest.raises(ValueError, match="is of another model or optimizer") as error:
        newest(copy, other)
    assert not isinstance(error.value, checkpoint.Damaged) and checkpoint.steps(copy) == [3, 5]


FULL = """
import resource, sys
from medvlp_jax import checkpoint, cli
from tests.save_worker import of_step
from tests.test_checkpoint import Iterator

def main():
    mgr = checkpoint.manager(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, -1))  # no file beyond 8 kB: the disk is full
    checkpoint.save(mgr, 9, of_step(9), Iterator(90))
    checkpoint.finish(mgr)

cli.guarded(main)
"""


def test_a_full_disk_is_told_with_what_is_left(copy):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", FULL, str(copy)], cwd=ROOT, env=environment, capture_output=True, text=True,
                          timeout=120)  # fmt: skip
    assert done.returncode == 2, done.stderr[-3000:]
    assert "error: no checkpoint can be saved in" in done.stderr and "the last complete checkpoint is of step 5" in done.stderr
    assert newest(copy)[1] == 5


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_disk_too_full_for_anything_else_is_told_alike(copy, tmp_path):
    with pytest.raises(OSError, match="takes no more files .*No space left.*; the last complete checkpoint is of step 5. Make"):
        with checkpoint.full_disk_told(copy), open("/dev/full", "w") as file:
            file.write("a line of metrics")
    with pytest.raises(FileNotFoundError, match="No such file"), checkpoint.full_disk_told(copy):
        (tmp_path / "nothing").read_text()
    with pytest.raises(OSError, match="there is no complete checkpoint yet"), checkpoint.full_disk_told(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system")


def test_a_workdir_that_cannot_be_written_fails_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="workdir .*file/run cannot be written: .*give another --workdir"):
        experiment.make_workdir(tmp_path / "file" / "run")
