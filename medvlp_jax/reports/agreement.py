"""How the report filter agrees with the tags that an indexer gave to whole reports."""
from collections import Counter, defaultdict
from collections.abc import Iterable

from medvlp_jax.reports import vocab
from medvlp_jax.reports.rules import extract
from medvlp_jax.reports.sections import report_text
from medvlp_jax.reports.triplets import is_abnormal

# Tags of Open-I that say nothing of the patient.
NO_VERDICT = {"", "No Indexing", "Technical Quality of Image Unsatisfactory"}


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
