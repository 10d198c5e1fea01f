"""What every transfer config shares: the trunk, the data of the task, the optimizer of MGCA's protocol."""
from ml_collections import ConfigDict

from configs import common
from medvlp_jax.periods import either

VARIANTS = ("", "quickstart", "manifest")
FREEZE_TRUNK = ("^image_encoder/",)
TARGETS = ("effusion", "pneumothorax", "cardiomegaly", "consolidation")  # of the quickstarts: findings with an outline


def base(variant: str, workload: str, needs: str, task: str, metric: str, head: dict) -> ConfigDict:
    """Config of a transfer task.

    Args:
      needs: group of targets (input/targets.py) that it learns from.
      task: evaluation that scores it; metric: its value that chooses the best checkpoint.
      head: fields of methods.transfer.Transfer.

    Raises:
      ValueError: unknown variant, with the known ones.
    """
    if variant not in VARIANTS:
        known = ", ".join(v for v in VARIANTS if v)
        raise ValueError(f"configs/tasks/{workload}.py has no variant {variant!r}; known: {known}, none = the published size")
    c = common.base(variant, workload)
    c.method = "transfer"
    del c.knowledge
    c.required = ()
    c.normalisation = ConfigDict({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})  # a run's own if init is one

    c.model = ConfigDict()
    # init: a run directory (its image encoder), a published file, a directory or hf:<id>; empty = from scratch
    c.model.image = ConfigDict({"name": "resnet", "depth": 50, "num_stages": 3, "init": ""})
    c.model.head = ConfigDict(head)
    c.model.remat = False

    c.data.batch_size = 48
    c.data.examples = ConfigDict(
        {
            "needs": (needs,),
            "targets": (),  # names of findings or masks, as the data call them or as entities
            "max_boxes": 16,
            "crop": "random",  # 224 of 256
            "fit": "pad",
            "rand_augment": None,  # would move the image away under its masks and boxes
            "hflip": 0.0,  # 0.5 where no target names a side
            "eval_fit": "pad",
            "eval_frame": c.data.frame,
        }
    )
    c.optim = ConfigDict(
        {
            "betas": (0.9, 0.999),
            "weight_decay": 1e-6,
            "clip_norm": 0.0,
            "freeze": (),  # FREEZE_TRUNK: the trunk is a constant, its statistics included
            "freeze_until_epoch": (),
            "rates": (),
            "layer_decay": 1.0,  # learning rate of a block of a ViT or BERT over that of the next one (docs/scale.md); 1 = off
        }
    )
    c.schedule = ConfigDict(
        {"kind": "cosine", "lr": 5e-4, "start_lr": 0.0, "final_lr": 0.0, "warmup": either(0.0), **common.batch_rule(48)}
    )
    c.train.epochs = 50
    c.train.eval_every, c.train.patience = 500, 10
    c.train.best_metric = f"val/{task}/{metric}"
    c.evals.tasks, c.evals.options = (task,), ConfigDict()

    if variant == "quickstart":
        quickstart(c)
    else:
        required = {
            "model.image.init": "weights of the trunk, or the directory of a pre-training run",
            "data.examples.targets": "names of what is to be learnt, e.g. --config.data.examples.targets=effusion,mass",
        }
        if variant == "manifest":
            required["data.path"] = "the CSV or JSONL of your images (README, 'Your own data')"
        common.require(c, required)
    return c


def quickstart(c: ConfigDict) -> None:
    """The trunk of configs/medklip.py:quickstart on embedded data, for CPU minutes."""
    # Two stages: the entities of that run read the second, so nothing taught the third.
    trunk = {"name": "resnet", "depth": 18, "width": 24, "num_stages": 2, "patch_stem": True}
    c.model.image = ConfigDict({**trunk, "init": "runs/medklip-quickstart"})
    c.seed = 1  # other phantoms than those of pre-training
    c.data.phantom_sizes = ConfigDict({"train": 1000, "val": 128, "test": 384})
    c.data.batch_size = 16
    c.data.examples.eval_frame = c.data.frame
    c.data.examples.targets = TARGETS
    c.optim.clip_norm = 1.0
    c.schedule.lr, c.schedule.warmup = 2e-3, 0.1
    c.train.steps, c.train.eval_every = 400, 100
