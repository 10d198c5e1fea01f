"""Which split a row of a data set to be prepared gets."""
import pytest

from data.plan import Plan
from data.shards import Settings
from medvlp_jax.input.manifest import hash_split
from tests.input.test_manifest import write


@pytest.fixture
def manifest(tmp_path):
    """40 images of 20 patients, all of whom the column puts into test."""
    rows = [{"patient_id": f"p{i // 2}", "split": "test", "labels": "effusion"} for i in range(40)]
    return write(tmp_path, rows, images=False)


def splits(manifest, out, split) -> dict[str, str]:
    """{patient: split} of a plan; no row is left out."""
    plan = Plan("manifest", manifest, out, Settings(), split=split)
    assert sum(len(rows) for _, _, rows in plan.shards) == 40
    return {plan.table[int(i)]["patient_id"]: name for _, name, rows in plan.shards for i in rows}


def test_split_official_is_what_the_column_says(manifest, tmp_path):
    assert set(splits(manifest, tmp_path / "out", "official").values()) == {"test"}


def test_split_patient_is_by_hash_of_the_patient_whatever_the_column_says(manifest, tmp_path):
    got = splits(manifest, tmp_path / "out", "patient")
    assert got == {f"p{i}": hash_split("", f"p{i}") for i in range(20)}
    assert set(got.values()) == {"train", "val", "test"}
