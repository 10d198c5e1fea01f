"""What sending can overlap with: the compiled program replayed with one queue of work and one of sending.

Each instruction starts as soon as what it needs is there and its queue is free; of several that could start, the one that
stands first in the program does. So a gradient's sum runs beside the rest of the backward pass if the compiler left it apart
from the others, and statistics of a batch, which the next layer waits for, run beside nothing. It is the overlap that the
program's dependencies leave open: a run whose order of instructions is worse has less.
"""

import heapq
import re
from typing import NamedTuple

from medvlp_jax.plan import hlo

_BEFORE = re.compile(r"control-predecessors=\{([^}]*)\}")


class Task(NamedTuple):
    """An instruction of the entry computation, with all that it calls.

    needs: tasks that come before it; traffic: bytes through main memory; sends: positions in the list of collectives.
    """

    needs: tuple[int, ...]
    traffic: float
    sends: tuple[int, ...]


def tasks(module: hlo.Module, collectives: list[hlo.Collective]) -> list[Task]:
    """The program as tasks, in its order; their traffic adds up to `hlo.traffic`. collectives: of the same module."""
    number = {c.name: i for i, c in enumerate(collectives)}
    places = {i.name: n for n, i in enumerate(module.computations[module.entry])}
    types = {i.name: i.type for i in module.computations[module.entry]}
    found = []
    for i in module.computations[module.entry]:
        before = [name.strip().lstrip("%") for names in _BEFORE.findall(i.rest) for name in names.split(",")]
        needs = tuple(sorted({places[name] for name in (*i.operands, *before) if name in places}))
        called = [hlo.part(module, i, name) for name in hlo.called(i)]
        inside = {c.name for p in called for name in p.times for c in p.computations.get(name, ())}
        sends = tuple(number[name] for name in (i.name, *sorted(inside)) if name in number)
        traffic = sum(map(hlo.traffic, called)) if i.op in hlo.CONTROL else hlo.moved(i, types, module.computations)
        found.append(Task(needs, traffic, sends))
    return found


def seconds(program: list[Task], work: list[float], sending: list[float]) -> float:
    """How long the program takes: work and sending are seconds of each task; a task that has both sends when its work is done.

    Never below the sum of either, never above the sum of both.
    """
    users, waits = [[] for _ in program], [len(t.needs) for t in program]
    for n, task in enumerate(program):
        for before in task.needs:
            users[before].append(n)
    ready, at = [], [0.0] * len(program)  # tasks that nothing holds up; when that is so
    coming = [(0.0, n) for n, w in enumerate(waits) if not w]
    now = sent = end = 0.0
    while ready or coming:
        if not ready:
            now = max(now, coming[0][0])
        while coming and coming[0][0] <= now:
            heapq.heappush(ready, heapq.heappop(coming)[1])
        n = heapq.heappop(ready)
        now = done = now + work[n]
        if sending[n]:
            sent = done = max(sent, now) + sending[n]
        end = max(end, done)
        for user in users[n]:
            at[user], waits[user] = max(at[user], done), waits[user] - 1
            if not waits[user]:
                heapq.heappush(coming, (at[user], user))
    return end
