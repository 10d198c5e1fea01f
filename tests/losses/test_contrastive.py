"""InfoNCE and the KL term against naive loops and numeric integration."""
import jax
import numpy as np
import pytest

from medvlp_jax.losses import contrastive
from tests.losses.cases import unit

info_nce, kl_divergence = jax.jit(contrastive.info_nce), jax.jit(contrastive.kl_divergence, static_argnums=(2,))


def naive_info_nce(a, b, temperature, valid):
    rows = [i for i in range(len(a)) if valid[i]]
    total = 0.0
    for i in rows:
        for x, y in ((a, b), (b, a)):
            weights = [np.exp(np.dot(x[i], y[j]) / temperature) for j in rows]
            total -= 0.5 * np.log(weights[rows.index(i)] / sum(weights))
    return total / len(rows)


@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_info_nce_equals_the_naive_loop(keep):
    rng = np.random.default_rng(0)
    a, b = unit(rng.standard_normal((2, 9, 5))).astype(np.float32)
    valid = rng.random(9) < keep
    got = info_nce(a, b, 0.07, valid.astype(np.float32))
    np.testing.assert_allclose(got, naive_info_nce(a.astype(float), b.astype(float), 0.07, valid), rtol=1e-5)
    if keep == 1.0:
        np.testing.assert_allclose(info_nce(a, b, 0.07), got, rtol=1e-6)


def test_excluded_rows_are_no_negatives():
    rng = np.random.default_rng(1)
    a, b = unit(rng.standard_normal((2, 8, 5))).astype(np.float32)
    valid = np.arange(8) < 5
    np.testing.assert_allclose(info_nce(a, b, 0.1, valid), info_nce(a[:5], b[:5], 0.1), rtol=1e-6)
    assert abs(float(info_nce(a, b, 0.1)) - float(info_nce(a, b, 0.1, valid))) > 0.01


def test_info_nce_of_one_pair_is_zero():
    a = np.eye(4, dtype=np.float32)
    assert abs(float(info_nce(a, a[::-1], 0.07, np.arange(4) == 2))) < 1e-5


def test_info_nce_gathers_embeddings_and_nothing_larger(collectives):
    a, b = np.ones((2, 64, 4), np.float32)
    found = collectives(lambda a, b: info_nce(a, b, 0.07), (a, b))
    assert ("all-gather", 64 * 4) in found
    assert max(size for _, size in found) == 64 * 4  # never the 64 x 64 logits


def test_shapes_that_do_not_fit_are_named():
    a = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match=r"b: expected shape \(3, 2\), came \(4, 2\)"):
        info_nce(a, np.ones((4, 2), np.float32), 0.1)
    with pytest.raises(ValueError, match=r"mask: expected shape \(3,\)"):
        info_nce(a, a, 0.1, np.ones((4,), np.float32))


def test_kl_equals_numeric_integration():
    rng = np.random.default_rng(2)
    mu, log_var = 0.1 * rng.standard_normal((3, 2)), rng.standard_normal((3, 2)) - 4
    sigma0 = 0.2
    total = 0.0
    for m, lv in zip(mu.ravel(), log_var.ravel(), strict=True):
        s = np.exp(0.5 * lv)
        x = m + s * np.linspace(-10, 10, 20001)
        log_p = -0.5 * ((x - m) / s) ** 2 - np.log(s)
        log_q = -0.5 * (x / sigma0) ** 2 - np.log(sigma0)
        total += np.trapezoid(np.exp(log_p) / np.sqrt(2 * np.pi) * (log_p - log_q), x)
    got = kl_divergence(mu.astype(np.float32), log_var.astype(np.float32), sigma0)
    np.testing.assert_allclose(got, total / 3, rtol=1e-5)


def test_kl_is_zero_at_the_prior_and_skips_invalid_rows():
    log_var = np.full((4, 16), 2 * np.log(0.3 / 4), np.float32)  # sigma0 = 0.3 / sqrt(16)
    mu = np.zeros((4, 16), np.float32)
    assert abs(float(kl_divergence(mu, log_var))) < 1e-5
    mu[1] = 5.0
    assert float(kl_divergence(mu, log_var)) > 1.0
    assert abs(float(kl_divergence(mu, log_var, valid=np.arange(4) != 1))) < 1e-5
