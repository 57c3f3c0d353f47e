"""Run labs and sheets as plain Python, on a GPU where PyTorch finds one.

    python tests/lab_runner.py 06-reflow solutions/06-reflow     # as a reader runs them
    python tests/lab_runner.py --small 06-reflow                 # every line, few times

Nothing is shown. For a device that is only pretended see ``pretended_labs.py``.
"""

import argparse
import ast
import functools
import os
import sys
import time
import warnings
from pathlib import Path

import jupytext
import scipy.integrate
import torch

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

ONE_PROBE = 'divergence(field, pair.x_t, t, "hutchinson", probes[0])'

WALK = """
        v = exact(x, time)
        s = linear.convert(v"""
THREE_STEPS = """
        if len(states) > 3:
            states.append(x)
            continue"""

SHORTER = {
    "01-flows": [("repeats=20", "repeats=2")],
    "04-optimal-transport": [("max(4, (2048 if size < 4 else 1024) // size)", "2")],
    "05-solvers": [
        ("STEPS = (10, 20, 40, 80)", "STEPS = (4, 5, 6, 7)"),
        ("zip(noise[:5], ring_truth[:5]", "zip(noise[:1], ring_truth[:1]"),
    ],
    "07-diffusion": [(WALK, f"{THREE_STEPS}{WALK}")],
    "08-mnist": [
        ('"width": 32, "steps": 300, "batch": 32', '"width": 8, "steps": 30, "batch": 4'),
        ("torch.arange(150, device", "torch.arange(50, device"),
        ("few[:150]", "few[:50]"),
        ("for _ in range(200)]\nwith", "for _ in range(20)]\nwith"),
        # in place of 784 passes, of which lab 1 takes two
        ("exactly = divergence(field, pair.x_t, t)", f"exactly = {ONE_PROBE}"),
    ],
    "10-few-steps": [
        ("train_by_matching(400,", "train_by_matching(4,"),
        ("for _ in range(40)])", "for _ in range(4)])"),
        ("for n in (6, 7, 8)]", "for n in (1, 2, 3)]"),
    ],
    "11-steering": [("updates = 70", "updates = 5")],
    "12-discrete": [
        ("LADDER = (16, 32, 64, 128)", "LADDER = (2, 4, 8, 16)"),
        ("for n in (16, 64):", "for n in (2, 4):"),
    ],
    "13-bridges": [("for _ in range(6):", "for _ in range(2):")],
    "16-other-models": [("steps = 1000", "steps = 20")],
}
"""Texts of a lab and others for them, with --small."""


def keep_quiet():
    """Show nothing."""
    import IPython.display

    os.environ["MPLBACKEND"] = "agg"
    IPython.display.display = lambda *data, **options: None


def shorten():
    """Train two steps and solve two: what follows gets as many as it expects, all the same."""
    from fmtutorial import solvers, training

    def few(network, loss, steps, *args, **kwargs):
        for step in train(network, loss, steps, *args, **kwargs):
            yield step
            if step.number == 2:
                yield from (step._replace(number=n) for n in range(3, steps + 1))
                return

    def short(solver):
        def solve(field, x, times, *args, **kwargs):
            found = solver(field, x, times[:3], *args, **kwargs)
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


def replaced(lab, text, old, new):
    """Return a text with a part exchanged, which must be there."""
    assert old in text, f"{lab} has no more {old}: see SHORTER in {__file__}, or PRETENDED"
    return text.replace(old, new)


def run(lab, small=False, change=lambda lab, text: text):
    """Run the cells of a lab, its text changed first, in their order; an error names its cell."""
    path = Path(lab) if lab.endswith(".py") else ROOT / "notebooks" / f"{lab}.py"
    text = change(lab, path.read_text(encoding="utf-8"))
    for old, new in SHORTER.get(lab, ()) if small else ():
        text = replaced(lab, text, old, new)
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
    parser.add_argument("names", nargs="+", help="labs, as 06-reflow or a file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    keep_quiet()
    if options.small:
        shorten()
    for name in options.names:
        run(name, options.small)
