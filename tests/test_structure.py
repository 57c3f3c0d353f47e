"""The order of the house: imports point one way, parts stay behind one name, rooms are small."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fmtutorial

PACKAGE = Path(fmtutorial.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem[0] != "_"
)
BOOK = sorted([*ROOT.glob("notebooks/**/*.py"), *ROOT.glob("tests/benchmarks/*.py")])

LEVELS = {
    "fields": 0,
    "distributions": 1,
    "paths": 1,
    "networks": 1,
    "training": 1,
    "assignment": 1,
    "checkpoints": 1,
    "couplings": 2,
    "labs": 1,
    "guidance": 1,
    "solvers": 2,
    "exact": 2,
    "losses": 2,
    "metrics": 2,
    "plotting": 2,
    "likelihood": 3,
    "diffusion": 3,
    "reflow": 3,
    "distribution_matching": 3,
    "discrete": 3,
    "bridges": 3,
    "conventions": 4,
    "flow_maps": 4,
    "steering": 4,
    "manifolds": 4,
    "tables": 4,
    "images": 5,
    "other_models": 6,
    "coursework": 6,
}
"""A room of the house imports only from lower levels."""

PARTS = {
    "distributions": ["gaussians", "toys", "__init__"],
    "networks": ["embeddings", "mlp", "unet", "dit", "__init__"],
    "solvers": ["steps", "grids", "fixed", "exponential", "adaptive", "__init__"],
    "discrete": ["chains", "paths", "posteriors", "__init__"],
    "manifolds": ["spaces", "rotations", "directional", "geodesics", "__init__"],
    "bridges": ["processes", "exact", "__init__"],
    "steering": ["rewards", "control", "adjoint", "__init__"],
    "other_models": ["binding", "denoisers", "peers", "exports", "__init__"],
    "tables": ["reading", "units", "measures", "__init__"],
    "images": [
        *["__init__", "process", "data", "devices", "pictures", "folders", "sources", "batches"],
        *["classifier", "weights", "sampling", "settings", "run", "bits", "measures", "cost"],
        *["evaluation", "options", "command", "__main__"],
    ],
    "coursework": [
        *["exercises", "bridges", "diffusion", "digits", "discrete", "few_steps", "flows"],
        *[
            "manifolds",
            "matching",
            "paths",
            "reflow",
            "solvers",
            "steering",
            "editing",
            "transport",
        ],
        *["catalogue", "outcomes", "checking", "borrowing", "sealing", "worker"],
        *["keeper", "process", "__init__", "grading"],
        *["contest_line", "contest_player", "contest_files", "contest", "contest_scores"],
        *["contest_board", "contest_command", "__main__"],
    ],
}
"""The parts of a package, in an order in which each imports only from earlier ones."""

HIDDEN = {
    *("distributions", "networks", "solvers"),
    *("steering", "discrete", "bridges", "manifolds", "tables", "other_models"),
}
"""Packages that the rest of the house and the book know by one name."""


def place(path):
    """Return the room that a file of the package belongs to, and the part of it."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts if len(parts) == 2 else (parts[0], None)


def imports(path):
    """Return every module of ours that a file imports from, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in full if is_module(name)]
            names |= {node.module, *modules} if len(modules) < len(full) else set(modules)
    return names


def is_module(name):
    stem = ROOT.joinpath(*name.split("."))
    return stem.with_suffix(".py").exists() or (stem / "__init__.py").exists()


def ours(path):
    """Return the rooms, with parts where they are named, that a file imports from."""
    found = [name.split(".")[1:] for name in imports(path) if name.startswith("fmtutorial.")]
    return {(name[0], name[1] if len(name) > 1 else None) for name in found}


def test_every_room_has_its_level_and_every_part_its_place():
    found = {}
    for path in FILES:
        room, part = place(path)
        found.setdefault(room, set()).add(part)
    assert set(found) == set(LEVELS)
    assert {room: parts for room, parts in found.items() if parts != {None}} == {
        room: set(parts) for room, parts in PARTS.items()
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(filter(None, place(path))))
def test_imports_point_one_way(path):
    room, part = place(path)
    for other, piece in ours(path):
        if other != room:
            assert LEVELS[other] < LEVELS[room], f"{room} imports {other}"
        else:
            order = PARTS[room]
            assert order.index(piece or "__init__") < order.index(part), f"{part} imports {piece}"


@pytest.mark.parametrize("path", [*FILES, *BOOK], ids=lambda path: str(path.relative_to(ROOT)))
def test_parts_stay_behind_one_name(path):
    room = place(path)[0] if path in FILES else None
    reached = {(other, piece) for other, piece in ours(path) if other in HIDDEN - {room} and piece}
    assert not reached, "import the names from the package"


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(filter(None, place(path))))
def test_only_plotting_imports_matplotlib(path):
    drawn = {name for name in imports(path) if name.split(".")[0] == "matplotlib"}
    assert bool(drawn) == (place(path) == ("plotting", None))


def test_every_other_module_runs_without_matplotlib():
    """In a fresh interpreter in which importing matplotlib or IPython is an error."""
    left_out = {"plotting", "coursework"}  # coursework runs notebooks with IPython
    modules = [".".join(filter(None, place(path))) for path in FILES]
    wanted = [m for m in modules if m.split(".")[0] not in left_out and "__" not in m]
    names = ", ".join(f"fmtutorial.{name}" for name in wanted)
    code = f"import sys; sys.modules.update(matplotlib=None, IPython=None); import {names}"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: ".".join(filter(None, place(path))))
def test_modules_are_small(path):
    """One idea each: 250 lines, or a few more."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 275
