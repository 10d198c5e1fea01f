"""MLIP, reconstructed (CVPR 2024, arXiv 2402.02045).

    python -m medvlp_jax.train --config=configs/mlip.py:quickstart           # embedded data, CPU minutes
    python -m medvlp_jax.train --config=configs/mlip.py:manifest --config.data.path=my.csv
    python -m medvlp_jax.train --config=configs/mlip.py:mimic_cxr --config.data.path=... --config.model.text.init=...
"""
from ml_collections import ConfigDict

from configs import common
from medvlp_jax.periods import either


def get_config(variant: str = "", workload: str = "mlip") -> ConfigDict:
    """The paper's recipe and size, or one of `common.VARIANTS`. workload: the method, for its baselines' configs."""
    c = common.base(variant, workload)
    c.normalisation = ConfigDict({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})  # MGCA family

    c.model = m = ConfigDict()
    m.image = ConfigDict({"name": "vit", "size": "B/16", "init": ""})  # init: file, directory or hf:<id>
    m.text = ConfigDict({"size": "base", "init": "", "vocab_size": 0, "dropout": 0.1})  # 0 = the tokenizer's
    m.patch_stage = 3  # ResNet trunks: stage of the local features
    m.embed_dim = 128
    m.hidden = 2048
    m.num_prototypes = 500  # MGCA
    # Divergence encoders, our reading: a hidden layer of MGCA's order; noise of length 0.3 turns a unit embedding by about 17
    # degrees, near enough to stay its report's match and far enough to be another view.
    m.divergence_hidden, m.divergence_noise = 512, 0.3
    # Start of knowledge -> patch: reading patches by similarity makes the cosine about 0.5 from the first step, of absent
    # entities too, so that 10 * 0.5 - 5 begins at even odds.
    m.score_scale, m.score_bias = 10.0, -5.0
    m.fusion_width, m.fusion_depth, m.fusion_heads, m.fusion_mlp_dim = 256, 2, 4, 1024
    m.fusion_init_std = 0.02  # MedKLIP's, for width 256
    m.dropout = 0.1
    m.microbatches = 1
    m.remat = False
    # "fused": self-attention by one kernel that keeps its scores on the chip, on GPUs cuDNN's (bfloat16), on TPUs ours (up to
    # 512 rows); elsewhere as "xla". Off, for it has only been compiled for them so far, not run.
    m.attention_kernel = "xla"

    # Weights of the terms (spec: 1.0 global + 0.7 local + 0.5 category + 1.0 matching + 0.5 swapping + 1e-3 KL).
    # 0 removes a term and its cost. The spec's local term has two halves that can be weighed apart.
    c.losses = l = ConfigDict()
    l.global_contrast = 1.0
    l.alignment = 0.7  # local: token <-> patch, with knowledge gated into the tokens
    l.knowledge_patch = 0.7  # local: knowledge -> patch scores; what grounds an entity at inference
    l.category = 0.5
    l.matching = 1.0
    l.swapping = 0.5
    l.kl = 1e-3  # divergence encoders

    c.objective = o = ConfigDict()
    o.temperature = 0.07  # global; learnable if learn_temperature
    o.learn_temperature = False
    # > 0: the global contrast never holds more than rows x this many logits, in twice the time; it saves memory from a batch
    # of about 4,096 (`python -m medvlp_jax.bench contrast`, figures in launch/README.md).
    o.contrast_chunk = 0
    # What the same report of another image is to an image: "masked", neither positive nor negative (a fifth of Open-I's and
    # many of MIMIC-CXR's normal reports are the same sentence); "negatives" (MGCA, CLIP) or "positives".
    o.equal_reports = "masked"
    o.divergence = True  # False: plain InfoNCE without divergent views
    o.local_temperature = 0.1
    o.knowledge_gate = True  # False: tokens are aligned as they are
    o.prototype_temperature = 0.2
    o.sinkhorn_epsilon = 0.05
    o.sinkhorn_iterations = 3
    o.guidance_weight = 1.0  # of the knowledge's codes beside the swapped prediction: equal shares
    o.category_guidance = True  # False: prototypes without knowledge
    o.matching_group = 0  # hard negatives are looked for among this many consecutive rows of a device; 0 = all of them

    c.data.batch_size = 144
    c.data.examples = ConfigDict(
        {
            "needs": ("labels", "text", "swap"),
            "require_report": True,
            "fit": "pad",
            "crop": "random",  # 224 of 256
            "hflip": 0.0,  # sides matter
            "eval_fit": "pad",
            "eval_frame": c.data.frame,
        }
    )
    c.optim = ConfigDict(
        {
            "betas": (0.9, 0.999),
            "weight_decay": 0.05,
            "clip_norm": 0.0,
            "freeze": (),
            "freeze_until_epoch": (("prototypes$", 1.0),),  # MGCA: no prototype gradient in the first epoch
            "rates": (),  # (name pattern, factor of lr) pairs
            "layer_decay": 1.0,  # learning rate of a block of a ViT or BERT over that of the next one (docs/scale.md); 1 = off
        }
    )
    c.schedule = ConfigDict(
        {"kind": "cosine", "lr": 2e-5, "start_lr": 1e-8, "final_lr": 1e-8, "warmup": either(0.4), **common.batch_rule(144)}
    )
    c.train.epochs = 50

    if variant == "quickstart":
        quickstart(c)
        # So short a run learns most from knowledge -> patch, the term that scores and grounds entities.
        l.knowledge_patch, l.global_contrast, l.category = 2.0, 0.5, 0.25
    if variant == "mimic_cxr":
        common.require(
            c,
            {
                "data.path": "MIMIC-CXR prepared by python -m data.prepare --dataset=mimic_cxr (README)",
                "model.image.init": "DeiT or ImageNet ViT-B/16 as .safetensors, or hf:facebook/deit-base-patch16-224",
                "model.text.init": "Bio_ClinicalBERT as a directory, or hf:emilyalsentzer/Bio_ClinicalBERT",
            },
        )
    return c


def quickstart(c: ConfigDict) -> None:
    """Small enough for two CPU cores and about six minutes; every part of the method is there."""
    m = c.model
    m.image = ConfigDict({"name": "resnet", "depth": 18, "width": 24, "num_stages": 3, "patch_stem": True, "init": ""})
    m.image.batch_norm_rows = 0  # see configs/medklip.py
    m.patch_stage = 2  # 14 x 14 patches of 112 px: findings are small
    text = {"size": "", "width": 64, "depth": 2, "num_heads": 2, "mlp_dim": 128, "dropout": 0.0}
    m.text.update(text)
    m.embed_dim, m.hidden, m.num_prototypes = 64, 256, 64
    m.fusion_width, m.fusion_depth, m.fusion_heads, m.fusion_mlp_dim = 64, 1, 2, 128
    m.fusion_init_std, m.dropout = 0.15, 0.0
    c.data.phantom_sizes.train = 6000
    c.data.max_tokens = 64
    c.data.batch_size = 16  # many small steps: a short run learns more from them
    c.optim.clip_norm = 1.0
    c.optim.betas = (0.9, 0.98)  # moments that forget within a run this short
    c.schedule.lr, c.schedule.start_lr, c.schedule.warmup = 2e-3, 0.0, 0.1
    c.train.steps = 1300
