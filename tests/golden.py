"""Reads the golden cases: numeric references made with the published PyTorch programs.

Small cases are in tests/testdata/golden; the others are looked for in $MEDVLP_SHARED/golden, then in ../shared/golden.
"""
import os
from pathlib import Path

import numpy as np
import pytest

from tests.testdata.golden import fill

SMALL = Path(__file__).parent / "testdata" / "golden"
SHARED = Path(os.environ.get("MEDVLP_SHARED") or Path(__file__).resolve().parents[2] / "shared")


def shared(*parts: str) -> Path:
    """Path below the shared folder; skips the calling test where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} of the shared development data (set MEDVLP_SHARED)")
    return path


def find(name: str) -> Path:
    """Path of a golden file such as "resnet18.json"; skips where it is neither packaged nor shared."""
    return SMALL / name if (SMALL / name).exists() else shared("golden", name)


def load(case: str):
    """-> (meta, params, inputs, outputs); params and inputs are regenerated from their names, outputs are stored."""
    meta, params, inputs = fill.load_case(str(find(case + ".json")))
    with np.load(find(case + ".npz")) as z:
        outputs = {k: z[k] for k in z.files}
    return meta, params, inputs, outputs


def relative_l2(got, want) -> float:
    """|got - want| / |want| in float64."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    return float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30))
