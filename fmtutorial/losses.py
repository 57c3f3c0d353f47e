"""The regression loss of flow matching, and the distributions of t that it is averaged over.

Chapter 3.
"""

import torch
from torch import Generator, Tensor

from fmtutorial.fields import VelocityField, check_same_shape, generator_device
from fmtutorial.paths import AffinePath


def flow_matching_loss(
    field: VelocityField, path: AffinePath, x0: Tensor, x1: Tensor, t: Tensor
) -> Tensor:
    """Return the conditional flow matching loss: the mean over b of ‖v(x_t, t) − (α̇ x₁ + σ̇ x₀)‖².

    The squared norm is summed over an event and averaged over the batch. It does not go to zero:
    its floor is the mean of ``ExactField.target_variance``.

    Args:
        field: v(x, t).
        path: gives x_t and the target.
        x0: noise, shape (B, *event).
        x1: data, shape of x0; row b is the partner of row b of x0.
        t: shape (B,), in [0, 1], or [0, 1) where σ̇ diverges at 1.

    Returns:
        Shape ().

    Raises:
        TypeError: an argument is not a floating-point tensor.
        ValueError: shapes differ, t lies outside the interval, or the field returns another
            shape than x_t has.

    Source: Lipman et al. 2023, Eq. 9. Chapter 3.
    """
    sample = path.sample(x0, x1, t)
    v = field(sample.x_t, t)
    check_same_shape(v, sample.velocity, "v, target")
    return ((v - sample.velocity) ** 2).reshape(len(x0), -1).sum(dim=1).mean()


def uniform_times(n: int, generator: Generator | None = None) -> Tensor:
    """Draw n times uniformly from [0, 1); shape (n,), on the generator's device."""
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
        ValueError: std is not positive.

    Source: Esser et al. 2024, Eq. 19. Chapter 3.
    """
    if not std > 0:
        raise ValueError(f"std is {std}; it must be positive")
    z = mean + std * torch.randn(n, generator=generator, device=generator_device(generator))
    return torch.sigmoid(z)
