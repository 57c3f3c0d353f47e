"""Numbers with standard errors: log-density in a file's units, steps, mass, copies. Chapter 15."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from fmtutorial.assignment import cost_matrix
from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.fields import (
    VelocityField,
    check_callable,
    check_count,
    check_kind,
    check_state,
    generator_device,
)
from fmtutorial.likelihood import log_likelihood
from fmtutorial.tables.units import Units, check_columns


class Estimate(NamedTuple):
    """A mean and its standard error; a quotient of independent ones has its own, to first order."""

    value: float
    error: float

    def __truediv__(self, other: "Estimate") -> "Estimate":
        value = self.value / other.value
        return Estimate(value, math.hypot(self.error, value * other.error) / other.value)


class Steps(NamedTuple):
    """The mean log-density with a number of solver steps, and its change from half as many."""

    steps: int
    value: float
    error: float
    change: float  # NaN in the first row


class Mass(NamedTuple):
    """The integral of a density, its standard error, and how many draws the weights are worth."""

    value: float
    error: float
    effective: float

    @property
    def trusted(self) -> bool:
        """Whether at least a hundred draws share the weight; fewer make the error a guess."""
        return self.effective >= 100


class Nearest(NamedTuple):
    """How far samples are from their nearest training row, where rows held out give 1."""

    value: float
    error: float
    close: float  # share of samples nearer than 99 % of the rows held out; about 0.01 if fresh


def estimate(values: Tensor) -> Estimate:
    """Return the mean of independent values, shape (N,), with its standard error s/√N.

    Raises:
        ValueError: fewer than two values, or one is not finite.

    Chapter 15.
    """
    check_state(values, "values")
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values have shape {tuple(values.shape)}; pass (N,), N at least 2")
    values = values.detach().cpu().double()
    if not bool(torch.isfinite(values).all()):
        raise ValueError("a value is not finite: a row of density 0 is outside of the model")
    return Estimate(values.mean().item(), (values.std() / math.sqrt(len(values))).item())


def log_density(field: VelocityField, x: Tensor, units: Units, steps: int) -> Tensor:
    """Return log p of rows in the file's units: that of the flow, less Σ log s; shape (N,).

    By rk4, with the exact divergence, one backward pass a column.

    Args:
        field: v(x, t), trained on standardised rows; its noise is N(0, I).
        x: rows by ``Units.standardise``, shape (N, D), in the type and on the device of the field.
        units: that standardised them.
        steps: of the solver; see ``enough_steps``.

    Raises:
        ValueError: another number of columns than the units have.

    Chapter 15.
    """
    check_callable(field, "field")
    check_kind(units, Units, "units")
    check_columns(x, units, "x")
    check_count(steps, "steps")
    base = Gaussian(x.new_zeros(x.shape[1]))
    times = torch.linspace(1, 0, steps + 1, dtype=x.dtype, device=x.device)
    with torch.no_grad():
        return log_likelihood(field, x, base, times) - units.log_volume


def enough_steps(
    log_density_with: Callable[[int], Tensor], start: int = 2, most: int = 512
) -> list[Steps]:
    """Double the steps until the mean log-density changes by less than a tenth of its error.

    Args:
        log_density_with: returns the log-densities of the same rows with so many steps, (N,).
        start: steps of the first try.
        most: steps at which it gives up.

    Returns:
        One row for each number of steps; those of the last are enough.

    Raises:
        ValueError: not even the most steps were enough: the field is steep somewhere.

    Chapter 15.
    """
    check_callable(log_density_with, "log_density_with")
    check_count(start, "start")
    check_count(most, "most", least=2 * start)
    found: list[Steps] = []
    steps = start
    while steps <= most:
        value, error = estimate(log_density_with(steps))
        change = value - found[-1].value if found else math.nan
        found.append(Steps(steps, value, error, change))
        if abs(change) < 0.1 * error:
            return found
        steps *= 2
    raise ValueError(
        f"{found[-1].steps} steps still change the mean by {abs(change):.2g}, more than a tenth of "
        f"its error {error:.2g}: train longer, or pass a larger most"
    )


def covering(
    rows: Tensor, kernels: int = 500, generator: Generator | None = None
) -> GaussianMixture:
    """Return a law from which to draw for ``total_mass``: half wide Gaussian, half bumps on rows.

    The Gaussian has the mean of the rows and twice their standard deviations, column by column.
    It bounds the weights where no row is. The bumps have the width of Scott's rule, K^(−1/(D+4))
    times the standard deviations, and put most draws where the density is.

    Args:
        rows: for instance those trained with, in the file's units, shape (N, D), N at least 2.
        kernels: K, of rows drawn at random; all where there are fewer.
        generator: of the choice.

    Raises:
        ValueError: a column that does not change.

    Source: Hesterberg 1995, for the mixture; Scott 1992, for the width. Chapter 15.
    """
    _check_rows(rows, "rows", least=2)
    check_count(kernels, "kernels")
    if rows.ndim != 2:
        raise ValueError(f"rows have shape {tuple(rows.shape)}; pass (N, D)")
    rows = rows.cpu().double()
    order = torch.randperm(len(rows), generator=generator, device=generator_device(generator))
    centres = rows[order.cpu()[:kernels]]
    count, columns = centres.shape
    variance = rows.var(dim=0)
    if not bool((variance > 0).all()):
        raise ValueError("a column of the rows does not change: leave it out")
    narrow = count ** (-2 / (columns + 4)) * variance
    return GaussianMixture(
        torch.cat([rows.mean(dim=0, keepdim=True), centres]),
        torch.stack([4 * variance, *[narrow] * count]).diag_embed(),
        torch.tensor([0.5, *[0.5 / count] * count], dtype=torch.float64, device="cpu"),
    )


def total_mass(
    log_density_of: Callable[[Tensor], Tensor],
    proposal: GaussianMixture,
    draws: int = 2000,
    generator: Generator | None = None,
) -> Mass:
    """Return ∫ p by importance sampling: the mean of w = p(x)/q(x) over draws x of q.

    Without bias for any q that is positive where p is. The error can be trusted where many draws
    share the weight, (Σ w)²/Σ w² of them in effect. It cannot tell of a place that q never visits.

    Args:
        log_density_of: rows in the file's units, (N, D) in double precision on the CPU, to (N,).
        proposal: q, in the same units; see ``covering``.
        draws: how many.
        generator: of the draws, on the CPU.

    Raises:
        ValueError: a log-density is NaN or +∞, or there are fewer than two draws.

    Source: Kong 1992, for the effective number. Chapter 15.
    """
    check_callable(log_density_of, "log_density_of")
    check_kind(proposal, GaussianMixture, "proposal")
    check_count(draws, "draws", least=2)
    # not every device has double precision
    generator = torch.default_generator if generator is None else generator
    rows = proposal.sample(draws, generator).cpu()
    log_p = log_density_of(rows)
    check_state(log_p, "log_density_of(rows)")
    if log_p.shape != (draws,):
        raise ValueError(f"log_density_of gave shape {tuple(log_p.shape)}; return ({draws},)")
    log_q = torch.cat([proposal.log_prob(part) for part in rows.split(1000)])
    weights = (log_p.detach().cpu().double() - log_q).exp()
    if not bool(torch.isfinite(weights).all()):
        raise ValueError("a density is not finite where the proposal draws")
    value, error = estimate(weights)
    square = weights.square().sum().item()
    return Mass(value, error, weights.sum().item() ** 2 / square if square else 0.0)


def nearest_ratio(samples: Tensor, train: Tensor, held_out: Tensor) -> Nearest:
    """Return how far samples are from their nearest training rows, relative to rows held out.

    mean_i min_k ‖s_i − t_k‖ / mean_j min_k ‖h_j − t_k‖, about 1 for fresh data, far below 1 for
    copies. A few copies among many samples hardly move a mean, but ``close`` counts them.

    Args:
        samples: shape (B, *event), B at least 2.
        train: shape (N, *event).
        held_out: shape (M, *event), M at least 2. All three standardised: distances in a file's
            units are those of its largest column.

    Raises:
        ValueError: event shapes differ, too few rows, or all rows held out are training rows.

    Chapter 15.
    """
    for rows, name, least in (
        (samples, "samples", 2),
        (train, "train", 1),
        (held_out, "held_out", 2),
    ):
        _check_rows(rows, name, least)
    near, fresh = (_nearest(rows, train) for rows in (samples, held_out))
    above, below = estimate(near), estimate(fresh)
    if below.value == 0:
        raise ValueError("every row held out is a training row: take the copies out of one of them")
    close = (near < fresh.quantile(0.01)).double().mean().item()
    return Nearest(*above / below, close)


def _check_rows(rows: Tensor, name: str, least: int) -> None:
    """Raise unless rows are finite states, at least so many."""
    check_state(rows, name)
    if len(rows) < least:
        raise ValueError(f"{name} has {len(rows)} rows; pass at least {least}")
    if not bool(torch.isfinite(rows).all()):
        raise ValueError(f"a row of {name} is not finite: look for NaN or infinity")


def _nearest(rows: Tensor, train: Tensor) -> Tensor:
    """Return the distance of each row to the nearest of train, shape (N,)."""
    parts = [cost_matrix(part, train).min(axis=1) for part in rows.split(256)]
    return torch.cat([torch.from_numpy(part) for part in parts]).clamp(min=0).sqrt()
