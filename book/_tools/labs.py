"""What the chapters take from the labs: pictures with their numbers, and cells of code."""

import base64
import hashlib
import io
import re
import struct
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

import nbformat
from docutils import nodes
from docutils.parsers.rst import directives
from PIL import Image
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective
from sphinx.writers.html5 import HTML5Translator

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
CAPTION = re.compile(r"\*((?:Figure|Film) \d+\.\d+)\.\*")


@dataclass(frozen=True)
class Picture:
    """A picture in a lab's outputs: its number ("Figure 3.1") and what was said of it."""

    number: str
    alt: str
    width: int
    data: bytes

    @property
    def file(self):
        kind = "gif" if self.data[:3] == b"GIF" else "png"
        return f"{hashlib.sha256(self.data).hexdigest()}.{kind}"

    @property
    def drawn(self):
        """Whether it is a drawing on white; those of `plotting` have a palette, digits have not."""
        return self.file.endswith("png") and self.data[25] == 3

    @property
    def still(self):
        """The last picture of a film, as a PNG; None if it is no film."""
        if not self.file.endswith("gif"):
            return None
        last = io.BytesIO()
        with Image.open(io.BytesIO(self.data)) as film:
            film.seek(film.n_frames - 1)
            film.save(last, "png")
        return last.getvalue()

    @property
    def height(self):
        """Height in pixels of the screen, at the width at which the picture is shown."""
        if self.file.endswith("gif"):
            wide, high = struct.unpack("<HH", self.data[6:10])
        else:
            wide, high = struct.unpack(">II", self.data[16:24])
        return round(self.width * high / wide)


@cache
def cells(lab):
    """Return the cells of one lab, by its name, "03-flow-matching"."""
    path = NOTEBOOKS / f"{lab}.ipynb"
    if not path.exists():
        raise ExtensionError(f"there is no lab {path.name}")
    return nbformat.read(path, as_version=4).cells


@cache
def pictures(lab):
    """Return the pictures of one lab by their keys.

    The caption of a picture opens the next Markdown cell: "*Figure 3.1.* …".
    """
    found, waiting = {}, None
    for cell in cells(lab):
        if waiting and cell.cell_type == "markdown":
            caption = CAPTION.match(cell.source)
            if not caption:
                raise ExtensionError(f"{lab}: no caption under the picture {waiting[0]!r}")
            found[waiting[0]] = Picture(caption.group(1), *waiting[1:])
            waiting = None
        for output in cell.get("outputs", []):
            for kind in {"image/png", "image/gif"} & set(output.get("data", {})):
                said = output.metadata
                data = base64.b64decode(output.data[kind])
                waiting = (said.scrapbook.name, said[kind].alt, said[kind].width, data)
    return found


def anchor(number):
    """Return the name of a place on a page: "Check 3.1" becomes "check-3-1"."""
    return number.lower().replace(" ", "-").replace(".", "-")


class picture_node(nodes.General, nodes.Element):
    """A lab's picture; what stands on the page is written by ``write_picture``."""


def write_picture(self, node):
    picture = node["picture"]
    folder = Path(self.builder.outdir, self.builder.imagedir)
    folder.mkdir(exist_ok=True)
    (folder / picture.file).write_bytes(picture.data)
    address = f"{self.builder.imgpath}/{picture.file}"
    kind = ' class="drawn"' if picture.drawn else ""
    if picture.still:
        (folder / f"{picture.file}.png").write_bytes(picture.still)
        kind = f' data-still="{address}.png"'
    self.body.append(
        f'<a class="lab-picture" href="{address}"><img src="{address}" alt="{escape(picture.alt)}" '
        f'width="{picture.width}" height="{picture.height}" loading="lazy" decoding="async"'
        f"{kind}></a>"
    )
    raise nodes.SkipNode


class figure_node(nodes.figure):
    """A figure with a number of the lab's; Sphinx counts only figures of its own class."""


def figure_of(picture, *said):
    """Return a figure with its number and what is said under it."""
    number = nodes.strong("", f"{picture.number}.", classes=["caption-number"])
    return figure_node(
        "",
        picture_node(picture=picture),
        nodes.caption("", "", number, *said),
        ids=[anchor(picture.number)],
    )


class LabDirective(SphinxDirective):
    """A directive that names something in a lab; without `:lab:` in the chapter's own."""

    required_arguments = 1
    option_spec = {"lab": directives.unchanged}

    @property
    def lab(self):
        return self.options.get("lab", Path(self.env.docname).name)

    def picture(self, key):
        known = pictures(self.lab)
        if key not in known:
            raise self.error(f"lab {self.lab} has no picture {key!r}, only {', '.join(known)}")
        return known[key]

    def caption(self):
        """Return what is said under a figure, after its number: the content, one paragraph."""
        said = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, said)
        if len(said) != 1 or not isinstance(said[0], nodes.paragraph):
            raise self.error("a caption is one paragraph")
        return [nodes.Text(" "), *said[0].children]


class LabFigure(LabDirective):
    """Show a lab's picture, with its number there and with the caption that is the content."""

    has_content = True

    def run(self):
        return [figure_of(self.picture(self.arguments[0]), *self.caption())]


class LabCell(LabDirective):
    """Show the code of the one cell of the lab that has the tag "quote-NAME"."""

    def run(self):
        tag = f"quote-{self.arguments[0]}"
        found = [cell for cell in cells(self.lab) if tag in cell.metadata.get("tags", [])]
        if len(found) != 1:
            raise self.error(f"{len(found)} cells of lab {self.lab} have the tag {tag}, not one")
        return [nodes.literal_block(found[0].source, found[0].source, language="python")]


def number_figures(app, doctree, docname):
    """Make figures of a lab's pictures and the captions under them."""
    if not docname.startswith("notebooks/"):
        return
    known = {picture.file: picture for picture in pictures(docname.partition("/")[2]).values()}
    shown = None
    for node in list(doctree.findall()):
        if isinstance(node, nodes.image) and Path(node["uri"]).name in known:
            shown = node
        elif shown and isinstance(node, nodes.paragraph) and CAPTION.match(node.rawsource):
            figure = figure_of(known[Path(shown["uri"]).name], *node.children[1:])
            node.parent.remove(node)
            shown.replace_self(figure)
            shown = None


def setup(app):
    app.add_node(picture_node, html=(write_picture, None))
    app.add_node(figure_node, html=(HTML5Translator.visit_figure, HTML5Translator.depart_figure))
    app.add_directive("lab-figure", LabFigure)
    app.add_directive("lab-cell", LabCell)
    app.connect("doctree-resolved", number_figures)
