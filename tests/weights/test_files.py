"""Checkpoint files of every kind, and what happens with damaged or foreign ones."""
import json
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from medvlp_jax import weights
from tests import golden

TENSORS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7), "half": np.ones(2, np.float16)}


def same(got):
    assert set(got) == set(TENSORS)
    for name, want in TENSORS.items():
        assert got[name].dtype == want.dtype
        np.testing.assert_array_equal(got[name], want)


def test_safetensors_npz_and_directories(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    np.savez(tmp_path / "w.npz", **TENSORS)
    same(weights.read(tmp_path / "model.safetensors"))
    same(weights.read(tmp_path / "w.npz"))
    same(weights.read(tmp_path))
    assert weights.read_config(tmp_path) == {}
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 3}))
    assert weights.read_config(tmp_path) == weights.read_config(tmp_path / "w.npz") == {"hidden_size": 3}


def test_bfloat16_safetensors(tmp_path):
    header = json.dumps({"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + np.array([1.5, -2.0], np.float32).view(np.uint16)[1::2].tobytes()
    )
    np.testing.assert_array_equal(weights.read(tmp_path / "x.safetensors")["x"].astype(np.float32), [1.5, -2.0])


def test_damaged_and_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint .*absent.npz"):
        weights.read(tmp_path / "absent.npz")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="none of model.safetensors, pytorch_model.bin; it holds notes.txt"):
        weights.read(tmp_path)
    with pytest.raises(ValueError, match=r"unknown kind of file '.txt'; known: .safetensors, .npz, .pth"):
        weights.read(tmp_path / "notes.txt")
    pointer = tmp_path / "pointer.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match="git-lfs pointer"):
        weights.read(pointer)
    save_file(TENSORS, tmp_path / "cut.safetensors")
    np.savez(tmp_path / "cut.npz", **TENSORS)
    for name in ("cut.safetensors", "cut.npz"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            weights.read(tmp_path / name)
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="holds more than arrays"):  # would need pickle
        weights.read(tmp_path / "objects.npz")


def test_torch_files(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    state = {k: torch.from_numpy(v) for k, v in TENSORS.items()}
    torch.save(state, tmp_path / "plain.pth")
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "lightning.ckpt")
    torch.save({"model": state}, tmp_path / "pytorch_model.bin")
    for path in (tmp_path / "plain.pth", tmp_path / "lightning.ckpt", tmp_path):
        same(weights.read(path))
    torch.save({"x": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "b.pt")
    assert weights.read(tmp_path / "b.pt")["x"].dtype == np.float32
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    with pytest.raises(ValueError, match="no dictionary of tensors.*; came epoch$"):
        weights.read(tmp_path / "empty.pt")
    torch.save({"state_dict": state, "config": tmp_path}, tmp_path / "objects.ckpt")  # a path is an object: pickle
    with pytest.raises(ValueError, match=r"other than tensors \(pathlib.*\).*If you trust it, keep its tensors only: python"):
        weights.read(tmp_path / "objects.ckpt")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "plain.pth").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut.pth is damaged, or no torch file \(\w+\)$"):
        weights.read(tmp_path / "cut.pth")


def test_torch_files_without_torch_say_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "x.pth").write_bytes(b"any content of more than 24 bytes")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"x.pth needs torch: pip install 'medvlp_jax\[torch\]'"):
        weights.read(tmp_path / "x.pth")


def test_load_reads_the_heads_from_the_config_and_checks_it(tmp_path):
    _, params, _, _ = golden.load("bert_tiny_golden")
    save_file(params, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4, "hidden_act": "gelu"}))
    fields, variables = weights.load("bert", tmp_path, depth=1)
    assert (fields["num_heads"], fields["depth"]) == (4, 1) and set(variables["params"]) >= {"word", "block_0"}
    assert weights.load("bert", tmp_path, num_heads=2)[0]["num_heads"] == 2
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4, "hidden_act": "relu"}))
    with pytest.raises(ValueError, match="hidden_act='relu'; only 'gelu' is supported"):
        weights.load("bert", tmp_path)
    for config in ({"hidden_size": 64, "num_attention_heads": 4}, {"num_attention_heads": 5}):  # left from other weights
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="tensors of width 48, but config.json beside them has .*of another model?"):
            weights.load("bert", tmp_path)
    for text, said in (('{"a": ', "config.json is damaged: Expecting value"), ("[]", "config.json holds a list, expected")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            weights.load("bert", tmp_path)
