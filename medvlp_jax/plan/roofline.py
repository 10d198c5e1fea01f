"""From what a step computes and moves to how long it takes at least, and what bounds it."""

from typing import NamedTuple

import numpy as np

from medvlp_jax.plan import timeline
from medvlp_jax.plan.chips import Chip
from medvlp_jax.plan.hlo import Collective


class Step(NamedTuple):
    """One train step, per device.

    flops: {kind of product: operations}; traffic: bytes through main memory; memory: bytes held at the peak; collectives with
    the axes they go along, see `hlo`; devices: how many there are; places: (devices, dims) where each one sits, in a torus its
    coordinates (slice last), else its node; program: its tasks, see `timeline`.
    """

    flops: dict[str, float]
    traffic: float
    memory: float
    collectives: list[Collective]
    places: np.ndarray
    program: list[timeline.Task]

    @property
    def devices(self) -> int:
        return len(self.places)


class Times(NamedTuple):
    """Seconds of one step if only this bound it."""

    compute: float
    memory: float
    network: float

    @property
    def overlapped(self) -> float:
        """All three at once: the roofline, which no program beats."""
        return max(self)

    @property
    def exposed(self) -> float:
        """Nothing is sent while anything is computed: what a program without any overlap reaches."""
        return max(self.compute, self.memory) + self.network

    @property
    def bound(self) -> str:
        """ "compute", "memory" or "network"."""
        return max(self._fields, key=lambda name: getattr(self, name))


def times(step: Step, chip: Chip) -> Times:
    """Roofline times of a step."""
    compute = sum(n / chip.flops[kind] for kind, n in step.flops.items())
    network = sum(c.times * seconds(c, chip, step.places) for c in step.collectives)
    return Times(compute, step.traffic / chip.hbm, network)


def scheduled(step: Step, chip: Chip) -> float:
    """Seconds of a step in which sending overlaps with what does not wait for it; between `Times.overlapped` and `.exposed`.

    The greater of compute and memory is spread over the program by memory traffic.
    """
    t = times(step, chip)
    second = max(t.compute, t.memory) / max(sum(task.traffic for task in step.program), 1.0)
    each = [c.times * seconds(c, chip, step.places) for c in step.collectives]
    work = [task.traffic * second for task in step.program]
    return timeline.seconds(step.program, work, [sum(each[c] for c in task.sends) for task in step.program])


def seconds(c: Collective, chip: Chip, places: np.ndarray) -> float:
    """One execution of a collective: bytes over the slowest stage of the way, plus latency.

    In a torus, a group that spans k of its axes uses the links of these k; an axis that is no closed ring has half of them
    idle. A group that spans several nodes or slices shares the network ports of its members in each.
    """
    group = places[c.groups[0]]  # (members, dims)
    if chip.torus:
        inside, outside = group[:, : chip.torus], group[:, chip.torus :]
        lengths = [len(np.unique(inside[:, d])) for d in range(chip.torus)]
        wide = places.max(0)[: chip.torus] + 1
        links = sum((1.0 if n == wide[d] and n % chip.ring == 0 else 0.5) for d, n in enumerate(lengths) if n > 1)
        rate = chip.fabric * links / chip.torus
        latency = chip.hop * sum(n / 2 if n % chip.ring == 0 else n - 1 for n in lengths if n > 1)
    else:
        outside, rate, latency = group, chip.fabric, chip.hop
    nodes, counts = np.unique(outside, axis=0, return_counts=True)
    if len(nodes) == 1:
        return c.sent / rate + latency
    beyond = chip.network * counts.min()
    rate = min(rate, beyond) if rate and counts.min() > 1 else beyond
    return c.sent / rate + latency + chip.far


def larger(step: Step, places: np.ndarray, flops: dict[str, float], rows: int) -> Step:
    """The step with as many rows a device on more devices (the data axis grows), by extrapolation.

    Groups that held all devices hold all again; others along the data axis grow by the same factor; those within keep their
    size. Arrays of all `rows` of the batch grow with it, gradients and parameters do not. flops: of one device then.
    """
    factor, found = len(places) // step.devices, []
    for c in step.collectives:
        first = c.groups[0]
        stride = int(first[1] - first[0])
        if c.members == step.devices:
            groups = np.arange(len(places))[None]
        elif c.members * stride == step.devices:  # along the outer axis
            groups = (first[0] + stride * np.arange(c.members * factor))[None]
        else:
            groups = c.groups
        grows = any(shape and shape[0] == rows for shape in c.shapes)
        found.append(c._replace(groups=groups, bytes=c.bytes * (factor if grows else 1)))
    return step._replace(flops=flops, collectives=found, places=places)


def intensity(step: Step) -> float:
    """Operations for each byte of main memory."""
    return sum(step.flops.values()) / max(step.traffic, 1.0)


def account(step: Step, mesh_shape: dict[str, int]) -> dict[tuple[str, str], tuple[float, float]]:
    """{(kind, axes): (executions, bytes)} of a step's collectives; bytes are those each device sends."""
    table = {}
    for c in step.collectives:
        key = c.kind, c.axes(mesh_shape)
        count, sent = table.get(key, (0.0, 0.0))
        table[key] = count + c.times, sent + c.times * c.sent
    return table


def weak_scaling(one: Times, many: Step, chip: Chip) -> tuple[float, float, float]:
    """Share of one chip's speed that each of many keeps at the same rows a chip -> (nothing overlapped, what does not wait
    overlapped, all overlapped).

    One chip sends nothing: its time is the greater of compute and memory.
    """
    alone, after = max(one.compute, one.memory), times(many, chip)
    return alone / after.exposed, alone / scheduled(many, chip), alone / after.overlapped
