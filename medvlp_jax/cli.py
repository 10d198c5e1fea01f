"""The command line of train and evaluate: config files, overrides by flag, and mistakes told in one line.

A mistake of the user (`errors.UserError`) ends the program with `error: ...` and exit code 2. Anything else keeps its
traceback and ends it with 1. --verbosity=1 shows the traceback of a mistake, too.
"""
import ast
import difflib
import importlib.util
import logging as std_logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags
from ml_collections.config_flags import tuple_parser

from medvlp_jax import errors

FLAGS = flags.FLAGS
PACKAGE = Path(__file__).parent
OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]+)")


class _Words(tuple_parser.TupleParser):
    """Tuples as Python writes them, and what people type: `a`, `a,b`, None or nothing at all, a pattern such as
    `^block_[01]{1,2}/`."""

    def parse(self, argument):
        if argument == "None":
            return ()
        if isinstance(argument, str) and re.fullmatch(r"[A-Za-z_][\w -]*(,[A-Za-z_][\w -]*)*|", argument):
            return tuple(argument.split(",")) if argument else ()
        try:
            return super().parse(argument)
        except ValueError:
            if argument.startswith(("(", "[")):
                raise
            return (argument,)


class _Optional(flags.ArgumentParser):
    """A key whose value is None takes any Python literal."""

    def parse(self, argument):
        return ast.literal_eval(argument)


config_flags.register_flag_parser_for_type(tuple, _Words())
config_flags.register_flag_parser_for_type(type(None), _Optional())


@errors.opening()
def load_config(path: str) -> ConfigDict:
    """The config of `FILE.py[:variant]`.

    Raises:
      FileNotFoundError: no such file; says which there are.
      ValueError: whatever the file raises, such as an unknown variant.
    """
    name, colon, variant = path.partition(":")
    file = Path(name)
    if not file.is_file():
        there = sorted(str(p) for p in Path(file.parent if file.parent.is_dir() else "configs").glob("*.py"))
        near = difflib.get_close_matches(name, there, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(there) or 'none'}"
        raise FileNotFoundError(f"no config file {name}; {hint}")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant) if colon else module.get_config()


def check_key(config: ConfigDict, key: str) -> None:
    """Raises a ValueError if `config` has no dotted `key`, with the one that was probably meant."""
    node, at = config, ""
    for part in key.split("."):
        if not isinstance(node, ConfigDict):
            raise ValueError(f"--config.{key}: {at[1:]} is a single value, {node!r}")
        if part not in node:
            raise ValueError(f"--config.{key}: no key {part!r} in config{at}; {_hint(config, node, at, key)}")
        node, at = node[part], f"{at}.{part}"


def _hint(config, node, at: str, key: str) -> str:
    """The key that was meant: spelt alike, or of the same name elsewhere; else all that are there."""
    part, *rest = key[len(at) :].split(".")
    keys = _dotted(config)
    meant = [".".join([*at.split(".")[1:], name, *rest]) for name in difflib.get_close_matches(part, list(node), 1)]
    meant = [name for name in meant if name in keys]
    meant = meant or difflib.get_close_matches(key, keys, 1, cutoff=0.85)
    meant = meant or [name for name in keys if name.split(".")[-1] == key.split(".")[-1]]
    if meant:
        return f"did you mean --config.{' or --config.'.join(meant)}?"
    return f"keys there: {', '.join(sorted(node))}"


def _dotted(config, prefix="") -> list[str]:
    keys = []
    for name, value in config.items():
        keys += [prefix + name, *(_dotted(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else ())]
    return keys


def flag_value(argv: Sequence[str], name: str) -> str | None:
    """Value of `--name=value` or `--name value` before flags are parsed, or None."""
    for i, arg in enumerate(argv):
        if match := re.fullmatch(rf"--?{name}(?:=(.*))?", arg, re.DOTALL):
            return match[1] if match[1] is not None else next(iter(argv[i + 1 :]), "")
    return None


@errors.opening()
def define_config(argv: Sequence[str], flag_values=FLAGS, saved: Callable[[], ConfigDict] | None = None) -> None:
    """Defines the flag --config and checks the names of its overrides in `argv`.

    Args:
      saved: gives the config to use where `argv` names none; None makes --config required.

    Raises:
      ValueError, FileNotFoundError: no config, or one that cannot be loaded; an override of a key that does not exist.
    """
    argv = flag_values.read_flags_from_files(list(argv), force_gnu=False)
    path = flag_value(argv, "config")
    text = "Config file and variant, such as configs/mlip.py:quickstart; --config.KEY=VALUE changes a key of it."
    if any(re.fullmatch(r"--?help(short|full|xml)?", arg) for arg in argv):
        config_flags.DEFINE_config_file("config", None, text, flag_values=flag_values)
        return
    if path is None and saved is None:
        there = ", ".join(sorted(str(p) for p in Path("configs").glob("*.py") if p.stem not in ("__init__", "common")))
        raise ValueError("no config is given: --config=FILE.py[:variant]" + (f"; there are: {there}" if there else ""))
    config = saved() if path is None else load_config(path)
    for arg in argv:
        if match := OVERRIDE.match(arg):
            check_key(config, match[1])
    if path is None:
        config_flags.DEFINE_config_dict("config", config, text, flag_values=flag_values)
    else:
        config_flags.DEFINE_config_file("config", None, text, flag_values=flag_values)


def guarded(fn: Callable, *args, **options):
    """fn(*args, **options); a mistake of the user becomes one line on stderr and exit code 2."""
    try:
        return fn(*args, **options)
    except (errors.UserError, flags.Error) as error:
        logging.debug("where it was raised:", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def run(main: Callable[[list[str]], None], saved: Callable[[], ConfigDict] | None = None) -> None:
    """Parses sys.argv and runs `main(remaining arguments)`; see `define_config` for `saved`."""
    prepare_process()
    guarded(define_config, sys.argv, FLAGS, saved)
    FLAGS.register_key_flag_for_module(sys.argv[0], FLAGS["config"])  # --help shows it
    app.run(lambda argv: guarded(main, argv), flags_parser=lambda argv: guarded(FLAGS, argv))


def prepare_process() -> None:
    """Once per process: our messages one a line, from process 0; what libraries say only from warnings up."""
    logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()

    def wanted(record):
        return record.levelno >= std_logging.WARNING or PACKAGE in Path(record.pathname).parents and jax.process_index() == 0

    handler.addFilter(wanted)
    handler.setFormatter(std_logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S"))
