"""Distances between two sets of samples, and between two fields. Chapters 2, 3 and 8."""

import math
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fmtutorial.fields import check_same_shape, check_state


def wasserstein(x: Tensor, y: Tensor) -> float:
    """Return the exact 2-Wasserstein distance between two sets of equally many samples.

    W₂² = min over permutations π of mean_i ‖x_i − y_π(i)‖², found as an assignment problem in
    O(B³) time: 1 s or so for B = 2000. Two fresh sets from the same distribution are not at
    distance 0: always print that figure beside the one of interest.

    Args:
        x: shape (B, *event).
        y: shape of x.

    Returns:
        The distance, in the unit of x.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: different shapes, or an entry that is not finite.

    Source: Peyré and Cuturi 2019, Prop. 2.1. Chapters 2 and 4.
    """
    x, y = _flat_pair(x, y)
    # cdist's matrix product would lose digits where points nearly coincide
    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square().cpu().numpy()
    rows, columns = linear_sum_assignment(cost)
    return math.sqrt(cost[rows, columns].mean())


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Return the energy distance √(2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖) of two samples.

    Averages over all pairs of one sample include the pair of a point with itself, so that the
    square is never negative.

    Args:
        x: shape (B, *event).
        y: shape of x.

    Returns:
        The distance, in the square root of the unit of x.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: different shapes, or an entry that is not finite.

    Source: Székely and Rizzo 2013, Sec. 2. Chapter 3.
    """
    x, y = _flat_pair(x, y)
    mode = "donot_use_mm_for_euclid_dist"
    between = torch.cdist(x, y, compute_mode=mode).mean()
    within_x = torch.cdist(x, x, compute_mode=mode).mean()
    within_y = torch.cdist(y, y, compute_mode=mode).mean()
    return math.sqrt(max(0.0, (2 * between - within_x - within_y).item()))


class Moments(NamedTuple):
    """Mean, shape (D,), and covariance, shape (D, D), of a set of features; double precision."""

    mean: Tensor
    covariance: Tensor


def moments(x: Tensor) -> Moments:
    """Return the mean and the covariance of features of shape (B, D), B ≥ 2.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: not a matrix of at least two rows, or an entry that is not finite.
    """
    check_state(x)
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"features have shape {tuple(x.shape)}; pass (B, D) with B ≥ 2")
    _check_finite(x)
    x = x.double()
    return Moments(x.mean(dim=0), torch.atleast_2d(x.T.cov()))


def frechet_between(first: Moments, second: Moments) -> float:
    """Return the squared Fréchet distance between two Gaussians with these moments.

    ‖m_x − m_y‖² + tr(C_x + C_y − 2 (C_x C_y)^½).

    Raises:
        ValueError: the numbers of features differ.

    Source: Dowson and Landau 1982. Chapter 8.
    """
    if first.mean.shape != second.mean.shape:
        raise ValueError(
            f"means of shapes {tuple(first.mean.shape)} and {tuple(second.mean.shape)}: the two "
            "sets must have the same features"
        )
    # the eigenvalues of C_x C_y are those of the symmetric √C_x C_y √C_x
    values, vectors = torch.linalg.eigh(first.covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    product = root @ second.covariance @ root
    overlap = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
    means = (first.mean - second.mean).square().sum()
    return (means + first.covariance.trace() + second.covariance.trace() - 2 * overlap).item()


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Return the squared Fréchet distance between Gaussians fitted to two sets of features.

    This is what "FID" reports for the features of one particular network. It is biased upwards
    by the finite numbers of samples: print that of two sets of real data beside it.

    Args:
        x: features, shape (B, D).
        y: features, shape (B', D), more rows than one.

    Returns:
        The squared distance, in the squared unit of x.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: not two matrices of as many columns and at least two rows, or an entry that
            is not finite.

    Source: Dowson and Landau 1982; Heusel et al. 2017. Chapter 8.
    """
    return frechet_between(moments(x), moments(y))


def relative_error(estimate: Tensor, truth: Tensor) -> float:
    """Return the relative L² error √(mean ‖estimate − truth‖² / mean ‖truth‖²).

    Args:
        estimate: shape (B, *event), for instance a learned velocity.
        truth: shape of estimate.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: different shapes.

    Chapter 3.
    """
    check_same_shape(estimate, truth, "estimate, truth")
    return ((estimate - truth).square().sum() / truth.square().sum()).sqrt().item()


def mode_shares(x: Tensor, centres: Tensor) -> Tensor:
    """Return the share of samples whose nearest centre is each of the centres.

    Args:
        x: samples, shape (B, *event).
        centres: shape (K, *event).

    Returns:
        Shape (K,), summing to 1.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: event shapes differ, or an entry is not finite.

    Chapter 2.
    """
    check_state(x, "x")
    check_state(centres, "centres")
    if x.shape[1:] != centres.shape[1:]:
        raise ValueError(f"event shapes {tuple(x.shape[1:])} and {tuple(centres.shape[1:])} differ")
    _check_finite(x, centres)
    distances = torch.cdist(x.reshape(len(x), -1), centres.to(x).reshape(len(centres), -1))
    counts = torch.bincount(distances.argmin(dim=1), minlength=len(centres))
    return counts / len(x)


def _check_finite(*samples: Tensor) -> None:
    if not all(bool(torch.isfinite(x).all()) for x in samples):
        raise ValueError("a sample is not finite: look at the solver's last steps")


def _flat_pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    check_same_shape(x, y, "x, y")
    _check_finite(x, y)
    return x.detach().reshape(len(x), -1).double(), y.detach().reshape(len(y), -1).double()
