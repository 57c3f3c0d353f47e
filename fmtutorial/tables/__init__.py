"""A table of numbers: read, split, and measured in the units of its own file. Chapter 15."""

from fmtutorial.tables.measures import (
    Estimate,
    Mass,
    Nearest,
    Steps,
    covering,
    enough_steps,
    estimate,
    log_density,
    nearest_ratio,
    total_mass,
)
from fmtutorial.tables.reading import Table, read_table
from fmtutorial.tables.units import Split, Units, split_rows

__all__ = [
    "Estimate",
    "Mass",
    "Nearest",
    "Split",
    "Steps",
    "Table",
    "Units",
    "covering",
    "enough_steps",
    "estimate",
    "log_density",
    "nearest_ratio",
    "read_table",
    "split_rows",
    "total_mass",
]
