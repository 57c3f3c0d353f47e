"""Finished pages, read to make something else of them: the slides, the book as one PDF.

Formulas are most of a page's bytes and need no reading, so they are set aside and put back.
"""

import re

from bs4 import BeautifulSoup

KATEX = re.compile(r'<span class="katex(?:-display)?">')
SPAN = re.compile(r"<span\b|</span>")
PLACE = re.compile(r'<i data-formula="(\d+)"></i>')


def set_formulas_aside(html):
    """Return a page with an empty element in place of each formula, and the formulas."""
    pieces, formulas, end = [], [], 0
    for start in KATEX.finditer(html):
        if start.start() < end:
            continue  # inside the last one
        depth, pieces = 0, [*pieces, html[end : start.start()]]
        for tag in SPAN.finditer(html, start.start()):
            depth += -1 if tag.group() == "</span>" else 1
            if depth == 0:
                break
        end = tag.end()
        pieces.append(f'<i data-formula="{len(formulas)}"></i>')
        formulas.append(html[start.start() : end])
    return "".join([*pieces, html[end:]]), formulas


def put_formulas_back(html, formulas, form=lambda formula: formula):
    """Return HTML with its formulas, each in the form asked for."""
    return PLACE.sub(lambda place: form(formulas[int(place.group(1))]), html)


def read(page):
    """Return the article of a finished page and its formulas.

    Links to headings, buttons and what only scripts show are gone.
    """
    html, formulas = set_formulas_aside(page.read_text(encoding="utf-8"))
    start, end = html.index('<article class="bd-article">'), html.index("</article>")
    article = BeautifulSoup(html[start:end], "html.parser").article
    for useless in article.select("a.headerlink, a.back, script, .toctree-wrapper"):
        useless.decompose()
    return article, formulas


def choices(question):
    """Return the letter, the words, whether it is right and the reason of each answer of a quiz."""
    for letter, choice in zip("ABCDEFGH", question.select("details"), strict=False):
        reason = "".join(str(paragraph) for paragraph in choice.find_all("p"))
        yield letter, choice.summary.decode_contents(), "right" in choice["class"], reason
