"""Grade submitted notebooks: run each in its own process, judge what its functions return."""

import io
import json
import re
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fmtutorial.coursework.catalogue import EXERCISES, SHEETS
from fmtutorial.coursework.checking import Outcome, Verdict, judge
from fmtutorial.coursework.exercises import Exercise
from fmtutorial.coursework.process import SIZE, clean, loads, read_bytes, run

ATTEMPTS = 6
"""How often a notebook is started again without what broke it."""

NAMED = re.compile(r"""check\(\s*["'](\w+\.\w+)["']""")
IMPORTED = re.compile(r"^\s*((?:from|import)\s+fmtutorial.*?)\s*$", re.MULTILINE)
HANDED_OUT = {
    "from fmtutorial.coursework import check",
    "from fmtutorial.images.classifier import digit_classifier",
    "from fmtutorial.images.data import dequantise, small_digits",
}
"""What the sheets themselves import; anything else of the package gets a remark."""


class Unreadable(Exception):
    """The file is no submission; the text says why."""


@dataclass(frozen=True)
class Limits:
    """Of one submission: seconds for each cell and each exercise, bytes of memory."""

    seconds: float = 60.0
    memory: int = 2**30


@dataclass(frozen=True)
class Row:
    """One line of the table: an exercise of a submission, or a file that could not be graded."""

    submission: str
    sheet: str
    exercise: str
    status: str
    points: int
    of: int
    text: str
    remarks: str
    seconds: float


def read_cells(path: Path) -> list[str]:
    """Return the code cells of a notebook.

    Raises:
        Unreadable: it is none.
    """
    try:
        if path.stat().st_size > SIZE:
            raise Unreadable(f"the file has more than {SIZE // 2**20} MB")
        notebook = json.loads(path.read_text(encoding="utf-8"))
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
        A row for each exercise of the sheet, or one that says why there are none.
    """
    try:
        return _grade(path, seed, limits, sheet)
    except Unreadable as error:
        return [Row(str(path), sheet or "", "", "unreadable", 0, 0, str(error), "", 0.0)]
    except Exception as error:
        text = clean(f"it broke the grader: {type(error).__name__}: {error}")
        return [Row(str(path), sheet or "", "", "error", 0, 0, text, "", 0.0)]


def _grade(path: Path, seed: int, limits: Limits, sheet: str | None) -> list[Row]:
    cells = read_cells(path)
    sheet = sheet or sheet_of(cells)
    started = time.perf_counter()
    verdicts, remarks = verdicts_of(cells, SHEETS[sheet], seed, limits)
    seconds = time.perf_counter() - started
    borrowed = {line for cell in cells for line in IMPORTED.findall(cell)} - HANDED_OUT
    remarks += [f"Has the line `{line}`." for line in sorted(borrowed)]
    rows = []
    for exercise in SHEETS[sheet]:
        status, text = verdicts[exercise.name]
        points = exercise.points if status == "right" else 0
        what = str(path), sheet, exercise.name, status, points, exercise.points, clean(text)
        rows.append(Row(*what, clean(" ".join(remarks)), round(seconds, 1)))
    return rows


def verdicts_of(
    cells: list[str], sheet: tuple[Exercise, ...], seed: int, limits: Limits
) -> tuple[dict[str, Verdict], list[str]]:
    """Run cells until every exercise has a verdict, each time without what broke the last run."""
    left, verdicts, remarks = dict(enumerate(cells, start=1)), {}, []
    missing = "It could not be run: too much had to be left out."
    for _ in range(ATTEMPTS):
        wanted = [exercise for exercise in sheet if exercise.name not in verdicts]
        with tempfile.TemporaryDirectory(prefix="submission-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            job = {"cells": left, "seed": seed, "memory": limits.memory}
            job["exercises"] = [exercise.name for exercise in wanted]
            (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
            places = ["start", *(f"cell {number}" for number in left), *job["exercises"], "done"]
            place, why = run(folder, places, limits.seconds)
            about = loads(folder / "cells.json")
            for exercise in wanted:
                if (folder / f"{exercise.name}.pt").is_file():
                    found = read_outcomes(folder / f"{exercise.name}.pt", exercise)
                    verdicts[exercise.name] = verdict_on(exercise, found, seed, about)
        if place == "done":
            break
        if place in EXERCISES:
            verdicts[place] = Verdict("error", f"The function {why}.")
        elif place.startswith("cell "):
            left.pop(int(place.split()[1]), None)
            remarks.append(f"Code {place} {why} and was left out.")
        else:
            missing = f"It could not be run: the interpreter {why} before the first cell."
            break
    for exercise in sheet:
        verdicts.setdefault(exercise.name, Verdict("error", missing))
    return verdicts, remarks


def verdict_on(
    exercise: Exercise, found: list[Outcome] | None, seed: int, about: dict[str, Any]
) -> Verdict:
    """Judge the outcomes of an exercise, or say why there are none."""
    if found is None:
        return Verdict("error", "What its process wrote are no results.")
    if found:
        return judge(exercise, found, seed)
    functions, errors = about.get("functions"), about.get("errors")
    functions = [str(name) for name in functions] if isinstance(functions, list) else []
    others = sorted(set(functions) - {e.function for e in EXERCISES.values()})
    text = f"There is no function {exercise.function}."
    if others:
        text += f" Was it renamed? There is {', '.join(others[:5])}."
    if isinstance(errors, dict):
        text += "".join(f" Code cell {k}: {v}." for k, v in list(errors.items())[:3])
    return Verdict("missing", text)


def read_outcomes(path: Path, exercise: Exercise) -> list[Outcome] | None:
    """Return an outcome for each case, nothing if the function is missing, None if it is forged."""
    try:
        found = torch.load(io.BytesIO(read_bytes(path)), map_location="cpu", weights_only=True)
    except Exception:  # whatever a forged file does to the reader
        return None
    if not isinstance(found, list) or len(found) not in (0, len(exercise.settings)):
        return None
    for one in found:
        if isinstance(one, dict):
            if not all(isinstance(one.get(key), str) for key in ("kind", "text")):
                return None
        elif not isinstance(one, torch.Tensor) or one.layout != torch.strided or one.is_meta:
            return None
    return found


def grade_all(
    paths: list[Path], seed: int, limits: Limits, jobs: int = 2, sheet: str | None = None
) -> Iterator[list[Row]]:
    """Grade submissions several at a time; yield the rows of each in the order given."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda path: grade(path, seed, limits, sheet), paths)
