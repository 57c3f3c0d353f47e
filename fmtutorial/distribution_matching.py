"""One-step generators from a difference of two scores: by networks, and by kernels.

Chapter 10.
"""

import math
from functools import partial

import torch
from torch import Generator, Tensor

from fmtutorial.fields import (
    VelocityField,
    check_callable,
    check_kind,
    check_number,
    check_same_shape,
    check_state,
    check_times,
    flatten,
    generator_device,
)
from fmtutorial.losses import mean_squared_norm
from fmtutorial.paths import AffinePath
from fmtutorial.solvers import ScalarTimeField, Step


def distribution_matching_loss(
    x1: Tensor,
    student: VelocityField,
    target: VelocityField,
    path: AffinePath,
    t: Tensor,
    x0: Tensor,
    normalised: bool = True,
) -> Tensor:
    """Return a number whose gradient moves a student's samples towards the target's distribution.

    The gradient in row b of x₁ is g_b/B with g = D_student − D_target, the posterior means
    E[x₁ | x_t] of the two fields at x_t = α x₁ + σ x₀, or with g over the mean absolute value of
    x₁ − D_target in that row. With x₁ = G(z) and exact fields, the mean of (∂G)ᵀ g is the gradient
    of (σ²/α²) KL(q_t‖p_t) where α > 0: q_t are the student's samples with noise, p_t the target's.
    The value is the mean over b of ½‖g_b‖². It is 0 where the fields agree, but it is not what
    falls: no gradient goes through a field, and each is evaluated once.

    Args:
        x1: the student's samples G(z), with their graph, shape (B, *event).
        student: v(x, t) of the path from noise to the student's samples: a second network,
            trained by ``flow_matching_loss`` on detached samples.
        target: v(x, t) of the path to the data.
        path: of both fields.
        t: shape (B,), where the path has a velocity; normalised, also where σ > 0.
        x0: noise, shape of x1, not that which the samples were made from.
        normalised: whether to divide by the mean absolute error of the target's posterior mean.

    Returns:
        Shape ().

    Raises:
        ValueError: t lies outside the interval; or the target's posterior mean is a sample
            itself, so that there is nothing to divide by.

    Source: Yin et al. 2024, Eq. 7 and 8; Luo et al. 2023 without the division. Chapter 10.
    """
    check_callable(student, "student")
    check_callable(target, "target")
    check_kind(path, AffinePath, "path")
    with torch.no_grad():
        x_t = path.sample(x0, x1, t).x_t
        ours, wanted = (_posterior_mean(field, path, x_t, t) for field in (student, target))
        g = ours - wanted
        if normalised:
            error = flatten(x1 - wanted).abs().mean(dim=1)
            if bool((error == 0).any()):
                raise ValueError(
                    "the target's posterior mean is the sample itself, so the error to divide by "
                    "is 0; keep t below 1, or pass normalised=False"
                )
            g = g / error.reshape(-1, *[1] * (x1.ndim - 1))
    return 0.5 * mean_squared_norm(x1 - x1.detach() + g)  # x₁ − x₁ is 0, with a gradient


def _posterior_mean(field: VelocityField, path: AffinePath, x: Tensor, t: Tensor) -> Tensor:
    """Return E[x₁ | x_t = x] as a velocity field knows it."""
    velocity = field(x, t)
    check_same_shape(velocity, x, "v, x")
    return path.convert(velocity, x, t, "velocity", "data")


@torch.no_grad()
def kernel_drift(x: Tensor, data: Tensor, own: Tensor, width: float) -> Tensor:
    """Return V(x) = M_data(x) − M_own(x): towards the data nearby, away from own samples nearby.

    M_y(x) = Σ_j w_j y_j is the mean of points y with weights w_j ∝ exp(−‖x − y_j‖²/(2h²)). With
    this kernel V is exactly h² (∇ log p_h − ∇ log q_h), where p_h and q_h are the data and the own
    samples blurred by N(0, h² I): the difference of two scores, without a network. Move the
    samples along it: regress G(z) on G(z) + V(G(z)), the latter without gradients.

    Args:
        x: where, shape (B, *event).
        data: shape (N, *event), N ≥ 1.
        own: samples of the student, shape (M, *event), M ≥ 1. Draw them anew: a sample among
            them that is x itself gets the largest weight and pushes nowhere.
        width: h > 0, in the unit of x. Where no point is within a few h, the nearest one decides.

    Returns:
        Shape of x, without gradients.

    Raises:
        ValueError: event shapes differ, a set is empty, or the width is not positive.

    Source: Deng et al. 2026, with a Gaussian kernel. Chapter 10.
    """
    check_number(width, "width", low=0, without_low=True)
    check_state(x)
    means = []
    for points, name in ((data, "data"), (own, "own")):
        check_state(points, name)
        if points.shape[1:] != x.shape[1:] or len(points) == 0:
            raise ValueError(
                f"{name} has shape {tuple(points.shape)}; for x of shape {tuple(x.shape)} pass "
                f"one or more points of shape {tuple(x.shape[1:])}"
            )
        means.append(_kernel_mean(flatten(x), flatten(points), width))
    return (means[0] - means[1]).reshape(x.shape)


def _kernel_mean(x: Tensor, points: Tensor, width: float) -> Tensor:
    """Return the mean of the points, (N, D), with the kernel's weights around each x, (B, D)."""
    # differences first: ‖x‖² − 2 x·y + ‖y‖² would cancel
    distance = torch.cdist(x, points, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.softmax(-0.5 * (distance / width).square(), dim=1) @ points


def renoise(path: AffinePath, bound: float = math.inf, generator: Generator | None = None) -> Step:
    """Return the step x' = α' x̂₁ + σ' ξ for ``solve``: jump to the data, and put noise on anew.

    x̂₁ is the data that the field predicts at (x, t). A network that makes samples in one jump is
    asked again, at a later time, by a grid such as 0, ½, 1: one evaluation a step.

    Args:
        path: of the field.
        bound: x̂₁ is cut to [−bound, bound]. Pixels end there, and a network that may go beyond
            learns more easily to make them black.
        generator: of ξ ~ N(0, I), on the device of the states.

    Raises:
        ValueError: bound is not positive; the step, when it ends outside [0, 1] or does not go
            forward.

    Source: Song, Dhariwal et al. 2023, Algorithm 1. Chapter 10.
    """
    check_kind(path, AffinePath, "path")
    if bound != math.inf:
        check_number(bound, "bound", low=0, without_low=True)
    generator_device(generator)  # refuses a seed
    return partial(_renoise_step, path, bound, generator)


def _renoise_step(
    path: AffinePath,
    bound: float,
    generator: Generator | None,
    v: ScalarTimeField,
    x: Tensor,
    t: Tensor,
    h: Tensor,
) -> Tensor:
    end = t + h
    check_times(end, "a path")
    if not h > 0:
        raise ValueError("times must increase: fresh noise cannot be undone")
    data = path.convert(v(x, t), x, t.expand(len(x)), "velocity", "data").clamp(-bound, bound)
    fresh = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return path.schedule.alpha(end) * data + path.schedule.sigma(end) * fresh
