"""One shard: rows of a manifest -> examples at the target size -> an ArrayRecord file, or nothing at all.

A file gets its final name only when it is complete on disk, and counts as finished when its summary is there too; so a
process may be killed at any moment.
"""
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data import features
from medvlp_jax import atomic
from medvlp_jax.input import check, decode, dicom, statements, transforms, views
from medvlp_jax.input.columns import entity_name, parse_json
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.input.rows import Rows
from medvlp_jax.reports import triplets, vocab

SKIPPABLE = (decode.ImageError, OSError)


class Settings(NamedTuple):
    """What shapes an example.

    size: long side in pixels, larger images are shrunk; format: "jpeg" (of `quality`) or "png", which is not compressed: four
    times the space, without loss and faster to read; sections, closed_world, blank_labels, label_precedence: as of
    ManifestSource;
    views: kinds and projections to keep (input/views.py), () for all; require_report: drop images without a report;
    keep_burned_in: also DICOM images that say of themselves that text is burnt into the pixels, which may be a name.
    """

    size: int = 256
    quality: int = 95
    format: str = "jpeg"
    sections: tuple[str, ...] = ("impression", "findings")
    closed_world: str = "auto"
    blank_labels: str = "unknown"
    label_precedence: str = "report"
    views: tuple[str, ...] = ()
    require_report: bool = False
    keep_burned_in: bool = False

    @property
    def labels(self) -> dict:
        """Arguments of a ManifestSource."""
        return {"closed_world": self.closed_world, "report_sections": self.sections, "blank_labels": self.blank_labels,
                "label_precedence": self.label_precedence}  # fmt: skip


class Job(NamedTuple):
    """A shard to be made. rows: dicts; lines: their numbers in messages; spaces: {source: label names} of the whole table."""

    out: str
    file: str
    split: str
    rows: list[dict]
    lines: list[int]
    name: str
    root: str
    spaces: dict
    columns: list[str]
    settings: Settings


class Drop(Exception):
    """A row that is left out, and why."""


FILTERED = ("view ", "no report of two words", "text burnt")  # how the reasons begin that are no fault of the row


def source_of(job: Job) -> ManifestSource:
    """The rows of a job as a source that knows the label spaces of the whole table."""
    s = job.settings
    source = ManifestSource(Rows(job.rows, job.name), "all", job.root, **s.labels)
    source.spaces, source.table.lines = job.spaces, np.asarray(job.lines)
    source.table.columns = {k: k for k in job.columns}
    return source


def example(source: ManifestSource, index: int, settings: Settings, useless: str | None = None) -> dict:
    """Row `index` -> fields of records.FEATURES, before they are encoded.

    useless: why there is nothing to learn from the row, where that is so (check.look_at_text).

    Raises:
      Drop: the row is not usable, with the reason that is counted.
    """
    row = source.table[index]
    what, view = "", str(row.get("view") or "").strip().upper()
    if views.kind(view) != "unknown" and view != "FRONTAL" and not views.keeps(view, settings.views):
        raise Drop(f"view {view}")
    text = source.text_of(row)
    if settings.require_report and not text:
        raise Drop("no report of two words")
    if useless:
        raise Drop(useless)
    try:
        data, masks = source.files(index, row)
        told, burnt_in = dicom.about(data)
        if views.kind(view) == "unknown" or (view == "FRONTAL" and views.kind(told) == "frontal"):
            view = told or view  # the header says it, or says more
        if burnt_in and not settings.keep_burned_in:
            raise Drop("text burnt into the image")
        if not views.keeps(view, settings.views):
            raise Drop(f"view {view}" if view else "view unknown")
        pixels, (height, width) = transforms.load(data, 2 * settings.size)
        scale = min(settings.size / max(height, width), 1.0)
        shape = max(round(height * scale), 1), max(round(width * scale), 1)
        pixels = transforms.resize(pixels, *shape)
        what = "mask: "
        planes = {name: _plane(masks[name], (height, width), shape) for name in masks}
    except SKIPPABLE as e:
        raise Drop(what + getattr(e, "reason", "unreadable")) from None
    sx, sy = shape[1] / width, shape[0] / height
    truth = source.truth(index)
    known = {k: str(row.get(k) or "") for k in ("patient_id", "study_id", "sex", "age", "source")}
    return {
        **known, "view": view, "id": str(row["image"]), "report": text, "presence": source.presence(row),
        "image": _encode(pixels, settings),
        "finding_labels": truth["finding_labels"], "severity": truth["severity"], "masks": planes,
        "boxes": [_scaled(box, sx, sy) for box in parse_json(row, "boxes", [])],
    }  # fmt: skip


def _scaled(box: dict, sx: float, sy: float) -> list:
    """A box of a manifest as a record has it: name, x, y, w, h, and its phrase where it has one."""
    x, y, w, h = (float(box[k]) for k in "xywh")
    return [entity_name(box["label"]), x * sx, y * sy, w * sx, h * sy, *([box["phrase"]] if box.get("phrase") else [])]


def _encode(pixels: np.ndarray, settings: Settings) -> bytes:
    if settings.format == "jpeg":
        options = [cv2.IMWRITE_JPEG_QUALITY, settings.quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]  # 3 % fewer bytes, same pixels
        return cv2.imencode(".jpg", pixels, options)[1].tobytes()
    return decode.stored_png(pixels)


def _plane(mask: np.ndarray, shape, target) -> bytes:
    if mask.shape != shape:
        raise decode.ImageError("not of the image's size")
    plane = cv2.resize(mask.astype(np.uint8) * 255, target[::-1], interpolation=cv2.INTER_AREA)
    return cv2.imencode(".png", np.where(plane > 127, 255, 0).astype(np.uint8))[1].tobytes()


def kept_row(row: dict, e: dict) -> dict:
    """The row of an example as it is written beside the shards: of the stored image, with the report that is used."""
    out = {k: v for k, v in row.items() if k not in ("mask", "masks", "boxes", "mentions", "split")}
    boxes = [dict(zip(("label", "x", "y", "w", "h", "phrase"), box, strict=False)) for box in e["boxes"]]
    out |= {"report": e["report"], "view": e["view"], "boxes": boxes, "masks": dict.fromkeys(e["masks"], "stored")}
    return {k: v for k, v in out.items() if v}


def make(job: Job, tick=lambda n: None) -> dict:
    """Writes a shard, its rows and last its summary, each under a temporary name first -> the summary.

    tick: called with the number of rows that were done since the last call.
    """
    from array_record.python import array_record_module

    folder = Path(job.out) / "work"
    source, digest, lines = source_of(job), hashlib.sha256(), []
    counts = {"drops": {}, "unknown_labels": Counter(), "short_reports": [], "texts": Counter(),
              "entities": {str(v): Counter() for v in (0, 1, 2)}, "withheld": {"rows": 0, "labels": Counter()},
              "conflicts": {kind: Counter() for kind in statements.CONFLICTS}}  # fmt: skip
    with atomic.writing(Path(job.out) / job.file, folder) as temporary:
        writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        for index in range(len(source)):
            row = source.table[index]
            useless, unknown, short = check.look_at_text(source, row)
            counts["unknown_labels"].update(unknown)
            counts["texts"][source.locate_text(row)[1]] += 1
            counts["short_reports"] += [source.line(index)] * short
            try:
                e = example(source, index, job.settings, useless)
            except Drop as drop:
                counts["drops"].setdefault(str(drop), []).append(source.line(index))
            else:
                data = features.record(e)
                writer.write(data)
                digest.update(len(data).to_bytes(8, "big") + data)
                lines.append(json.dumps({**kept_row(row, e), "split": job.split}, ensure_ascii=False) + "\n")
                if held := source.withheld(row):
                    counts["withheld"]["rows"] += 1
                    counts["withheld"]["labels"].update(held)
                for entity, kind in source.read_labels(row).conflicts:
                    counts["conflicts"][kind][entity] += 1
                for entity, value in zip(vocab.ENTITIES, triplets.existence_labels(e["presence"]).tolist(), strict=True):
                    if value >= 0:
                        counts["entities"][str(value)][entity] += 1
            tick(1)
        writer.close()
    atomic.write_text(folder / f"{job.file}.jsonl", "".join(lines))
    summary = {"file": job.file, "split": job.split, "rows": len(job.rows), "examples": len(lines),
               "bytes": (Path(job.out) / job.file).stat().st_size, "sha256_of_records": digest.hexdigest(),
               **counts}  # fmt: skip
    atomic.write_text(folder / f"{job.file}.json", json.dumps(summary))
    return json.loads(json.dumps(summary))


def finished(out: Path, file: str) -> dict | None:
    """The summary of a shard that is there in full; None where it has to be made (anew)."""
    try:
        summary = json.loads((out / "work" / f"{file}.json").read_text(encoding="utf-8"))
        rows = (out / "work" / f"{file}.jsonl").is_file()
        return summary if rows and (out / file).stat().st_size == summary["bytes"] else None
    except (OSError, ValueError, KeyError):
        return None
