"""Records against the protocol buffer library's own reading and writing of tf.train.Example."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp_jax.input import records

FEATURES = st.dictionaries(st.text(st.characters(blacklist_categories=["Cs"]), max_size=9), st.lists(st.binary(max_size=300),
                                                                                                    max_size=3), max_size=5)


@settings(max_examples=40, deadline=None)
@given(FEATURES)
def test_both_ways_as_the_library_does(features):
    from tensorflow_datasets.proto import tf_example_pb2

    data = records.serialise(features)
    theirs = tf_example_pb2.Example.FromString(data)
    assert {k: list(v.bytes_list.value) for k, v in theirs.features.feature.items()} == features
    for some in (data, theirs.SerializeToString()):
        assert {k: list(v.bytes_list.value) for k, v in records.parse(some).items()} == features


def test_other_kinds_of_features_and_other_bytes():
    from tensorflow_datasets.proto import tf_example_pb2

    other = tf_example_pb2.Example()
    other.features.feature["x"].int64_list.value.extend([300, 7])
    assert not records.parse(other.SerializeToString())["x"].bytes_list.value
    with pytest.raises(ValueError, match="not a record of a prepared data set"):
        records.parse(b"\xff\xff\xff")


def test_presence_is_packed_without_loss():
    matrix = np.random.default_rng(0).choice(np.array([-1, 0, 1, 2], np.int8), (51, 75), p=[0.9, 0.04, 0.04, 0.02])
    out = records.unpack(records.pack(matrix))
    np.testing.assert_array_equal(out, matrix)
    out[0] = 1  # writable
    assert len(records.pack(np.full((51, 75), -1, np.int8))) < 40
