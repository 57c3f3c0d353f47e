"""What the theme and Sphinx write on every page, mended after the build.

The pages get lighter (only the icons that they show, the search index only where one searches), and
a screen reader hears the names of buttons. Beside the pages come the files that crawlers and lost
readers ask for.
"""

import re
from collections import defaultdict
from pathlib import Path
from urllib.parse import urlsplit

import repository
from docutils import nodes
from sphinx_proof.domain import ProofIndex

# (what the theme writes, what it should write): its plain strings, the same on every page.
MENDS = [
    # a name that a screen reader can say, and no name that differs from the words one sees
    ("<summary><span class=\"toctree-toggle\" role=\"presentation\">",
     "<summary aria-label=\"Pages of this chapter\"><span class=\"toctree-toggle\">"),
    ('<summary aria-label="Toggle hidden content">', "<summary>"),
    ('search-button-field search-button__button pst-js-only" title="Search" aria-label="Search"',
     'search-button-field search-button__button pst-js-only" title="Search"'),
    ('theme-switch-button pst-js-only" aria-label="Color mode"',
     'theme-switch-button pst-js-only" title="Colours: light, dark, as the system"'),
    (' data-mode="light" title="Light"', ' data-mode="light"'),
    (' data-mode="dark"  title="Dark"', ' data-mode="dark"'),
    (' data-mode="auto"  title="System Settings"', ' data-mode="auto"'),
    ('class="toggler"', 'class="toggler" width="11" height="11"'),
    (' role="doc-biblioentry"', ' role="listitem"'),  # its parent is a list
    ("<h1></h1>", ""),  # of pages without a title, for print
    # the logo, the search field and the contents are one landmark
    ('<div class="sidebar-primary-items__start sidebar-primary__section">',
     '<div class="sidebar-primary-items__start sidebar-primary__section" role="navigation" '
     'aria-label="Book">'),
    # the search page loads these itself
    ('<script src="{root}_static/searchtools.js"></script>', ""),
    ('<script src="{root}_static/language_data.js"></script>', ""),
    ('<script src="{root}searchindex.js"></script>', ""),
]  # fmt: skip
ICON = re.compile(r'"?([a-z0-9-]+)"?:\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?')
LOST = """
<h1>This page is not here</h1>
<p>It may have moved. <a href="book/index.html">The first page</a> lists the chapters, and the
<a href="search.html">search</a> finds words.</p>
"""


def mend_pages(app, exception):
    """Mend the built pages; see MENDS."""
    if exception or app.builder.format != "html":
        return
    title, icons = app.config.html_title or app.config.project, set()
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        root = "../" * (len(page.relative_to(app.outdir).parts) - 1)
        for theirs, ours in MENDS:
            text = text.replace(theirs.replace("{root}", root), ours)
        text = text.replace(f"<title>{title} &#8212; {title}</title>", f"<title>{title}</title>")
        icons |= set(re.findall(r"\bfa-([a-z0-9-]+)", text))
        page.write_text(text, encoding="utf-8")
    keep_icons(Path(app.outdir, "_static", "scripts", "fontawesome.js"), icons)


def keep_icons(script, used):
    """Leave in Font Awesome's script only the icons that pages show."""

    def kept(icon):
        return icon.group() if used & {icon.group(1), *icon.group(2).split('"')} else ""

    text = ICON.sub(kept, script.read_text(encoding="utf-8"))
    script.write_text(text, encoding="utf-8")


def add_files(app, exception):
    """Write the page for a wrong address, the list of pages, and the file that names it."""
    if exception or app.builder.format != "html":
        return
    site, out = repository.site(repository.slug()), Path(app.outdir)
    pages = "\n".join(
        f"<url><loc>{site}{docname}.html</loc></url>" for docname in sorted(app.env.found_docs)
    )
    namespace = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
    head = '<?xml version="1.0" encoding="utf-8"?>'
    (out / "sitemap.xml").write_text(f"{head}\n<urlset {namespace}>\n{pages}\n</urlset>\n")
    (out / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {site}sitemap.xml\n")
    (out / ".nojekyll").touch()  # GitHub Pages: serve _static/ too


def lost_page(app):
    """Yield the page that is shown for any wrong address, at any depth."""
    base = urlsplit(repository.site(repository.slug())).path
    yield "404", {"title": "Not here", "body": LOST, "base": base}, "page.html"


def set_base(app, pagename, templatename, context, doctree):
    """Let relative addresses on the page for wrong addresses start at the site's root."""
    if pagename == "404":
        context["metatags"] = f'<base href="{context["base"]}">' + context.get("metatags", "")


def is_statement(node):
    return isinstance(node, nodes.Element) and "realtype" in node


def list_statements(index, docnames=None):
    """Return the definitions, theorems, … of each chapter with their titles, for their index."""
    env, chapters = index.domain.env, defaultdict(list)
    for label, proof in getattr(env, "proof_list", {}).items():
        docname = proof["docname"]
        numbers = env.toc_fignumbers[docname].get(proof["countertype"], {})
        number = ".".join(map(str, numbers.get(label, ())))
        name = f"{proof['realtype'].capitalize()} {number}"
        statements = env.get_doctree(docname).findall(is_statement)
        (node,) = (n for n in statements if n["label"] == label)
        about = node["title"].strip("()")
        chapters[env.titles[docname].astext()].append((name, 0, docname, label, about, "", ""))
    return sorted(chapters.items(), key=lambda item: item[1][0][2]), False


def setup(app):
    ProofIndex.generate = list_statements
    ProofIndex.localname = "Definitions and theorems"
    app.connect("html-collect-pages", lost_page)
    app.connect("html-page-context", set_base)
    app.connect("build-finished", mend_pages)
    app.connect("build-finished", add_files)
