"""What lies beside model.safetensors so that transformers' from_pretrained(directory) works, and our own `weights.load`.

config.json and preprocessor_config.json say in Hugging Face's words what the tensors do not tell; the tokenizer's files are
those of the text encoder.
"""
import json
import shutil
from pathlib import Path

import numpy as np

from medvlp_jax.models import bert, vit
from medvlp_jax.weights import hub

NORM_EPS = {"bert": bert.LAYER_NORM_EPS, "vit": vit.LAYER_NORM_EPS, "dinov2": vit.LAYER_NORM_EPS}


def transformers_config(kind: str, fields: dict, tensors: dict[str, np.ndarray]) -> dict:
    """config.json of transformers' BertModel, ViTModel or Dinov2Model; {} for tensors under other names than theirs.

    Raises:
      ValueError: transformers has no such model.
    """
    if kind == "bert":
        own = {
            "model_type": "bert", "architectures": ["BertModel"], "intermediate_size": fields["mlp_dim"],
            "vocab_size": fields["vocab_size"], "max_position_embeddings": fields["max_positions"],
            "type_vocab_size": fields["type_vocab"],
        }  # fmt: skip
    elif kind in ("vit", "dinov2") and "embeddings.position_embeddings" in tensors:
        side = round((tensors["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
        own = {"patch_size": fields["patch_size"], "image_size": side * fields["patch_size"]}
        if kind == "vit":
            own |= {"model_type": "vit", "architectures": ["ViTModel"], "intermediate_size": fields["mlp_dim"]}
        elif fields["mlp_dim"] % fields["width"]:
            raise ValueError(
                f"transformers' DINOv2 has an MLP of a whole multiple of its width {fields['width']}, this one of "
                f"{fields['mlp_dim']}; export it with --kind=vit --names=timm"
            )
        else:
            own |= {"model_type": "dinov2", "architectures": ["Dinov2Model"]}
            own |= {"mlp_ratio": fields["mlp_dim"] // fields["width"], "use_mask_token": False}
    else:
        return {}
    shared = {"hidden_size": fields["width"], "num_hidden_layers": fields["depth"], "hidden_act": "gelu"}
    return own | shared


def write_config(out: Path, kind: str, fields: dict, tensors: dict[str, np.ndarray], theirs: dict | None = None) -> None:
    """config.json: `theirs` (that of the source), corrected by what the tensors in `out` are."""
    config = (theirs or {}) | transformers_config(kind, fields, tensors)
    if "num_heads" in fields:
        config |= {"num_attention_heads": fields["num_heads"]}
    if kind in NORM_EPS:
        config |= {"layer_norm_eps": fields.get("norm_eps", NORM_EPS[kind])}
    _write(out / "config.json", config | {"medvlp_jax": {"kind": kind, "fields": fields}})


def write_preprocessor(out: Path, image_size: int, mean, std) -> None:
    """preprocessor_config.json, for transformers' AutoImageProcessor: stretch to a square (px), scale, normalise."""
    size = {"height": image_size, "width": image_size}
    config = {
        "image_processor_type": "ViTImageProcessor", "do_convert_rgb": True, "do_resize": True, "size": size,
        "resample": 2, "do_rescale": True, "rescale_factor": 1 / 255,  # 2: bilinear
        "do_normalize": True, "image_mean": list(mean), "image_std": list(std),
    }  # fmt: skip
    _write(out / "preprocessor_config.json", config)


def write_tokenizer(out: Path, source: Path) -> None:
    """Copies the tokenizer that `source` (a directory, or a vocab.txt) holds."""
    files = [source / name for name in hub.TOKENIZER] if source.is_dir() else [source]
    for file in filter(Path.is_file, files):
        shutil.copy(file, out / (file.name if source.is_dir() else "vocab.txt"))
    if not any((out / name).exists() for name in hub.TOKENIZER[1:]):  # a word list does not say what was done to its words
        _write(out / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": True})


def _write(path: Path, config: dict) -> None:
    path.write_text(json.dumps(config, indent=1) + "\n")
