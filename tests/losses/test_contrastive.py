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


def naive_with_equal_reports(a, b, temperature, valid, reports, equal):
    """As `naive_info_nce`, where rows may have the same report: masked, or positives of each other."""
    rows = [i for i in range(len(a)) if valid[i]]
    total = 0.0
    for i in rows:
        same = [j for j in rows if reports[j] == reports[i]]
        others = [j for j in rows if j not in same]
        for x, y in ((a, b), (b, a)):
            weight = {j: np.exp(np.dot(x[i], y[j]) / temperature) for j in rows}
            if equal == "masked":
                total -= 0.5 * np.log(weight[i] / (weight[i] + sum(weight[j] for j in others)))
            else:
                total -= 0.5 * np.mean([np.log(weight[j] / sum(weight.values())) for j in same])
    return total / len(rows)


@pytest.mark.parametrize("equal", ["masked", "positives"])
def test_equal_reports_are_masked_or_positives(equal):
    rng = np.random.default_rng(3)
    a, b = unit(rng.standard_normal((2, 12, 5))).astype(np.float32)
    reports, valid = rng.integers(0, 5, 12), rng.random(12) < 0.8
    keys = np.stack([reports // 2, reports], 1).astype(np.int32)  # the first column alone would join more
    fn = jax.jit(jax.value_and_grad(lambda a, b: contrastive.info_nce(a, b, 0.1, valid, keys, equal), (0, 1)))
    value, grads = fn(a, b)
    naive = naive_with_equal_reports(a.astype(float), b.astype(float), 0.1, valid, reports, equal)
    np.testing.assert_allclose(value, naive, rtol=1e-5)
    assert abs(value - info_nce(a, b, 0.1, valid)) > 1e-3  # it changes something
    for which, grad in enumerate(grads):  # against central differences of the naive loop
        for at in ((0, 0), (3, 2), (11, 4)):
            x = [a.astype(float), b.astype(float)]
            ends = []
            for step in (1e-5, -1e-5):
                moved = [z.copy() for z in x]
                moved[which][at] += step
                ends.append(naive_with_equal_reports(*moved, 0.1, valid, reports, equal))
            np.testing.assert_allclose(grad[at], (ends[0] - ends[1]) / 2e-5, rtol=1e-3, atol=1e-5)


def test_negatives_ignore_the_keys_and_different_reports_change_nothing():
    rng = np.random.default_rng(4)
    a, b = unit(rng.standard_normal((2, 6, 5))).astype(np.float32)
    want = info_nce(a, b, 0.1)
    np.testing.assert_allclose(contrastive.info_nce(a, b, 0.1, None, np.zeros((6, 1), np.int32)), want, rtol=1e-6)
    for equal in ("masked", "positives"):
        np.testing.assert_allclose(contrastive.info_nce(a, b, 0.1, None, np.arange(6)[:, None], equal), want, rtol=1e-6)
    with pytest.raises(ValueError, match="unknown equal='mask'; known: negatives, masked, positives"):
        contrastive.info_nce(a, b, 0.1, equal="mask")


def test_report_keys_tell_reports_apart():
    rng = np.random.default_rng(5)
    ids = rng.integers(0, 40, (3000, 6)).astype(np.int32)  # small numbers, many near copies
    ids[1500:] = ids[:1500]
    ids[2000:, 3] ^= 1
    keys = np.asarray(jax.jit(contrastive.report_keys)(ids))
    assert keys.shape == (3000, 2) and keys.dtype == np.uint32
    by_key, by_report = (len({tuple(row) for row in x.tolist()}) for x in (keys, ids))
    assert by_key == by_report
    np.testing.assert_array_equal(keys[:500], keys[1500:2000])
    assert len(np.unique(keys[:, 0])) > 0.999 * by_report  # each column alone already does
    swapped = ids[:, ::-1]
    assert (np.asarray(contrastive.report_keys(swapped)) != keys).any(1).mean() > 0.99  # order counts


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
    assert abs(float(kl_divergence(mu, log_var, 0.3 / 4))) < 1e-5
    mu[1] = 5.0
    assert float(kl_divergence(mu, log_var, 0.3 / 4)) > 1.0
    assert abs(float(kl_divergence(mu, log_var, 0.3 / 4, valid=np.arange(4) != 1))) < 1e-5
