"""What a train step would cost on accelerators that are not there.

    python -m medvlp_jax.plan --config=configs/mlip.py --topology=v5p:8x8x8 --config.dtype=bfloat16 [--batch=8192]
    python -m medvlp_jax.plan --config=configs/medklip.py --topology=h100:64 --mesh=data=64 --mesh=data=8,fsdp=8
    python -m medvlp_jax.plan --config=configs/medklip.py --topology=v5e:4x4 --topology=h100:8 --rows=64 --examples=213000

Compiles the step that `train` would run, for a TPU slice (needs the extra "tpu") or a cluster of H100 (extra "cuda"; no
accelerator in either case), and prints memory, operations, collectives, the roofline time and what bounds it, the largest
batch that fits, a comparison of meshes, and the predicted efficiency at --scale_to chips.
"""

import json
import math
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the machine's own accelerators have no part in this
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nor has a TPU's lock: plans run side by side
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # nor a cloud's metadata server

from absl import app, flags, logging  # noqa: E402

from medvlp_jax import cli, errors, sharding  # noqa: E402
from medvlp_jax.plan import chips, program, report, roofline, search, topology  # noqa: E402

FLAGS = flags.FLAGS


def mesh_of(text: str) -> dict[str, int]:
    """ "data=8,fsdp=-1" -> {"data": 8, "fsdp": -1}.

    Raises:
      ValueError: not of that form.
    """
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {axis: 1 for axis in sharding.AXES} | {axis: int(size) for axis, size in pairs}
    except ValueError as error:
        raise ValueError(
            f"--mesh={text!r}: expected AXIS=SIZE,..., such as data=8,fsdp=-1 (axes: {', '.join(sharding.AXES)})"
        ) from error


def with_mesh(config, mesh: dict[str, int]):
    """The config with the sharding rules that the mesh is for."""
    config = config.copy_and_resolve_references()
    if mesh.get("fsdp", 1) != 1:
        config.sharding = "fsdp"
    return config


def larger(name: str, chips_wanted: int) -> str:
    """A topology of the same chip with that many chips: a longer torus, several slices, or more nodes.

    Raises:
      ValueError: none of that size.
    """
    kind, sizes, slices = topology.parse(name)
    chip = chips.CHIPS[kind]
    have = math.prod(sizes) * slices
    if chips_wanted % have:
        raise ValueError(f"--scale_to={chips_wanted} is no multiple of the {have} chips of {name}")
    factor = chips_wanted // have
    if not chip.torus:
        return f"{kind}:{chips_wanted}"
    if chip.torus == 3:  # cubes are put together freely; the shortest side is doubled
        sizes = sorted(sizes)
        while factor > 1 and factor % 2 == 0:
            sizes, factor = sorted([2 * sizes[0], *sizes[1:]]), factor // 2
        return f"{kind}:{'x'.join(map(str, sizes))}" + (f"*{slices * factor}" if slices * factor > 1 else "")
    sizes = list(sizes)
    for d in range(chip.torus):  # up to a whole pod, 16 x 16; then more slices
        while sizes[d] < chip.ring and factor % 2 == 0:
            sizes[d], factor = 2 * sizes[d], factor // 2
    return f"{kind}:{'x'.join(map(str, sizes))}" + (f"*{slices * factor}" if slices * factor > 1 else "")


def plan(config, name: str, rows: int, meshes: list[str], options) -> dict:
    """Prints the plan of one topology -> the same as a record.

    Args:
      rows: of a device. options: the flags largest, scale_to, examples, efficiency, price and full.
    """
    where = topology.devices(name)
    n = len(where.devices)
    batch = rows * n
    wanted = [mesh_of(text) for text in meshes] or [{"data": -1, "fsdp": 1}]
    programs = []
    for mesh in wanted:
        try:
            programs.append(program.compile_step(with_mesh(config, mesh), where, batch, mesh, options.full))
        except program.DoesNotFit as error:
            print(
                f"mesh {mesh}: a batch of {batch} {error}, a {where.chip.platform.upper()} has {report.size(where.chip.memory)}"
            )
            continue
        print(report.describe(programs[-1], where), flush=True)
    if not programs:
        raise ValueError(
            f"no mesh holds a batch of {batch}; give a smaller --batch or --rows, an fsdp axis, --config.model.remat=True "
            "or --config.model.microbatches"
        )
    if len(programs) > 1:
        print("\n" + report.compare(programs, where))
    first = programs[0]
    mine = with_mesh(config, first.mesh)
    record = report.record(first, where)
    if options.largest:
        best = search.largest(mine, where, first.mesh, first)
        record["largest"] = best.batch if best else 0
        print(
            f"largest batch that fits: {best.batch if best else 'none'}"
            + (f" ({best.batch // n} a device, {report.size(best.step.memory)})" if best else ""),
            flush=True,
        )
    if options.scale_to:
        far = larger(name, options.scale_to)
        counted = program.operations(mine, where, rows * options.scale_to, first.mesh, options.scale_to)
        more = roofline.larger(first.step, topology.imagined(far), counted, batch)
        record |= report.scaled(first.step, more, far, where.chip)
        print(report.scaling(record, options.scale_to))
    steps = config.train.steps or (config.train.epochs * (options.examples // batch) if options.examples else 0)
    if steps:
        record |= report.cost(first, where, steps, options.price, options.efficiency)
        print(report.price(record))
    return record


@errors.opening()
def main(argv):
    """Entry of `python -m medvlp_jax.plan`."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    logging.set_verbosity(logging.WARNING)
    if not FLAGS.topology:
        raise ValueError(f"give --topology, such as v5p:8x8x8 or h100:64; chips: {', '.join(chips.CHIPS)}")
    for name in FLAGS.topology:
        topology.parse(name)  # a mistake in the last one is told before the first is compiled
    records = []
    for name in FLAGS.topology:
        n = topology.number(name)
        if FLAGS.batch % n:
            raise ValueError(f"a batch of {FLAGS.batch} does not divide over {n} devices")
        records.append(plan(FLAGS.config, name, FLAGS.batch // n or FLAGS.rows, FLAGS.mesh, FLAGS))
    if len(records) > 1:
        print("\n" + report.table(records))
    if FLAGS.json:
        Path(FLAGS.json).write_text(json.dumps(records, indent=1))


def define_flags(flag_values=FLAGS) -> None:
    """Flags beside --config."""
    flags.DEFINE_multi_string(
        "topology",
        [],
        "v5e:4x4, v5p:8x8x8, v6e:16x16, v6e:16x16*4 (slices), h100:64, ...; several end in a table.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer("batch", 0, "Global batch; default --rows for each device.", flag_values=flag_values)
    flags.DEFINE_integer("rows", 32, "Rows of the batch on a device, where no --batch is given.", flag_values=flag_values)
    flags.DEFINE_multi_string(
        "mesh", [], "Mesh such as data=8,fsdp=8 (several are compared); default all data.", flag_values=flag_values
    )
    flags.DEFINE_bool(
        "largest", True, "Look for the largest batch that fits (one to four more compilations).", flag_values=flag_values
    )
    flags.DEFINE_integer("scale_to", 1024, "Chips to predict weak scaling for; 0 = not.", flag_values=flag_values)
    flags.DEFINE_bool(
        "full",
        False,
        "Compile as a run would, with the search for the fastest tilings (TPU; tens of minutes of CPU for a real model).",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "examples", 0, "Training examples, for the cost of train.epochs; or give train.steps.", flag_values=flag_values
    )
    flags.DEFINE_float("price", 0.0, "Price of a chip-hour, for the cost of the run.", flag_values=flag_values)
    flags.DEFINE_float(
        "efficiency", 0.5, "Share of the roofline that the cost supposes to be reached.", flag_values=flag_values
    )
    flags.DEFINE_string("json", "", "File for the plans as records.", flag_values=flag_values)


if __name__ == "__main__":
    define_flags()
    cli.run(main)
