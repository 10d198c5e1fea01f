import json
import re

import pytest

from medvlp_jax.reports import knowledge, vocab


def test_packaged_texts_are_complete_and_distinct():
    k = knowledge.load()
    assert len(k.entities) == 75 and len(k.positions) == 51
    assert len(set(k.entities)) == 75 and len(set(k.positions)) == 51
    for name, text in zip(vocab.ENTITIES, k.entities, strict=True):
        assert 15 <= len(text.split()) <= 45 and text.endswith(".") and text.isascii(), name
    for name, text in zip(vocab.POSITIONS, k.positions, strict=True):
        assert text.startswith("It is located at ") and text.endswith(".") and "_" not in text, name
        for side in ("left", "right"):
            assert (side in name) <= bool(re.search(rf"\b{side}\b", text)), name
    assert re.fullmatch(r"[0-9a-f]{64}", k.digest)


def write(path, entities, positions):
    path.write_text(json.dumps({"entities": entities, "positions": positions}), encoding="utf-8")
    return path


@pytest.fixture
def tables():
    k = knowledge.load()
    return (dict(zip(vocab.ENTITIES, k.entities, strict=True)), dict(zip(vocab.POSITIONS, k.positions, strict=True)))


def test_own_file_in_any_order(tmp_path, tables):
    entities, positions = tables
    same = knowledge.load(write(tmp_path / "k.json", dict(reversed(entities.items())), positions))
    assert same == knowledge.load()
    entities["edema"] = "Water in the lungs."
    other = knowledge.load(write(tmp_path / "k.json", entities, positions))
    assert other.entities[vocab.entity_index("edema")] == "Water in the lungs." and other.digest != same.digest


def test_errors_name_what_is_wrong(tmp_path, tables):
    entities, positions = tables
    bad = {("efusion" if k == "effusion" else k): v for k, v in entities.items()} | {"edema": " "}
    message = "missing: effusion; unknown: efusion; did you mean 'effusion'.*not a text: edema"
    with pytest.raises(ValueError, match=message):
        knowledge.load(write(tmp_path / "k.json", bad, positions))
    positions.pop("svc")
    with pytest.raises(ValueError, match="'positions'.*51 names; missing: svc"):
        knowledge.load(write(tmp_path / "k.json", entities, positions))
    with pytest.raises(ValueError, match="expected a JSON object with 'entities'"):
        knowledge.load(write(tmp_path / "k.json", [], positions))
    (tmp_path / "k.json").write_text("{")
    with pytest.raises(ValueError, match="k.json: not a JSON file"):
        knowledge.load(tmp_path / "k.json")
    with pytest.raises(FileNotFoundError):
        knowledge.load(tmp_path / "none.json")
