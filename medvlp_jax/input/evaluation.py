"""Sources -> evaluation batches: every example once, in order, without randomness, with its ground truth on the host."""
import concurrent.futures
from collections import deque
from collections.abc import Iterator

import numpy as np
from absl import logging

from medvlp_jax.input import decode, transforms
from medvlp_jax.input.examples import DEFAULTS, Options, check_options, choose_rows, make_row

UNKNOWN = ("labels", "word_ids", "swapped_labels", "finding_labels", "masks", "boxes", "grade")  # -1: nothing there


def _load(source, row: int, rows, tokenizer, options: Options, seed: int):
    """One example -> (batch row, host dict), or None where it cannot be decoded."""
    size = options.image_size
    try:
        example = source[row]
        image, geometry = transforms.eval_image(
            example["image"], size=size, frame=options.eval_frame or size, how=options.eval_fit)
        masks = {k: transforms.map_mask(v, geometry, size) for k, v in example.get("masks", {}).items()}
        rng = np.random.default_rng([seed, row])  # candidate positions and swapped sentences are the same in every evaluation
        arrays = make_row(source, example, row, image, geometry, rows, rng, tokenizer, options)
        host = {
            "row": row,
            "id": example["id"],
            "patient_id": example.get("patient_id", ""),
            "report": example["report"],
            "boxes": transforms.map_boxes(example.get("boxes", ()), geometry, size),
            "phrases": transforms.map_boxes(example.get("phrases", ()), geometry, size),
            "masks": masks,
            "finding_labels": dict(example.get("finding_labels", {})),
            "attributes": dict(example.get("attributes", {})),
        }
    except (decode.ImageError, OSError) as e:
        logging.warning("example %d skipped (%s)", row, e)
        return None
    return arrays, host


def eval_batches(source, tokenizer, options: Options = DEFAULTS, *, batch_size: int, limit: int | None = None, seed: int = 0,
                 process_index: int = 0, process_count: int = 1, threads: int = 2) -> Iterator[dict]:
    """Batches of the first `limit` examples of a source, each once and in order.

    Arrays as in input/examples.py, images made by `eval_fit`. batch["host"] is a list with one dict for each row with
    valid = 1, in the same order: row, id, patient_id, report, boxes [(name, x, y, w, h)], phrases [(phrase, x, y, w, h)]
    and masks {name: bool (S, S)} in the pixels of the batch's image, finding_labels, attributes. Rows with valid = 0 come last,
    black and without labels: the ragged end, and examples that could not be decoded. All processes get the same number of
    batches; process p holds the p-th `batch_size` rows of each.
    """
    check_options(options, tokenizer)
    rows = choose_rows(source, options.require_report)
    chosen = rows[:limit]
    step = batch_size * process_count
    mine = [chosen[k + process_index * batch_size : k + (process_index + 1) * batch_size] for k in range(0, len(chosen), step)]
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        ahead, later, template = deque(), deque(mine), None
        while ahead or later:
            while later and len(ahead) < 2:
                ahead.append([pool.submit(_load, source, int(row), rows, tokenizer, options, seed) for row in later.popleft()])
            loaded = [item for item in (future.result() for future in ahead.popleft()) if item is not None]
            if template is None:  # shapes for padding, where this process's very first rows are none
                template = loaded[0][0] if loaded else _any_row(source, rows, tokenizer, options, seed)
            yield _pad([arrays for arrays, _ in loaded], [host for _, host in loaded], template, batch_size)


def _any_row(source, rows, tokenizer, options, seed):
    for row in rows:
        if (item := _load(source, int(row), rows, tokenizer, options, seed)) is not None:
            return item[0]
    raise ValueError(f"none of the {len(rows)} examples can be decoded")


def _pad(arrays: list[dict], hosts: list[dict], template: dict, batch_size: int) -> dict:
    """Stacks rows and fills up to `batch_size` with black images without labels and with an empty report; valid is 0."""
    row = {k: np.full_like(v, -1 if k in UNKNOWN else 0) for k, v in template.items()}
    for key in {"input_ids", "attention_mask", "swapped_ids", "swapped_mask"} & set(row):
        row[key][0] = template[key][0]  # [CLS]: attention over nothing at all would be NaN
    arrays = arrays + [row] * (batch_size - len(arrays))
    return {**{k: np.stack([row[k] for row in arrays]) for k in template}, "host": hosts}
