"""Meshes, rules from name to layout, and host batches on the mesh."""
import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from medvlp_jax import optim, sharding, train, trees
from medvlp_jax.models import layout
from tests import tiny


def test_the_last_axis_takes_the_remaining_devices():
    assert dict(sharding.make_mesh({"data": -1}).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(sharding.make_mesh({"data": -1, "fsdp": 4}).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert dict(sharding.make_mesh({"data": 2, "fsdp": -1}).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert dict(sharding.make_mesh({"data": -1, "fsdp": 1}, jax.devices()[:3]).shape) == {"data": 3, "fsdp": 1, "tensor": 1}
    assert dict(sharding.make_mesh({"data": -1, "tensor": 2}).shape) == {"data": 4, "fsdp": 1, "tensor": 2}


@pytest.mark.parametrize(
    "shape, message",
    [
        ({"dat": 8}, r"unknown mesh axes \['dat'\]; known: \('data', 'fsdp', 'tensor'\)"),
        ({"data": -1, "fsdp": -1}, "only one mesh axis can be -1, came {'data': -1, 'fsdp': -1, 'tensor': 1}"),
        ({"data": 3}, "mesh {'data': 3, 'fsdp': 1, 'tensor': 1} does not use the 8 devices exactly"),
        ({"data": -1, "fsdp": 3}, "does not use the 8 devices exactly"),
        ({"data": -1, "fsdp": 16}, "does not use the 8 devices exactly"),
        ({"data": 0}, "mesh axes must be positive or -1, came {'data': 0, 'fsdp': 1, 'tensor': 1}"),
        ({"data": -1, "fsdp": 0}, "must be positive or -1"),
        ({"data": -2, "fsdp": -4}, "must be positive or -1"),
    ],
)
def test_meshes_that_do_not_fit(shape, message):
    with pytest.raises(ValueError, match=message):
        sharding.make_mesh(shape)


@pytest.mark.parametrize(
    "value, shape, want",
    [
        ("split", (3, 12), P(None, "fsdp")),  # the largest dimension that 4 divides
        ("split", (16, 12), P("fsdp", None)),
        ("split", (10, 12, 7), P(None, "fsdp", None)),
        ("split", (3, 5), P()),  # none divides: a copy
        ("split", (), P()),
        ("copy", (16, 12), P()),
    ],
)
def test_layout_of_one_array(value, shape, want):
    assert sharding.spec(value, shape, sharding.make_mesh({"data": 2, "fsdp": 4})) == want
    assert sharding.spec(value, shape, sharding.make_mesh({"data": 8})) == P()  # nothing to split over


@pytest.mark.parametrize(
    "value, tensor, shape, want",
    [
        ("copy", "outputs", (12, 16), P(None, "tensor")),
        ("copy", "inputs", (16, 12), P("tensor", None)),
        ("copy", "outputs", (16,), P("tensor")),  # a bias goes with its kernel
        ("split", "outputs", (12, 16), P("fsdp", "tensor")),  # fsdp takes another dimension
        ("split", "neither", (12, 16), P(None, "fsdp")),
        ("split", "outputs", (12, 15), P("fsdp", None)),  # not to be halved: left to fsdp
    ],
)
def test_layout_with_a_tensor_axis(value, tensor, shape, want):
    assert sharding.spec(value, shape, sharding.make_mesh({"data": 2, "fsdp": 2, "tensor": 2}), tensor) == want
    assert "tensor" not in str(sharding.spec(value, shape, sharding.make_mesh({"data": 4, "fsdp": 2}), tensor))


def test_slices_are_outermost():
    """Slow links between slices: only "data" may cross them, however the devices are listed."""

    class Device(SimpleNamespace):
        def __hash__(self):
            return self.id

    devices = [Device(id=i, slice_index=i % 2, platform="cpu", device_kind="cpu", process_index=0) for i in range(8)]
    mesh = sharding.make_mesh({"data": -1, "fsdp": 2}, devices)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1}
    along = np.vectorize(lambda d: d.slice_index)(mesh.devices)
    assert along[:2].tolist() == np.zeros((2, 2, 1)).tolist() and along[2:].tolist() == np.ones((2, 2, 1)).tolist()
    with pytest.raises(ValueError, match="data=1 is no multiple of the 2 slices"):
        sharding.make_mesh({"data": 1, "fsdp": 8}, devices)


def test_unknown_rules_and_uncovered_names(monkeypatch):
    mesh, tree = sharding.make_mesh({"data": -1}), {"a": {"kernel": np.ones((8, 8)), "bias": np.ones(8)}}
    with pytest.raises(ValueError, match=r"unknown sharding rules 'zero3'; known: \['fsdp', 'replicated'\]"):
        sharding.of_state(tree, mesh, "zero3")
    monkeypatch.setitem(sharding.RULES, "half", ((r"kernel$", "split"),))
    with pytest.raises(ValueError, match="no sharding rule covers: a/bias"):
        sharding.of_state(tree, mesh, "half")


@pytest.mark.parametrize("name", ["mlip", "medklip"])
@pytest.mark.usefixtures("optax_promotion")
def test_fsdp_splits_parameters_and_both_moments(name):
    """A real train state: every device holds a quarter of what can be split, and the moments lie as their parameters."""
    c = tiny.config(name)
    make_tx = functools.partial(optim.make, schedule=lambda step: 1e-3)
    exp = SimpleNamespace(
        config=c, optimizer=make_tx,
        init_variables=lambda seed, tables: tiny.method(c).init(jax.random.key(seed), {**tiny.batch(), "knowledge": tables}),
    )  # fmt: skip
    abstract = jax.eval_shape(functools.partial(train.init_state, exp=exp), tiny.tables())
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4})
    layout = sharding.of_state(abstract, mesh, "fsdp")
    state = jax.jit(lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), abstract), out_shardings=layout)()
    flat = {name: (x.sharding.spec, x.addressable_shards[0].data.size, x.size) for name, x in trees.flatten(state).items()}
    parameters = {name.removeprefix("params/"): v for name, v in flat.items() if name.startswith("params/")}
    for moment in ("mu", "nu"):
        found = [(re.fullmatch(rf"opt_state/(?:\d+/)+{moment}/(.*)", name), v) for name, v in flat.items()]
        moments = {match[1]: v for match, v in found if match}
        assert moments == parameters
    split = {name for name, (spec, here, size) in parameters.items() if here * 4 == size}
    kernels = {name for name, x in trees.flatten(abstract.params).items() if name.endswith(("kernel", "embedding"))}
    assert kernels and {n for n in kernels if any(d % 4 == 0 for d in trees.flatten(abstract.params)[n].shape)} <= split
    assert not [name for name in split if name.endswith(("bias", "scale"))]
    assert sum(here for _, here, _ in parameters.values()) < 0.4 * sum(size for *_, size in parameters.values())
    copied = sharding.of_state(abstract, mesh, "replicated")
    assert all(s.spec == P() for s in jax.tree.leaves(copied))


def test_put_splits_rows_over_all_devices_in_order():
    mesh = sharding.make_mesh({"data": 2, "fsdp": 4})
    batch = {"x": np.arange(16, dtype=np.int32), "image": np.arange(16 * 3, dtype=np.uint8).reshape(16, 3)}
    got = sharding.put(batch, mesh)
    for key, value in batch.items():
        np.testing.assert_array_equal(got[key], value)
        assert got[key].dtype == value.dtype and got[key].sharding.spec == P(layout.BATCH)
        assert {s.data.shape[0] for s in got[key].addressable_shards} == {2}


def test_put_names_arrays_whose_rows_do_not_divide():
    mesh = sharding.make_mesh({"data": -1})
    batch = {"x": np.zeros(16, np.int32), "y": np.zeros((12, 3), np.int32)}
    with pytest.raises(ValueError, match=r"batch rows must be a multiple of the 8 parts of this process, came {'y': 12}"):
        sharding.put(batch, mesh)
