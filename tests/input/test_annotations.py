"""Files with labels and mentions, joined by study, image or text: the shapes as published, counts, and errors."""
import json

import pytest

from medvlp_jax.input import annotations, sources
from medvlp_jax.input.datasets.labels import CHEXPERT
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.input.prepared import PreparedSource
from medvlp_jax.input.rows import Table
from medvlp_jax.reports import radgraph
from tests import tiny
from tests.data import layouts
from tests.data.test_prepare import fails, run
from tests.input.test_manifest import write
from tests.input.test_statements import said

PATHS = [f"train/patient{n}/study1/view1_frontal" for n in range(4)]


def xl(text: str, *entities) -> dict:
    """An element of RadGraph-XL's list: tokens by white space, labels spelt out."""
    told = {str(i): {"tokens": tokens, "label": label, "start_ix": at, "end_ix": at, "relations": []}
            for i, (tokens, label, at) in enumerate(entities, 1)}  # fmt: skip
    return {"0": {"text": text, "entities": told, "data_source": None, "data_split": "inference"}}


PRESENT, ABSENT = "Observation::definitely present", "Observation::definitely absent"
XL = [xl("Small effusion , no edema .", ("effusion", PRESENT, 1), ("edema", ABSENT, 4)),
      xl("No pneumothorax .", ("pneumothorax", ABSENT, 1)), xl("Of nobody .")]  # fmt: skip


def table_of(tmp_path, **more):
    reports = ("FINDINGS: Small effusion,\nno edema.\nIMPRESSION: No pneumothorax.", "IMPRESSION: No pneumothorax.",
               "FINDINGS: A nodule is seen.", "")  # fmt: skip
    rows = [{"image": f"PNG/{path}.png", "study_id": f"5000000{n}", "report": report, **more}
            for n, (path, report) in enumerate(zip(PATHS, reports, strict=True))]  # fmt: skip
    return Table(write(tmp_path, rows, images=False))


def joined(tmp_path, content, name="told.json", **more):
    """(source, counts) of a manifest with a file joined."""
    file = tmp_path / name
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    rows, counts = annotations.join(table_of(tmp_path, **more), str(file))
    return ManifestSource(rows, "train", tmp_path), counts


def values(source, index, *names):
    return said({"presence": source.presence(source.table[index])}, *names)


def test_radgraph_xl_as_chexpert_plus_ships_it_is_joined_by_its_text(tmp_path):
    """Findings and impression of one report are two entries; white space around punctuation does not matter."""
    source, counts = joined(tmp_path, XL)
    assert values(source, 0, "effusion", "edema", "pneumothorax") == [1, 0, 0]
    assert values(source, 1, "effusion", "pneumothorax") == [-1, 0]
    assert values(source, 2, "nodule") == [1]  # no entry: the filter reads the report
    assert {k: counts[k] for k in counts if "e" in k and "label" not in k} == {
        "file": "told.json", "rows with an entry": 2, "rows without an entry": 2, "entries without a row": 1,
        "entries skipped": 0}  # fmt: skip
    with pytest.raises(ValueError, match="got a list; a list without names, as of RadGraph-XL, is given as --annotations"):
        radgraph.read(XL)


def test_radgraph_by_study_and_by_image(tmp_path):
    entry = XL[0]["0"]
    source, _ = joined(tmp_path, {"p10/p10000001/s50000003.txt": entry})
    assert values(source, 3, "effusion", "edema") == [1, 0] and values(source, 0, "edema") == [0]
    source, _ = joined(tmp_path, [{"0": {**entry, "path_to_image": f"{PATHS[2]}.jpg"}}])
    assert values(source, 2, "effusion", "nodule") == [1, -1]


def chexbert(path, **labels):
    return {"path_to_image": f"{path}.jpg", **dict.fromkeys(CHEXPERT), **{k.replace("_", " "): v for k, v in labels.items()}}


def test_chexbert_as_chexpert_plus_ships_it(tmp_path):
    """A JSON object a line by image; null says nothing."""
    records = [chexbert(PATHS[3], Edema=1.0, Fracture=0.0, Pneumonia=-1.0), chexbert(PATHS[0], Pleural_Effusion=0.0)]
    source, counts = joined(tmp_path, "\n".join(map(json.dumps, records)))
    assert values(source, 3, "edema", "fracture", "pneumonia", "mass", "normal") == [1, 0, 2, -1, -1]
    assert source.truth(3)["finding_labels"] == {"Edema": 1, "Fracture": 0, "Pneumonia": -1}
    assert values(source, 0, "effusion") == [1]  # the report says so, and CheXbert is no radiologist
    assert source.read_labels(source.table[0]).conflicts == [("effusion", "report present, label absent")]
    assert counts["rows with an entry"] == 2 and counts["entries without a row"] == 0
    assert joined(tmp_path, records)[1] == counts  # the same as one list


def test_an_image_in_another_folder_is_found_by_its_study(tmp_path):
    rows = [{"image": "CheXpert-v1.0 batch 2 (train 1)/patient3/study1/view1_frontal.jpg", "study_id": "train/patient3/study1"}]
    (tmp_path / "told.json").write_text(json.dumps([chexbert(PATHS[3], Edema=1.0)]))
    table, _ = annotations.join(Table(write(tmp_path, rows, images=False)), str(tmp_path / "told.json"))
    assert table[0]["annotations"] == {"labels": ["Edema"], "labeller": "automatic"}


def test_chexbert_csv(tmp_path):
    names = ",".join(CHEXPERT)
    line = "1.0" + "," * 13 + "-1.0"
    source, _ = joined(tmp_path, f"study_id,{names}\n50000003,{line}\n", "labeled.csv")
    assert values(source, 3, "normal", "device", "edema") == [1, 2, -1]
    source, _ = joined(tmp_path, f"Report Impression,{names}\nno   PNEUMOTHORAX,,,,,,,,,,0.0,,,,1.0\n", "labeled_reports.csv")
    assert [values(source, i, "device")[0] for i in range(4)] == [1, 1, -1, -1]
    with pytest.raises(ValueError, match="record 1: Edema is '3'; expected 1, 0, -1 or blank"):
        joined(tmp_path, f"study_id,{names}\n50000003,,,,,,3,,,,,,,,\n", "wrong.csv")


def test_lists_and_mentions_of_a_language_model(tmp_path):
    lines = [{"study_id": "50000003", "labels": ["Mass"], "absent": ["Edema", "COVID-19"], "uncertain": ["Pneumonia"]},
             {"study_id": 50000002, "mentions": [["effusion", "left_pleural", 1]]},
             {"study_id": "50000000", "absent": ["Effusion", "Gizmo"], "labeller": "radiologist"}]  # fmt: skip
    source, counts = joined(tmp_path, "\n".join(map(json.dumps, lines)), "told.jsonl")
    assert values(source, 3, "mass", "edema", "pneumonia") == [1, 0, 2]
    assert values(source, 2, "effusion", "nodule") == [1, -1]
    assert values(source, 0, "effusion", "edema") == [0, 0]
    assert counts["labels without entity"] == {"Gizmo": 1}
    with pytest.raises(ValueError, match=r"record 1: column 'mentions' is not as expected .*efusion"):
        joined(tmp_path, [{"study_id": "1", "mentions": [["efusion", "left_pleural", 1]]}])


def test_a_file_replaces_automatic_labels_and_not_a_radiologists(tmp_path):
    told = [{"study_id": "50000003", "absent": ["Edema"]}]
    for who, want in (("automatic", [0, 1]), ("radiologist", [1, 1])):
        source, _ = joined(tmp_path, told, labels="Edema;Mass", labeller=who)
        assert values(source, 3, "edema", "mass") == want
        assert source.truth(3)["finding_labels"]["Edema"] == want[0]


@pytest.mark.parametrize("content, message", [
    ('[{"a": 1}]', r"expected RadGraph .*, CheXbert .*, or a JSON object a line .*; its first record has a"),
    ('{"study_id": "1", "Edema": 1}', r"it lacks the conditions Atelectasis, Cardiomegaly"),
    ('[{"labels": ["Mass"]}]', "record 1: no key; expected one of study_id, image"),
    ('{"a": ', "is not valid JSON"), ('{"study_id": "1", "labels": []}\n{', "line 2: not valid JSON"),
    ('["Mass"]', "expected RadGraph"), ("", "expected RadGraph"),
    ('[{"study_id": "1", "labels": 5}]', "record 1: column 'annotations' is not as expected"),
    ('[{"study_id": "1", "labels": [], "labeller": "me"}]', "record 1: labeller 'me'"),
])  # fmt: skip
def test_other_content_is_named(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        joined(tmp_path, content)


def test_a_file_of_another_set_shows_a_key_of_each_side_and_no_identifier(tmp_path):
    with pytest.raises(ValueError, match="none of its 1 entries belongs to a row. A key of it: study_id 's########'; a row: "
                                         "study_id '########', image path 'PNG/train/patient#/study#/view#_frontal'") as e:
        joined(tmp_path, [{"study_id": "s50000001", "labels": ["Mass"]}])
    assert "5000" not in str(e.value)
    with pytest.raises(FileNotFoundError, match="no annotation file at .*; expected RadGraph"):
        annotations.join(table_of(tmp_path), str(tmp_path / "nowhere.json"))


def test_two_files_are_both_taken(tmp_path):
    """RadGraph-XL has a file a section; of a label the last file counts."""
    told = {"findings.json": XL[:1], "impression.json": XL[1:2], "a.json": [{"study_id": "50000003", "labels": ["Mass"]}],
            "b.json": [{"study_id": "50000003", "absent": ["Mass", "Edema"]}]}  # fmt: skip
    for name, content in told.items():
        (tmp_path / name).write_text(json.dumps(content))
    files = [str(tmp_path / name) for name in ("findings.json", "impression.json", "a.json", "b.json")]
    rows, counts = annotations.join(table_of(tmp_path), ",".join(files))
    source = ManifestSource(rows, "train", tmp_path)
    assert values(source, 0, "effusion", "edema", "pneumothorax") == [1, 0, 0] and values(source, 3, "mass", "edema") == [0, 0]
    assert counts["file"] == "findings.json, impression.json, a.json, b.json" and counts["rows without an entry"] == 1


def test_damaged_entries_are_skipped_within_a_limit(tmp_path):
    bad = {"0": {"text": "No pneumothorax .", "entities": {"1": {"tokens": "x"}}}}
    source, counts = joined(tmp_path, XL * 40 + [bad])
    assert counts["entries skipped"] == 1 and values(source, 1, "pneumothorax") == [0]
    with pytest.raises(ValueError, match="1 of 4 records are not as expected; record 4: RadGraph entity 1 is not as expected"):
        joined(tmp_path, [*XL, bad])


def test_the_option_of_a_run_and_of_a_preparation(tmp_path, capsys):
    (tmp_path / "src").mkdir()
    layouts.chexpert(tmp_path / "src")
    told = tmp_path / "findings_fixed.json"
    told.write_text("\n".join(json.dumps(chexbert(f"train/patient{p:05d}/study1/view1_frontal", Pneumonia=0.0, Fracture=1.0))
                              for p in range(1, 6)))  # fmt: skip
    c = tiny.run_config("medklip", **{"data/name": "chexpert", "data/path": str(tmp_path / "src"), "data/cache": False})
    seen = {}
    for files in ("", str(told)):
        c.data.annotations = files
        source = sources.make(c.data, "train", 0)
        seen[files] = [said(source[i], "fracture", "pneumonia") for i in range(len(source))]
    assert {tuple(v) for v in seen[""]} == {(-1, -1)} and {tuple(v) for v in seen[str(told)]} == {(-1, -1), (1, 0)}
    run(dataset="chexpert", src=tmp_path / "src", out=tmp_path / "out", size=48, annotations=told)
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["annotations"]["rows with an entry"] == 5 and card["options"]["annotations"] == "findings_fixed.json"
    made = PreparedSource(tmp_path / "out", "train")
    assert sorted(said(made[i], "fracture", "pneumonia") for i in range(len(made))) == sorted(seen[str(told)])
    assert sorted(str(made.truth(i)["finding_labels"]) for i in range(len(made))) == sorted(
        str(source.truth(i)["finding_labels"]) for i in range(len(source)))  # fmt: skip
    c.data.name, c.data.path = "prepared", str(tmp_path / "out")
    with pytest.raises(ValueError, match="data.annotations is joined when a data set is prepared"):
        sources.make(c.data, "train", 0)
    c.data.name, c.data.mixture = "mixture", (("prepared", c.data.path, 1.0),)
    with pytest.raises(ValueError, match="data.annotations belongs to one data set"):
        sources.make(c.data, "train", 0)
    message = fails(capsys, dataset="chexpert", src=tmp_path / "src", out=tmp_path / "o2", annotations=tmp_path / "none.json")
    assert "no annotation file at" in message


def test_a_preparation_keeps_to_its_rules(tmp_path):
    (tmp_path / "src").mkdir()
    layouts.chexpert(tmp_path / "src", plus=False)
    rules = {"blank_labels": "absent", "label_precedence": "labels"}
    run(dataset="chexpert", src=tmp_path / "src", out=tmp_path / "out", size=48, views="all", **rules)
    with pytest.raises(ValueError, match="prepared with blank_labels=absent, now data.blank_labels is unknown"):
        PreparedSource(tmp_path / "out", "train", label_precedence="labels")
    with pytest.raises(ValueError, match="prepared with label_precedence=labels, now data.label_precedence is report"):
        PreparedSource(tmp_path / "out", "train", blank_labels="absent")
    assert len(PreparedSource(tmp_path / "out", "train", **rules)) == 11
