import csv
import time

import pytest

from medvlp_jax.reports.language import is_english
from medvlp_jax.reports.sections import locate, sentences
from tests.golden import shared


@pytest.mark.parametrize("text", [
    "Sin consolidacion ni atelectasia.", "No se observa derrame pleural.", "Silueta cardíaca normal.", "Cardiomegalia.",
    "sin hallazg patolog signific", "Pas d'atelectasie", "Pas d'épanchement pleural.", "Kein Pneumothorax",
    "Lungen frei, kein Erguss.", "Campos pulmonares claros, seios livres", "Non versamento pleurico.", "Geen pleuravocht.",
    "双肺纹理清晰", "Легкие без очаговых изменений",
])
def test_other_languages(text):
    assert not is_english(text)


@pytest.mark.parametrize("text", [
    "Clear lungs", "ETT ok", "No PTX, ET tube ok", "Dilated PAs", "Normal.", "", "LA enlargement. DES in situ.", "___",
    "Patient’s heart is normal.", "No acute disease; de novo nodule.",
])
def test_short_english(text):
    assert is_english(text)


def test_no_english_report_is_lost():
    """The 3,469 reports and, one by one, their 7,800 different sentences."""
    with open(shared("cxr", "reports.csv"), newline="", encoding="utf-8") as file:
        texts = [locate(row["report"])[0] for row in csv.DictReader(file)]
    parts = {text[a:b] for text in texts for a, b in sentences(text)}
    assert len(texts) == 3469 and len(parts) > 7000
    assert [text for text in (*texts, *parts) if not is_english(text)] == []


def test_long_text_takes_no_time():
    start = time.process_time()
    for text in ("é" * 200_000, "no " * 100_000, " " * 200_000, "胸" * 200_000):
        is_english(text)
    assert time.process_time() - start < 2
