"""Toy data sets in the plane: rings, moons, circles, boards and a curve. Chapter 2."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from fmtutorial.distributions.gaussians import GaussianMixture
from fmtutorial.fields import (
    check_callable,
    check_count,
    check_number,
    check_state,
    generator_device,
)


def ring_of_gaussians(modes: int = 11, radius: float = 10.0, std: float = 1.0) -> GaussianMixture:
    """Equal isotropic Gaussians, evenly spaced on a circle in the plane."""
    check_count(modes, "modes")
    check_number(radius, "radius", low=0)
    check_number(std, "std", low=0)
    angles = torch.arange(modes) * (2 * math.pi / modes)
    means = radius * torch.stack([angles.cos(), angles.sin()], dim=1)
    return GaussianMixture(means, torch.full((modes,), float(std)).square())


def eight_gaussians(radius: float = 5.0, std: float = 0.5) -> GaussianMixture:
    """Eight narrow Gaussians on a circle: the usual source or target of transport pictures."""
    return ring_of_gaussians(8, radius, std)


@dataclass(frozen=True)
class Samples:
    """A toy data set that can be drawn from but has no density written down.

    Args:
        draw: from a number n and a generator, or None, to points of shape (n, 2).
    """

    draw: Callable[[int, Generator | None], Tensor]

    def __post_init__(self) -> None:
        check_callable(self.draw, "draw")

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw n samples, shape (n, 2)."""
        check_count(n, "n", least=0)
        generator_device(generator)  # refuses what is no generator
        points = self.draw(n, generator)
        check_state(points, "points")
        if points.shape != (n, 2):
            raise ValueError(f"draw returned shape {tuple(points.shape)}; it should be ({n}, 2)")
        return points


def two_moons(noise: float = 0.1, scale: float = 2.0) -> Samples:
    """Two interleaved half circles of radius ``scale``, centred, with Gaussian noise."""
    check_number(noise, "noise", low=0)
    check_number(scale, "scale", low=0, without_low=True)
    # a function of the module, bound to its numbers, can be sent to another process
    return Samples(partial(_two_moons, noise=noise, scale=scale))


def _two_moons(n: int, generator: Generator | None, noise: float, scale: float) -> Tensor:
    angle = math.pi * _uniform(n, generator)
    lower = _coin(n, generator)
    x = torch.where(lower, 1 - angle.cos(), angle.cos()) - 0.5
    y = torch.where(lower, 0.5 - angle.sin(), angle.sin()) - 0.25
    return _with_noise(scale * torch.stack([x, y], dim=1), noise, generator)


def circles(noise: float = 0.1, radii: tuple[float, float] = (1.5, 3.0)) -> Samples:
    """Two concentric circles, equally likely, with Gaussian noise."""
    check_number(noise, "noise", low=0)
    if not isinstance(radii, (tuple, list)) or len(radii) != 2:
        raise TypeError(f"radii is {radii!r}; pass two numbers, such as (1.5, 3.0)")
    for radius in radii:
        check_number(radius, "a radius", low=0, without_low=True)
    return Samples(partial(_circles, noise=noise, radii=tuple(radii)))


def _circles(
    n: int, generator: Generator | None, noise: float, radii: tuple[float, float]
) -> Tensor:
    angle = 2 * math.pi * _uniform(n, generator)
    inner = _coin(n, generator)
    radius = torch.where(inner, radii[0], radii[1])
    points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return _with_noise(points, noise, generator)


def checkerboard(squares: int = 4, width: float = 8.0) -> Samples:
    """Uniform over the dark squares of a board of ``squares`` × ``squares``, centred."""
    check_count(squares, "squares")
    check_number(width, "width", low=0, without_low=True)
    if squares % 2:
        raise ValueError(f"squares is {squares}; a board needs an even number of at least 2")
    return Samples(partial(_checkerboard, squares=squares, width=width))


def _checkerboard(n: int, generator: Generator | None, squares: int, width: float) -> Tensor:
    device = generator_device(generator)
    row = torch.randint(squares, (n,), generator=generator, device=device)
    pick = torch.randint(squares // 2, (n,), generator=generator, device=device)
    corner = torch.stack([2 * pick + row % 2, row], dim=1)
    within = torch.rand(n, 2, generator=generator, device=device)
    return (corner + within) * (width / squares) - width / 2


def s_curve(noise: float = 0.1, scale: float = 1.5) -> Samples:
    """The letter S in the plane: two three-quarter circles, with Gaussian noise."""
    check_number(noise, "noise", low=0)
    check_number(scale, "scale", low=0, without_low=True)
    return Samples(partial(_s_curve, noise=noise, scale=scale))


def _s_curve(n: int, generator: Generator | None, noise: float, scale: float) -> Tensor:
    angle = 3 * math.pi * (_uniform(n, generator) - 0.5)
    points = torch.stack([angle.sin(), angle.sign() * (angle.cos() - 1)], dim=1)
    return _with_noise(scale * points, noise, generator)


def _uniform(n: int, generator: Generator | None) -> Tensor:
    return torch.rand(n, generator=generator, device=generator_device(generator))


def _coin(n: int, generator: Generator | None) -> Tensor:
    return _uniform(n, generator) < 0.5


def _with_noise(points: Tensor, noise: float, generator: Generator | None) -> Tensor:
    return points + noise * torch.randn(points.shape, generator=generator, device=points.device)
