"""The table of contents, as several tests read it."""

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def contents():
    """Return the page at the root, and for each part its chapters: [[page, *its labs], …]."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    parts = [
        [
            [entry["file"] for entry in (chapter, *chapter.get("sections", []))]
            for chapter in part["chapters"]
        ]
        for part in toc["parts"]
    ]
    return toc["root"], parts


def pages():
    """List all pages, in order."""
    root, parts = contents()
    return [root, *(page for part in parts for chapter in part for page in chapter)]
