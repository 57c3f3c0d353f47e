"""Runs one sampler of a contest, in a process of its own; see ``keeper``.

It is told where to call the contest, the sampler's source and bytes of memory. It has neither the
network nor any digits: it asks for velocities over its line. It counts and judges nothing.
"""

import importlib
import json
import linecache
import os
import socket
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fmtutorial.coursework.contest_line import (
    EVALUATE,
    FAILED,
    HEADER,
    IMAGES,
    TEXT,
    get,
    get_tensor,
    put,
)
from fmtutorial.coursework.outcomes import described
from fmtutorial.coursework.sealing import limit, seal
from fmtutorial.images import sampling
from fmtutorial.images.batches import CLASSES, DIGIT

AT_HAND = (
    *("__future__", "cmath", "collections", "dataclasses", "enum", "fractions", "functools"),
    *("itertools", "math", "operator", "random", "statistics", "typing", "numpy", "torch"),
    *("fmtutorial.solvers", "fmtutorial.paths", "fmtutorial.diffusion", "fmtutorial.guidance"),
    *("fmtutorial.flow_maps", "fmtutorial.distribution_matching", "torch.utils._device"),
)
"""What a sampler may import, beside what these have imported."""

Sampler = Callable[[Callable[..., Tensor], Tensor, Tensor, int], Tensor]
"""sample(evaluate, noise, labels, budget) -> images."""


class Asked:
    """The network as a sampler sees it: a velocity field on the other end of a line."""

    def __init__(self, line: int, labels: Tensor) -> None:
        self.line, self.labels = line, labels

    def __call__(self, x: Tensor, t: Tensor | float, label: Tensor | None = None) -> Tensor:
        """Return the velocity for all rows; see ``contest``."""
        rows = len(self.labels)
        if not isinstance(x, Tensor) or x.shape != (rows, *DIGIT):
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"evaluate takes x of shape {(rows, *DIGIT)}, all rows, not {found}")
        label = torch.full((rows,), CLASSES) if label is None else label
        times, label = torch.as_tensor(t), torch.as_tensor(label)
        times, label = times.detach().float().expand(rows), label.long().expand(rows)
        put(self.line, EVALUATE, x.detach().float(), times, label)
        return get_tensor(self.line, (rows, *DIGIT))


def main(job: dict[str, Any], out: int) -> None:
    """Run the sampler for every task on the line, until it is cut."""
    file = open(out, "w", encoding="utf-8", closefd=False)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(job["address"])
        line = connection.fileno()
        for one in range(3, 256):
            if one not in (line, out):
                try:
                    os.close(one)
                except OSError:  # it is none
                    continue
        source = job["source"]
        linecache.cache["sampler.py"] = len(source), None, source.splitlines(True), "sampler.py"
        limit(job["memory"])
        seal()
        sys.meta_path[:] = [SimpleNamespace(find_spec=refuse)]
        try:
            play(line, source, lambda: print(json.dumps(["at", "a task"]), file=file, flush=True))
        except EOFError:  # the contest has what it wants
            print(json.dumps(["done"]), file=file, flush=True)


def refuse(name: str, *_: object) -> None:
    """Stand where Python looks for modules that have not been imported yet.

    Raises:
        ModuleNotFoundError: always.
    """
    had = "it opens no files, and has PyTorch, NumPy, math and the like, and the book's solvers"
    raise ModuleNotFoundError(f"a sampler cannot import {name}: {had}")


def play(line: int, source: str, say: Callable[[], None]) -> None:
    """Define the sampler, and answer tasks with its images."""
    sampler: Sampler | None = None
    while True:
        rows, budget = HEADER.unpack(get(line, HEADER.size))
        labels = get_tensor(line, (rows,), torch.int64)
        noise = get_tensor(line, (rows, budget, *DIGIT))
        say()
        try:
            sampler = sampler or defined(source)
            images = sampler(Asked(line, labels), noise, labels, budget)
        except (EOFError, ConnectionError):
            raise EOFError from None
        except BaseException as error:  # exit() and whatever else
            failed(line, described(error, sampler))
            continue
        try:
            answer(line, images, rows)
        except (EOFError, OSError):
            raise EOFError from None
        except Exception as error:  # an object that is not what it says
            failed(line, f"What it returns cannot be read: {described(error)}")


def defined(source: str) -> Sampler:
    """Run a source and return its function ``sample``.

    Raises:
        NameError: there is none.
    """
    space: dict[str, Any] = {"__name__": "sampler"}
    exec(compile(source, "sampler.py", "exec"), space)
    if not callable(space.get("sample")):
        raise NameError("there is no function sample(evaluate, noise, labels, budget)")
    return space["sample"]


def answer(line: int, images: object, rows: int) -> None:
    """Send images, if that is what they are."""
    if type(images) is not Tensor:
        return failed(line, f"It returns a {type(images).__name__}, and a tensor is wanted.")
    if images.shape != (rows, *DIGIT):
        return failed(line, f"It returns the shape {tuple(images.shape)}, not {(rows, *DIGIT)}.")
    return put(line, IMAGES, images.detach().float())


def failed(line: int, text: str) -> None:
    """Say why there are no images."""
    put(line, FAILED, text.encode(errors="replace")[:TEXT].ljust(TEXT))


def warm_up() -> None:
    """Import what a sampler may use, and do what takes time at first use."""
    for name in AT_HAND:
        importlib.import_module(name)
    torch.set_num_threads(1)
    noise = torch.randn(2, *DIGIT)
    for method in sampling.SAMPLERS:
        sampling.sample(lambda x, t: -x, noise, method, 2)
    x = torch.zeros(2, 2, requires_grad=True)
    (x @ x).sum().backward()
    torch.func.jvp(torch.sin, (x,), (x,))
    torch.nn.functional.conv2d(torch.zeros(2, *DIGIT), torch.zeros(1, 1, 3, 3))


if __name__ == "__main__":
    warm_up()
    main(json.load(sys.stdin), int(sys.argv[1]))
