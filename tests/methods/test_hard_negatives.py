"""Sampling of hard negatives for image-text matching, and taking rows by the indices it gives."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

from medvlp_jax.losses import contrastive
from medvlp_jax.methods import mlip

ROWS, GROUP, TEMPERATURE = 12, 4, 0.5
DRAWS = 4000


def pairs():
    """v, t unit (12, 6); ids: rows 1 and 2 have the same report; valid: row 5 has none, row 8 is the only one of its group."""
    rng = np.random.default_rng(0)
    v, t = rng.standard_normal((2, ROWS, 6)).astype(np.float32)
    v, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (v, t))
    ids = rng.integers(5, 60, (ROWS, 7)).astype(np.int32)
    ids[2], valid = ids[1], np.isin(np.arange(ROWS), (5, 9, 10, 11), invert=True)
    ids[4, :6] = ids[6, :6]  # another report all the same: one token tells them apart
    return v, t, ids, valid


@functools.cache
def drawn():
    """-> (texts (DRAWS, 12), images (DRAWS, 12)) as rows of the batch, found of both."""
    v, t, ids, valid = pairs()
    reports = contrastive.report_keys(ids)

    @jax.jit
    @jax.vmap
    def draw(key):
        return mlip.hard_negatives(v, t, reports, valid, key, TEMPERATURE, GROUP)

    texts, images, found = draw(jax.random.split(jax.random.key(0), DRAWS))
    first = np.arange(ROWS) // GROUP * GROUP
    assert texts.shape == images.shape == (DRAWS, ROWS // GROUP, GROUP)
    return *(np.asarray(x).reshape(DRAWS, ROWS) + first for x in (texts, images)), [np.asarray(f) for f in found]


def candidates(i):
    """Rows that row i may be paired with."""
    _, _, ids, valid = pairs()
    group = [j for j in range(ROWS) if j // GROUP == i // GROUP]
    return [j for j in group if valid[i] and valid[j] and list(ids[i]) != list(ids[j])]


def test_only_other_reports_of_the_group_are_drawn():
    texts, images, found = drawn()
    for i in range(ROWS):
        allowed = candidates(i)
        assert i not in allowed
        for f in found:
            assert f.shape == (DRAWS, ROWS) and (f[:, i] == bool(allowed)).all()
        if allowed:  # and each of them is, in 4,000 draws
            assert set(texts[:, i]) == set(images[:, i]) == set(allowed)
    assert [i for i in range(ROWS) if not candidates(i)] == [5, 8, 9, 10, 11]
    assert candidates(1) == [0, 3] and candidates(4) == [6, 7]


def test_they_are_drawn_by_the_similarity_of_image_and_report():
    v, t, _, _ = pairs()
    texts, images, _ = drawn()
    for i in (0, 3, 6):
        allowed = candidates(i)
        of_image = np.array([v[i] @ t[j] for j in allowed]) / TEMPERATURE
        of_text = np.array([v[j] @ t[i] for j in allowed]) / TEMPERATURE
        for got, similarity in ((texts, of_image), (images, of_text)):
            want = np.exp(similarity) / np.exp(similarity).sum()
            share = [(got[:, i] == j).mean() for j in allowed]
            np.testing.assert_allclose(share, want, atol=0.04)  # 5 standard deviations of 4,000 draws
        assert np.abs(np.exp(of_image) / np.exp(of_image).sum() - np.exp(of_text) / np.exp(of_text).sum()).max() > 0.1


def test_the_report_of_an_image_and_the_image_of_a_report_are_drawn_apart():
    texts, images, _ = drawn()
    both = [(texts[:, i] == images[:, i]).mean() for i in (0, 3, 6)]
    shares = [sum((texts[:, i] == j).mean() * (images[:, i] == j).mean() for j in candidates(i)) for i in (0, 3, 6)]
    np.testing.assert_allclose(both, shares, atol=0.04)


def test_take_rows_takes_from_the_own_group():
    rng = np.random.default_rng(0)
    tree = {"tokens": rng.standard_normal((6, 4, 2)), "pair": (np.arange(6), rng.standard_normal((6, 1)))}
    index = np.array([[2, 0, 0], [1, 1, 2]])
    got = jax.jit(mlip.take_rows)(jax.tree.map(jnp.asarray, tree), index)
    rows = [2, 0, 0, 4, 4, 5]
    assert jax.tree.structure(got) == jax.tree.structure(tree)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(a.dtype)[rows]), got, tree)
