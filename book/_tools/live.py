"""Figures that compute in the page: a place for each, and the modules of book/_live beside it."""

import shutil
from pathlib import Path

import labs
from docutils import nodes
from docutils.parsers.rst import directives

LIVE = labs.NOTEBOOKS.parent / "book" / "_live"
WEIGHTS = labs.NOTEBOOKS.parent / "fmtutorial" / "data"
NETWORKS = ("mnist", "mnist-one-step")
"""Weights of the package that a figure loads."""


class live_node(nodes.figure):
    """A living figure around the picture that stands in its place without scripts and in print."""


def visit_live(self, node):
    name = node["name"]
    address = f"{'../' * self.builder.current_docname.count('/')}_static/live/{name}.js"
    self.body.append(
        f'<figure class="live" id="live-{name}" data-live="{address}">\n'
        '<div class="live-stage pst-js-only"></div>\n'
    )


def depart_live(self, node):
    self.body.append("</figure>\n")


class LiveFigure(labs.LabDirective):
    """Show the living figure of a module of book/_live; the content is its caption.

    `:picture:` names the picture of a lab that stands in its place.
    """

    has_content = True
    option_spec = labs.LabDirective.option_spec | {"picture": directives.unchanged_required}

    def run(self):
        (name,) = self.arguments
        if not (LIVE / f"{name}.js").exists():
            raise self.error(f"book/_live has no {name}.js")
        picture = self.picture(self.options.get("picture"))
        start = nodes.strong("", "Try it.", classes=["caption-number"])
        caption = nodes.caption("", "", start, *self.caption())
        return [live_node("", labs.picture_node(picture=picture), caption, name=name)]


def serve_modules(app, exception):
    """Copy the modules, and the weights that they load, to where pages look for them."""
    if not exception and app.builder.format == "html":
        served = Path(app.outdir, "_static", "live")
        shutil.copytree(LIVE, served, dirs_exist_ok=True)
        for name in NETWORKS:
            shutil.copy(WEIGHTS / f"{name}.safetensors", served)


def setup(app):
    app.add_node(live_node, html=(visit_live, depart_live))
    app.add_directive("live-figure", LiveFigure)
    app.connect("build-finished", serve_modules)
