"""Memory and opening time of a manifest of many rows, on a host with many loader processes.

    python -m medvlp_jax.bench manifest --rows=1000000 --workers=16

Write a synthetic manifest with reports of about 400 characters, open it as training does, check it, start the loader processes
and sum the proportional set size (PSS: shared pages count once) of this process and its workers. A manifest of 1,000 rows is
measured first: what the rows cost is the difference. Images are 1,000 small PNGs behind 1,000 linked folders, so that every row
names a path of its own. Linux only.
"""
import argparse
import csv
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from medvlp_jax.input import check, pipeline, tokens
from medvlp_jax.input.examples import DEFAULTS
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.input.phantom import PhantomSource

OPTIONS = DEFAULTS._replace(image_size=16, frame=16, crop="random", fit="pad", needs=("labels", "text", "swap"))
BATCH, BASE_ROWS, FOLDERS = 64, 1000, 1000
SECONDS = ("open", "check", "rows, fingerprint", "examples")
COLUMNS = ("image", "report", "patient_id", "study_id", "split", "view", "sex", "age")


def sentences(count: int = 2000) -> list[str]:
    """Distinct sentences of synthetic reports, some with a number of their own, as measurements and dates make them."""
    source, found = PhantomSource("train", count), {}
    for i in range(count):
        for part in source.text(i).replace("\n", " ").split(". "):
            found[part.strip(" .") + "."] = None
    return [s for s in found if len(s) > 8 and ":" not in s]


def records(rows: int, seed: int = 0):
    """Rows as tuples of COLUMNS, one at a time: 2 images a study, 4 a patient."""
    rng, known = random.Random(seed), sentences()
    for i in range(rows):
        parts, size = [], 0
        while size < 370:
            parts.append(rng.choice(known))
            size += len(parts[-1]) + 1
        parts.insert(rng.randrange(len(parts)), f"A nodule of {rng.randrange(1, 400) / 10} mm is seen.")
        text = "FINDINGS: " + " ".join(parts)
        yield (f"d{i // FOLDERS % FOLDERS:03d}/{i % FOLDERS:03d}-{i // FOLDERS**2}.png", text,
               f"p{i // 4}", f"s{i // 2}", "train", "PA" if i % 2 else "AP", rng.choice("FM"),
               str(rng.randrange(18, 90)))  # fmt: skip


def write(folder: Path, rows: int) -> Path:
    """Images and manifest of `rows` rows below `folder`."""
    (folder / "d").mkdir(parents=True)
    picture = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8))[1].tobytes()
    for i in range(min(rows, FOLDERS)):
        for k in range(-(-rows // FOLDERS**2)):
            (folder / "d" / f"{i:03d}-{k}.png").write_bytes(picture)
    for i in range(-(-rows // FOLDERS)):
        (folder / f"d{i % FOLDERS:03d}").symlink_to("d")
    path = folder / "manifest.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(records(rows))
    return path


def memory() -> tuple[float, float, float]:
    """PSS in MB of this process, of all its descendants, and the mean of what a worker has for itself (USS)."""
    own, others = _sizes(os.getpid()), [_sizes(process) for process in _descendants(os.getpid())]
    alone = [uss for _, uss in others if uss > 20]  # MB; the resource tracker is no worker
    return own[0], sum(pss for pss, _ in others), sum(alone) / max(len(alone), 1)


def _descendants(process: int) -> list[int]:
    text = "".join(path.read_text() for path in Path(f"/proc/{process}/task").glob("*/children"))
    return [p for child in map(int, text.split()) for p in (child, *_descendants(child))]


def _sizes(process: int) -> tuple[float, float]:
    """PSS and USS of a process in MB."""
    lines = (line.split() for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:])
    kb = {words[0].rstrip(":"): int(words[1]) for words in lines}
    return kb["Pss"] / 1e3, (kb["Private_Clean"] + kb["Private_Dirty"]) / 1e3


def measure(path: Path, workers: int, examples: int) -> dict[str, float]:
    """Opens a manifest, reads `examples` of it in `workers` processes -> seconds of each part and memory in MB at the end."""
    start = time.perf_counter()
    source = ManifestSource(path, "train")
    opened = time.perf_counter()
    source = check.check(source)[0]
    checked = time.perf_counter()
    options = OPTIONS._replace(require_report=True)
    iterator = pipeline.train_iterator(source, tokens.load(), options, batch_size=BATCH, seed=0, workers=workers)
    ready = time.perf_counter()
    for _ in range(-(-examples // BATCH)):
        next(iterator)
    ended = time.perf_counter()
    own, others, each = memory()
    iterator.close()
    return {"open": opened - start, "check": checked - opened, "rows, fingerprint": ready - checked, "examples": ended - ready,
            "this process": own, "workers": others, "of a worker alone": each, "all": own + others}  # fmt: skip


def main(argv=None) -> dict:
    """Prints the two measurements -> {rows: what `measure` gave}."""
    parser = argparse.ArgumentParser(prog="python -m medvlp_jax.bench manifest", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--examples", type=int, default=50_000, help="to read before memory is measured")
    parser.add_argument("--folder", default="", help="where the temporary manifest is written; default: the system's")
    args = parser.parse_args(argv)
    found = {}
    for rows in (BASE_ROWS, args.rows):
        folder = Path(tempfile.mkdtemp(prefix="medvlp-bench-", dir=args.folder or None))
        try:
            found[rows] = measure(write(folder, rows), args.workers, args.examples if rows > BASE_ROWS else 4096)
        finally:
            shutil.rmtree(folder)
        for key, value in found[rows].items():
            print(f"{rows:9,} rows  {key:18} {value:9.1f} {'s' if key in SECONDS else 'MB'}", flush=True)
    print(f"cost of {args.rows - BASE_ROWS:,} rows: {found[args.rows]['all'] - found[BASE_ROWS]['all']:.0f} MB")
    return found


if __name__ == "__main__":
    main()
