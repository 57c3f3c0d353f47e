"""Schedules and affine Gaussian paths: how noise is interpolated into data. Chapter 2."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fmtutorial.fields import (
    check_callable,
    check_kind,
    check_number,
    check_same_shape,
    check_times,
    expand_time,
)

QUANTITIES = ("velocity", "score", "noise", "data")


@dataclass(frozen=True)
class Schedule:
    """The pair (α_t, σ_t) of x_t = α_t x₁ + σ_t x₀, with its time derivatives.

    α rises to 1 and σ falls to (almost) 0 as t goes from 0, noise, to 1, data. The four
    functions map a tensor of times to a tensor of the same shape.

    Args:
        name: for messages.
        alpha, sigma: α_t and σ_t.
        alpha_dot, sigma_dot: dα/dt and dσ/dt.
        finite_at_one: whether σ̇ is finite at t = 1; else velocities are defined on [0, 1) only.

    Source: Lipman et al. 2024, Sec. 4.8. Chapter 2.
    """

    name: str
    alpha: Callable[[Tensor], Tensor]
    sigma: Callable[[Tensor], Tensor]
    alpha_dot: Callable[[Tensor], Tensor]
    sigma_dot: Callable[[Tensor], Tensor]
    finite_at_one: bool = True

    def __post_init__(self) -> None:
        t = torch.tensor([0.25, 0.75])
        for name in ("alpha", "sigma", "alpha_dot", "sigma_dot"):
            function = getattr(self, name)
            check_callable(function, name)
            check_same_shape(function(t), t, f"{name}(t), t")

    def check_velocity_times(self, t: Tensor) -> None:
        """Raise unless the schedule has derivatives at every entry of t."""
        check_times(t, f"the velocity of the {self.name} schedule", not self.finite_at_one)

    def __repr__(self) -> str:
        return f"Schedule({self.name})"


def lipman(sigma_min: float) -> Schedule:
    """Return the straight schedule α = t, σ = 1 − (1 − σ_min) t; σ_min in [0, 1) is left at t = 1.

    Source: Lipman et al. 2023, Eq. 20.
    """
    check_number(sigma_min, "sigma_min", low=0, high=1, without_high=True)
    return Schedule(
        name="linear" if sigma_min == 0 else f"lipman({sigma_min:g})",
        alpha=_same,
        sigma=partial(_straight_sigma, left=float(sigma_min)),
        alpha_dot=torch.ones_like,
        sigma_dot=partial(torch.full_like, fill_value=float(sigma_min - 1)),
    )


def _same(t: Tensor) -> Tensor:
    return t


def _straight_sigma(t: Tensor, left: float) -> Tensor:
    return (1 - t) + left * t  # 1 − t is exact near t = 1 in floating point, 1 − slope·t is not


LINEAR = lipman(0.0)
"""Straight lines: α = t, σ = 1 − t."""


def _rise(t: Tensor, height: float = 1.0) -> Tensor:
    return height * torch.sin(0.5 * math.pi * t)


def _fall(t: Tensor, height: float = 1.0) -> Tensor:
    return _rise(1 - t, height)  # a cosine, exactly 0 at t = 1


COSINE = Schedule(
    name="cosine",
    alpha=_rise,
    sigma=_fall,
    alpha_dot=partial(_fall, height=0.5 * math.pi),
    sigma_dot=partial(_rise, height=-0.5 * math.pi),
)
"""A quarter of a circle: α = sin(πt/2), σ = cos(πt/2), so that α² + σ² = 1."""


def _root(t: Tensor, height: float = 1.0, power: float = 0.5) -> Tensor:
    return height * (1 - t) ** power


SQRT = Schedule(
    name="square-root",
    alpha=_same,
    sigma=_root,
    alpha_dot=torch.ones_like,
    sigma_dot=partial(_root, height=-0.5, power=-0.5),
    finite_at_one=False,
)
"""α = t, σ = √(1 − t), whose derivative diverges at t = 1. Chapter 2 says what that costs."""

_BETA_MIN, _BETA_MAX = 0.1, 20.0


def _vp_exponent(t: Tensor) -> Tensor:
    """Return log α_t = −½ ∫ β from t to 1, with β falling linearly from 20 to 0.1."""
    return -0.25 * (_BETA_MAX - _BETA_MIN) * (1 - t) ** 2 - 0.5 * _BETA_MIN * (1 - t)


def _vp_alpha(t: Tensor) -> Tensor:
    return torch.exp(_vp_exponent(t))


def _vp_sigma(t: Tensor) -> Tensor:
    return torch.sqrt(-torch.expm1(2 * _vp_exponent(t)))  # √(1 − α²) without cancellation


def _vp_alpha_dot(t: Tensor) -> Tensor:
    return 0.5 * (_BETA_MIN + (_BETA_MAX - _BETA_MIN) * (1 - t)) * _vp_alpha(t)  # β/2 · α


def _vp_sigma_dot(t: Tensor) -> Tensor:
    return -_vp_alpha(t) * _vp_alpha_dot(t) / _vp_sigma(t)


VP = Schedule(
    "variance-preserving", _vp_alpha, _vp_sigma, _vp_alpha_dot, _vp_sigma_dot, finite_at_one=False
)
"""Linear-β diffusion of Song, Sohl-Dickstein et al. 2021 reversed: α² + σ² = 1, α_0 = 0.0066."""


@dataclass(frozen=True)
class PathSample:
    """A point of a conditional path and the velocity with which the path passes it."""

    x_t: Tensor
    velocity: Tensor


@dataclass(frozen=True)
class AffinePath:
    """The path x_t = α_t x₁ + σ_t x₀ from noise x₀ to data x₁.

    With x₀ ~ N(0, I) the conditional distribution p_t(x | x₁) is N(α_t x₁, σ_t² I).

    Source: Lipman et al. 2023, Sec. 4; Albergo and Vanden-Eijnden 2023. Chapter 2.
    """

    schedule: Schedule

    def __post_init__(self) -> None:
        check_kind(self.schedule, Schedule, "schedule")

    def sample(self, x0: Tensor, x1: Tensor, t: Tensor) -> PathSample:
        """Return x_t = α x₁ + σ x₀ and its time derivative α̇ x₁ + σ̇ x₀.

        Args:
            x0: noise, shape (B, *event).
            x1: data, shape of x0.
            t: shape (B,), in [0, 1], or [0, 1) where σ̇ diverges at 1.
        """
        check_same_shape(x0, x1, "x0, x1")
        self.schedule.check_velocity_times(t)
        time, s = expand_time(t, x0), self.schedule
        x_t = s.alpha(time) * x1 + s.sigma(time) * x0
        return PathSample(x_t, velocity=s.alpha_dot(time) * x1 + s.sigma_dot(time) * x0)

    def conditional_velocity(self, x: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """Return u_t(x | x₁) = α̇ x₁ + (σ̇/σ) (x − α x₁).

        Shapes (B, *event); t lies where σ > 0, in [0, 1) for every schedule that ends in σ = 0.

        Source: Lipman et al. 2023, Theorem 3.
        """
        check_same_shape(x, x1, "x, x1")
        self.schedule.check_velocity_times(t)
        time, s = expand_time(t, x), self.schedule
        sigma = _nonzero(s.sigma(time), "sigma", "the conditional velocity", t)
        return s.alpha_dot(time) * x1 + s.sigma_dot(time) / sigma * (x - s.alpha(time) * x1)

    def conditional_score(self, x: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        """Return ∇ log p_t(x | x₁) = −(x − α x₁) / σ²; arguments as of the velocity."""
        check_same_shape(x, x1, "x, x1")
        check_times(t, "a path")
        time, s = expand_time(t, x), self.schedule
        sigma = _nonzero(s.sigma(time), "sigma", "the conditional score", t)
        return -(x - s.alpha(time) * x1) / sigma**2

    def convert(self, value: Tensor, x: Tensor, t: Tensor, given: str, want: str) -> Tensor:
        """Turn one prediction made at (x, t) into another.

        "data" is E[x₁ | x_t = x], "noise" E[x₀ | x_t = x], "velocity" α̇ data + σ̇ noise and
        "score" −noise/σ. With x = α data + σ noise any one of them gives the others. A network's
        prediction stands for the conditional mean.

        Args:
            value: the given quantity, shape of x.
            x: states, shape (B, *event).
            t: shape (B,), in [0, 1] less the ends where the conversion divides by zero: to data
                or velocity from score or noise where α = 0; from data, or to score, where σ = 0;
                to or from velocity where σ̇ diverges; from velocity where α̇σ − ασ̇ = 0.
            given: one of "velocity", "score", "noise", "data".
            want: one of the same four.

        Source: Lipman et al. 2024, Table 1. Chapters 2 and 7.
        """
        for name in (given, want):
            if name not in QUANTITIES:
                raise ValueError(f'unknown quantity "{name}"; choose from {", ".join(QUANTITIES)}')
        check_same_shape(value, x, "value, x")
        check_times(t, "a path")
        time, s = expand_time(t, x), self.schedule
        if given == want:
            return value
        if "velocity" in (given, want):
            s.check_velocity_times(t)
        if want == "data":
            return self._data(value, x, t, given)
        if want == "velocity":
            data, noise = self._data(value, x, t, given), self._noise(value, x, t, given)
            return s.alpha_dot(time) * data + s.sigma_dot(time) * noise
        noise = self._noise(value, x, t, given)
        return noise if want == "noise" else -noise / _nonzero(s.sigma(time), "sigma", "a score", t)

    def _noise(self, value: Tensor, x: Tensor, t: Tensor, given: str) -> Tensor:
        time, s = expand_time(t, x), self.schedule
        if given == "noise":
            return value
        if given == "score":
            return -s.sigma(time) * value
        if given == "data":
            return (x - s.alpha(time) * value) / _nonzero(s.sigma(time), "sigma", "noise", t)
        return (s.alpha_dot(time) * x - s.alpha(time) * value) / self._determinant(time, t)

    def _data(self, value: Tensor, x: Tensor, t: Tensor, given: str) -> Tensor:
        time, s = expand_time(t, x), self.schedule
        if given == "data":
            return value
        if given == "velocity":
            return (s.sigma(time) * value - s.sigma_dot(time) * x) / self._determinant(time, t)
        noise = self._noise(value, x, t, given)
        return (x - s.sigma(time) * noise) / _nonzero(s.alpha(time), "alpha", "data", t)

    def _determinant(self, time: Tensor, t: Tensor) -> Tensor:
        """Return α̇σ − ασ̇, positive wherever the signal-to-noise ratio rises."""
        s = self.schedule
        value = s.alpha_dot(time) * s.sigma(time) - s.alpha(time) * s.sigma_dot(time)
        return _nonzero(value, "α̇σ − ασ̇", "a conversion from velocity", t)


def _nonzero(value: Tensor, name: str, what: str, t: Tensor) -> Tensor:
    """Return value, or raise with the first time at which it vanishes."""
    zero = (value == 0).flatten()
    if bool(zero.any()):
        wrong = t.expand(len(zero))[zero][0].item()
        raise ValueError(f"{what} divides by {name}, which is 0 at t = {wrong:g}; keep t inside")
    return value
