"""Fine-tuned classification: trunk and linear layer learn (MedKLIP's protocol).

    python -m medvlp_jax.train --config=configs/tasks/finetune.py:quickstart
    python -m medvlp_jax.train --config=configs/tasks/finetune.py:quickstart --config.model.image.init= --workdir=runs/scratch
"""
from ml_collections import ConfigDict

from configs.tasks import linear


def get_config(variant: str = "") -> ConfigDict:
    """configs/tasks/linear.py with a trunk that moves, at a lower rate."""
    c = linear.get_config(variant, "finetune")
    c.optim.freeze = ()
    if variant != "quickstart":
        c.schedule.lr = 1e-4
        c.optim.weight_decay = 0.02
    return c
