"""One example of a source -> one row of a batch; the options that say what a row holds.

Batch arrays (B rows, S = image_size, K = 75 entities, M = max_tokens):
    image (B, S, S, 1) uint8, normalised on the device; has_report, valid (B,) float32
    labels (B, K) int8 in {-1 not mentioned, 0, 1, 2 uncertain}; positions (B, K, 8) int32       with "labels" in `needs`
    input_ids, attention_mask, word_ids (B, M) int32                                             with "text" or "swap"
    swapped_ids, swapped_mask (B, M) int32; swapped_labels (B, M) int8                           with "swap"
    row (B,) int64, index of the example in its source                                           with "row"
    labels, masks, boxes and grades of `targets`: see input/targets.py
"""
from typing import NamedTuple

import numpy as np

from medvlp_jax.input import captions, targets, transforms
from medvlp_jax.reports import sections, triplets

NEEDS = ("labels", "text", "swap")
ROW = "row"  # another group, of those who ask


class Options(NamedTuple):
    """What a batch holds and how its images are made.

    image_size: S, pixels. crop: "random_resized" (MedKLIP; `crop_scale` of the area), "random" (MLIP: `fit` to `frame`
    pixels, then a random window) or "none". fit: "pad", "stretch" or "short" (transforms.fit). rand_augment: (n, m) or None.
    hflip: probability; 0 because 25 of the 51 positions name a side. Evaluation: `eval_fit` to `eval_frame` pixels (default:
    S), central window of S. max_tokens: M with [CLS] and [SEP]. needs: groups of `NEEDS` and `targets.GROUPS`.
    require_report: only examples with a report. captions: labels of an example without report are told as one
    (input/captions.py). targets: names of the findings or masks that supervised training is about; max_boxes: of an image.
    """

    image_size: int = 224
    crop: str = "random_resized"
    crop_scale: tuple[float, float] = (0.2, 1.0)
    frame: int = 256
    fit: str = "pad"
    rand_augment: tuple[int, float] | None = None
    hflip: float = 0.0
    eval_frame: int | None = None
    eval_fit: str = "stretch"
    max_tokens: int = 112
    needs: tuple[str, ...] = NEEDS
    require_report: bool = False
    captions: bool = False
    targets: tuple[str, ...] = ()
    max_boxes: int = 16


DEFAULTS = Options()


def check_options(options: Options, tokenizer) -> None:
    """Raises a ValueError that names a wrong option, or tokens that are asked for without a tokenizer."""
    for name, value, known in (("crop", options.crop, transforms.CROPS), ("fit", options.fit, transforms.FITS),
                               ("eval_fit", options.eval_fit, transforms.FITS)):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
    if unknown := set(options.needs) - {*NEEDS, ROW, *targets.GROUPS}:
        known = ", ".join((*NEEDS, ROW, *targets.GROUPS))
        raise ValueError(f"needs names {', '.join(sorted(map(repr, unknown)))}; known groups: {known}")
    if options.crop == "random" and options.frame < options.image_size:
        raise ValueError(f"frame is {options.frame} px, expected at least image_size = {options.image_size}")
    if (wanted := set(options.needs) & set(targets.GROUPS)) and not options.targets:
        raise ValueError(f"needs = {tuple(options.needs)} asks for {', '.join(sorted(wanted))}: name the targets")
    if {"masks", "boxes"} & wanted and options.rand_augment:
        raise ValueError("rand_augment would move the image away under its masks and boxes; expected None with these needs")
    if tokenizer is None and {"text", "swap"} & set(options.needs):
        raise ValueError(f"needs = {tuple(options.needs)} asks for tokens, so a tokenizer is needed")


def choose_rows(source, require_report: bool, captioned: bool = False) -> np.ndarray:
    """Indices of the examples to use, int64 (n,). A source with `has_reports` (bool (N,) or True) spares reading the texts.
    captioned: an example without report that has labels to make one of is as good.

    Raises:
      ValueError: none is left.
    """
    rows = np.arange(len(source))
    if require_report:
        has = getattr(source, "has_reports", None)
        if has is None:
            has = np.fromiter((bool(source.text(int(i)).strip()) for i in rows), bool, len(rows))
        has = np.array(np.broadcast_to(has, rows.shape))
        if captioned:
            has[~has] = [captions.known(source.truth(int(i))["finding_labels"]) for i in rows[~has]]
        rows = rows[has]
    if not len(rows):
        why = " with a report; this method learns from reports" if require_report else ""
        raise ValueError("the source has no example" + why)
    return rows


def encode_text(source, row: int, text: str, rows, rng, tokenizer, options: Options) -> dict[str, np.ndarray]:
    """The token arrays of one example; the sentence that is swapped in comes from another random report of the source."""
    if "swap" not in options.needs:
        return tokenizer.encode(text, options.max_tokens) if "text" in options.needs else {}
    other = row
    while other == row and len(rows) > 1:
        other = int(rows[rng.integers(len(rows))])
    pieces = tokenizer.pieces(text)
    out = tokenizer.encode_pieces(pieces, options.max_tokens)
    del out["sentence_ids"]
    other_text = sections.report_text(source.text(other)) if other != row else ""
    if options.captions and other != row and not other_text:
        other_text = captions.caption(source.truth(other)["finding_labels"], rng)
    return {**out, **tokenizer.swap_sentence(rng, pieces, other_text, options.max_tokens)}


def make_row(source, example: dict, row: int, image, geometry, rows, rng, tokenizer, options: Options) -> dict[str, np.ndarray]:
    """One example with its image ready, made with `geometry`, -> one row of every array of a batch.

    What a text encoder reads is impression and findings without headings: a "FINDINGS:" in the middle of a report would give
    a swapped sentence away.
    """
    text = sections.report_text(example["report"])
    if options.captions and not text:
        text = captions.caption(example["finding_labels"], rng)
    out = {"image": image, "has_report": np.float32(bool(text)), "valid": np.float32(1)}
    if ROW in options.needs:
        out[ROW] = np.int64(row)
    if "labels" in options.needs:
        out["labels"] = np.asarray(triplets.existence_labels(example["presence"]), np.int8)  # (K,)
        out["positions"] = np.asarray(triplets.candidate_positions(example["presence"], rng), np.int32)  # (K, 8)
    out |= targets.arrays(example, geometry, options)
    return {**out, **encode_text(source, row, text, rows, rng, tokenizer, options)}
