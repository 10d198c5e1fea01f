import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medvlp_jax.tasks import subgroups


@pytest.mark.parametrize("value, want", [("M", "male"), (" female ", "female"), ("f", "female"), ("O", ""), (None, "")])
def test_sex(value, want):
    assert subgroups.sex(value) == want


@pytest.mark.parametrize("value, want", [
    ("063Y", "40-64"), ("17.9", "0-17"), (18, "18-39"), ("39", "18-39"), (40.0, "40-64"), ("64", "40-64"), ("65", "65+"),
    ("011M", "0-17"), ("240M", "18-39"), ("999D", "0-17"), ("412", ""), ("-3", ""), ("nan", ""), (None, ""), ("about 50", ""),
])  # fmt: skip
def test_age_band(value, want):
    assert subgroups.age_band(value) == want


def test_view_and_columns():
    assert subgroups.view(" pa ") == "PA" and subgroups.view(None) == "" and subgroups.view("Mrs Smith, seen on Monday") == ""
    columns = subgroups.columns([{"attributes": {"sex": "M", "age": "70", "view": "ap"}}, {}, {"attributes": None}])
    want = {"sex": ["male", "", ""], "age": ["65+", "", ""], "view": ["AP", "", ""]}
    assert {k: v.tolist() for k, v in columns.items()} == want


def test_groups_need_enough_patients_and_a_second_group():
    column = np.array(["a"] * 6 + ["b"] * 6 + ["c"] + [""] * 5)
    patients = np.arange(18)
    assert {g: len(r) for g, r in subgroups.groups(column, patients, least=5).items()} == {"a": 6, "b": 6}
    assert subgroups.groups(column, patients, least=7) == {}
    patients[6:12] = 6  # six images of one patient
    assert subgroups.groups(column, patients, least=5) == {}


def frame(n=80, seed=0):
    rng = np.random.default_rng(seed)
    sex = np.where(np.arange(n) % 2, "male", "female")
    data = {"patients": np.arange(n).astype(str), "sex": sex, "age": np.full(n, ""), "view": np.full(n, "PA")}
    labels = rng.integers(-1, 2, (n, 3))
    return data, labels, rng.random((n, 3)) + labels


def test_auc_of_groups_is_over_findings_that_all_groups_can_score():
    data, labels, values = frame()
    labels[(data["sex"] == "male") & (labels[:, 2] == 1), 2] = 0  # no positive man
    records = subgroups.auc_records("t", "auc_macro", data, labels, values, ["x", "y", "z"], resamples=50)
    assert [r["metric"] for r in records] == ["auc_macro/sex=female", "auc_macro/sex=male"]  # one age band, one view: no groups
    for r in records:
        rows = data["sex"] == r["group"]
        want = [roc_auc_score(labels[rows & (labels[:, c] >= 0), c], values[rows & (labels[:, c] >= 0), c]) for c in range(2)]
        assert r["value"] == pytest.approx(np.mean(want)) and r["n"] == r["patients"] == 40
        assert r["skipped"] == {"z": "lacks a class in a group"} and r["ci"][0] <= r["value"] <= r["ci"][1]
    assert np.isnan(records[1]["per_class"]["z"]) and records[0]["per_class"]["z"] > 0.5


def test_groups_without_any_common_finding_are_undefined():
    data, labels, values = frame()
    labels[data["sex"] == "male"] = 0
    records = subgroups.auc_records("t", "auc_macro", data, labels, values, ["x", "y", "z"], resamples=50)
    assert all(np.isnan(r["value"]) and r["ci"] is None and set(r["skipped"]) == {"x", "y", "z"} for r in records)


def test_mean_of_groups_leaves_undefined_values_out():
    data, _, _ = frame()
    values = np.where(data["sex"] == "male", 1.0, 0.25)
    values[[0, 1]] = np.nan
    records = subgroups.mean_records("t", "hit", data, values, resamples=20)
    assert {r["metric"]: (r["value"], r["n"], r["ci"]) for r in records} == {
        "hit/sex=female": (0.25, 39, [0.25, 0.25]), "hit/sex=male": (1, 39, [1, 1])}
    assert subgroups.mean_records("t", "hit", data, values, least=40) == []
