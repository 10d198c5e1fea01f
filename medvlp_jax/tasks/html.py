"""Building blocks of a self-contained HTML page: whatever is plain text is escaped, whatever is markup was made here.

The markup is well-formed XML too, pictures are data URIs, and a content security policy forbids everything else, so a
page never asks a network for anything.
"""
import base64
import html

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
VOID = {"img", "meta", "link", "br"}

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1rem; background: #fff; color: #1b1f24;
  font: 1rem/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; border-top: 2px solid #d0d7de; padding-top: 1rem; }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p, ul, dl { max-width: 46rem; }
a { color: #0b57a4; }
:focus-visible { outline: 3px solid #0b57a4; outline-offset: 2px; }
.note { background: #fff8c5; border-left: 4px solid #9a6700; padding: .5rem .75rem; }
.bad { background: #ffebe9; border-left: 4px solid #b42318; padding: .5rem .75rem; }
nav ul { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
nav a { display: inline-block; padding: .25rem 0; }
.scroll { overflow-x: auto; margin: .75rem 0;
  background: linear-gradient(to right, #fff 1.5rem, #fff0) left / 3rem 100% no-repeat local,
    linear-gradient(to left, #fff 1.5rem, #fff0) right / 3rem 100% no-repeat local,
    linear-gradient(to right, #0003, #0000) left / .75rem 100% no-repeat scroll,
    linear-gradient(to left, #0003, #0000) right / .75rem 100% no-repeat scroll; } /* a shadow where more can be scrolled to */
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding: .75rem 0 .25rem; }
th, td { padding: .3rem .7rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #d0d7de; }
thead th { border-bottom: 2px solid #57606a; vertical-align: bottom; }
thead th.number { min-width: 4.5rem; max-width: 9rem; }
tbody th { font-weight: 500; min-width: 9rem; max-width: 22rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
small, .code { color: #48515b; }
code, .code, pre { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .85em; }
pre { overflow-x: auto; background: #f6f8fa; padding: .75rem; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); }
.cards { display: grid; gap: 1rem .75rem; grid-template-columns: repeat(auto-fill, minmax(min(45%, 12rem), 1fr)); }
.wide { display: grid; gap: 1.25rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); }
figure { margin: 0; min-width: 0; }
figure img { display: block; width: 100%; height: auto; }
.wide figure > img { max-width: 14rem; }
figcaption { font-size: .875rem; padding-top: .25rem; }
ol { padding-left: 1.4rem; margin: .4rem 0; }
.own { background: #dafbe1; }
.report { display: block; max-height: 8rem; overflow-y: auto; }
footer { margin-top: 3rem; border-top: 2px solid #d0d7de; }
@media print { .scroll { overflow: visible; } a { color: inherit; } }
"""


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


def join(*parts) -> Markup:
    """Parts one after the other: Markup as it is, anything else escaped, None left out; lists are joined too."""
    out = []
    for part in parts:
        if isinstance(part, list | tuple):
            out.append(join(*part))
        elif part is not None:
            out.append(part if isinstance(part, Markup) else html.escape(_printable(str(part))))
    return Markup("".join(out))


def _printable(text: str) -> str:
    """Without the control characters that no HTML or XML may hold."""
    return "".join(c if c in "\t\n\r" or 32 <= ord(c) < 0xD800 or 0xE000 <= ord(c) < 0xFFFE or ord(c) > 0xFFFF else "\ufffd"
                   for c in text)


def tag(name: str, /, *children, **attributes) -> Markup:
    """<name attributes>children</name>. A trailing _ of an attribute is dropped, an inner one is a hyphen; None omits it."""
    given = "".join(f' {k.rstrip("_").replace("_", "-")}="{join(str(v))}"' for k, v in attributes.items() if v is not None)
    return Markup(f"<{name}{given} />" if name in VOID else f"<{name}{given}>{join(*children)}</{name}>")


def picture(data: bytes, alt: str, caption=None, kind: str = "png") -> Markup:
    """A figure with its picture inside.

    Raises:
      ValueError: an empty `alt`, for who cannot see it would be told nothing.
    """
    if not alt.strip():
        raise ValueError("a picture needs a text that says what is on it")
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return tag("figure", tag("img", src=source, alt=alt), None if caption is None else tag("figcaption", caption))


def table(caption: str, header: list[str], rows: list[list], numeric=()) -> Markup:
    """A table that scrolls sideways by itself, which a keyboard can reach; a row's first cell is its heading.

    numeric: columns that are set to the right.
    """
    def kind(i):
        return "number" if i in numeric else None

    head = tag("tr", [tag("th", h, scope="col", class_=kind(i)) for i, h in enumerate(header)])
    body = [tag("tr", tag("th", row[0], scope="row"), [tag("td", c, class_=kind(i)) for i, c in enumerate(row[1:], 1)])
            for row in rows]
    inner = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", body))
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=f"Table: {caption}")


def section(title: str, *parts, name: str) -> Markup:
    """A part of the page with a heading that `contents` can point to."""
    return tag("section", tag("h2", title, id=name), *parts, aria_labelledby=name)


def contents(sections: dict[str, str]) -> Markup:
    """{name of a section: its title} -> links to them."""
    links = [tag("li", tag("a", title, href=f"#{name}")) for name, title in sections.items()]
    return tag("nav", tag("ul", links), aria_label="Contents")


def document(title: str, *body) -> str:
    """The whole page as text."""
    head = tag("head", tag("meta", charset="utf-8"),
               tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
               tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
               tag("link", rel="icon", href="data:,"), tag("title", title), tag("style", Markup(STYLE)))
    return "<!DOCTYPE html>\n" + tag("html", head, tag("body", tag("main", *body)), lang="en") + "\n"


def number(value, digits: int = 3) -> str:
    """A number as text; "undefined" for NaN and None."""
    return "undefined" if value is None or value != value else f"{value:.{digits}f}"


def interval(ci) -> str:
    """A 95 % interval as text, "" without one."""
    return "" if not ci else f"{ci[0]:.3f} to {ci[1]:.3f}"


def p_value(p) -> str:
    """A p-value with the precision one can use."""
    return "undefined" if p is None or p != p else "< 0.001" if p < 0.001 else f"{p:.3f}"
