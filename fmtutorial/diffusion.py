"""Diffusion as flow matching: noise prediction, the SDE family, DDIM and DDPM steps.

Chapter 7.
"""

from collections import deque
from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor

from fmtutorial.fields import (
    VelocityField,
    check_callable,
    check_kind,
    check_number,
    check_same_shape,
    check_times,
    expand_time,
    generator_device,
)
from fmtutorial.losses import mean_squared_norm
from fmtutorial.paths import QUANTITIES, AffinePath, Schedule
from fmtutorial.solvers import (
    CountedField,
    ScalarTimeField,
    Solution,
    Step,
    clock,
    half_log_snr,
    time_of,
)


def noise_prediction_loss(
    network: VelocityField, path: AffinePath, x0: Tensor, x1: Tensor, t: Tensor
) -> Tensor:
    """Return the loss of DDPM: the mean over b of ‖network(x_t, t) − x₀‖².

    Summed over an event, averaged over the batch. It is ``flow_matching_loss`` of the velocity
    ``as_velocity(network, path, "noise")``, with the weight (α/Δ)² at each time,
    Δ = α̇σ − ασ̇.

    Args:
        network: (x, t) → predicted noise.
        path: gives x_t.
        x0: noise, shape (B, *event).
        x1: data, shape of x0.
        t: shape (B,), in [0, 1], or [0, 1) where σ̇ diverges at 1.

    Returns:
        Shape ().

    Source: Ho et al. 2020, Eq. 14. Chapter 7.
    """
    check_callable(network, "network")
    check_kind(path, AffinePath, "path")
    noise = network(path.sample(x0, x1, t).x_t, t)
    check_same_shape(noise, x0, "prediction, x0")
    return mean_squared_norm(noise - x0)


def as_velocity(network: VelocityField, path: AffinePath, given: str) -> VelocityField:
    """Wrap a network that predicts "noise", "data" or "score" so that it returns the velocity.

    The result is defined where ``AffinePath.convert`` from ``given`` to "velocity" is. It can be
    pickled if the network can, as all fields that this module and ``conventions`` make.

    Raises:
        ValueError: an unknown quantity.
    """
    check_callable(network, "network")
    check_kind(path, AffinePath, "path")
    if given not in QUANTITIES:
        raise ValueError(f'unknown quantity "{given}"; choose from {", ".join(QUANTITIES)}')
    return partial(_converted, network, path, given)


def _converted(
    network: VelocityField, path: AffinePath, given: str, x: Tensor, t: Tensor
) -> Tensor:
    return path.convert(network(x, t), x, t, given, "velocity")


def change_schedule(field: VelocityField, path: AffinePath, wanted: AffinePath) -> VelocityField:
    """Turn the velocity field of one path into that of another with the same noise and data.

    States with the same signal-to-noise ratio are the same up to a factor, with the same
    predictions of data and noise. So a network is trained once and used with any schedule.

    Args:
        field: v(x, t) of ``path``.
        path: the schedule of training.
        wanted: the schedule to sample with.

    Returns:
        The field of ``wanted``, on the times at which both velocities are defined. Where ``path``
        never has the ratio (before its first noise level), the nearer end is used.

    Source: Karras et al. 2022, App. B.2. Chapter 7.
    """
    check_callable(field, "field")
    check_kind(path, AffinePath, "path")
    check_kind(wanted, AffinePath, "wanted")
    return partial(_changed, field, path, wanted)


def _changed(
    field: VelocityField, path: AffinePath, wanted: AffinePath, x: Tensor, t: Tensor
) -> Tensor:
    ours, theirs = wanted.schedule, path.schedule
    tau = time_of(theirs, half_log_snr(ours, t))
    size = torch.hypot(theirs.alpha(tau), theirs.sigma(tau))
    moved = expand_time(size / torch.hypot(ours.alpha(t), ours.sigma(t)), x) * x
    velocity = field(moved, tau)
    data = path.convert(velocity, moved, tau, "velocity", "data")
    noise = path.convert(velocity, moved, tau, "velocity", "noise")
    ours.check_velocity_times(t)
    time = expand_time(t, x)
    return ours.alpha_dot(time) * data + ours.sigma_dot(time) * noise


def ddim(path: AffinePath, eta: float = 0.0, generator: Generator | None = None) -> Step:
    """Return the step x' = α' x̂₁ + √(σ'² − η²b²) x̂₀ + η b ξ of DDIM, for ``solve``.

    x̂₁ and x̂₀ are the predictions of data and noise at (x, t), and b is the standard deviation of
    x' given x and x₁: b² = (σ'/σ)² (σ² − (α/α')² σ'²). With η = 0 it is the exponential Euler
    step of the ODE, with η = 1 the ancestral step of DDPM. Order 1, one evaluation a step.

    Args:
        path: of the field.
        eta: from 0 to 1; above 0 the grid must increase.
        generator: of ξ ~ N(0, I), on the device of the states.

    Raises:
        ValueError: eta is outside [0, 1]; the step, when it ends outside [0, 1], or when it is
            negative and eta > 0.

    Source: Song, Meng and Ermon 2021, Eq. 12 and 16. Chapter 7.
    """
    check_kind(path, AffinePath, "path")
    check_number(eta, "eta", 0, 1)
    generator_device(generator)  # refuses a seed
    return partial(_ddim_step, path, eta, generator)


def _ddim_step(
    path: AffinePath,
    eta: float,
    generator: Generator | None,
    v: ScalarTimeField,
    x: Tensor,
    t: Tensor,
    h: Tensor,
) -> Tensor:
    s, end = path.schedule, t + h
    check_times(end, "a path")
    velocity, times = v(x, t), t.expand(len(x))
    data = path.convert(velocity, x, times, "velocity", "data")
    noise = path.convert(velocity, x, times, "velocity", "noise")
    if eta == 0:
        return s.alpha(end) * data + s.sigma(end) * noise
    if not h > 0:
        raise ValueError("with eta > 0 times must increase: fresh noise cannot be undone")
    forward = s.sigma(t) ** 2 - (s.alpha(t) / s.alpha(end) * s.sigma(end)) ** 2
    added = eta * s.sigma(end) / s.sigma(t) * forward.sqrt()
    kept = (s.sigma(end) ** 2 - added**2).clamp(min=0).sqrt()
    fresh = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return s.alpha(end) * data + kept * noise + added * fresh


def reversal_noise_level(schedule: Schedule) -> Callable[[Tensor], Tensor]:
    """Return w(t) = √(2σΔ/α), Δ = α̇σ − ασ̇, for ``solve_sde``.

    At this noise level the SDE is the time reversal of the diffusion that turns data into noise,
    and DDPM's ancestral sampler is its discretisation. For VP it is √β. Infinite where α = 0.

    Source: Anderson 1982; Song, Sohl-Dickstein et al. 2021. Chapter 7.
    """
    check_kind(schedule, Schedule, "schedule")
    return partial(_reversal_noise_level, schedule)


def _reversal_noise_level(schedule: Schedule, t: Tensor) -> Tensor:
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    delta = schedule.alpha_dot(t) * sigma - alpha * schedule.sigma_dot(t)
    return torch.sqrt(2 * sigma * delta / alpha)


def solve_sde(
    field: VelocityField,
    x: Tensor,
    times: Tensor,
    path: AffinePath,
    noise_level: Callable[[Tensor], Tensor],
    generator: Generator | None = None,
    last_only: bool = False,
) -> Solution:
    """Integrate dx = [v + (w²/2) ∇log p_t] dt + w dW by the method of Euler and Maruyama.

    For every noise level w(t) ≥ 0 the solution has the densities p_t of the ODE. The score comes
    from the velocity by ``AffinePath.convert``. On a decreasing grid the same densities are
    run through backwards: dx = [v − (w²/2) ∇log p_t] dt + w dW with dt < 0. One evaluation a
    step; order 1/2 for each path, 1 for the distribution.

    Args:
        field: v(x, t), the velocity of this path.
        x: states at times[0], shape (B, *event).
        times: shape (T,), strictly monotone; at all but the last, w = 0 or σ > 0.
        path: of the field.
        noise_level: w(t), a function from a time of shape () to a tensor of shape ().
        generator: of the noise, on the device of x.
        last_only: see ``solve``.

    Returns:
        The states at all times, and the number of evaluations.

    Raises:
        TypeError: x or times in half precision.
        ValueError: a wrong grid, a noise level that is negative or not finite, or a time at which
            the score is not defined.

    Source: Song, Sohl-Dickstein et al. 2021, App. D; Albergo, Boffi and Vanden-Eijnden 2023.
    Chapter 7.
    """
    times = clock(times, x)
    check_kind(path, AffinePath, "path")
    check_callable(noise_level, "noise_level")
    generator_device(generator)  # refuses a seed
    counted, states = CountedField(field), deque([x], maxlen=1 if last_only else None)
    for t, end in zip(times[:-1], times[1:], strict=True):
        h, level = end - t, noise_level(t)
        if not isinstance(level, Tensor | float) or isinstance(level, Tensor) and level.ndim:
            raise TypeError(
                f"the noise level is {level!r} at t = {t:g}; return a tensor of shape ()"
            )
        if not 0 <= level < torch.inf:
            raise ValueError(f"the noise level is {level:g} at t = {t:g}; it must be finite, ≥ 0")
        velocity = counted(x, t)
        moved = x + h * velocity
        if level > 0:
            score = path.convert(velocity, x, t.expand(len(x)), "velocity", "score")
            noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            moved = moved + h.abs() * level**2 / 2 * score + level * h.abs().sqrt() * noise
        x = moved
        states.append(x)
    if not bool(torch.isfinite(x).all()):
        raise FloatingPointError("the last state is not finite: take smaller steps")
    return Solution(times[-len(states) :], torch.stack(tuple(states)), counted.evaluations)
