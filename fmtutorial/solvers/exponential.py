"""DPM-Solver++: a solver that treats the linear part of the field exactly. Chapter 5."""

from collections import deque

import torch
from torch import Tensor

from fmtutorial.fields import VelocityField, check_kind, check_times
from fmtutorial.paths import AffinePath
from fmtutorial.solvers.grids import clock
from fmtutorial.solvers.steps import CountedField, Solution


def dpm_solver(
    field: VelocityField, x: Tensor, times: Tensor, path: AffinePath, last_only: bool = False
) -> Solution:
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
        last_only: see ``solve``.

    Returns:
        The states at all times, and the number of evaluations, T − 1.

    Raises:
        TypeError: x or times in half precision.
        ValueError: the grid is not increasing in [0, 1].

    Source: Lu et al. 2022, DPM-Solver++, Algorithm 2. Chapter 5.
    """
    times = clock(times, x)
    check_kind(path, AffinePath, "path")
    check_times(times, "a path")
    if times[0] > times[-1]:
        raise ValueError("times must increase: DPM-Solver++ goes from noise to data")
    alpha, sigma = path.schedule.alpha(times), path.schedule.sigma(times)
    log_snr = torch.log(alpha / sigma)
    counted, states = CountedField(field), deque([x], maxlen=1 if last_only else None)
    previous = None
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
    return Solution(times[-len(states) :], torch.stack(tuple(states)), counted.evaluations)
