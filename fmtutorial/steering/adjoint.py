"""Adjoint matching: the gradient of a value, learned from what noisy paths carry back.

Chapter 11.
"""

import torch
from torch import Tensor

from fmtutorial.fields import (
    VelocityField,
    check_callable,
    check_kind,
    check_same_shape,
    expand_time,
    gradients,
    outside_inference,
)
from fmtutorial.losses import mean_squared_norm
from fmtutorial.paths import AffinePath
from fmtutorial.solvers import Solution
from fmtutorial.steering.control import leaf, memoryless_strength


def lean_adjoint(
    field: VelocityField, path: AffinePath, solution: Solution, gradient: Tensor
) -> Tensor:
    """Carry ∇r backwards along solutions of an SDE: da/dt = −(∂b/∂x)ᵀ a.

    b = 2v − (α̇/α) x is the drift of the *base* field with memoryless noise, whichever field made
    the solution. So a is the derivative of r(x_T) in x_t if noise and control stay as they are.
    Euler's method for a/α, whose equation is not stiff at early times.

    Args:
        field: v(x, t), the base.
        path: of the field.
        solution: of ``solve_sde``, on times that increase, with α > 0.
        gradient: ∇r at the last states, shape (B, *event).

    Returns:
        Shape (T, B, *event), as the states.

    Raises:
        ValueError: the solution lacks states, or its times do not increase or begin where α = 0,
            or the field keeps no graph.

    Source: Domingo-Enrich et al. 2024, lean adjoint. Chapter 11.
    """
    states, times = _of_solution(field, path, solution)
    check_same_shape(gradient, states[-1], "gradient, the last states")
    found = [gradient]
    for x, t, end in reversed(list(zip(states[:-1], times[:-1], times[1:], strict=True))):
        time = t.expand(len(x))
        _ = memoryless_strength(path.schedule, time)  # refuses α = 0
        with gradients():
            at = leaf(x)
            v = field(at, outside_inference(time))
            check_same_shape(v, x, "v, x")
            if not v.requires_grad:
                raise ValueError("field must return v(x, t) with its graph: ∂v/∂x is needed")
            back = torch.autograd.grad(v, at, outside_inference(found[-1]))[0]
        shrunk = path.schedule.alpha(t) / path.schedule.alpha(end)
        found.append(shrunk * (found[-1] + 2 * (end - t) * back))
    return torch.stack(found[::-1])


def adjoint_matching_loss(
    network: VelocityField,
    field: VelocityField,
    path: AffinePath,
    solution: Solution,
    adjoint: Tensor,
) -> Tensor:
    """Return the mean over b of Σ_i h_i (2/λ*) ‖network − v − λ* a‖² over all times but the last.

    Its minimiser is the field of the tilted law if solution and adjoint are made anew from the
    network, again and again; no gradient goes through them.

    Args:
        network: the field that learns, which made the solution.
        field: v(x, t), the base.
        path: of both.
        solution: see ``lean_adjoint``.
        adjoint: from ``lean_adjoint``, shape (T, B, *event).

    Source: Domingo-Enrich et al. 2024, adjoint matching. Chapter 11.
    """
    check_callable(network, "network")
    states, times = _of_solution(field, path, solution)
    check_same_shape(adjoint, states, "adjoint, states")
    x, a = states[:-1].flatten(0, 1).detach(), adjoint[:-1].flatten(0, 1).detach()
    t, steps = (part.repeat_interleave(states.shape[1]) for part in (times[:-1], times.diff()))
    strength = memoryless_strength(path.schedule, t).to(x)
    learned = network(x, t)
    check_same_shape(learned, x, "network(x, t), x")
    with torch.no_grad():
        base = field(x, t)
        check_same_shape(base, x, "v, x")
        wanted = base + expand_time(strength, x) * a
    weight = expand_time((steps.to(x) * 2 / strength).sqrt(), x)
    return mean_squared_norm(weight * (learned - wanted)) * (len(times) - 1)


def _of_solution(
    field: VelocityField, path: AffinePath, solution: Solution
) -> tuple[Tensor, Tensor]:
    check_callable(field, "field")
    check_kind(path, AffinePath, "path")
    check_kind(solution, Solution, "solution")
    states, times = solution.states, solution.times
    if len(states) != len(times) or not bool((times.diff() > 0).all()) or len(times) < 2:
        raise ValueError("the solution must hold the states at all of its times, which increase")
    return states, times.to(states.device)
