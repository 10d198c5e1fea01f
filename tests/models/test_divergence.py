"""Divergence encoder: where it starts, what the noise does, and that it can learn."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medvlp_jax.losses.contrastive import kl_divergence
from medvlp_jax.models.divergence import DivergenceEncoder
from medvlp_jax.models.heads import normalize

pytestmark = pytest.mark.usefixtures("quick_compiles")

DIM = 64


@pytest.fixture(scope="module")
def start():
    z = normalize(np.random.default_rng(0).standard_normal((32, DIM), np.float32))
    model = DivergenceEncoder(hidden=48)
    return model, jax.jit(model.init)(jax.random.key(0), z), z


def test_starts_at_the_prior(start):
    model, variables, z = start
    view, out = model.apply(variables, z)
    assert float(jnp.abs(out["mu"]).max()) < 0.02
    np.testing.assert_allclose(jnp.exp(0.5 * out["log_var"]), 0.3 / 8, rtol=0.02)
    assert float(kl_divergence(out["mu"], out["log_var"], 0.3 / 8)) < 0.1
    np.testing.assert_allclose(view, normalize(z + out["mu"]), atol=1e-6)  # eps None is no noise
    own = DivergenceEncoder(hidden=48, noise=0.5 * 8).apply(variables, z)[1]
    np.testing.assert_allclose(jnp.exp(0.5 * own["log_var"]), 0.5, rtol=0.02)


def test_view_is_the_reparametrised_sample(start):
    model, variables, z = start
    eps = np.random.default_rng(1).standard_normal(z.shape, np.float32)
    view, out = jax.jit(model.apply)(variables, z, eps)
    want = np.asarray(z) + np.asarray(out["mu"]) + np.exp(0.5 * np.asarray(out["log_var"])) * eps
    np.testing.assert_allclose(view, want / np.linalg.norm(want, axis=1, keepdims=True), atol=1e-6)
    cosine = (view * z).sum(axis=1)  # noise of length about 0.3: another view, but the same meaning
    assert 0.9 < float(cosine.min()) and float(cosine.max()) < 0.99
    with pytest.raises(ValueError, match=r"eps \(3, 64\) does not fit embeddings \(32, 64\)"):
        model.apply(variables, z, eps[:3])


def test_kl_keeps_sigma_from_collapsing(start):
    model, variables, z = start
    params = jax.tree.map(lambda x: x, variables["params"])
    params["log_var_offset"]["bias"] = jnp.full((DIM,), -6.0)  # sigma far too small

    optimizer = optax.adam(0.05)

    @jax.jit
    def step(params, state):
        def loss(params):
            _, out = model.apply({"params": params}, z)
            return kl_divergence(out["mu"], out["log_var"], 0.3 / 8), out["log_var"].mean()

        (value, log_var), grads = jax.value_and_grad(loss, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes float and int scalars
            updates, state = optimizer.update(grads, state)
        return value, log_var, optax.apply_updates(params, updates), state

    state, history = optimizer.init(params), []
    for _ in range(60):
        value, log_var, params, state = step(params, state)
        history.append((float(value), float(log_var)))
    assert history[-1][0] < 0.5 * history[0][0] and history[-1][1] > history[0][1] + 2


def test_bfloat16_gives_float32_views(start):
    model, variables, z = start
    view, out = jax.eval_shape(model.clone(dtype=jnp.bfloat16).apply, variables, z.astype(jnp.bfloat16), z)
    assert {view.dtype, out["mu"].dtype, out["log_var"].dtype} == {jnp.dtype("float32")}
