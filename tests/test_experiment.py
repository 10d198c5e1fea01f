"""What a run is put together from, and the mistakes that are found before it starts."""
import jax
import numpy as np
import pytest

from medvlp_jax import cli, errors, evaluate, experiment, trees
from medvlp_jax.input import tokens
from tests import tiny
from tests.test_initial_weights import save_bert

pytestmark = pytest.mark.usefixtures("optax_promotion")


def build(tmp_path, method="medklip", **overrides):
    return experiment.build(tiny.run_config(method, **overrides), tmp_path)


@pytest.mark.parametrize("method", ["mlip", "medklip"])
def test_the_paper_variant_says_what_it_needs_and_where_to_get_it(tmp_path, method):
    config = cli.load_config(f"configs/{method}.py:mimic_cxr")
    with pytest.raises(ValueError) as error:
        experiment.build(config, tmp_path)
    text = str(error.value)
    assert "variant 'mimic_cxr' does not start without:" in text and "--config.data.path=...: " in text
    keys = {"mlip": ("model.image.init", "model.text.init"), "medklip": ("knowledge.init",)}[method]
    assert all(f"--config.{key}=...: " in text for key in keys) and "hf:emilyalsentzer/Bio_ClinicalBERT" in text
    config.data.path = "there.csv"
    with pytest.raises(ValueError) as error:
        experiment.check_required(config)
    assert "--config.data.path" not in str(error.value)


@pytest.mark.parametrize("name", ["mlip", "medklip", "mlip.py:manifest", "medklip.py:manifest", "mlip.py:mimic_cxr"])
def test_no_variant_but_the_quickstart_trains_on_a_random_knowledge_encoder_unasked(name):
    config = cli.load_config(f"configs/{name}" if ".py" in name else f"configs/{name}.py")
    with pytest.raises(ValueError, match="--config.knowledge.init=...: .*only by the explicit word: random"):
        experiment.check_required(config)
    config.required = tuple((key, how) for key, how in config.required if key == "knowledge.init")
    config.knowledge.init = "random"
    experiment.check_required(config)


@pytest.mark.parametrize("name", ["mgca", "convirt", "tasks/linear"])
def test_methods_without_entities_ask_for_no_knowledge_encoder(name):
    assert "knowledge.init" not in dict(cli.load_config(f"configs/{name}.py:manifest").required) or (
        cli.load_config(f"configs/{name}.py:manifest").knowledge.init == "random")


def test_the_text_weights_are_the_knowledge_encoder_where_no_other_is_named(tmp_path):
    init = save_bert(tmp_path / "bert", words=60)
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join([*tokens.SPECIAL, *(f"w{i}" for i in range(55))]))
    text = {"model/text": {"size": "base", "init": init, "vocab_size": 0, "dropout": 0.0}}
    exp = build(tmp_path / "run", "mlip", **{**text, "knowledge/init": ""})
    assert exp.config.knowledge.init == init
    assert build(tmp_path / "run", "mlip", **{**text, "knowledge/init": "random"}).config.knowledge.init == "random"


def test_the_log_says_which_encoder_made_the_knowledge_table(tmp_path, caplog):
    with caplog.at_level("INFO"):
        exp = build(tmp_path)
        exp.tables  # noqa: B018
    assert "encoded by a random BERT (tiny, seed 0): its vectors carry no medical knowledge" in caplog.text
    assert "knowledge table of 75 entities and 51 positions, SHA-256 " in caplog.text


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("dtype", "float23", "unknown dtype 'float23'; known: float32, bfloat16"),
        ("sharding", "zero", "unknown sharding 'zero'; known: replicated, fsdp"),
        ("evals/split", "tset", "unknown evals.split 'tset'; known: train, val, test"),
        ("schedule/kind", "linear", "unknown schedule.kind 'linear'; known: cosine, medklip_published"),
        ("data/batch_size", 0, "data.batch_size must be positive, came 0"),
        ("data/eval_batch_size", -1, "data.eval_batch_size must be positive"),
        ("rng", "philox", "unknown rng 'philox'; known: threefry, rbg"),
        ("train/max_bad_steps", -1, "train.max_bad_steps must be at least 0, came -1"),
        ("train/bad_steps_window", 0, "train.bad_steps_window must be at least 1, came 0"),
        ("train/eval_every", "5 min", "train.eval_every='5 min': expected a number of steps or epochs"),
        ("mesh/fsdp", 3, "does not use the 8 devices exactly"),
    ],
)
def test_values_that_cannot_be_meant(tmp_path, key, value, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **{key: value})
    assert not list(tmp_path.iterdir())  # found before anything slow or lasting was done


def test_unknown_method(tmp_path):
    config = tiny.run_config("medklip")
    config.method = "clip"
    with pytest.raises(ValueError, match="unknown method 'clip'; known: mlip, medklip"):
        experiment.build(config, tmp_path)


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("evals/tasks", ("zeroshot", "ground"), "unknown task 'ground'; known: classification, detection, .*zeroshot"),
        ("evals/tasks", ("zeroshot,ground",), "unknown task 'ground'"),
        ("evals/options", {"zero_shot": {}}, "unknown task 'zero_shot'"),
        ("evals/options", {"zeroshot": {"findngs": None}}, "evals.options.zeroshot .* does not fit the task: .*'findngs'"),
        ("evals/options", {"zeroshot": {"findings": ("flu",)}}, "finding 'flu' is no entity"),
    ],
)
def test_mistakes_in_the_evaluation_are_found_before_training(tmp_path, key, value, message):
    exp = build(tmp_path, **{key: value})
    with pytest.raises(ValueError, match=message):
        evaluate.check(exp)


def test_tasks_that_the_method_cannot_do_are_left_out_unless_asked_for(tmp_path):
    exp = build(tmp_path)
    assert list(evaluate.task_options(exp)) == ["zeroshot", "grounding"]
    assert list(evaluate.task_options(exp, ["grounding"])) == ["grounding"]
    with pytest.raises(ValueError, match="this method cannot predict 'embed_text'|cannot predict"):
        evaluate.check(exp, ["retrieval"])


def test_steps_of_an_epoch_and_of_a_run(tmp_path):
    exp = build(tmp_path, **{"train/steps": 0, "train/epochs": 3})
    assert exp.steps_per_epoch == 4 and exp.total_steps == 12  # 64 examples, batches of 16
    assert build(tmp_path, **{"data/phantom_sizes": {"train": 79, "val": 1, "test": 1}}).steps_per_epoch == 4
    assert build(tmp_path, **{"train/steps": 5, "train/epochs": 3}).total_steps == 5
    with pytest.raises(ValueError, match="nothing to train: train.steps=0, train.epochs=0"):
        build(tmp_path, **{"train/steps": 0, "train/epochs": 0}).total_steps  # noqa: B018
    with pytest.raises(ValueError, match="data.batch_size=80 is more than the 64 training examples"):
        build(tmp_path, **{"data/batch_size": 80}).train_iterator()
    with pytest.raises(ValueError, match="data.batch_size=12 must be a multiple of the 8 devices that share a batch"):
        build(tmp_path, **{"data/batch_size": 12}).train_iterator()
    with pytest.raises(ValueError, match="model.microbatches=3 must divide data.batch_size=16"):
        build(tmp_path, **{"model/microbatches": 3}).train_iterator()


def test_a_batch_that_does_not_divide_says_what_would(tmp_path):
    sizes = {"data/phantom_sizes": {"train": 200, "val": 1, "test": 1}}
    for batch, fits in ((44, "40 or 48, or data.batch_per_device=5"), (5, "8, or data.batch_per_device=1")):
        with pytest.raises(ValueError, match=f"{batch} must be a multiple of the 8 devices that share a batch: {fits}"):
            build(tmp_path, **sizes, **{"data/batch_size": batch}).train_iterator()


@pytest.mark.parametrize("mesh, parts", [({"data": 8}, 8), ({"data": 2, "fsdp": 2, "tensor": 2}, 4)])
def test_the_batch_of_a_device_decides_the_global_one(tmp_path, mesh, parts):
    exp = build(tmp_path, mesh=mesh, **{"data/batch_per_device": 6, "data/batch_size": 144})
    assert exp.config.data.batch_size == 6 * parts == exp.abstract_batch()["image"].shape[0]
    with pytest.raises(ValueError, match="data.batch_per_device must be at least 0, came -1"):
        build(tmp_path, **{"data/batch_per_device": -1})


@pytest.mark.parametrize("warmup, steps", [(0.25, 5), (0.0, 0), (3, 3), (0.99, 19)])
def test_warm_up_is_a_share_of_the_run_or_steps(tmp_path, warmup, steps):
    schedule = {"schedule/warmup": float(warmup), "schedule/lr": 1.0, "schedule/start_lr": 0.0, "schedule/final_lr": 0.0}
    curve = [float(build(tmp_path, **{"train/steps": 20, **schedule}).schedule(np.int32(s))) for s in range(21)]
    assert int(np.argmax(curve)) == steps and curve[steps] == 1 and curve[20] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(curve[: steps + 1], np.linspace(0, 1, steps + 1) if steps else [1], rtol=1e-5)


def test_published_schedule_counts_epochs(tmp_path):
    """The tiny run has 4 steps an epoch: its warm-up of 5 epochs, in hundreds of steps, never gets beyond the start."""
    rates = {"schedule/lr": 1.0, "schedule/start_lr": 0.1, "schedule/final_lr": 0.0, "schedule/warmup": 0.05}
    published = {"schedule/kind": "medklip_published", "train/epochs": 100}
    schedule = build(tmp_path, **{**rates, **published}).schedule
    want = {0: 0.1, 3: 0.1, 4: 0.5 * (1 + np.cos(np.pi / 100)), 7: 0.5 * (1 + np.cos(np.pi / 100)), 200: 0.5}
    np.testing.assert_allclose([float(schedule(np.int32(s))) for s in want], list(want.values()), rtol=1e-5)


def test_a_warm_up_longer_than_the_run(tmp_path):
    with pytest.raises(ValueError, match=r"warmup_steps must be in \[0, total_steps=6\), came 6"):
        build(tmp_path, **{"schedule/warmup": 6.0}).schedule  # noqa: B018


def test_the_optimizer_is_that_of_the_config(tmp_path, caplog):
    exp = build(tmp_path, "mlip", **{"optim/freeze": ("^text_encoder/",), "optim/freeze_until_epoch": (("prototypes$", 1.5),)})
    params = jax.eval_shape(lambda t: exp.init_variables(0, t), exp.tables)["params"]
    names = trees.flatten(jax.eval_shape(exp.optimizer(params).init, params))
    assert not any("text_encoder" in name for name in names) and any("image_encoder" in name for name in names)
    assert any(name.endswith("/count") for name in names)
    for bad in ({"optim/freeze": ("^txt/",)}, {"optim/rates": (("^txt/", 0.1),)}):
        with pytest.raises(ValueError, match=r"pattern '\^txt/' matches no parameter"):
            build(tmp_path, "mlip", **bad).optimizer(params)


def test_leaving_out_the_prototypes_does_not_stop_the_run(tmp_path, caplog):
    """Their default freezing rule has nothing to freeze then."""
    exp = build(tmp_path, "mlip", **{"losses/category": 0.0})
    params = jax.eval_shape(lambda t: exp.init_variables(0, t), exp.tables)["params"]
    exp.optimizer(params).init(params)
    assert "optim.freeze_until_epoch: 'prototypes$' matches no parameter" in caplog.text


def test_splits_are_opened_when_asked_for(tmp_path):
    exp = build(tmp_path)
    assert exp.fingerprints == {}
    assert exp.has_split("test") and exp.source("test") is exp.source("test") and exp.source("train").split == "train"
    assert set(exp.fingerprints) == {"test", "train"} and len(set(exp.fingerprints.values())) == 2


def test_a_manifest_without_a_split_and_one_that_is_broken(tmp_path):
    path = tmp_path / "my.csv"
    path.write_text("image,report,split\nmissing.png,No effusion is seen.,train\ngone.png,Small left effusion.,val\n")
    config = {"data/name": "manifest", "data/path": str(path)}
    assert not build(tmp_path, **config).has_split("test")
    with pytest.raises(ValueError, match="100.0% of the rows cannot be used"):
        build(tmp_path, **config).has_split("val")  # not the same as having none
    with pytest.raises(ValueError, match="data.name=manifest needs --config.data.path"):
        build(tmp_path, **{"data/name": "manifest"}).train_iterator()
    with pytest.raises(FileNotFoundError):
        build(tmp_path, **{**config, "data/path": str(tmp_path / "your.csv")}).train_iterator()


def test_the_workdir_is_tried_at_once(tmp_path):
    assert experiment.make_workdir(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert not list((tmp_path / "a" / "b").iterdir())  # the probe is gone
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="workdir .*/file/run cannot be written: .*; give another --workdir") as error:
        experiment.make_workdir(tmp_path / "file" / "run")
    assert isinstance(error.value, errors.UserError)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("")
    with pytest.raises(OSError, match="workdir .*/run cannot be written: checkpoints is a file there; give another"):
        experiment.make_workdir(tmp_path / "run")


def test_the_default_workdir_names_method_and_variant():
    assert experiment.default_workdir(tiny.config("mlip")) == "runs/mlip-quickstart"
    assert experiment.default_workdir(cli.load_config("configs/medklip.py")) == "runs/medklip"


@pytest.mark.parametrize("method", ["mlip", "medklip"])
def test_paper_configs_have_the_papers_sizes(tmp_path, method):
    """Shapes only: parameters of the trunks as published (ViT-B/16 85.8 M, BERT-base 109 M, ResNet-50 to stage 3 8.5 M)."""
    config = cli.load_config(f"configs/{method}.py")
    config.data.batch_size, config.knowledge.init = 16, "random"
    exp = experiment.build(config, tmp_path)
    tables = {k: jax.ShapeDtypeStruct((n, 768), np.float32) for k, n in (("entities", 75), ("positions", 51))}
    params = jax.eval_shape(lambda t: exp.init_variables(0, t), tables)["params"]
    million = {name: trees.count(params[name]) / 1e6 for name in params if name.endswith("_encoder")}
    if method == "mlip":
        vocabulary = 768 * (30522 - exp.tokenizer.vocab_size) / 1e6  # ours is smaller
        assert million["image_encoder"] == pytest.approx(85.8, abs=0.1)
        assert million["text_encoder"] == pytest.approx(109.5 - 0.6 - vocabulary, abs=0.5)  # without the pooler
    else:
        assert million["image_encoder"] == pytest.approx(8.5, abs=0.1)
