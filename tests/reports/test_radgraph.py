import json

import numpy as np
import pytest

from medvlp_jax.reports import radgraph
from medvlp_jax.reports.lemmas import lemma
from medvlp_jax.reports.triplets import candidate_positions, existence_labels, presence
from tests import golden


@pytest.fixture(scope="module")
def case():
    return golden.load("medklip_labels")


def test_lemmas_of_the_golden_list(case):
    lemmas = case[0]["lemmas"]
    assert {word: lemma(word) for word in lemmas} == lemmas


@pytest.mark.parametrize("word, base", [
    ("apices", "apex"), ("pneumothoraces", "pneumothorax"), ("bronchiectases", "bronchiectasis"),
    ("diseases", "disease"), ("processes", "process"), ("pelvis", "pelvis"), ("calcified", "calcify"),
    ("distended", "distend"), ("collapsed", "collapse"), ("retained", "retain"), ("excluded", "exclude"),
    ("worsening", "worsen"),
    ("unchanged", "unchanged"), ("thickening", "thickening"), ("Crowding", "crowd"), ("treated", "treat"),
    ("gas", "gas"),
])
def test_lemma_forms(word, base):
    assert lemma(word) == base


def test_published_items(case):
    meta = case[0]
    got = [[r.source, r.token, str(r.token_ix), r.label, r.relation, r.target, str(r.sentence_ix),
            radgraph.study_id(key)] for key, entry in meta["radgraph_input"].items()
           for r in radgraph.itemise(entry, published=True)]
    want = [["" if x != x else x for x in (*row[:7], row[9])] for row in meta["itemized"]["rows"]]
    assert got == want


def test_published_observations(case):
    meta = case[0]
    got = []
    for key, entry in meta["radgraph_input"].items():
        for o in radgraph.observe(radgraph.itemise(entry, published=True)):
            group = radgraph.entity(radgraph.merged_lemma(o.observation, published=True))
            got.append((radgraph.study_id(key), str(o.sentence_ix), o.anatomy, o.observation, o.label, o.modify,
                        o.suggestive, group, radgraph.landmark(o.anatomy)))
    c = {name: i for i, name in enumerate(meta["parsed"]["columns"])}
    names = ("study_id", "sen_id", "anatomy", "observation", "label", "obs_modify", "obs_suggestive", "obs_lemma_grp",
             "landmark_name")
    assert sorted(got) == sorted(tuple(row[c[n]] or "" for n in names) for row in meta["parsed"]["rows"])


def test_published_matrix_and_labels(case):
    meta, _, _, out = case
    by_study = radgraph.read(meta["radgraph_input"], published=True)
    assert list(by_study) == meta["study_ids"]
    matrix = np.stack([presence(mentions) for mentions in by_study.values()])
    np.testing.assert_array_equal(matrix, out["adj_matrix"])
    labels = np.stack([existence_labels(m) for m in matrix])
    np.testing.assert_array_equal(labels, out["exist_labels"])
    first = np.stack([candidate_positions(m, np.random.default_rng(0))[:, 0] for m in matrix])
    np.testing.assert_array_equal(np.where(labels == 1, first, -1), out["positive_index"])


def test_honest_variant_keeps_sentences_and_uncertainty(case):
    entry = case[0]["radgraph_input"]["p10/p10000005/s50000005.txt"]  # holds "cannot", two tokens to a treebank
    tokens = {r.token: r.sentence_ix for r in radgraph.itemise(entry)}
    shifted = {r.token: r.sentence_ix for r in radgraph.itemise(entry, published=True)}
    assert tokens["Nasogastric"] == 1 and shifted["Nasogastric"] == 0
    assert ("pneumothorax", 2) in {(m.entity, m.exists) for m in radgraph.mentions(entry)}
    assert "pneumothorax" not in {m.entity for m in radgraph.mentions(entry, published=True)}


def test_spans_point_at_the_observation(case):
    for entry in case[0]["radgraph_input"].values():
        words = {e["tokens"] for e in entry["entities"].values()}
        for m in radgraph.mentions(entry):
            assert entry["text"][m.start:m.end] in words


def entities(*rows):
    return {key: {"tokens": token, "label": label, "start_ix": ix, "end_ix": ix, "relations": relations}
            for key, token, label, ix, relations in rows}


def test_rules_of_the_parser():
    text = "Thickening of left pleura . Left base . Edema"
    rows = entities(("1", "Thickening", "OBS-DP", 0, [["located_at", "2"]]),
                    ("2", "left", "ANAT-DP", 2, [["modify", "3"]]), ("3", "pleural", "ANAT-DP", 3, []),
                    ("4", "Left", "ANAT-DP", 5, [["modify", "5"]]),
                    ("5", "base", "ANAT-DP", 6, []), ("6", "Edema", "OBS-U", 8, [["located_at", "5"]]))
    observed = radgraph.observe(radgraph.itemise({"text": text, "entities": rows}))
    # located at a modifier counts; an anatomy without observation gives an empty row; relations end with the sentence
    assert [(o.anatomy, o.observation, o.label) for o in observed] == [
        ("pleural|left", "thickening", "OBS-DP"), ("base|left", "", None), ("unspecified", "", None)]
    assert [(m.entity, m.position) for m in radgraph.mentions({"text": text, "entities": rows})] == [
        ("thicken", "left_pleural")]
    assert [(m.entity, m.position) for m in radgraph.mentions({"text": text, "entities": rows}, published=True)] == [
        ("tail_abnorm_obs", "left_pleural")]  # the published table lacks "thickening"


@pytest.mark.parametrize("anatomy, position", [
    ("lobe|right|lower", "lower_right_lobe"), ("lungs", "lung_volumes"), ("lungs|left", "other"),
    ("left", "left_lung_unspec"),
    ("bases|both", "lung_bases"), ("lingula", "upper_left_lobe"), ("cavoatrial junction", "cavoatrial_junction"),
    ("shoulder", "other"), ("unspecified", "unspecified"), ("heart|border|left", "heart_border"),
])
def test_landmarks(anatomy, position):
    assert radgraph.landmark(anatomy) == position


def test_long_label_names_and_file(tmp_path):
    rows = entities(("1", "effusion", "Observation::definitely absent", 1, []))
    path = tmp_path / "radgraph.json"
    path.write_text(json.dumps({"p1/p2/s3.txt": {"text": "No effusion .", "entities": rows}}))
    assert [(m.entity, m.exists) for m in radgraph.read(path)["3"]] == [("effusion", 0)]


def test_errors(tmp_path):
    with pytest.raises(ValueError, match="needs 'text' and 'entities'"):
        radgraph.mentions({"texts": ""})
    with pytest.raises(KeyError, match="starts at token 9, but the text has 3"):
        radgraph.mentions({"text": "No effusion .", "entities": entities(("1", "effusion", "OBS-DA", 9, []))})
    path = tmp_path / "list.json"
    path.write_text("[]")
    with pytest.raises(ValueError, match="got a list"):
        radgraph.read(path)
