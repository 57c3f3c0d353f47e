"""The repository's address and the package's version: read them, and copy them to the files that
cannot read them themselves.

`pyproject.toml` holds the address, `fmtutorial/__init__.py` the version. A fork sets the
environment variable FMTUTORIAL_REPOSITORY=OWNER/NAME for one build of the site, and runs `make
repository` with it to change every file. FMTUTORIAL_REF names the tag of a release's own site,
whose buttons open the labs of that tag.
"""

import os
import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
HOST = "https://github.com/"

# What a build makes or fetches, and where a text may be.
LEFT_OUT = {".git", ".venv", "vendor", "_build", "dist"}
TEXTS = {"", ".bib", ".cff", ".css", ".html", ".ipynb", ".js", ".json", ".md", ".mjs"}
TEXTS |= {".py", ".svg", ".toml", ".txt", ".yaml", ".yml"}

# Where a version stands in a lab's first cell and in CITATION.cff.
VERSION = re.compile(r'(home, v = \\?"https://[^"\\]+\\?", \\?"|^version: )[\w.]+', re.MULTILINE)


def stored_slug(root=ROOT):
    """Return the OWNER/NAME that pyproject.toml holds."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].removeprefix(HOST)


def slug(root=ROOT):
    """Return the OWNER/NAME to use: the environment's, else the stored one."""
    return os.environ.get("FMTUTORIAL_REPOSITORY") or stored_slug(root)


def ref():
    """Return the branch or tag whose labs the site's buttons open."""
    return os.environ.get("FMTUTORIAL_REF") or "main"


def version(root=ROOT):
    """Return the package's version, without importing it."""
    text = (root / "fmtutorial" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"', text, re.MULTILINE).group(1)


def site(slug):
    """Return the address of the published site."""
    owner, name = slug.split("/")
    return f"https://{owner.lower()}.github.io/{name}/"


def files(root=ROOT):
    """List the files that may name the repository: all texts that a build does not make."""
    tops = [path for path in root.iterdir() if path.name not in LEFT_OUT]
    inside = [path for top in tops if top.is_dir() for path in top.rglob("*")]
    return sorted(p for p in [*tops, *inside] if p.suffix in TEXTS and p.is_file())


def rename(old, new, root=ROOT):
    """Replace one address by another, and set the version; return the files that changed."""
    changed, now = [], version(root)
    for path in files(root):
        before = path.read_bytes().decode("utf-8")
        pages = [site(s).removeprefix("https://").rstrip("/") for s in (old, new)]
        after = re.sub(rf"\b{re.escape(pages[0])}(?![\w-])", pages[1], before)
        # Every link goes through the slug: GitHub's, Colab's (github/OWNER/NAME), Binder's (gh/).
        address = rf"(github\.com/|/github/|/gh/){re.escape(old)}(?![\w-])"
        after = re.sub(address, rf"\g<1>{new}", after)
        if path.name == "CITATION.cff" or "notebooks" in path.relative_to(root).parts:
            after = VERSION.sub(rf"\g<1>{now}", after)
        if after != before:
            path.write_bytes(after.encode("utf-8"))
            changed.append(path)
    return changed


def main():
    old, new = stored_slug(), slug()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", new):
        sys.exit(f"FMTUTORIAL_REPOSITORY is {new!r}; it should look like OWNER/NAME")
    for path in rename(old, new):
        print(f"{path.relative_to(ROOT)}: now {new}, {version()}")
    print(f"The repository is {HOST}{new}, the site {site(new)}, the version {version()}")


if __name__ == "__main__":
    main()
