"""Tiny configs of all methods, and batches for them without any files: what the tests of methods and training share."""
import numpy as np

from medvlp_jax import method as methods
from medvlp_jax.reports import vocab

SIZE, TOKENS, VOCABULARY = 32, 16, 60


def config(method: str, **overrides):
    """configs/<method>.py:quickstart shrunk to milliseconds; overrides are dotted names with "/" for "."."""
    import importlib

    c = importlib.import_module(f"configs.{method}").get_config("quickstart")
    c.data.image_size, c.data.frame, c.data.max_tokens, c.data.batch_size = SIZE, SIZE, TOKENS, 16
    c.data.phantom_sizes = {"train": 64, "val": 16, "test": 16}
    c.data.examples.eval_frame = SIZE
    if "dropout" in c.model:
        c.model.dropout = 0.0
    if method == "medklip":
        c.model.image = {"name": "vit", "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32, "init": ""}
        c.model.width, c.model.depth, c.model.num_heads, c.model.mlp_dim = 16, 2, 2, 32
    else:
        c.model.image = {"name": "vit", "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32, "init": ""}
        c.model.text = {"size": "tiny", "width": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32, "dropout": 0.0, "init": "",
                        "vocab_size": VOCABULARY}  # fmt: skip
        c.model.hidden, c.model.embed_dim, c.model.num_prototypes = 32, 16, 10
        if "fusion_width" in c.model:
            c.model.fusion_width, c.model.fusion_depth, c.model.fusion_heads, c.model.fusion_mlp_dim = 16, 1, 2, 32
            c.objective.matching_group = 2
    with c.unlocked():
        for name, value in overrides.items():
            node, *path = c, *name.split("/")
            for part in path[:-1]:
                node = node[part]
            node[path[-1]] = value
    return c


def method(c):
    """The Method of a tiny config."""
    return methods.get(c)


def tables(width: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    """Random knowledge tables."""
    rng = np.random.default_rng(seed)
    shapes = {"entities": (len(vocab.ENTITIES), width), "positions": (len(vocab.POSITIONS), width)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def batch(rows: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """A random batch with reports of several lengths, every kind of label and one report that is missing."""
    rng = np.random.default_rng(seed)
    k, m = len(vocab.ENTITIES), TOKENS
    lengths = rng.integers(4, m + 1, rows)
    inside = np.arange(m)[None] < lengths[:, None]
    words = np.where(inside, np.arange(m)[None] // 2, -1).astype(np.int32)
    words[:, 0] = -1
    words[np.arange(rows), lengths - 1] = -1
    ids = np.where(inside, rng.integers(5, VOCABULARY, (rows, m)), 0).astype(np.int32)
    has_report = np.ones(rows, np.float32)
    has_report[3] = 0
    return {
        "image": rng.integers(0, 256, (rows, SIZE, SIZE, 1), dtype=np.uint8),
        "labels": rng.choice([-1, 0, 1, 2], (rows, k), p=[0.5, 0.25, 0.2, 0.05]).astype(np.int8),
        "positions": rng.integers(0, len(vocab.POSITIONS), (rows, k, 8)).astype(np.int32),
        "input_ids": ids, "attention_mask": inside.astype(np.int32), "word_ids": words,
        "swapped_ids": ids[:, ::-1].copy(), "swapped_mask": inside.astype(np.int32),
        "swapped_labels": np.where(words >= 0, rng.integers(0, 2, (rows, m)), -1).astype(np.int8),
        "has_report": has_report, "valid": np.ones(rows, np.float32),
    }  # fmt: skip


def run_config(method: str, **overrides):
    """`config` for whole runs on the phantom: with the shipped vocabulary, every step logged, no TensorBoard, no figures."""
    words = {} if method == "medklip" else {"model/text/vocab_size": 0}
    settings = {"train/steps": 6, "train/log_every": 1, "train/tensorboard": False, "knowledge/size": "tiny",
                "evals/figures": False}  # fmt: skip
    return config(method, **{**words, **settings, **overrides})
