"""Bridges: noisy paths between paired points, the plan of Schrödinger's problem, two regressions.

Chapter 13.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from fmtutorial.fields import (
    VelocityField,
    check_callable,
    check_count,
    check_kind,
    check_number,
    check_same_shape,
    check_state,
    check_times,
    expand_time,
    generator_device,
)
from fmtutorial.losses import mean_squared_norm
from fmtutorial.paths import LINEAR, Schedule
from fmtutorial.solvers import ScalarTimeField, Solution, solve


def _check_sigma(sigma: float) -> None:
    if isinstance(sigma, int | float) and sigma == 0:
        raise ValueError(
            "sigma is 0: without noise there is no bridge; pair the points with "
            "couplings.exact_ot and take the lines of AffinePath(LINEAR)"
        )
    check_number(sigma, "sigma", low=0, without_low=True)


@dataclass(frozen=True)
class BridgeSample:
    """A point of a bridge, with the conditional velocity and the conditional score there."""

    x_t: Tensor
    velocity: Tensor
    score: Tensor


@dataclass(frozen=True)
class Bridge:
    """The noisy path x_t = α x₁ + σ_t x₀ + γ z between x₀ and x₁, with γ = σ √(t(1 − t)).

    On the linear schedule, x_t = t x₁ + (1 − t) x₀ + γ z, it is the Brownian bridge: Brownian
    motion σ W that starts in x₀, given that it ends in x₁. On another one it is a stochastic
    interpolant with latent noise. Velocity and score are defined for t in (0, 1), where γ > 0.

    Raises:
        ValueError: sigma is not a positive number.

    Source: Tong et al. 2024b; Albergo, Boffi and Vanden-Eijnden 2023. Chapter 13.
    """

    sigma: float
    schedule: Schedule = LINEAR

    def __post_init__(self) -> None:
        _check_sigma(self.sigma)
        check_kind(self.schedule, Schedule, "schedule")

    def sample(self, x0: Tensor, x1: Tensor, t: Tensor, noise: Tensor) -> BridgeSample:
        """Return x_t, its velocity α̇ x₁ + σ̇_t x₀ + γ̇ z, and the score −z/γ.

        Args:
            x0: the start, shape (B, *event); any distribution.
            x1: the end, shape of x0.
            t: shape (B,), in (0, 1).
            noise: z ~ N(0, I), shape of x0.
        """
        line, moving = self._line(x0, x1, t)
        check_same_shape(noise, x0, "noise, x0")
        gamma, rate = self._gamma(t, x0)
        return BridgeSample(line + gamma * noise, moving + rate * gamma * noise, -noise / gamma)

    def conditional_velocity(self, x: Tensor, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """Return u_t(x | x₀, x₁) = α̇ x₁ + σ̇_t x₀ + (1 − 2t)/(2t(1 − t)) (x − α x₁ − σ_t x₀).

        Shapes (B, *event), t in (0, 1).
        """
        check_same_shape(x, x0, "x, x0")
        line, moving = self._line(x0, x1, t)
        return moving + self._gamma(t, x)[1] * (x - line)

    def conditional_score(self, x: Tensor, x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """Return ∇ log p_t(x | x₀, x₁) = −(x − α x₁ − σ_t x₀) / γ²; as of the velocity."""
        check_same_shape(x, x0, "x, x0")
        return -(x - self._line(x0, x1, t)[0]) / self._gamma(t, x)[0] ** 2

    def _line(self, x0: Tensor, x1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        check_same_shape(x0, x1, "x0, x1")
        time, s = expand_time(t, x0), self.schedule
        check_times(t, "a bridge")
        s.check_velocity_times(t)
        here = s.alpha(time) * x1 + s.sigma(time) * x0
        return here, s.alpha_dot(time) * x1 + s.sigma_dot(time) * x0

    def _gamma(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return γ and γ̇/γ."""
        if not bool(((t > 0) & (t < 1)).all()):
            raise ValueError("at t = 0 and t = 1 a bridge has no noise and no score; keep t inside")
        time = expand_time(t, x)
        both = time * (1 - time)
        return self.sigma * both.sqrt(), (1 - 2 * time) / (2 * both)


def drifts(
    velocity: VelocityField, score: VelocityField, sigma: float
) -> tuple[VelocityField, VelocityField]:
    """Return the fields v + (σ²/2) s and v − (σ²/2) s: the drifts forward and backward in time.

    dX = (v + (σ²/2) s) dt + σ dW runs through the densities of v forward in time, the other one
    on a decreasing grid of ``solve_bridge``. For one Brownian bridge they are
    (x₁ − x)/(1 − t) and (x − x₀)/t.

    Raises:
        TypeError: a field is not callable.
        ValueError: sigma is not positive, or (when called) a field returns another shape than x.

    Source: Tong et al. 2024b; Anderson 1982. Chapter 13.
    """
    check_callable(velocity, "velocity")
    check_callable(score, "score")
    _check_sigma(sigma)
    return tuple(partial(_drift, velocity, score, sign * sigma**2 / 2) for sign in (1, -1))


def _drift(v: VelocityField, s: VelocityField, weight: float, x: Tensor, t: Tensor) -> Tensor:
    velocity, score = v(x, t), s(x, t)
    check_same_shape(velocity, x, "velocity, x")
    check_same_shape(score, x, "score, x")
    return velocity + weight * score


def solve_bridge(
    drift: VelocityField,
    x: Tensor,
    times: Tensor,
    sigma: float,
    generator: Generator | None = None,
    last_only: bool = False,
) -> Solution:
    """Integrate dX = b(X, t) dt + σ dW by the method of Euler and Maruyama.

    The order of the grid is the direction: take the backward drift on a decreasing grid. Arguments,
    result and errors as of ``solve``; the noise is drawn on the device of x.

    Source: Maruyama 1955. Chapter 13.
    """
    _check_sigma(sigma)
    generator_device(generator)  # refuses a seed
    return solve(drift, x, times, partial(_euler_maruyama, sigma, generator), last_only)


def _euler_maruyama(
    sigma: float,
    generator: Generator | None,
    drift: ScalarTimeField,
    x: Tensor,
    t: Tensor,
    h: Tensor,
) -> Tensor:
    noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x + h * drift(x, t) + sigma * h.abs().sqrt() * noise


def bridge_matching_loss(
    velocity: VelocityField,
    score: VelocityField,
    bridge: Bridge,
    x0: Tensor,
    x1: Tensor,
    t: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the losses of [SF]²M, shape (): means of ‖v − u‖² and of γ² ‖s − ∇ log p_t(x|·)‖².

    The second is ‖γ s + z‖²: each time counts alike. The least of both are velocity and score of
    the mixture of bridges between the pairs.

    Args:
        velocity: v(x, t).
        score: s(x, t).
        bridge: gives x_t and both targets.
        x0: shape (B, *event); row b is the partner of row b of x1.
        x1: shape of x0.
        t: shape (B,), in (0, 1); keep away from the ends, where the variance of u diverges.
        noise: z ~ N(0, I), shape of x0.

    Raises:
        ValueError: the batch is empty, t is outside, or a field returns another shape.

    Source: Tong et al. 2024b. Chapter 13.
    """
    check_callable(velocity, "velocity")
    check_callable(score, "score")
    check_kind(bridge, Bridge, "bridge")
    at = bridge.sample(x0, x1, t, noise)
    v, s = velocity(at.x_t, t), score(at.x_t, t)
    check_same_shape(v, x0, "v, x0")
    check_same_shape(s, x0, "s, x0")
    gamma = bridge.sigma * expand_time(t * (1 - t), x0).sqrt()
    return mean_squared_norm(v - at.velocity), mean_squared_norm(gamma * s + noise)


def static_bridge(log_kernel: Tensor, first: Tensor, last: Tensor, iterations: int) -> Tensor:
    """Return the plan P with given marginals that is nearest to a reference K in KL(P ‖ K).

    P_ij = exp(f_i + k_ij + g_j) for the logarithm k of any transition matrix. For Brownian motion
    between points, k_ij = −‖x₀_i − x₁_j‖²/2σ², it is ``couplings.sinkhorn_log`` of the squared
    distances with ε = 2σ². Columns are exact, rows are off by what is left to do.

    Args:
        log_kernel: k, shape (N, M), finite.
        first: weights of the rows, shape (N,), positive, summing to 1.
        last: of the columns, shape (M,).
        iterations: each updates f, then g.

    Returns:
        Shape (N, M), summing to 1.

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: shapes disagree, weights do not sum to 1, or an entry is not finite.

    Source: Léonard 2014; Peyré and Cuturi 2019, Sec. 4. Chapter 13.
    """
    check_count(iterations, "iterations")
    check_state(log_kernel, "log_kernel")
    for value, name in ((first, "first"), (last, "last")):
        check_state(value, name)
        if value.ndim != 1 or not (bool((value > 0).all()) and abs(value.sum().item() - 1) <= 1e-5):
            raise ValueError(f"{name} must be a vector of positive weights that sum to 1")
    if log_kernel.shape != (len(first), len(last)) or not bool(log_kernel.isfinite().all()):
        raise ValueError(
            f"log_kernel has shape {tuple(log_kernel.shape)}; for these weights pass a matrix "
            f"({len(first)}, {len(last)}) of finite numbers: clamp logarithms of zero"
        )
    g = torch.zeros_like(last)
    for _ in range(iterations):
        f = first.log() - torch.logsumexp(log_kernel + g, dim=1)
        g = last.log() - torch.logsumexp(log_kernel + f[:, None], dim=0)
    return torch.exp(f[:, None] + log_kernel + g)


def draw_pairs(plan: Tensor, n: int, generator: Generator | None = None) -> tuple[Tensor, Tensor]:
    """Draw n pairs of indices (i, j) with the probabilities of a plan (N, M); shapes (n,), (n,).

    ``x0[i], x1[j]`` are pairs for ``bridge_matching_loss``. Rows may be drawn several times.

    Raises:
        TypeError: the plan is no floating-point tensor, or the generator is none of torch's.
        ValueError: n is negative, or the plan is no matrix of probabilities.

    Chapter 13.
    """
    check_state(plan, "plan")
    check_count(n, "n", least=0)
    device = generator_device(generator)
    if plan.ndim != 2 or not bool((plan.isfinite() & (plan >= 0)).all()) or not plan.sum() > 0:
        raise ValueError(
            f"the plan has shape {tuple(plan.shape)}; pass a matrix of probabilities (N, M)"
        )
    plan = plan.to(device)
    if n == 0:
        return torch.zeros(2, 0, dtype=torch.int64, device=device).unbind()
    rows = torch.multinomial(plan.sum(dim=1), n, replacement=True, generator=generator)
    return rows, torch.multinomial(plan[rows], 1, generator=generator)[:, 0]
