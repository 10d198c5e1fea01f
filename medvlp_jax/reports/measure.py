"""What a run says of its reports: how many carry no text or no mention, and how fast the filter reads them."""
import re
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from medvlp_jax.reports import rules, sections
from medvlp_jax.reports.rules import extract
from medvlp_jax.reports.sections import report_text
from medvlp_jax.reports.triplets import is_abnormal

_WORD = re.compile(r"\w+")


class ReportSummary(NamedTuple):
    """Counts over a corpus. empty, one_word: too short to train on; silent: longer, but without any mention."""

    total: int
    empty: int
    one_word: int
    silent: int
    abnormal: int

    def __str__(self) -> str:
        usable = self.total - self.empty - self.one_word
        return (f"{self.total} reports: {usable} usable ({self.empty} empty, {self.one_word} of one word); "
                f"{self.silent} without a mention, {self.abnormal} abnormal")


def is_usable(text: str) -> bool:
    """Whether a report text has at least two words."""
    return len(_WORD.findall(text)) > 1


def summarise(reports: Iterable[str]) -> ReportSummary:
    """Counts the reports (whole ones; impression and findings are read)."""
    counts = dict.fromkeys(ReportSummary._fields, 0)
    for report in reports:
        text = report_text(report)
        words = len(_WORD.findall(text))
        mentions = extract(text) if words > 1 else []
        counts["total"] += 1
        counts["empty"] += words == 0
        counts["one_word"] += words == 1
        counts["silent"] += words > 1 and not mentions
        counts["abnormal"] += is_abnormal(mentions)
    return ReportSummary(**counts)


def reports_per_second(reports: Sequence[str], cached: bool = True) -> float:
    """Reports read per second of one core's CPU time, sections to mentions, each report once.

    cached: as in a run, where a sentence seen before is not read again; the caches are empty at the start. Without, every
    sentence is read anew.
    """
    sections.forget()
    rules.forget()
    start = time.process_time()
    for report in reports:
        if not cached:
            sections.forget()
            rules.forget()
        extract(report_text(report))
    return len(reports) / (time.process_time() - start)
