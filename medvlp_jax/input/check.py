"""The one check of a manifest before a run: every image file, report and label looked at, one summary (docs/data-check.md)."""
import array
import concurrent.futures
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging

from medvlp_jax.input import decode, exclusion, file_check, statements, verdict_of_first, verdicts
from medvlp_jax.input.columns import label_names, mask_paths, parse_json
from medvlp_jax.input.manifest import LIFT_ROOT, OUTSIDE, ManifestSource
from medvlp_jax.input.masks import RLE, from_rle
from medvlp_jax.reports import vocab

SHOWN = 20
CHUNK = 512  # rows of one task of a thread
COMPARED = 1000  # rows with report and labels, half a second
FOREIGN = "not in English"


class Summary(NamedTuple):
    """What was found. Rows are named by their line in the manifest, so that no identifier gets into a log.

    total: rows looked at; skipped: {reason: lines} of rows that are left out; unknown_labels: {label: rows that list it},
    the label being ignored; short_reports: lines of rows kept for their labels although the report has no two words;
    texts: {how a text was found, or why it is not read (ManifestSource.locate_text): rows}; withheld: {label: rows} that
    imply no absences because of an unknown label; conflicts: {entity: rows} where report and labels differ, among the first
    `compared` rows that have both.
    """

    total: int
    skipped: dict[str, list[int]]
    unknown_labels: dict[str, int]
    short_reports: list[int]
    texts: dict[str, int]
    withheld: dict[str, int] = {}
    conflicts: dict[str, int] = {}
    compared: int = 0

    @property
    def bad(self) -> int:
        """Number of rows left out."""
        return sum(len(lines) for lines in self.skipped.values())

    def __str__(self) -> str:
        parts = [f"{self.total} rows, {self.total - self.bad} usable"]
        parts += [f"skipped, {reason}: {_lines(lines)}" for reason, lines in sorted(self.skipped.items())]
        if any(reason.endswith(OUTSIDE) for reason in self.skipped):
            parts.append(LIFT_ROOT)
        if self.short_reports:
            parts.append(f"report ignored, empty or one word: {_lines(self.short_reports)}")
        if set(self.texts) - {"none"}:
            parts.append("text of reports: " + ", ".join(f"{how} {n}" for how, n in sorted(self.texts.items())))
        if self.texts.get(FOREIGN):
            parts.append(f"report not in English, not read: {self.texts[FOREIGN]} rows")
        if self.unknown_labels:
            parts.append("labels ignored, no entity fits: " + _counts(self.unknown_labels))
        if self.withheld:
            parts.append("rows that imply no absences because of them: " + _counts(self.withheld))
        if self.conflicts:
            parts.append(f"report and labels differ, of {self.compared} rows with both: " + _counts(self.conflicts))
        return "; ".join(parts)


def _counts(counts: dict[str, int]) -> str:
    names = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(f"{k!r} ({n})" for k, n in names[:SHOWN]) + more


def _lines(lines: list[int]) -> str:
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return f"{len(lines)} (line {', '.join(map(str, lines[:SHOWN]))}{more})"


def check(source: ManifestSource, max_bad_share: float = 0.05, threads: int = 4, targets: tuple[str, ...] = (),
          level: str = "header", folder: Path | None = None, first: Callable | None = None) -> tuple[ManifestSource, Summary]:
    """Looks at every row of a source once -> (the source without unusable rows, what was found).

    Left out are rows whose image (or mask) is missing, empty, a git-LFS pointer, truncated, unreadable, too large, outside of
    the root or named twice, rows with a mask of another size than the image, and rows with nothing to learn from or to be
    judged by: no report of two words or more, no known label, no box, no mask, no grade - unless the manifest has none of
    these columns. An unknown label is ignored, its row stays if anything else is left; one of `targets` is known. Everything
    is counted and named in one log line.

    level: "header" reads the header and the end of each image file, "full" decodes it (input/file_check.py).
    folder: where the usable files are kept for the next start (input/verdicts.py); None keeps nothing.
    first: function that returns what another one returns on the first of several processes, on all of them. Only that one
      looks at files; the others take its rows (input/verdict_of_first.py).

    Raises:
      ValueError: more than `max_bad_share` of the rows are left out, or all; lists the first of each reason. Another process
        has other rows.
    """
    made = []

    def judge() -> dict:
        made.extend(_judge(source, max_bad_share, threads, targets, level, folder))
        return {} if first is None else verdict_of_first.pack(source, *made)

    told = judge() if first is None else first(judge)
    return tuple(made) if made else verdict_of_first.unpack(source, told, Summary)


def _judge(source, max_bad_share, threads, targets, level, folder) -> tuple[ManifestSource, Summary]:
    """`check` on this process."""
    if level not in file_check.LEVELS:
        raise ValueError(f"unknown data.check {level!r}; known: {', '.join(file_check.LEVELS)}")
    name = f"{source.table.path.name}, split {source.split}"
    file = verdicts.file_of(folder, str(source.root), str(source.table.path), source.split)
    store = verdicts.Verdicts(file)
    skipped, unknown, short, reasons, missing, looked = {}, Counter(), [], [], "", 0
    entries, has_report, images = array.array("q"), np.zeros(len(source), bool), np.zeros(len(source), np.int64)

    def look(start: int) -> list[tuple]:
        return [_look(source, index, targets, store, level) for index in range(start, min(start + CHUNK, len(source)))]

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        found = itertools.chain.from_iterable(pool.map(look, range(0, len(source), CHUNK)))  # chunks: a future takes 1.5 kB
        for index, (reason, image, labels, is_short, has_text, detail, files, opened) in enumerate(found):
            reasons.append(reason)
            images[index], has_report[index] = image, has_text
            unknown.update(labels)
            entries.extend(itertools.chain.from_iterable(files))
            looked += opened
            if is_short:
                short.append(index)
            if not missing and "missing file" in (reason or ""):
                missing = detail
    for index in np.setdiff1d(np.arange(len(source)), np.unique(images, return_index=True)[1]).tolist():
        reasons[index] = reasons[index] or "image named twice"
    for index, reason in enumerate(reasons):
        if reason:
            skipped.setdefault(reason, []).append(source.line(index))
    keep = np.array([index for index, reason in enumerate(reasons) if not reason], np.int64)
    short = [source.line(index) for index in short if not reasons[index]]
    texts = Counter(source.locate_text(source.table[row])[1] for row in source.rows)
    summary = Summary(len(source), skipped, dict(unknown), short, dict(texts), *_labels(source))
    store.keep(verdicts.from_flat(entries))
    if summary.bad > max_bad_share * len(source) or not len(keep):
        raise ValueError(f"{name}: {summary.bad / len(source):.1%} of the rows cannot be used, {max_bad_share:.1%} are "
                         f"allowed. {summary}" + (f"; first missing file: {missing}" if missing else ""))
    (logging.warning if summary.bad else logging.info)("%s: %s%s; data.check=%s, %d image files looked into", name, summary,
                                                       exclusion.told(source), level, looked)  # fmt: skip
    kept = source.subset(keep)
    kept.has_reports = has_report[keep]
    return kept, summary


def _labels(source: ManifestSource) -> tuple[dict[str, int], dict[str, int], int]:
    """(withheld, conflicts, compared) of a Summary. The filter reads reports of COMPARED rows at most: the card counts all."""
    withheld, conflicts, compared = Counter(), Counter(), 0
    for index in range(len(source)):
        row = source.table[source.rows[index]]
        withheld.update(source.withheld(row))
        if compared < COMPARED and source.has_both(row):
            compared += 1
            conflicts.update({entity for entity, _ in source.read_labels(row).conflicts})
    return dict(withheld), dict(conflicts), compared


def _look(source: ManifestSource, index: int, targets, store: verdicts.Verdicts, level: str) -> tuple:
    """One row -> (why it is left out or None, number of its image path, labels without entity, report too short, whether it
    has a report, detail, entries of its usable files, how many of its files were looked into)."""
    row = source.table[source.rows[index]]
    files = []  # (size, entry, looked into)
    reason, detail = _look_at_files(source, index, row, store, level, files)
    useless, unknown, is_short = look_at_text(source, row, targets)
    image = verdicts.hash_of(str(row.get("image") or "").strip())
    return (reason or useless, image, unknown, is_short, bool(source.text_of(row)), detail, [entry for _, entry, _ in files],
            sum(opened for *_, opened in files))  # fmt: skip


def look_at_text(source: ManifestSource, row: dict, targets=()) -> tuple[str | None, list[str], bool]:
    """What a row says, without its files -> (why there is nothing to learn from it or None, labels without entity, whether it
    has a report that is too short)."""
    labels = label_names(row)
    unknown = [name for name in labels if not vocab.is_known(name) and name not in targets]
    of_use = any(vocab.meanings(name) or name in targets for name in statements.named(row))
    text, how = source.locate_text(row)
    has_text, foreign = bool(text), how == FOREIGN
    is_short = not has_text and not foreign and bool(str(row.get("report") or "").strip())
    useful = (has_text or of_use or parse_json(row, "boxes", []) or mask_paths(row) or row.get("mentions")
              or parse_json(row, "severity", {}))
    told = {"report", *statements.VALUES, "annotations", "boxes", "mask", "masks", "severity"} & set(source.table.columns)
    reason = None
    if not useful and told:
        reason = "no report, label, box or mask"
        if labels or is_short or foreign:
            reason = "only unknown labels" if labels else "report not in English" if foreign else "report empty or one word"
    return reason, unknown, is_short


def _look_at_files(source: ManifestSource, index: int, row: dict, store: verdicts.Verdicts, level: str,
                   files: list) -> tuple[str | None, str]:
    """Checks the image and the masks of a row, adds what was found of each file to `files` -> (what is wrong or None, detail).
    """
    what = ""

    def size(path: str) -> tuple[int, int]:
        files.append(source.read(path, source.line(index), str(row.get("patient_id") or ""),
                                 lambda full: store.size(full, path, level)))  # fmt: skip
        return files[-1][0]

    try:
        shape = size(str(row.get("image") or "").strip())
        what = "mask: "
        for path in itertools.chain.from_iterable(mask_paths(row).values()):
            if (from_rle(path).shape if path.startswith(RLE) else size(path)) != shape:
                return "mask: not of the image's size", ""
    except decode.ImageError as e:
        return what + e.reason, e.detail
    return None, ""
