"""The exercises of chapter 8."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fmtutorial.coursework.exercises import Draw, Exercise, Function, Setting
from fmtutorial.guidance import LabelledField, guided
from fmtutorial.images.bits import bits_per_dimension as bits_for_shape
from fmtutorial.metrics import Moments, frechet_between

IMAGES = (
    Setting(4, (2,), torch.float64),
    Setting(3, (3,), torch.float64),
    Setting(5, (1, 28, 28), torch.float32),
    Setting(1, (6,), torch.float32),
    Setting(7, (1, 4, 4), torch.float64),
)
"""For densities, shape (B,), of events with as many entries."""

FEATURES = tuple(Setting(1, (size,), torch.float64) for size in (3, 1, 2, 5, 16))
"""For means of shape (D,); the roots ask for double precision."""


class LabelledNetwork:
    """A field v(x, t, label) that answers without a label, None, or for one of ten."""

    def __init__(self, draw: Draw) -> None:
        self.free, self.bound = draw.field(), draw.field()
        self.shifts = draw.normal(10, *draw.setting.event)

    def __call__(self, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        """Return v(x, t, label), in the shape of x.

        Raises:
            ValueError: label is neither None nor of shape (B,).
        """
        if label is None:
            return self.free(x, t)
        if label.shape != x.shape[:1]:
            raise ValueError(f"label has shape {tuple(label.shape)}; pass ({len(x)},) or None")
        return self.bound(x, t) + self.shifts[label]


def bits_per_dimension(log_prob: Tensor, dimensions: int) -> Tensor:
    """Return the bits that an entry costs, of 256 levels in [−1, 1)."""
    return bits_for_shape(log_prob, (dimensions,))


def guided_velocity(
    network: LabelledField, x: Tensor, t: Tensor, label: Tensor, scale: Tensor
) -> Tensor:
    """Return the velocity that guidance follows."""
    return guided(network, label, scale.item())(x, t)


def frechet(
    mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor
) -> Tensor:
    """Return the squared Fréchet distance of two Gaussians."""
    first, second = Moments(mean, covariance), Moments(other_mean, other_covariance)
    return torch.tensor(frechet_between(first, second), dtype=mean.dtype)


def _wrong_bits(*, base: float = 2.0, sign: int = -1, width: int = 7) -> Function:
    return lambda log_prob, dimensions: sign * log_prob / (dimensions * math.log(base)) + width


def _combined(weights: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Function:
    """Return the sum of the fields without and with the label, with weights of the scale."""

    def velocity(
        network: LabelledField, x: Tensor, t: Tensor, label: Tensor, scale: Tensor
    ) -> Tensor:
        free, bound = weights(scale)
        return free * network(x, t, None) + bound * network(x, t, label)

    return velocity


def _root(matrix: Tensor) -> Tensor:
    """Return the root of a symmetric matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def _overlap(one: Tensor, other: Tensor) -> Tensor:
    """Return the trace of the root of a product."""
    return torch.linalg.eigvals(one @ other).sqrt().sum().real


def _overlap_of_one_half(one: Tensor, other: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(one @ other).clamp(min=0).sqrt().sum()


def _squared_norm(x: Tensor) -> Tensor:
    return x.square().sum()


def _wrong_frechet(
    means: Callable[[Tensor], Tensor] = _squared_norm,
    overlap: Callable[[Tensor, Tensor], Tensor] = _overlap,
) -> Function:
    def distance(
        mean: Tensor, covariance: Tensor, other_mean: Tensor, other_covariance: Tensor
    ) -> Tensor:
        traces = covariance.trace() + other_covariance.trace()
        return means(mean - other_mean) + traces - 2 * overlap(covariance, other_covariance)

    return distance


def _log_prob(draw: Draw) -> tuple:
    dimensions = math.prod(draw.setting.event)
    bits = draw.uniform(0.5, 9.0, draw.setting.batch)
    return (7 - bits) * dimensions * math.log(2), dimensions


def _labelled(draw: Draw) -> tuple:
    label = torch.tensor([draw.integer(0, 9) for _ in range(draw.setting.batch)])
    scale = draw.uniform(-1.5, 0.4) if draw.setting.batch % 2 else draw.uniform(1.2, 4.0)
    return LabelledNetwork(draw), draw.normal(), draw.times(), label, scale


def _moments(draw: Draw) -> tuple:
    (size,) = draw.setting.event
    return draw.normal(size), _covariance(draw), draw.normal(size), _covariance(draw)


def _covariance(draw: Draw) -> Tensor:
    """Draw a symmetric matrix; if it is large, half of its eigenvalues are 0, up to rounding."""
    (size,) = draw.setting.event
    a = draw.normal(size, size if size < 16 else size // 2)
    ridge = 0.25 if size < 16 else 0.0
    return draw.uniform(0.5, 2.0) * (a @ a.T / size + ridge * torch.eye(size, dtype=a.dtype))


EXERCISES = (
    Exercise(
        "digits.bits_per_dimension",
        bits_per_dimension,
        _log_prob,
        {
            "This counts nats, not bits: the logarithm to base 2 is the natural one over "
            "log 2.": _wrong_bits(base=math.e),
            "The logarithm has the wrong sign. A higher density costs fewer bits.": (
                _wrong_bits(sign=1)
            ),
            "The logarithm is multiplied by log 2. The one to base 2 is the natural one over "
            "log 2.": lambda log_prob, dimensions: 7 - log_prob * math.log(2) / dimensions,
            "The width of a level has the wrong sign. A cube of side 1/128 has less probability "
            "than the density says, so an integer costs 7 bits more.": _wrong_bits(width=-7),
            "The width of a level is taken as 1/256, which would belong to pixels in [0, 1). Here "
            "256 levels share an interval of length 2.": _wrong_bits(width=8),
            "The width of a level is missing. This is the density of real numbers; the integer "
            "has the probability of a whole cube.": _wrong_bits(width=0),
            "These are the bits of a whole image, plus 7. Divide the logarithm by the number of "
            "dimensions.": lambda log_prob, dimensions: 7 - log_prob / math.log(2),
            "The 7 is divided by the number of dimensions too. Every dimension has its own 7 "
            "bits.": lambda log_prob, dimensions: (7 - log_prob / math.log(2)) / dimensions,
        },
        settings=IMAGES,
    ),
    Exercise(
        "digits.guided_velocity",
        guided_velocity,
        _labelled,
        {
            "The scale is used as the weight w of papers that start from the field with the "
            "label. In this book w = s − 1.": _combined(lambda s: (-s, 1 + s)),
            "The weight s − 1 is put on the difference, but from the field without the label. "
            "It belongs to the field with it.": _combined(lambda s: (2 - s, s - 1)),
            "The two fields are exchanged. s = 1 must give the field with the label, and s = 0 "
            "that without.": _combined(lambda s: (s, 1 - s)),
            "This is s times the difference of the two fields alone. It is added to the field "
            "without the label.": _combined(lambda s: (-s, s)),
            "The weights of the two fields do not add up to 1. The more of one, the less of the "
            "other.": _combined(lambda s: (torch.ones_like(s), s)),
            "This is the field with the label, whatever the scale. Take the one without it "
            "too.": _combined(lambda s: (0 * s, torch.ones_like(s))),
        },
    ),
    Exercise(
        "digits.frechet",
        frechet,
        _moments,
        {
            "The root is taken of every entry of the matrix. The root of a matrix A is the "
            "matrix whose square is A.": (
                _wrong_frechet(overlap=lambda one, other: (one @ other).sqrt().trace())
            ),
            "This multiplies the roots of the two covariances. The root of a product is not the "
            "product of the roots, unless the matrices commute.": (
                _wrong_frechet(overlap=lambda one, other: (_root(one) @ _root(other)).trace())
            ),
            "The product of the covariances enters without a root. Its unit would be that of "
            "the features to the fourth power.": (
                _wrong_frechet(overlap=lambda one, other: (one @ other).trace())
            ),
            "eigh and eigvalsh look at one half of a matrix and take it for symmetric. The product "
            "of two covariances is not.": _wrong_frechet(overlap=_overlap_of_one_half),
            "The distance of the means is not squared.": _wrong_frechet(means=torch.linalg.norm),
            "The root is subtracted once. It comes twice.": _wrong_frechet(
                overlap=lambda one, other: _overlap(one, other) / 2
            ),
            "The root of the whole is taken. The formula is that of the squared distance, and "
            "this is what is wanted.": lambda *moments: frechet(*moments).sqrt(),
        },
        settings=FEATURES,
        points=2,
    ),
)
