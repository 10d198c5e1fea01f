"""Writes pretrained_reference.npz: features that transformers' torch models give for two real checkpoints.

    python -m tests.testdata.make_pretrained_reference DINOV2.npz MINILM_DIRECTORY

Needs torch. The tests need only the result, and the checkpoints (which are not kept here).
"""
import sys
import tempfile
from pathlib import Path

import numpy as np

from tests.testdata.golden import fill

HERE = Path(__file__).parent / "pretrained_reference.npz"
IMAGES = {"square": (1, 3, 224, 224), "oblong": (1, 3, 98, 126)}  # px; both need the positions resampled
INPUT_IDS = np.array([[101, 2048, 8985, 11192, 2024, 3154, 1012, 102], [101, 2053, 1037, 12031, 102, 0, 0, 0]])


def image(name: str) -> np.ndarray:
    """(1, 3, H, W) float32."""
    return fill.fill(f"pretrained/{name}", IMAGES[name], "image", scale=1.0, block=14)


def main(dinov2_npz: str, minilm: str) -> None:
    import torch
    import transformers
    from safetensors.numpy import save_file

    out = {}
    with np.load(dinov2_npz) as z, tempfile.TemporaryDirectory() as directory, torch.no_grad():
        config = transformers.Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=518)
        config.save_pretrained(directory)
        save_file({k: z[k].astype(np.float32) for k in z.files}, Path(directory) / "model.safetensors", {"format": "pt"})
        model, info = transformers.Dinov2Model.from_pretrained(
            directory, output_loading_info=True, attn_implementation="eager", dtype=torch.float32
        )
        assert set(info["missing_keys"]) <= {"embeddings.mask_token"} and not info["unexpected_keys"], info
        for name in IMAGES:
            result = model.eval()(torch.from_numpy(image(name)), output_attentions=True)
            tokens = result.last_hidden_state.numpy()
            out[f"dinov2/{name}/cls"] = tokens[:, 0]
            out[f"dinov2/{name}/patch_tokens_slice"] = tokens[:, 1:][:, ::32 if name == "square" else 8]
            out[f"dinov2/{name}/attention"] = result.attentions[-1].numpy().mean(1)[:, 0, 1:]
    with torch.no_grad():
        model = transformers.BertModel.from_pretrained(minilm, attn_implementation="eager", dtype=torch.float32).eval()
        ids = torch.from_numpy(INPUT_IDS)
        result = model(ids, attention_mask=(ids != 0).long(), output_attentions=True)
        out["minilm/hidden"] = result.last_hidden_state.numpy()
        out["minilm/attention"] = result.attentions[-1].numpy().mean(1)[:, 0]
    np.savez_compressed(HERE, **out)
    print(f"{HERE.name}: {HERE.stat().st_size / 1000:.0f} kB", {k: v.shape for k, v in out.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
