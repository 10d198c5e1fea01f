"""Random input to everything that parses: it is read, or refused by the error that is promised."""
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlp_jax.input import decode, masks, records
from medvlp_jax.input.columns import label_names, mask_paths, parse_json
from medvlp_jax.input.manifest import ManifestSource
from medvlp_jax.reports import radgraph, sections, triplets, vocab
from medvlp_jax.reports.rules import extract
from tests.input.test_manifest import write

FAST = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=40)
JSON = st.recursive(st.none() | st.booleans() | st.integers(-3, 9) | st.floats() | TEXT,
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["label", *"xywh", "a"]), inner,
                                                                                max_size=6), max_leaves=12)  # fmt: skip
WORDS = st.lists(st.sampled_from(
    "no not effusion effusions pneumothorax left right bilateral lower lobe or and , . ; : \n \n\n FINDINGS: IMPRESSION: 1. "
    "___ XXXX without possible may represent cannot be excluded heart normal size is are the There tube in place unchanged "
    "versus resolved but otherwise clear lungs e.g. Dr. 3.5 cm T12".split(" ")), max_size=30).map(" ".join)


@FAST
@given(st.dictionaries(st.sampled_from("labels absent uncertain report boxes masks severity mentions".split()), JSON))
def test_any_row_is_read_or_refused_by_line(tmp_path, row):
    path = write(tmp_path, [row], images=False)
    try:
        source = ManifestSource(path, "train")
    except ValueError as e:
        assert "line 1" in str(e)
        return
    matrix = source.presence(source.table[0])
    assert matrix.shape == (len(vocab.POSITIONS), len(vocab.ENTITIES)) and set(np.unique(matrix)) <= {-1, 0, 1, 2}
    truth = source.truth(0)
    assert set(truth["finding_labels"].values()) <= {-1, 0, 1} and all(len(b) == 5 for b in truth["boxes"])
    assert isinstance(source.text(0), str)


@FAST
@given(JSON, st.sampled_from(["boxes", "masks", "severity", "mentions"]), st.booleans())
def test_any_json_column(value, column, as_text):
    default = [] if column in ("boxes", "mentions") else {}
    try:
        out = parse_json({column: json.dumps(value) if as_text else value}, column, default)
    except ValueError as e:
        assert f"column {column!r} is not as expected" in str(e)
    else:
        assert isinstance(out, type(default))


@FAST
@given(st.text(max_size=60))
def test_any_run_lengths(text):
    try:
        assert masks.from_rle("rle:" + text).dtype == bool
    except decode.ImageError as e:
        assert e.reason == "unreadable"


@FAST
@given(st.one_of(WORDS, TEXT))
def test_any_report(text):
    found = sections.sections(text)
    assert all(part.strip() == part and part for part in found.values())
    used = sections.report_text(text)
    spans = sections.sentences(used)
    assert all(a < b <= len(used) for a, b in spans) and all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False))
    said = extract(used)
    assert all(0 <= m.start < m.end <= len(used) and m.exists in (0, 1, 2) for m in said)
    assert triplets.presence(said).shape == (51, 75) and extract(used) == said


ENTITY = st.fixed_dictionaries({
    "tokens": st.sampled_from(["effusion", "left", "lung", "Pleural", "", "clear", "é"]),
    "label": st.sampled_from(["ANAT-DP", "OBS-DP", "OBS-DA", "OBS-U", "Observation::uncertain", "other"]),
    "start_ix": st.integers(-1, 8), "end_ix": st.integers(-1, 9),
    "relations": st.lists(st.tuples(st.sampled_from(["modify", "located_at", "suggestive_of", "x"]),
                                    st.sampled_from(["1", "2", "3", "9"])).map(list), max_size=2),
})  # fmt: skip


@FAST
@given(WORDS, st.dictionaries(st.sampled_from(["1", "2", "3"]), ENTITY, max_size=3), st.booleans())
def test_any_radgraph_entry(text, entities, published):
    try:
        out = radgraph.mentions({"text": text, "entities": entities}, published)
    except (KeyError, ValueError) as e:
        assert "starts at token" in str(e) or "end" in str(e)
    else:
        assert triplets.presence(out).shape == (51, 75) and all(0 <= m.start <= m.end <= len(text) for m in out)


@FAST
@given(JSON)
def test_any_radgraph_file(tmp_path, value):
    path = tmp_path / "graphs.json"
    path.write_text(json.dumps({"p10/p1/s2.txt": value}))
    try:
        radgraph.read(path)
    except (KeyError, ValueError) as e:
        assert str(e)


@FAST
@given(st.binary(max_size=80))
def test_any_record(data):
    with pytest.raises(decode.ImageError, match="damaged record"):
        records.Example(data)


@FAST
@given(st.one_of(TEXT, st.lists(JSON), st.none(), st.integers()))
def test_any_labels(value):
    try:
        names = label_names({"labels": value})
    except ValueError as e:
        assert "column 'labels' is not as expected" in str(e) and not isinstance(value, str | list | None)
        return
    assert all(isinstance(name, str) and name == name.strip() and name for name in names)
    assert mask_paths({"mask": value}) == ({"lung": [str(value)]} if value else {})
