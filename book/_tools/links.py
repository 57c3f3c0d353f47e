"""Links between the words "Check 2.6" and "Figure 2.5" and what they name, both ways."""

import re
from functools import cache
from html import escape
from pathlib import Path

import labs
from docutils import nodes

BOOK = labs.NOTEBOOKS.parent / "book"
NAMED = re.compile(r"\b((?:Check|Figure|Film) (\d+)\.\d+)\b")
NOT_PROSE = (nodes.reference, nodes.title, nodes.literal, nodes.literal_block, nodes.raw)


@cache
def lab_of(chapter):
    """Return the name of the lab with a number, or None."""
    found = [path.stem for path in labs.NOTEBOOKS.glob(f"{int(chapter):02d}-*.ipynb")]
    return found[0] if found else None


@cache
def chapter_of(lab):
    """Return the page that a lab belongs to: book/03-flow-matching, book/common-mistakes."""
    names = (lab, lab.partition("-")[2])
    return next(f"book/{name}" for name in names if (BOOK / f"{name}.md").exists())


@cache
def checks(lab):
    """Return the checks of a lab."""
    prose = "\n".join(cell.source for cell in labs.cells(lab) if cell.cell_type == "markdown")
    return set(re.findall(r"\*\*(Check \d+\.\d+)\b", prose))


@cache
def mentions(lab):
    """Return the checks that the chapter of a lab mentions."""
    text = Path(BOOK.parent, f"{chapter_of(lab)}.md").read_text(encoding="utf-8")
    return {number for number, _ in NAMED.findall(text)} & checks(lab)


def page_of(number, lab, docname):
    """Return the page on which a check or a figure stands, or None if there is none."""
    if number.startswith("Check"):
        return f"notebooks/{lab}" if number in checks(lab) else None
    if all(picture.number != number for picture in labs.pictures(lab).values()):
        return None
    return docname if docname == chapter_of(lab) else f"notebooks/{lab}"


def link_names(app, doctree, docname):
    """Link each check and figure that the text names; mark the first mention of a check."""
    seen = set()
    for text in list(doctree.findall(nodes.Text)):
        ancestors = [text.parent, *_parents(text.parent)]
        if any(isinstance(node, NOT_PROSE) for node in ancestors) or _is_number(text.parent):
            continue
        pieces = NAMED.split(str(text))  # text, number, chapter, text, number, chapter, …
        new = [nodes.Text(pieces[0])]
        for number, chapter, after in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
            lab = lab_of(chapter)
            page = lab and page_of(number, lab, docname)
            link = nodes.Text(number)
            if page:
                address = "" if page == docname else app.builder.get_relative_uri(docname, page)
                uri = f"{address}#{labs.anchor(number)}"
                link = nodes.reference("", number, refuri=uri, internal=True)
                if docname == chapter_of(lab) and number not in seen:
                    seen.add(number)
                    link["ids"] = [f"mention-of-{labs.anchor(number)}"]
            new += [link, nodes.Text(after)]
        if len(new) > 1:
            text.parent.replace(text, [node for node in new if node.astext()])


def mark_checks(app, doctree, docname):
    """Give each check of a lab a place to link to, and a link back to the chapter."""
    folder, _, lab = docname.partition("/")
    if folder != "notebooks" or "/" in lab:
        return
    for strong in list(doctree.findall(nodes.strong)):
        number = strong.astext().rstrip(".")
        if number not in checks(lab):
            continue
        strong["ids"] = [labs.anchor(number)]
        strong["classes"].append("check-number")
        if number in mentions(lab):
            page = app.builder.get_relative_uri(docname, chapter_of(lab))
            said = escape(f"{number} in the chapter")
            back = f'<a class="back" href="{page}#mention-of-{labs.anchor(number)}"'
            back += f' title="{said}" aria-label="{said}">↩</a>'
            place = strong.parent.index(strong) + 1
            strong.parent.insert(place, nodes.raw("", back, format="html"))


def _parents(node):
    while node.parent is not None:
        node = node.parent
        yield node


def _is_number(node):
    return {"check-number", "caption-number"} & set(node.get("classes", []))


def setup(app):
    app.connect("doctree-resolved", mark_checks, priority=600)
    app.connect("doctree-resolved", link_names, priority=700)
