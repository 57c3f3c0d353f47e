"""Closed-form truth: the marginal velocity, score, density and posterior mean of a path.

Chapter 2.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from fmtutorial.distributions import Gaussian, GaussianMixture, Observation
from fmtutorial.fields import check_kind, check_state, check_times, expand_time
from fmtutorial.paths import AffinePath


@dataclass(frozen=True, eq=False)
class ExactField:
    """What a perfectly trained network would answer, for x₀ ~ N(0, I) and a known target.

    The target is a Gaussian mixture, or a finite data set given as a tensor (N, *event): a
    mixture of N points with covariance zero. Then x_t is a mixture too, with components
    N(α m_k, α² Σ_k + σ² I), and every conditional mean has a closed form. Calling the object
    gives the marginal velocity, so it can be used wherever a network can.

    All methods take x of shape (B, *event) and t of shape (B,). They are defined for t in
    [0, 1], less t = 1 where σ̇ diverges (velocity) and where p_1 has no density (σ_1 = 0 and a
    singular covariance, so always for a data set). Computed through log-sum-exp: no step
    divides by a vanishing density, however close t is to 1.
    Memory is B · K · D numbers for K components of D entries.

    Raises:
        ValueError: x has another event shape than the target, or t a value outside the interval.

    Source: Lipman et al. 2023, Theorem 1; Karras et al. 2022, App. B.3 for data sets. Chapter 2.
    """

    path: AffinePath
    target: GaussianMixture | Gaussian | Tensor

    def __post_init__(self) -> None:
        check_kind(self.path, AffinePath, "path")
        _ = self._mixture  # validates the target

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return v_t(x) = E[α̇ x₁ + σ̇ x₀ | x_t = x], shaped like x."""
        alpha, sigma, alpha_dot, sigma_dot = self._coefficients(t, x)
        seen = self._mixture.observe(x, alpha, sigma)
        return seen.mean(alpha_dot, alpha_dot * alpha, sigma_dot * sigma).reshape(x.shape)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return ∇ log p_t(x), shaped like x."""
        zero = 0 * _column(t, x).to(x)
        return self._observe(x, t).mean(zero, zero, zero - 1).reshape(x.shape)

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p_t(x), shape (B,)."""
        return self._observe(x, t).log_prob

    def posterior_mean(self, x: Tensor, t: Tensor) -> Tensor:
        """Return E[x₁ | x_t = x], shaped like x."""
        alpha = self.path.schedule.alpha(_column(t, x)).to(x)
        return self._observe(x, t).mean(1 + 0 * alpha, alpha, 0 * alpha).reshape(x.shape)

    def target_variance(self, x: Tensor, t: Tensor) -> Tensor:
        """Return E‖u − v_t(x)‖² given x_t = x, where u = α̇ x₁ + σ̇ x₀; shape (B,).

        No network can push the loss of conditional flow matching below its mean over x_t and t.
        The variance splits into that within the components, (α̇σ − ασ̇)² tr(Σ_k C_k⁻¹), and that
        between their means. Chapter 3.
        """
        alpha, sigma, alpha_dot, sigma_dot = self._coefficients(t, x)
        seen = self._mixture.observe(x, alpha, sigma)
        weights = seen.responsibilities
        means = seen.component_means(alpha_dot, alpha_dot * alpha, sigma_dot * sigma)
        mean = (weights[:, :, None] * means).sum(dim=1, keepdim=True)
        between = ((means - mean) ** 2).sum(dim=2)
        multiplicity = math.prod(x.shape[1:]) / seen.totals.shape[2]
        trace = (seen.variances / seen.totals).sum(dim=2) * multiplicity
        within = (alpha_dot * sigma - alpha * sigma_dot) ** 2 * trace
        return (weights * (within + between)).sum(dim=1)

    @cached_property
    def _mixture(self) -> GaussianMixture:
        if isinstance(self.target, GaussianMixture):
            return self.target
        if isinstance(self.target, Gaussian):
            return self.target.as_mixture
        if not isinstance(self.target, Tensor):
            raise TypeError(
                f"target is a {type(self.target).__name__}; pass a Gaussian, a GaussianMixture or "
                "a data set, a tensor (N, *event)"
            )
        check_state(self.target, "target")
        points = self.target
        return GaussianMixture(points, points.new_zeros(len(points)))

    def _coefficients(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        s = self.path.schedule
        s.check_velocity_times(t)
        time = _column(t, x)
        functions = (s.alpha, s.sigma, s.alpha_dot, s.sigma_dot)
        return tuple(function(time).to(x) for function in functions)

    def _observe(self, x: Tensor, t: Tensor) -> Observation:
        check_times(t, "a path")
        time, s = _column(t, x), self.path.schedule
        return self._mixture.observe(x, s.alpha(time).to(x), s.sigma(time).to(x))


def _column(t: Tensor, x: Tensor) -> Tensor:
    """Return t of shape (B,) as (B, 1)."""
    return expand_time(t, x).reshape(-1, 1)
