"""Supervised classification of a transfer run: AUC and accuracy of its targets against their labels."""
import numpy as np

from medvlp_jax.tasks import common, figures, kept, scores, subgroups

TASK = "classification"


def make(predict, context=common.DEFAULT, *, resamples: int = 1000, seed: int = 0):
    """-> run(variables, batches) -> records.

    resamples, seed: of the bootstrap by patient; 0 resamples gives no intervals.

    Records of `label_records` on "classify" and batch["finding_labels"], and the mean AUC of subgroups.

    Raises:
      ValueError: classify cannot be predicted.
    """
    fn = common.need(predict, "classify")

    names = list(context.targets)

    def run(variables, batches) -> list[dict]:
        outputs, hosts = common.collect(fn, variables, batches, ("finding_labels",), put=context.put)
        data = common.gather({**outputs, **common.origin(hosts), **subgroups.columns(hosts)})
        values, labels = data["classify"], data["finding_labels"]
        records, shown = label_records(TASK, values, labels, names, data["patients"], resamples, seed)
        if shown:
            at = [names.index(n) for n in shown]
            records += subgroups.auc_records(TASK, "auc_macro", data, labels[:, at], values[:, at], shown, resamples, seed)
            common.draw(context.figures, "classification_roc.png",
                        lambda path: figures.roc(path, labels[:, at], values[:, at], shown))  # fmt: skip
        groups = {name: data[name] for name in subgroups.ATTRIBUTES}
        kept.scores(context, TASK, {"id": data["id"], "patient": data["patients"], "names": np.asarray(names, dtype=str),
                                    "labels": labels, "scores": values, **groups})  # fmt: skip
        return records

    return run


def label_records(task, values, labels, names, patients, resamples=1000, seed=0) -> tuple[list[dict], list[str]]:
    """Probabilities (N, C) and labels (N, C) in {-1, 0, 1} -> (records, the names with both classes).

    `auc_macro`, `auc/<name>`, `accuracy` (mean over the names, at 0.5, known labels only) and, where every example has exactly
    one of the targets (COVIDx), `accuracy_top1`. A name without both classes is in "skipped" and in no mean.
    """
    counts = [[int((labels[:, c] == v).sum()) for v in (0, 1)] for c in range(len(names))]
    kept = [c for c, both in enumerate(counts) if all(both)]
    skipped = {names[c]: f"{n} negative, {p} positive" for c, (n, p) in enumerate(counts) if c not in kept}
    more = {"skipped": skipped, "ci_unit": "patient", "resamples": resamples, "seed": seed}
    records, n = [], int((labels[:, kept] >= 0).any(1).sum())
    known = labels >= 0
    per_class = {names[c]: scores.auc(labels[known[:, c], c], values[known[:, c], c]) for c in kept}
    samples = scores.bootstrap_auc(labels[:, kept], values[:, kept], patients, resamples, seed) if resamples and kept else None
    macro, each = None, {}
    if samples is not None:
        macro = scores.interval(scores.row_means(samples), patients)  # a resample that lost a class: mean of the others
        each = {names[c]: scores.interval(samples[:, i], patients) for i, c in enumerate(kept)}
    mean = float(np.mean(list(per_class.values()))) if kept else float("nan")
    records.append(common.record(task, "auc_macro", mean, n, chance=0.5, ci=macro, per_class=per_class, **more))
    for c in kept:
        name = names[c]
        records.append(common.record(task, f"auc/{name}", per_class[name], sum(counts[c]), chance=0.5, ci=each.get(name),
                                     positives=counts[c][1], **more))  # fmt: skip
    right = np.where(known, (values > 0.5) == (labels == 1), np.nan)[:, kept]
    own = np.nansum(right, 1) / np.maximum(np.isfinite(right).sum(1), 1)
    own = np.where(np.isfinite(right).any(1), own, np.nan)
    records.append(common.record(task, "accuracy", np.nanmean(own) if n else np.nan, n, threshold=0.5,
                                 ci=scores.mean_interval(own, patients, resamples, seed), **more))  # fmt: skip
    if len(names) > 1 and known.all() and ((labels == 1).sum(1) == 1).all():
        hit = (values.argmax(1) == labels.argmax(1)).astype(float)
        records.append(common.record(task, "accuracy_top1", hit.mean(), n, chance=1 / len(names),
                                     ci=scores.mean_interval(hit, patients, resamples, seed), **more))  # fmt: skip
    return records, [names[c] for c in kept]
