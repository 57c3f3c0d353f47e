"""Slides of each chapter, cut by rule from its finished page: there is no second text to keep.

A section opens with its heading and first sentence. On the slides come, in order, statements with
their proofs below them, numbered formulas and the words around them, sentences that define a term,
lists, tables, code, pictures, living figures, and the exercises. The prose is in the speaker's
notes. `slides.js` shows it all with reveal.js, and breaks in the browser what is too long for one
slide.
"""

import re
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import finished
import npm
from bs4 import BeautifulSoup, Tag

CHAPTER = re.compile(r"book/(\d\d-[\w-]+)")
END = re.compile(r"(?<=[.?!])\s+(?=[A-Z<“(])")
NO_END = re.compile(r"\b(?:Eqs?|Figs?|Sec|Thm|Prop|al|cf|vs|resp|e\.g|i\.e)\.$")
SHORT, ENOUGH = 40, 110
"""Letters of a sentence that says too little alone, as "Write", and of an opening that suffices."""
NAMED = {"figure", "admonition", "math"}
"""What has an address of its own among the slides, as it has on the page."""
PANEL = re.compile(r"(?:Left|Right|Middle|Centre|Top|Bottom)\b")
KINDS = {
    "exercise": "exercise",
    "math": "formula",
    "pst-scrollable-table-container": "table",
    "highlight-python": "code",
    "highlight-console": "code",
    "highlight-bash": "code",
    "admonition": "box",
    "quiz": "quiz",
}
LED = {"table", "code", "box", "ul", "ol"}
"""What takes the sentence that introduces it, and shares a slide with what is around it."""
PAGE = """<!DOCTYPE html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Slides: {title}</title>
<link rel="icon" href="../_static/favicon.svg">
<link rel="stylesheet" href="../_static/reveal/reveal.css">
<link rel="stylesheet" href="../_static/katex/katex.min.css">
<link rel="stylesheet" href="../_static/pygments.css">
<link rel="stylesheet" href="../_static/custom.css">
<link rel="stylesheet" href="../_static/slides.css">
<script type="module" src="../_static/slides.js"></script>
</head>
<body>
<noscript>Slides need scripts. <a href="../book/{page}.html">The page</a> does not.</noscript>
<div class="reveal"><main class="slides bd-article">
{slides}
</main></div>
</body>
</html>
"""
SOURCE = """<p class="source">From <a href="../book/index.html">{book}</a>, under CC BY 4.0.<br>
Keys: arrows, with ↓ to a proof; O for all slides, S for the speaker’s notes, ? for more.</p>"""


@dataclass
class Slide:
    """A slide: the place in the page that it leads back to, what it shows, what the speaker says.

    Its kind says what may join it: "title", "flow", "alone", or "below" for a proof, which stands
    under the slide before.
    """

    anchor: str
    heading: str
    kind: str
    opens: bool = False
    parts: list = field(default_factory=list)
    notes: list = field(default_factory=list)


def kind_of(node):
    """Return what an element of a page is to the slides: a kind of ours, or its tag."""
    classes = node.get("class", []) if node else []
    if "live" in classes:
        return "figure"
    if "proof" in classes:
        return "statement" if node.select_one(".admonition-title .caption-number") else "proof"
    if "dropdown" in classes:
        return None  # folded on the page: answers
    return next((KINDS[name] for name in classes if name in KINDS), node and node.name)


def sentences(paragraph):
    """Return the sentences of a paragraph as HTML; none is cut inside an element."""
    html, found, start = paragraph.decode_contents().strip(), [], 0
    for end in END.finditer(html):
        said = html[start : end.start()]
        if len(re.findall(r"<[a-z]", said)) == said.count("</") and not NO_END.search(said):
            found.append(said)
            start = end.end()
    return [*found, html[start:]]


def letters(html):
    """Return how much there is to read; a formula counts as ten letters."""
    return len(re.sub(r"<[^>]+>", "", html.replace("<i data-", "0123456789<i data-")))


def opening(said):
    """Return how many of the first sentences say enough."""
    read, count = 0, 0
    while count < len(said) and read < ENOUGH:
        read, count = read + letters(said[count]), count + 1
    return count


def choose(paragraph, opens, next_kind, numbered):
    """Return the sentences of a paragraph that a slide shows, and whether they introduce the next.

    Shown are the first ones where a section `opens`, one that ends a formula's sentence, the
    definitions of terms, and what introduces the next thing.
    """
    said = sentences(paragraph)
    shown = {place for place, sentence in enumerate(said) if "<strong" in sentence}
    shown |= set(range(opening(said))) if opens == "section" else {0} if opens else set()
    last = len(said) - 1
    while last and re.search(r">Check \d", said[last]) and said[last][-1] != ":":
        last -= 1  # says what the lab found, and introduces nothing
    leads = next_kind in LED or (next_kind == "formula" and (numbered or last in shown))
    if leads:
        shown |= {last, max(last - 1, 0)} if letters(said[last]) < SHORT else {last}
    runs = []
    for before, place in pairwise([-2, *sorted(shown)]):
        if place == before + 1:
            runs[-1] += f" {said[place]}"
        else:
            runs.append(said[place])
    return [f"<p>{run}</p>" for run in runs], leads


def short_caption(caption):
    """Return the first sentence of a caption, and those after it that name another panel."""
    first, *others = sentences(caption)
    return " ".join([first, *(said for said in others if PANEL.match(said))])


def from_slides(href, page):
    """Return a link of a page of the book as it is from the slides."""
    if href.startswith("#"):
        return f"../book/{page}.html{href}"
    return href if href.startswith("../") or ":" in href else f"../book/{href}"


def trim(html, page):
    """Return elements as slides show them: short captions, and links that lead into the book."""
    soup = BeautifulSoup(html, "html.parser")
    for node in soup.find_all(True):
        if not NAMED & {node.name, *node.get("class", [])} or node.get("id") == "proof":
            node.attrs.pop("id", None)
        if "href" in node.attrs:
            node["href"] = from_slides(node["href"], page)
    for link in soup.select("a.lab-picture"):
        link.unwrap()
    for inside in soup.select("section"):
        inside.name, inside["class"] = "div", ["inside"]  # to reveal.js a section is a slide
    for caption in soup.select("span.caption-text"):
        first = BeautifulSoup(short_caption(caption), "html.parser")
        caption.clear()
        caption.append(first)
    return str(soup)


def as_mathml(formula):
    """Return a formula as browsers draw it without KaTeX's style sheet."""
    drawn = re.search(r"<math.*?</math>", formula, flags=re.S).group()
    return re.sub(r"<annotation.*?</annotation>", "", drawn, flags=re.S)


def spoken(html, formulas):
    """Return prose for the speaker's window, which has no style sheet and no need of links."""
    plain = re.sub(r"</?a\b[^>]*>|\sid=\"[^\"]*\"", "", html)
    return finished.put_formulas_back(plain, formulas, as_mathml)


class Deck:
    """The slides of one page, gathered from its elements in order."""

    def __init__(self, page):
        self.page, self.slides = page, []

    def begin(self, kind, section, anchor=None):
        """Begin a slide, unless the last one can take what comes."""
        last = self.slides[-1]
        room = last.kind == "flow" or last.kind == "title" and not last.parts
        if kind == "alone" and last.kind == "flow" and all(p[:3] == "<p>" for p in last.parts):
            last.kind = "alone"  # it joins the heading, or a few words
        elif kind != "flow" or not room:
            self.slides.append(Slide(anchor or section["id"], self.heading, kind))

    def show(self, html):
        self.slides[-1].parts.append(html)

    def note(self, node):
        """Put an element in the notes of the last slide that is not below another."""
        main = next(slide for slide in reversed(self.slides) if slide.kind != "below")
        main.notes.append(str(node))

    def gather(self, section):
        """Gather the slides of a section."""
        nodes = [node for node in section.children if isinstance(node, Tag)]
        lead, shown = "", None  # words that introduce the next element; the last one shown
        for place, node in enumerate(nodes):
            kind, after = kind_of(node), nodes[place + 1] if place + 1 < len(nodes) else None
            if kind in ("h1", "h2", "h3"):
                self.heading = node.decode_contents()
                room = "title" if kind == "h1" else "flow"
                self.slides.append(Slide(section["id"], self.heading, room, opens=True))
            elif kind == "section":
                self.gather(node)
            elif kind == "p":
                ends_formula = shown == "formula" and node.get_text()[:1].islower()
                numbered = after is not None and after.select_one(".eqno") is not None
                opens = "section" if place == 1 else "formula" if ends_formula else None
                runs, leads = choose(node, opens, kind_of(after), numbered)
                if runs:
                    self.begin("flow", section, after.get("id") if leads else None)
                lead = runs.pop() if leads else ""
                for run in runs:
                    self.show(run)
                self.note(node)
                shown = None
                continue
            elif kind in LED or (kind == "formula" and (lead or node.select_one(".eqno"))):
                self.begin("flow", section, node.get("id"))
                self.show(f'<div class="keep">{lead}{node}</div>' if lead else str(node))
            elif kind in ("statement", "figure", "exercise"):
                self.begin("flow" if kind == "exercise" else "alone", section, node.get("id"))
                self.show(str(node))
            elif kind == "proof":
                self.begin("below", section, self.slides[-1].anchor)
                self.show(str(node))
            elif kind == "quiz":
                self.ask(node, section)
            elif kind == "formula":
                self.note(node)
                kind = None
            lead, shown = "", kind

    def ask(self, quiz, section):
        """Put each question of a quiz on a slide, and the right answer with its reason below."""
        for question in quiz.select(".question"):
            choices, answer = "", ""
            for letter, words, right, reason in finished.choices(question):
                choices += f"<li>{words}</li>"
                if right:
                    answer = f"<p>{letter}. {words}</p>{reason}"
            self.begin("alone", section, question["id"])
            self.show(f'<p>{question.legend.decode_contents()}</p><ol type="A">{choices}</ol>')
            self.begin("below", section, question["id"])
            self.show(answer)

    def html(self, formulas):
        """Return all slides; a proof stands in one stack with the slide above it."""
        stacks, named = [], set()
        for slide in self.slides:
            content = trim("".join(slide.parts), self.page)
            known = slide.anchor in named or f' id="{slide.anchor}"' in content
            name = "" if known else f' id="{slide.anchor}"'
            named.add(slide.anchor)
            back = f'<a href="../book/{self.page}.html#{slide.anchor}">{slide.heading}</a>'
            tag = {"title": "h1"}.get(slide.kind, "h2") if slide.opens else "p"
            notes = spoken("".join(slide.notes), formulas)
            html = (
                f'<section{name} data-kind="{slide.kind}"><div class="sheet">'
                f'<{tag} class="place">{back}</{tag}>'
                f'<div class="content">{content}</div></div>'
                + (f'<aside class="notes">{notes}</aside>' if notes else "")
                + "</section>"
            )
            if slide.kind == "below":
                stacks[-1].append(html)
            else:
                stacks.append([html])
        return "\n".join(
            html[0] if len(html) == 1 else "<section>" + "\n".join(html) + "</section>"
            for html in stacks
        )


def write(out, page, book):
    """Write the slides of a page of a book, by its name: "03-flow-matching"."""
    article, formulas = finished.read(out / "book" / f"{page}.html")
    deck = Deck(page)
    deck.gather(article.section)
    deck.slides[0].parts.append(SOURCE.format(book=book))
    slides = finished.put_formulas_back(deck.html(formulas), formulas)
    title = article.h1.get_text()
    target = out / "slides" / f"{page}.html"
    target.parent.mkdir(exist_ok=True)
    target.write_text(PAGE.format(title=title, page=page, slides=slides), encoding="utf-8")


def has_slides(app, docname):
    """Return whether slides can be made of a page, and shown: they need KaTeX and reveal.js."""
    here = app.config.html_math_renderer == "katex" and (npm.REVEAL / "reveal.mjs").exists()
    return here and CHAPTER.fullmatch(docname) is not None


def write_all(app, exception):
    if not exception and app.builder.format == "html":
        for docname in filter(lambda name: has_slides(app, name), sorted(app.env.found_docs)):
            write(Path(app.outdir), Path(docname).name, app.config.project)


def add_button(app, pagename, templatename, context, doctree):
    """Lead from a page to its slides."""
    if has_slides(app, pagename):
        context["header_buttons"].append(
            {
                "type": "link",
                "url": f"../slides/{Path(pagename).name}.html",
                "icon": "fas fa-person-chalkboard",
                "tooltip": "Slides of this page",
                "label": "slides-button",
            }
        )


def setup(app):
    app.connect("html-page-context", add_button, priority=900)  # after the theme's buttons
    app.connect("build-finished", write_all, priority=900)  # when pages are finished
