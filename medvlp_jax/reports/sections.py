"""Reports into sections and sentences. Layouts: MIMIC-CXR (headings on lines), Open-I (headings inline), plain text."""
import functools
import re
from collections.abc import Iterable

# canonical section: headings (upper case, plural s optional)
_HEADINGS = {
    "findings": ["FINDING", "FINDINGS AND IMPRESSION", "FINDINGS/IMPRESSION", "REPORT", "OBSERVATION", "CHEST",
                 "RESULT", "DESCRIPTION", "IMAGING NOTES", "RADIOLOGICAL FINDING"],
    "impression": ["IMPRESSION", "CONCLUSION", "OPINION", "SUMMARY", "INTERPRETATION", "IMPRESSION AND RECOMMENDATION",
                   "FINAL IMPRESSION", "ASSESSMENT", "DIAGNOSIS"],
    "indication": ["INDICATION", "CLINICAL INDICATION", "REASON FOR EXAM", "REASON FOR EXAMINATION", "REASON FOR STUDY",
                   "REASON FOR THE EXAM", "CLINICAL INFORMATION", "CLINICAL DATA", "CLINICAL HISTORY", "HISTORY",
                   "PATIENT HISTORY", "REASON", "SYMPTOM", "PRESENTATION", "CLINICAL QUESTION"],
    "comparison": ["COMPARISON", "COMPARISON STUDY", "COMPARISON STUDIES", "PRIOR", "PRIOR STUDY"],
    "technique": ["TECHNIQUE", "PROCEDURE", "EXAMINATION", "EXAM", "STUDY", "TYPE OF EXAMINATION", "VIEW", "PROTOCOL",
                  "TECHNICAL FACTOR"],
    "recommendation": ["RECOMMENDATION", "RECOMMENDATIONS", "RECOMMEND", "FOLLOW UP", "FOLLOW-UP", "PLAN"],
    "notification": ["NOTIFICATION", "NOTE", "WET READ", "COMMENT", "ADDENDUM", "ATTENDING", "DISCUSSION", "SIGNED",
                     "DICTATED BY", "APPROVED BY"],
}
_SECTION = {name: section for section, names in _HEADINGS.items() for name in names}
_SECTION |= {name + "S": section for name, section in _SECTION.items() if not name.endswith("S")}

_BEFORE = frozenset({"indication", "comparison", "technique"})  # what a report says before its body
_AFTER = frozenset({"recommendation", "notification"})
_PARAGRAPH = re.compile(r"\n[ \t]*\n")

# A known name in any case after a sentence or line end; any words in capitals that begin a line; the usual names in
# capitals anywhere. Runs of white space are bounded: an endless one must not cost its square.
_KNOWN = "|".join(sorted(map(re.escape, _SECTION), key=len, reverse=True)).replace(r"\ ", r"\s{1,3}")
_HEADING = re.compile(
    rf"(?:(?:(?<=[.:;!?])|(?<=\n)|\A)[ \t\n]{{0,9}}(?:(?P<known>(?i:{_KNOWN}))|"
    r"(?<![^\n])[ \t]{0,9}(?P<capitals>[A-Z][A-Z ,/()\-]{3,80}?))|"
    r"(?<=\s)(?P<inline>FINDINGS?|IMPRESSIONS?|CONCLUSIONS?|INDICATION|COMPARISON|TECHNIQUE|HISTORY|RECOMMENDATIONS?))"
    r"\s{0,3}:(?!\d)")
_LONGEST_HEADING = 120  # characters, with the white space around it
_BANNER = re.compile(r"(?:(?<=\n)|\A)[ \t]*(?:FINAL REPORT|FINAL ADDENDUM|PRELIMINARY REPORT)[ \t]*(?=\n|\Z)")
_VIEWS = re.compile(r"CHEST|VIEW|RADIOGRAPH|X-?RAY|LATERAL|FRONTAL|PORTABLE|UPRIGHT|SUPINE")
# Lines of a structured report ("HEART: ...") are part of the section they stand in.
_ORGANS = re.compile(r"LUNG|HEART|PLEURA|MEDIASTIN|BONE|OSSEOUS|CARDIAC|CARDIO|HIL[AU]|TUBE|LINE|DEVICE|DIAPHRAGM|"
                     r"SOFT TISSUE|AIRWAY|ABDOMEN|PNEUMOTHORAX|EFFUSION|VESSEL|VASC|AORTA|SPINE|RIB|SUPPORT|OTHER")

_ABBREVIATION = re.compile(r"(?:\b(?:dr|mr|mrs|ms|vs|e\.g|i\.e|approx|st|fig|pt|cf|ca)|\b[A-Za-z])\.$", re.I)
# A full stop (not a decimal point), or a line that ends a paragraph or begins a list item or a new capital heading.
# A question mark before a word is no end: "? infiltrate". The pattern begins with one set of characters, so that the
# search skips all others.
_STOP = re.compile(r"[.!?\s](?:(?:(?<=[.!])|(?<=[\w)\]]\?))"
                   r"(?:(?<!\d.)[.!?]{0,9}(?=\s|\Z|[A-Z\d(])|(?<=\d.)[.!?]{0,9}(?=\s|\Z|[A-Z]))|"
                   r"(?<=\n)[ \t]*\n|(?<=\n)(?=[ \t]*(?:\d+[.)]|[-*•]))|(?<=\s)(?=\d{1,2}[.)]\s*[A-Z])|"
                   r"(?<=\n)(?=[ \t]*[A-Z]))")
_NUMBERING = re.compile(r"[\s.;,*•\-]*(?:\(?\d{1,2}[.)](?!\d)[\s.]*)?[\s*•\-]*")
_LISTED = re.compile(r"[ \t]*(?:\d+[.)]|[-*•])")
_WORDY = re.compile(r"\w")
_SHORT_LINE = 50  # a line break after fewer characters is meant; longer lines are wrapped


def sections(report: str) -> dict[str, str]:
    """{section: text} of a report, stripped, in order of appearance; sections that occur twice are joined.

    Names: "findings", "impression", "indication", "comparison", "technique", "recommendation", "notification", and
    "preamble" for text before the first heading. A report without any heading is all "findings". A heading that names
    views ("PORTABLE CHEST RADIOGRAPH:") begins the findings, headings of organs ("HEART:") stay inside their section,
    any other heading in capitals gets a section of its own, in lower case.
    """
    report = report.replace("\r\n", "\n")
    parts: dict[str, list[str]] = {}
    for name, begin, end in _spans(report):
        text = report[begin:end].strip()
        if text:
            parts.setdefault(name, []).append(text)
    if list(parts) == ["preamble"]:
        parts = {"findings": parts["preamble"]}
    return {name: "\n".join(some) for name, some in parts.items()}


def _headings(report: str):
    """Matches of `_HEADING`, in order: as finditer, but looking only at what stands right before a colon."""
    end, colon = 0, report.find(":")
    while colon >= 0:
        m = _HEADING.search(report, max(end, colon - _LONGEST_HEADING), colon + 2)
        if m:
            yield m
            end = m.end()
        colon = report.find(":", colon + 1)


def _spans(report: str) -> list[tuple[str, int, int]]:
    """(section, start, end) of the text after each heading, in order; the first is the preamble."""
    marks = [(0, 0, "preamble")]
    banners = [(m.start(), m.end(), "preamble") for m in _BANNER.finditer(report)]  # what follows is no more the wet read
    for m in _headings(report):
        while banners and banners[0][0] <= m.start():
            marks.append(banners.pop(0))
        name = " ".join((m["known"] or m["inline"] or m["capitals"]).upper().split())
        section = _SECTION.get(name)
        if section is None and not _ORGANS.search(name):
            section = "findings" if _VIEWS.search(name) else name.lower()
        if section == "findings" and name == "CHEST" and marks[-1][2] == "impression":
            continue  # "IMPRESSION: Chest: ..." goes on with the impression
        if section is not None:
            marks.append((m.start(), m.end(), section))
    marks += banners
    return [(name, begin, end) for (_, begin, name), (end, *_) in zip(marks, marks[1:] + [(len(report),)], strict=True)]


def report_text(report: str, sections_wanted: Iterable[str] = ("impression", "findings")) -> str:
    """The named sections in the given order, as one text; "" if the report has nothing that may be read. See `locate`."""
    return _locate(report, tuple(sections_wanted))[0]


def locate(report: str, sections_wanted: Iterable[str] = ("impression", "findings")) -> tuple[str, str]:
    """(text that is read, how it was found) of a report.

    How: the wanted sections that it has ("findings", "impression", "findings and impression"), else
    "last paragraph": a body without a heading, after the last heading's own paragraph ("REASON FOR EXAM: cough." / blank
    line / "The heart is enlarged."), as MIMIC-CXR's public sectioning code finds it, else
    "whole": no heading, or none but those of views and sections of other names, else
    "none": nothing is left. Indication, comparison, technique, recommendation and notification are never read.
    """
    return _locate(report, tuple(sections_wanted))


_CACHED_REPORTS = 100_000  # every epoch asks again; 0.1 GB of reports


@functools.lru_cache(_CACHED_REPORTS)
def _locate(report: str, sections_wanted: tuple[str, ...]) -> tuple[str, str]:
    if ":" not in report and not _BANNER.search(report):
        text = report.replace("\r\n", "\n").strip()  # no heading: what the rest of this function would find, sooner
        return text, "whole" if text else "none"
    found = sections(report)
    wanted = [found[name] for name in sections_wanted if name in found]
    if wanted and list(found) == ["findings"] and [name for name, *_ in _spans(report)] == ["preamble"]:
        return wanted[0], "whole"
    if wanted:
        return "\n\n".join(wanted), " and ".join(sorted(set(sections_wanted) & set(found)))
    body = _last_paragraphs(report.replace("\r\n", "\n"))
    if body:
        return body, "last paragraph"
    rest = "\n\n".join(text for name, text in found.items() if name not in _BEFORE | _AFTER)
    return rest, "whole" if rest else "none"


def _last_paragraphs(report: str) -> str:
    """What follows the own paragraph of the last heading, if that heading's text comes before a body. "" if nothing does."""
    spans = [span for span in _spans(report) if span[0] not in _AFTER]
    name, begin, end = spans[-1]
    if name not in _BEFORE:
        return ""
    _, *rest = _PARAGRAPH.split(report[begin:end].strip(), maxsplit=1)
    return "".join(rest).strip()


def forget() -> None:
    """Empties the cache of reports."""
    _locate.cache_clear()


def remember(share: float) -> None:
    """Forgets all reports, and keeps from now on this share of as many: for one of several worker processes."""
    global _locate
    _locate = functools.lru_cache(int(share * _CACHED_REPORTS))(_locate.__wrapped__)


def sentences(text: str) -> list[tuple[int, int]]:
    """Character spans (start, end) of the sentences of a text, without list numbers and surrounding white space.

    Full stops, blank lines, list items and short lines end a sentence; decimals, abbreviations and wrapped lines do
    not.
    """
    spans, begin, line = [], 0, 0
    for m in _STOP.finditer(text):
        mark = m.group()
        if mark.strip():
            short = _ABBREVIATION.search(text, max(begin, m.start() - 8), m.start() + 1)
            if short and text[m.end():m.end() + 1] != "\n":
                continue
        elif mark.startswith("\n"):
            length, line = m.start() - line, m.end()
            if "\n" not in mark[1:] and length >= _SHORT_LINE and not _LISTED.match(text, m.end()):
                continue
        spans.append((begin, m.end()))
        begin = m.end()
    spans.append((begin, len(text)))
    return [span for span in (_trim(text, *span) for span in spans) if _WORDY.search(text, *span)]


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    start = min(_NUMBERING.match(text, start, end).end(), end)
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
