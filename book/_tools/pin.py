"""Write constraints.txt: the exact versions behind the site and CI.

    .venv/bin/python book/_tools/pin.py python3.10 python3.11 python3.13

Give the oldest supported Python first. Each one resolves the package and its groups afresh; a
version that not every Python can use gets an environment marker.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "constraints.txt"

# Torchvision's version has to match torch's.
CHOSEN = {"torch": "2.14.1", "torchvision": "0.29.1"}

# They come with torch's wheel for Linux, which names their versions itself.
LEFT_TO_TORCH = ("nvidia-", "cuda-", "triton")

HEADER = """\
# The exact versions that CI and the site use, written by book/_tools/pin.py.
# Pip reads this file after -c: it pins what is asked for and installs nothing by itself.
"""


def resolve(interpreter):
    """Return {name: version} of everything that `interpreter` would install."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        subprocess.run([interpreter, "-m", "venv", folder / "venv"], check=True)
        python = folder / "venv" / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "-q", "--upgrade", "pip"], check=True)
        chosen = folder / "chosen.txt"
        chosen.write_text("".join(f"{name}=={version}\n" for name, version in CHOSEN.items()))
        report = folder / "report.json"
        command = [python, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"]
        command += ["--report", report, "-c", chosen, ".", "pip"]
        command += ["--group", "book", "--group", "test", "--group", "release"]
        subprocess.run(command, cwd=ROOT, check=True)
        found = {
            item["metadata"]["name"].lower().replace("_", "-"): item["metadata"]["version"]
            for item in json.loads(report.read_text())["install"]
        }
        del found["fmtutorial"]
        return {k: v for k, v in found.items() if not k.startswith(LEFT_TO_TORCH)} | CHOSEN


def marker(pythons, everyone):
    """Say, as an environment marker, which of the Pythons tried a line is for."""
    first, last = everyone.index(pythons[0]), everyone.index(pythons[-1])
    parts = []
    if first > 0:
        parts.append(f'python_version >= "{everyone[first]}"')
    if last + 1 < len(everyone):
        parts.append(f'python_version < "{everyone[last + 1]}"')
    return f"; {' and '.join(parts)}" if parts else ""


def main():
    answers = {}
    for interpreter in sys.argv[1:]:
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        version = subprocess.check_output([interpreter, "-c", code], text=True).strip()
        print(f"Resolving for Python {version}", flush=True)
        answers[version] = resolve(interpreter)
    everyone = list(answers)
    lines = []
    for name in sorted(set().union(*answers.values())):
        for version in dict.fromkeys(a[name] for a in answers.values() if name in a):
            pythons = [p for p in everyone if answers[p].get(name) == version]
            lines.append(f"{name}=={version}{marker(pythons, everyone)}")
    OUT.write_text(HEADER + "\n".join(lines) + "\n")
    print(f"Wrote {len(lines)} pins to {OUT.name}")


if __name__ == "__main__":
    main()
