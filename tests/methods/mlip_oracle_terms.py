"""The terms of `mlip_oracle` one by one, in numpy and naive loops."""
from collections.abc import Callable

import numpy as np

from tests.methods.mlip_oracle_layers import cross_entropy, dense, fused, mean, softmax, unit

# ---- global contrast ----


def info_nce(a, b, temperature, rows, same: Callable[[int, int], bool], equal: str) -> float:
    """Both directions, averaged, over the rows that count.

    same(i, j): whether two rows have the same report. Our reading (`objective.equal_reports`): such rows are to each other
    "negatives"; "masked", neither positive nor negative; or "positives", of which the loss is averaged.
    """
    values = []
    for i in rows:
        others = [j for j in rows if j == i or not (equal == "masked" and same(i, j))]
        right = [k for k, j in enumerate(others) if j == i or (equal == "positives" and same(i, j))]
        for x, y in ((a, b), (b, a)):
            logits = np.array([x[i] @ y[j] for j in others]) / temperature
            values.append(mean([cross_entropy(logits, k) for k in right]))
    return mean(values)


def temperature_of(p, o) -> float:
    """Of the global contrast: fixed, or learned as its logarithm (our reading)."""
    return np.exp(p["learned_temperature"]["log_temperature"]) if o["learn_temperature"] else o["temperature"]


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

    Our reading: the two halves, swapped prediction and guidance, are each a mean over their two cross-entropies, and are added,
    guidance with a weight of its own.
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
        guided = [soft(of_knowledge[n], t[i]) / 2 + soft(of_knowledge[n], v[i]) / 2 for n, i in enumerate(known)]
        total += o["guidance_weight"] * mean(guided)
    return total


# ---- proxy tasks: trunks and draws as in mlip_oracle ----


def hard_negatives(v, t, ids, temperature, group, rows, draws) -> tuple[dict[int, int], dict[int, int]]:
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


def matching(trunks, mask, p, heads, rows, other_text: dict[int, int], other_image: dict[int, int]) -> float:
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


def swapping(trunks, mask, labels, p, heads, rows) -> float:
    """Per token of the swapped report, read together with the row's own image: 1 = from another report, -1 = no word."""
    values = []
    for b in rows:
        logits = dense(fused(trunks.swapped_tokens[b], trunks.patches[b], mask[b], p, heads), p["swapping_head"])
        for m in range(labels.shape[1]):
            if labels[b, m] >= 0:
                values.append(cross_entropy(logits[m], int(labels[b, m])))
    return mean(values)
