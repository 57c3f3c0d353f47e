"""A table of numbers from a file, or a line that says what is wrong with it. Chapter 15."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fmtutorial.checkpoints import as_path

LEAST_ROWS = 20
MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}


class Table(NamedTuple):
    """The columns of a file: names, numbers, and how many rows are copies of earlier ones."""

    names: tuple[str, ...]
    rows: Tensor  # (N, D), double precision, in the file's units, on the CPU
    duplicates: int


def read_table(path: str | Path) -> Table:
    """Read a CSV with a line of names, or a .npy of shape (N, D), all columns numbers.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: there is none.
        ValueError: no line of names, a column of text, a cell that is missing or not finite, a
            column that never changes, lines of different lengths, or fewer than 20 rows. The
            message names the line and the column.

    Chapter 15.
    """
    path = as_path(path)
    readers = {".csv": _read_csv, ".npy": _read_npy}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path.name} does not end in .csv or .npy: save the table as one of them")
    names, rows = readers[path.suffix.lower()](path)
    if len(rows) < LEAST_ROWS:
        raise ValueError(f"{path.name} has {len(rows)} rows; at least {LEAST_ROWS} are needed")
    infinite = np.argwhere(~np.isfinite(rows))
    if len(infinite):
        row, column = infinite[0]
        raise ValueError(f"{path.name}: {names[column]} is {rows[row, column]} in row {row + 1}")
    constant = [name for name, low in zip(names, np.ptp(rows, axis=0), strict=True) if low == 0]
    if constant:
        raise ValueError(
            f"{path.name}: the same value in all rows of {', '.join(constant)}: leave it out"
        )
    duplicates = len(rows) - len(np.unique(rows, axis=0))
    return Table(tuple(names), torch.from_numpy(rows), duplicates)


def _read_npy(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        rows = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path.name} is no array of numbers: write it with numpy.save") from error
    if rows.dtype.kind not in "fiu" or rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(
            f"{path.name} has shape {rows.shape} and type {rows.dtype}; save numbers of shape "
            "(rows, columns)"
        )
    missing = np.isnan(rows) if rows.dtype.kind == "f" else np.zeros(rows.shape, bool)
    if missing.any():
        row, column = np.argwhere(missing)[0] + 1
        count = int(missing.any(axis=1).sum())
        raise ValueError(_missing(path, count, f"row {row}, column {column}"))
    return [f"column {i + 1}" for i in range(rows.shape[1])], rows.astype(np.float64)


def _read_csv(path: Path) -> tuple[list[str], np.ndarray]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, [c.strip() for c in cells]) for cells in reader if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path.name} is no CSV in UTF-8: {error}") from error
    if not lines:
        raise ValueError(f"{path.name} is empty")
    (_, names), *lines = lines
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        raise ValueError(f"{path.name} is separated by semicolons or tabs: separate by commas")
    if any(_number(name) is not None for name in names) or len(set(names)) < len(names):
        raise ValueError(
            f"{path.name} begins with {', '.join(names[:3])}: the first line must name the "
            "columns, each by a word of its own"
        )
    for number, cells in lines:
        if len(cells) != len(names):
            raise ValueError(
                f"{path.name}: line {number} has {len(cells)} cells, line 1 {len(names)}"
            )
    missing = [
        f"line {number}, column {name}"
        for number, cells in lines
        for name in [n for n, cell in zip(names, cells, strict=True) if cell.lower() in MISSING][:1]
    ]
    for column, name in enumerate(names):
        cells = [(number, cells[column]) for number, cells in lines]
        text = [(n, c) for n, c in cells if _number(c) is None and c.lower() not in MISSING]
        if text:
            raise ValueError(
                f"{path.name}: {name} is {text[0][1]!r} in line {text[0][0]}, no number (so in "
                f"{len(text)} of {len(cells)} lines): leave the column out, or train with it as "
                "a label"
            )
    if missing:
        raise ValueError(_missing(path, len(missing), missing[0]))
    rows = np.array([[float(cell) for cell in cells] for _, cells in lines], dtype=np.float64)
    return names, rows.reshape(-1, len(names))


def _number(cell: str) -> float | None:
    try:
        return None if "_" in cell else float(cell)  # Python's own way to write 1_000
    except ValueError:
        return None


def _missing(path: Path, count: int, first: str) -> str:
    return (
        f"{path.name}: a number is missing in {first} (rows with a gap: {count}): leave them out, "
        "or fill them in and say how"
    )
