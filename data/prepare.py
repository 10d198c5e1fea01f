r"""Prepares a data set once: images shrunk, reports read, splits settled, in ArrayRecord shards with a data card.

    python -m data.prepare --dataset=mimic_cxr --src=mimic-cxr-jpg/2.1.0 --reports=mimic-cxr-reports.zip --out=prepared/mimic
    python -m medvlp_jax.train --config=configs/medklip.py:manifest --config.data.name=prepared \
        --config.data.path=prepared/mimic

    python -m data.prepare --dataset=ms_cxr --src=ms-cxr/1.1.0 --ids_of=test --out=ms_cxr.json

The last one writes identifiers of patients, for --exclude and --config.data.exclude (docs/leakage.md).
Started again after whatever ended it, kill -9 included, it makes what is missing and nothing twice.
"""
import argparse
import concurrent.futures
import fcntl
import multiprocessing
import os
import sys
import threading
import time
from contextlib import contextmanager

from data import card, shards
from data.plan import Plan, open_table
from medvlp_jax.input import datasets, exclusion, identifiers, manifest, views

_done = None  # of a worker process: rows done by all of them


def _start(counter) -> None:
    """In a worker: it counts, and ends as soon as the parent is gone (killed, say) instead of waiting for it forever."""
    global _done
    _done = counter
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _tick(n: int) -> None:
    with _done.get_lock():
        _done.value += n


def _make(job: shards.Job) -> dict:
    return shards.make(job, _tick)


def run(plan: Plan, workers: int, max_bad_share: float = 0.05) -> dict:
    """Makes the shards of a plan that are not there yet, then everything beside them -> the data card.

    Raises:
      ValueError: too many rows that cannot be used; the shards stay. BlockingIOError: another process works there.
    """
    plan.begin()
    with _locked(plan.out / "work" / "lock"):
        for old in (plan.out / "work").glob("*.tmp"):
            old.unlink()
        summaries = {i: shards.finished(plan.out, file) for i, (file, *_) in enumerate(plan.shards)}
        missing = [i for i, found in summaries.items() if found is None]
        before = sum(len(plan.shards[i][2]) for i, found in summaries.items() if found)
        if missing and before:
            print(f"going on: {len(plan.shards) - len(missing)} of {len(plan.shards)} shards are there", file=sys.stderr)
        with _progress(before, sum(len(rows) for *_, rows in plan.shards)) as show:
            for i, summary in _all(plan, missing, workers, lambda n: show(before + n)):
                summaries[i] = summary
        return card.finish(plan, [summaries[i] for i in range(len(plan.shards))], max_bad_share)


def _all(plan: Plan, missing: list[int], workers: int, show):
    """(number, summary) of every shard as it is finished."""
    done = 0
    if workers < 1:
        for i in missing:
            yield i, shards.make(plan.job(i))
            show(done := done + len(plan.shards[i][2]))
        return
    context = multiprocessing.get_context("spawn")
    counter, waiting, running = context.Value("q", 0), iter(missing), {}
    pool = concurrent.futures.ProcessPoolExecutor(min(workers, max(len(missing), 1)), context, _start, (counter,))
    try:
        while True:
            for i in waiting:
                running[pool.submit(_make, plan.job(i))] = i
                if len(running) > workers:  # one ahead, for rows take memory
                    break
            if not running:
                return
            ended, _ = concurrent.futures.wait(running, 0.5, concurrent.futures.FIRST_COMPLETED)
            show(counter.value)
            for future in ended:
                yield running.pop(future), future.result()
    except concurrent.futures.process.BrokenProcessPool:
        raise ValueError("a worker was ended from outside, perhaps for lack of memory; run the same command again, with fewer "
                         "--workers: finished shards stay") from None
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list((pool._processes or {}).values()):
            process.terminate()


@contextmanager
def _locked(path):
    """Keeps a second preparation out of the folder; the system lets go of it when this process ends, in whatever way."""
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another data.prepare is at work in {path.parent.parent}") from None
        yield


@contextmanager
def _progress(before: int, total: int):
    """A bar on a terminal, else a line every ten seconds -> function of the number of rows done."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        columns = "preparing", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=total, completed=before)
            yield lambda n: bar.update(task, completed=n)
        return
    start, last = time.monotonic(), [time.monotonic()]

    def show(n):
        if time.monotonic() - last[0] > 10:
            last[0] = time.monotonic()
            print(f"{n} of {total} rows, {(n - before) / (last[0] - start):.0f} a second", file=sys.stderr)

    yield show


def main(argv=None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m data.prepare", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--dataset", required=True, help=f"manifest, {', '.join(sorted(datasets.READERS))}")
    add("--src", required=True, help="root of the data set as in data/README.md, or the manifest (.csv, .jsonl, .parquet)")
    add("--out", required=True, help="a new folder, or one where this was begun")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes; 0 works in this one")
    add("--size", type=int, default=256, help="long side in pixels; 256 for MLIP, 512 for MedKLIP's crops")
    add("--quality", type=int, default=95, help="of the JPEG")
    add("--format", choices=("jpeg", "png"), default="jpeg", help="png: uncompressed: 4 x the space, lossless, faster")
    add("--views", default="frontal", help="kinds or projections to keep: frontal (default), all, or such as PA,AP,unknown")
    add("--split", choices=("official", "patient"), default="official", help="patient: by hash, 80/10/10")
    add("--sections", default="impression,findings", help="of a report, in this order")
    add("--closed_world", choices=("auto", "always", "never"), default="auto", help="whether a list of labels is complete")
    add("--blank_labels", choices=("unknown", "absent"), default="unknown", help="what a blank label says (docs/labels.md)")
    add("--label_precedence", choices=("report", "labels"), default="report", help="who wins; a radiologist's labels always do")
    add("--annotations", default="", help="files with labels or mentions by study: RadGraph, CheXbert, JSON lines; a,b for two")
    add("--require_report", action="store_true", help="drop images without a report")
    add("--keep_burned_in", action="store_true", help="keep DICOM images that say that text (a name?) is burnt into them")
    add("--max_bad_share", type=float, default=0.05, help="of rows that cannot be used; above it there is no card")
    add("--shard_mb", type=float, default=100.0, help="rough size of a shard")
    add("--root", default="", help="manifest: folder that its paths are relative to")
    add("--reports", default="", help="mimic_cxr: the zip, a folder or 'none'; chexpert: df_chexpert_plus_*.csv")
    add("--radgraph", default="", help="mimic_cxr: MIMIC-CXR_graphs.json")
    add("--exclude", action="append", default=[], help="a file of --ids_of: its patients are left out of train and val")
    add("--ids_of", default="", help="all, train, val or test: writes only the identifiers of that split to the file --out")
    add("--by", choices=identifiers.KINDS, default="patient", help="with --ids_of: what is left out where one image is named")
    add("--mapping", default="", help="with --ids_of: RSNA's pneumonia-challenge-dataset-mappings_2018.json")
    add("--labels", default="", help="mimic_cxr: chexpert, negbio, radiologist; chexpert_plus: impression, findings, report")
    args = parser.parse_args(argv)
    from medvlp_jax import cli, errors

    cli.guarded(errors.opening()(_main), args)


def write_ids(args, options: dict) -> None:
    """Writes the identifiers of a split of a data set, for --exclude and data.exclude.

    Raises:
      FileNotFoundError, ValueError: as the reader, `identifiers.read_mapping` and `exclusion.collect` raise.
    """
    mapping = identifiers.read_mapping(args.mapping) if args.mapping else None
    table = open_table(args.dataset, args.src, **options)
    if args.split == "patient":
        table.columns.pop("split", None)
    record = exclusion.collect(table, manifest.scan(table)[0], args.ids_of, args.dataset, args.by, mapping)
    exclusion.write(args.out, record)
    counts = ", ".join(f"{n:,} by {kind}" for kind, n in record["count"].items() if n)
    print(f"{args.out}: identifiers of {args.dataset}, {args.ids_of}: {counts}; SHA-256 {record['sha256']}")
    for entry in record["of"]:
        if missing := identifiers.unmatched(entry):
            print(f"{entry['dataset']} is of {missing}'s images under other names" + (
                ": give --mapping=pneumonia-challenge-dataset-mappings_2018.json to match them" if not args.mapping else
                ", and the mapping does not name all of them: rows of " + missing + " may stay"), file=sys.stderr)  # fmt: skip
    print(f"use it: --exclude={args.out}, or --config.data.exclude={args.out}")


def _main(args) -> None:
    if args.size < 16:
        raise ValueError(f"--size={args.size}: expected a long side of 16 pixels or more")
    settings = shards.Settings(
        args.size, args.quality, args.format, tuple(args.sections.split(",")), args.closed_world, args.blank_labels,
        args.label_precedence, views.parse(args.views), args.require_report, args.keep_burned_in,
    )
    options = {name: getattr(args, name) for name in ("reports", "radgraph", "labels") if getattr(args, name)}
    taken = {"mimic_cxr": {"reports", "radgraph", "labels"}, "chexpert": {"reports"}, "chexpert_plus": {"labels"}}
    taken = taken.get(args.dataset, set())
    if wrong := set(options) - taken:
        raise ValueError(f"--dataset={args.dataset} takes no --{', --'.join(sorted(wrong))}")
    if args.ids_of:
        write_ids(args, options)
        return
    if args.mapping or args.by != "patient":
        raise ValueError("--mapping and --by belong to --ids_of; --exclude takes the file that it wrote")
    plan = Plan(args.dataset, args.src, args.out, settings, args.split, args.shard_mb, args.root, args.exclude,
                args.annotations, **options)
    made = run(plan, args.workers, args.max_bad_share)
    print(f"{args.out}: " + ", ".join(f"{n:,} {name}" for name, n in made["examples"].items()) + f"; {card.line(made)}")
    print(f"use it: --config.data.name=prepared --config.data.path={args.out}")


if __name__ == "__main__":
    main()
