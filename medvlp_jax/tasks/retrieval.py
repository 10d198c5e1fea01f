"""Image <-> report retrieval over the full gallery: recall@k, median rank, precision by category.

Ranks are counted block by block, so memory is O(block x N), never N x N. Ties are counted pessimistically: every other
item at least as similar as the true one stands before it, so constant embeddings get recall 0, not luck. Reports that
are word for word equal therefore count against each other; `duplicates` in the records says how many there are.
"""
import hashlib

import numpy as np

from medvlp_jax.tasks import cases, common, kept, scores, subgroups

TASK = "retrieval"
TIE = 1e-6  # similarities closer than float32 rounding of a dot product of unit vectors are equal
BLOCK = 512  # queries at a time: 512 x 100,000 similarities are 200 MB


def make(predict, context=common.DEFAULT, *, gallery: int | None = None, ks=(1, 5, 10), precision_ks=(5, 10, 100),
         categories=None, resamples: int = 1000, seed: int = 0):
    """-> run(variables, batches) -> records `i2t_recall@k`, `t2i_recall@k`, `*_median_rank`, `*_precision@k`.

    gallery: None ranks each query among all N; a number averages over disjoint galleries of that size drawn once with
      `seed` (the remainder is left out and n says so). Fewer pairs than that: one gallery of all, see "gallery".
    categories: finding names for precision by category (CheXpert 5x200 style); None takes all findings. Only examples
      with exactly one positive among them take part; an item is relevant if it has the query's category.

    Where examples have attributes, `i2t_recall@k/<attribute>=<group>` for the middle one of `ks`.

    Raises:
      ValueError: embed_image or embed_text cannot be predicted.
    """
    fn = common.need(predict, "embed_image", "embed_text")

    def run(variables, batches) -> list[dict]:
        data = _collect(fn, variables, batches, categories, context)
        image, text, n = data["embed_image"], data["embed_text"], len(data["embed_image"])
        size = min(gallery or n, n)
        groups = [np.arange(n)]
        if size < n:
            order = np.random.default_rng(seed).permutation(n)
            groups = [order[i:i + size] for i in range(0, n - size + 1, size)]
        used = np.concatenate(groups)
        pairs = [ranks(image[g], text[g]) for g in groups]
        duplicates = n - len(np.unique(data["reports"]))
        extra = {"gallery": size, "galleries": len(groups), "duplicates": duplicates}
        rank_of = {d: np.concatenate([p[side] for p in pairs]) for side, d in enumerate(("i2t", "t2i"))}  # (used,)
        who = {k: data[k][used] for k in ("id", "patients", *subgroups.ATTRIBUTES)}
        records = []
        for direction, rank in rank_of.items():
            for k in ks:
                hits = (rank <= k).astype(np.float64)
                ci = scores.mean_interval(hits, data["patients"][used], resamples, seed)
                records.append(common.record(TASK, f"{direction}_recall@{k}", hits.mean(), len(rank),
                                             chance=min(k / size, 1.0), ci=ci, **extra))
            ci = None
            if resamples:
                ci = scores.interval(scores.bootstrap_median(rank, who["patients"], resamples, seed), who["patients"])
            records.append(common.record(TASK, f"{direction}_median_rank", np.median(rank), len(rank),
                                         chance=(size + 1) / 2, ci=ci, **extra))
        k = sorted(ks)[len(ks) // 2]
        records += subgroups.mean_records(TASK, f"i2t_recall@{k}", who, rank_of["i2t"] <= k, resamples, seed)
        kept.scores(context, TASK, {"patient": who.pop("patients"), **who, "gallery": np.asarray(size),
                                    **{f"rank_{d}": r for d, r in rank_of.items()}})
        kept.examples(context, TASK, lambda: _cards(data, groups[0], pairs[0][0], batches))
        return records + _category_records(image, text, data["category"], precision_ks, data["patients"], resamples, seed)

    return run


def _collect(fn, variables, batches, categories, context) -> dict:
    """Embeddings, patients, reports and categories of the examples that have a report, of all processes."""
    outputs, hosts = common.collect(fn, variables, batches, put=context.put)
    keep = [i for i, h in enumerate(hosts) if (h.get("report") or "").strip()]
    data = {k: v[keep] for k, v in outputs.items()}
    hosts = [hosts[i] for i in keep]
    texts = (h["report"].strip().encode() for h in hosts)
    data["reports"] = np.asarray([hashlib.blake2b(t, digest_size=16).hexdigest() for t in texts], dtype=str)
    data["category"] = np.asarray([_category(h, categories) for h in hosts], dtype=str)
    data = common.gather({**data, **common.origin(hosts), **subgroups.columns(hosts)})
    data["texts"] = {str(h.get("id", "")): h["report"].strip() for h in hosts}  # of this process only
    if len(data["patients"]) < 2:
        raise ValueError(f"retrieval needs at least 2 examples with a report; the batches have {len(data['patients'])}")
    return data


def _category(example, categories) -> str:
    """The only positive finding, or "" if there is none or several."""
    labels = example.get("finding_labels") or {}
    positive = [n for n, v in labels.items() if v == 1 and (categories is None or n in categories)]
    return positive[0] if len(positive) == 1 else ""


def ranks(image: np.ndarray, text: np.ndarray, block: int = BLOCK) -> tuple[np.ndarray, np.ndarray]:
    """-> (rank of each image's own report, rank of each report's own image), both (N,) from 1, ties pessimistic.

    image, text: (N, D), row i of both is a pair. One pass of row blocks serves both directions.
    """
    n = len(image)
    image, text = np.asarray(image, np.float32), np.asarray(text, np.float32)
    need = np.einsum("nd,nd->n", image, text) - np.float32(TIE)  # (N,)
    i2t, t2i = np.ones(n, np.int64), np.ones(n, np.int64)
    for at in range(0, n, block):
        rows = np.arange(at, min(at + block, n))
        similar = image[rows] @ text.T  # (b, N)
        similar[np.arange(len(rows)), rows] = -np.inf  # the pair itself is no competitor
        i2t[rows] += (similar >= need[rows, None]).sum(1)
        t2i += (similar >= need[None]).sum(0)
    return i2t, t2i


def category_precision(queries, gallery, category, ks, block: int = BLOCK) -> dict[int, np.ndarray]:
    """Share of each query's k most similar items that have its category, {k: (N,)}; among ties, others come first.

    queries, gallery: (N, D), category (N,) integers for both; the query's own pair is part of the gallery (5x200).
    """
    queries, gallery = np.asarray(queries, np.float32), np.asarray(gallery, np.float32)
    parts = {k: [] for k in ks}
    for at in range(0, len(queries), block):
        relevant = category[at:at + block, None] == category[None]  # (b, N)
        key = queries[at:at + block] @ gallery.T - np.float32(TIE) * relevant  # (b, N)
        top = np.argpartition(-key, max(ks) - 1, axis=1)[:, :max(ks)] if max(ks) < key.shape[1] else None
        top = np.argsort(-key, axis=1) if top is None else np.take_along_axis(
            top, np.argsort(-np.take_along_axis(key, top, 1), axis=1), 1)
        hits = np.take_along_axis(relevant, top, 1)  # (b, K) best first
        for k in ks:
            parts[k].append(hits[:, :k].mean(1))
    return {k: np.concatenate(v) for k, v in parts.items()}


def _cards(data, group, rank, batches, count: int = 2, top: int = 3, longest: int = 600) -> list[dict]:
    """Images of one gallery with the reports that are nearest to them: some of the best, middle and worst ranks.

    group (G,): rows of the gallery in `data`; rank (G,): of each image's own report.
    """
    order = [i for i in np.argsort(rank, kind="stable") if str(data["id"][group[i]]) in data["texts"]]
    middle = max((len(order) - count) // 2, 0)
    picked = list(dict.fromkeys([*order[:count], *order[middle:middle + count], *order[-count:]]))
    found = cases.fetch(batches, {str(data["id"][group[i]]) for i in picked})
    out = []
    for i in picked:
        own = str(data["id"][group[i]])
        similar = data["embed_text"][group] @ data["embed_image"][group[i]]
        near = [group[j] for j in np.argsort(-similar, kind="stable")[:top]]
        reports = [data["texts"].get(str(data["id"][j]), "(held by another process)")[:longest] for j in near]
        text = {"own": data["texts"][own][:longest], "rank": int(rank[i]), "gallery": len(group),
                "nearest": [{"report": r, "own": bool(j == group[i])} for r, j in zip(reports, near, strict=True)]}
        out.append({"group": "Reports nearest to an image", "id": own, "image": found[own][0], "text": text,
                    "title": f"own report: rank {int(rank[i])} of {len(group)}"})
    return out


def _category_records(image, text, category, ks, patients, resamples, seed) -> list[dict]:
    """Precision@k both ways where at least two categories have at least two single-finding examples each."""
    names, counts = np.unique(category[category != ""], return_counts=True)
    names = names[counts > 1]
    keep = np.flatnonzero(np.isin(category, names))
    ks = [k for k in ks if k <= len(keep)]
    if len(names) < 2 or not ks:
        return []
    label = np.searchsorted(names, category[keep])
    chance = float(np.mean(np.bincount(label)[label] / len(keep)))
    records = []
    for direction, queries, gallery in (("i2t", image, text), ("t2i", text, image)):
        for k, values in category_precision(queries[keep], gallery[keep], label, ks).items():
            per_class = {str(n): float(values[label == c].mean()) for c, n in enumerate(names)}
            ci = scores.mean_interval(values, patients[keep], resamples, seed)
            records.append(common.record(TASK, f"{direction}_precision@{k}", values.mean(), len(keep), chance=chance, ci=ci,
                                         per_class=per_class, gallery=len(keep)))
    return records
