"""Laws on the torus and the globe in closed form. Chapter 14."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor

from fmtutorial.fields import (
    check_count,
    check_kind,
    check_number,
    check_times,
    expand_time,
    generator_device,
)
from fmtutorial.manifolds.spaces import Sphere, Torus

GLOBE = Sphere(2)


@dataclass(frozen=True, eq=False)
class WrappedField:
    """The exact field on a torus from uniform noise to normal laws wrapped around it.

    The data are m_k + s ξ modulo 2π, with equal weights. On a torus the way from data to noise is
    uniform whatever the data: x_t = x₁ + (1 − t) w with w uniform in [−π, π)^d. So p_t is the
    data's law smeared over a window of half-width a = (1 − t) π, and

        v_t(x) = E[y − x | |y_i − x_i| < a] / (1 − t)

    over the data y: sums over k and over the turns of the circle, of integrals of normal laws.

    x has shape (B, d), t shape (B,) in [0, 1).

    Raises:
        ValueError: a mean is off the torus, there is none, std is not positive, or a time is
            outside.

    Source: Mardia and Jupp 2000, for the wrapped normal law. Chapter 14.
    """

    torus: Torus
    means: Tensor
    std: float

    def __post_init__(self) -> None:
        check_kind(self.torus, Torus, "torus")
        self.torus.check(self.means, "means")
        check_number(self.std, "std", 0, 1e3, without_low=True)
        if len(self.means) == 0:
            raise ValueError("means has no rows; a mixture has one component at least")

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return v_t(x), velocities of the angles, shape (B, d)."""
        log_mass, offset = self._look(x, t)
        weights = log_mass.sum(dim=2).softmax(dim=1)  # (B, K)
        return (weights[:, :, None] * offset).sum(dim=1) / (1 - expand_time(t, x))

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p_t(x) per unit of the torus' volume, shape (B,)."""
        log_mass, _ = self._look(x, t)
        shares = log_mass.sum(dim=2).logsumexp(dim=1) - math.log(len(self.means))
        return shares - self.torus.dimension * torch.log(1 - t.to(x)) - self.torus.log_volume

    def _look(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-mass of each component in each window, and its mean offset; (B, K, d)."""
        check_times(t, "the field of a wrapped law", open_end=True)
        self.torus.check(x)
        reach = math.pi * (1 - expand_time(t, x))[:, None, :, None]
        turns = 1 + math.ceil(10 * self.std / (2 * math.pi))
        wound = 2 * math.pi * torch.arange(-turns, turns + 1, device=x.device).to(x)
        centre = (self.means.to(x) - x[:, None])[..., None] + wound  # (B, K, d, turns)
        log_mass, mean = _window(centre, reach.expand_as(centre), self.std)
        share = log_mass.softmax(dim=3)
        return log_mass.logsumexp(dim=3), (share * mean).sum(dim=3)


def _window(centre: Tensor, reach: Tensor, std: float) -> tuple[Tensor, Tensor]:
    """Return log-mass and mean of a normal law within [−reach, reach].

    By error functions; where the law is flat over the window these nearly cancel, and Gauss'
    rule takes their place.
    """
    slope, curve = centre * reach / std**2, (reach / std).square()
    flat = slope.abs() + curve < 4  # below that 16 nodes leave nothing but rounding
    near, far = (reach - centre.abs()) / std, (-reach - centre.abs()) / std
    at_near, at_far = _log_hazard(near), _log_hazard(far)
    gap = torch.where(flat, -1, at_near - at_far - 2 * slope.abs())  # log of Φ(far) / Φ(near)
    log_mass = torch.special.log_ndtr(near) + torch.log(-torch.expm1(gap))
    pull = (at_near.exp() - (at_far + gap).exp()) / -torch.expm1(gap)
    mean = centre - centre.sgn() * std * pull

    rule = np.polynomial.legendre.leggauss(16)
    node, weight = (centre.new_tensor(numbers.tolist()) for numbers in rule)
    log_law = slope[..., None] * node - curve[..., None] * node.square() / 2 + weight.log()
    log_mean = log_law.logsumexp(dim=-1) - (centre / std).square() / 2
    by_rule = log_mean + torch.log(reach / std) - math.log(2 * math.pi) / 2
    middle = reach * (log_law.softmax(dim=-1) * node).sum(dim=-1)
    return torch.where(flat, by_rule, log_mass), torch.where(flat, middle, mean)


def _log_hazard(z: Tensor) -> Tensor:
    """Return log φ(z) / Φ(z) of the normal law, without loss of digits for z far below 0."""
    tail = math.log(2 / math.pi) / 2 - torch.special.erfcx(-z.clamp(max=-4) / math.sqrt(2)).log()
    z = z.clamp(min=-4)
    body = -z.square() / 2 - math.log(2 * math.pi) / 2 - torch.special.log_ndtr(z)
    return torch.where(z > -4, body, tail)


@dataclass(frozen=True, eq=False)
class VonMisesFisher:
    """A mixture of von Mises-Fisher laws on the globe, of equal weights and one concentration.

    One of them has the density κ exp(κ m·x) / (4π sinh κ) around the unit vector m: the normal
    law of a globe, of width 1/√κ in angles. With the data as means it is their kernel density.

    Args:
        means: m, unit vectors, shape (N, 3).
        concentration: κ, positive.

    Raises:
        ValueError: a mean is no unit vector, there is none, or κ is not positive.

    Source: Mardia and Jupp 2000. Chapter 14.
    """

    means: Tensor
    concentration: float

    def __post_init__(self) -> None:
        GLOBE.check(self.means, "means")
        check_number(self.concentration, "concentration", 0, 1e6, without_low=True)
        if len(self.means) == 0:
            raise ValueError("means has no rows; a mixture has one component at least")

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density per unit of area, shape (B,)."""
        GLOBE.check(x)
        kappa = self.concentration
        scale = math.log(kappa / (2 * math.pi)) - math.log(-math.expm1(-2 * kappa))
        below = x @ self.means.to(x).mT - 1  # (B, N), so that no exponential is too large
        return (kappa * below).logsumexp(dim=1) + scale - math.log(len(self.means))

    def sample(self, count: int, generator: Generator | None = None) -> Tensor:
        """Draw points, shape (count, 3): the cosine of the angle by its inverse distribution."""
        check_count(count, "count", 0)
        device, kappa = generator_device(generator), self.concentration
        row = torch.randint(len(self.means), (count,), generator=generator, device=device)
        mean = self.means.to(device)[row]
        u = torch.rand(count, 1, generator=generator, device=device).to(mean)
        below = -torch.log(u + (1 - u) * math.exp(-2 * kappa)) / kappa  # 1 − cos
        side = GLOBE.tangent(mean, GLOBE.uniform(count, generator).to(mean))
        sine = (below * (2 - below)).clamp(min=0).sqrt()
        return GLOBE.project((1 - below) * mean + sine * GLOBE.project(side))
