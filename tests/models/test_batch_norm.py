"""BatchNorm over the batch and over groups of rows, against plain numpy; what of it crosses devices."""
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax import sharding
from medvlp_jax.models.batch_norm import BatchNorm, normalize_groups
from medvlp_jax.models.resnet import ResNet
from medvlp_jax.plan import hlo, timeline

pytestmark = pytest.mark.usefixtures("quick_compiles")

B, S, C = 6, 5, 3
EPSILON = 1e-5


def naive(x, mask, scale, bias, rows):
    """Group by group in float64 -> y, mean and unbiased variance averaged over the groups that have an entry that counts."""
    y, means, variances = np.empty_like(x), [], []
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        counted = part[mask[start : start + rows]]  # (n, C)
        mean = counted.mean(0) if len(counted) else np.zeros(x.shape[-1])
        var = counted.var(0) if len(counted) else np.zeros(x.shape[-1])
        y[start : start + rows] = (part - mean) / np.sqrt(var + EPSILON) * scale + bias
        if len(counted):
            means.append(mean)
            variances.append(counted.var(0, ddof=1))
    return y, np.mean(means, 0), np.mean(variances, 0)


def difference(f, x, step=1e-6):
    """Gradient of a function of one array by central differences."""
    grad = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        moved = x.copy()
        moved[place] += step
        up = f(moved)
        moved[place] -= 2 * step
        grad[place] = (up - f(moved)) / (2 * step)
    return grad


@functools.cache
def example():
    rng = np.random.default_rng(0)
    x, probe = rng.normal(1.0, 2.0, (B, S, C)), rng.normal(size=(B, S, C))
    return x, probe, rng.normal(1.0, 0.3, C), rng.normal(size=C), rng.normal(size=C)


MASKS = {
    "all": np.ones((B, S), bool),
    "some": np.arange(B * S).reshape(B, S) % 4 > 0,
    "empty group": np.repeat(np.arange(B) >= 2, S).reshape(B, S),  # with 2 rows a group the first has no entry
}


@pytest.mark.parametrize("rows, mask", [(0, "all"), (0, "some"), (2, "all"), (2, "some"), (2, "empty group"), (3, "some")])
def test_values_averages_and_gradients_are_those_of_plain_numpy(rows, mask):
    x, probe, scale, bias, near = example()
    counted = MASKS[mask]
    probe = probe * counted[..., None]  # what is masked is not read
    model = BatchNorm(rows=rows)
    averages = {"mean": jnp.asarray(near, jnp.float32), "var": jnp.full(C, 2.0)}
    given = None if mask == "all" else jnp.asarray(counted, jnp.int32)

    @jax.jit
    def step(params, x):
        def loss(params, x):
            y, state = model.apply({"params": params, "batch_stats": averages}, x, given, True, mutable=["batch_stats"])
            return (y * probe.astype(np.float32)).sum(), (y, state["batch_stats"])

        return jax.grad(loss, (0, 1), has_aux=True)(params, x)

    params = {"scale": jnp.asarray(scale, jnp.float32), "bias": jnp.asarray(bias, jnp.float32)}
    (d_params, dx), (y, after) = step(params, x.astype(np.float32))
    want, mean, var = naive(x, counted, scale, bias, rows or B)
    np.testing.assert_allclose(np.asarray(y)[counted], want[counted], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after["mean"], 0.9 * near + 0.1 * mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after["var"], 0.9 * 2.0 + 0.1 * var, rtol=1e-5)

    def loss(x=x, scale=scale, bias=bias):
        return (naive(x, counted, scale, bias, rows or B)[0] * probe).sum()

    np.testing.assert_allclose(dx, difference(lambda x: loss(x=x), x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(d_params["scale"], difference(lambda s: loss(scale=s), scale), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(d_params["bias"], difference(lambda b: loss(bias=b), bias), rtol=1e-4, atol=1e-5)


def test_groups_change_the_values_and_one_group_of_all_does_not():
    x = example()[0].astype(np.float32)
    whole, groups, one = (
        BatchNorm(rows=n).init_with_output(jax.random.key(0), x, train=True)[0] for n in (0, 2, B)
    )
    assert np.abs(whole - groups).max() > 0.1
    np.testing.assert_array_equal(whole, one)


def test_vectors_that_are_nearly_the_same_for_all_rows_are_told_apart():
    """As those of whole images at first: what float32 keeps of them, where one pass about a far guess would leave less."""
    x = np.random.default_rng(0).normal(1.0, 1e-2, (32, C)).astype(np.float32).astype(np.float64)
    want = (x - x.mean(0)) / np.sqrt(x.var(0) + EPSILON)
    one, zero = jnp.ones(C, jnp.float32), jnp.zeros(C, jnp.float32)

    def worst(shape):
        y, *_ = normalize_groups(jnp.asarray(x, jnp.float32).reshape(1, *shape, C), None, one, zero, zero, EPSILON)
        return np.abs(np.asarray(y).reshape(x.shape) - want).max()

    assert worst((32,)) < 1e-5 and worst((4, 8)) > 1e-3


def test_a_guess_near_the_mean_only_saves_rounding():
    """Values around 1000 with a spread of 1: the mean square about 0 keeps no digit of the variance, about 999 all of them."""
    x = (1000 + np.random.default_rng(1).standard_normal((1, 16, 32, 2))).astype(np.float32)
    ones, zeros = jnp.ones(2), jnp.zeros(2)
    want = x[0].astype(np.float64).var((0, 1))
    near, far = (normalize_groups(x, None, ones, zeros, guess * ones, EPSILON)[2][0] for guess in (999.0, 0.0))
    np.testing.assert_allclose(near, want, rtol=1e-5)
    assert np.isfinite(far).all() and (np.asarray(far) >= 0).all() and np.abs(far - want).max() > 1e-3


@pytest.mark.parametrize("rows, fits", [(4, "3 or 6"), (5, "3 or 6"), (-2, "1"), (12, "6")])
def test_rows_that_do_not_divide_the_batch(rows, fits):
    with pytest.raises(ValueError, match=f"batch_norm_rows={rows} must divide the 6 rows .*; {fits} would fit, 0 takes all"):
        BatchNorm(rows=rows).init(jax.random.key(0), jnp.zeros((B, C)), train=True)


TRUNK = dict(depth=18, width=8, num_stages=2, patch_stem=True)


@functools.cache
def gradient_on(devices: int, rows: int, averages: bool = True):
    """-> (compiled gradient of a small ResNet on a batch of 32 over devices, its arguments); averages: they are asked for."""
    model = ResNet(**TRUNK, batch_norm_rows=rows)
    image = np.random.default_rng(2).standard_normal((32, 16, 16, 3)).astype(np.float32)
    variables = jax.jit(ResNet(**TRUNK).init)(jax.random.key(0), image[:1])

    def loss(params, state, image):
        (x, _), new = model.apply({"params": params, **state}, image, True, mutable=["batch_stats"])
        return (x**3).sum(), new

    def grad(params, state, image):
        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(params, state, image)
        return (value, grads, new) if averages else (value, grads)

    mesh = sharding.make_mesh({"data": -1}, jax.devices()[:devices])
    copied = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    params, state = jax.device_put((variables["params"], {"batch_stats": variables["batch_stats"]}), copied)
    arguments = params, state, sharding.put({"image": image}, mesh)["image"]
    with jax.set_mesh(mesh):
        return jax.jit(grad, out_shardings=copied).lower(*arguments).compile(), arguments


def test_groups_give_the_same_on_1_and_on_8_devices():
    one, eight = (program(*arguments) for program, arguments in (gradient_on(n, 2) for n in (1, 8)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), one, eight)


def sent(devices, rows, averages):
    """-> (arrays that cross devices, the most collectives that wait for one another)."""
    module = hlo.parse(gradient_on(devices, rows, averages)[0].as_text())
    found = hlo.collectives(module, devices)
    depth = []
    for task in timeline.tasks(module, found):
        depth.append(max((depth[n] for n in task.needs), default=0) + len(task.sends))
    return list(itertools.chain(*(c.shapes for c in found))), max(depth)


def test_groups_within_a_device_send_gradients_and_running_averages_only():
    parameters, state, _ = gradient_on(8, 2)[1]
    count, layers = len(jax.tree.leaves(parameters)), len(jax.tree.leaves(state)) // 2
    arrays, depth = sent(8, 2, False)
    assert len(arrays) == count + 1 and depth == 1  # and the loss; nothing waits for anything that was sent
    with_averages, depth = sent(8, 2, True)
    assert len(with_averages) == count + 1 + 2 * layers and depth == 1
    assert max(len(shape) for shape in with_averages) == 4  # kernels; no activation, which has five dimensions in groups


def test_statistics_of_the_whole_batch_are_waited_for_once_a_layer_each_way():
    parameters, state, _ = gradient_on(8, 0)[1]
    count, layers = len(jax.tree.leaves(parameters)), len(jax.tree.leaves(state)) // 2
    arrays, depth = sent(8, 0, False)
    # Two sums a layer on the way forward; the two on the way back are the gradients of scale and bias.
    assert len(arrays) == count + 1 + 2 * layers
    assert depth < 2 * layers + 2  # shortcuts stand beside the others
