from medvlp_jax.bench import reports as bench
from medvlp_jax.reports.agreement import agreement
from medvlp_jax.reports.measure import is_usable, reports_per_second, summarise


def test_summary_counts_each_report_once():
    s = summarise(["", "  \n", "FINDINGS: normal.", "none", "Patient was rotated.", "Lungs are clear.",
                   "FINDINGS: Left effusion. IMPRESSION: Effusion."])
    assert s == (7, 2, 2, 1, 1)
    assert str(s) == "7 reports: 3 usable (2 empty, 2 of one word); 1 without a mention, 1 abnormal"


def test_is_usable():
    assert is_usable("No effusion.") and not is_usable("Normal.") and not is_usable(" . ")


def test_speed_is_measured():
    assert reports_per_second(["No effusion.", "Lungs are clear."] * 20, cached=False) > 0


TAGGED = [("Cardiomegaly. Small effusion.", "Cardiomegaly/mild;Technical Quality of Image Unsatisfactory"),
          ("No effusion.", "normal"), ("Possible effusion.", "Pleural Effusion"), ("Clear lungs.", "Cardiomegaly"),
          ("Large mass.", "No Indexing"), ("Large mass.", "")]  # fmt: skip


def test_agreement_with_tags_by_hand():
    counts, whole = agreement((text, tags.split(";")) for text, tags in TAGGED)
    assert counts == {"cardiomegaly": {"tp": 1, "fn": 1}, "effusion": {"tp": 1, "fp": 1}}
    assert whole == {"total": 4, "normal_or_not": 3}  # all but the fourth


def test_the_bench_prints_it_for_a_table_with_tags(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench, "FEWEST", 1)
    path = tmp_path / "reports.csv"
    path.write_text("report,labels\n" + "".join(f"{text},{tags}\n" for text, tags in TAGGED))
    assert bench.main([f"--src={path}"]).keys() == {"anew", "as in a run"}
    said = capsys.readouterr().out
    assert "normal or not as the tags say: 75.0% of 4 reports" in said
    assert "cardiomegaly              2      1  1.000  0.500" in said
    assert "effusion                  1      2  0.500  1.000" in said
