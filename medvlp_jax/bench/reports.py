"""Reports a second that one core reads with the report filter, sections to mentions.

    python -m medvlp_jax.bench reports
    python -m medvlp_jax.bench reports --src=reports.csv        # a CSV with a column `report`

Twice: every sentence anew, and as in a run, where a sentence that was seen before is known. Without --src the reports are
those of the synthetic radiographs, which repeat more than real ones do.
"""
import argparse
import csv
import sys

from medvlp_jax.input.phantom import PhantomSource
from medvlp_jax.reports.measure import reports_per_second, summarise

LIMIT = 2000


def main(argv=None) -> dict[str, float]:
    """Prints the table -> {"anew": ..., "as in a run": ...}."""
    parser = argparse.ArgumentParser(prog="python -m medvlp_jax.bench reports", description=__doc__.splitlines()[0])
    parser.add_argument("--src", default="")
    parser.add_argument("--limit", type=int, default=3000)
    args = parser.parse_args(argv)
    if args.src:
        csv.field_size_limit(sys.maxsize)
        with open(args.src, newline="", encoding="utf-8-sig") as file:
            texts = [row["report"] for row in csv.DictReader(file)][: args.limit]
    else:
        source = PhantomSource("train", args.limit, 0, 64)
        texts = [source.text(i) for i in range(len(source))]
    print(summarise(texts))
    out = {"anew": reports_per_second(texts, cached=False), "as in a run": reports_per_second(texts)}
    for name, rate in out.items():
        print(f"{name:12} {rate:8.0f} reports/s/core; MIMIC-CXR's 227,835 in {227_835 / rate / 60:.1f} min   target {LIMIT}")
    return out
