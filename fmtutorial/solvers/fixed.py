"""A solver with fixed steps for dx/dt = v(x, t). Chapters 1 and 5."""

import torch
from torch import Tensor

from fmtutorial.fields import VelocityField, check_state
from fmtutorial.solvers.grids import check_grid
from fmtutorial.solvers.steps import CountedField, Solution, Step, euler


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
