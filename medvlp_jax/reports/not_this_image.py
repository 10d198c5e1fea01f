"""Statements that are not of this image: what an earlier image showed, and what the referring doctor asked or told."""
import re

_STUDY = r"(?:study|exam|examination|film|radiograph|x-?ray|image|cxr|scan|ct)s?\b"
_EARLIER = r"(?:prior|previous|preceding|earlier|old|outside|yesterday['’]?s|last (?:week|night|month)['’]?s|comparison)"
_MAYBE = re.compile(r"(?i)prior|previous|earlier|preceding|yesterday|outside|comparison|on that|\bold\b|\blast\b")
_AT = rf"(?:on|in|at) (?:the |his |her |a |an )?(?:{_EARLIER}|that) (?:\w{{1,20}} ){{0,3}}?{_STUDY}"
_THEN = re.compile(
    # "The previous radiograph showed ..."
    rf"(?i)\b{_EARLIER} (?:\w{{1,20}} ){{0,3}}?{_STUDY}(?: (?:of|from|dated) [\w/]{{1,12}})? (?:had )?"
    rf"(?:showed|demonstrated|revealed)\b|"
    # "... was seen on the prior study"
    rf"\b(?:was|were|had)\b[^;]{{0,90}}\b{_AT}|"
    # "On the prior film there was ..."
    rf"\A\W{{0,9}}{_AT}[^;]{{0,30}}\b(?:was|were|showed|had)\b")
_NOW = re.compile(
    r"(?i)\b(?:is|are|has|have|remains?|persists?|persistent|now|no|not|none|today|current(?:ly)?|again|still|also|"
    r"unchanged|stable|similar|resolved|cleared|improved|increased?|increasing|decreased?|decreasing|larger|smaller|new|worse|"
    r"worsened|worsening|progressed|continues?|compared|comparison is|than|since|removed|gone|appears?|represents?|may|could|"
    r"resolution|clearing|removal|disappearance)\b")

# "There was an effusion yesterday": only where another clause tells what became of it.
_ONCE = re.compile(r"(?i)\b(?:was|were|had been) (?:\w{1,20} ){0,3}(?:yesterday|previously|before|"
                   r"last (?:week|night|month|year))\W{0,9}\Z")

_ASKED = re.compile(
    r"(?i)\s{0,9}(?:clinical |patient )?(?:history|indications?|reason(?: for (?:the )?(?:exam(?:ination)?|study))?|"
    r"clinical information)\s{0,9}:|"
    # "Should symptoms persist, CT could be obtained ..."
    r"\s{0,9}(?:should (?!be\b)[^,;:]{1,90}|were [^,;:]{1,60}\bto\b[^,;:]{1,60}),|"
    r"\s{0,9}(?:\d{1,3}|_{2,3}|x{4})[- ](?:year|yr|month|week|day)s?[- ]old\b.{0,60}\b(?:history|hx) of\b")


def may_be_earlier(sentence: str) -> bool:
    """Whether a sentence speaks of an earlier image at all: a quick look before `of_earlier_image`."""
    return _MAYBE.search(sentence) is not None


def of_earlier_image(clause: str, last: bool = True) -> bool:
    """Whether a clause tells only what an earlier image showed ("There was a pneumothorax on the prior study").

    A clause that also speaks of now ("the effusion seen on the prior study has resolved") does not count.
    last: no other clause follows that tells what became of it.
    """
    then = _THEN.search(clause) or (None if last else _ONCE.search(clause))
    return then is not None and _NOW.search(clause) is None


def is_asked(sentence: str) -> bool:
    """Whether a sentence tells why the image was taken ("INDICATION: r/o pneumonia", "67-year-old with a history of")."""
    return bool(_ASKED.match(sentence))
