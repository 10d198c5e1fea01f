"""Which text of a report is read, counted in the check's summary and in the card; reports in other languages are not read."""
import json

import pytest

from data import prepare
from medvlp_jax.input.check import check
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.input.prepared import PreparedSource
from medvlp_jax.reports import vocab
from tests.input.test_manifest import write

REPORTS = [
    "FINDINGS: Small effusion.\nIMPRESSION: Small effusion.",
    "IMPRESSION: No effusion.",
    "REASON FOR EXAM: pneumothorax.\n\nAP radiograph was reviewed. There is a small effusion.",
    "Clear lungs.",
    "Sin consolidacion ni atelectasia.",
    "REASON FOR EXAM: pneumothorax.",
    "Pas d'atelectasie",
    "normal",
]
TEXTS = {"findings and impression": 1, "impression": 1, "last paragraph": 1, "whole": 1, "not in English": 2, "none": 1,
         "too short": 1}


@pytest.fixture
def path(tmp_path):
    rows = [{"report": text, "labels": "" if text.startswith("Pas") else "Mass", "split": "train"} for text in REPORTS]
    return write(tmp_path, rows)


def labels(source, i):
    cells = (source.presence(source.table[int(source.rows[i])]) != -1).any(0)
    return {vocab.ENTITIES[k] for k in cells.nonzero()[0]}


def test_the_check_counts_how_texts_were_found(path):
    source = ManifestSource(path, "train", closed_world="never")
    kept, summary = check(source, max_bad_share=0.5)
    assert summary.texts == TEXTS
    assert "text of reports: findings and impression 1, impression 1, last paragraph 1" in str(summary)
    assert "report not in English, not read: 2 rows" in str(summary)
    assert summary.skipped == {"report not in English": [7]}  # it has no label either
    assert [kept.text(i)[:12] for i in range(len(kept))] == [
        "Small effusi", "No effusion.", "AP radiograp", "Clear lungs.", "", "", ""]  # fmt: skip
    assert summary.short_reports == [6, 8]


def test_a_report_in_another_language_says_nothing(path):
    source = ManifestSource(path, "train", closed_world="never")
    assert labels(source, 4) == {"mass"} == labels(source, 5)
    assert source[4]["report"] == "" and "effusion" in labels(source, 2) and "pneumothorax" not in labels(source, 2)


def test_the_card_counts_them(path, tmp_path):
    prepare.main(["--dataset=manifest", f"--src={path}", f"--out={tmp_path / 'out'}", "--workers=0", "--size=64",
                  "--max_bad_share=0.5"])
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["reports_found"] == TEXTS and card["drops"]["report not in English"]["rows"] == 1
    assert "How the text of a report was found" in (tmp_path / "out" / "card.html").read_text()
    source = PreparedSource(tmp_path / "out", "train")
    assert [source.text(i)[:12] for i in range(len(source))] == [
        "Small effusi", "No effusion.", "AP radiograp", "Clear lungs.", "", "", ""]  # fmt: skip
    assert source.locate_text(source.table[0])[1] == "prepared"
