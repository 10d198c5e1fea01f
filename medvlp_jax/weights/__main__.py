"""Checkpoints in and out on the command line.

    python -m medvlp_jax.weights inspect --src=FILE_OR_DIRECTORY_OR_hf:ID
    python -m medvlp_jax.weights import --kind=bert --src=hf:emilyalsentzer/Bio_ClinicalBERT --out=weights/clinicalbert
    python -m medvlp_jax.weights export --kind=dinov2 --workdir=runs/mine --out=trunk

`import` checks every tensor and leaves a directory with model.safetensors, config.json and the tokenizer, to be given to
--config.model.image.init, --config.model.text.init, --config.knowledge.init or (a whole model) --config.init. `export`
leaves such a directory too, from which transformers' from_pretrained reads bert, vit and dinov2; with a name that ends in
.safetensors, that file alone.
"""
import argparse
import json
import sys
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from medvlp_jax import checkpoint, cli, errors, initial_weights, metrics, weights
from medvlp_jax.input import tokens
from medvlp_jax.models import trunks
from medvlp_jax.weights import bert, directory, files, hub, mgca, vit


def inspect(src: str) -> None:
    """Prints kind, constructor fields, and name, shape and type of every tensor."""
    path = hub.resolve(src)
    tensors = weights.read(path)
    kind = weights.kind_of(tensors)
    print(f"{path}: {_size(tensors)}")
    print(f"kind: {kind or 'unknown; known: ' + ', '.join(weights.KINDS)}")
    if kind:
        try:
            print(f"fields: {json.dumps(weights.load(kind, path)[0])}")
        except ValueError as error:  # what it holds is shown nevertheless
            print(f"does not load: {error}")
    for name, tensor in tensors.items():
        print(f"  {name}  {tuple(tensor.shape)}  {tensor.dtype}")


def _size(tensors: dict[str, np.ndarray]) -> str:
    return f"{len(tensors)} tensors, {sum(t.size for t in tensors.values()) / 1e6:.2f} M values"


def import_(kind: str, src: str, out: str) -> None:
    """Checks a checkpoint and writes it as a directory of safetensors, config.json and tokenizer files.

    Raises:
      ValueError, FileNotFoundError: see `weights.load`. FileExistsError: `out` holds a checkpoint.
    """
    kind, path, fields, variables = _source(kind, src)
    options = {"names": vit.family(weights.read(path))} if kind == "vit" else {}
    tensors = weights.to_torch(kind, variables, **options)
    _write_directory(Path(out), kind, fields, tensors, _folder(path), weights.read_config(path))


def export(kind: str, out: str, workdir: str = "", src: str = "", step: str = "last", names: str = "") -> None:
    """Writes (a trunk of) a run's model, or of an imported checkpoint, under published names: a directory or one file.

    Raises:
      ValueError: the model, or its trunk, is of another kind. FileNotFoundError: no checkpoint there.
    """
    weights.check_kind(kind)
    if bool(workdir) == bool(src):
        raise ValueError("give one of --workdir=RUN and --src=FILE_OR_DIRECTORY")
    if names and kind != "vit":
        raise ValueError(f"--names is for --kind=vit; weights of kind {kind!r} have one family of names")
    if src:
        _, path, fields, variables = _source(kind, src)
    else:
        variables = _variables_of_run(kind, workdir, step)
    one_file = Path(out).suffix in (".safetensors", ".npz", *files.TORCH_SUFFIXES)
    if kind == "vit":
        scaled = any("attention_layer_scale" in block for block in variables["params"].values())
        if scaled and names == "hugging_face":
            raise ValueError("Hugging Face's ViT has no layer scale, its DINOv2 has: give --kind=dinov2, or --names=timm")
        names = names or ("timm" if one_file or scaled else "hugging_face")
    tensors = weights.to_torch(kind, variables, **({"names": names} if names else {}))
    if one_file:
        weights.write(out, tensors)
        print(f"{kind}: {_size(tensors)} in {out}")
    elif src:
        _write_directory(Path(out), kind, fields, tensors, _folder(path))
    else:
        _write_run(Path(out), kind, tensors, workdir)
    if kind == "resnet":
        _compare_with_torchvision(weights.config_of(kind, tensors))


def _source(kind: str, src: str) -> tuple[str, Path, dict, dict]:
    """-> kind ("dinov2" where "vit" finds that), path, constructor fields and variables of a checkpoint."""
    weights.check_kind(kind)
    path = hub.resolve(src)
    tensors = weights.read(path)
    options = {"learned_attention": mgca.has_learned_attention(tensors)} if kind == "mgca" else {}
    found = "dinov2" if kind == "vit" and weights.kind_of(tensors) == "dinov2" else kind
    return found, path, *weights.load(kind, path, **options)


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _variables_of_run(kind: str, workdir: str, step: str) -> dict:
    """Variables of a run's model, or of its trunk of that kind."""
    variables, _ = checkpoint.load_variables(workdir, checkpoint.choose(workdir, step))
    if kind in weights.WHOLE:
        return variables
    found, variables = weights.trunk_of(variables, "text_encoder" if kind == "bert" else "image_encoder")
    if found != kind and (kind, found) != ("vit", "dinov2"):
        raise ValueError(f"the trunk is of kind {found!r}, not {kind!r}; give --kind={found}")
    return variables


def _write_run(out: Path, kind: str, tensors: dict[str, np.ndarray], workdir: str) -> None:
    """As `_write_directory`, with what the run's config tells of the tensors, of its images and of its tokenizer."""
    config = ConfigDict(metrics.read_run_file(Path(workdir)).get("config", {}))
    if not config:
        raise FileNotFoundError(
            f"no run.json with a config in {workdir}, which tells the number of heads; give --out a name that ends in "
            ".safetensors to write the tensors alone"
        )
    options = {}
    if kind == "medklip":
        options["num_heads"] = config.model.num_heads
    elif kind == "mgca":
        options["learned_attention"] = mgca.has_learned_attention(tensors)
    elif kind not in ("resnet", "resunet"):
        part = config.model["text" if kind == "bert" else "image"].to_dict()
        part.pop("init")
        trunk = trunks.text_encoder(**part) if kind == "bert" else trunks.image_encoder(**part)
        options["num_heads"] = trunk.num_heads
    if kind == "bert" and bert.TYPES not in tensors:
        options["token_types"] = False
    fields = weights.config_of(kind, tensors, **options)
    if kind in directory.NORM_EPS and trunk.norm_eps != directory.NORM_EPS[kind]:
        fields["norm_eps"] = trunk.norm_eps
    tokenizer = None
    if "text" in config.model:
        try:
            tokenizer = Path(initial_weights.tokenizer_path(config) or tokens.SHIPPED_VOCAB).expanduser()
        except FileNotFoundError as error:  # the run's initial weights were moved away: the trained ones are what counts
            print(f"no tokenizer: {error}")
    _write_directory(out, kind, fields, tensors, tokenizer)
    if kind != "bert":
        directory.write_preprocessor(out, config.data.image_size, config.normalisation.mean, config.normalisation.std)


def _write_directory(out, kind, fields, tensors, tokenizer: Path | None = None, theirs: dict | None = None) -> None:
    """model.safetensors, config.json and the tokenizer (a directory, or a vocab.txt), which has to be that of the model."""
    if kind == "bert":
        tensors, fields = bert.with_token_types(tensors, fields)
    has_text = kind in ("bert", "mgca")
    if has_text and tokenizer and (tokenizer.is_file() or any((tokenizer / name).is_file() for name in hub.TOKENIZER)):
        rows = fields["vocab_size"] if kind == "bert" else fields["text"]["vocab_size"]
        tokens.check_fits(tokens.load(tokenizer), rows, "the model")
    else:
        tokenizer = None
    weights.write(out / "model.safetensors", tensors)
    directory.write_config(out, kind, fields, tensors, theirs)
    if tokenizer:
        directory.write_tokenizer(out, tokenizer)
    print(f"{kind}: {_size(tensors)} in {out}")
    if has_text and not tokenizer:
        print(f"no tokenizer was found: put the text encoder's vocab.txt into {out}")


def _compare_with_torchvision(fields: dict) -> None:
    """Says what torchvision's ResNet needs to take such tensors."""
    if fields.get("patch_stem") or fields["width"] != 64:
        print("torchvision has no ResNet of this width and stem: the tensors have its names, not its shapes")
    elif fields["num_stages"] < 4:
        print(f"for torchvision, put torch.nn.Identity() in place of fc and of the layers after layer{fields['num_stages']}")


def parser() -> argparse.ArgumentParser:
    """The three commands and their options."""
    out = argparse.ArgumentParser("python -m medvlp_jax.weights", description=__doc__.splitlines()[0])
    commands = out.add_subparsers(dest="command", required=True)
    for name, function in (("inspect", inspect), ("import", import_), ("export", export)):
        command = commands.add_parser(name, help=function.__doc__.splitlines()[0])
        command.set_defaults(function=function)
        if name != "inspect":
            command.add_argument("--kind", required=True, help=f"one of {', '.join(weights.KINDS)}")
        command.add_argument("--src", required=name != "export", default="", help="file, directory or hf:<id>")
        if name != "inspect":
            command.add_argument("--out", required=True, help="new directory; export: or new .safetensors file")
        if name == "export":
            command.add_argument("--workdir", default="", help="run whose checkpoint to export")
            command.add_argument("--step", default="last", help="its checkpoint: last or a number")
            command.add_argument("--names", default="", help="vit: timm or hugging_face (default in a directory)")
    return out


def main(argv: list[str]) -> None:
    """Runs one command; a mistake of the user ends with one line and exit code 2."""
    options = vars(parser().parse_args(argv))
    options.pop("command")
    cli.guarded(errors.opening()(options.pop("function")), **options)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BrokenPipeError:  # inspect ... | head
        sys.stderr.close()
