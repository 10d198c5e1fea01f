"""Parts that the page of one evaluation and the page of a comparison share."""
import json

from medvlp_jax.tasks import html, plots, published

TITLES = {"zeroshot": "Zero-shot classification", "grounding": "Zero-shot grounding", "retrieval": "Image and report retrieval",
          "classification": "Classification", "segmentation": "Segmentation", "detection": "Detection",
          "severity": "Severity grading"}  # fmt: skip
METRICS = {
    "auc_macro": "AUC, mean of the findings", "auc_macro_prompts": "AUC by prompt pairs, mean of the findings",
    "ap_macro": "Average precision, mean of the findings",
    "f1_published": "F1, threshold of the test data", "acc_published": "Accuracy, threshold of the test data",
    "f1_honest": "F1, threshold of the validation data", "acc_honest": "Accuracy, threshold of the validation data",
    "ece": "Calibration error", "ece_temperature_honest": "Calibration error after temperature scaling",
    "pointing_game": "Pointing game", "pointing_game_chance": "Pointing game of a random point",
    "pointing_game_shuffled": "Pointing game with another image's map",
    "pointing_game_published": "Pointing game, ties count as hits",
    "pixel_auc": "Pixel AUC", "iou_published": "IoU, published rule", "dice_published": "Dice, published rule",
    "iou_honest": "IoU, threshold of the validation data", "dice_honest": "Dice, threshold of the validation data",
    "dice": "Dice", "iou": "IoU", "dice_all": "Dice, empty masks included", "f2_published": "F2, published rule",
    "map": "Mean average precision, IoU 0.4 to 0.75", "map_published": "The same, boxes scored 0.5 or more",
    "ap50": "Average precision at IoU 0.5", "accuracy": "Accuracy", "accuracy_top1": "Accuracy of the likeliest",
    "mae": "Error of the expected grade", "kappa_quadratic": "Kappa, quadratic weights",
    "i2t_median_rank": "Median rank of an image's report", "t2i_median_rank": "Median rank of a report's image",
}  # fmt: skip
FACTS = {"config", "versions", "leakage", "left_out_of_training"}  # what of an evaluation is shown outside its table
# What of a record is shown elsewhere; the rest is how it was computed.
KNOWN = {"task", "dataset", "split", "protocol", "step", "data", "checkpoint", "metric", "value", "n", "ci", "per_class",
         "skipped", "chance", "leakage", "excluded_from_training"}  # fmt: skip
DIRECTIONS = {"i2t": "image to report", "t2i": "report to image"}


def title(task: str) -> str:
    """Heading of a task."""
    return TITLES.get(task, task.replace("_", " ").capitalize())


def words(metric: str) -> str:
    """A metric's name in words; unknown ones as they are."""
    name, _, k = metric.partition("@")
    direction, _, kind = name.partition("_")
    if k and direction in DIRECTIONS:
        return f"{kind.capitalize()} at {k}, {DIRECTIONS[direction]}"
    return METRICS.get(metric, metric.replace("_", " "))


def metric(name: str) -> html.Markup:
    """A metric for people, and below it its name in the records."""
    return html.join(words(name), " ", html.tag("br"), html.tag("span", name, class_="code"))


def main_records(records: list[dict]) -> list[dict]:
    """Records that are no single finding's or group's and did not fail."""
    return [r for r in records if "/" not in r["metric"] and r["metric"] != "failed"]


def published_cell(r: dict) -> html.Markup | str:
    """Published numbers beside a record, each with its model and protocol; "" without any."""
    lines = [html.tag("div", f"{n.value:.3f} ", html.tag("small", f"{n.model}, {n.protocol}")) for n in published.beside(r)]
    return html.join(lines) if lines else ""


def subgroup_rows(records: list[dict]) -> list[list]:
    """Rows of metric, group, value, interval, patients, n."""
    return [[words(r["metric"].partition("/")[0]), f"{r['attribute']}: {r['group']}", html.number(r["value"]),
             html.interval(r.get("ci")), f"{r['patients']:,}", f"{r['n']:,}"] for r in records if "attribute" in r]


def class_table(records: list[dict]) -> list:
    """One row a finding, one column a metric that has values of single findings."""
    columns = {r["metric"]: r["per_class"] for r in main_records(records) if isinstance(r.get("per_class"), dict)}
    names = list(dict.fromkeys(n for values in columns.values() for n in values))
    if not names:
        return []
    single = {r["metric"]: r for r in records if "/" in r["metric"] and "attribute" not in r}
    rows = []
    for name in names:
        own = next((r for m, r in single.items() if m.partition("/")[2] == name), {})
        rows.append([name.replace("_", " "), "" if not own else f"{own.get('positives', '')}", *(
            _class_cell(values.get(name), single.get(f"{m.replace('_macro', '')}/{name}")) for m, values in columns.items())])
    header = ["Finding", "Positive", *(words(m).removesuffix(", mean of the findings") for m in columns)]
    if not any(row[1] for row in rows):
        header, rows = [header[0], *header[2:]], [[row[0], *row[2:]] for row in rows]
    return [html.table(f"{title(records[0]['task'])}: single findings", header, rows, range(1, len(header)))]


def _class_cell(value, own):
    """A value of one finding, its interval and published numbers below where its own record has them."""
    if value is None:
        return ""
    value = value["value"] if isinstance(value, dict) else value
    more = [" ", html.tag("br"), html.tag("small", html.interval(own["ci"]))] if own and own.get("ci") else []
    beside = published_cell(own) if own else ""
    return html.join(html.number(value), more, beside)


def skipped(records: list[dict]) -> list:
    """What was left out of the means, with the reason."""
    reasons = {}
    for r in main_records(records):
        reasons.update({str(k): str(v) for k, v in (r.get("skipped") or {}).items()})
    if not reasons:
        return []
    items = [html.tag("li", f"{name.replace('_', ' ')}: {reason}") for name, reason in reasons.items()]
    return [html.tag("h3", "Left out of the means"), html.tag("ul", items)]


def plot(figure, alt: str, caption: str) -> html.Markup:
    """A plot as a figure of the page."""
    return html.picture(plots.png(figure), alt, caption)


def examples(cards: list[dict]) -> list:
    """Pictures of examples, a heading for each group."""
    parts = []
    for group in dict.fromkeys(c["group"] for c in cards):
        own = [c for c in cards if c["group"] == group]
        wide = any(c.get("text") for c in own)
        parts += [html.tag("h3", group), html.tag("div", [card(c) for c in own], class_="wide" if wide else "cards")]
    return parts


def card(c: dict, heading: str = "") -> html.Markup:
    """One example: its picture with map and truth, and its title."""
    shown = [f"Radiograph of {c['finding'].replace('_', ' ')}" if c.get("finding") else "Radiograph"]
    shown += ["with the predicted heat map"] if c.get("map") is not None else []
    shown += ["and the true place outlined"] if c.get("boxes") or c.get("mask") is not None else []
    caption = [html.tag("strong", heading + ". ") if heading else None, c.get("title") or ""]
    if c.get("text"):
        caption.append(_reports(c["text"]))
    return html.picture(plots.jpeg(plots.overlay(c)), f"{' '.join(shown)}. {c.get('title') or ''}", html.join(caption), "jpeg")


def _reports(text: dict) -> html.Markup:
    """The reports nearest to an image, its own one marked, and its own one below if it is not among them."""
    items = [html.tag("li", html.tag("strong", "its own: ") if n["own"] else None, html.tag("span", n["report"]),
                      class_="own" if n["own"] else None) for n in text["nearest"]]
    own = None
    if not any(n["own"] for n in text["nearest"]):
        own = html.tag("p", html.tag("strong", "its own: "), text["own"], class_="own")
    return html.join(html.tag("ol", items), own)


def protocol(e) -> list:
    """How the numbers were made: place, data, checkpoint, versions, options, the whole config."""
    facts = e.facts
    rows = [["Run", e.name], *[[k.capitalize(), str(v)] for k, v in e.place.items()]]
    rows += [[k.replace("_", " ").capitalize(), _flat(v)] for k, v in facts.items() if k not in FACTS]
    parts = [html.table("Evaluation", ["What", "Value"], rows)]
    settings = [[f"{r['task']} {r['metric']}", _flat({k: v for k, v in r.items() if k not in KNOWN})]
                for r in main_records(e.records) if set(r) - KNOWN]
    parts.append(html.table("Settings of each metric", ["Metric", "Settings"], settings))
    if facts.get("versions"):
        parts.append(html.table("Versions", ["Package", "Version"], [[k, v] for k, v in facts["versions"].items()]))
    if facts.get("config"):
        text = json.dumps(facts["config"], indent=1, sort_keys=True, ensure_ascii=False, default=str)
        parts.append(html.tag("details", html.tag("summary", "The whole config"),
                              html.tag("pre", text, tabindex="0", role="region", aria_label="The whole config")))
    return parts


def _flat(value) -> html.Markup | str:
    """A value of a table cell; a dictionary as lines of name and value."""
    if not isinstance(value, dict):
        return str(value)
    return html.join([html.tag("div", f"{k}: {json.dumps(_short(v), default=str) if isinstance(v, dict | list) else _short(v)}")
                      for k, v in value.items()])


def _short(value):
    """Numbers with six digits, which is enough to read; the records have them all."""
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_short(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
