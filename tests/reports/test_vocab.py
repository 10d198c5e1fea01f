import pytest

from medvlp_jax.reports import aliases, vocab
from tests import golden


def test_names_and_order_are_the_published_ones():
    facts = golden.load("medklip_labels")[0]["facts"]
    assert list(vocab.ENTITIES) == facts["observations"] and list(vocab.POSITIONS) == facts["anatomies"]
    assert set(vocab.NORMAL) == set(facts["normal_observations"])
    assert set(vocab.RADGRAPH_EXCLUDED) == set(facts["excluded_observations"])
    assert [vocab.entity_index(name) for name in facts["chestxray14_query_names"]] == facts["chestxray14_to_query"]


def test_every_alias_names_an_entity_by_one_relation():
    relation = {}
    for table in (aliases.SAME, aliases.NARROWER, aliases.BROADER, aliases.RELATED, aliases.QUALIFIERS):
        for entity, names in table.items():
            assert entity in vocab.ENTITIES and len(set(names)) == len(names)
            for name in names if table is not aliases.QUALIFIERS else ():
                assert relation.setdefault(vocab._key(name), table) is table, name  # one relation, to one entity or several
                assert name not in (*aliases.NO_ENTITY, *aliases.INCOMPLETE)
    for table in (aliases.SAME, aliases.BROADER):
        assert vocab.TAIL not in table and vocab.EXCLUDED not in table  # the catch-all is never absent


@pytest.mark.parametrize("label, entity", [
    ("Pleural_Thickening", "thicken"), ("Infiltration", "infiltrate"), ("Fibrosis", "tail_abnorm_obs"),
    ("COVID-19", "pneumonia"), ("Lung Opacity", "opacity"), ("No Finding", "normal"), ("Normal", "normal"),
    ("Pleural Effusion", "effusion"), ("pleural-effusion", "effusion"), ("Enlarged Cardiomediastinum", "widen"),
    ("Nodule/Mass", "nodule"), ("Aorta, Thoracic/tortuous/mild", "tortuous"), ("Lung/hypoinflation", "low"),
    ("Opacity/lung/base/left", "opacity"), ("Diaphragm/right/elevated", "elevation"), ("Support Devices", "device"),
    ("pneumonia", "pneumonia"), ("Hernia", "hernia"), ("costophrenic angle blunting", "blunt"),
])
def test_lookup(label, entity):
    assert vocab.lookup(label) == vocab.require(label) == entity


def test_all_labels_of_chestxray14_and_chexpert_are_known():
    nih = ("Atelectasis Cardiomegaly Consolidation Edema Effusion Emphysema Fibrosis Hernia Infiltration Mass Nodule "
           "Pleural_Thickening Pneumonia Pneumothorax").split()
    queries = golden.load("medklip_labels")[0]["facts"]["chestxray14_query_names"]
    assert {vocab.require(label) for label in nih} == set(queries)
    for label in ("Cardiomegaly|Lung Lesion|Edema|Pneumonia|Atelectasis|Pleural Other|Fracture|Aortic enlargement|ILD|"
                  "Lung cavity|Mediastinal shift|Pulmonary fibrosis|Rib fracture|Foreign object").split("|"):
        vocab.require(label)


def test_unknown_labels():
    for label in ("Technical Quality of Image Unsatisfactory", "No Indexing", "", "Nipple Shadow/bilateral", "/"):
        assert vocab.lookup(label) is None
    with pytest.raises(KeyError, match="did you mean 'pleural thickening'"):
        vocab.require("Plueral Thickening")


def test_indices_are_strict():
    assert vocab.entity_index("normal") == 0 and vocab.position_index("other") == 50
    with pytest.raises(KeyError, match="did you mean 'effusion'"):
        vocab.entity_index("efusion")
    with pytest.raises(KeyError, match="left_pleural"):
        vocab.position_index("left_plural")
