"""The compiled train step: the same on 1 and 8 devices, harmless when not finite, contrasting over all devices."""
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medvlp_jax import optim, sharding, train, trees
from medvlp_jax.plan import hlo
from medvlp_jax.reports import vocab
from tests import tiny

pytestmark = pytest.mark.usefixtures("optax_promotion", "quick_compiles")
METHODS = ("medklip", "mlip")
LAYOUTS = {
    "1": (1, {"data": 1}, "replicated"),
    "8": (8, {"data": 8}, "replicated"),
    "fsdp": (8, {"data": 2, "fsdp": 4}, "fsdp"),
    "tensor": (8, {"data": 2, "fsdp": 2, "tensor": 2}, "fsdp"),
}
EMBED = 24  # a width that no other array of the tiny MLIP has
RATE = 1e-3
# A bias before a normalisation, and an attention's key bias, change no loss: their gradient is rounding, which AdamW scales up.
WITHOUT_EFFECT = re.compile(r"_head/dense\d/bias$|/key/bias$")


def schedule(step):
    del step
    return jnp.float32(RATE)


def make_tx(params):
    return optim.make(params, schedule)


@functools.cache
def start(name):
    """-> (method, first state)."""
    method = tiny.method(tiny.config(name, **({"model/embed_dim": EMBED} if name == "mlip" else {})))
    variables = jax.jit(method.init)(jax.random.key(0), {**tiny.batch(), "knowledge": tiny.tables()})
    state = {k: v for k, v in variables.items() if k != "params"}
    params = variables["params"]
    return method, train.TrainState(jnp.zeros([], jnp.int32), params, state, make_tx(params).init(params))


@functools.cache
def compiled(name, layout):
    """-> (compiled step, first state on the mesh, mesh, the program before it was compiled)."""
    method, state = start(name)
    devices, shape, rules = LAYOUTS[layout]
    mesh = sharding.make_mesh(shape, jax.devices()[:devices])
    shardings = sharding.of_state(state, mesh, rules)
    state = jax.device_put(state, shardings)
    step = functools.partial(train.train_step, method=method, make_tx=make_tx, schedule=schedule, seed=0,
                             layouts=sharding.layouts(state.params, mesh))
    with jax.set_mesh(mesh):
        lowered = jax.jit(step, out_shardings=(shardings, None)).lower(state, sharding.put(tiny.batch(), mesh))
    return lowered.compile(), state, mesh, lowered.as_text()


@functools.cache
def three_steps(name, layout):
    step, state, mesh, _ = compiled(name, layout)
    records = []
    for i in range(3):
        state, values = step(state, sharding.put(tiny.batch(seed=i), mesh))
        records.append({k: float(v) for k, v in values.items()})
    return jax.tree.map(np.asarray, state), records


def joined(tree):
    parts = [np.ravel(x) for name, x in trees.flatten(tree).items() if not WITHOUT_EFFECT.search(name)]
    return np.concatenate(parts).astype(np.float64)


@pytest.mark.parametrize("layout", ["8", "fsdp", "tensor"])
@pytest.mark.parametrize("name", METHODS)
def test_three_steps_on_8_devices_are_those_on_1(name, layout):
    (state, records), (want, expected) = three_steps(name, layout), three_steps(name, "1")
    assert int(state.step) == 3
    for got, record in zip(records, expected, strict=True):
        np.testing.assert_allclose([got["loss"], got["grad_norm"]], [record["loss"], record["grad_norm"]], rtol=1e-5)
    moved = np.linalg.norm(joined(want.params) - joined(start(name)[1].params))
    assert moved > 0.1  # three steps of AdamW do something
    assert np.linalg.norm(joined(state.params) - joined(want.params)) < 1e-5 * np.linalg.norm(joined(want.params))
    variances = [{n: v for n, v in trees.flatten(t.state).items() if n.endswith("/var")} for t in (state, want)]
    for n, v in variances[0].items():  # running means follow the biases before them
        assert np.linalg.norm(v - variances[1][n]) < 1e-5 * np.linalg.norm(variances[1][n]), n


@pytest.mark.parametrize("name", METHODS)
def test_fsdp_holds_a_share_of_the_state_on_every_device(name):
    step, state, mesh, _ = compiled(name, "fsdp")
    arrays = [x for x in jax.tree.leaves((state.params, state.opt_state)) if x.ndim > 1]
    held = sum(x.addressable_shards[0].data.nbytes for x in arrays)
    assert held < 0.4 * sum(x.nbytes for x in arrays)
    after, _ = step(state, sharding.put(tiny.batch(), mesh))
    assert [x.sharding for x in jax.tree.leaves(after)] == [x.sharding for x in jax.tree.leaves(state)]


@pytest.mark.parametrize("name", METHODS)
def test_a_step_that_is_not_finite_changes_only_the_counters(name):
    step, state, mesh, _ = compiled(name, "1")
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf), state.state["knowledge"])
    state = state._replace(state={**state.state, "knowledge": broken})
    after, values = step(state, sharding.put(tiny.batch(), mesh))
    assert not np.isfinite(float(values["loss"])) and int(after.step) == 1
    assert schedule_counts(after.opt_state) == [1] and schedule_counts(state.opt_state) == [0]
    for part in ("params", "state", "opt_state"):
        new, old = (jax.tree.map(without_counts, getattr(s, part), is_leaf=is_schedule) for s in (after, state))
        jax.tree.map(np.testing.assert_array_equal, new, old)


def is_schedule(node) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)


def without_counts(node):
    return () if is_schedule(node) else node


def schedule_counts(opt_state) -> list[int]:
    return [int(s.count) for s in jax.tree.leaves(opt_state, is_leaf=is_schedule) if is_schedule(s)]


def test_the_learning_rate_in_force_is_the_one_that_is_logged_after_a_bad_step_too():
    """AdamW's first update is the learning rate in size: which one, the parameters show."""
    method, state = start("medklip")
    mesh = sharding.make_mesh({"data": 1}, jax.devices()[:1])
    falling = optax.linear_schedule(1e-2, 0.0, 10)
    make = functools.partial(optim.make, schedule=falling, weight_decay=0.0)
    state = state._replace(opt_state=make(state.params).init(state.params))
    step = jax.jit(functools.partial(train.train_step, method=method, make_tx=make, schedule=falling, seed=0,
                                     layouts=sharding.layouts(state.params, mesh)))  # fmt: skip
    broken = {**state.state, "knowledge": jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.state["knowledge"])}
    after = state._replace(state=broken)
    for _ in range(4):
        after, values = step(after, tiny.batch())
    assert int(after.step) == 4 and not np.isfinite(float(values["loss"]))
    after, values = step(after._replace(state=state.state), tiny.batch())
    moved = np.abs(joined(after.params) - joined(state.params))
    assert float(values["lr"]) == pytest.approx(6e-3) and np.quantile(moved, 0.9) == pytest.approx(6e-3, rel=0.02)


@pytest.mark.parametrize("layout", ["8", "fsdp"])
def test_rbg_draws_other_numbers_and_the_same_on_any_number_of_devices(layout):
    """On one kind of device: its generator is that of the hardware."""
    losses = {}
    for impl, where in (("threefry2x32", "1"), ("rbg", "1"), ("rbg", layout)):
        method = tiny.method(tiny.config("medklip", **{"model/dropout": 0.5}))
        _, state = start("medklip")
        devices, shape, rules = LAYOUTS[where]
        mesh = sharding.make_mesh(shape, jax.devices()[:devices])
        shardings = sharding.of_state(state, mesh, rules)
        state = jax.device_put(state, shardings)
        step = functools.partial(train.train_step, method=method, make_tx=make_tx, schedule=schedule, seed=0,
                                 layouts=sharding.layouts(state.params, mesh), impl=impl)
        losses[impl, where] = []
        with jax.set_mesh(mesh):
            step = jax.jit(step, out_shardings=(shardings, None))
            for i in range(3):
                state, values = step(state, sharding.put(tiny.batch(seed=i), mesh))
                losses[impl, where].append(float(values["loss"]))
    assert abs(losses["rbg", "1"][0] - losses["threefry2x32", "1"][0]) > 1e-4
    np.testing.assert_allclose(losses["rbg", layout], losses["rbg", "1"], rtol=1e-5)


def laid_out(shape, parts) -> set[tuple[int, ...]]:
    """Shapes in which a parameter or its gradient may lie on a device: up to two dimensions in parts, and transposed."""
    wide = {shape}
    for _ in range(2):
        wide |= {(*s[:d], n // p, *s[d + 1 :]) for s in wide for p in parts for d, n in enumerate(s) if n % p == 0}
    return wide | {s[::-1] for s in wide}


def kind_of(shape, known) -> str:
    """What an array that crosses devices is, by its shape on one device; known: shapes of the parameters' parts."""
    if len(shape) <= 1 or (len(shape) == 2 and shape[0] == 1):
        return "vector"  # BatchNorm's statistics (1, C), gradients of biases, sums over the batch
    if shape in ((16, EMBED), (2, EMBED), (4, EMBED)):
        return "embedding"
    if len(shape) == 2 and len(vocab.ENTITIES) in shape:
        return "entity"  # gradient of the entities' embeddings, which all examples share
    return "parameter" if shape in known else "?"


@pytest.mark.parametrize("layout", ["8", "fsdp", "tensor"])
@pytest.mark.parametrize("name", METHODS)
def test_every_collective_is_accounted_for(name, layout):
    """Embeddings, parameters or their gradients, and statistics cross devices, nothing with a patch or token axis; along the
    tensor axis the sums after heads and hidden units, too.

    Without gathered embeddings the contrast would be per device by accident.
    """
    step, state, mesh, _ = compiled(name, layout)
    parts = {n for n in (mesh.shape["fsdp"], mesh.shape["tensor"]) if n > 1}
    known = set().union(*(laid_out(x.shape, parts) for x in jax.tree.leaves(state.params) if x.ndim > 1))
    seen, sent = {}, 0.0
    for c in hlo.collectives(hlo.parse(step.as_text()), 8):
        axes = c.axes(dict(mesh.shape))
        for shape in c.shapes:
            # The keys of the 16 reports, two integers each, have the shape of the matching head.
            kind = "report keys" if c.kind == "all-gather" and shape == (16, 2) else kind_of(shape, known)
            if kind == "?" and axes == "tensor" and c.kind == "all-reduce" and len(shape) in (2, 3):
                kind = "sum over heads or hidden units"
            else:
                sent += c.times * c.sent / len(c.shapes)
            seen.setdefault(kind, set()).add((c.kind, shape, axes, c.source))
    assert not seen.get("?"), seen["?"]
    kinds = {part: {kind for kind, *_ in found} for part, found in seen.items()}
    assert ("all-gather" in kinds.get("embedding", ())) == (name == "mlip")
    assert ("all-gather" in kinds["parameter"]) == (layout != "8") and "all-reduce" in kinds["parameter"]
    if layout != "8":  # of split parameters only the parts of gradients are added up over the copies
        assert any(op == "all-reduce" and axes == "data" for op, _, axes, _ in seen["parameter"])
    assert ("sum over heads or hidden units" in seen) == (layout == "tensor")
    # A sum of gradients sends twice their bytes, gathering split parameters once; the rest is small.
    parameters = sum(x.nbytes for x in jax.tree.leaves(state.params))
    assert sent < (2.2 if layout == "8" else 3.3) * parameters + 64 * 16 * EMBED * 4, (sent, parameters)


@pytest.mark.parametrize(
    "name, vit, bert, layers",
    [
        ("medklip", 1, 0, 2),
        ("mlip", 1, 2 * 2, 4),  # two blocks read the report and the swapped one; one layer fuses pairs, negatives twice, swaps
    ],
)
def test_layouts_of_activations_stand_in_the_program(name, vit, bert, layers):
    """Each constraint comes once on the way forward and once on the way back; one that vanished would be missed here."""
    found = re.findall(r"sdy.sharding_constraint %\S+ <@mesh, (.*?)>", compiled(name, "tensor")[-1])
    batch = '[{"data", "fsdp"}'
    assert found.count(f'{batch}, {{}}, {{"tensor"}}, {{}}]') == 2 * 3 * (vit + bert + 2 * layers)  # query, key, value
    assert found.count(f'{batch}, {{}}, {{"tensor"}}]') == 2 * (vit + bert + layers)  # hidden units
    assert found.count(f"{batch}, {{}}, {{}}]") == 2 * (1 + 2 * vit + 2 * bert + layers)  # patches and residual streams


def test_randomness_is_a_function_of_seed_and_step():
    step, state, mesh, _ = compiled("mlip", "1")
    batch = sharding.put(tiny.batch(), mesh)
    losses = [float(step(state._replace(step=jnp.asarray(n, jnp.int32)), batch)[1]["loss"]) for n in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_frozen_parameters_cost_no_backward_pass():
    step, state, mesh, _ = compiled("medklip", "1")
    method, batch = start("medklip")[0], sharding.put(tiny.batch(), mesh)
    freeze = ("image_encoder/",)
    frozen_tx = functools.partial(optim.make, schedule=schedule, freeze=freeze)
    state = state._replace(opt_state=frozen_tx(state.params).init(state.params))
    frozen = functools.partial(
        train.train_step, method=method, make_tx=frozen_tx, schedule=schedule, seed=0, freeze=freeze,
        layouts=sharding.layouts(state.params, mesh))  # fmt: skip
    frozen = jax.jit(frozen).lower(state, batch).compile()
    after, values = frozen(state, batch)
    _, want = step(compiled("medklip", "1")[1], batch)
    assert float(values["loss"]) == pytest.approx(float(want["loss"]), rel=1e-6)
    assert float(values["grad_norm"]) < float(want["grad_norm"])
    for name, value in trees.flatten(after.params).items():
        same = np.array_equal(value, trees.flatten(state.params)[name])
        assert same is name.startswith("image_encoder/") or WITHOUT_EFFECT.search(name), name
    costs = [program.cost_analysis()["flops"] for program in (frozen, step)]
    assert costs[0] < 0.97 * costs[1]  # the tiny encoder is a small part of the step
