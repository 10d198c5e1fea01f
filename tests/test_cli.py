"""The command line: every key can be overridden in its own type, and a mistake is one line that says what was meant."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict

from medvlp_jax import cli, errors, evaluate, train

ROOT = Path(__file__).parents[1]
CONFIGS = [f"configs/{name}.py{variant}" for name in ("mlip", "medklip")
           for variant in ("", ":quickstart", ":manifest", ":mimic_cxr")]  # fmt: skip


@pytest.fixture
def parse(monkeypatch):
    """Arguments -> parsed flags, as `python -m medvlp_jax.train` would have them; run in the checkout."""
    monkeypatch.chdir(ROOT)

    def run(*args, saved=None):
        values = flags.FlagValues()
        monkeypatch.setattr(sys, "argv", ["train", *args])
        train.define_flags(values)
        cli.define_config(sys.argv, values, saved)
        values(sys.argv)
        return values

    return run


MLIP = ["--config=configs/mlip.py:quickstart"]
MISTAKES = [
    (["--config=configs/mlip.py:quick"], ValueError, "no variant 'quick'; known: quickstart, manifest, mimic_cxr"),
    (["--config=configs/mlpi.py"], FileNotFoundError, "no config file configs/mlpi.py; did you mean configs/mlip.py?"),
    (["--config=nowhere/x.py"], FileNotFoundError, "no config file nowhere/x.py; there are: configs/"),
    (["--workdir=x"], ValueError, "no config is given: --config=FILE.py[:variant]; there are: configs/convirt.py, "),
    ([*MLIP, "--config.train.steps=many"], flags.Error, "--config.train.steps=many: invalid literal"),
    ([*MLIP, "--config.train.steps=1.5"], flags.Error, "invalid literal for int"),
    ([*MLIP, "--config.optim.betas=(0.9,"], flags.Error, "--config.optim.betas=(0.9,: "),
    ([*MLIP, "--wrokdir=x"], flags.Error, "Unknown command line flag 'wrokdir'. Did you mean: workdir"),
]


def leaves(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def other(value):
    """(text on the command line, value in the config) that differ from `value`."""
    if isinstance(value, bool):
        return str(not value).lower(), not value
    if isinstance(value, int | float):
        return repr(value + 1), value + 1
    if isinstance(value, str):
        return "some/where else:1,2", "some/where else:1,2"
    new = (1, "a") if value is None else (*value, "new")
    return repr(new), new


@pytest.mark.parametrize("path", CONFIGS)
def test_every_key_of_every_config_can_be_overridden(parse, path):
    given = {key: other(value) for key, value in leaves(cli.load_config(path))}
    config = parse(f"--config={path}", *[f"--config.{key}={text}" for key, (text, _) in given.items()]).config
    got = dict(leaves(config))
    assert len(given) > 50
    for key, (_, value) in given.items():
        assert got[key] == value and type(got[key]) is type(value), key


@pytest.mark.parametrize(
    "text, want",
    [
        ("zeroshot", ("zeroshot",)),
        ("zeroshot,grounding", ("zeroshot", "grounding")),
        ("('zeroshot', 'grounding')", ("zeroshot", "grounding")),
        ("COVID-19,Left Lung", ("COVID-19", "Left Lung")),
        ("", ()),
        ("()", ()),
        ("None", ()),
        ("^text_encoder/block_[01]{1,2}/", ("^text_encoder/block_[01]{1,2}/",)),  # a pattern stays whole
    ],
)
def test_tuples_as_people_type_them(parse, text, want):
    assert parse("--config=configs/mlip.py", f"--config.optim.freeze={text}").config.optim.freeze == want


def test_tuples_of_tuples_repeated_flags_and_none(parse):
    config = parse("--config=configs/medklip.py:quickstart", "--config.optim.rates=(('^image/', 0.1), ('bias$', 2))",
                   "--config.evals.tasks=zeroshot", "--config.evals.tasks=grounding",
                   "--config.data.examples.rand_augment=(2, 7)").config  # fmt: skip
    assert config.optim.rates == (("^image/", 0.1), ("bias$", 2))
    assert config.evals.tasks == ("zeroshot", "grounding") and config.data.examples.rand_augment == (2, 7)


@pytest.mark.parametrize(
    "key, message",
    [
        ("train.stepz", "no key 'stepz' in config.train; did you mean --config.train.steps?"),
        ("trian.steps", "no key 'trian' in config; did you mean --config.train.steps?"),
        ("data.exmples.hflip", "no key 'exmples' in config.data; did you mean --config.data.examples.hflip?"),
        ("lr", "no key 'lr' in config; did you mean --config.schedule.lr?"),
        ("evals.options.retrieval.galery", "did you mean --config.evals.options.retrieval.gallery?"),
        ("losses.zzz", "keys there: alignment, category, global_contrast"),
        ("data.image_size.x", "data.image_size is a single value, 112"),
    ],
)
def test_misspelt_keys_say_what_was_meant(parse, key, message):
    for form in (f"--config.{key}=1", f"-config.{key}=1", f"--noconfig.{key}"):
        with pytest.raises(ValueError) as error:
            parse("--config=configs/mlip.py:quickstart", form)
        assert message in str(error.value) and f"--config.{key}: " in str(error.value)


@pytest.mark.parametrize("args, error, message", MISTAKES)
def test_mistakes_explain_themselves(parse, args, error, message):
    with pytest.raises(error) as caught:
        parse(*args)
    assert message in str(caught.value) and isinstance(caught.value, errors.UserError | flags.Error)


def test_without_a_config_the_saved_one_takes_overrides(parse):
    saved = lambda: ConfigDict({"seed": 3, "evals": {"split": "test"}})  # noqa: E731
    config = parse("--config.evals.split=val", saved=saved).config
    assert config.to_dict() == {"seed": 3, "evals": {"split": "val"}}
    with pytest.raises(ValueError, match="did you mean --config.evals.split"):
        parse("--config.evals.splt=val", saved=saved)
    assert parse("--config=configs/mlip.py", saved=saved).config.method == "mlip"  # a given one goes first


def test_flag_values_before_parsing():
    assert cli.flag_value(["x", "--workdir=a=b"], "workdir") == "a=b"
    assert cli.flag_value(["x", "-workdir", "c"], "workdir") == "c"
    assert cli.flag_value(["x", "--config.workdir=c", "--workdirs=d"], "workdir") is None


def a_mistake():
    raise ValueError("expected this,\ncame that")


def a_bug():
    return int("seven")


def test_mistakes_are_one_line_and_bugs_keep_their_traceback(capsys):
    opening = errors.opening()
    with pytest.raises(SystemExit) as end:
        cli.guarded(opening(a_mistake))
    assert end.value.code == 2 and capsys.readouterr().err == "error: expected this,\ncame that\n"
    with pytest.raises(SystemExit):
        cli.guarded(opening(open), "/nowhere/at/all")  # names the file itself
    assert capsys.readouterr().err.startswith("error: [Errno 2] No such file")
    for bug, error in ((a_bug, ValueError), (lambda: {}["x"], KeyError), (lambda: cli.guarded(None), TypeError)):
        for fn in (bug, opening(bug)):
            with pytest.raises(error) as caught:
                cli.guarded(fn)
            assert not isinstance(caught.value, errors.UserError)
    assert cli.guarded(max, 1, 2) == 2


@pytest.mark.parametrize("bug", [a_mistake, lambda: open("/nowhere/at/all")])
def test_what_is_raised_outside_of_the_opening_is_no_mistake(bug, capsys):
    """A shape check that fails in the loss, say, or a file that vanishes during the run."""
    with pytest.raises((ValueError, FileNotFoundError)):
        cli.guarded(bug)
    assert not capsys.readouterr().err


def test_a_mistake_keeps_its_kind_its_number_and_its_cause():
    for raised, kind in ((ValueError("v"), ValueError), (PermissionError(13, "closed"), PermissionError),
                         (FloatingPointError("f"), FloatingPointError), (ImportError("i"), ImportError),
                         (OSError(28, "full"), OSError)):  # fmt: skip

        def fail(raised=raised):
            raise raised

        with pytest.raises(kind) as caught:
            errors.opening()(fail)()
        assert isinstance(caught.value, errors.UserError) and caught.value.__cause__ is raised
        assert str(caught.value) == str(raised) and getattr(raised, "errno", None) == getattr(caught.value, "errno", None)


@pytest.mark.parametrize("program", ["train", "evaluate"])
def test_the_programs_end_with_one_line(tmp_path, program):
    arguments = ["--config=configs/mlip.py:quickstart", "--config.data.batch_sise=3", f"--workdir={tmp_path / 'new'}"]
    done = subprocess.run([sys.executable, "-m", f"medvlp_jax.{program}", *arguments], cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, "JAX_PLATFORMS": "cpu"}, timeout=120)  # fmt: skip
    want = "error: --config.data.batch_sise: no key 'batch_sise' in config.data; did you mean --config.data.batch_size?\n"
    assert (done.returncode, done.stderr, done.stdout) == (2, want, "")
    assert not (tmp_path / "new").exists()


def test_both_programs_have_their_flags():
    values = flags.FlagValues()
    evaluate.define_flags(values)
    values(["evaluate", "--tasks=zeroshot,grounding", "--step=best", "--workdir=w"])
    assert (values.tasks, values.step, values.workdir) == (["zeroshot", "grounding"], "best", "w")
    assert signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, None)  # importing train changes no handlers
