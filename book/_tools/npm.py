"""Put what the site and its tests take from npm into vendor/.

    python book/_tools/npm.py

It leaves vendor/npm-ready, so that `make book` does this once. KaTeX and onnxruntime-web, which
runs the networks of chapter 8 in the page, go to vendor/site, which the site serves, and so does
reveal.js, which shows the slides; axe-core, which looks for barriers on its pages, goes to
vendor/axe-core. Without npm pages load MathJax from a CDN, the digits of chapter 8 stay a picture,
there are no slides, and no test runs axe-core.
"""

import gzip
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).resolve().parents[2] / "vendor"
KATEX, AXE = VENDOR / "site" / "katex", VENDOR / "axe-core"
RUNTIME, REVEAL = VENDOR / "site" / "onnxruntime", VENDOR / "site" / "reveal"
# Package, version, its folder, what of it and where to.
WANTED = [
    ("katex", "0.19.1", "dist", ("katex.min.css", "katex.min.js", "contrib", "fonts"), KATEX),
    (
        "onnxruntime-web",
        "1.30.0",
        "dist",
        ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
        RUNTIME,
    ),
    (
        "reveal.js",
        "6.0.2",
        "",
        ("dist/reveal.mjs", "dist/reveal.css", "dist/plugin/notes.mjs", "LICENSE"),
        REVEAL,
    ),
    ("axe-core", "4.14.1", "", ("axe.min.js",), AXE),
]


def take(package, version, folder, parts, target):
    """Copy parts of a package of npm."""
    with tempfile.TemporaryDirectory() as unpacked:
        pack = [shutil.which("npm"), "pack", "--silent", f"{package}@{version}"]
        subprocess.run(pack, cwd=unpacked, stdout=subprocess.DEVNULL, check=True)
        with tarfile.open(Path(unpacked, f"{package}-{version}.tgz")) as archive:
            archive.extractall(unpacked)
        target.mkdir(parents=True, exist_ok=True)
        for part in parts:
            found = Path(unpacked, "package", folder, part)
            if found.is_dir():
                older_formats = shutil.ignore_patterns("*.ttf", "*.woff")
                shutil.copytree(
                    found, target / found.name, ignore=older_formats, dirs_exist_ok=True
                )
            elif found.suffix == ".wasm":
                # a quarter of the size, whether or not the server compresses; its page unpacks it
                content = gzip.compress(found.read_bytes(), mtime=0)
                (target / f"{found.name}.gz").write_bytes(content)
            else:
                shutil.copy(found, target / found.name)


def main():
    if shutil.which("npm") is None:
        print("No npm here, so the site will load MathJax from a CDN, the digits of chapter 8 stay")
        print("a picture, and there are no slides. Install Node.js to change that.")
        return
    for wanted in WANTED:
        try:
            take(*wanted)
        except subprocess.CalledProcessError:
            print(f"npm could not fetch {wanted[0]}, so the site will do without it")
            return
    (VENDOR / "npm-ready").touch()


if __name__ == "__main__":
    main()
