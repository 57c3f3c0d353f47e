"""Runs one submission, in a process of its own; see ``keeper``.

It is told a job: cells, the names of exercises, a seed, bytes of memory. It says in lines of JSON
what it is at, which cells failed, what the functions returned, and what of the package was used.
It judges nothing.
"""

import functools
import json
import sys
from types import FunctionType
from typing import Any

import torch
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from fmtutorial.coursework import borrowing
from fmtutorial.coursework.catalogue import EXERCISES
from fmtutorial.coursework.outcomes import described, outcomes, packed
from fmtutorial.coursework.sealing import limit

INSTALLERS = {"conda", "mamba", "micromamba", "pip", "uv"}


def main(job: dict[str, Any], out: int) -> None:
    """Run the cells, then every exercise's cases with the function of its name."""
    file = open(out, "w", encoding="utf-8", closefd=False)

    def say(*what: object) -> None:
        print(json.dumps(what), file=file, flush=True)

    def note(text: str) -> None:
        if text not in noted:
            noted.add(text)
            say("remark", text)

    noted: set[str] = set()
    shell = quiet_shell()
    limit(job["memory"])
    borrowing.watch(note)
    for number, source in job["cells"].items():
        say("at", f"cell {number}")
        try:
            result = shell.run_cell(source)
            error = result.error_before_exec or result.error_in_exec
        except Exception as broken:  # a text that the shell itself cannot read
            error = broken
        if error is not None:
            say("error", number, described(error))
    known = [k for k, v in shell.user_ns.items() if type(v) is FunctionType and type(k) is str]
    say("functions", [k for k in known if shell.user_ns[k].__module__ == "__main__"])
    for name in job["exercises"]:
        say("at", name)
        exercise = EXERCISES[name]
        function = shell.user_ns.get(exercise.function)
        with borrowing.calls(exercise.function, note):
            found = outcomes(exercise, function, job["seed"]) if callable(function) else []
        say("outcomes", name, packed(found))
    say("done")


def warm_up() -> None:
    """Do what takes time at first use."""
    quiet_shell()
    torch.set_num_threads(1)
    for exercise in EXERCISES.values():
        outcomes(exercise, exercise.answer, 0)


@functools.cache
def quiet_shell() -> InteractiveShell:
    """Return a shell that prints no errors, runs no commands, and forgives what a magic lacks."""
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    magic = shell.run_line_magic

    def forgiving(name: str, line: str, _stack_depth: int = 1) -> object:
        if name in INSTALLERS:
            return None
        try:
            return magic(name, line, _stack_depth + 1)
        except Exception:  # %matplotlib inline has no place to draw; what follows still counts
            return None

    shell.run_line_magic = forgiving
    shell.getoutput = lambda *_, **__: []
    for name in ("enable_gui", "system", "showtraceback", "showsyntaxerror"):
        setattr(shell, name, lambda *_, **__: None)
    return shell


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(json.load(sys.stdin), int(sys.argv[1]))
