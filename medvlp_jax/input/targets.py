"""What supervised training learns from: labels, masks, boxes and grades of chosen findings, as rows of a batch.

With C = len(options.targets) names, in their order, and S = image_size; unknown is -1 and is never a class:
    finding_labels (B, C) int8 in {-1, 0, 1}                              with "findings" in `needs`
    masks (B, S, S, C) int8 in {-1, 0, 1}, unknown for a whole plane      with "masks"
    boxes (B, max_boxes, 5) float32: class, x, y, w, h in pixels of the batch's image; class -1 fills up   with "boxes"
    boxes_known (B,) float32: 1 where it is known of every class what there is of it                       with "boxes"
    grade (B,) int8 from 0 (absent) up, of the first name                 with "grade"
"""
from collections.abc import Mapping

import numpy as np

from medvlp_jax.input import transforms
from medvlp_jax.reports import vocab

GROUPS = ("findings", "masks", "boxes", "grade")


def label(finding_labels: Mapping[str, int], name: str) -> int:
    """0 or 1 of a finding by its own name or by what labels say of the entity ("Effusion" of "effusion"), or -1.

    A kind that is absent ("COVID-19") leaves its entity unknown.
    """
    if finding_labels.get(name) in (0, 1):
        return int(finding_labels[name])
    about = vocab.said({k: 2 if v == -1 else int(v) for k, v in finding_labels.items()}).get(name)
    return about.value if about is not None and about.value in (0, 1) else -1


def known(truth: Mapping, name: str, group: str) -> bool:
    """Whether an example tells about `name`: a finding that is absent has an empty mask and no box.

    truth: "finding_labels", "boxes" (names or tuples that begin with one), "masks" (names), "severity", as sources give.
    """
    if group == "grade":
        return name in truth.get("severity", {})
    absent = label(truth["finding_labels"], name)
    if group == "findings":
        return absent >= 0
    there = truth[group] if group == "masks" else {b if isinstance(b, str) else b[0] for b in truth["boxes"]}
    return name in there or absent == 0


def known_rows(source, needs, names) -> np.ndarray:
    """Indices of the examples that can be learnt from, int64 (n,): any target is known, or for boxes all (what is not in the
    list of boxes counts as nothing). All examples without a group of `GROUPS` in `needs`.

    Raises:
      ValueError: no example, with the names there are.
    """
    groups = [g for g in GROUPS if g in needs]
    if not groups:
        return np.arange(len(source))
    rows, seen = [], {}
    for row in range(len(source)):
        truth = source.truth(row)
        found = [known(truth, name, g) for g in groups for name in (names[:1] if g == "grade" else names)]
        if all(found) if "boxes" in groups else any(found):
            rows.append(row)
        for group in groups:
            field = {"findings": "finding_labels", "grade": "severity"}.get(group, group)
            seen |= dict.fromkeys(b if isinstance(b, str) else b[0] for b in truth.get(field, ()))
    if not rows:
        raise ValueError(f"no example of the {source.split} split tells the {' and '.join(groups)} of {', '.join(names)}; "
                         f"there are some of: {', '.join(sorted(seen)) or 'nothing'}")
    return np.asarray(rows, np.int64)


def arrays(example: Mapping, geometry: transforms.Geometry, options) -> dict[str, np.ndarray]:
    """The arrays of the head of this file for one example, whose image was made with `geometry`.

    Raises:
      decode.ImageError, OSError: a mask cannot be read.
    """
    names, out = options.targets, {}
    if "findings" in options.needs:
        out["finding_labels"] = np.asarray([label(example["finding_labels"], n) for n in names], np.int8)
    if "masks" in options.needs:
        planes = [_mask(example, n, geometry, options.image_size) for n in names]
        out["masks"] = np.stack(planes, axis=-1)  # (S, S, C)
    if "boxes" in options.needs:
        out["boxes"] = _boxes(example, geometry, options)
        out["boxes_known"] = np.float32(all(known(example, n, "boxes") for n in names))
    if "grade" in options.needs:
        out["grade"] = np.int8(example.get("severity", {}).get(names[0], -1))
    return out


def _mask(example, name, geometry, size) -> np.ndarray:
    if name in example["masks"]:
        return transforms.map_mask(example["masks"][name], geometry, size).astype(np.int8)
    return np.full((size, size), 0 if known(example, name, "masks") else -1, np.int8)


def _boxes(example, geometry, options) -> np.ndarray:
    """The largest `max_boxes` boxes of the targets."""
    mapped = transforms.map_boxes([b for b in example["boxes"] if b[0] in options.targets], geometry, options.image_size)
    mapped = sorted(mapped, key=lambda b: -b[3] * b[4])[: options.max_boxes]
    out = np.zeros((options.max_boxes, 5), np.float32)
    out[:, 0] = -1
    for i, (name, *box) in enumerate(mapped):
        out[i] = [options.targets.index(name), *box]
    return out
