"""Detection: a YOLOv3-style head on the frozen trunk (MGCA's protocol).

    python -m medvlp_jax.train --config=configs/tasks/detect.py:quickstart
"""
from ml_collections import ConfigDict

from configs.tasks import base


def get_config(variant: str = "") -> ConfigDict:
    """One group of anchors for each feature map, coarse to fine; a ViT has one map."""
    # (w, h) in shares of the image
    anchors = (((0.3, 0.5), (0.35, 0.3), (0.2, 0.4)), ((0.2, 0.2), (0.12, 0.2), (0.1, 0.1)))
    head = {"kind": "detect", "width": 256, "anchors": anchors}
    c = base.base(variant, "detect", "boxes", "detection", "map", head)
    c.optim.freeze = base.FREEZE_TRUNK
    c.data.batch_size = 16
    if variant == "quickstart":
        c.model.head.width = 48
        c.model.head.anchors = (((0.5, 0.35), (0.32, 0.6), (0.35, 0.25), (0.22, 0.2)),)
    return c
