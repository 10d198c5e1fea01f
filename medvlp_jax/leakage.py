"""Whether a run was trained on patients that it is judged on: what it has seen, by its run.json, beside what it is scored on.

Which data sets share patients says input/identifiers.RELATIVES; docs/leakage.md says what to do about it.
"""
import json
from pathlib import Path

from absl import logging

from medvlp_jax import metrics
from medvlp_jax.input import exclusion, identifiers

PUBLISHED = {"sets": ["mimic_cxr"], "exclusions": [], "who": "The published model that it began with"}


def seen(source, config) -> list[dict]:
    """What a run learns from, for its run.json: its training split `source`, as `exclusion.made_of`, and what the runs that it
    begins with learnt from; `who` names these."""
    return [*exclusion.made_of(source), *_before(config)]


def recorded(workdir: str | Path, config) -> list[dict]:
    """What a run has learnt from; of a run.json from before this was written down, and without any, by its config."""
    record = metrics.read_run_file(Path(workdir))
    if "training" in record:
        return record["training"]
    return [*_by_name(record["config"]["data"]), *_before(record["config"])] if "config" in record else _before(config)


def _before(config) -> list[dict]:
    """Of the runs, or the published model, that a config's initial weights are from."""
    model, found = config["model"], []
    whole = config["init"] if "init" in config else ""  # older runs have no such key
    for place in [whole, *(part["init"] for part in model.values() if hasattr(part, "keys") and "init" in part)]:
        path = Path(place).expanduser() if place else None
        if path and (path / "run.json").is_file():
            found += [{**part, "who": part.get("who", f"The run {path.name} that it began with")}
                      for part in recorded(path, {"init": "", "model": {}})]  # fmt: skip
        elif place and place == whole:
            found.append(PUBLISHED)
    return found


def _by_name(data: dict) -> list[dict]:
    parts = data.get("mixture") if data["name"] == "mixture" else [(data["name"], data.get("path", ""), 1.0)]
    found = []
    for name, path, _ in parts:
        card = Path(path).expanduser() / "card.json"
        if name == "prepared":
            name = json.loads(card.read_text(encoding="utf-8"))["dataset"] if card.is_file() else ""
        found += [{"sets": [name], "exclusions": []}] if name and name != "manifest" else []
    return found


def facts(training: list[dict], source, split: str) -> dict:
    """What the records of an evaluation on a source say: {} or `excluded_from_training` (hashes of what was left out) and
    `leakage` (warnings, which are logged too)."""
    found = warnings(training, [name for part in exclusion.made_of(source) for name in part["sets"]], split)
    for text in found:
        logging.warning("%s", text)
    hashes = dict.fromkeys(e["sha256"] for part in training for e in part["exclusions"])
    return {**({"excluded_from_training": list(hashes)} if hashes else {}), **({"leakage": found} if found else {})}


def lines(training: list[dict]) -> list[str]:
    """Of each exclusion of a run what it is of, for the page."""
    return list(dict.fromkeys(exclusion.line_of(e) for part in training for e in part["exclusions"]))


def warnings(training: list[dict], evaluated: list[str], split: str) -> list[str]:
    """A sentence for each pair of relatives: a set that was learnt from, and another that is scored and was not left out."""
    out = {}
    for part in training:
        for one in part["sets"]:
            for other in evaluated:
                related = one != other and identifiers.origin(one) == identifiers.origin(other)
                if related and not any(_covers(e, one, other, split) for e in part["exclusions"]):
                    out[part.get("who", "The run"), one, other] = None
    return [_told(*key, split) for key in out]


def _covers(facts: dict, one: str, other: str, split: str) -> bool:
    """Whether an exclusion took the patients of `other` out of `one`."""
    return any(e["dataset"] == other and e["split"] in ("all", split) and e["by"] == "patient"
               and identifiers.space(one) in e["spaces"] for e in facts["of"])  # fmt: skip


def _told(who: str, one: str, other: str, split: str) -> str:
    where = identifiers.origin(one)
    how = f"python -m data.prepare --dataset={other} --src=ROOT --ids_of={split} --out=ids.json"
    spaces = {identifiers.space(one), identifiers.space(other)}
    if len(spaces) > 1:
        how += " --mapping=FILE"
    advice = f"To leave them out of training: {how}, then --config.data.exclude=ids.json"
    if len(spaces) > 1 and "siim" in spaces:
        advice = "It cannot be ruled out: no list is published that says which image of SIIM-ACR is which of NIH's"
    return (f"{who} learnt from {one}, and {other} shares patients with it ({identifiers.LONG_NAMES[where]}): patients of "
            f"{other} {split} may have been trained on, and scores too good. {advice} (docs/leakage.md).")  # fmt: skip
