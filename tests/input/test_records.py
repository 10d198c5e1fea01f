"""Records against the protocol buffer library's own reading and writing of tf.train.Example."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlp_jax.input import decode, records

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


FIELDS = {
    "id": "a/b.jpg", "patient_id": "p", "image": decode.stored_png(np.arange(12, dtype=np.uint8).reshape(3, 4)),
    "report": "É.", "presence": records.pack(np.full((51, 75), 2, np.int8)), "finding_labels": '{"Mass": -1}',
    "boxes": '[["mass", 1, 2, 3, 4]]', "severity": '{"edema": 2}', "view": "PA", "sex": "", "age": "70", "source": "s",
    "masks/name": "lung", "masks/image": decode.stored_png(np.full((3, 4), 255, np.uint8)),
}


def record(**fields):
    values = {k: [v if isinstance(v, bytes) else v.encode()] for k, v in (FIELDS | fields).items() if v is not None}
    return records.serialise(values)


def test_an_example_is_the_record_decoded():
    e = dict(records.Example(record()))
    np.testing.assert_array_equal(e.pop("image"), np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(e.pop("presence"), np.full((51, 75), 2))
    masks = e.pop("masks")
    assert list(masks) == ["lung"] and masks["lung"].all() and masks["lung"].shape == (3, 4)
    assert e == {
        "id": "a/b.jpg", "patient_id": "p", "report": "É.", "finding_labels": {"Mass": -1}, "boxes": [("mass", 1, 2, 3, 4)],
        "phrases": [], "severity": {"edema": 2}, "attributes": {"view": "PA", "age": "70", "source": "s"},
    }  # fmt: skip
    other = records.Example(record(**{"image": b"\xff\xd8", "masks/name": None, "masks/image": None}))
    assert other["image"] == b"\xff\xd8" and dict(other["masks"]) == {} and other.get("nothing") is None and len(other) == 11


@pytest.mark.parametrize("name, value", [("presence", b"x"), ("boxes", "["), ("report", b"\xff"), ("severity", None)])
def test_a_damaged_field_is_told_when_it_is_looked_up(name, value):
    example = records.Example(record(**{name: value}))
    assert example["id"] == "a/b.jpg"
    with pytest.raises(decode.ImageError, match="damaged record"):
        example[name]
    with pytest.raises(decode.ImageError, match="damaged record"):
        records.Example(record(image=None))
