"""The sites of earlier releases, beside the newest one: /v0.1.0/ and so on.

    python book/_tools/versions.py FOLDER    add FOLDER's site-v0.1.0.tar.gz, … to _build/html

A release keeps its site as an archive, built once from its tag. Every page names its version in the
footer; where sites are put together, here, that line gets links to the same page of the others.
The canonical address of a page is the newest one's, so that searching leads there.
"""

import re
import sys
import tarfile
from pathlib import Path

import repository

ROOT = Path(__file__).resolve().parents[2]

ARCHIVE = re.compile(r"site-(v(\d+)\.(\d+)\.(\d+))\.tar\.gz")
LINE = re.compile(r'<p class="versions">Version ([\w.]+)</p>')
CANONICAL = re.compile(r'(<link rel="canonical" href=")([^"]*)')

LIMIT_MB = 1000
"""What GitHub Pages serves of one repository."""


def line(version):
    """Return what the footer of every page says."""
    return f'<p class="versions">Version {version}</p>'


def unpack(archives, site):
    """Unpack archives below the site; return the tags, newest first."""
    found = {}
    for path in archives:
        name = ARCHIVE.fullmatch(path.name)
        if name is None:
            raise ValueError(
                f"{path.name} is no archive of a site; it should be site-v0.1.0.tar.gz"
            )
        found[tuple(map(int, name.groups()[1:]))] = name.group(1)
        with tarfile.open(path) as archive:
            archive.extractall(site / name.group(1), filter="data")
        if not (site / name.group(1) / "index.html").exists():
            raise ValueError(f"{path.name} has no index.html at its root")
    return [found[numbers] for numbers in sorted(found, reverse=True)]


def join(site, tags, version, address):
    """Link every page to its like in the other versions, and send searchers to a page that is."""
    places = {"": f"newest ({version})"} | {tag: tag.removeprefix("v") for tag in tags}
    inside = {
        page: page.relative_to(site).parts[0] if page.relative_to(site).parts[0] in tags else ""
        for page in site.rglob("*.html")
    }
    for page, place in inside.items():
        name = page.relative_to(site / place)
        up = "../" * (len(page.relative_to(site).parts) - 1)
        links = []
        for other, label in places.items():
            if other != place:
                there = name if (site / other / name).exists() else "index.html"
                links.append(f'<a href="{up}{Path(other, there).as_posix()}">{label}</a>')
        text = page.read_text(encoding="utf-8")
        more = f"; others: {', '.join(links)}" if links else ""
        text = LINE.sub(rf'<p class="versions">Version \g<1>{more}</p>', text)
        if place and not (site / name).exists():
            text = CANONICAL.sub(rf"\g<1>{address}{place}/{name.as_posix()}", text)
        page.write_text(text, encoding="utf-8")


def main():
    site = ROOT / "_build" / "html"
    tags = unpack(sorted(Path(sys.argv[1]).glob("*.tar.gz")), site)
    join(site, tags, repository.version(), repository.site(repository.slug()))
    size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 1e6
    print(f"{site} holds the newest version and {', '.join(tags) or 'no other'}: {size:.0f} MB")
    if size > LIMIT_MB:
        sys.exit(
            f"GitHub Pages serves {LIMIT_MB} MB: delete the oldest release's archive of a site"
        )


if __name__ == "__main__":
    main()
