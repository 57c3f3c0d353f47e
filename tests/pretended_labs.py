"""Run labs, sheets and the commands of chapter 8 on the pretended device.

    python tests/pretended_labs.py 06-reflow solutions/06-reflow     # as a reader runs them
    python tests/pretended_labs.py --small 06-reflow                 # every line, few times
    python tests/pretended_labs.py --command "train --data small --out run" "sample --steps 5"
    python tests/pretended_labs.py --cuda --small 06-reflow          # on a GPU that is there

It plays "cuda": the package and the labs are read with its name in place of that word, and
``torch.cuda`` says that there is a GPU as old as Colab's T4. With --single it plays Apple's "mps",
without double precision. Instead of all of MNIST there are the digits that the package ships.
"""

import argparse
import ast
import functools
import importlib.abc
import importlib.machinery
import os
import shlex
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import jupytext
import scipy.integrate
import torch
from pretended import MODULE, NAME, Generator, Watch

ROOT = Path(__file__).resolve().parents[1]

EVERYWHERE = {255, 257, 784, *(2**n for n in range(13))}
"""Of bytes and digits; powers of two are sizes of batches and networks."""

KEPT = {
    "03-flow-matching": {101, 2000, 2001},
    "07-diffusion": {161},
    "08-mnist": {100, 200, 2000},
    "09-common-mistakes": {785, 1000},
    "16-other-models": {1000, 1001},
}
"""Numbers of a lab that may not be smaller, as others depend on them."""

ON_THE_CPU = 'pipeline.to("cpu"); pipeline.save_pretrained(folder)'
NO_DRIVER = """from unittest import mock
with mock.patch("torch.cuda.is_available", return_value=False):"""
ONE_PROBE = 'divergence(field, pair.x_t, t, "hutchinson", probes[0])'

SHORTER = {
    "01-flows": [("repeats=20", "repeats=2", True)],
    "04-optimal-transport": [("max(4, (2048 if size < 4 else 1024) // size)", "2", True)],
    "05-solvers": [("STEPS = (10, 20, 40, 80)", "STEPS = (4, 5, 6, 7)", True)],
    "08-mnist": [
        ("({} if full else small)", "small", False),
        ('"width": 32, "steps": 300, "batch": 32', '"width": 8, "steps": 30, "batch": 4', True),
        ("torch.arange(150, device", "torch.arange(50, device", True),
        ("few[:150]", "few[:50]", True),
        ("for _ in range(200)]\nwith", "for _ in range(20)]\nwith", True),
        # in place of 784 passes, of which lab 1 takes two
        ("exactly = divergence(field, pair.x_t, t)", f"exactly = {ONE_PROBE}", True),
    ],
    "10-few-steps": [("train_by_matching(400,", "train_by_matching(4,", True)],
    "11-steering": [("updates = 70", "updates = 5", True)],
    "12-discrete": [("LADDER = (16, 32, 64, 128)", "LADDER = (2, 4, 8, 16)", True)],
    "13-bridges": [("for _ in range(6):", "for _ in range(2):", True)],
    "16-other-models": [
        ("steps = 1000", "steps = 20", True),
        # its tensors have no address, which is how diffusers tells them apart
        ("pipeline.save_pretrained(folder)", f"{ON_THE_CPU}; unet.to(device)", False),
        # an export asks the driver for the state of its generator
        ("to_onnx(load_weights", f"{NO_DRIVER}\n    to_onnx(load_weights", False),
    ],
}
"""Texts of a lab, others for them, and whether --small only: twelve thousand steps are too many."""


def heard(text):
    """Return a text with the name of the pretended device for that of the device it plays."""
    return text.replace('"cuda"' if MODULE.double else '"mps"', f'"{NAME}"')


class Loader(importlib.machinery.SourceFileLoader):
    """Read a file of the package as ``heard``."""

    def get_code(self, name):
        return self.source_to_code(heard(Path(self.path).read_text(encoding="utf-8")), self.path)


class Finder(importlib.abc.MetaPathFinder):
    """Find the package beside these tests."""

    def find_spec(self, name, path, target=None):
        if name.split(".")[0] != "fmtutorial":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path or [str(ROOT)])
        spec.loader = Loader(name, spec.origin)
        return spec


def play():
    """Let all that is imported from here on find the device."""
    sys.meta_path.insert(0, Finder())
    torch.Generator = Generator
    torch.cuda.is_available = lambda: MODULE.double
    torch.cuda.device_count = lambda: 1
    torch.cuda.get_device_capability = lambda device=None: (7, 5)
    torch.cuda.get_device_name = lambda device=None: NAME


def keep_quiet():
    """Show nothing, and download nothing."""
    import IPython.display

    os.environ["MPLBACKEND"] = "agg"
    IPython.display.display = lambda *data, **options: None
    from fmtutorial.images import data

    data.mnist = data.small_digits
    data.DATA["full"] = data.small_digits


def shorten():
    """Train two steps and solve three: what follows gets as many as it expects, all the same."""
    from fmtutorial import solvers, training

    def few(network, loss, steps, *args, **kwargs):
        for step in train(network, loss, steps, *args, **kwargs):
            yield step
            if step.number == 2:
                yield from (step._replace(number=n) for n in range(3, steps + 1))
                return

    def short(solver):
        def solve(field, x, times, *args, **kwargs):
            found = solver(field, x, times[:4], *args, **kwargs)
            if len(found.times) == len(times) or len(found.states) == 1:
                return found
            rest = found.states[-1:].expand(len(times) - len(found.times), *x.shape)
            states = torch.cat([found.states, rest])
            return found._replace(times=times.to(found.times), states=states)

        return solve

    train, training.train = training.train, few
    for name in ("solve", "dpm_solver"):
        setattr(solvers, name, short(getattr(solvers, name)))
    adaptive = functools.partial(solvers.solve_adaptive, rtol=0.1, atol=0.1)
    solvers.solve_adaptive = lambda *args, rtol=0, atol=0, **kwargs: adaptive(*args[:4], **kwargs)
    from fmtutorial import diffusion, plotting

    ivp, loose = scipy.integrate.solve_ivp, {"rtol": 0.1, "atol": 0.1}
    scipy.integrate.solve_ivp = lambda *args, **kwargs: ivp(*args, **kwargs | loose)
    diffusion.solve_sde = short(diffusion.solve_sde)
    plotting.draw_density = functools.partial(plotting.draw_density, resolution=12)
    plotting.show = lambda figure, *args, **kwargs: plotting.plt.close(figure)


class Small(ast.NodeTransformer):
    """Hundreds become tens; assertions, which are then false, are evaluated and not held."""

    def __init__(self, lab):
        self.kept = EVERYWHERE | KEPT.get(lab, set())

    def visit_Assert(self, node):
        return self.generic_visit(ast.copy_location(ast.Expr(node.test), node))

    def visit_Raise(self, node):
        return ast.copy_location(ast.Pass(), node)

    def visit_Constant(self, node):
        if type(node.value) is int and node.value >= 100 and node.value not in self.kept:
            node.value = min(node.value // 10, 1000) + (node.value % 10 == 1)  # times of a grid
        return node


def run(lab, small=False):
    """Run the cells of a lab one after the other; an error names its cell."""
    path = Path(lab) if lab.endswith(".py") else ROOT / "notebooks" / f"{lab}.py"
    text = heard(path.read_text(encoding="utf-8"))
    for old, new, only in SHORTER.get(lab, ()):
        assert old in text, f"{lab} has no more {old}: see SHORTER in {__file__}"
        text = text if only and not small else text.replace(old, new)
    cells = [c for c in jupytext.reads(text, fmt="py:percent").cells if c.cell_type == "code"]
    space, started = {"__name__": "__main__"}, time.process_time()
    torch.set_default_dtype(torch.float32)  # which the lab before may have changed
    for number, cell in enumerate(cells[1:], start=2):  # the first holds a magic, no Python
        tree = ast.parse(cell.source)
        if small:
            tree = ast.fix_missing_locations(Small(lab).visit(tree))
        try:
            exec(compile(tree, f"{lab}, cell {number}", "exec"), space)
        except Exception:
            hint = "If this needs a number as large as it is, name it in KEPT.\n" if small else ""
            print(f"==== {lab}, cell {number}:\n{cell.source}\n{hint}", file=sys.stderr)
            raise
        if "VERBOSE" in os.environ:
            print(
                f"{lab}, cell {number}: {time.process_time() - started:.1f} s",
                file=sys.stderr,
                flush=True,
            )
    print(f"==== {lab} has run: {time.process_time() - started:.0f} s", file=sys.stderr, flush=True)
    torch.set_default_device(None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="every line, few times")
    parser.add_argument("--cuda", action="store_true", help="a GPU that is here, not pretended")
    parser.add_argument("--single", action="store_true", help="play mps")
    parser.add_argument("--command", action="store_true", help="not labs: of fmtutorial.images")
    parser.add_argument("names", nargs="+", help="labs, as 06-reflow or a file; or commands")
    options = parser.parse_args()
    MODULE.double = not options.single
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if options.cuda:
        heard = str
    else:
        play()
    keep_quiet()
    if options.small:
        shorten()
    with nullcontext() if options.cuda else Watch():
        if options.command:
            from fmtutorial.images.command import main
        for name in options.names:
            main(shlex.split(name)) if options.command else run(name, options.small)
