"""JAX's persistent compilation cache, and how much of a start goes into compiling.

The cache holds programs that are run as they are. Share a folder only with people whom you trust to run code as you.
"""

import os
from pathlib import Path

import jax
from absl import logging
from jax.experimental.compilation_cache import compilation_cache

COMPILED = "/jax/core/compile/backend_compile_duration"  # of each program, read from the cache or not
READ = "/jax/compilation_cache/cache_hits"
_counts = {"seconds": 0.0, "programs": 0, "read": 0}
_listening = []


def use_cache(where: str, workdir: Path) -> None:
    """Keep compiled programs in a folder, so that the next start reads them instead of compiling.

    Args:
      where: config.train.compilation_cache. "auto": what JAX was told (JAX_COMPILATION_CACHE_DIR), else $MEDVLP_CACHE, else
        `workdir`/compiled; "off": only what JAX was told; else a folder.
    """
    if where == "off":
        return
    if where == "auto":
        where = jax.config.jax_compilation_cache_dir or os.environ.get("MEDVLP_CACHE") or str(workdir / "compiled")
    folder = str(Path(where).expanduser().absolute())
    if folder == jax.config.jax_compilation_cache_dir:
        return
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()  # JAX looks for the folder once, at its first compilation, which may be over


def count() -> None:
    """Count the compilations of this process from now on."""
    _counts.update(seconds=0.0, programs=0, read=0)
    if _listening:
        return
    _listening.append(True)

    def duration(event, seconds, **_):
        if event == COMPILED:
            _counts["seconds"] += seconds
            _counts["programs"] += 1

    def happened(event, **_):
        if event == READ:
            _counts["read"] += 1

    jax.monitoring.register_event_duration_secs_listener(duration)
    jax.monitoring.register_event_listener(happened)


def report(seconds: float) -> None:
    """Log how long the start took (seconds to the end of the first step) and how much of it went into compiling."""
    logging.info(
        "first step done after %.1f s, %.1f s of it compiling: %d programs, %d of them read from %s",
        seconds, _counts["seconds"], _counts["programs"], _counts["read"], jax.config.jax_compilation_cache_dir or "no cache",
    )  # fmt: skip
