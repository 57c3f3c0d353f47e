"""An adaptive solver for dx/dt = v(x, t): Dormand and Prince's pair of orders 5 and 4.

Chapter 5.
"""

import math
from collections import deque

import torch
from torch import Tensor

from fmtutorial.fields import VelocityField, check_number, flatten
from fmtutorial.solvers.grids import check_precision
from fmtutorial.solvers.steps import CountedField, Solution

# Row i holds the weights of stage i + 2. The last row is the step of order 5: its end is where the
# next step begins, so that its velocity is used twice.
_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_WEIGHTS = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# Order 5 minus order 4.
_ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

_SAFETY, _MOST_SHRINK, _MOST_GROWTH = 0.9, 0.2, 10.0


def solve_adaptive(
    field: VelocityField,
    x: Tensor,
    t0: float,
    t1: float,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    last_only: bool = False,
) -> Solution:
    """Integrate dx/dt = v(x, t) from t0 to t1 with steps that keep the local error in bounds.

    A step is accepted if, for the worst sample of the batch, the root mean square over the event
    of error / (atol + rtol · |x|) is at most 1: one hard sample cannot hide among easy ones. The
    next step has the length at which the worst error would be 0.9⁵. Each step costs six
    evaluations, accepted or not; the start costs two.

    Args:
        field: v(x, t) with t of shape (B,).
        x: states at t0, shape (B, *event).
        t0: where to start.
        t1: where to end; below t0 to go backwards, with the same field.
        rtol: relative tolerance of one step; below 1e-5 use float64.
        atol: absolute tolerance of one step, in the unit of x.
        last_only: see ``solve``.

    Returns:
        The states after each accepted step, their times, and the number of evaluations.

    Raises:
        TypeError: x in half precision.
        ValueError: equal times, or a tolerance that is not positive.
        FloatingPointError: the step has become too small for the floating-point type: the field
            is singular, discontinuous or not finite there, or the tolerance is out of reach.

    Source: Dormand and Prince 1980; Hairer, Nørsett and Wanner 1993, Sec. II.4. Chapter 5.
    """
    check_precision(x)
    for name, value in (("t0", t0), ("t1", t1)):
        check_number(value, name)
    for name, value in (("rtol", rtol), ("atol", atol)):
        check_number(value, name, low=0, without_low=True)
    if len(x) == 0:
        raise ValueError("x holds no sample, and the worst sample chooses the step; use solve")
    if t0 == t1:
        raise ValueError(f"t0 and t1 are both {t0}; pass two different times")
    counted, direction = CountedField(field), math.copysign(1.0, t1 - t0)
    epsilon = torch.finfo(x.dtype).eps

    t, times, states = t0, [t0], deque([x], maxlen=1 if last_only else None)
    first = counted(x, x.new_tensor(t))
    h = _first_step(counted, x, first, t0, t1, atol + rtol * x.abs())
    growth, largest, stuck = _MOST_GROWTH, 0.0, False
    while t != t1:
        largest = max(largest, h)
        # the tolerance is below the rounding of the state, or the stages' times would be the same
        if stuck or not h > 10 * epsilon * max(abs(t), largest):
            raise FloatingPointError(
                f"step size underflow: the step is {h:.1e} at t = {t:g}. The field is singular, "
                "discontinuous or not finite there, or the tolerance is out of reach in "
                f"{x.dtype}: stop before a singular end, raise rtol and atol, or use float64"
            )
        end = t1 if h >= abs(t1 - t) else t + direction * h
        moved, last, difference = _attempt(counted, x, first, t, end)
        scale = atol + rtol * torch.maximum(x.abs(), moved.abs())
        error = _sizes(difference, scale).max().item()
        factor = _SAFETY * error**-0.2 if error > 0 else _MOST_GROWTH
        h = abs(end - t)
        if error <= 1:
            t, x, first = end, moved, last
            times.append(t)
            states.append(x)
            h, growth = h * min(growth, factor), _MOST_GROWTH
        else:  # an error that is not a number arrives here too
            stuck = _sizes(epsilon * moved, scale).max().item() > 1
            h, growth = h * (max(_MOST_SHRINK, factor) if error > 1 else _MOST_SHRINK), 1.0
    kept = x.new_tensor(times[-len(states) :])
    return Solution(kept, torch.stack(tuple(states)), counted.evaluations)


def _attempt(
    counted: CountedField, x: Tensor, first: Tensor, t: float, end: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the state at ``end``, the velocity there, and the difference of the two orders."""
    h, moved = end - t, x
    velocities = [first]
    for node, weights in zip(_NODES, _WEIGHTS, strict=True):
        moved = x + h * sum(w * v for w, v in zip(weights, velocities, strict=True))
        # t + h may miss the end by a rounding error, and the field may be undefined beyond it
        now = end if node == 1 else t + node * h
        velocities.append(counted(moved, x.new_tensor(now)))
    difference = h * sum(w * v for w, v in zip(_ERROR, velocities, strict=True))
    return moved, velocities[-1], difference


def _first_step(
    counted: CountedField, x: Tensor, first: Tensor, t0: float, t1: float, scale: Tensor
) -> float:
    """Guess a step from the size of the velocity and of its change along a small Euler step."""
    speed = _sizes(first, scale)
    small = 0.01 * _sizes(x, scale) / speed
    small = torch.where(small.isfinite() & (small > 1e-6), small, 1e-6).min().item()
    small = math.copysign(min(small, abs(t1 - t0)), t1 - t0)
    now = t1 if small == t1 - t0 else t0 + small
    change = counted(x + small * first, x.new_tensor(now)) - first
    steepest = max(speed.max().item(), (_sizes(change, scale) / abs(small)).max().item(), 1e-10)
    return min(100 * abs(small), (0.01 / steepest) ** 0.2)


def _sizes(value: Tensor, scale: Tensor) -> Tensor:
    """Root mean square of value / scale over the event of each sample, shape (B,)."""
    return flatten(value / scale).square().mean(dim=1).sqrt()
