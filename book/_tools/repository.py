"""The repository's address: read it, and copy it to the files that cannot read it themselves.

`pyproject.toml` holds it. A fork sets the environment variable FMTUTORIAL_REPOSITORY=OWNER/NAME
for one build of the site, and runs `make repository` with it to change every file.
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


def stored_slug(root=ROOT):
    """Return the OWNER/NAME that pyproject.toml holds."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].removeprefix(HOST)


def slug(root=ROOT):
    """Return the OWNER/NAME to use: the environment's, else the stored one."""
    return os.environ.get("FMTUTORIAL_REPOSITORY") or stored_slug(root)


def site(slug):
    """Return the address of the published site."""
    owner, name = slug.split("/")
    return f"https://{owner.lower()}.github.io/{name}/"


def files(root=ROOT):
    """List the files that may name the repository."""
    patterns = (
        "*.md",
        "*.toml",
        "*.cff",
        "*.yml",
        ".github/**/*.yml",
        "book/*.md",
        "notebooks/**/*.*",
    )
    return sorted(path for pattern in patterns for path in root.glob(pattern))


def rename(old, new, root=ROOT):
    """Replace one address by another; return the files that changed."""
    changed = []
    for path in files(root):
        before = path.read_text(encoding="utf-8")
        after = before.replace(site(old), site(new))
        # Every link goes through the slug: GitHub's, Colab's (github/OWNER/NAME), Binder's (gh/).
        after = re.sub(rf"(github\.com/|/github/|/gh/){re.escape(old)}\b", rf"\g<1>{new}", after)
        if after != before:
            path.write_text(after, encoding="utf-8")
            changed.append(path)
    return changed


def main():
    old, new = stored_slug(), slug()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", new):
        sys.exit(f"FMTUTORIAL_REPOSITORY is {new!r}; it should look like OWNER/NAME")
    for path in rename(old, new):
        print(f"{path.relative_to(ROOT)}: now {new}")
    print(f"The repository is {HOST}{new}, the site {site(new)}")


if __name__ == "__main__":
    main()
