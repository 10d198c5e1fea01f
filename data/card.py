"""The end of a preparation: rows.jsonl, the metadata of TFDS, and the data card as JSON and HTML."""
import hashlib
import json
from collections import Counter

from data import features, shards
from medvlp_jax import atomic
from medvlp_jax.input import manifest
from medvlp_jax.input.columns import label_names
from medvlp_jax.input.exclusion import REASON, line_of
from medvlp_jax.input.prepared import FORMAT
from medvlp_jax.input.statements import CONFLICTS
from medvlp_jax.tasks import html

SHOWN = 20  # lines of a reason, labels without entity


def finish(plan, summaries: list[dict], max_bad_share: float) -> dict:
    """Writes everything that belongs beside the shards, the card last -> the card.

    Raises:
      ValueError: more than `max_bad_share` of the rows cannot be used, or all; a filter leaves nothing of a split. Says why.
    """
    drops = _joined(s["drops"] for s in summaries)
    if plan.twice:
        drops["image named twice"] = plan.twice
    if plan.excluded:
        drops[REASON] = plan.excluded
    rows = sum(s["rows"] for s in summaries) + len(plan.twice) + len(plan.excluded)
    bad = {why: lines for why, lines in drops.items() if not why.startswith((*shards.FILTERED, REASON))}
    share, total = sum(map(len, bad.values())) / max(rows, 1), sum(s["examples"] for s in summaries)
    if share > max_bad_share or not total:
        raise ValueError(f"{plan.dataset}: {share:.1%} of the {rows:,} rows cannot be used, {max_bad_share:.1%} are allowed; "
                         f"{_told(drops)}. Correct it, or give --max_bad_share: finished shards stay"
                         + (f". {manifest.LIFT_ROOT}" if manifest.OUTSIDE in drops else ""))
    for split in dict.fromkeys(s["split"] for s in summaries):
        own = [s for s in summaries if s["split"] == split]
        left = _joined(s["drops"] for s in own)
        if not sum(s["examples"] for s in own) and all(why.startswith(shards.FILTERED) for why in left):
            raise ValueError(f"{plan.dataset}: nothing is left of split {split}; {_told(left)}. Give other --views")
    counts = _rows(plan.out, summaries)
    digest = hashlib.sha256(json.dumps([s["sha256_of_records"] for s in summaries]).encode())
    card = {
        "format": FORMAT, "dataset": plan.dataset, "options": json.loads(json.dumps(plan.options)),
        "fingerprint": digest.hexdigest(), "rows": rows, **({"exclusion": plan.exclusion} if plan.exclusion else {}),
        "drops": {k: {"rows": len(v), "lines": v[:SHOWN]} for k, v in drops.items()},
        "reports_too_short": sum(len(s["short_reports"]) for s in summaries),
        "reports_found": _summed(s["texts"] for s in summaries),
        "labels_without_entity": _summed(s["unknown_labels"] for s in summaries),
        "absences_withheld": {"rows": sum(s["withheld"]["rows"] for s in summaries),
                              "labels": _summed(s["withheld"]["labels"] for s in summaries)},
        "conflicts": _conflicts(summaries), "annotations": plan.joined,
        **counts, "entities": _entities(summaries),
        "label_spaces": {k: sorted(space.names) for k, space in sorted(plan.spaces.items())},
        "sources_stating_absences": sorted(k for k, space in plan.spaces.items() if space.stated),
        "shards": [{k: s[k] for k in ("file", "split", "examples", "bytes")} for s in summaries],
    }  # fmt: skip
    _tfds(plan, summaries)
    (plan.out / "card.html").write_text(page(card), encoding="utf-8")
    atomic.write_text(plan.out / "card.json", json.dumps(card, indent=1, ensure_ascii=False), plan.out / "work")
    return card


def line(card: dict) -> str:
    """The drops of a card in one line."""
    return "dropped: " + (", ".join(f"{v['rows']:,} {k}" for k, v in card["drops"].items()) or "nothing")


def _told(drops: dict[str, list[int]]) -> str:
    parts = [f"{why}: {len(lines):,} (line {', '.join(map(str, lines[:5]))}{' ...' if len(lines) > 5 else ''})"
             for why, lines in sorted(drops.items(), key=lambda item: -len(item[1]))]  # fmt: skip
    return "; ".join(parts)


def _joined(parts) -> dict[str, list[int]]:
    out = {}
    for part in parts:
        for why, lines in part.items():
            out.setdefault(why, []).extend(lines)
    return {why: sorted(lines) for why, lines in sorted(out.items())}


def _summed(parts) -> dict[str, int]:
    return dict(sum(map(Counter, parts), Counter()).most_common())


def _conflicts(summaries) -> dict:
    """{entity: {kind: rows}} where report and labels say different things, the frequent ones first."""
    kinds = {kind: _summed(s["conflicts"][kind] for s in summaries) for kind in CONFLICTS}
    names = _summed(kinds.values())
    return {name: {kind: some.get(name, 0) for kind, some in kinds.items()} for name in names}


def _rows(out, summaries) -> dict:
    """Joins the rows of the shards and counts what they say, split by split."""
    splits = dict.fromkeys(s["split"] for s in summaries)
    examples, patients, studies, reports = Counter(), {k: set() for k in splits}, {k: set() for k in splits}, Counter()
    labels, told = {k: {"present": Counter(), "absent": Counter(), "uncertain": Counter()} for k in splits}, {}
    with atomic.writing(out / "rows.jsonl", out / "work") as temporary, open(temporary, "w", encoding="utf-8") as file:
        for summary in summaries:
            split = summary["split"]
            for text in (out / "work" / f"{summary['file']}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True):
                file.write(text)
                row = json.loads(text)
                examples[split] += 1
                reports[split] += "report" in row
                patients[split].add(str(row.get("patient_id") or row["image"]))
                studies[split].add(str(row.get("study_id") or row["image"]))
                for column, name in (("labels", "present"), ("absent", "absent"), ("uncertain", "uncertain")):
                    labels[split][name].update(label_names(row, column))
                for column in ("view", "sex", "source"):
                    told.setdefault(column, Counter())[str(row.get(column) or "not given")] += 1
    return {
        "examples": {k: examples[k] for k in splits}, "patients": {k: len(v) for k, v in patients.items()},
        "studies": {k: len(v) for k, v in studies.items()}, "with_report": {k: reports[k] for k in splits},
        "labels": {k: {kind: dict(c.most_common()) for kind, c in v.items()} for k, v in labels.items()},
        "attributes": {k: dict(c.most_common()) for k, c in told.items()},
    }  # fmt: skip


def _entities(summaries) -> dict:
    """{split: {entity: [absent, present, uncertain]}} of what reports and labels say, the frequent ones first."""
    out = {}
    for summary in summaries:
        table = out.setdefault(summary["split"], {})
        for value in (0, 1, 2):
            for entity, n in summary["entities"][str(value)].items():
                table.setdefault(entity, [0, 0, 0])[value] += n
    return {split: dict(sorted(table.items(), key=lambda item: -item[1][1])) for split, table in out.items()}


def _tfds(plan, summaries) -> None:
    import tensorflow_datasets as tfds

    template = tfds.core.ShardedFileTemplate(
        data_dir=plan.out, dataset_name=plan.dataset, filetype_suffix="array_record",
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}")  # fmt: skip
    infos = []
    for split in dict.fromkeys(s["split"] for s in summaries):
        own = [s for s in summaries if s["split"] == split]
        lengths, size = [s["examples"] for s in own], sum(s["bytes"] for s in own)
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=size,
                                         filename_template=template.replace(split=split)))  # fmt: skip
    tfds.folder_dataset.write_metadata(
        data_dir=plan.out, features=features.features(plan.settings.format), split_infos=infos, filename_template=template,
        version="1.0.0", check_data=False, description=f"{plan.dataset}, prepared by medvlp_jax; see card.json")  # fmt: skip


def page(card: dict) -> str:
    """The card as a page; all text of the data is escaped."""
    splits = list(card["examples"])
    sizes = [[name.replace("_", " "), *(f"{card[name][s]:,}" for s in splits)]
             for name in ("examples", "patients", "studies", "with_report")]
    parts = {
        "sizes": ("Sizes", [html.table("Splits", ["", *splits], sizes, range(1, len(splits) + 1)),
                            html.tag("p", f"{card['rows']:,} rows were read; fingerprint ",
                                     html.tag("code", card["fingerprint"]), ".")]),
        "drops": ("Left out", [html.table("Rows left out", ["Reason", "Rows", "Lines"], [
            [why, f"{d['rows']:,}", ", ".join(map(str, d["lines"])) + (" ..." if d["rows"] > len(d["lines"]) else "")]
            for why, d in card["drops"].items()], (1,)),
            html.tag("p", line_of(card["exclusion"])) if "exclusion" in card else None,
            html.tag("p", f"{card['reports_too_short']:,} reports are empty or of one word and are ignored.")]),
        "reports": ("Reports", [html.table("How the text of a report was found, or why it is not read",
                                           ["Text", "Rows"], [[k, f"{n:,}"] for k, n in card["reports_found"].items()], (1,))]),
        "labels": ("Labels", [_labels(card["labels"][s], s) for s in splits] + [html.table(
            "Labels without entity, ignored", ["Label", "Rows"], [[k, f"{n:,}"] for k, n in
                                                                 list(card["labels_without_entity"].items())[:SHOWN]], (1,))]
            + _agreement(card)),
        "entities": ("Entities", [_entity_table(card["entities"].get(s, {}), s) for s in splits]),
        "attributes": ("Attributes", [html.table(k, [k, "Examples"], [[x, f"{n:,}"] for x, n in list(v.items())[:SHOWN]], (1,))
                                      for k, v in card["attributes"].items()]),
        "how": ("How it was made", [
            html.table("Options", ["Option", "Value"], [[k, str(v)] for k, v in card["options"].items()]),
            html.table("Shards", ["File", "Examples", "Bytes"], [[s["file"], f"{s['examples']:,}", f"{s['bytes']:,}"]
                                                                for s in card["shards"]], (1, 2))]),
    }  # fmt: skip
    return html.document(
        f"Data card: {card['dataset']}",
        html.tag("header", html.tag("h1", f"Data card: {card['dataset']}")),
        html.contents({name: title for name, (title, _) in parts.items()}),
        [html.section(title, body, name=name) for name, (title, body) in parts.items()],
    )  # fmt: skip


def _agreement(card: dict) -> list:
    """Where labels and reports contradict each other, what unknown labels cost, and what was joined."""
    out, held = [], card["absences_withheld"]
    if held["rows"]:
        names = ", ".join(f"{name} ({n:,})" for name, n in list(held["labels"].items())[:SHOWN])
        out.append(html.tag("p", f"{held['rows']:,} rows state no implied absence because of a label without entity: {names}."))
    if card["conflicts"]:
        rows = [[name, *(f"{n:,}" for n in kinds.values())] for name, kinds in card["conflicts"].items()]
        out.append(html.table("Report and labels contradict each other, rows", ["Entity", *(k.capitalize() for k in CONFLICTS)],
                              rows, (1, 2, 3)))  # fmt: skip
    if card["annotations"]:
        rows = [[str(k), f"{v:,}" if isinstance(v, int) else str(v)] for k, v in card["annotations"].items()]
        out.append(html.table("Annotation files joined", ["What", "Number"], rows, (1,)))
    return out


def _entity_table(counts: dict, split: str):
    rows = [[name, f"{present:,}", f"{absent:,}", f"{uncertain:,}"] for name, (absent, present, uncertain) in counts.items()]
    return html.table(f"What reports and labels say, {split}", ["Entity", "Present", "Absent", "Uncertain"], rows, (1, 2, 3))


def _labels(kinds: dict, split: str):
    names = list(dict.fromkeys(name for kind in kinds.values() for name in kind))
    rows = [[name, *(f"{kinds[kind].get(name, 0):,}" for kind in ("present", "absent", "uncertain"))] for name in names]
    return html.table(f"Labels as listed, {split}", ["Label", "Present", "Absent", "Uncertain"], rows, (1, 2, 3))
