"""Grade submitted exercise sheets: python -m fmtutorial.coursework grade --help."""

import argparse
import csv
import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

from tqdm import tqdm

from fmtutorial.coursework.catalogue import SHEETS
from fmtutorial.coursework.grading import Limits, Row, grade_all
from fmtutorial.coursework.process import clean

FIELDS = [field.name for field in dataclasses.fields(Row)]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m fmtutorial.coursework")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "Run submitted sheets, each in its own process, and judge what their functions return."
    one = commands.add_parser("grade", help=text, description=text)
    what = "notebooks, or folders with notebooks in them, however deep"
    one.add_argument("submissions", nargs="+", type=Path, metavar="SUBMISSION.ipynb", help=what)
    one.add_argument("--sheet", choices=SHEETS, help="left out: the one that a notebook checks")
    one.add_argument("--seed", type=int, default=1, help="of the inputs (default: 1)")
    one.add_argument("--out", type=Path, help="file to write, .csv or .json")
    seconds, memory = Limits.seconds, Limits.memory / 2**30
    text = f"for each cell and exercise ({seconds:g})"
    one.add_argument("--seconds", type=float, default=seconds, help=text)
    text = f"GB for each ({memory:g}; Linux only)"
    one.add_argument("--memory", type=float, default=memory, help=text)
    one.add_argument("--jobs", type=int, default=2, help="submissions at a time (2)")
    options = parser.parse_args(arguments)
    if options.out and options.out.suffix not in (".csv", ".json"):
        parser.error("--out must end in .csv or .json")
    if options.out and not options.out.parent.is_dir():
        parser.error(f"there is no folder {options.out.parent}")
    return options


def notebooks(paths: list[Path]) -> list[Path]:
    """Return the notebooks among files and in folders, without the editors' copies."""
    found = [sorted(p.rglob("*.ipynb")) if p.is_dir() else [p] for p in paths]
    return [p for some in found for p in some if ".ipynb_checkpoints" not in p.parts]


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
    """Grade, print a table and write the file."""
    o = parse(arguments)
    if importlib.util.find_spec("IPython") is None:
        sys.exit("grading runs notebooks and needs IPython: pip install ipython")
    rows, limits, paths = [], Limits(o.seconds, int(o.memory * 2**30)), notebooks(o.submissions)
    graded = grade_all(paths, o.seed, limits, o.jobs, o.sheet)
    for some in tqdm(graded, total=len(paths), unit="notebook", file=sys.stderr):
        rows += some
        if o.out:
            write(o.out, rows)
        points, of = sum(row.points for row in some), sum(row.of for row in some)
        first = some[0]
        name = clean(first.submission)
        line = f"{name}  {first.sheet}  {points}/{of}  {first.seconds:.0f} s"
        tqdm.write(f"{line}  {first.remarks}".rstrip())
        for row in some:
            if row.status != "right":
                tqdm.write(f"    {row.exercise or 'file'}: {row.status}. {row.text}")


if __name__ == "__main__":
    main()
