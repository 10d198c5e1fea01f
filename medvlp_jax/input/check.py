"""The one check of a manifest before a run: every image decoded, every report and label looked at, one summary."""
import concurrent.futures
from collections import Counter
from typing import NamedTuple

from absl import logging

from medvlp_jax.input import decode
from medvlp_jax.input.manifest import ManifestSource, label_names, mask_paths, parse_json
from medvlp_jax.reports import vocab

SHOWN = 20
FOREIGN = "not in English"


class Summary(NamedTuple):
    """What was found. Rows are named by their line in the manifest, so that no identifier gets into a log.

    total: rows looked at; skipped: {reason: lines} of rows that are left out; unknown_labels: {label: rows that list it},
    the label being ignored; short_reports: lines of rows kept for their labels although the report has no two words;
    texts: {how a report's text was found, or why it is not read (ManifestSource.locate_text): rows}.
    """

    total: int
    skipped: dict[str, list[int]]
    unknown_labels: dict[str, int]
    short_reports: list[int]
    texts: dict[str, int]

    @property
    def bad(self) -> int:
        """Number of rows left out."""
        return sum(len(lines) for lines in self.skipped.values())

    def __str__(self) -> str:
        parts = [f"{self.total} rows, {self.total - self.bad} usable"]
        parts += [f"skipped, {reason}: {_lines(lines)}" for reason, lines in sorted(self.skipped.items())]
        if self.short_reports:
            parts.append(f"report ignored, empty or one word: {_lines(self.short_reports)}")
        if set(self.texts) - {"none"}:
            parts.append("text of reports: " + ", ".join(f"{how} {n}" for how, n in sorted(self.texts.items())))
        if self.texts.get(FOREIGN):
            parts.append(f"report not in English, not read: {self.texts[FOREIGN]} rows")
        if self.unknown_labels:
            names = sorted(self.unknown_labels.items(), key=lambda item: (-item[1], item[0]))
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            parts.append("labels ignored, no entity fits: " + ", ".join(f"{k!r} ({n})" for k, n in names[:SHOWN]) + more)
        return "; ".join(parts)


def _lines(lines: list[int]) -> str:
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return f"{len(lines)} (line {', '.join(map(str, lines[:SHOWN]))}{more})"


def check(source: ManifestSource, max_bad_share: float = 0.05, threads: int = 4,
          targets: tuple[str, ...] = ()) -> tuple[ManifestSource, Summary]:
    """Looks at every row of a source once -> (the source without unusable rows, what was found).

    Left out are rows whose image (or mask) is missing, empty, a git-LFS pointer, truncated, unreadable, too large, outside of
    the root or named twice, rows with a mask of another size than the image, and rows with nothing to learn from or to be
    judged by: no report of two words or more, no known label, no box, no mask, no grade - unless the manifest has none of
    these columns. An unknown label is ignored, its row stays if anything else is left; one of `targets` is known. Everything
    is counted and named in one log line.

    Raises:
      ValueError: more than `max_bad_share` of the rows are left out, or all; lists the first of each reason.
    """
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        found = list(pool.map(lambda index: _look(source, index, targets), range(len(source)), chunksize=64))
    skipped, unknown, short, keep, seen = {}, Counter(), [], [], set()
    for index, (reason, image, labels, is_short, _) in enumerate(found):
        if reason is None and image in seen:
            reason = "image named twice"
        seen.add(image)
        unknown.update(labels)
        if reason:
            skipped.setdefault(reason, []).append(source.line(index))
            continue
        keep.append(index)
        if is_short:
            short.append(source.line(index))
    texts = Counter(source.locate_text(source.table[row])[1] for row in source.rows.tolist())
    summary = Summary(len(source), skipped, dict(unknown), short, dict(texts))
    name = f"{source.table.path.name}, split {source.split}"
    if summary.bad > max_bad_share * len(source) or not keep:
        missing = next((detail for reason, *_, detail in found if "missing file" in (reason or "")), "")
        raise ValueError(f"{name}: {summary.bad / len(source):.1%} of the rows cannot be used, {max_bad_share:.1%} are "
                         f"allowed. {summary}" + (f"; first missing file: {missing}" if missing else ""))
    (logging.warning if summary.bad else logging.info)("%s: %s", name, summary)
    return source.subset(keep) if summary.bad else source, summary


def _look(source: ManifestSource, index: int, targets) -> tuple[str | None, str, list[str], bool, str]:
    """One row -> (why it is left out or None, its image path, labels without entity, report too short, detail)."""
    row = source.table[source.rows[index]]
    reason, detail = _look_at_files(source, index, row)
    useless, unknown, is_short = look_at_text(source, row, targets)
    return reason or useless, str(row.get("image") or "").strip(), unknown, is_short, detail


def look_at_text(source: ManifestSource, row: dict, targets=()) -> tuple[str | None, list[str], bool]:
    """What a row says, without its files -> (why there is nothing to learn from it or None, labels without entity, whether it
    has a report that is too short)."""
    labels = label_names(row)
    unknown = [name for name in labels if vocab.lookup(name) is None and name not in targets]
    text, how = source.locate_text(row)
    has_text, foreign = bool(text), how == FOREIGN
    is_short = not has_text and not foreign and bool(str(row.get("report") or "").strip())
    useful = (has_text or len(unknown) < len(labels) or parse_json(row, "boxes", []) or mask_paths(row) or row.get("absent")
              or parse_json(row, "severity", {}))
    told = {"report", "labels", "absent", "boxes", "mask", "masks", "severity"} & set(source.table.columns)
    reason = None
    if not useful and told:
        reason = "no report, label, box or mask"
        if labels or is_short or foreign:
            reason = "only unknown labels" if labels else "report not in English" if foreign else "report empty or one word"
    return reason, unknown, is_short


def _look_at_files(source: ManifestSource, index: int, row: dict) -> tuple[str | None, str]:
    """Decodes the image and the masks of a row -> (what is wrong or None, detail)."""
    what = ""
    try:
        data, masks = source.files(index, row)
        shape = decode.decode(data).shape
        what = "mask: "
        if any(masks[name].shape != shape for name in masks):
            return "mask: not of the image's size", ""
    except decode.ImageError as e:
        return what + e.reason, e.detail
    return None, ""
