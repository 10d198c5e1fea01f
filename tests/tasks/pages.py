"""Two small evaluations with their pages, and texts that would break a page that does not escape them."""
from medvlp_jax.method import Method
from medvlp_jax.tasks import evaluation, suite
from tests.tasks import fakes

EVIL = "<script>alert('x')</script><img src=\"http://example.org/a.png\" onerror=\"alert(1)\"> & more"
TASKS = {"zeroshot": {"resamples": 30}, "grounding": {"resamples": 30}, "retrieval": {"gallery": 16, "resamples": 30}}
PLACE = {"dataset": "phantom", "split": "test", "protocol": "default", "step": 7}


def items(n: int = 64) -> list[dict]:
    out = fakes.examples(n)
    for i, example in enumerate(out):
        example["report"] = f"{example['report']} {EVIL}"
        example["attributes"] = {"sex": "MF"[i // 2 % 2], "age": 30 + 40 * (i // 2 % 2), "view": ["PA", "AP"][i % 2]}
    return out


def evaluate(workdir, predict, tasks=TASKS, examples=None, place=PLACE, **facts):
    """Evaluates fakes as `medvlp_jax.evaluate` would, without its page."""
    batches = fakes.batches(examples or items(), size=16)
    evaluation.describe(workdir, place, {"data_fingerprints": {"test": "f1"}, "tasks": suite.settings(tasks),
                                         "versions": {"jax": "1.2.3"}, "config": {"data": {"path": EVIL}}, **facts})
    return suite.evaluate(Method(None, None, predict), {}, tasks, batches, workdir, place["step"], dataset=place["dataset"],
                          validation_fn=batches, facts={"data": "f1", "checkpoint": "c"}, raise_failed=False)
