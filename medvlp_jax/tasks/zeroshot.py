"""Zero-shot classification: the probability of an entity, or prompt pairs, against finding labels.

MedKLIP protocol (arXiv 2301.02228, section 4): P(present) of the entity a finding maps to; AUC per finding and mean,
F1 at the best threshold, accuracy there. A method with text embeddings is also asked by prompt pairs (present, absent).
"""
import numpy as np

from medvlp_jax.reports import vocab
from medvlp_jax.tasks import calibration, cases, common, figures, kept, resampled, scores, subgroups

TASK = "zeroshot"

# Each template takes an entity phrase; the unit embeddings of a side are averaged and normalised again.
PRESENT = ("there is {}.", "findings are consistent with {}.", "{} is seen.", "the chest radiograph shows {}.")
ABSENT = ("there is no {}.", "no evidence of {}.", "no {} is seen.", "the chest radiograph shows no {}.")

# How a report writes entities whose vocabulary name is a lemma; every other name is its own phrase.
PHRASES = {
    "aerate": "aeration", "air": "free air", "blunt": "blunting of the costophrenic angle", "chf": "heart failure",
    "congestion": "vascular congestion", "crowd": "crowding", "degenerative": "degenerative change",
    "effusion": "pleural effusion", "elevation": "elevation of the diaphragm", "enlarge": "enlargement",
    "expand": "expansion", "hyperinflate": "hyperinflation", "infiltrate": "infiltration", "loss": "volume loss",
    "low": "low lung volume", "obscure": "obscuration", "picc": "picc line", "scar": "scarring",
    "tail_abnorm_obs": "other abnormality", "thicken": "pleural thickening", "tortuous": "tortuous aorta",
    "widen": "widening of the mediastinum",
}


def make(predict, context=common.DEFAULT, *, findings=None, min_positives: int = 1, resamples: int = 1000,
         seed: int = 0):
    """-> run(variables, batches) -> records.

    findings: names to evaluate; None takes every name in the examples' finding_labels that is an entity of the table.
    min_positives: a finding with fewer positive examples is left out of everything; 1 is the published protocol.
    resamples, seed: of the bootstrap by patient; 0 resamples gives no intervals.

    Records `auc_macro`, `auc/<finding>`, `ap_macro`, `f1_published`, `acc_published`, `ece` (mean over the findings) and, with
    context.validation, `f1_honest`, `acc_honest`, `ece_temperature_honest` (one temperature for all findings, fitted
    there); with embed_text and a tokenizer `auc_macro_prompts`, `auc_prompts/<finding>`; where examples have attributes
    `auc_macro[_prompts]/<attribute>=<group>`. A finding without both classes is in "skipped" with the reason and in no mean.

    Raises:
      ValueError: neither score_findings nor embed_text is there, or an asked finding is no entity.
    """
    common.chosen_rows(findings, context.entities)
    embeds = {"embed_image", "embed_text"} <= set(predict)
    prompts = embeds and context.tokenizer is not None
    if embeds and not prompts and "score_findings" not in predict:
        raise ValueError("this method has no score_findings, so it must be asked by prompts: give context.tokenizer")
    names = ("score_findings",) if "score_findings" in predict or not prompts else ()
    names += ("embed_image",) if prompts else ()
    image_fn = common.need(predict, *names)
    text_fn = common.need(predict, "embed_text") if prompts else None

    def run(variables, batches) -> list[dict]:
        data = _collect(image_fn, variables, batches, findings, context)
        names, skipped = _evaluable(data["labels"], data["names"], data["skipped"], min_positives)
        labels = data["labels"][:, [data["names"].index(n) for n in names]]  # (N, C)
        records, values = [], {}
        if "score_findings" in data:
            rows = [common.entity_row(n, context.entities) for n in names]
            values["scores"] = data["score_findings"][:, rows]  # (N, C)
            known = None
            if context.validation is not None:
                known = _collect(image_fn, variables, context.validation, findings, context)
            records += _auc_records(values["scores"], labels, names, data["patients"], "", resamples, seed, skipped)
            point = _point_records(known, names, rows, values["scores"], labels, skipped)
            records += _with_intervals(point, values["scores"], labels, names, data["patients"], resamples, seed)
            records += subgroups.auc_records(TASK, "auc_macro", data, labels, values["scores"], names, resamples, seed)
            common.draw(context.figures, "roc.png", lambda path: figures.roc(path, labels, values["scores"], names))
        asked = [c for c, n in enumerate(names) if vocab.lookup(n) not in vocab.NORMAL]
        if prompts and asked:
            skipped = skipped | {n: "normal: has no prompt pair" for c, n in enumerate(names) if c not in asked}
            own, truth = [names[c] for c in asked], labels[:, asked]
            found = data["embed_image"] @ prompt_directions(text_fn, variables, batches, own, context).T  # (N, C)
            asked_by = _auc_records(found, truth, own, data["patients"], "_prompts", resamples, seed, skipped)
            asked_by[0] |= {"present": PRESENT, "absent": ABSENT}
            records += asked_by
            records += subgroups.auc_records(TASK, "auc_macro_prompts", data, truth, found, own, resamples, seed)
            values["scores_prompts"] = np.full(labels.shape, np.nan, np.float32)
            values["scores_prompts"][:, asked] = found
        _keep(context, data, labels, names, values, batches)
        return records

    return run


def _keep(context, data, labels, names, values, batches) -> None:
    """Scores of every example, and pictures of the extreme ones by the entity scores (else by the prompts)."""
    groups = {name: data[name] for name in subgroups.ATTRIBUTES}
    kept.scores(context, TASK, {"id": data["id"], "patient": data["patients"], "names": np.asarray(names, dtype=str),
                                "labels": labels, **values, **groups})
    shown = next(iter(values.values()), np.zeros((len(labels), 0)))
    columns = np.flatnonzero(np.isfinite(shown).all(0))  # findings without a prompt pair have no score
    if len(columns):
        own = [names[c] for c in columns]
        kept.examples(context, TASK, lambda: _cards(data, labels[:, columns], shown[:, columns], own, batches))


def _cards(data, labels, values, names, batches) -> list[dict]:
    chosen = cases.extremes(labels, values, names, data["here"])
    found = cases.fetch(batches, {str(data["id"][row]) for _, row, _ in chosen})
    out = []
    for group, row, c in chosen:
        image, host = found[str(data["id"][row])]
        known = values[labels[:, c] >= 0, c]
        higher = int((known > values[row, c]).sum())
        title = f"{phrase(names[c])}: score {values[row, c]:.2f}, rank {higher + 1} of {len(known)}"
        out.append({"group": group, "id": data["id"][row], "image": image, "finding": names[c], "title": title,
                    **cases.truth(host, names[c])})
    return out


def _collect(fn, variables, batches, findings, context) -> dict:
    """Outputs of `fn`, labels (N, C) in {-1, 0, 1}, finding names, patients; of all processes."""
    outputs, hosts = common.collect(fn, variables, batches, put=context.put)
    if len(hosts) != len(next(iter(outputs.values()))):
        raise ValueError("zero-shot classification needs batch['host'] with finding_labels; the batches carry none")
    seen = sorted({n for h in hosts for n in h.get("finding_labels") or {}} | set(findings or ()))
    seen = sorted(set(common.gather({"names": np.asarray(seen, dtype=str)})["names"].tolist()))
    wanted = [n for n in seen if findings is None or n in findings]
    names = [n for n in wanted if common.entity_row(n, context.entities) is not None]
    labels = np.asarray([[_label(h, n) for n in names] for h in hosts], np.int8).reshape(len(hosts), len(names))
    who = common.origin(hosts)
    data = common.gather({**outputs, "labels": labels, **who, **subgroups.columns(hosts)})
    data["here"] = np.isin(data["id"], who["id"])  # read by this process, so that it can show them
    return {**data, "names": names, "skipped": {n: "not an entity of the table" for n in wanted if n not in names}}


def _label(example, name) -> int:
    value = (example.get("finding_labels") or {}).get(name, -1)
    return int(value) if value in (0, 1) else -1


def _evaluable(labels, names, skipped, min_positives):
    """Findings with both classes and enough positives, and why the others are left out."""
    skipped, kept = dict(skipped), []
    for c, name in enumerate(names):
        positive, negative = int((labels[:, c] == 1).sum()), int((labels[:, c] == 0).sum())
        if positive >= max(min_positives, 1) and negative:
            kept.append(name)
        elif positive and negative:
            skipped[name] = f"{positive} positive example(s), asked for {min_positives}"
        else:
            skipped[name] = "no positive example" if negative else "no negative example" if positive else "no label"
    if not kept:
        raise ValueError(f"no finding has both positive and negative examples: {skipped or 'no labels at all'}")
    return kept, skipped


def _known(values, labels, c):
    known = labels[:, c] >= 0
    return labels[known, c], values[known, c]


def _auc_records(values, labels, names, patients, suffix, resamples, seed, skipped):
    per_class = {n: scores.auc(*_known(values, labels, c)) for c, n in enumerate(names)}
    samples = np.full((0, len(names)), np.nan)
    if resamples:
        samples = scores.bootstrap_auc(labels, values, patients, resamples, seed)  # (R, C)
    counts = {n: {"n": int((labels[:, c] >= 0).sum()), "positives": int((labels[:, c] == 1).sum())}
              for c, n in enumerate(names)}
    more = {"resamples": resamples, "seed": seed, "ci_unit": "patient"}
    out = [common.record(TASK, f"auc_macro{suffix}", np.mean(list(per_class.values())), (labels >= 0).any(1).sum(),
                         chance=0.5, ci=scores.interval(scores.row_means(samples), patients), per_class=per_class,
                         skipped=skipped, **more)]
    for c, name in enumerate(names):
        ci = scores.interval(samples[:, c], patients)
        out.append(common.record(TASK, f"auc{suffix}/{name}", per_class[name], counts[name]["n"], chance=0.5, ci=ci,
                                 positives=counts[name]["positives"], **more))
    return out


def published(labels, values):
    """-> (F1, accuracy, threshold) with the threshold chosen on the test set and a strict `>` in the accuracy, as
    MedKLIP's program does: the two are not at the same operating point."""
    f1, threshold = scores.best_f1(labels, values)
    return f1, scores.accuracy_at(labels, values, threshold, strict=True), threshold


def _threshold_records(rows, variant, skipped, n):
    """rows: {finding: (f1, accuracy, threshold)} -> records of the two means; not defined without a finding."""
    thresholds = {name: row[2] for name, row in rows.items()}
    out = []
    for position, metric in enumerate(("f1", "acc")):
        per_class = {name: row[position] for name, row in rows.items()}
        mean = np.mean(list(per_class.values())) if per_class else float("nan")
        out.append(common.record(TASK, f"{metric}_{variant}", mean, n if per_class else 0, per_class=per_class,
                                 thresholds=thresholds, skipped=skipped))
    return out


def _point_records(validation, names, table_rows, values, labels, skipped) -> list[dict]:
    """What is not an AUC: average precision, F1 and accuracy at a threshold, calibration.

    validation: data of `_collect` or None, which gives no `honest` records.
    """
    best = {n: published(*_known(values, labels, c)) for c, n in enumerate(names)}
    records = [_mean_record("ap_macro", {n: scores.average_precision(*_known(values, labels, c)) for c, n in enumerate(names)},
                            len(labels), skipped)]
    records += _threshold_records(best, "published", skipped, len(labels))
    if validation is not None:
        records += _honest(validation, names, table_rows, values, labels, skipped)
    if not calibration.is_probability(values):
        return records
    error = {n: calibration.ece(*_known(values, labels, c)) for c, n in enumerate(names)}
    records.append(_mean_record("ece", error, len(labels), skipped, bins=calibration.BINS))
    if validation is not None:
        there = {n: validation["names"].index(n) for n in names if n in validation["names"]}
        pairs = [_known(validation["score_findings"][:, row, None], validation["labels"][:, there[n], None], 0)
                 for n, row in zip(names, table_rows, strict=True) if n in there]
        fitted = calibration.temperature(*map(np.concatenate, zip(*pairs, strict=True))) if pairs else float("nan")
        error = {n: calibration.ece(y, calibration.scaled(p, fitted)) if np.isfinite(fitted) else float("nan")
                 for n, (y, p) in ((n, _known(values, labels, c)) for c, n in enumerate(names))}
        records.append(_mean_record("ece_temperature_honest", error, len(labels), skipped, bins=calibration.BINS,
                                    temperature=fitted))
    return records


def _with_intervals(records, values, labels, names, patients, resamples, seed) -> list[dict]:
    """The records of `_point_records` with bootstrap intervals; thresholds and temperature stay as they are."""
    if not resamples:
        return records
    by_metric = {r["metric"]: r for r in records}
    thresholds = by_metric.get("f1_honest", {}).get("thresholds", {})
    samples = resampled.points(labels, values, patients, resamples, seed, [thresholds.get(n, np.nan) for n in names],
                               by_metric.get("ece_temperature_honest", {}).get("temperature", np.nan))
    nothing = np.zeros((0, len(names)))
    return [{**r, "ci": scores.interval(scores.row_means(samples.get(r["metric"], nothing)), patients),
             "resamples": resamples, "seed": seed, "ci_unit": "patient"} for r in records]


def _mean_record(metric, per_class, n, skipped, **extra) -> dict:
    return common.record(TASK, metric, np.mean(list(per_class.values())), n, per_class=per_class, skipped=skipped, **extra)


def _honest(validation, names, table_rows, values, labels, skipped):
    """F1 and accuracy of `score >= threshold`, the threshold being that of the best F1 on the validation data."""
    rows, skipped = {}, dict(skipped)
    for c, (name, row) in enumerate(zip(names, table_rows, strict=True)):
        there = name in validation["names"]
        column = validation["labels"][:, validation["names"].index(name)] if there else np.zeros(0)
        if not {0, 1} <= set(column.tolist()):
            skipped[name] = "validation lacks one of the classes"
            continue
        known = column >= 0
        threshold = scores.best_f1(column[known], validation["score_findings"][known, row])[1]
        y, s = _known(values, labels, c)
        rows[name] = scores.f1_at(y, s, threshold), scores.accuracy_at(y, s, threshold), threshold
    return _threshold_records(rows, "honest", skipped, len(labels))


def phrase(name: str) -> str:
    """Entity or label name -> the words put into a template."""
    return PHRASES.get(name, name.lower().replace("_", " "))


def prompt_directions(text_fn, variables, batches, names, context) -> np.ndarray:
    """Mean unit embedding of the present prompts minus that of the absent ones, (C, D): its dot product with an image
    embedding is the difference of the two similarities, which orders images as their softmax does."""
    first = next(common.start(batches))
    rows = len(first["image"])
    tokens = first["input_ids"].shape[1]
    texts = [t.format(phrase(n)) for n in names for t in PRESENT + ABSENT]
    encoded = [context.tokenizer.encode(t, tokens) for t in texts]
    table = {k: np.stack([e[k] for e in encoded]) for k in encoded[0]}  # (C * templates, M)

    def text_batches():
        """As many rows as an image batch, so that the same devices divide them; short ends are padding rows."""
        for at in range(0, len(texts), rows):
            part = {k: v[at:at + rows] for k, v in table.items()}
            n = len(next(iter(part.values())))
            padded = {k: np.concatenate([v, np.repeat(v[-1:], rows - n, 0)]) for k, v in part.items()}
            yield {**padded, "has_report": np.ones(rows, np.float32), "valid": (np.arange(rows) < n).astype(np.float32)}

    outputs, _ = common.collect(text_fn, variables, text_batches, put=context.put)
    sides = outputs["embed_text"].reshape(len(names), 2, len(PRESENT), -1).mean(2)  # (C, 2, D)
    sides = sides / np.maximum(np.linalg.norm(sides, axis=-1, keepdims=True), 1e-12)
    return sides[:, 0] - sides[:, 1]
