"""Readers of data sets with boxes or masks: RSNA, SIIM-ACR, COVID Rural, Object-CXR, ChestX-Det10, MS-CXR, VinDr-CXR."""
import collections
import re
from pathlib import Path

from medvlp_jax.input.datasets.layout import Images, box, corners, find, official, records, table
from medvlp_jax.input.datasets.mimic import views
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
               "view": "FRONTAL", "split": hash_split("rsna", name)}  # fmt: skip


def siim(root: Path):
    """SIIM-ACR Pneumothorax: train-rle.csv or stage_2_train.csv (ImageId, EncodedPixels; -1 is none), images <ImageId>.dcm."""
    images, runs = Images(root, ".dcm", ".png", ".jpg", stems=True), collections.defaultdict(list)
    for row in table(find(root, "train-rle.csv", "stage_2_train.csv"), "ImageId", "EncodedPixels"):
        runs[row["ImageId"]] += [row["EncodedPixels"]] * (row["EncodedPixels"] not in ("-1", ""))
    for name, masks in runs.items():
        parts = [f"{RLE}{SIIM_SIZE},{SIIM_SIZE}:{text}" for text in masks]
        yield {"image": images[name], "labels" if masks else "absent": "Pneumothorax",
               "masks": {"Pneumothorax": parts} if parts else {},
               "view": "FRONTAL", "patient_id": name, "split": hash_split("siim", name)}  # fmt: skip


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
               "view": "FRONTAL", "split": hash_split("covid_rural", found[1])}  # fmt: skip


def object_cxr(root: Path):
    """Object-CXR: train.csv, dev.csv of image_name, annotation ("0 x1 y1 x2 y2;1 ...": box, ellipse, polygon); dev is test."""
    for part in ("train", "dev"):
        for row in table(find(root, f"{part}.csv"), "annotation"):
            name, boxes = row.get("image_name") or row.get("image_path", "").rpartition("/")[2], []
            if not name:
                raise ValueError(f"{part}.csv has no column 'image_name'; expected image_name, annotation, it has "
                                 f"{', '.join(row)}")
            for item in filter(None, map(str.strip, row["annotation"].split(";"))):
                kind, *values = item.split()
                if kind not in ("0", "1", "2") or len(values) < 4 or len(values) % 2:
                    raise ValueError(f"{part}.csv: annotation {item[:60]!r}; expected '0 x1 y1 x2 y2', '1 ..' or '2 ..'")
                xs, ys = [float(v) for v in values[::2]], [float(v) for v in values[1::2]]
                boxes.append(corners("Foreign object", min(xs), min(ys), max(xs), max(ys)))
            yield {"image": f"{part}/{name}", "labels" if boxes else "absent": "Foreign object", "boxes": boxes,
                   "view": "FRONTAL", "split": official(part == "dev", "object_cxr", name)}  # fmt: skip


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
                   "view": "FRONTAL", "split": official(part == "test", "chestxdet10", patient)}  # fmt: skip


def ms_cxr(root: Path):
    """MS-CXR: MS_CXR_Local_Alignment_v*.csv; images of MIMIC-CXR-JPG by column `path`. Test, unless a column `split` says.

    A box keeps the phrase of the report that it shows (column label_text).
    """
    columns, found, known = ("dicom_id", "path", "category_name", "x", "y", "w", "h"), {}, views(root)
    for row in table(find(root, "MS_CXR_Local_Alignment_v*.csv"), *columns):
        if row["category_name"] not in MS_CXR:
            raise ValueError(f"MS-CXR category {row['category_name']!r}; expected one of {', '.join(MS_CXR)}")
        patient = re.search(r"/p(\d{8})/", row["path"])
        start = {"image": row["path"], "labels": row["category_name"], "boxes": [], "split": row.get("split") or "test",
                 "view": known.get(row["dicom_id"]) or "FRONTAL",
                 "patient_id": patient[1] if patient else row["dicom_id"]}  # fmt: skip
        out = found.setdefault(row["dicom_id"], start)
        out["labels"] = ";".join(dict.fromkeys([*out["labels"].split(";"), row["category_name"]]))
        phrase = {"phrase": row["label_text"]} if row.get("label_text") else {}
        out["boxes"].append({**box(row["category_name"], *(row[k] for k in "xywh")), **phrase})
    yield from found.values()


VINDR_KAGGLE = ("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "ILD", "Infiltration",
                "Lung Opacity", "Nodule/Mass", "Other lesion", "Pleural effusion", "Pleural thickening", "Pneumothorax",
                "Pulmonary fibrosis", "No finding")  # by class_id  # fmt: skip


def vindr(root: Path):
    """VinDr-CXR, as PhysioNet or as Kaggle (VinBigData) has it.

    PhysioNet: annotations/{image_labels,annotations}_{train,test}.csv, images {train,test}/<id>.dicom, 28 labels.
    Kaggle: train.csv (image_id, class_name, class_id, rad_id, x_min ...), images train/<id>.dicom, 15 labels; its test has no
    labels, so the split is by hash.

    A training image has three readers: a finding is present if most of them say so; boxes of all readers are kept for it.
    """
    labels = "annotations/image_labels_train.csv", "image_labels_train.csv"
    if (root / "train.csv").is_file() and not any((root / name).is_file() for name in labels):
        yield from _vinbigdata(root)
        return
    for part in ("train", "test"):
        images = Images(root / part, ".dicom", ".dcm", ".png", ".jpg", stems=True)
        boxes, votes = collections.defaultdict(list), collections.defaultdict(list)
        places = ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max")
        for row in table(find(root, f"annotations/annotations_{part}.csv", f"annotations_{part}.csv"), *places):
            if row["x_min"]:
                boxes[row["image_id"]].append(corners(row["class_name"], *(row[k] for k in places[2:])))
        path = find(root, f"annotations/image_labels_{part}.csv", f"image_labels_{part}.csv")
        for row in table(path, "image_id", "No finding"):
            votes[row["image_id"]].append({_VINDR_NAMES.get(k, k): float(v) for k, v in row.items()
                                           if k not in ("image_id", "rad_id") and v})  # fmt: skip
        for name, some in votes.items():
            yield {**_vindr_row(f"{part}/{images[name]}", name, some, boxes),
                   "split": official(part == "test", "vindr", name)}  # fmt: skip


_VINDR_NAMES = {"Other disease": "Other diseases"}  # of the test; the training table has the plural


def _vindr_row(image: str, name: str, votes: list[dict[str, float]], boxes) -> dict:
    """votes: {label: 1 or 0} of each reader. What half of them say is neither present nor absent."""
    told = {k: [v[k] for v in votes if k in v] for k in dict.fromkeys(k for v in votes for k in v)}
    present = [k for k, some in told.items() if sum(some) > len(some) / 2]
    absent = [k for k, some in told.items() if sum(some) < len(some) / 2]
    return {"image": image, "labels": ";".join(present), "absent": ";".join(absent),
            "boxes": [b for b in boxes.get(name, []) if b["label"] in present],
            "patient_id": name, "view": "FRONTAL"}  # fmt: skip


def _vinbigdata(root: Path):
    """Kaggle's rows: one for each box, or for each reader who found nothing. Each reader's list is complete."""
    images = Images(root / "train", ".dicom", ".dcm", ".png", ".jpg", stems=True)
    boxes, found = collections.defaultdict(list), collections.defaultdict(lambda: collections.defaultdict(set))
    places = ("image_id", "class_name", "rad_id", "x_min", "y_min", "x_max", "y_max")
    for row in table(root / "train.csv", *places):
        name = row["class_name"]
        if name not in VINDR_KAGGLE:
            raise ValueError(f"train.csv: class_name {name!r}; expected one of {', '.join(VINDR_KAGGLE)}")
        found[row["image_id"]][row["rad_id"]].add(name)
        if row["x_min"]:
            boxes[row["image_id"]].append(corners(name, *(row[k] for k in places[3:])))
    for name, readers in found.items():
        votes = [{k: float(k in said) for k in VINDR_KAGGLE} for said in readers.values()]
        yield {**_vindr_row(f"train/{images[name]}", name, votes, boxes), "split": hash_split("vindr", name)}
