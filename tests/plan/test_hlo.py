"""The parser on programs compiled for 8 CPU devices, with bytes and operations counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from medvlp_jax.plan import flops, hlo
from medvlp_jax.plan.groups import replica_groups

MESH = {"data": 4, "fsdp": 2}


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh(tuple(MESH.values()), tuple(MESH), axis_types=(AxisType.Auto,) * 2)


def compiled(fn, mesh, *args):
    """args: (shape, spec) pairs of float32 arrays."""
    abstract = [jax.ShapeDtypeStruct(s, jnp.float32, sharding=NamedSharding(mesh, spec)) for s, spec in args]
    return hlo.parse(jax.jit(fn).lower(*abstract).compile().as_text())


def per_shard(fn, mesh, out):
    return jax.shard_map(fn, mesh=mesh, in_specs=P(("data", "fsdp")), out_specs=out, check_vma=False)


CASES = [
    # 64 x 4 floats in all, 8 x 4 = 128 bytes a device
    (lambda x: jax.lax.all_gather(x, ("data", "fsdp"), tiled=True), P(), "all-gather", 1024, 8, "data+fsdp", 1024 * 7 / 8),
    (lambda x: jax.lax.psum(x, "data"), P("fsdp"), "all-reduce", 128, 4, "data", 2 * 128 * 3 / 4),
    (lambda x: jax.lax.psum(x, "fsdp"), P("data"), "all-reduce", 128, 2, "fsdp", 128),
    (lambda x: jax.lax.psum_scatter(x, "data", tiled=True), P(("data", "fsdp")), "reduce-scatter", 128, 4, "data", 96),
    (lambda x: jax.lax.all_to_all(x, "data", 0, 0, tiled=True), P(("data", "fsdp")), "all-to-all", 128, 4, "data", 96),
    (lambda x: jax.lax.ppermute(x, "fsdp", [(0, 1), (1, 0)]), P(("data", "fsdp")), "collective-permute", 128, None, "", 128),
]


@pytest.mark.parametrize("fn, out, kind, size, members, axes, sent", CASES, ids=[c[2] + c[5] for c in CASES])
def test_kind_bytes_and_axes_of_each_collective(mesh, fn, out, kind, size, members, axes, sent):
    module = compiled(per_shard(fn, mesh, out), mesh, ((64, 4), P(("data", "fsdp"))))
    found = hlo.collectives(module, 8)
    assert [(c.kind, c.bytes, c.times) for c in found] == [(kind, size, 1)]
    assert found[0].sent == pytest.approx(sent)
    if members:
        assert found[0].members == members and found[0].axes(MESH) == axes


def test_a_collective_in_a_loop_counts_as_often_as_it_runs(mesh):
    def fn(x):
        def body(carry, _):
            return jax.lax.psum(carry, "data") * 0.1, None

        return jax.lax.scan(body, x, None, length=13)[0]

    module = compiled(per_shard(fn, mesh, P(("data", "fsdp"))), mesh, ((64, 4), P(("data", "fsdp"))))
    found = hlo.collectives(module, 8)
    assert sum(c.times for c in found) == 13 and {c.kind for c in found} == {"all-reduce"}


def test_traffic_counts_what_a_loop_moves_each_time_round(mesh):
    """Each turn reads and writes 8 x 1000 floats, give or take the counter."""

    def fn(x):
        return jax.lax.scan(lambda c, _: (jnp.sin(c), None), x, None, length=50)[0]

    one = jax.jit(fn).lower(jax.ShapeDtypeStruct((8, 1000), jnp.float32)).compile()
    turn = 2 * 8 * 1000 * 4
    assert 50 * turn <= hlo.traffic(hlo.parse(one.as_text())) < 53 * turn


@pytest.mark.parametrize(
    "text, want",
    [
        ("replica_groups={{0,2},{1,3}}, x", [[0, 2], [1, 3]]),
        ("replica_groups=[2,4]<=[8], x", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups={}, x", [list(range(8))]),
        ("source_target_pairs={{0,1},{1,0},{5,0}}, x", [[0, 1, 5]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'b'}, x", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([2,2,2]T(1,0,2)) {'a'}, x", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("replica_groups=mesh['a'=1,'b'=8] {'a','b'}, x", [list(range(8))]),
    ],
)
def test_notations_of_replica_groups(text, want):
    np.testing.assert_array_equal(replica_groups(text, 8), want)


def test_an_unknown_notation_is_no_guess():
    with pytest.raises(ValueError, match="a notation of groups that the planner does not know"):
        hlo.replica_groups("replica_groups=mesh['a'=8] {'a':(1)2}, x", 8)


def test_an_asynchronous_reduce_scatter_takes_its_members_from_what_comes_out():
    text = """HloModule m

ENTRY %main (p: f32[16,4]) -> f32[2,4] {
  %p = f32[16,4]{1,0} parameter(0)
  %start = (f32[16,4]{1,0}, f32[2,4]{1,0}) reduce-scatter-start(%p), replica_groups=[1,8]<=[8], dimensions={0}, to_apply=%add
  ROOT %done = f32[2,4]{1,0} reduce-scatter-done(%start)
}
"""
    (found,) = hlo.collectives(hlo.parse(text), 8)
    assert (found.kind, found.bytes, found.shapes) == ("reduce-scatter", 16 * 4 * 4, ((2, 4),))


def test_a_sum_of_which_each_keeps_a_part_is_a_reduce_scatter():
    """As TPUs' compiler writes it."""
    text = """HloModule m

%all-reduce-scatter (input: f32[16,4]) -> f32[2,4] {
  %input = f32[16,4]{1,0} parameter(0)
  %all-reduce.1 = f32[16,4]{1,0} all-reduce(%input), replica_groups=[1,8]<=[8], to_apply=%add
  %constant = u32[] constant(0)
  %partition-id = u32[] partition-id()
  ROOT %dynamic-slice = f32[2,4]{1,0} dynamic-slice(%all-reduce.1, %partition-id, %constant), dynamic_slice_sizes={2,4}
}

ENTRY %main (p: f32[16,4]) -> f32[2,4] {
  %p = f32[16,4]{1,0} parameter(0)
  ROOT %fusion = f32[2,4]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter
}
"""
    (found,) = hlo.collectives(hlo.parse(text), 8)
    assert (found.kind, found.shapes, found.sent) == ("reduce-scatter", ((2, 4),), 16 * 4 * 4 * 7 / 8)
    (whole,) = hlo.collectives(hlo.parse(text.replace("dynamic-slice(%all-reduce.1", "dynamic-slice(%input")), 8)
    assert (whole.kind, whole.sent) == ("all-reduce", 2 * found.sent)


def test_asynchronous_forms_count_what_comes_out_once():
    text = """HloModule m

ENTRY %main (p: bf16[2,4]) -> bf16[16,4] {
  %p = bf16[2,4]{1,0} parameter(0)
  %start = (bf16[2,4]{1,0}, bf16[16,4]{1,0:T(8,128)(2,1)S(1)}) all-gather-start(%p), replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %done = bf16[16,4]{1,0} all-gather-done(%start)
}
"""
    (found,) = hlo.collectives(hlo.parse(text), 8)
    assert (found.kind, found.bytes, found.shapes) == ("all-gather", 16 * 4 * 2, ((16, 4),))


def test_the_workspace_of_a_library_call_is_no_traffic():
    text = """HloModule m

ENTRY %main (a: bf16[2,4], b: bf16[4,8]) -> (bf16[2,8], s8[4194304]) {
  %a = bf16[2,4]{1,0} parameter(0)
  %b = bf16[4,8]{1,0} parameter(1)
  ROOT %p = (bf16[2,8]{1,0}, s8[4194304]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul"
}
"""
    assert hlo.traffic(hlo.parse(text)) == 2 * (2 * 4 + 4 * 8 + 2 * 8)
    other = text.replace("__cublas$lt$matmul", "mine")
    assert hlo.traffic(hlo.parse(other)) == 4194304 + 2 * (2 * 4 + 4 * 8 + 2 * 8)


def test_operations_by_hand():
    a, b = jax.ShapeDtypeStruct((8, 16), jnp.float32), jax.ShapeDtypeStruct((16, 32), jnp.float32)
    product = 2 * 8 * 16 * 32
    assert flops.count(lambda a, b: a @ b, a, b) == {"float32": product}
    assert flops.count(jax.grad(lambda a, b: (a @ b).sum(), (0, 1)), a, b) == {
        "float32": 2 * product
    }  # the value is not needed
    highest = jax.lax.Precision.HIGHEST
    assert flops.count(lambda a, b: jnp.matmul(a, b, precision=highest), a, b) == {"float32_highest": product}
    half = [x.update(dtype=jnp.bfloat16) for x in (a, b)]
    assert flops.count(lambda a, b: a @ b, *half) == {"bfloat16": product}

    def loop(a, b):
        return jax.lax.scan(lambda c, _: (jax.nn.relu(c @ b) @ b.T, None), a, None, length=5)[0]

    assert flops.count(jax.jit(loop), a, b) == {"float32": 5 * 2 * product}
    recomputed = jax.grad(lambda a, b: jax.checkpoint(lambda a, b: jnp.sin(a @ b))(a, b).sum(), (0, 1))
    assert flops.count(recomputed, a, b) == {"float32": 3 * product}  # the forward product twice is one too many, once is due


@pytest.mark.parametrize("stride", [1, 2])
def test_operations_of_convolutions_leave_out_zeros(stride):
    """4 x 4 outputs (2 x 2 with stride 2) of a 3 x 3 window without padding; both gradients cost the same."""
    x, w = jax.ShapeDtypeStruct((2, 6, 6, 3), jnp.float32), jax.ShapeDtypeStruct((3, 3, 3, 5), jnp.float32)

    def fn(x, w):
        return jax.lax.conv_general_dilated(x, w, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    side = 4 // stride
    want = 2 * 2 * side * side * 9 * 3 * 5
    assert flops.count(fn, x, w) == {"float32": want}
    assert flops.count(jax.grad(lambda x, w: fn(x, w).sum(), 0), x, w) == {"float32": want}
    assert flops.count(jax.grad(lambda x, w: fn(x, w).sum(), 1), x, w) == {"float32": want}


def test_operations_inside_a_shard_map_are_those_of_all_devices(mesh):
    x = jax.ShapeDtypeStruct((64, 4), jnp.float32)
    fn = jax.shard_map(lambda x: x @ x.T, mesh=mesh, in_specs=P(("data", "fsdp")), out_specs=P(("data", "fsdp")))
    assert flops.count(fn, x) == {"float32": 8 * 2 * 8 * 8 * 4}
