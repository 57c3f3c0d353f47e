"""The exercises of chapter 2."""

import math

import torch
from torch import Tensor

from fmtutorial.coursework.exercises import Draw, Exercise
from fmtutorial.distributions import GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.fields import expand_time
from fmtutorial.paths import COSINE, LINEAR, AffinePath


def conditional_velocity(x: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """Velocity at x of the cosine path to x₁."""
    return AffinePath(COSINE).conditional_velocity(x, x1, t)


def score_from_velocity(v: Tensor, x: Tensor, t: Tensor) -> Tensor:
    """Score of the linear path whose velocity at (x, t) is v."""
    return AffinePath(LINEAR).convert(v, x, t, "velocity", "score")


def two_gaussians(
    x: Tensor, t: Tensor, m1: Tensor, m2: Tensor, std: Tensor, weight: Tensor
) -> Tensor:
    """Velocity of the linear path to weight · N(m1, std² I) + (1 − weight) · N(m2, std² I)."""
    weights = torch.stack([weight, 1 - weight])
    target = GaussianMixture(torch.stack([m1, m2]), std.square().expand(2), weights)
    return ExactField(AffinePath(LINEAR), target)(x, t)


def _cosine(
    x: Tensor,
    x1: Tensor,
    t: Tensor,
    chain: float = math.pi / 2,
    sign: float = 1.0,
    divide: bool = True,
    shrink: bool = True,
) -> Tensor:
    """The velocity where t has the dimensions of x, with switches for mistakes."""
    alpha, sigma = COSINE.alpha(t), COSINE.sigma(t)
    rest = (x - alpha * x1 if shrink else x - x1) / (sigma if divide else 1)
    return chain * (sigma * x1 - sign * alpha * rest)


def _as_noise(x: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    time = expand_time(t, x)
    return COSINE.alpha_dot(time) * x1 + COSINE.sigma_dot(time) * x


def _noise(v: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return x - expand_time(t, x) * v


def _squared(v: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return -_noise(v, x, t) / (1 - expand_time(t, x)) ** 2


def _reversed(v: Tensor, x: Tensor, t: Tensor) -> Tensor:
    return score_from_velocity(v, x, 1 - t)


def _from_data(v: Tensor, x: Tensor, t: Tensor) -> Tensor:
    rest = 1 - expand_time(t, x)
    return -(x + rest * v) / rest


def _responsibility(
    x: Tensor, t: Tensor, m1: Tensor, m2: Tensor, c: Tensor, weight: Tensor
) -> Tensor:
    """P(first component | x), with means at t m; shape (B,)."""
    first, second = (
        (x - t * m).reshape(len(x), -1).square().sum(dim=1) / (-2 * c) for m in (m1, m2)
    )
    return torch.sigmoid(first - second + torch.logit(weight))


def _average(
    x: Tensor, t: Tensor, m1: Tensor, m2: Tensor, std: Tensor, c: Tensor, first: Tensor
) -> Tensor:
    """The two velocities, averaged with given responsibilities of the first."""
    gain = (t * std**2 - (1 - t)) / c
    one, other = (m + gain * (x - t * m) for m in (m1, m2))
    return first * one + (1 - first) * other


def _total(t: Tensor, std: Tensor) -> Tensor:
    return t**2 * std**2 + (1 - t) ** 2


def _underflow(
    x: Tensor,
    t: Tensor,
    m1: Tensor,
    m2: Tensor,
    std: Tensor,
    weight: Tensor,
    constant: float = 0.0,
) -> Tensor:
    time, c = expand_time(t, x), _total(t, std)
    one, other = (
        w * torch.exp(-(x - time * m).reshape(len(x), -1).square().sum(dim=1) / (2 * c))
        for w, m in ((weight, m1), (1 - weight, m2))
    )
    first = expand_time(one / (one + other + constant), x)
    return _average(x, time, m1, m2, std, _total(time, std), first)


def _prior(x: Tensor, t: Tensor, m1: Tensor, m2: Tensor, std: Tensor, weight: Tensor) -> Tensor:
    time = expand_time(t, x)
    return _average(x, time, m1, m2, std, _total(time, std), weight)


def _still(x: Tensor, t: Tensor, m1: Tensor, m2: Tensor, std: Tensor, weight: Tensor) -> Tensor:
    time, one = expand_time(t, x), x.new_ones(())
    first = _responsibility(x, one, m1, m2, _total(t, std), weight)
    return _average(x, time, m1, m2, std, _total(time, std), expand_time(first, x))


def _deviations(
    x: Tensor, t: Tensor, m1: Tensor, m2: Tensor, std: Tensor, weight: Tensor
) -> Tensor:
    time, c = expand_time(t, x), (t * std + 1 - t) ** 2
    first = expand_time(_responsibility(x, time, m1, m2, c, weight), x)
    return _average(x, time, m1, m2, std, expand_time(c, x), first)


def _points(x: Tensor, t: Tensor, m1: Tensor, m2: Tensor, std: Tensor, weight: Tensor) -> Tensor:
    time = expand_time(t, x)
    first = expand_time(_responsibility(x, time, m1, m2, _total(t, std), weight), x)
    return (first * m1 + (1 - first) * m2 - x) / (1 - time)


def _misaligned(
    x: Tensor, t: Tensor, m1: Tensor, m2: Tensor, std: Tensor, weight: Tensor
) -> Tensor:
    c = _total(t, std)
    return _average(x, t, m1, m2, std, c, _responsibility(x, t, m1, m2, c, weight))


def _two(draw: Draw) -> tuple:
    """One state is so far away that the densities of both components underflow there."""
    x = draw.normal()
    far = 40 if x.dtype == torch.float64 else 20
    x[0] += far / x[0].numel() ** 0.5
    m1, m2 = draw.normal()[0], draw.normal()[0]
    return x, draw.times(0.2, 0.8), m1, m2, draw.uniform(0.4, 0.8), draw.uniform(0.1, 0.3)


BROADCAST = (
    "The times of shape (B,) meet the entries of an event. Give t the dimensions of x first: "
    "each sample has one time."
)

EXERCISES = (
    Exercise(
        "paths.conditional_velocity",
        conditional_velocity,
        lambda draw: (draw.normal(), draw.normal(), draw.times()),
        {
            "A factor is missing in the derivatives of α and σ: the chain rule gives π/2.": (
                lambda x, x1, t: _cosine(x, x1, expand_time(t, x), chain=1.0)
            ),
            "The derivative of σ has the wrong sign. The noise falls with t.": (
                lambda x, x1, t: _cosine(x, x1, expand_time(t, x), sign=-1.0)
            ),
            "The division by σ is missing. The noise x₀ is what remains of x without α x₁, "
            "divided by σ.": lambda x, x1, t: _cosine(x, x1, expand_time(t, x), divide=False),
            "x is taken for the noise x₀. It is the state at time t, a mixture of noise and "
            "data.": _as_noise,
            "All of x₁ is taken away from x. At time t the state contains α x₁.": (
                lambda x, x1, t: _cosine(x, x1, expand_time(t, x), shrink=False)
            ),
            "This is the velocity of the linear schedule.": lambda x, x1, t: (
                (x1 - x) / (1 - expand_time(t, x))
            ),
            "α and σ are exchanged: at t = 0 the state is noise, so there α is 0 and σ is 1.": (
                lambda x, x1, t: -_cosine(x, x1, 1 - expand_time(t, x))
            ),
            BROADCAST: _cosine,
        },
    ),
    Exercise(
        "paths.score_from_velocity",
        score_from_velocity,
        lambda draw: (draw.normal(), draw.normal(), draw.times()),
        {
            "This is the noise prediction. The score is that, divided by −σ.": _noise,
            "The sign is wrong. The score points to where the density rises, against the noise.": (
                lambda v, x, t: -score_from_velocity(v, x, t)
            ),
            "There is a division by σ² where σ is right. The noise prediction has the size of "
            "the standard normal x₀ already.": _squared,
            "The time runs the wrong way. Noise is at t = 0 and data at t = 1, so σ = 1 − t.": (
                _reversed
            ),
            "x + (1 − t) v is the data prediction. The score needs the noise prediction: go "
            "along v to t = 0, not to t = 1.": _from_data,
            "The velocity lacks its factor. The noise prediction of the linear schedule is "
            "x − t v.": lambda v, x, t: (v - x) / (1 - expand_time(t, x)),
            BROADCAST: lambda v, x, t: (t * v - x) / (1 - t),
        },
    ),
    Exercise(
        "paths.two_gaussians",
        two_gaussians,
        _two,
        {
            "Far from both means the two densities round to zero, and zero is divided by zero. "
            "Work with their logarithms, as in a softmax.": _underflow,
            "The two velocities are averaged with the weights of the mixture. Take the "
            "responsibilities: how likely each component is once x is known.": _prior,
            "The responsibilities compare x with the means of the data. At time t the means "
            "are t m1 and t m2.": _still,
            "The standard deviations of t x₁ and (1 − t) x₀ are added. For independent "
            "variables it is the variances that add up.": _deviations,
            "Each component is treated as a point. Given the component, x₁ is still random "
            "around its mean, and x says where.": _points,
            "Far from both means a small constant in the denominator decides, and the "
            "responsibilities no longer add up to 1. Work with logarithms, as in a softmax.": (
                lambda *a: _underflow(*a, constant=1e-12)
            ),
            "The weights of the mixture are missing in the responsibilities.": (
                lambda x, t, m1, m2, std, weight: two_gaussians(x, t, m1, m2, std, 0 * weight + 0.5)
            ),
            "The weights of the two components are exchanged. The first one has the weight w.": (
                lambda x, t, m1, m2, std, weight: two_gaussians(x, t, m1, m2, std, 1 - weight)
            ),
            "std is taken for a variance. It is a standard deviation: square it.": (
                lambda x, t, m1, m2, std, weight: two_gaussians(x, t, m1, m2, std.sqrt(), weight)
            ),
            BROADCAST: _misaligned,
        },
        points=2,
    ),
)
