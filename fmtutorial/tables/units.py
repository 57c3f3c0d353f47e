"""The scale between a file and a network, from the rows that are trained with. Chapter 15."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from fmtutorial.fields import check_number, check_state, generator_device


@dataclass(frozen=True, eq=False)
class Units:
    """The scale between a file and a network: x = (row − shift) / scale, column by column.

    Args:
        shift: m, shape (D,).
        scale: s, shape (D,), positive.

    Raises:
        ValueError: not two rows of the same length, or an entry is not finite or not positive.

    Chapter 15.
    """

    shift: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        for value, name in ((self.shift, "shift"), (self.scale, "scale")):
            check_state(value, name)
            if value.ndim != 1 or len(value) == 0 or value.shape != self.shift.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}; pass (D,), as for both")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} has an entry that is not finite")
        if not bool((self.scale > 0).all()):
            raise ValueError("scale must be positive: a column without spread has none")

    @cached_property
    def log_volume(self) -> float:
        """Return Σ log s, which a log-density loses on the way to the file's units, in nats."""
        return self.scale.double().log().sum().item()

    def standardise(self, rows: Tensor) -> Tensor:
        """Return rows of the file, shape (N, D), as the network sees them; double precision.

        The shift is taken off before anything is rounded: only then convert with ``.float()``.
        """
        check_columns(rows, self, "rows")
        return (rows.cpu().double() - self.shift.cpu().double()) / self.scale.cpu().double()

    def restore(self, x: Tensor) -> Tensor:
        """Return samples, shape (N, D), in the file's units; double precision, on the CPU."""
        check_columns(x, self, "x")
        return self.shift.cpu().double() + self.scale.cpu().double() * x.cpu().double()


def check_columns(x: Tensor, units: Units, name: str) -> None:
    """Raise unless x is a table with the columns of the units, shape (N, D)."""
    check_state(x, name)
    if x.ndim != 2 or x.shape[1] != len(units.scale):
        raise ValueError(f"{name} has shape {tuple(x.shape)}; pass (N, {len(units.scale)})")


class Split(NamedTuple):
    """Rows to train with and rows held out, in the file's units, and the scale of the former."""

    train: Tensor  # (N', D)
    held_out: Tensor  # (N − N', D)
    units: Units


def split_rows(rows: Tensor, held_out: float = 0.2, generator: Generator | None = None) -> Split:
    """Split rows at random, copies of one row on the same side; the units are those of the first.

    Mean and standard deviation come from the training rows alone: those held out must not have
    had a say in anything that they judge.

    Args:
        rows: in the file's units, shape (N, D).
        held_out: share of the different rows that are not trained with.
        generator: of the order.

    Raises:
        ValueError: fewer than two different rows on one side, an entry is not finite, or a column
            that does not change among the training rows.

    Chapter 15.
    """
    check_state(rows, "rows")
    check_number(held_out, "held_out", 0, 1, without_low=True, without_high=True)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise ValueError(f"rows have shape {tuple(rows.shape)}; pass (N, D)")
    if not bool(torch.isfinite(rows).all()):
        raise ValueError("a row is not finite: look for NaN or infinity")
    rows = rows.cpu().double()
    different, which = rows.unique(dim=0, return_inverse=True)
    order = torch.randperm(
        len(different), generator=generator, device=generator_device(generator)
    ).cpu()
    out = round(held_out * len(different))
    if min(out, len(different) - out) < 2:
        raise ValueError(
            f"{len(different)} different rows and a share of {held_out:g}: too few on one side"
        )
    aside = torch.zeros(len(different), dtype=torch.bool, device="cpu")
    aside[order[:out]] = True
    train = rows[~aside[which]]
    spread = train.std(dim=0)
    if not bool((spread > 0).all()):
        column = int((spread == 0).nonzero()[0])
        raise ValueError(
            f"column {column + 1} does not change among the training rows: leave it out"
        )
    return Split(train, rows[aside[which]], Units(train.mean(dim=0), spread))
