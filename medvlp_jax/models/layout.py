"""Where activations lie on a mesh, and on a CPU which are kept in memory; said at a few places in the trunks.

The compiler finds most layouts by itself. Said is what it could get wrong where parameters are split too: that rows stay
where they are, instead of being gathered to meet a split kernel, and that heads and hidden units lie over the tensor axis.
Without a mesh in force (`jax.set_mesh`) nothing is said of layouts.
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


def materialize(x: jax.Array) -> jax.Array:
    """x, on a CPU as one array in memory that all who read it share, and so its gradient; without `options` the same, slower.

    XLA's fusion for CPUs computes cheap sums anew in each reader: the gradient of a residual stream, the sum of what all
    later blocks give, was added up from all of them again for every block. For accelerators it weighs that by itself.
    """
    return jax.lax.optimization_barrier(x) if platform() == "cpu" else x


def options(mesh: jax.sharding.Mesh) -> dict[str, str] | None:
    """jit's compiler_options for a mesh: XLA for CPUs takes the barriers of `materialize` out before it fuses, unless told."""
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if mesh.devices.flat[0].platform == "cpu" else None


def platform() -> str:
    """What the program being traced is for: the mesh's platform, without a mesh in force that of the default devices."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else jax.default_backend()
