"""The chunked InfoNCE: value and gradients of a naive numpy loop on 1 and 8 devices, in a fraction of the memory."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from medvlp_jax.losses import contrastive
from tests.losses.cases import unit
from tests.losses.test_contrastive import naive_info_nce, naive_with_equal_reports


def mesh_of(data, fsdp, tensor=1):
    devices = jax.devices()[: data * fsdp * tensor]
    return jax.make_mesh((data, fsdp, tensor), ("data", "fsdp", "tensor"), devices=devices, axis_types=(AxisType.Auto,) * 3)


def naive_gradients(a, b, temperature, valid):
    """By hand: P = softmax of the rows, Q of the columns, over the valid pairs -> gradients of a, b, temperature."""
    rows = np.flatnonzero(valid)
    x, y, n = a[rows], b[rows], len(rows)
    logits = x @ y.T / temperature
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    q = np.exp(logits) / np.exp(logits).sum(0, keepdims=True)
    weights = (0.5 * (p + q) - np.eye(n)) / n  # of the logits
    da, db = np.zeros_like(a), np.zeros_like(b)
    da[rows], db[rows] = weights @ y / temperature, weights.T @ x / temperature
    return da, db, -(weights * logits).sum() / temperature


@pytest.mark.parametrize("chunk", [3, 16, 100])
@pytest.mark.parametrize("shape", [(1, 1), (4, 2), (2, 2, 2)])  # over a tensor axis, rows are whole
def test_value_and_gradients_are_those_of_the_naive_loop(shape, chunk):
    rng = np.random.default_rng(0)
    a, b = unit(rng.standard_normal((2, 16, 5))).astype(np.float32)
    valid, mesh = rng.random(16) < 0.7, mesh_of(*shape)
    fn = jax.jit(jax.value_and_grad(lambda a, b, t, v: contrastive.chunked_info_nce(a, b, t, v, chunk), (0, 1, 2)))
    with jax.set_mesh(mesh):
        rows = [jax.device_put(x, NamedSharding(mesh, P(("data", "fsdp")))) for x in (a, b, valid)]
        value, gradients = fn(rows[0], rows[1], jnp.float32(0.1), rows[2])
    np.testing.assert_allclose(value, naive_info_nce(a.astype(float), b.astype(float), 0.1, valid), rtol=1e-5)
    for got, want in zip(gradients, naive_gradients(a.astype(float), b.astype(float), 0.1, valid), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("equal", ["masked", "positives"])
@pytest.mark.parametrize("shape, chunk", [((1, 1), 5), ((4, 2), 3), ((4, 2), 16)])
def test_equal_reports_are_treated_as_in_the_plain_form(shape, chunk, equal):
    rng = np.random.default_rng(1)
    a, b = unit(rng.standard_normal((2, 16, 5))).astype(np.float32)
    reports, valid, mesh = rng.integers(0, 6, (16, 1)).astype(np.int32), rng.random(16) < 0.8, mesh_of(*shape)

    def value_and_grad(chunk, equal=equal):
        loss = contrastive.chosen(chunk, equal)
        return jax.jit(jax.value_and_grad(lambda a, b, t, v, k: loss(a, b, t, v, k), (0, 1, 2)))

    with jax.set_mesh(mesh):
        rows = [jax.device_put(x, NamedSharding(mesh, P(("data", "fsdp")))) for x in (a, b, valid, reports)]
        value, gradients = value_and_grad(chunk)(rows[0], rows[1], jnp.float32(0.1), rows[2], rows[3])
        plain = value_and_grad(chunk, "negatives")(rows[0], rows[1], jnp.float32(0.1), rows[2], rows[3])[0]
    naive = naive_with_equal_reports(a.astype(float), b.astype(float), 0.1, valid, reports[:, 0], equal)
    np.testing.assert_allclose(value, naive, rtol=1e-5)
    assert abs(value - plain) > 1e-3
    for got, want in zip(gradients, value_and_grad(0)(a, b, jnp.float32(0.1), valid, reports)[1], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def test_no_pair_gives_zero_and_finite_gradients():
    a = np.eye(8, dtype=np.float32)
    value, gradient = jax.value_and_grad(contrastive.chunked_info_nce)(a, a, 0.1, np.zeros(8), chunk=4)
    assert value == 0 and np.all(np.asarray(gradient) == 0)


def test_memory_and_what_crosses_devices():
    """512 rows a device: the plain form holds 512 x 4096 logits more than once, the chunked one 512 x 64."""
    mesh, rows, width = mesh_of(4, 2), 4096, 4
    spec = jax.ShapeDtypeStruct((rows, width), jnp.float32, sharding=NamedSharding(mesh, P(("data", "fsdp"))))
    scratch = {}
    for chunk in (0, 64):
        loss = contrastive.chosen(chunk)
        with jax.set_mesh(mesh):
            program = jax.jit(jax.value_and_grad(lambda a, b, loss=loss: loss(a, b, 0.07), (0, 1))).lower(spec, spec).compile()
        scratch[chunk] = program.memory_analysis().temp_size_in_bytes
        assert f"[{rows // 8},{rows}]" in program.as_text() or chunk
        assert f"[{rows},{rows}]" not in program.as_text()
    assert f"[{rows // 8},{rows}]" not in program.as_text() and f"[{rows // 8},64]" in program.as_text()
    assert scratch[0] > rows // 8 * rows * 4 and scratch[64] < scratch[0] / 8


def test_a_chunk_below_one_is_an_error():
    with pytest.raises(ValueError, match="chunk must be positive, came 0"):
        contrastive.chunked_info_nce(np.ones((2, 2), np.float32), np.ones((2, 2), np.float32), 0.1, chunk=0)
