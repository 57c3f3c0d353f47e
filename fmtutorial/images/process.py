"""What a command shares with its machine: signals, memory, and the folder of a run. Chapter 8."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")
"""What ends a process: Ctrl-C, a cluster whose time is up, a terminal that closes."""


Handler = Callable[[int, FrameType | None], None] | signal.Handlers
"""What Python calls, or does, on a signal."""


class Stopped(KeyboardInterrupt):
    """A signal arrived; no error, so that nobody mistakes it for one."""

    def __init__(self, number: int, how: str = "") -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}{how}")
        self.number = number


class Signals:
    """The signals of a command: the first ends it, at once or, with ``wait``, when it is ready.

    Later ones mean the same, and must not disturb what the first has set going.
    """

    def __init__(self) -> None:
        self.first, self.wait = 0, False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal.

        Raises:
            Stopped: it has arrived, and need not wait.
        """
        if not self.first:
            self.first = number
            if not self.wait:
                raise Stopped(number)


def handle(handler: Handler) -> dict[int, Handler]:
    """Give the signals that end a process to a handler; return the former ones by signal.

    Not those that the process was told to ignore, as ``nohup`` does; and only the main thread can.
    """
    former = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in ENDING if hasattr(signal, name)):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                former[number] = signal.signal(number, handler)
    return former


@contextmanager
def handling(handler: Handler) -> Iterator[None]:
    """Give the signals that end a process to a handler, and back at the end."""
    former = handle(handler)
    try:
        yield
    finally:
        for number, old in former.items():
            signal.signal(number, old)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have a folder for this process alone; the system takes the lock off when the process dies.

    Files that a killed process left half written are removed first.

    Raises:
        BlockingIOError: another process has it.
        OSError: nothing can be written there.
    """
    path = folder / "run.lock"
    message = f"another run is at work in {folder}: wait for its end, or choose another folder"
    if fcntl is None:  # this lock outlives a process that dies
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:
            raise BlockingIOError(f"{message}; if there is none, delete {path}") from None
        file = None
    else:
        file = _lock(path)
        if file is None:
            raise BlockingIOError(message)
    try:
        for partial in folder.glob("*.partial-*"):
            if partial.is_file():
                partial.unlink()
        yield
    finally:
        path.unlink(missing_ok=True)
        if file is not None:
            os.close(file)


def _lock(path: Path) -> int | None:
    """Open and lock a file, or return None if another process has it."""
    while True:
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        except OSError:  # a file system without locks
            return file
        try:
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        os.close(file)  # the one before has just removed it


@contextmanager
def within_memory() -> Iterator[None]:
    """Make a demand for more memory than is free an error; Linux would kill the process."""
    free = free_memory()
    if resource is None or free is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    taken = 1024 * _kilobytes("/proc/self/status")["VmData"]
    known = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([taken + free, *known]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def free_memory() -> int | None:
    """Return the bytes that this process may take, of the machine's and its control group's."""
    if not all(Path(f"/proc/{name}").exists() for name in ("meminfo", "self/cgroup")):
        return None
    machine = _kilobytes("/proc/meminfo")
    # at least half of it: others may give theirs back
    limits = [1024 * max(machine["MemAvailable"] + machine["SwapFree"], machine["MemTotal"] // 2)]
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kind, group = line.split(":", 2)
        root, name = {
            "": ("/sys/fs/cgroup", "memory.max"),
            "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        }.get(kind, (None, None))
        if root:
            inner = Path(root, group.strip("/"))
            for folder in [inner, *inner.parents]:
                file = folder / name
                if file.is_file() and file.read_text().strip().isdigit():
                    limits.append(int(file.read_text()))
    return min(limits)


def _kilobytes(path: str) -> dict[str, int]:
    """Return what a table of /proc says in kilobytes."""
    rows = [line.split() for line in Path(path).read_text().splitlines()]
    return {row[0].rstrip(":"): int(row[1]) for row in rows if row[-1] == "kB"}
