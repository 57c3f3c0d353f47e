"""The exercises of the excursion "Curved spaces", chapter 14."""

import math

import torch
from torch import Tensor
from torch.autograd.functional import jvp
from torch.func import jacrev, vmap

from fmtutorial.coursework.exercises import Draw, Exercise, Function, Setting
from fmtutorial.fields import VelocityField, expand_time


def geodesic(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """Point and velocity at time t on the great circle from x0 to x1, shape (2, B, D)."""
    return _course()(x0, x1, t)


def torus_velocity(x: Tensor, t: Tensor, data: Tensor) -> Tensor:
    """Marginal velocity on the torus from uniform noise to points, by those within reach."""
    return _torus()(x, t, data)


def sphere_divergence(field: VelocityField, x: Tensor, t: Tensor) -> Tensor:
    """Divergence on the sphere of the tangential part of a field, shape (B,)."""
    trace, along, out, size = _parts(field, x, t)
    return trace - along - (size - 1) * out


def _wrap(angle: Tensor) -> Tensor:
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def _mean(way: Tensor, shares: Tensor) -> Tensor:
    """Mean over the points, dimension 1, with shares for weights."""
    weights = shares.to(way) / shares.sum(dim=1, keepdim=True)
    return (weights.unsqueeze(2) * way).sum(dim=1)


def _parts(field: VelocityField, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Trace of the Jacobian J, x·Jx, x·v and the number of entries D."""
    jacobian = vmap(jacrev(lambda y, s: field(y[None], s[None])[0]))(x, t)
    along = torch.einsum("bi,bij,bj->b", x, jacobian, x)
    trace = torch.einsum("bii->b", jacobian)
    return trace, along, (x * field(x, t)).sum(dim=1), x.shape[1]


def _angle(x0: Tensor, x1: Tensor) -> Tensor:
    return torch.atan2((x1 - _cosine(x0, x1) * x0).norm(dim=1, keepdim=True), _cosine(x0, x1))


def _cosine(x0: Tensor, x1: Tensor) -> Tensor:
    return (x0 * x1).sum(dim=1, keepdim=True)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True)


def _circle(phase: Tensor, x0: Tensor, side: Tensor) -> Tensor:
    return phase.cos() * x0 + phase.sin() * side


def _turned(t: Tensor, a: Tensor, x0: Tensor, x1: Tensor, side: Tensor) -> Tensor:
    return a * _circle(t * a, side, -x0)


def _course(
    velocity: Function = _turned, angle: Function = _angle, expand: bool = True
) -> Function:
    """Make a point on the great circle with a velocity, with switches for mistakes."""

    def course(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        time, a = expand_time(t, x0) if expand else t, angle(x0, x1)
        side = _unit(x1 - _cosine(x0, x1) * x0)
        return torch.stack([_circle(time * a, x0, side), velocity(time, a, x0, x1, side)])

    return course


def _lines(push: Function = lambda x: x) -> Function:
    """Make point and velocity of the straight line, or of what a function makes of it."""

    def course(x0: Tensor, x1: Tensor, t: Tensor) -> Tensor:
        return torch.stack(jvp(push, torch.lerp(x0, x1, expand_time(t, x0)), x1 - x0))

    return course


def _near(way: Tensor, time: Tensor, *_: Tensor) -> Tensor:
    """Whether each of the points is within reach."""
    return (way.abs() < (1 - time) * math.pi).all(dim=2)


def _torus(
    way: Function = lambda y, x: _wrap(y - x),
    shares: Function = _near,
    mean: Function = _mean,
    rate: Function = lambda time: 1 / (1 - time),
    expand: bool = True,
) -> Function:
    """Make a marginal velocity with switches for mistakes."""

    def velocity(x: Tensor, t: Tensor, data: Tensor) -> Tensor:
        time = expand_time(t, x).unsqueeze(1) if expand else t
        ways = way(data, x.unsqueeze(1))
        weights = shares(ways, time, x.unsqueeze(1), data)
        return mean(ways, weights) * rate(time[:, 0] if expand else time)

    return velocity


def _gaussian(way: Tensor, time: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Weights of the points for normal noise in flat space."""
    return torch.softmax(-(_wrap(x - time * y) / (1 - time)).square().sum(dim=2) / 2, dim=1)


def _mean_point(x: Tensor, t: Tensor, data: Tensor) -> Tensor:
    """Average the angles themselves, and go to their mean."""
    time = expand_time(t, x).unsqueeze(1)
    near = _near(_wrap(data - x.unsqueeze(1)), time)
    return _wrap(_mean(data.expand(len(x), -1, -1), near) - x) / (1 - time[:, 0])


def _jacobian_sum(field: VelocityField, x: Tensor, t: Tensor) -> Tensor:
    y = x.clone().requires_grad_()
    return torch.autograd.grad(field(y, t).sum(), y)[0].sum(dim=1)


def _combined(trace: float = 1, along: float = -1, out: float = -1, more: float = 0) -> Function:
    """Make a divergence from tr J, x·Jx and x·v, the last times D − 1 and some more."""

    def divergence(field: VelocityField, x: Tensor, t: Tensor) -> Tensor:
        every, normal, outwards, size = _parts(field, x, t)
        return trace * every + along * normal + (out * (size - 1) + more) * outwards

    return divergence


def _ends(draw: Draw) -> tuple:
    """Two points of the sphere that are neither close together nor nearly opposite, and times."""
    x0 = _unit(draw.normal())
    other = draw.normal()
    angle = expand_time(draw.times(0.5, 2.6), x0)
    return x0, _circle(angle, x0, _unit(other - _cosine(x0, other) * x0)), draw.times()


def _reached(draw: Draw) -> tuple:
    """Angles that come from uniform noise on the way to some of the points."""
    size = draw.setting.event[0]
    x0, data = (draw.uniform(-3.14, 3.14, n, size) for n in (draw.setting.batch, 6))
    x1, t = data[torch.randint(6, (len(x0),), generator=draw.generator)], draw.times(0.1, 0.7)
    return _wrap(x1 + (1 - expand_time(t, x0)) * _wrap(x0 - x1)), t, data


def _settings(*sizes: int) -> tuple[Setting, ...]:
    """States with so many entries, in batches of two precisions."""
    types = [torch.float64, torch.float64, torch.float32] * 2
    return tuple(
        Setting(batch, (size,), dtype)
        for batch, size, dtype in zip((4, 3, 5, 2, 7, 1), sizes, types, strict=True)
    )


BROADCAST = (
    "Times of shape (B,) line up with the last dimension of the states. Give them the dimensions "
    "of the states."
)

EXERCISES = (
    Exercise(
        "manifolds.geodesic",
        geodesic,
        _ends,
        {
            "This is the straight line. It runs through the inside of the sphere.": _lines(),
            "The straight line is pushed out to the sphere. That is slower at the ends than in "
            "the middle, and a geodesic has constant speed.": _lines(_unit),
            "x₁ − cos θ x₀ has the length sin θ. The logarithm has the same direction and the "
            "length θ.": _course(angle=lambda x0, x1: _angle(x0, x1).sin()),
            "The angle is taken to be the length of the chord ‖x₁ − x₀‖. The arc is "
            "longer.": _course(angle=lambda x0, x1: (x1 - x0).norm(dim=1, keepdim=True)),
            "The arc sine finds no angle above 90°. Use atan2, or the arc cosine.": _course(
                angle=lambda x0, x1: torch.asin(_angle(x0, x1).sin())
            ),
            "The path runs from x₁ to x₀. In this book t = 0 is noise, x₀.": lambda x0, x1, t: (
                geodesic(x1, x0, t)
            ),
            "The velocity is that of the straight line, x₁ − x₀. It is not tangent to the "
            "sphere.": _course(lambda t, a, x0, x1, e: x1 - x0),
            "The velocity is the logarithm at x₀, tangent there and nowhere else. Its direction "
            "turns on the way: differentiate the point.": _course(lambda t, a, x0, x1, e: a * e),
            "The logarithm at x₀ is projected to the tangent space at x_t. That multiplies it by "
            "cos tθ. Turn it.": _course(lambda t, a, *p: torch.cos(t * a) * _turned(t, a, *p)),
            "The velocity is the logarithm of x₁ at x_t. That way is to be gone in the time that "
            "is left: divide by 1 − t.": _course(lambda t, *a: (1 - t) * _turned(t, *a)),
            "The velocity has the length 1. The angle θ is gone in the time 1, so its length is "
            "θ.": _course(lambda t, a, *p: _turned(t, a, *p) / a),
            "The derivative of the cosine is minus the sine.": _course(
                lambda t, a, x0, x1, e: a * _circle(t * a, e, x0)
            ),
            BROADCAST: _course(expand=False),
        },
        settings=_settings(2, 3, 3, 4, 2, 6),
    ),
    Exercise(
        "manifolds.torus_velocity",
        torus_velocity,
        _reached,
        {
            "All points count. Only those count from which x is less than (1 − t) π away in every "
            "angle: no path to another passes x.": _torus(
                shares=lambda way, *_: way[..., 0] == way[..., 0]
            ),
            "Differences are not wrapped. The way may lead over the cut.": _torus(torch.sub),
            "Differences are wrapped to [0, 2π), so that everything turns one way. Wrap them to "
            "[−π, π).": _torus(lambda y, x: torch.remainder(y - x, 2 * math.pi)),
            "The weights are those of normal noise. This noise is uniform: the points within "
            "reach count alike.": _torus(shares=_gaussian),
            "Only the nearest point counts. All within reach do.": _torus(
                shares=lambda way, *_: way.norm(dim=2) == way.norm(dim=2).amin(dim=1, keepdim=True)
            ),
            "The angles of the points are averaged. The mean of 179° and −179° is 0°, on the "
            "other side. Average the ways from x to them.": _mean_point,
            "The sum is divided by the number of all points. Divide by the number of those that "
            "count.": _torus(mean=lambda way, near: (near.unsqueeze(2) * way).mean(dim=1)),
            "The sum over the points within reach is not divided by their number.": _torus(
                mean=lambda way, near: (near.unsqueeze(2) * way).sum(dim=1)
            ),
            "This is the way, which takes the time 1 − t. Divide.": _torus(rate=torch.ones_like),
            "t and 1 − t are exchanged. In this book t = 0 is noise and t = 1 is data.": _torus(
                shares=lambda way, time, *_: _near(way, 1 - time), rate=torch.reciprocal
            ),
            "It flows away from the points. The way leads from x to y.": lambda *a: (
                -torus_velocity(*a)
            ),
            "The distance is compared with the reach. Every angle has its own uniform noise, so "
            "each is compared by itself.": _torus(
                shares=lambda way, time, x, y: way.norm(dim=2) < (1 - time[..., 0]) * math.pi
            ),
            BROADCAST: _torus(expand=False),
        },
        settings=_settings(1, 3, 2, 2, 1, 1),
    ),
    Exercise(
        "manifolds.sphere_divergence",
        sphere_divergence,
        lambda draw: (draw.field(), _unit(draw.normal()), draw.times()),
        {
            "This is the divergence of v in space. On the sphere only what is tangent counts, and "
            "only its changes along the sphere.": _combined(along=0, out=0),
            "The part of v along x is forgotten, or the projection was held fixed. It turns with "
            "x, and that leaves (D − 1) x·v.": _combined(out=0),
            "The change along x is counted too. Take off x·(∂v/∂x) x.": _combined(along=0),
            "The tangential part v − (x·v) x is differentiated in all directions of space. Leave "
            "out the one along x.": _combined(more=-2),
            "x·v has the factor D. The sphere has D − 1 dimensions.": _combined(more=-1),
            "x·v has the wrong sign. Pointing outwards lowers the divergence.": _combined(out=1),
            "x·(∂v/∂x) x has the wrong sign. It is taken away from the trace.": _combined(along=1),
            "The sign is wrong. This is the rate of the log density.": _combined(-1, 1, 1),
            "All entries of the Jacobian are added up. The divergence is its trace: entry i of v "
            "by entry i of x.": _jacobian_sum,
            "The sum over the entries is divided by their number. A trace is a "
            "sum.": lambda field, x, t: sphere_divergence(field, x, t) / x.shape[1],
            "The batch is summed. One number is wanted for each sample.": lambda *a: (
                sphere_divergence(*a).sum()
            ),
        },
        settings=_settings(2, 3, 3, 4, 2, 6),
        points=2,
    ),
)
