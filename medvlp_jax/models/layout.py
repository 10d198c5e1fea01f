"""Where activations lie on a mesh, said at a few places in the trunks. Without a mesh in force (`jax.set_mesh`): nothing.

The compiler finds most layouts by itself. Said is what it could get wrong where parameters are split too: that rows stay
where they are, instead of being gathered to meet a split kernel, and that heads and hidden units lie over the tensor axis.
"""
import math

import jax
from jax.sharding import PartitionSpec as P

BATCH = ("data", "fsdp")  # mesh axes that split the rows of a batch
TENSOR = "tensor"  # and the one that splits heads and hidden units


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """x with its leading dimension over the axes of `BATCH` and the others over the mesh axes `names`, None = not split.

    A dimension that does not divide is left to the compiler (one image on eight devices, five heads on two).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or not set(BATCH) <= set(mesh.axis_names):
        return x
    wanted = (BATCH, *((name,) if name else () for name in (*names, *[None] * (x.ndim - 1 - len(names)))))
    parts = []
    for size, axes in zip(x.shape, wanted, strict=True):
        axes = tuple(a for a in axes if a in mesh.axis_names)
        split = math.prod(mesh.shape[a] for a in axes)
        parts.append(axes if split > 1 and size % split == 0 else None if split == 1 else P.UNCONSTRAINED)
    return jax.lax.with_sharding_constraint(x, P(*parts))
