"""The networks of chapter 8 in a real browser: their answers, their samplers and their figure."""

import functools
import gzip
import json

import pytest
import torch
from browser import AXE, HTML, SEED, Pages, barriers, pictures, served, show
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from fmtutorial.distributions import Gaussian
from fmtutorial.guidance import guided
from fmtutorial.images.bits import bits_per_dimension
from fmtutorial.images.data import dequantise, small_digits, to_pixels
from fmtutorial.images.sampling import STEPS, evaluations
from fmtutorial.images.weights import load_weights
from fmtutorial.likelihood import log_likelihood, rademacher_like
from fmtutorial.solvers import heun, solve

PAGE, NAME = "book/08-mnist.html?plain", "08-digits"
RUNTIME = HTML / "_static" / "onnxruntime"
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
"""Both sides compute in single precision, in another order of additions."""

needs_runtime = pytest.mark.skipif(
    not RUNTIME.is_dir(), reason="no onnxruntime-web: install Node.js, then `make book`"
)


@pytest.fixture(scope="module")
def page(browser, address):
    """Run JavaScript with the modules of digits and the networks of one worker."""
    browser.get(f"{address}404.html")
    browser.execute_script("window.kept = {}")

    def run(body, **arguments):
        script = f"""
            const [a, done] = arguments;
            const plain = (key, value) => ArrayBuffer.isView(value) ? [...value] : value;
            const load = (name) => import("{address}_static/live/" + name + ".js");
            (async () => {{
              const names = ["random", "solvers", "digits"];
              const m = Object.assign({{}}, ...(await Promise.all(names.map(load))));
              kept.networks ??= new m.Networks();
              const network = async (name) => kept[name] ??= await kept.networks.network(name);
              done(JSON.stringify(await (async () => {{ {body} }})(), plain));
            }})().catch((error) => done(JSON.stringify({{error: `${{error}}`}})));
        """
        answer = json.loads(browser.execute_async_script(script, arguments))
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer

    return run


@functools.cache
def published(name):
    return load_weights(name).network


def flat(images):
    return images.flatten().tolist()


def same(answer, expected):
    answer = torch.as_tensor(answer).reshape(expected.shape)
    torch.testing.assert_close(answer, expected, **CLOSE)


@needs_runtime
@pytest.mark.parametrize("name", ["mnist", "mnist-one-step"])
@pytest.mark.parametrize("batch", [1, 3, 28])
def test_network_is_the_package_s(page, draw, name, batch):
    x = torch.randn(batch, 1, 28, 28, generator=draw)
    label = torch.randint(0, 11, (batch,), generator=draw)
    for t in (0.0, torch.rand(1, generator=draw).item(), 1.0):
        body = """
            const x = Float64Array.from(a.x);
            return (await network(a.name))(x, a.t, a.label);
        """
        answer = page(body, name=name, x=flat(x), t=t, label=label.tolist())
        with torch.no_grad():
            same(answer, published(name)(x, torch.full((batch,), t), label))


@needs_runtime
@pytest.mark.parametrize("scale", [0, 1, 2.5])
@pytest.mark.parametrize("method", ["euler", "heun"])
def test_guided_sampling_is_the_package_s(page, draw, method, scale):
    x = torch.randn(4, 1, 28, 28, generator=draw)
    label, steps = torch.randint(0, 10, (4,), generator=draw), 4
    body = """
        const field = m.guided(await network("mnist"), a.label, a.scale);
        const states = [];
        let calls = 0;
        const counted = (x, t) => (calls++, field(x, t));
        const times = m.grid(a.steps);
        const x = Float64Array.from(a.x);
        for await (const state of m.sample(counted, x, times, m.SAMPLERS[a.method]))
          states.push([[...state.x], [...state.prediction]]);
        return {states, calls, said: m.evaluations(a.method, a.steps)};
    """
    given = {"x": flat(x), "label": label.tolist(), "scale": scale, "method": method}
    answer = page(body, steps=steps, **given)
    assert answer["calls"] == answer["said"] == evaluations(method, steps)
    field, times = guided(published("mnist"), label, scale), torch.linspace(0, 1, steps + 1)
    states, predictions = (
        torch.tensor(part).view(-1, *x.shape) for part in zip(*answer["states"], strict=True)
    )
    assert torch.equal(states[0], x) and len(states) == steps + 1
    with torch.no_grad():
        for t, state, predicted in zip(times, states, predictions, strict=True):
            same(predicted, state + (1 - t) * field(state, t.expand(4)))
        # from the page's own states: the flow would enlarge what an earlier step has rounded
        for i in range(steps):
            same(states[i + 1], solve(field, states[i], times[i : i + 2], STEPS[method]).last)


@needs_runtime
def test_image_is_carried_to_noise(page, draw):
    x = torch.rand(1, 1, 28, 28, generator=draw) - 1
    body = """
        const field = m.guided(await network("mnist"), [m.NO_LABEL], 0);
        return m.last(field, Float64Array.from(a.x), m.wayToNoise(3), m.heun);
    """
    answer = page(body, x=flat(x))
    field = guided(published("mnist"), torch.tensor([10]), 0)
    times = 1 - (torch.arange(4) / 3) ** 2
    with torch.no_grad():
        same(answer, solve(field, x, times, heun).last)


@needs_runtime
def test_bits_per_dimension_are_the_package_s(page, draw):
    digits = small_digits("test").images
    x = dequantise(digits[torch.randint(len(digits), (1,), generator=draw)], draw)
    probe = rademacher_like(x, draw)
    body = """
        const field = m.guided(await network("mnist"), Array(3).fill(m.NO_LABEL), 0);
        const [x, probe] = [Float64Array.from(a.x), Float64Array.from(a.probe)];
        const found = await m.logLikelihood(field, x, m.wayToNoise(a.steps), m.heun, probe);
        return [found.noise, m.bitsPerDimension(found.logProb, x.length)];
    """
    noise, bits = page(body, x=flat(x), probe=flat(probe), steps=5)
    field = guided(published("mnist"), torch.tensor([10]), 0)
    times, base = 1 - (torch.arange(6) / 5) ** 2, Gaussian(torch.zeros_like(x[0]))
    with torch.no_grad():
        same(noise, solve(field, x, times, heun).last)
        arguments = (field, x, base, times, heun, "hutchinson", probe)
        expected = bits_per_dimension(log_likelihood(*arguments), x.shape[1:]).item()
    # near the data a difference is off by 0.3 of 30,000 nats: 6e-4 bits, if it were so all the way
    assert abs(bits - expected) < 1e-3


def test_probe_has_signs(page):
    probe = torch.tensor(page("return m.rademacher(m.generator(a.seed), 20000)", seed=SEED))
    assert probe.abs().eq(1).all()
    assert abs(probe.double().mean()) < 0.04  # five standard errors, 1 over the root of 20,000


def test_dequantised_image_is_the_package_s(page, draw):
    pixels = torch.randint(0, 256, (2000,), generator=draw, dtype=torch.uint8)
    between = dequantise(pixels[:, None, None], draw).flatten()
    body = """
        const x = Float64Array.from(a.x);
        return [x.map(m.greyLevel), m.dequantised(x, () => 0.25)];
    """
    levels, noisy = page(body, x=between.tolist())
    assert levels == pixels.tolist()
    same(noisy, (pixels + 0.25) / 128 - 1)
    assert to_pixels(torch.tensor(noisy)[:, None, None, None]).flatten().tolist() == levels
    assert page(body, x=[-3.0, 3.0])[0] == [0, 255]


def test_turned_noise_stays_normal(page, draw):
    noises = torch.randn(3, 20000, generator=draw)
    body = "return m.turned(a.noises.map((n) => Float64Array.from(n)), 1.5, -0.7);"
    turned = torch.tensor(page(body, noises=noises.tolist()))
    weights = torch.tensor([1, 1.5, -0.7])
    same(turned, (weights / weights.norm()) @ noises)
    assert abs(turned.var() - 1) < 0.05  # five standard errors, √2 over the root of 20,000


def test_evaluations_that_a_budget_allows(page):
    body = "return a.budgets.map((n) => m.evaluations('heun', m.affordable('heun', n)));"
    assert page(body, budgets=[1, 3, 19, 49]) == [1, 3, 19, 49]


def test_a_lost_worker_is_reported(page):
    body = """
        const networks = new m.Networks(0.2);
        const silent = await networks.ask({load: "mnist"}).catch((error) => error.message);
        const others = new m.Networks();
        const asked = others.ask({load: "mnist"}).catch((error) => error.message);
        others.lose("gone");
        return [silent, await asked];
    """
    # a third of a second is too short to load anything: as if it had died
    silent, gone = page(body)
    assert "did not answer" in silent and gone == "gone"


@pytest.fixture
def figure(browser, address):
    """Open the page with the figure in view."""

    def start(width=1280, colours="light", base=address):
        show(browser, width, colours)
        browser.get_log("performance"), browser.get_log("browser")
        browser.get(f"{base}{PAGE}")
        element = browser.find_element("id", f"live-{NAME}")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        wait(lambda: words(element))
        return element

    def wait(condition):
        WebDriverWait(browser, 60).until(lambda _: condition())

    start.wait = wait
    return start


def words(element):
    found = element.find_elements("class name", "live-words")
    return found[0].text if found else ""


def button(element, text):
    buttons = element.find_elements("css selector", ".live-controls button")
    return next((b for b in buttons if b.text.startswith(text)), None)


def requests(browser):
    found = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [
        m["params"]["request"]["url"] for m in found if m["method"] == "Network.requestWillBeSent"
    ]
    return [url for url in sent if url.startswith("http")]


def loaded(browser, figure, *place):
    element = figure(*place)
    button(element, "Load").click()
    figure.wait(lambda: "s for all ten" in words(element))
    return element


@needs_runtime
def test_nothing_loads_before_the_click(browser, figure, address):
    element = figure()
    browser.execute_async_script("setTimeout(arguments[0], 500)")
    heavy = ("onnx", "safetensors", "worker", "unet")
    assert not [url for url in requests(browser) if any(word in url for word in heavy)]
    press = button(element, "Load")
    said = int(press.text.split()[-2])
    press.click()
    figure.wait(lambda: "s for all ten" in words(element))
    # what a worker asks for, the log of its page does not list
    static = HTML / "_static"
    files = [*RUNTIME.iterdir(), static / "live" / "mnist.safetensors"]
    assert abs(sum(len(gzip.compress(path.read_bytes())) for path in files) / 1e6 - said) < 0.5
    assert all(url.startswith(address) for url in requests(browser))


@needs_runtime
@pytest.mark.parametrize(("width", "colours"), [(1280, "light"), (360, "dark")])
def test_controls_work(browser, figure, width, colours):
    element = loaded(browser, figure, width, colours)

    def changes(action):
        before = pictures(browser, element), words(element)
        action()
        figure.wait(lambda: (pictures(browser, element), words(element)) != before)
        figure.wait(lambda: "s for all ten" in words(element))

    assert "19 evaluations," in words(element)
    # what follows needs no good digits, and a sixth of the time
    fewer = element.find_elements("css selector", ".live-controls input")[1]
    changes(lambda: fewer.send_keys(*[Keys.ARROW_LEFT] * 8))
    for control in element.find_elements("css selector", ".live-controls select"):
        for _ in range(2 if control == element.find_element("tag name", "select") else 1):
            changes(
                lambda c=control: Select(c).select_by_index(1 - c.get_property("selectedIndex"))
            )
    for control in element.find_elements("css selector", ".live-controls input"):
        name = control.find_element("xpath", "..").text
        key = Keys.ARROW_LEFT if name.startswith("time") else Keys.ARROW_RIGHT
        changes(lambda c=control, k=key: c.send_keys(k))
    assert "each of two of the network" in words(element)
    changes(lambda: button(element, "New noise").click())
    before = pictures(browser, element)
    button(element, "Play").click()
    figure.wait(lambda: pictures(browser, element) != before)
    figure.wait(lambda: button(element, "Play"))

    canvas, pad = element.find_elements("tag name", "canvas")
    changes(lambda: canvas.send_keys(Keys.ARROW_LEFT))
    assert "turned by you" in words(element)
    actions = ActionChains(browser).move_to_element_with_offset(pad, -20, -30)
    changes(lambda: actions.click_and_hold().move_by_offset(5, 60).release().perform())
    figure.wait(lambda: "Your drawing has about" in words(element))
    figure.wait(lambda: "s for all ten" in words(element))
    typical = element.find_element("css selector", "figcaption .pasted-text").text.split()[0]
    bits = float(words(element).split("about ")[1].split()[0])
    assert 0.5 < bits < 8 and f"a typical digit ({typical})" in words(element)
    assert float(words(element).split("off by ")[1].split()[0]) < 20
    changes(lambda: pad.send_keys(*[Keys.ARROW_UP] * 3))
    changes(lambda: pad.send_keys(Keys.DELETE))
    assert "No digits" not in words(element)
    assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    if AXE.exists():
        assert not barriers(browser, element)


@needs_runtime
def test_a_drawing_waits_for_the_network(browser, figure):
    element = figure()
    pad = element.find_elements("tag name", "canvas")[1]
    pad.send_keys(*[Keys.ARROW_UP] * 8)
    figure.wait(lambda: "Load the network: its flow" in words(element))
    button(element, "Load").click()
    figure.wait(lambda: "Your drawing has about" in words(element))


@needs_runtime
def test_text_below_is_not_pushed(browser, figure):
    element = figure()

    def heights():
        found = {}
        for width in (360, 480, 768, 1280):
            show(browser, width)
            browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0]))")
            found[width] = element.rect["height"]
        return found

    before = heights()
    button(element, "Load").click()
    figure.wait(lambda: "s for all ten" in words(element))
    assert heights() == before
    # the longest that it says
    pad = element.find_elements("tag name", "canvas")[1]
    pad.send_keys(*[Keys.ARROW_UP] * 8)
    guidance = element.find_elements("css selector", ".live-controls input")[0]
    guidance.send_keys(Keys.ARROW_RIGHT)
    figure.wait(lambda: "Your drawing has about" in words(element))
    figure.wait(lambda: "s for all ten" in words(element))
    assert "each of two of the network" in words(element)
    assert heights() == before


@needs_runtime
def test_one_step_follows_a_finger(browser, figure):
    element = loaded(browser, figure)
    which = Select(element.find_element("tag name", "select"))
    which.select_by_visible_text("distilled, one step")
    figure.wait(lambda: "one evaluation," in words(element))
    canvas = element.find_element("tag name", "canvas")
    ends = []
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    scroll, box = browser.execute_script("return [scrollX, scrollY]"), canvas.rect
    x, y = box["x"] - scroll[0] + box["width"] / 4, box["y"] - scroll[1] + box["height"] / 4
    for kind, shift in (
        ("touchStart", 0),
        ("touchMove", 30),
        ("touchMove", 60),
        ("touchEnd", None),
    ):
        before = pictures(browser, element)[0]
        points = [] if shift is None else [{"x": x + shift, "y": y + shift}]
        event = {"type": kind, "touchPoints": points}
        browser.execute_cdp_cmd("Input.dispatchTouchEvent", event)
        if points:
            figure.wait(lambda was=before: pictures(browser, element)[0] != was)
            ends.append(pictures(browser, element)[0])
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    assert len(set(ends)) == 3


def stands_in(browser, element, figure, reason):
    figure.wait(lambda: "No digits can be made" in words(element))
    assert reason in words(element)
    assert element.find_element("class name", "lab-picture").is_displayed()
    assert not any(c.is_displayed() for c in element.find_elements("tag name", "canvas"))
    browser.get_log("browser")  # a file that is not there is an error to the browser too


def test_no_webassembly_gets_a_sentence(browser, figure):
    element = figure()
    browser.execute_script("delete window.WebAssembly")
    button(element, "Load").click()
    stands_in(browser, element, figure, "this browser has no WebAssembly")


@pytest.fixture
def lacking():
    """Serve the site without the files whose names have one of these words."""
    words = []

    class Lacking(Pages):
        def translate_path(self, path):
            return super().translate_path("none" if any(w in path for w in words) else path)

    with served(Lacking) as place:
        yield place, words


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        ("onnxruntime", "built without Node.js"),
        ("digits-worker", "its worker could not start"),
        pytest.param("safetensors", "the site has no mnist.safetensors", marks=needs_runtime),
    ],
)
def test_failed_load_gets_a_sentence_and_another_try(browser, figure, lacking, missing, reason):
    base, words_missing = lacking
    words_missing.append(missing)
    element = figure(base=base)
    button(element, "Load").click()
    stands_in(browser, element, figure, reason)
    words_missing.clear()
    if RUNTIME.is_dir():
        button(element, "Load").click()
        figure.wait(lambda: "s for all ten" in words(element))
        assert not element.find_element("class name", "lab-picture").is_displayed()
