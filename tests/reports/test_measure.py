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
