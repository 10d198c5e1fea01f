"""Tables: CSV and JSONL as people really write them, and errors that name the line."""
import csv
import io
import json
import pickle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlp_jax.input.rows import COLUMNS, Table


def write(folder, text, name="data.csv", encoding="utf-8"):
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def test_quotes_line_breaks_bom_and_windows_lines(tmp_path):
    text = '\ufeffimage,report,extra\r\na.png,"first line\r\nsecond, with ""quotes""",x\r\n\r\n"b,c.png",,y\r\n'
    table = Table(write(tmp_path, text))
    assert len(table) == 2 and table.lines.tolist() == [2, 5]
    assert table[0] == {"image": "a.png", "report": 'first line\r\nsecond, with "quotes"'}
    assert table[1] == {"image": "b,c.png", "report": ""}


def test_reading_again_and_in_any_order_after_pickling(tmp_path):
    path = write(tmp_path, "image,report\n" + "".join(f"{i}.png,röntgen {i} …\n" for i in range(50)))
    table = pickle.loads(pickle.dumps(Table(path)))
    assert [table[i]["report"] for i in (49, 0, 7)] == [f"röntgen {i} …" for i in (49, 0, 7)]


def test_jsonl_keeps_values(tmp_path):
    lines = [{"image": "a.png", "labels": ["Mass", "Edema"]}, {"image": "b.png", "boxes": [{"label": "x"}], "age": 7}]
    table = Table(write(tmp_path, "\n".join(map(json.dumps, lines)) + "\n\n", "data.jsonl"))
    assert table[0] == {"image": "a.png", "labels": ["Mass", "Edema"], "boxes": None, "age": None}
    assert table[1]["boxes"] == [{"label": "x"}] and table[1]["age"] == 7


def test_own_column_names(tmp_path):
    path = write(tmp_path, "file,findings,report\na.png,Clear lungs.,secret\n")
    table = Table(path, {"image": "file", "report": "findings"})
    assert table[0] == {"image": "a.png", "report": "Clear lungs."}
    assert Table(path, {"image": "file", "report": None}).columns == {"image": "file"}


@pytest.mark.parametrize("text, message", [
    ("", "is empty; expected a header"),
    ("image,report\n", "no rows below its header"),
    ("images,report\na,b\n", "no column 'image' .* did you mean 'images'"),
    ("Image,report\na,b\n", "did you mean 'Image'"),
    ("image,reports\na,b\n", "no column 'report' .* did you mean 'reports'.* or columns={'report': None}"),
    ("image,patientid\na,b\n", "no column 'patient_id' .* did you mean 'patientid'"),
    ("image,image\na,b\n", "'image' appear twice"),
    ("image,report\na.png,one,two\n", "line 2: 3 fields, the header has 2"),
    ("image,report\nok.png,fine\na.png,\"never closed\n", "line 3: not valid CSV"),
    ("image,report\na.png,\"quote\"s\n", "line 2: not valid CSV"),
])
def test_what_is_wrong_with_a_csv(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        Table(write(tmp_path, text))


@pytest.mark.parametrize("text, message", [
    ('{"image": "a"}\n{"image": \n', "line 2: not valid JSON"),
    ('["image"]\n', "line 1: expected a JSON object, got list"),
    ('{"file": "a"}\n', "no column 'image'"),
])
def test_what_is_wrong_with_a_jsonl(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        Table(write(tmp_path, text, "data.jsonl"))


def test_encodings_and_file_kinds(tmp_path):
    with pytest.raises(ValueError, match="line 2: not UTF-8"):
        Table(write(tmp_path, "image,report\na.png,Röntgen\n", encoding="latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        Table(write(tmp_path, "image,report\na.png,x\n", encoding="utf-16"))
    with pytest.raises(ValueError, match=r"a .csv, .jsonl or .parquet file, got 'data.xlsx'"):
        Table(write(tmp_path, "image\na\n", "data.xlsx"))
    with pytest.raises(FileNotFoundError, match=r"no manifest at .*nowhere.csv: expected"):
        Table(tmp_path / "nowhere.csv")


def test_unknown_column_choice(tmp_path):
    with pytest.raises(ValueError, match="unknown key 'reprot'; did you mean 'report'"):
        Table(write(tmp_path, "image\na\n"), {"reprot": "x"})
    with pytest.raises(ValueError, match="no column 'text'"):
        Table(write(tmp_path, "image\na\n"), {"report": "text"})


def test_a_file_that_changes_is_noticed(tmp_path):
    path = write(tmp_path, "image,report\na.png,one two\n")
    table = Table(path)
    path.write_text("image,report\nlonger.png,one two\n")
    with pytest.raises(RuntimeError, match="was changed while it is in use"):
        table[0]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(*[st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12)] * 3),
                min_size=1, max_size=5))
def test_what_the_csv_module_writes_is_read_back(tmp_path, rows):
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerow(["image", "report", "labels"])
    writer.writerows(rows)
    table = Table(write(tmp_path, buffer.getvalue()))
    assert [tuple(table[i].values()) for i in range(len(table))] == rows


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=120), st.sampled_from(["data.csv", "data.jsonl"]))
def test_any_bytes_give_a_table_or_a_value_error(tmp_path, data, name):
    path = tmp_path / name
    path.write_bytes(b"image,report\n" * (name == "data.csv") + data)
    try:
        table = Table(path)
        assert set(table[len(table) - 1]) <= set(COLUMNS)
    except ValueError as e:
        assert name in str(e)


def test_long_fields_are_read_and_a_lost_quote_is_not(tmp_path):
    text = "word " * 60_000
    assert Table(write(tmp_path, f'image,report\na.png,"{text}"\n'))[0]["report"] == text
    with pytest.raises(ValueError, match="line 2: not valid CSV"):
        Table(write(tmp_path, 'image,report\na.png,"x\n' + "b.png,y\n" * 9))
