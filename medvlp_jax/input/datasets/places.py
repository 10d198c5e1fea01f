"""Readers of data sets with boxes or masks: RSNA, SIIM-ACR, COVID Rural, Object-CXR, ChestX-Det10, MS-CXR, VinDr-CXR."""
import collections
import re
from pathlib import Path

from medvlp_jax.input.datasets.layout import Images, box, corners, find, official, records, table
from medvlp_jax.input.manifest import hash_split
from medvlp_jax.input.masks import RLE

SIIM_SIZE = 1024  # pixels, of every image
DET10 = ("Atelectasis", "Calcification", "Consolidation", "Effusion", "Emphysema", "Fibrosis", "Fracture", "Mass", "Nodule",
         "Pneumothorax")  # fmt: skip
MS_CXR = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Lung Opacity", "Pleural Effusion", "Pneumonia",
          "Pneumothorax")  # fmt: skip


def rsna(root: Path):
    """RSNA Pneumonia: stage_2_train_labels.csv and stage_2_detailed_class_info.csv; its test has no labels, so all by hash."""
    images, classes, found = Images(root, ".dcm", ".png", ".jpg", stems=True), {}, collections.defaultdict(list)
    for row in table(find(root, "stage_2_detailed_class_info.csv"), "patientId", "class"):
        classes[row["patientId"]] = row["class"]
    for row in table(find(root, "stage_2_train_labels.csv"), "patientId", "x", "y", "width", "height", "Target"):
        boxes = found[row["patientId"]]
        if row["Target"] == "1":
            boxes.append(box("Pneumonia", row["x"], row["y"], row["width"], row["height"]))
    for name, boxes in found.items():
        known = {"Normal": ("Normal", "Pneumonia"), "No Lung Opacity / Not Normal": ("Abnormal", "Pneumonia;Normal")}
        labels, absent = ("Pneumonia", "Normal") if boxes else known.get(classes.get(name, ""), ("", "Pneumonia"))
        yield {"image": images[name], "labels": labels, "absent": absent, "boxes": boxes, "patient_id": name,
               "split": hash_split("rsna", name)}  # fmt: skip


def siim(root: Path):
    """SIIM-ACR Pneumothorax: train-rle.csv or stage_2_train.csv (ImageId, EncodedPixels; -1 is none), images <ImageId>.dcm."""
    images, runs = Images(root, ".dcm", ".png", ".jpg", stems=True), collections.defaultdict(list)
    for row in table(find(root, "train-rle.csv", "stage_2_train.csv"), "ImageId", "EncodedPixels"):
        runs[row["ImageId"]] += [row["EncodedPixels"]] * (row["EncodedPixels"] not in ("-1", ""))
    for name, masks in runs.items():
        parts = [f"{RLE}{SIIM_SIZE},{SIIM_SIZE}:{text}" for text in masks]
        yield {"image": images[name], "labels" if masks else "absent": "Pneumothorax",
               "masks": {"Pneumothorax": parts} if parts else {},
               "patient_id": name, "split": hash_split("siim", name)}  # fmt: skip


def covid_rural(root: Path):
    """COVID Rural: covid_rural_annot with jpgs/ and pngs_masks/ (opacities); all are COVID-19, a patient's days in the name."""
    base = find(root, "covid_rural_annot/jpgs", "jpgs", "*/covid_rural_annot/jpgs").parent
    here = base.relative_to(root)
    for path in sorted((base / "jpgs").glob("*.jpg")):
        mask = f"pngs_masks/{path.stem}.png"
        found = re.match(r"(COVID-19-AR-\d+)_", path.name)
        if not found:
            raise ValueError(f"{path.parent.name}: expected files COVID-19-AR-<patient>_<date>-XR.jpg, came {path.name}")
        yield {"image": str(here / "jpgs" / path.name), "labels": "COVID-19", "patient_id": found[1],
               "masks": {"Opacity": str(here / mask)} if (base / mask).is_file() else {},
               "split": hash_split("covid_rural", found[1])}  # fmt: skip


def object_cxr(root: Path):
    """Object-CXR: train.csv, dev.csv of image_name, annotation ("0 x1 y1 x2 y2;1 ...": box, ellipse, polygon); dev is test."""
    for part in ("train", "dev"):
        for row in table(find(root, f"{part}.csv"), "image_name", "annotation"):
            name, boxes = row["image_name"], []
            for item in filter(None, map(str.strip, row["annotation"].split(";"))):
                kind, *values = item.split()
                if kind not in ("0", "1", "2") or len(values) < 4 or len(values) % 2:
                    raise ValueError(f"{part}.csv: annotation {item[:60]!r}; expected '0 x1 y1 x2 y2', '1 ..' or '2 ..'")
                xs, ys = [float(v) for v in values[::2]], [float(v) for v in values[1::2]]
                boxes.append(corners("Foreign object", min(xs), min(ys), max(xs), max(ys)))
            yield {"image": f"{part}/{name}", "labels" if boxes else "absent": "Foreign object", "boxes": boxes,
                   "split": official(part == "dev", "object_cxr", name)}  # fmt: skip


def chestxdet10(root: Path):
    """ChestX-Det10: train.json, test.json of {file_name, syms, boxes}; images of ChestX-ray14, patients by their names."""
    images, test = Images(root, ".png", ".jpg"), set()
    for part in ("test", "train"):
        for item in records(find(root, f"{part}.json"), "file_name", "syms", "boxes"):
            name = item["file_name"]
            patient = name.split("_")[0]
            if part == "test":
                test.add(patient)
            elif patient in test:
                continue  # the official lists share patients; none of the test is learned from
            if len(item["syms"]) != len(item["boxes"]):
                raise ValueError(f"{part}.json: {len(item['syms'])} syms and {len(item['boxes'])} boxes; expected one each")
            present = dict.fromkeys(item["syms"])
            yield {"image": images[name], "labels": ";".join(present), "patient_id": patient,
                   "absent": ";".join(n for n in DET10 if n not in present),
                   "boxes": [corners(s, *b) for s, b in zip(item["syms"], item["boxes"], strict=True)],
                   "split": official(part == "test", "chestxdet10", patient)}  # fmt: skip


def ms_cxr(root: Path):
    """MS-CXR: MS_CXR_Local_Alignment_v*.csv; images of MIMIC-CXR-JPG by column `path`. Test, unless a column `split` says."""
    columns, found = ("dicom_id", "path", "category_name", "x", "y", "w", "h"), {}
    for row in table(find(root, "MS_CXR_Local_Alignment_v*.csv"), *columns):
        if row["category_name"] not in MS_CXR:
            raise ValueError(f"MS-CXR category {row['category_name']!r}; expected one of {', '.join(MS_CXR)}")
        patient = re.search(r"/p(\d{8})/", row["path"])
        start = {"image": row["path"], "labels": row["category_name"], "boxes": [], "split": row.get("split") or "test",
                 "patient_id": patient[1] if patient else row["dicom_id"]}  # fmt: skip
        out = found.setdefault(row["dicom_id"], start)
        out["labels"] = ";".join(dict.fromkeys([*out["labels"].split(";"), row["category_name"]]))
        out["boxes"].append(box(row["category_name"], *(row[k] for k in "xywh")))
    yield from found.values()


def vindr(root: Path):
    """VinDr-CXR (PhysioNet): annotations/{image_labels,annotations}_{train,test}.csv, images {train,test}/<id>.dicom.

    A training image has three readers: a finding is present if most say so; boxes of all readers are kept for it.
    """
    fixed = {"image_id", "rad_id"}
    for part in ("train", "test"):
        images = Images(root / part, ".dicom", ".dcm", ".png", ".jpg", stems=True)
        boxes, votes = collections.defaultdict(list), collections.defaultdict(list)
        places = ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max")
        for row in table(find(root, f"annotations/annotations_{part}.csv", f"annotations_{part}.csv"), *places):
            if row["x_min"]:
                boxes[row["image_id"]].append(corners(row["class_name"], *(row[k] for k in places[2:])))
        path = find(root, f"annotations/image_labels_{part}.csv", f"image_labels_{part}.csv")
        for row in table(path, "image_id", "No finding"):
            votes[row["image_id"]].append({k: float(v or 0) for k, v in row.items() if k not in fixed})
        for name, some in votes.items():
            present = [k for k in some[0] if sum(v[k] for v in some) > len(some) / 2]
            yield {"image": f"{part}/{images[name]}", "labels": ";".join(present), "patient_id": name,
                   "absent": ";".join(k for k in some[0] if k not in present),
                   "boxes": [b for b in boxes.get(name, []) if b["label"] in present],
                   "split": official(part == "test", "vindr", name)}  # fmt: skip
