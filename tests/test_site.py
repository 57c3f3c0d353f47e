"""The built site in a real browser: every page, on phones and desks, in light and in dark."""

import gzip
import json
import re
from urllib.parse import unquote, urlsplit

import pytest
import repository
from browser import BASE, HTML, KINDS, LESS, PRUNE, ROOT, barriers, needs_axe, show
from contents import pages
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.support.ui import WebDriverWait

EXTRA = ("genindex", "prf-prf", "py-modindex", "search", "404")
FRAMES = ("book/03-flow-matching", "notebooks/03-flow-matching", *EXTRA)
"""A page of each kind: around an article, others of its kind have what it has."""

# Without npm the site loads MathJax from a CDN.
CDN = set() if (ROOT / "vendor" / "site" / "katex").is_dir() else {"cdn.jsdelivr.net"}
WEIGHT = 1.2e6
"""Bytes that a chapter may cost, compressed as a server compresses."""

SHIFTS = """
window.shifts = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({type: "layout-shift", buffered: true});
"""
SETTLE = """
const done = arguments[0];
[...document.images].forEach(i => i.loading = "eager");
const images = [...document.images].map(i => i.decode().catch(() => 0));
Promise.all([document.fonts.ready, ...images]).then(
  () => requestAnimationFrame(() => requestAnimationFrame(() => done())));
"""
# What one page shows, whatever the width.
LOOK = """
const shown = [...document.querySelectorAll("main img")];
const prose = (document.querySelector("main article") ?? document.body).cloneNode(true);
prose.querySelectorAll("pre, code, .math, script, style").forEach(e => e.remove());
return {
  unread_markup: prose.textContent.match(/.{0,30}(\\$|:::|\\{[\\w:]+\\}`).{0,30}/g) ?? [],
  heading: document.querySelector("main h1")?.textContent,
  bare_formulas: [...document.querySelectorAll("main .math:not(:has(.katex))")].length,
  broken_images: shown.filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
  alts: shown.map(i => i.alt),
  unsized: shown.filter(i => i.closest(".bd-article") && !(i.height && i.getAttribute("width"))
  ).map(i => i.src),
  small_only: shown.filter(
    i => i.closest("figure") && !i.closest("a[href$='.png'], a[href$='.gif']")).map(i => i.src),
  uncaptioned: [...document.querySelectorAll("main figure")].filter(
    f => !/^((Figure|Film) \\d+\\.\\d+|Try it)\\. /.test(
      f.querySelector("figcaption")?.textContent.trim())).map(f => f.textContent.slice(0, 60)),
  launch: [...document.querySelectorAll('a[href*="colab"], a[href*="mybinder"]')].filter(
    a => !a.closest(".bd-article")).map(a => a.href),
  empty_cells: [...document.querySelectorAll(".bd-article table.table :is(td, th)")].filter(
    c => !c.textContent.trim()).map(c => c.closest("tr").textContent.trim().slice(0, 60)),
  broken_pairs: prose.textContent.match(/\\d ± \\d/g) ?? [],
};
"""
# What depends on the width.
FIT = """
const article = document.querySelector(".bd-article") ?? document.body;
const name = (e) => (e.querySelector("annotation") ?? e).textContent.trim().slice(0, 70);
const boxes = [...article.querySelectorAll(
  ".formula, pre, .pst-scrollable-table-container")];
const wide = (e) => e.scrollWidth > e.clientWidth + 1;
return {
  width: document.scrollingElement.scrollWidth,
  unmarked: boxes.filter(e => wide(e) && e.checkVisibility()
    && !(e.matches(".more-right, .more-left") && e.tabIndex === 0)).map(name),
  useless_stops: [...article.querySelectorAll("[tabindex='0']")].filter(
    // the theme takes a pixel of rounding for more to see, a moment after the width has changed
    e => e.scrollWidth <= e.clientWidth
      && !e.matches("a, button, input, summary, canvas, [role=tab]")).map(name),
  cut: [...article.querySelectorAll("span.math .base")].filter(e => {
    const box = e.closest("p, li, td, th, dd, figcaption, h1, h2, h3, summary") ?? article;
    return e.checkVisibility() && !e.closest(".pst-scrollable-table-container")
      && e.getBoundingClientRect().right > box.getBoundingClientRect().right + 1;
  }).map(e => name(e.closest(".math"))),
};
"""
# Which elements of the article can be seen.
SHOWN = """
return [...document.querySelectorAll(".bd-article *")].map(e => +e.checkVisibility()).join("");
"""


def open_page(browser, url, width, colours="light"):
    """Open a page and wait until everything on it is drawn."""
    show(browser, width, colours)
    browser.get(url)
    browser.execute_script(SHIFTS)
    ready = "return document.readyState === 'complete'"
    WebDriverWait(browser, 30).until(lambda b: b.execute_script(ready))
    browser.execute_async_script(SETTLE)


def requests(browser):
    """Return the addresses asked for since the last call."""
    urls = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = urlsplit(message["params"]["request"]["url"])
            if url.scheme in ("http", "https", "ws", "wss"):
                urls.add(url)
    return urls


def weight(urls):
    """Return how many bytes a compressing server would send for addresses of the site."""
    total = 0
    for path in {unquote(url.path).removeprefix(BASE) for url in urls}:
        data = (HTML / path).read_bytes()
        compressed = path.endswith((".png", ".gif", ".woff2"))
        total += len(data) if compressed else len(gzip.compress(data))
    return total


def complaints(browser):
    return [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]


def is_file_name(text):
    return re.fullmatch(r"\S+\.(png|jpe?g|gif|svg|webp)", text) is not None


@pytest.fixture(scope="module", params=[*pages(), *EXTRA])
def page(browser, address, request):
    """Open a page for the tests of it, the first of which sees what it asked for and said."""
    browser.get("about:blank")  # else the scripts of the last page, of which little is left, speak
    requests(browser), complaints(browser)
    open_page(browser, f"{address}{request.param}.html", width=1280)
    return request.param


def test_page(browser, page):
    asked = requests(browser)
    assert not complaints(browser)
    assert {url.hostname for url in asked} - CDN == {"127.0.0.1"}
    assert weight(url for url in asked if url.hostname == "127.0.0.1") <= WEIGHT
    look = browser.execute_script(LOOK)
    assert look["heading"]
    assert not look["unread_markup"], "markup that MyST did not understand"
    assert CDN or not look["bare_formulas"]
    assert not look["broken_images"]
    assert not look["unsized"], "pictures without width and height move the text when they come"
    assert not look["small_only"], "pictures that one cannot open large"
    assert not look["uncaptioned"]
    for alt in look["alts"]:
        assert alt.strip() and not is_file_name(alt), f"an image has the alt text {alt!r}"
    assert not look["empty_cells"]
    assert not look["broken_pairs"], "values that a line can tear from their errors"
    if page.startswith("notebooks/"):
        path, slug = f"{page}.ipynb", repository.slug()
        assert (ROOT / path).exists()
        assert set(look["launch"]) == {
            f"https://colab.research.google.com/github/{slug}/blob/main/{path}",
            f"https://mybinder.org/v2/gh/{slug}/main?urlpath=lab/tree/{path}",
        }
    # Google's bound for a page that does not jump is 0.1
    assert browser.execute_script("return shifts") <= 0.05

    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    seen = set()
    # colours move nothing, but for what one of them hides
    for width, colours in ((1280, "light"), (390, "light"), (360, "dark")):
        show(browser, width, colours)
        browser.execute_async_script(SETTLE)
        fit = browser.execute_script(FIT)
        assert fit["width"] <= width, "the page scrolls sideways"
        assert not fit["unmarked"], f"at {width} without a sign that it scrolls"
        assert not fit["useless_stops"], "the tab key stops where there is nothing to do"
        assert not fit["cut"], f"formulas in the text that {width} pixels cut"
        seen.add(browser.execute_script(SHOWN))
    assert len(seen) == 1, "an article of which a phone or the dark shows another part"
    assert not complaints(browser)


def find_barriers(browser, width, colours, options=None):
    show(browser, width, colours)
    browser.execute_async_script(SETTLE)
    found = barriers(browser, None, options)
    assert not found, f"{len(found)} at {width} in {colours}"


OF_COLOURS = ["color-contrast", "link-in-text-block"]
ONLY_COLOURS = {"runOnly": OF_COLOURS}
NO_COLOURS = {"rules": {rule: {"enabled": False} for rule in OF_COLOURS}}


@needs_axe
def test_axe_finds_no_barrier(browser, page):
    """On a phone, which shows what a desk shows of an article: the last test has seen that."""
    browser.execute_script(LESS)
    find_barriers(browser, 360, "dark", NO_COLOURS)
    browser.execute_script(KINDS)
    show(browser, 360, "light")
    browser.execute_async_script(SETTLE)
    browser.execute_script(KINDS)
    browser.execute_script(PRUNE)
    find_barriers(browser, 360, "light", ONLY_COLOURS)
    find_barriers(browser, 360, "dark", ONLY_COLOURS)


@needs_axe
@pytest.mark.parametrize("name", FRAMES)
def test_axe_finds_no_barrier_around_an_article(browser, address, name):
    open_page(browser, f"{address}{name}.html", 1280, "dark")
    browser.execute_script(LESS)
    find_barriers(browser, 1280, "dark")
    find_barriers(browser, 1280, "light", ONLY_COLOURS)


def test_front_page_leads_to_the_book(browser, address):
    browser.get(address)
    first = f"{pages()[0]}.html"
    WebDriverWait(browser, 30).until(lambda b: b.current_url.endswith(first))
    assert browser.title.count("Flow Matching") == 1


def test_wrong_address_leads_back(browser, address):
    requests(browser), complaints(browser)
    open_page(browser, f"{address}book/there/is/no.html", width=390)
    assert browser.execute_script("return document.querySelector('article h1').textContent") == (
        "This page is not here"
    )
    links = browser.execute_script(
        "return [...document.querySelectorAll('main article a')].map(a => a.href)"
    )
    assert links == [f"{address}book/index.html", f"{address}search.html"]
    # the page itself is what the server says is not there
    assert all("/book/there/is/no.html" in said for said in complaints(browser))


def test_command_is_copied_without_its_prompt(browser, address):
    origin = address.removesuffix(BASE)
    grant = {"origin": origin, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    browser.execute_cdp_cmd("Browser.grantPermissions", grant)
    open_page(browser, f"{address}book/index.html", width=1280)
    block = browser.find_element("css selector", ".highlight-console")
    button = block.find_element("css selector", ".copybtn")
    ActionChains(browser).move_to_element(block).click(button).perform()
    read = "navigator.clipboard.readText().then(arguments[0], e => arguments[0](`${e}`))"
    copied = browser.execute_async_script(read)
    assert copied.startswith("git clone https://") and "$" not in copied


def test_pictures_open_large(browser, address):
    open_page(browser, f"{address}book/04-optimal-transport.html", width=390)
    browser.execute_script("document.querySelector('a.lab-picture').click()")
    large = browser.execute_script("""
        const dialog = document.querySelector("dialog.large-picture");
        const picture = dialog.querySelector("img");
        return {open: dialog.open, width: picture.clientWidth, own: picture.naturalWidth,
                alt: picture.alt};
    """)
    assert large["open"] and large["alt"]
    assert large["width"] == large["own"] > 390
    browser.execute_script("document.querySelector('dialog.large-picture button').click()")
    assert not browser.execute_script("return document.querySelector('dialog.large-picture').open")


def test_drawings_turn_dark_and_digits_do_not(browser, address):
    filters = "return [...document.querySelectorAll('.lab-picture img')].map(\
        i => [i.classList.contains('drawn'), getComputedStyle(i).filter !== 'none'])"
    page = f"{address}notebooks/08-mnist.html"
    open_page(browser, page, 1280, "light")
    light = browser.execute_script(filters)
    assert {drawn for drawn, _ in light} == {True, False}
    assert not any(inverted for _, inverted in light)
    show(browser, 1280, "dark")
    dark = browser.execute_script(filters)
    assert all(inverted == drawn for drawn, inverted in dark)


@pytest.mark.parametrize("calm", [False, True])
def test_film_stops(browser, address, calm):
    motion = [{"name": "prefers-reduced-motion", "value": "reduce" if calm else "no-preference"}]
    show(browser, 1280)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": motion})
    browser.get(f"{address}book/08-mnist.html")
    film = "document.querySelector('img[data-still]')"
    assert browser.execute_script(f"return {film}.src").endswith(".png" if calm else ".gif")
    browser.execute_script("document.querySelector('.film-button').click()")
    assert browser.execute_script(f"return {film}.src").endswith(".gif" if calm else ".png")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_print_is_light(browser, address):
    open_page(browser, f"{address}book/03-flow-matching.html", 1280, "dark")
    browser.execute_script("""
        addEventListener("beforeprint", () => window.printed = {
          theme: document.documentElement.dataset.theme,
          ground: getComputedStyle(document.body).backgroundColor});
    """)
    pdf = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(pdf["data"]) > 50_000
    printed = browser.execute_script("return window.printed")
    assert printed == {"theme": "light", "ground": "rgb(255, 255, 255)"}
    assert browser.execute_script("return document.documentElement.dataset.theme") == "dark"


def test_every_link_inside_the_site_leads_somewhere():
    files = {path.relative_to(HTML).as_posix(): path for path in HTML.rglob("*.html")}
    texts = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    ids = {name: set(re.findall(r'\bid="([^"]+)"', text)) for name, text in texts.items()}
    lost = set()
    for name, text in texts.items():
        for href in re.findall(r'<a\b[^>]*\bhref="([^"]+)"', text):
            url = urlsplit(href.replace("&amp;", "&"))
            if url.scheme or name == "404.html":
                continue
            target = (HTML / name).parent / unquote(url.path) if url.path else HTML / name
            found = target.resolve().relative_to(HTML.resolve()).as_posix()
            if not target.exists():
                lost.add((name, href))
            elif url.fragment and found in ids and unquote(url.fragment) not in ids[found]:
                lost.add((name, href))
    assert not lost


def test_checks_lead_to_their_cells_and_back():
    for page in pages():
        if not re.match(r"book/(\d\d-|common)", page):
            continue
        text = (HTML / f"{page}.html").read_text(encoding="utf-8")
        prose = re.sub(r"<pre.*?</pre>|<a .*?</a>", "", text[text.index("<article") :], flags=re.S)
        assert not re.findall(r"Check \d+\.\d+", prose), f"{page}: a check that is no link"
        targets = set(re.findall(r'href="\.\./notebooks/([\w-]+)\.html#(check-[\d-]+)"', text))
        assert targets
        for lab, target in targets:
            there = (HTML / "notebooks" / f"{lab}.html").read_text(encoding="utf-8")
            assert f'id="{target}"' in there
            if lab in page:
                assert f'#mention-of-{target}"' in there, f"no way back from {target} to {page}"


def test_figures_have_one_number_in_chapter_and_lab():
    figure = re.compile(r'<figure[^>]*id="([a-z]+-\d+-\d+)">\s*<a [^>]*href="[^"]*_images/([^"]+)"')
    for page in pages():
        lab = HTML / "notebooks" / f"{page.removeprefix('book/')}.html"
        if page.startswith("book/") and lab.exists():
            shown = figure.findall((HTML / f"{page}.html").read_text(encoding="utf-8"))
            assert shown
            assert set(shown) <= set(figure.findall(lab.read_text(encoding="utf-8")))


def test_pages_have_the_number_of_their_name():
    for page in pages():
        number = re.search(r"\b(\d\d)-", page)
        if number and number[1] not in ("09", "17"):  # labs without a chapter
            text = (HTML / f"{page}.html").read_text(encoding="utf-8")
            heading = re.search(r'<h1><span class="section-number">(\d+)\.', text)
            assert heading and int(heading[1]) == int(number[1])
            statements = re.findall(r'class="caption-number">\w+ (\d+)\.', text)
            assert {int(found) for found in statements} <= {int(number[1])}


def test_crawlers_find_every_page():
    site = repository.site(repository.slug())
    listed = re.findall(r"<loc>(.*?)</loc>", (HTML / "sitemap.xml").read_text(encoding="utf-8"))
    assert sorted(listed) == sorted(f"{site}{page}.html" for page in pages())
    assert f"Sitemap: {site}sitemap.xml" in (HTML / "robots.txt").read_text(encoding="utf-8")
    home = (HTML / "book" / "index.html").read_text(encoding="utf-8")
    image = re.search(r'property="og:image" content="([^"]+)"', home).group(1)
    assert (HTML / image.removeprefix(site)).stat().st_size < 300_000
