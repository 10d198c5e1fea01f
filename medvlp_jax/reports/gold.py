"""Precision, recall and F1 of the report filter on sentences with known mentions.

    python -m medvlp_jax.reports.gold tests/testdata/report_gold.jsonl

One sentence a line: {"class", "text", "expect": [[entity, position or null, exists], ...]}; null: any position will do.
Two scores: of whole mentions, and of (entity, exists) pairs alone, with the number of present/absent swaps.
"""
import argparse
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from medvlp_jax.reports.rules import extract


class Score(NamedTuple):
    """Counters "tp", "fp", "fn" by class (and "ALL") and by entity; a line for each sentence with a fault.

    existence: the same counters of (entity, exists) pairs, a pair counted once a sentence, and "swaps".
    """

    by_class: dict[str, Counter]
    by_entity: dict[str, Counter]
    wrong: list[str]
    existence: Counter


def read(path: str | Path) -> list[dict]:
    """The sentences of a file. Raises a ValueError that names the line of one that is not as expected."""
    out = []
    for number, line in enumerate(Path(path).read_text("utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            if set(record) != {"class", "text", "expect"} or any(len(e) != 3 for e in record["expect"]):
                raise ValueError(f"keys {sorted(record)}")
        except (ValueError, TypeError) as e:
            raise ValueError(f"{Path(path).name}, line {number}: {e}; expected class, text and expect") from None
        out.append(record)
    return out


def match(expected, found):
    """-> (hits, missed, extra) lists of (entity, position, exists). A mention serves one expectation; one without a
    position takes all mentions that fit."""
    left, hits, missed = set(found), [], []
    for want in sorted(map(tuple, expected), key=lambda e: e[1] is None):
        fits = {m for m in left if (m[0], m[2]) == (want[0], want[2]) and want[1] in (None, m[1])}
        (hits if fits else missed).append(want)
        left -= fits
    return hits, missed, sorted(left)


def compare(expected: set[tuple[str, int]], found: set[tuple[str, int]]) -> Counter:
    """Counts tp, fp, fn and swaps of one sentence's (entity, exists) pairs.

    A swap is an entity expected absent and read as present only, or the reverse. It is also one fp and one fn.
    """
    missed, extra = expected - found, found - expected
    swaps = sum(exists != 2 and (entity, 1 - exists) in extra for entity, exists in missed)
    return Counter(tp=len(expected & found), fp=len(extra), fn=len(missed), swaps=swaps)


def figures(c: Counter) -> tuple[float, float, float]:
    """Precision, recall and F1."""
    precision, recall = c["tp"] / max(c["tp"] + c["fp"], 1), c["tp"] / max(c["tp"] + c["fn"], 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)


def score(sentences: list[dict]) -> Score:
    """Compares the filter's mentions, without those that normal statements imply, with what is expected."""
    by_class, by_entity, wrong, existence = defaultdict(Counter), defaultdict(Counter), [], Counter()
    for g in sentences:
        found = {m[:3] for m in extract(g["text"], implied=False)}
        hits, missed, extra = match(g["expect"], found)
        existence += compare({(e, v) for e, _, v in g["expect"]}, {(e, v) for e, _, v in found})
        for kind, some in (("tp", hits), ("fn", missed), ("fp", extra)):
            for mention in some:
                for counter in (by_class[g["class"]], by_class["ALL"], by_entity[mention[0]]):
                    counter[kind] += 1
        if missed or extra:
            wrong.append(f"{g['text']} | missed {missed} | extra {extra}")
    return Score(dict(by_class), dict(by_entity), wrong, existence)


def table(counts: dict[str, Counter]) -> str:
    """Lines "name n precision recall F1"."""
    lines = [f"{'':20s} {'n':>4s} {'P':>6s} {'R':>6s} {'F1':>6s}"]
    for name, c in sorted(counts.items()):
        p, r, f = figures(c)
        lines.append(f"{name:20s} {c['tp'] + c['fn']:4d} {p:6.3f} {r:6.3f} {f:6.3f}")
    return "\n".join(lines)


def main(argv=None) -> None:
    """Prints the tables and every sentence with a fault."""
    parser = argparse.ArgumentParser(prog="python -m medvlp_jax.reports.gold", description=__doc__.splitlines()[0])
    parser.add_argument("file")
    sentences = read(parser.parse_args(argv).file)
    found = score(sentences)
    swaps = f"{found.existence['swaps']} present/absent swaps in {len(sentences)} sentences"
    existence = table({"entity, exists": found.existence})
    print(table(found.by_class), f"{existence}\n{swaps}", table(found.by_entity), "\n".join(found.wrong), sep="\n\n")


if __name__ == "__main__":
    main()
