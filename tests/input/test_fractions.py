"""Shares of a training split: by patient, nested, the same everywhere, held to their files."""
import json

import numpy as np
import pytest

from medvlp_jax.input import fractions
from tests.input import fakes


class Patients(fakes.TinySource):
    """Uneven patients: 1, 2, 3, 1, 2, 3 .. images."""

    def patient(self, index):
        return f"p{np.searchsorted(np.cumsum([1, 2, 3] * self.n), index, side='right')}"


def test_whole_patients_nested_and_of_the_asked_size():
    source = Patients(200)
    who = [source.patient(i) for i in range(200)]
    before = set()
    for share in (0.01, 0.1, 0.5, 1.0):
        rows = fractions.choose(source, share, seed=3)
        assert share * 200 <= len(rows) <= share * 200 + 2 and rows.tolist() == sorted(set(rows.tolist()))
        inside = {who[i] for i in rows}
        assert inside.isdisjoint({who[i] for i in set(range(200)) - set(rows.tolist())}) and before <= inside
        before = inside
    assert set(fractions.choose(source, 0.1, 3).tolist()) != set(fractions.choose(source, 0.1, 4).tolist())


def test_the_choice_does_not_change_with_the_version():
    """Noted when it was written: a published 1 % must stay the same rows."""
    assert fractions.choose(Patients(40), 0.1, seed=0).tolist() == [0, 6, 25, 26]


def test_the_file_is_read_again_and_guards_what_it_says(tmp_path):
    source = Patients(30)
    subset, digest = fractions.stored(source, 0.2, 0, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "train-0.2-seed0.json" and "p1" not in path.read_text()
    again, same = fractions.stored(source, 0.2, 0, tmp_path)
    assert same == digest and again.fingerprint == subset.fingerprint != source.fingerprint
    assert len(subset) == len(subset.rows) and subset[0]["id"] == source[int(subset.rows[0])]["id"]
    assert subset.text(1) == source.text(int(subset.rows[1]))
    with pytest.raises(ValueError, match="is of other data: it has 30 examples"):
        fractions.load(Patients(31), path)
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "rows": record["rows"][:-1]}))
    with pytest.raises(ValueError, match="was changed since it was written"):
        fractions.stored(source, 0.2, 0, tmp_path)


@pytest.mark.parametrize("share", [0, 1.5, -0.1])
def test_shares_outside_of_the_unit_interval(share):
    with pytest.raises(ValueError, match="must be above 0 and at most 1"):
        fractions.choose(Patients(4), share, 0)
