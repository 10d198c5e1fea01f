"""ConVIRT-style baseline (arXiv 2010.00747): the global contrast of configs/mlip.py and nothing else.

    python -m medvlp_jax.train --config=configs/convirt.py:quickstart

Same trunks, heads, data and optimizer as MLIP, so that a comparison shows what the other terms bring. It is not a
reproduction of ConVIRT: no max-pooling of the text, no weighting of the two directions, whole reports, MGCA's heads.
"""
from ml_collections import ConfigDict

from configs import common, mlip


def get_config(variant: str = "") -> ConfigDict:
    """Any variant of configs/mlip.py."""
    c = mlip.get_config(variant, "convirt")
    for name in c.losses:
        c.losses[name] = float(name == "global_contrast")
    c.objective.divergence = False
    common.without_knowledge(c)
    c.data.examples.needs = ("labels", "text")
    c.train.best_metric = "val/zeroshot/auc_macro_prompts"  # it scores no entities
    c.optim.freeze_until_epoch = ()  # it has no prototypes
    return c
