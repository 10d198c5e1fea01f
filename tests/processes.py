"""Starts `python -m medvlp_jax.train` as a user would, as one process or as several that work together."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start(workdir: Path, *options: str, processes: int = 1, devices: int = 1, method: str = "mlip",
          each: list[list[str]] | None = None) -> list[subprocess.Popen]:
    """`processes` of them with `devices` CPU devices each, on the tiny config; `each`: options of a single process."""
    flags = [f"--config=tests/tiny_config.py:{method}", f"--workdir={workdir}", "--config.evals.tasks=()", *options]
    environment = {
        **os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip
    if processes > 1:
        environment |= {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(processes)}
    started = []
    for i in range(processes):
        mine = environment | ({"JAX_PROCESS_ID": str(i)} if processes > 1 else {})
        log = (workdir.parent / f"{workdir.name}-{i}.log").open("w")
        command = [sys.executable, "-m", "medvlp_jax.train", *flags, *(each[i] if each else [])]
        started.append(subprocess.Popen(command, cwd=ROOT, env=mine, stdout=log, stderr=subprocess.STDOUT))
    return started


def logs(workdir: Path, count: int) -> list[str]:
    """What each wrote; without the list of extension modules, in which a fatal error would end and hide its cause."""
    texts = [(workdir.parent / f"{workdir.name}-{i}.log").read_text() for i in range(count)]
    return ["\n".join(line for line in text.split("\n") if not line.startswith("Extension modules")) for text in texts]


def finish(workdir: Path, started: list[subprocess.Popen], codes=None, timeout: float = 300) -> list[str]:
    """Waits for all; their exit codes must be `codes` (default: all 0) -> what each wrote."""
    try:
        found = [process.wait(timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    written = logs(workdir, len(started))
    assert found == (codes or [0] * len(started)), "\n".join(
        f"--- {c}\n{text[-3000:]}" for c, text in zip(found, written, strict=True)
    )
    return written


def run(workdir: Path, *options: str, **how) -> list[str]:
    return finish(workdir, start(workdir, *options, **how))


def records(workdir: Path) -> list[dict]:
    """What metrics.jsonl says, but for speed."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "images_per_s"} for line in lines]


def wait_for_step(workdir: Path, started: list[subprocess.Popen], step: int, timeout: float = 300) -> None:
    """Until metrics.jsonl has a record of that step."""
    path, end = workdir / "metrics.jsonl", time.monotonic() + timeout
    while f'"step": {step},' not in (path.read_text() if path.exists() else ""):
        alive = all(process.poll() is None for process in started)
        assert alive and time.monotonic() < end, "\n".join(text[-3000:] for text in logs(workdir, len(started)))
        time.sleep(0.01)
