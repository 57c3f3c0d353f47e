"""Every living figure, worked by mouse, finger and keys in a real browser."""

import gzip
import re

import pytest
from browser import AXE, HTML, ROOT, show
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


@pytest.fixture
def figure(browser, address, request):
    """Open the page of a figure and bring the figure into view."""

    def start(name, width=1280, colours="light", calm=False):
        show(browser, width, colours)
        features = [
            {"name": "prefers-color-scheme", "value": colours},
            {"name": "prefers-reduced-motion", "value": "reduce" if calm else "no-preference"},
        ]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.get_log("browser")
        browser.get(f"{address}{FIGURES[name]}.html")
        element = browser.find_element("id", f"live-{name}")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        wait(browser, lambda: words(element))
        return element

    yield start
    severe = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    assert not severe


def wait(browser, condition):
    # a busy machine may need several seconds where a reader needs a tenth
    WebDriverWait(browser, 30).until(lambda _: condition())


def words(element):
    found = element.find_elements("class name", "live-words")
    return found[0].text if found else ""


def picture(browser, element):
    """Return what the figure's canvases show, as text."""
    script = "return [...arguments[0].querySelectorAll('canvas')].map(c => c.toDataURL()).join()"
    return browser.execute_script(script, element)


def pause(browser, element):
    for button in element.find_elements("css selector", ".live-controls button"):
        if button.text.startswith(("Pause", "Stop")):
            button.click()


def test_there_are_figures():
    assert FIGURES


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(("width", "colours"), [(1280, "light"), (360, "dark")])
def test_every_control_changes_the_figure(browser, figure, name, width, colours):
    element = figure(name, width, colours)
    pause(browser, element)
    for control in element.find_elements("css selector", ".live-controls input, select"):
        before = picture(browser, element), words(element)
        at_end = control.get_attribute("value") == control.get_attribute("max")
        slide = Keys.ARROW_LEFT if at_end else Keys.ARROW_RIGHT
        control.send_keys(Keys.ARROW_DOWN if control.tag_name == "select" else slide)
        wait(browser, lambda before=before: (picture(browser, element), words(element)) != before)
        pause(browser, element)
    for button in element.find_elements("css selector", ".live-controls button"):
        before = picture(browser, element), words(element), button.text
        button.send_keys(Keys.ENTER)
        wait(
            browser,
            lambda b=button, was=before: (picture(browser, element), words(element), b.text) != was,
        )
    assert "stopped:" not in words(element)


@pytest.mark.parametrize("name", FIGURES)
def test_canvas_answers_mouse_finger_and_keys(browser, figure, name):
    element = figure(name)
    pause(browser, element)
    canvas = element.find_element("tag name", "canvas")
    before = picture(browser, element)
    actions = ActionChains(browser).move_to_element_with_offset(canvas, -40, 30)
    actions.click_and_hold().move_by_offset(60, -80).release().perform()
    wait(browser, lambda: picture(browser, element) != before)
    pause(browser, element)

    before, box = picture(browser, element), canvas.rect
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
    wait(browser, lambda: picture(browser, element) != before)
    pause(browser, element)

    before = picture(browser, element)
    canvas.send_keys(*[Keys.ARROW_LEFT] * 3, *[Keys.ARROW_UP] * 3)
    wait(browser, lambda: picture(browser, element) != before)
    assert canvas.get_attribute("aria-label")


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_no_barrier_in_a_running_figure(browser, figure, name, colours):
    if not AXE.exists():
        pytest.skip("no axe-core: install Node.js, then `make book`")
    element = figure(name, 390, colours)
    browser.execute_script(AXE.read_text(encoding="utf-8"))
    found = browser.execute_async_script(
        """
        const [figure, done] = arguments;
        axe.run(figure, {resultTypes: ["violations"]}).then(({violations}) => done(
          violations.flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.html.slice(0, 150)}`))));
        """,
        element,
    )
    assert not found


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_runs_out_of_sight(browser, figure, name):
    element = figure(name)
    for button in element.find_elements("css selector", ".live-controls button"):
        if button.text.startswith("Play"):
            button.click()
    browser.execute_script("scrollTo(0, document.documentElement.scrollHeight)")
    browser.execute_async_script("setTimeout(arguments[0], 500)")
    browser.execute_script(COUNT)
    browser.execute_async_script("setTimeout(arguments[0], 500)")
    assert browser.execute_script("return frames_asked") == 0


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_moves_by_itself_for_calm_readers(browser, figure, name):
    element = figure(name, calm=True)
    before = picture(browser, element)
    browser.execute_async_script("setTimeout(arguments[0], 700)")
    assert picture(browser, element) == before


@pytest.mark.parametrize("name", FIGURES)
def test_picture_stands_in_print_and_without_scripts(browser, figure, address, name):
    shown = "return getComputedStyle(document.querySelector(arguments[0])).display !== 'none'"
    parts = [f"#live-{name} > .lab-picture", f"#live-{name} > .live-stage"]
    figure(name)
    assert [browser.execute_script(shown, part) for part in parts] == [False, True]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert [browser.execute_script(shown, part) for part in parts] == [True, False]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(f"{address}{FIGURES[name]}.html")
        assert [browser.find_element("css selector", part).is_displayed() for part in parts] == [
            True,
            False,
        ]
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_figure_that_cannot_start_shows_its_picture(browser, address):
    name = next(iter(FIGURES))
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/live/figure.js*"]})
    try:
        browser.get(f"{address}{FIGURES[name]}.html")
        element = browser.find_element("id", f"live-{name}")
        browser.execute_script("arguments[0].scrollIntoView()", element)
        wait(browser, lambda: "could not start" in element.text)
        assert element.find_element("class name", "lab-picture").is_displayed()
    finally:
        browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
        browser.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": False})
        browser.get_log("browser")


@pytest.mark.parametrize("name", FIGURES)
def test_figure_is_light(browser, figure, name):
    figure(name)
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
        ".filter(n => n.includes('_static/live/'))"
    )
    files = {HTML / "_static" / "live" / url.rsplit("/", 1)[1].split("?")[0] for url in loaded}
    assert files and sum(len(gzip.compress(path.read_bytes())) for path in files) <= WEIGHT
