import xml.etree.ElementTree as ElementTree

import pytest

from medvlp_jax.tasks import html

EVIL = '<script>alert("1")</script> & \'x\' \x00\x0b\ud800'


def parse(text):
    return ElementTree.fromstring(text.removeprefix("<!DOCTYPE html>\n"))


def test_text_is_escaped_everywhere_and_stays_the_same_text():
    page = html.document(
        EVIL, html.section(EVIL, html.table(EVIL, [EVIL, EVIL], [[EVIL, EVIL]]), html.tag("p", EVIL, title=EVIL), name="a"),
        html.picture(b"x", EVIL, EVIL), html.contents({"a": EVIL}))
    root = parse(page)  # well-formed, so no text has become markup
    assert "<script" not in page and not list(root.iter("script"))
    shown = EVIL.replace("\x00", "\ufffd").replace("\x0b", "\ufffd").replace("\ud800", "\ufffd")
    assert [e.text for name in ("title", "h2", "caption", "td", "p", "figcaption", "a") for e in root.iter(name)] == [shown] * 7
    assert root.find(".//img").get("alt") == shown and root.find(".//p").get("title") == shown
    page.encode("utf-8")


def test_join():
    assert html.join("a<", None, html.Markup("<b />"), ["&", (1.5,)]) == "a&lt;<b />&amp;1.5"
    made = html.tag("p", html.tag("b", "x"), class_="c", aria_label='"', hidden=None)
    assert made == '<p class="c" aria-label="&quot;"><b>x</b></p>'
    assert html.tag("br") == "<br />"


def test_table_is_reachable_and_has_scopes():
    region = parse(html.table("Results", ["a", "b"], [["x", "1"], ["y", "2"]], numeric=(1,)))
    assert {k: region.get(k) for k in ("tabindex", "role", "aria-label")} == {
        "tabindex": "0", "role": "region", "aria-label": "Table: Results"}
    assert [t.get("scope") for t in region.iter("th")] == ["col", "col", "row", "row"]
    assert [t.get("class") for t in region.iter("td")] == ["number", "number"]


def test_a_picture_needs_words():
    with pytest.raises(ValueError, match="needs a text"):
        html.picture(b"x", " ")


def test_numbers():
    assert html.number(float("nan")) == html.number(None) == html.p_value(None) == "undefined"
    assert (html.number(0.12345), html.number(-1, 1), html.interval([0.1, 0.25]), html.interval(None)) == (
        "0.123", "-1.0", "0.100 to 0.250", "")
    assert (html.p_value(0.0004), html.p_value(0.0446)) == ("< 0.001", "0.045")
