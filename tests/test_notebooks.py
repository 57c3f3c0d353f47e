"""The labs' form: pairs in step, outputs stored, readable on Colab and on the site."""

import ast
import os
import re
import sys
from pathlib import Path

import jupytext
import nbformat
import pytest
import repository
from contents import pages
from IPython.core.interactiveshell import InteractiveShell

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"


def named(suffix):
    return sorted(
        str(path.relative_to(NOTEBOOKS).with_suffix("")) for path in NOTEBOOKS.rglob(f"*{suffix}")
    )


LABS = named(".py")
"""Labs, sheets of exercises and their solutions: "05-solvers", "exercises/05-solvers", …"""

FIRST_CELL = f"""\
# On Colab this cell installs the book's package; elsewhere it does nothing.
import sys

if "google.colab" in sys.modules:
    print("Installing the book's package")
    # this lab's own version where it is released, else the newest there is
    home, v = "{repository.HOST}{repository.stored_slug()}", "{repository.version()}"
    wheel = f"{{home}}/releases/download/v{{v}}/fmtutorial-{{v}}-py3-none-any.whl"
    %pip install -q {{wheel}} 2> /dev/null || pip install -q git+{{home}}"""

# A directive, a role or a label: Colab shows them as they stand.
MYST = re.compile(r"^\s*(`{3,}|:{3,})\{|\{[\w:.+-]+\}`|^\([\w:.-]+\)=\s*$", re.MULTILINE)


def script(lab):
    return jupytext.read(ROOT / "notebooks" / f"{lab}.py", fmt="py:percent")


def notebook(lab):
    return nbformat.read(ROOT / "notebooks" / f"{lab}.ipynb", as_version=4)


def code_cells(lab):
    return [cell for cell in notebook(lab).cells if cell.cell_type == "code"]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def test_there_are_labs():
    assert LABS


def test_every_notebook_has_a_script_and_a_place_in_the_contents():
    assert named(".ipynb") == LABS, "run `make notebooks`, or remove the .ipynb without a .py"
    shown = {f"notebooks/{lab}" for lab in LABS if not lab.startswith("solutions/")}
    missing = shown - set(pages())
    assert not missing, f"_toc.yml lacks {sorted(missing)}: the site would leave them out silently"


@pytest.mark.parametrize("lab", LABS)
def test_pair_is_in_step(lab):
    def content(book):
        return [(cell.cell_type, cell.source, sorted(tags(cell))) for cell in book.cells]

    assert content(notebook(lab)) == content(script(lab)), f"run `make notebooks LAB={lab}`"


@pytest.mark.parametrize("lab", LABS)
def test_outputs_are_stored_without_errors(lab):
    for number, cell in enumerate(code_cells(lab), start=1):
        assert cell.execution_count == number, f"cell {number} was not run in order"
        kinds = {output.output_type for output in cell.outputs}
        assert "error" not in kinds, f"cell {number} stored an error"
        assert all(output.get("name") != "stderr" for output in cell.outputs), (
            f"cell {number} stored a warning: {cell.outputs}"
        )


@pytest.mark.parametrize("lab", LABS)
def test_first_cell_installs_on_colab(lab):
    first = code_cells(lab)[0].source
    more = r"(\n    %pip install -q [\w ]+)?"  # what the package itself does without
    assert re.fullmatch(re.escape(FIRST_CELL) + more, first), (
        "start with the install cell: copy it from another lab, or run `make repository` if only "
        "the address or the version differs"
    )


@pytest.mark.parametrize("released", [True, False])
def test_first_cell_takes_the_release_and_else_the_repository(tmp_path, monkeypatch, released):
    """Run as on Colab, with a pip that notes what it is asked for and may not find a release."""
    said = tmp_path / "said"
    found = "true" if released else 'case "$*" in *.whl) exit 1;; esac'
    for name in ("pip", "python"):
        text = f'#!/bin/sh\necho "{name} $*" >> "{said}"\n{found}\n'
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setitem(sys.modules, "google.colab", sys)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    InteractiveShell().run_cell(code_cells(LABS[0])[0].source).raise_error()
    home, v = repository.HOST + repository.stored_slug(), repository.version()
    wheel = f"{home}/releases/download/v{v}/fmtutorial-{v}-py3-none-any.whl"
    wanted = [f"python -m pip install -q {wheel}", f"pip install -q git+{home}"]
    assert said.read_text().splitlines() == wanted[: 1 if released else 2]


@pytest.mark.parametrize("lab", LABS)
def test_code_cells_are_short(lab):
    for cell in code_cells(lab):
        limit = 25 if "hide-input" in tags(cell) else 15
        lines = len(cell.source.splitlines())
        assert lines <= limit, (
            f"{lines} lines, at most {limit}: split it, or tag a plotting cell hide-input:\n"
            f"{cell.source}"
        )


@pytest.mark.parametrize("lab", LABS)
def test_code_is_narrow(lab):
    lines = [line for cell in code_cells(lab)[1:] for line in cell.source.splitlines()]
    wide = [line for line in lines if len(line) > 88]  # as notebooks/ruff.toml says
    assert not wide, "a phone shows about half of these lines:\n" + "\n".join(wide)


@pytest.mark.parametrize("lab", LABS)
def test_prose_is_plain_markdown(lab):
    for cell in notebook(lab).cells:
        if cell.cell_type == "markdown":
            found = MYST.search(cell.source)
            assert found is None, f"Colab shows {found.group()!r} as it stands:\n{cell.source}"


@pytest.mark.parametrize("lab", LABS)
def test_pictures_have_alt_text(lab):
    for cell in code_cells(lab):
        for output in cell.outputs:
            for kind in output.get("data", {}):
                if kind.startswith("image/"):
                    alt = output.metadata.get(kind, {}).get("alt", "")
                    assert len(alt) > 10, f"say what the picture shows:\n{cell.source}"


@pytest.mark.parametrize("lab", LABS)
def test_most_outputs_are_compared(lab):
    cells = code_cells(lab)
    uncompared = [cell for cell in cells if tags(cell) & {"nbval-ignore-output", "nbval-skip"}]
    limit = max(3, len(cells) // 4)
    assert len(uncompared) <= limit, f"{len(uncompared)} of {len(cells)} code cells are uncompared"


@pytest.mark.parametrize("lab", LABS)
def test_lab_reads_no_file_of_the_repository(lab):
    folders = [ROOT, ROOT / "notebooks", ROOT / "tests", ROOT / "book" / "_tools"]
    ours = {path.stem for folder in folders for path in folder.iterdir()} - {"fmtutorial"}
    for cell in code_cells(lab)[1:]:  # the first holds a magic, which is no Python
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or "."]
            else:
                continue
            for name in names:
                assert name.split(".")[0] not in ours | {""}, f"a lab imports {name}"
        assert "../" not in cell.source, f"a lab reads beside itself:\n{cell.source}"
