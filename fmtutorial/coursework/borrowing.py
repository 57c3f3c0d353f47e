"""What a submission takes from the package, noticed while it runs: imports, sources, calls."""

import builtins
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import fmtutorial
from fmtutorial.coursework.outcomes import call

PACKAGE = str(Path(fmtutorial.__file__).parent) + os.sep
HANDED_OUT = {
    "fmtutorial.coursework.check",
    "fmtutorial.images.classifier.digit_classifier",
    "fmtutorial.images.data.dequantise",
    "fmtutorial.images.data.small_digits",
}
"""What the sheets themselves import; anything else of the package gets a remark."""

READERS = {"importlib._bootstrap_external", "traceback", "warnings", "_py_warnings"}
"""Modules that open sources for a reason of their own."""

Note = Callable[[str], None]
"""Takes the name of a function that a sheet calls."""


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _module(path: str) -> str:
    inside = path.removeprefix(PACKAGE).removesuffix(".py").removesuffix("__init__")
    return f"fmtutorial.{inside}".replace(os.sep, ".").rstrip(".")


def _name(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))


def _ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(PACKAGE)


def watch(note: Note) -> None:
    """Note from now on what others import from the package, and which of its sources they read."""
    statement, function = builtins.__import__, importlib.import_module

    def imported(module: str, names: tuple[str, ...]) -> None:
        if module.split(".")[0] != "fmtutorial":
            return
        by = next(f for f in _frames(sys._getframe(2)) if not _name(f).startswith("importlib"))
        if not _ours(by):
            for name in [f"{module}.{name}" for name in names] or [module]:
                if name not in HANDED_OUT:
                    note(f"Imports {name}.")

    def import_statement(
        name: str,
        globals: dict | None = None,
        locals: dict | None = None,
        fromlist: tuple[str, ...] | None = None,
        level: int = 0,
    ) -> object:
        imported(name, fromlist or ())
        return statement(name, globals, locals, fromlist or (), level)

    def import_module(name: str, package: str | None = None) -> object:
        full = importlib.util.resolve_name(name, package)
        imported(full, ())
        return function(full)

    def opened(event: str, arguments: tuple) -> None:
        if event != "open" or not isinstance(arguments[0], str):
            return
        path = os.path.abspath(arguments[0])
        if path.startswith(PACKAGE) and path.endswith(".py"):
            stack = list(_frames(sys._getframe(1)))
            readers = {_name(frame) for frame in stack}
            running = {frame.f_code.co_filename for frame in stack}  # that a traceback shows
            if not readers & READERS and path not in running:
                note(f"Reads the source of {_module(path)}.")

    builtins.__import__, importlib.import_module = import_statement, import_module
    sys.addaudithook(opened)


@contextmanager
def calls(name: str, note: Note) -> Iterator[None]:
    """Note what of the package a function of this name calls, when ``call`` runs it.

    What it is given is its own to call, and so is what that calls in its turn.
    """

    def entered(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not _ours(frame) or frame.f_code.co_filename == __file__:
            return
        for above in _frames(frame.f_back):
            if above.f_code is call.__code__:
                code, this = frame.f_code, frame.f_locals.get("self")
                given = above.f_locals["given"]
                if not any(a is this or getattr(a, "__code__", None) is code for a in given):
                    note(f"{name} calls {_module(code.co_filename)}.{code.co_name}.")
                return
            if _ours(above):
                return

    sys.setprofile(entered)
    try:
        yield
    finally:
        sys.setprofile(None)
