"""What must hold for every loss: gradients, emptiness, ignored entries, precision, sharding."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.losses import cases

CASES = cases.build()


@functools.cache
def step(name):
    """(arrays, fixed) -> loss, gradients; compiled once a case and shape."""
    return jax.jit(jax.value_and_grad(lambda arrays, fixed: CASES[name].loss(**arrays, **fixed)))


@pytest.mark.parametrize("name", [k for k, c in CASES.items() if c.smooth])
def test_gradient_equals_finite_difference_in_float64(name):
    case = CASES[name]
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        arrays = {k: np.asarray(v, np.float64) for k, v in case.arrays.items()}
        value, grads = step(name)(arrays, case.fixed)
        assert value.dtype == jnp.float64
        for _ in range(3):
            direction = {k: rng.standard_normal(v.shape) for k, v in arrays.items()}
            h = 1e-6
            ahead = step(name)({k: v + h * direction[k] for k, v in arrays.items()}, case.fixed)[0]
            behind = step(name)({k: v - h * direction[k] for k, v in arrays.items()}, case.fixed)[0]
            slope = sum(float((np.asarray(grads[k]) * direction[k]).sum()) for k in arrays)
            np.testing.assert_allclose(float(ahead - behind) / (2 * h), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", [k for k, c in CASES.items() if c.empty])
def test_nothing_to_count_is_exactly_zero_also_in_the_gradient(name):
    case = CASES[name]
    value, grads = step(name)(case.arrays, case.fixed | case.empty)
    assert float(value) == 0.0
    for key, grad in grads.items():
        assert (np.asarray(grad) == 0.0).all(), key


@pytest.mark.parametrize("name", [k for k, c in CASES.items() if c.ignored])
def test_ignored_entries_do_not_matter_even_when_they_are_nan(name):
    case = CASES[name]
    value, grads = step(name)(case.arrays, case.fixed)
    poisoned = {k: np.where(case.ignored.get(k, False), np.float32(np.nan), v) for k, v in case.arrays.items()}
    assert any(np.isnan(v).any() for v in poisoned.values())
    value_poisoned, grads_poisoned = step(name)(poisoned, case.fixed)
    assert np.isfinite(value) and float(value) == float(value_poisoned)
    assert max(np.abs(grad).max() for grad in grads.values()) > 0
    for key, grad in grads.items():
        np.testing.assert_array_equal(grad, grads_poisoned[key], err_msg=key)
        if key in case.ignored:
            assert (np.asarray(grad)[case.ignored[key]] == 0).all()


def operations(jaxpr):
    """Every primitive of a jaxpr and of those inside of it."""
    for eqn in jaxpr.eqns:
        inner = [sub for value in eqn.params.values() for sub in jaxprs_in_params({"x": value})]
        if inner:
            for sub in inner:
                yield from operations(sub)
        else:
            yield eqn


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_inputs_are_computed_in_float32(name):
    case = CASES[name]
    low = {k: jnp.asarray(v, jnp.bfloat16) for k, v in case.arrays.items()}
    program = jax.make_jaxpr(lambda arrays: case.loss(**arrays, **case.fixed))(low)
    assert program.out_avals[0].dtype == jnp.float32 and program.out_avals[0].shape == ()
    touching = [e for e in operations(program.jaxpr) if any(v.aval.dtype == jnp.bfloat16 for v in e.invars)]
    assert touching and {e.primitive.name for e in touching} <= {"convert_element_type", "stop_gradient"}


@pytest.mark.parametrize("name", CASES)
def test_eight_devices_equal_one(name):
    case = CASES[name]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def put(group):
        specs = {k: P() if k in case.tables else P("data") for k in group}
        return {k: jax.device_put(v, NamedSharding(mesh, specs[k])) for k, v in group.items()}

    value, grads = step(name)(case.arrays, case.fixed)
    value8, grads8 = step(name)(put(case.arrays), put(case.fixed))
    np.testing.assert_allclose(value8, value, rtol=1e-5, atol=1e-6)
    for key, grad in grads.items():
        scale = np.abs(grad).max()
        np.testing.assert_allclose(grads8[key], grad, atol=1e-5 * scale, err_msg=key)
