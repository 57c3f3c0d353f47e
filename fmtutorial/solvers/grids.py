"""Grids of times, and log(α/σ) as a clock: from time to the signal-to-noise ratio and back.

Chapter 5.
"""

import math

import torch
from torch import Tensor

from fmtutorial.fields import check_times
from fmtutorial.paths import Schedule


def check_grid(times: Tensor) -> Tensor:
    """Return times, or raise unless they are a strictly monotone grid of shape (T,), T ≥ 2.

    Raises:
        TypeError: times are not a floating-point tensor.
        ValueError: the grid is too short, not finite or not monotone.
    """
    if not isinstance(times, Tensor) or not times.is_floating_point():
        raise TypeError("times must be a floating-point tensor, e.g. torch.linspace(0, 1, 101)")
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"times has shape {tuple(times.shape)}; pass (T,) with T ≥ 2")
    gaps = times.diff()
    if not bool(torch.isfinite(times).all()) or not bool((gaps > 0).all() or (gaps < 0).all()):
        raise ValueError("times must be finite and strictly increasing or strictly decreasing")
    return times


def half_log_snr(schedule: Schedule, t: Tensor) -> Tensor:
    """Return ℓ_t = log(α_t / σ_t), half the logarithm of the signal-to-noise ratio.

    Args:
        schedule: of the path.
        t: times in [0, 1], any shape; ℓ is −∞ where α = 0 and +∞ where σ = 0.

    Raises:
        TypeError: t is not a floating-point tensor.
        ValueError: a time is outside [0, 1].

    Source: Kingma et al. 2021, Sec. 3.1. Chapter 5.
    """
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
    if not value.is_floating_point():
        raise TypeError(f"value has dtype {value.dtype}; pass floating-point numbers")
    if bool(value.isnan().any()):
        raise ValueError("a value of log(α/σ) is NaN")
    low, high = torch.zeros_like(value), torch.ones_like(value)
    for _ in range(math.ceil(-math.log2(torch.finfo(value.dtype).eps)) + 2):
        middle = (low + high) / 2
        below = half_log_snr(schedule, middle) < value
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(value == math.inf, 1.0, torch.where(value == -math.inf, 0.0, high))


def log_snr_grid(schedule: Schedule, start: float, end: float, steps: int) -> Tensor:
    """Return steps + 1 times from start to end, evenly spaced in ℓ = log(α/σ).

    Args:
        schedule: of the path.
        start: where α > 0, so above 0 for most schedules.
        end: where σ > 0, so below 1 for most schedules; it may be below start.
        steps: how many.

    Returns:
        Shape (steps + 1,), double precision, with exactly the given ends.

    Raises:
        ValueError: ℓ is infinite at an end, a time is outside [0, 1], or steps is not positive.

    Source: Lu et al. 2022, DPM-Solver. Chapter 5.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be positive")
    ends = torch.tensor([start, end], dtype=torch.float64)
    first, last = half_log_snr(schedule, ends).tolist()
    if not (math.isfinite(first) and math.isfinite(last)):
        raise ValueError(
            f"log(α/σ) is {first:g} at t = {start:g} and {last:g} at t = {end:g}; "
            "choose ends inside, where both are finite"
        )
    times = time_of(schedule, torch.linspace(first, last, steps + 1, dtype=torch.float64))
    times[0], times[-1] = ends
    return times
