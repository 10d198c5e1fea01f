"""The same metric in parts of the data: by sex, age band and view, where the examples say so.

Numbers of two groups are compared only over findings that both groups can score; the others are listed.
"""
import re

import numpy as np

from medvlp_jax.tasks import common, scores

ATTRIBUTES = ("sex", "age", "view")
BANDS = ((18, "0-17"), (40, "18-39"), (65, "40-64"), (121, "65+"))  # years below the number
SEXES = {"m": "male", "male": "male", "f": "female", "female": "female"}
UNKNOWN = ""


def sex(value) -> str:
    """"male", "female", or "" for anything else."""
    return SEXES.get(str(value).strip().lower(), UNKNOWN)


def age_band(value) -> str:
    """Years as a number, text or DICOM age string ("063Y", "011M") -> a band; "" for what is no age of a person."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([YMWD]?)\s*", str(value), re.IGNORECASE)
    if not match:
        return UNKNOWN
    years = float(match[1]) / {"M": 12, "W": 52, "D": 365}.get(match[2].upper(), 1)
    return next((band for below, band in BANDS if years < below), UNKNOWN)


def view(value) -> str:
    """Projection in capitals ("PA"); "" for None and for text too long to be one."""
    text = "" if value is None else str(value).strip().upper()
    return text if len(text) <= 20 else UNKNOWN


def columns(hosts: list[dict]) -> dict[str, np.ndarray]:
    """{attribute: (N,) text of the group, "" where unknown} of the examples' attributes."""
    of = {"sex": sex, "age": age_band, "view": view}
    return {name: np.asarray([of[name]((h.get("attributes") or {}).get(name)) for h in hosts], dtype=str)
            for name in ATTRIBUTES}


def groups(column, patients, least: int = 10) -> dict[str, np.ndarray]:
    """{group: rows} of a column with at least two groups of `least` patients or more; {} otherwise.

    A group of a few patients says nothing and might name them.
    """
    column, patients = np.asarray(column), np.asarray(patients)
    rows = {str(g): np.flatnonzero(column == g) for g in np.unique(column) if g != UNKNOWN}
    rows = {g: r for g, r in rows.items() if len(np.unique(patients[r])) >= least}
    return rows if len(rows) > 1 else {}


def auc_records(task: str, metric: str, data: dict, labels, values, names, resamples: int = 1000, seed: int = 0,
                least: int = 10) -> list[dict]:
    """Mean AUC of every group, metric "<metric>/<attribute>=<group>".

    data: "patients" (N,) and the columns of `columns`; labels (N, C) of 1, 0, -1, values (N, C). The mean is over the
    findings that have both classes in every group of the attribute; per_class is NaN for the others, which are in
    "skipped".
    """
    records = []
    for attribute in ATTRIBUTES:
        parts = groups(data[attribute], data["patients"], least)
        table = {g: [scores.auc(labels[r][labels[r, c] >= 0, c], values[r][labels[r, c] >= 0, c]) for c in range(len(names))]
                 for g, r in parts.items()}
        shared = np.isfinite(np.asarray(list(table.values())).reshape(len(parts), len(names))).all(0)
        left = {n: "lacks a class in a group" for n, s in zip(names, shared, strict=True) if not s}
        for group, rows in parts.items():
            who, own = data["patients"][rows], np.asarray(table[group])
            ci = None
            if resamples and shared.any():
                samples = scores.bootstrap_auc(labels[rows][:, shared], values[rows][:, shared], who, resamples, seed)
                ci = scores.interval(scores.row_means(samples), who)
            records.append(common.record(
                task, f"{metric}/{attribute}={group}", own[shared].mean() if shared.any() else np.nan, len(rows), chance=0.5,
                ci=ci, per_class=dict(zip(names, own.tolist(), strict=True)), skipped=left, attribute=attribute, group=group,
                patients=len(np.unique(who)), resamples=resamples, seed=seed, ci_unit="patient"))
    return records


def mean_records(task: str, metric: str, data: dict, values, resamples: int = 1000, seed: int = 0,
                 least: int = 10) -> list[dict]:
    """The mean of one value an example (N,) in every group, "<metric>/<attribute>=<group>"; undefined values are left out."""
    values, records = np.asarray(values, np.float64), []
    known = np.isfinite(values)
    for attribute in ATTRIBUTES:
        for group, rows in groups(np.where(known, data[attribute], UNKNOWN), data["patients"], least).items():
            who = data["patients"][rows]
            ci = scores.mean_interval(values[rows], who, resamples, seed)
            records.append(common.record(
                task, f"{metric}/{attribute}={group}", values[rows].mean(), len(rows), ci=ci, attribute=attribute, group=group,
                patients=len(np.unique(who)), resamples=resamples, seed=seed, ci_unit="patient"))
    return records
