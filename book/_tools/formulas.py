"""Formulas typeset when the site is built, by KaTeX, so that pages need no script for them.

Without KaTeX or Node.js pages load MathJax from a CDN instead.
"""

import atexit
import json
import shutil
import subprocess
from functools import cache

from docutils import nodes
from npm import KATEX
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

TYPESET = """
const katex = require(process.argv[1]), macros = JSON.parse(process.argv[2]);
require("readline").createInterface({input: process.stdin}).on("line", (line) => {
  const {tex, displayMode} = JSON.parse(line);
  let answer;
  try { answer = {html: katex.renderToString(tex, {displayMode, macros, strict: "ignore"})}; }
  catch (error) { answer = {error: error.message}; }
  console.log(JSON.stringify(answer));
});
"""
LOG = logging.getLogger(__name__)


@cache
def start(macros):
    """Start KaTeX; it reads a formula a line and writes its HTML or what is wrong with it."""
    command = ["node", "-e", TYPESET, str(KATEX / "katex.min.js"), macros]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, encoding="utf-8")
    atexit.register(process.kill)
    return process


@cache
def typeset(tex, display, macros):
    """Return the HTML of a formula, or None, and what is wrong with it."""
    process = start(macros)
    process.stdin.write(json.dumps({"tex": tex, "displayMode": display}) + "\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    return answer.get("html"), answer.get("error")


def formula(self, node, display):
    """Return the HTML of a node's formula; one that KaTeX cannot read is a warning."""
    macros = self.config.mathjax3_config["tex"]["macros"]
    short = {f"\\{name}": m if isinstance(m, str) else m[0] for name, m in macros.items()}
    html, problem = typeset(node.astext(), display, json.dumps(short))
    if problem:
        LOG.warning("%s", problem, location=node)
    return html or self.encode(node.astext())


def visit_inline(self, node):
    self.body.append(self.starttag(node, "span", "", CLASS="math notranslate nohighlight"))
    self.body.append(formula(self, node, display=False) + "</span>")
    raise nodes.SkipNode


def visit_display(self, node):
    self.body.append(self.starttag(node, "div", CLASS="math notranslate nohighlight"))
    self.body.append(f'<div class="formula">{formula(self, node, display=True)}</div>')
    if node["number"]:
        self.body.append(f'<span class="eqno">({get_node_equation_number(self, node)})')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def choose(app, config):
    """Typeset with KaTeX where it and Node.js are here."""
    if (KATEX / "katex.min.js").exists() and shutil.which("node"):
        config.html_math_renderer = "katex"
        config.html_css_files.insert(0, "katex/katex.min.css")
        config.html_js_files.append(("katex/contrib/copy-tex.min.js", {"defer": "defer"}))
    else:
        LOG.info("no KaTeX or no Node.js here: pages will load MathJax from a CDN")
        config.html_static_path = [p for p in config.html_static_path if p != "vendor/site"]


def fetch_fonts_early(app, pagename, templatename, context, doctree):
    """Ask for the fonts of most formulas at once: the text must not move when they come."""
    if app.config.html_math_renderer == "katex" and doctree and list(doctree.findall(nodes.math)):
        root = context["pathto"]("_static/katex/fonts/", 1)
        context["metatags"] = context.get("metatags", "") + "".join(
            f'<link rel="preload" href="{root}{font}.woff2" as="font" crossorigin>'
            for font in ("KaTeX_Main-Regular", "KaTeX_Math-Italic")
        )


def setup(app):
    app.add_html_math_renderer("katex", (visit_inline, None), (visit_display, None))
    app.connect("config-inited", choose)
    app.connect("html-page-context", fetch_fonts_early)
