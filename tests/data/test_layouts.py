"""data.prepare on miniatures of the official layouts: what every example must say, by hand."""
import json

import numpy as np

from medvlp_jax.input import decode, studies
from medvlp_jax.input.prepared import PreparedSource
from medvlp_jax.reports import vocab
from tests.data import layouts
from tests.data.test_prepare import fails, run


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
    found, card = prepared(tmp_path, "chexpert")
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
    run(dataset="chexpert", src=tmp_path / "src", out=tmp_path / "plain", size=48)
    run(dataset="chexpert", src=tmp_path / "src", out=tmp_path / "given", size=48, reports=tmp_path / "elsewhere.csv")
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
    found, card = prepared(tmp_path, "padchest", max_bad_share=0.5)
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
    found, card = prepared(tmp_path, "openi")
    assert len(found) == 6 and sum(card["with_report"].values()) == 4
    first, second, third = (found[f"NLMCXR_png/CXR{n}_1_IM-000{n}-1001.png"] for n in (1, 2, 3))
    assert first["report"] == "Cardiomegaly.\n\nThe cardiac silhouette is enlarged. No pneumothorax <XXXX>."
    assert said(first, "cardiomegaly", "pneumothorax") == [1, 0] and first["finding_labels"] == {"Cardiomegaly/mild": 1}
    assert second["report"] == "No acute disease." and third["report"] == "" and said(third, "atelectasis") == [1]
    assert len({e["patient_id"] for e in found.values()}) == 3
    np.testing.assert_array_equal(studies.Studies(PreparedSource(tmp_path / "out", "all")).has_reports.sum(), 2)
