"""The layers of `mlip_oracle` in numpy: projections to the shared space, and the fusion module."""
import numpy as np

TINY = 1e-12


def unit(x):
    """x divided by its length over the last axis."""
    return x / np.maximum(np.sqrt((x * x).sum(-1, keepdims=True)), TINY)


def softmax(x):
    """Softmax of a vector."""
    e = np.exp(x - x.max())
    return e / e.sum()


def cross_entropy(logits, target: int) -> float:
    """-log softmax(logits)[target] of a vector."""
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target])


def mean(values: list) -> float:
    """Mean of a list; nothing to learn from is 0."""
    return float(np.mean(values)) if values else 0.0


def dense(x, p):
    """Linear layer."""
    return x @ p["kernel"] + p["bias"]


# ---- projections: 2-layer MLP, BatchNorm after each layer, the second without affine; padding is left out ----


def batch_norm(rows, p, running):
    """rows (R, C) by their own statistics (biased variance), or by the running ones; scale and bias where p has them."""
    centre, var = (rows.mean(0), rows.var(0)) if running is None else (running["mean"], running["var"])
    rows = (rows - centre) / np.sqrt(var + 1e-5)
    return rows * p["scale"] + p["bias"] if p else rows


def project(rows, p, running=None):
    """rows (R, W) that count -> (R, D) unit vectors. running: statistics of evaluation, None for those of the batch."""
    part = (lambda name: None) if running is None else running.get
    hidden = np.maximum(batch_norm(dense(rows, p["dense1"]), p["norm1"], part("norm1")), 0)
    return unit(batch_norm(dense(hidden, p["dense2"]), None, part("norm2")))


def project_rows(x, counts, p, running=None):
    """x (B, W): the rows that count are projected together, the others stay zero -> (B, D)."""
    out = np.zeros((len(x), p["dense2"]["bias"].shape[0]))
    out[counts] = project(x[counts], p, running)
    return out


def words_of(tokens, attention, word_ids):
    """One report: pieces of a word are summed, so is the attention they get; special tokens are no words -> two lists."""
    vectors, weights = [], []
    for word in range(word_ids.max() + 1):
        vectors.append(sum(tokens[m] for m in range(len(word_ids)) if word_ids[m] == word))
        weights.append(sum(attention[m] for m in range(len(word_ids)) if word_ids[m] == word))
    return vectors, weights


def entity_embeddings(p, table):
    """Knowledge table (K, E) -> e_k, (K, D) unit vectors."""
    return unit(dense(table, p["entity_projection"]))


# ---- proxy tasks on one fusion module: text tokens are queries, patches are memory; pre-norm decoder as MedKLIP's ----


def layer_norm(x, p):
    """Over the last axis."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def attention(x, memory, p, heads, counts):
    """Multi-head attention of x (T, C) over the memory (S, C); counts (S,): which of it may be read."""
    q, k, v = dense(x, p["query"]), dense(memory, p["key"]), dense(memory, p["value"])
    width = q.shape[1] // heads
    out = np.zeros_like(q)
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        for i in range(len(x)):
            a = softmax(np.where(counts, k[:, part] @ q[i, part] / np.sqrt(width), -np.inf))
            out[i, part] = a @ v[:, part]
    return dense(out, p["out"])


def fused(tokens, patches, mask, p, heads):
    """One report (M, W) that reads one image (N, W) -> (M, C); padding is not read."""
    x, memory = dense(tokens, p["fusion_text"]), dense(patches, p["fusion_image"])
    everything = np.ones(len(memory), bool)
    for name in sorted(n for n in p["fusion"] if n.startswith("layer")):
        layer = p["fusion"][name]
        y = layer_norm(x, layer["norm_self"])
        x = x + attention(y, y, layer["self_attention"], heads, mask > 0)
        x = x + attention(layer_norm(x, layer["norm_cross"]), memory, layer["cross_attention"], heads, everything)
        y = np.maximum(dense(layer_norm(x, layer["norm_mlp"]), layer["mlp_in"]), 0)
        x = x + dense(y, layer["mlp_out"])
    return layer_norm(x, p["fusion"]["norm"])
