"""MedKLIP (arXiv 2301.02228).

    python -m medvlp_jax.train --config=configs/medklip.py:quickstart        # embedded data, CPU minutes
    python -m medvlp_jax.train --config=configs/medklip.py:manifest --config.data.path=my.csv
"""
from ml_collections import ConfigDict

from configs import common
from medvlp_jax.periods import either


def get_config(variant: str = "") -> ConfigDict:
    """The reference's recipe and size, or one of `common.VARIANTS`."""
    c = common.base(variant, "medklip")
    c.normalisation = ConfigDict({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)})  # ImageNet

    c.model = m = ConfigDict()
    # name "vit" takes a size and any field of models/vit.py, among them attention_kernel (see configs/mlip.py).
    m.image = ConfigDict({"name": "resnet", "depth": 50, "num_stages": 3, "init": ""})
    # BatchNorm's statistics: 0 = of the global batch; N = of each N consecutive rows, as where every GPU keeps its own. Where
    # N divides the rows of a device they are not sent: what large slices and clusters wait for most (launch/README.md).
    m.image.batch_norm_rows = 0
    m.patch_stage = 3
    m.global_blocks = ()  # of a frozen ViT: the decoder also reads class token and mean patch after each of them
    m.token_norm = False  # True: BatchNorm on what the trunk gives, for a frozen one
    m.token_dropout = 0.0  # of its channels, for a frozen one
    m.width, m.depth, m.num_heads, m.mlp_dim = 256, 4, 4, 1024
    m.init_std = 0.02  # MedKLIP's, for width 256
    m.dropout = 0.1
    m.microbatches = 1
    m.remat = False

    c.losses = ConfigDict({"existence": 1.0, "location": 1.0})  # location 0 = the reference's no_cl
    # Held out for zero-shot tests of unseen findings; the reference's exclude_class is: ("pneumonia", "infiltrate",
    # "mass", "nodule", "emphysema", "thicken", "hernia") ("fibrosis", also named there, is no entity).
    c.exclude_entities = ()

    c.data.batch_size = 48
    # A flip would contradict left/right positions: off here; the published program has it on.
    c.data.examples = ConfigDict(
        {
            "needs": ("labels",),
            "crop": "random_resized",
            "crop_scale": (0.2, 1.0),
            "rand_augment": (2, 7),
            "hflip": 0.0,
            "eval_fit": "stretch",
        }
    )
    c.optim = ConfigDict(
        {
            "betas": (0.9, 0.999),
            "weight_decay": 0.02,  # on parameters with two dimensions or more
            "clip_norm": 0.0,
            "freeze": (),
            "freeze_until_epoch": (),
            "rates": (),  # (name pattern, factor of lr) pairs
            "layer_decay": 1.0,  # learning rate of a block of a ViT or BERT over that of the next one (docs/scale.md); 1 = off
        }
    )
    # kind "medklip_published": the program's own schedule, whose warm-up goes by hundreds of steps
    c.schedule = ConfigDict(
        {"kind": "cosine", "lr": 1e-4, "start_lr": 1e-5, "final_lr": 1e-5, "warmup": either(0.05), **common.batch_rule(48)}
    )
    c.train.epochs = 100

    if variant == "quickstart":
        quickstart(c)
    if variant == "mimic_cxr":
        common.require(c, {"data.path": "MIMIC-CXR prepared by python -m data.prepare --dataset=mimic_cxr (README)"})
    return c


def quickstart(c: ConfigDict) -> None:
    """Small enough for two CPU cores and about six minutes."""
    image = {"name": "resnet", "depth": 18, "width": 24, "num_stages": 3, "patch_stem": True, "init": ""}
    c.model.image = ConfigDict({**image, "batch_norm_rows": 0})
    c.model.patch_stage = 2  # 14 x 14 patches of 112 px: findings are small
    c.model.width, c.model.depth, c.model.num_heads, c.model.mlp_dim = 64, 1, 4, 128
    # Much dropout, also of attention weights: a query that may lose any patch looks at the whole finding, not at one of the
    # patches around it that see it too. With 0.1 the pointing game was anything from 0.46 to 0.80, with 0.3 from 0.50 to 0.75,
    # with 0.5 from 0.69 to 0.80 (three seeds; two of them after 2,800 steps 0.59 and 0.68).
    c.model.init_std, c.model.dropout = 0.15, 0.5
    c.losses.location = 0.05  # without temperature its gradient is ten times that of existence, which must learn first
    c.data.phantom_sizes.train = 6000
    c.data.batch_size = 16  # many small steps: a short run learns more from them
    c.data.examples.crop, c.data.examples.rand_augment = "random", None
    c.data.examples.eval_frame = c.data.frame
    c.optim.clip_norm = 1.0
    c.optim.betas = (0.9, 0.98)  # moments that forget within a run this short
    c.schedule.lr, c.schedule.start_lr, c.schedule.warmup = 2e-3, 0.0, 0.1
    c.train.steps = 2200
