"""Hugging Face BertModel names (BERT, Bio_ClinicalBERT, CXR-BERT, MiniLM) <-> `models.bert.Bert`."""
import jax
import jax.numpy as jnp
import numpy as np

from medvlp_jax.models.bert import Bert
from medvlp_jax.weights import table as t

TYPES = "embeddings.token_type_embeddings.weight"
LAYER, BLOCK = "encoder.layer.{i}", "block_{i}"

TABLE = t.Table(
    rows=(
        t.row("embeddings.word_embeddings.weight", "word/embedding", t.SAME),
        t.row("embeddings.position_embeddings.weight", "position/embedding", t.SAME),
        t.row(TYPES, "token_type/embedding", t.SAME),
        *t.norm("embeddings.LayerNorm", "embedding_norm"),
        *t.linear(f"{LAYER}.attention.self.query", f"{BLOCK}/attention/query"),
        *t.linear(f"{LAYER}.attention.self.key", f"{BLOCK}/attention/key"),
        *t.linear(f"{LAYER}.attention.self.value", f"{BLOCK}/attention/value"),
        *t.linear(f"{LAYER}.attention.output.dense", f"{BLOCK}/attention/out"),
        *t.norm(f"{LAYER}.attention.output.LayerNorm", f"{BLOCK}/attention_norm"),
        *t.linear(f"{LAYER}.intermediate.dense", f"{BLOCK}/mlp/fc1"),
        *t.linear(f"{LAYER}.output.dense", f"{BLOCK}/mlp/fc2"),
        *t.norm(f"{LAYER}.output.LayerNorm", f"{BLOCK}/mlp_norm"),
    ),
    dropped=(
        r"embeddings\.position_ids",  # a buffer: 0, 1, 2, ...
        r"pooler\..*",  # the tanh layer on [CLS]; methods take the hidden state itself
        r"cls\..*",  # heads of masked-language and next-sentence pre-training
        r"cls_projection_head\..*",  # CXR-BERT's
    ),
    renames=((r"^module\.", ""), (r"^bert\.", ""), (r"\.gamma$", ".weight"), (r"\.beta$", ".bias")),
)

# Heads of the released model of each width; tensors do not tell (384 is MiniLM, 312 TinyBERT).
HEADS = {128: 2, 256: 4, 312: 12, 384: 12, 512: 8, 768: 12, 1024: 16}


def config_of(
    tensors: dict[str, np.ndarray], num_heads: int | None = None, depth: int | None = None, token_types: bool = True
) -> dict:
    """Fields of `Bert`.

    Args:
      num_heads: config.json's num_attention_heads; default that of the released model of this width.
      depth: keep only the first blocks (MGCA takes 6 of Bio_ClinicalBERT's 12).
      token_types: False for a text encoder without a token-type table (MGCA's); that of the checkpoint is left out.

    Raises:
      ValueError: a tensor that tells a size is missing, the number of heads is not known for this width, or there are
        fewer than `depth` blocks.
    """
    return fields_of(TABLE, t.renamed(TABLE, tensors), num_heads, depth, token_types)


def fields_of(
    table: t.Table,
    tensors: dict[str, np.ndarray],
    num_heads: int | None = None,
    depth: int | None = None,
    token_types: bool = True,
    at: str = "",
) -> dict:
    """As `config_of`, for `renamed` tensors of any table in which our names begin with `at`, e.g. "text_encoder/"."""
    shapes = t.our_shapes(table, tensors)

    def size(name, axis):
        return t.size(table, shapes, f"params/{at}{name}", axis)

    width, blocks = size("word/embedding", 1), t.count(shapes, rf"params/{at}block_(\d+)/")
    num_heads = num_heads or HEADS.get(width)
    if num_heads is None:
        raise ValueError(f"give num_heads (config.json: num_attention_heads): no released BERT has width {width}")
    if depth is not None and not 1 <= depth <= blocks:
        raise ValueError(f"depth={depth} blocks asked for, but the checkpoint has {blocks}")
    return dict(
        vocab_size=size("word/embedding", 0),
        width=width,
        depth=depth or blocks,
        num_heads=num_heads,
        mlp_dim=size("block_0/mlp/fc1/kernel", 1),
        max_positions=size("position/embedding", 0),
        type_vocab=size("token_type/embedding", 0) if token_types else 0,
    )


def from_torch(tensors: dict[str, np.ndarray], depth: int | None = None, token_types: bool = True) -> dict:
    """Variables of `Bert(**config_of(...))`; arguments as there."""
    fields = config_of(tensors, 1, depth, token_types)  # shapes do not depend on the number of heads
    tensors = t.renamed(TABLE, tensors)
    if not token_types:
        tensors.pop(TYPES, None)  # MGCA leaves out what its encoder has no place for
    if depth is not None:
        tensors = {k: v for k, v in tensors.items() if not _beyond(k, depth)}
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return t.read(TABLE, tensors, t.model_shapes(Bert(**fields).init, ids, ids))


def _beyond(name: str, depth: int) -> bool:
    parts = name.split(".")
    return parts[:2] == ["encoder", "layer"] and int(parts[2]) >= depth


def to_torch(variables: dict) -> dict[str, np.ndarray]:
    """Tensors of BertModel(config, add_pooling_layer=False)."""
    return t.write(TABLE, variables)


def with_token_types(tensors: dict[str, np.ndarray], fields: dict) -> tuple[dict[str, np.ndarray], dict]:
    """Tensors and fields with a token-type table, which BertModel always has; of zeros, it says the same as none."""
    if fields["type_vocab"]:
        return tensors, fields
    return tensors | {TYPES: np.zeros((2, fields["width"]), np.float32)}, fields | {"type_vocab": 2}
