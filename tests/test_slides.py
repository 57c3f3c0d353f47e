"""The slides: nothing of a page is missing or said twice, and nothing is cut."""

import base64
import functools
import re

import finished
import pytest
from browser import HTML, show
from contents import pages
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from test_site import complaints, requests

CHAPTERS = [page.removeprefix("book/") for page in pages() if re.match(r"book/\d\d-", page)]
NUMBERED = ".admonition-title > .caption-number, figcaption .caption-number"
MEASURE = """
const tooWide = (e) => e.scrollWidth > e.clientWidth + 1;
const tooHigh = (e) => e.matches(".sheet, .content") && e.scrollHeight > e.clientHeight + 1;
const boxes = ".sheet, .content, .formula, pre, .pst-scrollable-table-container";
const name = (e) => e.textContent.trim().slice(0, 60);
return {
  pages: document.querySelectorAll(".pdf-page").length,
  sizes: [...new Set([...document.querySelectorAll(".sheet")].map(
    e => `${e.clientWidth}x${e.clientHeight}`))],
  cut: [...document.querySelectorAll(boxes)].filter(
    e => tooWide(e) || tooHigh(e)).map(name),
  small: [...document.querySelectorAll(".content figure > img")].filter(
    e => e.checkVisibility() && e.clientHeight < 250).map(e => e.alt.slice(0, 60)),
};
"""


@pytest.fixture(scope="module", autouse=True)
def made():
    if not (HTML / "slides").exists():
        pytest.skip("no slides: install Node.js, then `make book`")


def open_slides(browser, url):
    browser.get(url)
    ready = "return document.documentElement.classList.contains('shown')"
    WebDriverWait(browser, 30).until(lambda b: b.execute_script(ready))


def shown(article):
    """Return statements, exercises and figures in order: their numbers, and what statements say."""
    found = []
    for number in article.select(NUMBERED):
        box = number.find_parent("div", class_="admonition")
        if box and "solution" in box["class"]:
            continue
        if box:
            found.append(re.sub(r"\s+", " ", box.get_text(" ")).strip())
        else:
            found.append(number.get_text())
    return found


@functools.cache
def read_slides(chapter):
    text = (HTML / "slides" / f"{chapter}.html").read_text(encoding="utf-8")
    html, formulas = finished.set_formulas_aside(text)
    slides = finished.BeautifulSoup(
        re.sub("<aside.*?</aside>", "", html, flags=re.S), "html.parser"
    )
    return slides, formulas


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_statements_and_figures_are_on_slides_once_and_in_order(chapter):
    article, _ = finished.read(HTML / "book" / f"{chapter}.html")
    slides, _ = read_slides(chapter)
    assert shown(slides) == shown(article)
    assert len(shown(article)) > 5
    assert len(slides.select("figure.live")) == len(article.select("figure.live"))
    numbered = [eqno.get_text() for eqno in slides.select(".math > .eqno")]
    own = [eqno.find(string=True) for eqno in article.select(".math > .eqno")]
    assert numbered == own


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_formulas_come_back_where_they_were(chapter):
    page = (HTML / "book" / f"{chapter}.html").read_text(encoding="utf-8")
    html, formulas = finished.set_formulas_aside(page)
    assert "katex-html" not in html
    assert all(f.count("<span") == f.count("</span>") for f in formulas)
    assert finished.put_formulas_back(html, formulas) == page
    tex = re.compile(r'<annotation encoding="application/x-tex">(.*?)</annotation>', re.S)
    _, drawn = read_slides(chapter)
    assert {tex.search(f).group(1) for f in drawn} <= set(tex.findall(page))


@pytest.mark.parametrize("chapter", ["03-flow-matching", "08-mnist"])
def test_nothing_is_cut_and_each_slide_is_a_page(browser, address, chapter):
    show(browser, 1280)
    requests(browser), complaints(browser)
    open_slides(browser, f"{address}slides/{chapter}.html?view=print")
    settle = "Promise.all([...document.images].map(i => i.decode())).then(() => arguments[0]())"
    browser.execute_async_script(settle)
    assert {url.hostname for url in requests(browser)} == {"127.0.0.1"}
    assert not complaints(browser)
    look = browser.execute_script(MEASURE)
    assert look["sizes"] == ["1280x720"]
    assert not look["cut"]
    assert not look["small"]
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    sheets = re.findall(rb"/Type /Page\b", base64.b64decode(printed["data"]))
    assert len(sheets) == look["pages"] > 30


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_keys_lead_to_a_proof_and_a_living_figure_starts(browser, address, colours):
    show(browser, 1280)
    features = [{"name": "prefers-color-scheme", "value": colours}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    complaints(browser)
    open_slides(browser, f"{address}slides/03-flow-matching.html")
    text = "return [...document.querySelectorAll('section[data-kind].present')].find(\
        e => e.checkVisibility() && !e.parentElement.matches('.past, .future')).textContent.trim()"
    body = browser.find_element("tag name", "body")
    while "Theorem 3.1" not in browser.execute_script(text):
        body.send_keys(Keys.ARROW_RIGHT)
    body.send_keys(Keys.ARROW_DOWN)
    assert "Proof." in browser.execute_script(text)
    browser.execute_script("location.hash = '#/thm-loss-bound'")
    WebDriverWait(browser, 5).until(lambda b: "Theorem 3.2" in b.execute_script(text))
    browser.execute_script("location.hash = '#/live-03-flow-matching'")
    words = "return document.querySelector('.live-words')?.textContent"
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(words))
    look = browser.execute_script("""
        const stage = document.querySelector("section.present .live-stage");
        return {cut: stage.scrollHeight > stage.clientHeight + 1
                  || stage.scrollWidth > stage.clientWidth + 1,
                zoom: Number(stage.style.zoom),
                plane: stage.querySelector("canvas").getBoundingClientRect().width,
                theme: document.documentElement.dataset.theme,
                ground: getComputedStyle(document.querySelector(".sheet")).backgroundColor};
    """)
    assert not look["cut"]
    assert look["plane"] > 350
    assert look["theme"] == colours
    assert (look["ground"] == "rgb(255, 255, 255)") == (colours == "light")
    assert not complaints(browser)


def test_page_and_slides_lead_to_each_other():
    for chapter in CHAPTERS:
        page = (HTML / "book" / f"{chapter}.html").read_text(encoding="utf-8")
        assert f'href="../slides/{chapter}.html"' in page
        slides, _ = read_slides(chapter)
        ids = set(re.findall(r'\bid="([^"]+)"', page))
        back = [head.a["href"].partition("#") for head in slides.select(".place")]
        assert {place for place, _, _ in back} == {f"../book/{chapter}.html"}
        assert {anchor for _, _, anchor in back} <= ids
        assert len(slides.select("section[data-kind]")) == len(back)
        names = [node["id"] for node in slides.select("[id]")]
        assert len(names) == len(set(names)) > 15
