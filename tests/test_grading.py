"""The grader: whatever a submission does, it gets a clear row and the others are graded."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from fmtutorial.coursework import grading, process
from fmtutorial.coursework.__main__ import FIELDS, main, notebooks
from fmtutorial.coursework.catalogue import SHEETS
from fmtutorial.coursework.grading import Limits, Unreadable, read_cells, sheet_of
from fmtutorial.coursework.outcomes import unpacked

ROOT = Path(__file__).resolve().parents[1]
SHEET = "05-solvers"
TOTAL = 12 if sys.platform == "linux" else 50  # where each run starts an interpreter
IMPORT = "from fmtutorial.coursework import check"
EULER = """\
def euler_solve(v, x, times):
    for t, following in zip(times[:-1], times[1:], strict=True):
        x = x + (following - t) * v(x, t.expand(len(x)))
    return x


check("solvers.euler_solve", euler_solve)"""
HEUN = """\
def heun_step(v, x, t, h):
    first = v(x, t)
    return x + h / 2 * (first + v(x + h * first, t + h))


check("solvers.heun_step", heun_step)"""
RK4 = """\
def rk4_step(v, x, t, h):
    k1 = v(x, t)
    k2 = v(x + h / 2 * k1, t + h / 2)
    k3 = v(x + h / 2 * k2, t + h / 2)
    k4 = v(x + h * k3, t + h)
    return x + h * (k1 + 2 * k2 + 2 * k3 + k4) / 6


check("solvers.rk4_step", rk4_step)"""
# The verdict, the check and what the process writes, all changed from inside.
PATCH = """\
import fmtutorial.coursework.checking as checking

checking.check = check = lambda *_: print("right")
checking.judge = lambda *_: checking.Verdict("right", "")"""
FORGE = """\
import inspect

for frame in inspect.stack():
    if "packed" in frame.frame.f_globals:
        frame.frame.f_globals["packed"] = lambda *_: ["right"] * 6"""

# What the process says it does, said over and over, and other things into the same pipe.
REWRITE = """\
import json, os

said = b"".join(json.dumps(["at", f"cell {k}"]).encode() + b"\\n" for k in range(1000))
while True:
    for pipe in range(3, 10):
        try:
            os.write(pipe, said)
        except OSError:
            pass"""

LONG = """\
def heun_step(v, x, t, h):
    raise ValueError("\\ud800" * 10**7)"""

SLEEP = """\
def heun_step(v, x, t, h):
    import time
    time.sleep(1e6)"""
HEUN_WITH_TORCH = HEUN.replace("h / 2", "torch.tensor(0.5).to(x) * h")
MAGICS = """\
%load_ext autoreload
%autoreload 2
%load_ext nowhere
%pip install --target . nothing-at-all
%nonsense
files = !ls
!touch somewhere
%config InlineBackend.figure_format = "retina"
%time import torch
assert files == []"""

SUBMISSIONS = {
    "good": [EULER, HEUN, RK4],
    "endless cell": [EULER, "import time\ntime.sleep(1e6)", HEUN, RK4],
    "endless function": [EULER, SLEEP, RK4],
    "exit": [EULER, "exit()", HEUN, "import sys\nsys.exit(1)", RK4],
    "kills itself": [EULER, "import os\nos._exit(0)", HEUN, RK4],
    "function kills itself": [EULER, "import os\nheun_step = lambda *_: os._exit(0)", RK4],
    "two gigabytes": [EULER, "import torch\nx = torch.ones(2**29)", HEUN, RK4],
    "prints a gigabyte": [EULER, "print('x' * 10**9)", HEUN, RK4],
    "deleted cell": [EULER, RK4],
    "renamed function": [EULER, HEUN.replace("heun_step(", "my_heun("), RK4],
    "syntax error": [EULER, "def f(:\n    pass", HEUN, RK4],
    "blank": [EULER, "def heun_step(v, x, t, h):\n    raise NotImplementedError", RK4],
    "wrong": [EULER.replace("following - t", "t - following"), HEUN, RK4.replace(" / 6", "")],
    "patched check": [PATCH, EULER, "def heun_step(v, x, t, h):\n    return x", RK4],
    "forged results": [FORGE, EULER, HEUN, RK4],
    "borrowed": [EULER, "from fmtutorial.solvers import heun as heun_step", RK4],
    "reads input": [EULER, "name = input()", HEUN, RK4],
    "sparse": [EULER, "heun_step = lambda v, x, t, h: x.to_sparse()", RK4],
    "meta": [EULER, "heun_step = lambda v, x, t, h: x.to('meta')", RK4],
    "rewrites its progress": [EULER, REWRITE, HEUN, RK4],
    "long error": [EULER, LONG, RK4],
    "inline": ["%matplotlib inline\nimport torch", EULER, HEUN_WITH_TORCH, RK4],
    "magics": [MAGICS, EULER, HEUN_WITH_TORCH, RK4],
    "device": ["import torch\ntorch.set_default_device('cuda')", EULER, HEUN, RK4],
    "endless": [EULER, *["import time\ntime.sleep(3)"] * 20, HEUN, RK4],
    "good again": [EULER, HEUN, RK4],
}  # fmt: skip

# Ways to Heun's step of the package; all of them end in calling it.
ROUTES = {
    "import in a branch": "if True: from fmtutorial.solvers import heun as heun_step",
    "in the function": "def heun_step(*a):\n"
    "    import fmtutorial.solvers as s\n    return s.heun(*a)",
    "modules": "import sys\nheun_step = sys.modules['fmtutorial.solvers'].heun",
    "globals": "heun_step = check.__globals__['exercise_called']('solvers.heun_step').answer",
    "importlib": "import importlib as i\n"
    "heun_step = i.import_module('.solvers', 'fmtutorial').heun",
    "dunder": "heun_step = __import__('fmtutorial.solvers', fromlist=['x']).heun",
    "exec": "exec('from fmtutorial.solvers import heun as heun_step')",
    "partial": "import functools, sys\n"
    "heun_step = functools.partial(sys.modules['fmtutorial.solvers.steps'].heun)",
    "code": "import sys, types\nheun = sys.modules['fmtutorial.solvers'].heun\n"
    "heun_step = types.FunctionType(heun.__code__, {})",
}
SOURCES = {
    "inspect": "import inspect, sys\n"
    "exec(inspect.getsource(sys.modules['fmtutorial.solvers.steps'].heun))",
    "open": "import fmtutorial\ntext = open(fmtutorial.__path__[0] + '/solvers/steps.py').read()",
}
for name, cell in (ROUTES | SOURCES).items():
    SUBMISSIONS[f"route {name}"] = [EULER, cell, RK4]


def processes(marker):
    """The processes in whose environment a text stands; where there is no /proc, none."""
    found = []
    for name in os.listdir("/proc") if sys.platform == "linux" else ():
        if name.isdigit():
            try:
                if marker.encode() in Path(f"/proc/{name}/environ").read_bytes():
                    found.append(int(name))
            except OSError:
                continue
    return found


def notebook(cells):
    code = [{"cell_type": "code", "source": cell, "metadata": {}} for cell in [IMPORT, *cells]]
    return json.dumps({"cells": code, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """All of them in one call, as a lecturer would; the rows by submission."""
    folder = tmp_path_factory.mktemp("submissions")
    for name, cells in SUBMISSIONS.items():
        (folder / f"{name}.ipynb").write_text(notebook(cells), encoding="utf-8")
    (folder / "empty.ipynb").write_text("")
    (folder / "binary.ipynb").write_bytes(bytes(range(256)) * 100)
    (folder / "list.ipynb").write_text("[1, 2]")
    (folder / "unrelated.ipynb").write_text(notebook(["print(1)"]))
    paths = [folder / f"{name}.ipynb" for name in SUBMISSIONS]
    paths += [folder / f"{name}.ipynb" for name in ("empty", "binary", "list", "unrelated", "none")]
    out = folder / "grades.csv"
    limits = ["--seconds", "5", "--total", str(TOTAL), "--memory", "0.5"]
    main(["grade", *map(str, paths), "--out", str(out), *limits])
    rows = {}
    with out.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["submission"].split("/")[-1].removesuffix(".ipynb"), []).append(row)
    return rows


def statuses(rows):
    return [row["status"] for row in rows]


RIGHT = ["right"] * 3


@pytest.mark.parametrize(
    ("name", "expected", "text"),
    [
        ("good", RIGHT, ""),
        ("endless cell", RIGHT, "Code cell 3 takes more than 5 seconds and was left out."),
        ("endless function", ["right", "error", "right"], "takes more than 5 seconds"),
        ("exit", RIGHT, ""),
        ("kills itself", RIGHT, "Code cell 3 ends its own process and was left out."),
        ("function kills itself", ["right", "error", "right"], "ends its own process"),
        ("two gigabytes", RIGHT, ""),
        ("prints a gigabyte", RIGHT, ""),
        ("deleted cell", ["right", "missing", "right"], "There is no function heun_step."),
        ("renamed function", ["right", "missing", "right"], "Was it renamed? There is my_heun."),
        ("syntax error", RIGHT, ""),
        ("blank", ["right", "not attempted", "right"], "not attempted"),
        ("wrong", ["wrong", "right", "wrong"], "divide by 6"),
        (
            "patched check",
            ["right", "wrong", "right"],
            "Imports fmtutorial.coursework.checking.",
        ),
        ("forged results", ["error"] * 3, "no results"),
        ("borrowed", RIGHT, "Imports fmtutorial.solvers.heun."),
        ("reads input", RIGHT, ""),
        ("sparse", ["right", "error", "right"], "a plain one on the CPU is wanted"),
        ("meta", ["right", "error", "right"], "on the device meta"),
        ("rewrites its progress", ["error"] * 3, "says far too much"),
        ("long error", ["right", "error", "right"], "ValueError"),
        ("inline", RIGHT, ""),
        ("magics", RIGHT, ""),
        ("device", RIGHT, ""),
        ("endless", ["error"] * 3, f"It takes more than {TOTAL} seconds in all."),
        ("good again", RIGHT, ""),
    ],
)
def test_submissions_get_clear_rows(graded, name, expected, text):
    rows = graded[name]
    assert [row["exercise"] for row in rows] == [e.name for e in SHEETS[SHEET]]
    assert statuses(rows) == expected, rows
    assert text in " ".join(row["text"] + " " + row["remarks"] for row in rows)
    for row, exercise in zip(rows, SHEETS[SHEET], strict=True):
        assert int(row["points"]) == (exercise.points if row["status"] == "right" else 0)
        assert int(row["of"]) == exercise.points


@pytest.mark.parametrize("name", ROUTES)
def test_calls_of_the_packages_functions_get_a_remark(graded, name):
    rows = graded[f"route {name}"]
    assert statuses(rows) == RIGHT
    assert "heun_step calls fmtutorial.solvers.steps.heun." in rows[0]["remarks"]


@pytest.mark.parametrize("name", SOURCES)
def test_reading_the_packages_sources_gets_a_remark(graded, name):
    assert "Reads the source of fmtutorial.solvers.steps." in graded[f"route {name}"][0]["remarks"]


def test_our_own_sheets_are_graded_without_a_remark(tmp_path):
    """The solutions, without their experiments, are right; what is handed out is not attempted."""
    expected = {}
    for kind, status in (("solutions", "right"), ("exercises", "not attempted")):
        for sheet in SHEETS:
            book = nbformat.read(ROOT / "notebooks" / kind / f"{sheet}.ipynb", as_version=4)
            book.cells = [c for c in book.cells if "solution" not in c.metadata.get("tags", [])]
            path = tmp_path / f"{kind} {sheet}.ipynb"
            nbformat.write(book, path)
            expected[path] = [(e.name, status, "") for e in SHEETS[sheet]]
    graded = grading.grade_all(list(expected), 1, Limits(), 1)
    for rows, wanted in zip(graded, expected.values(), strict=True):
        assert [(row.exercise, row.status, row.remarks) for row in rows] == wanted


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("empty", "not a notebook"),
        ("binary", "not a notebook"),
        ("list", "not a notebook"),
        ("unrelated", "name the sheet with --sheet"),
        ("none", "cannot be read"),
    ],
)
def test_what_is_no_submission_gets_one_row(graded, name, text):
    (row,) = graded[name]
    assert row["status"] == "unreadable" and text in row["text"]


def test_texts_are_short_and_printable(graded):
    for rows in graded.values():
        for row in rows:
            assert len(row["text"]) <= 1000 and row["text"].isprintable()


def test_what_breaks_the_grader_is_a_row(tmp_path, monkeypatch):
    def breaks(*_):
        raise RuntimeError("unforeseen\n\x1b[2J")

    monkeypatch.setattr(grading, "verdicts_of", breaks)
    path = tmp_path / "a.ipynb"
    path.write_text(notebook([EULER]), encoding="utf-8")
    rows = grading.grade(path, 0, Limits(5))
    assert [row.of for row in rows] == [e.points for e in SHEETS[SHEET]]
    for row in rows:
        assert row.status == "error" and "RuntimeError: unforeseen" in row.text
        assert row.text.isprintable()


def test_folders_are_searched_and_editors_copies_left_out(tmp_path):
    names = ("a.ipynb", "deep/er/SHEET.IPYNB", ".ipynb_checkpoints/a-checkpoint.ipynb", "c.txt")
    for name in (
        *names,
        "__MACOSX/._a.ipynb",
        "._a.ipynb",
        "deep/er/data/x.csv",
        "e.ipynb/b.ipynb",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "deep" / "link").symlink_to(tmp_path)
    found = notebooks([tmp_path, tmp_path / "none.ipynb"])
    assert [path.name for path in found] == ["a.ipynb", "SHEET.IPYNB", "b.ipynb", "none.ipynb"]


def test_a_folder_that_lacks_a_notebook_is_a_row(tmp_path, capsys):
    for name in (
        "ann/sheet.ipynb",
        "ann/pictures/x.png",
        "group/bob/sheet.py",
        "group/dan/b.ipynb",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "carl" / "empty").mkdir(parents=True)
    found = [str(path.relative_to(tmp_path)) for path in notebooks([tmp_path])]
    assert found == ["ann/sheet.ipynb", "carl", "group/bob", "group/dan/b.ipynb"]
    out = tmp_path / "grades.json"
    main(["grade", str(tmp_path / "carl"), "--out", str(out)])
    (row,) = json.loads(out.read_text(encoding="utf-8"))
    assert row["status"] == "unreadable" and row["text"] == "there is no notebook in this folder"
    assert "there is no notebook in this folder" in capsys.readouterr().out


def test_a_byte_order_mark_does_no_harm(tmp_path):
    (tmp_path / "a.ipynb").write_text(notebook([EULER]), encoding="utf-8-sig")
    assert read_cells(tmp_path / "a.ipynb") == [IMPORT, EULER]


def test_what_is_no_plain_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.ipynb")
    (tmp_path / "b.ipynb").symlink_to("/dev/zero")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(Unreadable, match="no plain file"):
            read_cells(path)


@pytest.mark.parametrize("text", ["\n" * 10**6, "check(" * 10**5, "check('" + "a" * 10**6])
def test_the_sheet_is_found_at_once(text):
    started = time.process_time()
    assert sheet_of([text, "check('solvers.rk4_step', f)"]) == SHEET
    assert time.process_time() - started < 2  # a search that is quadratic takes minutes


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_a_grader_that_is_stopped_leaves_nothing(tmp_path, sent):
    """No process, no folder, and no results of yesterday."""
    begun, folder, out = tmp_path / "begun", tmp_path / "temporary", tmp_path / "grades.csv"
    folder.mkdir()
    out.write_text("yesterday")
    cell = f"import time\nopen({str(begun)!r}, 'w').close()\ntime.sleep(1e6)"
    (tmp_path / "a.ipynb").write_text(notebook([EULER, cell]), encoding="utf-8")
    command = [sys.executable, "-m", "fmtutorial.coursework", "grade", "a.ipynb", "--jobs", "1"]
    grader = subprocess.Popen(
        [*command, "--out", str(out)],
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(folder), "MARKER": str(tmp_path)},
        stderr=subprocess.PIPE,
    )
    wait_for(begun.exists)
    assert len(processes(str(tmp_path))) >= 3 or sys.platform != "linux"
    grader.send_signal(sent)
    errors = grader.communicate(timeout=60)[1]
    if sent == signal.SIGINT:
        assert grader.returncode == 130 and b"stopped after 0 of 1" in errors
        assert b"Traceback" not in errors
    wait_for(lambda: not processes(str(tmp_path)) and not list(folder.iterdir()))
    assert out.read_text(encoding="utf-8").splitlines() == [",".join(FIELDS)]


def wait_for(condition):
    end = time.monotonic() + 120  # an interpreter starts, on a slow machine
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_it_works_without_forks_too(tmp_path, monkeypatch):
    """As on macOS, where each worker is an interpreter of its own."""
    code = "from fmtutorial.coursework import keeper; keeper.LINUX = False; import sys; "
    script = tmp_path / "python"
    script.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c '{code}keeper.main(sys.argv[3])' \"$@\"\n"
    )
    script.chmod(0o700)
    monkeypatch.setattr(process.sys, "executable", str(script))
    path = tmp_path / "a.ipynb"
    path.write_text(notebook([EULER, HEUN, RK4]), encoding="utf-8")
    rows = grading.grade(path, 0, Limits(60))
    assert [row.status for row in rows] == RIGHT


def test_a_missing_folder_is_refused_before_anything_runs(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["grade", "a.ipynb", "--out", str(tmp_path / "none" / "grades.csv")])
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--out", "grades.xls"], "must end in .csv or .json"),
        (["--seconds", "0"], "'0' is no number from 0.1 to 1e+06"),
        (["--seconds", "nan"], "'nan' is no number"),
        (["--total", "-1"], "'-1' is no number"),
        (["--memory", "inf"], "'inf' is no number"),
        (["--jobs", "0"], "'0' is no whole number from 1 to 1000"),
        (["--jobs", "1.5"], "'1.5' is no whole number"),
        (["--seed", "9" * 30], "is no whole number"),
        (["--sheet", "09-mistakes"], "invalid choice"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(capsys, options, text):
    with pytest.raises(SystemExit) as stopped:
        main(["grade", "a.ipynb", *options])
    assert stopped.value.code == 2 and text in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_said_in_a_line(tmp_path):
    (tmp_path / "grades.csv").mkdir()
    with pytest.raises(SystemExit, match="cannot be written"):
        main(["grade", "a.ipynb", "--out", str(tmp_path / "grades.csv")])


def test_the_sheet_is_the_one_that_is_checked():
    assert sheet_of([IMPORT, "check('solvers.rk4_step', f)"]) == SHEET
    with pytest.raises(Unreadable):
        sheet_of(["check('solvers.unknown', f)"])


def test_huge_files_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "SIZE", 10)
    path = tmp_path / "big.ipynb"
    path.write_text(notebook([EULER]), encoding="utf-8")
    with pytest.raises(Unreadable, match="more than"):
        read_cells(path)


NUMBERS = {"dtype": "float64", "shape": [1], "values": [0.5]}


@pytest.mark.parametrize(
    "forged",
    [
        None,
        3,
        "right",
        {"a": 1},
        ["right"] * 6,
        [["right", ""]] * 6,
        [["error", 2]] * 6,
        [NUMBERS],  # too few
        [NUMBERS | {"shape": [2**40]}] * 6,
        [NUMBERS | {"dtype": "complex64"}] * 6,
        [NUMBERS | {"dtype": []}] * 6,
        [NUMBERS | {"values": ["x"]}] * 6,
        [NUMBERS | {"values": [10**400]}] * 6,
        [{"dtype": "float64"}] * 6,
    ],
)
def test_forged_outcomes_are_none(forged):
    with pytest.raises(ValueError, match="outcomes"):
        unpacked(forged, 6)


def test_what_a_worker_says_is_read_line_by_line():
    deep = b"[" * 10**6
    heard = grading.hear(
        b'["at", "cell 1"]\n' + deep + b'\n{"a": 1}\n["at"]\n["remark", "x"]\n\xff'
    )
    assert (heard.place, heard.remarks, heard.outcomes) == ("cell 1", ["x"], {})


def test_a_worker_that_never_starts_is_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(process.sys, "executable", "/bin/false")
    path = tmp_path / "a.ipynb"
    path.write_text(notebook([EULER, HEUN, RK4]), encoding="utf-8")
    rows = grading.grade(path, 0, Limits(5))
    assert [row.status for row in rows] == ["error"] * 3
