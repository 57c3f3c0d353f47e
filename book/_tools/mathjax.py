"""Put MathJax into vendor/mathjax, from npm, so that the site serves its own copy."""

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

VERSION = "3.2.2"
TARGET = Path(__file__).resolve().parents[2] / "vendor" / "mathjax"
# What a page with TeX input and HTML output can load.
PARTS = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts/woff-v2")


def main():
    npm = shutil.which("npm")
    if npm is None:
        print("No npm here: the site will load MathJax from a CDN. Install Node.js to change that.")
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        fetch = [npm, "pack", "--silent", f"mathjax@{VERSION}"]
        packed = subprocess.run(fetch, cwd=folder, stdout=subprocess.DEVNULL)
        if packed.returncode != 0:
            print("npm could not fetch MathJax: the site will load it from a CDN.")
            return
        with tarfile.open(folder / f"mathjax-{VERSION}.tgz") as archive:
            archive.extractall(folder)
        es5 = folder / "package" / "es5"
        for part in PARTS:
            (TARGET / part).parent.mkdir(parents=True, exist_ok=True)
            if (es5 / part).is_dir():
                shutil.copytree(es5 / part, TARGET / part, dirs_exist_ok=True)
            else:
                shutil.copy(es5 / part, TARGET / part)


if __name__ == "__main__":
    main()
