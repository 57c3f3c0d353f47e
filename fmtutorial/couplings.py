"""Pairing a batch of noise with a batch of data: which x₀ travels to which x₁.

A coupling is a function (x0, x1) → x0', which returns the rows of x0 in another order: row b of
x0' is the partner of row b of x1. Only noise is moved, so that labels stay with their data, and
every row is used once, so that both marginals of the batch are kept.

Chapter 4.
"""

import math
from collections.abc import Callable

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fmtutorial.fields import check_same_shape

Coupling = Callable[[Tensor, Tensor], Tensor]
"""(x0, x1) → x0': a permutation of the rows of x0."""


def independent(x0: Tensor, x1: Tensor) -> Tensor:
    """Return x0 as it is: noise and data were drawn independently.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: shapes differ.
    """
    check_same_shape(x0, x1, "x0, x1")
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
        TypeError: not floating-point tensors.
        ValueError: shapes differ, or an entry is not finite.

    Source: Pooladian et al. 2023; Tong et al. 2024, Sec. 3.2. Chapter 4.
    """
    return x0[_assignment(squared_distances(x0, x1))]


def sinkhorn(
    x0: Tensor, x1: Tensor, relative_epsilon: float = 0.05, iterations: int = 100
) -> Tensor:
    """Return x0 in the order whose permutation matrix is nearest to the entropic plan.

    The plan is that of ``sinkhorn_log``; nearest is meant in the sum of squared entries. As
    ``relative_epsilon`` goes to 0 this is ``exact_ot``.

    Args:
        x0: noise, shape (B, *event).
        x1: data, shape of x0.
        relative_epsilon: the regularisation, in units of the mean cost of the batch.
        iterations: of Sinkhorn's algorithm.

    Returns:
        A permutation of the rows of x0.

    Raises:
        TypeError: not floating-point tensors.
        ValueError: shapes differ, an entry is not finite, or a parameter is not positive.

    Source: Cuturi 2013. Chapter 4.
    """
    cost = squared_distances(x0, x1)
    plan = sinkhorn_log(cost, relative_epsilon * cost.mean().item(), iterations)
    return x0[_assignment(-plan)]


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
        TypeError: not floating-point tensors, or label not one of integers.
        ValueError: shapes differ.

    Source: Cheng and Schwing 2025, for discrete conditions. Chapter 4.
    """
    check_same_shape(x0, x1, "x0, x1")
    if not isinstance(label, Tensor) or label.is_floating_point():
        raise TypeError("label must be a tensor of integers; convert it with label.long()")
    if label.shape != x1.shape[:1]:
        raise ValueError(f"label has shape {tuple(label.shape)}; pass ({len(x1)},)")
    paired = torch.empty_like(x0)
    for value in label.unique():
        rows = label == value
        paired[rows] = coupling(x0[rows], x1[rows])
    return paired


def squared_distances(x0: Tensor, x1: Tensor) -> Tensor:
    """Return the cost matrix ‖x0_i − x1_j‖² in double precision, shape (B, B).

    Raises:
        TypeError: not floating-point tensors.
        ValueError: shapes differ, or an entry is not finite.
    """
    check_same_shape(x0, x1, "x0, x1")
    x0, x1 = (x.detach().reshape(len(x), -1).double() for x in (x0, x1))
    # the faster matrix product would lose digits where points nearly coincide
    cost = torch.cdist(x0, x1, compute_mode="donot_use_mm_for_euclid_dist").square()
    if not bool(torch.isfinite(cost).all()):
        raise ValueError("a cost is not finite: look for NaN or infinity in x0 and x1")
    return cost


def sinkhorn_kernel(cost: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return the entropic plan by scaling rows and columns of the kernel exp(−cost/ε).

    The plan P minimises Σ P·cost + ε Σ P log P over matrices with rows summing to 1/N and columns
    to 1/M. The columns are scaled last and are exact; the rows are off by what is left to do.

    Args:
        cost: shape (N, M).
        epsilon: regularisation, in the unit of the cost.
        iterations: each scales all rows, then all columns.

    Returns:
        Shape (N, M), summing to 1.

    Raises:
        TypeError: cost is not a floating-point tensor.
        ValueError: a parameter is not positive, or cost is not a matrix.
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
                f"exp(−cost/ε) underflows: ε = {epsilon:g} and costs go up to {cost.max():g}; "
                "use sinkhorn_log, or an ε that is larger relative to the cost"
            )
    return left[:, None] * kernel * right


def sinkhorn_log(cost: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Return the plan of ``sinkhorn_kernel``, computed with logarithms, so that nothing underflows.

    P_ij = exp((f_i + g_j − cost_ij) / ε), with f and g found in turn by log-sum-exp.

    Args:
        cost: shape (N, M).
        epsilon: regularisation, in the unit of the cost.
        iterations: each updates f, then g.

    Returns:
        Shape (N, M), summing to 1.

    Raises:
        TypeError: cost is not a floating-point tensor.
        ValueError: a parameter is not positive, or cost is not a matrix.

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


def _check_sinkhorn(cost: Tensor, epsilon: float, iterations: int) -> None:
    if not epsilon > 0 or iterations < 1:
        raise ValueError(f"epsilon={epsilon} and iterations={iterations} must be positive")
    if not isinstance(cost, Tensor) or not cost.is_floating_point():
        raise TypeError("cost must be a floating-point tensor, e.g. of squared_distances")
    if cost.ndim != 2:
        raise ValueError(f"cost has shape {tuple(cost.shape)}; pass a matrix (N, M)")


def _assignment(cost: Tensor) -> Tensor:
    """Return, for each column, the row assigned to it at the least total cost."""
    _, rows = linear_sum_assignment(cost.T.cpu().numpy())
    return torch.as_tensor(rows, device=cost.device)
