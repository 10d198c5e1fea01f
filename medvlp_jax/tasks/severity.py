"""Severity grading of a transfer run: ordinal grades 0 .. G-1 of one finding (EdemaSeverity's task)."""
import numpy as np
from sklearn.metrics import cohen_kappa_score

from medvlp_jax.tasks import common, kept, scores

TASK = "severity"


def make(predict, context=common.DEFAULT, *, resamples: int = 1000, seed: int = 0):
    """-> run(variables, batches) -> records.

    resamples, seed: of the bootstrap by patient; 0 resamples gives no intervals.

    `auc_macro` and `auc/<grade>`: of the probability of one grade against all others, as MedKLIP reports it;
    `auc_at_least/<k>`: of P(grade >= k) against that; `accuracy` of the likeliest grade; `mae` of the expected one;
    `kappa_quadratic` of the likeliest. Examples without a grade are left out.

    Raises:
      ValueError: grade cannot be predicted, or no example has a grade.
    """
    fn = common.need(predict, "grade")

    def run(variables, batches) -> list[dict]:
        renamed = lambda v, b: {"probability": fn(v, b)["grade"]}  # noqa: E731 - "grade" is the truth's name in the batch
        outputs, hosts = common.collect(renamed, variables, batches, ("grade",), put=context.put)
        data = common.gather({**outputs, **common.origin(hosts)})
        keep = data["grade"] >= 0
        p, grade, patients = data["probability"][keep], data["grade"][keep].astype(int), data["patients"][keep]
        if not len(grade):
            raise ValueError("no example has a grade")
        if grade.max() >= p.shape[1]:
            raise ValueError(f"the data have a grade {grade.max()}, the model knows 0 to {p.shape[1] - 1}: "
                             "set model.head.grades")
        grades = np.arange(p.shape[1])
        kept.scores(context, TASK, {"id": data["id"][keep], "patient": patients, "names": grades.astype(str),
                                    "labels": (grade[:, None] == grades).astype(np.int8), "scores": p})  # fmt: skip
        return grade_records(p, grade, patients, context.targets[0], resamples, seed)

    return run


def grade_records(p, grade, patients, name, resamples, seed) -> list[dict]:
    """Probabilities (N, G) and grades (N,) -> records."""
    grades = range(p.shape[1])
    more = {"finding": name, "ci_unit": "patient", "resamples": resamples}
    above = p[:, ::-1].cumsum(1)[:, ::-1]  # (N, G) P(grade >= k)
    one = {k: (grade == k, p[:, k]) for k in grades}
    least = {k: (grade >= k, above[:, k]) for k in grades if k}
    records, n, per_grade = [], len(grade), {}
    for metric, pairs in (("auc", one), ("auc_at_least", least)):
        for k, (label, score) in pairs.items():
            if not 0 < label.sum() < n:
                continue
            value, ci = scores.auc(label, score), None
            if resamples:
                drawn = scores.bootstrap_auc(label[:, None].astype(int), score[:, None], patients, resamples, seed)
                ci = scores.interval(drawn[:, 0], patients)
            count = int(label.sum())
            records.append(common.record(TASK, f"{metric}/{k}", value, n, chance=0.5, ci=ci, positives=count, **more))
            if metric == "auc":
                per_grade[k] = value
    macro = float(np.mean(list(per_grade.values()))) if per_grade else float("nan")
    likeliest, expected = p.argmax(1), p @ np.arange(p.shape[1])
    right, error = (likeliest == grade).astype(float), np.abs(expected - grade)
    kappa = cohen_kappa_score(grade, likeliest, labels=list(grades), weights="quadratic") if len(set(grade)) > 1 else np.nan
    often = np.bincount(grade).max() / n  # always the commonest grade
    return [
        common.record(TASK, "auc_macro", macro, n, chance=0.5, per_grade=per_grade, **more),
        *records,
        common.record(TASK, "accuracy", right.mean(), n, chance=float(often),
                      ci=scores.mean_interval(right, patients, resamples, seed), **more),
        common.record(TASK, "mae", error.mean(), n, ci=scores.mean_interval(error, patients, resamples, seed), **more),
        common.record(TASK, "kappa_quadratic", kappa, n, chance=0.0, **more),
    ]  # fmt: skip
