"""The upfront check: every kind of bad record counted by reason, left out, and above a share listed."""
import pytest

from medvlp_jax.input.check import check
from medvlp_jax.input.manifest import ManifestSource
from tests import golden
from tests.input.test_manifest import picture, write


def bad_manifest(folder, good=12):
    rows = [{"labels": "Mass"} for _ in range(good)]
    names = ["missing", "empty", "lfs", "cut", "text", "out", "twice", "unlabelled", "strange", "short"]
    for name in names:
        rows.append({"image": f"{name}.png", "labels": "Mass", "patient_id": "Jane"})
    rows[-10]["image"] = "jane/missing.png"
    rows[-5]["image"] = "../out.png"
    rows[-4]["image"] = "0.png"
    rows[-3]["labels"] = ""
    rows[-2]["labels"] = "Gizmo;Gadget"
    rows[-1].update(labels="", report="normal")
    rows[0]["labels"], rows[1]["report"] = "Mass;Gizmo", "___"
    path = write(folder, rows)
    (folder / "jane/missing.png").unlink()
    (folder / "empty.png").write_bytes(b"")
    (folder / "lfs.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    (folder / "cut.png").write_bytes(picture()[:60])
    (folder / "text.png").write_bytes(b"<html>")
    return path


def test_everything_bad_is_counted_and_left_out(tmp_path):
    source = ManifestSource(bad_manifest(tmp_path), "train")
    kept, summary = check(source, max_bad_share=0.5)
    assert summary.skipped == {
        "missing file": [13], "empty file": [14], "git-LFS pointer": [15], "truncated": [16], "unreadable": [17],
        "path outside root": [18], "image named twice": [19], "no report, label, box or mask": [20],
        "only unknown labels": [21], "report empty or one word": [22],
    }
    assert summary.total == 22 and summary.bad == 10 and len(kept) == 12 and len(source) == 22
    assert summary.unknown_labels == {"Gizmo": 2, "Gadget": 1} and summary.short_reports == [2]
    text = str(summary)
    for part in ("22 rows, 12 usable", "skipped, missing file: 1 (line 13)", "'Gizmo' (2)", "one word: 1 (line 2)"):
        assert part in text
    assert "Jane" not in text
    for i in range(len(kept)):
        assert kept[i]["image"] == source[i]["image"]
    assert kept.fingerprint != source.fingerprint


def test_too_many_are_an_error_with_the_list(tmp_path):
    source = ManifestSource(bad_manifest(tmp_path), "train")
    with pytest.raises(ValueError, match=r"45.5% of the rows cannot be used, 40.0% are .*unreadable: 1 \(line 17\)") as e:
        check(source, max_bad_share=0.4)
    assert "expected" in str(e.value) and "Jane" not in str(e.value)
    (tmp_path / "none").mkdir()
    nothing = ManifestSource(write(tmp_path / "none", [{} for _ in range(40)], images=False), "train")
    with pytest.raises(ValueError, match=r"100.0% of the rows .* missing file: 40 \(line 1, .*, 20 and 20 more\)"):
        check(nothing, max_bad_share=1.0)


def test_a_manifest_of_images_only_is_fine(tmp_path):
    path = tmp_path / "list.csv"
    path.write_text("image,split\n" + "".join(f"{i}.png,test\n" for i in range(4)))
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    kept, summary = check(ManifestSource(path, "test"), max_bad_share=0.0)
    assert len(kept) == 4 and summary.bad == 0 and str(summary) == "4 rows, 4 usable"


def test_boxes_or_masks_alone_are_worth_keeping(tmp_path):
    box = [{"label": "Left Lung", "x": 0, "y": 0, "w": 9, "h": 9}]
    rows = [{"boxes": box}, {"masks": {"lung": "0.png"}}, {"labels": "Gizmo", "mask": "1.png"}]
    assert len(check(ManifestSource(write(tmp_path, rows), "train"))[0]) == 3


def test_masks_are_looked_at_too(tmp_path):
    rows = [{"mask": "nowhere.png"}, {"mask": "small.png"}, {"mask": "junk.png"}, {"mask": "0.png"}]
    path = write(tmp_path, rows)
    (tmp_path / "small.png").write_bytes(picture(0, (10, 10)))
    (tmp_path / "junk.png").write_bytes(b"junk")
    kept, summary = check(ManifestSource(path, "train"), max_bad_share=0.9)
    assert summary.skipped == {"mask: missing file": [1], "mask: not of the image's size": [2], "mask: unreadable": [3]}
    assert len(kept) == 1


def test_real_images_are_all_readable():
    path = golden.shared("cxr", "manifest.csv")
    source = ManifestSource(path, "val")
    kept, summary = check(source)
    assert summary.bad == 0 and len(kept) == 212
    assert not summary.short_reports
