"""Severity grading of one finding: cumulative links on pooled features (EdemaSeverity's task).

    python -m medvlp_jax.train --config=configs/tasks/severity.py:quickstart
"""
from ml_collections import ConfigDict

from configs.tasks import base


def get_config(variant: str = "") -> ConfigDict:
    """Grades 0 to 3 of the first target: column `severity` of a manifest, JSON such as {"edema": 2}."""
    head = {"kind": "grade", "pooling": "mean", "stage": 3, "grades": 4, "dropout": 0.0}
    c = base.base(variant, "severity", "grade", "severity", "auc_macro", head)
    if variant == "quickstart":
        c.model.head.pooling, c.model.head.stage = "mean_max", 2
        c.data.examples.targets = ("effusion",)
    else:
        c.schedule.lr = 1e-4
    return c
