"""Every living figure, worked by mouse, finger and keys in a real browser."""

import gzip
import re

import pytest
from browser import HTML, LESS, ROOT, barriers, needs_axe, pictures, show
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

FIGURES = {
    name: page
    for path in sorted((ROOT / "book").glob("*.md"))
    for page in [f"book/{path.stem}"]
    for name in re.findall(r"\{live-figure\} (\S+)", path.read_text(encoding="utf-8"))
}
WEIGHT = 30_000
"""Bytes that a figure may add to its page, compressed as a server compresses."""

# Counts the frames that scripts ask for.
COUNT = """
window.frames_asked = 0;
const ask = window.requestAnimationFrame;
window.requestAnimationFrame = (call) => { window.frames_asked += 1; return ask(call); };
"""
# Leaves nothing in the article but the figure.
ALONE = """
for (let e = arguments[0]; !e.matches(".bd-article"); e = e.parentElement)
  e.parentElement.replaceChildren(e);
"""


@pytest.fixture(scope="module")
def start(browser, address):
    """Open the page of a figure and bring the figure into view."""

    def start(name, width=1280, colours="light", calm=False):
        show(browser, width, colours)
        features = [
            {"name": "prefers-color-scheme", "value": colours},
            {"name": "prefers-reduced-motion", "value": "reduce" if calm else "no-preference"},
        ]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get(f"{address}{FIGURES[name]}.html?plain")
        element = browser.find_element("id", f"live-{name}")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        wait(browser, lambda: words(element))
        return element

    return start


@pytest.fixture(scope="module", params=FIGURES)
def figure(start, request):
    """Open a figure for the tests of it, one after the other."""
    return start(request.param)


@pytest.fixture(autouse=True)
def silent(browser):
    yield
    assert not [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]


def wait(browser, condition):
    # a busy machine may need several seconds where a reader needs a tenth
    WebDriverWait(browser, 30, poll_frequency=0.05).until(lambda _: condition())


def words(element):
    found = element.find_elements("class name", "live-words")
    return found[0].text if found else ""


def pause(browser, element):
    for button in element.find_elements("css selector", ".live-controls button"):
        if button.text.startswith(("Pause", "Stop")):
            button.click()


def test_there_are_figures():
    assert FIGURES


def test_figure_is_light(browser, figure):
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
        ".filter(n => n.includes('_static/live/'))"
    )
    files = {HTML / "_static" / "live" / url.rsplit("/", 1)[1].split("?")[0] for url in loaded}
    assert files and sum(len(gzip.compress(path.read_bytes())) for path in files) <= WEIGHT


def work_every_control(browser, element):
    def seen():
        return pictures(browser, element), words(element)

    pause(browser, element)
    for control in element.find_elements("css selector", ".live-controls input, select"):
        before = seen()
        at_end = control.get_attribute("value") == control.get_attribute("max")
        slide = Keys.ARROW_LEFT if at_end else Keys.ARROW_RIGHT
        control.send_keys(Keys.ARROW_DOWN if control.tag_name == "select" else slide)
        wait(browser, lambda before=before: seen() != before)
        pause(browser, element)
    for button in element.find_elements("css selector", ".live-controls button"):
        before = seen(), button.text
        button.send_keys(Keys.ENTER)
        wait(browser, lambda b=button, before=before: (seen(), b.text) != before)
    assert "stopped:" not in words(element)


def test_every_control_changes_the_figure(browser, figure):
    work_every_control(browser, figure)


def test_canvas_answers_mouse_finger_and_keys(browser, figure):
    element = figure
    pause(browser, element)
    canvas = element.find_element("tag name", "canvas")
    before = pictures(browser, element)
    actions = ActionChains(browser).move_to_element_with_offset(canvas, -40, 30)
    actions.click_and_hold().move_by_offset(60, -80).release().perform()
    wait(browser, lambda: pictures(browser, element) != before)
    pause(browser, element)

    before, box = pictures(browser, element), canvas.rect
    scroll = browser.execute_script("return [scrollX, scrollY]")
    x = box["x"] - scroll[0] + box["width"] / 4
    y = box["y"] - scroll[1] + box["height"] / 3
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    for kind, shift in (
        ("touchStart", 0),
        ("touchMove", 30),
        ("touchMove", 60),
        ("touchEnd", None),
    ):
        points = [] if shift is None else [{"x": x + shift, "y": y + shift}]
        event = {"type": kind, "touchPoints": points}
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", event)
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    wait(browser, lambda: pictures(browser, element) != before)
    pause(browser, element)

    before = pictures(browser, element)
    canvas.send_keys(*[Keys.ARROW_LEFT] * 3, *[Keys.ARROW_UP] * 3)
    wait(browser, lambda: pictures(browser, element) != before)
    assert canvas.get_attribute("aria-label")


def test_nothing_runs_out_of_sight(browser, figure):
    for button in figure.find_elements("css selector", ".live-controls button"):
        if button.text.startswith("Play"):
            button.click()
    browser.execute_script("scrollTo(0, document.documentElement.scrollHeight)")
    browser.execute_async_script("setTimeout(arguments[0], 500)")
    browser.execute_script(COUNT)
    browser.execute_async_script("setTimeout(arguments[0], 500)")
    assert browser.execute_script("return frames_asked") == 0


@needs_axe
def test_axe_finds_no_barrier_in_a_running_figure(browser, figure):
    browser.execute_script(LESS)
    browser.execute_script(ALONE, figure)
    for colours in ("light", "dark"):
        show(browser, 390, colours)
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
        browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
        assert not barriers(browser, figure), colours


def shown(browser, element):
    """Whether the figure's picture can be seen, and whether the stage that replaces it can."""
    script = "return getComputedStyle(arguments[0]).display !== 'none'"
    parts = [element.find_element("class name", part) for part in ("lab-picture", "live-stage")]
    return [browser.execute_script(script, part) for part in parts]


def test_picture_stands_in_print(browser, figure):
    assert shown(browser, figure) == [False, True]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert shown(browser, figure) == [True, False]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.fixture(scope="module", params=FIGURES)
def calm_figure(start, request):
    """Open a figure on a dark phone whose reader wants no motion."""
    return start(request.param, 360, "dark", calm=True)


def test_nothing_moves_by_itself_for_calm_readers(browser, calm_figure):
    before = pictures(browser, calm_figure)
    browser.execute_async_script("setTimeout(arguments[0], 700)")
    assert pictures(browser, calm_figure) == before


def test_every_control_works_on_a_dark_phone(browser, calm_figure):
    work_every_control(browser, calm_figure)


@pytest.mark.parametrize("name", FIGURES)
def test_picture_stands_without_scripts(browser, address, name):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(f"{address}{FIGURES[name]}.html?plain")
        element = browser.find_element("id", f"live-{name}")
        assert element.find_element("class name", "lab-picture").is_displayed()
        assert not element.find_element("class name", "live-stage").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_figure_that_cannot_start_shows_its_picture(browser, address):
    name = next(iter(FIGURES))
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/live/figure.js*"]})
    try:
        browser.get(f"{address}{FIGURES[name]}.html?plain")
        element = browser.find_element("id", f"live-{name}")
        browser.execute_script("arguments[0].scrollIntoView()", element)
        wait(browser, lambda: "could not start" in element.text)
        assert element.find_element("class name", "lab-picture").is_displayed()
    finally:
        browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
        browser.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": False})
        browser.get_log("browser")
