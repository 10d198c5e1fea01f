"""Devices that are not there: "v5p:8x8x8" or "h100:64" -> chips to compile for."""

import importlib.util
import math
import re
from typing import NamedTuple

import numpy as np

from medvlp_jax.plan import chips


class Topology(NamedTuple):
    """name as asked for; devices in the order of the platform; chip."""

    name: str
    devices: list
    chip: chips.Chip


def parse(name: str) -> tuple[str, tuple[int, ...], int]:
    """ "v5p:8x8x8" -> ("v5p", (8, 8, 8), 1 slice); "v6e:16x16*4" has 4 slices; "h100:64" -> ("h100", (64,), 1).

    Raises:
      ValueError: no such chip, or a shape that does not fit it; says what would.
    """
    kind, _, shape = name.partition(":")
    if kind not in chips.CHIPS:
        raise ValueError(f"unknown chip {kind!r} in topology {name!r}; known: {', '.join(chips.CHIPS)}")
    chip = chips.CHIPS[kind]
    wanted = (
        f"{'x'.join('8' * chip.torus)}, or with slices {'x'.join('8' * chip.torus)}*2"
        if chip.torus
        else "64, the number of GPUs"
    )
    match = re.fullmatch(r"(\d+(?:x\d+)*)(?:\*(\d+))?", shape)
    sizes = tuple(int(s) for s in match[1].split("x")) if match else ()
    slices = int(match[2] or 1) if match else 1
    if not match or len(sizes) != max(chip.torus, 1) or 0 in sizes or not slices or (not chip.torus and match[2]):
        raise ValueError(f"topology {name!r} does not fit {kind}: expected {kind}:{wanted}")
    if not chip.torus and sizes[0] > chip.node and sizes[0] % chip.node:
        raise ValueError(
            f"topology {name!r}: GPUs come in nodes of {chip.node}; {kind}:{-(-sizes[0] // chip.node) * chip.node} would fit"
        )
    return kind, sizes, slices


def number(name: str) -> int:
    """Devices of a topology by its name."""
    _, sizes, slices = parse(name)
    return math.prod(sizes) * slices


def devices(name: str) -> Topology:
    """The compile-only devices of a topology.

    Raises:
      ValueError: see `parse`. ImportError: the extra that can compile for this chip is not installed.
    """
    kind, sizes, slices = parse(name)
    chip = chips.CHIPS[kind]
    extra, module = ("tpu", "libtpu") if chip.platform == "tpu" else ("cuda", "jax_plugins.xla_cuda13")
    if not _there(module):
        raise ImportError(
            f"a plan for {kind} is compiled by {module}, which is not installed: pip install 'medvlp_jax[{extra}]' "
            "(no accelerator is needed)"
        )
    from jax.experimental import topologies

    if chip.platform == "tpu":
        more = {"num_slices": slices} if slices > 1 else {}
        shape = "x".join(str(s) for s in sizes)
        found = topologies.get_topology_desc(platform="tpu", topology_name=f"{kind}:{shape}", **more)
    else:
        count = sizes[0]
        per_node = min(count, chip.node)
        found = topologies.get_topology_desc(
            platform="cuda", topology_name="h100", target_config=chips.H100_TARGET, topology=f"1x{count // per_node}x{per_node}"
        )
    there, asked = len(found.devices), number(name)
    if there != asked:
        raise ValueError(f"topology {name!r}: asked for {asked} devices, the compiler has {there}")
    return Topology(name, list(found.devices), chip)


def imagined(name: str) -> np.ndarray:
    """(devices, dims) places of a topology for `roofline.Step`, without any compiler."""
    kind, sizes, slices = parse(name)
    chip = chips.CHIPS[kind]
    if not chip.torus:
        return np.arange(sizes[0])[:, None] // chip.node
    grid = np.indices((slices, *sizes)).reshape(len(sizes) + 1, -1).T  # slice, x, y, ..
    return np.concatenate([grid[:, 1:], grid[:, :1]], 1)


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False
