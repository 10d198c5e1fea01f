"""The optimizer against a plain numpy AdamW; schedule, freezing, rates and decay rules each change what they say."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medvlp_jax import optim, trees
from medvlp_jax.models import bert, vit
from tests import golden

pytestmark = pytest.mark.usefixtures("optax_promotion")

PARAMS = {"trunk": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "category": {"prototypes": jnp.ones((3, 2))}}
GRADS = {
    "trunk": {"kernel": jnp.full((2, 2), 0.5), "bias": jnp.full(2, -0.2)},
    "category": {"prototypes": jnp.full((3, 2), 0.1)},
}


def run(steps, **options):
    tx = optim.make(PARAMS, lambda step: 0.1, **options)
    state, params = tx.init(PARAMS), PARAMS
    for _ in range(steps):
        updates, state = tx.update(GRADS, state, params)
        params = {k: {n: params[k][n] + updates[k][n] for n in params[k]} for k in params}
    return params, state


def adamw(p, g, steps, lr=0.1, b1=0.9, b2=0.999, eps=1e-8, decay=0.0):
    p, m, v = float(p), 0.0, 0.0
    for t in range(1, steps + 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        p -= lr * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + decay * p)
    return p


def test_adamw_decays_matrices_only():
    params, _ = run(3, weight_decay=0.1)
    np.testing.assert_allclose(params["trunk"]["kernel"], adamw(1, 0.5, 3, decay=0.1), rtol=1e-5)
    np.testing.assert_allclose(params["trunk"]["bias"], adamw(1, -0.2, 3), rtol=1e-5)
    assert params["category"]["prototypes"].shape == (3, 2)
    free, _ = run(3, weight_decay=0.1, unit_norm="(?!)")
    np.testing.assert_allclose(free["category"]["prototypes"], adamw(1, 0.1, 3), rtol=1e-5)


def test_decay_spares_what_the_rule_names():
    """Without any gradient only decay moves a parameter. Prototypes are of norm 1, as they are kept."""
    decayed = ("block/kernel", "word/embedding", "gate/kernel")
    spared = ("position_embedding", "class_position_embedding", "class_token", "block/bias", "norm/scale", "logit_scale",
              "category/prototypes", "log_temperature", "logit_bias", "temperature")  # fmt: skip
    params = {name: jnp.full((2, 4), 0.5) for name in decayed + spared}
    tx = optim.make(params, lambda step: 0.1, weight_decay=0.1)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    moved = {name for name, u in updates.items() if float(jnp.abs(u).max()) > 1e-6}
    assert moved == set(decayed)


def test_frozen_parameters_stay_and_hold_no_moments():
    params, state = run(2, freeze=["^trunk/"], weight_decay=0.1)
    np.testing.assert_array_equal(params["trunk"]["kernel"], 1)
    assert (params["category"]["prototypes"] < 1).all()
    shapes = {x.shape for x in jax.tree.leaves(state)}
    assert (2, 2) not in shapes and (3, 2) in shapes


def test_freeze_until_step_then_trains():
    for steps, moved in ((2, False), (3, True)):
        params, _ = run(steps, freeze_until_step=[("prototypes$", 2)], unit_norm="(?!)")
        assert bool((params["category"]["prototypes"] != 1).all()) is moved
        assert bool((params["trunk"]["kernel"] != 1).all())


def test_moments_begin_at_the_thaw():
    """After a long frozen epoch the first updates are those of a fresh AdamW, not several times the learning rate."""
    frozen, rate = 300, 0.1
    tx = optim.make(PARAMS, lambda step: rate, weight_decay=0.0, freeze_until_step=[("prototypes$", frozen)], unit_norm="(?!)")
    update, state = jax.jit(tx.update), tx.init(PARAMS)
    rng = np.random.default_rng(0)
    p = m = v = np.zeros((3, 2))
    for step in range(frozen + 20):
        g = rng.normal(size=(3, 2)).astype(np.float32)
        updates, state = update({**GRADS, "category": {"prototypes": jnp.asarray(g)}}, state, PARAMS)
        got = np.asarray(updates["category"]["prototypes"])
        if step < frozen:
            np.testing.assert_array_equal(got, 0)
            continue
        t = step - frozen + 1
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        np.testing.assert_allclose(got, -rate * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8), rtol=1e-4, atol=1e-7)
        assert np.abs(got).max() <= 1.001 * rate if t == 1 else np.abs(got).max() < 2 * rate
        p = p + got


def test_gradients_that_are_not_used_are_not_in_the_clipped_norm():
    large = {**GRADS, "category": {"prototypes": jnp.full((3, 2), 1e6)}}
    for until, clipped in ((5, False), (0, True)):
        tx = optim.make(PARAMS, lambda step: 0.1, clip_norm=10.0, freeze_until_step=[("prototypes$", until)])
        _, state = tx.update(large, tx.init(PARAMS), PARAMS)
        mu = max(x.max() for x in jax.tree.leaves(state) if x.shape == (2, 2))
        np.testing.assert_allclose(mu, 0.1 * 0.5 * (10 / (1e6 * 6**0.5) if clipped else 1), rtol=1e-4)


def test_prototypes_keep_unit_norm_and_turn_by_the_learning_rate():
    start = np.random.default_rng(0).normal(size=(3, 8))
    start /= np.linalg.norm(start, axis=1, keepdims=True)
    params = {"category": {"prototypes": jnp.asarray(start, jnp.float32)}, "kernel": jnp.ones((2, 2))}
    tx = optim.make(params, lambda step: 0.01, weight_decay=0.0)
    grads = {"category": {"prototypes": jnp.asarray([[1.0] * 8, [-1.0, 1.0] * 4, [0.0] * 8])}, "kernel": jnp.ones((2, 2))}
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    moved = np.asarray(params["category"]["prototypes"] + updates["category"]["prototypes"])
    free = start - 0.01 * np.sign(np.asarray(grads["category"]["prototypes"]))  # Adam's first step
    np.testing.assert_allclose(moved, free / np.linalg.norm(free, axis=1, keepdims=True), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(updates["category"]["prototypes"][2], 0)  # no update, no rounding either
    np.testing.assert_allclose(updates["kernel"], -0.01, rtol=1e-5)


def test_rates_scale_the_step():
    params, _ = run(1, weight_decay=0.0, rates=[("^trunk/", 0.1)], unit_norm="(?!)")
    np.testing.assert_allclose(params["trunk"]["kernel"], 0.99, rtol=1e-5)
    np.testing.assert_allclose(params["category"]["prototypes"], 0.9, rtol=1e-5)


def test_freeze_and_rates_together():
    params, _ = run(1, weight_decay=0.0, freeze=["bias$"], rates=[("kernel$", 0.1)])
    np.testing.assert_allclose(params["trunk"]["kernel"], 0.99, rtol=1e-5)
    np.testing.assert_array_equal(params["trunk"]["bias"], 1)


def test_clip_norm_bounds_the_gradient():
    # AdamW is nearly scale free, so clipping shows in the second moment.
    _, loose = run(1)
    _, tight = run(1, clip_norm=1e-3)
    nu = lambda state: optax.tree.get(state, "nu")  # noqa: E731
    assert nu(tight)["trunk"]["kernel"].max() < 1e-6 < nu(loose)["trunk"]["kernel"].min()


def test_a_temperature_at_its_floor_comes_back_up():
    params = {"learned_temperature": {"log_temperature": jnp.float32(np.log(0.0101))}}
    tx = optim.make(params, lambda step: 0.05, weight_decay=0.0)
    state = tx.init(params)
    seen = []
    for sign in (1.0,) * 20 + (-1.0,) * 60:
        grad = {"learned_temperature": {"log_temperature": jnp.float32(sign)}}
        updates, state = tx.update(grad, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        seen.append(float(np.exp(params["learned_temperature"]["log_temperature"])))
    np.testing.assert_allclose(min(seen), 0.01, rtol=1e-5)
    np.testing.assert_allclose(seen[19], 0.01, rtol=1e-5)
    assert seen[-1] > 0.012


def trunks(vit_size, bert_size):
    """Shapes of the parameters of a real ViT and BERT below the names that methods give them, and of a head."""
    image, ids = jnp.zeros((1, 32, 32, 3)), jnp.zeros((1, 4), jnp.int32)
    image_encoder = jax.eval_shape(vit.ViT(**vit_size).init, jax.random.key(0), image)["params"]
    text_encoder = jax.eval_shape(bert.Bert(vocab_size=9, **bert_size).init, jax.random.key(0), ids, ids)["params"]
    head = {"kernel": jax.ShapeDtypeStruct((3, 2), jnp.float32)}
    return {"image_encoder": image_encoder, "text_encoder": text_encoder, "image_head": head}


def test_layer_decay_of_base_models():
    """Embeddings lowest, the last block one step below the head."""
    shapes = trunks(vit.SIZES["B/16"], bert.SIZES["base"])
    rules = optim.layer_rates(shapes, 0.75)
    got = trees.flatten(trees.match(shapes, [*rules, (r".*", 1.0)]))
    want = {
        "image_encoder/patch/kernel": 13, "image_encoder/position_embedding": 13, "image_encoder/class_token": 13,
        "image_encoder/class_position_embedding": 13, "image_encoder/block_0/attention/query/kernel": 12,
        "image_encoder/block_1/mlp_norm/scale": 11, "image_encoder/block_10/mlp/fc1/bias": 2,
        "image_encoder/block_11/mlp/fc2/kernel": 1, "image_encoder/norm/scale": 0, "text_encoder/word/embedding": 13,
        "text_encoder/position/embedding": 13, "text_encoder/token_type/embedding": 13, "text_encoder/embedding_norm/bias": 13,
        "text_encoder/block_0/attention_norm/scale": 12, "text_encoder/block_11/mlp/fc1/kernel": 1, "image_head/kernel": 0,
    }  # fmt: skip
    assert {name: got[name] for name in want} == {name: 0.75**power for name, power in want.items()}


def test_layer_decay_multiplies_rates_and_updates():
    size = dict(width=8, num_heads=2, mlp_dim=8)
    shapes = trunks({**size, "patch_size": 16, "depth": 2}, {**size, "depth": 3, "max_positions": 4})
    params = jax.tree.map(lambda s: jnp.ones(s.shape), shapes)
    tx = optim.make(params, lambda step: 0.1, weight_decay=0.0, layer_decay=0.5, rates=[("^text_encoder/", 0.1)])
    updates = trees.flatten(tx.update(params, tx.init(params), params)[0])
    for name, power in (("image_encoder/class_token", 3), ("image_encoder/block_1/attention/out/kernel", 1),
                        ("image_encoder/norm/bias", 0), ("image_head/kernel", 0)):  # fmt: skip
        np.testing.assert_allclose(updates[name], -0.1 * 0.5**power, rtol=1e-5)
    np.testing.assert_allclose(updates["text_encoder/block_1/mlp/fc1/kernel"], -0.1 * 0.1 * 0.5**2, rtol=1e-5)


def test_layer_decay_that_cannot_be():
    with pytest.raises(ValueError, match="no trunk has numbered blocks"):
        run(1, layer_decay=0.75)
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        run(1, layer_decay=1.5)


@pytest.mark.parametrize("option", [{"freeze": ["trunc"]}, {"rates": [("x", 1.0)]}, {"freeze_until_step": [("x", 1)]}])
def test_misspelt_pattern_is_an_error(option):
    with pytest.raises(ValueError, match="matches no parameter"):
        run(1, **option)


def test_warmup_cosine_values():
    schedule = optim.warmup_cosine(1e-3, total_steps=110, warmup_steps=10, start_lr=1e-4, final_lr=1e-5)
    want = {0: 1e-4, 5: 5.5e-4, 10: 1e-3, 60: (1e-3 + 1e-5) / 2, 110: 1e-5, 500: 1e-5}
    for step, value in want.items():
        np.testing.assert_allclose(schedule(jnp.int32(step)), value, rtol=1e-5)
    with pytest.raises(ValueError, match="warmup_steps"):
        optim.warmup_cosine(1e-3, 10, 10)


@pytest.mark.parametrize("steps_per_epoch", [700, 7000])
def test_golden_medklip_schedule(steps_per_epoch):
    """What the published program has in force: first epoch step by step, later ones throughout."""
    meta, _, _, z = golden.load("medklip_schedule")
    c = meta["config"]
    options = dict(epochs=c["epochs"], warmup_epochs=c["warmup_epochs"], start_lr=c["warmup_lr"], final_lr=c["min_lr"])
    schedule = jax.jit(jax.vmap(optim.medklip_published(c["lr"], steps_per_epoch, **options)))
    np.testing.assert_allclose(schedule(np.array(meta["epoch0_iterations"])), z["epoch0_lr"], rtol=1e-5)
    later = np.arange(1, 100)
    for offset in (0, 1, steps_per_epoch - 1):
        np.testing.assert_allclose(schedule(later * steps_per_epoch + offset), z["epoch_lr"][1:], rtol=2e-5)
    t = np.arange(6, 112)  # beyond the run too
    np.testing.assert_allclose(schedule((t - 5) * steps_per_epoch), z["lr_at_t"][6:], rtol=2e-5)
