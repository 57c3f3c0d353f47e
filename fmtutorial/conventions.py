"""Trained models of other libraries and papers, as velocity fields of this book. Chapter 7."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.interpolate import CubicHermiteSpline, CubicSpline
from torch import Tensor

from fmtutorial.diffusion import as_velocity
from fmtutorial.fields import (
    VelocityField,
    check_callable,
    check_count,
    check_kind,
    check_number,
    check_same_shape,
    expand_time,
)
from fmtutorial.paths import AffinePath, Schedule


def time_first(field: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """Swap the two arguments: torchcfm's model(t, x) ↔ v(x, t). Its own inverse."""
    check_callable(field, "field")
    return partial(_swapped, field)


def _swapped(field: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> Tensor:
    return field(second, first)


def reverse_time(field: VelocityField) -> VelocityField:
    """Change between t and 1 − t: v(x, t) ↔ −v(x, 1 − t). Its own inverse.

    For texts in which data are at time 0 and noise is at time 1.
    """
    check_callable(field, "field")
    return partial(_reversed, field, 1.0)


def _reversed(field: VelocityField, length: float, x: Tensor, t: Tensor) -> Tensor:
    """Return −field at the time that is measured from the other end, in a unit of its own."""
    return -_answer(field, x, (1 - t) * length)


def _answer(model: VelocityField, x: Tensor, t: Tensor) -> Tensor:
    """Return model(x, t), or raise if it is no state of the shape of x."""
    answer = model(x, t)
    check_same_shape(answer, x, "prediction, x")
    return answer


def from_diffusers(model: VelocityField, train_timesteps: int = 1000) -> VelocityField:
    """Turn a flow-matching model of diffusers, or of Esser et al. 2024, into a velocity field.

    Args:
        model: model(x, k) ≈ noise − data at x = (1 − r) data + r noise, where
            k = r · train_timesteps.
        train_timesteps: the scheduler's ``num_train_timesteps``.

    Returns:
        v(x, t) of ``AffinePath(LINEAR)``.
    """
    check_callable(model, "model")
    check_number(train_timesteps, "train_timesteps", low=0, without_low=True)
    return partial(_reversed, model, float(train_timesteps))


def to_diffusers(field: VelocityField, train_timesteps: int = 1000) -> VelocityField:
    """Turn a velocity field of ``AffinePath(LINEAR)`` into what ``from_diffusers`` takes."""
    check_callable(field, "field")
    check_number(train_timesteps, "train_timesteps", low=0, without_low=True)
    return partial(_to_diffusers, field, float(train_timesteps))


def _to_diffusers(field: VelocityField, steps: float, x: Tensor, k: Tensor) -> Tensor:
    return -_answer(field, x, 1 - k / steps)


def from_v_prediction(model: VelocityField, path: AffinePath) -> VelocityField:
    """Turn a prediction of α · noise − σ · data into the velocity, for α² + σ² = 1.

    Args:
        model: model(x, t) in this book's time.
        path: with α² + σ² = 1, for instance of COSINE or VP.

    Raises:
        ValueError: when called where α² + σ² is not 1.

    Source: Salimans and Ho 2022, App. D.
    """
    check_callable(model, "model")
    check_kind(path, AffinePath, "path")
    return partial(_from_v_prediction, model, path)


def _from_v_prediction(model: VelocityField, path: AffinePath, x: Tensor, t: Tensor) -> Tensor:
    s, time = path.schedule, expand_time(t, x)
    s.check_velocity_times(t)
    alpha, sigma = s.alpha(time), s.sigma(time)
    if not torch.allclose(alpha**2 + sigma**2, torch.ones_like(time), atol=1e-5):
        raise ValueError(f"v-prediction needs α² + σ² = 1; {s} is another schedule")
    predicted = _answer(model, x, t)
    data, noise = alpha * x - sigma * predicted, sigma * x + alpha * predicted
    return s.alpha_dot(time) * data + s.sigma_dot(time) * noise


@dataclass(frozen=True, eq=False)
class _Levels:
    """α as a function of k = (1 − t) T: a cubic for each interval between two levels.

    Rows of ``pieces``, shape (5, T): the coefficients of u³, u² and u in 1 − α, with u counted
    from the lower level, then 1 − α and α at that level. Each of the last two is exact where it
    is small.
    """

    pieces: np.ndarray

    def _interpolate(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return α, 1 − α and dα/dt."""
        levels = self.pieces.shape[1]
        k = (1 - t) * levels
        below = k.floor().long().clamp(0, levels - 1)
        # cast before it is a tensor: the device may have no double precision
        wide = np.float64 if t.dtype == torch.float64 else np.float32
        a, b, c, rest, alpha = torch.from_numpy(self.pieces.astype(wide)).to(t)[:, below]
        u = k - below
        gone = ((a * u + b) * u + c) * u
        return alpha - gone, rest + gone, levels * ((3 * a * u + 2 * b) * u + c)

    def alpha(self, t: Tensor) -> Tensor:
        return self._interpolate(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        rest = self._interpolate(t)[1]
        return torch.sqrt(rest * (2 - rest))  # 1 − α², without cancellation near t = 1

    def alpha_dot(self, t: Tensor) -> Tensor:
        return self._interpolate(t)[2]

    def sigma_dot(self, t: Tensor) -> Tensor:
        alpha, rest, rate = self._interpolate(t)
        return -alpha * rate / torch.sqrt(rest * (2 - rest))


def ddpm_schedule(betas: Tensor) -> Schedule:
    """Return a schedule through the levels of a DDPM: α = √ᾱ_k, σ = √(1 − ᾱ_k) at t = 1 − k/T.

    k = 0 is clean data, k = T noise. Between the levels α is interpolated by cubics with a
    continuous slope, which rise wherever the levels do: with straight lines the velocity would
    jump at every level, and a solver's error would stop falling.

    Args:
        betas: β_1 … β_T, each in (0, 1), shape (T,).

    Raises:
        TypeError: betas in half precision, in which 1 − β is rounded.
        ValueError: not a list of numbers between 0 and 1.

    Source: Ho et al. 2020, Eq. 4; Fritsch and Carlson 1980, for the slopes.
    """
    if not isinstance(betas, Tensor) or betas.dtype not in (torch.float32, torch.float64):
        kind = betas.dtype if isinstance(betas, Tensor) else type(betas).__name__
        raise TypeError(f"betas are of type {kind}; pass a tensor in single or double precision")
    if (
        betas.layout != torch.strided
        or betas.ndim != 1
        or len(betas) == 0
        or not bool(((betas > 0) & (betas < 1)).all())
    ):
        raise ValueError(f"betas has shape {tuple(betas.shape)}; pass (T,) numbers in (0, 1)")
    # NumPy's double precision: the device of the betas may have none
    rates = np.log1p(-betas.detach().cpu().numpy().astype(np.float64))
    halves = np.concatenate([[0.0], 0.5 * rates.cumsum()])  # log α of all levels
    cubics = _monotone(-np.expm1(halves)).c
    levels = _Levels(np.concatenate([cubics, np.exp(halves[None, :-1])]))
    return Schedule(
        name="DDPM",
        alpha=levels.alpha,
        sigma=levels.sigma,
        alpha_dot=levels.alpha_dot,
        sigma_dot=levels.sigma_dot,
        finite_at_one=False,
    )


def _monotone(values: np.ndarray) -> CubicHermiteSpline:
    """Return a smooth increasing curve through increasing values at the whole numbers from 0.

    The slopes of a cubic spline, kept between 0 and three times the lesser of the two lines'.
    """
    k, rises = np.arange(len(values)), np.diff(values)
    most = 3 * np.minimum(np.append(rises[0], rises), np.append(rises, rises[-1]))
    return CubicHermiteSpline(k, values, np.clip(CubicSpline(k, values)(k, 1), 0, most))


def from_ddpm(
    model: VelocityField, betas: Tensor, whole_levels: bool = False
) -> tuple[VelocityField, AffinePath]:
    """Turn a DDPM's noise prediction into a velocity field, and return the path that it belongs to.

    Args:
        model: model(x, index) ≈ noise, where index counts from 0 (one step of noise) to T − 1.
        betas: β_1 … β_T, shape (T,).
        whole_levels: whether the model takes whole indices only, as one with a table does. The
            field is then defined at t = 1 − k/T for k = 1 … T, and ``level_grid`` gives grids
            that a method does not leave. Otherwise it is called with fractions in between, as is
            usual for networks that embed the index by sines and cosines.

    Returns:
        v(x, t) on 0 ≤ t < 1, and its path. For t above 1 − 1/T, less noise than the network has
        ever seen, it is called with index 0.

    Raises:
        ValueError: with ``whole_levels``, when the field is called between two levels.

    Source: Ho et al. 2020.
    """
    path = AffinePath(ddpm_schedule(betas))
    return as_velocity(at_levels(model, len(betas), whole_levels), path, "noise"), path


def at_levels(model: VelocityField, levels: int, whole_levels: bool = False) -> VelocityField:
    """Turn a prediction that takes a DDPM's index into one that takes the time t = 1 − k/levels.

    The index is k − 1 = (1 − t) · levels − 1, and 0 where that is negative. Within the rounding
    of t a whole index is meant and given. What is predicted, noise, data or else, stays.

    Args:
        model: model(x, index), index from 0 to levels − 1, shape (B,).
        levels: T, of the DDPM.
        whole_levels: see ``from_ddpm``.

    Raises:
        ValueError: with ``whole_levels``, when it is called between two levels.

    Chapters 7 and 16.
    """
    check_callable(model, "model")
    check_count(levels, "levels")
    return partial(_at_level, model, levels, whole_levels)


def _at_level(
    model: VelocityField, levels: int, whole_levels: bool, x: Tensor, t: Tensor
) -> Tensor:
    index = (1 - t) * levels - 1
    whole = index.round()
    if not whole_levels:
        rounding = 2 * torch.finfo(t.dtype).eps * levels
        index = torch.where((index - whole).abs() < rounding, whole, index)
        return _answer(model, x, index.clamp(min=0))
    # a hundredth of a level is far above the rounding of t, for up to 10⁵ levels
    off = (index - whole).abs() > 0.01
    if bool((off | (whole < 0)).any()):
        wrong = t[off | (whole < 0)][0].item()
        raise ValueError(
            f"t = {wrong:g} is no level of the model: they are 1 − k/{levels} for k from 1 to "
            f"{levels}. Take the times of level_grid, with halves=True for midpoint and rk4"
        )
    return _answer(model, x, whole.long())
