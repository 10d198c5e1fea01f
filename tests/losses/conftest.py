"""Shared by the loss tests: what a compiled, sharded loss moves between devices."""
import re

import jax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

KINDS = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"


@pytest.fixture
def collectives():
    """(loss, sharded, replicated) -> [(kind, number of elements)] of the compiled gradient on 8 devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def find(loss, sharded, replicated=()):
        args = [jax.device_put(x, NamedSharding(mesh, P("data"))) for x in sharded]
        args += [jax.device_put(x, NamedSharding(mesh, P())) for x in replicated]
        wrt = tuple(i for i, x in enumerate(args) if x.dtype.kind == "f")
        text = jax.jit(jax.value_and_grad(loss, wrt)).lower(*args).compile().as_text()
        found = []
        for line in text.splitlines():
            op = re.search(rf" = (.*?) ({KINDS})(-start)?\(", line)
            if op:
                for shape in re.findall(r"\w+\[([\d,]*)\]", op[1]):
                    size = 1
                    for dim in filter(None, shape.split(",")):
                        size *= int(dim)
                    found.append((op[2], size))
        return found

    return find
