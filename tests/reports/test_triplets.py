import numpy as np
import pytest

from medvlp_jax.reports import vocab
from medvlp_jax.reports.triplets import (
    Mention,
    candidate_positions,
    existence_labels,
    is_abnormal,
    presence,
    present_entities,
)

K, A = len(vocab.ENTITIES), len(vocab.POSITIONS)
EFFUSION, OPACITY = vocab.entity_index("effusion"), vocab.entity_index("opacity")


def mention(entity, position, exists):
    return Mention(entity, position, exists, 0, 1)


def test_presence_keeps_the_stronger_statement():
    left, right = vocab.position_index("left_pleural"), vocab.position_index("right_pleural")
    for order in ([0, 2, 1], [1, 2, 0], [2, 0, 1]):
        assert presence([mention("effusion", "left_pleural", e) for e in order])[left, EFFUSION] == 1
    m = presence([mention("effusion", "left_pleural", 2), mention("effusion", "left_pleural", 0),
                  mention("effusion", "right_pleural", 0)])
    assert m.shape == (A, K) and m.dtype == np.int8
    assert m[left, EFFUSION] == 2 and m[right, EFFUSION] == 0 and (m != -1).sum() == 2
    with pytest.raises(KeyError, match="left_pleural"):
        presence([mention("effusion", "left_pleura", 1)])


def test_existence_labels():
    cells = {"effusion": (1, 0), "opacity": (2, 0), "edema": (0, 0), "mass": (2, 1), "line": (0, -1)}
    m = np.full((A, K), -1, np.int8)
    for name, values in cells.items():
        m[[3, 7], vocab.entity_index(name)] = values
    labels = existence_labels(m)
    assert labels.shape == (K,) and labels.dtype == np.int8
    got = {name: int(labels[vocab.entity_index(name)]) for name in (*cells, "chf")}
    assert got == {"effusion": 1, "opacity": 2, "edema": 0, "mass": 1, "line": 0, "chf": -1}
    assert [vocab.ENTITIES[i] for i in present_entities(m)] == ["effusion", "mass"]


@pytest.fixture
def matrix():
    rng = np.random.default_rng(0)
    m = rng.choice(np.asarray([-1, 0, 1, 2], np.int8), size=(A, K), p=[0.7, 0.2, 0.07, 0.03])
    m[:, OPACITY] = 0
    m[:, EFFUSION] = -1
    m[[4, 9, 30], EFFUSION] = 1
    return m


def test_candidate_positions_properties(matrix):
    rng = np.random.default_rng(1)
    for _ in range(50):
        c = candidate_positions(matrix, rng)
        assert c.shape == (K, 8) and c.dtype == np.int32 and c.min() >= 0 and c.max() < A
        true = matrix[c, np.arange(K)[:, None]] == 1  # (K, 8)
        exists = (matrix == 1).any(0)
        np.testing.assert_array_equal(true[:, 0], exists)  # candidate 0 is true exactly if there is a true one
        assert not true[:, 1:].any()  # the others never are
        assert all(len(set(row)) == 8 for row in c)


def test_candidate_positions_are_uniform_and_seeded(matrix):
    np.testing.assert_array_equal(candidate_positions(matrix, np.random.default_rng(5)),
                                  candidate_positions(matrix, np.random.default_rng(5)))
    rng = np.random.default_rng(2)
    draws = np.stack([candidate_positions(matrix, rng) for _ in range(1500)])  # (N, K, 8)
    first = np.bincount(draws[:, EFFUSION, 0], minlength=A)
    assert set(np.flatnonzero(first)) == {4, 9, 30} and first[[4, 9, 30]].min() > 400  # 500 expected, sigma 18
    rest = np.bincount(draws[:, EFFUSION, 1:].ravel(), minlength=A)
    assert (rest[[4, 9, 30]] == 0).all()
    others = np.delete(rest, [4, 9, 30])  # 10500 / 48 = 219 expected each, sigma 14
    assert others.min() > 219 - 75 and others.max() < 219 + 75
    absent = np.bincount(draws[:, OPACITY].ravel(), minlength=A)  # 12000 / 51 = 235 expected each
    assert absent.min() > 235 - 75 and absent.max() < 235 + 75
    slots = draws[:, OPACITY].astype(np.float64).mean(0)  # no slot prefers low positions
    assert np.abs(slots - 25).max() < 2.5


def test_candidate_positions_errors(matrix):
    matrix[:44, OPACITY] = 1
    with pytest.raises(ValueError, match="'opacity' is present at 44 of 51"):
        candidate_positions(matrix, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"\(75, 51\), expected \(positions, entities\) = \(51, 75\)"):
        existence_labels(matrix.T)


def test_is_abnormal():
    assert is_abnormal([mention("pacemaker", "unspecified", 1)]) and is_abnormal([mention("edema", "pulmonary", 2)])
    assert not is_abnormal([mention("edema", "pulmonary", 0), mention("clear", "lung_volumes", 1),
                            mention("expand", "lung_volumes", 1), mention("excluded_obs", "unspecified", 1)])
