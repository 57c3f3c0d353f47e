"""What a release needs: its notes, its archive of the site, and sites put together."""

import io
import re
import tarfile
from pathlib import Path

import package
import pytest
import repository
import versions
import yaml

ROOT = Path(__file__).resolve().parents[1]

CHANGES = """\
# Changelog

## [Unreleased]

- Something new.

## [0.2.0] - 2027-01-31

### Added

- A chapter.

## 0.1.0 - 2026-12-01

- The first.

[0.2.0]: https://example.org/0.2.0
"""


def test_a_section_is_found_by_its_version():
    assert package.notes("0.2.0", CHANGES) == "### Added\n\n- A chapter."
    assert package.notes("0.1.0", CHANGES) == "- The first."
    assert package.notes("0.2", CHANGES) is package.notes("0.3.0", CHANGES) is None
    assert package.date("0.1.0", CHANGES) == "2026-12-01"
    assert package.date("Unreleased", CHANGES) is None


@pytest.mark.parametrize(
    "tag, version, problem",
    [
        ("v0.2.0", "0.2.0", None),
        ("v0.1.0", "0.1.0", None),
        ("0.2.0", "0.2.0", "tag it v0.2.0"),
        ("v0.2.0", "0.2.1", "says 0.2.1"),
        ("v0.3.0", "0.3.0", "says nothing of 0.3.0"),
        ("vUnreleased", "Unreleased", "has no date"),
    ],
)
def test_a_tag_is_released_only_with_its_version_and_its_notes(tag, version, problem):
    found = package.tag_problem(tag, version, CHANGES)
    assert found is None if problem is None else problem in found


def test_the_changelog_speaks_of_this_version():
    """By its number, or under "Unreleased" as long as it is being made."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version = repository.version()
    assert package.notes(version, text) or package.notes("Unreleased", text)
    dated = re.findall(r"^## \[?([\w.]+)\]? - \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert dated == sorted(dated, key=lambda v: [int(n) for n in v.split(".")], reverse=True)


def test_two_builds_are_compared_by_what_is_in_them(tmp_path):
    def pack(name, files):
        with package.zipfile.ZipFile(tmp_path / name, "w") as wheel:
            for file, text in files.items():
                wheel.writestr(file, text)
        return package.contents(tmp_path / name)

    one = pack("a.whl", {"x.py": "1", "y.py": "2"})
    assert one == pack("b.whl", {"y.py": "2", "x.py": "1"})
    assert one != pack("c.whl", {"x.py": "1", "y.py": "3"})
    assert one != pack("d.whl", {"x.py": "1"})


PAGE = """<html><head><link rel="canonical" href="https://me.github.io/book/{name}" /></head>
<body><p>Version 9.9.9 of something else</p>{line}</body></html>"""


def write_site(folder, version, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        text = PAGE.format(name=name, line=versions.line(version))
        (folder / name).write_text(text, encoding="utf-8")


def pack_site(folder, version, names, where):
    write_site(folder / version, version, names)
    with tarfile.open(where / f"site-v{version}.tar.gz", "w:gz") as archive:
        archive.add(folder / version, ".")


@pytest.fixture
def joined(tmp_path):
    """A newest site, and two releases of which the older has a page that is gone."""
    site, archives = tmp_path / "html", tmp_path / "releases"
    archives.mkdir()
    write_site(site, "0.11.0", ["index.html", "book/flows.html", "book/new.html"])
    pack_site(tmp_path, "0.9.0", ["index.html", "book/flows.html", "book/old.html"], archives)
    pack_site(tmp_path, "0.10.0", ["index.html", "book/flows.html"], archives)
    tags = versions.unpack(sorted(archives.glob("*.tar.gz")), site)
    assert tags == ["v0.10.0", "v0.9.0"], "newest first, by number"
    versions.join(site, tags, "0.11.0", "https://me.github.io/book/")
    return site


def read_links(page):
    (line,) = re.findall(r'<p class="versions">(.*?)</p>', page.read_text(encoding="utf-8"))
    return line.partition(";")[0], dict(re.findall(r'<a href="([^"]+)">([^<]+)</a>', line))


def test_every_page_links_to_its_like_in_the_other_versions(joined):
    assert read_links(joined / "book" / "flows.html") == (
        "Version 0.11.0",
        {"../v0.10.0/book/flows.html": "0.10.0", "../v0.9.0/book/flows.html": "0.9.0"},
    )
    assert read_links(joined / "v0.9.0" / "book" / "old.html") == (
        "Version 0.9.0",
        {"../../index.html": "newest (0.11.0)", "../../v0.10.0/index.html": "0.10.0"},
    )
    for page in joined.rglob("*.html"):
        for link in read_links(page)[1]:
            assert (page.parent / link).resolve().is_file(), f"{page} has a dead link, {link}"


def test_canonical_addresses_are_the_newest_ones(joined):
    def canonical(name):
        return versions.CANONICAL.search((joined / name).read_text(encoding="utf-8")).group(2)

    home = "https://me.github.io/book/"
    assert canonical("book/flows.html") == canonical("v0.9.0/book/flows.html")
    assert canonical("v0.10.0/book/flows.html") == f"{home}book/flows.html"
    assert canonical("v0.9.0/book/old.html") == f"{home}v0.9.0/book/old.html"  # newest has none


def test_a_site_alone_names_its_version_and_links_nowhere(tmp_path):
    write_site(tmp_path, "0.1.0", ["index.html"])
    versions.join(tmp_path, [], "0.1.0", "https://me.github.io/book/")
    assert read_links(tmp_path / "index.html") == ("Version 0.1.0", {})


def test_archives_that_are_no_sites_are_refused(tmp_path):
    (tmp_path / "site-0.1.0.tar.gz").touch()
    with pytest.raises(ValueError, match="no archive of a site"):
        versions.unpack([tmp_path / "site-0.1.0.tar.gz"], tmp_path)
    with tarfile.open(tmp_path / "site-v0.1.0.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("html/index.html"), io.BytesIO())
    with pytest.raises(ValueError, match=r"no index\.html"):
        versions.unpack([tmp_path / "site-v0.1.0.tar.gz"], tmp_path)
    with tarfile.open(tmp_path / "site-v0.2.0.tar.gz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../outside.html"), io.BytesIO())
    with pytest.raises(tarfile.TarError):
        versions.unpack([tmp_path / "site-v0.2.0.tar.gz"], tmp_path / "html")


def test_a_release_site_opens_the_labs_of_its_tag(monkeypatch):
    monkeypatch.delenv("FMTUTORIAL_REF", raising=False)
    assert repository.ref() == "main"
    monkeypatch.setenv("FMTUTORIAL_REF", "v0.1.0")
    assert repository.ref() == "v0.1.0"


def workflow(name):
    text = (ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")
    return text, yaml.safe_load(text)


def test_workflows_call_what_there_is():
    """Targets of make, tools, other workflows by name; jobs wait for jobs that exist."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        text, steps = workflow(path.stem)
        for target in re.findall(r"\bmake ([a-z]\w*)", text):
            assert target == "book" or f"\n{target}: " in makefile, f"{path.name}: make {target}"
        for tool in re.findall(r"book/_tools/\w+\.py", text):
            assert (ROOT / tool).exists(), f"{path.name}: {tool}"
        for job in steps["jobs"].values():
            needs = job.get("needs", [])
            assert set([needs] if isinstance(needs, str) else needs) <= set(steps["jobs"])
            assert "uses" not in job or (ROOT / job["uses"]).exists()


def test_a_release_waits_for_tests_and_carries_the_wheel_that_labs_take():
    text, release = workflow("release")
    jobs = release["jobs"]
    assert jobs["test"]["uses"].endswith("/ci.yml") and "workflow_call" in workflow("ci")[1][True]
    for job in ("pypi", "github"):
        assert {"test", "build"} <= set(jobs[job]["needs"])
    assert jobs["pypi"]["permissions"] == {"id-token": "write"}
    assert jobs["pypi"]["environment"]["name"] == "pypi"
    assert "dist/* release/site-*" in text  # a lab's first cell finds the wheel in the release
    assert "site-$FMTUTORIAL_REF.tar.gz" in text and versions.ARCHIVE.fullmatch(
        "site-v0.1.0.tar.gz"
    )
    pages = workflow("pages")[1]
    assert pages[True]["workflow_run"]["workflows"] == [release["name"]]
