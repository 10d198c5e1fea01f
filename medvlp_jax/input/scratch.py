"""Temporary files that a process shares with its loader processes.

They may contain reports, so only their owner can read them. They are in $MEDVLP_CACHE, else in the system's temporary folder
(TMPDIR), and are deleted when the process ends. What a killed process left behind is deleted by the next one on that host.
"""
import atexit
import fcntl
import os
import platform
import shutil
import tempfile
import threading
import uuid
import weakref
from pathlib import Path

_PREFIX = f"medvlp-scratch-{platform.node()}-"  # locks of other hosts may not be visible here
_lock = threading.Lock()
_own = {}  # process id -> (folder, its lock, held open)


def file(owner, suffix: str) -> Path:
    """Return the path of a new file, which is deleted when `owner` is collected in this process, or the process ends."""
    path = _folder() / f"{uuid.uuid4().hex[:16]}{suffix}"
    weakref.finalize(owner, path.unlink, missing_ok=True)
    return path


def _folder() -> Path:
    with _lock:
        return _make_folder()


def _make_folder() -> Path:
    if os.getpid() not in _own:
        base = Path(os.environ.get("MEDVLP_CACHE") or tempfile.gettempdir()).expanduser()
        base.mkdir(parents=True, exist_ok=True)
        _sweep(base)
        new = Path(tempfile.mkdtemp(prefix="medvlp-new-", dir=base))  # for the owner only
        lock = open(new / "lock", "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = new.rename(base / f"{_PREFIX}{uuid.uuid4().hex[:12]}")  # from here on others may look at its lock
        _own[os.getpid()] = folder, lock
        atexit.register(_remove, folder, os.getpid())
    return _own[os.getpid()][0]


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # not in a forked child
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(base: Path) -> None:
    """Delete the folders of processes that were killed: the system has released their locks."""
    for folder in base.glob(f"{_PREFIX}*"):
        try:
            with open(folder / "lock") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # alive, of another user, or deleted meanwhile
            continue
