"""The way out: what is exported here loads strictly in torch and gives the same features, as docs/weights.md says it does."""
import functools
import re
import shlex
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax import weights
from medvlp_jax.models import bert, trunks, vit
from medvlp_jax.weights import __main__ as command_line
from tests import golden, tiny
from tests.models import filled
from tests.weights import runs

torch = pytest.importorskip("torch", reason="the features of torch models need the torch extra")
import transformers  # noqa: E402

from tests.weights import torch_models  # noqa: E402

ROOT = Path(__file__).parents[2]
VIT = dict(patch_size=8, width=32, depth=2, num_heads=4, mlp_dim=64)
BERT = dict(vocab_size=60, width=32, depth=2, num_heads=4, mlp_dim=64, max_positions=24)
pytestmark = pytest.mark.usefixtures("quick_compiles")
IMAGE = np.random.RandomState(0).randn(2, tiny.SIZE, tiny.SIZE, 3).astype(np.float32)
WIDE = np.random.RandomState(1).randn(1, 24, 48, 3).astype(np.float32)  # another size than that of training


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """One call of every function: torch's threads cost more than they save."""
    torch.set_num_threads(1)


def command(*arguments):
    command_line.main([str(a) for a in arguments])


def torch_images(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


@functools.cache
def encoder(name, **fields):
    """A jitted image trunk and its variables; compiled once for all tests."""
    model = trunks.image_encoder(name, **fields)
    return jax.jit(model.apply), filled.variables(model, jnp.asarray(IMAGE))


def tokens_of(apply, variables, images):
    x, out = apply(variables, images)
    return np.concatenate([x[:, None], out["patch_tokens"]], axis=1)  # (B, 1 + N, C)


def image_run(workdir, name, **fields):
    """A run whose image trunk is `encoder` of the same arguments, which it gives."""
    apply, variables = encoder(name, **fields)
    config = tiny.config("medklip", **{"model/image": {"name": name, **fields, "init": ""}})
    runs.save(workdir, {collection: {"image_encoder": part} for collection, part in variables.items()}, config)
    return apply, variables


def transformers_model(name, directory, **options):
    """from_pretrained, which would only warn of what is missing or left over."""
    model, info = getattr(transformers, name).from_pretrained(directory, output_loading_info=True, **options)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    assert model.dtype == torch.float32
    return model.eval()


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_image_transformer_in_transformers(kind, tmp_path):
    fields, name, options = VIT, "ViTModel", {"add_pooling_layer": False}
    if kind == "dinov2":
        fields, name, options = VIT | {"layer_scale": 1.0}, "Dinov2Model", {}
    apply, variables = image_run(tmp_path / "run", "vit", **fields)
    command("export", f"--kind={kind}", f"--workdir={tmp_path}/run", f"--out={tmp_path}/hf")
    theirs = transformers_model(name, tmp_path / "hf", **options)
    with torch.inference_mode():
        for images in (IMAGE, WIDE) if kind == "dinov2" else (IMAGE,):  # ViTModel resamples positions otherwise
            want = theirs(torch_images(images)).last_hidden_state.numpy()
            assert golden.relative_l2(tokens_of(apply, variables, images), want) <= 1e-5
    # and what transformers holds in memory, under names of its own, can be taken as well
    state = {k: v.numpy() for k, v in theirs.state_dict().items()}
    jax.tree.map(np.testing.assert_array_equal, weights.from_torch(kind, state), variables)


@pytest.mark.parametrize("scale", [None, 1.0])
def test_image_transformer_in_timm_names(scale, tmp_path):
    apply, variables = image_run(tmp_path / "run", "vit", **VIT, **({"layer_scale": scale} if scale else {}))
    command("export", "--kind=vit", f"--workdir={tmp_path}/run", f"--out={tmp_path}/vit.safetensors")
    theirs = torch_models.ViT(tiny.SIZE, 8, 32, 2, 4, 64, scaled=bool(scale))
    theirs.load_state_dict(load_file(tmp_path / "vit.safetensors"), strict=True)
    with torch.inference_mode():
        want = theirs(torch_images(IMAGE)).numpy()
    assert golden.relative_l2(tokens_of(apply, variables, IMAGE), want) <= 1e-5


def load_file(path):
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize(("depth", "stages"), [(18, 4), (50, 3)])
def test_resnet_in_torchvision_names(depth, stages, tmp_path):
    apply, variables = image_run(tmp_path / "run", "resnet", depth=depth, width=8, num_stages=stages)
    command("export", "--kind=resnet", f"--workdir={tmp_path}/run", f"--out={tmp_path}/r.safetensors")
    theirs = torch_models.ResNet(depth, width=8)
    for stage in range(stages, 4):
        setattr(theirs, f"layer{stage + 1}", torch.nn.Identity())
    theirs.load_state_dict(load_file(tmp_path / "r.safetensors"), strict=True)
    with torch.inference_mode():
        want = theirs.eval()(torch_images(IMAGE)).numpy()
    assert golden.relative_l2(apply(variables, IMAGE)[0], want) <= 1e-5


@pytest.mark.parametrize("types", [2, 0])
def test_text_encoder_in_transformers(types, tmp_path):
    """BertModel always has token types; an encoder without (MGCA's) gets a table of zeros."""
    model = bert.Bert(**BERT, type_vocab=types)
    ids = np.random.RandomState(0).randint(5, 60, (2, 9)).astype(np.int32)
    mask = np.array([[1] * 9, [1] * 6 + [0] * 3], np.int32)
    variables = filled.variables(model, ids, mask)
    config = tiny.config("mlip", **{"model/text": {"size": "", **BERT, "type_vocab": types, "init": ""}})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(55))]
    config.data.tokenizer = str(tmp_path / "words.txt")
    (tmp_path / "words.txt").write_text("\n".join(vocabulary))
    runs.save(tmp_path / "run", {"params": {"text_encoder": variables["params"]}}, config)
    command("export", "--kind=bert", f"--workdir={tmp_path}/run", f"--out={tmp_path}/hf")
    theirs = transformers_model("BertModel", tmp_path / "hf", add_pooling_layer=False)
    with torch.inference_mode():
        want = theirs(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state.numpy()
    got, _ = jax.jit(model.apply)(variables, ids, mask)
    assert golden.relative_l2(np.asarray(got)[mask > 0], want[mask > 0]) <= 1e-5
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")("w3 W4")["input_ids"] == [2, 8, 9, 3]


@pytest.mark.parametrize("name", ["ViT", "Bert"])
def test_epsilon_of_their_config_is_ours(name, tmp_path):
    """Hugging Face's ViTs have 1e-12 in place of timm's 1e-6, which small activations show."""
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    if name == "ViT":
        config = transformers.ViTConfig(**sizes, image_size=tiny.SIZE, patch_size=8, layer_norm_eps=1e-12)
        inputs, kind = torch_images(IMAGE), "vit"
    else:
        config = transformers.BertConfig(**sizes, vocab_size=60, max_position_embeddings=24, layer_norm_eps=1e-3)
        inputs, kind = torch.arange(5, 12)[None], "bert"
    torch.manual_seed(0)
    theirs = getattr(transformers, f"{name}Model")(config, add_pooling_layer=False).eval()
    theirs.save_pretrained(tmp_path)
    with torch.inference_mode():
        want = theirs(inputs).last_hidden_state.numpy()
    fields, variables = weights.load(kind, tmp_path)
    assert fields.pop("norm_eps") == config.layer_norm_eps
    if kind == "vit":
        got = tokens_of(jax.jit(vit.ViT(**fields, norm_eps=1e-12).apply), variables, IMAGE)
    else:
        ids = inputs.numpy().astype(np.int32)
        got, _ = jax.jit(bert.Bert(**fields, norm_eps=1e-3).apply)(variables, ids, np.ones_like(ids))
    assert golden.relative_l2(got, want) <= 1e-5
    command("export", f"--kind={kind}", f"--src={tmp_path}", f"--out={tmp_path}/again")
    again = transformers_model(f"{name}Model", tmp_path / "again", add_pooling_layer=False)
    with torch.inference_mode():
        np.testing.assert_array_equal(again(inputs).last_hidden_state.numpy(), want)
        for layer in again.modules():
            if isinstance(layer, torch.nn.LayerNorm):
                layer.eps = weights.NORM_EPS[kind]
        assert golden.relative_l2(again(inputs).last_hidden_state.numpy(), want) > 1e-5  # our default would not do


def readme():
    """Export commands and Python blocks of docs/weights.md."""
    text = (ROOT / "docs" / "weights.md").read_text()
    commands = re.findall(r"^    python -m medvlp_jax.weights (export .*)$", text, re.MULTILINE)
    return [shlex.split(c) for c in commands], re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_code_in_the_readme(tmp_path, monkeypatch):
    """Run as it stands, on runs under the names it uses; torchvision is stood in for by a narrow model of its names."""
    from PIL import Image

    exports, blocks = readme()
    assert len(exports) == len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    fake = types.SimpleNamespace(models=types.SimpleNamespace(resnet50=lambda: torch_models.ResNet(50, width=8)))
    monkeypatch.setitem(sys.modules, "torchvision", fake)
    grey = np.random.RandomState(2).randint(0, 256, (40, 50), dtype=np.uint8)
    Image.fromarray(grey).save("radiograph.png")
    ours = [
        image_run(tmp_path / "runs" / "mine", "vit", **VIT, layer_scale=1.0),
        image_run(tmp_path / "runs" / "medklip", "resnet", depth=50, width=8, num_stages=3),
    ]
    for arguments in exports:
        command(*arguments)
    names = {}
    stretched = np.asarray(Image.fromarray(grey).resize((tiny.SIZE, tiny.SIZE), Image.Resampling.BILINEAR))
    config = tiny.config("medklip").normalisation
    pixels = trunks.normalise(stretched[None, ..., None], config.mean, config.std)
    pixels = np.broadcast_to(pixels, IMAGE.shape)  # the shape that is compiled already
    for block, (apply, variables) in zip(blocks, ours, strict=True):
        exec(compile(block, "docs/weights.md", "exec"), names)
        x, out = apply(variables, pixels)
        assert golden.relative_l2(x[:1], names["feature"]) <= 1e-5
        if "patch_tokens" in out:
            assert golden.relative_l2(out["patch_tokens"][:1], names["patches"]) <= 1e-5


def library(name):
    """An installed library; one that was built for another torch fails in its own ways."""
    try:
        return __import__(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name} is not usable here: {error}")


def same_outputs(ours, theirs, images):
    """Whether the stand-in has the library's names and numbers."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in theirs.state_dict().items():
        if tensor.is_floating_point():
            tensor += 0.02 * torch.rand(tensor.shape, generator=generator)
        assert name.split(".")[-1] != "running_var" or tensor.min() > 0
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.inference_mode():
        np.testing.assert_allclose(ours.eval()(images), theirs.eval()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("depth", [18, 50])
def test_the_resnet_above_is_torchvisions(depth):
    theirs = getattr(library("torchvision").models, f"resnet{depth}")()
    theirs.fc = torch.nn.Identity()
    same_outputs(torch_models.ResNet(depth), theirs, torch_images(IMAGE))


@pytest.mark.parametrize("scale", [None, 1.0])
def test_the_vit_above_is_timms(scale):
    fields = dict(img_size=tiny.SIZE, patch_size=8, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2, init_values=scale)
    theirs = library("timm").models.VisionTransformer(**fields, num_classes=0, global_pool="")
    same_outputs(torch_models.ViT(tiny.SIZE, 8, 32, 2, 4, 64, scaled=bool(scale)), theirs, torch_images(IMAGE))
