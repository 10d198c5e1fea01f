"""The TPU's kernel, interpreted: values and gradients are those of XLA's form, on one device and on a mesh."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax import sharding
from medvlp_jax.models import attention, fused_attention
from medvlp_jax.plan import flops, hlo

pytestmark = pytest.mark.usefixtures("optax_promotion")  # jax's own attention mixes bfloat16 and float32 in its gradient
HEADS, D = 4, 8


@pytest.fixture
def on_tpu(monkeypatch):
    """Programs are made as for a TPU, and the kernel is interpreted; lists the shapes of the queries it was handed."""
    calls, real = [], fused_attention.pl.pallas_call

    def interpreted(kernel, **kwargs):
        calls.append(kwargs["out_shape"][0].shape)
        return real(kernel, interpret=True, **kwargs)

    monkeypatch.setattr(attention, "platform", lambda: "tpu")
    monkeypatch.setattr(fused_attention.pl, "pallas_call", interpreted)
    return calls


def example(batch, rows, dtype=jnp.float32, masked=True, width=D):
    """q, k, v and a probe for the gradient; a mask with holes, whose last row has no key that counts."""
    rng = np.random.default_rng(rows)
    arrays = [jnp.asarray(rng.normal(size=(batch, rows, HEADS, width)), dtype) for _ in range(4)]
    mask = rng.random((batch, rows)) < 0.6
    mask[-1] = False
    return arrays, jnp.asarray(mask, jnp.int32) if masked else None


def attended(kernel, arrays, mask):
    """-> output and gradients of q, k, v, compiled."""
    *qkv, probe = arrays

    def run(qkv, mask):
        y, back = jax.vjp(lambda q, k, v: attention.attend(q, k, v, mask, kernel), *qkv)
        return y, back(probe)

    return jax.jit(run), (qkv, mask)


def close(got, want, tolerance):
    def check(a, b):
        assert a.dtype == b.dtype and np.isfinite(np.asarray(a, np.float32)).all()
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), atol=tolerance, rtol=tolerance)

    jax.tree.map(check, got, want)


@pytest.mark.parametrize(
    "rows, masked, width, dtype, tolerance",
    [
        (8, False, D, jnp.float32, 2e-6),
        (7, True, D, jnp.float32, 2e-6),
        (5, True, 64, jnp.bfloat16, 0.04),
        (13, False, 64, jnp.bfloat16, 0.04),
    ],
)
def test_values_and_gradients_are_those_of_xla(on_tpu, rows, masked, width, dtype, tolerance):
    arrays, mask = example(2, rows, dtype, masked, width)
    (plain, args), (fused, _) = attended("xla", arrays, mask), attended("fused", arrays, mask)
    want = plain(*args)
    assert not on_tpu
    close(fused(*args), want, tolerance)
    assert on_tpu == [(2, rows, HEADS * width)] * 2  # forward and backward


@pytest.mark.parametrize("axes", [{"data": 4, "fsdp": 2}, {"data": 2, "fsdp": 2, "tensor": 2}])
def test_on_a_mesh_each_device_computes_its_own_rows_and_heads(on_tpu, axes):
    arrays, mask = example(8, 5)
    (plain, args), (fused, _) = attended("xla", arrays, mask), attended("fused", arrays, mask)
    want, alone = plain(*args), flops.count(fused, *args)
    with jax.set_mesh(sharding.make_mesh(axes)) as mesh:
        spec = jax.P(("data", "fsdp"), None, "tensor" if "tensor" in axes else None)
        (qkv, mask), here = args, functools.partial(jax.NamedSharding, jax.sharding.get_mesh())
        args = jax.device_put(qkv, here(spec)), jax.device_put(mask, here(jax.P(spec[0])))
        on_tpu.clear()
        program = fused.lower(*args).compile()
        close(program(*args), want, 2e-6)
        assert flops.count(fused, *args) == alone == {"float32": 6 * 2 * 8 * 5 * 5 * HEADS * D}
    heads = HEADS // axes.get("tensor", 1)
    assert set(on_tpu) == {(8 // axes["data"] // axes["fsdp"], 5, heads * D)}
    assert not hlo.collectives(hlo.parse(program.as_text()), 8), mesh


def test_what_the_kernel_does_not_take_is_left_to_xla(on_tpu):
    def calls(arrays, mask=None):
        on_tpu.clear()
        jax.eval_shape(lambda q, k, v, _: attention.attend(q, k, v, mask, "fused"), *arrays)
        return len(on_tpu)

    assert calls(example(1, 3)[0]) == 1 and calls(example(1, 3, jnp.float16)[0]) == 0
    with jax.enable_x64(True):
        assert calls(example(1, 3, jnp.float64)[0]) == 0
    shapes = [jax.ShapeDtypeStruct((1, fused_attention.ROWS + more, HEADS, D), jnp.float32) for more in (0, 1)]
    assert [calls([shape] * 4) for shape in shapes] == [1, 0]
    with jax.set_mesh(sharding.make_mesh({"data": 4, "fsdp": 1, "tensor": 2})):
        assert [calls(example(batch, 3)[0]) for batch in (4, 6)] == [1, 0]
        assert calls([x[:, :, :3] for x in example(4, 3)[0]]) == 0  # three heads do not go into two parts


def test_a_step_of_the_grid_holds_whole_vectors_of_some_heads():
    base, large = 197 * 2, 257 * 2  # bytes of a column of ViT-B/16 and of ViT-L/14, bfloat16
    assert fused_attention._heads_at_once(12, 64, base) == 12 and fused_attention._heads_at_once(16, 64, large) == 8
    assert fused_attention._heads_at_once(16, 64, 512 * 4) == 4
    assert fused_attention._heads_at_once(3, 64, 512 * 4) == 3  # one head would be half a vector


def test_it_goes_through_recomputed_slices_of_a_batch(on_tpu):
    """As microbatches and remat use it: gradients of a checkpointed scan, on a mesh."""
    (*qkv, _), mask = example(8, 3)
    slices = jax.tree.map(lambda x: x.reshape(2, 4, *x.shape[1:]), (qkv, mask))

    def loss(kernel):
        def body(total, piece):
            (q, k, v), mask = piece
            return total + jnp.sin(attention.attend(q, k, v, mask, kernel)).sum(), None

        return jax.jit(jax.grad(lambda x, mask: jax.lax.scan(jax.checkpoint(body), 0.0, (x, mask))[0]))

    want = loss("xla")(*slices)
    with jax.set_mesh(sharding.make_mesh({"data": 2, "fsdp": 1, "tensor": 2}, jax.devices()[:4])):
        close(loss("fused")(*slices), want, 2e-6)
    assert set(on_tpu) == {(2, 3, HEADS // 2 * D)}
