"""The book as one PDF, printed by Chromium from the finished pages.

    python book/_tools/pdf.py

Chapters, excursions and reference pages are joined to one document; labs, sheets and the package's
API stay on the site, and links to them lead there. Answers, which are folded on the site, come at
the end of each chapter. A living figure is its picture. The book is printed twice: the first time
tells on which page each heading is.
"""

import base64
import io
import re
import tempfile
from html import escape
from pathlib import Path

import chromium
import finished
import pypdf
import repository
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
PDF = ROOT / "_build" / "pdf"
LEFT_OUT = {"api"}
"""Pages that are no text to read from paper."""
PAGE = """<!DOCTYPE html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<title>{title}</title>
<link rel="stylesheet" href="../html/_static/katex/katex.min.css">
<link rel="stylesheet" href="../html/_static/pygments.css">
<style>{style}</style>
</head>
<body>
<div class="title-page">
<p class="title">{title}</p><p>{author}</p><p class="small">{about}</p>
</div>
<nav class="contents"><h1 id="contents">Contents</h1>
{contents}
</nav>
{articles}
</body>
</html>
"""
ABOUT = """Text under CC BY 4.0, code under the MIT licence.<br>
With labs, exercises that check themselves and figures that move: <a href="{site}">{site}</a>"""
# Formulas, code and tables that are wider than the paper shrink; then the page is ready.
FIT = """
const done = arguments[0];
for (const wide of document.querySelectorAll(".formula, pre, .table-box")) {
  const ratio = wide.clientWidth / wide.scrollWidth;
  if (ratio < 1) wide.style.zoom = 0.99 * ratio;
}
const images = [...document.images].map((image) => image.decode());
Promise.all([document.fonts.ready, ...images]).then(() => done(), (error) => done(`${error}`));
"""
PAPER = 794  # pixels that are the width of A4


def listed():
    """Return the book's title, its author, and its parts: their captions and pages, in order."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    parts = [(None, [Path(toc["root"]).name])]
    for part in toc["parts"]:
        names = [Path(chapter["file"]).name for chapter in part["chapters"]]
        parts.append((part["caption"], [name for name in names if name not in LEFT_OUT]))
    return config["title"], config["author"], parts


def join_links(article, name, names):
    """Give places names that are theirs alone; let links lead to them, or to the site."""
    site = repository.site(repository.slug())
    for node in article.find_all(True):
        if "id" in node.attrs:
            node["id"] = f"{name}--{node['id']}"
        if "href" in node.attrs and "://" not in node["href"]:
            page, _, place = node["href"].partition("#")
            other = page.removesuffix(".html") or name
            if other in names:
                node["href"] = f"#{other}--{place}" if place else f"#{other}"
            else:
                path = page.removeprefix("../") if page.startswith("../") else f"book/{page}"
                node["href"] = f"{site}{path}{'#' * bool(place)}{place}"
    article["id"] = name


def gather_answers(article):
    """Move folded answers to the end of their chapter."""
    found = BeautifulSoup("", "html.parser")
    for question in article.select(".question"):
        asked, letters = question.legend.get_text().partition(".")[0], []
        for letter, words, right, reason in finished.choices(question):
            if right:
                answer = f"<div><p><b>Question {asked}: {letter}.</b></p>{reason}</div>"
                found.append(BeautifulSoup(answer, "html.parser"))
            letters.append(f"<li>{words}</li>")
        for choice in question.select("details"):
            choice.decompose()
        choices = f'<ol type="A">{"".join(letters)}</ol>'
        question.append(BeautifulSoup(choices, "html.parser"))
    for intro in article.select(".quiz > p"):
        intro.decompose()
    for solution in article.select(".solution"):
        found.append(solution.extract())
    if found.contents:
        end = BeautifulSoup('<section id="answers"><h2>Answers</h2></section>', "html.parser")
        end.section.append(found)
        article.section.append(end)


def prepare(article, name, names):
    """Change a page's article to what is printed."""
    gather_answers(article)
    join_links(article, name, names)
    for stage in article.select(".live-stage, button"):
        stage.decompose()
    for image in article.select("img"):
        image["src"] = re.sub(r"^\.\./", "../html/", image.get("data-still", image["src"]))
        del image["loading"]
    for link in article.select("a.lab-picture"):
        link.unwrap()
    for table in article.select(".pst-scrollable-table-container"):
        table["class"] = "table-box"
    for details in article.select("details"):
        details["open"] = ""


def contents_of(article, numbers):
    """Return lines of the contents for a page: its title and sections, with their pages."""
    lines = []
    for heading in article.select("h1, h2"):
        place = heading.parent["id"] if heading.name == "h2" else article["id"]
        number = numbers.get(place, "000")
        lines.append(
            f'<p class="{heading.name}"><a href="#{place}">{heading.decode_contents()}</a>'
            f'<i></i><a href="#{place}">{number}</a></p>'
        )
    return "\n".join(lines)


def assemble(parts, title, author, numbers):
    """Return the book as one HTML document; `numbers` are the pages of its headings."""
    names = [name for _, pages in parts for name in pages]
    contents, articles = [], []
    style = (Path(__file__).parent / "pdf.css").read_text(encoding="utf-8")
    for caption, pages in parts:
        if caption and pages:
            contents.append(f'<p class="part">{escape(caption)}</p>')
        for name in pages:
            article, formulas = finished.read(HTML / "book" / f"{name}.html")
            prepare(article, name, names)
            lines, html = contents_of(article, numbers), str(article)
            contents.append(finished.put_formulas_back(lines, formulas))
            articles.append(finished.put_formulas_back(html, formulas))
            running = re.sub(r"\s+", " ", article.h1.get_text()).replace('"', "”")
            page = f"page-{name}"
            style += f'@page {page} {{ @top-left {{ content: "{running}"; }} }}\n'
            style += f'article[id="{name}"] {{ page: {page}; }}\n'
    about = ABOUT.format(site=repository.site(repository.slug()))
    return PAGE.format(
        title=escape(title),
        author=escape(author),
        about=about,
        style=style,
        contents="\n".join(contents),
        articles="\n".join(articles),
    )


def printed(browser, html):
    """Return the PDF of a document; its links to pictures and style sheets start in _build/pdf."""
    PDF.mkdir(exist_ok=True)
    screen = {"width": PAPER, "height": 1123, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    with tempfile.NamedTemporaryFile(dir=PDF, suffix=".html") as file:
        file.write(html.encode())
        file.flush()
        browser.get(Path(file.name).as_uri())
    problem = browser.execute_async_script(FIT)
    if problem:
        raise OSError(f"a picture of the book cannot be shown: {problem}")
    options = {"preferCSSPageSize": True, "printBackground": True}
    outline = {"generateDocumentOutline": True, "generateTaggedPDF": True}
    answer = browser.execute_cdp_cmd("Page.printToPDF", {**options, **outline})
    return base64.b64decode(answer["data"])


def numbers_of(pdf):
    """Return the page, counted from 1, of each place that the book links to."""
    reader = pypdf.PdfReader(io.BytesIO(pdf))
    return {
        name.removeprefix("/"): reader.get_destination_page_number(place) + 1
        for name, place in reader.named_destinations.items()
    }


def make(browser, parts, title, author):
    """Return the PDF of the book, with the right pages in its contents."""
    numbers, pdf = {}, None
    for _ in range(3):
        pdf = printed(browser, assemble(parts, title, author, numbers))
        before, numbers = numbers, numbers_of(pdf)
        if numbers == before:
            return pdf
    raise RuntimeError("the pages of the contents do not settle")


def main():
    if not (HTML / "book").exists():
        raise SystemExit("there is no _build/html: run `make book` first")
    if not (HTML / "_static" / "katex").exists():
        raise SystemExit("the site's formulas are not typeset: install Node.js, then `make book`")
    title, author, parts = listed()
    with tempfile.TemporaryDirectory() as profile:
        try:
            browser = chromium.start(profile)
        except FileNotFoundError as error:
            raise SystemExit(str(error)) from error
        browser.set_script_timeout(300)
        browser.command_executor.client_config.timeout = 600
        try:
            pdf = make(browser, parts, title, author)
        finally:
            browser.quit()
    target = PDF / "flow-matching.pdf"
    target.write_bytes(pdf)
    count = len(pypdf.PdfReader(io.BytesIO(pdf)).pages)
    print(f"{target.relative_to(ROOT)}: {count} pages, {len(pdf) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
