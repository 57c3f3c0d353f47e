"""The package's modules as the API page shows them: a map, then a section for each."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "fmtutorial"
CHAPTER = re.compile(r"\bChapters? (\d.*?)\.")
MAP, SECTIONS = "<!-- map -->", "<!-- sections -->"
COMMAND = re.compile(r"python -m [\w.]+( --help)?")
SHEETS = "The exercises of chapter"


def docstrings():
    """Return the docstring of every module, by its name; a package comes before its parts.

    What only starts a command and the sheets' exercises are left out.
    """
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if parts[-1] != "__main__" and not text.startswith(SHEETS):
            found[".".join(part for part in parts if part != "__init__")] = text
    del found[""]  # the package itself
    return dict(sorted(found.items()))


def row(name, text):
    """Return a module's row of the map; parts of a package are indented."""
    *package, part = name.split(".")
    shown = f"{'&emsp;' if package else ''}[`{part}`](#module-{name.replace('.', '-')})"
    chapter = CHAPTER.search(text)
    holds = COMMAND.sub(r"`\g<0>`", CHAPTER.sub("", text.splitlines()[0]).rstrip())
    return f"| {shown} | {holds} | {chapter.group(1) if chapter else '–'} |"


def section(name, text):
    """Return a module's section; its heading is a label that the map links to."""
    level = "###" if "." in name else "##"
    return (
        f"(module-{name.replace('.', '-')})=\n{level} `{name}`\n\n"
        f"```{{eval-rst}}\n.. autoapimodule:: fmtutorial.{name}\n   :members:\n```\n"
    )


def show_modules(app, docname, source):
    """Put the map and the sections where the API page has its places for them."""
    if MAP in source[0]:
        found = docstrings()
        head = ["| module | what it holds | chapter |", "|---|---|---|"]
        table = "\n".join([*head, *(row(*item) for item in found.items())])
        sections = "\n".join(section(*item) for item in found.items())
        source[0] = source[0].replace(MAP, table).replace(SECTIONS, sections)
