"""What a plan says, as text."""

from medvlp_jax.plan import roofline
from medvlp_jax.plan.program import Program
from medvlp_jax.plan.topology import Topology


def size(n: float) -> str:
    """1.23 GB and the like (powers of ten)."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(n) < 1000 or unit == "TB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.3g} {unit}"
        n /= 1000
    raise AssertionError


def mesh_name(mesh: dict[str, int]) -> str:
    """ "data=64,fsdp=8", without axes of size 1."""
    return ",".join(f"{axis}={n}" for axis, n in mesh.items() if n > 1) or "data=1"


def describe(program: Program, topology: Topology) -> str:
    """The account of one program."""
    step, chip = program.step, topology.chip
    t = roofline.times(step, chip)
    operations = sum(step.flops.values())
    lines = [
        f"{topology.name}, mesh {mesh_name(program.mesh)}, batch {program.batch} ({program.batch // step.devices} a device), "
        f"{program.parameters / 1e6:.1f} M parameters; compiled in {program.seconds:.0f} s",
        f"  memory a device    {size(step.memory)} of {size(chip.memory)}",
        f"  operations         {operations / 1e12:.3f} TFLOP a device: "
        + ", ".join(f"{kind} {n / 1e12:.3f}" for kind, n in sorted(step.flops.items())),
        f"  memory traffic     {size(step.traffic)} a device; {roofline.intensity(step):.0f} operations a byte "
        f"(the chip balances at {chip.flops['bfloat16'] / chip.hbm:.0f})",
        "  collectives        each device sends, a step:",
    ]
    for (kind, axes), (count, sent) in sorted(roofline.account(step, program.mesh).items()):
        lines.append(f"    {kind:<20} {axes:<10} {count:>5.0f} x  {size(sent)}")
    lines += [
        f"  roofline           compute {1e3 * t.compute:.2f} ms, memory {1e3 * t.memory:.2f} ms, "
        f"network {1e3 * t.network:.2f} ms",
        f"  step at least      {1e3 * t.overlapped:.2f} ms, bound by {t.bound}; at most "
        f"{program.batch / t.overlapped:,.0f} images/s",
        f"                     {1e3 * roofline.scheduled(step, chip):.2f} ms if sending overlaps with what does not wait, "
        f"{1e3 * t.exposed:.2f} ms if with nothing",
    ]
    return "\n".join(lines)


def compare(programs: list[Program], topology: Topology) -> str:
    """Markdown table of mesh shapes."""
    lines = [
        "| mesh | memory a device | sent a device | step at least | bound by | some overlap | none |",
        "|---|---|---|---|---|---|---|",
    ]
    for p in programs:
        t = roofline.times(p.step, topology.chip)
        sent = sum(c.times * c.sent for c in p.step.collectives)
        lines.append(
            f"| {mesh_name(p.mesh)} | {size(p.step.memory)} | {size(sent)} | {1e3 * t.overlapped:.2f} ms | {t.bound} "
            f"| {1e3 * roofline.scheduled(p.step, topology.chip):.2f} ms | {1e3 * t.exposed:.2f} ms |"
        )
    return "\n".join(lines)


def record(program: Program, topology: Topology) -> dict:
    """What a plan says, as numbers: bytes, operations and seconds of one device, its collectives by kind."""
    step, times = program.step, roofline.times(program.step, topology.chip)
    kinds = {}
    for (kind, _), (_, sent) in roofline.account(step, program.mesh).items():
        kinds[kind] = kinds.get(kind, 0.0) + sent
    return {
        "topology": topology.name,
        "chips": step.devices,
        "mesh": program.mesh,
        "batch": program.batch,
        "parameters": program.parameters,
        "memory": step.memory,
        "flops": step.flops,
        "traffic": step.traffic,
        "intensity": roofline.intensity(step),
        "sent": sum(kinds.values()),
        "sent_by_kind": kinds,
        "bound": times.bound,
        "seconds_to_compile": program.seconds,
        "seconds": times._asdict(),
        "overlapped": times.overlapped,
        "scheduled": roofline.scheduled(step, topology.chip),
        "exposed": times.exposed,
    }


def scaled(step: roofline.Step, more: roofline.Step, name: str, chip) -> dict:
    """The part of a record about more devices: times, the share of one chip's speed kept, what the network's time goes to."""
    shares = roofline.weak_scaling(roofline.times(step, chip), more, chip)
    kinds = {}
    for c in more.collectives:
        kinds[c.kind] = kinds.get(c.kind, 0.0) + c.times * roofline.seconds(c, chip, more.places)
    after = roofline.times(more, chip)._asdict() | {"scheduled": roofline.scheduled(more, chip)}
    return {"scaled_to": name, "efficiency": [min(s, 1.0) for s in shares], "scaled": after, "network_by_kind": kinds}


def scaling(record: dict, chips: int) -> str:
    """What `scaled` found, as a line."""
    after, (low, middle, high), kinds = record["scaled"], record["efficiency"], record["network_by_kind"]
    most = max(kinds, key=kinds.get) if kinds else ""
    return (
        f"on {record['scaled_to']}: compute {1e3 * after['compute']:.2f} ms, memory {1e3 * after['memory']:.2f} ms, "
        f"network {1e3 * after['network']:.2f} ms"
        + (f" ({most} {1e3 * kinds[most]:.2f})" if most else "")
        + f"; weak scaling from one chip to {chips}: {low:.1%} without any overlap, "
        f"{middle:.1%} with what does not wait, {high:.1%} with full overlap"
    )


def cost(program: Program, topology: Topology, steps: int, price: float, efficiency: float) -> dict:
    """What a run costs at a price per chip-hour that the user gives (0: not known), as part of a record."""
    hours = steps * roofline.times(program.step, topology.chip).exposed / efficiency / 3600
    chip_hours = hours * program.step.devices
    return {
        "steps": steps,
        "share": efficiency,
        "hours": hours,
        "chip_hours": chip_hours,
        "price": price,
        "cost": chip_hours * price,
    }


def price(record: dict) -> str:
    """What `cost` found, as a line."""
    line = (
        f"{record['steps']} steps at {record['share']:.0%} of the roofline: {record['hours']:.2f} h on {record['chips']} chips "
        f"= {record['chip_hours']:.1f} chip-hours"
    )
    return line + (f" = {record['cost']:,.0f} at {record['price']:g} a chip-hour" if record["price"] else "")


def table(records: list[dict]) -> str:
    """Markdown, a line a topology."""
    columns = ["topology", "rows a device", "memory", "TFLOP", "sent", "operations a byte", "step at least", "bound by"]
    columns += ["images/s a chip", "largest rows", "weak scaling", "chip-hours"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for r in records:
        kinds = sorted(r["sent_by_kind"].items(), key=lambda item: -item[1])
        efficiency = r.get("efficiency")
        cells = [
            r["topology"],
            r["batch"] // r["chips"],
            size(r["memory"]),
            f"{sum(r['flops'].values()) / 1e12:.2f}",
            ", ".join(f"{kind} {size(sent)}" for kind, sent in kinds),
            f"{r['intensity']:.0f}",
            f"{1e3 * r['overlapped']:.1f} ms",
            r["bound"],
            f"{r['batch'] / r['overlapped'] / r['chips']:,.0f}",
            r["largest"] // r["chips"] if "largest" in r else "",
            f"{efficiency[1]:.1%} ({efficiency[0]:.1%})" if efficiency else "",
            f"{r['chip_hours']:,.0f}" if "chip_hours" in r else "",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)
