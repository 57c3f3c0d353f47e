"""Flow matching along shortest paths: path, loss, solvers, likelihood and exact field.

Chapter 14.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fmtutorial import likelihood
from fmtutorial.fields import (
    VelocityField,
    check_callable,
    check_kind,
    check_same_shape,
    check_times,
    expand_time,
)
from fmtutorial.manifolds.spaces import Manifold
from fmtutorial.paths import PathSample
from fmtutorial.solvers import ScalarTimeField, Step, check_grid, rk4


def geodesic(manifold: Manifold, x0: Tensor, x1: Tensor, t: Tensor) -> PathSample:
    """Return x_t = exp(x₀, t log(x₀, x₁)) and its velocity: the shortest path at constant speed.

    Args:
        manifold: of the points.
        x0: noise, shape (B, *event_shape).
        x1: data, shape of x0. Where two paths are shortest it is one of them; antipodes of a
            sphere, where all directions are, are refused.
        t: times in [0, 1], shape (B,).

    Raises:
        ValueError: a point is off the manifold, a time outside, or a pair is antipodal.

    Source: Chen and Lipman 2024. Chapter 14.
    """
    check_kind(manifold, Manifold, "manifold")
    check_times(t, "a path")
    return manifold.follow(x0, manifold.shortest(x0, x1), t)


def tangent_part(manifold: Manifold, field: VelocityField) -> VelocityField:
    """Return the field (x, t) ↦ tangent part of v at π(x), where π(x) is the nearest point.

    A network knows nothing of the manifold. This field is tangent on it, and near it constant
    across: what all functions of this module make of the field they are given.

    Raises:
        TypeError: manifold is no manifold, or field no function.

    Chapter 14.
    """
    check_kind(manifold, Manifold, "manifold")
    check_callable(field, "field")
    return partial(_tangent_part, manifold, field)


def _tangent_part(manifold: Manifold, field: VelocityField, x: Tensor, t: Tensor) -> Tensor:
    x = manifold.project(x)
    v = field(x, t)
    check_same_shape(v, x, "v, x")
    return manifold.tangent(x, v)


def geodesic_matching_loss(
    field: VelocityField, manifold: Manifold, x0: Tensor, x1: Tensor, t: Tensor
) -> Tensor:
    """Return the mean of ‖v(x_t, t) − ẋ_t‖², in the manifold's metric, along ``geodesic``.

    Only the tangent part of v counts.

    Args:
        field: v(x, t), such as a network of the coordinates.
        manifold: of the points.
        x0: noise, shape (B, *event_shape), B ≥ 1.
        x1: data, shape of x0.
        t: times in [0, 1], shape (B,).

    Returns:
        Shape ().

    Raises:
        ValueError: an empty batch, or what ``geodesic`` refuses.

    Source: Chen and Lipman 2024. Chapter 14.
    """
    at = geodesic(manifold, x0, x1, t)
    if len(x0) == 0:
        raise ValueError("x0 has no rows, and an empty batch has no mean")
    v = tangent_part(manifold, field)(at.x_t, t)
    return manifold.squared_norm(v - at.velocity).mean()


def staying(manifold: Manifold, step: Step = rk4) -> Step:
    """Return a step of ``fmtutorial.solvers`` that ends on the manifold, with the same order.

    It takes the step in the coordinates, along the tangent part of the field, and projects.

    Raises:
        TypeError: manifold is no manifold, or step no function.

    Source: Hairer 2001. Chapter 14.
    """
    check_kind(manifold, Manifold, "manifold")
    check_callable(step, "step")
    return partial(_staying, manifold, step)


def _staying(
    manifold: Manifold, step: Step, v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor
) -> Tensor:
    end = step(partial(_tangent_part, manifold, v), x, t, h)
    check_same_shape(end, x, "result of step, x")
    return manifold.project(end)


def geodesic_euler(manifold: Manifold) -> Step:
    """Return Euler's step along the manifold: x ← exp(x, h v). Order 1, one evaluation.

    Raises:
        TypeError: manifold is no manifold.

    Source: Chen and Lipman 2024. Chapter 14.
    """
    check_kind(manifold, Manifold, "manifold")
    return partial(_geodesic_euler, manifold)


def _geodesic_euler(
    manifold: Manifold, v: ScalarTimeField, x: Tensor, t: Tensor, h: Tensor
) -> Tensor:
    return manifold.exp(x, h * _tangent_part(manifold, v, x, t))


def divergence(field: VelocityField, manifold: Manifold, x: Tensor, t: Tensor) -> Tensor:
    """Return the divergence on the manifold of the tangent part of v, shape (B,).

    It is the ordinary divergence of ``tangent_part``, by automatic differentiation.

    Args:
        field: v(x, t).
        manifold: of the points.
        x: points, shape (B, *event_shape).
        t: times, shape (B,), in the field's interval.

    Raises:
        ValueError: a point is off the manifold, or what ``likelihood.divergence`` refuses.

    Source: Rozen et al. 2021, for the extension by the nearest point. Chapter 14.
    """
    tangent = tangent_part(manifold, field)
    manifold.check(x)
    return likelihood.divergence(tangent, x, t)


def log_likelihood(
    field: VelocityField,
    manifold: Manifold,
    x: Tensor,
    times: Tensor,
    step: Step = rk4,
) -> Tensor:
    """Return log p_1(x) of the flow that starts in the uniform law, in nats per unit of volume.

    Runs x back to noise and adds up the divergence on the way. The base has the density
    exp(−log_volume) wherever x comes from.

    Args:
        field: v(x, t).
        manifold: of the points.
        x: data, shape (B, *event_shape).
        times: shape (T,), decreasing from the time of the data to 0.
        step: a step of ``fmtutorial.solvers``.

    Returns:
        Shape (B,).

    Raises:
        ValueError: a point is off the manifold, the grid increases or does not end at 0.

    Source: Mathieu and Nickel 2020. Chapter 14.
    """
    tangent = tangent_part(manifold, field)
    manifold.check(x)
    if not (check_grid(times)[0] > times[-1] == 0):
        raise ValueError("times must decrease to 0: torch.linspace(1, 0, n)")
    gained = likelihood.transport(tangent, x, x.new_zeros(len(x)), times, step)[1]
    return -manifold.log_volume - gained


@dataclass(frozen=True, eq=False)
class GeodesicField:
    """What a perfectly trained network would answer, for uniform noise and a finite data set.

    x_t = exp(y, (1 − t) w) draws the noise exp(y, w) towards the data point y. Where it stems
    from x = exp(y, u) its density is

        p_t(x | y) = J(u / (1 − t)) / J(u) / (1 − t)^d / volume,

    with the volume factor J of exp, and its velocity is log(x, y) / (1 − t). The marginal
    velocity is their mean with weights p_t(x | y). Where no point gives a density, as between
    the points for t near 1, it is that of the nearest point.

    x has shape (B, *event_shape), t shape (B,) in [0, 1). Memory is B · N numbers for N points.

    Raises:
        ValueError: a point is off the manifold, there is none, or a time is outside.

    Chapter 14.
    """

    manifold: Manifold
    points: Tensor

    def __post_init__(self) -> None:
        check_kind(self.manifold, Manifold, "manifold")
        self.manifold.check(self.points, "points")
        if len(self.points) == 0:
            raise ValueError("points has no rows; a data set has one at least")

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return v_t(x), shaped like x."""
        towards, log_weights, length2 = self._look(x, t)
        nearest = one_hot(length2.argmin(dim=1), len(self.points)).to(x)
        seen = (log_weights > -torch.inf).any(dim=1, keepdim=True)
        weights = torch.where(seen, log_weights, 0).softmax(dim=1)
        weights = torch.where(seen, weights, nearest)
        mean = (weights.reshape(*weights.shape, *[1] * (x.ndim - 1)) * towards).sum(dim=1)
        return self.manifold.tangent(x, mean / (1 - expand_time(t, x)))

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p_t(x) per unit of volume, shape (B,); −∞ where nothing goes."""
        log_weights = self._look(x, t)[1]
        scale = self.manifold.dimension * torch.log(1 - t.to(x)) + self.manifold.log_volume
        return log_weights.logsumexp(dim=1) - scale - torch.tensor(len(self.points)).to(x).log()

    def _look(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log(x, y), log of J(u/(1−t))/J(u), and ‖u‖², for all samples and points."""
        check_times(t, "the field of a data set", open_end=True)
        self.manifold.check(x)
        expand_time(t, x)
        n, points = len(self.points), self.points.to(x)
        every = points.expand(len(x), *points.shape).flatten(0, 1)
        u = self.manifold.shortest(x.repeat_interleave(n, dim=0), every)
        left = expand_time((1 - t.to(x)).repeat_interleave(n), u)
        factors = self.manifold.volume_factor(u / left) / self.manifold.volume_factor(u)
        known = factors > 0  # elsewhere a derivative of log 0 would spoil the sum's
        log_factors = torch.where(known, torch.where(known, factors, 1).log(), -torch.inf)
        by_pair = (len(x), n)
        return (
            u.reshape(*by_pair, *x.shape[1:]),
            log_factors.reshape(by_pair),
            self.manifold.squared_norm(u).reshape(by_pair),
        )
