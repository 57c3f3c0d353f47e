"""Steering: along the gradient of a value, exact or guessed, or by holding what is known.

Chapter 11.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor

from fmtutorial.diffusion import reversal_noise_level
from fmtutorial.fields import (
    VelocityField,
    check_callable,
    check_count,
    check_kind,
    check_same_shape,
    check_state,
    expand_time,
    generator_device,
    gradients,
    outside_inference,
)
from fmtutorial.paths import AffinePath, Schedule
from fmtutorial.solvers import ScalarTimeField, Step
from fmtutorial.steering.rewards import QuadraticReward, check_seen

Value = Callable[[Tensor, Tensor], Tensor]
"""V(x, t), shape (B,): log E[exp r(x₁) | x_t = x], or a guess of it."""


def memoryless_strength(schedule: Schedule, t: Tensor) -> Tensor:
    """Return λ*_t = σΔ/α, shape (B,): half the square of ``reversal_noise_level``.

    With dx = [v + λ* ∇log p] dt + √(2λ*) dW the sample does not remember the noise it began with.

    Raises:
        ValueError: a time at which α = 0 or σ̇ diverges.

    Source: Domingo-Enrich et al. 2024. Chapters 7 and 11.
    """
    level = reversal_noise_level(schedule)
    schedule.check_velocity_times(t)
    if not bool((schedule.alpha(t) > 0).all()):
        raise ValueError("t = 0, where α = 0 and the memoryless noise is infinite: begin later")
    return level(t) ** 2 / 2


def steered(field: VelocityField, path: AffinePath, value: Value) -> VelocityField:
    """Return v(x, t) + λ*_t ∇V(x, t), by automatic differentiation of V.

    With the exact value it is the field of the tilted law; with a guess, of something else.
    Defined where α > 0; begin after t = 0. Where x or t carries a gradient it passes through ∇V
    too, so that the field has its divergence.

    Args:
        field: v(x, t) of this path.
        path: of the field.
        value: V(x, t), shape (B,), such as an ``ExactValue``.

    Chapter 11.
    """
    check_callable(field, "field")
    check_kind(path, AffinePath, "path")
    check_callable(value, "value")
    return partial(_steered, field, path, value)


def _steered(field: VelocityField, path: AffinePath, value: Value, x: Tensor, t: Tensor) -> Tensor:
    check_state(x)
    strength = expand_time(memoryless_strength(path.schedule, t).to(x), x)
    follow = torch.is_grad_enabled() and (x.requires_grad or t.requires_grad)
    with gradients():
        at, time = x if x.requires_grad and follow else leaf(x), outside_inference(t)
        found = value(at, time)
        if not isinstance(found, Tensor) or not found.requires_grad or found.shape != x.shape[:1]:
            raise ValueError(
                f"value must return a tensor of shape ({len(x)},) that depends on x, with its graph"
            )
        slope = torch.autograd.grad(found.sum(), at, create_graph=follow)[0]
    velocity = field(x, t)
    check_same_shape(velocity, x, "v, x")
    return velocity + strength * slope


def leaf(x: Tensor) -> Tensor:
    """Return x as a variable of its own, to be differentiated by."""
    return outside_inference(x).detach().requires_grad_(True)


def guessed_value(
    field: VelocityField,
    path: AffinePath,
    reward: QuadraticReward,
    spread: Callable[[Tensor], Tensor] | None = None,
) -> Value:
    """Return V as if x₁ given x_t were N(x̂₁, spread(t) · I), with x̂₁ predicted by the field.

    Without a spread it is r(x̂₁), the guess of diffusion posterior sampling. With
    σ²/(α² + σ²), which is right for data N(0, I), it is that of pseudoinverse guidance.

    Args:
        field: v(x, t) of the path.
        path: of the field.
        reward: r.
        spread: from times (B,) to variances (B,).

    Source: Chung et al. 2023; Song, Vahdat et al. 2023. Chapter 11.
    """
    check_callable(field, "field")
    check_kind(path, AffinePath, "path")
    check_kind(reward, QuadraticReward, "reward")
    if spread is not None:
        check_callable(spread, "spread")
    return partial(_guessed, field, path, reward, spread)


def _guessed(
    field: VelocityField,
    path: AffinePath,
    reward: QuadraticReward,
    spread: Callable[[Tensor], Tensor] | None,
    x: Tensor,
    t: Tensor,
) -> Tensor:
    data = path.convert(field(x, t), x, t, "velocity", "data")
    if spread is None:
        return reward(data)
    return reward.log_mean(data, spread(t))


def replaced(
    step: Step,
    path: AffinePath,
    known: Tensor,
    mask: Tensor,
    repeats: int = 1,
    generator: Generator | None = None,
) -> Step:
    """Return a step after which the known entries are α' y + σ' ξ, with fresh noise ξ.

    It looks right, since at t = 1 what is known is there, and is not the conditional law: the
    other entries have been moved by a field that saw one noised copy of y. With repeats the state
    is taken back by the noise between the two times, and the step made again, as RePaint does.

    Args:
        step: of one evaluation of the field or more, such as ``euler``; it must not end before it
            begins.
        path: of the field.
        known: y, shape (*event); what it holds at the other entries is not read.
        mask: which entries are known, booleans of that shape.
        repeats: how often each step is made.
        generator: of the noise, on the device of the states.

    Source: Lugmayr et al. 2022. Chapter 11.
    """
    check_callable(step, "step")
    check_kind(path, AffinePath, "path")
    check_seen(known, mask)
    check_count(repeats, "repeats")
    generator_device(generator)
    return partial(_replaced, step, path.schedule, known, mask, int(repeats), generator)


def _replaced(
    step: Step,
    schedule: Schedule,
    known: Tensor,
    mask: Tensor,
    repeats: int,
    generator: Generator | None,
    v: ScalarTimeField,
    x: Tensor,
    t: Tensor,
    h: Tensor,
) -> Tensor:
    if x.shape[1:] != known.shape:
        raise ValueError(f"x has event shape {tuple(x.shape[1:])}; known {tuple(known.shape)}")
    if not h > 0:
        raise ValueError("times must increase: fresh noise cannot be undone")

    def noise() -> Tensor:
        return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)

    alpha, sigma = schedule.alpha(t + h), schedule.sigma(t + h)
    for repeat in range(repeats):
        if repeat > 0:
            back = schedule.alpha(t) / alpha
            x = back * x + (schedule.sigma(t) ** 2 - (back * sigma) ** 2).sqrt() * noise()
        moved = step(v, x, t, h)
        check_same_shape(moved, x, "the step's result, x")
        x = torch.where(mask.to(x.device), alpha * known.to(x) + sigma * noise(), moved)
    return x
