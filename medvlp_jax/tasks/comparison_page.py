"""The page of two checkpoints on the same examples: paired differences, their intervals and p-values."""
import json
from pathlib import Path

import numpy as np

from medvlp_jax.tasks import calibration, evaluation, html, page, page_parts, pairing, plots, suite


def write(folder_a: str | Path, folder_b: str | Path, out: str | Path | None = None, resamples: int = 1000) -> Path:
    """Writes the page and, beside it, the same numbers as JSON -> path of the page.

    out: default eval/comparison.html of the first run.

    Raises:
      FileNotFoundError: a run without an evaluation. ValueError: the two have nothing in common, see `pairing.compare`.
    """
    a, b = evaluation.load(folder_a), evaluation.load(folder_b)
    if a.name == b.name:
        a, b = a._replace(name=f"{a.name} (A)"), b._replace(name=f"{b.name} (B)")
    found = pairing.compare(a, b, resamples)
    path = Path(out).expanduser() if out else a.folder / "comparison.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"a": {"name": a.name, **a.place}, "b": {"name": b.name, **b.place}, "resamples": resamples, **found}
    path.with_suffix(".json").write_text(json.dumps(suite.plain(record), indent=1, allow_nan=False), encoding="utf-8")
    path.write_text(render(a, b, found), encoding="utf-8")
    return path


def render(a, b, found: dict) -> str:
    """The page as text; found: what `pairing.compare` gives."""
    sections = {"summary": ("Summary", summary(a, b, found))}
    for task, result in found["tasks"].items():
        sections[f"task-{task}"] = (page_parts.title(task), task_parts(a, b, task, result))
    if rows := subgroup_rows(a, b):
        sections["subgroups"] = ("Subgroups", [html.table(
            "Subgroups", ["Metric", "Group", a.name, b.name, "Difference"], rows, (2, 3, 4))])
    sections["protocol"] = ("Protocol", protocol(a, b))
    return html.document(
        f"Comparison: {a.name} and {b.name}",
        html.tag("header", html.tag("h1", "Comparison of two checkpoints"),
                 html.tag("p", f"A: {a.name}, step {a.place['step']}. B: {b.name}, step {b.place['step']}. "
                          f"Data: {a.place['dataset']} {a.place['split']}."),
                 html.tag("p", page.MEDICAL, class_="note")),
        html.contents({name: title for name, (title, _) in sections.items()}),
        [html.section(title, body, name=name) for name, (title, body) in sections.items()],
    )  # fmt: skip


def summary(a, b, found) -> list:
    """Every metric that both have, with the difference."""
    tables, header = [], ["Metric", "A", "B", "Difference", "95 % interval", "p", "n"]
    for task, result in found["tasks"].items():
        rows = [[page_parts.metric(r["metric"]), html.number(r["a"]), html.number(r["b"]), _signed(r["difference"]),
                 html.interval(r["ci"]), "not tested" if r["p"] is None else html.p_value(r["p"]), f"{r['n']:,}"]
                for r in result["rows"]]
        tables.append(html.table(page_parts.title(task), header, rows, range(1, 7)))
    notes = [html.tag("p", f"{page_parts.title(task)} is not compared: {reason}.", class_="note")
             for task, reason in found["left_out"].items()]
    for task, result in found["tasks"].items():
        if set(result["of"]) != {result["n"]}:
            text = f"{page_parts.title(task)}: {result['n']:,} common examples of {result['of'][0]:,} and {result['of'][1]:,}."
            notes.append(html.tag("p", text, class_="note"))
    what = ("Both were scored on the same examples. The difference is B minus A; its interval and p-value come from resampling "
            "whole patients, the same ones for both. Metrics that are not means over examples or findings are not tested.")
    return [html.tag("p", what), notes, tables]


def task_parts(a, b, task, result) -> list:
    """Plots of both, the table of single findings, the same examples side by side."""
    parts = []
    for metric, rows in result["classes"].items():
        key = f"scores{metric.removeprefix('auc_macro')}"
        parts += [html.tag("h3", page_parts.words(metric)), html.tag("div", _plots(a, b, task, key, rows), class_="grid")]
        body = [[r["name"].replace("_", " "), html.number(r["a"]), html.number(r["b"]), _signed(r["difference"]),
                 html.interval(r["ci"]), html.p_value(r["p"]), html.p_value(r["p_holm"]), html.p_value(r["p_delong"]),
                 f"{r['n']:,}", f"{r['positives']:,}"] for r in rows]  # fmt: skip
        header = ["Finding", "A", "B", "Difference", "95 % interval", "p", "p, Holm", "p, DeLong", "n", "Positive"]
        parts += [html.table(f"{page_parts.words(metric)}: single findings", header, body, range(1, 10)),
                  html.tag("p", "The interval is that of the difference. p: paired bootstrap by patient, then corrected for "
                           "the number of findings (Holm); DeLong's test takes images as independent. Undefined: a class is "
                           "missing, or there is no variance to test with.")]
    return parts + _side_by_side(a, b, task)


def _plots(a, b, task, key, rows):
    one, two = a.scores[task], b.scores[task]
    first, second = pairing.matched(one, two, task)
    _, left, right = pairing.shared_columns(one, two, key)
    labels = one["labels"][first][:, left]
    values = [one[key][first][:, left].astype(np.float64), two[key][second][:, right].astype(np.float64)]
    named = {f"A: {a.name}": values[0], f"B: {b.name}": values[1]}
    mean = [np.nanmean([r[x] for r in rows]) for x in "ab"]
    grid = [
        page_parts.plot(plots.intervals([(r["name"], r["difference"], r["ci"]) for r in rows], "AUC, B minus A", 0.0),
                        f"Difference of AUC of {len(rows)} findings with intervals.",
                        "Difference of AUC; right of the dotted line B is better."),
        page_parts.plot(plots.mean_curves(labels, named, "roc"),
                        f"Mean ROC curves. Mean area: A {mean[0]:.3f}, B {mean[1]:.3f}.", "Mean ROC of the findings."),
        page_parts.plot(plots.mean_curves(labels, named, "pr"), "Mean precision-recall curves of A and B.",
                        "Mean precision and recall of the findings."),
    ]
    if all(calibration.is_probability(v) for v in values):
        known = labels >= 0
        errors = ", ".join(f"{n}: {calibration.ece(labels[known], v[known]):.3f}" for n, v in named.items())
        grid.append(page_parts.plot(plots.reliability(labels, named), f"Reliability curves. Calibration error, {errors}.",
                                    "Reliability: on the dotted line a probability means what it says."))
    return grid


def _side_by_side(a, b, task) -> list:
    """Cards of the same examples, A beside B."""
    others = {(c["id"], c["group"]): c for c in b.cards.get(task, [])}
    pairs = [(c, others[c["id"], c["group"]]) for c in a.cards.get(task, []) if (c["id"], c["group"]) in others]
    if not pairs:
        return []
    cards = [page_parts.card(c, heading) for pair in pairs for heading, c in zip("AB", pair, strict=True)]
    wide = any(c.get("text") for pair in pairs for c in pair)
    return [html.tag("h3", "The same examples, A beside B"), html.tag("div", cards, class_="wide" if wide else "cards")]


def subgroup_rows(a, b) -> list[list]:
    """Rows of metric, group, A, B, difference for the groups that both have."""
    others = {(r["task"], r["metric"]): r for r in b.records if "attribute" in r}
    rows = []
    for r in a.records:
        other = others.get((r["task"], r["metric"]))
        if "attribute" in r and other and None not in (r["value"], other["value"]):
            rows.append([page_parts.words(r["metric"].partition("/")[0]), f"{r['attribute']}: {r['group']}",
                         html.number(r["value"]), html.number(other["value"]), _signed(other["value"] - r["value"])])
    return rows


def protocol(a, b) -> list:
    """What differs between the two evaluations, then each in full."""
    prints = [e.facts.get("data_fingerprints", {}).get(e.place["split"]) for e in (a, b)]
    same = prints[0] == prints[1] and prints[0] is not None
    text = "The data have the same fingerprint." if same else "The data's fingerprints differ; examples were matched by id."
    one, two = _dotted(a.facts.get("config", {})), _dotted(b.facts.get("config", {}))
    keys = [k for k in sorted({*one, *two}) if one.get(k) != two.get(k)]
    rows = [[k, str(one.get(k, "absent")), str(two.get(k, "absent"))] for k in keys]
    changed = html.table("Config keys that differ", ["Key", "A", "B"], rows) if rows else html.tag("p", "Equal configs.")
    return [html.tag("p", text, class_=None if same else "note"), changed,
            html.tag("h3", f"A: {a.name}"), page_parts.protocol(a), html.tag("h3", f"B: {b.name}"), page_parts.protocol(b)]


def _dotted(config, prefix="") -> dict:
    out = {}
    for name, value in config.items():
        out |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return out


def _signed(value) -> str:
    return "undefined" if value is None or value != value else f"{value:+.3f}"
