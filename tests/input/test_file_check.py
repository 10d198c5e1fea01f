"""Single image files by header and by pixels, and the verdicts that are kept of them."""
import os
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from medvlp_jax.input import check, decode, file_check, manifest, verdicts
from medvlp_jax.input.manifest import ManifestSource
from tests.input.test_dicom import make
from tests.input.test_manifest import picture, write

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 32), np.uint8)


def encoded(kind: str) -> bytes:
    return cv2.imencode(f".{kind}", PIXELS)[1].tobytes()


def preview(data: bytes) -> bytes:
    """A JPEG with 60,000 bytes of comment before its size."""
    return data[:2] + b"\xff\xfe" + (60_000).to_bytes(2, "big") + bytes(59_998) + data[2:]


def thumbnail(data: bytes) -> bytes:
    """A JPEG with another, whole one in a comment before its size."""
    return data[:2] + b"\xff\xfe" + (len(data) + 2).to_bytes(2, "big") + data + data[2:]


@pytest.mark.parametrize("name, data", [
    *((kind, encoded(kind)) for kind in ("jpg", "png", "bmp", "tiff", "webp", "pgm")),
    ("jpg", preview(encoded("jpg"))), ("jpg", encoded("jpg") + bytes(5000)), ("png", encoded("png") + bytes(5000)),
    ("dcm", make()),
])  # fmt: skip
def test_both_levels_agree_on_good_files(tmp_path, name, data):
    path = tmp_path / f"a.{name}"
    path.write_bytes(data)
    want = decode.decode(data).shape
    assert file_check.size(path) == want == file_check.size(path, "full")


@pytest.mark.parametrize("data, message", [
    (b"", "empty file"), (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS pointer"), (b"<html>", "unreadable"),
    (thumbnail(encoded("jpg"))[:-40], "truncated"), (encoded("jpg")[:-40], "truncated"),
    (encoded("png")[:-40], "truncated"), (make()[:-40], "truncated|unreadable"),
    (encoded("png")[:16] + (20_000).to_bytes(4, "big") * 2 + encoded("png")[24:], "too large: 20000 x 20000"),
    (make(Rows=40000, Columns=40000), "too large: 40000 x 40000 px"),
])  # fmt: skip
def test_what_a_header_tells(tmp_path, data, message):
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(decode.ImageError, match=message):
        file_check.size(path)


def test_a_pipe_and_a_folder_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # reading it would wait forever
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(decode.ImageError, match="not a regular file"):
            file_check.size(path)


def damaged() -> bytes:
    """A PNG whose header and end are fine and whose pixels are not."""
    data = bytearray(picture(3))
    at = data.index(b"IDAT")
    data[at + 4 : at + 30] = bytes(26)
    return bytes(data)


def test_pixels_are_decoded_only_at_the_full_level(tmp_path, monkeypatch):
    path = write(tmp_path, [{"labels": "Mass"} for _ in range(8)])
    (tmp_path / "3.png").write_bytes(damaged())
    with monkeypatch.context() as m:
        m.setattr(decode, "decode", lambda *_: pytest.fail("an image was decoded"))
        kept, summary = check.check(ManifestSource(path, "train"))
    assert len(kept) == 8 and summary.bad == 0
    kept, summary = check.check(ManifestSource(path, "train"), 0.5, level="full")
    assert summary.skipped == {"unreadable": [4]} and len(kept) == 7
    with pytest.raises(ValueError, match="unknown data.check 'all'; known: header, full"):
        check.check(ManifestSource(path, "train"), level="all")


class Counted:
    """Stands before file_check.size and remembers which files were looked into."""

    def __init__(self, monkeypatch):
        self.names, real = [], file_check.size
        monkeypatch.setattr(file_check, "size", lambda path, level: (self.names.append(path.name), real(path, level))[1])

    def __call__(self, path, folder, **options) -> list[str]:
        self.names.clear()
        check.check(ManifestSource(path, "train"), 0.5, folder=folder, **options)
        return sorted(self.names)


def test_a_second_start_looks_only_into_what_changed(tmp_path, monkeypatch, caplog):
    (tmp_path / "m").mkdir()
    rows = [{"labels": "Mass"} for _ in range(6)] + [{"mask": "mask.png"}]
    path = write(tmp_path / "m", rows)
    (tmp_path / "m/mask.png").write_bytes(picture(9))
    (tmp_path / "m/5.png").write_bytes(b"junk")
    run, cache = Counted(monkeypatch), tmp_path / "cache"
    everything = [*(f"{i}.png" for i in range(7)), "mask.png"]
    assert run(path, None) == run(path, None) == everything  # nothing is kept
    assert run(path, cache) == everything
    assert run(path, cache) == ["5.png"]  # a bad file is looked into every time
    os.utime(tmp_path / "m/2.png", ns=(1, 1))
    (tmp_path / "m/3.png").write_bytes(picture(3) + b"\0")
    assert run(path, cache) == ["2.png", "3.png", "5.png"]
    assert run(path, cache) == ["5.png"]
    assert run(path, cache, level="full") == everything  # a header says less than pixels
    assert run(path, cache) == ["5.png"]  # and pixels more than a header
    (file,) = cache.iterdir()
    for broken in (b"", b"x" * 500, file.read_bytes()[:-1]):
        file.write_bytes(broken)
        assert run(path, cache) == everything
        assert "are ignored (damaged, or of another version)" in caplog.text
        caplog.clear()
        assert run(path, cache) == ["5.png"]
    assert str(tmp_path / "m").encode() not in file.read_bytes() and b"mask" not in file.read_bytes()


def test_kept_verdicts_give_the_same_result(tmp_path):
    path = write(tmp_path, [{"mask": "small.png"}, {"labels": "Mass"}])
    (tmp_path / "small.png").write_bytes(picture(0, (10, 10)))
    for _ in range(2):
        summary = check.check(ManifestSource(path, "train"), 0.5, folder=tmp_path / "cache")[1]
        assert summary.skipped == {"mask: not of the image's size": [1]}


def test_a_cache_that_cannot_be_written_costs_a_line(tmp_path, caplog):
    path = write(tmp_path, [{"labels": "Mass"}])
    (tmp_path / "file").write_text("no folder")
    check.check(ManifestSource(path, "train"), folder=tmp_path / "file")
    assert "are not kept" in caplog.text


def test_where_verdicts_are_kept(tmp_path, monkeypatch):
    monkeypatch.delenv("MEDVLP_CACHE", raising=False)
    assert verdicts.folder(tmp_path) == tmp_path / "cache" and verdicts.folder(None) is None
    monkeypatch.setenv("MEDVLP_CACHE", str(tmp_path / "other"))
    assert verdicts.folder(None) == verdicts.folder(tmp_path) == tmp_path / "other"


def test_a_check_keeps_few_bytes_a_row(tmp_path):
    """Tuples and futures of all rows at once took more than 2 kB a row."""
    count = 10_000
    kept = [Path(f"{i}.png") for i in range(100)]  # else the names come and go in the interpreter's table of strings (8 MB)
    path = tmp_path / "list.csv"
    path.write_text("image,split\n" + "".join(f"{kept[i % 100]},train\n" for i in range(count)))
    source = ManifestSource(path, "train")
    tracemalloc.start()
    with pytest.raises(ValueError, match="100.0% of the rows"):
        check.check(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * count


def test_paths_outside_the_folder_say_what_lifts_it(tmp_path):
    for name in ("m", "images"):
        (tmp_path / name).mkdir()
    (tmp_path / "images/0.png").write_bytes(picture())
    path = write(tmp_path / "m", [{"image": str(tmp_path / "images/0.png"), "labels": "Mass"}], images=False)
    with pytest.raises(decode.ImageError, match=r"path outside root: line 1: .*data\.root.*--config\.data\.root=/"):
        ManifestSource(path, "train")[0]
    with pytest.raises(ValueError, match=r"skipped, path outside root: 1 \(line 1\); paths outside .*--config\.data\.root=/"):
        check.check(ManifestSource(path, "train"))
    for root in ("/", tmp_path):
        kept, summary = check.check(ManifestSource(path, "train", root=root))
        assert kept[0]["image"] == picture() and summary.bad == 0
    assert manifest.LIFT_ROOT not in str(summary)
