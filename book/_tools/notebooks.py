"""Run the labs and the sheets of exercises.

    python book/_tools/notebooks.py [NAME ...]               store NAME.py's outputs in NAME.ipynb
    python book/_tools/notebooks.py --isolated [NAME ...]    run NAME.ipynb as Colab would

A name is "05-solvers", "exercises/05-solvers" or "solutions/05-solvers"; without one, all run. The
stored outputs hold no time stamps and no random ids: running a deterministic lab again changes
nothing.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parents[2]
LABS = ROOT / "notebooks"

# Put before an isolated lab: opening any file of the checkout, a module or data, is an error.
GUARD = """\
import sys

def refuse_the_checkout(event, arguments):
    if event == "open" and str(arguments[0]).startswith({root!r}):
        raise RuntimeError(f"the lab reached into the repository: {{arguments[0]}}")

sys.addaudithook(refuse_the_checkout)
"""


def store_outputs(name):
    """Run NAME.py and write NAME.ipynb with its outputs."""
    notebook = jupytext.read(LABS / f"{name}.py", fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    client = NotebookClient(
        notebook,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(LABS)}},
    )
    client.execute()
    # Python's version would differ from machine to machine.
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.validate(notebook)
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    (LABS / f"{name}.ipynb").write_text(text, encoding="utf-8")


def make_colab(folder):
    """Build the wheel and install it, with what runs a notebook, in a fresh environment."""
    print("Building the wheel and a fresh environment for it (several minutes)", flush=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
    subprocess.run([*pip, ROOT], check=True)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*install, wheel, "nbclient", "ipykernel"], cwd=folder, check=True)


def run_isolated(name, colab):
    """Run NAME.ipynb in an empty folder, in the environment that make_colab made."""
    notebook = nbformat.read(LABS / f"{name}.ipynb", as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(GUARD.format(root=f"{ROOT}{os.sep}")))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment["PATH"] = f"{colab / 'venv' / 'bin'}{os.pathsep}{environment['PATH']}"
    with tempfile.TemporaryDirectory(prefix="empty-", dir=colab) as folder:
        nbformat.write(notebook, Path(folder, "lab.ipynb"))
        command = [colab / "venv" / "bin" / "jupyter", "execute", "lab.ipynb"]
        run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(run.stderr)


def timed(run, name):
    """Run one lab; return its name, the seconds it took and what went wrong."""
    start = time.perf_counter()
    problem = None
    try:
        run(name)
    except (CellExecutionError, RuntimeError) as error:
        problem = str(error)
    return name, time.perf_counter() - start, problem


def run_all(run, names):
    """Run the labs two at a time; exit with an error when one failed."""
    failed = []
    with ProcessPoolExecutor(2) as pool:
        for name, seconds, problem in pool.map(partial(timed, run), names):
            print(f"{name}: {seconds:.0f} s{' FAILED' if problem else ''}", flush=True)
            if problem:
                print(problem)
                failed.append(name)
    if failed:
        sys.exit(f"These labs failed: {', '.join(failed)}")


def main():
    known = sorted(str(p.relative_to(LABS).with_suffix("")) for p in LABS.rglob("*.py"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="one of " + ", ".join(known))
    parser.add_argument("--isolated", action="store_true", help="run as Colab would")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"no lab is called {', '.join(unknown)}; there are {', '.join(known)}")
    names = options.names or known
    os.environ["OMP_NUM_THREADS"] = "1"
    if not options.isolated:
        run_all(store_outputs, names)
        return
    with tempfile.TemporaryDirectory(prefix="colab-") as folder:
        make_colab(Path(folder))
        run_all(partial(run_isolated, colab=Path(folder)), names)


if __name__ == "__main__":
    main()
