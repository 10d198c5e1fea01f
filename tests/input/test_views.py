"""Views: what the words of published sets mean, and that every source leaves out what `data.views` does not name."""
import json
import logging

import pytest
from ml_collections import ConfigDict

from configs import common
from data import prepare
from medvlp_jax.input import sources, views
from medvlp_jax.input.datasets import openi
from tests.data import layouts
from tests.golden import shared
from tests.input.test_dicom import make as dicom
from tests.input.test_manifest import picture, write

WORDS = {
    "frontal": ["PA", "AP", "pa", "AP_horizontal", "FRONTAL", "Frontal", "POSTERO-ANTERIOR", "antero-posterior", "PA ERECT",
                "AP SUPINE", "AP/PA", "posteroanterior", "P.A."],
    "lateral": ["LL", "RL", "LATERAL", "Lateral", "L", "left lateral", "LAT", "XTABLE LATERAL"],
    "other": ["COSTAL", "EXCLUDE", "AP LLD", "PA RLD", "AP AXIAL", "SWIMMERS", "LAO", "RPO", "lateral decubitus"],
    "unknown": ["", "  ", "CHEST", "PA AND LATERAL", "not given", "nan"],
}  # fmt: skip


def settings(**changes) -> ConfigDict:
    data = common.base("manifest", "medklip").data
    data.max_bad_share = 0.0
    data.update(changes)
    return data


def test_words():
    for kind, words in WORDS.items():
        assert {raw: views.kind(raw) for raw in words} == dict.fromkeys(words, kind)
    assert [views.projection(raw) for raw in ("PA ERECT", "AP_horizontal", "FRONTAL", "LL", "AP/PA", "AP LLD")] == [
        "PA", "AP", "", "", "", ""]  # fmt: skip
    assert [views.rank(raw) for raw in ("POSTERO-ANTERIOR", "AP", "FRONTAL", "", "L", "COSTAL")] == [0, 1, 1, 2, 3, 3]


def test_names():
    assert views.parse("frontal") == ("frontal",) and views.parse("all") == views.parse("") == ()
    assert views.parse(" ap,PA , Unknown") == ("AP", "PA", "unknown") and views.parse(("lateral",)) == ("lateral",)
    with pytest.raises(ValueError, match="views PAA: expected 'all', or a list of frontal, lateral, other, unknown, PA, AP"):
        views.parse("PA,PAA")
    kept = {wanted: [raw for raw in ("PA", "AP ERECT", "FRONTAL", "LL", "AP LLD", "") if views.keeps(raw, views.parse(wanted))]
            for wanted in ("frontal", "PA", "PA,AP", "LL", "all", "frontal,unknown")}  # fmt: skip
    assert kept == {"frontal": ["PA", "AP ERECT", "FRONTAL"], "PA": ["PA"], "PA,AP": ["PA", "AP ERECT", "FRONTAL"],
                    "LL": ["LL"],
                    "all": ["PA", "AP ERECT", "FRONTAL", "LL", "AP LLD", ""],
                    "frontal,unknown": ["PA", "AP ERECT", "FRONTAL", ""]}  # fmt: skip


def manifest(tmp_path, told, **more):
    path = write(tmp_path, [{"labels": "Mass", **({} if v is None else {"view": v}), **more} for v in told])
    for i in range(len(told)):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    return path


def test_a_manifest_is_filtered_by_its_column(tmp_path, caplog):
    path = manifest(tmp_path, ["PA", "LL", "", "COSTAL", "AP"])
    ids = lambda **changes: [sources.make(settings(path=str(path), **changes), "train", 0)[i]["id"] for i in range(  # noqa: E731
        len(sources.make(settings(path=str(path), **changes), "train", 0)))]  # fmt: skip
    with caplog.at_level(logging.INFO):
        assert ids() == ["0.png", "4.png"]  # frontal is the default of every config
    assert "keeps 2 of 5 images; left out are lateral: 1 (LL 1); other: 1 (COSTAL 1); unknown: 1 (not given 1)" in caplog.text
    assert ids(views="all") == [f"{i}.png" for i in range(5)]
    assert ids(views="frontal,unknown") == ["0.png", "2.png", "4.png"] and ids(views="AP") == ["4.png"]
    with pytest.raises(ValueError, match=r"data.views=RL leaves no image of 5; there are frontal: 2 \(PA 1, AP 1\); lateral"):
        ids(views="RL")


def test_a_manifest_without_the_column_is_kept_and_the_log_says_so(tmp_path, caplog):
    path = manifest(tmp_path, [None, None])
    with caplog.at_level(logging.WARNING):
        assert len(sources.make(settings(path=str(path)), "train", 0)) == 2
    assert "keeps all 2 images, since none tells its view" in caplog.text


def test_prepared_data_is_filtered_as_its_manifest_is(tmp_path):
    (tmp_path / "src").mkdir()
    path = manifest(tmp_path / "src", ["PA", "LL", ""])
    for wanted, n in (("all", 3), ("frontal", 1)):
        out = tmp_path / wanted
        prepare.main(["--dataset=manifest", f"--src={path}", f"--out={out}", "--workers=0", "--size=40", f"--views={wanted}"])
        card = json.loads((out / "card.json").read_text())
        assert card["examples"] == {"train": n}
        assert len(sources.make(settings(name="prepared", path=str(out)), "train", 0)) == 1
        assert len(sources.make(settings(name="prepared", path=str(out), views="all"), "train", 0)) == n
    assert card["drops"] == {"view LL": {"rows": 1, "lines": [2]}, "view unknown": {"rows": 1, "lines": [3]}}
    assert card["attributes"]["view"] == {"PA": 1}


@pytest.mark.parametrize("name", ["chexpert", "padchest"])
def test_readers_give_no_laterals_unless_asked(name, tmp_path):
    getattr(layouts, name)(tmp_path)
    seen = {}
    for wanted in ("frontal", "all"):
        data = settings(name=name, path=str(tmp_path), views=wanted, max_bad_share=0.5)
        source = [sources.make(data, split, 0) for split in ("train", "test")]
        seen[wanted] = {s[i]["attributes"]["view"] for s in source for i in range(len(s))}
    assert seen["frontal"] == ({"AP"} if name == "chexpert" else {"PA"}) and len(seen["all"]) == 2


def test_a_prepared_split_is_not_emptied_in_silence(tmp_path, capsys):
    path = tmp_path / "m.jsonl"
    rows = [{"image": f"{i}.png", "labels": "Mass", "view": "PA" if i else "LL", "split": "train" if i else "test"}
            for i in range(3)]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    with pytest.raises(SystemExit):
        prepare.main(["--dataset=manifest", f"--src={path}", f"--out={tmp_path / 'out'}", "--workers=0", "--views=PA,AP"])
    message = "--views=AP,PA leaves none of the 1 rows of split test; there are lateral: 1 (LL 1). Give --views=all"
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_headers_of_dicom_files_tell_what_the_table_does_not(tmp_path, capsys):
    """Unknown in the table: the header decides, and what neither tells is kept. FRONTAL: the header may say which."""
    told = {"a": ("", "LATERAL"), "b": ("", "PA"), "c": ("", ""), "d": ("FRONTAL", "AP"), "e": ("FRONTAL", "")}
    made = {}
    for split, names in (("train", "abc"), ("val", "de")):
        made |= {n: {"image": f"{n}.dcm", "labels": "Mass", "view": told[n][0], "split": split} for n in names}
        for n in names:
            (tmp_path / f"{n}.dcm").write_bytes(dicom(ViewPosition=told[n][1]))
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made.values()))
    prepare.main(["--dataset=manifest", f"--src={path}", f"--out={tmp_path / 'out'}", "--workers=0"])
    rows = [json.loads(line) for line in (tmp_path / "out/rows.jsonl").read_text().splitlines()]
    assert [(row["image"], row.get("view", "")) for row in rows] == [
        ("b.dcm", "PA"), ("c.dcm", ""), ("d.dcm", "AP"), ("e.dcm", "FRONTAL")]  # fmt: skip
    assert "split train: no row tells its view" in capsys.readouterr().err
    path.write_text("".join(json.dumps(made[n] | {"split": "test" if n == "a" else "train"}) + "\n" for n in "ab"))
    with pytest.raises(SystemExit):
        prepare.main(["--dataset=manifest", f"--src={path}", f"--out={tmp_path / 'empty'}", "--workers=0"])
    assert "nothing is left of split test; view LATERAL: 1 (line 1). Give other --views" in capsys.readouterr().err


def test_the_rule_of_open_i():
    """Sizes decide where they differ; else numbers; else nothing."""
    wide, tall, square = (420, 512), (624, 512), (512, 512)
    assert openi.views_of(["3001", "4001"], [tall, wide]) == ["LATERAL", "FRONTAL"]
    assert openi.views_of(["1001", "2001"], [square, square]) == ["FRONTAL", "LATERAL"]
    assert openi.views_of(["1001", "3003"], [None, None]) == ["FRONTAL", "LATERAL"]
    assert openi.views_of(["2001", "3001"], [square, square]) == ["LATERAL", ""]
    assert openi.views_of(["4004"], [wide]) == openi.views_of(["2001"], [wide]) == openi.views_of(["0001-0002"], [tall]) == [""]


def test_the_rule_of_open_i_on_images_whose_view_is_known():
    """The figures in the head of datasets/openi.py."""
    import csv

    studies = {}
    with open(shared("openi") / "manifest.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            studies.setdefault(row["study_id"], []).append(row)
    pairs = []
    for rows in studies.values():
        numbers = [row["image"].rpartition("IM-")[2].removesuffix(".jpg").partition("-")[2] for row in rows]
        guesses = openi.views_of(numbers, [(int(row["height"]), int(row["width"])) for row in rows])
        pairs += [(guess.lower(), row["view"]) for guess, row in zip(guesses, rows, strict=True)]
    told = [(guess, view) for guess, view in pairs if guess]
    frontal = [view for guess, view in told if guess == "frontal"]
    assert len(pairs) == 6531 and round(len(told) / len(pairs), 3) == 0.940
    assert round(sum(guess == view for guess, view in told) / len(told), 3) == 0.972
    assert round(frontal.count("frontal") / len(frontal), 3) == 0.978
    assert round(frontal.count("frontal") / sum(view == "frontal" for _, view in pairs), 3) == 0.908
