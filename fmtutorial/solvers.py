"""Fixed-step solvers for dx/dt = v(x, t): one small function a method, one loop for all."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fmtutorial.fields import VelocityField, check_same_shape, check_state

ScalarTimeField = Callable[[Tensor, Tensor], Tensor]
"""A field as a step sees it: v(x, t) with x of shape (B, *event) and one time of shape ()."""

Step = Callable[[ScalarTimeField, Tensor, Tensor, Tensor], Tensor]
"""step(v, x, t, h) → x at t + h; h may be negative."""


def euler(v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """Follow the tangent: x + h v(x, t). Order 1, one evaluation a step."""
    return x + h * v(x, t)


def midpoint(v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """Follow the velocity found half a step ahead. Order 2, two evaluations a step."""
    return x + h * v(x + h / 2 * v(x, t), t + h / 2)


def heun(v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """Average the velocities at both ends of an Euler step. Order 2, two evaluations a step."""
    first = v(x, t)
    second = v(x + h * first, t + h)
    return x + h / 2 * (first + second)


def rk4(v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    """Take the classical Runge-Kutta step. Order 4, four evaluations a step.

    Source: Kutta 1901; Hairer, Nørsett and Wanner 1993, Table II.1.2.
    """
    k1 = v(x, t)
    k2 = v(x + h / 2 * k1, t + h / 2)
    k3 = v(x + h / 2 * k2, t + h / 2)
    k4 = v(x + h * k3, t + h)
    return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


class Solution(NamedTuple):
    """States on the grid of times.

    ``states`` has shape (T, B, *event) and ``times`` shape (T,); ``evaluations`` counts the
    calls of the field, each on the whole batch.
    """

    times: Tensor
    states: Tensor
    evaluations: int

    @property
    def last(self) -> Tensor:
        """State at the last time of the grid, shape (B, *event)."""
        return self.states[-1]


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
    evaluations = 0

    def counted(state: Tensor, t: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        velocity = field(state, t.expand(len(state)))
        check_same_shape(velocity, state, "v, x")
        return velocity

    states = [x]
    for i, (t, end) in enumerate(zip(times[:-1], times[1:], strict=True)):
        x = step(counted, x, t, end - t)
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError(
                f"the state is not finite after step {i + 1} of {len(times) - 1}, from "
                f"t = {t:g} to {end:g}: take smaller steps or stop before a singular end"
            )
        states.append(x)
    return Solution(times, torch.stack(states), evaluations)


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
