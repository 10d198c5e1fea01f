"""cuDNN's kernel: asked for only in programs for a GPU, and with what it needs: even numbers of rows, masks as lengths."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax.models import attention, fused_attention
from medvlp_jax.plan import flops, program
from tests import tiny

B, HEADS, D = 4, 2, 8


def example(rows, dtype=jnp.bfloat16):
    rng = np.random.default_rng(rows)
    q, k, v = (jnp.asarray(rng.normal(size=(B, rows, HEADS, D)), dtype) for _ in range(3))
    return q, k, v, jnp.asarray(np.arange(rows)[None] < np.array([rows, 3, 1, 2])[:, None], jnp.int32)


def for_gpu(monkeypatch, kernel, rows, masked, dtype=jnp.bfloat16):
    """The gradient's program as it is handed to a GPU's compiler."""
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    *qkv, mask = example(rows, dtype)

    def loss(q, k, v):
        return attention.attend(q, k, v, mask if masked else None, kernel).astype(jnp.float32).sum()

    with program.cudnn():
        return jax.jit(jax.grad(loss, (0, 1, 2))).trace(*qkv).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.usefixtures("optax_promotion")  # jax's own attention mixes bfloat16 and float32 in its gradient
@pytest.mark.parametrize("rows, masked", [(6, False), (6, True), (7, False), (7, True)])
def test_the_kernel_stands_in_programs_for_a_gpu(monkeypatch, rows, masked):
    text = for_gpu(monkeypatch, "fused", rows, masked)
    assert "__cudnn$fmhaSoftmax" in text and "__cudnn$fmhaSoftmaxBackward" in text and "stablehlo.exponential" not in text
    plain = for_gpu(monkeypatch, "xla", rows, masked)
    assert "__cudnn" not in plain and "stablehlo.exponential" in plain
    assert for_gpu(monkeypatch, "fused", rows, masked, jnp.float32) == for_gpu(monkeypatch, "xla", rows, masked, jnp.float32)


@pytest.mark.usefixtures("optax_promotion")
def test_its_operations_are_counted_as_those_of_the_products(monkeypatch):
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    *qkv, mask = example(6)

    def grad(kernel):
        return jax.grad(lambda qkv: attention.attend(*qkv, mask, kernel).astype(jnp.float32).sum())

    with program.cudnn():
        fused, plain = (flops.count(grad(kernel), qkv) for kernel in ("fused", "xla"))
    # Without the value of the loss the plain gradient still needs the scores, but not their product with the values.
    assert fused.total() == 6 * 2 * B * HEADS * D * 6 * 6 and plain.total() == 5 * 2 * B * HEADS * D * 6 * 6


@pytest.mark.parametrize("rows, masked", [(6, True), (7, False), (7, True)])
def test_even_rows_and_lengths_say_the_same_as_the_mask(monkeypatch, rows, masked):
    """The very call that is made of cuDNN, answered by XLA in float32: values and gradients are those without it."""
    *qkv, mask = example(rows, jnp.float32)
    mask = mask if masked else None
    probe = np.random.default_rng(1).normal(size=qkv[0].shape).astype(np.float32)

    def run(fn):
        return jax.jit(jax.value_and_grad(lambda qkv: (fn(*qkv, mask) * probe).sum()))(qkv)

    want, asked, real = run(attention.attend), [], jax.nn.dot_product_attention

    def answer(q, k, v, *, implementation, **kwargs):
        asked.append((implementation, q.shape[1], k.shape[1], kwargs["key_value_seq_lengths"].shape))
        return real(q, k, v, **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", answer)
    got = run(fused_attention.by_cudnn)
    assert asked == [("cudnn", 6 if rows == 6 else 8, 6 if rows == 6 else 8, (B,))]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


def test_elsewhere_it_is_the_same_as_xla_and_others_are_unknown():
    *qkv, mask = example(7)
    assert attention.platform() == "cpu"
    a, b = (jax.jit(lambda *x, k=k: attention.attend(*x, k)).lower(*qkv, mask).as_text() for k in attention.KERNELS)
    assert a == b
    with pytest.raises(ValueError, match="unknown attention_kernel 'flash'; known: xla, fused"):
        attention.attend(*qkv, kernel="flash")


@pytest.mark.usefixtures("optax_promotion")
@pytest.mark.parametrize("kernel, trunk, blocks", [("xla", "vit", 0), ("fused", "vit", 1 + 2 * 2), ("fused", "resnet", 2 * 2)])
def test_the_config_chooses_it_for_both_trunks(monkeypatch, kernel, trunk, blocks):
    """One block of the image trunk, if it has any; two of the text trunk, which reads the report and the swapped one."""
    calls = []

    def count(query, key, value, mask):
        calls.append(query.shape)
        return attention.attend(query, key, value, mask)

    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    monkeypatch.setattr(fused_attention, "by_cudnn", count)
    resnet = {"model/image": {"name": "resnet", "depth": 18, "width": 8, "num_stages": 1, "patch_stem": True, "init": ""}}
    more = {"model/patch_stage": 1, **resnet} if trunk == "resnet" else {}
    method = tiny.method(tiny.config("mlip", **{"model/attention_kernel": kernel, "dtype": "bfloat16", **more}))
    jax.eval_shape(method.init, jax.random.key(0), {**tiny.batch(), "knowledge": tiny.tables()})
    assert len(calls) == blocks
