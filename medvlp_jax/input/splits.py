"""Which split a row of a manifest belongs to, and that no patient is in two."""
import hashlib
import json

import numpy as np

from medvlp_jax.input import statements, verdicts
from medvlp_jax.input.columns import label_names, parse_json, source_name
from medvlp_jax.input.rows import Table

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validate": "val", "validation": "val",
          "dev": "val", "test": "test", "testing": "test"}


def owner(row: dict) -> str:
    """Whose image a row is: its patient; where none is given its study, without that its own."""
    return str(row.get("patient_id") or row.get("study_id") or row["image"])


def scan(table: Table, ratios=(0.8, 0.1)) -> tuple[np.ndarray, dict[str, statements.Space]]:
    """One pass over the table -> split name of each row (n,), {source: its labels}. Checks patients and JSON columns."""
    names, spaces, stated = ("train", "val", "test"), {}, set()
    splits, owners = np.empty(len(table), np.int8), np.zeros(len(table), np.int64)  # owner 0: nobody
    for number, row in enumerate(table):
        source, patient = source_name(row), str(row.get("patient_id") or row.get("study_id") or "")
        try:
            listed, *other = (label_names(row, column) for column in ("labels", "absent", "uncertain"))
            spaces.setdefault(source, set()).update(listed, *other)
            if any(other):
                stated.add(source)
            parse_json(row, "boxes", [])
            parse_json(row, "masks", {})
            parse_json(row, "severity", {})
            statements.check_row(row)
        except ValueError as e:
            raise ValueError(f"{table.path.name}, line {table.lines[number]}: {e}") from None
        if "split" in table.columns:
            split = SPLITS.get(str(row["split"] or "").strip().lower())
            if split is None:
                raise ValueError(f"{table.path.name}, line {table.lines[number]}: split {row['split']!r}; expected train, val "
                                 "or test")
        else:
            split = hash_split(source, owner(row), ratios)
        splits[number] = names.index(split)
        if patient:
            owners[number] = verdicts.hash_of("\0".join((source, "patient" if row.get("patient_id") else "study", patient)))
    _, first, place = np.unique(owners, return_index=True, return_inverse=True)
    before = first[place]  # the first row of the same patient
    if wrong := np.flatnonzero((splits != splits[before]) & (owners != 0))[:1].tolist():
        there, here = int(before[wrong[0]]), wrong[0]
        what = "patient" if table[here].get("patient_id") else "study"
        raise ValueError(f"{table.path.name}: lines {table.lines[there]} ({names[splits[there]]}) and {table.lines[here]} "
                         f"({names[splits[here]]}) are of one {what} in two splits, so that scores would be too good; correct "
                         "the split column, or leave it out for a patient-wise split")
    return np.array(names)[splits], {k: statements.Space(frozenset(v), k in stated) for k, v in spaces.items()}


def hash_split(source: str, key: str, ratios=(0.8, 0.1)) -> str:
    """The split of a patient (or image) by hash: the same in every run, on every machine and whatever other rows there are."""
    digest = hashlib.sha256(json.dumps([source, key]).encode()).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    train, val = ratios
    return "train" if fraction < train else "val" if fraction < train + val else "test"
