"""Image-text matching of MLIP learns 15 pairs, and learns the right side of each."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medvlp_jax.methods import towers
from medvlp_jax.methods.mlip import MLIP
from tests import tiny

pytestmark = pytest.mark.usefixtures("quick_compiles", "optax_promotion")
STEPS = 300


def pairs():
    """Batch of 16 rows: reports 5 and 9 are equal; row 3 is image 7 without a report, its tokens are those of report 8."""
    batch = tiny.batch()
    batch["image"][3] = batch["image"][7]
    for name in ("input_ids", "attention_mask", "word_ids"):
        batch[name][9], batch[name][3] = batch[name][5], batch[name][8]
    return batch


def test_matching_overfits_a_tiny_set_with_true_pairs_on_the_side_of_class_1():
    """Wrong labels, a report as its own negative, or a row without report as a pair would move one of these probabilities."""
    others = {f"losses/{name}": 0.0 for name in tiny.config("mlip").losses if name != "matching"}
    c = tiny.config("mlip", **others, **{"objective/matching_group": 0})
    method, batch = tiny.method(c), pairs()
    variables = jax.jit(method.init)(jax.random.key(0), {**batch, "knowledge": tiny.tables()})
    state, tx = {k: v for k, v in variables.items() if k != "params"}, optax.adam(3e-3)

    @jax.jit
    def step(params, opt, key):
        (loss, _), grads = jax.value_and_grad(method.loss, has_aux=True)(params, state, batch, key)
        updates, opt = tx.update(grads, opt)
        return optax.apply_updates(params, updates), opt, loss

    params, opt, losses = variables["params"], tx.init(variables["params"]), []
    for key in jax.random.split(jax.random.key(1), STEPS):
        params, opt, loss = step(params, opt, key)
        losses.append(float(loss))
    assert np.mean(losses[-20:]) < 0.1 < 0.5 < losses[0]  # 0.6365 is what a constant reaches

    def every_pair(m):
        image = m.image_trunk(towers.normalised(batch, c), False)
        text = m.text_trunk(batch["input_ids"], batch["attention_mask"], False)

        def reports_of(i):
            one = {"patches": jnp.broadcast_to(image["patches"][i], image["patches"].shape)}
            return m.matching_head(m.fuse(text, batch["attention_mask"], one, False)[:, 0])

        return jax.nn.softmax(jnp.stack([reports_of(i) for i in range(16)]), -1)[..., 1]  # (image, report)

    prob = np.array(towers.evaluated(towers.build(MLIP, c), every_pair, {**state, "params": params}))
    true = np.eye(16, dtype=bool)
    true[5, 9] = true[9, 5] = True
    asked = np.arange(16) != 3
    assert (prob[true & asked[:, None] & asked] > 0.9).all()
    # Negatives are drawn by similarity: not every pair was seen.
    assert (prob[~true & asked[:, None] & asked] < 0.5).mean() > 0.85
    assert prob[7, 8] < 0.5
