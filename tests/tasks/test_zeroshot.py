import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medvlp_jax.reports import vocab
from medvlp_jax.tasks import common, zeroshot
from tests.tasks import fakes


@pytest.fixture(scope="module")
def items():
    return fakes.examples(60)


def run(predict, items, context=common.DEFAULT, **options):
    return fakes.by_name(zeroshot.make(predict, context, **options)({}, fakes.batches(items)))


def test_perfect_random_and_constant(items):
    perfect, random, constant = (run(p, items) for p in (fakes.PERFECT, fakes.RANDOM, fakes.CONSTANT))
    assert perfect["auc_macro"]["value"] == 1 and perfect["auc_macro"]["ci"] == [1, 1]
    assert perfect["f1_published"]["value"] == 1
    assert constant["auc_macro"]["value"] == 0.5
    assert 0.35 < random["auc_macro"]["value"] < 0.65
    low, high = random["auc_macro"]["ci"]
    assert low < random["auc_macro"]["value"] < high and high - low > 0.03
    assert perfect["auc_macro"]["n"] == 60 and perfect["auc_macro"]["chance"] == 0.5


def test_values_equal_a_plain_loop(items):
    found = run(fakes.RANDOM, items)
    out, _ = common.collect(common.need(fakes.RANDOM, "score_findings"), {}, fakes.batches(items))
    want = {}
    for name in fakes.FINDINGS:
        column = out["score_findings"][:, vocab.entity_index(name)]
        want[name] = roc_auc_score([h["finding_labels"][name] for h in items], column)
        assert found[f"auc/{name}"]["value"] == pytest.approx(want[name])
        assert found[f"auc/{name}"]["positives"] == sum(h["finding_labels"][name] for h in items)
        low, high = found[f"auc/{name}"]["ci"]
        assert low < want[name] < high
    assert found["auc_macro"]["per_class"] == pytest.approx(want)
    assert found["auc_macro"]["value"] == pytest.approx(np.mean(list(want.values())))


def test_perfect_accuracy_by_the_published_rule_misses_the_positives_at_the_threshold(items):
    """Scores 0 and 1 put every positive exactly at the threshold, where the strict > of the program loses them."""
    found = run(fakes.PERFECT, items)
    negatives = [1 - np.mean([h["finding_labels"][f] for h in items]) for f in fakes.FINDINGS]
    assert found["acc_published"]["value"] == pytest.approx(np.mean(negatives))


def test_classes_without_positives_or_negatives_are_listed_not_averaged(items):
    more = {"fracture": 0, "opacity": 1, "Left Lung": 1}
    changed = [{**h, "finding_labels": h["finding_labels"] | more} for h in items]
    found = run(fakes.PERFECT, changed)
    assert set(found["auc_macro"]["per_class"]) == set(fakes.FINDINGS)
    assert found["auc_macro"]["skipped"] == {"fracture": "no positive example", "opacity": "no negative example",
                                             "Left Lung": "not an entity of the table"}
    assert "auc/fracture" not in found


def test_rare_classes_can_be_left_out(items):
    changed = [{**h, "finding_labels": h["finding_labels"] | {"fracture": int(i < 3)}} for i, h in enumerate(items)]
    assert "auc/fracture" in run(fakes.PERFECT, changed)
    found = run(fakes.PERFECT, changed, min_positives=4)
    assert found["auc_macro"]["skipped"] == {"fracture": "3 positive example(s), asked for 4"}


def test_unlabelled_examples_count_for_no_class(items):
    partly = [h if i < 30 else {**h, "finding_labels": {"nodule": h["finding_labels"]["nodule"], "effusion": 2}}
              for i, h in enumerate(items)]
    found = run(fakes.PERFECT, partly)
    assert found["auc/nodule"]["n"] == 60 and found["auc/effusion"]["n"] == 30


def test_no_class_to_evaluate_is_an_error(items):
    with pytest.raises(ValueError, match="no finding has both positive and negative examples: .*nodule"):
        run(fakes.PERFECT, [h for h in items if h["finding_labels"] == items[0]["finding_labels"]][:1])


def test_chosen_findings(items):
    assert set(run(fakes.PERFECT, items, findings=["nodule"])["auc_macro"]["per_class"]) == {"nodule"}
    with pytest.raises(ValueError, match="finding 'nodul' is no entity"):
        zeroshot.make(fakes.PERFECT, findings=["nodul"])


def test_honest_threshold_comes_from_the_validation_batches(items):
    """Validation scores are the labels times 0.8, test scores the labels: 0.8 must be applied to the test."""
    def validation():
        for batch in fakes.batches(fakes.examples(20, seed=1))():
            yield {**batch, "answer_score": batch["answer_score"] * np.float32(0.8)}

    found = run(fakes.PERFECT, items, common.Context(validation=validation))
    assert found["f1_honest"]["value"] == 1 and found["acc_honest"]["value"] == 1
    assert found["f1_honest"]["thresholds"] == {f: pytest.approx(0.8) for f in fakes.FINDINGS}
    assert "f1_honest" not in run(fakes.PERFECT, items)


def test_honest_is_below_published_for_a_random_predictor(items):
    context = common.Context(validation=fakes.batches(fakes.examples(60, seed=9), seed=9))
    found = run(fakes.RANDOM, items, context)
    assert found["f1_honest"]["value"] <= found["f1_published"]["value"]


def test_validation_without_a_class_is_said(items):
    validation = [{**h, "finding_labels": h["finding_labels"] | {"nodule": 0}} for h in fakes.examples(20, seed=1)]
    found = run(fakes.PERFECT, items, common.Context(validation=fakes.batches(validation)))
    assert "nodule" not in found["f1_honest"]["per_class"]
    assert found["f1_honest"]["skipped"] == {"nodule": "validation lacks one of the classes"}
    none = [{**h, "finding_labels": {}} for h in validation]
    found = run(fakes.PERFECT, items, common.Context(validation=fakes.batches(none)))
    assert np.isnan(found["f1_honest"]["value"]) and found["auc_macro"]["value"] == 1


@dataclasses.dataclass
class WordTokenizer:
    """Ids of words; what the fake text encoder below needs."""

    words: dict

    def encode(self, text, max_tokens):
        ids = np.zeros(max_tokens, np.int32)
        for i, word in enumerate(text.replace(".", "").split()[:max_tokens]):
            ids[i] = self.words.setdefault(word, len(self.words) + 1)
        return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int32)}


def prompt_predictors(words: dict, sign: float):
    """Image embedding: +-1 at each finding; text embedding: +-1 at the finding it names, - where it holds a "no"."""
    phrases = [zeroshot.phrase(f).split()[-1] for f in fakes.FINDINGS]
    columns = [vocab.entity_index(f) for f in fakes.FINDINGS]

    def embed_image(variables, batch):
        return fakes.unit(batch["answer_score"][:, np.asarray(columns)] * 2 - 1)

    def embed_text(variables, batch):
        ids = np.asarray([words[p] for p in phrases])  # at trace time every prompt has been encoded
        named = (batch["input_ids"][:, :, None] == ids[None, None]).any(1).astype(np.float32)  # (B, C)
        absent = (batch["input_ids"] == words["no"]).any(1).astype(np.float32)  # (B,)
        return named * (1 - 2 * absent[:, None]) * sign

    return {"embed_image": embed_image, "embed_text": embed_text}


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_prompts(items, sign):
    words = {}
    context = common.Context(tokenizer=WordTokenizer(words))
    found = run(prompt_predictors(words, sign), items, context)
    assert found["auc_macro_prompts"]["value"] == (sign > 0)
    assert set(found) == {"auc_macro_prompts"} | {f"auc_prompts/{f}" for f in fakes.FINDINGS}
    both = run({**prompt_predictors(words, sign), "score_findings": fakes.PERFECT["score_findings"]}, items, context)
    assert both["auc_macro"]["value"] == 1 and both["auc_macro_prompts"]["value"] == (sign > 0)


def test_every_mean_has_an_interval_and_calibration_is_honest(items):
    """The temperature comes from the validation batches: their scores are sure and right, so it sharpens."""
    sharp = {"score_findings": lambda v, b: 0.4 + 0.2 * b["answer_score"]}
    found = run(sharp, items, common.Context(validation=fakes.batches(fakes.examples(30, seed=1))), resamples=50)
    for name in ("ap_macro", "f1_published", "acc_published", "f1_honest", "acc_honest", "ece", "ece_temperature_honest"):
        low, high = found[name]["ci"]
        assert low - 1e-9 <= found[name]["value"] <= high + 1e-9 and found[name]["ci_unit"] == "patient", name
    assert found["ece"]["value"] == pytest.approx(0.4) and found["ece"]["per_class"].keys() == set(fakes.FINDINGS)
    assert found["ece_temperature_honest"]["temperature"] < 0.1 and found["ece_temperature_honest"]["value"] < 0.01
    assert found["ap_macro"]["value"] == 1
    assert "ece_temperature_honest" not in run(sharp, items, resamples=0) and "ci" not in run(sharp, items, resamples=0)["ece"]
    outside = {"score_findings": lambda v, b: 3 * b["answer_score"] - 1}
    assert "ece" not in run(outside, items, resamples=0)  # no probability


def test_subgroups_where_attributes_exist(items):
    who = [{**h, "attributes": {"sex": "MF"[i // 2 % 2]}} for i, h in enumerate(items)]
    found = run(fakes.PERFECT, who, resamples=20)
    assert found["auc_macro/sex=male"]["value"] == 1 and found["auc_macro/sex=female"]["patients"] == 15
    assert not any("=" in name for name in run(fakes.PERFECT, items, resamples=20))


def test_normal_has_no_prompt_pair(items):
    words = {}
    changed = [{**h, "finding_labels": h["finding_labels"] | {"No Finding": i % 2}} for i, h in enumerate(items)]
    found = run(prompt_predictors(words, 1.0), changed, common.Context(tokenizer=WordTokenizer(words)))
    assert found["auc_macro_prompts"]["skipped"] == {"No Finding": "normal: has no prompt pair"}
    assert found["auc_macro_prompts"]["value"] == 1


def test_without_scores_a_tokenizer_is_needed(items):
    with pytest.raises(ValueError, match="give context.tokenizer"):
        zeroshot.make({"embed_image": len, "embed_text": len})
    with pytest.raises(ValueError, match="cannot predict 'score_findings'; it predicts: ground"):
        zeroshot.make({"ground": len})


def test_unseen_entities_by_their_own_table(items):
    """A table of 4 other rows: the names give the columns."""
    names = tuple(reversed(fakes.FINDINGS))
    columns = np.asarray([vocab.entity_index(n) for n in names])
    predict = {"score_findings": lambda v, b: b["answer_score"][:, columns]}
    found = run(predict, items, common.Context(entities=names))
    assert found["auc_macro"]["value"] == 1
