"""The largest batch that fits."""

import math

from medvlp_jax.plan import program
from medvlp_jax.plan.topology import Topology

FITS = 0.92  # share of a device's memory that a plan may use: the rest is for the runtime and fragmentation
NEAR = 0.93  # of that share: near enough to stop
MULTIPLE = 8  # rows of a device: what hard negatives are drawn among, and what matrix units like


def largest(config, topology: Topology, mesh: dict[str, int], first: program.Program) -> program.Program | None:
    """The program with the most rows a device that fits; None: none does. Two or three compilations.

    Memory grows in proportion to the rows of a device, beside the state and its gradients (a third of it again): a line gives
    the rows, which are then compiled; one that came out short of the limit or above it gives the next line. Groups of BatchNorm
    stay whole on a device.
    """
    devices, limit = len(topology.devices), FITS * topology.chip.memory
    small, image = first.batch // devices, config.model.image
    group = ("batch_norm_rows" in image and image.batch_norm_rows) or 1
    multiple = math.lcm(MULTIPLE, group)
    known = {0: first.state * 4 / 3, small: first.step.memory}
    best = first if first.step.memory <= limit else None
    for _ in range(4):
        rows = predict(known, limit)
        rows -= rows % (multiple if rows >= multiple else group)
        if rows in known or rows < 1:
            break
        try:
            tried = program.compile_step(config, topology, rows * devices, mesh)
            known[rows] = tried.step.memory
        except program.DoesNotFit as error:
            known[rows] = max(error.needed or 0.0, 1.02 * limit)
            continue
        if tried.step.memory <= limit and (best is None or rows > best.batch // devices):
            best = tried
            if tried.step.memory > NEAR * limit:
                break
    return best


def predict(known: dict[int, float], limit: float) -> int:
    """Rows at which the line through the two sizes nearest to the limit meets it; one below a size that was too much."""
    (r0, m0), (r1, m1) = sorted(sorted(known.items(), key=lambda item: abs(item[1] - limit))[:2])
    slope = max((m1 - m0) / (r1 - r0), 1.0)
    rows = int(r0 + (limit - m0) / slope)
    too_much = [r for r, m in known.items() if m > limit]
    return min([rows, *(r - 1 for r in too_much)])
