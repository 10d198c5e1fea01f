"""Asks a checkpoint about images: a table of scores, and overlays of where it looks.

    python -m medvlp_jax.predict a.png b.dcm --workdir=runs/medklip-quickstart --findings=effusion,pneumothorax --out=seen

--workdir is a run, or an imported published checkpoint. Exit code: 0; 1 where some images could not be read (they are named,
the others are done); 2 where nothing could be done.
"""
import csv
import re
import sys
from pathlib import Path

from absl import flags, logging
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medvlp_jax import cli, errors, inference, loading
from medvlp_jax.input import images as given
from medvlp_jax.input import transforms
from medvlp_jax.reports import vocab
from medvlp_jax.tasks import common, figures

FLAGS = flags.FLAGS
USUAL = ("atelectasis", "cardiomegaly", "consolidation", "edema", "effusion", "emphysema", "fracture", "infiltrate", "mass",
         "nodule", "opacity", "pneumonia", "pneumothorax", "thicken")  # fmt: skip
COLUMNS = 7  # findings a table


def predict(model: inference.Model, paths: list[str], findings: list[str], by: str = "auto", out: Path | None = None):
    """-> ({path: scores (F,)}, {path: why it was skipped}); overlays go to `out` as they are made.

    Raises:
      ValueError: an unknown finding, or a `by` that the method does not have.
    """
    scored, skipped, files, entity = {}, {}, FileNames(), model.way(by) == "entity"
    draws = out is not None and "ground" in model.predicts
    names = ("score_findings",) * entity + ("ground",) * draws
    paths = list(dict.fromkeys(paths))
    for at in range(0, len(paths), inference.CHUNK):
        ready = {}
        for path in paths[at : at + inference.CHUNK]:
            try:
                ready[path] = model.prepare(path)
            except (ValueError, OSError) as error:
                skipped[path] = str(error)
        if not ready:
            continue
        images = list(ready.values())
        outputs = [outputs for _, outputs in model.answers(images, findings, names)] if names else []
        rows = [o["score_findings"] for o in outputs] if entity else model.zero_shot(images, findings, by)
        scored |= dict(zip(ready, rows, strict=True))
        if draws:
            for path, found in zip(ready, outputs, strict=True):
                draw(model, out / files.new(path), path, ready[path], findings, found)
    return scored, skipped


def draw(model: inference.Model, file: Path, path: str, image: inference.Prepared, findings: list[str], found: dict) -> None:
    """One PNG: the image and a heat map a finding. found: what `Model.answers` gave."""
    values = found.get("score_findings", [None] * len(findings))
    panels = [{"finding": name, "score": value, "map": model.to_pixels(heat, image), "peak": model.peak(heat, image)}
              for name, value, heat in zip(findings, values, found["ground"], strict=True)]  # fmt: skip
    figures.overlays(file, transforms.load(given.field(path))[0], panels)


class FileNames:
    """New names of PNG files, plain ASCII, from paths of any kind; equal ones get a number."""

    def __init__(self):
        self._taken = set()

    def new(self, path: str) -> str:
        """Such as "a-heat.png"."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(path).stem).strip("._-")[:80] or "image"
        number, name = 1, f"{stem}-heat.png"
        while name.lower() in self._taken:  # some file systems do not tell case apart
            number += 1
            name = f"{stem}-{number}-heat.png"
        self._taken.add(name.lower())
        return name


def plain(text: str) -> str:
    """A file name as a terminal may safely show it."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def tables(scored: dict, findings: list[str], title: str) -> list[Table]:
    """Images by findings, at most `COLUMNS` findings a table."""
    out = []
    for at in range(0, len(findings), COLUMNS):
        part = Table(title=escape(title) if not at else None)
        part.add_column("image", overflow="fold")
        for name in findings[at : at + COLUMNS]:
            part.add_column(escape(name), justify="right", overflow="fold")
        for path, row in scored.items():
            part.add_row(escape(plain(path)), *(f"{value:.3f}" for value in row[at : at + COLUMNS]))
        out.append(part)
    return out


def write_scores(path: Path, scored: dict, findings: list[str]) -> None:
    """A CSV with one row an image."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *findings])
        writer.writerows([name, *(f"{value:.6g}" for value in row)] for name, row in scored.items())


def define_flags(flag_values=FLAGS) -> None:
    """Flags beside --config."""
    define = {"flag_values": flag_values}
    flags.DEFINE_string("workdir", "", "Run directory, or imported published checkpoint.", **define)
    flags.DEFINE_list("findings", list(USUAL), "Names of entities, or of data sets' labels for them.", **define)
    flags.DEFINE_string("out", "", "Folder for scores.csv and overlays; none are written without it.", **define)
    flags.DEFINE_string("step", "last", "Checkpoint of the run: last, best or a number.", **define)
    flags.DEFINE_enum("by", "auto", ("auto", "entity", "prompts"), "How findings are scored: see Model.zero_shot.", **define)


@errors.opening()
def main(argv) -> int:
    """Entry of `python -m medvlp_jax.predict`."""
    paths, findings = argv[1:], FLAGS.findings
    if not paths:
        raise ValueError("no image is given: python -m medvlp_jax.predict IMAGE... --workdir=DIR")
    for name in findings:  # before the checkpoint is opened
        if common.entity_row(name) is None:
            raise ValueError(f"unknown finding {name!r}{vocab.label_hint(name)}; known: {', '.join(vocab.ENTITIES)}")
    out = Path(FLAGS.out).expanduser() if FLAGS.out else None
    if out:
        out.mkdir(parents=True, exist_ok=True)
    return report(inference.from_config(FLAGS.config, FLAGS.workdir, FLAGS.step), paths, findings, FLAGS.by, out)


def report(model: inference.Model, paths: list[str], findings: list[str], by: str = "auto", out: Path | None = None) -> int:
    """Prints what `predict` finds and writes out/scores.csv -> the exit code."""
    scored, skipped = predict(model, paths, findings, by, out)
    console = Console(width=None if sys.stdout.isatty() else 120)
    if scored:
        unit = "P(present)" if model.way(by) == "entity" else "similarity to prompts, present - absent"
        for table in tables(scored, findings, f"{model.config.method}, step {model.step}: {unit}"):
            console.print(table)
        if out:
            write_scores(out / "scores.csv", scored, findings)
            print(f"{out}: scores.csv" + (f", {len(scored)} overlays" if "ground" in model.predicts else
                                          f"; no overlays: method {model.config.method!r} cannot ground"))
        print("Research software, not a medical device.")
    for path, why in skipped.items():
        print(f"skipped {plain(path)}: {plain(why)}", file=sys.stderr)
    return 0 if not skipped else 1 if scored else 2


def saved():
    """The config of --workdir."""
    folder = cli.flag_value(sys.argv, "workdir")
    if not folder:
        raise ValueError("no checkpoint is given: --workdir=RUN_OR_IMPORTED_CHECKPOINT")
    return loading.config_of(folder)


if __name__ == "__main__":
    define_flags()
    logging.set_verbosity(logging.WARNING)
    cli.run(main, saved=saved)
