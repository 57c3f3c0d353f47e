"""The regression loss of flow matching, and the distributions of t that it is averaged over.

Chapter 3.
"""

import math

import torch
from torch import Generator, Tensor

from fmtutorial.fields import (
    VelocityField,
    check_callable,
    check_count,
    check_kind,
    check_number,
    check_same_shape,
    check_state,
    flatten,
    generator_device,
)
from fmtutorial.paths import AffinePath


def mean_squared_norm(difference: Tensor) -> Tensor:
    """Return (1/B) Σ_b ‖d_b‖²: summed over an event, averaged over the batch.

    Every loss of the book is this mean of some difference.

    Args:
        difference: d, shape (B, *event), B ≥ 1.

    Returns:
        Shape ().

    Raises:
        ValueError: the batch is empty.

    Chapter 3.
    """
    check_state(difference, "difference")
    if len(difference) == 0:
        raise ValueError(
            f"difference has shape {tuple(difference.shape)}: an empty batch has no mean; "
            "pass at least one sample"
        )
    return flatten(difference.square()).sum(dim=1).mean()


def flow_matching_loss(
    field: VelocityField, path: AffinePath, x0: Tensor, x1: Tensor, t: Tensor
) -> Tensor:
    """Return the conditional flow matching loss: the mean over b of ‖v(x_t, t) − (α̇ x₁ + σ̇ x₀)‖².

    It does not go to zero: its floor is the mean of ``ExactField.target_variance``.

    Args:
        field: v(x, t).
        path: gives x_t and the target.
        x0: noise, shape (B, *event).
        x1: data, shape of x0; row b is the partner of row b of x0.
        t: shape (B,), in [0, 1], or [0, 1) where σ̇ diverges at 1.

    Returns:
        Shape ().

    Raises:
        ValueError: the batch is empty, t lies outside the interval, or the field returns
            another shape than x_t has.

    Source: Lipman et al. 2023, Eq. 9. Chapter 3.
    """
    check_callable(field, "field")
    check_kind(path, AffinePath, "path")
    sample = path.sample(x0, x1, t)
    v = field(sample.x_t, t)
    check_same_shape(v, sample.velocity, "v, target")
    return mean_squared_norm(v - sample.velocity)


def uniform_times(n: int, generator: Generator | None = None) -> Tensor:
    """Draw n times uniformly from [0, 1); shape (n,), on the generator's device."""
    check_count(n, "n", least=0)
    return torch.rand(n, generator=generator, device=generator_device(generator))


def logit_normal_times(
    n: int, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Draw t = 1 / (1 + exp(−z)) with z ~ N(mean, std²): more of the middle, less of the ends.

    This minimises a reweighted loss: the density of t is the weight. The best field is the same.

    Args:
        n: how many.
        mean: of z; above 0 moves times towards data.
        std: of z; 1.75 is nearest to uniform (in relative entropy), smaller is narrower.
        generator: source of randomness; times are on its device.

    Returns:
        Shape (n,), in (0, 1).

    Raises:
        ValueError: n is negative, mean is not finite, or std not positive.

    Source: Esser et al. 2024, Eq. 19. Chapter 3.
    """
    check_count(n, "n", least=0)
    check_number(mean, "mean")
    check_number(std, "std", low=0, without_low=True)
    z = mean + std * torch.randn(n, generator=generator, device=generator_device(generator))
    smallest, largest = torch.finfo(z.dtype).tiny, 1 - torch.finfo(z.dtype).eps / 2
    return torch.sigmoid(z).clamp(smallest, largest)  # which rounds to an end for large |z|


def likelihood_times(n: int, closest: float = 0.002, generator: Generator | None = None) -> Tensor:
    """Draw t with 1 − t log-uniform in [closest, 1]: each halving of the noise is drawn as often.

    The density is 1/(L (1 − t)) with L = log(1/closest), and 1/(1 − t) = t/(1 − t) + 1. So L times
    the loss on these times is, up to a constant, the bound of the likelihood for the linear
    schedule, whose weight is t/(1 − t), plus the loss up to 1 − closest with weight 1, which keeps
    the field right near noise.

    Args:
        n: how many.
        closest: least 1 − t. The bound diverges with log(1/closest) for data with a density.
            Pixels that fill 1/128 of their range have the standard deviation 0.002.
        generator: source of randomness; times are on its device.

    Returns:
        Shape (n,), in [0, 1 − closest].

    Raises:
        ValueError: n is negative, or closest is not in (0, 1).

    Source: Song, Durkan et al. 2021, Thm. 1, for the weight. Chapter 7.
    """
    check_count(n, "n", least=0)
    check_number(closest, "closest", low=0, high=1, without_low=True, without_high=True)
    u = torch.rand(n, generator=generator, device=generator_device(generator))
    return -torch.expm1(math.log(closest) * u)  # 1 − closest^u
