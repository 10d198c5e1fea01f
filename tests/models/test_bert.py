"""BERT against the golden cases, and its error messages."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medvlp_jax import weights
from medvlp_jax.models.attention import SelfAttention
from medvlp_jax.models.bert import Bert
from tests import golden
from tests.models import filled

pytestmark = pytest.mark.usefixtures("quick_compiles")


def run(case, params, inputs, fields):
    """-> (hidden, out, last block's [CLS] weights (B, heads, M)) as numpy."""
    model, last = Bert(**fields), f"block_{fields['depth'] - 1}"
    ids, mask, types = (
        jnp.asarray(inputs[f"{case}/{k}"], jnp.int32) for k in ("input_ids", "attention_mask", "token_type_ids")
    )

    @jax.jit
    def apply(variables):
        (hidden, out), state = model.apply(
            variables, ids, mask, token_type_ids=types, capture_intermediates=lambda m, _: isinstance(m, SelfAttention)
        )
        return hidden, out, state["intermediates"][last]["attention"]["__call__"][0][1]

    return jax.tree.map(np.asarray, apply(weights.from_torch("bert", params)))


def check(got, want):
    assert set(got) == set(want)
    for name, array in got.items():
        assert golden.relative_l2(array, want[name]) <= 1e-5, name


def pooled(params, cls):
    """The pooler is left out of our model: HF's is recomputed here from our [CLS]."""
    return np.tanh(cls @ params["pooler.dense.weight"].T + params["pooler.dense.bias"])


def test_tiny_matches_every_golden_output():
    _, params, inputs, want = golden.load("bert_tiny_golden")
    fields = weights.config_of("bert", params, num_heads=4)
    hidden, out, row = run("bert_tiny_golden", params, inputs, fields)
    got = {
        "last_hidden_state": hidden,
        "pooler_output": pooled(params, out["cls"]),
        "last_cls_attention": row,
        "hidden_0": out["embedding"],
        "hidden_1": out["block_0"],
        "hidden_2": out["block_1"],
    }
    check(got, want)
    assert golden.relative_l2(out["attention"], want["last_cls_attention"].mean(1)) <= 1e-5


def test_base_matches_every_golden_output():
    _, params, inputs, want = golden.load("bert_base")
    fields = weights.config_of("bert", params)
    assert (fields["depth"], fields["num_heads"], fields["mlp_dim"], fields["vocab_size"]) == (12, 12, 3072, 28996)
    hidden, out, row = run("bert_base", params, inputs, fields)
    got = {
        "last_hidden_state": hidden,
        "pooler_output": pooled(params, out["cls"]),
        "last_cls_attention": row,
        "embedding_out_slice": out["embedding"][:, ::4],
        "hidden_1_slice": out["block_0"][:, ::4],
        "hidden_6_slice": out["block_5"][:, ::4],
    }
    check(got, want)


@pytest.mark.parametrize("order_blind", [True, False])
def test_mgca_text_encoder_has_no_token_types_and_may_ignore_order(order_blind):
    _, params, _, want = golden.load("mgca_text_encoder")
    _, _, inputs, _ = golden.load("bert_tiny_golden")  # same ids
    params = {k: v for k, v in params.items() if "crossattention" not in k}
    fields = weights.config_of("bert", params, num_heads=4, token_types=False)
    ids, mask = (jnp.asarray(inputs[f"bert_tiny_golden/{k}"], jnp.int32) for k in ("input_ids", "attention_mask"))
    hidden, _ = jax.jit(Bert(**fields).apply)(
        weights.from_torch("bert", params, token_types=False), ids, mask,
        position_ids=jnp.zeros_like(ids) if order_blind else None,
    )  # fmt: skip
    case = "as_called" if order_blind else "with_positions"
    assert golden.relative_l2(hidden, want[f"{case}_last_hidden"]) <= 1e-5


def small(**fields):
    sizes = dict(vocab_size=30, width=16, depth=1, num_heads=2, mlp_dim=32, max_positions=8)
    return Bert(**{**sizes, **fields})


def test_padding_does_not_reach_the_tokens():
    model, ids = small(), jnp.asarray([[3, 4, 5, 0, 0]], jnp.int32)
    mask = jnp.asarray([[1, 1, 1, 0, 0]], jnp.int32)
    variables = filled.variables(model, ids, mask)
    apply = jax.jit(model.apply)
    hidden, out = apply(variables, ids, mask)
    other, _ = apply(variables, ids.at[0, 3:].set(7), mask)
    np.testing.assert_array_equal(hidden[:, :3], other[:, :3])
    np.testing.assert_array_equal(out["attention"][0, 3:], 0.0)
    hidden, out = apply(variables, ids, jnp.zeros_like(mask))  # an empty report
    assert np.isfinite(hidden).all() and np.isfinite(out["attention"]).all()


def test_errors_say_what_would_fit():
    ids = jnp.zeros((1, 9), jnp.int32)
    with pytest.raises(ValueError, match="text of 9 tokens, but the position table has 8 rows"):
        jax.eval_shape(small().init, jax.random.key(0), ids, ids)
    with pytest.raises(ValueError, match="type_vocab=0"):
        jax.eval_shape(lambda ids: small(type_vocab=0).init(jax.random.key(0), ids, ids, token_type_ids=ids), ids[:, :4])
