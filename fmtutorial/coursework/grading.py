"""Grade submitted notebooks: run each in its own process, judge what its functions return."""

import json
import re
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from fmtutorial.coursework.catalogue import EXERCISES, SHEETS
from fmtutorial.coursework.checking import judge
from fmtutorial.coursework.exercises import Exercise
from fmtutorial.coursework.outcomes import Verdict, unpacked
from fmtutorial.coursework.process import Keeper, Lost

SIZE = 2**26
"""Bytes of a notebook, at most."""

LOST = "The process that watches over notebooks is gone."
NAMED = re.compile(r"""check\(\s*["'](\w+\.\w+)["']""")


class Unreadable(Exception):
    """The file is no submission; the text says why."""


@dataclass(frozen=True)
class Limits:
    """Of a submission: seconds for each cell and exercise, bytes of memory, seconds in all."""

    seconds: float = 60.0
    memory: int = 2**30
    total: float = 600.0


@dataclass(frozen=True)
class Row:
    """One line of the table: an exercise of a submission, or a file of an unknown sheet."""

    submission: str
    sheet: str
    exercise: str
    status: str
    points: int
    of: int
    text: str
    remarks: str
    seconds: float


@dataclass
class Heard:
    """What a worker said: where it was last, what failed, what functions there are and gave."""

    place: str = ""
    errors: dict[str, str] = field(default_factory=dict)
    functions: list[str] = field(default_factory=list)
    outcomes: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def read_cells(path: Path) -> list[str]:
    """Return the code cells of a notebook.

    Raises:
        Unreadable: it is none.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise Unreadable("there is no notebook in this folder")
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("this is no plain file")
        if status.st_size > SIZE:
            raise Unreadable(f"the file has more than {SIZE // 2**20} MB")
        with path.open("rb") as file:
            notebook = json.loads(file.read(SIZE).decode("utf-8-sig"))
        code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        cells = [cell["source"] for cell in code]
        return [cell if isinstance(cell, str) else "".join(cell) for cell in cells]
    except OSError as error:
        raise Unreadable(f"the file cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unreadable("the file is not a notebook") from error


def sheet_of(cells: list[str]) -> str:
    """Return the sheet that most of the exercises named in the cells are on.

    Raises:
        Unreadable: they name none.
    """
    named = [name for cell in cells for name in NAMED.findall(cell) if name in EXERCISES]
    counts = {s: sum(e.name in named for e in exercises) for s, exercises in SHEETS.items()}
    best = max(counts, key=counts.__getitem__)
    if not counts[best]:
        raise Unreadable("no line checks an exercise: name the sheet with --sheet")
    return best


def grade(path: Path, seed: int, limits: Limits, sheet: str | None = None) -> list[Row]:
    """Grade one submission, whatever it does: what it breaks in here is a row too.

    Args:
        path: of the notebook.
        seed: of the inputs.
        limits: of the process that runs it.
        sheet: a name of ``SHEETS``; by default what the notebook's own checks name.

    Returns:
        A row for each exercise of the sheet, or one if it is not known which sheet it is.
    """
    return next(iter(grade_all([path], seed, limits, 1, sheet)))


def grade_all(
    paths: list[Path], seed: int, limits: Limits, jobs: int = 2, sheet: str | None = None
) -> Iterator[list[Row]]:
    """Grade submissions several at a time; yield the rows of each in the order given."""
    idle: SimpleQueue[Keeper] = SimpleQueue()

    def one(path: Path) -> list[Row]:
        keeper = idle.get()
        try:
            return _grade(path, seed, limits, sheet, keeper)
        finally:
            idle.put(keeper)

    with ThreadPoolExecutor(jobs) as pool, ExitStack() as keepers:  # which are closed first
        for _ in range(jobs):
            idle.put(keepers.enter_context(closing(Keeper())))
        yield from pool.map(one, paths)


def _grade(path: Path, seed: int, limits: Limits, sheet: str | None, keeper: Keeper) -> list[Row]:
    started, verdicts, remarks = time.perf_counter(), {}, []
    rest = Verdict("error", "It could not be run.")
    try:
        cells = read_cells(path)
        sheet = sheet or sheet_of(cells)
        keeper.ready()
        started = time.perf_counter()
        verdicts, remarks = verdicts_of(cells, SHEETS[sheet], seed, limits, keeper)
    except Unreadable as error:
        rest = Verdict("unreadable", str(error))
    except Lost:
        rest = Verdict("error", LOST)
    except Exception as error:
        rest = Verdict("error", f"It broke the grader: {type(error).__name__}: {error}")
    about = clean(" ".join(remarks)), round(time.perf_counter() - started, 1)
    rows = []
    for exercise in SHEETS.get(sheet or "", ()):
        status, text = verdicts.get(exercise.name, rest)
        points = exercise.points if status == "right" else 0
        what = str(path), sheet, exercise.name, status, points, exercise.points, clean(text)
        rows.append(Row(*what, *about))
    return rows or [Row(str(path), "", "", rest.status, 0, 0, clean(rest.text), *about)]


def verdicts_of(
    cells: list[str], sheet: tuple[Exercise, ...], seed: int, limits: Limits, keeper: Keeper
) -> tuple[dict[str, Verdict], list[str]]:
    """Run cells until every exercise has a verdict, each time without what broke the last run."""
    left = {str(number): cell for number, cell in enumerate(cells, start=1)}
    verdicts: dict[str, Verdict] = {}
    remarks, missing = [], "What its process said are no results."
    end = time.monotonic() + limits.total
    while wanted := [exercise for exercise in sheet if exercise.name not in verdicts]:
        job = {"cells": left, "exercises": [exercise.name for exercise in wanted], "seed": seed}
        job |= {"seconds": limits.seconds, "memory": limits.memory}
        try:
            said, why = keeper.ask(job | {"total": max(end - time.monotonic(), 0.0)})
        except Lost:
            missing = LOST
            break
        heard = hear(said)
        for exercise in wanted:
            if exercise.name in heard.outcomes:
                verdicts[exercise.name] = verdict_on(exercise, heard, seed)
        remarks += heard.remarks
        name, _, cell = heard.place.partition(" ")
        if time.monotonic() > end:
            missing = f"It takes more than {limits.total:g} seconds in all."
            break
        if not why:
            break
        if name in job["exercises"]:
            verdicts.setdefault(name, Verdict("error", f"The function {why}."))
        elif left.pop(cell, None) is not None:
            remarks.append(f"Code cell {cell} {why} and was left out.")
        else:
            missing = f"It could not be run: its process {why}."
            break
    for exercise in sheet:
        verdicts.setdefault(exercise.name, Verdict("error", missing))
    return verdicts, list(dict.fromkeys(remarks))


def hear(said: bytes) -> Heard:
    """Read what a worker said, and skip what makes no sense."""
    heard = Heard()
    for line in said.splitlines():
        try:
            words = json.loads(line)
        except (ValueError, RecursionError):
            continue
        match words:
            case ["at", str(place)]:
                heard.place = place
            case ["error", str(cell), str(text)]:
                heard.errors[cell] = text
            case ["functions", [*names]]:
                heard.functions = [str(name) for name in names]
            case ["outcomes", str(name), found]:
                heard.outcomes[name] = found
            case ["remark", str(text)]:
                heard.remarks.append(text)
    return heard


def verdict_on(exercise: Exercise, heard: Heard, seed: int) -> Verdict:
    """Judge the outcomes of an exercise, or say why there are none."""
    try:
        found = unpacked(heard.outcomes[exercise.name], len(exercise.settings))
        if found:
            return judge(exercise, found, seed)
    except ValueError:
        return Verdict("error", "What its process said are no results.")
    except Exception as error:
        return Verdict("error", f"It broke the grader: {type(error).__name__}: {error}")
    others = sorted(set(heard.functions) - {e.function for e in EXERCISES.values()})
    text = f"There is no function {exercise.function}."
    if others:
        text += f" Was it renamed? There is {', '.join(others[:5])}."
    text += "".join(f" Code cell {k}: {v}." for k, v in list(heard.errors.items())[:3])
    return Verdict("missing", text)


def clean(text: str) -> str:
    """Return one line of at most 1000 characters that any terminal and table can show."""
    text = text[:1000].encode(errors="replace").decode()
    return "".join(c if c.isprintable() else " " for c in text)
