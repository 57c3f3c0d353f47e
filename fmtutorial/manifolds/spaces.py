"""Curved spaces: torus and sphere, with their shortest paths and their volume. Chapter 14."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from fmtutorial.fields import (
    check_count,
    check_number,
    check_same_shape,
    check_state,
    expand_time,
    flatten,
    generator_device,
)
from fmtutorial.paths import PathSample


class Manifold:
    """What every space has: points (B, *event_shape), and tangent vectors of the same shape.

    A space of its own gives ``project``, ``tangent``, ``squared_norm``, ``shortest``, ``follow``,
    ``volume_factor`` and ``uniform``, and ``event_shape``, ``dimension`` and ``log_volume``.

    Source: Lee 2018. Chapter 14.
    """

    def check(self, x: Tensor, name: str = "x") -> None:
        """Raise unless x is a batch of points of the space, to a thousand times the rounding.

        Raises:
            TypeError: x is not a tensor of single or double precision.
            ValueError: another shape, or a point off the space.
        """
        self._check_shape(x, name)
        off = self._off(x)
        if not bool((off <= 1000 * torch.finfo(x.dtype).eps).all()):
            worst = off.nan_to_num(math.inf).max().item()
            raise ValueError(f"{name} is {worst:.1g} off {self}; pass project({name})")

    def exp(self, x: Tensor, v: Tensor) -> Tensor:
        """Return where the straightest path from x with the tangent velocity v is at time 1."""
        check_state(x)
        return self.follow(x, v, x.new_ones(len(x))).x_t

    def log(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the tangent vector v at x, the only shortest one, with exp(x, v) = y.

        Raises:
            ValueError: two paths from x to y are shortest: antipodes, or half a turn apart.
        """
        v = self.shortest(x, y)
        self._refuse_cut(self.volume_factor(v * (1 + 8 * torch.finfo(v.dtype).eps)) > 0, x, y)
        return v

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the length of the shortest path from x to y, shape (B,)."""
        return self.squared_norm(self.shortest(x, y)).sqrt()

    def _check_shape(self, x: Tensor, name: str) -> None:
        check_state(x, name)
        if x.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"{name} has dtype {x.dtype}, too coarse for a point: pass x.float()")
        if x.shape[1:] != self.event_shape:
            wanted = ", ".join(map(str, ("B", *self.event_shape)))
            raise ValueError(f"{name} has shape {tuple(x.shape)}; for {self} pass ({wanted})")

    def _check_vector(self, x: Tensor, v: Tensor) -> None:
        self._check_shape(x, "x")
        check_same_shape(v, x, "v, x")

    def _check_pair(self, x: Tensor, y: Tensor) -> None:
        self.check(x)
        self.check(y, "y")
        check_same_shape(x, y, "x, y")

    def _check_motion(self, x: Tensor, v: Tensor, t: Tensor) -> None:
        self.check(x)
        check_same_shape(v, x, "v, x")
        expand_time(t, x)
        normal = flatten(v - self.tangent(x, v)).abs().amax(dim=1)
        allowed = 1000 * torch.finfo(x.dtype).eps * (1 + flatten(v).abs().amax(dim=1))
        if bool((normal > allowed).any()):
            worst = normal.max().item()
            raise ValueError(f"v leaves {self} by {worst:.1g}; pass tangent(x, v)")

    def _refuse_cut(self, fine: Tensor, x: Tensor, y: Tensor) -> None:
        if not bool(fine.all()):
            ends = " to ".join(str(z[~fine][0].tolist()) for z in (x, y))
            raise ValueError(f"no single path from {ends} is the shortest on {self}; move one")


@dataclass(frozen=True)
class Torus(Manifold):
    """A product of circles: angles in [−π, π), shape (B, d), one radius for each.

    The metric is Σ r_i² v_i², for velocities v of the angles. Torus((1.0,)) is the circle.
    """

    radii: tuple[float, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.radii, tuple) or not self.radii:
            raise ValueError(f"radii is {self.radii!r}; pass a tuple such as (1.0, 1.0)")
        for radius in self.radii:
            check_number(radius, "a radius", 0, without_low=True)

    @property
    def dimension(self) -> int:
        """Number of angles."""
        return len(self.radii)

    @property
    def event_shape(self) -> tuple[int]:
        """Shape of a point."""
        return (self.dimension,)

    @property
    def log_volume(self) -> float:
        """Logarithm of the product of all 2π r_i."""
        return sum(math.log(2 * math.pi * r) for r in self.radii)

    def project(self, x: Tensor) -> Tensor:
        """Return angles of any size as angles in [−π, π)."""
        self._check_shape(x, "x")
        return _wrap(x)

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Return v: all velocities of angles are tangent."""
        self._check_vector(x, v)
        return v

    def squared_norm(self, v: Tensor) -> Tensor:
        """Return Σ r_i² v_i², shape (B,)."""
        self._check_shape(v, "v")
        return (v.new_tensor(self.radii) * v).square().sum(dim=1)

    def shortest(self, x: Tensor, y: Tensor) -> Tensor:
        """Return a shortest v with exp(x, v) = y: of two that are half a turn, one."""
        self._check_pair(x, y)
        return _wrap(y - x)

    def follow(self, x: Tensor, v: Tensor, t: Tensor) -> PathSample:
        """Return point and velocity at time t, shape (B,), of the path from x with velocity v."""
        self._check_motion(x, v, t)
        return PathSample(_wrap(x + expand_time(t, x).to(x) * v), v)

    def volume_factor(self, v: Tensor) -> Tensor:
        """Return by how much exp stretches volume at v: 1; 0 where v is not shortest; (B,)."""
        self._check_shape(v, "v")
        return torch.where((v.abs() > math.pi).any(dim=1), 0, 1 + 0 * v.sum(dim=1))

    def uniform(self, count: int, generator: Generator | None = None) -> Tensor:
        """Draw points of the uniform law, shape (count, d)."""
        check_count(count, "count", 0)
        device = generator_device(generator)
        drawn = torch.rand(count, self.dimension, generator=generator, device=device)
        return _wrap(2 * math.pi * drawn)

    def _off(self, x: Tensor) -> Tensor:
        return x.abs().amax(dim=1) - math.pi


@dataclass(frozen=True)
class Sphere(Manifold):
    """Unit vectors, shape (B, dimension + 1): the circle for dimension 1, the globe for 2."""

    dimension: int = 2

    def __post_init__(self) -> None:
        check_count(self.dimension, "dimension")

    @property
    def event_shape(self) -> tuple[int]:
        """Shape of a point."""
        return (self.dimension + 1,)

    @property
    def log_volume(self) -> float:
        """Logarithm of the area, 2π for the circle and 4π for the globe."""
        half = (self.dimension + 1) / 2
        return math.log(2) + half * math.log(math.pi) - math.lgamma(half)

    def project(self, x: Tensor) -> Tensor:
        """Return x / ‖x‖; a row of zeros is refused."""
        self._check_shape(x, "x")
        length = x.norm(dim=1, keepdim=True)
        if not bool((length != 0).all()):
            raise ValueError("x has a row of zeros, to which all points of a sphere are near")
        return x / length

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Return v − (v·x) x, the part of v that is tangent at the point x."""
        self._check_vector(x, v)
        return v - dot(v, x) * x

    def squared_norm(self, v: Tensor) -> Tensor:
        """Return ‖v‖², shape (B,)."""
        self._check_shape(v, "v")
        return v.square().sum(dim=1)

    def shortest(self, x: Tensor, y: Tensor) -> Tensor:
        """Return log(x, y): from an antipode all directions are shortest, and it refuses.

        The angle is by the arctangent of sine and cosine, and the direction from y ∓ x: neither
        loses digits near 0 or near π, as the inverse cosine does.
        """
        self._check_pair(x, y)
        cosine = dot(x, y)
        leg = self.tangent(x, torch.where(cosine > 0, y - x, y + x))
        sine2 = dot(leg, leg)
        nowhere = (cosine < 0) & (sine2 <= (8 * torch.finfo(x.dtype).eps) ** 2)
        self._refuse_cut(~nowhere[:, 0], x, y)
        return angle_over_sine(sine2, cosine) * leg

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the angle between x and y, shape (B,); also for antipodes."""
        self._check_pair(x, y)
        return 2 * torch.atan2((x - y).norm(dim=1), (x + y).norm(dim=1))

    def follow(self, x: Tensor, v: Tensor, t: Tensor) -> PathSample:
        """Return point and velocity at time t, shape (B,), of the great circle from x along v."""
        self._check_motion(x, v, t)
        t = expand_time(t, x).to(x)
        speed2 = dot(v, v)
        cosine, sinc = cos_and_sinc(t.square() * speed2)
        point = self.project(cosine * x + t * sinc * v)  # rounding does not add up
        return PathSample(point, cosine * v - t * speed2 * sinc * x)

    def volume_factor(self, v: Tensor) -> Tensor:
        """Return by how much exp stretches volume at v, (sin‖v‖/‖v‖)^(d−1); 0 beyond π; (B,)."""
        speed2 = self.squared_norm(v)
        factor = cos_and_sinc(speed2)[1].abs() ** (self.dimension - 1)
        return torch.where(speed2 > math.pi**2, 0, factor)

    def uniform(self, count: int, generator: Generator | None = None) -> Tensor:
        """Draw points of the uniform law, shape (count, dimension + 1)."""
        check_count(count, "count", 0)
        device = generator_device(generator)
        drawn = torch.randn(count, self.dimension + 1, generator=generator, device=device)
        return self.project(drawn)

    def _off(self, x: Tensor) -> Tensor:
        return (x.norm(dim=1) - 1).abs()


def dot(x: Tensor, y: Tensor) -> Tensor:
    """Return the products of vectors, shape (B, 1)."""
    return (x * y).sum(dim=1, keepdim=True)


def _wrap(angle: Tensor) -> Tensor:
    turned = angle - 2 * math.pi * torch.round(angle / (2 * math.pi))
    return torch.where(turned >= math.pi, turned - 2 * math.pi, turned)


def cos_and_sinc(square: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos θ and sin θ / θ as smooth functions of θ²."""
    small = square < 1e-4  # where the next terms are below 1e-17
    angle = torch.where(small, 1, square).sqrt()
    near = 1 - square / 6 * (1 - square / 20 * (1 - square / 42))
    cosine = torch.where(small, 1 - square / 2 * (1 - square / 12 * (1 - square / 30)), angle.cos())
    return cosine, torch.where(small, near, angle.sin() / angle)


def angle_over_sine(sine2: Tensor, cosine: Tensor) -> Tensor:
    """Return θ / sin θ from sin² θ and cos θ, smooth at 0."""
    small = (sine2 < 1e-4) & (cosine > 0)
    sine = torch.where(small, 1, sine2).sqrt()
    near = 1 + sine2 / 6 * (1 + sine2 * 9 / 20 * (1 + sine2 * 25 / 42))
    return torch.where(small, near, torch.atan2(sine, cosine) / sine)
