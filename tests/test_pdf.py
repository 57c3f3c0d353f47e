"""The book as one PDF, here the first page and one chapter: outline, contents, links."""

import io
import re

import finished
import pytest
from browser import HTML

pypdf = pytest.importorskip("pypdf")
import pdf  # noqa: E402

CHAPTER = "03-flow-matching"
MEASURE = """
const high = (e) => e.getBoundingClientRect().height;
return {
  wide: [...document.querySelectorAll(".formula, pre, .table-box, body")].filter(
    e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.trim().slice(0, 60)),
  tallest: Math.max(...[...document.querySelectorAll("figure, pre")].map(high)),
  pictures: document.images.length,
};
"""


@pytest.fixture(scope="module")
def book(browser, address):
    parts = [("Chapters", ["index", CHAPTER])]
    content = pdf.make(browser, parts, "A title", "An author")
    reader = pypdf.PdfReader(io.BytesIO(content))
    texts = [plain(page.extract_text()) for page in reader.pages]
    return reader, texts, browser.execute_script(MEASURE)


def headings(book):
    """Return the titles of the outline, flat, with their pages counted from 1."""

    def flat(entries):
        for entry in entries:
            if isinstance(entry, list):
                yield from flat(entry)
            else:
                yield entry.title, book.get_destination_page_number(entry) + 1

    return list(flat(book.outline))


def plain(text):
    return re.sub(r"\s+", " ", text.replace("\u200b", "")).strip()


def test_outline_has_every_heading_in_order(book):
    reader = book[0]
    titles = [plain(title) for title, _ in headings(reader)]
    expected = ["Contents"]
    for page in ("index", CHAPTER):
        article, _ = finished.read(HTML / "book" / f"{page}.html")
        expected += [plain(heading.get_text()) for heading in article.select("h1, h2, h3")]
        expected += ["Answers"] if page == CHAPTER else []
    assert titles == expected
    assert titles.index("Answers") > 10
    pages = [page for _, page in headings(reader)]
    assert pages == sorted(pages)
    assert 12 <= len(reader.pages) <= 25


def test_contents_name_the_pages_that_readers_see(book):
    reader, texts, _ = book
    chapter = [(plain(title), page) for title, page in headings(reader) if title[:2] == "3."]
    assert len(chapter) == 13
    for title, page in chapter:
        assert f"{title} {page} " in texts[1]
        assert texts[page - 1].startswith(f"3. Flow matching {page} "), "its head and its foot"
        assert title in texts[page - 1]


def test_links_stay_in_the_book_or_lead_to_the_site(book):
    reader = book[0]
    inside, outside = set(), set()
    for page in reader.pages:
        for link in page.get("/Annots", []):
            link = link.get_object()
            if "/Dest" in link:
                inside.add(str(link["/Dest"]).removeprefix("/"))
            elif "/A" in link:
                outside.add(link["/A"]["/URI"])
    known = {name.removeprefix("/") for name in reader.named_destinations}
    assert inside <= known and len(inside) > 20
    assert outside and all(uri.startswith("https://") for uri in outside)


def test_nothing_is_cut_or_split(book):
    look = book[2]
    assert not look["wide"]
    assert look["tallest"] < 900, "a picture that does not fit one page"
    assert look["pictures"] >= 6


def test_answers_stand_at_the_end(book):
    text = " ".join(book[1][2:])
    questions, answers = text.split(" Answers ", 1)
    assert "Exercise 3.1" in questions and "Solution to" not in questions
    assert answers.count("Solution to") == 5
