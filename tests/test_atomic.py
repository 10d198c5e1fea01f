"""Files are replaced as a whole: after errors, a kill in the middle, a full disk, and with several writers."""
import concurrent.futures
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medvlp_jax import atomic

ROOT = Path(__file__).parents[1]


def test_the_new_file_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "made" / "a.json"
    for text in ("old", "größer und neu"):
        atomic.write_text(path, text)
        assert path.read_bytes() == text.encode() and list(path.parent.iterdir()) == [path]


def test_a_body_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.npz"
    for old in (None, b"old"):
        if old:
            path.write_bytes(old)
        with pytest.raises(ZeroDivisionError), atomic.writing(path) as temporary:
            temporary.write_bytes(b"half")
            assert temporary.suffix == ".tmp" and temporary.parent == tmp_path
            _ = 1 / 0
        assert [p.read_bytes() for p in tmp_path.iterdir()] == ([old] if old else [])
    with pytest.raises(FileNotFoundError), atomic.writing(path):
        pass  # nothing written
    assert path.read_bytes() == b"old"


def test_the_temporary_file_may_lie_in_another_folder(tmp_path):
    with atomic.writing(tmp_path / "out" / "a", folder=tmp_path / "work") as temporary:
        assert temporary.parent == tmp_path / "work"
        temporary.write_bytes(b"x")
    assert (tmp_path / "out" / "a").read_bytes() == b"x" and not list((tmp_path / "work").iterdir())


def test_several_writers_of_one_file_do_not_mix(tmp_path):
    """As processes of several hosts, whose ids may be equal (each is number 1 in its container)."""
    path, texts = tmp_path / "a", [str(i) * 200_000 for i in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: atomic.write_text(path, text), texts * 4))
    assert path.read_text() in texts and list(tmp_path.iterdir()) == [path]


def test_a_kill_in_the_middle_leaves_what_was_there(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    code = f"""
import os
from medvlp_jax import atomic
with atomic.writing({str(path)!r}) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=120).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_full_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError), atomic.writing(path) as temporary:
            temporary.write_bytes(np.arange(10_000).tobytes())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
