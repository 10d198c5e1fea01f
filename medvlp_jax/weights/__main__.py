"""Checkpoints in and out on the command line.

    python -m medvlp_jax.weights inspect --src=FILE_OR_DIRECTORY_OR_hf:ID
    python -m medvlp_jax.weights import --kind=bert --src=hf:emilyalsentzer/Bio_ClinicalBERT --out=weights/clinicalbert
    python -m medvlp_jax.weights export --kind=resnet --workdir=runs/medklip --out=trunk.safetensors

`import` checks every tensor and leaves a directory with model.safetensors, config.json and the tokenizer, to be given to
--config.model.image.init, --config.model.text.init, --config.knowledge.init or (a whole model) --config.init.
"""
import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np

from medvlp_jax import checkpoint, cli, weights
from medvlp_jax.weights import hub, mgca, vit


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
    path, out = hub.resolve(src), Path(out).expanduser()
    theirs = weights.read(path)
    if kind == "vit" and weights.kind_of(theirs) == "dinov2":
        kind = "dinov2"
    options = {"learned_attention": mgca.has_learned_attention(theirs)} if kind == "mgca" else {}
    fields, variables = weights.load(kind, path, **options)
    names = {"names": vit.family(theirs)} if kind == "vit" else {}
    tensors = weights.to_torch(kind, variables, **names)
    weights.write(out / "model.safetensors", tensors)
    config = weights.read_config(path) | {"medvlp_jax": {"kind": kind, "fields": fields}}
    if "num_heads" in fields:
        config |= {"num_attention_heads": fields["num_heads"]}  # tensors do not tell
    (out / "config.json").write_text(json.dumps(config, indent=1))
    beside = path if path.is_dir() else path.parent
    copied = [name for name in hub.TOKENIZER if (beside / name).is_file()]
    for name in copied:
        shutil.copy(beside / name, out / name)
    print(f"{kind}: {_size(tensors)} in {out}")
    if kind in ("bert", "mgca") and not copied:
        print(f"no tokenizer lies beside {path}: put its vocab.txt into {out}")


def export(kind: str, out: str, workdir: str = "", src: str = "", step: str = "last", names: str = "") -> None:
    """Writes (a trunk of) a run's model, or of an imported checkpoint, under published names.

    Raises:
      ValueError: the model, or its trunk, is of another kind. FileNotFoundError: no checkpoint there.
    """
    if bool(workdir) == bool(src):
        raise ValueError("give one of --workdir=RUN and --src=FILE_OR_DIRECTORY")
    if src:
        path = hub.resolve(src)
        options = {"learned_attention": mgca.has_learned_attention(weights.read(path))} if kind == "mgca" else {}
        variables = weights.load(kind, path, **options)[1]
    else:
        variables, _ = checkpoint.load_variables(workdir, checkpoint.choose(workdir, step))
        if kind not in weights.WHOLE:
            found, variables = weights.trunk_of(variables, "text_encoder" if kind == "bert" else "image_encoder")
            if found != kind and (kind, found) != ("vit", "dinov2"):
                raise ValueError(f"the trunk is of kind {found!r}, not {kind!r}; give --kind={found}")
    tensors = weights.to_torch(kind, variables, **({"names": names} if names else {}))
    weights.write(out, tensors)
    print(f"{kind}: {_size(tensors)} in {out}")


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
            command.add_argument("--out", required=True, help="new directory" if name == "import" else "new .safetensors file")
        if name == "export":
            command.add_argument("--workdir", default="", help="run whose checkpoint to export")
            command.add_argument("--step", default="last", help="its checkpoint: last or a number")
            command.add_argument("--names", default="", help="vit: timm (default) or hugging_face")
    return out


def main(argv: list[str]) -> None:
    """Runs one command; a mistake of the user ends with one line and exit code 2."""
    options = vars(parser().parse_args(argv))
    options.pop("command")
    cli.guarded(lambda: options.pop("function")(**options))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BrokenPipeError:  # inspect ... | head
        sys.stderr.close()
