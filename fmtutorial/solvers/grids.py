"""Grids of times, and log(α/σ) as a clock: from time to the signal-to-noise ratio and back.

Chapter 5.
"""

import math

import torch
from torch import Tensor

from fmtutorial.fields import check_count, check_kind, check_number, check_state, check_times
from fmtutorial.paths import Schedule

WIDE = (torch.float32, torch.float64)
"""The types in which a clock keeps its steps."""


def check_grid(times: Tensor) -> Tensor:
    """Return times, or raise unless they are a strictly monotone grid of shape (T,), T ≥ 2.

    Raises:
        TypeError: times are no tensor of single or double precision.
        ValueError: the grid is too short, not finite or not monotone.
    """
    if not isinstance(times, Tensor) or times.dtype not in WIDE or times.layout != torch.strided:
        kind = times.dtype if isinstance(times, Tensor) else type(times).__name__
        raise TypeError(
            f"times must be a floating-point tensor of single or double precision, such as "
            f"torch.linspace(0, 1, 101); they are of type {kind}"
        )
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times has shape {tuple(times.shape)}; pass (T,) with T ≥ 2")
    gaps = times.diff()
    if not bool(torch.isfinite(times).all()) or not bool((gaps > 0).all() or (gaps < 0).all()):
        raise ValueError("times must be finite and strictly increasing or strictly decreasing")
    return times


def check_precision(x: Tensor) -> None:
    """Raise unless x is a batch of states of single or double precision.

    The steps of a solver are small against the states, and half precision would round them away.

    Raises:
        TypeError: it is not.
    """
    check_state(x)
    if x.dtype not in WIDE:
        raise TypeError(
            f"x has dtype {x.dtype}, in which small steps vanish; integrate x.float(), and let the "
            "field cast: lambda x, t: network(x.half(), t.half()).float(), or use torch.autocast"
        )


def clock(times: Tensor, x: Tensor) -> Tensor:
    """Return the grid in the precision and on the device of the states, not beyond its own ends.

    Raises:
        TypeError: the grid or the states are no tensors of single or double precision.
        ValueError: the grid is not strictly monotone, here or in the precision of x.
    """
    check_precision(x)
    rounded = check_grid(times).to(x)
    if times.dtype == torch.float64 and x.dtype == torch.float32:
        # a time just inside 1 must not become 1, where a field may be singular
        exact = times.to("cpu")
        back = rounded.to("cpu", torch.float64)
        inwards = torch.where(back > exact.max(), -math.inf, math.inf).float()
        beyond = (back > exact.max()) | (back < exact.min())
        nudged = torch.nextafter(rounded.to("cpu"), inwards)
        rounded = torch.where(beyond, nudged, rounded.to("cpu")).to(x.device)
        gaps = rounded.diff()
        if not bool((gaps > 0).all() or (gaps < 0).all()):
            raise ValueError(
                "times that differ are the same in single precision, that of x; "
                "integrate x.double(), or take a coarser grid"
            )
    return rounded


def half_log_snr(schedule: Schedule, t: Tensor) -> Tensor:
    """Return ℓ_t = log(α_t / σ_t), half the logarithm of the signal-to-noise ratio.

    Args:
        schedule: of the path.
        t: times in [0, 1], any shape; ℓ is −∞ where α = 0 and +∞ where σ = 0.

    Raises:
        ValueError: a time is outside [0, 1].

    Source: Kingma et al. 2021, Sec. 3.1. Chapter 5.
    """
    check_kind(schedule, Schedule, "schedule")
    check_times(t, "a path")
    return torch.log(schedule.alpha(t) / schedule.sigma(t))


def time_of(schedule: Schedule, value: Tensor) -> Tensor:
    """Return the time t at which ``half_log_snr`` has the given value, by bisection.

    Args:
        schedule: of a path whose signal-to-noise ratio rises.
        value: wanted values of ℓ, any shape, infinities included.

    Returns:
        Times in [0, 1] in the shape of value. Where ℓ never takes the value, the nearer end.

    Raises:
        TypeError: value is not a floating-point tensor.
        ValueError: a value is NaN.
    """
    check_kind(schedule, Schedule, "schedule")
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.is_sparse:
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"value is of type {kind}; pass a floating-point tensor")
    if bool(value.isnan().any()):
        raise ValueError("a value of log(α/σ) is NaN")
    low, high = torch.zeros_like(value), torch.ones_like(value)
    for _ in range(math.ceil(-math.log2(torch.finfo(value.dtype).eps)) + 2):
        middle = (low + high) / 2
        below = half_log_snr(schedule, middle) < value
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(value == math.inf, 1.0, torch.where(value == -math.inf, 0.0, high))


def log_snr_grid(
    schedule: Schedule, start: float, end: float, steps: int, dtype: torch.dtype | None = None
) -> Tensor:
    """Return steps + 1 times from start to end, evenly spaced in ℓ = log(α/σ).

    Args:
        schedule: of the path.
        start: where α > 0, so above 0 for most schedules.
        end: where σ > 0, so below 1 for most schedules; it may be below start.
        steps: how many.
        dtype: of the times; PyTorch's default type if left out.

    Returns:
        Shape (steps + 1,), with the given ends.

    Raises:
        ValueError: ℓ is infinite at an end, a time is outside [0, 1], steps is not positive, or
            times coincide.

    Source: Lu et al. 2022, DPM-Solver. Chapter 5.
    """
    check_kind(schedule, Schedule, "schedule")
    _check_dtype(dtype)
    check_count(steps, "steps")
    check_number(start, "start", 0, 1)
    check_number(end, "end", 0, 1)
    ends = torch.tensor([start, end], dtype=dtype)
    first, last = half_log_snr(schedule, ends).tolist()
    if not (math.isfinite(first) and math.isfinite(last)):
        raise ValueError(
            f"log(α/σ) is {first:g} at t = {start:g} and {last:g} at t = {end:g}; "
            "choose ends inside, where both are finite"
        )
    times = time_of(schedule, torch.linspace(first, last, steps + 1, dtype=dtype))
    times[0], times[-1] = ends
    return check_grid(times)


def level_grid(
    levels: int,
    steps: int,
    last: int = 0,
    halves: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return times t = 1 − k/levels for whole levels k from ``levels`` down to ``last``.

    A model that knows whole levels only is evaluated nowhere else if the steps begin and end on
    them, and so do their middles where a method evaluates there.

    Args:
        levels: T, of the model.
        steps: how many, as even as whole levels allow.
        last: level at the end; 0, the data, is for methods that do not evaluate there.
        halves: whether each step spans an even number of levels, for ``midpoint`` and ``rk4``.
        dtype: of the times; PyTorch's default type if left out.

    Returns:
        Shape (steps + 1,), increasing from 0 to 1 − last/levels.

    Raises:
        ValueError: there are too few levels for so many steps, or, with ``halves``, an odd number.

    Source: Song, Meng and Ermon 2021, App. D.2, for a subsequence of the levels. Chapter 7.
    """
    _check_dtype(dtype)
    check_count(levels, "levels")
    check_count(steps, "steps")
    check_count(last, "last", least=0)
    unit = 2 if halves else 1
    span, rest = divmod(levels - last, unit)
    if rest or span < steps:
        raise ValueError(
            f"{steps} steps of whole{' pairs of' if halves else ''} levels do not fit between "
            f"{levels} and {last}: take fewer steps, or another last level"
        )
    down = [unit * ((2 * i * span + steps) // (2 * steps)) for i in range(steps + 1)]
    return torch.tensor([k / levels for k in down], dtype=dtype)


def _check_dtype(dtype: torch.dtype | None) -> None:
    if dtype is not None and dtype not in WIDE:
        raise TypeError(f"dtype is {dtype!r}; pass torch.float32, torch.float64 or None")
