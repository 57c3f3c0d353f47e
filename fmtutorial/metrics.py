"""Distances between two sets of samples, and between two fields. Chapters 2, 3, 7 and 8.

All is computed in double precision by NumPy: not every device has it. An empty set, or an entry
that is not finite, is a ``ValueError``.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor

from fmtutorial.assignment import assignment, cost_matrix
from fmtutorial.fields import (
    check_callable,
    check_count,
    check_same_shape,
    check_state,
    generator_device,
)


def wasserstein(x: Tensor, y: Tensor) -> float:
    """Return the exact 2-Wasserstein distance between two sets of samples of the same shape.

    W₂² = min over permutations π of mean_i ‖x_i − y_π(i)‖², found as an assignment problem in
    O(B³) time: 1 s or so for B = 2000. Two fresh sets from the same distribution are not at
    distance 0: ``fresh_ratio`` sets the distance beside theirs.

    Source: Peyré and Cuturi 2019, Prop. 2.1. Chapters 2 and 4.
    """
    check_same_shape(x, y, "x, y")
    _check_samples(x, y, "x, y")
    cost = cost_matrix(x, y)
    return math.sqrt(cost[assignment(cost), np.arange(len(cost))].mean())


class FreshRatio(NamedTuple):
    """Two mean distances, their ratio and its standard error."""

    value: float
    error: float
    distance: float  # of samples to data
    floor: float  # of fresh data to data


def fresh_ratio(samples: Tensor, draw_data: Callable[[int], Tensor], parts: int = 8) -> FreshRatio:
    """Return how many times farther samples are from data than fresh data are, by ``wasserstein``.

    The samples are cut into parts s_k of n points. Each meets two fresh sets a_k, b_k of n points:
    mean_k W₂(s_k, a_k) / mean_k W₂(b_k, a_k). Data give 1, up to the error. The fresh distance
    comes mostly from how many points fall into each mode, so that what moves few points, or
    moves them little, is not seen.

    Args:
        samples: shape (B, *event); n = B // parts.
        draw_data: returns the given number of fresh data, shape (n, *event).
        parts: how many, at least 2, for the standard error.

    Raises:
        ValueError: fewer samples than parts, or data that are always the same.

    Chapters 2, 3, 6 and 7.
    """
    check_state(samples, "samples")
    check_count(parts, "parts", least=2)
    check_callable(draw_data, "draw_data")
    size = len(samples) // int(parts)
    if size == 0:
        raise ValueError(f"{len(samples)} samples cannot be cut into {parts} parts")
    pairs = []
    for part in samples[: parts * size].split(size):
        data, fresh = draw_data(size), draw_data(size)
        pairs.append((wasserstein(part, data), wasserstein(fresh, data)))
    distance, floor = np.array(pairs).T
    if not floor.any():
        raise ValueError("fresh sets of data are at distance 0: draw_data must draw anew")
    value = distance.mean() / floor.mean()
    # to first order the ratio is off by the mean of the residuals over the mean of the floor
    error = (distance - value * floor).std(ddof=1) / floor.mean() / math.sqrt(parts)
    return FreshRatio(*map(float, (value, error, distance.mean(), floor.mean())))


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Return the energy distance √(2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖) of two samples.

    Averages over all pairs of one sample include the pair of a point with itself, so that the
    square is never negative. The samples have the same shape.

    Source: Székely and Rizzo 2013, Sec. 2. Chapters 7 and 8.
    """
    check_same_shape(x, y, "x, y")
    _check_samples(x, y, "x, y")
    pairs = ((x, y), (x, x), (y, y))
    between, within_x, within_y = (np.sqrt(cost_matrix(*pair)).mean() for pair in pairs)
    return math.sqrt(max(0.0, 2 * between - within_x - within_y))


class TwoSampleTest(NamedTuple):
    """The energy distance of two samples, and that of random splits of their points."""

    distance: float
    p_value: float  # chance of at least this distance, if both come from one distribution
    floor: float  # mean over the random splits: what equal distributions have, too
    limit: float  # which 95 % of the random splits do not exceed


def two_sample_test(
    x: Tensor, y: Tensor, permutations: int = 999, generator: Generator | None = None
) -> TwoSampleTest:
    """Ask whether two samples can come from one distribution, by their energy distance.

    If they do, any split of the pooled points was as likely as the one that came. So the distance
    is compared with those of random splits: p = (1 + #{as large}) / (1 + permutations). No p-value
    is below 1 / (1 + permutations).

    Args:
        x: shape (B, *event).
        y: shape (B', *event); B + B' up to a few thousand, all distances are kept.
        permutations: how many random splits.
        generator: of the splits.

    Source: Székely and Rizzo 2013, Sec. 6; Phipson and Smyth 2010 for the ones. Chapter 7.
    """
    check_count(permutations, "permutations")
    _check_samples(x, y, "x, y")
    pool = torch.cat([x.cpu(), y.cpu()])
    distances = np.sqrt(cost_matrix(pool, pool))
    weights = np.repeat([1 / len(x), -1 / len(y)], [len(x), len(y)])
    device = generator_device(generator)
    splits = np.stack([weights] * (1 + permutations))  # (1 + permutations, B + B')
    for split in splits[1:]:
        order = torch.randperm(len(pool), generator=generator, device=device)
        split[:] = weights[order.cpu().numpy()]
    # with weights a of the points z the squared distance is −Σ a_i a_j ‖z_i − z_j‖
    squares = -(splits @ distances * splits).sum(axis=1)
    # splits with equal distances differ by rounding
    as_large = squares[1:] >= squares[0] - 1e-12 * distances.max()
    values = np.sqrt(squares.clip(min=0))
    return TwoSampleTest(
        distance=float(values[0]),
        p_value=float((1 + as_large.sum()) / (1 + permutations)),
        floor=float(values[1:].mean()),
        limit=float(np.quantile(values[1:], 0.95)),
    )


class Moments(NamedTuple):
    """Mean, shape (D,), and covariance, shape (D, D), of a set of features; double precision."""

    mean: Tensor
    covariance: Tensor


def moments(x: Tensor) -> Moments:
    """Return the mean and the covariance of features of shape (B, D), B ≥ 2, on the CPU.

    Raises:
        ValueError: not a matrix of at least two rows.
    """
    mean, covariance = _moments(x, "features")
    return Moments(torch.from_numpy(mean), torch.from_numpy(covariance))


def frechet_between(first: Moments, second: Moments) -> float:
    """Return the squared Fréchet distance between two Gaussians with these moments.

    ‖m_x − m_y‖² + tr(C_x + C_y − 2 (C_x C_y)^½).

    Source: Dowson and Landau 1982. Chapter 8.
    """
    return _frechet(_arrays(first, "first"), _arrays(second, "second"))


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return the squared Fréchet distance between Gaussians fitted to two sets of features.

    This is what "FID" reports for the features of one particular network, (B, D) and (B', D). It
    is biased upwards by finite B: print that of two sets of real data beside it.

    Source: Dowson and Landau 1982; Heusel et al. 2017. Chapter 8.
    """
    return _frechet(_moments(x, "x: features"), _moments(y, "y: features"))


def relative_error(estimate: Tensor, truth: Tensor) -> float:
    """Return the relative L² error √(mean ‖estimate − truth‖² / mean ‖truth‖²), shapes equal.

    Raises:
        ValueError: truth is zero everywhere.

    Chapter 3.
    """
    check_same_shape(estimate, truth, "estimate, truth")
    _check_samples(estimate, truth, "estimate, truth")
    estimate, truth = _array(estimate), _array(truth)
    if not truth.any():
        raise ValueError("truth is zero everywhere: there is no size to relate an error to")
    return float(np.linalg.norm(estimate - truth) / np.linalg.norm(truth))


def mode_shares(x: Tensor, centres: Tensor) -> Tensor:
    """Return the share of samples whose nearest centre is each of the centres, shape (K,).

    Args:
        x: samples, shape (B, *event).
        centres: shape (K, *event).

    Chapter 2.
    """
    _check_samples(x, centres, "x, centres")
    nearest = cost_matrix(x, centres).argmin(axis=1)
    counts = np.bincount(nearest, minlength=len(centres))
    return torch.tensor(counts.tolist(), device=x.device) / len(x)


def _check_samples(x: Tensor, y: Tensor, names: str) -> None:
    """Raise unless both are samples of one event shape, all numbers finite, at least one sample."""
    for value, name in zip((x, y), names.split(", "), strict=True):
        check_state(value, name)
        _check_finite(value, name)
    if x.shape[1:] != y.shape[1:]:
        shapes = f"{tuple(x.shape[1:])} and {tuple(y.shape[1:])}"
        raise ValueError(f"event shapes {shapes} of {names.replace(', ', ' and ')} differ")


def _check_finite(x: Tensor, name: str) -> None:
    if x.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; pass at least one sample")
    if not bool(torch.isfinite(x).all()):
        raise ValueError(f"a sample is not finite: look for NaN or infinity in {name}")


def _array(x: Tensor) -> np.ndarray:
    x = x.detach().cpu()
    x = x if x.dtype == torch.float64 else x.float()  # NumPy has no bfloat16
    return x.numpy().astype(np.float64)


def _moments(x: Tensor, name: str) -> tuple[np.ndarray, np.ndarray]:
    check_state(x, name)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"{name} have shape {tuple(x.shape)}; pass (B, D) with B ≥ 2")
    _check_finite(x, name)
    x = _array(x)
    return x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False))


def _arrays(value: Moments, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return moments as arrays, once they are a vector and a matrix that belong together."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(f"{name} is a {type(value).__name__}; pass moments(x)")
    for part, of in zip(value, ("mean", "covariance"), strict=True):
        check_state(part, f"{name}.{of}")
        _check_finite(part, f"{name}.{of}")
    mean, covariance = value
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
        shapes = f"{tuple(mean.shape)} and {tuple(covariance.shape)}"
        raise ValueError(f"{name} has shapes {shapes}; pass a mean (D,) and a covariance (D, D)")
    return _array(mean), _array(covariance)


def _frechet(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> float:
    (m_x, c_x), (m_y, c_y) = first, second
    if m_x.shape != m_y.shape:
        shapes = f"{m_x.shape} and {m_y.shape}"
        raise ValueError(f"means of shapes {shapes}: the two sets must have the same features")
    # the eigenvalues of C_x C_y are those of the symmetric √C_x C_y √C_x
    values, vectors = np.linalg.eigh(c_x)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    overlap = np.sqrt(np.linalg.eigvalsh(root @ c_y @ root).clip(min=0)).sum()
    trace = np.trace(c_x) + np.trace(c_y) - 2 * overlap
    return float(np.square(m_x - m_y).sum() + trace)
