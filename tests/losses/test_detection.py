"""YOLOv3's loss against a loop over anchors."""
import jax
import numpy as np
import pytest

from medvlp_jax.losses import detection


def case(seed=0, owned=True):
    rng = np.random.default_rng(seed)
    b, n, c = 2, 7, 3
    has = (rng.random((b, n)) < 0.4) & owned
    return {
        "raw": (2 * rng.standard_normal((b, n, 5 + c))).astype(np.float32),
        "offset": rng.random((b, n, 4)).astype(np.float32), "classes": rng.integers(0, c, (b, n)).astype(np.int32),
        "owned": has, "ignored": (rng.random((b, n)) < 0.3) & ~has, "weight": (1 + rng.random((b, n))).astype(np.float32),
    }  # fmt: skip


def naive(x, raw=None):
    raw = np.asarray(x["raw"] if raw is None else raw, np.float64)
    p = 1 / (1 + np.exp(-raw))
    total = {"box": 0.0, "object": 0.0, "class": 0.0}
    for i in np.ndindex(x["owned"].shape):
        if x["owned"][i]:
            place = [p[i][0], p[i][1], raw[i][2], raw[i][3]]
            total["box"] += x["weight"][i] * sum((g - w) ** 2 for g, w in zip(place, x["offset"][i], strict=True))
            total["object"] += -np.log(p[i][4])
            total["class"] += sum(-np.log(q if k == x["classes"][i] else 1 - q) for k, q in enumerate(p[i][5:]))
        elif not x["ignored"][i]:
            total["object"] += 0.5 * -np.log(1 - p[i][4])
    return {k: v / max(x["owned"].sum(), 1) for k, v in total.items()}


@pytest.mark.parametrize("owned", [True, False])
def test_terms_and_gradient_equal_the_loop(owned):
    x = case(owned=owned)
    fn = jax.jit(jax.value_and_grad(lambda raw, rest: detection.yolo_loss(raw, **rest), has_aux=True))
    (value, terms), grad = fn(x["raw"], {k: v for k, v in x.items() if k != "raw"})
    want = naive(x)
    assert (want["box"] > 0) == owned and want["object"] > 0
    for name, term in terms.items():
        np.testing.assert_allclose(term, want[name], rtol=1e-5)
    np.testing.assert_allclose(value, sum(want.values()), rtol=1e-5)
    for i in np.ndindex(2, 7, 8):
        step = np.zeros(x["raw"].shape)
        step[i] = 1e-5
        slope = (sum(naive(x, x["raw"] + step).values()) - sum(naive(x, x["raw"] - step).values())) / 2e-5
        np.testing.assert_allclose(grad[i], slope, atol=1e-5)
