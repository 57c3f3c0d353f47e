"""The exercises of chapter 6."""

from collections.abc import Callable

import torch
from torch import Tensor

from fmtutorial.coursework.exercises import Draw, Exercise
from fmtutorial.fields import VelocityField, expand_time
from fmtutorial.reflow import MeanVelocity
from fmtutorial.reflow import distillation_loss as package_distillation_loss
from fmtutorial.reflow import straightness as package_straightness
from fmtutorial.solvers import Solution


def straightness(states: Tensor, times: Tensor) -> Tensor:
    """Return S of the polygons through the states, shape ()."""
    return states.new_tensor(package_straightness(Solution(times, states, 0)))


def distillation_loss(v: VelocityField, x0: Tensor, x1: Tensor) -> Tensor:
    """Return the mean of ‖x₀ + v(x₀, 0) − x₁‖², shape ()."""
    return package_distillation_loss(v, x0, x1)


def mean_velocity_target(
    u: MeanVelocity, x: Tensor, start: Tensor, end: Tensor, velocity: Tensor
) -> Tensor:
    """Return w + (t − s)(∂_s u + (w·∇) u), shaped like x."""
    rate = _rate(u, (x, start, end), (velocity, torch.ones_like(start), torch.zeros_like(end)))
    return velocity + expand_time(end - start, x) * rate


def _rate(u: MeanVelocity, point: tuple[Tensor, ...], tangent: tuple[Tensor, ...]) -> Tensor:
    """Return the derivative of u in a direction, by reverse mode twice."""
    point = tuple(a.clone().requires_grad_() for a in point)
    value = u(*point)
    weight = torch.ones_like(value, requires_grad=True)
    # Gradients are linear in the weight; the transpose of that map is the derivative wanted
    gradients = torch.autograd.grad(value, point, weight, create_graph=True)
    along = sum((g * d).sum() for g, d in zip(gradients, tangent, strict=True))
    return torch.autograd.grad(along, weight)[0]


def _squares(x: Tensor) -> Tensor:
    """Sum the squares over the event, shape (B,)."""
    return x.square().reshape(len(x), -1).sum(dim=1)


def _bends(
    states: Tensor, times: Tensor, divide: bool = True, even: bool = False, line: float = 1.0
) -> Tensor:
    """Integrate over the time only, shape (B,), with switches for mistakes."""
    gaps = times.diff()
    total = torch.zeros_like(_squares(states[0]))
    for i, gap in enumerate(gaps):
        move = (states[i + 1] - states[i]) / (gap if divide else 1)
        weight = 1 / len(gaps) if even else gap
        total = total + weight * _squares(line * (states[-1] - states[0]) - move)
    return total


def _last_only(states: Tensor, times: Tensor) -> Tensor:
    line, gaps = states[-1] - states[0], times.diff()
    squares = [
        gap * (line - (b - a) / gap).square().sum(dim=-1)
        for a, b, gap in zip(states[:-1], states[1:], gaps, strict=True)
    ]
    return torch.stack(squares).sum(dim=0).mean()


def _unsquared(states: Tensor, times: Tensor) -> Tensor:
    line, gaps = states[-1] - states[0], times.diff()
    norms = [
        gap * _squares(line - (b - a) / gap).sqrt()
        for a, b, gap in zip(states[:-1], states[1:], gaps, strict=True)
    ]
    return torch.stack(norms).sum(dim=0).mean()


def _miss(v: VelocityField, x0: Tensor, x1: Tensor, time: float = 0.0) -> Tensor:
    """Where the step ends, less where it should."""
    return x0 + v(x0, x0.new_full((len(x0),), time)) - x1


def _target(
    along: Callable[[Tensor, Tensor], Tensor] = lambda w, u: w,
    start_moves: float = 1.0,
    end_moves: float = 0.0,
    sign: float = 1.0,
    expand: bool = True,
) -> Callable[..., Tensor]:
    """Make a target with switches for mistakes."""

    def target(u: MeanVelocity, x: Tensor, start: Tensor, end: Tensor, velocity: Tensor) -> Tensor:
        one, tangent = torch.ones_like(start), along(velocity, u(x, start, end))
        rate = _rate(u, (x, start, end), (tangent, start_moves * one, end_moves * one))
        length = end - start
        if expand:
            length = expand_time(length, x)
        return velocity + sign * length * rate

    return target


def _solution(draw: Draw) -> tuple:
    setting, times = draw.setting, draw.grid(0, 1, draw.integer(3, 6))
    return draw.normal(len(times), setting.batch, *setting.event), times


def _pairs(draw: Draw) -> tuple:
    return draw.field(trainable=True), draw.normal(), draw.normal()


def _jumps(draw: Draw) -> tuple:
    field = draw.field()

    def u(x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Return a smooth function of all three, start and end of shape (B,)."""
        expand_time(end, x)
        return field(x, start * (1 + end) - end / 2)

    start, length = draw.times(0.1, 0.5), draw.times(0.2, 0.4)
    return u, draw.normal(), start, start + length, draw.normal()


EXERCISES = (
    Exercise(
        "reflow.straightness",
        straightness,
        _solution,
        {
            "The steps count alike. The grid is not even: each step counts with its length in the "
            "integral over time.": lambda x, times: _bends(x, times, even=True).mean(),
            "The displacement of a step is taken for its velocity. Divide it by the length of the "
            "step.": lambda x, times: _bends(x, times, divide=False).mean(),
            "This is the energy of the path. Straightness is about the difference between the "
            "whole displacement and the velocity.": (
                lambda x, times: _bends(x, times, line=0.0).mean()
            ),
            "The squares are averaged over the entries of an event. Sum over the event, and "
            "average over the batch.": (
                lambda x, times: _bends(x, times).mean() / max(1, x[0, 0].numel())
            ),
            "The batch is summed. Average over it.": lambda x, times: _bends(x, times).sum(),
            "The norms are not squared.": _unsquared,
            "The squares are added up over the last dimension. That is right only for events of "
            "shape (D,): sum over all dimensions of an event, and not over the batch.": _last_only,
        },
    ),
    Exercise(
        "reflow.distillation_loss",
        distillation_loss,
        _pairs,
        {
            "The squares are averaged over the entries of an event. Sum over the event, and "
            "average over the batch.": lambda v, x0, x1: _miss(v, x0, x1).square().mean(),
            "The batch is summed. Average over it.": (
                lambda v, x0, x1: _miss(v, x0, x1).square().sum()
            ),
            "The velocity is taken at t = 1. The step begins at t = 0.": (
                lambda v, x0, x1: _squares(_miss(v, x0, x1, time=1.0)).mean()
            ),
            "The velocity alone is compared with x1. Compare where the step ends: it begins at "
            "x0.": lambda v, x0, x1: _squares(_miss(v, x0, x1) - x0).mean(),
            "The velocity is taken at x1. The step begins at x0.": (
                lambda v, x0, x1: _squares(x0 + v(x1, x0.new_zeros(len(x0))) - x1).mean()
            ),
            "The norms are not squared.": lambda v, x0, x1: (
                _squares(_miss(v, x0, x1)).sqrt().mean()
            ),
            "The squares are added up over the last dimension. That is right only for events of "
            "shape (D,): sum over all dimensions of an event, and not over the batch.": (
                lambda v, x0, x1: _miss(v, x0, x1).square().sum(dim=-1).mean()
            ),
        },
        trains=True,
    ),
    Exercise(
        "reflow.mean_velocity_target",
        mean_velocity_target,
        _jumps,
        {
            "The second term has the wrong sign. With the start of the jump as the time that "
            "moves, it is (end − start) times the derivative, with a plus.": _target(sign=-1.0),
            "The derivative is not multiplied by the length of the jump, end − start.": (
                lambda u, x, start, end, velocity: (
                    velocity
                    + (mean_velocity_target(u, x, start, end, velocity) - velocity)
                    / expand_time(end - start, x)
                )
            ),
            "The first term is u. The target begins with the given velocity.": (
                lambda u, x, start, end, velocity: (
                    mean_velocity_target(u, x, start, end, velocity) - velocity + u(x, start, end)
                )
            ),
            "The end moves in the derivative and the start does not. It is the other way round.": (
                _target(start_moves=0.0, end_moves=1.0)
            ),
            "Only x moves in the derivative. The start moves too, by 1 per unit of time.": _target(
                start_moves=0.0
            ),
            "Only the start moves in the derivative. The state moves too, in the direction of the "
            "velocity.": _target(along=lambda w, u: torch.zeros_like(w)),
            "The end moves too in the derivative. It is fixed: its tangent is 0.": _target(
                end_moves=1.0
            ),
            "The state moves in the direction of u. Differentiate in the direction of the given "
            "velocity.": _target(along=lambda w, u: u),
            "Lengths of shape (B,) line up with the last dimension of the event. Give end − start "
            "the dimensions of x.": _target(expand=False),
        },
        points=2,
    ),
)
