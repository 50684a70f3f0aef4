"""The report page as a browser shows it: in headless Chromium, by day and by night, on a desk, a phone and paper."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.verify.browser import Browser, browser, chromium
from tests.verify.reported_run import make_run
from ubq.cli import main
from ubq.i18n import set_language

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not chromium(), reason="no Chromium (Debian: apt-get install chromium)"),
]
DESK, PHONE = (1440, 900), (390, 844)

# Of every text that is seen: the letters' colour against what lies behind them (WCAG 2, relative luminance).
CONTRASTS = """
(() => {
  const parts = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parts(getComputedStyle(e).backgroundColor);
      if (colour.length == 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = texts.nextNode();) {
    const element = node.parentElement, style = getComputedStyle(element);
    if (!node.data.trim() || !element.checkVisibility()) continue;
    const ink = parts(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [light(ink), light(behind(element))].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), node.data.trim().slice(0, 40)]);
  }
  return found;
})()
"""

# Pictures that are not there, not loaded or of no size.
MISSING = """
Promise.all([...document.querySelectorAll("svg")].map(async svg => {
  const box = svg.getBoundingClientRect();
  if (box.width < 20 || box.height < 5) return svg.ariaLabel + ": no size";
  for (const image of svg.querySelectorAll("image")) {
    const copy = new Image();
    copy.src = image.href.baseVal;
    try { await copy.decode(); } catch (error) { return svg.ariaLabel + ": " + error; }
    if (!image.getBoundingClientRect().width) return svg.ariaLabel + ": no size";
  }
  return "";
})).then(all => all.filter(text => text))
"""


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module", params=["en", "zh_CN", "failed"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    run = make_run(folder / "runs" / "mine", failed_mark="int8_fidelity" if request.param == "failed" else "")
    language = request.param if request.param != "failed" else "en"
    file = folder / "page.html"
    assert main(["--lang", language, "report", str(run.root), "--out", str(file)]) == 0
    set_language(None)
    return file


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_page_in_a_browser(chrome: Browser, page: Path, size: tuple[int, int], dark: bool) -> None:
    chrome.open(page, *size, phone=size == PHONE, dark=dark)
    chrome.value("document.querySelectorAll('details').forEach(d => d.open = true)")
    told = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert [e for e in chrome.events if e.get("method") in told] == []
    requests = [e["params"]["request"]["url"] for e in chrome.events if e.get("method") == "Network.requestWillBeSent"]
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
    assert chrome.value("document.querySelectorAll('svg').length") > 20
    assert chrome.value(MISSING) == []
    assert chrome.value("document.documentElement.scrollWidth") <= size[0]
    paper = chrome.value("getComputedStyle(document.body).backgroundColor")
    assert (int(re.findall(r"\d+", paper)[0]) < 64) is dark
    contrasts = chrome.value(CONTRASTS)
    assert len(contrasts) > 200
    assert [c for c in contrasts if c[0] < 4.5] == []


def test_first_screen_has_verdict_marks_and_pairs(chrome: Browser, page: Path) -> None:
    chrome.open(page, *DESK)
    chosen = "document.querySelectorAll('.badge, .marks li:first-child, .panels')"
    bottoms = chrome.value(f"[...{chosen}].map(e => e.getBoundingClientRect().bottom)")
    assert sorted(bottoms)[2] < DESK[1]


def test_the_page_prints(chrome: Browser, page: Path) -> None:
    chrome.open(page, *DESK, dark=True)
    pages = re.findall(rb"/Type\s*/Page\b", chrome.pdf())
    assert 2 <= len(pages) <= 12
    chrome.call(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    assert chrome.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert [c for c in chrome.value(CONTRASTS) if c[0] < 4.5] == []
    chrome.call("Emulation.setEmulatedMedia", media="")
