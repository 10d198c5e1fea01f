"""The page of one evaluation: eval/report.html, one file that needs no network.

It shows what tasks/evaluation.py reads, whatever the tasks are: every metric with its interval, plots where examples
have labels and scores, pictures where a task kept any, and last how the numbers were made.
"""
import math
from pathlib import Path

import numpy as np

from medvlp_jax.tasks import calibration, html, page_parts, plots
from medvlp_jax.tasks.evaluation import Evaluation, load

MEDICAL = "Research software, not a medical device: nothing on this page may be used to treat a patient."


def write(workdir: str | Path) -> Path:
    """Writes the page of a run's last evaluation -> its path.

    Raises:
      FileNotFoundError, ValueError: see `evaluation.load`.
    """
    found = load(workdir)
    path = found.folder / "report.html"
    path.write_text(render(found), encoding="utf-8")
    return path


def render(e: Evaluation) -> str:
    """The page as text."""
    sections = {"summary": ("Summary", summary(e))}
    for task in e.tasks:
        if body := task_parts(e, task):
            sections[f"task-{task}"] = (page_parts.title(task), body)
    if rows := page_parts.subgroup_rows(e.records):
        sections["subgroups"] = ("Subgroups", [
            html.tag("p", "The same metric in parts of the data. Groups of fewer than ten patients are not shown; an AUC is "
                     "the mean over the findings that every group of the attribute can score."),
            html.table("Subgroups", ["Metric", "Group", "Value", "95 % interval", "Patients", "n"], rows, (2, 3, 4, 5))])
    sections["protocol"] = ("Protocol", page_parts.protocol(e))
    head = f"{e.place['dataset'] or 'data'} {e.place['split']}, {e.name}, step {e.place['step']}"
    return html.document(
        f"Evaluation: {head}",
        html.tag("header", html.tag("h1", "Evaluation of a checkpoint"), html.tag("p", head),
                 html.tag("p", MEDICAL, class_="note")),
        html.contents({name: title for name, (title, _) in sections.items()}),
        [html.section(title, body, name=name) for name, (title, body) in sections.items()],
    )  # fmt: skip


def summary(e: Evaluation) -> list:
    """Every metric that is no single finding's, with published numbers beside it where there are any."""
    records, tables = page_parts.main_records(e.records), []
    beside = {id(r): page_parts.published_cell(r) for r in records}
    for task in dict.fromkeys(r["task"] for r in records):
        own = [r for r in records if r["task"] == task]
        columns = [("Metric", lambda r: page_parts.metric(r["metric"])), ("Value", lambda r: html.number(r["value"])),
                   ("95 % interval", lambda r: html.interval(r.get("ci"))),
                   ("Chance", lambda r: "" if r.get("chance") is None else html.number(r["chance"])),
                   ("n", lambda r: f"{r['n']:,}")]
        if any(beside[id(r)] for r in own):
            columns.append(("Published", lambda r: beside[id(r)]))
        tables.append(html.table(page_parts.title(task), [name for name, _ in columns],
                                 [[cell(r) for _, cell in columns] for r in own], (1, 2, 3, 4)))
    known = any(beside.values())
    failed = [html.tag("p", f"{page_parts.title(r['task'])} failed: {r.get('error', 'no reason was recorded')}", class_="bad")
              for r in e.records if r["metric"] == "failed"]
    what = ("Intervals are bootstrapped by patient. \u201cPublished\u201d in a metric's name: the rule of the reference "
            "program, such as a threshold chosen on the test data; \u201chonest\u201d: chosen on validation data.")
    none = f"No published number is known to us for {e.place['dataset'] or 'this data'} and these metrics."
    leaks = [html.tag("p", text, class_="bad") for text in e.facts.get("leakage", ())]
    left = [html.tag("p", text) for text in e.facts.get("left_out_of_training", ())]
    return [leaks, failed, left, html.tag("p", what), None if known else html.tag("p", none), tables]


def task_parts(e: Evaluation, task: str) -> list:
    """Plots, the table of single findings, what was left out, and examples of a task."""
    records = [r for r in e.records if r["task"] == task]
    arrays = e.scores.get(task, {})
    return [*score_plots(arrays, records), *page_parts.class_table(records), *page_parts.skipped(records),
            *page_parts.examples(e.cards.get(task, []))]


def score_plots(arrays: dict, records: list[dict]) -> list:
    """ROC, precision-recall, reliability and AUC intervals of a task that kept labels and scores."""
    parts = []
    for key in ("scores", "scores_prompts"):
        if key not in arrays or "labels" not in arrays:
            continue
        usable = np.isfinite(arrays[key]).all(0)
        names = [str(n) for n, u in zip(arrays["names"], usable, strict=True) if u]
        labels, values = arrays["labels"][:, usable], arrays[key][:, usable].astype(np.float64)
        suffix = key.removeprefix("scores")
        how = " by prompt pairs" if suffix else ""
        by_metric = {r["metric"]: r for r in records}
        rows = [(n, r["value"], r.get("ci")) for n in names if (r := by_metric.get(f"auc{suffix}/{n}"))]
        mean = html.number(by_metric.get(f"auc_macro{suffix}", {}).get("value"))
        grid = [page_parts.plot(plots.curves(labels, values, names, "roc"),
                                f"ROC curves of {len(names)} findings. Mean area under the curve {mean}; each area is in the "
                                "table of single findings.", f"ROC curves{how}; dotted is chance."),
                page_parts.plot(plots.curves(labels, values, names, "pr"),
                                f"Precision-recall curves of {len(names)} findings.",
                                f"Precision and recall{how}; chance is a finding's share of the examples.")]
        if rows:
            best, worst = max(rows, key=lambda r: r[1]), min(rows, key=lambda r: r[1])
            grid.insert(0, page_parts.plot(
                plots.intervals(rows, "AUC with 95 % interval", 0.5),
                f"AUC of every finding with its interval, from {best[0]} {best[1]:.3f} down to {worst[0]} {worst[1]:.3f}.",
                "AUC of every finding; the line is its 95 % interval, dotted is chance."))
        if calibration.is_probability(values):
            grid.append(_reliability(labels, values, by_metric))
        parts += [html.tag("h3", "By prompt pairs" if suffix else "By scores"), html.tag("div", grid, class_="grid")]
    return parts


def _reliability(labels, values, by_metric):
    columns = {"as predicted": values}
    fitted = by_metric.get("ece_temperature_honest", {}).get("temperature")
    if fitted is not None and math.isfinite(fitted):
        columns[f"temperature {fitted:.2f}"] = calibration.scaled(values, fitted)
    known = labels >= 0
    errors = ", ".join(f"{name}: {calibration.ece(labels[known], v[known]):.3f}" for name, v in columns.items())
    return page_parts.plot(plots.reliability(labels, columns),
                           "Reliability curve: share that is present against predicted probability. Expected calibration "
                           f"error of all predictions, {errors}.",
                           "Reliability: on the dotted line a probability means what it says. A temperature is fitted on "
                           "validation data.")
