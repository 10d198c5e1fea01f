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
        f"  step at least      {1e3 * t.overlapped:.2f} ms, bound by {t.bound}; {1e3 * t.exposed:.2f} ms if nothing is sent "
        f"while computing; at most {program.batch / t.overlapped:,.0f} images/s",
    ]
    return "\n".join(lines)


def compare(programs: list[Program], topology: Topology) -> str:
    """Markdown table of mesh shapes."""
    lines = [
        "| mesh | memory a device | sent a device | step at least | bound by | without overlap |",
        "|---|---|---|---|---|---|",
    ]
    for p in programs:
        t = roofline.times(p.step, topology.chip)
        sent = sum(c.times * c.sent for c in p.step.collectives)
        lines.append(
            f"| {mesh_name(p.mesh)} | {size(p.step.memory)} | {size(sent)} | {1e3 * t.overlapped:.2f} ms | {t.bound} "
            f"| {1e3 * t.exposed:.2f} ms |"
        )
    return "\n".join(lines)


def cost(program: Program, topology: Topology, steps: int, price: float, efficiency: float) -> str:
    """What a run costs at a price per chip-hour that the user gives."""
    hours = steps * roofline.times(program.step, topology.chip).exposed / efficiency / 3600
    chips = program.step.devices
    return (
        f"{steps} steps at {efficiency:.0%} of the roofline: {hours:.2f} h on {chips} chips = {hours * chips:.1f} chip-hours"
        + (f" = {hours * chips * price:,.0f} at {price:g} a chip-hour" if price else "")
    )
