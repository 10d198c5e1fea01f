"""Replaying programs: orders by hand, limits on random ones, and what a program's text says."""

import numpy as np
import pytest

from medvlp_jax.plan import hlo, timeline
from medvlp_jax.plan.timeline import Task


def program(*needs):
    return [Task(tuple(n), 0.0, ()) for n in needs]


@pytest.mark.parametrize(
    "needs, work, sending, want",
    [
        ([(), (0,), (1,)], [1, 1, 1], [0, 5, 0], 8),  # the last waits for what is sent
        ([(), (), ()], [1, 1, 1], [5, 0, 0], 6),  # nothing waits: two of work pass while it is sent
        ([(), (0,), ()], [1, 1, 3], [2, 0, 0], 5),  # the third goes before the second, which waits
        ([(), (), ()], [1, 1, 1], [2, 2, 0], 5),  # one thing is sent at a time
        ([(), (), (0, 1)], [0, 0, 1], [2, 3, 0], 6),
        ([], [], [], 0),
    ],
)
def test_times_by_hand(needs, work, sending, want):
    assert timeline.seconds(program(*needs), work, sending) == want


def test_never_below_either_sum_nor_above_both():
    rng = np.random.default_rng(0)
    for _ in range(30):
        needs = [tuple(rng.choice(n, min(n, rng.integers(0, 3)), replace=False).tolist()) if n else () for n in range(40)]
        work = rng.exponential(size=40) * (rng.random(40) < 0.7)
        sending = rng.exponential(size=40) * (rng.random(40) < 0.3)
        got = timeline.seconds(program(*needs), list(work), list(sending))
        assert max(work.sum(), sending.sum()) - 1e-9 <= got <= work.sum() + sending.sum() + 1e-9


TEXT = """HloModule m, is_scheduled=true

%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%p), index=1
  %inner = f32[4]{0} all-reduce(%x), replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %t = (s32[], f32[4]{0}) tuple(%i, %inner)
}

%condition (p: (s32[], f32[4])) -> pred[] {
  %p = (s32[], f32[4]{0}) parameter(0)
  ROOT %less = pred[] compare(%p, %p), direction=LT
}

ENTRY %main (p: f32[4], q: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  %start = f32[4]{0} all-reduce-start(%p), replica_groups=[1,8]<=[8], to_apply=%add
  %other = f32[4]{0} negate(%p), control-predecessors={%start}
  %done = f32[4]{0} all-reduce-done(%start)
  %loop = (s32[], f32[4]{0}) while(%done), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %out = f32[4]{0} add(%done, %other)
}
"""


def test_tasks_of_a_program():
    module = hlo.parse(TEXT)
    collectives = hlo.collectives(module, 8)
    assert [(c.name, c.times) for c in collectives] == [("inner", 3), ("start", 1)]
    found = timeline.tasks(module, collectives)
    assert [t.needs for t in found] == [(), (0,), (0, 1), (1,), (3,), (2, 3)]
    assert [t.sends for t in found] == [(), (1,), (), (), (0,), ()]
    turn = 2 * 16 + 1 + 2 * (4 + 16)  # the sum, and the condition's two operands
    assert [t.traffic for t in found] == [0, 32, 32, 0, 3 * turn, 48] and sum(t.traffic for t in found) == hlo.traffic(module)
