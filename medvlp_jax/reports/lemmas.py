"""A small English lemmatiser for the words of radiology reports: plural nouns, -ed and -ing forms, a few irregulars.

It has no dictionary and no grammar: "opacities" -> "opacity", "blunted" -> "blunt", "elevated" -> "elevate". Nouns in
-ing that name a finding ("thickening", "marking") keep their form, as a tagger-based lemmatiser leaves them.
"""
import functools
import re

_IRREGULAR = {
    "apices": "apex", "hila": "hilum", "lumina": "lumen", "vertebrae": "vertebra", "bullae": "bulla", "pleurae":
    "pleura", "scapulae": "scapula", "fistulae": "fistula", "bronchi": "bronchus", "thrombi": "thrombus", "foci":
    "focus", "emboli": "embolus", "sulci": "sulcus", "humeri": "humerus", "pneumothoraces": "pneumothorax",
    "thoraces": "thorax", "hemithoraces": "hemithorax", "granulomata": "granuloma", "atria": "atrium", "septa":
    "septum", "calices": "calix", "cortices": "cortex", "is": "be", "are": "be", "was": "be", "were": "be", "been":
    "be", "being": "be", "has": "have", "had": "have", "does": "do", "did": "do", "done": "do", "seen": "see",
    "saw": "see", "shown": "show", "worse": "bad", "worst": "bad", "larger": "large", "smaller": "small", "greater":
    "great", "gone": "go", "lost": "lose", "broken": "break", "lying": "lie", "better": "well", "best": "well",
    "left": "left", "shed": "shed", "overlying": "overlie",
}
# Words that only look inflected.
_BASE = frozenset(
    "gas pus lens pelvis series pancreas bias chronic always across perhaps various as this thus us its his was "
    "infrared sacred red bed need indeed seed speed bleed feed exceed weed biped sled "
    "ring wing string spring sling during nothing something king bring sing thing morning evening".split())
# -ing forms that are nouns of their own here.
_ING_NOUNS = frozenset("thickening marking finding tubing opening lining swelling narrowing coating bearing setting "
                       "positioning capping rounding cuffing tenting streaking spurring wedging bowing".split())
_VOWEL = re.compile(r"[aeiouy]")
# Endings of a stem that lost its final e: "resolv-", "displac-", "collaps-", "elevat-", "not-", "exclud-", "obscur-",
# "enlarg-", "stabl-", "combin-"; but "heal-", "treat-", "retain-", "limit-", "develop-" are whole.
_NEEDS_E = re.compile(r"(?:[vzcu]|[^s]s|[^eo]at|[^o]ot|[aiu]d|[^o]ur|ir|par|[rd]g|chang|[^aeiouwl]l|"
                      r"(?:b|f|m)in|scrib|mok|k[ei]r|pag)$")
_DOUBLED = re.compile(r"([bdgmnprt])\1$")


def _stem(stem: str) -> str:
    """The verb of a stem left by cutting -ed or -ing."""
    if _DOUBLED.search(stem):
        return stem[:-1]
    return stem + "e" if _NEEDS_E.search(stem) else stem


def plural_stem(word: str) -> str:
    """The singular of a lower-case plural noun; other words ("pelvis", "effusion") come back as they are."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if not word.endswith("s") or word in _BASE or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("oses", "tases", "theses", "yses")) and not word.endswith("doses"):
        return word[:-2] + "is"
    if word.endswith(("sses", "shes", "ches", "xes", "zzes", "gases")):
        return word[:-2]
    return word[:-1]


@functools.lru_cache(maxsize=1 << 16)
def lemma(word: str) -> str:
    """Lower-cased base form of one English word: "Opacities" -> "opacity", "widened" -> "widen"."""
    word = word.lower()
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _BASE or len(word) < 4:
        return word
    if word.endswith("s"):
        word = plural_stem(word)
    if word in _BASE or word in _ING_NOUNS or (word.startswith("un") and word.endswith("ed")):
        return word  # "unchanged" is an adjective: there is no verb to go back to
    if word.endswith("ied") and len(word) > 4:
        return word[:-3] + "y"
    for ending in ("ed", "ing"):
        stem = word[:-len(ending)]
        if word.endswith(ending) and len(stem) > 2 and _VOWEL.search(stem):
            return _stem(stem)
    return word
