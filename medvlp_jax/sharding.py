"""The device mesh, first-match rules from parameter name to layout, and putting host batches on the mesh.

Methods never see any of this: they are written on global arrays, and the compiler inserts the collectives.
"""
import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from medvlp_jax import trees
from medvlp_jax.models import layout

# The batch is split over "data" and "fsdp"; "fsdp" splits parameters and optimizer state as well, "tensor" heads and hidden
# layers of transformers. "data" is outermost: where a mesh spans several slices, only its collectives cross between them.
AXES = ("data", "fsdp", "tensor")

# Values: "split" = over the fsdp axis along the largest dimension it divides; "copy" = on every device.
# Kernels and embeddings hold nearly all values; splitting vectors costs more latency than it saves memory.
RULES = {
    "replicated": ((r".*", "copy"),),
    "fsdp": (
        (r"(kernel|embedding|prototypes|position_embedding|class_token)$", "split"),
        (r".*", "copy"),
    ),
}

# Which dimension lies over the tensor axis, whatever the rules above do with the others (Megatron-LM, arXiv 1909.08053):
# layers into heads and hidden units are cut by their outputs, the layers back by their inputs, so that only the sum after
# each such pair crosses devices.
TENSOR = (
    (r"(query|key|value|fc1|mlp_in)/(kernel|bias)$", "outputs"),
    (r"(attention/out|self_attention/out|cross_attention/out|fc2|mlp_out)/kernel$", "inputs"),
    (r".*", "neither"),
)


def make_mesh(shape: dict[str, int], devices=None) -> Mesh:
    """Mesh with the axes of `AXES`; one size may be -1 (all remaining devices).

    Devices of several slices (attribute slice_index) are laid out slice by slice along "data".

    Raises:
      ValueError: unknown axis, sizes that do not multiply to the number of devices, or a "data" that slices do not divide.
    """
    devices = jax.devices() if devices is None else devices
    if unknown := set(shape) - set(AXES):
        raise ValueError(f"unknown mesh axes {sorted(unknown)}; known: {AXES}")
    sizes = [shape.get(axis, 1) for axis in AXES]
    asked = dict(zip(AXES, sizes, strict=True))
    if any(s < 1 and s != -1 for s in sizes):
        raise ValueError(f"mesh axes must be positive or -1, came {asked}")
    if sizes.count(-1) > 1:
        raise ValueError(f"only one mesh axis can be -1, came {asked}")
    fixed = int(np.prod([s for s in sizes if s != -1]))
    sizes = [len(devices) // fixed if s == -1 else s for s in sizes]
    if int(np.prod(sizes)) != len(devices):
        raise ValueError(f"mesh {asked} does not use the {len(devices)} devices exactly")
    kinds = (AxisType.Auto,) * len(AXES)
    slices = sorted({getattr(d, "slice_index", None) or 0 for d in devices})
    if len(slices) == 1:
        return jax.make_mesh(tuple(sizes), AXES, devices=devices, axis_types=kinds)
    if sizes[0] % len(slices):
        raise ValueError(f"mesh axis data={sizes[0]} is no multiple of the {len(slices)} slices it is to span")
    shape = (sizes[0] // len(slices), *sizes[1:])
    parts = [
        jax.make_mesh(shape, AXES, devices=[d for d in devices if d.slice_index == s], axis_types=kinds).devices
        for s in slices
    ]
    return Mesh(np.concatenate(parts), AXES, axis_types=kinds)


def spec(value: str, shape: tuple[int, ...], mesh: Mesh, tensor: str = "neither") -> P:
    """Partition of one array by its values of `RULES` and of `TENSOR`."""
    parts, d = [None] * len(shape), {"outputs": -1, "inputs": 0}.get(tensor)
    if d is not None and mesh.shape["tensor"] > 1 and shape[d] % mesh.shape["tensor"] == 0:
        parts[d] = "tensor"
    size = mesh.shape["fsdp"]
    dims = [d for d in range(len(shape)) if parts[d] is None and shape[d] % size == 0]
    if value == "split" and size > 1 and dims:
        parts[max(dims, key=lambda d: shape[d])] = "fsdp"
    return P(*parts) if any(parts) else P()


def of_state(state, mesh: Mesh, rules: str):
    """Tree of NamedSharding for a train state (arrays or ShapeDtypeStructs).

    Optimizer moments end in the same names as their parameters, so one rule covers both.

    Raises:
      ValueError: unknown rule set.
    """
    if rules not in RULES:
        raise ValueError(f"unknown sharding rules {rules!r}; known: {sorted(RULES)}")
    values, tensor = trees.match(state, RULES[rules], "sharding rule"), trees.match(state, TENSOR, "tensor rule")
    return jax.tree.map(lambda v, x, t: NamedSharding(mesh, spec(v, np.shape(x), mesh, t)), values, state, tensor)


def layouts(params, mesh: Mesh):
    """-> (used, held), trees of NamedSharding of parameters: where a step computes with them, over the tensor axis only, and
    as they lie (arrays or ShapeDtypeStructs with a sharding)."""
    tensor = trees.match(params, TENSOR, "tensor rule")
    used = jax.tree.map(lambda x, t: NamedSharding(mesh, spec("copy", np.shape(x), mesh, t)), params, tensor)
    return used, jax.tree.map(lambda x: x.sharding, params)


def to_use(params, used, held):
    """Parameters that lie as `held`, laid out as `used`; their gradients come back as `held`. See `layouts`.

    Both said outright. Of split parameters the compiler may prefer to gather images to the parts of a convolution; and their
    gradients it would add up whole on every device, where each needs the sum of its part only (reduce-scatter).
    """

    @jax.custom_vjp
    def lay(params):
        return jax.lax.with_sharding_constraint(params, used)

    lay.defvjp(lambda params: (lay(params), None), lambda _, grads: (jax.lax.with_sharding_constraint(grads, held),))
    return lay(params)


def of_batch(mesh: Mesh) -> NamedSharding:
    """Leading (batch) dimension over the axes of `layout.BATCH`."""
    return NamedSharding(mesh, P(layout.BATCH))


def batch_parts(mesh: Mesh) -> int:
    """Number of parts a batch is split into."""
    return math.prod(mesh.shape[a] for a in layout.BATCH)


def put(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch -> global arrays, one a key, rows split over the mesh.

    Raises:
      ValueError: the rows do not divide over the devices, or processes would have to share rows.
    """
    rows = {k: len(v) for k, v in batch.items()}
    local, rest = divmod(batch_parts(mesh), jax.process_count())
    if rest:
        raise ValueError(
            f"mesh {dict(mesh.shape)} splits a batch in {batch_parts(mesh)}, which {jax.process_count()} processes cannot "
            "share evenly; a tensor axis must fit into one process"
        )
    if bad := {k: n for k, n in rows.items() if n % local}:
        raise ValueError(f"batch rows must be a multiple of the {local} parts of this process, came {bad}")
    sharding = of_batch(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, np.asarray(v)) for k, v in batch.items()}
