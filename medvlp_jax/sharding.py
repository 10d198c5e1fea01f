"""The device mesh, first-match rules from parameter name to layout, and putting host batches on the mesh.

Methods never see any of this: they are written on global arrays, and the compiler inserts the collectives.
"""
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from medvlp_jax import trees

AXES = ("data", "fsdp")  # the batch is split over both; "fsdp" splits parameters and optimizer state as well

# Values: "split" = over the fsdp axis along the largest dimension it divides; "copy" = on every device.
# Kernels and embeddings hold nearly all values; splitting vectors costs more latency than it saves memory.
RULES = {
    "replicated": ((r".*", "copy"),),
    "fsdp": (
        (r"(kernel|embedding|prototypes|position_embedding|class_token)$", "split"),
        (r".*", "copy"),
    ),
}


def make_mesh(shape: dict[str, int], devices=None) -> Mesh:
    """Mesh with the axes of `AXES`; one size may be -1 (all remaining devices).

    Raises:
      ValueError: unknown axis, or sizes that do not multiply to the number of devices.
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
    return jax.make_mesh(tuple(sizes), AXES, devices=devices, axis_types=(AxisType.Auto,) * len(AXES))


def spec(value: str, shape: tuple[int, ...], mesh: Mesh) -> P:
    """Partition of one array by its rule value."""
    size = mesh.shape["fsdp"]
    dims = [d for d in range(len(shape)) if shape[d] % size == 0]
    if value == "copy" or size == 1 or not dims:
        return P()
    largest = max(dims, key=lambda d: shape[d])
    return P(*["fsdp" if d == largest else None for d in range(len(shape))])


def of_state(state, mesh: Mesh, rules: str):
    """Tree of NamedSharding for a train state (arrays or ShapeDtypeStructs).

    Optimizer moments end in the same names as their parameters, so one rule covers both.

    Raises:
      ValueError: unknown rule set.
    """
    if rules not in RULES:
        raise ValueError(f"unknown sharding rules {rules!r}; known: {sorted(RULES)}")
    values = trees.match(state, RULES[rules], "sharding rule")
    return jax.tree.map(lambda v, x: NamedSharding(mesh, spec(v, np.shape(x), mesh)), values, state)


def of_batch(mesh: Mesh) -> NamedSharding:
    """Leading (batch) dimension over all data axes."""
    return NamedSharding(mesh, P(AXES))


def put(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch -> global arrays, one a key, rows split over the mesh.

    Raises:
      ValueError: the rows do not divide over the devices.
    """
    rows = {k: len(v) for k, v in batch.items()}
    local = int(np.prod([mesh.shape[a] for a in AXES])) // jax.process_count()
    if bad := {k: n for k, n in rows.items() if n % max(local, 1)}:
        raise ValueError(f"batch rows must be a multiple of the {local} local devices, came {bad}")
    sharding = of_batch(mesh)
    return {k: jax.make_array_from_process_local_data(sharding, np.asarray(v)) for k, v in batch.items()}
