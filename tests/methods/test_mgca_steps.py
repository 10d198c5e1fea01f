"""Several steps of MGCA's prototypes, as published, against a numpy form of the program's description.

The program normalises the stored prototypes in place at every forward pass, takes the gradient there, drops it in epoch 0 and
decays every parameter with AdamW. The numpy form is anchored by the gradient in the golden data (mgca_losses).
"""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax import optim
from medvlp_jax.losses import prototype
from medvlp_jax.methods.towers import Prototypes
from tests import golden

pytestmark = pytest.mark.usefixtures("optax_promotion")

LR, DECAY, FROZEN, STEPS = 2e-3, 0.05, 3, 9


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def codes(scores, epsilon=0.05, iterations=3):
    """Sinkhorn of the published program: (B, C) scores -> (B, C) rows of sum 1."""
    q = np.exp(scores.T / epsilon)
    q /= q.sum()
    for _ in range(iterations):
        q /= q.sum(1, keepdims=True) * len(q)
        q /= q.sum(0, keepdims=True) * q.shape[1]
    return (q / q.sum(0, keepdims=True)).T


def gradient(w, v, t, temperature=0.2):
    """Gradient (C, D) of the swapped prediction with respect to unit prototypes; the codes are constants."""

    def half(x, target):
        z = x @ w.T / temperature
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        return (p - target).T @ x / (temperature * len(x))

    return 0.5 * (half(t, codes(v @ w.T)) + half(v, codes(t @ w.T)))


@pytest.fixture(scope="module")
def case():
    _, params, inputs, z = golden.load("mgca_losses")
    v, t = (unit(inputs[f"mgca_losses/{k}_feat"].astype(np.float64)) for k in ("img", "report"))
    (start,) = (x for name, x in params.items() if "prototype" in name)
    return start.astype(np.float64), v, t, z


def test_the_numpy_form_has_the_published_gradient(case):
    start, v, t, z = case
    np.testing.assert_allclose(unit(start), z["vit/prototype_weight_normalised"], atol=1e-6)
    np.testing.assert_allclose(0.5 * gradient(unit(start), v, t), z["vit/d_prototype"], atol=1e-6)  # weighs 0.5 there


def published(start, v, t):
    """Directions (C, D) of the prototypes after each step of the program."""
    w, m, s, count, out = start, 0.0, 0.0, 0, []
    for step in range(STEPS):
        w = unit(w)  # in place, at the forward pass
        if step >= FROZEN:  # torch's AdamW leaves a parameter without gradient alone, decay included
            g, count = gradient(w, v, t), count + 1
            m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g * g
            w = w * (1 - LR * DECAY) - LR * (m / (1 - 0.9**count)) / (np.sqrt(s / (1 - 0.999**count)) + 1e-8)
        out.append(unit(w))
    return out


def test_steps_follow_the_program(case):
    start, v, t, _ = case
    module = Prototypes(len(start), straight_through=True)
    params = {"category": {"prototypes": jnp.asarray(start, jnp.float32)}}
    tx = optim.make(params, lambda step: LR, weight_decay=DECAY, no_decay="(?!)", freeze_until_step=[("prototypes$", FROZEN)])
    v32, t32 = (jnp.asarray(x, jnp.float32) for x in (v, t))

    def loss(params):
        scores = (module.apply({"params": params["category"]}, x) for x in (v32, t32))
        return prototype.category_loss(*scores)[0]

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return jax.tree.map(jnp.add, params, updates), state

    state = tx.init(params)
    for n, want in enumerate(published(start, v, t), 1):
        params, state = step(params, state)
        got = np.asarray(params["category"]["prototypes"], np.float64)
        np.testing.assert_allclose(unit(got), want, atol=2e-6, err_msg=f"step {n}")
        if n > FROZEN:
            np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)
    assert np.abs(want - unit(start)).max() > 3 * LR  # they moved
