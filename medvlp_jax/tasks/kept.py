"""What an evaluation keeps beside its numbers, so that a comparison or the page computes nothing again.

eval/scores/<task>.npz: labels and scores, or one value a metric, of every example. eval/examples/<task>.npz: pictures and
texts of the few examples that the page shows. Identifiers are pseudonyms: the same in every evaluation, so that two
can be matched. They keep names out of files that are passed on; who has a list of all names can still find them again.
"""
import hashlib
import json
from pathlib import Path

import jax
import numpy as np
from absl import logging

from medvlp_jax import atomic

PLACE = "place"  # the array that says which evaluation a file belongs to, as JSON


def pseudonyms(names) -> np.ndarray:
    """Identifiers (N,) -> 16 hexadecimal digits each, (N,)."""
    return np.asarray([hashlib.sha256(f"medvlp_jax {n}".encode()).hexdigest()[:16] for n in names], dtype="<U16")


def scores(context, task: str, arrays: dict) -> None:
    """Writes the score file of a task; "id" and "patient" are replaced by pseudonyms. A failure is only logged."""
    hidden = {k: pseudonyms(v) if k in ("id", "patient") else v for k, v in arrays.items()}
    _guarded(context, "scores", task, lambda: hidden)


def examples(context, task: str, make_cards) -> None:
    """Writes the cards that `make_cards()` gives; only where figures are wanted. A failure is only logged.

    A card: {"group": heading, "id", "image" (H, W[, C]), and any of "finding", "title", "text" (JSON-able), "boxes"
    [(x, y, w, h)], "mask" (H, W) bool, "map" (h, w)}. All of one task have the same shapes.
    """
    if context.figures is not None:
        _guarded(context, "examples", task, lambda: _columns(make_cards()))


def _guarded(context, kind, task, arrays) -> None:
    if context.folder is None or jax.process_index() != 0:
        return
    try:
        write(Path(context.folder) / kind / f"{task}.npz", context.place, arrays())
    except Exception:
        logging.exception("%s of task %s were not kept", kind, task)


def _columns(cards: list[dict]) -> dict:
    """Cards -> arrays of the same length; a card's missing mask is empty and its missing map NaN."""
    if not cards:
        raise ValueError("no example to keep")
    image = np.stack([_bytes(c["image"]) for c in cards])  # (K, H, W)
    grid = next((np.shape(c["map"]) for c in cards if c.get("map") is not None), (1, 1))
    empty, nothing = np.zeros(image.shape[1:], bool), np.full(grid, np.nan, np.float32)

    def column(name):
        return [c.get(name) for c in cards]

    return {
        "image": image, "id": pseudonyms(column("id")), "group": np.asarray(column("group"), dtype=str),
        "mask": np.stack([empty if m is None else np.asarray(m, bool) for m in column("mask")]),
        "map": np.stack([nothing if m is None else np.asarray(m, np.float32) for m in column("map")]),
        **{k: np.asarray([json.dumps(v) for v in column(k)], dtype=str) for k in ("finding", "title", "text", "boxes")},
    }  # fmt: skip


def cards(arrays: dict) -> list[dict]:
    """The cards of an example file, as `examples` took them (images grey, identifiers pseudonyms)."""
    out = []
    for k in range(len(arrays["image"])):
        mask, heat = arrays["mask"][k], arrays["map"][k]
        card = {n: json.loads(str(arrays[n][k])) for n in ("finding", "title", "text", "boxes")}
        out.append({**card, "id": str(arrays["id"][k]), "group": str(arrays["group"][k]), "image": arrays["image"][k],
                    "mask": mask if mask.any() else None, "map": None if np.isnan(heat).any() else heat})
    return out


def _bytes(image) -> np.ndarray:
    """(H, W[, C]) uint8, or float of any range, -> (H, W) uint8."""
    image = np.asarray(image)
    grey = image.astype(np.float32).mean(-1) if image.ndim == 3 else image.astype(np.float32)
    if image.dtype != np.uint8:
        low, high = grey.min(), grey.max()
        grey = (grey - low) * (255 / (high - low) if high > low else 0)
    return np.round(grey).astype(np.uint8)


def write(path: Path, place: dict, arrays: dict) -> None:
    """Replaces a file as a whole, with the place of its evaluation (dataset, split, protocol, step)."""
    with atomic.writing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **{PLACE: np.asarray(json.dumps(place))}, **arrays)


def read(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """-> (place, arrays).

    Raises:
      FileNotFoundError: no such file. ValueError: it is no score file.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {k: file[k] for k in file.files}
    if PLACE not in arrays:
        raise ValueError(f"{path.name} does not say which evaluation it belongs to; run the evaluation again")
    return json.loads(str(arrays.pop(PLACE))), arrays


def read_folder(folder: Path, place: dict) -> dict[str, dict[str, np.ndarray]]:
    """{task: arrays} of the files in `folder` that belong to the evaluation at `place`; damaged ones are named and left out."""
    out = {}
    for path in sorted(Path(folder).glob("*.npz")):
        try:
            where, arrays = read(path)
        except Exception as error:
            logging.warning("%s cannot be read (%s)", path.name, error)
            continue
        if where == place:
            out[path.stem] = arrays
    return out
