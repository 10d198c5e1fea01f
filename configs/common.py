"""What every pre-training config shares: data, evaluation, checkpointing and the three data variants."""
from ml_collections import ConfigDict

from medvlp_jax.periods import either

VARIANTS = ("", "quickstart", "manifest", "mimic_cxr")
KNOWLEDGE = ("the text encoder of the entity descriptions: Bio_ClinicalBERT as a directory, or "
             "hf:emilyalsentzer/Bio_ClinicalBERT; a random encoder only by the explicit word: random")


def base(variant: str, workload: str) -> ConfigDict:
    """The part of a config that does not depend on the method.

    Raises:
      ValueError: unknown variant, with the known ones.
    """
    if variant not in VARIANTS:
        known = ", ".join(v for v in VARIANTS if v)
        raise ValueError(f"configs/{workload}.py has no variant {variant!r}; known: {known}, none = the paper's recipe")
    c = ConfigDict()
    c.workload = c.method = workload
    c.variant = variant
    c.required = ()  # keys that must be set, see require
    c.init = ""  # weights of the whole model (published MedKLIP or MGCA): file, directory or hf:<id>
    c.seed = 0  # fixes initial weights, data order, augmentation and dropout
    # Generator of dropout and other noise in a step. "rbg" takes less time on accelerators, but every kind of them gives other
    # numbers, and every device draws those of the whole batch (docs/training.md).
    c.rng = "threefry"
    c.dtype = "float32"  # compute type; "bfloat16" on accelerators (parameters and statistics stay float32)
    # -1: all remaining devices. tensor > 1 splits heads and hidden layers of transformers (within one process): for models
    # too large for fsdp alone, or more devices than rows
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})
    c.sharding = "replicated"  # or "fsdp": parameters and optimizer state split over the fsdp axis

    c.data = d = ConfigDict()
    d.name = "phantom"  # the embedded synthetic radiographs; manifest, prepared, mixture, or a name of data/README.md
    d.path = ""  # manifest: the CSV, JSONL or Parquet file; prepared: the folder; a data set: its root
    d.mixture = ()  # name "mixture": (name, path, weight) of each part; weight 2 = its examples are seen twice as often
    d.root = ""  # manifest: folder the image paths are relative to; empty = the manifest's own
    d.exclude = ()  # files of data.prepare --ids_of: their patients are left out of train and val (docs/leakage.md)
    d.phantom_sizes = ConfigDict({"train": 20_000, "val": 512, "test": 1024})
    d.cache = False  # keep decoded (phantom: drawn) images in memory
    d.image_size = 224
    d.frame = 256  # side the image is brought to before a window of image_size is cut out
    d.batch_size = 0  # global, over all devices and processes; set by the method
    d.batch_per_device = 0  # > 0: the global batch is this times the devices that share it, whatever batch_size says
    d.eval_batch_size = 128
    d.workers = 4  # loader processes per host, shared out among its processes; 0 = threads of each process
    d.tokenizer = ""  # directory with vocab.txt; empty = that of the text weights, or the small one shipped here
    d.max_tokens = 112  # MGCA and MLIP
    d.sections = ("impression", "findings")  # of a report, in this order
    d.unit = "image"  # or "study": images of one study_id are one example: a random view a step, the frontal one elsewhere
    # kinds or projections of views (input/views.py): "frontal" as both papers, "all" (for unit="study"), "PA,AP", ...
    d.views = "frontal"
    d.captions = False  # True: labels of a training example without report are told in sentences, others each epoch
    d.max_bad_share = 0.02  # above it, unreadable records stop the run instead of being skipped
    d.check = "header"  # of image files before the first step; "full": decode each (docs/data-check.md)
    d.fraction = 1.0  # of the training split, by patient; below 1 the examples taken are written to <workdir>/splits
    d.fraction_seed = 0
    d.closed_world = "auto"  # whether a row's label list is complete (input/manifest.py)
    d.blank_labels = "unknown"  # "absent": a label that a row leaves blank is 0, as in MGCA's CheXpert task (docs/labels.md)
    d.label_precedence = "report"  # a mention wins over a label, unless a radiologist made that; "labels": a label wins
    d.annotations = ""  # file with labels or mentions by study: RadGraph, CheXbert, JSON lines; a,b for two (docs/labels.md)
    d.examples = ConfigDict()  # set by the method: fields of input.examples.Options

    c.knowledge = k = ConfigDict()
    k.descriptions = ""  # JSON with entity and position texts; empty = ours
    # Weights of the frozen text encoder: file, directory or hf:<id>; empty = those of model.text.init where the method has a
    # text encoder. "random": a BERT that tells texts apart but knows nothing, fixed by knowledge.seed.
    k.init = ""
    k.size = "base"  # of the random encoder
    k.seed = 0
    k.max_length = 128  # MedKLIP
    k.pooling = "cls"  # "mean" for sentence encoders such as MiniLM
    k.standardize = False  # zero mean, unit variance over the table: needed where all vectors are nearly alike
    k.cache_dir = ""  # empty = <workdir>/knowledge

    c.train = t = ConfigDict()
    t.epochs = 0  # set by the method
    t.steps = 0  # > 0 overrides epochs
    # Steps, "N steps" or "N epochs"; a checkpoint also "N min". 0 = never. Neither of the last two depends on the batch.
    t.log_every = either(50)
    t.eval_every = either("2 epochs")
    t.checkpoint_every = either("10 min")  # what a fault may cost
    t.keep = 2
    t.patience = 0  # evaluations without a better best_metric after which to stop; the best is what is evaluated. 0 = off
    t.best_metric = "val/zeroshot/auc_macro"  # its best checkpoint is kept beside the last ones; "" = none
    t.max_bad_steps = 5  # steps without a finite loss and gradient that are left out, among the last bad_steps_window; 0 = none
    t.bad_steps_window = 100
    t.compilation_cache = "auto"  # = $MEDVLP_CACHE or <workdir>/compiled; a folder, or "off"
    t.tensorboard = True
    t.cache_trunk = False  # True: a frozen image trunk reads the training images once, before the first step (frozen_trunk.py)

    c.evals = e = ConfigDict()
    e.split = "test"
    e.limit = 0  # examples; 0 = all
    e.quick_limit = 512  # of the validation split, during training
    e.figures = True
    e.tasks = ("zeroshot", "grounding", "retrieval")
    e.options = ConfigDict({"retrieval": {"gallery": 256}})  # arguments of a task's make()

    if variant == "quickstart":
        d.image_size, d.frame, d.max_tokens, d.workers, d.cache = 112, 124, 80, 0, True
        k.init, k.size, k.standardize = "random", "mini", True
        t.log_every, t.checkpoint_every, t.eval_every = 20, 500, 100_000
    else:
        require(c, {"knowledge.init": KNOWLEDGE})
    if variant in ("manifest", "mimic_cxr"):
        d.name = "manifest" if variant == "manifest" else "prepared"
    return c


def batch_rule(batch: int) -> dict:
    """Keys of config.schedule: the batch that its rates are meant for, and how they follow another one. "off": not at all,
    "sqrt" or "linear": times that of the ratio of both (docs/training.md)."""
    return {"base_batch": batch, "scale_lr": "off"}


def require(c: ConfigDict, where: dict[str, str]) -> None:
    """Mark config keys that must be set before the run starts, besides those marked before: {key: how to get it}."""
    c.required = tuple({**dict(c.required), **where}.items())


def without_knowledge(c: ConfigDict) -> None:
    """For a method whose loss reads no entity: its table, which no parameter depends on, needs no weights."""
    c.knowledge.init = "random"
