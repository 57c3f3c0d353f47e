"""Rotations of space as a curved space: 3 × 3 matrices, and their quaternions. Chapter 14."""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from fmtutorial.fields import expand_time
from fmtutorial.manifolds.spaces import Manifold, Sphere, angle_over_sine, cos_and_sinc, dot
from fmtutorial.paths import PathSample


@dataclass(frozen=True)
class Rotations(Manifold):
    """Rotations of space, orthogonal matrices with determinant 1, shape (B, 3, 3).

    A tangent vector at x is x Ω with an antisymmetric Ω, that is ω × in the axes of x. Its length
    is ‖ω‖, so that distances are angles; the sum of the squared entries is twice its square.
    """

    event_shape = (3, 3)
    dimension = 3
    log_volume = math.log(8 * math.pi**2)

    def project(self, x: Tensor) -> Tensor:
        """Return the nearest rotations, by Newton's method x ← ½ (x + x⁻ᵀ).

        Raises:
            ValueError: a determinant is not positive, or a matrix is far from all rotations.

        Source: Higham 1986.
        """
        self._check_shape(x, "x")
        enough = torch.finfo(x.dtype).eps ** 0.5  # each step squares the error
        for _ in range(12):
            rows = x.unbind(dim=1)
            cofactors = torch.stack(
                [torch.linalg.cross(rows[i - 2], rows[i - 1]) for i in range(3)], dim=1
            )
            determinant = (x * cofactors).sum(dim=(1, 2), keepdim=True) / 3
            if not bool((determinant > 0).all() | x.isnan().any()):
                raise ValueError("a determinant is not positive: no rotation is near that matrix")
            before, x = x, (x + cofactors / determinant) / 2
            if not bool(((x - before).abs() > enough).any()):
                return x
        raise ValueError("a matrix is almost singular or a thousand times too large or small")

    def tangent(self, x: Tensor, v: Tensor) -> Tensor:
        """Return x ½ (xᵀv − vᵀx), the part of v that is tangent at the point x."""
        self._check_vector(x, v)
        turn = x.mT @ v
        return x @ (turn - turn.mT) / 2

    def squared_norm(self, v: Tensor) -> Tensor:
        """Return ‖ω‖² = ½ Σ v_ij², shape (B,)."""
        self._check_shape(v, "v")
        return v.square().sum(dim=(1, 2)) / 2

    def shortest(self, x: Tensor, y: Tensor) -> Tensor:
        """Return a shortest v with exp(x, v) = y: of two that are half a turn, one.

        By way of the unit quaternion of xᵀy, which loses no digits at any angle.
        """
        self._check_pair(x, y)
        quaternion = _quaternion(x.mT @ y)
        cosine, axis = quaternion[:, :1], quaternion[:, 1:]
        return x @ _cross(2 * angle_over_sine(dot(axis, axis), cosine) * axis)

    def follow(self, x: Tensor, v: Tensor, t: Tensor) -> PathSample:
        """Return point and velocity at time t, shape (B,): x turns about a fixed axis."""
        self._check_motion(x, v, t)
        turn, t = x.mT @ v, expand_time(t, x).to(x)
        angle2 = t.square() * (turn.square().sum(dim=(1, 2), keepdim=True) / 2)
        sinc, half = cos_and_sinc(angle2)[1], cos_and_sinc(angle2 / 4)[1]
        rotation = torch.eye(3).to(x) + t * sinc * turn + (t * half).square() / 2 * (turn @ turn)
        point = self.project(x @ rotation)
        return PathSample(point, point @ turn)

    def volume_factor(self, v: Tensor) -> Tensor:
        """Return by how much exp stretches volume at v, (sin(θ/2)/(θ/2))²; 0 beyond π; (B,)."""
        angle2 = self.squared_norm(v)
        factor = cos_and_sinc(angle2 / 4)[1].square()
        return torch.where(angle2 > math.pi**2, 0, factor)

    def uniform(self, count: int, generator: Generator | None = None) -> Tensor:
        """Draw rotations of the uniform law, which no rotation changes; shape (count, 3, 3)."""
        q = Sphere(3).uniform(count, generator)
        w, axis = q[:, :1, None], _cross(q[:, 1:])
        return self.project(torch.eye(3).to(q) + 2 * w * axis + 2 * axis @ axis)

    def _off(self, x: Tensor) -> Tensor:
        off = (x.mT @ x - torch.eye(3).to(x)).abs().amax(dim=(1, 2))
        return torch.maximum(off, (1 - torch.linalg.det(x)).abs())


def _cross(axis: Tensor) -> Tensor:
    """Return the antisymmetric matrices of ω ×, shape (B, 3, 3)."""
    a, b, c = axis.unbind(dim=1)
    o = torch.zeros_like(a)
    return torch.stack([o, -c, b, c, o, -a, -b, a, o], dim=1).reshape(-1, 3, 3)


def _quaternion(rotation: Tensor) -> Tensor:
    """Return the unit quaternions with w ≥ 0, shape (B, 4), from the largest row of 4 q qᵀ."""
    (a, b, c), (d, e, f), (g, h, i) = (row.unbind(dim=1) for row in rotation.unbind(dim=1))
    rows = [
        *[1 + a + e + i, h - f, c - g, d - b, h - f, 1 + a - e - i, b + d, c + g],
        *[c - g, b + d, 1 - a + e - i, f + h, d - b, c + g, f + h, 1 - a - e + i],
    ]
    square = torch.stack(rows, dim=1).reshape(-1, 4, 4)
    largest = square.diagonal(dim1=1, dim2=2).argmax(dim=1)
    row = square[torch.arange(len(square), device=square.device), largest]
    q = row / torch.linalg.vector_norm(row, dim=1, keepdim=True)
    return torch.where(q[:, :1] < 0, -q, q)
