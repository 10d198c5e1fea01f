"""Whether a report is in English, the only language that the report filter and the text encoders read.

The rule counts words. A report is not English if it has more words that only Spanish, Portuguese, French, German, Italian
or Dutch have (a word with an accent is one) than common English words, or if most of its letters are not Latin. Words that
several languages share ("normal", "no", "pleural", "edema") and short ones that are abbreviations in English ("ET", "LA",
"DES") count for neither. So "Clear lungs", "ETT ok" and an empty text pass.
"""
import functools
import re
import unicodedata

_LETTERS = re.compile(r"[^\W\d_]+")
_MOST = 4000  # characters that decide

_ENGLISH = frozenset("""
the of and with without there this that these is are was were have been not or to for from by at which be it its but seen
identified noted evidence lungs lung heart clear size chest right left within limits acute disease findings finding
unremarkable tube tubes line lines placement tip unchanged small large mild mildly minimal moderate severe opacity opacities
effusions clear normally enlarged prior comparison study views view contours upper lower lobe base bases free air bony osseous
structures change changes interval mass nodule new increased decreased improved worsening consistent likely possible may
represent focal airspace both rib ribs fracture fractures spine bones blunting angle angles sharp catheter wires clips
pacemaker tortuous dilated none otherwise well expanded
""".split())

_FOREIGN = frozenset("""
los las del con sin una por para que hay como pero desde sobre ambos ambas observa observan observ aprecia aprecian
identifican derrame derram derrames pulmon pulmones pulmonar pulmonares neumotorax neumonia silueta cardiaca cardiaco
derecho derecha derech izquierdo izquierda izquierd hallazgos hallazgo hallazg aumento aument densidad campos torax
radiografia radiograf consolidacion consolidaciones atelectasia atelectasias cardiomegali engrosamiento pinzamiento
pinzamient costofrenico costofrenic senos seno mediastino hilios hilio opacidad opacidades infiltrado infiltrados
patologicos patologic significativos alteraciones lesiones cambios cronicos cronic elongacion aortica estable normales
paciente sem com nao uma dos das nos nas pelo pela foi sao pulmoes direito direita esquerdo esquerda coracao alteracoes
cardiomegalia opacidade velamento seios les dans sans avec une est sont pas aucun aucune epanchement poumon poumons gauche
droit droite coeur cardiaque taille pneumonie foyer atelectasie opacite opacites cul epaississement pulmonaire pulmonaires
champs kein keine keinen keiner keines der das und mit ohne ist sind nicht ein eine einen eines einer von vom zum zur bei
beim auf rechts links beidseits erguss ergusse pleuraerguss lunge lungen herz herzgrosse nachweis hinweis kardiomegalie
atelektase atelektasen stauung infiltrat verschattung verschattungen unauffallig zeichen gli della delle dello degli dei nel
nella nelle senza sono alla alle dalla versamento pleurico polmone polmoni polmonare polmonari destra destro sinistra
sinistro cuore addensamenti addensamento opacita ombra reperti geen het een van niet longen pleuravocht
""".split())


@functools.lru_cache(100_000)  # every epoch asks again
def is_english(text: str) -> bool:
    """Whether a report's text is taken for English; see the head of this file for the rule."""
    words = _LETTERS.findall(text[:_MOST].lower())
    accented = 0
    if not text.isascii():
        letters = "".join(words)
        if 2 * sum(c > "\u024f" for c in letters) > len(letters):
            return False
        accented = sum(not word.isascii() for word in words)
        words = [word if word.isascii() else _plain(word) for word in words]
    foreign = max(accented, sum(word in _FOREIGN for word in words))
    return foreign <= sum(word in _ENGLISH for word in words)


def _plain(word: str) -> str:
    """The word without accents."""
    return "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))
