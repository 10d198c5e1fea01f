"""Numbers that papers report, to be shown beside ours where data set and metric are the same.

A number is only as comparable as its protocol, which is why each carries its own: see the rows' `protocol`.
"""
import re
from typing import NamedTuple


class Number(NamedTuple):
    """One published value of a metric of a task on a data set."""

    task: str
    dataset: str
    metric: str
    value: float
    model: str
    protocol: str


# Names a data set goes by -> ours. Compared in small letters without punctuation.
DATASETS = {
    "chestxray14": ("chestxray14", "nih", "nihchestxray14", "cxr14"),
    "rsna": ("rsna", "rsnapneumonia"),
    "siim": ("siim", "siimacr", "siimacrpneumothorax"),
    "chexpert": ("chexpert",),
    "openi": ("openi",),
    "padchest": ("padchest",),
    "chestxdet10": ("chestxdet10", "chestxdet"),
    "mscxr": ("mscxr",),
    "covidx": ("covidx", "covidxcxr2", "covidxcxr4"),
    "objectcxr": ("objectcxr",),
}
RELEASED = {
    "atelectasis": 0.673, "cardiomegaly": 0.839, "effusion": 0.814, "infiltration": 0.707, "mass": 0.743, "nodule": 0.631,
    "pneumonia": 0.707, "pneumothorax": 0.836, "consolidation": 0.723, "edema": 0.802, "emphysema": 0.761,
    "fibrosis": 0.586, "pleural_thickening": 0.532, "hernia": 0.772,
}  # fmt: skip
MEDKLIP, MGCA, MLIP, RECENT = "MedKLIP", "MGCA ViT-B", "MLIP", "best known, 2026"
SHARES = ("1 %", "10 %", "100 %")  # of the labels, a part of a transfer protocol's name


def _zero_shot(dataset, values, protocol):
    metrics = ("auc_macro", "f1_published", "acc_published")
    return [Number("zeroshot", dataset, m, v, MEDKLIP, protocol) for m, v in zip(metrics, values, strict=True)]


def _transfer(task, dataset, metric, model, how, values):
    """Numbers at the last len(values) of `SHARES`."""
    return [Number(task, dataset, metric, v, model, f"{how} {share}")
            for v, share in zip(values, SHARES[-len(values):], strict=True)]  # fmt: skip


NUMBERS = [
    *_zero_shot("chestxray14", (0.768, 0.253, 0.862), "as in the paper"),
    *_zero_shot("chestxray14", (0.723, 0.254, 0.794), "released weights, official split"),
    *_zero_shot("rsna", (0.869, 0.634, 0.800), "as in the paper"),
    *_zero_shot("siim", (0.892, 0.683, 0.843), "as in the paper"),
    *(Number("zeroshot", "chestxray14", f"auc/{name}", value, MEDKLIP, "released weights, official split")
      for name, value in RELEASED.items()),
    *(Number("zeroshot", dataset, "auc_macro", value, RECENT, "zero-shot")
      for dataset, value in (("chestxray14", 0.84), ("padchest", 0.86), ("openi", 0.89), ("chexpert", 0.92))),
    Number("grounding", "rsna", "iou_published", 0.317, MEDKLIP, "threshold 0.008"),
    Number("grounding", "rsna", "dice_published", 0.465, MEDKLIP, "threshold 0.008"),
    Number("grounding", "chestxdet10", "pointing_game_published", 0.481, MEDKLIP, "ties count as hits"),
    Number("grounding", "mscxr", "pointing_game_published", 0.407, MEDKLIP, "ties count as hits"),
    Number("grounding", "chestxdet10", "pointing_game_published", 0.73, RECENT, "pointing game"),
    Number("grounding", "mscxr", "pointing_game_published", 0.92, RECENT, "pointing game"),
    *_transfer("classification", "chexpert", "auc_macro", MGCA, "linear", (0.888, 0.891, 0.897)),
    *_transfer("classification", "chexpert", "auc_macro", MLIP, "linear", (0.900,)),
    *_transfer("classification", "rsna", "auc_macro", MGCA, "linear", (0.891, 0.899, 0.908)),
    *_transfer("classification", "rsna", "auc_macro", MLIP, "linear", (0.908,)),
    *_transfer("classification", "covidx", "accuracy_top1", MGCA, "linear", (0.748, 0.848, 0.923)),
    *_transfer("classification", "covidx", "accuracy_top1", MLIP, "linear", (0.925,)),
    *_transfer("classification", "rsna", "auc_macro", MEDKLIP, "finetune", (0.873, 0.880, 0.893)),
    *_transfer("classification", "siim", "auc_macro", MEDKLIP, "finetune", (0.853, 0.907, 0.919)),
    *_transfer("classification", "chestxray14", "auc_macro", MEDKLIP, "finetune", (0.772, 0.789, 0.832)),
    *_transfer("segmentation", "siim", "dice", MLIP, "segment", (0.681,)),
    *_transfer("segmentation", "rsna", "dice", MLIP, "segment", (0.735,)),
    *_transfer("detection", "rsna", "map_published", MLIP, "detect", (0.258,)),
    *_transfer("detection", "objectcxr", "map_published", MLIP, "detect", (0.202,)),
]  # fmt: skip


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def known_as(dataset: str) -> str | None:
    """Our name of a data set, None if the papers' numbers are about no such one."""
    return next((ours for ours, names in DATASETS.items() if _plain(dataset) in names), None)


def beside(record: dict) -> list[Number]:
    """Published numbers for the task, data set and metric of a record of the test split; those of a transfer task only for a
    record of the same protocol ("linear 10 %": which head, which share of the labels)."""
    if record.get("split") != "test" or (dataset := known_as(record.get("dataset", ""))) is None:
        return []
    wanted = record["task"], dataset, record["metric"].lower()
    found = [n for n in NUMBERS if (n.task, n.dataset, n.metric) == wanted]
    same = record.get("protocol")
    return found if record["task"] in ("zeroshot", "grounding") else [n for n in found if n.protocol == same]
