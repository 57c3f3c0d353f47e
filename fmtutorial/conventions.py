"""Trained models of other libraries and papers, as velocity fields of this book. Chapter 7."""

from collections.abc import Callable

import torch
from torch import Tensor

from fmtutorial.diffusion import as_velocity
from fmtutorial.fields import VelocityField, expand_time
from fmtutorial.paths import AffinePath, Schedule


def time_first(field: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Swap the two arguments: torchcfm's model(t, x) ↔ v(x, t). Its own inverse."""
    return lambda first, second: field(second, first)


def reverse_time(field: VelocityField) -> VelocityField:
    """Change between t and 1 − t: v(x, t) ↔ −v(x, 1 − t). Its own inverse.

    For texts in which data are at time 0 and noise is at time 1.
    """
    return lambda x, t: -field(x, 1 - t)


def from_diffusers(model: VelocityField, train_timesteps: int = 1000) -> VelocityField:
    """Turn a flow-matching model of diffusers, or of Esser et al. 2024, into a velocity field.

    Args:
        model: model(x, k) ≈ noise − data at x = (1 − r) data + r noise, where
            k = r · train_timesteps.
        train_timesteps: the scheduler's ``num_train_timesteps``.

    Returns:
        v(x, t) of ``AffinePath(LINEAR)``.
    """
    return lambda x, t: -model(x, (1 - t) * train_timesteps)


def to_diffusers(field: VelocityField, train_timesteps: int = 1000) -> VelocityField:
    """Turn a velocity field of ``AffinePath(LINEAR)`` into what ``from_diffusers`` takes."""
    return lambda x, k: -field(x, 1 - k / train_timesteps)


def from_v_prediction(model: VelocityField, path: AffinePath) -> VelocityField:
    """Turn a prediction of α · noise − σ · data into the velocity, for α² + σ² = 1.

    Args:
        model: model(x, t) in this book's time.
        path: with α² + σ² = 1, for instance of COSINE or VP.

    Raises:
        ValueError: when called where α² + σ² is not 1.

    Source: Salimans and Ho 2022, App. D.
    """

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        s, time = path.schedule, expand_time(t, x)
        s.check_velocity_times(t)
        alpha, sigma = s.alpha(time), s.sigma(time)
        if not torch.allclose(alpha**2 + sigma**2, torch.ones_like(time), atol=1e-5):
            raise ValueError(f"v-prediction needs α² + σ² = 1; {s} is another schedule")
        predicted = model(x, t)
        data, noise = alpha * x - sigma * predicted, sigma * x + alpha * predicted
        return s.alpha_dot(time) * data + s.sigma_dot(time) * noise

    return velocity


def ddpm_schedule(betas: Tensor) -> Schedule:
    """Return a schedule through the levels of a DDPM: α = √ᾱ_k, σ = √(1 − ᾱ_k) at t = 1 − k/T.

    Between the discrete levels log ᾱ is interpolated linearly. k = 0 is clean data, k = T noise.

    Args:
        betas: β_1 … β_T, each in (0, 1), shape (T,).

    Raises:
        ValueError: not a list of numbers between 0 and 1.

    Source: Ho et al. 2020, Eq. 4.
    """
    if betas.ndim != 1 or len(betas) == 0 or not bool(((betas > 0) & (betas < 1)).all()):
        raise ValueError(f"betas has shape {tuple(betas.shape)}; pass (T,) numbers in (0, 1)")
    rates = torch.log1p(-betas.double())
    totals = torch.cat([rates.new_zeros(1), rates.cumsum(0)])

    def exponent(t: Tensor) -> tuple[Tensor, Tensor]:
        """Return log ᾱ at t and its derivative in t."""
        k = (1 - t.double()) * len(rates)
        left = k.floor().long().clamp(0, len(rates) - 1)
        slope = rates.to(t.device)[left]
        value = totals.to(t.device)[left] + (k - left) * slope
        return value.to(t), (-len(rates) * slope).to(t)

    def sigma(t: Tensor) -> Tensor:
        return torch.sqrt(-torch.expm1(exponent(t)[0]))

    def alpha_dot(t: Tensor) -> Tensor:
        value, rate = exponent(t)
        return 0.5 * rate * torch.exp(0.5 * value)

    def sigma_dot(t: Tensor) -> Tensor:
        value, rate = exponent(t)
        return -0.5 * rate * torch.exp(value) / sigma(t)

    return Schedule(
        name="DDPM",
        alpha=lambda t: torch.exp(0.5 * exponent(t)[0]),
        sigma=sigma,
        alpha_dot=alpha_dot,
        sigma_dot=sigma_dot,
        finite_at_one=False,
    )


def from_ddpm(model: VelocityField, betas: Tensor) -> tuple[VelocityField, AffinePath]:
    """Turn a DDPM's noise prediction into a velocity field, and return the path that it belongs to.

    Args:
        model: model(x, index) ≈ noise, where index counts from 0 (one step of noise) to T − 1.
            Between the indices of training it is called with fractions, as is usual for networks
            that embed the index by sines and cosines.
        betas: β_1 … β_T, shape (T,).

    Returns:
        v(x, t) on 0 ≤ t < 1, and its path. For t above 1 − 1/T, less noise than the network has
        ever seen, it is called with index 0.

    Source: Ho et al. 2020.
    """
    path = AffinePath(ddpm_schedule(betas))

    def noise(x: Tensor, t: Tensor) -> Tensor:
        return model(x, ((1 - t) * len(betas) - 1).clamp(min=0))

    return as_velocity(noise, path, "noise"), path
