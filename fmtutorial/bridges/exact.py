"""Closed-form truth for bridges: mixtures of ends, the Gaussian Schrödinger bridge, and its fit.

Chapter 13.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fmtutorial.bridges.processes import Bridge
from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.fields import check_count, check_kind, check_state, check_times, expand_time
from fmtutorial.solvers import rk4


@dataclass(frozen=True, eq=False)
class ExactBridge:
    """Velocity, score and drifts of a mixture of bridges whose ends (x₀, x₁) are a known law.

    The law of both ends is a Gaussian mixture over events of shape (2, *event), where the first
    of the two is x₀. Then x_t = α x₁ + σ_t x₀ + γ z is a mixture with components of mean
    α m₁ + σ_t m₀ and covariance α² Σ₁₁ + σ_t² Σ₀₀ + α σ_t (Σ₀₁ + Σ₁₀) + γ² I. Calling the object
    gives the marginal velocity, as a network would.

    Methods take x of shape (B, *event) and t of shape (B,) in [0, 1], less the ends where a
    component has a singular covariance. Memory is B · K · D² numbers.

    Args:
        bridge: σ and the schedule.
        ends: law of (x₀, x₁); covariances zero are pairs of points.

    Raises:
        TypeError: an argument of another type.
        ValueError: the events of the ends do not begin with 2.

    Source: Albergo, Boffi and Vanden-Eijnden 2023, for independent ends. Chapter 13.
    """

    bridge: Bridge
    ends: GaussianMixture | Gaussian

    def __post_init__(self) -> None:
        check_kind(self.bridge, Bridge, "bridge")
        check_kind(self.ends, GaussianMixture | Gaussian, "ends")
        shape = self._mixture.event_shape
        if shape[:1] != (2,):
            raise ValueError(f"ends have event shape {tuple(shape)}; pass (2, *event): x0, then x1")

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return v_t(x) = E[α̇ x₁ + σ̇_t x₀ + γ̇ z | x_t = x], shaped like x."""
        self.bridge.schedule.check_velocity_times(t)
        return self._mean(x, t, 1.0, 0.0)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Return ∇ log p_t(x), shaped like x."""
        return self._mean(x, t, 0.0, 1.0)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return v + (σ²/2) ∇ log p_t, the drift of ``drifts`` forward in time.

        On the linear schedule it is E[(x₁ − x)/(1 − t) | x_t = x].
        """
        self.bridge.schedule.check_velocity_times(t)
        return self._mean(x, t, 1.0, self.bridge.sigma**2 / 2)

    def log_prob(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p_t(x), shape (B,)."""
        return torch.logsumexp(self._observe(x, t)[0], dim=1)

    @cached_property
    def _mixture(self) -> GaussianMixture:
        return self.ends.as_mixture if isinstance(self.ends, Gaussian) else self.ends

    def _coefficients(self, t: Tensor, x: Tensor) -> list[Tensor]:
        """Return α, σ_t, γ², and their partners α̇, σ̇_t, γ̇γ; each (B, 1)."""
        check_times(t, "a bridge")
        time, s = expand_time(t, x).reshape(-1, 1), self.bridge.schedule
        square = self.bridge.sigma**2
        values = [s.alpha(time), s.sigma(time), square * time * (1 - time)]
        values += [s.alpha_dot(time), s.sigma_dot(time), square * (0.5 - time)]
        return [value.to(x) for value in values]

    def _observe(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return log(weight · density) of each component, (B, K), and C⁻¹(x − m), (B, K, D)."""
        check_state(x)
        if x.shape[1:] != self._mixture.event_shape[1:]:
            raise ValueError(
                f"x has event shape {tuple(x.shape[1:])}; "
                f"that of an end is {tuple(self._mixture.event_shape[1:])}"
            )
        a, s, noise, *_ = self._coefficients(t, x)
        means, cov = _blocks(self._mixture, x)
        size = means.shape[2]
        offsets = x.reshape(-1, 1, size) - a[..., None] * means[:, 1] - s[..., None] * means[:, 0]
        a, s, noise = (value[..., None, None] for value in (a, s, noise))
        cross = cov[:, 0, 1] + cov[:, 1, 0]
        total = a**2 * cov[:, 1, 1] + s**2 * cov[:, 0, 0] + a * s * cross
        total = total + noise * torch.eye(size).to(x)
        root, failed = torch.linalg.cholesky_ex(total)
        diagonal = root.diagonal(dim1=2, dim2=3)
        if bool(failed.any()) or not bool((diagonal > 0).all()):
            raise ValueError("a component has no density here: its covariance is singular")
        whitened = torch.linalg.solve_triangular(root, offsets[..., None], upper=False)
        solved = torch.linalg.solve_triangular(root.mT, whitened, upper=True)[..., 0]
        squared = whitened.square().sum(dim=(2, 3)) + 2 * diagonal.log().sum(dim=2)
        weights = self._mixture._weights.to(x).log()
        return weights - 0.5 * (squared + size * math.log(2 * math.pi)), solved

    def _mean(self, x: Tensor, t: Tensor, on_velocity: float, on_score: float) -> Tensor:
        logits, solved = self._observe(x, t)
        value = -on_score * solved
        if on_velocity:
            a, s, _, a_dot, s_dot, noise = self._coefficients(t, x)
            means, cov = _blocks(self._mixture, x)
            value = value + a_dot[..., None] * means[:, 1] + s_dot[..., None] * means[:, 0]
            value = value + noise[..., None] * solved
            for end, rate in ((0, s_dot), (1, a_dot)):
                seen = s[..., None, None] * cov[:, end, 0] + a[..., None, None] * cov[:, end, 1]
                value = value + rate[..., None] * (seen @ solved[..., None])[..., 0]
        return (torch.softmax(logits, dim=1)[..., None] * value).sum(dim=1).reshape(x.shape)


def independent_ends(
    source: GaussianMixture | Gaussian, target: GaussianMixture | Gaussian
) -> GaussianMixture:
    """Return the law of (x₀, x₁) with x₀ from one mixture, x₁ from the other, independent.

    It has one component for each pair of components.

    Raises:
        TypeError: an argument is neither a mixture nor a Gaussian.
        ValueError: event shapes differ.

    Chapter 13.
    """
    laws = []
    for law, name in ((source, "source"), (target, "target")):
        check_kind(law, GaussianMixture | Gaussian, name)
        laws.append(law.as_mixture if isinstance(law, Gaussian) else law)
    first, last = laws
    _check_same_event(first, last)
    pairs = [(j, k) for j in range(len(first.means)) for k in range(len(last.means))]
    rows, columns = torch.tensor(pairs, device=first.means.device).T
    means = torch.stack([first.means[rows], last.means[columns]], dim=1)
    matrices = [_matrices(law) for law in laws]
    size = matrices[0].shape[-1]
    covariances = means.new_zeros(len(pairs), 2 * size, 2 * size)
    covariances[:, :size, :size] = matrices[0][rows]
    covariances[:, size:, size:] = matrices[1][columns]
    weights = first._weights[rows] * last._weights[columns]
    return GaussianMixture(means, covariances, weights)


def gaussian_ends(source: Gaussian, target: Gaussian, sigma: float) -> Gaussian:
    """Return the law of the ends of the Schrödinger bridge between two Gaussians.

    With covariances A and B, Cov(x₀, x₁) = A^½ N A^(−½), where N solves N² + σ² N = A^½ B A^½.
    The event shape of the result is (2, *event), for ``ExactBridge``.

    Raises:
        TypeError: an argument is no Gaussian.
        ValueError: event shapes differ, sigma is not positive, or A is singular.

    Source: Bunne et al. 2023; Janati et al. 2020. Chapter 13.
    """
    first, last, root, inverse, values, vectors = _riccati(source, target, sigma)
    cross = root @ (vectors * values) @ vectors.mT @ inverse
    covariance = torch.cat([torch.cat([first, cross], 1), torch.cat([cross.mT, last], 1)])
    return Gaussian(torch.stack([source.mean, target.mean]), covariance)


def gaussian_bridge_cost(source: Gaussian, target: Gaussian, sigma: float) -> float:
    """Return KL of the Schrödinger bridge from the Brownian motion σ W that starts in the source.

    ½ (E‖x₁ − x₀‖²/σ² − d − log det N + log det A), with N of ``gaussian_ends``; it is also the
    energy E ∫ ‖b‖² dt / 2σ² of the bridge's drift.

    Raises:
        ValueError: as of ``gaussian_ends``, or the target's covariance is singular.

    Source: Léonard 2014; Bunne et al. 2023. Chapter 13.
    """
    first, last, root, inverse, values, vectors = _riccati(source, target, sigma)
    if not bool(values.min() > 0):
        raise ValueError("the target has a singular covariance: the relative entropy is infinite")
    shift = (target.mean - source.mean).square().sum()
    # the trace of the cross covariance is that of N
    distance = shift + first.trace() + last.trace() - 2 * values.sum()
    log_det = values.log().sum() - 2 * torch.logdet(root)
    return 0.5 * (distance / sigma**2 - len(values) - log_det).item()


def markovian_ends(ends: Gaussian, sigma: float, steps: int = 30) -> Gaussian:
    """Return the law of the ends after one round of iterated Markovian fitting.

    Mix Brownian bridges between ``ends``, take the SDE with their drift, and look at where it
    starts and ends. The marginals stay. With J_t the Jacobian of the drift and dΦ/dt = J_t Φ,
    the new Cov(x₀, x₁) is Σ₀₀ Φ₁ᵀ; Φ is found by RK4.

    Args:
        ends: of shape (2, *event), each end with a regular covariance.
        sigma: noise of the bridges.
        steps: of RK4.

    Raises:
        TypeError: ends is no Gaussian.
        ValueError: sigma is not positive, ends has another event shape, or an end is singular.

    Source: Shi et al. 2023; Peluchetti 2023. Chapter 13.
    """
    check_kind(ends, Gaussian, "ends")
    check_count(steps, "steps")
    exact, law = ExactBridge(Bridge(sigma), ends), ends.as_mixture
    means, blocks = _blocks(law, ends.mean)
    size = means.shape[2]
    start, flow = means.new_zeros(1, size), torch.eye(size).to(means)

    def along(rows: Tensor, t: Tensor) -> Tensor:
        """The drift is affine: its Jacobian is seen in differences of unit length."""
        x = torch.cat([start, rows]).reshape(-1, *ends.mean.shape[1:])
        b = exact.drift(x, t.expand(len(x))).reshape(-1, size)
        return b[1:] - b[:1]

    grid = torch.linspace(0, 1, steps + 1).to(means)
    for t, end in zip(grid[:-1], grid[1:], strict=True):
        flow = rk4(along, flow, t, end - t)  # its rows are Φ e_i: Φᵀ
    cross = blocks[0, 0, 0] @ flow
    rows = [torch.cat([blocks[0, 0, 0], cross], 1), torch.cat([cross.mT, blocks[0, 1, 1]], 1)]
    return Gaussian(ends.mean, torch.cat(rows))


def _riccati(source: Gaussian, target: Gaussian, sigma: float) -> tuple[Tensor, ...]:
    """Return A, B, A^½, A^(−½), and the eigenvalues and vectors of N."""
    _ = Bridge(sigma)  # refuses sigma = 0
    check_kind(source, Gaussian, "source")
    check_kind(target, Gaussian, "target")
    _check_same_event(source.as_mixture, target.as_mixture)
    first, last = (_matrices(law.as_mixture)[0] for law in (source, target))
    wide = torch.promote_types(first.dtype, torch.float32)
    values, vectors = torch.linalg.eigh(first.to("cpu", wide))
    if not bool(values.min() > 1e-6 * values.max()):
        raise ValueError("the source has a singular covariance; swap the ends or add noise to it")
    root = (vectors * values.sqrt()) @ vectors.mT
    inverse = (vectors / values.sqrt()) @ vectors.mT
    squares, axes = torch.linalg.eigh(root @ last.to("cpu", wide) @ root)
    squares, half = squares.clamp(min=0), sigma**2 / 2
    solved = squares / (half + (half**2 + squares).sqrt())  # no difference of large numbers
    return first, last, *(part.to(first) for part in (root, inverse, solved, axes))


def _matrices(law: GaussianMixture) -> Tensor:
    """Return all covariances as matrices, (K, D, D)."""
    size = math.prod(law.event_shape)
    if law.covariances.ndim == 3:
        return law.covariances
    return law.covariances[:, None, None] * torch.eye(size).to(law.means)


def _blocks(ends: GaussianMixture, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return means (K, 2, D) and covariances (K, 2, 2, D, D) of the ends, in the type of x."""
    means = ends.means.reshape(len(ends.means), 2, -1).to(x)
    size = means.shape[2]
    blocks = _matrices(ends).to(x).reshape(-1, 2, size, 2, size)
    return means, blocks.transpose(2, 3)


def _check_same_event(first: GaussianMixture, last: GaussianMixture) -> None:
    if first.event_shape != last.event_shape:
        raise ValueError(
            f"source has event shape {tuple(first.event_shape)} and target "
            f"{tuple(last.event_shape)}; they must be equal"
        )
