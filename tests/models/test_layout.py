"""Layouts of activations, where there is a mesh and where there is none."""
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from medvlp_jax import sharding
from medvlp_jax.models.layout import constrain


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
