"""python -m medvlp_jax.weights: import, export, inspect, and what users do wrong."""
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from medvlp_jax import method, weights
from medvlp_jax.input import tokens
from medvlp_jax.models import bert, resnet, trunks, vit
from medvlp_jax.weights import __main__ as command_line
from medvlp_jax.weights import hub
from tests import tiny
from tests.models import filled
from tests.weights import runs

TRUNK = {"name": "vit", "patch_size": 8, "width": 32, "depth": 2, "num_heads": 4, "mlp_dim": 64, "layer_scale": 1.0, "init": ""}
RESNET = {"name": "resnet", "depth": 18, "width": 8, "num_stages": 3, "init": ""}


def run(workdir, image):
    """A MedKLIP run with one checkpoint and its config -> its variables."""
    config = tiny.config("medklip", **{"model/image": image})
    variables = filled.variables(method.get(config), {**tiny.batch(), "knowledge": tiny.tables()})
    runs.save(workdir, variables, config)
    return variables


def equal(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def command(*arguments):
    command_line.main([str(a) for a in arguments])


def error_of(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        command(*arguments)
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def medklip_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, run(folder, RESNET)


def test_whole_medklip_out_and_in_again(medklip_run, tmp_path, capsys):
    folder, variables = medklip_run
    command("export", "--kind=medklip", f"--workdir={folder}", f"--out={tmp_path}/m.safetensors")
    tensors = weights.read(tmp_path / "m.safetensors")
    assert {"res_features.0.weight", "decoder.layers.1.multihead_attn.in_proj_weight", "cl_fc.weight"} < set(tensors)
    command("import", "--kind=medklip", f"--src={tmp_path}/m.safetensors", f"--out={tmp_path}/new")
    fields, again = weights.load("medklip", tmp_path / "new")
    equal(again, {k: v for k, v in variables.items() if k != "knowledge"})
    assert (fields["image"]["depth"], fields["patch_stage"], fields["width"], fields["num_heads"]) == (18, 2, 16, 4)
    assert json.loads((tmp_path / "new" / "config.json").read_text())["medvlp_jax"]["kind"] == "medklip"
    assert "medklip: " in capsys.readouterr().out
    # its trunk, by itself and out of the whole
    command("export", "--kind=resnet", f"--workdir={folder}", f"--out={tmp_path}/a.safetensors")
    command("export", "--kind=resnet", f"--src={tmp_path}/new", f"--out={tmp_path}/b.safetensors")
    trunks = [weights.load("resnet", tmp_path / name) for name in ("a.safetensors", "b.safetensors")]
    assert trunks[0][0] == trunks[1][0] == dict(depth=18, width=8, num_stages=3)
    for _, trunk in trunks:
        equal(trunk, {c: variables[c]["image_encoder"] for c in ("params", "batch_stats")})


def test_a_published_pth_file_is_imported_without_running_code(tmp_path):
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    model = resnet.ResNet(18, width=8, num_stages=2)
    variables = filled.variables(model, jnp.zeros((1, 32, 32, 3)))
    state = {f"module.{k}": torch.from_numpy(v) for k, v in weights.to_torch("resnet", variables).items()}
    torch.save({"epoch": 3, "model": state}, tmp_path / "r.pth")
    command("import", "--kind=resnet", f"--src={tmp_path}/r.pth", f"--out={tmp_path}/new")
    equal(weights.load("resnet", tmp_path / "new")[1], variables)


def test_exported_directory_tells_transformers_what_the_tensors_do_not(tmp_path):
    """config.json and the image processor, read by transformers itself, which needs no torch for that."""
    import transformers

    run(tmp_path / "run", TRUNK)
    command("export", "--kind=dinov2", f"--workdir={tmp_path}/run", f"--out={tmp_path}/hf")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "hf")
    assert isinstance(config, transformers.Dinov2Config) and config.architectures == ["Dinov2Model"]
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.mlp_ratio) == (32, 2, 4, 2)
    assert (config.patch_size, config.image_size, config.layer_norm_eps) == (8, tiny.SIZE, 1e-6)
    grey = np.random.RandomState(0).randint(0, 256, (tiny.SIZE, tiny.SIZE), dtype=np.uint8)
    prepare = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    theirs = prepare(Image.fromarray(grey), return_tensors="np").pixel_values
    normalisation = tiny.config("medklip").normalisation
    ours = trunks.normalise(grey[None, ..., None], normalisation.mean, normalisation.std)
    np.testing.assert_allclose(ours, theirs.transpose(0, 2, 3, 1), atol=1e-6)
    fields, _ = weights.load("dinov2", tmp_path / "hf")
    assert fields == {k: v for k, v in TRUNK.items() if k not in ("name", "init")}


def test_exported_text_encoder_has_the_tokenizer_of_the_run(tmp_path, capsys):
    import transformers

    tokenizer = tokens.load()  # the run names none: it had the vocabulary shipped here
    sizes = dict(width=32, depth=1, num_heads=4, mlp_dim=64, max_positions=24, vocab_size=tokenizer.vocab_size)
    config = tiny.config("mlip", **{"model/text": {"size": "", **sizes, "init": ""}})
    ids = jnp.ones((1, 3), jnp.int32)
    variables = filled.variables(bert.Bert(**sizes), ids, ids)
    runs.save(tmp_path / "run", {"params": {"text_encoder": variables["params"]}}, config)
    command("export", "--kind=bert", f"--workdir={tmp_path}/run", f"--out={tmp_path}/hf")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "hf")
    assert isinstance(config, transformers.BertConfig) and config.vocab_size == tokenizer.vocab_size
    assert (config.num_attention_heads, config.intermediate_size, config.max_position_embeddings) == (4, 64, 24)
    text = "Small LEFT pneumothorax; no effusion. Naïve?"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    want = [x for x in tokenizer.encode(text)["input_ids"].tolist() if x != tokenizer.pad]
    assert theirs(text)["input_ids"] == want
    equal(weights.load("bert", tmp_path / "hf")[1], variables)
    assert "no tokenizer" not in capsys.readouterr().out


def test_torchvision_is_told_what_it_needs(medklip_run, tmp_path, capsys):
    folder, _ = medklip_run
    command("export", "--kind=resnet", f"--workdir={folder}", f"--out={tmp_path}/a.safetensors")
    assert "torchvision has no ResNet of this width and stem" in capsys.readouterr().out
    wide = resnet.ResNet(18, num_stages=1)
    weights.write(tmp_path / "b.safetensors", weights.to_torch("resnet", filled.variables(wide, jnp.zeros((1, 32, 32, 3)))))
    command("export", "--kind=resnet", f"--src={tmp_path}/b.safetensors", f"--out={tmp_path}/c")
    assert "torch.nn.Identity() in place of fc and of the layers after layer1" in capsys.readouterr().out


def test_tokenizer_and_heads_come_along(tmp_path, capsys):
    model = bert.Bert(50, 32, 2, 2, 64, 16)
    ids = jnp.ones((1, 3), jnp.int32)
    source = tmp_path / "source"
    weights.write(source / "model.safetensors", weights.to_torch("bert", filled.variables(model, ids, ids)))
    (source / "config.json").write_text(json.dumps({"num_attention_heads": 2, "hidden_act": "gelu", "use_cache": True}))
    words = [*tokens.SPECIAL, *(f"w{i}" for i in range(45))]
    (source / "vocab.txt").write_text("\n".join(words))
    command("import", "--kind=bert", f"--src={source}", f"--out={tmp_path}/new")
    assert weights.load("bert", tmp_path / "new")[0]["num_heads"] == 2
    assert (tmp_path / "new" / "vocab.txt").read_text() == "\n".join(words)
    assert weights.read_config(tmp_path / "new")["use_cache"] is True
    # a tokenizer of another model, and none at all
    (source / "vocab.txt").write_text("\n".join([*words, "more"]))
    said = error_of(capsys, "import", "--kind=bert", f"--src={source}", f"--out={tmp_path}/other")
    assert "the tokenizer has 51 word pieces, but the model has 50 embeddings" in said and not (tmp_path / "other").exists()
    (source / "vocab.txt").unlink()
    command("export", "--kind=bert", f"--src={source}", f"--out={tmp_path}/bare")
    assert "put the text encoder's vocab.txt into" in capsys.readouterr().out


def test_inspect_tells_kind_sizes_and_tensors(tmp_path, capsys):
    model = vit.ViT(8, width=64, depth=1, num_heads=1, mlp_dim=16)
    variables = filled.variables(model, jnp.zeros((1, 16, 16, 3)))
    weights.write(tmp_path / "v.safetensors", weights.to_torch("vit", variables, names="hugging_face"))
    command("inspect", f"--src={tmp_path}/v.safetensors")
    out = capsys.readouterr().out
    assert "kind: vit\n" in out and '"width": 64' in out and "  embeddings.cls_token  (1, 1, 64)  float32\n" in out
    command("import", "--kind=vit", f"--src={tmp_path}/v.safetensors", f"--out={tmp_path}/new")
    assert "embeddings.cls_token" in weights.read(tmp_path / "new")  # the family of names stays
    weights.write(tmp_path / "odd.safetensors", {"conv1.weight": np.zeros((2, 3), np.float32)})
    weights.write(tmp_path / "strange.safetensors", {"x": np.zeros(3, np.float32)})
    says = {"odd": "kind: resnet\ndoes not load: tensor 'conv1.weight'", "strange": "kind: unknown; known: bert"}
    for name, said in says.items():
        command("inspect", f"--src={tmp_path}/{name}.safetensors")
        assert said in capsys.readouterr().out


def test_mistakes_end_with_one_line(medklip_run, tmp_path, capsys):
    folder, _ = medklip_run
    out = f"--out={tmp_path}/x.safetensors"
    source = tmp_path / "trunk.safetensors"
    command("export", "--kind=resnet", f"--workdir={folder}", f"--out={source}")
    dinov2 = vit.ViT(8, width=64, depth=1, num_heads=1, mlp_dim=16, layer_scale=1.0)
    scaled = tmp_path / "scaled.safetensors"
    weights.write(scaled, weights.to_torch("dinov2", filled.variables(dinov2, jnp.zeros((1, 16, 16, 3)))))
    cases = [
        (("export", "--kind=dinov2", f"--workdir={folder}", out), "is of kind 'resnet', not 'dinov2'; give --kind=resnet"),
        (("export", "--kind=bert", f"--workdir={folder}", out), "no 'text_encoder'; its parts: "),
        (("export", "--kind=mgca", f"--workdir={folder}", out), "without a name in the published format: params/"),
        (("export", "--kind=resnet", "--names=timm", f"--workdir={folder}", out), "--names is for --kind=vit"),
        (("export", "--kind=vit", "--names=hugging_face", f"--src={scaled}", out), "has no layer scale, its DINOv2 has: give"),
        (("export", "--kind=clip", f"--workdir={folder}", out), "unknown kind of weights 'clip'"),
        (("inspect", f"--src={folder}"), "is the directory of a run; `python -m medvlp_jax.weights export"),
        (("import", "--kind=clip", "--src=hf:nobody/nothing", out), "unknown kind of weights 'clip'"),
        (("export", "--kind=resnet", out), "give one of --workdir=RUN and --src="),
        (("export", "--kind=resnet", f"--workdir={tmp_path}/none", out), "no checkpoint in"),
        (("export", "--kind=resnet", f"--workdir={folder}", f"--out={tmp_path}/x.pth"), "a name that ends in .safetensors"),
        (("export", "--kind=resnet", f"--workdir={folder}", f"--out={source}"), "exists already"),
        (("import", "--kind=vit", f"--src={source}", out), "holds weights of kind 'resnet', expected 'vit'"),
        (("import", "--kind=clip", f"--src={source}", out), "unknown kind of weights 'clip'; known: bert, vit"),
        (("import", "--kind=bert", f"--src={tmp_path}/none.bin", out), "no weights at"),
        (("inspect", "--src=hf:nobody/nothing"), "neither in the local cache nor can it be fetched"),
    ]
    for arguments, said in cases:
        text = error_of(capsys, *arguments)
        assert text.startswith("error: ") and said in text and "Traceback" not in text, arguments
    assert not (tmp_path / "x.safetensors").exists()


def test_hub_falls_back_on_what_older_models_publish(tmp_path, monkeypatch):
    """Bio_ClinicalBERT has pytorch_model.bin only; where safetensors are, the larger file is not fetched as well."""
    import huggingface_hub

    asked = []

    def download(name, allow_patterns):
        asked.append(allow_patterns)
        if name == "new/model":
            (tmp_path / "model.safetensors").touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.resolve("hf:old/model") == tmp_path and [hub.OLDER in patterns for patterns in asked] == [False, True]
    asked.clear()
    assert hub.resolve("hf:new/model") == tmp_path and [hub.OLDER in patterns for patterns in asked] == [False]
