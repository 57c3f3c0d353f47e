"""The order of the house: imports point one way, matplotlib stays in one room, rooms are small."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fmtutorial

PACKAGE = Path(fmtutorial.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")
LEVELS = {
    "fields": 0,
    "gaussians": 1,
    "distributions": 2,
    "paths": 2,
    "devices": 1,
    "embeddings": 1,
    "unet": 2,
    "dit": 2,
    "networks": 3,
    "steps": 1,
    "adaptive": 2,
    "log_snr": 3,
    "solvers": 3,
    "exact": 3,
    "losses": 3,
    "likelihood": 4,
    "diffusion": 4,
    "training": 4,
    "reflow": 4,
    "conventions": 5,
    "weights": 4,
    "samplers": 5,
    "digit_batches": 5,
    "runs": 6,
    "mnist": 7,
    # These import nothing of ours but fields.
    "couplings": 1,
    "metrics": 1,
    "plotting": 1,
    "images": 1,
    "guidance": 1,
    "classifier": 2,
    "labs": 1,
}
"""A module imports only from lower levels."""


def imports(module):
    """Every module that a module names in an import, wherever in the file."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    ours = {name.split(".")[1] for name in imports(module) if name.startswith("fmtutorial.")}
    assert module in LEVELS, f"give {module} its place in LEVELS"
    for other in ours:
        assert LEVELS[other] < LEVELS[module], f"{module} imports {other}"


@pytest.mark.parametrize("module", MODULES)
def test_only_plotting_imports_matplotlib(module):
    drawn = {name for name in imports(module) if name.split(".")[0] == "matplotlib"}
    assert bool(drawn) == (module == "plotting")


def test_every_other_module_runs_without_matplotlib():
    """In a fresh interpreter in which importing matplotlib or IPython is an error."""
    names = ", ".join(f"fmtutorial.{name}" for name in MODULES if name != "plotting")
    code = f"import sys; sys.modules.update(matplotlib=None, IPython=None); import {names}"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_modules_are_small(path):
    """One idea each: 250 lines, or a few more."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 275


COURSEWORK = {
    "exercises": 0,
    "process": 0,
    "catalogue": 2,
    "checking": 3,
    "__init__": 4,
    "worker": 4,
    "grading": 4,
    "__main__": 5,
}
"""Of fmtutorial.coursework; its other modules hold the exercises of a sheet each, at level 1."""


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("coursework/*.py")), ids=lambda p: p.stem)
def test_coursework_imports_point_one_way(path):
    found = imports(f"coursework/{path.stem}")
    ours = {name.split(".")[2] for name in found if name.startswith("fmtutorial.coursework.")}
    level = COURSEWORK.get(path.stem, 1)
    assert all(COURSEWORK.get(other, 1) < level for other in ours), f"{path.stem} imports {ours}"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_coursework(module):
    assert not [name for name in imports(module) if name.startswith("fmtutorial.coursework")]
