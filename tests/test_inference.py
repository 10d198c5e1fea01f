"""The inference API: its scores are those of `evaluate`, its maps lie where the network looked, its mistakes are explained."""
import functools
import json
import os
import subprocess
import sys

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

import medvlp_jax
from medvlp_jax import checkpoint, evaluate, experiment, inference, loading, method, metrics, run_config, train, weights
from medvlp_jax import knowledge as tables
from medvlp_jax.input import tokens
from medvlp_jax.reports import knowledge, vocab
from medvlp_jax.tasks import common, scores
from tests import tiny
from tests.models import filled

FINDINGS = ["effusion", "Cardiomegaly", "pneumothorax"]
N = 19  # more than one batch of 16


pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(autouse=True, scope="module")
def one_text_encoder():
    """It serves all runs."""
    with pytest.MonkeyPatch.context() as patch:
        once = functools.cache(lambda make: make(tiny.run_config("medklip").knowledge, tokens.load()))
        patch.setattr(tables, "encoder", lambda k, fallback, make=tables.encoder: once(make))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A manifest of PNG and JPEG files of several sizes with random labels -> (its path, image paths, labels (N, 3))."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    labels = rng.integers(0, 2, (N, len(FINDINGS)))
    labels[0], labels[1] = 1, 0
    paths, rows = [], []
    for i, row in enumerate(labels):
        shape = [(64, 64), (50, 70), (200, 150)][i % 3]
        picture = cv2.resize(rng.integers(0, 256, (6, 6), np.uint8), shape[::-1], interpolation=cv2.INTER_CUBIC)
        paths.append(str(folder / f"{i}.{('png', 'jpg')[i % 2]}"))
        cv2.imwrite(paths[-1], picture)
        names = [name for name, there in zip(FINDINGS, row, strict=True) if there] or ["No Finding"]
        rows.append({"image": paths[-1], "labels": ";".join(names), "split": "test"})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "data.jsonl", paths, labels


class Nowhere:
    """The data position that a checkpoint holds."""

    def get_state(self):
        return {}


@functools.cache
def made(name, folder, manifest):
    """A run of random weights as `train` leaves it -> (its experiment, variables)."""
    settings = {"data/name": "manifest", "data/path": str(manifest), "data/root": "/", "data/image_size": 32, "data/frame": 40,
                "data/examples/eval_frame": 40, "knowledge/standardize": True, "knowledge/init": "encoder",
                "evals/options": {"zeroshot": {"resamples": 0}}, "evals/figures": False}  # fmt: skip
    exp = experiment.build(tiny.run_config(name, **settings), folder)
    variables = filled.variables(exp.method, {**tiny.batch(), "knowledge": exp.tables}, seed=5)
    variables["knowledge"] = exp.tables
    mgr = checkpoint.manager(folder)
    state = {k: v for k, v in variables.items() if k != "params"}
    checkpoint.save(mgr, 7, train.TrainState(jnp.int32(7), variables["params"], state, ()), Nowhere())
    mgr.wait_until_finished()
    mgr.close()
    metrics.write_run_file(folder, exp.config.to_dict())
    return exp, variables


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    """name of a method -> (model as `load` opens it, experiment, variables, folder)."""
    base = tmp_path_factory.mktemp("runs")

    @functools.cache
    def run(name):
        exp, variables = made(name, base / name, data[0])
        return medvlp_jax.load(base / name), exp, variables, base / name

    return run


@pytest.mark.parametrize("name, by, suffix", [("medklip", "auto", ""), ("mlip", "prompts", "_prompts")])
def test_scores_are_those_of_evaluate(runs, data, name, by, suffix):
    model, exp, variables, folder = runs(name)
    records = evaluate.run_tasks(exp, evaluate.placed(exp, variables, folder), folder, 7, ["zeroshot"])
    values = {r["metric"]: r["value"] for r in records}
    got = model.zero_shot(data[1], FINDINGS, by)
    assert got.shape == (N, 3) and got.dtype == np.float32 and model.step == 7
    for i, finding in enumerate(FINDINGS):
        assert values[f"auc{suffix}/{finding}"] == roc_auc_score(data[2][:, i], got[:, i])


def test_every_output_equals_what_evaluation_reads(runs, data):
    """Number by number, through the pipeline's own batches."""
    model, exp, variables, folder = runs("medklip")
    names = ("embed_image", "ground", "score_findings")
    want, _ = common.collect(common.need(exp.method.predict, *names), evaluate.placed(exp, variables, folder),
                             exp.eval_batches("test"), put=exp.put)  # fmt: skip
    np.testing.assert_allclose(model.zero_shot(data[1]), want["score_findings"], atol=1e-6)
    np.testing.assert_allclose(model.embed_image(data[1]), want["embed_image"], atol=1e-6)
    rows = [common.entity_row(f) for f in FINDINGS]
    maps = [outputs["ground"] for _, outputs in model.answers(data[1], FINDINGS, ("ground",))]
    np.testing.assert_allclose(maps, want["ground"][:, rows], atol=1e-6)


def test_nothing_is_compiled_twice(runs, data):
    model = runs("medklip")[0]
    fn = common.need(model._exp.method.predict, "score_findings")
    model.zero_shot(data[1][0], FINDINGS)
    before = fn._cache_size()
    for images in (data[1][1], data[1][:3], data[1], iter(data[1])):
        model.zero_shot(images, ["nodule"])
    assert fn._cache_size() == before == 1


def test_one_image_in_every_form_and_in_any_company(runs, data):
    model, path = runs("medklip")[0], data[1][4]  # a PNG
    array = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
    want = model.zero_shot(data[1], FINDINGS)[4:5]
    for image in (path, array, Image.fromarray(array), np.stack([array] * 3, -1), model.prepare(path), [path]):
        got = model.zero_shot(image, FINDINGS)
        assert got.shape == (1, 3)
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_heat_map_lies_over_the_pixels_of_the_image(runs, data):
    """Against a loop over the pixels; the window that the network sees is cut out of the middle, so the rim is 0."""
    model, exp, _, _ = runs("medklip")
    for path in data[1][:3]:
        image, outputs = next(model.answers(path, ["effusion"], ("ground",)))
        heat, shape = outputs["ground"][0], cv2.imread(path).shape[:2]
        full = model.ground(path, "effusion")
        assert full.shape == shape and full.dtype == np.float32
        size, frame = exp.options.image_size, exp.options.eval_frame
        for y in range(0, shape[0], 7):
            for x in range(0, shape[1], 7):
                at = [(c + 0.5) * frame / n - (frame - size) / 2 for c, n in zip((y, x), shape, strict=True)]  # "stretch"
                inside = all(0 <= a < size for a in at)
                cell = tuple(int(a * 4 // size) for a in at)
                assert full[y, x] == (heat[cell] if inside else 0)
        x, y = model.peak(heat, image)
        assert full[int(y), int(x)] == full.max() > 0 and scores.peak(heat) >= 0
    assert [m.shape for m in model.ground(data[1][:2], "effusion")] == [(64, 64), (50, 70)]
    assert model.peak(np.ones((4, 4)), image) is None


def test_a_finding_by_its_own_description(runs, data):
    """The description of a known entity gives its own vector; MLIP's scores of it are then those of the entity."""
    model, path = runs("mlip")[0], data[1][:2]
    edema = knowledge.load(None).entities[vocab.entity_index("edema")]
    known = model.zero_shot(path, ["edema", "mass"])
    got = model.zero_shot(path, {"mass": "", "what I call edema": edema, "other": "Air where there should be none."})
    np.testing.assert_allclose(got[:, :2], known[:, ::-1], atol=1e-4)
    assert np.abs(got[:, 2] - got[:, 1]).max() > 1e-4
    alone = model.zero_shot(path, {"other": "Air where there should be none."})
    np.testing.assert_allclose(alone[:, 0], got[:, 2], atol=1e-6)  # whatever else is asked
    shifted = model._variables["knowledge"] | {"entities": model._variables["knowledge"]["entities"] + 1}
    foreign = inference.Model(model._exp, model._variables | {"knowledge": shifted}, 7)
    with pytest.raises(ValueError, match="needs the text encoder that the checkpoint's entities were encoded with"):
        foreign.zero_shot(path, {"x": "Air."})


def test_a_random_encoder_takes_no_new_descriptions(runs, data):
    """"A purple bicycle" must not get a score that looks like one."""
    model = medvlp_jax.load(runs("medklip")[3], overrides={"knowledge.init": "random"})
    with pytest.raises(ValueError, match="vectors of a random text encoder .knowledge.init=random."):
        model.zero_shot(data[1][:1], {"x": "A purple bicycle."})
    assert model.zero_shot(data[1][:1], ["edema"]).shape == (1, 1)  # its own entities it knows


def test_text_embeddings(runs):
    model = runs("mlip")[0]
    texts = ["No effusion.", "FINDINGS: Large effusion. IMPRESSION: Normal.", *["Heart size is normal."] * 16]
    got = model.embed_text(texts)
    assert got.shape == (18, 16)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(model.embed_text("No effusion."), got[:1], atol=1e-6)
    sections = model.embed_text("FINDINGS: Large effusion. IMPRESSION: Normal. INDICATION: Cough.")
    np.testing.assert_allclose(sections[0], got[1], atol=1e-6)  # the indication is no part of what is read


MISTAKES = [
    ("medklip", lambda m, p: m.zero_shot(p, ["efusion"]), "unknown finding 'efusion'; did you mean 'effusion'"),
    ("medklip", lambda m, p: m.zero_shot(p, ["zebra"]), "needs a description of its own: {'zebra': '...'}"),
    ("medklip", lambda m, p: m.zero_shot(p, "effusion"), "expected a list of findings, came the text 'effusion'"),
    ("medklip", lambda m, p: m.zero_shot(p, []), "expected findings, each once"),
    ("medklip", lambda m, p: m.zero_shot(p, ["mass", "mass"]), "expected findings, each once"),
    ("medklip", lambda m, p: m.zero_shot([], ["mass"]), "no image is given"),
    ("medklip", lambda m, p: m.zero_shot([p, np.zeros((2, 3, 4, 5))], ["mass"]), "image 1: an image array is (H, W)"),
    ("medklip", lambda m, p: m.zero_shot([p, "no/where.png"], ["mass"]), "image 1 (no/where.png): no image at no/where.png"),
    ("medklip", lambda m, p: m.zero_shot(b"GIF89a", ["mass"]), "image 0: unreadable"),
    ("medklip", lambda m, p: m.zero_shot(p, ["mass"], by="magic"), "unknown by='magic'; known: auto, entity, prompts"),
    ("medklip", lambda m, p: m.zero_shot(p, ["mass"], by="prompts"), "no text embedding; it predicts: embed_image"),
    ("medklip", lambda m, p: m.ground(p, ["mass", "edema"]), "one finding at a time, came 2"),
    ("medklip", lambda m, p: m.embed_text("a b"), "'medklip' has no text embedding"),
    ("convirt", lambda m, p: m.ground(p, "mass"), "method 'convirt' cannot ground findings; it predicts: embed_image"),
    ("convirt", lambda m, p: m.zero_shot(p, ["mass"], by="entity"), "has no score_findings"),
    ("convirt", lambda m, p: m.embed_text(["", "a"]), "each a str that is not empty"),
]


@pytest.mark.parametrize("name, ask, said", MISTAKES)
def test_mistakes_are_explained(runs, data, name, ask, said):
    with pytest.raises(ValueError) as caught:
        ask(runs(name)[0], data[1][0])
    assert said in str(caught.value)


def test_a_method_without_entities_is_asked_by_prompts(runs, data):
    model = runs("convirt")[0]
    free = model.zero_shot(data[1][:2], {"effusion": "", "a zebra": "zebra stripes"})
    assert free.shape == (2, 2) and np.abs(free).max() <= 2
    np.testing.assert_allclose(free[:, :1], model.zero_shot(data[1][:2], ["effusion"], by="prompts"), atol=1e-6)


def test_a_run_loads_without_its_data_and_on_another_mesh(runs, tmp_path):
    folder = runs("medklip")[3]
    for name in ("checkpoints", "run.json"):
        (tmp_path / name).symlink_to(folder / name)
    record = json.loads((folder / "run.json").read_text())
    record["config"] |= {"mesh": {"data": 64, "fsdp": 2}, "required": [["data.path", "gone"]]}
    record["config"]["data"] |= {"path": ""}
    del record["config"]["exclude_entities"]  # as in a run that is older than the key
    record["config"]["model"]["image"] |= {"init": "gone.safetensors"}
    (tmp_path / "run.json").unlink()
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert medvlp_jax.load(tmp_path).prepare(np.eye(50)).shape == (50, 50)
    with pytest.raises(FileNotFoundError, match="3"):
        medvlp_jax.load(tmp_path, step=3)
    with pytest.raises(ValueError, match="no key 'knowlege'.*did you mean"):
        medvlp_jax.load(tmp_path, overrides={"knowlege.init": ""})
    with pytest.raises(ValueError, match="knowledge.seed='x' does not fit the config"):
        medvlp_jax.load(tmp_path, overrides={"knowledge.seed": "x"})
    data = json.loads((folder / "run.json").read_text())["config"]["data"]
    record["config"] |= {"mesh": {"data": -1, "fsdp": 1}, "required": [], "data": data}
    (tmp_path / "run.json").write_text(json.dumps(record))
    found = evaluate.evaluate(run_config.saved(tmp_path), tmp_path, tasks=["zeroshot"])  # nor does it need them here
    assert found[0]["metric"] == "auc_macro" and found[0]["n"] > 0


def test_an_imported_published_checkpoint(tmp_path, monkeypatch):
    trunk = {"name": "resnet", "depth": 18, "width": 8, "num_stages": 3, "init": ""}
    small = tiny.config("medklip", **{"model/image": trunk, "model/num_heads": 4})
    variables = filled.variables(method.get(small), {**tiny.batch(), "knowledge": tiny.tables(128)}, seed=3)
    weights.write(tmp_path / "model.safetensors", weights.to_torch("medklip", variables))
    with pytest.raises(ValueError, match="queries made by its text encoder.*overrides="):
        medvlp_jax.load(tmp_path)
    from configs import medklip as recipe

    monkeypatch.setattr(recipe, "get_config", lambda: small)
    monkeypatch.setattr(loading.knowledge, "tables", lambda *_: tiny.tables(128))
    model = medvlp_jax.load(tmp_path, overrides={"knowledge.init": "clinicalbert"})
    assert model.step == 0 and "score_findings" in model.predicts
    heat = model.ground(np.eye(50), "mass")
    assert heat.shape == (50, 50) and heat.sum() > 0


def test_what_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither a run .no run.json. nor an imported checkpoint"):
        medvlp_jax.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no weights at nowhere"):
        medvlp_jax.load("nowhere")
    weights.write(tmp_path / "model.safetensors", {"cls_token": np.zeros((1, 1, 4), np.float32)})
    with pytest.raises(ValueError, match="of kind 'vit', not a whole model .medklip, mgca."):
        medvlp_jax.load(tmp_path)
    with pytest.raises(ValueError, match="batch_size must be positive, came 0"):
        inference.Model(None, None, 0, 0)


def test_importing_the_package_is_light():
    code = "import sys, medvlp_jax; assert callable(medvlp_jax.load); print({'jax', 'numpy', 'cv2'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
