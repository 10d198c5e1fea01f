"""Names, rules and merges of parameter trees."""
import numpy as np
import pytest

from medvlp_jax import trees

TREE = {"a": {"kernel": np.zeros((2, 3), np.float32), "bias": np.zeros(3, np.float32)}, "b": {"scale": np.ones(3, np.float32)}}


def test_flatten_gives_slash_joined_names():
    assert list(trees.flatten(TREE)) == ["a/bias", "a/kernel", "b/scale"]
    assert trees.count(TREE) == 12


def test_first_matching_rule_wins():
    got = trees.match(TREE, [("kernel$", 1), ("^a/", 2), (".*", 3)])
    assert trees.flatten(got) == {"a/bias": 2, "a/kernel": 1, "b/scale": 3}


def test_uncovered_leaves_are_all_named():
    with pytest.raises(ValueError, match="no rule covers: a/bias, b/scale"):
        trees.match(TREE, [("kernel$", 1)])


def test_pattern_without_a_match_is_an_error():
    trees.check_patterns_used(TREE, ["bias$"], "freeze")
    with pytest.raises(ValueError, match="freeze pattern 'prototype' matches no parameter"):
        trees.check_patterns_used(TREE, ["prototype"], "freeze")


def test_merge_replaces_a_subtree_in_the_dtype_of_the_model():
    part = {"kernel": np.ones((2, 3), np.float16), "bias": np.ones(3, np.float64)}
    got = trees.merge(TREE, part, "a", "weights")
    assert got["a"]["kernel"].dtype == np.float32 and got["a"]["kernel"].sum() == 6
    assert got["b"] is TREE["b"] and TREE["a"]["kernel"].sum() == 0


@pytest.mark.parametrize(
    "part, at, message",
    [
        ({"kernel": np.ones((3, 2)), "bias": np.ones(3)}, "a", r"kernel: expected shape \(2, 3\), came \(3, 2\)"),
        ({"kernel": np.ones((2, 3))}, "a", r"missing bias \(3,\)"),
        ({"kernel": np.ones((2, 3)), "bias": np.ones(3), "x": np.ones(1)}, "a", r"unexpected x \(1,\)"),
        ({}, "c", "no 'c' to load into; there are: a, b"),
    ],
)
def test_merge_names_what_does_not_fit(part, at, message):
    with pytest.raises(ValueError, match=message):
        trees.merge(TREE, part, at, "weights")
