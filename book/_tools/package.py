"""Build the wheel and the sdist into dist/, and check them as a release needs it.

    python book/_tools/package.py [TAG]           with a tag: it must be this version's
    python book/_tools/package.py --notes         print what the changelog says of this version

Needs the group "release" of pyproject.toml. Installing the wheel downloads PyTorch.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import repository

ROOT = Path(__file__).resolve().parents[2]

LIMIT_MB = 20
"""A lab's first cell on Colab downloads the wheel: it has to stay small. PyPI takes 100 MB."""

LINK = re.compile(r"^\[[\w.]+\]: .*$", re.MULTILINE)


def notes(version, text):
    """Return the changelog's section of a version without its heading, or None."""
    heading = rf"^## \[?{re.escape(version)}\]?(?![\w.])[^\n]*\n(.*?)(?=^## |\Z)"
    found = re.search(heading, text, re.MULTILINE | re.DOTALL)
    return found and LINK.sub("", found.group(1)).strip()


def date(version, text):
    """Return the day that stands behind a version in the changelog, or None."""
    found = re.search(rf"^## \[?{re.escape(version)}\]? - (\d{{4}}-\d\d-\d\d)$", text, re.MULTILINE)
    return found and found.group(1)


def tag_problem(tag, version, text):
    """Say what keeps a tag from being released, or return None."""
    if tag != f"v{version}":
        return f"the tag is {tag}, but fmtutorial/__init__.py says {version}: tag it v{version}"
    if not notes(version, text):
        return f"CHANGELOG.md says nothing of {version}: write its section"
    if date(version, text) is None:
        return f"CHANGELOG.md has no date for {version}: write '## [{version}] - YYYY-MM-DD'"
    return None


def contents(wheel):
    """Return the digest of every file in a wheel, by name."""
    with zipfile.ZipFile(wheel) as archive:
        return {n: hashlib.sha256(archive.read(n)).hexdigest() for n in archive.namelist()}


def build(folder):
    """Build the sdist and, from the tree and from the sdist, the wheel; both have to be one."""
    command = [sys.executable, "-m", "build", "--outdir"]
    subprocess.run([*command, folder, "--sdist", "--wheel", ROOT], check=True)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tempfile.TemporaryDirectory() as again:
        with tarfile.open(sdist) as archive:
            archive.extractall(again, filter="data")
        (unpacked,) = Path(again).iterdir()
        subprocess.run([*command, again, "--wheel", unpacked], check=True)
        (second,) = Path(again).glob("*.whl")
        ours, theirs = contents(wheel), contents(second)
    differ = sorted(k for k in ours.keys() | theirs.keys() if ours.get(k) != theirs.get(k))
    if differ:
        sys.exit(f"The sdist builds another wheel than the tree; they differ in {differ[:5]}")
    return sdist, wheel


def try_wheel(wheel):
    """Install the wheel in an empty environment and draw digits with it, far from the tree."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", f"{folder}/venv"], check=True)
        python = Path(folder, "venv", "bin", "python")
        pip = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel]
        subprocess.run(pip, check=True, cwd=folder, env=clean)
        command = [python, "-m", "fmtutorial.images", "sample", "--out", "digits.png"]
        subprocess.run(command, check=True, cwd=folder, env=clean)
        picture = Path(folder, "digits.png").read_bytes()
    if not picture.startswith(b"\x89PNG") or len(picture) < 2000:
        sys.exit("The installed package drew no digits")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tag", nargs="?", help="the tag to release, v0.1.0 for version 0.1.0")
    parser.add_argument("--notes", action="store_true", help="print this version's changes")
    options = parser.parse_args()
    version = repository.version()
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if options.notes:
        if (said := notes(version, changes)) is None:
            sys.exit(f"CHANGELOG.md says nothing of {version}")
        print(said)
        return
    if options.tag and (problem := tag_problem(options.tag, version, changes)):
        sys.exit(problem)
    folder = ROOT / "dist"
    shutil.rmtree(folder, ignore_errors=True)
    for file in (files := build(folder)):
        size = file.stat().st_size / 1e6
        print(f"{file.name}: {size:.1f} MB, at most {LIMIT_MB}")
        if size > LIMIT_MB:
            sys.exit(f"{file.name} is too large")
    twine = [sys.executable, "-m", "twine", "check", "--strict", *files]
    subprocess.run(twine, check=True)
    print("== Installing the wheel in an empty environment", flush=True)
    try_wheel(files[1])
    print(f"dist/ holds {', '.join(file.name for file in files)}: ready")


if __name__ == "__main__":
    main()
