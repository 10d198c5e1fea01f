"""The pages in headless Chromium, on a desk and on a telephone: nothing sticks out, nothing fails, all can be reached."""
import html
import json
import re
import shutil
import subprocess

import pytest

from medvlp_jax.tasks import comparison_page, page
from tests.tasks import fakes, pages

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SWITCHES = ("--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
            "--disable-component-update --disable-sync --enable-logging=stderr --dump-dom").split()  # fmt: skip
WIDTHS = (1280, 390)
MEASURE = """
console.error("control of the log");
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const d = frame.contentDocument, w = frame.contentWindow, name = e => e.tagName + " " + e.textContent.slice(0, 40);
    const wide = [...d.querySelectorAll(".scroll, pre")].filter(e => e.scrollWidth > e.clientWidth + 1);
    const ratio = e => {  // of the text's and the page's luminance, WCAG 2
      const [light, dark] = [w.getComputedStyle(e).color, "rgb(255, 255, 255)"].map(c => c.match(/[\\d.]+/g).slice(0, 3)
        .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .map(([r, g, b]) => 0.2126 * r + 0.7152 * g + 0.0722 * b).sort((a, b) => b - a);
      return (light + 0.05) / (dark + 0.05);
    };
    return {
      viewport: w.innerWidth, document: d.documentElement.scrollWidth, sections: d.querySelectorAll("section").length,
      broken: [...d.images].filter(i => !i.complete || !i.naturalWidth).length, images: d.images.length,
      scrolling: wide.length, unreachable: wide.filter(e => e.tabIndex !== 0).map(name),
      faint: [...d.querySelectorAll("h1, h2, h3, p, a, li, td, th, small, span, figcaption, caption, summary")]
        .filter(e => ratio(e) < 4.5).map(name),
      tiny: [...d.querySelectorAll("p, li, td, th, figcaption, small, span")]
        .filter(e => parseFloat(w.getComputedStyle(e).fontSize) < 10).map(name),
      invisible: [...d.querySelectorAll("a, .scroll, summary")].filter(e => {
        e.focus(); return d.activeElement !== e || w.getComputedStyle(e).outlineStyle === "none"; }).map(name),
    };
  });
  document.getElementById("found").textContent = JSON.stringify(found);
});
"""


@pytest.mark.skipif(BROWSER is None, reason="needs chromium (Debian: apt-get install chromium) to look at the pages")
def test_pages_fit_and_are_quiet(tmp_path):
    folders = tmp_path / "one <b>&", tmp_path / "a-run-with-a-rather-long-name-that-someone-chose-to-tell-apart"
    for folder, predict in zip(folders, (fakes.RANDOM, fakes.PERFECT), strict=True):
        pages.evaluate(folder, predict)
    texts = [page.write(folders[0]).read_text("utf-8"), comparison_page.write(*folders, resamples=20).read_text("utf-8")]
    frames = [f'<iframe style="width: {width}px; height: 900px; border: 0" srcdoc="{html.escape(text)}"></iframe>'
              for text in texts for width in WIDTHS]  # an iframe has exactly the width it is given, a window has not
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(f'<!DOCTYPE html><pre id="found"></pre>{"".join(frames)}<script>{MEASURE}</script>', encoding="utf-8")
    command = [BROWSER, *SWITCHES, f"--user-data-dir={tmp_path / 'profile'}", wrapper.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.DOTALL)[1]))
    assert [f["viewport"] for f in found] == [*WIDTHS, *WIDTHS]
    for measured in found:
        assert measured["document"] <= measured["viewport"], measured
        assert measured["sections"] >= 5 and measured["images"] > 10 and measured["broken"] == 0
        assert measured["scrolling"] > 0 or measured["viewport"] > 1000  # on a telephone tables scroll by themselves
        for fault in ("unreachable", "faint", "tiny", "invisible"):
            assert measured[fault] == [], fault
    logged = re.findall(r"CONSOLE[^\n]*", done.stderr)
    assert len(logged) == 1 and "control of the log" in logged[0], logged
