"""MLIP's terms, total, gradients and predictions against `mlip_oracle`, which was written from the specification."""
import functools
import inspect
import re
import zlib

import jax
import numpy as np
import pytest
from flax import linen as nn

from medvlp_jax import sharding, trees
from medvlp_jax.methods import towers
from medvlp_jax.methods.mlip_module import MLIP
from tests import tiny
from tests.methods import mlip_oracle as oracle

pytestmark = pytest.mark.usefixtures("quick_compiles")

ROWS, GROUP, KEY = 24, 3, 5  # groups of 3 rows: one per device of 8, and two candidates to draw from
# All different, so that no two can be exchanged.
WEIGHTS = {"global_contrast": 1.1, "alignment": 0.7, "knowledge_patch": 0.6, "category": 0.5, "matching": 0.9, "swapping": 0.4,
           "kl": 0.013}  # fmt: skip
RESNET = {"name": "resnet", "depth": 18, "width": 4, "num_stages": 2, "patch_stem": True, "init": ""}
# None is a default of the loss functions, so that a number that is not passed on shows.
NUMBERS = {"temperature": 0.09, "local_temperature": 0.13, "prototype_temperature": 0.25, "sinkhorn_epsilon": 0.08,
           "sinkhorn_iterations": 2, "guidance_weight": 0.8, "matching_group": GROUP}  # fmt: skip
MEAN, STD = (0.4, 0.5, 0.6), (0.3, 0.2, 0.25)
VARIANTS = {
    "all": {},
    "resnet": {"model/image": RESNET, "model/patch_stage": 2, "objective/contrast_chunk": 7,
               "objective/equal_reports": "positives"},
    "plain": {"objective/knowledge_gate": False, "objective/category_guidance": False, "objective/divergence": False,
              "objective/contrast_chunk": 5, "objective/learn_temperature": True, "objective/equal_reports": "negatives"},
}  # fmt: skip


def batch() -> dict[str, np.ndarray]:
    """`tiny.batch` with the rows that are easily got wrong. Groups are rows 0-2, 3-5, ..."""
    out = tiny.batch(ROWS, seed=2)
    assert out["has_report"][3] == 0 and (out["word_ids"][3] >= 0).any()  # has_report decides, not the ids that came along
    # Padding as evaluation makes it: black, no labels, [CLS] only. Row 4 is left without candidates.
    out["valid"][5] = out["has_report"][5] = 0
    for name in ("labels", "word_ids", "swapped_labels"):
        out[name][5] = -1
    for name in ("image", "input_ids", "attention_mask", "swapped_ids", "swapped_mask"):
        out[name][5] = 0
    out["attention_mask"][5, 0] = out["swapped_mask"][5, 0] = 1
    # Two equal reports in one group, and a group of three; a report that mentions nothing, one that mentions only doubt.
    for name in ("input_ids", "attention_mask", "word_ids"):
        out[name][8], out[name][16:18] = out[name][7], out[name][15]
    out["labels"][9], out["labels"][10] = -1, np.where(out["labels"][10] == 1, 2, out["labels"][10])
    # Row 11 fills all tokens; row 12 is one word; the swapped text has other lengths than the report.
    m = tiny.TOKENS
    out["attention_mask"][11], out["input_ids"][11] = 1, np.arange(5, 5 + m)
    out["word_ids"][11] = [-1, *range(m - 2), -1]
    out["word_ids"][12] = np.where(out["word_ids"][12] >= 0, 0, -1)
    for b, length in ((13, 5), (14, m)):
        out["swapped_mask"][b] = np.arange(m) < length
        out["swapped_labels"][b] = [-1, *[i % 2 for i in range(1, length - 1)], *[-1] * (m - length + 1)]
    assert {-1, 0, 1, 2} == set(np.unique(out["labels"])) and out["valid"].sum() == ROWS - 1
    return out


@functools.cache
def world(variant="all"):
    """-> config, module, Method, variables with every parameter and statistic moved away from where it starts."""
    c = tiny.config("mlip", **VARIANTS[variant])
    c.losses.update(WEIGHTS)
    c.objective.update(NUMBERS)
    c.model.divergence_noise = 0.4
    c.normalisation.mean, c.normalisation.std = MEAN, STD
    method = tiny.method(c)
    shapes = jax.eval_shape(method.init, jax.random.key(0), {**batch(), "knowledge": tiny.tables()})
    return c, towers.build(MLIP, c), method, filled(shapes)


def filled(shapes):
    """Random numbers of a fitting size for every leaf, seeded by its name, so that nothing cancels for being 0 or 1."""

    def fill(name, s):
        x = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(s.shape).astype(np.float32)
        last = name.split("/")[-1]
        start = {"scale": 1.0, "var": 1.0, "logit_scale": 5.0, "log_temperature": np.log(0.2)}.get(last, 0.0)
        if last == "var":
            return start + 0.3 * np.abs(x)
        if last == "kernel":
            return x / np.sqrt(np.prod(s.shape[:-1])) * (0.2 if "divergence/mu" in name else 1.0)
        if last in ("embedding", "prototypes", "entities", "positions"):
            return x
        return np.asarray(start + 0.2 * x, np.float32)

    return trees.map_named(fill, shapes)


def numpy_of(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def parts(variables):
    """-> parameters and knowledge table as the oracle takes them."""
    return numpy_of(variables["params"]), np.asarray(variables["knowledge"]["entities"], np.float64)


def trunks_of(c, model, variables, b, train=True):
    """What the encoders alone give for a batch; the images are normalised here."""
    image = ((np.repeat(b["image"] / 255.0, 3, -1) - np.array(MEAN)) / np.array(STD)).astype(np.float32)

    def read(m):
        pooled, of_image = m.image_encoder(image, train)
        tokens, of_text = m.text_encoder(b["input_ids"], b["attention_mask"], train)
        swapped, _ = m.text_encoder(b["swapped_ids"], b["swapped_mask"], train)
        patches = of_image.get("patch_tokens", of_image.get(f"stage{c.model.patch_stage}"))
        return oracle.Trunks(pooled, patches.reshape(ROWS, -1, patches.shape[-1]), of_image.get("attention"), tokens[:, 0],
                             tokens, of_text["attention"], swapped)  # fmt: skip

    variables = {k: v for k, v in variables.items() if k != "knowledge"}
    trunks, _ = jax.jit(nn.apply(read, model, mutable=["batch_stats"]))(variables)
    return oracle.Trunks(*(x if x is None else np.asarray(x, np.float64) for x in trunks))


@functools.cache
def draws(dim=16) -> oracle.Draws:
    """The step's randomness from its key: (dropout, draws); draws: image noise, text noise, negatives: texts, images."""
    _, rng = jax.random.split(jax.random.key(KEY))
    image, text, negatives = jax.random.split(rng, 3)
    texts, images = jax.random.split(negatives)
    shape = (ROWS // GROUP, GROUP, GROUP)
    noise = jax.random.normal(image, (ROWS, dim)), jax.random.normal(text, (ROWS, dim))
    gumbel = jax.random.gumbel(texts, shape), jax.random.gumbel(images, shape)
    return oracle.Draws(*(np.asarray(x, np.float64) for x in (*noise, *gumbel)))


@functools.cache
def terms_of(variant="all"):
    """-> function of (parameters, codes) that gives the oracle's terms of `batch`."""
    c, model, _, variables = world(variant)
    table, trunks = parts(variables)[1], trunks_of(c, model, variables, batch())
    o, model = c.objective.to_dict(), c.model.to_dict()
    return lambda p, codes=None: oracle.terms(p, table, trunks, batch(), draws(), o, model, codes)


@functools.cache
def expected(variant="all") -> dict[str, float]:
    return terms_of(variant)(parts(world(variant)[3])[0])


def split(variables):
    """-> parameters, state."""
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}


def check(loss, terms, want):
    """Every term, and their weighted sum."""
    assert terms.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(terms[name], value, rtol=3e-5, err_msg=name)
    np.testing.assert_allclose(loss, oracle.total(want, WEIGHTS), rtol=3e-5)


@pytest.fixture(scope="module")
def whole():
    """Loss, terms and gradients of the whole objective on one device."""
    _, _, method, variables = world()
    fn = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    (loss, (_, terms)), grads = fn(*split(variables), batch(), jax.random.key(KEY))
    return loss, terms, grads


def test_all_terms_and_their_sum(whole):
    assert min(expected().values()) > 0.01, expected()
    check(*whole[:2], expected())


def test_the_noise_of_images_and_texts_is_drawn_apart():
    """The oracle's draws, which the terms are held to, are those of three different keys."""
    d = draws()
    for a, b in ((d.image_noise, d.text_noise), (d.text_gumbel, d.image_gumbel)):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.3


PARTS = ("_head$", "_divergence$|entity_projection|gate|knowledge_score", "category", "fusion|matching|swapping")


@pytest.mark.parametrize("pattern", PARTS)
def test_gradients_by_finite_differences(whole, pattern):
    """Each group of parameters, everything that is no trunk, along its gradient plus a random direction of equal length.

    The random part sees what the gradient lacks. Codes and negatives stay.
    """
    p, _ = parts(world()[3])
    rng, codes = np.random.default_rng(1), {}
    terms_of()(p, codes)
    inside = trees.map_named(lambda name, x: np.full(x.shape, bool(re.search(pattern, name.split("/")[0]))), p)
    grads = jax.tree.map(lambda g, i: np.asarray(g, np.float64) * i, whole[2], inside)
    noise = jax.tree.map(lambda i: rng.standard_normal(i.shape) * i, inside)

    def dot(a, b):
        return sum((x * y).sum() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))

    along = jax.tree.map(lambda g, n: g / dot(grads, grads) ** 0.5 + n / dot(noise, noise) ** 0.5, grads, noise)
    h = 1e-4

    def at(step):
        return oracle.total(terms_of()(jax.tree.map(lambda x, d: x + step * d, p, along), codes), WEIGHTS)

    np.testing.assert_allclose(dot(grads, along), (at(h) - at(-h)) / (2 * h), rtol=1e-3)


def test_on_8_devices_a_resnet_and_chunks_over_the_mesh():
    """No term depends on where its rows are. The patches of a ResNet all weigh the same."""
    _, _, method, variables = world("resnet")
    mesh = sharding.make_mesh({"data": -1})
    everywhere = jax.device_put(variables, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    with jax.set_mesh(mesh):
        loss, (_, terms) = jax.jit(method.loss)(*split(everywhere), sharding.put(batch(), mesh), jax.random.key(KEY))
    check(loss, terms, expected("resnet"))


def test_without_gate_guidance_and_divergence_in_chunks_with_a_learned_temperature():
    _, _, method, variables = world("plain")
    loss, (_, terms) = jax.jit(method.loss)(*split(variables), batch(), jax.random.key(KEY))
    assert "kl" not in terms
    check(loss, terms, expected("plain"))


def test_dropout_and_statistics_of_training_only_in_training():
    """Which mode every module is called in."""
    _, _, method, variables = world()
    modes = []

    def note(call, args, kwargs, context):
        if "train" in (names := list(inspect.signature(type(context.module).__call__).parameters)[1:]):
            given = {**dict(zip(names, args, strict=False)), **kwargs}
            modes.append((type(context.module).__name__, given.get("train", False)))
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        # A function of its own: jax keeps traces, and a kept one calls no module.
        jax.eval_shape(lambda *args: method.loss(*args), *split(variables), batch(), jax.random.key(0))
        assert {name for name, _ in modes} >= {"ViT", "Bert", "ProjectionHead", "BatchNorm", "FusionDecoder", "DecoderLayer"}
        assert all(mode for _, mode in modes), modes
        modes.clear()
        for fn in method.predict.values():
            jax.eval_shape(lambda *args, fn=fn: fn(*args), variables, batch())
        assert modes and not any(mode for _, mode in modes), modes


def test_predictions():
    """By the running statistics, all parameters away from their start, images of 4 x 3 patches."""
    c, model, method, variables = world()
    b = batch()
    b["image"] = b["image"][:, :, :24]
    got = jax.jit(lambda v, b: {name: fn(v, b) for name, fn in method.predict.items()})(variables, b)
    p, table = parts(variables)
    everyone = np.ones(ROWS, bool)
    trunks = trunks_of(c, model, variables, b, train=False)
    e = oracle.embed(p, table, trunks, b, everyone, everyone, numpy_of(variables["batch_stats"]))
    maps, scores = oracle.knowledge_patch(e.entities, e.patches, p["knowledge_score"], c.objective.local_temperature)
    want = {"embed_image": e.v, "embed_text": e.t, "embed_patches": e.patches, "score_findings": 1 / (1 + np.exp(-scores)),
            "ground": maps.reshape(ROWS, -1, 4, 3)}  # fmt: skip
    assert got.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-5, err_msg=name)
