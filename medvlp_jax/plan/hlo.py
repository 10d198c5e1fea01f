"""Reads a compiled program (XLA's HLO text): its collectives with bytes and members, and its memory traffic.

Bodies of loops count as often as they run.
"""

import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

from medvlp_jax.plan.groups import replica_groups

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
BITS = {"pred": 8, "token": 0, "opaque": 0, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}
CONTROL = {"while", "conditional", "call"}  # operations that run whole computations
# Operations that move nothing through memory by themselves.
FREE = CONTROL | {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id"}
FREE |= {"replica-id", "opt-barrier", "add-dependency", "iota"}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_LIBRARY = re.compile(r'custom_call_target="__cu(?:blas|dnn)')
_WORKSPACE = re.compile(r", s8\[\d*\](?:\{[^}]*\})?$")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Instruction(NamedTuple):
    """One line of a computation: name, type as text, operation, names of its operands, and the attributes as text."""

    name: str
    type: str
    op: str
    operands: tuple[str, ...]
    rest: str
    root: bool


class Module(NamedTuple):
    """computations {name: instructions}; entry: name; times {name of a computation: how often it runs in one execution}."""

    computations: dict[str, list[Instruction]]
    entry: str
    times: dict[str, float]


class Collective(NamedTuple):
    """One collective of the program.

    kind: of `KINDS`. bytes: of the largest array concerned (what is gathered, reduced or sent), on one device, once.
    groups: int array (groups, members) of device positions. times: executions in one step. shapes: of the arrays. source:
    what it was compiled from (the op_name of its metadata). name: of the instruction.
    """

    kind: str
    bytes: float
    groups: np.ndarray
    times: float
    shapes: tuple[tuple[int, ...], ...]
    source: str
    name: str = ""

    @property
    def members(self) -> int:
        return self.groups.shape[1]

    @property
    def sent(self) -> float:
        """Bytes each device sends in one execution, by the best known algorithm."""
        n = self.members
        share = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0, "collective-broadcast": 1.0}
        return self.bytes * share.get(self.kind, (n - 1) / n)

    def axes(self, mesh_shape: dict[str, int]) -> str:
        """The mesh axes it goes along: "data", "fsdp" or "data+fsdp"."""
        places = np.stack(np.unravel_index(self.groups, tuple(mesh_shape.values())), -1)  # (groups, members, axes)
        moved = (places != places[:, :1]).any((0, 1))
        return "+".join(name for name, along in zip(mesh_shape, moved, strict=True) if along) or "none"


def arrays(text: str) -> list[tuple[str, tuple[int, ...], str]]:
    """Element type, shape and layout of every array in a type; a tuple has several."""
    return [
        (t, tuple(int(d.lstrip("<=")) for d in dims.split(",") if d), layout or "") for t, dims, layout in _ARRAY.findall(text)
    ]


def size(text: str, main_memory_only: bool = False) -> float:
    """Bytes of all arrays of a type; `main_memory_only` leaves out those that live in the chip's scratch memory."""
    total = 0.0
    for kind, shape, layout in arrays(text):
        if main_memory_only and "S(" in layout and "S(0)" not in layout:
            continue
        bits = BITS.get(kind) if kind in BITS else int(re.search(r"\d+", kind)[0])
        total += float(np.prod(shape, dtype=float)) * bits / 8
    return total


def parse(text: str) -> Module:
    """The program's computations, and how often each runs."""
    computations, entry, lines = {}, "", None
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = computations.setdefault(match[2], [])
            entry = match[2] if match[1] else entry
        elif line.startswith("}"):
            lines = None
        elif lines is not None and (match := _INSTRUCTION.match(line)):
            kind, rest = _type_and_rest(line[match.end() :])
            op, _, rest = rest.partition("(")
            inside, rest = _closed(rest)
            operands = tuple(re.findall(r"%([\w.\-]+)", inside)) or tuple(
                part.strip().split()[-1] for part in inside.split(",") if part.strip()
            )
            lines.append(Instruction(match[2], kind, op.strip(), operands, inside + rest, bool(match[1])))
    return Module(computations, entry, _times(computations, entry))


def _type_and_rest(text: str) -> tuple[str, str]:
    """ "(f32[2], s32[]) op(...)" -> type, what follows."""
    if text.startswith("("):
        inside, rest = _closed(text[1:])
        return inside, rest.lstrip()
    kind, _, rest = text.partition(" ")
    return kind, rest


def _closed(text: str) -> tuple[str, str]:
    """Text up to the parenthesis that closes one opened before it, and what follows."""
    depth = 1
    for match in re.finditer(r"[()]", text):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return text[: match.start()], text[match.end() :]
    return text, ""


def called(instruction: Instruction) -> list[str]:
    """Names of the computations that an instruction runs."""
    found = [name for _, name in _CALLED.findall(instruction.rest)]
    for names in _BRANCHES.findall(instruction.rest):
        found += [name.strip().lstrip("%") for name in names.split(",")]
    return found


def _times(computations, entry, count: float = 1.0) -> dict[str, float]:
    times = defaultdict(float)

    def visit(name, count):
        times[name] += count
        for instruction in computations.get(name, ()):
            trips = _trips(instruction, computations)
            for callee in called(instruction):
                visit(callee, count * trips)

    visit(entry, count)
    return dict(times)


def part(module: Module, caller: Instruction, name: str) -> Module:
    """One computation that an instruction runs, as often as one execution of the instruction runs it."""
    return Module(module.computations, name, _times(module.computations, name, _trips(caller, module.computations)))


def _trips(loop: Instruction, computations) -> float:
    """How often a while loop's body runs: as the compiler says, else the bound its condition compares with; 1 if it is none."""
    if loop.op != "while":
        return 1.0
    if known := re.search(r'known_trip_count"?:?\{"?n"?:"?(\d+)', loop.rest):
        return float(known[1])
    condition = dict(_CALLED.findall(loop.rest)).get("condition", "")
    constants = [i.operands[0] for i in computations.get(condition, ()) if i.op == "constant" and i.operands]
    bounds = [int(text) for text in constants if text.isdigit()]
    return float(max(bounds, default=1))


def collectives(module: Module, devices: int) -> list[Collective]:
    """Every collective of the program that has more than one member a group, on a mesh of `devices`."""
    found = []
    for name, instructions in module.computations.items():
        times = module.times.get(name, 0.0)
        for i in instructions:
            kind = i.op.removesuffix("-start")
            if kind not in KINDS or not times:
                continue
            groups = replica_groups(i.rest, devices)
            if groups.shape[1] < 2:
                continue
            result = i.type
            if i.op in ("all-gather-start", "reduce-scatter-start", "collective-permute-start"):  # (in, out, ...)
                result = ", ".join(f"{t}[{','.join(map(str, s))}]" for t, s, _ in _results(i))
            shapes = tuple(shape for _, shape, _ in arrays(result))
            total = size(result) * (groups.shape[1] if kind == "reduce-scatter" else 1)
            if kind == "all-reduce" and (sliced := _scattered(i, instructions)):
                kind, shapes = "reduce-scatter", sliced
            source = re.search(r'op_name="([^"]*)"', i.rest)
            found.append(Collective(kind, total, groups, times, shapes, source[1] if source else "", i.name))
    return found


def _scattered(reduce: Instruction, computation: list[Instruction]) -> tuple | None:
    """Shapes of what is kept if the computation is a sum of which each device keeps a part: a reduce-scatter as TPUs' compiler
    writes it, a fusion of all-reduce and dynamic-slice."""
    root = next((i for i in computation if i.root), reduce)
    if root.op == "dynamic-slice" and root.operands[0] == reduce.name:
        return tuple(shape for _, shape, _ in arrays(root.type))
    return None


def _results(start: Instruction) -> list:
    """Arrays that come out of an asynchronous collective, whose type lists those that go in first."""
    everything = [a for a in arrays(start.type) if not (a[0] in ("u32", "s32") and not a[1])]
    half = len(everything) // 2
    return everything[half:] if half else everything


def traffic(module: Module) -> float:
    """Bytes read from and written to main memory in one execution: what every instruction outside of fusions takes and gives.

    A fusion that only gathers or slices an operand reads as much as it takes out; one that updates a slice in place writes
    that slice.
    """
    inside = {
        callee
        for instructions in module.computations.values()
        for i in instructions
        if i.op not in CONTROL
        for callee in called(i)
    }
    total = 0.0
    for name, instructions in module.computations.items():
        times = module.times.get(name, 0.0)
        if not times or name in inside:
            continue
        types = {i.name: i.type for i in instructions}
        total += times * sum(moved(i, types, module.computations) for i in instructions)
    return total


def moved(i: Instruction, types: dict[str, str], computations) -> float:
    """Bytes of one execution of an instruction, without what it runs as `CONTROL`. types: {name: type} of its computation."""
    if i.op in FREE:
        return 0.0
    # The workspace that a library's product is offered comes out of it, in the type; it is not traffic.
    kind = _WORKSPACE.sub("", i.type) if i.op == "custom-call" and _LIBRARY.search(i.rest) else i.type
    out, operands = size(kind, True), [types.get(name, "") for name in i.operands]
    if i.op.endswith("-done"):
        return 0.0
    if i.op in ("dynamic-slice", "gather", "slice"):
        return 2 * out
    if i.op in ("dynamic-update-slice", "scatter"):
        return 2 * size(operands[-1 if i.op == "scatter" else 1], True)
    if i.op != "fusion":
        return out + sum(size(t, True) for t in operands)
    body = computations.get(dict(_CALLED.findall(i.rest)).get("calls", ""), [])
    parameters = {b.name: int(b.operands[0]) for b in body if b.op == "parameter"}
    total = out
    for name, number in parameters.items():
        users = [b for b in body if name in b.operands]
        if number >= len(operands):
            continue
        whole = size(operands[number], True)
        if users and all(u.op in ("dynamic-slice", "gather") and u.operands[0] == name for u in users):
            whole = min(whole, sum(size(u.type) for u in users))
        elif users and all(u.op == "dynamic-update-slice" and u.operands[0] == name for u in users):
            inner = {b.name: b.type for b in body}
            slices = sum(size(inner[u.operands[1]]) for u in users)
            total -= max(whole - slices, 0.0) if size(i.type, True) >= whole else 0.0
            whole = 0.0
        total += whole
    return total
