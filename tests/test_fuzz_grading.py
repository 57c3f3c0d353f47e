"""Hostile submissions, many of them: each gets its rows with their maximum, and nothing is left.

To extend: a line in RETURNS (what a function returns), CELLS (what a notebook does) or FILES.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest
from test_grading import EULER, HEUN, RK4, SHEET, notebook, processes

from fmtutorial.coursework.__main__ import main
from fmtutorial.coursework.catalogue import SHEETS

SECONDS, TOTAL = 6, 18
SLACK = 30  # to end a process that does not answer, on a slow machine

SETUP = """\
import sys, torch, types

class Liar(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return True

class Strange:
    def __getattr__(self, name):
        raise RuntimeError
    __class__ = property(lambda self: torch.Tensor)
    __repr__ = __str__ = __eq__ = __len__ = __getattr__

class Silent(Exception):
    __str__ = __repr__ = lambda self: 1 / 0

class Base(BaseException):
    pass

def throw(error):
    raise error

def deep(n):
    result = []
    for _ in range(n):
        result = [result]
    return result

def leaked(x, kept=[]):
    torch.vmap(lambda y: kept.append(y) or y)(x)
    return kept[-1]

def recurse():
    return recurse()"""

# What heun_step returns, of x, its state; v, t and h are there too.
RETURNS = [
    "torch.nested.nested_tensor([x[0], x[0]])",
    "torch.nested.nested_tensor([x[0], x[0]], layout=torch.jagged)",
    "torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8)",
    "torch.zeros(4, dtype=torch.uint8).view(torch.bits8)",
    "x.to_sparse()",
    "x.float().to_mkldnn()",
    "x.to('meta')",
    "torch.complex(x, x)",
    "torch.view_as_real(torch.complex(x, x).conj())",
    "torch.complex(x, x).conj().imag",
    "x.to(torch.float8_e4m3fn)",
    "x.half()",
    "x.bfloat16()",
    "x > 0",
    "x.long()",
    "x.to(torch.uint16)",
    "torch.zeros(1).expand(10**13)",
    "torch.zeros(2**20)",
    "torch.zeros(0)",
    "torch.full_like(x, float('nan'))",
    "torch.full_like(x, float('inf'))",
    "torch.zeros((1,) * 60)",
    "torch._efficientzerotensor(x.shape)",
    "torch.nn.Parameter(x)",
    "x.as_subclass(Liar)",
    "torch.Tensor._make_subclass(Liar, x)",
    "leaked(x)",
    "Strange()",
    "types.SimpleNamespace(shape=x.shape)",
    "deep(10**5)",
    "[x]",
    "x.numpy()",
    "x.resize_(10**3)",
    "setattr(x, 'data', x.to_sparse()) or x",
    "setattr(x, 'data', torch.zeros(1)) or x",
    "x.set_() or x",
    "x.untyped_storage().resize_(0) and x",
    "x.share_memory_() * 0",
    "'\\ud800' * 10**7",
    "10**10**4",
    "(y for y in x)",
    "v",
    "print",
    "throw(Silent)",
    "throw(Base())",
    "throw(Base)",
    "throw(KeyboardInterrupt)",
    "throw(GeneratorExit)",
    "throw(StopIteration)",
    "throw(MemoryError('\\n\\x1b[2J' * 1000))",
    "throw(NotImplementedError('\\ud800'))",
    "recurse()",
    "exit()",
    "sys.setprofile(None)",
    "torch.set_default_device('meta')",
    "torch.set_default_dtype(torch.float64) or 0 * x",
    "torch.set_grad_enabled(False) and 0 * x",
    "torch._C._set_grad_enabled(False)",
    "v.__dict__.clear()",
    "__import__('ctypes').string_at(0)",
    "__import__('os').kill(__import__('os').getpid(), 19)",
]

# A cell between the others, and whether they still count.
CELLS = [
    ("pass", True),
    ("raise KeyboardInterrupt", True),
    ("raise SystemExit", True),
    ("class E(Exception):\n    __str__ = lambda self: 1 / 0\nraise E", True),
    ("class M(type):\n    __name__ = property(lambda s: 1 / 0)\n"
     "class E(Exception, metaclass=M): pass\nraise E", None),
    ("'\ud800'", True),
    ("x = '\0'", True),
    ("x = " + "(" * 10**5, True),
    ("x = " + "-" * 10**5 + "1", True),
    ("\n" * 50_000, True),
    (" \n" * 50_000 + "import sys", True),
    ("check(" * 20_000, True),
    ("check(" + " " * 100_000, True),
    ("import ctypes\nctypes.string_at(0)", True),
    ("import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()", True),
    ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", True),
    ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)", None),
    ("import os, signal\nos.kill(os.getppid(), signal.SIGSTOP)", None),
    ("import os\nos.closerange(0, 1000)", True),
    ("import os\nif not os.fork():\n    os.setsid()\n    if os.fork(): os._exit(0)\n"
     "    import time\n    time.sleep(1e6)", True),
    ("import os, time\nif not os.fork():\n    os.setsid()\n    if os.fork(): os._exit(0)\n"
     "    for pipe in range(3, 20):\n        try: os.write(pipe, b'[\"done\"]\\n')\n"
     "        except OSError: pass", None),
    ("import subprocess, time\nfor _ in range(150): subprocess.Popen(['sleep', '1000'])\n"
     "time.sleep(1e6)", True),
    ("import threading\nthreading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()", None),
    ("import atexit, time\natexit.register(time.sleep, 1e6)", True),
    ("import signal\n[signal.signal(s, signal.SIG_IGN) for s in (2, 15)]", True),
    ("import resource\nresource.setrlimit(resource.RLIMIT_DATA, (2**20, 2**20))", None),
    ("import os\nos.makedirs('a/b')\nos.chmod('a', 0)", True),
    ("import os\nfor _ in range(2000): os.mkdir('d'); os.chdir('d')", True),
    ("import os, shutil\nshutil.rmtree(os.getcwd())", True),
    ("import os\nos.symlink('/', 'root')\nos.mkfifo('pipe')", True),
    ("import torch\ntorch.set_default_device('meta')", True),
    ("import torch\ntorch.set_default_dtype(torch.float64)", True),
    ("import torch\ntorch.set_grad_enabled(False)", True),
    ("import torch\ntorch.inference_mode().__enter__()", True),
    ("import torch\ntorch.autograd.set_detect_anomaly(True)", True),
    ("import torch\ntorch.equal = torch.Tensor.clone = None", None),
    ("import warnings\nwarnings.simplefilter('error')", True),
    ("import sys\nsys.modules.clear()", None),
    ("import builtins\nbuiltins.print = builtins.__import__ = None", None),
    ("import json\njson.dumps = lambda *a, **k: '[' * 10**6", None),
    ("import sys\nsys.setprofile = 3", None),
    ("globals()[3] = lambda: 1\nglobals()['\\ud800'] = lambda: 1", True),
    ("import types\nclass N: __eq__ = __getattr__ = lambda *a: 1 / 0\n"
     "def odd(): pass\nodd.__module__ = odd.__name__ + '\\ud800'\nn = N()", True),
    ("get_ipython().reset()", None),
    ("del get_ipython().user_ns", None),
    ("import sys\nfor k in range(100): print('\\ud800', file=sys.stderr)", True),
    ("for k in range(40):\n    with open(f'{k}', 'wb') as f: f.write(b'x' * 2**24)\n"
     "import time\ntime.sleep(1e6)", True),
]  # fmt: skip

# Memory that no limit of a single process sees: shared, and in files that lie in memory.
SHARED = [
    ("import mmap, time\nm = mmap.mmap(-1, 2**30)\nfor _ in range(60):\n"
     "    m.write(b'x' * 2**24)\n    time.sleep(0.02)\ntime.sleep(1e6)", True),
    ("import os, time\nfor k in range(60):\n    if not k % 10: f = os.dup(os.memfd_create('x'))\n"
     "    os.write(f, b'x' * 2**24)\n    time.sleep(0.02)\ntime.sleep(1e6)", None),
]  # fmt: skip


def fifo(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def silent(path):
    path.symlink_to("/dev/tty")


def loop(path):
    path.symlink_to(path.name)


def folder(path):
    (path / "empty").mkdir(parents=True)


def unreadable(path):
    path.write_text("x")
    path.chmod(0)


FILES = [
    fifo,
    endless,
    silent,
    loop,
    folder,
    unreadable,
    b"",
    b"[" * 10**6,
    b'{"cells": ' + b"[" * 10**6,
    b'{"cells": 3}',
    b'{"cells": [3]}',
    b'{"cells": [{"cell_type": "code"}]}',
    b'{"cells": [{"cell_type": "code", "source": 3}]}',
    b'{"cells": [{"cell_type": "code", "source": [3]}]}',
    b'{"cells": ' + b"9" * 10**5 + b"}",
    b"\xff\xfe" + "{}".encode("utf-16-le"),
    b"\x1f\x8b" + bytes(1000),
]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere each run starts an interpreter, and less is watched"
)


def submit(folder):
    """Grade a folder from the command line, with another seed; return its rows by submission."""
    out = folder.with_suffix(".json")
    limits = ["--seconds", str(SECONDS), "--total", str(TOTAL), "--memory", "0.25", "--seed", "12"]
    files = map(str, sorted(folder.iterdir()))
    main(["grade", *files, "--sheet", SHEET, "--out", str(out), *limits])
    rows = {}
    for row in json.loads(out.read_text(encoding="utf-8")):
        rows.setdefault(Path(row["submission"]).name, []).append(row)
    return rows


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """All of them in one call; the rows by name, and what is left."""
    top = tmp_path_factory.mktemp("fuzz")
    (top / "temporary").mkdir()
    (top / "submissions").mkdir()
    for k, value in enumerate(RETURNS):
        function = f"heun_step = lambda v, x, t, h: {value}"
        text = notebook([SETUP, EULER, function, RK4])
        (top / "submissions" / f"return {k}").write_text(text, encoding="utf-8")
    cells = CELLS + SHARED
    for k, (cell, _) in enumerate(cells):
        text = notebook([EULER, cell, HEUN, RK4])
        (top / "submissions" / f"cell {k}").write_text(text, encoding="utf-8")
    for k, content in enumerate(FILES):
        path = top / "submissions" / f"file {k}"
        path.write_bytes(content) if isinstance(content, bytes) else content(path)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(tempfile, "tempdir", str(top / "temporary"))
    rows = submit(top / "submissions")
    monkeypatch.undo()
    rows["left"] = processes(str(top)), list((top / "temporary").iterdir())
    return rows


def well_formed(rows):
    assert [(row["exercise"], row["of"]) for row in rows] == [
        (exercise.name, exercise.points) for exercise in SHEETS[SHEET]
    ]
    for row in rows:
        assert row["points"] == (row["of"] if row["status"] == "right" else 0)
        assert row["text"].isprintable() and len(row["text"]) <= 1000
        assert row["seconds"] <= TOTAL + SLACK
    return [row["status"] for row in rows]


def test_no_process_and_no_folder_is_left(graded):
    assert graded["left"] == ([], [])


@pytest.mark.parametrize("k", range(len(RETURNS)), ids=RETURNS)
def test_an_odd_result_loses_its_own_points(graded, k):
    first, second, third = well_formed(graded[f"return {k}"])
    assert (first, third) == ("right", "right")
    assert second in ("wrong", "error")


@pytest.mark.parametrize("k", range(len(CELLS)), ids=[repr(cell)[:40] for cell, _ in CELLS])
def test_an_odd_cell_costs_no_points_but_its_own(graded, k):
    statuses = well_formed(graded[f"cell {k}"])
    if CELLS[k][1]:
        assert statuses == ["right"] * 3, graded[f"cell {k}"]


@pytest.mark.parametrize("k", range(len(SHARED)))
def test_shared_memory_counts(graded, k):
    rows = graded[f"cell {len(CELLS) + k}"]
    assert well_formed(rows) == ["right"] * 3
    assert "takes more than 0.25 GB of memory" in rows[0]["remarks"]


@pytest.mark.parametrize("k", range(len(FILES)))
def test_an_odd_file_is_unreadable_and_has_its_maximum(graded, k):
    if FILES[k] is unreadable and os.getuid() == 0:
        pytest.skip("root reads everything")
    assert well_formed(graded[f"file {k}"]) == ["unreadable"] * 3
