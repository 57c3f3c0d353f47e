"""The exercises of the excursion "Bridges", chapter 13."""

import torch
from torch import Tensor

from fmtutorial.coursework.exercises import Draw, Exercise, Function
from fmtutorial.fields import expand_time


def bridge_targets(x0: Tensor, x1: Tensor, noise: Tensor, t: Tensor, sigma: Tensor) -> Tensor:
    """Return a point of the Brownian bridge, its velocity and its score, shape (3, B, *event)."""
    time = expand_time(t, x0)
    variance = sigma**2 * time * (1 - time)
    away = variance.sqrt() * noise
    x = x0 + time * (x1 - x0) + away
    velocity = x1 - x0 + sigma**2 * (1 - 2 * time) / (2 * variance) * away
    return torch.stack([x, velocity, -away / variance])


def gaussian_bridge(
    mean0: Tensor, std0: Tensor, mean1: Tensor, std1: Tensor, sigma: Tensor, t: Tensor
) -> Tensor:
    """Return mean and variance at t of the bridge between two Gaussians, shape (2, B, *event)."""
    time = expand_time(t, torch.stack(len(t) * [mean0]))
    ends = torch.hypot(std0 * std1, sigma**2 / 2) - sigma**2 / 2
    begin, end = ((1 - time) * std0) ** 2, (time * std1) ** 2
    variance = begin + end + time * (1 - time) * (2 * ends + sigma**2)
    return torch.stack([mean0 + time * (mean1 - mean0), variance])


def plan_drifts(
    x: Tensor, t: Tensor, x0: Tensor, x1: Tensor, plan: Tensor, sigma: Tensor
) -> Tensor:
    """Return both drifts of the mixture of bridges between points that a plan pairs."""
    each = zip(x, t, strict=True)
    return torch.stack([_at(place, time, x0, x1, plan, sigma) for place, time in each], dim=1)


def _at(x: Tensor, t: Tensor, x0: Tensor, x1: Tensor, plan: Tensor, sigma: Tensor) -> Tensor:
    """Both drifts at one place, from the mean start and the mean end of bridges through it."""
    miss = x - (1 - t) * x0.unsqueeze(1) - t * x1
    square = miss.square().reshape(*plan.shape, -1).sum(dim=2)
    log_weight = plan.log() - square / (2 * sigma**2 * t * (1 - t))
    share = torch.exp(log_weight - log_weight.logsumexp(dim=(0, 1)))
    begin, end = (torch.tensordot(share.sum(1 - k), y, dims=1) for k, y in enumerate((x0, x1)))
    return torch.stack([(end - x) / (1 - t), (x - begin) / t])


def _root(t: Tensor) -> Tensor:
    """Standard deviation of a Brownian bridge for σ = 1."""
    return (t * (1 - t)).sqrt()


def _targets(
    mean: Function = lambda t, x0, x1: (1 - t) * x0 + t * x1,
    width: Function = lambda t, s: s * _root(t),
    motion: Function = lambda t, s: s * (1 - 2 * t) / (2 * _root(t)),
    pull: Function = lambda t, s: -1 / (s * _root(t)),
    order: tuple[int, ...] = (0, 1, 2),
    expand: bool = True,
) -> Function:
    """Make the three with switches for mistakes: three functions are factors of the noise."""

    def targets(x0: Tensor, x1: Tensor, noise: Tensor, t: Tensor, s: Tensor) -> Tensor:
        time = expand_time(t, x0) if expand else t
        x = mean(time, x0, x1) + width(time, s) * noise
        velocity = x1 - x0 + motion(time, s) * noise
        return torch.stack([x, velocity, pull(time, s) * noise])[list(order)]

    return targets


def _marginal(
    ends: Function = lambda a, b, s: ((4 * a**2 * b**2 + s**4).sqrt() - s**2) / 2,
    noise: Function = lambda t, s: s**2 * t * (1 - t),
    cross: float = 2.0,
    before: Function = lambda *arguments: arguments,
    after: Function = lambda variance: variance,
    expand: bool = True,
) -> Function:
    """Make mean and variance with switches for mistakes."""

    def marginal(
        mean0: Tensor, std0: Tensor, mean1: Tensor, std1: Tensor, sigma: Tensor, t: Tensor
    ) -> Tensor:
        m0, a, m1, b = before(mean0, std0, mean1, std1)
        time = t.reshape(-1, *[1] * mean0.ndim) if expand else t
        variance = ((1 - time) * a) ** 2 + (time * b) ** 2 + noise(time, sigma)
        variance = variance + cross * time * (1 - time) * ends(a, b, sigma)
        return torch.stack([(1 - time) * m0 + time * m1, after(variance)])

    return marginal


def _normalised(log_weights: Tensor) -> Tensor:
    return log_weights.flatten(1).softmax(dim=1).reshape(log_weights.shape)


def _drifts(
    center: Function = lambda t, x0, x1: (1 - t) * x0 + t * x1,
    variance: Function = lambda t, s: s**2 * t * (1 - t),
    size: Function = lambda miss: miss.square().sum(dim=3),
    before: Function = torch.log,
    normalise: Function = _normalised,
    forward: Function = lambda x, t, x0, x1: (x1 - x) / (1 - t),
    backward: Function = lambda x, t, x0, x1: (x - x0) / t,
    expand: bool = True,
) -> Function:
    """Make the drifts with switches for mistakes; the weights have the shape (B, N, M)."""

    def drifts(x: Tensor, t: Tensor, x0: Tensor, x1: Tensor, plan: Tensor, s: Tensor) -> Tensor:
        place = x.reshape(len(x), 1, 1, -1)
        begin, end = x0.reshape(len(x0), 1, -1), x1.reshape(len(x1), -1)
        time = t.reshape(-1, 1, 1, 1) if expand else t
        square = size(place - center(time, begin, end))
        weights = normalise(before(plan) - square / (2 * variance(t, s)).reshape(-1, 1, 1))
        both = [toward(place, time, begin, end) for toward in (forward, backward)]
        means = [(weights.unsqueeze(3) * each).sum(dim=(1, 2)) for each in both]
        return torch.stack([mean.reshape(x.shape) for mean in means])

    return drifts


def _pair(draw: Draw) -> tuple:
    return *(draw.normal() for _ in range(3)), draw.times(), draw.uniform(0.3, 0.8)


def _gaussians(draw: Draw) -> tuple:
    event = draw.setting.event
    stds = [draw.uniform(0.4, 1.4, *event) for _ in range(2)]
    means = [2 * draw.normal()[0] for _ in range(2)]
    return means[0], stds[0], means[1], stds[1], draw.uniform(0.6, 0.9), draw.times()


def _plans(draw: Draw) -> tuple:
    """Draw places among few points; in single precision they lie far from all bridges."""
    event = draw.setting.event
    size = max(1, torch.Size(event).numel())
    n, m = draw.integer(3, 4), draw.integer(5, 6)
    x0, x1 = (draw.normal(k, *event) / size**0.5 for k in (n, m))
    plan = draw.normal(n * m).softmax(dim=0).reshape(n, m)
    x, t, sigma = draw.normal() / size**0.5, draw.times(0.2, 0.8), draw.uniform(1.1, 1.6)
    if draw.setting.dtype == torch.float32:
        width = expand_time(sigma * _root(t), x)
        x = x + 24 * width / size**0.5  # exp(−24²/2) is 0
    return x, t, x0, x1, plan, sigma


BROADCAST = (
    "Times of shape (B,) line up with the last dimension of the event. Give them the dimensions "
    "of the states."
)

EXERCISES = (
    Exercise(
        "bridges.bridge_targets",
        bridge_targets,
        _pair,
        {
            "x0 and x1 are exchanged in the state. At t = 0 it is x0.": _targets(
                lambda t, x0, x1: t * x0 + (1 - t) * x1
            ),
            "The noise of the state is multiplied by its variance. Take the root, of t(1 − t) "
            "and of σ².": _targets(width=lambda t, s: s**2 * t * (1 - t)),
            "The noise of the state grows until t = 1. A bridge is pinned at x1 too: its variance "
            "is σ²t(1 − t).": _targets(width=lambda t, s: s * t.sqrt()),
            "The velocity is that of the mean alone. The noise has a factor that changes with "
            "t.": _targets(motion=lambda t, s: 0 * t),
            "The sign of the noise in the velocity is wrong. Before t = 1/2 the bridge gets "
            "wider.": _targets(motion=lambda t, s: s * (t - 1 / 2) / _root(t)),
            "The derivative of the root lacks its ½ in the velocity.": _targets(
                motion=lambda t, s: s * (1 - 2 * t) / _root(t)
            ),
            "This is the forward drift, (x1 − x)/(1 − t). The velocity is the derivative of the "
            "state, with the noise held.": _targets(motion=lambda t, s: -s * (t / (1 - t)).sqrt()),
            "This is the backward drift, (x − x0)/t. The velocity is the derivative of the "
            "state, with the noise held.": _targets(motion=lambda t, s: s * ((1 - t) / t).sqrt()),
            "The score has the wrong sign. It points towards the mean.": _targets(
                pull=lambda t, s: 1 / (s * _root(t))
            ),
            "The score is not divided by the standard deviation.": _targets(
                pull=lambda t, s: -torch.ones_like(t)
            ),
            "The score is divided by the variance. x − mean over the variance is noise over the "
            "standard deviation.": _targets(pull=lambda t, s: -1 / (s**2 * t * (1 - t))),
            "Velocity and score are exchanged. The order is state, velocity, score.": _targets(
                order=(0, 2, 1)
            ),
            BROADCAST: _targets(expand=False),
        },
    ),
    Exercise(
        "bridges.gaussian_bridge",
        gaussian_bridge,
        _gaussians,
        {
            "The covariance of the ends is that of optimal transport, a b. That is the limit of "
            "small σ.": _marginal(lambda a, b, s: a * b),
            "The ends count as independent. That is the limit of large σ.": _marginal(
                lambda a, b, s: 0 * a
            ),
            "The variance of the bridges themselves, σ²t(1 − t), is missing.": _marginal(
                noise=lambda t, s: 0 * t
            ),
            "The covariance of the ends comes twice in the variance of a sum.": _marginal(
                cross=1.0
            ),
            "The covariance lacks its factor ½.": _marginal(cross=4.0),
            "The covariance has σ² for σ⁴ under the root.": _marginal(
                lambda a, b, s: ((4 * a**2 * b**2 + s**2).sqrt() - s**2) / 2
            ),
            "This is the covariance of the plan for ρ = σ². The cost is the squared distance "
            "without a half, and so ρ = 2σ².": _marginal(
                lambda a, b, s: ((16 * a**2 * b**2 + s**4).sqrt() - s**2) / 4
            ),
            "The standard deviations are taken for variances. Square them.": _marginal(
                before=lambda m0, a, m1, b: (m0, a.sqrt(), m1, b.sqrt())
            ),
            "The two ends are exchanged. At t = 0 the law is N(mean0, std0²).": _marginal(
                before=lambda m0, a, m1, b: (m1, b, m0, a)
            ),
            "This is the standard deviation. Return the variance.": _marginal(after=torch.sqrt),
            BROADCAST: _marginal(expand=False),
        },
    ),
    Exercise(
        "bridges.plan_drifts",
        plan_drifts,
        _plans,
        {
            "The plan is forgotten: every pair counts alike. Its entries are the weights before "
            "anyone looks at x.": _drifts(before=torch.zeros_like),
            "The weights are those of the plan, wherever x is. A pair counts more if its bridge "
            "passes near x.": _drifts(variance=lambda t, s: torch.full_like(t, torch.inf)),
            "The weights are normalised for each start by itself. All pairs compete: divide by "
            "the sum over both.": _drifts(normalise=lambda w: w.softmax(dim=2) / w.shape[1]),
            "The weights do not sum to 1. Divide by their sum over all pairs.": (
                _drifts(normalise=torch.exp)
            ),
            "It works only where the weights are not all zero; elsewhere this divides zero by "
            "zero. Take the softmax of their logarithms.": _drifts(
                normalise=lambda w: w.exp() / w.exp().sum(dim=(1, 2), keepdim=True)
            ),
            "The exponent lacks its ½: it is the square over twice the variance.": _drifts(
                variance=lambda t, s: s**2 * t * (1 - t) / 2
            ),
            "The variance is σ²t, that of a Brownian motion. A bridge is pinned at both ends: "
            "σ²t(1 − t).": _drifts(variance=lambda t, s: s**2 * t),
            "The squares are averaged over the entries of an event. A squared distance is their "
            "sum.": _drifts(size=lambda miss: miss.square().mean(dim=3)),
            "x0 and x1 are exchanged in the mean of a bridge. At t = 0 it is at x0.": _drifts(
                lambda t, x0, x1: t * x0 + (1 - t) * x1
            ),
            "The forward drift is the average of x1 − x0. It points from x to x1, and is divided "
            "by the time that is left.": _drifts(forward=lambda x, t, x0, x1: x1 - x0),
            "The distance to the end is not divided by the time that is left, 1 − t.": _drifts(
                forward=lambda x, t, x0, x1: x1 - x
            ),
            "Each drift is divided by the time of the other: 1 − t is left, and t has passed.": (
                _drifts(
                    forward=lambda x, t, x0, x1: (x1 - x) / t,
                    backward=lambda x, t, x0, x1: (x - x0) / (1 - t),
                )
            ),
            "The backward drift has the wrong sign. It is multiplied by −h in a step back, and so "
            "points away from x0.": _drifts(backward=lambda x, t, x0, x1: (x0 - x) / t),
            "The two drifts are exchanged. The forward one comes first.": _drifts(
                forward=lambda x, t, x0, x1: (x - x0) / t,
                backward=lambda x, t, x0, x1: (x1 - x) / (1 - t),
            ),
            BROADCAST: _drifts(expand=False),
        },
        points=2,
    ),
)
