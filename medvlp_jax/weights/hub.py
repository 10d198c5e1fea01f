"""Where weights are: a local file or directory, or `hf:<id>`, fetched only because the user wrote it."""
from pathlib import Path

TOKENIZER = ("vocab.txt", "tokenizer.json", "tokenizer_config.json")
FILES = ("config.json", "model.safetensors", *TOKENIZER)
OLDER = "pytorch_model.bin"  # all that some models publish, Bio_ClinicalBERT among them; needs the torch extra


def resolve(location: str) -> Path:
    """Local path of weights given as a path or as `hf:<id>`.

    Raises:
      FileNotFoundError: nothing there, or the hub cannot be reached; says which files to fetch and how to name them.
    """
    if location.startswith("hf:"):
        return _fetch(location.removeprefix("hf:"))
    path = Path(location).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"no weights at {path}: expected a .safetensors, .npz or .pth file, a directory, or hf:<id>")
    return path


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download  # comes with transformers; slow to import and seldom needed

    try:
        path = Path(snapshot_download(name, allow_patterns=list(FILES)))
        if not (path / "model.safetensors").exists():
            path = Path(snapshot_download(name, allow_patterns=[*FILES, OLDER]))
        return path
    except Exception as error:  # the hub raises a dozen kinds; what helps is the same for all
        raise FileNotFoundError(
            f"hf:{name} is neither in the local cache nor can it be fetched ({type(error).__name__}). On a machine with "
            f"network, download {', '.join(FILES[:3])} (or {OLDER}) of {name} into a directory and give that directory."
        ) from error
