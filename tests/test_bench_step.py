"""The step of `bench step`: both sides compute the same (with torch), and the report says what was measured (without)."""
import importlib.util
import json
import re

import jax
import numpy as np
import pytest

from medvlp_jax import cli, trees
from medvlp_jax.bench import __main__ as bench
from medvlp_jax.bench import step, turns
from medvlp_jax.weights import resnet, vit
from medvlp_jax.weights import table as t
from tests import tiny

pytestmark = pytest.mark.usefixtures("optax_promotion", "quick_compiles")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the other side needs the torch extra")
RESNET = {"name": "resnet", "depth": 50, "width": 8, "num_stages": 2, "init": ""}


def block(theirs, ours, names=("attention_norm", "mlp_norm")):
    """Rows of a transformer layer of bench/torch_layers.py."""
    return (
        *(row for name in names for row in t.norm(f"{theirs}.{name}", f"{ours}/{name}")),
        *t.linear(f"{theirs}.attention.qkv", [f"{ours}/attention/{n}" for n in ("query", "key", "value")]),
        *t.linear(f"{theirs}.attention.out", f"{ours}/attention/out"),
        *t.linear(f"{theirs}.fc1", f"{ours}/mlp/fc1"),
        *t.linear(f"{theirs}.fc2", f"{ours}/mlp/fc2"),
    )


def decoder(theirs, ours):
    layer, mine = theirs + ".layers.{i}", ours + "/layer{i}"
    cross = f"{mine}/cross_attention"
    return (
        *(row for n in ("norm_self", "norm_cross", "norm_mlp") for row in t.norm(f"{layer}.{n}", f"{mine}/{n}")),
        *t.linear(f"{layer}.self_attention.qkv", [f"{mine}/self_attention/{n}" for n in ("query", "key", "value")]),
        *t.linear(f"{layer}.self_attention.out", f"{mine}/self_attention/out"),
        *t.linear(f"{layer}.cross_attention.q", f"{cross}/query"),
        *t.linear(f"{layer}.cross_attention.kv", [f"{cross}/key", f"{cross}/value"]),
        *t.linear(f"{layer}.cross_attention.out", f"{cross}/out"),
        *t.linear(f"{layer}.mlp_in", f"{mine}/mlp_in"),
        *t.linear(f"{layer}.mlp_out", f"{mine}/mlp_out"),
        *t.norm(f"{theirs}.norm", f"{ours}/norm"),
    )


def same(theirs, ours):
    return t.row(theirs, ours, t.SAME)


def head(name):
    return (
        *t.linear(f"heads.{name}.0", f"{name}_head/dense1"),
        *t.norm(f"heads.{name}.1", f"{name}_head/norm1"),
        *t.linear(f"heads.{name}.3", f"{name}_head/dense2"),
    )


IMAGE, TEXT = "image_encoder", "text_encoder"
TABLES = {
    "mlip": t.Table((
        same(f"{IMAGE}.patch.bias", f"{IMAGE}/patch/bias"),
        t.row(f"{IMAGE}.patch.weight", f"{IMAGE}/patch/kernel", t.CONV),
        t.row(f"{IMAGE}.cls_token", f"{IMAGE}/class_token", t.TOKEN),
        t.row(f"{IMAGE}.pos_embed", [f"{IMAGE}/{name}" for name in vit.POSITIONS], t.POSITIONS),
        *block(f"{IMAGE}.blocks.{{i}}", f"{IMAGE}/block_{{i}}"),
        *t.norm(f"{IMAGE}.norm", f"{IMAGE}/norm"),
        *(same(f"{TEXT}.{n}.weight", f"{TEXT}/{n}/embedding") for n in ("word", "position", "token_type")),
        *t.norm(f"{TEXT}.norm", f"{TEXT}/embedding_norm"),
        *block(f"{TEXT}.blocks.{{i}}", f"{TEXT}/block_{{i}}"),
        *(row for name in ("image", "patch", "text", "token") for row in head(name)),
        same("prototypes", "category/prototypes"),
        *(row for side in ("image", "text") for n, ours in (("hidden_layer",) * 2, ("mu",) * 2, ("offset", "log_var_offset"))
          for row in t.linear(f"{side}_divergence.{n}", f"{side}_divergence/{ours}")),
        *(row for n in ("entity_projection", "gate", "fusion_text", "fusion_image", "matching_head", "swapping_head")
          for row in t.linear(n, n)),
        *decoder("fusion", "fusion"),
        same("scale", "knowledge_score/logit_scale"), same("bias", "knowledge_score/logit_bias"),
    )),
    "medklip": t.join(
        t.moved(resnet.TABLE, lambda name: f"{IMAGE}.{name}", IMAGE),
        t.Table((
            *(row for n in ("patch_hidden", "patch_projection", "query_projection", "existence_head", "location_head")
              for row in t.linear(n, n)),
            *decoder("decoder", "decoder"),
        )),
    ),
}  # fmt: skip


def tiny_config(method):
    overrides = {"model/image": RESNET, "model/patch_stage": 2} if method == "medklip" else {}
    return step.settled(tiny.config(method, **{"knowledge/size": "tiny", "schedule/lr": 1e-3, **overrides}), 16)


def arrays(folder, name):
    return dict(np.load(folder / f"{name}.npz"))


@needs_torch
@pytest.mark.parametrize("method", TABLES)
def test_both_sides_do_the_same_step(method, tmp_path):
    """Same weights, batch and noise, no dropout: loss, terms and gradient norm of the first step, and the loss after it."""
    import torch

    from medvlp_jax.bench import step_ours, torch_step

    torch.set_num_threads(1)
    config = tiny_config(method)
    step.write(tmp_path, config, tiny.VOCABULARY)
    batch, options = tiny.batch(), {}
    ours = step_ours.Trainer(config, arrays(tmp_path, "tables"), batch)
    theirs = torch_step.Trainer(json.loads((tmp_path / "plan.json").read_text()), arrays(tmp_path, "tables"))
    assert "opt-barrier(" in ours.program.as_text()  # see layout.materialize
    assert ours.parameters == theirs.parameters == trees.count(ours.state.params)
    tensors = t.write(TABLES[method], {"params": jax.tree.map(np.asarray, ours.state.params)})
    left = theirs.model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in tensors.items()}, strict=False)
    assert not left.unexpected_keys and all(re.search("running_|num_batches", k) for k in left.missing_keys)
    for number in range(2):
        if method == "mlip":
            _, draws = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), number))
            keys = jax.random.split(draws, 3)[:2]
            shape = (16, config.model.embed_dim)
            options["noise"] = [torch.from_numpy(np.array(jax.random.normal(key, shape))) for key in keys]
        want = theirs.step({k: torch.from_numpy(v) for k, v in batch.items()}, **options)
        got = ours.step()
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-4 if number == 0 else 1e-3, atol=1e-6, err_msg=name)


# A side for the parent to ask, without any library: it takes what its name says, single steps, which are not counted, 99 s.
SIDE = """
import json, sys
for line in sys.stdin:
    seconds = float(sys.argv[1].rsplit("-", 1)[1]) if int(line) > 1 else 99.0
    taken = {"seconds": [seconds] * int(line), "cpu": [2 * seconds] * int(line)}
    print(json.dumps({**taken, "peak": 2_000_000_000, "parameters": 14_464_322}), flush=True)
    if sys.argv[1].startswith("short"):
        break
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Modules of sides that only answer, found by the children through PYTHONPATH."""
    (tmp_path / "stand_in.py").write_text(SIDE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "stand_in"


def test_sides_take_turns_in_processes_of_their_own(stand_in, capsys):
    sides = {name: turns.Side(stand_in, f"side-{seconds}") for name, seconds in (("jax", 3.0), ("torch", 2.0))}
    try:
        results = turns.alternate(sides, 3, 2)
    finally:
        for side in sides.values():
            side.close()
    assert [len(r.turns) for r in results.values()] == [3, 3] and results["jax"].turns == [3.0] * 3
    assert capsys.readouterr().err.count("turn ") == 3
    assert "jax / torch: 1.500, median of 3 turns" in step.table(results)


def test_a_side_that_ends_early_is_an_error(stand_in):
    side = turns.Side(stand_in, "short-1")
    try:
        side.run(1)
        with pytest.raises(RuntimeError, match="stand_in ended with code 0"):
            side.run(1)
    finally:
        side.close()


def result(seconds, parameters=2_000_000, **facts):
    return turns.Result(10.0, seconds, [2.0 * s for s in seconds], 3_000_000_000, {"parameters": parameters, **facts})


def test_the_table_has_medians_spread_and_equal_parameters():
    ours, theirs = result([4.0, 2.0, 9.0], compile=5.0), result([2.0, 2.0, 3.0])
    lines = step.table({"jax": ours, "torch": theirs}).splitlines()
    assert lines[2] == "| jax | 4.00 s | 2.00 - 9.00 s | 8.00 s | 15.0 s | 5.0 s | 3.0 GB | 2.00 M |"
    assert lines[3] == "| torch | 2.00 s | 2.00 - 3.00 s | 4.00 s | 10.0 s | - | 3.0 GB | 2.00 M |"
    assert lines[-2] == "jax / torch: 2.000, median of 3 turns (1.000 - 3.000)"
    assert lines[-1] == "of CPU time: 2.000, median of 3 turns (1.000 - 3.000)"
    with pytest.raises(ValueError, match="unequal numbers of parameters"):
        step.table({"jax": ours, "torch": result([1.0], parameters=3)})


def test_without_torch_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"pip install 'medvlp_jax\[torch\]'"):
        bench.main(["step"])


@pytest.mark.parametrize("method, override, message", [
    ("mlip", {"losses/kl": 0.0}, "losses.kl is 0"),
    ("mlip", {"dtype": "bfloat16"}, "dtype=float32, came bfloat16"),
    ("mlip", {"model/remat": True}, "model.remat=False, came True"),
    ("mlip", {"objective/divergence": False}, "objective.divergence=True, came False"),
    ("mlip", {"model/image": RESNET}, "a ViT"),
    ("medklip", {}, "a ResNet-50"),
    ("medklip", {"model/image": {**RESNET, "batch_norm_rows": 4}}, "batch_norm_rows=0, came 4"),
    ("mgca", {}, "mlip and medklip, not 'mgca'"),
])  # fmt: skip
def test_what_the_torch_side_does_not_have_is_refused(method, override, message):
    with pytest.raises(ValueError, match=message):
        step.settled(tiny.config(method, **override), 4)


def test_both_sides_are_told_the_sizes_of_the_config(tmp_path):
    config = step.settled(cli.load_config("configs/mlip.py"), 2)
    config.data.image_size = 32
    step.write(tmp_path, config)
    plan, batch = json.loads((tmp_path / "plan.json").read_text()), arrays(tmp_path, "batch")
    assert plan["image"]["depth"] == plan["text"]["depth"] == 12 and plan["image"]["width"] == plan["text"]["width"] == 768
    assert plan["text"]["vocab_size"] == step.VOCABULARY == len((tmp_path / "vocab.txt").read_text().splitlines())
    assert plan["text"]["dropout"] == 0.1 and plan["clip_norm"] == 1.0
    assert batch["image"].shape == (2, 32, 32, 1) and batch["input_ids"].shape == (2, config.data.max_tokens)
    assert batch["input_ids"].max() < step.VOCABULARY and (batch["input_ids"][batch["attention_mask"] > 0] >= 5).all()


def test_peak_memory_grows_with_what_was_held():
    before = turns.peak_bytes()
    held = np.ones(200_000_000, np.uint8)
    assert held[0] and turns.peak_bytes() >= max(before, held.nbytes)
