"""Errors of the user's making, apart from bugs and faults.

A `UserError` is about what the user gave: a config, a file, a folder. Its message says what to change; the command line
prints that message alone and exits with code 2. Every other exception keeps its traceback (docs/training.md, exit codes).
"""

import contextlib
import sysconfig
import traceback
from pathlib import Path

PACKAGE = Path(__file__).parent
LIBRARIES = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib"))


class UserError(Exception):
    """The message names what was expected, what came and what to change."""


class BadValue(UserError, ValueError):
    """A value that does not fit."""


class BadImport(UserError, ImportError):
    """A package that has to be installed."""


class BadNumber(UserError, ArithmeticError):
    """An arithmetic error that the input or the config causes."""


class NotFinite(UserError, FloatingPointError):
    """A training run whose loss or gradient stays infinite or NaN."""


class FileFault(UserError, OSError):
    """A file or folder that cannot be read or written."""


class FileMissing(UserError, FileNotFoundError):
    """A file or folder that is not there."""


class FileClosed(UserError, PermissionError):
    """A file or folder that we may not read or write."""


# Built-in class -> class of the same kind for the user; the first that fits.
KINDS = {
    FileNotFoundError: FileMissing, PermissionError: FileClosed, OSError: FileFault, ImportError: BadImport,
    FloatingPointError: NotFinite, ArithmeticError: BadNumber, ValueError: BadValue,
}  # fmt: skip


@contextlib.contextmanager
def opening():
    """Mark a block, or a function as decorator, in which the config is read and files are opened.

    What this project or a config file raises there on purpose becomes a `UserError` of the same built-in kind, with the
    original as its cause. So does a file that is missing or closed to us. Everything else passes unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not explained(error):
            raise
        raise as_user_error(error) from error


def as_user_error(error: Exception) -> UserError:
    """Return a `UserError` with the message of `error`, and with its errno if it has one."""
    kind = next(ours for builtin, ours in KINDS.items() if isinstance(error, builtin))
    made = kind(str(error))
    if isinstance(error, OSError):
        made.errno = error.errno
    return made


def explained(error: BaseException) -> bool:
    """Return whether a message is written for the user: by a `raise` of this project or of a config, not in a library."""
    if isinstance(error, FileNotFoundError | PermissionError):
        return True
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not isinstance(error, tuple(KINDS)):
        return False
    folders = Path(frames[-1].filename).parents
    ours = PACKAGE in folders or not any(library in folders for library in LIBRARIES)
    return ours and (frames[-1].line or "").startswith("raise ")
