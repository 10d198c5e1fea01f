"""Knowledge texts -> tables of vectors: each text is tokenized and encoded once by a frozen text encoder, and cached.

MedKLIP (arXiv 2301.02228, section 3.2): entity descriptions and position texts, at most 128 word pieces, [CLS] of the last
layer. The tables are inputs of the models, not parameters.
"""
import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from medvlp_jax import atomic

FORMAT = 1  # part of the cache key: raise it when the meaning of a table changes


def hash_arrays(tree) -> str:
    """Hash of a nested dict of arrays (parameters): names, shapes, dtypes and values."""
    digest = hashlib.sha256()

    def walk(name, node):
        if isinstance(node, Mapping):
            for key in sorted(node):
                walk(f"{name}/{key}", node[key])
        else:
            array = np.ascontiguousarray(node)
            digest.update(f"{name} {array.shape} {array.dtype}".encode())
            digest.update(array.view(np.uint8).reshape(-1) if array.size else b"")

    walk("", tree)
    return digest.hexdigest()


def tables(texts: Mapping[str, Sequence[str] | Mapping[str, str]], encoder: Callable, tokenizer, *, weights_hash: str,
           max_length: int = 128, pooling: str = "cls", standardize: bool = False, cache_dir: str | Path | None = None,
           batch_size: int = 16) -> dict[str, np.ndarray]:
    """Encodes groups of texts, e.g. {"entities": [...], "positions": [...]} in vocabulary order (reports.knowledge.load).

    Args:
      texts: groups of texts, as sequences or {name: text}; the rows of a table are in the order of its group.
      encoder: (ids (n, L) int32, mask (n, L) int32) -> last hidden states (n, L, Dt), or vectors (n, Dt) pooled already. It is
        called with one shape only.
      tokenizer: tokens.Tokenizer of that encoder.
      weights_hash: what identifies the encoder's weights, e.g. `hash_arrays(params)`.
      max_length: word pieces a text is cut to, with [CLS] and [SEP].
      pooling: "cls" (the first token) or "mean" (over the tokens that are no padding).
      standardize: each column to mean 0 and deviation 1. The vectors of similar sentences share most of their content; this
        leaves what differs. "positions" has its own statistics, every other group takes those of "entities", so that
        queries that were not trained on land in the same space.
      cache_dir: folder for the result, found again by a hash of all the above; None keeps nothing.

    Returns:
      {group: (rows, Dt) float32}

    Raises:
      ValueError: an empty group, unknown pooling, an encoder output of a wrong shape or with values that are not finite.
    """
    if pooling not in ("cls", "mean"):
        raise ValueError(f"unknown pooling {pooling!r}; known: cls, mean")
    texts = {group: list(some.values() if isinstance(some, Mapping) else some) for group, some in texts.items()}
    if empty := [group for group, some in texts.items() if not some]:
        raise ValueError(f"no texts in group(s) {', '.join(empty)}")
    key = hashlib.sha256(json.dumps([
        FORMAT, texts, tokenizer.fingerprint, weights_hash, max_length, pooling, standardize,
    ]).encode()).hexdigest()
    path = Path(cache_dir).expanduser() / f"knowledge-{key[:16]}.npz" if cache_dir else None
    if path and (cached := _read(path, key, texts)) is not None:
        return cached
    flat = [text for some in texts.values() for text in some]
    vectors = _encode(flat, encoder, tokenizer, max_length, pooling, batch_size)
    ends = np.cumsum([len(some) for some in texts.values()])[:-1]
    out = dict(zip(texts, np.split(vectors, ends), strict=True))
    if standardize:
        out = _standardize(out)
    if path:
        _write(path, key, out)
    return out


def _encode(flat: list[str], encoder, tokenizer, max_length: int, pooling: str, batch_size: int) -> np.ndarray:
    encoded = tokenizer.encode_batch(flat, max_length)
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    length = min(-(-int(mask.sum(1).max()) // 8) * 8, max_length)  # padding that no text needs is only cost
    ids, mask = ids[:, :length], mask[:, :length]
    rest = -len(flat) % batch_size
    ids, mask = (np.concatenate([a, np.repeat(a[-1:], rest, 0)]) for a in (ids, mask))  # whole batches: one shape
    parts = []
    for start in range(0, len(ids), batch_size):
        rows = slice(start, start + batch_size)
        hidden = np.asarray(encoder(ids[rows], mask[rows]), np.float32)
        if hidden.shape[0] != batch_size or hidden.ndim not in (2, 3) or (hidden.ndim == 3 and hidden.shape[1] != length):
            raise ValueError(f"the text encoder gave shape {hidden.shape}; expected ({batch_size}, {length}, Dt) or "
                             f"({batch_size}, Dt)")
        if hidden.ndim == 3 and pooling == "cls":
            hidden = hidden[:, 0]
        elif hidden.ndim == 3:
            weight = mask[rows][..., None].astype(np.float32)
            hidden = (hidden * weight).sum(1) / weight.sum(1)
        parts.append(hidden)  # (batch_size, Dt)
    vectors = np.concatenate(parts)[: len(flat)]
    if not np.isfinite(vectors).all():
        raise ValueError("the text encoder gave values that are not finite for the knowledge texts")
    return vectors  # (n, Dt)


def _standardize(groups: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    out = {}
    for group, table in groups.items():
        base = groups.get("entities", table) if group != "positions" else table
        deviation = base.std(0, keepdims=True)
        out[group] = (table - base.mean(0, keepdims=True)) / np.where(deviation > 1e-6, deviation, 1.0)
    return out


def _read(path: Path, key: str, texts) -> dict[str, np.ndarray] | None:
    """The cached tables, or None where there are none or the file is damaged (it is then made anew)."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as z:
            out = {group: z[group] for group in texts}
            whole = str(z["_key"]) == key and all(len(out[group]) == len(some) for group, some in texts.items())
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as e:
        logging.warning("the cached knowledge table %s is damaged (%s) and is made anew", path.name, type(e).__name__)
        return None
    return out if whole else None


def _write(path: Path, key: str, out: dict[str, np.ndarray]) -> None:
    """No process ever reads a half-written table."""
    with atomic.writing(path) as temporary, temporary.open("wb") as f:
        np.savez(f, _key=np.array(key), **out)
