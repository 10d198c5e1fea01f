"""Segmentation: UNet on a ResNet trunk (MedKLIP's network), SETR's upsampling on a ViT.

    python -m medvlp_jax.train --config=configs/tasks/segment.py:quickstart
    python -m medvlp_jax.train --config=configs/tasks/segment.py:manifest --config.data.path=my.csv \\
        --config.model.image.init=runs/medklip --config.data.examples.targets=pneumothorax
"""
from ml_collections import ConfigDict

from configs.tasks import base


def get_config(variant: str = "") -> ConfigDict:
    """MedKLIP's protocol, which updates the trunk; MGCA's freezes it: --config.optim.freeze='^image_encoder/'."""
    # loss: "bce_dice" (MedKLIP) or "focal_dice" (MGCA: 10 focal - log Dice)
    # width: of SETR's convolutions; the UNet halves its own, down to min_width
    head = {"kind": "segment", "loss": "bce_dice", "width": 256, "min_width": 16}
    c = base.base(variant, "segment", "masks", "segmentation", "dice", head)
    c.data.batch_size = 16
    if variant == "quickstart":
        c.model.head.min_width = 8  # convolutions at full size are what a CPU spends its time on
        c.model.head.loss = "focal_dice"  # its logarithm pulls masks that are still empty; BCE leaves thin ones so
    else:
        c.schedule.lr = 2e-4
    return c
