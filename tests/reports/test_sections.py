import time

import pytest

from medvlp_jax.reports.sections import locate, report_text, sections, sentences

MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  ___ year old with cough  // eval for infection

 COMPARISON:  None.

 FINDINGS:

 The lungs are well expanded and there is no focal consolidation, pleural
 effusion or pneumothorax.  The heart
 is normal in size.

 IMPRESSION:

 No acute process.
"""


def split(text):
    return [text[a:b] for a, b in sentences(text)]


def test_mimic_layout():
    found = sections(MIMIC)
    assert list(found) == ["technique", "indication", "comparison", "findings", "impression"]
    assert found["impression"] == "No acute process." and found["findings"].startswith("The lungs")
    assert report_text(MIMIC).startswith("No acute process.\n\nThe lungs")
    assert report_text(MIMIC, ("findings",)) == found["findings"]


def test_what_follows_the_banner_is_not_of_the_wet_read():
    report = (" WET READ: ___ 9:21 PM\n  no acute process\n ____________\n                 FINAL REPORT\n CHEST RADIOGRAPH\n\n"
              " Right lower lobe opacity.\n")
    assert report_text(report) == "CHEST RADIOGRAPH\n\n Right lower lobe opacity."
    assert sections(report)["notification"].startswith("___ 9:21 PM") and "opacity" not in sections(report)["notification"]
    assert report_text(report + " IMPRESSION: Pneumonia.") == "Pneumonia."


def test_inline_headings():
    found = sections("FINDINGS: Heart size is normal. IMPRESSION: 1. No acute disease. 2. Stable chest.")
    assert found == {"findings": "Heart size is normal.", "impression": "1. No acute disease. 2. Stable chest."}
    assert sections("FINDINGS: Lungs clear IMPRESSION: Normal")["impression"] == "Normal"  # no full stop before it
    assert sections("Indication: cough. Findings: clear.") == {"indication": "cough.", "findings": "clear."}


def test_headings_of_views_organs_and_strangers():
    found = sections("HISTORY: Cough.\nPORTABLE AP CHEST RADIOGRAPH: Cardiomegaly.\nLUNGS: Clear.\nBILLING CODE: 7")
    assert found == {"indication": "Cough.", "findings": "Cardiomegaly.\nLUNGS: Clear.", "billing code": "7"}
    assert "Chest: clear" in sections("IMPRESSION: Shoulder: fracture. Chest: clear.")["impression"]


def test_reports_without_findings_or_headings():
    assert sections("Lungs are clear.") == {"findings": "Lungs are clear."}
    assert report_text("INDICATION: cough.\nRESULT OF SCAN: Lungs are clear.") == "Lungs are clear."
    assert sections("") == {} and report_text("  \n ") == ""
    assert "pneumonia" not in report_text("INDICATION: rule out pneumonia. COMPARISON: none. Wet read: done")


BODY = "AP radiograph was reviewed.\n Heart size is enlarged.\n\n There is no pneumothorax."


@pytest.mark.parametrize("head", [
    "REASON FOR EXAMINATION: pneumothorax.\n\n", "COMPARISON: None.\n\n", "TECHNIQUE: PA and lateral.\n \n",
    "CLINICAL HISTORY: 50-year-old with cough.\n\n", "INDICATION: effusion.\n\nCOMPARISON: ___.\n\n",
    " FINAL REPORT\n CHEST RADIOGRAPH\n\n INDICATION: Pneumonia,\n fever.\n\n", "COMPARISON:\n\n None.\n\n",
    "Exam: AP chest\r\n\r\n",
])
def test_a_body_without_a_heading_is_found(head):
    body = BODY.replace("\n", "\r\n") if "\r" in head else BODY
    text, how = locate(f"{head}{body}\n\nNOTIFICATION: Dr. ___ was told at 9 am.")
    assert (text, how) == (BODY, "last paragraph")
    assert locate(text) == (text, "whole")  # what is read twice stays the same


@pytest.mark.parametrize("report, expected", [
    ("REASON FOR EXAM: pneumothorax.", ("", "none")),
    ("REASON FOR EXAM: pneumothorax.\n\nRECOMMENDATION: CT.\n\nOr MRI.", ("", "none")),
    ("HISTORY: Fall.\n\nRule out fracture.\n\nIMPRESSION: Normal chest.", ("Normal chest.", "impression")),
    ("HISTORY: Fall.\n\nRule out fracture.\n\nRESULT OF SCAN: Normal chest.", ("Normal chest.", "whole")),
    ("FINDINGS: Clear.", ("Clear.", "findings")),
    ("FINDINGS: Clear. IMPRESSION: Normal.", ("Normal.\n\nClear.", "findings and impression")),
    ("Clear lungs.", ("Clear lungs.", "whole")),
    ("LUNGS: clear.\nHEART: normal.", ("LUNGS: clear.\nHEART: normal.", "whole")),
    ("", ("", "none")),
])
def test_how_a_text_is_found(report, expected):
    assert locate(report) == expected


def test_sentences():
    assert split("No effusion. A 1.5 cm nodule.. Seen by Dr. Smith. 10 mm mass") == [
        "No effusion.", "A 1.5 cm nodule..", "Seen by Dr. Smith.", "10 mm mass"]
    assert split("1. Effusion. 2. Edema.3.Chronic changes.") == ["Effusion.", "Edema.", "Chronic changes."]
    assert split("No effusion.The heart is normal.") == ["No effusion.", "The heart is normal."]
    assert split("- Effusion\n- Edema\n") == ["Effusion", "Edema"]
    assert split("NO EDEMA. HEART NORMAL") == ["NO EDEMA.", "HEART NORMAL"]
    assert split("Atelectasis vs. pneumonia.") == ["Atelectasis vs. pneumonia."]
    assert split(" . ") == [] and split("") == []


def test_wrapped_lines_are_joined_and_short_lines_are_not():
    long = "There is no focal consolidation, pleural effusion or pneumothorax in the\nRight lung."
    assert split(long) == [long]
    assert split("Lungs are clear\nHeart is normal") == ["Lungs are clear", "Heart is normal"]
    assert split("Lungs are clear\nand expanded") == ["Lungs are clear\nand expanded"]
    assert split("Lungs are clear\n\nand expanded") == ["Lungs are clear", "and expanded"]


def test_spans_are_in_order_and_trimmed():
    text = MIMIC + "\n1. One.  2. Two.\n"
    end = 0
    for a, b in sentences(text):
        assert end <= a < b and text[a:b] == text[a:b].strip()
        end = b


def test_odd_text_takes_no_time():
    start = time.process_time()
    for text in ("\n" * 20000, " \n" * 20000, "." * 20000, "A" * 50000 + ":", "IMPRESSION \n" * 4000,
                 "LUNGS AND " * 4000):
        sections(text)
        sentences(text)
    assert time.process_time() - start < 10  # a square cost would take minutes


def test_what_was_cut_out_before_is_not_read_again_until_it_is_forgotten():
    from medvlp_jax.reports import sections as module

    module.forget()
    first = report_text(MIMIC)
    assert report_text(MIMIC, ["findings"]) != first and report_text(MIMIC) is first
    module.forget()
    again = report_text(MIMIC)
    assert again == first and again is not first
