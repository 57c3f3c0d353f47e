"""Keeps submissions: runs one at a time in a process of its own, watches it and ends it.

    python -m fmtutorial.coursework.keeper FOLDER WORKER

A job comes as a line of JSON and is answered by a line with a size and the reason of the end, and
as many bytes that the worker said. WORKER is a module beside this one, with ``warm_up()`` and
``main(job, out)``. Where the system can, the worker is a fork of this process, which has imported
everything, and all that it starts stays below this one, even what detaches itself. When whoever
gave the job is gone, so are the worker and the folder.
"""

import ctypes
import gc
import importlib
import itertools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

LINUX = sys.platform == "linux"
"""Where a process with torch in it can be forked, and /proc tells who uses how much memory."""

SAID = 2**24
"""Bytes that a worker may say."""

START = 60.0
"""Seconds that an interpreter may need before its first word."""

PROCESSES, FILES = 100, 1000
"""Of a submission: processes that it may have, files whose sizes are counted."""

DEATH_SIGNAL, SUBREAPER = 1, 36  # of prctl
IN_MEMORY = "/dev/shm/", "/memfd:", "/SYSV"


def main(base: str, name: str = "worker") -> None:
    """Answer jobs until there are no more."""
    folder = os.path.join(base, "work")
    answers = os.fdopen(os.dup(1), "wb")
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 1)
    worker = f"fmtutorial.coursework.{name}"
    if LINUX:
        importlib.import_module(worker).warm_up()
        gc.freeze()  # so that forks share these objects
        ctypes.CDLL(None).prctl(SUBREAPER, 1)
    said, why = b"", "is ready"
    try:
        while True:
            answers.write(json.dumps({"size": len(said), "why": why}).encode() + b"\n" + said)
            answers.flush()
            if not (line := sys.stdin.buffer.readline()):
                break
            said, why = attempt(worker, json.loads(line), folder, (answers.fileno(), quiet))
    except (BrokenPipeError, SystemExit):
        pass
    finally:
        remove(base)
    os._exit(0)  # IPython would look for its folder


def attempt(name: str, job: dict, folder: str, private: tuple[int, int]) -> tuple[bytes, str]:
    """Run a worker in an empty folder; return what it said and why it ended, "" at its own end."""
    os.makedirs(folder)
    allowed = job["memory"] + memory([os.getpid()], folder)  # a fork begins with what is here
    read, write = os.pipe()
    if LINUX:
        worker = fork(name, job, folder, write, (*private, read))
    else:
        worker = start(name, job, folder, write)
    os.close(write)
    try:
        return watch(worker, read, job, lambda them: memory(them, folder) > allowed)
    finally:
        end(worker)
        os.close(read)
        remove(folder)


def fork(name: str, job: dict, folder: str, write: int, private: tuple[int, ...]) -> int:
    """Run the worker in a copy of this process."""
    keeper = os.getpid()
    process = os.fork()
    if process:
        return process
    try:
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() == keeper:  # else it has died already
            os.setsid()
            for standard in range(3):
                os.dup2(private[1], standard)
            for one in private:
                os.close(one)
            os.chdir(folder)
            sys.path[0] = ""
            importlib.import_module(name).main(job, write)
    finally:
        os._exit(1)


def start(name: str, job: dict, folder: str, write: int) -> int:
    """Run the worker in a fresh interpreter."""
    command = [sys.executable, "-m", name, str(write)]
    with tempfile.TemporaryFile("w+") as file:
        json.dump(job, file)
        file.seek(0)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "pass_fds": [write]}
        process = subprocess.Popen(command, stdin=file, cwd=folder, start_new_session=True, **quiet)
    return process.pid


def watch(
    worker: int, read: int, job: dict, greedy: Callable[[list[int]], bool]
) -> tuple[bytes, str]:
    """Listen to a worker until it is done or breaks a limit; each word gives it time anew."""
    poll, said = select.poll(), bytearray()
    poll.register(read, select.POLLIN)
    poll.register(0, select.POLLIN)
    begin = heard = looked = time.monotonic()
    while True:
        ready = [file for file, _ in poll.poll(100)]
        now = time.monotonic()
        if 0 in ready:
            raise SystemExit  # nobody waits for an answer
        if read in ready:
            new = os.read(read, 2**16)
            said += new
            heard = now
            if said.endswith(b'["done"]\n'):
                return bytes(said), ""
            if not new:
                return bytes(said), "ends its own process"
            if len(said) > SAID:
                return b"", "says far too much"
        elif os.waitpid(worker, os.WNOHANG)[0]:
            return bytes(said), "ends its own process"
        allowed = job["seconds"] if said else max(job["seconds"], START)
        if now - begin > job["total"]:
            return bytes(said), f"takes more than {job['total']:g} seconds in all"
        if now - heard > allowed:
            return bytes(said), f"takes more than {allowed:g} seconds"
        if now - looked > 0.2:
            looked = now
            processes = descendants()
            if len(processes) > PROCESSES:
                return bytes(said), f"starts more than {PROCESSES} processes"
            if greedy(processes):
                return bytes(said), f"takes more than {job['memory'] / 2**30:g} GB of memory"


def descendants() -> list[int]:
    """The processes below this one, however deep; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if LINUX else ():
        if name.isdigit():
            with suppress(OSError):  # it has ended
                text = Path(f"/proc/{name}/stat").read_text(errors="replace")
                parent = int(text.rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found = [os.getpid()]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def memory(processes: list[int], folder: str) -> int:
    """Bytes that processes hold, alone or together, in open files in memory and in a folder."""
    own = shared = 0
    files = {}
    for process in processes:
        with suppress(OSError):  # it has ended
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]:
                name, size = line.split()[:2]
                own += 1024 * int(size) if name in ("Pss_Anon:", "SwapPss:") else 0
                shared += 1024 * int(size) if name == "Pss_Shmem:" else 0
            for file in os.scandir(f"/proc/{process}/fd"):
                if os.readlink(file).startswith(IN_MEMORY):
                    status = os.stat(file)
                    files[status.st_dev, status.st_ino] = 512 * status.st_blocks
    written, paths = 0, [folder]
    for path in itertools.islice(paths, FILES):  # it grows
        with suppress(OSError):  # it is gone, or out of reach
            written += 512 * os.lstat(path).st_blocks
            if os.path.isdir(path) and not os.path.islink(path):
                paths += [entry.path for entry in itertools.islice(os.scandir(path), FILES)]
    return own + max(shared, sum(files.values())) + written


def end(worker: int) -> None:
    """End a worker and all that it started, until there is none."""
    while True:
        with suppress(OSError):  # the group is empty
            os.killpg(worker, signal.SIGKILL)
        for process in descendants():
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def remove(folder: str) -> None:
    """Delete a folder, however deep and whatever its rights."""
    script = 'rm -rf "$0" 2>/dev/null || { chmod -R u+rwx "$0"; rm -rf "$0"; }'
    subprocess.run(["sh", "-c", script, folder], stderr=subprocess.DEVNULL, check=False)


if __name__ == "__main__":
    main(*sys.argv[1:3])
