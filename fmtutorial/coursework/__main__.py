"""Grade submitted sheets, play a contest: python -m fmtutorial.coursework --help."""

import argparse
import csv
import dataclasses
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tqdm import tqdm

from fmtutorial.coursework.catalogue import SHEETS
from fmtutorial.coursework.contest_command import contest
from fmtutorial.coursework.grading import Limits, Row, clean, grade_all
from fmtutorial.fields import check_number

FIELDS = [field.name for field in dataclasses.fields(Row)]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m fmtutorial.coursework")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    limits = Limits()
    memory = ("--memory", float, 0.01, 1e6, limits.memory / 2**30, "GB for each (1; Linux only)")
    text = "Run submitted sheets, each in its own process, and judge what their functions return."
    one = commands.add_parser("grade", help=text, description=text)
    one.set_defaults(run=grade, endings=(".csv", ".json"))
    what = "notebooks, or folders with notebooks in them, however deep"
    one.add_argument("submissions", nargs="+", type=Path, metavar="SUBMISSION.ipynb", help=what)
    one.add_argument("--sheet", choices=SHEETS, help="left out: the one that a notebook checks")
    one.add_argument("--out", type=Path, help="file to write, .csv or .json; replaced at the start")
    for name, kind, low, high, default, text in (
        ("--seed", int, -(2**63), 2**63 - 1, 1, "of the inputs (default: 1)"),
        ("--seconds", float, 0.1, 1e6, limits.seconds, "for each cell and exercise (60)"),
        ("--total", float, 0.1, 1e6, limits.total, "seconds for a submission in all (600)"),
        memory,
        ("--jobs", int, 1, 1000, 2, "submissions at a time (2)"),
    ):
        one.add_argument(name, type=number(kind, low, high), default=default, help=text)
    text = "Play a few-steps contest: score samplers and weights at 1, 2, 4 and 10 evaluations."
    two = commands.add_parser("contest", help=text, description=text)
    two.set_defaults(run=contest, endings=(".md", ".csv"))
    what = "with a .zip or a folder for each hand-in: sampler.py and weights.safetensors"
    two.add_argument("folder", type=Path, metavar="FOLDER", help=what)
    two.add_argument("--out", type=Path, help="file to write, .md or .csv; anew after each entry")
    for name, kind, low, high, default, text in (
        ("--seed", int, 0, 2**31 - 1, 1, "of the noise (default: 1)"),
        ("--samples", int, 20, 10_000, 1000, "digits at each number of evaluations (1000)"),
        ("--seconds", float, 0.1, 1e6, limits.seconds, "for 250 digits, evaluations too (60)"),
        ("--total", float, 0.1, 1e6, limits.total, "seconds for a number of evaluations (600)"),
        memory,
    ):
        two.add_argument(name, type=number(kind, low, high), default=default, help=text)
    options = parser.parse_args(arguments)
    if options.out and options.out.suffix not in options.endings:
        parser.error(f"--out must end in {' or '.join(options.endings)}")
    if options.out and not options.out.parent.is_dir():
        parser.error(f"there is no folder {options.out.parent}")
    return options


def number(kind: type, low: float, high: float) -> Callable[[str], float]:
    """Return what reads a number between two others from the command line."""

    def read(text: str) -> float:
        try:
            check_number(value := kind(text), "it", low, high)
        except ValueError as error:
            wanted = "whole number" if kind is int else "number"
            text = f"{text!r} is no {wanted} from {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(text) from error
        return value

    return read


def notebooks(paths: list[Path]) -> list[Path]:
    """Return the notebooks among files and in folders, and the folders that lack one."""
    return [p for path in paths for p in (inside(path) if path.is_dir() else [path])]


def inside(folder: Path) -> list[Path]:
    """Return the notebooks in a folder, however deep, or the folder itself if there is none.

    A folder beside a notebook belongs to it and may lack one. Editors' copies are left out.
    """
    try:
        entries = sorted(p for p in folder.iterdir() if not p.name.startswith((".", "__MACOSX")))
        below = {p: inside(p) for p in entries if p.is_dir() and not p.is_symlink()}
    except (OSError, RecursionError):
        return [folder]
    here = [p for p in entries if p not in below and p.suffix.lower() == ".ipynb"]
    lacking = {p for p, found in below.items() if found == [p]}
    if not here and len(lacking) == len(below):
        return [folder]
    return here + [q for p in below if not (here and p in lacking) for q in below[p]]


def write(path: Path, rows: list[Row]) -> None:
    """Write all rows as CSV or JSON, by the name of the file, at once or not at all."""
    records = [dataclasses.asdict(row) for row in rows]
    part = path.with_name(f"{path.name}.part")
    with part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        if path.suffix == ".json":
            json.dump(records, file, indent=1, ensure_ascii=False)
        else:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(records)
    part.replace(path)


def main(arguments: list[str] | None = None) -> None:
    """Do what the command line says."""
    o = parse(arguments)
    if not hasattr(os, "fork"):
        sys.exit("grading needs Linux or macOS; on Windows, run it in WSL or in a container")
    o.run(o)


def grade(o: argparse.Namespace) -> None:
    """Grade, print a table and write the file."""
    if importlib.util.find_spec("IPython") is None:
        sys.exit("grading runs notebooks and needs IPython: pip install ipython")
    limits = Limits(o.seconds, int(o.memory * 2**30), o.total)
    rows, paths = [], notebooks(o.submissions)
    try:
        with closing(grade_all(paths, o.seed, limits, o.jobs, o.sheet)) as graded:
            if o.out:
                write(o.out, rows)
            for some in tqdm(graded, total=len(paths), unit="notebook", file=sys.stderr):
                rows += some
                if o.out:
                    write(o.out, rows)
                show(some)
    except OSError as error:
        sys.exit(f"{o.out} cannot be written: {error.strerror}")
    except KeyboardInterrupt:
        done = len({row.submission for row in rows})
        print(f"stopped after {done} of {len(paths)} submissions", file=sys.stderr)
        sys.exit(130)


def show(rows: list[Row]) -> None:
    """Print a line for a submission, and one for each exercise that is not right."""
    points, of = sum(row.points for row in rows), sum(row.of for row in rows)
    first = rows[0]
    line = f"{clean(first.submission)}  {first.sheet}  {points}/{of}  {first.seconds:.0f} s"
    tqdm.write(f"{line}  {first.remarks}".rstrip())
    for row in rows:
        if row.status != "right":
            tqdm.write(f"    {row.exercise or 'file'}: {row.status}. {row.text}")


if __name__ == "__main__":
    main()
