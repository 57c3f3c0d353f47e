"""Runs one submission in a process of its own; started by ``grading``, never by hand.

    python -m fmtutorial.coursework.worker FOLDER

FOLDER/job.json holds the cells and the names of the exercises. The process writes what it is
doing to FOLDER/progress, what each function returned to FOLDER/NAME.pt, and the errors of cells
and the names of functions to FOLDER/cells.json. It judges nothing.
"""

import io
import json
import os
import sys
from pathlib import Path

import torch
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from fmtutorial.coursework.catalogue import exercise_called
from fmtutorial.coursework.checking import outcomes

FILE_SIZE = 2**28


def limit(memory: int) -> None:
    """Allow so many more bytes of memory, and files of at most FILE_SIZE, where the system can."""
    try:
        import resource
    except ImportError:  # not on Windows, where only time is limited
        return
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        used = next(int(line.split()[1]) for line in lines if line.startswith("VmData"))
        memory += 1024 * used
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def main(folder: Path) -> None:
    """Run the cells, then every exercise's cases with the function of its name."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    limit(job["memory"])
    errors = {}
    for number, source in job["cells"].items():
        write(folder / "progress", f"cell {number}".encode())
        result = shell.run_cell(source)
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            errors[number] = f"{type(error).__name__}: {error}"[:300]
    space = shell.user_ns
    known = [k for k, v in space.items() if getattr(v, "__module__", "") == "__main__"]
    functions = [name for name in known if callable(space[name]) and not name.startswith("_")]
    about = json.dumps({"errors": errors, "functions": functions})
    write(folder / "cells.json", about.encode())
    for name in job["exercises"]:
        write(folder / "progress", name.encode())
        exercise = exercise_called(name)
        function = space.get(exercise.function)
        found = outcomes(exercise, function, job["seed"]) if callable(function) else []
        file = io.BytesIO()
        torch.save(found, file)
        write(folder / f"{name}.pt", file.getvalue())
    write(folder / "progress", b"done")
    os._exit(0)  # whatever the submission left running


def write(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    part = path.with_suffix(".part")
    part.write_bytes(data)
    os.replace(part, path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
