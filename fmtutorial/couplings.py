"""Pairing a batch of noise with a batch of data: which x₀ travels to which x₁.

A coupling is a function (x0, x1) → x0', which returns the rows of x0 in another order: row b of
x0' is the partner of row b of x1. Only noise is moved, so that labels stay with their data, and
every row is used once, so that both marginals of the batch are kept.

Chapter 4.
"""

import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from fmtutorial.assignment import assignment, cost_matrix
from fmtutorial.fields import check_callable, check_count, check_number, check_same_shape

Coupling = Callable[[Tensor, Tensor], Tensor]
"""(x0, x1) → x0': a permutation of the rows of x0."""


class ConvergenceWarning(RuntimeWarning):
    """An iteration ended before it had converged."""


def independent(x0: Tensor, x1: Tensor) -> Tensor:
    """Return x0 as it is: noise and data were drawn independently."""
    _check_batch(x0, x1)
    return x0


def exact_ot(x0: Tensor, x1: Tensor) -> Tensor:
    """Return x0 in the order that minimises Σ_b ‖x0'_b − x1_b‖², by solving the assignment problem.

    Runs on the CPU in O(B³) time; chapter 4 has a table.

    Args:
        x0: noise, shape (B, *event).
        x1: data, shape of x0.

    Returns:
        A permutation of the rows of x0.

    Raises:
        ValueError: the batch is empty, or an entry is not finite.

    Source: Pooladian et al. 2023; Tong et al. 2024, Sec. 3.2. Chapter 4.
    """
    _check_batch(x0, x1)
    return _reordered(x0, cost_matrix(x0, x1))


def sinkhorn(
    x0: Tensor, x1: Tensor, relative_epsilon: float = 0.05, iterations: int = 100
) -> Tensor:
    """Return x0 in the order whose permutation matrix is nearest to the entropic plan.

    The plan is that of ``sinkhorn_log``, in the type of x0; nearest is meant in the sum of squared
    entries. With enough iterations this tends to ``exact_ot`` as ``relative_epsilon`` goes to 0.
    How many are enough grows like 1 / ``relative_epsilon`` and faster; with too few of them a
    smaller ``relative_epsilon`` makes the order worse, not better.

    Args:
        x0: noise, shape (B, *event).
        x1: data, shape of x0.
        relative_epsilon: the regularisation, in units of the mean cost of the batch.
        iterations: of Sinkhorn's algorithm.

    Returns:
        A permutation of the rows of x0.

    Raises:
        ValueError: the batch is empty, an entry is not finite, or a parameter is not positive.

    Warns:
        ConvergenceWarning: more than 1 % of the plan's mass is in wrong rows.

    Source: Cuturi 2013. Chapter 4.
    """
    _check_batch(x0, x1)
    check_number(relative_epsilon, "relative_epsilon", 0, without_low=True)
    check_count(iterations, "iterations")
    cost = cost_matrix(x0, x1)
    unit = float(cost.mean())
    if unit == 0:  # all points are one, and all orders too
        return x0
    # double precision is slow on most GPUs, and some have none
    dtype = np.float64 if x0.dtype == torch.float64 else np.float32
    relative = torch.from_numpy((cost / unit).astype(dtype)).to(x0.device)
    plan = sinkhorn_log(relative, relative_epsilon, iterations)
    wrong = 0.5 * (plan.sum(dim=1) - 1 / len(plan)).abs().sum().item()
    if wrong > 0.01:  # more than one row of a batch of 100: it can show in the order
        warnings.warn(
            f"{100 * wrong:.2g} % of the plan's mass is in wrong rows after {iterations} "
            f"iterations at relative_epsilon={relative_epsilon:g}: take more iterations, a larger "
            "relative_epsilon, or exact_ot",
            ConvergenceWarning,
            stacklevel=2,
        )
    return _reordered(x0, -plan.cpu().numpy())


def within_labels(coupling: Coupling, x0: Tensor, x1: Tensor, label: Tensor) -> Tensor:
    """Pair within each class: the noise of class c is permuted among the data of class c.

    Which noise a class gets is decided before the pairing looks at it, so the noise of every
    class stays N(0, I). A pairing of the whole batch skews it.

    Args:
        coupling: for instance ``exact_ot``.
        x0: noise, shape (B, *event).
        x1: data, shape of x0.
        label: classes of the data, integers, shape (B,).

    Returns:
        A permutation of the rows of x0.

    Raises:
        TypeError: label is not a tensor of integers, or the coupling returns no tensor like x0.
        ValueError: the batch is empty, label has another shape or is on another device, or the
            coupling returns another shape.

    Source: Cheng and Schwing 2025, for discrete conditions. Chapter 4.
    """
    check_callable(coupling, "coupling")
    _check_batch(x0, x1)
    if not isinstance(label, Tensor) or label.layout != torch.strided:
        raise TypeError(f"label is a {type(label).__name__}; pass a tensor of integers")
    if label.is_floating_point() or label.is_complex() or label.dtype == torch.bool:
        raise TypeError(
            f"label has dtype {label.dtype}, not integers; convert it with label.long()"
        )
    if label.shape != x1.shape[:1]:
        raise ValueError(f"label has shape {tuple(label.shape)}; pass ({len(x1)},)")
    if label.device != x1.device:
        raise ValueError(
            f"label is on {label.device} and x1 on {x1.device}; move it with label.to(x1.device)"
        )
    paired = torch.empty_like(x0)
    for value in label.unique():
        rows = label == value
        noise = x0[rows]
        part = coupling(noise, x1[rows])
        kind = part.dtype if isinstance(part, Tensor) else type(part).__name__
        if kind != x0.dtype:
            raise TypeError(f"the coupling returned {kind} for x0 of {x0.dtype}")
        if part.shape != noise.shape:
            raise ValueError(
                f"the coupling returned shape {tuple(part.shape)} for x0 of shape "
                f"{tuple(noise.shape)}; it must return the rows of x0 in another order"
            )
        paired[rows] = part
    return paired


def squared_distances(x0: Tensor, x1: Tensor) -> Tensor:
    """Return the cost matrix ‖x0_i − x1_j‖² in double precision.

    Args:
        x0: shape (N, *event).
        x1: shape (M, *event).

    Returns:
        Shape (N, M), without gradients; on the CPU if the device of x0 has no double precision.

    Raises:
        ValueError: event shapes differ, or a cost is not finite.

    Chapter 4.
    """
    cost = torch.from_numpy(cost_matrix(x0, x1))
    return cost if x0.device.type == "mps" else cost.to(x0.device)


def sinkhorn_kernel(cost: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return the entropic plan by scaling rows and columns of the kernel exp(−cost/ε).

    The plan P minimises Σ P·cost + ε Σ P log P over matrices with rows summing to 1/N and columns
    to 1/M. The columns are scaled last and are exact; the rows are off by what is left to do:
    look at ``plan.sum(dim=1)``.

    Args:
        cost: shape (N, M), any real numbers.
        epsilon: regularisation, in the unit of the cost.
        iterations: each scales all rows, then all columns.

    Returns:
        Shape (N, M), summing to 1.

    Raises:
        TypeError: cost is not a tensor of at least single precision.
        ValueError: a parameter is not positive, or cost is not a matrix or not finite.
        FloatingPointError: a row or column of the kernel underflows to zero.

    Source: Cuturi 2013, Algorithm 1. Chapter 4.
    """
    _check_sinkhorn(cost, epsilon, iterations)
    kernel = torch.exp(-cost / epsilon)
    columns = cost.new_full((cost.shape[1],), 1 / cost.shape[1])
    right = torch.ones_like(columns)
    for _ in range(iterations):
        left = 1 / (len(cost) * (kernel @ right))
        right = columns / (kernel.T @ left)
        if not bool(torch.isfinite(torch.cat([left, right])).all()):
            raise FloatingPointError(
                f"exp(−cost/ε) underflows or overflows: ε = {epsilon:g} and costs go up to "
                f"{cost.abs().max():g}; "
                "use sinkhorn_log, or an ε that is larger relative to the cost"
            )
    return left[:, None] * kernel * right


def sinkhorn_log(cost: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return the plan of ``sinkhorn_kernel``, computed with logarithms, so that nothing underflows.

    P_ij = exp((f_i + g_j − cost_ij) / ε), with f and g found in turn by log-sum-exp.

    Args:
        cost: shape (N, M), any real numbers.
        epsilon: regularisation, in the unit of the cost.
        iterations: each updates f, then g.

    Returns:
        Shape (N, M), summing to 1.

    Raises:
        TypeError: cost is not a tensor of at least single precision.
        ValueError: a parameter is not positive, or cost is not a matrix or not finite.

    Source: Peyré and Cuturi 2019, Sec. 4.4. Chapter 4.
    """
    _check_sinkhorn(cost, epsilon, iterations)
    scaled = cost / epsilon
    log_row, log_column = (-math.log(n) for n in cost.shape)
    g = torch.zeros_like(scaled[0])
    for _ in range(iterations):
        f = log_row - torch.logsumexp(g - scaled, dim=1)
        g = log_column - torch.logsumexp(f[:, None] - scaled, dim=0)
    return torch.exp(f[:, None] + g - scaled)


def _check_batch(x0: Tensor, x1: Tensor) -> None:
    check_same_shape(x0, x1, "x0, x1")
    if len(x0) == 0:
        raise ValueError("x0 and x1 have no rows; there is nothing to pair")


def _reordered(x0: Tensor, cost: np.ndarray) -> Tensor:
    """Return x0 in the order of least total cost."""
    return x0.index_select(0, torch.from_numpy(assignment(cost)).to(x0.device))


def _check_sinkhorn(cost: Tensor, epsilon: float, iterations: int) -> None:
    check_number(epsilon, "epsilon", 0, without_low=True)
    check_count(iterations, "iterations")
    wide = isinstance(cost, Tensor) and cost.dtype in (torch.float32, torch.float64)
    if not wide or cost.layout != torch.strided:
        kind = cost.dtype if isinstance(cost, Tensor) else type(cost).__name__
        raise TypeError(
            f"cost must be a floating-point tensor of 32 or 64 bits, not {kind}; "
            "squared_distances makes one, cost.float() converts"
        )
    if cost.ndim != 2 or 0 in cost.shape:
        raise ValueError(f"cost has shape {tuple(cost.shape)}; pass a matrix (N, M)")
    if not bool((cost / epsilon).isfinite().all()):
        raise ValueError(
            f"cost / epsilon is not finite: look for NaN or infinity in the cost, or take a larger "
            f"epsilon than {epsilon:g}"
        )
