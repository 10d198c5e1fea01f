"""Starting from published weights, which decide the model's size and first values.

`model.image.init` and `model.text.init` take a trunk: its own checkpoint, or a whole model's that holds it. `init` takes
a whole checkpoint of the method. Each is a file, a directory (such as `python -m medvlp_jax.weights import` makes) or
hf:<id>; `model.image.init` is also a run directory, whose image encoder is taken from its last checkpoint.
"""
import copy
import dataclasses

import jax

from medvlp_jax import checkpoint, metrics, trees, weights
from medvlp_jax.method import METHODS
from medvlp_jax.models.bert import Bert
from medvlp_jax.models.resnet import ResNet
from medvlp_jax.models.vit import ViT
from medvlp_jax.weights import hub

TRUNKS = {"image": "image_encoder", "text": "text_encoder"}  # key in config.model -> name in the parameters
CLASSES = {"vit": ViT, "resnet": ResNet, "bert": Bert}
WHOLE = ""  # name in the parameters of a whole model
# What a config may hold that tensors without it do not mention.
ABSENT = {"resnet": {"patch_stem": False}, "vit": {}, "bert": {}}


def resolve(config):
    """-> (copy of the config with the model's fields read off the weights, {parameter name: variables}).

    Fields given in the config (dropout, num_stages, ...) stay; those that the tensors fix (width, depth, ...) are set. A
    text depth beside a named size keeps the first blocks only (MGCA's published 6 of 12).

    Raises:
      ValueError, FileNotFoundError: no weights there, or of another kind than the config's model.
    """
    config = copy.deepcopy(config)
    pretrained = {}
    if config.init:
        if config.method not in weights.WHOLE:
            raise ValueError(
                f"init takes a whole published model, and there are none of {config.method!r}, only of "
                f"{', '.join(k for k in weights.WHOLE if k in METHODS)}; give model.image.init or model.text.init"
            )
        options = {k: config.model[k] for k in ("learned_attention",) if k in config.model}
        fields, pretrained[WHOLE] = weights.load(config.method, hub.resolve(config.init), **options)
        with config.unlocked():
            for key in TRUNKS:
                if key in fields:
                    _update(config.model[key], fields.pop(key))
            config.model.update(fields)
    for key, name in TRUNKS.items():
        if key not in config.model or not config.model[key].init:
            continue
        if WHOLE in pretrained:
            raise ValueError(f"init and model.{key}.init both give the {name}; give one of them")
        with config.unlocked():
            pretrained[name] = _trunk(config, key)
    return config, pretrained


def _trunk(config, key: str) -> dict:
    """Variables of one trunk; its fields are set in `config`."""
    trunk = config.model[key]
    kind = "bert" if key == "text" else trunk.name
    options = {}
    if kind == "vit":
        options["image_size"] = config.data.image_size
    elif kind == "resnet" and "num_stages" in trunk:
        options["num_stages"] = trunk.num_stages
    elif kind == "bert":
        if trunk.size and "depth" in trunk:
            options["depth"] = trunk.depth
        options["token_types"] = "type_vocab" not in trunk or trunk.type_vocab > 0
    try:
        path = hub.resolve(trunk.init)
        if key == "image" and (path / "run.json").is_file():
            fields, variables = _of_run(path, **options)
            saved = metrics.read_run_file(path)["config"]["normalisation"]  # the trunk knows images so normalised
            config.normalisation.update({k: tuple(v) for k, v in saved.items()})
        else:
            fields, variables = weights.load(kind, path, **options)
    except ValueError as error:
        raise ValueError(f"model.{key}.init does not fit model.{key}: {error}") from error
    _update(trunk, fields, kind)
    return variables


def _of_run(path, num_stages: int | None = None, image_size: int | None = None) -> tuple[dict, dict]:
    """Image trunk of a run's last checkpoint -> (fields, variables), cut to `num_stages` or resampled to `image_size`."""
    variables, _ = checkpoint.load_variables(path)
    kind, part = weights.trunk_of(variables, TRUNKS["image"])
    tensors = weights.to_torch(kind, part)
    if kind == "resnet":
        there = weights.config_of(kind, tensors)["num_stages"]
        stages = min(num_stages or there, there)
        fields = {"name": kind, **weights.config_of(kind, tensors, num_stages=stages)}
        return fields, weights.from_torch(kind, tensors, num_stages=stages)
    saved = metrics.read_run_file(path)["config"]["model"]["image"]
    heads = saved["num_heads"] if "num_heads" in saved else None  # a named size has the usual number
    fields = {"name": "vit", **weights.config_of(kind, tensors, num_heads=heads)}
    fields |= {k: saved[k] for k in ("norm_eps",) if k in saved}  # which tensors do not tell
    return fields, weights.from_torch(kind, tensors, image_size=image_size)


def _update(trunk, fields: dict, kind: str | None = None) -> None:
    """Sets what the tensors fix; keys that only another kind of trunk has are dropped."""
    kind = fields.get("name", kind or "bert")
    known = {f.name for f in dataclasses.fields(CLASSES[kind])} | {"name", "size", "init"}
    for key in [key for key in trunk if key not in known]:
        del trunk[key]
    trunk.update(ABSENT[kind] | {k: v for k, v in fields.items() if v is not None})


def tokenizer_path(config):
    """Folder of the tokenizer: data.tokenizer, else that of the text weights; None = the small vocabulary shipped here."""
    if config.data.tokenizer:
        return config.data.tokenizer
    if "text" in config.model and (location := config.model.text.init or config.init):
        path = hub.resolve(location)
        return path if path.is_dir() else path.parent
    return None


def load_into(state, pretrained: dict, shardings):
    """Train state (params, state) with pretrained parts put in place, laid out as before.

    Raises:
      ValueError: names and shapes that do not fit, every one of them.
    """
    if not pretrained:
        return state
    params, rest = state.params, state.state  # arrays that may lie on other hosts too: only what is loaded is put anew
    for name, variables in pretrained.items():
        params = _merge(params, variables["params"], name, "initial weights")
        if variables.get("batch_stats"):
            rest = rest | {"batch_stats": _merge(rest["batch_stats"], variables["batch_stats"], name, "initial statistics")}
    return state._replace(
        params=jax.device_put(params, shardings.params), state=jax.device_put(rest, shardings.state)
    )


def _merge(tree: dict, part: dict, name: str, what: str) -> dict:
    return trees.merge({"model": tree}, part, f"model/{name}".rstrip("/"), what)["model"]
