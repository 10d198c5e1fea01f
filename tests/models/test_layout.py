"""Layouts of activations, where there is a mesh and where there is none."""
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from medvlp_jax import sharding
from medvlp_jax.models import layout
from medvlp_jax.models.layout import constrain
from medvlp_jax.plan import hlo


def laid_out(shape, *names):
    return jax.jit(lambda x: constrain(x, *names))(jnp.zeros(shape)).sharding.spec


def test_without_a_mesh_nothing_is_said():
    assert "sharding_constraint" not in jax.jit(constrain).lower(jnp.zeros((8, 4))).as_text()


def test_rows_and_heads_are_split_where_they_divide():
    with jax.set_mesh(sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2})):
        assert laid_out((8, 3, 4), None, "tensor") == P(("data", "fsdp"), None, "tensor")
        assert laid_out((8, 3, 4)) == P(("data", "fsdp"))
        assert "fsdp" not in str(laid_out((6, 3, 4), None, "tensor"))  # six rows do not go into four parts
        assert laid_out((8, 3), "tensor")[0] == ("data", "fsdp")


def test_the_platform_is_that_of_the_mesh_in_force(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "that of the machine")
    assert layout.platform() == "that of the machine"
    with jax.set_mesh(jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))):
        assert layout.platform() == "cpu"


def residual_stream(kernels, x):
    for kernel in kernels:
        x = layout.materialize(x + jnp.tanh((x - x.mean(-1, keepdims=True)) @ kernel) @ kernel)
    return (x * x).sum()


def test_on_a_cpu_no_reader_adds_up_the_stream_again(monkeypatch):
    """Without the pass that takes barriers out; values and gradients are the same."""
    kernels, x = list(np.random.default_rng(0).normal(size=(9, 8, 8)).astype(np.float32)), np.ones((4, 8), np.float32)
    lowered = jax.jit(jax.value_and_grad(residual_stream)).lower(kernels, x)
    plain, kept = lowered.compile(), lowered.compile(compiler_options=layout.options(jax.make_mesh((1,), ("data",))))

    def most_operands(program):
        fusions = [i for body in hlo.parse(program.as_text()).computations.values() for i in body if i.op == "fusion"]
        return max(len(i.operands) for i in fusions)

    assert most_operands(kept) < 8 < most_operands(plain)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), kept(kernels, x), plain(kernels, x))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "barrier" in lowered.as_text() and "barrier" not in jax.jit(residual_stream).lower(kernels, x).as_text()
