"""A solver with fixed steps for dx/dt = v(x, t). Chapters 1 and 5."""

from collections import deque

import torch
from torch import Tensor

from fmtutorial.fields import VelocityField, check_same_shape
from fmtutorial.solvers.grids import clock
from fmtutorial.solvers.steps import CountedField, Solution, Step, euler


def solve(
    field: VelocityField,
    x: Tensor,
    times: Tensor,
    step: Step = euler,
    last_only: bool = False,
) -> Solution:
    """Integrate dx/dt = v(x, t) over a grid of times, starting from x at the first.

    The order of the grid is the direction: a decreasing grid integrates backwards, with the same
    field and no change of sign. A grid of n steps has n + 1 times. Whether gradients flow
    through the solution is the caller's choice, by ``torch.no_grad()`` or its absence.

    Args:
        field: v(x, t) with t of shape (B,).
        x: states at times[0], shape (B, *event), in single or double precision.
        times: shape (T,), strictly monotone, T ≥ 2, inside the field's interval.
        step: euler, midpoint, heun or rk4.
        last_only: keep the last state only, so that memory does not grow with the steps.

    Returns:
        The states at all times, and the number of evaluations.

    Raises:
        TypeError: x or times in half precision, in which small steps vanish.
        ValueError: the grid is too short, not finite or not monotone.
        FloatingPointError: a state is not finite; the message names the step.

    Chapters 1 and 5.
    """
    times = clock(times, x)
    if not callable(step):
        raise TypeError(f"step is {step!r}; pass a function such as fmtutorial.solvers.heun")
    counted, states = CountedField(field), deque([x], maxlen=1 if last_only else None)
    for i, (t, end) in enumerate(zip(times[:-1], times[1:], strict=True)):
        moved = step(counted, x, t, end - t)
        check_same_shape(moved, x, "result of step, x")
        x = moved
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError(
                f"the state is not finite after step {i + 1} of {len(times) - 1}, from "
                f"t = {t:g} to {end:g}: take smaller steps or stop before a singular end"
            )
        states.append(x)
    return Solution(times[-len(states) :], torch.stack(tuple(states)), counted.evaluations)
