"""Local alignment against naive loops over reports, words and patches."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax.losses import local
from tests.losses.cases import unit


def units(rng, *shape):
    return unit(rng.standard_normal(shape)).astype(np.float32)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_aggregate_words_sums_pieces_and_attention():
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((2, 7, 3)).astype(np.float32)
    attention = rng.random((2, 7)).astype(np.float32)
    ids = np.array([[-1, 0, 1, 1, 2, -1, -1], [-1, 0, 0, 0, 1, 2, -1]], np.int32)
    words, weights, mask = jax.jit(local.aggregate_words)(tokens, ids, attention)
    assert words.shape == (2, 7, 3) and weights.shape == mask.shape == (2, 7)
    for b in range(2):
        for w in range(7):
            pieces = [t for t in range(7) if ids[b, t] == w]
            np.testing.assert_allclose(words[b, w], sum((tokens[b, t] for t in pieces), np.zeros(3)), atol=1e-6)
            np.testing.assert_allclose(weights[b, w], sum(attention[b, t] for t in pieces), atol=1e-6)
            assert bool(mask[b, w]) == bool(pieces)


def test_aggregate_words_of_an_empty_report_is_all_masked():
    ids = np.full((1, 4), -1, np.int32)
    tokens, attention = np.full((1, 4, 2), np.nan, np.float32), np.ones((1, 4), np.float32)
    words, weights, mask = jax.jit(local.aggregate_words)(tokens, ids, attention)
    assert not mask.any() and (words == 0).all() and (weights == 0).all()


@pytest.mark.parametrize("low, high", [(10.0, 90.0), (0.0, 100.0), (25.0, 50.0)])
def test_percentile_clip_equals_numpy_quantiles(low, high):
    rng = np.random.default_rng(1)
    weights = rng.random((6, 12)).astype(np.float32)
    mask = np.arange(12)[None] < np.array([12, 7, 2, 1, 0, 5])[:, None]
    mask = rng.permuted(mask, axis=1)
    got = jax.jit(local.percentile_clip, static_argnums=(2, 3))(weights, mask.astype(np.float32), low, high)
    for b in range(6):
        want = np.zeros(12)
        if mask[b].any():
            chosen = weights[b][mask[b]].astype(np.float64)
            want[mask[b]] = np.clip(chosen, *np.percentile(chosen, [low, high]))
            want /= want.sum()
        np.testing.assert_allclose(got[b], want, atol=1e-6)


def test_percentile_clip_has_no_gradient_and_survives_zero_weights():
    weights, mask = np.zeros((2, 3), np.float32), np.ones((2, 3), bool)
    assert (local.percentile_clip(weights, mask) == 0).all()
    grad = jax.grad(lambda w: (local.percentile_clip(w, mask) ** 2).sum())(np.ones((2, 3), np.float32))
    assert (grad == 0).all()


def test_knowledge_gate_equals_the_naive_loop():
    rng = np.random.default_rng(2)
    words, entities = units(rng, 3, 4, 5), units(rng, 6, 5)
    gate = rng.random((3, 4)).astype(np.float32)
    present = np.array([[1, 0, 1, 1, 0, 0], [0] * 6, [0, 0, 0, 0, 1, 0]], np.int8)
    context, attention = jax.jit(local.entity_context)(words, entities, present, 0.1)
    fused = jax.jit(local.knowledge_gate)(words, context, gate, present)
    for b in range(3):
        chosen = np.flatnonzero(present[b])
        for m in range(4):
            if not len(chosen):
                np.testing.assert_array_equal(fused[b, m], words[b, m])  # unchanged to the last bit
                assert (attention[b, m] == 0).all()
                continue
            a = softmax(entities[chosen].astype(float) @ words[b, m] / 0.1)
            np.testing.assert_allclose(attention[b, m, chosen], a, rtol=1e-4, atol=1e-6)
            assert np.asarray(attention)[b, m][present[b] == 0].sum() == 0
            want = unit(words[b, m] + gate[b, m] * (a @ entities[chosen]))
            np.testing.assert_allclose(fused[b, m], want, atol=1e-6)


def naive_alignment(words, patches, word_weights, patch_weights, mask, temperature):
    """Mean over reports with words of both sides, one report at a time, on its real words only."""

    def two_way(rows, read, weights):
        logits = rows @ read.T / temperature
        total = 0.0
        for t in range(len(rows)):
            total -= weights[t] * np.log(softmax(logits[t])[t]) / 2
            total -= weights[t] * np.log(softmax(logits[:, t])[t]) / 2
        return total

    terms = []
    for b in range(len(words)):
        chosen = mask[b] > 0
        if chosen.any():
            w, p = words[b][chosen].astype(float), patches[b].astype(float)
            read = np.stack([unit(softmax(p @ x / temperature) @ p) for x in w])
            term = two_way(w, read, word_weights[b][chosen])
            read = np.stack([unit(softmax(w @ x / temperature) @ w) for x in p])
            terms.append(term + two_way(p, read, patch_weights[b]))
    return np.mean(terms)


@pytest.mark.parametrize("uniform", [False, True])
def test_alignment_equals_the_naive_loop_without_padding(uniform):
    rng = np.random.default_rng(3)
    words, patches = units(rng, 4, 5, 6), units(rng, 4, 7, 6)
    mask = (np.arange(5)[None] < np.array([5, 3, 0, 1])[:, None]).astype(np.float32)
    word_weights = mask * rng.random((4, 5)).astype(np.float32)
    patch_weights = None if uniform else rng.random((4, 7)).astype(np.float32)
    loss = jax.jit(local.token_patch_alignment, static_argnums=(6,))
    got = loss(words, patches, word_weights, patch_weights, mask, 0.1, False)
    want_weights = np.full((4, 7), 1 / 7) if uniform else patch_weights
    np.testing.assert_allclose(got, naive_alignment(words, patches, word_weights, want_weights, mask, 0.1), rtol=1e-5)
    published = loss(words, patches, word_weights, patch_weights, mask, 0.1, True)
    assert abs(float(published) - float(got)) > 0.01


def test_knowledge_patch_equals_the_naive_loop():
    rng = np.random.default_rng(4)
    entities, patches = units(rng, 3, 6), units(rng, 2, 7, 6)
    cosine, maps = jax.jit(local.knowledge_patch)(entities, patches, 0.1)
    for b in range(2):
        for k in range(3):
            want = softmax(patches[b].astype(float) @ entities[k] / 0.1)
            np.testing.assert_allclose(maps[b, k], want, rtol=1e-4, atol=1e-7)
            np.testing.assert_allclose(cosine[b, k], entities[k] @ unit(want @ patches[b]), atol=1e-6)


def test_local_losses_move_nothing_but_sums_between_devices(collectives):
    rng = np.random.default_rng(5)
    words, patches, entities = units(rng, 16, 5, 4), units(rng, 16, 9, 4), units(rng, 3, 4)
    attention, mask = rng.random((16, 5)).astype(np.float32), np.ones((16, 5), np.int32)
    patch_attention = rng.random((16, 9)).astype(np.float32)

    def loss(words, patches, attention, patch_attention, mask, entities):
        word_weights = local.percentile_clip(attention, mask)
        patch_weights = local.percentile_clip(patch_attention, jnp.ones((16, 9), bool))
        cosine, _ = local.knowledge_patch(entities, patches)
        return local.token_patch_alignment(words, patches, word_weights, patch_weights, mask) + cosine.mean()

    found = collectives(loss, (words, patches, attention, patch_attention, mask), (entities,))
    assert {kind for kind, _ in found} == {"all-reduce"}
    assert max(size for _, size in found) == entities.size  # the gradient of the entity table
