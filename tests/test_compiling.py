"""The compilation cache: where it lies, and that the second start of a run reads it instead of compiling."""
import os
import re
import subprocess
import sys

import jax
import pytest

from medvlp_jax import compiling
from tests import processes


@pytest.fixture
def unset(monkeypatch):
    """JAX as it is where nobody gave it a folder; the folder that tests share is put back."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv("MEDVLP_CACHE", raising=False)
    yield
    jax.config.update("jax_compilation_cache_dir", before)
    compiling.compilation_cache.reset_cache()


def where():
    return jax.config.jax_compilation_cache_dir


def test_the_folder_is_the_workdirs_or_the_one_given(unset, tmp_path, monkeypatch):
    compiling.use_cache("off", tmp_path)
    assert where() is None
    compiling.use_cache("auto", tmp_path)
    assert where() == str(tmp_path / "compiled")
    compiling.use_cache("auto", tmp_path / "other")  # JAX has been told already
    assert where() == str(tmp_path / "compiled")
    compiling.use_cache(str(tmp_path / "given"), tmp_path)
    assert where() == str(tmp_path / "given")
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("MEDVLP_CACHE", str(tmp_path / "shared"))
    compiling.use_cache("auto", tmp_path)
    assert where() == str(tmp_path / "shared")


def test_a_folder_given_after_the_first_compilation_is_used(unset, tmp_path):
    jax.jit(lambda x: x * 3.25)(1.0)
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    try:
        compiling.use_cache("auto", tmp_path)
        jax.jit(lambda x: x * 4.25)(1.0)
    finally:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
    assert list((tmp_path / "compiled").iterdir())


def test_the_second_start_reads_what_the_first_compiled(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("JAX_COMPILATION_CACHE_DIR", "MEDVLP_CACHE")}
    environment |= {"JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_NUM_CPU_DEVICES": "1"}
    found = []
    pattern = r"first step done after ([\d.]+) s, ([\d.]+) s of it compiling: (\d+) programs, (\d+) of them read from (\S+)"
    options = ("--config=tests/tiny_config.py:medklip", f"--workdir={tmp_path / 'run'}", "--config.evals.tasks=()")
    for steps in (2, 4):
        command = [sys.executable, "-m", "medvlp_jax.train", *options, f"--config.train.steps={steps}"]
        done = subprocess.run(command, cwd=processes.ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(re.search(pattern, done.stderr).groups())
    (_, first, programs, read, folder), (_, second, _, again, same) = found
    assert folder == same == str(tmp_path / "run" / "compiled") and len(os.listdir(folder)) >= int(programs) - 5
    assert int(read) == 0 and int(again) > 0.5 * int(programs) and float(second) < 0.5 * float(first)
    assert "resuming at step 2 of 4" in done.stderr
