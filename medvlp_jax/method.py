"""The contract between a paper's method and everything else (train loop, evaluators, planner)."""
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

METHODS = ("mlip", "medklip", "mgca", "convirt", "transfer")

# The shared vocabulary of `Method.predict`: name -> what (variables, batch) gives.
PREDICT_NAMES = {
    "embed_image": "(B, D) unit image embeddings",
    "embed_text": "(B, D) unit report embeddings",
    "embed_patches": "(B, N, D) local image embeddings, row-major",
    "score_findings": "(B, F) probability that each entity of variables['knowledge'] is present",
    "ground": "(B, F, h, w) heat map of each entity of variables['knowledge']",
    # Transfer; the C names are those of data.examples.targets.
    "embed_trunk": "(B, D) pooled features of the image trunk, before any projection",
    "classify": "(B, C) probability of each target",
    "grade": "(B, G) probability of each grade of the first target",
    "segment": "(B, H, W, C) probability of each target's mask",
    "detect": "(B, P, 6) boxes by falling score: class, score, x, y, w, h in pixels; score 0 where there is none",
}


class Method(NamedTuple):
    """A pre-training or transfer method as pure functions on global arrays; it never sees the mesh.

    init: (rng, batch) -> variables {"params": ..., "batch_stats": ..., "knowledge": ...}; this batch carries one more key,
      "knowledge" {"entities" (K, T), "positions" (A, T)}: the frozen tables, which become part of the variables
    loss: (params, state, batch, rng) -> loss, (state, metrics); state is `variables` without "params"
    predict: name of `PREDICT_NAMES` -> (variables, batch) -> array
    trunk_outputs: (variables, batch) -> {name: (B, ...)} of the image trunk, which `loss` takes as batch["trunk/<name>"] in
      place of images; None where it needs them
    """

    init: Callable[..., Any]
    loss: Callable[..., Any]
    predict: dict[str, Callable[..., Any]]
    trunk_outputs: Callable[..., Any] | None = None


def get(config) -> Method:
    """The method named by `config.method`, made from the whole config.

    Raises:
      ValueError: unknown method, with the known ones.
    """
    if config.method not in METHODS:
        raise ValueError(f"unknown method {config.method!r}; known: {', '.join(METHODS)}")
    return importlib.import_module(f"medvlp_jax.methods.{config.method}").make(config)


def predictor(method: Method, name: str) -> Callable[..., Any]:
    """`method.predict[name]`, or an error that lists what the method can predict."""
    if name not in method.predict:
        raise ValueError(f"this method cannot predict {name!r}; it predicts: {', '.join(sorted(method.predict))}")
    return method.predict[name]
