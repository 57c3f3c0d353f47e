"""The built site in a real browser: every page renders, from this machine alone, on a phone too."""

import functools
import http.server
import json
import os
import re
import shutil
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import repository
from contents import pages
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Without npm the site loads MathJax from a CDN.
CDN = set() if (ROOT / "vendor" / "mathjax").is_dir() else {"cdn.jsdelivr.net"}

# What one page shows, once MathJax is done.
LOOK = """
const shown = [...document.querySelectorAll("main img")];
const prose = document.querySelector("main article").cloneNode(true);
prose.querySelectorAll("pre, code, .math, script, style").forEach(e => e.remove());
return {
  unread_markup: prose.textContent.match(/.{0,30}(\\$|:::|\\{[\\w:]+\\}`).{0,30}/g),
  heading: document.querySelector("main h1")?.textContent,
  formulas: document.querySelectorAll("main .math").length,
  typeset: document.querySelectorAll("main mjx-container").length,
  bad_formulas: [...document.querySelectorAll(
    'mjx-merror, [data-mjx-error], mjx-container [style*="color: red"]'  // red: unknown macro
  )].map(e => e.getAttribute("data-mjx-error") ?? e.innerHTML),
  broken_images: shown.filter(i => !i.complete || !i.naturalWidth).map(i => i.src),
  alts: shown.map(i => i.alt),
  launch: [...document.querySelectorAll('a[href*="colab"], a[href*="mybinder"]')].filter(
    a => !a.closest(".bd-article")).map(a => a.href),
  cut_formulas: [...document.querySelectorAll("main .math, main mjx-container")].filter(
    e => getComputedStyle(e).overflowX === "hidden"
      && [...e.querySelectorAll("mjx-math")].some(
        m => m.getBoundingClientRect().right > e.getBoundingClientRect().right + 2)
  ).map(e => e.textContent.slice(0, 60)),
  width: document.scrollingElement.scrollWidth,
};
"""
READY = """
return document.readyState === "complete"
  && (!document.querySelector("main .math") || window.MathJax?.startup?.promise !== undefined);
"""
TYPESET = """
const done = arguments[0];
[...document.images].forEach(i => i.loading = "eager");
document.querySelectorAll("details").forEach(d => d.open = true);
const images = [...document.images].map(i => i.decode().catch(() => 0));
Promise.all([window.MathJax?.startup?.promise, document.fonts.ready, ...images]).then(() => done());
"""


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    if not (HTML / "index.html").exists():
        pytest.fail("there is no _build/html: run `make book` first")
    handler = functools.partial(QuietHandler, directory=HTML)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if not (chromium and driver):
        message = "no Chromium with its driver: apt-get install chromium chromium-driver"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    chrome.set_script_timeout(60)
    yield chrome
    chrome.quit()


def open_page(browser, url, width):
    """Open a page at a screen width and wait until everything on it is drawn."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.get(url)
    WebDriverWait(browser, 30).until(lambda b: b.execute_script(READY))
    browser.execute_async_script(TYPESET)
    return browser.execute_script(LOOK)


def requested_hosts(browser):
    """Return the hosts asked for since the last call."""
    hosts = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = urlsplit(message["params"]["request"]["url"])
            if url.scheme in ("http", "https", "ws", "wss"):
                hosts.add(url.hostname)
    return hosts


def is_file_name(text):
    return re.fullmatch(r"\S+\.(png|jpe?g|gif|svg|webp)", text) is not None


@pytest.mark.parametrize("page", pages())
def test_page(browser, address, page):
    url = f"{address}/{page}.html"
    look = open_page(browser, url, width=1280)
    complaints = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert not complaints
    assert requested_hosts(browser) - CDN == {"127.0.0.1"}
    assert look["heading"]
    assert not look["unread_markup"], "markup that MyST did not understand"
    assert not look["bad_formulas"]
    assert look["typeset"] >= look["formulas"]
    assert not look["broken_images"]
    for alt in look["alts"]:
        assert alt.strip() and not is_file_name(alt), f"an image has the alt text {alt!r}"

    if page.startswith("notebooks/"):
        path = f"{page}.ipynb"
        slug = repository.slug()
        assert (ROOT / path).exists()
        assert set(look["launch"]) == {
            f"https://colab.research.google.com/github/{slug}/blob/main/{path}",
            f"https://mybinder.org/v2/gh/{slug}/main?urlpath=lab/tree/{path}",
        }

    assert look["width"] <= 1280
    phone = open_page(browser, url, width=390)
    assert phone["width"] <= 390
    assert not phone["cut_formulas"], "formulas whose end a phone does not show"
    assert not [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]


def test_front_page_leads_to_the_book(browser, address):
    browser.get(address)
    WebDriverWait(browser, 30).until(lambda b: b.current_url.endswith(f"/{pages()[0]}.html"))
