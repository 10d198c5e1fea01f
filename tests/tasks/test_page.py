"""The pages: every number is there, nothing is asked of a network, foreign text stays text, failures stay small."""
import base64
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from medvlp_jax.tasks import comparison_page, evaluation, html, kept, page, page_parts, pairing, published, suite
from tests.tasks import fakes, pages


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders of a random and of a perfect predictor, evaluated."""
    root = tmp_path_factory.mktemp("runs")
    folders = root / "one <b>&", root / "two"
    for folder, predict in zip(folders, (fakes.RANDOM, fakes.PERFECT), strict=True):
        pages.evaluate(folder, predict)
    return folders


@pytest.fixture(scope="module")
def texts(runs):
    """{name: text of a page}."""
    paths = {"report": page.write(runs[0]), "comparison": comparison_page.write(*runs, resamples=40)}
    return {name: path.read_text("utf-8") for name, path in paths.items()}


def parse(text):
    return ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def words(element):
    return " ".join("".join(element.itertext()).split())


def tables(root):
    """{caption: rows of cell texts}."""
    return {words(t.find("caption")): [[words(c) for c in row] for row in t.iter("tr")] for t in root.iter("table")}


@pytest.mark.parametrize("name", ["report", "comparison"])
def test_pages_are_closed_and_accessible(texts, name):
    root = parse(texts[name])
    assert root.get("lang") == "en" and len(list(root.iter("h1"))) == 1 and len(list(root.iter("main"))) == 1
    for element in root.iter():  # foreign text is text: no element or attribute came out of it
        assert element.tag not in ("script", "iframe", "object", "b")
        assert not any(key.startswith("on") for key in element.attrib)
        for key in ("src", "href", "srcset", "action"):
            assert element.get(key, "data:").startswith(("data:", "#"))
    policies = [m.get("content") for m in root.iter("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert not re.search(r"url\(|@import", html.STYLE) and "default-src 'none'" in policies[0]
    images = list(root.iter("img"))
    assert len(images) > 10 and all(len(image.get("alt")) > 20 for image in images)
    for image in images:
        kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.+)", image.get("src")).groups()
        assert base64.b64decode(data, validate=True).startswith({"png": b"\x89PNG", "jpeg": b"\xff\xd8"}[kind])
    assert all(figure.find("figcaption") is not None for figure in root.iter("figure"))
    for table in root.iter("table"):
        assert table.find("caption") is not None and all(th.get("scope") in ("col", "row") for th in table.iter("th"))
    regions = [e for e in root.iter("div") if e.get("class") == "scroll"]
    assert len(regions) == len(list(root.iter("table")))
    assert all(e.get("tabindex") == "0" and e.get("aria-label") for e in regions)
    names = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(set(names)) == len(names) and {a.get("href")[1:] for a in root.iter("a")} == set(names)
    levels = [int(e.tag[1]) for e in root.iter() if e.tag in ("h1", "h2", "h3")]
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    assert "secret-" not in texts[name] and not re.search(r"\bp\d+\b", words(root.find("body")))  # nobody's identifier


def test_every_record_is_on_the_page(runs, texts):
    root, results = parse(texts["report"]), suite.read(runs[0] / "eval" / "results.jsonl")
    found = tables(root)
    assert len(results) > 40
    for r in results:
        value = html.number(r["value"])
        if r["metric"].startswith("auc/"):
            row = next(row for row in found["Zero-shot classification: single findings"] if row[0] == r["metric"][4:])
            assert row[1:3] == [str(r["positives"]), f"{value} {html.interval(r['ci'])}"]
        elif "attribute" in r:
            want = [page_parts.words(r["metric"].partition("/")[0]), f"{r['attribute']}: {r['group']}", value,
                    html.interval(r["ci"]), str(r["patients"]), str(r["n"])]
            assert want in found["Subgroups"]
        else:
            row = next(row for row in found[page_parts.title(r["task"])] if row[0].endswith(r["metric"]))
            assert row[1:] == [value, html.interval(r.get("ci")), "" if r.get("chance") is None else html.number(r["chance"]),
                               str(r["n"])]
    assert {"What": "Value", "Data fingerprints": "test: f1", "Step": "7", "Run": "one <b>&"}.items() <= dict(
        found["Evaluation"]).items()
    assert ["jax", "1.2.3"] in found["Versions"] and pages.EVIL in json.loads(root.find(".//pre").text)["data"]["path"]
    settings = dict(found["Settings of each metric"])
    assert "resamples: 30" in settings["zeroshot auc_macro"] and "gallery: 16" in settings["retrieval i2t_recall@1"]


def test_the_foreign_report_is_shown_as_text(texts):
    root = parse(texts["report"])
    assert sum(pages.EVIL in (e.text or "") for e in root.iter("span")) >= 3


def test_published_numbers_stand_beside_the_same_data_set_only(tmp_path):
    place = {"dataset": "NIH ChestX-ray14", "split": "test", "protocol": "default", "step": 1}
    r = {**place, "task": "zeroshot", "metric": "auc_macro", "value": 0.7, "n": 9, "per_class": {"Hernia": 0.8}}
    single = {**place, "task": "zeroshot", "metric": "auc/Hernia", "value": 0.8, "n": 9, "positives": 3}
    assert [n.value for n in published.beside(r)] == [0.768, 0.723, 0.84]
    assert [n.value for n in published.beside(single)] == [0.772]
    for change in ({"dataset": "phantom"}, {"split": "val"}, {"task": "retrieval"}, {"metric": "auc_macro_prompts"}):
        assert published.beside({**r, **change}) == []
    linear = {**r, "task": "classification", "dataset": "rsna", "protocol": "linear 100 %"}
    assert [n.value for n in published.beside(linear)] == [0.908, 0.908]
    assert [n.value for n in published.beside({**linear, "protocol": "linear 1 %"})] == [0.891]
    assert published.beside({**linear, "protocol": "default"}) == []
    assert published.known_as("RSNA Pneumonia") == "rsna" and published.known_as("my own") is None
    e = evaluation.Evaluation("run", tmp_path, place, {}, [r, single], {}, {})
    found = tables(parse(page.render(e)))
    assert "0.768 MedKLIP, as in the paper" in found["Zero-shot classification"][1][-1]
    assert found["Zero-shot classification"][0][-1] == "Published"
    assert "0.772 MedKLIP" in found["Zero-shot classification: single findings"][1][-1]


def test_undefined_failed_and_left_out_are_said(tmp_path):
    skipped = {"mass<": "no positive example"}
    records = [{**pages.PLACE, "task": "zeroshot", "metric": "f1_honest", "value": None, "n": 0, "skipped": skipped},
               {**pages.PLACE, "task": "retrieval", "metric": "failed", "value": None, "n": 0, "error": "KeyError: '<x>'"}]
    text = page.render(evaluation.Evaluation("run", tmp_path, pages.PLACE, {}, records, {}, {}))
    shown = words(parse(text))
    assert "undefined" in shown and "mass<: no positive example" in shown
    assert "Image and report retrieval failed: KeyError: '<x>'" in shown


def test_a_later_evaluation_of_another_step_is_not_mixed_in(tmp_path):
    pages.evaluate(tmp_path, fakes.RANDOM, {"grounding": {"resamples": 0}, "retrieval": {"resamples": 0}})
    later = {**pages.PLACE, "step": 8}
    pages.evaluate(tmp_path, fakes.PERFECT, {"grounding": {"resamples": 0}}, place=later)
    assert evaluation.load(tmp_path).tasks == ["grounding"] and list(evaluation.load(tmp_path).scores) == ["grounding"]
    evaluation.describe(tmp_path, pages.PLACE, {})  # as an evaluation of the first step would
    first = evaluation.load(tmp_path)
    assert first.tasks == ["grounding", "retrieval"] and list(first.scores) == list(first.cards) == ["retrieval"]


def test_no_evaluation_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="no evaluation in .*python -m medvlp_jax.evaluate --workdir="):
        page.write(tmp_path)


# ---- comparison


def test_comparison_has_differences_and_p_values(runs, texts):
    found, root = tables(parse(texts["comparison"])), parse(texts["comparison"])
    record = json.loads((runs[0] / "eval" / "comparison.json").read_text())
    assert record["a"]["name"] == "one <b>&" and record["resamples"] == 40
    one = {(r["task"], r["metric"]): r for r in suite.read(runs[0] / "eval" / "results.jsonl")}
    two = {(r["task"], r["metric"]): r for r in suite.read(runs[1] / "eval" / "results.jsonl")}
    for task, result in record["tasks"].items():
        assert result["of"] == [result["n"]] * 2
        for r in result["rows"]:  # recomputed from the kept scores, they are what the evaluations reported
            assert [r["a"], r["b"]] == pytest.approx([x[task, r["metric"]]["value"] for x in (one, two)])
    rows = {row[0].split()[-1]: row for row in found["Zero-shot classification"]}
    auc = rows["auc_macro"]
    assert auc[2:4] == ["1.000", f"{1 - one['zeroshot', 'auc_macro']['value']:+.3f}"] and auc[5] == html.p_value(2 / 41)
    assert rows["f1_honest"][5] == "not tested"
    single = found["AUC, mean of the findings: single findings"]
    assert [row[0] for row in single[1:]] == sorted(fakes.FINDINGS) and all("<" in row[7] for row in single[1:])  # DeLong
    assert "Pointing game" in words(root) and "The same examples, A beside B" in words(root)
    assert words(root).count("The data have the same fingerprint.") == 1


def test_comparison_takes_the_common_examples_only(tmp_path):
    tasks = {"zeroshot": {"resamples": 0}}
    pages.evaluate(tmp_path / "a", fakes.RANDOM, tasks, pages.items()[:40])
    pages.evaluate(tmp_path / "b", fakes.PERFECT, tasks, pages.items()[10:])
    found = pairing.compare(evaluation.load(tmp_path / "a"), evaluation.load(tmp_path / "b"), resamples=20)["tasks"]["zeroshot"]
    assert found["n"] == 30 and found["of"] == [40, 54] and found["rows"][0]["b"] == 1
    text = comparison_page.write(tmp_path / "a", tmp_path / "b", tmp_path / "new" / "c.html", 20).read_text("utf-8")
    assert "30 common examples of 40 and 54" in text and (tmp_path / "new" / "c.json").is_file()


def test_what_cannot_be_compared_says_why(runs, tmp_path):
    a, b = evaluation.load(runs[0]), evaluation.load(runs[1])
    with pytest.raises(ValueError, match="was evaluated on dataset 'phantom', two on 'x': evaluate both on the same"):
        pairing.compare(a, b._replace(place={**b.place, "dataset": "x"}))

    def changed(task, **arrays):
        return b._replace(scores={**b.scores, task: {**b.scores[task], **arrays}})

    shape = b.scores["zeroshot"]["id"].shape
    cases = {
        "no example in common": changed("zeroshot", id=np.array([f"x{i}" for i in range(shape[0])])),
        "same identifier": changed("zeroshot", id=np.full(shape, "x")),
        "other patients": changed("zeroshot", patient=np.full(shape, "x")),
        "other labels": changed("zeroshot", labels=1 - b.scores["zeroshot"]["labels"]),
        "no scores of two were kept": b._replace(scores={k: v for k, v in b.scores.items() if k != "zeroshot"}),
        "only one <b>& has it": b._replace(records=[r for r in b.records if r["task"] != "zeroshot"]),
    }
    for message, other in cases.items():
        found = pairing.compare(a, other, resamples=5)
        assert message in found["left_out"]["zeroshot"] and list(found["tasks"]) == ["grounding", "retrieval"]
    found = pairing.compare(a, changed("retrieval", gallery=np.asarray(9)), resamples=5)
    assert "ranks among 16 and 9 are not comparable" in found["left_out"]["retrieval"]
    with pytest.raises(ValueError, match="nothing to compare"):
        pairing.compare(a, b._replace(scores={}), resamples=5)


def test_runs_of_the_same_name_are_told_apart(runs, tmp_path):
    other = tmp_path / "two"
    pages.evaluate(other, fakes.CONSTANT, {"zeroshot": {"resamples": 0}})
    text = comparison_page.write(runs[1], other, tmp_path / "c.html", 10).read_text("utf-8")
    assert "A: two (A)" in text and "B: two (B)" in text


def test_many_findings_as_many_as_examples():
    """Names have no row an example, even where there are as many."""
    ids = kept.pseudonyms("abcd")
    one = {"id": ids, "patient": ids, "names": np.array(list("wxyz")), "labels": np.eye(4, dtype=np.int8), "scores": np.eye(4)}
    order = [3, 1, 0, 2]
    two = {k: v if k == "names" else v[order] for k, v in one.items()}
    place, records = pages.PLACE, [{"task": "t", "metric": "auc_macro", "value": 1.0, "n": 4}]
    a, b = (evaluation.Evaluation(n, None, place, {}, records, {"t": s}, {}) for n, s in (("a", one), ("b", two)))
    found = pairing.compare(a, b, resamples=0)["tasks"]["t"]
    assert [(r["name"], r["a"], r["b"]) for r in found["classes"]["auc_macro"]] == [(n, 1, 1) for n in "wxyz"]
