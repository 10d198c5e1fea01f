"""MedKLIP's `Method` on a tiny batch: loss and predictions by naive loops from what the module gives."""
import functools

import jax
import numpy as np
import pytest

from medvlp_jax.methods import medklip
from medvlp_jax.models import trunks
from medvlp_jax.reports import vocab
from tests import tiny

pytestmark = pytest.mark.usefixtures("quick_compiles")
EXCLUDED = ("pneumonia", "mass")
ROWS = 6


def batch():
    """Images of 4 x 3 patches."""
    out = tiny.batch(ROWS, seed=1)
    out["image"] = out["image"][:, :, :24]
    return out


@functools.cache
def world():
    """-> config, Method, variables, what the module gives for the batch without dropout."""
    c = tiny.config("medklip", exclude_entities=EXCLUDED)
    c.losses.existence, c.losses.location = 0.7, 0.3
    method = tiny.method(c)
    variables = jax.jit(method.init)(jax.random.key(0), {**batch(), "knowledge": tiny.tables()})
    fields = c.model.to_dict()
    image = fields.pop("image")
    image.pop("init")
    model = medklip.MedKLIP(trunks.image_encoder(**image), **fields)
    pixels = np.repeat(batch()["image"] / 255.0, 3, -1)
    pixels = ((pixels - np.array(c.normalisation.mean)) / np.array(c.normalisation.std)).astype(np.float32)
    table = variables["knowledge"]["entities"]
    out = jax.jit(lambda v: model.apply({k: x for k, x in v.items() if k != "knowledge"}, pixels, table))(variables)
    return c, method, variables, {k: np.asarray(v, np.float64) for k, v in out.items()}


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def test_loss():
    """Existence: labels 0 and 1; location: the first of 8 candidates where present; excluded entities are in neither."""
    c, method, variables, out = world()
    b, table = batch(), np.asarray(variables["knowledge"]["positions"], np.float64)
    existence, location = [], []
    for row, k in np.ndindex(ROWS, len(vocab.ENTITIES)):
        label = b["labels"][row, k]
        if vocab.ENTITIES[k] in EXCLUDED or label not in (0, 1):
            continue
        existence.append(-log_softmax(out["existence"][row, k])[label])
        if label == 1:
            scores = np.array([out["location"][row, k] @ table[n] for n in b["positions"][row, k]])
            location.append(-log_softmax(scores)[0])
    state = {k: v for k, v in variables.items() if k != "params"}
    loss, (_, terms) = jax.jit(method.loss)(variables["params"], state, b, jax.random.key(0))
    want = {"existence": np.mean(existence), "location": np.mean(location)}
    assert terms.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(terms[name], want[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(loss, 0.7 * want["existence"] + 0.3 * want["location"], rtol=1e-5)


def test_predictions():
    """The score is that of the second class, present; the heat map is the mean over the layers."""
    _, method, variables, out = world()
    got = jax.jit(lambda v, b: {name: fn(v, b) for name, fn in method.predict.items()})(variables, batch())
    image = out["patches"].mean(1)
    want = {
        "score_findings": np.exp([[log_softmax(x)[1] for x in row] for row in out["existence"]]),
        "ground": out["attention"].mean(1).reshape(ROWS, -1, 4, 3),
        "embed_image": image / np.sqrt((image**2).sum(1, keepdims=True)),
        "embed_patches": out["patches"],
    }
    assert got.keys() == want.keys()
    assert out["attention"].shape[1] == 2 and np.abs(out["attention"][:, 0] - out["attention"][:, 1]).max() > 1e-3
    assert np.abs(want["score_findings"] - 0.5).max() > 1e-3
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-6, err_msg=name)
