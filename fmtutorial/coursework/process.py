"""The process of a submission, from outside: started, watched, ended, and what it left behind."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SIZE = 2**26
"""Bytes that are read of a file, at most."""

START = 60.0
"""Seconds that an interpreter may need to start."""


def run(folder: Path, places: list[str], seconds: float) -> tuple[str, str]:
    """Run the worker; return which of the places it reached, and why it ended there.

    The places come in this order, and one that has passed does not come again: so a process that
    keeps writing about its progress does not gain time.
    """
    environment = os.environ | {"IPYTHONDIR": str(folder / "ipython"), "MPLBACKEND": "agg"}
    environment |= {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "fmtutorial.coursework.worker", str(folder)]
    quiet = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    process = subprocess.Popen(
        command, cwd=folder, env=environment, start_new_session=True, **quiet
    )
    at, since, why = 0, time.monotonic(), "ends its own process"
    while process.poll() is None:
        time.sleep(0.05)
        now = read_text(folder / "progress")
        if now in places[at + 1 :]:
            at, since = places.index(now), time.monotonic()
        allowed = seconds if at else max(seconds, START)
        if time.monotonic() - since > allowed:
            why = f"takes more than {allowed:g} seconds"
            break
    stop(process)
    now = read_text(folder / "progress")
    return (now if now in places[at + 1 :] else places[at]), why


def stop(process: subprocess.Popen) -> None:
    """End a process and, where the system knows groups, all that it started."""
    if hasattr(os, "killpg"):
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    else:
        process.kill()
    process.wait()


def read_bytes(path: Path) -> bytes:
    """Return the beginning of a plain file, or nothing: a pipe or a link could hold us up."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        with open(os.open(path, flags | getattr(os, "O_BINARY", 0)), "rb") as file:
            plain = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            return file.read(SIZE) if plain else b""
    except OSError:
        return b""


def read_text(path: Path) -> str:
    """Return the text of a plain file, or nothing if there is none."""
    return read_bytes(path).decode(errors="replace")


def clean(text: str) -> str:
    """Return one line of at most 1000 characters that any terminal and table can show."""
    text = text.encode(errors="replace").decode()
    return "".join(c if c.isprintable() else " " for c in text)[:1000]


def loads(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one."""
    try:
        found = json.loads(read_text(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
