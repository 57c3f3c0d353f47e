"""Rewards and observations: the law that they ask for, and what it is worth to be somewhere.

Chapter 11.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.fields import check_kind, check_number, check_state, expand_time, flatten
from fmtutorial.paths import AffinePath


@dataclass(frozen=True, eq=False)
class QuadraticReward:
    """r(x) = ⟨b, x⟩ − ½ xᵀKx. Calling it on states (B, *event) gives shape (B,).

    Args:
        linear: b, shape (*event).
        curvature: K, a number for a multiple of the unit matrix, or a symmetric matrix (D, D)
            with D the number of entries of an event. Where K > 0 the reward is concave.

    Raises:
        ValueError: an entry is not finite, or a shape is wrong, or K is not symmetric.

    Chapter 11.
    """

    linear: Tensor
    curvature: Tensor | float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.linear, Tensor):
            raise TypeError(
                f"linear is a {type(self.linear).__name__}; pass a tensor of shape (*event)"
            )
        check_state(self.linear[None], "linear")
        size = self.linear.numel()
        if isinstance(self.curvature, Tensor):
            check_state(self.curvature, "curvature")
            if self.curvature.shape != (size, size):
                raise ValueError(
                    f"curvature has shape {tuple(self.curvature.shape)}; pass a number, or a "
                    f"matrix ({size}, {size}) for linear of shape {tuple(self.linear.shape)}"
                )
        else:
            check_number(self.curvature, "curvature")
        if not all(bool(part.isfinite().all()) for part in (self.linear, self._matrix)):
            raise ValueError("an entry of the reward is not finite")
        if not torch.allclose(self._matrix, self._matrix.mT):
            raise ValueError(
                "curvature is not symmetric; pass (K + K.T) / 2, the reward is the same"
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Return r(x), shape (B,)."""
        slope = self.gradient(x)  # checks x
        return (flatten(x) * flatten(self.linear.to(x) + slope)).sum(dim=1) / 2

    def gradient(self, x: Tensor) -> Tensor:
        """Return ∇r(x) = b − Kx, shaped like x, for states (B, *event)."""
        check_state(x)
        if x.shape[1:] != self.linear.shape:
            raise ValueError(
                f"x has event shape {tuple(x.shape[1:])}; "
                f"the reward's is {tuple(self.linear.shape)}"
            )
        bent = (flatten(x) @ self._matrix.to(x)).reshape(x.shape)
        return self.linear.to(x) - bent

    def log_mean(self, mean: Tensor, variance: Tensor) -> Tensor:
        """Return log E[exp r(X)] for X ~ N(mean, variance · I), shape (B,).

        With A = I + vK and g = ∇r(mean) it is r(mean) + ½ v gᵀA⁻¹g − ½ log det A.

        Args:
            mean: shape (B, *event).
            variance: v ≥ 0, shape (B,).

        Raises:
            ValueError: the mean is infinite, since A is not positive.
        """
        slope, v = flatten(self.gradient(mean)), expand_time(variance, mean).reshape(-1, 1)
        if not bool((v >= 0).all()):
            raise ValueError("variance has an entry that is negative or NaN")
        values, vectors = (part.to(mean) for part in self._eigen)
        stretch = 1 + v * values
        if not bool((stretch > 0).all()):
            raise ValueError("E[exp r] is infinite: the variance is too large for this curvature")
        gain = (v * (slope @ vectors) ** 2 / stretch - stretch.log()).sum(dim=1) / 2
        return self(mean) + gain

    @cached_property
    def _matrix(self) -> Tensor:
        """K as a matrix (D, D)."""
        if isinstance(self.curvature, Tensor):
            return self.curvature
        unit = torch.eye(self.linear.numel(), dtype=self.linear.dtype, device=self.linear.device)
        return float(self.curvature) * unit

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        return torch.linalg.eigh(_wide(self._matrix))


def _wide(x: Tensor) -> Tensor:
    """Return x where and as all of linear algebra works: on the CPU, not in half precision."""
    return x.to("cpu", torch.promote_types(x.dtype, torch.float32))


def observed(known: Tensor, mask: Tensor, noise: float) -> QuadraticReward:
    """Return the log-likelihood of having seen some entries of x₁ with noise, up to a constant.

    r(x) = −½ Σ (x_i − y_i)²/τ² over the entries seen. The law that it tilts to is the posterior.

    Args:
        known: y, shape (*event); what it holds at the other entries is not read.
        mask: which entries have been seen, booleans of that shape.
        noise: τ > 0.

    Chapter 11.
    """
    check_seen(known, mask)
    check_number(noise, "noise", low=0, without_low=True)
    sharp = mask.to(known) / noise**2
    return QuadraticReward(torch.where(mask, known, 0) * sharp, torch.diag(sharp.flatten()))


def tilted(target: GaussianMixture | Gaussian, reward: QuadraticReward) -> GaussianMixture:
    """Return the law with the density p(x) exp(r(x)) / Z, a mixture again.

    With A = I + ΣK and g = ∇r(m), a component N(m, Σ) becomes N(m + A⁻¹Σ g, A⁻¹Σ), and its weight
    is multiplied by det(A)^(−½) exp(r(m) + ½ gᵀA⁻¹Σ g). Components whose weight is too small for
    its type are left out. They stay isotropic if they were, and K is a number.

    Raises:
        ValueError: Z is infinite, since A is not positive for a component.

    Chapter 11.
    """
    return _tilt(target, reward)[0]


def _tilt(
    target: GaussianMixture | Gaussian, reward: QuadraticReward
) -> tuple[GaussianMixture, Tensor]:
    """Return the tilted mixture and log Z."""
    check_kind(target, GaussianMixture | Gaussian, "target")
    check_kind(reward, QuadraticReward, "reward")
    old = target.as_mixture if isinstance(target, Gaussian) else target
    means, slope = flatten(old.means), flatten(reward.gradient(old.means))
    size = means.shape[1]
    if old.covariances.ndim == 1 and not isinstance(reward.curvature, Tensor):
        stretch = (1 + old.covariances * reward.curvature)[:, None]
        narrow = old.covariances[:, None] / stretch
        covariances, moves, log_det = narrow[:, 0], narrow * slope, size * stretch[:, 0].log()
        fine = stretch > 0
    else:
        full = old.covariances
        if full.ndim == 1:
            full = full[:, None, None] * torch.eye(size, dtype=full.dtype, device=full.device)
        values, vectors = torch.linalg.eigh(_wide(full))
        root = vectors * values.clamp(min=0).sqrt()[:, None] @ vectors.mT
        unit = torch.eye(size, dtype=root.dtype, device=root.device)
        lower, info = torch.linalg.cholesky_ex(unit + root @ reward._matrix.to(root) @ root)
        half, fine = torch.linalg.solve_triangular(lower, root, upper=False), info == 0
        covariances = (half.mT @ half).to(means)
        moves = (covariances @ slope[:, :, None])[:, :, 0]
        log_det = 2 * lower.diagonal(dim1=1, dim2=2).log().sum(dim=1).to(means)
    if not bool(fine.all()):
        raise ValueError(
            "exp r grows faster than a component falls, and the tilted law does not exist: "
            "take a smaller reward, or a curvature that is less negative"
        )
    gain = reward(old.means) + ((moves * slope).sum(dim=1) - log_det) / 2
    logits = old._weights.log() + gain
    weights = torch.softmax(logits, dim=0)
    kept = weights > 0
    new = (means + moves).reshape(old.means.shape)
    mixture = GaussianMixture(new[kept], covariances[kept], weights[kept])
    return mixture, torch.logsumexp(logits, dim=0)


@dataclass(frozen=True, eq=False)
class ExactValue:
    """V_t(x) = log E[exp r(x₁) | x_t = x], in closed form: log Z + log p̃_t(x) − log p_t(x).

    p̃ is the path of ``tilted(target, reward)``. So ∇V is the difference of the two scores. Calling
    it on x of shape (B, *event) and t of shape (B,), where both densities are defined, gives (B,).

    Source: Domingo-Enrich et al. 2024, for the value function. Chapter 11.
    """

    path: AffinePath
    target: GaussianMixture | Gaussian
    reward: QuadraticReward

    def __post_init__(self) -> None:
        _ = self._parts  # validates

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return V_t(x), shape (B,)."""
        check_state(x)
        base, tilt, log_normaliser = self._parts
        return log_normaliser.to(x) + tilt.log_prob(x, t) - base.log_prob(x, t)

    @cached_property
    def _parts(self) -> tuple[ExactField, ExactField, Tensor]:
        base = ExactField(self.path, self.target)
        mixture, log_normaliser = _tilt(self.target, self.reward)
        return base, ExactField(self.path, mixture), log_normaliser


def check_seen(known: Tensor, mask: Tensor) -> None:
    """Raise unless a mask says of each entry of an event whether it is known.

    Raises:
        TypeError: known is no tensor of real numbers, or mask none of booleans.
        ValueError: the shapes differ, or an entry that is known is not finite.
    """
    if not isinstance(known, Tensor):
        raise TypeError(f"known is a {type(known).__name__}; pass a tensor of shape (*event)")
    check_state(known[None], "known")
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.layout is not torch.strided:
        raise TypeError("mask must be a dense tensor of booleans, True where an entry is known")
    if mask.shape != known.shape:
        raise ValueError(
            f"mask has shape {tuple(mask.shape)} and known {tuple(known.shape)}; they must be equal"
        )
    if not bool(known[mask].isfinite().all()):
        raise ValueError("an entry that is known is not finite")
