"""data.prepare: identifiers written by one preparation are left out by another, by its card, and by a run that reads it."""
import json

import pytest

from data import prepare
from medvlp_jax import leakage
from medvlp_jax.input import exclusion, sources
from medvlp_jax.input.exclusion import Exclusion
from tests.data import miniature
from tests.data.test_prepare import fails, run
from tests.input.datasets.test_readers import RSNA, fill
from tests.input.test_exclusion import UUID, data

HEAD = "category_name,label_text,path,x,y,w,h,dicom_id,image_width,image_height,split\n"


@pytest.fixture(scope="module")
def mimic(tmp_path_factory):
    """(facts of the images, folder of the release, folder of an MS-CXR that shows one training patient and one of test)."""
    folder = tmp_path_factory.mktemp("mimic")
    (folder / "src").mkdir()
    facts = miniature.mimic(folder / "src")
    shown = [next(f for f in facts if f["split"] == split) for split in ("train", "test")]
    rows = "".join(f"Edema,mild,{f['path']},1,2,3,4,{f['dicom']},8,6,test\n" for f in shown)
    (folder / "ms").mkdir()
    (folder / "ms/MS_CXR_Local_Alignment_v1.1.0.csv").write_text(HEAD + rows)
    return facts, folder / "src", folder / "ms", shown[0]["subject"]


def ids_of(out, root, name="ms_cxr", split="test", *options, **flags):
    prepare.main([f"--dataset={name}", f"--src={root}", f"--ids_of={split}", f"--out={out}",
                  *[f"--{k}={v}" for k, v in flags.items()], *options])  # fmt: skip
    return json.loads(out.read_text())


def test_identifiers_are_written_and_left_out(mimic, tmp_path, capsys):
    facts, root, ms, subject = mimic
    record = ids_of(tmp_path / "ids.json", ms)
    said = capsys.readouterr().out
    assert record["of"] == [{"dataset": "ms_cxr", "split": "test", "by": "patient", "images": 2, "spaces": ["mimic"]}]
    assert record["count"] == {"patient": 2, "study": 2, "image": 2} and f"mimic patient {subject}" in record["identifiers"]
    assert record["sha256"] == exclusion.digest(record["identifiers"]) and record["sha256"] in said and subject not in said
    flags = dict(dataset="mimic_cxr", src=root, size=48, max_bad_share=0.4)
    run(out=tmp_path / "whole", **flags)
    run(out=tmp_path / "less", exclude=tmp_path / "ids.json", **flags)
    whole, less = (json.loads((tmp_path / name / "card.json").read_text()) for name in ("whole", "less"))
    own = sum(f["subject"] == subject for f in facts)
    assert less["drops"]["named by the exclusion"]["rows"] == own == 4 and "exclusion" not in whole
    assert less["exclusion"] == {**Exclusion([str(tmp_path / "ids.json")]).facts(), "rows_left_out": 4}
    assert less["options"]["exclude"] == less["exclusion"]["sha256"] == record["sha256"]
    assert less["examples"]["train"] == whole["examples"]["train"] - 2 and less["examples"]["test"] == whole["examples"]["test"]
    assert less["rows"] == whole["rows"] == len(facts) and whole["fingerprint"] != less["fingerprint"]
    assert record["sha256"] in (tmp_path / "less/card.html").read_text() and subject not in json.dumps(less)
    assert subject not in {json.loads(line)["patient_id"] for line in (tmp_path / "less/rows.jsonl").open()}
    assert "exclude was " in fails(capsys, out=tmp_path / "less", **flags)  # not continued with other rows


def test_a_prepared_set_is_filtered_when_it_is_opened(mimic, tmp_path, caplog):
    facts, root, ms, subject = mimic
    ids_of(tmp_path / "ids.json", ms)
    run(dataset="mimic_cxr", src=root, out=tmp_path / "out", size=48, max_bad_share=0.4)
    both = [sources.make(data("prepared", tmp_path / "out", sections=("impression", "findings"), exclude=e), "train", 0)
            for e in ((), (str(tmp_path / "ids.json"),))]  # fmt: skip
    assert len(both[0]) - len(both[1]) == 2 and both[0].fingerprint != both[1].fingerprint
    assert {e["patient_id"] for e in (both[0][i] for i in range(len(both[0])))} - {
        e["patient_id"] for e in (both[1][i] for i in range(len(both[1])))} == {subject}  # fmt: skip
    assert len(both[1].has_reports) == len(both[1]) and subject not in caplog.text
    seen = leakage.seen(both[1], {"init": "", "model": {}})
    assert seen[0]["sets"] == ["mimic_cxr"] and seen[0]["exclusions"][0]["rows_left_out"] == 2


def test_a_mapping_on_the_command_line(tmp_path, capsys):
    table = {**RSNA, "stage_2_train_labels.csv": f"patientId,x,y,width,height,Target\n{UUID},,,,,0\n",
             f"images/{UUID}.dcm": None}  # fmt: skip
    root = fill(tmp_path / "rsna", table)
    without = ids_of(tmp_path / "a.json", root, "rsna", "all")
    assert "rsna is of NIH ChestX-ray14's images under other names: give --mapping=" in capsys.readouterr().err
    (tmp_path / "m.json").write_text(json.dumps([{"img_id": "00000013_005.png", "subset_img_id": UUID, "orig_labels": []}]))
    joined = ids_of(tmp_path / "b.json", root, "rsna", "all", mapping=tmp_path / "m.json")
    assert capsys.readouterr().err == "" and without["sha256"] != joined["sha256"]
    assert set(joined["identifiers"]) == {f"rsna image {UUID}", "nih image 00000013_005", "nih patient 13"}


def test_mistakes_are_one_line(mimic, tmp_path, capsys):
    flags = dict(dataset="ms_cxr", src=mimic[2], out=tmp_path / "x.json")
    assert "expected a split of all, train, val, test" in fails(capsys, ids_of="tset", **flags)
    assert "unknown --dataset=ms_cxx" in fails(capsys, ids_of="all", **{**flags, "dataset": "ms_cxx"})
    assert "--mapping and --by belong to --ids_of" in fails(capsys, by="image", **flags)
    assert "no mapping at" in fails(capsys, ids_of="all", mapping="gone.json", **flags)
    assert "no exclusion at" in fails(capsys, exclude="gone.json", **{**flags, "dataset": "mimic_cxr", "src": mimic[1]})
    (tmp_path / "folder").mkdir()
    assert "is a folder" in fails(capsys, ids_of="all", **{**flags, "out": tmp_path / "folder"})
