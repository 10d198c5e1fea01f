"""Labels -> a caption in the words of a report, for examples that have labels and no report (data.captions).

As in GLoRIA (ICCV 2021) and MedCLIP (EMNLP 2022), whose prompts are made from labels; the sentences here are our own.
"""
from collections.abc import Mapping

import numpy as np

from medvlp_jax.reports import vocab

PRESENT = ("{}.", "{} noted.", "Findings of {}.", "The image shows {}.", "Evidence of {}.")
ABSENT = ("No {}.", "No evidence of {}.", "There is no {}.", "Negative for {}.", "No sign of {}.")
UNCERTAIN = ("Possible {}.", "{} cannot be excluded.", "Questionable {}.", "Findings may represent {}.")
NORMAL = ("No acute cardiopulmonary abnormality.", "Normal chest radiograph.", "Normal chest.", "Chest is unremarkable.")
# How a report says what a list of labels names in its own way.
WORDS = {"pleural other": "other pleural abnormality", "nodule mass": "nodule or mass"}
MAX_ABSENT = 3  # of the findings that are not there; a report does not list fourteen either


def known(finding_labels: Mapping[str, int]) -> bool:
    """Whether `caption` has anything to say."""
    return any(_entity(name) and (value or _entity(name) not in vocab.NORMAL) for name, value in finding_labels.items())


def caption(finding_labels: Mapping[str, int], rng: np.random.Generator) -> str:
    """{label: 1 present, 0 absent, -1 uncertain} -> sentences in random order, "" where no label names an entity.

    All that is present or uncertain is told, of the rest up to MAX_ABSENT, each by one of the templates at random. A label of
    normality is a sentence of its own where it holds, and none where it does not.
    """
    said = {name: value for name, value in sorted(finding_labels.items()) if _entity(name)}
    normal = {name for name in said if _entity(name) in vocab.NORMAL}
    absent = [name for name, value in said.items() if value == 0 and name not in normal]
    if len(absent) > MAX_ABSENT:
        absent = [absent[i] for i in rng.choice(len(absent), MAX_ABSENT, replace=False)]
    out = [_pick(NORMAL, rng) for name in sorted(normal) if said[name] == 1]
    for templates, names in (
        (PRESENT, [name for name, value in said.items() if value == 1 and name not in normal]),
        (UNCERTAIN, [name for name, value in said.items() if value == -1 and name not in normal]),
        (ABSENT, absent),
    ):
        out += [_sentence(_pick(templates, rng), name) for name in names]
    return " ".join(out[i] for i in rng.permutation(len(out)))


def _entity(name: str) -> str | None:
    """The entity of a label that says something of the image."""
    entity = vocab.lookup(name)
    return None if entity == vocab.EXCLUDED else entity


def _pick(templates, rng) -> str:
    return templates[rng.integers(len(templates))]


def _sentence(template: str, label: str) -> str:
    """ "Pleural_Thickening" -> "No pleural thickening."; an abbreviation keeps its capitals."""
    words = " ".join(w if w.isupper() else w.lower() for w in label.replace("_", " ").replace("/", " ").split())
    text = template.format(WORDS.get(words, words))
    return text[0].upper() + text[1:]
