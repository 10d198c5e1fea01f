"""Checkpoint files <-> {name: numpy array}: .safetensors and .npz without torch; .pth/.pt/.ckpt/.bin are read with it.

Nothing here can run code from a file: no pickle in .npz, and torch loads with weights_only.
"""
import json
import re
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

TORCH_SUFFIXES = (".pth", ".pt", ".ckpt", ".bin")
IN_DIRECTORY = ("model.safetensors", "pytorch_model.bin")  # in the order of preference
NESTED = ("state_dict", "model", "model_state_dict")  # where training programs put the tensors

_TYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
}  # fmt: skip


def read(path: str | Path) -> dict[str, np.ndarray]:
    """All tensors of a file, or of a directory in Hugging Face's layout (one of `IN_DIRECTORY`).

    Raises:
      FileNotFoundError: no such file, or the directory holds no checkpoint; says what would fit.
      ValueError: unknown or damaged file, a git-lfs pointer, or a checkpoint that holds more than tensors.
      ImportError: a torch file without torch installed.
    """
    path = _file(Path(path))
    with path.open("rb") as f:
        if f.read(24).startswith(b"version https://git-lfs"):
            raise ValueError(f"{path} is a git-lfs pointer, not the data; fetch it with `git lfs pull`")
    if path.suffix == ".safetensors":
        return _safetensors(path)
    if path.suffix == ".npz":
        return _npz(path)
    if path.suffix in TORCH_SUFFIXES:
        return _torch(path)
    known = ".safetensors, .npz, " + ", ".join(TORCH_SUFFIXES)
    raise ValueError(f"{path}: unknown kind of file {path.suffix!r}; known: {known}")


def read_config(path: str | Path) -> dict:
    """config.json of a checkpoint directory, or beside a checkpoint file; {} where there is none.

    Raises:
      ValueError: it is no JSON object.
    """
    path = Path(path)
    path = (path if path.is_dir() else path.parent) / "config.json"
    try:
        config = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as e:
        raise ValueError(f"{path} is damaged: {e}") from e
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, expected the object that describes the model")
    return config


def write(path: str | Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes a .safetensors file that PyTorch programs load; its folder is made.

    Raises:
      ValueError: another kind of file.
      FileExistsError: it is there already.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a name that ends in .safetensors")
    if path.exists():
        raise FileExistsError(f"{path} exists already; remove it or give another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    # transformers asks for that mark; safetensors' own save_file makes a file that only its owner can read
    path.write_bytes(safetensors.numpy.save(tensors, {"format": "pt"}))


def _file(path: Path) -> Path:
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"no checkpoint {path}")
        return path
    for name in IN_DIRECTORY:
        if (path / name).exists():
            return path / name
    if (path / "checkpoints").is_dir():
        raise FileNotFoundError(
            f"{path} is the directory of a run; `python -m medvlp_jax.weights export --kind=... --workdir={path} --out=...` "
            "takes the weights out of it"
        )
    there = ", ".join(sorted(p.name for p in path.iterdir())[:10]) or "nothing"
    raise FileNotFoundError(f"{path} has none of {', '.join(IN_DIRECTORY)}; it holds {there}")


def _safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        tensors = safetensors.deserialize(path.read_bytes())
    except safetensors.SafetensorError as e:
        raise ValueError(f"{path} is damaged or no safetensors file: {e}") from e
    # the numpy front end of safetensors does not know bfloat16, hence the bytes
    return {name: np.frombuffer(t["data"], _TYPES[t["dtype"]]).reshape(t["shape"]) for name, t in tensors}


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as z:
            return {name: z[name] for name in z.files}
    except (ValueError, zipfile.BadZipFile) as e:
        raise ValueError(f"{path} is damaged or holds more than arrays: {e}") from e


def _torch(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as e:
        raise ImportError(f"{path.name} needs torch: pip install 'medvlp_jax[torch]', or convert to .safetensors") from e
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many kinds: pickle, zip and runtime errors
        if found := re.search(r"GLOBAL (\S+)", str(e)):
            raise ValueError(
                f"{path} holds objects other than tensors ({found[1]}), and reading those would run code out of the file. "
                f"If you trust it, keep its tensors only: python -c \"import torch; c = torch.load('{path.name}', 'cpu', "
                "weights_only=False); torch.save(c.get('state_dict', c), 'tensors.pth')\""
            ) from e
        raise ValueError(f"{path} is damaged, or no torch file ({type(e).__name__})") from e
    for key in NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(torch.is_tensor(v) for v in content.values()):
        there = ", ".join(map(str, list(content)[:10])) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} holds no dictionary of tensors, neither on top nor under {', '.join(NESTED)}; came {there}")
    # numpy has no bfloat16
    return {k: (v.float() if v.dtype == torch.bfloat16 else v).detach().numpy() for k, v in content.items()}
