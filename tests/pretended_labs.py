"""Run labs, sheets and commands on the pretended device, which plays "cuda".

    python tests/pretended_labs.py [--small] 06-reflow solutions/08-mnist
    python tests/pretended_labs.py [--small] -m fmtutorial.images train --out run

The package and the labs are read with the device's name in place of "cuda", and ``torch.cuda`` says
that there is a GPU as old as Colab's T4. --small: see ``shorten``.
"""

import ast
import importlib.abc
import importlib.machinery
import os
import runpy
import sys
import time
from pathlib import Path
from unittest import mock

import jupytext
import torch
from pretended import NAME, Generator, Watch

ROOT = Path(__file__).resolve().parents[1]


def heard(text):
    return text.replace('"cuda"', f'"{NAME}"')


class Loader(importlib.machinery.SourceFileLoader):
    """Reads a file of the package with the device's name for "cuda"."""

    def get_code(self, name):
        return self.source_to_code(heard(Path(self.path).read_text(encoding="utf-8")), self.path)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] != "fmtutorial":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path or [str(ROOT)])
        spec.loader = Loader(name, spec.origin)
        return spec


def play_cuda():
    """Let all that is imported from here on find a GPU."""
    sys.meta_path.insert(0, Finder())
    torch.Generator = Generator
    torch.cuda.is_available = lambda: True
    torch.cuda.device_count = lambda: 1
    torch.cuda.get_device_capability = lambda device=None: (7, 5)
    torch.cuda.get_device_name = lambda device=None: NAME
    torch.set_num_threads(1)
    import IPython.display

    IPython.display.display = lambda *data, **options: None


def shorten():
    """Train two steps, take three steps of a solver: every line runs, and few of them often."""
    from fmtutorial import plotting, solvers, training
    from fmtutorial.solvers import fixed

    def few(network, loss, steps, *args, **kwargs):
        for step in training_train(network, loss, steps, *args, **kwargs):
            yield step
            if step.number >= kwargs.get("done", 0) + 2:
                break
        for number in range(step.number + 1, steps + 1):
            yield step._replace(number=number)

    def lazy(field, x, times, step=fixed.euler, last_only=False):
        taken = 0

        def three(*args):
            nonlocal taken
            taken += 1
            return step(*args) if taken < 4 else args[1]

        return fixed_solve(field, x, times, three, last_only)

    training_train, fixed_solve = training.train, fixed.solve
    training.train, fixed.solve, solvers.solve = few, lazy, lazy


    plotting.show = lambda figure, *args, **kwargs: plotting.plt.close(figure)


KEPT = {128, 255, 256, 784}
"""Of a byte, and of a digit."""


class Small(ast.NodeTransformer):
    """Hundreds become tens; assertions, which are then false, are evaluated and not held."""

    def visit_Assert(self, node):
        return self.generic_visit(ast.copy_location(ast.Expr(node.test), node))

    def visit_Constant(self, node):
        if type(node.value) is int and node.value >= 100 and node.value not in KEPT:
            node.value = min(node.value // 10, 1000) + node.value % 10
        return node


def run_lab(lab, small):
    text = heard((ROOT / "notebooks" / f"{lab}.py").read_text(encoding="utf-8"))
    cells = [c for c in jupytext.reads(text, fmt="py:percent").cells if c.cell_type == "code"]
    space, bad = {"__name__": "__main__"}, 0
    for number, cell in enumerate(cells[1:], start=2):
        started = time.process_time()
        tree = ast.parse(cell.source)
        if small:
            tree = ast.fix_missing_locations(Small().visit(tree))
        try:
            exec(compile(tree, f"{lab}, cell {number}", "exec"), space)
        except Exception:
            bad += 1
            import traceback
            print(f"==== {lab}, cell {number}\n{cell.source[:1200]}\n", traceback.format_exc()[-1800:], file=sys.stderr)
        seconds = time.process_time() - started
        if seconds > 0.5:
            print(f"#### {lab} cell {number}: {seconds:.1f} s", file=sys.stderr)
    return bad


if __name__ == "__main__":
    os.environ["MPLBACKEND"] = "agg"
    play_cuda()
    small = "--small" in sys.argv
    if small:
        sys.argv.remove("--small")
        shorten()
    with Watch():
      for lab in sys.argv[1:]:
        started = time.process_time()
        bad = run_lab(lab, small)
        print(f"#### {lab}: {bad} cells failed, {time.process_time() - started:.0f} s", file=sys.stderr)
        torch.set_default_device(None)
