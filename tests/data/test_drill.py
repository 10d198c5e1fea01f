"""Every kind of bad input through the whole of data.prepare: the right error or a counted skip, nothing lost, no hang."""
import csv
import gzip
import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from medvlp_jax.input import decode
from medvlp_jax.input.prepared import PreparedSource
from tests.data import miniature
from tests.data.test_prepare import fails, run
from tests.input.test_decode import GREY, RGB, encode
from tests.input.test_dicom import make as dicom
from tests.input.test_headers import huge

HUGE = bytearray(encode(GREY, "PNG"))
HUGE[16:24] = (30_000).to_bytes(4, "big") * 2

# name -> (bytes of the file, reason that it is dropped for or None)
FILES = {
    "good.jpg": (encode(GREY, "JPEG"), None),
    "cut.jpg": (encode(GREY, "JPEG")[:-900], "truncated"),
    "empty.jpg": (b"", "empty file"),
    "cmyk.jpg": (encode(RGB.convert("CMYK"), "JPEG"), None),
    "deep.png": (cv2.imencode(".png", 1000 + 12 * np.asarray(GREY, np.uint16))[1].tobytes(), None),
    "huge.png": (bytes(HUGE), "too large"),
    "huge.tif": (huge("tiff"), "too large"),
    "huge.bmp": (huge("bmp"), "too large"),
    "тест ü 胸.png": (encode(GREY, "PNG"), None),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "git-LFS pointer"),
    "page.png": (b"<html>404</html>", "unreadable"),
    "one pixel.png": (encode(Image.new("L", (1, 1)), "PNG"), None),
    "thin.png": (encode(Image.new("L", (3000, 1)), "PNG"), None),
}


def manifest(folder, rows, columns=("image", "report", "patient_id", "split")):
    """A CSV as a spreadsheet writes it: BOM, CRLF, quotes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerows([columns, *rows])
    (folder / "data.csv").write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())
    return folder / "data.csv"


def test_all_kinds_of_files_in_one_manifest(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    (tmp_path / "secret.png").write_bytes(encode(GREY, "PNG"))
    for name, (data, _) in FILES.items():
        (src / name).write_bytes(data)
    text = 'He said "large heart",\r\nno effusion.'
    names = [*FILES, "missing.png", "../secret.png", "good.jpg"]
    run(dataset="manifest", src=manifest(src, [[n, text, f"p{i}", "train"] for i, n in enumerate(names)]),
        out=tmp_path / "out", max_bad_share=0.8, size=128)  # fmt: skip
    card = json.loads((tmp_path / "out/card.json").read_text())
    want = {name: why for name, (_, why) in FILES.items()}
    want |= {"missing.png": "missing file", "../secret.png": "path outside root"}
    reasons = list(want.values()) + ["image named twice"]
    assert {k: v["rows"] for k, v in card["drops"].items()} == {why: reasons.count(why) for why in reasons if why}
    source = PreparedSource(tmp_path / "out", "train")
    assert [source[i]["id"] for i in range(len(source))] == [name for name, why in want.items() if why is None]
    assert card["rows"] == len(names) == len(source) + sum(v["rows"] for v in card["drops"].values())
    for i in range(len(source)):
        assert source[i]["report"] == text.replace("\r\n", "\n") and max(decode.decode(source[i]["image"]).shape) <= 128
    assert card["drops"]["truncated"]["lines"] == [4]  # of the file, where every report takes two lines


@pytest.mark.parametrize("columns, rows, message", [
    (("picture", "report"), [["good.jpg", "x y"]], "no column 'image'"),
    (("image", "reports"), [["good.jpg", "x y"]], "no column 'report' .* did you mean 'reports'"),
    (("image", "report"), [["good.jpg", "x y", "z"]], "line 2: 3 fields, the header has 2"),
    (("image", "patient_id", "split"), [["good.jpg", "Jane", "train"], ["b.jpg", "Jane", "test"]],
     r"lines 2 \(train\) and 3 \(test\) are of one patient in two splits"),
    (("image", "mentions"), [["good.jpg", '[["efusion", "pleural_unspec", 1]]']], "line 2: column 'mentions' .*efusion"),
])
def test_what_is_wrong_with_a_table_stops_before_any_work(tmp_path, capsys, columns, rows, message):
    import re

    said = fails(capsys, dataset="manifest", src=manifest(tmp_path, rows, columns), out=tmp_path / "out")
    assert re.search(message, said) and "Jane" not in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_nothing_usable_and_a_source_that_changed(tmp_path, capsys):
    path = manifest(tmp_path, [["a.png", "x y", "1", "train"]])
    said = fails(capsys, dataset="manifest", src=path, out=tmp_path / "out", max_bad_share=1.0)
    assert "100.0% of the 1 rows cannot be used" in said and "missing file: 1 (line 2)" in said
    path.write_text("image,labels\n/elsewhere/a.png,Mass\n")
    said = fails(capsys, dataset="manifest", src=path, out=tmp_path / "outside", max_bad_share=1.0)
    assert "path outside root: 1 (line 2)" in said and "data.prepare: --root=/" in said
    manifest(tmp_path, [["a.png", "x z", "1", "train"]])
    assert "begun with other rows: the source has changed" in fails(capsys, dataset="manifest", src=path, out=tmp_path / "out")


def test_dicom_images_with_burnt_in_text_are_left_out_unless_asked_for(tmp_path):
    """A name may be among it; nothing of the tags gets into the shards either."""
    src = tmp_path / "src"
    src.mkdir()
    for i, tag in enumerate(("YES", "NO", "")):
        (src / f"{i}.dcm").write_bytes(dicom(BurnedInAnnotation=tag))
    path = manifest(src, [[f"{i}.dcm", "x y", f"p{i}", "train"] for i in range(3)])
    kept = {}
    for flags in ((), ("--keep_burned_in",)):
        out = tmp_path / f"out{len(flags)}"
        run(*flags, dataset="manifest", src=path, out=out)
        card = json.loads((out / "card.json").read_text())
        kept[len(flags)] = card["examples"]["train"], {k: v["lines"] for k, v in card["drops"].items()}
        assert all(b"ecret" not in file.read_bytes() for file in out.rglob("*") if file.is_file())
    assert kept == {0: (2, {"text burnt into the image": [2]}), 1: (3, {})}


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


@pytest.mark.parametrize("name", ["data.csv", "data.jsonl"])
def test_a_manifest_that_is_a_pointer_says_so(tmp_path, capsys, name):
    (tmp_path / name).write_bytes(POINTER)
    said = fails(capsys, dataset="manifest", src=tmp_path / name, out=tmp_path / "out")
    assert f"{name} is a git-LFS pointer, not the data; fetch the real file with `git lfs pull`" in said


@pytest.mark.parametrize("file", ["mimic-cxr-reports.zip", "mimic-cxr-2.0.0-metadata.csv.gz", "mimic-cxr-2.0.0-split.csv.gz"])
def test_archives_of_a_release_that_are_cut_or_changed_are_named(tmp_path, capsys, file):
    src = tmp_path / "src"
    src.mkdir()
    miniature.mimic(src, 3)
    data = (src / file).read_bytes()
    changed = bytearray(data)
    changed[60:80] = bytes(b ^ 255 for b in data[60:80])
    for wrong in (POINTER, data[: len(data) // 2], bytes(changed), b""):
        (src / file).write_bytes(wrong)
        said = fails(capsys, dataset="mimic_cxr", src=src, out=tmp_path / "out")
        assert file in said and said.count("\n") == 1 and "10000032" not in said
        assert ("git-LFS pointer" in said) == (wrong == POINTER)


def test_a_prepared_set_of_pointers_says_so(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    (src / "good.jpg").write_bytes(FILES["good.jpg"][0])
    run(dataset="manifest", src=manifest(src, [["good.jpg", "x y", "1", "train"]]), out=tmp_path / "out")
    shard = next((tmp_path / "out").glob("*array_record*"))
    for file in (shard, tmp_path / "out/card.json"):
        file.write_bytes(POINTER)
        with pytest.raises(ValueError, match=f"{file.name} is a git-LFS pointer"):
            PreparedSource(tmp_path / "out", "train")


def test_duplicate_identifiers_in_a_release_are_counted_once(tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    facts = miniature.mimic(src, 3)
    path = src / "mimic-cxr-2.0.0-metadata.csv.gz"
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join([*lines, lines[1], lines[3]])))
    run(dataset="mimic_cxr", src=src, out=tmp_path / "out", views="all", max_bad_share=0.9)
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["drops"]["image named twice"] == {"rows": 2, "lines": [len(facts) + 1, len(facts) + 2]}
