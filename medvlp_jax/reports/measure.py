"""What a run says of its reports: how many carry no text or no mention, how the filter agrees with tags, and how fast it is."""
import re
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from medvlp_jax.reports import rules, sections, vocab
from medvlp_jax.reports.rules import extract
from medvlp_jax.reports.sections import report_text
from medvlp_jax.reports.triplets import is_abnormal

_WORD = re.compile(r"\w+")
# Tags of Open-I that say nothing of the patient.
NO_VERDICT = {"", "No Indexing", "Technical Quality of Image Unsatisfactory"}


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


def agreement(reports: Iterable[tuple[str, Iterable[str]]]) -> tuple[dict[str, Counter], Counter]:
    """(report, tags of an indexer, such as MeSH headings) -> what the filter and the tags have in common.

    A tag stands for the entity of `vocab.lookup`, and holds if any mention of it is present or uncertain. Indexers tag what is
    certain and worth a heading: a possible effusion, an old scar or a second finding of the same kind often has no tag, which
    counts against the filter's precision here; so these are figures of agreement, not of quality. Reports without a verdict are
    left out.

    Returns:
      {entity: Counter of tp (both), fp (the filter alone), fn (the tag alone)} of abnormal entities that any tag names, and a
      Counter of normal_or_not (reports that both call normal, or neither) and total.
    """
    found, counts, whole = [], defaultdict(Counter), Counter()
    for report, tags in reports:
        tags = set(tags) - NO_VERDICT
        if tags:
            mentions = extract(report_text(report))
            whole["total"] += 1
            whole["normal_or_not"] += is_abnormal(mentions) == (tags != {"normal"})
            found.append(({vocab.lookup(tag) for tag in tags}, {m.entity for m in mentions if m.exists}))
    for entity in set().union(*(tagged for tagged, _ in found)) - {None, *vocab.NORMAL}:
        for tagged, told in found:
            if entity in tagged or entity in told:
                counts[entity]["tp" if entity in tagged and entity in told else "fn" if entity in tagged else "fp"] += 1
    return dict(counts), whole
