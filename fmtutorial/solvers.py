"""Solvers for dx/dt = v(x, t): fixed steps, adaptive steps, and the exponential DPM-Solver."""

import torch
from torch import Tensor

from fmtutorial.adaptive import solve_adaptive
from fmtutorial.fields import VelocityField, check_state, check_times
from fmtutorial.paths import AffinePath
from fmtutorial.steps import (
    CountedField,
    ScalarTimeField,
    Solution,
    Step,
    euler,
    heun,
    midpoint,
    rk4,
)

__all__ = [
    "ScalarTimeField",
    "Solution",
    "Step",
    "check_grid",
    "dpm_solver",
    "euler",
    "heun",
    "midpoint",
    "rk4",
    "solve",
    "solve_adaptive",
]


def solve(field: VelocityField, x: Tensor, times: Tensor, step: Step = euler) -> Solution:
    """Integrate dx/dt = v(x, t) over a grid of times, starting from x at the first.

    The order of the grid is the direction: a decreasing grid integrates backwards, with the same
    field and no change of sign. A grid of n steps has n + 1 times. Whether gradients flow
    through the solution is the caller's choice, by ``torch.no_grad()`` or its absence.

    Args:
        field: v(x, t) with t of shape (B,).
        x: states at times[0], shape (B, *event).
        times: shape (T,), strictly monotone, T ≥ 2, inside the field's interval.
        step: euler, midpoint, heun or rk4.

    Returns:
        The states at all times, and the number of evaluations.

    Raises:
        TypeError: x or times are not floating-point tensors, or step is not callable.
        ValueError: the grid is too short, not finite or not monotone, or the field returns another
            shape than that of x.
        FloatingPointError: a state is not finite; the message names the step.

    Chapters 1 and 5.
    """
    check_state(x)
    times = check_grid(times).to(x)
    if not callable(step):
        raise TypeError(f"step is {step!r}; pass a function such as fmtutorial.solvers.heun")
    counted, states = CountedField(field), [x]
    for i, (t, end) in enumerate(zip(times[:-1], times[1:], strict=True)):
        x = step(counted, x, t, end - t)
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError(
                f"the state is not finite after step {i + 1} of {len(times) - 1}, from "
                f"t = {t:g} to {end:g}: take smaller steps or stop before a singular end"
            )
        states.append(x)
    return Solution(times, torch.stack(states), counted.evaluations)


def dpm_solver(field: VelocityField, x: Tensor, times: Tensor, path: AffinePath) -> Solution:
    """Integrate from noise to data, treating the linear part of the field exactly.

    DPM-Solver++(2M). With D the data prediction of the field and ℓ = log(α/σ), the solution obeys
    x_t = (σ_t/σ_s) x_s + σ_t ∫ e^ℓ D dℓ. The integral is exact for constant D; the last two
    values of D give second order for one evaluation a step. Steps that touch an end of infinite
    ℓ, and the first, are of first order. A point mass of data is reached exactly in any number
    of steps.

    Args:
        field: v(x, t), the velocity of this path.
        x: states at times[0], shape (B, *event).
        times: shape (T,), increasing in [0, 1]; the velocity is not evaluated at times[-1].
        path: of the field.

    Returns:
        The states at all times, and the number of evaluations, T − 1.

    Raises:
        TypeError: x or times are not floating-point tensors.
        ValueError: the grid is not increasing in [0, 1], or the field returns another shape.
        FloatingPointError: a state is not finite.

    Source: Lu et al. 2022, DPM-Solver++, Algorithm 2. Chapter 5.
    """
    check_state(x)
    times = check_grid(times).to(x)
    check_times(times, "a path")
    if times[0] > times[-1]:
        raise ValueError("times must increase: DPM-Solver++ goes from noise to data")
    alpha, sigma = path.schedule.alpha(times), path.schedule.sigma(times)
    log_snr = torch.log(alpha / sigma)
    counted, states, previous = CountedField(field), [x], None
    for i, t in enumerate(times[:-1]):
        data = path.convert(counted(x, t), x, t.expand(len(x)), "velocity", "data")
        ahead = data
        if 0 < i and bool(torch.isfinite(log_snr[i - 1 : i + 2]).all()):
            ratio = (log_snr[i + 1] - log_snr[i]) / (log_snr[i] - log_snr[i - 1])
            ahead = data + ratio / 2 * (data - previous)
        shrink = sigma[i + 1] / sigma[i]
        x = shrink * x + (alpha[i + 1] - shrink * alpha[i]) * ahead
        states.append(x)
        previous = data
    if not bool(torch.isfinite(x).all()):
        raise FloatingPointError("the last state is not finite: look at the field and the grid")
    return Solution(times, torch.stack(states), counted.evaluations)


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
