"""The project's files agree with each other, and the package installs by itself."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import modules
import pytest
import repository
import yaml
from contents import contents
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import fmtutorial

ROOT = Path(__file__).resolve().parents[1]

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GROUPS = PYPROJECT["dependency-groups"]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def needed():
    groups = [*GROUPS["book"], *GROUPS["test"], *GROUPS["release"]]
    return [*PYPROJECT["project"]["dependencies"], *groups]


def pins(python):
    """Return {name: version} of constraints.txt under one Python."""
    lines = [line for line in read("constraints.txt").splitlines() if line and line[0] != "#"]
    found = {}
    for line in lines:
        pin = Requirement(line)
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            name = canonicalize_name(pin.name)
            assert name not in found, f"{name} is pinned twice for Python {python}"
            (specifier,) = pin.specifier
            assert specifier.operator == "==", line
            found[name] = specifier.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("line", needed())
def test_requirement_is_pinned_inside_its_range(line, python):
    want = Requirement(line)
    version = pins(python).get(canonicalize_name(want.name))
    assert version is not None, f"constraints.txt lacks {want.name} for Python {python}"
    assert want.specifier.contains(version), f"{want.name}=={version} is outside {line}"


def test_environment_lists_what_the_project_needs():
    *conda, last = yaml.safe_load(read("environment.yml"))["dependencies"]
    # the same floor; the ceiling is the newest Python for which constraints.txt has a torch wheel
    assert conda[0].split(",")[0] == "python" + PYPROJECT["project"]["requires-python"]
    options = [entry for entry in last["pip"] if entry.startswith("-")]
    assert options == ["-c constraints.txt", "-e ."]
    names = {canonicalize_name(entry) for entry in last["pip"] if not entry.startswith("-")}
    groups = [*GROUPS["book"], *GROUPS["test"]]
    assert names == {canonicalize_name(Requirement(line).name) for line in groups}


def test_building_the_site_needs_no_torch():
    names = {canonicalize_name(Requirement(line).name) for line in GROUPS["book"]}
    heavy = {canonicalize_name(Requirement(d).name) for d in PYPROJECT["project"]["dependencies"]}
    assert not names & heavy - {"pillow"}  # small, and it reads the labs' films


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("README.md", r"github\.com/([\w-]+/[\w.-]+)/actions"),
        ("README.md", r"colab\.research\.google\.com/github/([\w-]+/[\w.-]+)/"),
        ("README.md", r"mybinder\.org/v2/gh/([\w-]+/[\w.-]+)/"),
        ("README.md", r"git clone https://github\.com/([\w-]+/[\w.-]+)"),
        ("CITATION.cff", r"repository-code: https://github\.com/([\w-]+/[\w.-]+)"),
        ("_config.yml", r"url: https://github\.com/([\w-]+/[\w.-]+)"),
        *((str(path.relative_to(ROOT)), r'home, v = \\?"https://github\.com/([\w-]+/[\w.-]+)\\?"')
          for path in sorted((ROOT / "notebooks").rglob("*.*"))
          if path.suffix in (".py", ".ipynb")),
    ],
)  # fmt: skip
def test_files_name_the_one_repository(name, pattern):
    found = set(re.findall(pattern, read(name)))
    assert found == {repository.stored_slug(ROOT)}, (
        f"{name} names {found or 'no repository'}: copy the install cell from another lab, "
        "or run `make repository`"
    )


def test_readme_and_citation_name_the_site():
    address = repository.site(repository.stored_slug(ROOT))
    assert address in read("README.md")
    assert address in read("CITATION.cff")


def test_fork_sets_the_repository_by_an_environment_variable(monkeypatch):
    monkeypatch.setenv("FMTUTORIAL_REPOSITORY", "someone/fork")
    assert repository.slug(ROOT) == "someone/fork"
    monkeypatch.delenv("FMTUTORIAL_REPOSITORY")
    assert repository.slug(ROOT) == repository.stored_slug(ROOT)


def tracked():
    """List every file of the repository, as git has it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this is no clone of the repository")
    names = [name for name in listed.stdout.split("\0") if name]
    return [name for name in names if (ROOT / name).is_file()]


def test_renaming_leaves_no_old_address(tmp_path):
    """In no file, whatever its kind; and the new version is in every lab."""
    old, new = repository.stored_slug(ROOT), "someone/flow-fork"
    for name in tracked():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    package = tmp_path / "fmtutorial" / "__init__.py"
    package.write_text(re.sub('version__ = ".*"', 'version__ = "7.8.9rc1"', package.read_text()))
    changed = repository.rename(old, new, tmp_path)
    assert not repository.rename(old, new, tmp_path), "a second time changes nothing"
    assert repository.stored_slug(tmp_path) == new
    marks = [old.encode(), repository.site(old).removeprefix("https://").rstrip("/").encode()]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(mark in data for mark in marks), path
    labs = [path for path in changed if path.parts[-2] in ("notebooks", "exercises", "solutions")]
    assert len(labs) == sum(name.startswith("notebooks/") for name in tracked()) - 1  # ruff.toml
    for path in labs:
        assert "7.8.9rc1" in path.read_text(encoding="utf-8"), path
        assert f"{repository.HOST}{new}" in path.read_text(encoding="utf-8"), path
    assert "version: 7.8.9rc1\n" in (tmp_path / "CITATION.cff").read_text()


def test_versions_agree():
    assert fmtutorial.__version__ == repository.version(ROOT)
    assert yaml.safe_load(read("CITATION.cff"))["version"] == fmtutorial.__version__


def test_the_module_map_is_made_from_the_modules():
    """Every module says what it holds and, but for what no chapter is about, in which chapter."""
    found = modules.docstrings()
    rooms = {path.stem for path in (ROOT / "fmtutorial").glob("*.py")} - {"__init__"}
    rooms |= {path.parent.name for path in (ROOT / "fmtutorial").glob("*/__init__.py")}
    assert {name.split(".")[0] for name in found} == rooms
    for name, text in found.items():
        assert len(text.splitlines()[0]) > 20, f"{name} does not say what it holds"
        if name.split(".")[0] not in ("coursework", "labs", "plotting"):
            assert modules.CHAPTER.search(text), f"{name} does not say its chapter"
    page = read("book/api.md")
    assert modules.MAP in page and modules.SECTIONS in page


def test_every_chapter_is_on_both_maps():
    _, parts = contents()
    for chapter, *_ in parts[0]:
        assert f"({chapter}.md)" in read("README.md"), "add a row to README.md"
        name = chapter.removeprefix("book/")
        assert f"{{doc}}`{name}` |" in read("book/index.md"), "add a row to the map in the index"


def test_wheel_holds_the_package_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"fmtutorial"}
    package = ROOT / "fmtutorial"
    files = [*package.rglob("*.py"), *package.glob("results/*.json"), *package.glob("data/*")]
    assert {path.relative_to(ROOT).as_posix() for path in files} <= set(names)
