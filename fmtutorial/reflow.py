"""Straight flows: pairs from a model, straightness, distillation, and mean velocities.

Chapter 6.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fmtutorial.fields import (
    VelocityField,
    check_callable,
    check_kind,
    check_same_shape,
    check_times,
    expand_time,
)
from fmtutorial.losses import mean_squared_norm
from fmtutorial.paths import AffinePath, PathSample
from fmtutorial.solvers import Solution, Step, heun, solve

MeanVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""u(x, start, end): the mean velocity from start to end of the solution that is at x at start."""


@torch.no_grad()
def model_pairs(
    field: VelocityField, x0: Tensor, times: Tensor, step: Step = heun
) -> tuple[Tensor, Tensor]:
    """Return the noise and where the flow takes it: the coupling for the next round of ReFlow.

    Args:
        field: v(x, t).
        x0: noise, shape (B, *event).
        times: shape (T,), from the time of the noise to that of the data.
        step: a step of ``fmtutorial.solvers``.

    Returns:
        x0, and the model's sample in each row; without gradients.

    Source: Liu et al. 2023, Algorithm 1. Chapter 6.
    """
    return x0, solve(field, x0, times, step, last_only=True).last


def path_energy(solution: Solution) -> float:
    """Return E ∫ ‖dx/dt‖² dt of the polygons through the states, averaged over the batch.

    For t from 0 to 1 it is at least the mean of ‖x₁ − x₀‖², with equality for straight lines at
    constant speed. In the squared unit of x per unit of time.

    Source: Tong et al. 2024, Sec. 5.1. Chapter 4.
    """
    _check_whole(solution)
    gaps = solution.times.diff().abs()
    moves = solution.states.diff(dim=0)
    return (moves.reshape(*moves.shape[:2], -1).square().sum(dim=2).mean(dim=1) / gaps).sum().item()


def straightness(solution: Solution) -> float:
    """Return E ∫ ‖(x_T − x_0)/T − dx/dt‖² dt of the polygons through the states, T the time taken.

    Zero for straight lines at constant speed; else the part of the ``path_energy`` beyond that of
    the straight lines between the same ends. Liu et al. call it S; smaller is straighter.

    Source: Liu et al. 2023, Sec. 2.2. Chapters 4 and 6.
    """
    _check_whole(solution)
    x, times = solution.states, solution.times
    fraction = expand_time((times - times[0]) / (times[-1] - times[0]), x)
    bends = x - torch.lerp(x[:1], x[-1:], fraction)
    return path_energy(Solution(times, bends, solution.evaluations))


def _check_whole(solution: Solution) -> None:
    check_kind(solution, Solution, "solution")
    if len(solution.times) < 2 or solution.states.shape[1] == 0:
        raise ValueError(
            f"the solution has states of shape {tuple(solution.states.shape)}; a way has two or "
            "more of them, of one or more samples: leave last_only out"
        )


def distillation_loss(field: VelocityField, x0: Tensor, x1: Tensor) -> Tensor:
    """Return the mean over b of ‖x₀ + v(x₀, 0) − x₁‖²: one Euler step should end at x₁.

    Args:
        field: v(x, t); only t = 0 is used.
        x0: noise, shape (B, *event).
        x1: where a model takes that noise, shape of x0.

    Returns:
        Shape ().

    Source: Liu et al. 2023, Sec. 2.2. Chapter 6.
    """
    check_callable(field, "field")
    check_same_shape(x0, x1, "x0, x1")
    velocity = field(x0, x0.new_zeros(len(x0)))
    check_same_shape(velocity, x0, "v, x0")
    return mean_squared_norm(x0 + velocity - x1)


def mean_flow_loss(
    mean_velocity: MeanVelocity,
    path: AffinePath,
    x0: Tensor,
    x1: Tensor,
    start: Tensor,
    end: Tensor,
) -> Tensor:
    """Return the MeanFlow loss, which trains a one-step sampler without a teacher.

    The mean velocity u obeys u = v + (end − start) du/dstart, with the derivative along the flow.
    The right-hand side, with the conditional velocity for v and no gradients, is the target of a
    regression. For end = start it is flow matching. Sample with x₀ + u(x₀, 0, 1).

    Args:
        mean_velocity: u(x, start, end), differentiable in forward mode. Attention takes its plain
            form meanwhile: PyTorch's fused one has no such derivative.
        path: gives x at time start and its velocity.
        x0: noise, shape (B, *event).
        x1: data, shape of x0.
        start: times of the states, shape (B,), in the interval of the path's velocity.
        end: shape (B,), not below start.

    Returns:
        Shape ().

    Raises:
        ValueError: a time lies outside the interval or above its end, or mean_velocity runs under
            ``torch.inference_mode()``, where its derivative would be 0.

    Source: Geng et al. 2025, Eq. 6 to 11, with time reversed. Chapter 6.
    """
    check_callable(mean_velocity, "mean_velocity")
    check_kind(path, AffinePath, "path")
    sample = path.sample(x0, x1, start)
    check_times(end, "a path")
    length = expand_time(end, x0) - expand_time(start, x0)
    if not bool((length >= 0).all()):
        raise ValueError("a start lies after its end; swap them with torch.minimum, torch.maximum")
    u = mean_velocity(sample.x_t, start, end)
    check_same_shape(u, x0, "u, x0")
    if u.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError("mean_velocity runs under torch.inference_mode(); take that away")
    rate = _rate(mean_velocity, sample, start, end)
    return mean_squared_norm(u - (sample.velocity + length * rate).detach())


@torch.no_grad()
def _rate(mean_velocity: MeanVelocity, sample: PathSample, start: Tensor, end: Tensor) -> Tensor:
    """Return du/dstart along the flow; it needs no graph, as the target has no gradient."""
    point, along = (sample.x_t, start), (sample.velocity, torch.ones_like(start))
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        # PyTorch warns of its own use of torch.jit when it loads its rules for forward mode
        warnings.simplefilter("ignore", FutureWarning)
        return torch.func.jvp(lambda x, s: mean_velocity(x, s, end), point, along)[1]
