"""Both methods as pure functions: terms, weights, devices, precision, slices of the batch, predictions."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax import sharding, trees
from medvlp_jax.losses import supervised
from medvlp_jax.methods import medklip, mlip
from tests import tiny

pytestmark = pytest.mark.usefixtures("quick_compiles")
METHODS = ("medklip", "mlip")


TERMS = {
    "medklip": ["existence", "location"],
    "mlip": ["global_contrast", "alignment", "knowledge_patch", "category", "matching", "swapping", "kl"],
}


@functools.cache
def start(name):
    c = tiny.config(name)
    variables = jax.jit(tiny.method(c).init)(jax.random.key(0), {**tiny.batch(), "knowledge": tiny.tables()})
    return c, variables


def grads_of(c, variables, batch, key=1):
    state = {k: v for k, v in variables.items() if k != "params"}
    fn = jax.jit(jax.value_and_grad(tiny.method(c).loss, has_aux=True))
    (loss, (new, terms)), grads = fn(variables["params"], state, batch, jax.random.key(key))
    return float(loss), {k: float(v) for k, v in terms.items()}, grads, new


@functools.cache
def plain(name):
    return grads_of(*start(name), tiny.batch())


def close(a, b, tol):
    """Relative L2 of the whole tree, and of every leaf with a tolerance for the rounding that BatchNorm amplifies."""
    a, b = trees.flatten(a), trees.flatten(b)
    assert a.keys() == b.keys()
    flat = [np.concatenate([np.ravel(x) for x in t.values()]).astype(np.float64) for t in (a, b)] if a else [np.ones(1)] * 2
    assert np.linalg.norm(flat[0] - flat[1]) < tol * np.linalg.norm(flat[1])


@pytest.mark.parametrize("name", METHODS)
def test_total_is_the_weighted_sum_of_its_terms(name):
    loss, terms, grads, _ = plain(name)
    weights = start(name)[0].losses
    assert sorted(terms) == sorted(TERMS[name]) and all(np.isfinite(v) and v != 0 for v in terms.values())
    np.testing.assert_allclose(loss, sum(weights[k] * v for k, v in terms.items()), rtol=1e-6)
    still = [n for n, g in trees.flatten(grads).items() if not np.asarray(g).any()]
    # A bias before a normalisation, and the key bias of an attention, have no effect on any loss.
    assert not [n for n in still if "bias" not in n], still


@pytest.mark.parametrize("name, term", [(m, t) for m in METHODS for t in TERMS[m]])
def test_weight_zero_removes_the_term_and_its_parameters(name, term):
    c = tiny.config(name, **{f"losses/{term}": 0.0})
    method = tiny.method(c)
    variables = jax.eval_shape(method.init, jax.random.key(0), {**tiny.batch(), "knowledge": tiny.tables()})
    state = {k: v for k, v in variables.items() if k != "params"}
    _, (_, terms) = jax.eval_shape(method.loss, variables["params"], state, tiny.batch(), jax.random.key(0))
    assert sorted(terms) == sorted(set(TERMS[name]) - {term})
    fewer = set(trees.flatten(variables["params"])) < set(trees.flatten(start(name)[1]["params"]))
    # Heads that others need too stay; MedKLIP's location head stays, so that checkpoints load with and without the loss.
    assert fewer is (term in ("alignment", "knowledge_patch", "category", "matching", "swapping"))
    if term == "knowledge_patch":
        assert "score_findings" not in method.predict and "ground" not in method.predict


@pytest.mark.parametrize("name", METHODS)
def test_8_devices_give_the_loss_and_gradients_of_1(name):
    c, variables = start(name)
    mesh = sharding.make_mesh({"data": -1})
    everywhere = jax.device_put(variables, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    loss, terms, grads, new = grads_of(c, everywhere, sharding.put(tiny.batch(), mesh))
    want = plain(name)
    np.testing.assert_allclose(loss, want[0], rtol=1e-5)
    assert {k: round(v, 4) for k, v in terms.items()} == pytest.approx(want[1], abs=1e-4)
    close(grads, want[2], 1e-5)
    close(new["batch_stats"] if "batch_stats" in new else {}, want[3].get("batch_stats", {}), 1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_slices_of_the_batch_give_the_same_gradients(name):
    """Accumulation keeps the contrast over the whole batch: same loss, same gradients."""
    c, variables = start(name)
    sliced = tiny.config(name, **{"model/microbatches": 4})
    loss, _, grads, _ = grads_of(sliced, variables, tiny.batch())
    np.testing.assert_allclose(loss, plain(name)[0], rtol=1e-5)
    close(grads, plain(name)[2], 1e-4)
    with pytest.raises(ValueError, match="microbatches=3 must divide"):
        grads_of(tiny.config(name, **{"model/microbatches": 3}), variables, tiny.batch())


@pytest.mark.parametrize("name", METHODS)
def test_remat_gives_the_same_gradients(name):
    c, variables = start(name)
    loss, _, grads, _ = grads_of(tiny.config(name, **{"model/remat": True}), variables, tiny.batch())
    np.testing.assert_allclose(loss, plain(name)[0], rtol=1e-6)
    close(grads, plain(name)[2], 1e-4)


@pytest.mark.usefixtures("optax_promotion")  # jax's own attention mixes bfloat16 and float32 in its gradient
@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_is_near_float32_with_float32_parameters(name):
    c, variables = start(name)
    low = tiny.config(name, dtype="bfloat16")
    loss, _, grads, _ = grads_of(low, variables, tiny.batch())
    assert abs(loss - plain(name)[0]) < 0.05 * plain(name)[0] and loss != plain(name)[0]
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    flat = [jnp.concatenate([g.reshape(-1) for g in jax.tree.leaves(t)]) for t in (grads, plain(name)[2])]
    assert flat[0] @ flat[1] / (jnp.linalg.norm(flat[0]) * jnp.linalg.norm(flat[1])) > 0.95


@pytest.mark.parametrize("name", METHODS)
def test_nothing_to_learn_from_gives_finite_gradients(name):
    c, variables = start(name)
    empty = tiny.batch()
    empty["labels"][:] = -1
    empty["has_report"][:] = 0
    empty["word_ids"][:] = -1
    empty["swapped_labels"][:] = -1
    loss, terms, grads, _ = grads_of(c, variables, empty)
    assert np.isfinite(loss) and all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    unsupervised = {"kl"}  # the image side of the divergence encoder needs no report
    assert all(v == 0 for k, v in terms.items() if k not in unsupervised), terms


@pytest.mark.parametrize("name", METHODS)
def test_predictions_have_the_shapes_of_the_shared_vocabulary(name):
    c, variables = start(name)
    method = tiny.method(c)
    shapes = {
        "embed_image": (16, 16), "embed_text": (16, 16), "embed_patches": (16, 16, 16),
        "score_findings": (16, 75), "ground": (16, 75, 4, 4),
    }  # fmt: skip
    assert set(method.predict) == (set(shapes) if name == "mlip" else set(shapes) - {"embed_text"})
    for key, fn in method.predict.items():
        got = jax.jit(fn)(variables, tiny.batch())
        assert got.shape == shapes[key], key
        if key in ("embed_image", "embed_text"):
            np.testing.assert_allclose(jnp.linalg.norm(got, axis=-1), 1, rtol=1e-5)
        if key == "ground":
            np.testing.assert_allclose(got.sum((2, 3)), 1, rtol=1e-5)
    few = {**variables, "knowledge": {**variables["knowledge"], "entities": tiny.tables(seed=1)["entities"][:3]}}
    assert method.predict["score_findings"](few, tiny.batch()).shape == (16, 3)


def test_excluded_entities_leave_both_losses():
    c, variables = start("medklip")
    batch = tiny.batch()
    changed = {**batch, "labels": batch["labels"].copy()}
    changed["labels"][:, 20] = 1 - np.maximum(batch["labels"][:, 20], 0)  # pneumonia
    loss = lambda config, b: grads_of(config, variables, b)[0]  # noqa: E731
    without = tiny.config("medklip", exclude_entities=("pneumonia",))
    assert loss(c, batch) != loss(c, changed)
    assert loss(without, batch) == loss(without, changed) != loss(c, batch)


SWITCHES = [
    ("objective/divergence", False), ("objective/knowledge_gate", False), ("objective/category_guidance", False),
    ("objective/temperature", 0.2), ("objective/local_temperature", 0.3), ("objective/prototype_temperature", 0.5),
    ("objective/sinkhorn_epsilon", 0.5), ("objective/sinkhorn_iterations", 1), ("objective/matching_group", 8),
    ("model/divergence_noise", 0.6), ("objective/guidance_weight", 0.5),
    ("objective/matching_group", 0), ("objective/equal_reports", "negatives"), ("objective/equal_reports", "positives"),
]  # fmt: skip


@functools.cache
def loss_with(switch="", value=None):
    """Loss of tiny MLIP on a batch in which two images have the same report."""
    _, variables = start("mlip")
    state = {k: v for k, v in variables.items() if k != "params"}
    batch = tiny.batch()
    for name in ("input_ids", "attention_mask", "word_ids"):
        batch[name][5] = batch[name][9]
    config = tiny.config("mlip", **({switch: value} if switch else {}))
    return float(jax.jit(tiny.method(config).loss)(variables["params"], state, batch, jax.random.key(1))[0])


@pytest.mark.parametrize("switch, value", SWITCHES)
def test_every_switch_of_mlip_changes_the_loss(switch, value):
    assert abs(loss_with() - loss_with(switch, value)) > 1e-6


def test_hard_negatives_are_drawn_at_the_learned_temperature():
    """At a low temperature the most similar report is drawn; the fixed temperature of the config must not decide."""
    _, variables = start("mlip")
    state = {k: v for k, v in variables.items() if k != "params"}
    c = tiny.config("mlip", **{"objective/learn_temperature": True, "objective/matching_group": 0})
    fn, seen = jax.jit(tiny.method(c).loss), []
    for temperature in (0.01, 100.0):
        own = {"learned_temperature": {"log_temperature": jnp.log(jnp.float32(temperature))}}
        terms = fn({**variables["params"], **own}, state, tiny.batch(), jax.random.key(1))[1][1]
        seen.append(float(terms["matching"]))
    assert abs(seen[0] - seen[1]) > 1e-4


def test_a_matching_group_over_two_devices_is_an_error():
    rows = mlip.matching_group
    assert rows(16, 0) == 16 and rows(16, 4) == 4
    with jax.set_mesh(sharding.make_mesh({"data": 4, "fsdp": 2})):
        assert rows(16, 0) == 2 and rows(16, 1) == 1
        with pytest.raises(ValueError, match="matching_group=4 does not divide the 2 rows of a device"):
            rows(16, 4)


def test_learned_temperature_starts_where_the_fixed_one_is():
    c, (_, variables) = tiny.config("mlip", **{"objective/learn_temperature": True}), start("mlip")
    own = {"learned_temperature": {"log_temperature": jnp.log(c.objective.temperature)}}
    loss, _, grads, _ = grads_of(c, {**variables, "params": {**variables["params"], **own}}, tiny.batch())
    np.testing.assert_allclose(loss, plain("mlip")[0], rtol=1e-5)
    assert float(grads["learned_temperature"]["log_temperature"]) != 0


def test_location_loss_scores_positions_before_it_chooses_candidates():
    """Value and gradient of the naive gather, without its (B, K, 8, T) array."""
    rng = np.random.default_rng(0)
    b, k, t, a = 128, 75, 64, 51
    out, table = rng.normal(size=(b, k, t)).astype(np.float32), rng.normal(size=(a, t)).astype(np.float32)
    labels, positions = rng.integers(-1, 2, (b, k)).astype(np.int8), rng.integers(0, a, (b, k, 8)).astype(np.int32)
    keep, weights = np.ones(k, bool), {"existence": 0.0, "location": 1.0}

    def ours(location, table, labels, positions):
        return medklip.losses({"location": location}, table, {"labels": labels, "positions": positions}, weights, keep)[0]

    def naive(location, table, labels, positions):
        return supervised.location_loss(jnp.einsum("bkt,bkpt->bkp", location, table[positions]), labels)

    given = out, table, labels, positions
    programs = [jax.jit(jax.value_and_grad(fn)).lower(*given).compile() for fn in (ours, naive)]
    (value, grad), (want, want_grad) = (program(*given) for program in programs)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(grad, want_grad, atol=1e-7)
    scratch = [program.memory_analysis().temp_size_in_bytes for program in programs]
    assert scratch[0] < scratch[1] / 4
