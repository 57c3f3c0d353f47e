"""What closes a process before it runs what others wrote: no files, no network, no processes."""

import ctypes
import platform
import resource
import struct
import sys
from pathlib import Path

FILE_SIZE = 2**28

NAMES = (
    *("read", "write", "close", "mmap", "munmap", "mprotect", "mremap", "brk", "madvise"),
    *("futex", "sched_yield", "sched_getaffinity", "getrandom", "rseq"),
    *("clock_gettime", "clock_nanosleep", "nanosleep", "gettimeofday", "restart_syscall"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack"),
    *("getpid", "gettid", "sysinfo", "uname", "exit", "exit_group"),
)
"""Calls of Linux that arithmetic needs; none of them opens, sends to, starts or ends anything."""

KERNELS = {
    "x86_64": (
        0xC000003E,
        *(0, 1, 3, 9, 11, 10, 25, 12, 28, 202, 24, 204, 318, 334, 228, 230, 35, 96, 219),
        *(13, 14, 15, 131, 39, 186, 99, 63, 60, 231),
    ),
    "aarch64": (
        0xC00000B7,
        *(63, 64, 57, 222, 215, 226, 216, 214, 233, 98, 124, 123, 278, 293, 113, 115, 101, 169),
        *(128, 134, 135, 139, 132, 172, 178, 179, 160, 93, 94),
    ),
}  # fmt: skip
"""For each processor the number by which the kernel calls it, and those of ``NAMES``, in order."""

LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # of the kernel's filters
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000  # refused is "not permitted"
NO_NEW_RIGHTS, FILTER = 38, 22  # of prctl


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def limit(memory: int) -> None:
    """Allow so many more bytes of memory, and files of at most FILE_SIZE."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        used = next(int(line.split()[1]) for line in lines if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (memory + 1024 * used,) * 2)


def seal() -> bool:
    """Let this process open nothing more, for good; return whether the kernel holds it to that.

    What is open stays open. Everywhere no file and no connection can be opened. On Linux, on the
    processors of ``KERNELS``, the kernel refuses all but the calls in ``NAMES``: it cannot delete
    or rename a file either, start a process or a thread, or send a signal.
    """
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    known = KERNELS.get(platform.machine()) if sys.platform == "linux" else None
    if known is None:
        return False
    kernel, *numbers = known
    program = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, kernel), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for left, number in zip(range(len(numbers), 0, -1), numbers, strict=True):
        program.append((EQUAL, left, 0, number))  # over the rest and the refusal
    program += [(RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in program))
    given = _Program(len(program), ctypes.addressof(code))
    system = ctypes.CDLL(None)
    system.prctl(NO_NEW_RIGHTS, 1, 0, 0, 0)
    return system.prctl(FILTER, 2, ctypes.byref(given), 0, 0) == 0
