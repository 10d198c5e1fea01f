"""Roofline arithmetic by hand, topologies by name, and what a plan says where it cannot be made."""

import numpy as np
import pytest
from ml_collections import ConfigDict

from medvlp_jax.plan import __main__ as command
from medvlp_jax.plan import chips, hlo, program, report, roofline, search, timeline, topology

TPU = chips.Chip("tpu", 100.0, 10.0, {"bfloat16": 1000.0, "float32": 500.0}, 60.0, 2.0, 2, 4, 0, 0.0, 0.0)
GPU = chips.Chip("gpu", 100.0, 10.0, {"bfloat16": 1000.0}, 60.0, 5.0, 0, 0, 4, 0.0, 0.0)


def reduction(size, groups):
    return hlo.Collective("all-reduce", size, np.array(groups), 1.0, ((1,),), "")


def test_times_bound_and_intensity():
    sums = [reduction(60.0, [[0, 1]])]
    step = roofline.Step({"bfloat16": 4000.0, "float32": 500.0}, 30.0, 50.0, sums, np.array([[0], [0]]), [])
    t = roofline.times(step, GPU._replace(flops=TPU.flops))
    assert t == (4000 / 1000 + 500 / 500, 30 / 10, 2 * 60 * (1 / 2) / 60)
    assert t.bound == "compute" and t.overlapped == 5.0 and t.exposed == 6.0
    assert roofline.intensity(step) == 150
    assert roofline.times(step._replace(traffic=80.0), GPU._replace(flops=TPU.flops)).bound == "memory"


def test_a_torus_uses_the_links_of_the_axes_that_a_group_spans():
    places = np.array([[x, y, 0] for x in range(4) for y in range(4)])  # 4 x 4, rings
    whole = reduction(160.0, [list(range(16))])
    assert roofline.seconds(whole, TPU, places) == pytest.approx(2 * 160 * 15 / 16 / 60)
    row = reduction(160.0, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]])
    assert roofline.seconds(row, TPU, places) == pytest.approx(2 * 160 * 3 / 4 / 30)
    line = TPU._replace(ring=16)  # 4 chips in a line are no ring
    assert roofline.seconds(row, line, places) == pytest.approx(2 * 160 * 3 / 4 / 15)
    slow = TPU._replace(hop=1.0)
    assert roofline.seconds(whole, slow, places) == pytest.approx(2 * 160 * 15 / 16 / 60 + 4)


def test_between_nodes_and_slices_the_network_ports_of_the_members_are_shared():
    places = np.repeat(np.arange(2), 4)[:, None]  # 2 nodes of 4
    inside = reduction(60.0, [[0, 1, 2, 3], [4, 5, 6, 7]])
    assert roofline.seconds(inside, GPU, places) == pytest.approx(2 * 60 * 3 / 4 / 60)
    across = reduction(60.0, [list(range(8))])
    assert roofline.seconds(across, GPU, places) == pytest.approx(2 * 60 * 7 / 8 / (4 * 5))
    pairs = reduction(60.0, [[0, 4], [1, 5], [2, 6], [3, 7]])
    assert roofline.seconds(pairs, GPU, places) == pytest.approx(60 / 5)
    slices = np.array([[x, y, s] for s in range(2) for x in range(2) for y in range(2)])
    assert roofline.seconds(across, TPU._replace(ring=2), slices) == pytest.approx(2 * 60 * 7 / 8 / (4 * 2))


def test_the_account_sums_by_kind_and_axes():
    places = np.zeros((4, 1))
    step = roofline.Step(
        {},
        0.0,
        0.0,
        [reduction(8.0, [[0, 1], [2, 3]]), reduction(4.0, [[0, 1], [2, 3]]), reduction(4.0, [[0, 2], [1, 3]])],
        places,
        [],
    )
    assert roofline.account(step, {"data": 2, "fsdp": 2}) == {
        ("all-reduce", "fsdp"): (2, 12.0),
        ("all-reduce", "data"): (1, 4.0),
    }


def test_weak_scaling_is_the_share_of_one_chips_speed():
    """4 s of work; 1 s of sending, which all but the last quarter of the work can overlap with, half a second at the end."""
    sums = [reduction(30.0, [[0, 1]]), reduction(15.0, [[0, 1]])]
    tasks = [timeline.Task((), 10.0, (0,)), timeline.Task((), 20.0, ()), timeline.Task((0, 1), 10.0, (1,))]
    step = roofline.Step({"bfloat16": 10.0}, 40.0, 0.0, sums, np.array([[0], [0]]), tasks)
    chip = GPU._replace(fabric=30.0)
    assert roofline.times(step, chip) == (0.01, 4.0, 1.5) and roofline.scheduled(step, chip) == 4.5
    assert roofline.weak_scaling(roofline.Times(4.0, 2.0, 9.0), step, chip) == (4 / 5.5, 4 / 4.5, 1.0)


def test_more_devices_by_extrapolation():
    """4 devices to 16: the sum over all of a gradient keeps its bytes, gathered rows grow; groups within a node stay."""
    gradient = reduction(80.0, [[0, 1, 2, 3]])
    rows = hlo.Collective("all-gather", 64.0, np.array([[0, 1, 2, 3]]), 1.0, ((8, 2),), "")
    within, across = reduction(8.0, [[0, 1], [2, 3]]), reduction(8.0, [[0, 2], [1, 3]])
    step = roofline.Step({"bfloat16": 1.0}, 5.0, 6.0, [gradient, rows, within, across], topology.imagined("h100:4"), [])
    more = roofline.larger(step, topology.imagined("h100:16"), {"bfloat16": 2.0}, 8)
    assert [(c.bytes, c.members) for c in more.collectives] == [(80, 16), (256, 16), (8, 2), (8, 8)]
    assert more.collectives[3].groups.tolist() == [[0, 2, 4, 6, 8, 10, 12, 14]]
    assert more.flops == {"bfloat16": 2.0} and more.traffic == 5.0 and more.devices == 16


def test_imagined_places():
    assert topology.imagined("h100:16").tolist() == [[0]] * 8 + [[1]] * 8
    found = topology.imagined("v5e:2x3*2")
    assert found.shape == (12, 3) and found.max(0).tolist() == [1, 2, 1] and len(np.unique(found, axis=0)) == 12


def test_the_largest_batch_is_on_the_line_through_two_sizes():
    assert search.predict({8: 18.0, 16: 26.0}, 90.0) == 80  # 10 + a row each
    assert search.predict({8: 18.0, 16: 26.0, 64: 95.0}, 90.0) < 64


@pytest.mark.parametrize(
    "name, want",
    [("v5p:8x8x8", ("v5p", (8, 8, 8), 1)), ("v6e:16x16*4", ("v6e", (16, 16), 4)), ("h100:64", ("h100", (64,), 1))],
)
def test_topologies_by_name(name, want):
    assert topology.parse(name) == want


@pytest.mark.parametrize(
    "name, message",
    [
        ("v9:4x4", "unknown chip 'v9' in topology 'v9:4x4'; known: v5e, v5p, v6e, h100"),
        ("v5p:8x8", "topology 'v5p:8x8' does not fit v5p: expected v5p:8x8x8"),
        ("v5e:", "does not fit v5e"),
        ("h100:12", "GPUs come in nodes of 8; h100:16 would fit"),
    ],
)
def test_topologies_that_do_not_fit(name, message):
    with pytest.raises(ValueError, match=message):
        topology.parse(name)


@pytest.mark.parametrize("name, extra", [("v5e:4x4", "tpu"), ("h100:8", "cuda")])
def test_a_missing_extra_is_named(name, extra, monkeypatch):
    monkeypatch.setattr(topology, "_there", lambda module: False)
    with pytest.raises(ImportError, match=rf"not installed: pip install 'medvlp_jax\[{extra}\]'"):
        topology.devices(name)


@pytest.mark.parametrize(
    "name, chips_wanted, want",
    [
        ("v5p:8x8x8", 1024, "v5p:8x8x16"),
        ("v5e:4x4", 1024, "v5e:16x16*4"),
        ("v6e:16x16", 1024, "v6e:16x16*4"),
        ("h100:8", 1024, "h100:1024"),
    ],
)
def test_larger_topologies(name, chips_wanted, want):
    assert command.larger(name, chips_wanted) == want


def test_mesh_of_the_command_line():
    assert command.mesh_of("data=-1,fsdp=8") == {"data": -1, "fsdp": 8, "tensor": 1}
    with pytest.raises(ValueError, match="expected AXIS=SIZE"):
        command.mesh_of("data")


def planned(memory, batch, state=30.0):
    sums = [reduction(60.0, [[0, 1]]), reduction(4.0, [[0, 1]])]
    tasks = [timeline.Task((), 1e9, (0, 1)), timeline.Task((), 1e9, ())]
    step = roofline.Step({"bfloat16": 4e12}, 2e9, memory, sums, np.zeros((2, 1)), tasks)
    return program.Program(step, {"data": 2, "fsdp": 1}, batch, [(2, 3), (4,)], 1.0, state)


def test_the_search_compiles_where_the_line_from_the_state_meets_the_limit(monkeypatch):
    """40 bytes of state and gradients and one a row, of 100: 0.92 x 100 - 40 = 52 rows, 48 by eights, then no more."""
    tried = []

    def compile_step(config, where, batch, mesh):
        tried.append(batch // 2)
        if batch // 2 > 50:
            raise program.DoesNotFit(200.0)
        return planned(40.0 + batch // 2 * slope, batch)

    monkeypatch.setattr(program, "compile_step", compile_step)
    where, config = topology.Topology("x", [0, 1], GPU), ConfigDict({"model": {"image": {}}})
    slope = 1.0
    assert search.largest(config, where, {}, planned(48.0, 16)).batch == 96 and tried == [48]
    assert search.largest(config, where, {}, planned(41.0, 16)).batch <= 100  # a line that promised too much is mended
    config.model.image.batch_norm_rows = 20  # groups that do not cross devices: 40 is a multiple of 8 and of 20
    assert search.largest(config, where, {}, planned(48.0, 16)).batch == 80
    slope, full = 100.0, planned(150.0, 2)
    assert search.largest(config, where, {}, full) is None


def test_a_table_has_a_line_a_topology_and_costs_go_by_the_steps():
    where = topology.Topology("h100:2", [0, 1], chips.CHIPS["h100"])
    one = planned(5e9, 64)
    r = report.record(one, where) | report.cost(one, where, 3600, 2.0, 0.25)
    assert r["parameters"] == 10 and r["sent_by_kind"] == {"all-reduce": 64.0} and r["intensity"] == 2000
    seconds = roofline.times(one.step, where.chip).exposed
    assert r["hours"] == pytest.approx(seconds / 0.25) and r["cost"] == pytest.approx(2 * 2 * r["hours"])
    assert "at 2 a chip-hour" in report.price(r) and "3600 steps at 25%" in report.price(r)
    lines = report.table([r, r | {"largest": 128}]).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "| h100:2 | 32 | 5 GB | 4.00 | all-reduce 64 B | 2000 | 4.0 ms | compute | 7,915 |" in lines[2]
    assert "| 64 |" in lines[3]


def test_what_the_network_is_used_for_at_more_chips():
    step = planned(5e9, 64).step
    r = report.scaled(step, step, "h100:2", chips.CHIPS["h100"])
    assert set(r["network_by_kind"]) == {"all-reduce"}
    assert sum(r["network_by_kind"].values()) == pytest.approx(r["scaled"]["network"])
    assert "all-reduce" in report.scaling(r, 2) and r["efficiency"][0] < r["efficiency"][1] == 1
