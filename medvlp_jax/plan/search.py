"""The largest batch that fits, and how a step grows with the number of chips."""

from medvlp_jax.plan import program, roofline
from medvlp_jax.plan.topology import Topology

FITS = 0.92  # share of a device's memory that a plan may use: the rest is for the runtime and fragmentation
MULTIPLE = 8  # rows of a device: what hard negatives are drawn among, and what matrix units like


def largest(config, topology: Topology, mesh: dict[str, int], first: program.Program) -> program.Program | None:
    """The program with the most rows a device that fits, by a line through two compiled sizes, then checked; None: none does.

    Memory grows in proportion to the rows of a device, beside what the state takes.
    """
    devices, limit = len(topology.devices), FITS * topology.chip.memory
    small = first.batch // devices
    rows, best = max(small // 2, MULTIPLE) if small > MULTIPLE else 2 * small, first if first.step.memory <= limit else None
    known = {small: first.step.memory}
    for _ in range(5):
        try:
            tried = program.compile_step(config, topology, rows * devices, mesh)
            known[rows] = tried.step.memory
            if tried.step.memory <= limit and (best is None or rows > best.batch // devices):
                best = tried
        except program.DoesNotFit as error:
            known[rows] = max(error.needed or 0.0, 1.02 * limit)
        done = predict(known, limit)
        done = done // MULTIPLE * MULTIPLE if done >= MULTIPLE else done
        if done in known or done < 1:
            break
        rows = done
    return best


def predict(known: dict[int, float], limit: float) -> int:
    """Rows at which the line through the two sizes nearest to the limit meets it; one below a size that was too much."""
    (r0, m0), (r1, m1) = sorted(sorted(known.items(), key=lambda item: abs(item[1] - limit))[:2])
    slope = max((m1 - m0) / (r1 - r0), 1.0)
    rows = int(r0 + (limit - m0) / slope)
    too_much = [r for r, m in known.items() if m > limit]
    return min([rows, *(r - 1 for r in too_much)])


def weak_scaling(one: roofline.Times, many: roofline.Times) -> tuple[float, float]:
    """Share of one chip's speed that each of many keeps at the same rows a chip -> (nothing overlapped, all overlapped).

    One chip sends nothing: its time is the greater of compute and memory.
    """
    alone = max(one.compute, one.memory)
    return alone / many.exposed, alone / many.overlapped
