"""Reports a second that one core reads with the report filter, sections to mentions.

    python -m medvlp_jax.bench reports
    python -m medvlp_jax.bench reports --src=reports.csv        # a CSV with a column `report`

With a column `labels` (tags separated by ";", as Open-I's MeSH headings), also how far the filter agrees with them. Speed
twice: every sentence anew, and as in a run, where a sentence that was seen before is known. Without --src the reports are
those of the synthetic radiographs, which repeat more than real ones do.
"""
import argparse
import csv
import sys

from medvlp_jax.input.phantom import PhantomSource
from medvlp_jax.reports.agreement import agreement
from medvlp_jax.reports.gold import figures
from medvlp_jax.reports.measure import reports_per_second, summarise

LIMIT = 2000
FEWEST = 20  # reports with a tag, for a line of its own


def tags_table(counts, whole) -> str:
    """Lines "entity, tagged, found by the filter, precision, recall" of what `agreement` gave, the frequent ones first."""
    share = whole["normal_or_not"] / max(whole["total"], 1)
    lines = [f"normal or not as the tags say: {share:.1%} of {whole['total']:,} reports",
             f"{'against tags':20} {'tagged':>6} {'found':>6} {'P':>6} {'R':>6}"]  # fmt: skip
    for name, c in sorted(counts.items(), key=lambda item: -item[1]["tp"] - item[1]["fn"]):
        if (tagged := c["tp"] + c["fn"]) >= FEWEST:
            precision, recall, _ = figures(c)
            lines.append(f"{name:20} {tagged:6} {c['tp'] + c['fp']:6} {precision:6.3f} {recall:6.3f}")
    return "\n".join(lines)


def main(argv=None) -> dict[str, float]:
    """Prints the table -> {"anew": ..., "as in a run": ...}."""
    parser = argparse.ArgumentParser(prog="python -m medvlp_jax.bench reports", description=__doc__.splitlines()[0])
    parser.add_argument("--src", default="")
    parser.add_argument("--limit", type=int, default=3000)
    args = parser.parse_args(argv)
    if args.src:
        csv.field_size_limit(sys.maxsize)
        with open(args.src, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        texts = [row["report"] for row in rows][: args.limit]
        if "labels" in rows[0]:
            print(tags_table(*agreement((row["report"], row["labels"].split(";")) for row in rows)))
    else:
        source = PhantomSource("train", args.limit, 0, 64)
        texts = [source.text(i) for i in range(len(source))]
    print(summarise(texts))
    out = {"anew": reports_per_second(texts, cached=False), "as in a run": reports_per_second(texts)}
    for name, rate in out.items():
        print(f"{name:12} {rate:8.0f} reports/s/core; MIMIC-CXR's 227,835 in {227_835 / rate / 60:.1f} min   target {LIMIT}")
    return out
