"""The exercises of chapter 5."""

import torch
from torch import Tensor

from fmtutorial.coursework.exercises import Draw, Exercise
from fmtutorial.fields import VelocityField
from fmtutorial.solvers import ScalarTimeField, Step, heun, midpoint, rk4, solve


def euler_solve(v: VelocityField, x: Tensor, times: Tensor) -> Tensor:
    """Follow the tangents from time to time of the grid."""
    return solve(v, x, times).last


def _euler(v: VelocityField, x: Tensor, at: Tensor, steps: Tensor) -> Tensor:
    for t, h in zip(at, steps, strict=True):
        x = x + h * v(x, t.expand(len(x)))
    return x


def _late(v: VelocityField, x: Tensor, times: Tensor) -> Tensor:
    return _euler(v, x, times[1:], times.diff())


def _one_short(v: VelocityField, x: Tensor, times: Tensor) -> Tensor:
    return _euler(v, x, times[:-2], times.diff()[:-1])


def _one_too_many(v: VelocityField, x: Tensor, times: Tensor) -> Tensor:
    steps = times.diff()
    return _euler(v, x, times, torch.cat([steps, steps[-1:]]))


def _even(v: VelocityField, x: Tensor, times: Tensor) -> Tensor:
    n = len(times) - 1
    return _euler(v, x, times[:-1], ((times[-1] - times[0]) / n).expand(n))


def _first_step(v: VelocityField, x: Tensor, times: Tensor) -> Tensor:
    return _euler(v, x, times[:-1], times.diff()[:1].expand(len(times) - 1))


def _forwards(v: VelocityField, x: Tensor, times: Tensor) -> Tensor:
    return _euler(v, x, times[:-1], times.diff().abs())


def _backwards(v: VelocityField, x: Tensor, times: Tensor) -> Tensor:
    return _euler(v, x, times[:-1], -times.diff())


def _slope_at_start(v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    first = v(x, t)
    return x + h / 2 * (first + v(x + h * first, t))


def _state_at_start(v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    return x + h / 2 * (v(x, t) + v(x, t + h))


def _unhalved(v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
    return x + 2 * (heun(v, x, t, h) - x)


def _rk4(*weights: float, last: float = 1.0, stale: bool = False, mid_time: float = 0.5) -> Step:
    def step(v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        k1 = v(x, t)
        k2 = v(x + h / 2 * k1, t + mid_time * h)
        k3 = v(x + h / 2 * (k1 if stale else k2), t + mid_time * h)
        k4 = v(x + last * h * k3, t + h)
        return x + h * sum(w * k for w, k in zip(weights, (k1, k2, k3, k4), strict=True))

    return step


def _step(draw: Draw) -> tuple:
    t, h = draw.uniform(0.1, 0.4), draw.uniform(0.2, 0.5)
    return draw.field("scalar"), draw.normal(), t, -h if draw.setting.batch % 2 else h


def _grid(draw: Draw) -> tuple:
    low, high = draw.uniform(0, 0.3).item(), draw.uniform(0.7, 1).item()
    times = draw.grid(low, high, draw.integer(3, 6))
    return draw.field(), draw.normal(), times.flip(0) if draw.setting.batch % 2 else times


EXERCISES = (
    Exercise(
        "solvers.euler_solve",
        euler_solve,
        _grid,
        {
            "Every velocity is taken at the end of its step. Euler's method takes it at the "
            "beginning, at times[i] for the step to times[i + 1].": _late,
            "The last step is missing: a grid of T times has T − 1 steps.": _one_short,
            "There is a step too many: a grid of T times has T − 1 steps, and none of them "
            "starts at the last time.": _one_too_many,
            "All steps have the same length. The grid is not even: the step from times[i] has "
            "the length times[i + 1] − times[i].": _even,
            "All steps are as long as the first. Each has its own length.": _first_step,
            "Steps of a grid that runs backwards go forwards. Their length is negative.": _forwards,
            "The first step is missing: it starts at times[0].": lambda v, x, times: _euler(
                v, x, times[1:-1], times.diff()[1:]
            ),
            "Every step goes the wrong way. Its length times[i + 1] − times[i] has a sign.": (
                _backwards
            ),
        },
    ),
    Exercise(
        "solvers.heun_step",
        heun,
        _step,
        {
            "This is Euler's step. Heun's method takes a second velocity at its end, and the "
            "mean of the two.": lambda v, x, t, h: x + h * v(x, t),
            "This is the midpoint method. Heun's method takes velocities at both ends of the "
            "step.": midpoint,
            "The second velocity is taken at time t. It belongs to time t + h.": _slope_at_start,
            "The second velocity is taken at x. It belongs to where Euler's step ends, "
            "x + h v(x, t).": _state_at_start,
            "The two velocities are added. Take their mean.": _unhalved,
            "The step is not multiplied by its length h.": lambda v, x, t, h: (
                x + (heun(v, x, t, h) - x) / h
            ),
        },
    ),
    Exercise(
        "solvers.rk4_step",
        rk4,
        _step,
        {
            "The four velocities have the same weight. The weights are 1, 2, 2, 1, over 6.": _rk4(
                0.25, 0.25, 0.25, 0.25
            ),
            "The third velocity is taken where the second was. It starts from the second: "
            "x + h/2 k2.": _rk4(1 / 6, 1 / 3, 1 / 3, 1 / 6, stale=True),
            "The last velocity is taken after half a step. It belongs to the whole: "
            "x + h k3.": _rk4(1 / 6, 1 / 3, 1 / 3, 1 / 6, last=0.5),
            "The two middle velocities are taken at time t. They belong to t + h/2.": _rk4(
                1 / 6, 1 / 3, 1 / 3, 1 / 6, mid_time=0.0
            ),
            "The weights add up to more than 1: divide by 6.": _rk4(1.0, 2.0, 2.0, 1.0),
            "All velocities are taken at time t. The two in the middle belong to t + h/2, the last "
            "to t + h.": lambda v, x, t, h: rk4(lambda y, _: v(y, t), x, t, h),
            "h is there twice: in the velocities, and again in their sum.": lambda v, x, t, h: (
                x + h * (rk4(v, x, t, h) - x)
            ),
        },
        points=2,
    ),
)
