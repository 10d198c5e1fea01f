"""data.prepare on miniatures of the official layouts: what every example must say, by hand."""
import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from medvlp_jax.input import datasets, decode, evaluation, studies, tokens
from medvlp_jax.input.examples import Options
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.input.prepared import PreparedSource
from medvlp_jax.reports import vocab
from tests.data import layouts
from tests.data.test_prepare import fails, run
from tests.input.datasets.test_readers import fill
from tests.input.test_dicom import make as dicom


def prepared(tmp_path, dataset, **flags):
    """({image: example}, card) of the layout below tmp_path/src."""
    run(dataset=dataset, src=tmp_path / "src", out=tmp_path / "out", size=48, **flags)
    source = PreparedSource(tmp_path / "out", "all")
    card = json.loads((tmp_path / "out/card.json").read_text())
    return {e["id"]: e for e in (source[i] for i in range(len(source)))}, card


def said(example, *names) -> list[int]:
    """What an example says of entities, at any position: the largest of -1, 0, 1, 2."""
    return [int(example["presence"][:, vocab.entity_index(name)].max()) for name in names]


def test_chexpert_without_and_with_the_reports_of_chexpert_plus(tmp_path):
    (tmp_path / "src").mkdir()
    layouts.chexpert(tmp_path / "src")
    found, card = prepared(tmp_path, "chexpert", views="all")
    assert len(found) == card["rows"] == 15 and card["drops"] == {}
    want = {"train": 11, "val": 2, "test": 2}  # a tenth of train.csv's patients, by hash, and valid.csv
    assert card["examples"] == want and card["with_report"] == {**want, "test": 0}
    first = found["CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"]
    assert first["report"] == 'Pleural effusion.\n\nSmall "left" effusion of 1.1 cm,\nno edema.'
    second = found["CheXpert-v1.0-small/train/patient00001/study2/view1_frontal.jpg"]
    assert second["report"] == 'Small "left" effusion of 1.2 cm,\nno edema.'
    assert first["attributes"] == {"view": "AP", "sex": "Female", "age": "61", "source": "chexpert"}
    labels = first["finding_labels"]
    assert (labels["Pleural Effusion"], labels["Edema"], labels["Pneumothorax"], labels.get("Fracture")) == (1, -1, 0, None)
    assert said(first, "effusion", "pneumothorax", "fracture") == [1, 0, -1]  # a blank is unknown
    assert said(first, "edema") == [0] and card["conflicts"] == {"edema": {
        "report present, label absent": 0, "report absent, label present": 0, "one uncertain": 13}}  # "no edema", label -1
    whole = studies.Studies(PreparedSource(tmp_path / "out", "all"))
    assert len(whole) == 9 and {whole[i]["attributes"]["view"] for i in range(9)} == {"AP"}  # 3 patients have a second study
    (tmp_path / "src/df_chexpert_plus_240401.csv").rename(tmp_path / "elsewhere.csv")
    run(dataset="chexpert", src=tmp_path / "src", out=tmp_path / "plain", size=48, views="all")
    given = {"out": tmp_path / "given", "reports": tmp_path / "elsewhere.csv"}
    run(dataset="chexpert", src=tmp_path / "src", size=48, views="all", **given)
    cards = {k: json.loads((tmp_path / k / "card.json").read_text()) for k in ("out", "plain", "given")}
    assert cards["plain"]["with_report"]["train"] == 0 and cards["given"]["fingerprint"] == cards["out"]["fingerprint"]
    plain = PreparedSource(tmp_path / "plain", "train")[0]
    assert said(plain, "effusion", "edema", "pneumothorax") == [1, 2, 0] and plain["report"] == ""


def test_chexpert_plus_of_another_layout_is_named(tmp_path, capsys):
    (tmp_path / "src").mkdir()
    layouts.chexpert(tmp_path / "src")
    table = tmp_path / "src/df_chexpert_plus_240401.csv"
    table.write_bytes(table.read_bytes().replace(b"section_impression", b"impression", 1))
    message = fails(capsys, dataset="chexpert", src=tmp_path / "src", out=tmp_path / "out")
    assert "has no column 'section_impression'; expected path_to_image, section_findings, section_impression" in message


def test_chestxray14(tmp_path):
    (tmp_path / "src").mkdir()
    layouts.chestxray14(tmp_path / "src")
    found, card = prepared(tmp_path, "chestxray14")
    assert len(found) == 24 and card["examples"]["test"] == 4 and card["drops"] == {}
    assert card["label_spaces"] == {"chestxray14": ["Cardiomegaly", "Emphysema", "Hernia", "No Finding"]}
    one = found["images_001/images/00000001_000.png"]
    assert one["finding_labels"] == {"Cardiomegaly": 1, "Emphysema": 1, "Hernia": 0, "No Finding": 0}
    assert said(one, "cardiomegaly", "emphysema", "hernia", "normal") == [1, 1, 0, 0]
    assert one["boxes"] == [("cardiomegaly", 9.5, 14.8, 19.0, 16.0)]  # of 60 x 48 px, stored at 48 x 38
    assert one["attributes"] == {"view": "AP", "sex": "M", "age": "51", "source": "chestxray14"}


def test_padchest(tmp_path):
    (tmp_path / "src").mkdir()
    layouts.padchest(tmp_path / "src")
    found, card = prepared(tmp_path, "padchest", max_bad_share=0.5, views="all")
    assert card["drops"] == {"no report, label, box or mask": {"rows": 4, "lines": [5, 6, 13, 14]}}
    assert card["labels_without_entity"] == {} and card["examples"]["test"] == 4 and len(found) == 12
    sides = {e["attributes"]["view"]: e for e in found.values() if said(e, "effusion", "cardiomegaly") == [1, 1]}
    assert set(sides) == {"PA", "L"}
    for e in found.values():
        assert e["report"] == ""  # Spanish, not read
        pixels = decode.decode(e["image"])
        assert pixels.shape == (48, 38) and pixels.max() > 230 and pixels.min() < 25  # 16 bits, stretched
    assert len(studies.Studies(PreparedSource(tmp_path / "out", "all"))) == 6


def test_openi(tmp_path):
    (tmp_path / "src").mkdir()
    layouts.openi(tmp_path / "src")
    found, card = prepared(tmp_path, "openi", views="all")
    assert len(found) == 7 and sum(card["with_report"].values()) == 5
    views = {Path(name).stem: e["attributes"].get("view", "") for name, e in found.items()}
    assert views == {"CXR1_1_IM-0001-3001": "LATERAL", "CXR1_1_IM-0001-4001": "FRONTAL", "CXR2_IM-0652-1001": "FRONTAL",
                     "CXR2_IM-0652-2001": "LATERAL", "CXR3_IM-1384-1001": "FRONTAL", "CXR3_IM-1384-1002": "LATERAL",
                     "CXR4_IM-2050-0001-0002": ""}  # fmt: skip
    assert card["attributes"]["view"] == {"FRONTAL": 3, "LATERAL": 3, "not given": 1}
    first, second, third = (found[f"NLMCXR_png/{name}.png"] for name in (
        "CXR1_1_IM-0001-4001", "CXR2_IM-0652-1001", "CXR3_IM-1384-1001"))  # fmt: skip
    assert first["report"] == "Cardiomegaly.\n\nThe cardiac silhouette is enlarged. No pneumothorax <XXXX>."
    assert said(first, "cardiomegaly", "pneumothorax") == [1, 0] and first["finding_labels"] == {"Cardiomegaly/mild": 1}
    assert second["report"] == "No acute disease." and third["report"] == "" and said(third, "atelectasis") == [1]
    assert len({e["patient_id"] for e in found.values()}) == 4
    np.testing.assert_array_equal(studies.Studies(PreparedSource(tmp_path / "out", "all")).has_reports.sum(), 3)


def test_openi_by_the_commands_of_the_readme(tmp_path, caplog):
    """Frontal views only; what Kaggle's table says of a view comes before the rule."""
    (tmp_path / "src").mkdir()
    layouts.openi(tmp_path / "src")
    found, card = prepared(tmp_path, "openi")
    assert {Path(name).stem for name in found} == {"CXR1_1_IM-0001-4001", "CXR2_IM-0652-1001", "CXR3_IM-1384-1001"}
    assert card["drops"] == {"view LATERAL": {"rows": 3, "lines": [1, 4, 6]}, "view unknown": {"rows": 1, "lines": [7]}}
    (tmp_path / "src/indiana_projections.csv").write_text(
        "uid,filename,projection\n1,1_IM-0001-4001.dcm.png,Lateral\n4,4_IM-2050-0001-0002.dcm.png,Frontal\n")
    with caplog.at_level("INFO"):
        rows = {Path(row["image"]).stem: row["view"] for row in datasets.read("openi", tmp_path / "src")}
    assert rows["CXR1_1_IM-0001-4001"] == "LATERAL" and rows["CXR4_IM-2050-0001-0002"] == "FRONTAL"
    assert "openi: views told by rule: 5, table: 2" in caplog.text


def test_openi_in_dicom_takes_the_view_of_the_header(tmp_path):
    (tmp_path / "src").mkdir()
    layouts.openi(tmp_path / "src")
    for name in ("CXR4_IM-2050-0001-0002", "CXR2_IM-0652-1001"):
        (tmp_path / "src/NLMCXR_png" / f"{name}.png").unlink()
        (tmp_path / "src/NLMCXR_png" / f"{name}.dcm").write_bytes(dicom(ViewPosition="AP" if "CXR4" in name else ""))
    rows = {Path(row["image"]).stem: row["view"] for row in datasets.read("openi", tmp_path / "src")}
    assert rows["CXR4_IM-2050-0001-0002"] == "AP" and rows["CXR2_IM-0652-1001"] == "FRONTAL"


@pytest.mark.parametrize("by_study", [False, True])
def test_chexpert_s_test_is_its_own_table_wherever_it_lies(by_study, tmp_path, caplog):
    (tmp_path / "src").mkdir()
    layouts.chexpert(tmp_path / "src", plus=False)
    rows = lambda: {row["image"]: row for row in datasets.read("chexpert", tmp_path / "src")}  # noqa: E731
    with caplog.at_level("WARNING"):
        before = rows()
    assert "no table of the test (test_labels.csv, test.csv, groundtruth.csv)" in caplog.text
    assert {r["split"] for i, r in before.items() if "/valid/" in i} == {"test"}
    layouts.chexlocalize(tmp_path / "src", by_study)
    caplog.clear()
    after = rows()
    assert not caplog.text and {r["split"] for i, r in after.items() if "/valid/" in i} == {"val"}
    assert {r["split"] for i, r in after.items() if "/train/" in i} == {"train"}
    tested = {image: row for image, row in after.items() if row["split"] == "test"}
    assert set(tested) == {f"CheXpert/test/patient6474{p}/study1/view{v}.jpg" for p in (0, 1)
                           for v in ("1_frontal", "2_lateral")}  # fmt: skip
    assert all((tmp_path / "src" / image).is_file() for image in tested)
    assert [row["view"] for row in tested.values()] == ["FRONTAL", "LATERAL"] * 2
    edema = ["Edema" in row["labels"] for row in tested.values()]
    assert edema == ([False, False, True, True] if by_study else [False, True] * 2)
    # --views=PA,AP dropped all of them, for the table has no AP/PA
    found, card = prepared(tmp_path, "chexpert", views="PA,AP")
    assert card["examples"]["test"] == 2 and card["drops"]["view LATERAL"]["rows"] == 8


def test_chexpert_in_the_batches_of_its_full_size(tmp_path):
    """Tables in the first batch, training images in others, without the folder `train` that the table names."""
    layouts.chexpert(tmp_path / "small", plus=False)
    base, src = tmp_path / "small/CheXpert-v1.0-small", tmp_path / "src"
    first = src / "CheXpert-v1.0 batch 1 (validate & csv)"
    batches = [src / f"CheXpert-v1.0 batch {k} (train {k - 1})" for k in (2, 3)]
    first.mkdir(parents=True)
    for name in ("train", "valid"):
        content = (base / f"{name}.csv").read_bytes().replace(b"CheXpert-v1.0-small/", b"CheXpert-v1.0/")
        (first / f"{name}.csv").write_bytes(content)
    shutil.move(base / "valid", first / "valid")
    for k, patient in enumerate(sorted((base / "train").iterdir())):
        batches[k % 2].mkdir(exist_ok=True)
        shutil.move(patient, batches[k % 2] / patient.name)
    rows = [row["image"] for row in datasets.read("chexpert", src)]
    assert len(rows) == 15 and all((src / image).is_file() for image in rows)
    assert sum(image.startswith("CheXpert-v1.0 batch 3 (train 2)/") for image in rows) == 4


def test_chexpert_plus_alone(tmp_path):
    """Its own table, images in PNG, labels as JSON lines."""
    (tmp_path / "src").mkdir()
    layouts.chexpert(tmp_path / "src")
    shutil.rmtree(tmp_path / "src/CheXpert-v1.0-small")
    with pytest.raises(FileNotFoundError, match="df_chexpert_plus_240401.csv alone is data set chexpert_plus"):
        datasets.read("chexpert", tmp_path / "src")
    table = tmp_path / "src/df_chexpert_plus_240401.csv"
    rows = list(csv.DictReader(table.read_text().splitlines(keepends=True)))
    for k, row in enumerate(rows):
        row |= {"frontal_lateral": "Lateral" if "lateral" in row["path_to_image"] else "Frontal", "sex": "Female",
                "ap_pa": "" if "lateral" in row["path_to_image"] else "PA", "split": "train"}  # fmt: skip
        layouts.image(tmp_path / "src/PNG" / row["path_to_image"].replace(".jpg", ".png"), k)
    table.write_bytes(layouts.text([*layouts.PLUS, "split"], rows))
    label = {**dict.fromkeys(layouts.CHEXPERT), "Pleural Effusion": 1.0, "Edema": 0.0, "Pneumonia": -1.0}
    (tmp_path / "src/chexbert_labels").mkdir()
    (tmp_path / "src/chexbert_labels/impression_fixed.json").write_text("".join(
        json.dumps({"path_to_image": row["path_to_image"], **label}) + "\n" for row in rows))  # fmt: skip
    found, card = prepared(tmp_path, "chexpert_plus", labels="impression")
    frontal = [row for row in rows if row["ap_pa"]]
    assert len(found) == len(frontal) == sum(card["with_report"].values())
    assert card["drops"]["view LATERAL"]["rows"] == len(rows) - len(frontal)
    one = found["PNG/train/patient00001/study1/view1_frontal.png"]
    assert one["report"] == 'Pleural effusion.\n\nSmall "left" effusion of 1.1 cm,\nno edema.'
    assert one["finding_labels"] == {"Pleural Effusion": 1, "Edema": 0, "Pneumonia": -1}
    plain = next(row for row in datasets.read("chexpert_plus", tmp_path / "src"))
    assert not plain.get("labels") and plain["study_id"] == "train/patient00001/study1"


def test_phrases_of_ms_cxr_reach_prepared_examples(tmp_path):
    image = "files/p10/p10000001/s1/a.jpg"
    fill(tmp_path / "src", {"MS_CXR_Local_Alignment_v1.1.0.csv":
         "category_name,label_text,path,x,y,w,h,dicom_id,image_width,image_height,split\n"
         f'Edema,"mild, basal edema",{image},1,2,3,4,a,8,6,test\n'
         f"Pneumonia,,{image},0,0,2,2,a,8,6,test\n", image: None})  # fmt: skip
    direct = ManifestSource(datasets.read("ms_cxr", tmp_path / "src"), "test", tmp_path / "src")[0]
    assert direct["phrases"] == [("mild, basal edema", 1, 2, 3, 4)] and len(direct["boxes"]) == 2
    run(dataset="ms_cxr", src=tmp_path / "src", out=tmp_path / "out", size=48)
    source = PreparedSource(tmp_path / "out", "test")
    assert source[0]["phrases"] == source.truth(0)["phrases"] == direct["phrases"]
    assert source[0]["boxes"] == source.truth(0)["boxes"] == direct["boxes"]
    host = next(evaluation.eval_batches(source, tokens.load(), Options(image_size=16), batch_size=1))["host"][0]
    (phrase, *box), = host["phrases"]
    assert phrase == "mild, basal edema" and tuple(box) == host["boxes"][0][1:]
