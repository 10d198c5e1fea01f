"""Linear classification: frozen trunk and one linear layer (MGCA's protocol).

    python -m medvlp_jax.train --config=configs/tasks/linear.py:quickstart      # after configs/medklip.py:quickstart
    python -m medvlp_jax.probe --config=configs/tasks/linear.py:quickstart      # features once, 1/10/100 % in seconds

On CheXpert the protocol reads blank labels as absent: --config.data.blank_labels=absent (docs/labels.md).
"""
from ml_collections import ConfigDict

from configs.tasks import base
from medvlp_jax.input.phantom import FINDINGS


def get_config(variant: str = "", workload: str = "linear") -> ConfigDict:
    """AdamW 5e-4, decay 1e-6, batch 48, 50 epochs, early stopping; or one of `base.VARIANTS`."""
    head = {"kind": "classify", "pooling": "trunk", "stage": 3, "dropout": 0.0}
    c = base.base(variant, workload, "findings", "classification", "auc_macro", head)
    c.optim.freeze = base.FREEZE_TRUNK
    if variant == "quickstart":
        c.data.examples.targets = tuple(FINDINGS)
        c.model.head.pooling, c.model.head.stage = "mean_max", 2  # findings are small: a mean alone washes them out
    return c
