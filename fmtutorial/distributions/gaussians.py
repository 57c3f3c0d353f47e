"""Gaussians and mixtures of them: sampling, density, score, and conditioning in closed form.

Chapters 1 and 2.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Generator, Tensor

from fmtutorial.fields import check_count, check_number, check_state, flatten, generator_device


def _check_finite(value: Tensor, name: str) -> None:
    check_state(value, name)
    if not bool(torch.isfinite(value).all()):
        raise ValueError(
            f"{name}: an entry is not finite; look for NaN, infinity or a division by 0"
        )


@dataclass(frozen=True, eq=False)
class Observation:
    """What a mixture knows of x₁ after x = α x₁ + σ x₀ has been seen, with x₀ ~ N(0, I).

    Given component k, (x₁, x) is jointly Gaussian and x has mean α m_k and covariance
    C_k = α² Σ_k + σ² I. Everything is kept in the eigenbasis of Σ_k, where C_k is diagonal.

    Shapes: B samples, K components, D numbers per sample. ``variances`` and ``totals`` end in 1
    instead of D for isotropic components.
    """

    means: Tensor  # (K, D), the m_k
    variances: Tensor  # (K, D) or (K, 1), eigenvalues of Σ_k
    rotations: Tensor | None  # (K, D, D), eigenvectors of Σ_k as columns; None where isotropic
    offsets: Tensor  # (B, K, D), x − α m_k in the eigenbasis
    totals: Tensor  # (B, K, D) or (B, K, 1), eigenvalues of C_k
    logits: Tensor  # (B, K), log of weight times density of x under component k

    @property
    def log_prob(self) -> Tensor:
        """Log-density of x, shape (B,)."""
        return torch.logsumexp(self.logits, dim=1)

    @property
    def responsibilities(self) -> Tensor:
        """P(component k | x), shape (B, K)."""
        return torch.softmax(self.logits, dim=1)

    def component_means(self, on_mean: Tensor, on_covariance: Tensor, on_unit: Tensor) -> Tensor:
        """Return a m_k + (b Σ_k + c I) C_k⁻¹ (x − α m_k) for each component; shape (B, K, D).

        Every conditional mean of the book has this form; a, b, c have shape (B, 1).
        """
        gain = (on_covariance[:, None] * self.variances + on_unit[:, None]) / self.totals
        moved = gain * self.offsets
        if self.rotations is not None:
            moved = torch.einsum("kde,bke->bkd", self.rotations, moved)
        return on_mean[:, None] * self.means + moved

    def mean(self, on_mean: Tensor, on_covariance: Tensor, on_unit: Tensor) -> Tensor:
        """Average ``component_means`` over the responsibilities; shape (B, D)."""
        means = self.component_means(on_mean, on_covariance, on_unit)
        return torch.einsum("bk,bkd->bd", self.responsibilities, means)


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """The density Σ_k w_k N(x; m_k, Σ_k), with any covariances.

    Args:
        means: shape (K, *event).
        covariances: shape (K,) for isotropic components (the variances, not the standard
            deviations), or (K, D, D) with D the number of entries of an event.
        weights: shape (K,), positive and summing to 1; None gives equal weights.

    Raises:
        ValueError: shapes disagree, an entry is not finite, weights do not sum to 1, a covariance
            is not symmetric or has a negative eigenvalue.

    Chapter 2.
    """

    means: Tensor
    covariances: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        _check_finite(self.means, "means")
        _check_finite(self.covariances, "covariances")
        components, size = len(self.means), math.prod(self.event_shape)
        if components * size == 0:
            raise ValueError(
                f"means have shape {tuple(self.means.shape)}; pass (K, *event), nothing of it 0"
            )
        if self.covariances.shape not in {(components,), (components, size, size)}:
            raise ValueError(
                f"covariances have shape {tuple(self.covariances.shape)}; for means of shape "
                f"{tuple(self.means.shape)} pass variances ({components},) or matrices "
                f"({components}, {size}, {size})"
            )
        _ = self._eigen  # validates the covariances
        if self.weights is not None:
            check_state(self.weights, "weights")
            if self.weights.shape != (components,):
                raise ValueError(
                    f"weights have shape {tuple(self.weights.shape)}; "
                    f"pass ({components},), one weight for each component"
                )
            total = self.weights.sum().item()
            if not (self.weights.min() > 0 and abs(total - 1) <= 1e-5):
                raise ValueError(f"weights must be positive and sum to 1; they sum to {total:g}")

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor | None]:
        """Eigenvalues, and eigenvectors as columns where the components are not isotropic."""
        if self.covariances.ndim == 1:
            values, vectors = self.covariances[:, None], None
        else:
            if not torch.allclose(self.covariances, self.covariances.mT):
                raise ValueError("a covariance matrix is not symmetric")
            # not every device can do it, and half precision can nowhere
            wide = torch.promote_types(self.covariances.dtype, torch.float32)
            eigen = torch.linalg.eigh(self.covariances.to("cpu", wide))
            values, vectors = (part.to(self.covariances) for part in eigen)
        smallest = values.min().item()
        # rounding may leave a zero eigenvalue slightly negative
        if not smallest >= -1e-6 * values.abs().max().item():
            raise ValueError(f"a covariance has the negative eigenvalue {smallest:g}")
        return values.clamp(min=0), vectors

    @cached_property
    def _weights(self) -> Tensor:
        if self.weights is not None:
            return self.weights
        return torch.full_like(flatten(self.means)[:, 0], 1 / len(self.means))

    @property
    def event_shape(self) -> torch.Size:
        """Shape of one sample."""
        return self.means.shape[1:]

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw n samples, shape (n, *event)."""
        check_count(n, "n", least=0)
        device = generator_device(generator)
        if n == 0:
            return self.means.new_empty(0, *self.event_shape, device=device)
        values, vectors = self._eigen
        flat = flatten(self.means)
        which = torch.multinomial(
            self._weights.to(device), n, replacement=True, generator=generator
        )
        noise = (
            torch.randn(n, flat.shape[1], generator=generator, device=device, dtype=flat.dtype)
            * values.to(device)[which].sqrt()
        )
        if vectors is not None:
            noise = torch.einsum("nde,ne->nd", vectors.to(device)[which], noise)
        return (flat.to(device)[which] + noise).reshape(n, *self.event_shape)

    def observe(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Observation:
        """Condition x₁ on x = α x₁ + σ x₀ with x₀ ~ N(0, I).

        Args:
            x: states, shape (B, *event).
            alpha: shape (B, 1).
            sigma: shape (B, 1).

        Raises:
            ValueError: x has another event shape, or no density there (σ = 0 and a singular
                covariance).
        """
        check_state(x)
        if x.shape[1:] != self.event_shape:
            raise ValueError(
                f"x has event shape {tuple(x.shape[1:])}; "
                f"the distribution's is {tuple(self.event_shape)}"
            )
        for name, value in (("alpha", alpha), ("sigma", sigma)):
            _check_finite(value, name)
            if value.shape != (len(x), 1):
                raise ValueError(f"{name} has shape {tuple(value.shape)}; pass ({len(x)}, 1)")
        means = flatten(self.means).to(x)
        values, vectors = self._eigen
        variances, rotations = values.to(x), None if vectors is None else vectors.to(x)
        size = means.shape[1]
        offsets = x.reshape(len(x), 1, size) - alpha[:, None] * means
        if rotations is not None:
            offsets = torch.einsum("kde,bkd->bke", rotations, offsets)
        totals = alpha[:, None] ** 2 * variances + sigma[:, None] ** 2
        if not bool((totals > 0).all()):
            raise ValueError("a component has no density here: its covariance is singular")
        log_det = totals.log().sum(dim=2) * (size / totals.shape[2])
        squared = (offsets**2 / totals).sum(dim=2)
        constant = size * math.log(2 * math.pi)
        logits = self._weights.to(x).log() - 0.5 * (squared + log_det + constant)
        return Observation(means, variances, rotations, offsets, totals, logits)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at x of shape (B, *event); shape (B,).

        Raises:
            ValueError: wrong event shape, or a singular covariance.
        """
        check_state(x)
        one = x.new_ones(len(x), 1)
        return self.observe(x, one, 0 * one).log_prob

    def score(self, x: Tensor) -> Tensor:
        """Return ∇ log p(x) at x of shape (B, *event); shaped like x.

        Raises:
            ValueError: wrong event shape, or a singular covariance.
        """
        check_state(x)
        one = x.new_ones(len(x), 1)
        return self.observe(x, one, 0 * one).mean(0 * one, 0 * one, -one).reshape(x.shape)


@dataclass(frozen=True, eq=False)
class Gaussian:
    """The normal distribution N(mean, covariance) over events of any shape.

    Args:
        mean: shape (*event).
        covariance: a single variance (tensor of shape () or number), or a matrix (D, D) with D
            the number of entries of an event.

    Raises:
        ValueError: an entry is not finite, the covariance has another shape, is not symmetric or
            not positive.

    Chapter 1.
    """

    mean: Tensor
    covariance: Tensor | float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.mean, Tensor):
            raise TypeError(
                f"mean is a {type(self.mean).__name__}; pass a tensor of shape (*event)"
            )
        _check_finite(self.mean[None], "mean")
        if isinstance(self.covariance, Tensor):
            _check_finite(self.covariance[None], "covariance")
        else:
            check_number(self.covariance, "covariance", low=0)
        _ = self.as_mixture  # validates the shapes

    @cached_property
    def as_mixture(self) -> GaussianMixture:
        """The same distribution as a mixture of one component."""
        covariance = torch.as_tensor(
            self.covariance, dtype=self.mean.dtype, device=self.mean.device
        )
        return GaussianMixture(self.mean[None], covariance[None])

    def sample(self, n: int, generator: Generator | None = None) -> Tensor:
        """Draw n samples, shape (n, *event)."""
        return self.as_mixture.sample(n, generator)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at x of shape (B, *event); shape (B,)."""
        return self.as_mixture.log_prob(x)

    def score(self, x: Tensor) -> Tensor:
        """Return ∇ log p(x) = −Σ⁻¹ (x − m), shaped like x."""
        return self.as_mixture.score(x)
