"""Noise and data: Gaussians, mixtures with closed forms, and toy data sets.

Everything here has ``.sample(n, generator=None)``; what has a density also has
``.log_prob(x)`` and ``.score(x)``. Samples live on the generator's device, and on PyTorch's
default device without one. Chapters 1 and 2.
"""

from fmtutorial.distributions.gaussians import Gaussian, GaussianMixture, Observation
from fmtutorial.distributions.toys import (
    Samples,
    checkerboard,
    circles,
    eight_gaussians,
    ring_of_gaussians,
    s_curve,
    two_moons,
)

__all__ = [
    "Gaussian",
    "GaussianMixture",
    "Observation",
    "Samples",
    "checkerboard",
    "circles",
    "eight_gaussians",
    "ring_of_gaussians",
    "s_curve",
    "two_moons",
]
