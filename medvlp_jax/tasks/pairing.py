"""Two evaluations side by side: which examples they share, and the difference (b - a) of every metric with its test."""
import numpy as np

from medvlp_jax.tasks import comparison, page_parts
from medvlp_jax.tasks.evaluation import Evaluation

WHOLE = ("names", "gallery")  # arrays of a score file that have no row an example

def matched(a: dict, b: dict, task: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Rows of the score arrays `a` and `b` that are the same example, (n,) each.

    Raises:
      ValueError: identifiers that are not unique, no example in common, or examples whose patients differ.
    """
    for arrays in (a, b):
        if len(np.unique(arrays["id"])) < len(arrays["id"]):
            raise ValueError(f"{task}: some examples have the same identifier, so that two evaluations cannot be matched")
    _, rows, others = np.intersect1d(a["id"], b["id"], return_indices=True)
    if not len(rows):
        raise ValueError(f"{task}: the two evaluations have no example in common ({len(a['id'])} and {len(b['id'])})")
    if (a["patient"][rows] != b["patient"][others]).any():
        raise ValueError(f"{task}: the same examples belong to other patients in the two evaluations")
    return rows, others


def compare(a: Evaluation, b: Evaluation, resamples: int = 1000, seed: int = 0) -> dict:
    """-> {"tasks": {task: {"n", "of": [n_a, n_b], "rows": [...], "classes": {metric: [...]}}}, "left_out": {task: reason}}.

    rows and classes are as in tasks/comparison.py, with "metric" beside. A metric that needs more than one value an
    example to be computed (F1, calibration) has its two values and no test.

    Raises:
      ValueError: no task can be compared, with the reasons.
    """
    for key in ("dataset", "split"):
        if a.place[key] != b.place[key]:
            raise ValueError(f"{a.name} was evaluated on {key} {a.place[key]!r}, {b.name} on {b.place[key]!r}: evaluate both "
                             "on the same data first")
    out, left_out = {}, {}
    for task in dict.fromkeys([*a.tasks, *b.tasks]):
        try:
            if not (task in a.tasks and task in b.tasks):
                raise ValueError(f"only {(a if task in a.tasks else b).name} has it")
            out[task] = _task(a, b, task, resamples, seed)
        except ValueError as error:
            left_out[task] = str(error)
    if not out:
        raise ValueError(f"nothing to compare between {a.name} and {b.name}: {left_out}")
    return {"tasks": out, "left_out": left_out}


def _task(a, b, task, resamples, seed) -> dict:
    if not (task in a.scores and task in b.scores):
        raise ValueError(f"no scores of {(b if task in a.scores else a).name} were kept; evaluate it again")
    one, two = a.scores[task], b.scores[task]
    rows, others = matched(one, two, task)
    first = {k: v if k in WHOLE else v[rows] for k, v in one.items()}
    second = {k: v if k in WHOLE else v[others] for k, v in two.items()}
    tested, classes = [], {}
    if "labels" in one and "labels" in two:
        tested, classes = _by_labels(first, second, task, resamples, seed)
    elif "gallery" in one and "gallery" in two:
        tested = _by_ranks(a, b, first, second, task, resamples, seed)
    for key in sorted({k for k in one if k.startswith("value_")} & set(two)):
        tested.append({"metric": key.removeprefix("value_"),
                       **comparison.values(key, first[key], second[key], first["patient"], resamples, seed)})
    known = {r["metric"] for r in tested}
    plain = _plain(a, b, task)
    order = list(plain)
    return {"n": len(rows), "of": [len(one["id"]), len(two["id"])], "classes": classes,
            "rows": sorted(tested, key=lambda r: order.index(r["metric"]) if r["metric"] in order else -1)
            + [r for m, r in plain.items() if m not in known]}  # fmt: skip


def shared_columns(one: dict, two: dict, key: str):
    """-> (names, columns in `one`, columns in `two`) of the findings that both evaluations score by `key`."""
    names = [[str(n) for n in arrays["names"]] for arrays in (one, two)]
    finite = [np.isfinite(arrays[key]).all(0) for arrays in (one, two)]
    usable = [dict(zip(*pair, strict=True)) for pair in zip(names, finite, strict=True)]
    shared = [n for n in names[0] if usable[0][n] and usable[1].get(n)]
    return shared, [names[0].index(n) for n in shared], [names[1].index(n) for n in shared]


def _by_labels(one, two, task, resamples, seed):
    tested, classes = [], {}
    for key in ("scores", "scores_prompts"):
        if key not in one or key not in two:
            continue
        names, left, right = shared_columns(one, two, key)
        if not names:
            continue
        labels = one["labels"][:, left]
        if (labels != two["labels"][:, right]).any():
            raise ValueError(f"{task}: the same examples have other labels in the two evaluations")
        metric = f"auc_macro{key.removeprefix('scores')}"
        mean, own = comparison.classes(labels, one[key][:, left], two[key][:, right], one["patient"], names, resamples, seed)
        tested.append({"metric": metric, **mean})
        classes[metric] = own
    return tested, classes


def _by_ranks(a, b, one, two, task, resamples, seed):
    if int(one["gallery"]) != int(two["gallery"]):
        raise ValueError(f"{task}: ranks among {int(one['gallery'])} and {int(two['gallery'])} are not comparable")
    tested = []
    for r in page_parts.main_records(a.records):
        direction, _, k = r["metric"].partition("_recall@")
        if r["task"] == task and k and f"rank_{direction}" in one:
            hits = [x[f"rank_{direction}"] <= int(k) for x in (one, two)]
            tested.append({"metric": r["metric"],
                           **comparison.values(r["metric"], *hits, one["patient"], resamples, seed)})
    return tested


def _plain(a, b, task) -> dict[str, dict]:
    """{metric: row without a test} of the records that both have, as each evaluation reported them."""
    values = [{r["metric"]: r for r in page_parts.main_records(e.records) if r["task"] == task} for e in (a, b)]
    out = {}
    for metric, r in values[0].items():
        if metric in values[1]:
            pair = [float("nan") if x[metric]["value"] is None else x[metric]["value"] for x in values]
            out[metric] = {"metric": metric, "a": pair[0], "b": pair[1], "difference": pair[1] - pair[0], "ci": None,
                           "p": None, "n": r["n"]}
    return out
