"""What _config.yml cannot say: a small Sphinx extension for this book."""

import re

import formulas
import labs
import links
import live
import modules
import quizzes
import repository
import slides
import theme
import versions
from docutils import nodes
from sphinx_external_toc.collectors import TocTreeCollectorWithStyles as Collector


def follow_repository(app, config):
    """Make the edit, issue, Colab and Binder links follow the repository's one address."""
    slug = repository.slug()
    config.html_theme_options["repository_url"] = repository.HOST + slug
    config.html_theme_options["repository_branch"] = repository.ref()
    config.html_theme_options["extra_footer"] += versions.line(repository.version())
    config.html_baseurl = config.ogp_site_url = repository.site(slug)


def number_by_file_name(app, config):
    """Number a page that is called 10-few-steps, and all in it, by the 10 of its name.

    Sphinx counts on from part to part, and no chapter has the number 9.
    """
    assign = Collector.assign_section_numbers

    def renumber(collector, env):
        changed = assign(collector, env)
        for page, numbers in env.toc_secnumbers.items():
            named = re.match(r"(?:book|notebooks)/(?:exercises/)?(\d\d)-", page)
            if named:
                chapter = int(named[1])
                env.toc_secnumbers[page] = {
                    anchor: (chapter, *number[1:]) for anchor, number in numbers.items() if number
                }
                numbered = [env.titles[page], *env.tocs[page].findall(nodes.reference)]
                for node in numbered:
                    if node.get("secnumber"):
                        node["secnumber"] = [chapter, *node["secnumber"][1:]]
        return changed

    Collector.assign_section_numbers = renumber


def keep_own_members(app):
    """Show on the API page what a module defines and says, not what it imports."""
    for module in app.env.autoapi_objects.values():
        module.children = [child for child in module.children if not child.imported]
        for part in [module, *module.children]:
            part.children = [child for child in part.children if child.docstring.strip()]


def read_as_plain_text(app, what, name, obj, options, lines):
    """Keep the stars and bars of a docstring's formulas from being read as markup."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        lines[number] = "".join(
            p if p[:2] == "``" else re.sub(r"([*|])", r"\\\1", p) for p in parts
        )
    if what in ("data", "attribute"):
        lines.insert(0, "\\ ")  # invisible; else napoleon takes words before a colon for a type


def link_type_names(app, env, node, contnode):
    """Link an annotation to an alias, or to a name that a package takes from one of its parts.

    Sphinx would look for a class of exactly that name only.
    """
    if (node.get("refdomain"), node.get("reftype")) != ("py", "class"):
        return None
    domain, target = env.get_domain("py"), node["reftarget"]
    package, _, name = target.rpartition(".")
    known = [full for full in domain.objects if re.fullmatch(rf"{package}\.\w+\.{name}", full)]
    target = known[0] if known else target
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)


def keep_errors_beside_values(app, doctree, docname):
    """Let no line break tear "9.10 ± 0.13"."""
    for text in list(doctree.findall(nodes.Text)):
        if "±" in text and not isinstance(text.parent, (nodes.literal, nodes.literal_block)):
            together = re.sub(r"(?<=\d) ± (?=\d)", "\u00a0±\u00a0", text)
            text.parent.replace(text, nodes.Text(together))


def edit_the_script(app, pagename, templatename, context, doctree):
    """Let a lab's edit button open the .py file: that is the one to edit."""
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("label") == "source-edit-button":
                button["url"] = button["url"].replace(".ipynb", ".py")


def setup(app):
    formulas.setup(app)
    labs.setup(app)
    links.setup(app)
    live.setup(app)
    quizzes.setup(app)
    slides.setup(app)
    theme.setup(app)
    app.connect("config-inited", follow_repository)
    app.connect("config-inited", number_by_file_name)
    app.connect("source-read", modules.show_modules)
    app.connect("builder-inited", keep_own_members, priority=600)  # after autoapi has read them
    app.connect("autodoc-process-docstring", read_as_plain_text, priority=400)  # before napoleon
    app.connect("missing-reference", link_type_names)
    app.connect("doctree-resolved", keep_errors_beside_values)
    app.connect("html-page-context", edit_the_script, priority=900)  # after the theme's buttons
    return {"parallel_read_safe": True}
