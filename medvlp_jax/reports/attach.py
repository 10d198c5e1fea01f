"""Which anatomy a finding is at: reads the grammar of a clause around each finding.

An adjective describes its subject ("the aorta is tortuous"), the anatomy after it ("tortuous aorta") or, before a noun
finding, what that noun is at ("calcified granuloma in the apex"). A noun is at the anatomy of its own phrase ("left
basilar atelectasis"), after a preposition ("opacity in the left base") or told of ("the left base shows an opacity").
What has none may share the place of the finding it is coordinated with.
"""
from medvlp_jax.reports.anatomy import SEEN_THROUGH
from medvlp_jax.reports.clauses import is_normal, is_predicate
from medvlp_jax.reports.matcher import Item
from medvlp_jax.reports.places import Place, settle, zones

# "Leads in the right atrium and ventricle, unchanged": an aside, with no anatomy of its own.
_ASIDE = frozenset({"stable", "excluded_obs"})
_PASS_LEFT = ("unc", "unsure", "rest", "otherwise")
_PASS_RIGHT = ("verb", "unc", "rest", "otherwise", "restart", "nothing")


def _phrase_before(clause: list[Item], k: int) -> list[Place]:
    """Anatomy in the finding's own noun phrase ("right apical and left basilar nodular opacities")."""
    places: list[Place] = []
    i = k - 1
    while i >= 0:
        item = clause[i]
        if item.kind == "anatomy":
            if places and clause[i + 1].kind in ("and", "or", "comma") and i and clause[i - 1].kind in ("prep", "over"):
                break  # "in the right apex and left basilar scarring": the apex is another finding's
            if places and i and clause[i - 1].kind == "finding":
                break  # "low lung volumes and basilar scarring"
            places.append(item.value)
        elif item.kind in ("and", "or", "comma"):
            if not places or i == 0 or clause[i - 1].kind != "anatomy" or clause[i + 1].kind != "anatomy":
                break
        elif not (item.kind in _PASS_LEFT or (item.kind == "finding" and item.value.adjective)):
            break
        i -= 1
    return places


def _phrase_after(clause: list[Item], k: int) -> list[Place]:
    """Anatomy that a preposition, or mere adjacency, puts after the finding ("opacity is seen in the left base")."""
    places: list[Place] = []
    governed = through = False
    i = k + 1
    while i < len(clause):
        item = clause[i]
        before = clause[i - 1]
        if item.kind == "anatomy":
            following = clause[i + 1] if i + 1 < len(clause) else None
            of_next = (following is not None and following.kind == "finding" and following.value.entity not in _ASIDE
                       and not is_predicate(clause, i + 1))
            joined = before.kind in ("and", "or", "comma")
            if (of_next and (joined or not governed) and not clause[k].value.adjective) or (of_next and places):
                break
            if not governed and not places and i != k + 1 and item.value.groups:
                break  # but go on at "opacities are present bilaterally"
            place = item.value
            if through and SEEN_THROUGH.intersection(place.groups):
                place = Place((), place.sides)
            places.append(place)
        elif item.kind in ("prep", "over"):
            governed, through = True, item.kind == "over"
        elif item.kind in ("and", "or", "comma"):
            following = clause[i + 1] if i + 1 < len(clause) else None
            if not places and (following is None or following.kind != "prep"):
                break  # but go on at "normal size and configuration of the heart"
        elif places or item.kind not in _PASS_RIGHT:
            break
        i += 1
    return places


def _subject(clause: list[Item], k: int) -> list[Place]:
    """Anatomy before the finding and after the finding before it ("The heart and mediastinum are normal")."""
    free, governed = [], []
    for i in range(k - 1, -1, -1):
        item = clause[i]
        if item.kind == "finding":
            kinds = [item.kind for item in clause[i + 1:k]]
            telegraphic = kinds[:1] == ["comma"] and kinds.count("comma") == 1 and kinds[-1] == "anatomy"
            if clause[k].value.entity in _ASIDE and not telegraphic and not {"verb", "colon"}.intersection(kinds[-2:]):
                return []  # but read "no effusion, heart stable"
            return free  # what a preposition governs belongs to that finding: "tortuosity of the aorta, stable"
        if item.kind == "anatomy":
            described = i and clause[i - 1].kind == "finding" and clause[i - 1].value.adjective
            if not (described and free):  # "low lung volumes make the heart look large": the heart is large
                (governed if _governed(clause, i) else free).append(item.value)
    return free or governed


def _governed(clause: list[Item], i: int) -> bool:
    """Whether a preposition governs the anatomy at i, directly or through "and" ("in the atrium and the ventricle")."""
    while i > 1 and clause[i - 1].kind in ("and", "or") and clause[i - 2].kind == "anatomy":
        i -= 2
    return i > 0 and clause[i - 1].kind in ("prep", "over")


def _told_of(clause: list[Item], k: int) -> bool:
    """Whether a verb, colon or "without" ties the noun at k to an anatomy before it ("the lungs show no opacity")."""
    tied = False
    for item in reversed(clause[:k]):
        if item.kind == "anatomy":
            return tied
        if item.kind in ("comma", "finding"):
            return False
        tied = tied or item.kind in ("verb", "colon", "neg")
    return False


def _previous_finding(clause: list[Item], k: int) -> tuple[Item | None, set]:
    """The finding before, and the kinds of items between."""
    kinds: set = set()
    for item in reversed(clause[:k]):
        if item.kind == "finding":
            return item, kinds
        kinds.add(item.kind)
    return None, kinds


def _own(clause: list[Item], k: int) -> list[Place]:
    """Places that the clause's grammar gives to the finding itself."""
    finding = clause[k].value
    before = _phrase_before(clause, k)
    if finding.adjective:
        following = clause[k + 1] if k + 1 < len(clause) else None
        subject = _subject(clause, k)
        noun = following is not None and following.kind == "finding" and not is_normal(following)
        if noun and not is_normal(clause[k]):
            return before or _own(clause, k + 1)  # "calcified granuloma in the right apex"
        attributive = k == 0 or clause[k - 1].kind not in ("verb", "colon", "anatomy")
        if attributive and following is not None and following.kind == "anatomy":
            return _phrase_after(clause, k) or subject  # "normal heart and clear lungs"
        if subject and following is not None and following.kind == "anatomy" and not following.value.groups:
            # "the hila are normal bilaterally"
            return [Place(p.groups, p.sides or following.value.sides) for p in subject]
        return subject or ([] if is_normal(clause[k]) else before) or _phrase_after(clause, k)
    after = _phrase_after(clause, k)
    if before or after:
        return before + after
    return _subject(clause, k) if _told_of(clause, k) else []


def attach(clause: list[Item]) -> None:
    """Sets `places` of every finding of a merged clause (a list of `Place`, empty if the sentence gives none)."""
    found = [k for k, item in enumerate(clause) if item.kind == "finding"]
    for k in found:
        twin = k > 0 and clause[k - 1].kind == "finding" and clause[k - 1].first == clause[k].first
        clause[k].places = clause[k - 1].places if twin else _own(clause, k)  # "hydropneumothorax" is two findings
    for k in found:
        item = clause[k]
        if item.places:
            continue
        previous, between = _previous_finding(clause, k)
        if previous is None:
            continue
        if item.value.adjective and previous.value.adjective and between <= {"and", "comma", "neg", "with"}:
            item.places = previous.places  # "the aorta is tortuous and calcified"
        elif item.value.adjective and "verb" in between and not is_normal(item):
            item.places = previous.places  # "the nodule in the left base is calcified"
        elif between & {"link", "unc", "unc_clause", "versus", "or", "and", "with"} and "comma" not in between:
            item.places = zones(previous.places)
    for k in reversed(found):
        item = clause[k]
        if not item.places and not item.value.adjective:
            later = next((i for i in found if i > k), None)
            if later is not None and {i.kind for i in clause[k + 1:later]} <= {"and", "or", "comma", "versus"}:
                item.places = zones(_phrase_after(clause, later))  # "atelectasis or effusion at the left base"
        elif not item.places:
            following = next((i for i in clause[k + 1:] if i.kind not in _PASS_LEFT), None)
            if following is not None and following.kind == "finding" and not is_normal(item):
                item.places = settle(following)  # "borderline cardiomegaly"
