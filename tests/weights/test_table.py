"""The table machinery: composing tables of parts, and what tables themselves can have wrong."""
import numpy as np
import pytest

from medvlp_jax.weights import bert, resnet
from medvlp_jax.weights import table as t
from tests.models import filled


def test_tables_of_parts_compose_into_that_of_a_whole_checkpoint():
    """As MedKLIP's checkpoint: a ResNet in a torch Sequential, which has numbers for names, beside another part."""
    order = {"conv1.": "0.", "bn1.": "1.", "layer{s}.": "{s}."}

    def sequential(name):
        for module, number in order.items():
            if name.startswith(module):
                name = number + name[len(module) :]
        return "module.trunk." + name

    head = t.Table(rows=t.linear("module.head", "head"))
    whole = t.join(t.moved(resnet.TABLE, sequential, "image"), t.moved(bert.TABLE, lambda n: "text." + n, "text"), head)
    variables = {
        "params": {
            "image": {"stem": {"kernel": np.arange(2 * 2 * 3 * 4, dtype=np.float32).reshape(2, 2, 3, 4)},
                      "stage2_block_1": {"norm1": {"scale": np.ones(3, np.float32)}}},
            "text": {"word": {"embedding": np.ones((5, 2), np.float32)}},
            "head": {"kernel": np.ones((2, 7), np.float32), "bias": np.zeros(7, np.float32)},
        },
        "batch_stats": {"image": {"stem_norm": {"mean": np.zeros(4, np.float32)}}},
    }  # fmt: skip
    tensors = t.write(whole, variables)
    assert {k: v.shape for k, v in tensors.items()} == {
        "module.trunk.0.weight": (4, 3, 2, 2),
        "module.trunk.2.1.bn1.weight": (3,),
        "text.embeddings.word_embeddings.weight": (5, 2),
        "module.head.weight": (7, 2),
        "module.head.bias": (7,),
        "module.trunk.1.running_mean": (4,),
    }
    shapes = {name: x.shape for name, x in filled.flat(variables).items()}
    again = t.read(whole, tensors, shapes)
    for name, x in filled.flat(variables).items():
        np.testing.assert_array_equal(filled.flat(again)[name], x, err_msg=name)
    assert t.renamed(whole, {"module.trunk.fc.weight": np.zeros(3)}) == {}


def test_stacked_tensors_split_in_order():
    """torch's packed in_proj_weight is query, key, value from top to bottom, each (out, in)."""
    table = t.Table(rows=(t.row("in_proj_weight", ["query/kernel", "key/kernel", "value/kernel"], t.LINEAR),))
    packed = np.arange(18, dtype=np.float32).reshape(6, 3)
    shapes = {f"params/{n}/kernel": (3, 2) for n in ("query", "key", "value")}
    params = t.read(table, {"in_proj_weight": packed}, shapes)["params"]
    np.testing.assert_array_equal(params["key"]["kernel"], packed[2:4].T)
    np.testing.assert_array_equal(t.write(table, {"params": params})["in_proj_weight"], packed)


def test_a_parameter_that_no_row_covers_is_an_error_of_the_table():
    with pytest.raises(ValueError, match="the table has no row for: params/new/kernel"):
        t.read(t.Table(rows=t.linear("head", "head")), {}, {"params/new/kernel": (2, 2)})


def test_long_lists_are_cut():
    tensors = {f"t{i}": np.zeros(1, np.float32) for i in range(30)}
    with pytest.raises(ValueError, match=r"t11 \(1,\) and 18 more$"):
        t.read(t.Table(rows=()), tensors, {})
