"""Flow maps: jumps along the solutions of a flow, and the losses that learn them.

Chapter 10.
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.fields import (
    VelocityField,
    check_callable,
    check_kind,
    check_same_shape,
    check_times,
    expand_time,
)
from fmtutorial.losses import mean_squared_norm
from fmtutorial.paths import AffinePath, PathSample, Schedule
from fmtutorial.reflow import MeanVelocity
from fmtutorial.solvers import clock

FlowMap = Callable[[Tensor, Tensor, Tensor], Tensor]
"""X(x, start, end): where the solution that is at x at time start is at time end."""


def jump(mean_velocity: MeanVelocity, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Return x + (end − start) u(x, start, end): where one jump ends.

    Shapes (B, *event) and (B,); times in [0, 1], in any order.

    Source: Boffi et al. 2025, Sec. 2. Chapter 10.
    """
    length = _length(x, start, end)
    return x + length * _answer("u", mean_velocity, x, start, end)


def jump_along(mean_velocity: MeanVelocity, x: Tensor, times: Tensor) -> Tensor:
    """Jump from time to time of a grid of T − 1 jumps, and return the states at the last.

    Shapes (B, *event) and (T,), in single or double precision; the grid is strictly monotone in
    [0, 1]. (0, 1) is one jump from noise to data.

    Raises:
        FloatingPointError: a state is not finite; the message names the jump.

    Source: Geng et al. 2025, Sec. 4.1. Chapter 10.
    """
    grid = clock(times, x)
    for start, end in zip(grid[:-1], grid[1:], strict=True):
        x = jump(mean_velocity, x, start.expand(len(x)), end.expand(len(x)))
        if not bool(torch.isfinite(x).all()):
            raise FloatingPointError(
                f"the state is not finite after the jump from t = {start:g} to {end:g}: "
                "look at x and at the network's weights"
            )
    return x


def gaussian_flow_map(path: AffinePath, target: Gaussian) -> FlowMap:
    """Return the flow map for x₀ ~ N(0, I) and data N(m, Σ), in closed form.

    X(x, s, t) = α_t m + C_t^½ C_s^(−½) (x − α_s m) with C_t = α_t² Σ + σ_t² I: what is a normal
    variable at s is the same one at t, moved and stretched.

    It takes x of shape (B, *event) and times of shape (B,) in [0, 1], in any order, and raises a
    ``ValueError`` at a start where C is singular. It can be pickled.

    Source: the flow of a Gaussian path, chapter 2. Chapter 10.
    """
    check_kind(path, AffinePath, "path")
    check_kind(target, Gaussian, "target")
    return partial(_gaussian_jump, path.schedule, target.as_mixture)


def _gaussian_jump(
    schedule: Schedule, law: GaussianMixture, x: Tensor, start: Tensor, end: Tensor
) -> Tensor:
    _length(x, start, end)
    s, t = (expand_time(time, x).reshape(-1, 1) for time in (start, end))
    seen = law.observe(x, schedule.alpha(s).to(x), schedule.sigma(s).to(x))
    alpha, sigma = schedule.alpha(t).to(x), schedule.sigma(t).to(x)
    variances = alpha**2 * seen.variances + sigma**2  # (B, D) or (B, 1)
    moved = (variances / seen.totals[:, 0]).sqrt() * seen.offsets[:, 0]
    if seen.rotations is not None:
        moved = moved @ seen.rotations[0].mT
    return (alpha * seen.means + moved).reshape(x.shape)


def improved_mean_flow_loss(
    mean_velocity: MeanVelocity,
    path: AffinePath,
    x0: Tensor,
    x1: Tensor,
    start: Tensor,
    end: Tensor,
    field: VelocityField | None = None,
) -> Tensor:
    """Return the mean of ‖u − (end − start) du/dstart − w‖², with the derivative frozen.

    The Eulerian equation as a regression on the velocity w of the line. The derivative is taken
    along the network's own velocity u(x, start, start), so that no noise enters it; its floor is
    that of flow matching. For end = start it is flow matching.

    Args:
        mean_velocity: u(x, start, end), differentiable in forward mode; attention in its plain
            form, as in ``mean_flow_loss``.
        path: gives x at time start and its velocity w.
        x0: noise, shape (B, *event).
        x1: data, shape of x0.
        start: times of the states, shape (B,), in the interval of the path's velocity.
        end: shape (B,), not below start.
        field: a teacher v(x, t), such as a guided model; it stands for w and for the tangent.

    Returns:
        Shape ().

    Raises:
        ValueError: a time lies outside its interval or above its end, or mean_velocity runs under
            ``torch.inference_mode()``, where its derivative would be 0.

    Source: Geng et al. 2025b, Eq. 12, with time reversed. Chapter 10.
    """
    at, length = _meet(path, x0, x1, start, end, field)
    u = _answer("u", mean_velocity, at.x_t, start, end)
    along = at.velocity if field is not None else _now(mean_velocity, None, at.x_t, start)
    with torch.no_grad():
        point, tangent = (at.x_t, start), (along, torch.ones_like(start))
        _, rate = _derivative(lambda x, s: mean_velocity(x, s, end), point, tangent)
    return mean_squared_norm(u - length * rate - at.velocity)


def lagrangian_loss(
    mean_velocity: MeanVelocity,
    path: AffinePath,
    x0: Tensor,
    x1: Tensor,
    start: Tensor,
    end: Tensor,
    field: VelocityField | None = None,
) -> Tensor:
    """Return the mean of ‖dX/dend − v(X, end)‖² for the jump X from start to end; v frozen.

    v is the network's own velocity u(X, end, end), or that of a teacher. Pairs with end = start
    are flow matching: nothing else shows the network a velocity of the data. Arguments, result
    and errors as of ``improved_mean_flow_loss``; a ``field`` is asked at ``end`` too.

    Source: Boffi et al. 2025, Lagrangian self-distillation; Boffi et al. 2024 with a teacher.
    Chapter 10.
    """
    at, length = _meet(path, x0, x1, start, end, field)
    land = partial(jump, mean_velocity, at.x_t, start)
    try:
        landed, rate = _derivative(land, (end,), (torch.ones_like(end),))
    except RuntimeError:
        land(end)  # without a derivative it says in words what is wrong
        raise
    there = _now(mean_velocity, field, landed, end)
    return mean_squared_norm(rate - torch.where(length == 0, at.velocity, there))


def shortcut_loss(
    mean_velocity: MeanVelocity,
    path: AffinePath,
    x0: Tensor,
    x1: Tensor,
    start: Tensor,
    end: Tensor,
    field: VelocityField | None = None,
) -> Tensor:
    """Return the mean of ‖u(x, start, end) − ½ (u₁ + u₂)‖² over two jumps of half the length.

    The semigroup at the midpoint m: u₁ = u(x, start, m) and u₂ = u(X, m, end) with X where the
    first jump ends; both frozen. Pairs with end = start are flow matching: nothing else shows the
    network a velocity of the data. Arguments, result and errors as of
    ``improved_mean_flow_loss``, without forward mode; a ``field`` stands for w.

    Source: Frans et al. 2024, Eq. 5. Chapter 10.
    """
    at, length = _meet(path, x0, x1, start, end, field)
    u = _answer("u", mean_velocity, at.x_t, start, end)
    with torch.no_grad():
        middle = (start + end) / 2
        first = _answer("u", mean_velocity, at.x_t, start, middle)
        second = _answer("u", mean_velocity, at.x_t + length / 2 * first, middle, end)
    return mean_squared_norm(u - torch.where(length == 0, at.velocity, (first + second) / 2))


def consistency_loss(
    mean_velocity: MeanVelocity,
    path: AffinePath,
    x0: Tensor,
    x1: Tensor,
    start: Tensor,
    later: Tensor,
) -> Tensor:
    """Return the mean of ‖X(x_start, start, 1) − X(x_later, later, 1)‖², the second frozen.

    Two points of one line, both taken to t = 1 by the network; at later = 1 the second is the
    data. Only u(x, s, 1) is trained. For later → start the gradient, divided by later − start,
    tends to that of ``mean_flow_loss`` with end = 1 and the weight 1 − start.

    Shapes as of ``improved_mean_flow_loss``; both times in the interval of the path's velocity,
    later not below start.

    Source: Song et al. 2023, Eq. 10, with squared distances. Chapter 10.
    """
    at, _ = _meet(path, x0, x1, start, later)
    one = torch.ones_like(start)
    guess = jump(mean_velocity, at.x_t, start, one)
    with torch.no_grad():
        target = jump(mean_velocity, path.sample(x0, x1, later).x_t, later, one)
    return mean_squared_norm(guess - target)


def _length(x: Tensor, start: Tensor, end: Tensor) -> Tensor:
    for time in (start, end):
        check_times(time, "a path")
    return expand_time(end, x) - expand_time(start, x)


def _meet(
    path: AffinePath,
    x0: Tensor,
    x1: Tensor,
    start: Tensor,
    end: Tensor,
    field: VelocityField | None = None,
) -> tuple[PathSample, Tensor]:
    """Return the points at start with their velocities, the teacher's if there is one; lengths."""
    check_kind(path, AffinePath, "path")
    at = path.sample(x0, x1, start)
    length = _length(x0, start, end)
    if not bool((length >= 0).all()):
        raise ValueError("a start lies after its end; swap them with torch.minimum, torch.maximum")
    if field is None:
        return at, length
    with torch.no_grad():
        return PathSample(at.x_t, _answer("v", field, at.x_t, start)), length


@torch.no_grad()
def _now(mean_velocity: MeanVelocity, field: VelocityField | None, x: Tensor, t: Tensor) -> Tensor:
    """Return the velocity at x and t: the teacher's, or the network's own without one."""
    return _answer("u", mean_velocity, x, t, t) if field is None else _answer("v", field, x, t)


def _answer(name: str, function: Callable[..., Tensor], x: Tensor, *times: Tensor) -> Tensor:
    check_callable(function, name)
    value = function(x, *times)
    check_same_shape(value, x, f"{name}, x")
    if value.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(f"{name} runs under torch.inference_mode(); take that away")
    return value


def _derivative(
    function: Callable[..., Tensor], point: tuple[Tensor, ...], along: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Return a function and its derivative along a direction, by forward mode."""
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        # PyTorch warns of its own use of torch.jit when it loads its rules for forward mode
        warnings.simplefilter("ignore", FutureWarning)
        return torch.func.jvp(function, point, along)
