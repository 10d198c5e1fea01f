"""Published checkpoints in and out, by table-driven name maps that never need torch.

    variables = weights.from_torch("bert", weights.read("model.safetensors"))
    tensors = weights.to_torch("resnet", variables)

A tensor that is missing, not used or of the wrong shape is an error that names it; what is left out on purpose is
spelled in the family's table (`dropped`).
"""
import re
from pathlib import Path
from types import ModuleType

import numpy as np

from medvlp_jax.weights import bert, dinov2, medklip, mgca, resnet, resunet, vit
from medvlp_jax.weights.directory import NORM_EPS
from medvlp_jax.weights.files import read, read_config, write

__all__ = [
    "KINDS", "NORM_EPS", "check_kind", "config_of", "from_torch", "kind_of", "load", "read", "read_config", "to_torch",
    "trunk_of", "write",
]  # fmt: skip

# Every module has config_of(tensors, ...) -> constructor fields, from_torch(tensors, ...) and to_torch(variables, ...).
KINDS: dict[str, ModuleType] = {
    "bert": bert,
    "vit": vit,
    "dinov2": dinov2,
    "resnet": resnet,
    "medklip": medklip,
    "mgca": mgca,
    "resunet": resunet,  # MedKLIP's, for segmentation
}

WHOLE = ("medklip", "mgca", "resunet")  # kinds that hold trunks of other kinds

# A tensor that only this kind has; the first that is found counts. Whole models hold trunks under their usual names.
_SIGNS = {
    "resunet": r"seg_classifier\.weight",
    "medklip": r"res_features\.0\.weight",
    "mgca": r"(img_encoder_q|text_encoder_q)\..*",
    "dinov2": r"(.*\.)?layer_scale1\.lambda1",
    "bert": r"(.*\.)?embeddings\.word_embeddings\.weight",
    "vit": r"(.*\.)?cls_token",
    "resnet": r"conv1\.weight",
}


def check_kind(kind: str) -> ModuleType:
    """The module of `KINDS`; raises a ValueError that lists them for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind of weights {kind!r}; known: {', '.join(KINDS)}")
    return KINDS[kind]


def config_of(kind: str, tensors: dict[str, np.ndarray], **options) -> dict:
    """Constructor fields of the model that the tensors are of, e.g. {"patch_size": 16, "width": 768, ...}.

    Args:
      kind: a key of `KINDS`.
      options: bert: num_heads, depth, token_types; vit, dinov2: num_heads; resnet: num_stages. Tensors do not tell the
        number of heads: without it, that of the released models of this width is taken.

    Raises:
      ValueError: unknown kind, or the tensors are not of this kind.
    """
    return check_kind(kind).config_of(tensors, **options)


def from_torch(kind: str, tensors: dict[str, np.ndarray], **options) -> dict:
    """Tensors by published name -> variables {"params": ..., "batch_stats": ...} of float32 numpy arrays.

    Args:
      options: bert: depth (keep the first blocks), token_types; vit, dinov2: image_size (px, resamples the positions);
        resnet: num_stages (keep the first stages).

    Raises:
      ValueError: unknown kind; names every tensor that is missing, not used or of the wrong shape.
    """
    return check_kind(kind).from_torch(tensors, **options)


def to_torch(kind: str, variables: dict, **options) -> dict[str, np.ndarray]:
    """Variables -> tensors by published name; the exact inverse of `from_torch`, but for what the table drops.

    Args:
      options: vit: names ("timm" or "hugging_face").

    Raises:
      ValueError: unknown kind; names every array without a published name.
    """
    return check_kind(kind).to_torch(variables, **options)


def kind_of(tensors: dict[str, np.ndarray]) -> str:
    """The kind that tensors with published names are of, or "" if they are of none."""
    names = [name.removeprefix("module.") for name in tensors]
    return next((kind for kind, sign in _SIGNS.items() if any(re.fullmatch(sign, n) for n in names)), "")


def trunk_of(variables: dict, name: str) -> tuple[str, dict]:
    """The kind and the variables of the trunk `name` ("image_encoder", "text_encoder") of a whole model's variables.

    Raises:
      ValueError: the model has no such trunk.
    """
    if name not in variables["params"]:
        raise ValueError(f"the model has no {name!r}; its parts: {', '.join(variables['params'])}")
    part = {c: variables[c][name] for c in ("params", "batch_stats") if name in variables.get(c, {})}
    params = part["params"]
    if "word" in params:
        return "bert", part
    if "stem" in params:
        return "resnet", part
    return "dinov2" if any("attention_layer_scale" in block for block in params.values()) else "vit", part


def load(kind: str, path: str | Path, num_heads: int | None = None, **options) -> tuple[dict, dict]:
    """A checkpoint file or directory -> (constructor fields, variables); see `files.read` and `from_torch`.

    A config.json beside the tensors is checked for what our models do not have. It tells the epsilon of LayerNorm, and the
    number of heads where `num_heads` does not. "vit" takes DINOv2 as well. A trunk may come out of a whole model's checkpoint.

    Raises:
      ValueError: as `from_torch`; the tensors are of another kind; config.json asks for another activation or kind of
        positions, or is that of another model.
    """
    check_kind(kind)
    tensors, config = read(path), read_config(path)
    for key, ours in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        if config.get(key, ours) != ours:
            raise ValueError(f"{path}: config.json has {key}={config[key]!r}; only {ours!r} is supported")
    heads, found = num_heads or config.get("num_attention_heads"), kind_of(tensors)
    if found in WHOLE and kind not in WHOLE:
        heads, config = num_heads, {}  # config.json is the whole model's
        found, part = trunk_of(from_torch(found, tensors), "text_encoder" if kind == "bert" else "image_encoder")
        tensors = to_torch(found, part)
        if found == "bert" and bert.TYPES not in tensors:  # MGCA's text encoder has none
            options["token_types"] = False
    if kind == "vit" and found == "dinov2":
        kind = found
    if found and found != kind:
        raise ValueError(f"{path} holds weights of kind {found!r}, expected {kind!r}")
    fields = {k: v for k, v in options.items() if k != "image_size"}  # that one is of the weights, not of the model
    if heads and kind != "resnet":
        fields["num_heads"] = heads
    fields, epsilon = config_of(kind, tensors, **fields), config.get("layer_norm_eps")
    if kind in NORM_EPS:
        if config.get("hidden_size", fields["width"]) != fields["width"] or fields["width"] % fields["num_heads"]:
            raise ValueError(
                f"{path}: tensors of width {fields['width']}, but config.json beside them has hidden_size="
                f"{config.get('hidden_size')}, num_attention_heads={config.get('num_attention_heads')}: of another model?"
            )
        if epsilon not in (None, NORM_EPS[kind]):
            fields["norm_eps"] = epsilon
    return fields, from_torch(kind, tensors, **options)
