"""A real browser on the built site, served from this machine under the path that it will have."""

import contextlib
import functools
import http.server
import random
import re
import threading
from pathlib import Path
from urllib.parse import urlsplit

import finished
import pytest
import repository

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
AXE = ROOT / "vendor" / "axe-core" / "axe.min.js"
needs_axe = pytest.mark.skipif(
    not AXE.exists(), reason="no axe-core: install Node.js, then `make book`"
)
BASE = urlsplit(repository.site(repository.slug())).path
SEED = random.SystemRandom().randrange(2**31)
"""Of the inputs that the page's arithmetic is tried on: new in each run."""


# The theme's script follows the reader's colours a moment later. An empty page has no theme, and
# one without scripts keeps "auto".
THEMED = """
const [wanted, done] = arguments;
(function look() {
  const theme = document.documentElement.dataset.theme;
  if ([undefined, "auto", wanted].includes(theme)) done();
  else requestAnimationFrame(look);
})();
"""

# Axe reads every element, and looks for what lies behind each. Screen readers have the MathML of
# formulas, so the rest of them may go, and no rule looks inside it; words of code whose colours
# were seen in the same block become plain text; a colour half-way between light and dark is no
# reader's.
LESS = """
document.querySelectorAll("details").forEach((e) => e.open = true);
document.querySelectorAll(".katex-html").forEach((e) => e.remove());
document.querySelectorAll("math").forEach((e) => e.replaceChildren(e.textContent));
for (const block of document.querySelectorAll("pre, .sig")) {
  const seen = new Set();
  for (const word of block.querySelectorAll("span[class]")) {
    if (word.children.length) continue;
    if (seen.has(word.className)) word.replaceWith(word.textContent);
    seen.add(word.className);
  }
  block.normalize();
}
const still = document.createElement("style");
still.textContent = "* {transition: none !important}";
document.head.append(still);
"""
# What decides whether a text can be read, and a link told from the words around it: the colours,
# size and weight of the element, and of all that it lies in. Tells kinds of elements apart, so that
# called in light and in dark, it tells apart what differs in one of them only.
KINDS = """
const names = new Map(), chains = new Map();
const name = (key) => names.get(key) ?? names.set(key, names.size + 1).size;
const look = ["color", "backgroundColor", "backgroundImage", "opacity", "fontSize", "fontWeight",
  "textShadow", "textDecorationLine", "clip", "clipPath"];
function chain(e) {
  if (!e) return 0;
  if (!chains.has(e)) {
    const style = getComputedStyle(e);
    chains.set(e, name([chain(e.parentElement), e.ariaDisabled, e.ariaHidden, e.disabled,
      ...look.map((part) => style[part])].join()));
  }
  return chains.get(e);
}
function amongWords(link) {
  let block = link.parentElement;
  while (getComputedStyle(block).display.startsWith("inline")) block = block.parentElement;
  const letters = (e) => e.textContent.replace(/\\s/g, "").length;
  const links = [...block.querySelectorAll("a")].reduce((sum, e) => sum + letters(e), 0);
  return [letters(block) > links, letters(block) > 2 * links];
}
window.kinds ??= new Map();
for (const e of document.body.querySelectorAll("*")) {
  const control = e.matches("a, button, input, select, textarea, summary, label") && e.tagName;
  const text = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if ((text || control) && e.checkVisibility())
    kinds.set(e, [kinds.get(e), chain(e), control, control === "A" && amongWords(e)].join());
}
"""
# Leave three elements of each kind with what they lie in, what is out of the flow, since it may lie
# behind a text, and the headers: a phone shows one otherwise, and the theme measures the other.
PRUNE = """
const members = new Map();
for (const [e, kind] of kinds) members.set(kind, [...members.get(kind) ?? [], e]);
const kept = new Set();
const keep = (e) => { for (; e && !kept.has(e); e = e.parentElement) kept.add(e); };
document.querySelectorAll("#pst-header, .bd-header-article, .bd-header-article *").forEach(keep);
for (const all of members.values()) [all[0], all[all.length >> 1], all.at(-1)].forEach(keep);
for (const e of document.body.querySelectorAll(":not(.katex, .katex *)"))
  if (getComputedStyle(e).position !== "static") keep(e);
for (const e of document.body.querySelectorAll("*"))
  if (!kept.has(e) && (!e.parentElement || kept.has(e.parentElement))) e.remove();
"""
BARRIERS = """
const [part, options, done] = arguments;
axe.run(part ?? document, {resultTypes: ["violations"], ...options}).then(({violations}) => done(
  violations.flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.html.slice(0, 150)}`))));
"""
# A number for each canvas, which another picture would change.
PICTURES = """
return [...arguments[0].querySelectorAll("canvas")].map((canvas) => {
  const seen = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let sum = 0;
  for (const pixel of new Uint32Array(seen.data.buffer)) sum = (Math.imul(sum, 31) + pixel) | 0;
  return sum;
});
"""


LIVE = re.compile(r'<figure class="[^"]*\blive\b.*?</figure>', re.S)


@functools.cache
def plain(path):
    """Return a page without the formulas outside its living figures: most of what it costs."""
    html, formulas = finished.set_formulas_aside((HTML / path).read_text(encoding="utf-8"))
    back = lambda figure: finished.put_formulas_back(figure.group(), formulas)  # noqa: E731
    return LIVE.sub(back, html).encode()


class Pages(http.server.SimpleHTTPRequestHandler):
    """What GitHub Pages does: the site under its path, and 404.html for any wrong address.

    A page is plain, with fewer formulas, when its address ends so.
    """

    def do_GET(self):
        path, _, query = self.path.partition("?")
        if query == "plain":
            self.answer(200, plain(path.removeprefix(BASE)))
        else:
            super().do_GET()

    def translate_path(self, path):
        return super().translate_path("/" + path.removeprefix(BASE))

    def send_error(self, code, message=None, explain=None):
        self.answer(code, (HTML / "404.html").read_bytes())

    def answer(self, code, page):
        self.send_response(code)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(handler=Pages):
    """Serve the built site; yield its address."""
    handler = functools.partial(handler, directory=HTML)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}{BASE}"
        server.shutdown()


def show(browser, width, colours=None):
    """Set the width of the screen and the colours that the reader prefers."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    if colours:
        features = [{"name": "prefers-color-scheme", "value": colours}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        browser.execute_async_script(THEMED, colours)


def pictures(browser, element):
    """Return a number for what each canvas of an element shows."""
    return browser.execute_script(PICTURES, element)


def barriers(browser, part=None, options=None):
    """Return what axe-core finds in an element of the page, or in all of it."""
    if not browser.execute_script("return 'axe' in window"):
        browser.execute_script(AXE.read_text(encoding="utf-8"))
    return browser.execute_async_script(BARRIERS, part, options or {})
