"""MLIP's objective once more, in numpy and naive loops, written from its specification and FIDELITY.md.

Start: what the two trunks give for a batch, the parameters, and the random draws. End: the seven terms. Nothing of
medvlp_jax is used. Rows, words and entities are looped over, so that an index can be read off. float64 throughout.

Where the specification is silent a comment says "our reading".
"""
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

TINY = 1e-12


class Trunks(NamedTuple):
    """Outputs of the trunks for a batch of B images and reports."""

    image: np.ndarray  # (B, W) class token, or the pooled last stage
    patches: np.ndarray  # (B, N, W)
    patch_attention: np.ndarray | None  # (B, N) from the class token in the last block; a ResNet has none
    text: np.ndarray  # (B, W) [CLS]
    tokens: np.ndarray  # (B, M, W) word pieces, [CLS] first
    token_attention: np.ndarray  # (B, M) from [CLS] in the last block
    swapped_tokens: np.ndarray  # (B, M, W) of the report with an exchanged sentence


class Draws(NamedTuple):
    """Everything random in one step without dropout."""

    image_noise: np.ndarray  # (B, D) standard normal, divergence encoder of the images
    text_noise: np.ndarray  # (B, D)
    text_gumbel: np.ndarray  # (G, g, g) standard Gumbel: image i of a group draws report j
    image_gumbel: np.ndarray  # (G, g, g): report i draws image j


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


# ---- global contrast ----


def info_nce(a, b, temperature, rows, negative: Callable[[int, int], bool]) -> float:
    """Both directions, averaged, over the rows that count; negative(i, j): whether row j is a negative of row i."""
    values = []
    for i in rows:
        others = [j for j in rows if j == i or negative(i, j)]
        where = others.index(i)
        values.append(cross_entropy(np.array([a[i] @ b[j] for j in others]) / temperature, where))
        values.append(cross_entropy(np.array([b[i] @ a[j] for j in others]) / temperature, where))
    return mean(values)


def temperature_of(p, o) -> float:
    """Of the global contrast: fixed, or learned as its logarithm, at least 0.01 (our reading, as in CLIP)."""
    return max(np.exp(p["learned_temperature"]["log_temperature"]), 0.01) if o["learn_temperature"] else o["temperature"]


def divergence(z, noise, p, sigma0):
    """-> divergent view (B, D), mu, log sigma^2. log sigma^2 is learned as an offset to the prior's (our reading)."""
    hidden = np.maximum(dense(z, p["hidden_layer"]), 0)
    mu, log_var = dense(hidden, p["mu"]), 2 * np.log(sigma0) + dense(hidden, p["log_var_offset"])
    return unit(z + mu + np.sqrt(np.exp(log_var)) * noise), mu, log_var


def kl(mu, log_var, sigma0, rows) -> float:
    """KL(N(mu, sigma^2) || N(0, sigma0^2)) in nats: summed over D, averaged over the rows."""
    values = []
    for i in rows:
        variance = np.exp(log_var[i])
        values.append((np.log(sigma0) - 0.5 * log_var[i] + (variance + mu[i] ** 2) / (2 * sigma0**2) - 0.5).sum())
    return mean(values)


# ---- local: token <-> patch, with knowledge ----


def gated(word, entities, present, gate, temperature):
    """normalize(w + g sum_k a_k e_k) of one word; `present` lists its report's entities.

    Our reading: a is a softmax of w.e_k / local temperature, g a sigmoid of a linear layer of [w, sum_k a_k e_k].
    """
    if not present:
        return word
    a = softmax(np.array([word @ entities[k] for k in present]) / temperature)
    context = sum(a[i] * entities[k] for i, k in enumerate(present))
    g = 1 / (1 + np.exp(-dense(np.concatenate([word, context]), gate)[0]))
    return unit(word + g * context)


def clipped(weights):
    """Clipped to the 10th and 90th percentile (linear between neighbours), then divided by the sum."""
    weights = np.asarray(weights)
    order = np.sort(weights)

    def percentile(q):
        at = q / 100 * (len(order) - 1)
        low = int(np.floor(at))
        return order[low] + (at - low) * (order[min(low + 1, len(order) - 1)] - order[low])

    weights = np.minimum(np.maximum(weights, percentile(10)), percentile(90))
    return weights / weights.sum()


def attended(query, keys, temperature):
    """sum_s softmax_s(q.k / temperature) k_s, as a unit vector."""
    a = softmax(np.array([query @ k for k in keys]) / temperature)
    return unit(sum(a[s] * keys[s] for s in range(len(keys))))


def one_side(queries, keys, weights, temperature) -> float:
    """Each query against what all queries of its example read; own reading is right. Weighted; mean of both directions."""
    read = [attended(q, keys, temperature) for q in queries]
    total = 0.0
    for i in range(len(queries)):
        total += weights[i] * cross_entropy(np.array([queries[i] @ r for r in read]) / temperature, i) / 2
        total += weights[i] * cross_entropy(np.array([read[i] @ q for q in queries]) / temperature, i) / 2
    return total


def alignment(words, word_weights, patches, patch_weights, temperature) -> float:
    """Token -> patch plus patch -> token. words and their weights: one list a row, empty for rows that do not count.

    patch_weights: (B, N) attention, None for a ResNet: uniform.

    Our reading: the mean is over the reports that have a word.
    """
    values = []
    for b in range(len(words)):
        if words[b]:
            n = len(patches[b])
            of_patches = np.full(n, 1 / n) if patch_weights is None else clipped(patch_weights[b])
            value = one_side(words[b], patches[b], clipped(word_weights[b]), temperature)
            values.append(value + one_side(patches[b], words[b], of_patches, temperature))
    return mean(values)


def knowledge_patch(entities, patches, p, temperature):
    """-> heat maps (B, K, N) = softmax_n(e.p / temperature), scores (B, K) = scale e.p^ + bias (learned scalars)."""
    maps = np.zeros((len(patches), len(entities), patches.shape[1]))
    scores = np.zeros(maps.shape[:2])
    for b in range(len(patches)):
        for k in range(len(entities)):
            maps[b, k] = softmax(np.array([entities[k] @ x for x in patches[b]]) / temperature)
            read = unit(sum(maps[b, k, n] * patches[b, n] for n in range(len(patches[b]))))
            scores[b, k] = p["logit_scale"] * (entities[k] @ read) + p["logit_bias"]
    return maps, scores


def existence(scores, labels, rows) -> float:
    """Sigmoid loss over the entities stated as present (1) or absent (0); not mentioned (-1), uncertain (2) are left out."""
    values = []
    for b in rows:
        for k in range(labels.shape[1]):
            if labels[b, k] in (0, 1):
                p = 1 / (1 + np.exp(-scores[b, k]))
                values.append(-np.log(p if labels[b, k] == 1 else 1 - p))
    return mean(values)


# ---- category ----


def sinkhorn(scores, epsilon, iterations):
    """Codes of scores (R, C): equal share of every prototype, then of every row, repeated; rows sum to 1."""
    q = np.exp((scores - scores.max()) / epsilon)
    q /= q.sum()
    rows, prototypes = q.shape
    for _ in range(iterations):
        q = q / q.sum(0, keepdims=True) / prototypes
        q = q / q.sum(1, keepdims=True) / rows
    return q * rows


def category(v, t, knowledge, prototypes, o, rows, fixed: dict) -> float:
    """Swapped prediction v <-> t; `knowledge` (row -> unit vector, of rows with entities) gives codes that supervise both.

    Our reading: the two halves, swapped prediction and guidance, are each a mean over their two cross-entropies, and are added.
    """
    c = unit(prototypes)
    rows = list(rows)
    if not rows:
        return 0.0

    def codes(name, x):
        if name not in fixed:
            fixed[name] = sinkhorn(np.array([c @ z for z in x]), o["sinkhorn_epsilon"], o["sinkhorn_iterations"])
        return fixed[name]

    def soft(code, z):
        logits = c @ z / o["prototype_temperature"]
        return sum(code[k] * cross_entropy(logits, k) for k in range(len(c)))

    of_image, of_text = codes("image", [v[i] for i in rows]), codes("text", [t[i] for i in rows])
    swapped = [soft(of_image[n], t[i]) / 2 + soft(of_text[n], v[i]) / 2 for n, i in enumerate(rows)]
    total = mean(swapped)
    known = [i for i in rows if i in knowledge]
    if known:
        of_knowledge = codes("knowledge", [knowledge[i] for i in known])
        total += mean([soft(of_knowledge[n], t[i]) / 2 + soft(of_knowledge[n], v[i]) / 2 for n, i in enumerate(known)])
    return total


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


def hard_negatives(v, t, ids, temperature, group, rows, draws: Draws) -> tuple[dict[int, int], dict[int, int]]:
    """-> report drawn for an image, image drawn for a report, by row. Rows without a candidate are missing.

    Candidates: rows of the same `group` consecutive rows that have another report. Probability: softmax of the similarity
    of image and report / temperature, drawn as the largest similarity plus Gumbel noise.
    """
    texts, images = {}, {}
    for i in rows:
        g, first = i // group, i // group * group
        found = [j for j in range(first, first + group) if j in rows and (ids[i] != ids[j]).any()]
        if found:
            of_texts = [v[i] @ t[j] / temperature + draws.text_gumbel[g, i - first, j - first] for j in found]
            of_images = [v[j] @ t[i] / temperature + draws.image_gumbel[g, i - first, j - first] for j in found]
            texts[i], images[i] = found[int(np.argmax(of_texts))], found[int(np.argmax(of_images))]
    return texts, images


def matching(trunks: Trunks, mask, p, heads, rows, other_text: dict[int, int], other_image: dict[int, int]) -> float:
    """True pairs (class 1), image with another report, report with another image (class 0).

    Our reading: the mean of three means, so that a third of the weight is on true pairs.
    """

    def loss(text, image, label):
        cls = fused(trunks.tokens[text], trunks.patches[image], mask[text], p, heads)[0]
        return cross_entropy(dense(cls, p["matching_head"]), label)

    true = mean([loss(b, b, 1) for b in rows])
    wrong_text = mean([loss(other, b, 0) for b, other in other_text.items()])
    wrong_image = mean([loss(b, other, 0) for b, other in other_image.items()])
    return (true + wrong_text + wrong_image) / 3


def swapping(trunks: Trunks, mask, labels, p, heads, rows) -> float:
    """Per token of the swapped report, read together with the row's own image: 1 = from another report, -1 = no word."""
    values = []
    for b in rows:
        logits = dense(fused(trunks.swapped_tokens[b], trunks.patches[b], mask[b], p, heads), p["swapping_head"])
        for m in range(labels.shape[1]):
            if labels[b, m] >= 0:
                values.append(cross_entropy(logits[m], int(labels[b, m])))
    return mean(values)


# ---- assembly ----


class Embedded(NamedTuple):
    """Unit embeddings; v, t and patches of rows that do not count are zero, words a list a row."""

    v: np.ndarray  # (B, D)
    t: np.ndarray  # (B, D)
    patches: np.ndarray  # (B, N, D)
    words: list
    word_weights: list
    entities: np.ndarray  # (K, D)


def embed(p, table, trunks: Trunks, batch, images, reports, running=None) -> Embedded:
    """images, reports (B,) bool: rows whose image or report counts. running: BatchNorm statistics of evaluation."""
    part = (lambda name: None) if running is None else running.get
    b, n, width = trunks.patches.shape
    patches = project_rows(trunks.patches.reshape(b * n, width), np.repeat(images, n), p["patch_head"], part("patch_head"))
    split = [words_of(trunks.tokens[i], trunks.token_attention[i], batch["word_ids"][i]) for i in range(b)]
    split = [s if reports[i] else ([], []) for i, s in enumerate(split)]
    flat = [w for words, _ in split for w in words]
    flat = iter(project(np.array(flat), p["token_head"], part("token_head")) if flat else [])
    words = [[next(flat) for _ in words] for words, _ in split]
    return Embedded(
        project_rows(trunks.image, images, p["image_head"], part("image_head")),
        project_rows(trunks.text, reports, p["text_head"], part("text_head")),
        patches.reshape(b, n, -1), words, [w for _, w in split], entity_embeddings(p, table),
    )  # fmt: skip


def terms(p, table, trunks: Trunks, batch, draws: Draws, o, heads: int, codes: dict | None = None) -> dict[str, float]:
    """The seven terms of one training step, unweighted.

    Every row has an image; only those with has_report have a text. A training batch is never padded: a padded row, as
    evaluation has them, is a black image without labels and report, and counts as such (our reading).

    Args:
      p: parameters as nested dicts of numpy; o: `config.objective`; heads: of the fusion module.
      codes: filled with the codes of the category term, or, if they are there, read instead of computed: they have no
        gradient.
    """
    reports = batch["has_report"] > 0
    images, pairs = np.ones_like(reports), [int(i) for i in np.flatnonzero(reports)]
    e = embed(p, table, trunks, batch, images, reports)
    sigma0 = 0.3 / np.sqrt(e.v.shape[1])
    present = [[k for k in range(len(e.entities)) if batch["labels"][b, k] == 1] for b in range(len(images))]
    out = {}

    views = [(e.v, e.t)]
    if o["divergence"]:
        v2, mu_v, log_v = divergence(e.v, draws.image_noise, p["image_divergence"], sigma0)
        t2, mu_t, log_t = divergence(e.t, draws.text_noise, p["text_divergence"], sigma0)
        views += [(v2, e.t), (e.v, t2), (v2, t2)]
        # Our reading: the mean of both encoders' KL terms.
        out["kl"] = (kl(mu_v, log_v, sigma0, range(len(images))) + kl(mu_t, log_t, sigma0, pairs)) / 2
    everyone = lambda i, j: True  # noqa: E731
    out["global_contrast"] = mean([info_nce(a, b, temperature_of(p, o), pairs, everyone) for a, b in views])

    words = e.words
    if o["knowledge_gate"]:
        read = lambda w, b: gated(w, e.entities, present[b], p["gate"], o["local_temperature"])  # noqa: E731
        words = [[read(w, b) for w in row] for b, row in enumerate(words)]
    out["alignment"] = alignment(words, e.word_weights, e.patches, trunks.patch_attention, o["local_temperature"])
    _, scores = knowledge_patch(e.entities, e.patches, p["knowledge_score"], o["local_temperature"])
    out["knowledge_patch"] = existence(scores, batch["labels"], range(len(images)))

    # Our reading: uncertain entities are not among the present ones.
    knowledge = {b: unit(sum(e.entities[k] for k in present[b])) for b in pairs if present[b]} if o["category_guidance"] else {}
    out["category"] = category(e.v, e.t, knowledge, p["category"]["prototypes"], o, pairs, {} if codes is None else codes)

    # Our reading: hard negatives are drawn with the configured temperature, learned or not.
    others = hard_negatives(e.v, e.t, batch["input_ids"], o["temperature"], o["matching_group"], pairs, draws)
    out["matching"] = matching(trunks, batch["attention_mask"], p, heads, pairs, *others)
    out["swapping"] = swapping(trunks, batch["swapped_mask"], batch["swapped_labels"], p, heads, pairs)
    return out


def total(values: dict[str, float], weights) -> float:
    """Weighted sum of the terms."""
    return sum(weights[name] * value for name, value in values.items())
