"""The cost matrix between two sets of points, and the assignment of least total cost.

Both in NumPy, on the CPU: not every device has double precision, and none solves assignments.

Chapter 4.
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from fmtutorial.fields import check_state, flatten


def cost_matrix(x: Tensor, y: Tensor) -> np.ndarray:
    """Return ‖x_i − y_j‖² in double precision, right to eleven digits where points meet too.

    Args:
        x: shape (N, *event).
        y: shape (M, *event).

    Returns:
        Shape (N, M).

    Raises:
        ValueError: event shapes differ, or a cost is not finite.

    Chapter 4.
    """
    check_state(x, "x")
    check_state(y, "y")
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(
            f"shapes {tuple(x.shape)} and {tuple(y.shape)} may differ in the number of rows only"
        )
    cost = _costs(x, y)
    if not np.isfinite(cost.sum()):
        raise ValueError(
            "a cost is not finite: look for NaN or infinity in the states, and for numbers whose "
            "squares overflow"
        )
    return cost


def assignment(cost: np.ndarray) -> np.ndarray:
    """Return the row that each column gets, for the least total cost over all assignments.

    Shortest augmenting paths, which are short after a price is taken off each column. It comes off
    the total of any assignment alike. Good prices are potentials of the entropic plan, and a rough
    one will do.

    Args:
        cost: any finite numbers, shape (B, B).

    Returns:
        A permutation, shape (B,).

    Raises:
        TypeError: cost is not an array.
        ValueError: cost is not a square matrix, or empty, or an entry is not finite.

    Source: Crouse 2016, for the paths. Chapter 4.
    """
    if not isinstance(cost, np.ndarray) or cost.dtype.kind not in "fiu":
        kind = cost.dtype if isinstance(cost, np.ndarray) else type(cost).__name__
        raise TypeError(f"cost is a {kind}; pass an array of numbers, as of cost_matrix")
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1] or len(cost) == 0:
        raise ValueError(f"cost has shape {cost.shape}; pass a square matrix")
    if not np.isfinite(cost).all():
        raise ValueError("a cost is not finite: look for NaN or infinity")
    cost = cost.astype(np.float64, copy=False)
    prices = _prices(cost)
    rows, columns = linear_sum_assignment(cost - prices)
    # prices that are large beside the total would have rounded away what it is made of
    if np.abs(prices).sum() * np.finfo(float).eps > 1e-11 * abs(cost[rows, columns].sum()):
        rows, columns = linear_sum_assignment(cost)
    return columns.argsort()


def _rows(x: Tensor) -> np.ndarray:
    """Return a copy of x in double precision, one sample a row, shape (N, D)."""
    x = x.detach().cpu()
    x = x if x.dtype == torch.float64 else x.float()  # NumPy has no bfloat16
    return flatten(x).numpy().astype(np.float64)


def _costs(x: Tensor, y: Tensor) -> np.ndarray:
    u, v = _rows(x), _rows(y)
    few = 16  # numbers a row, for which differences are as fast as a product of matrices
    if u.shape[1] > few and len(u) > 0 and len(v) > 0:
        with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at the result
            centre = v.mean(axis=0)
            u -= centre
            v -= centre
            cost = u @ v.T
            u_squared, v_squared = (np.einsum("bd,bd->b", z, z) for z in (u, v))
            cost *= -2
            cost += u_squared[:, None]
            cost += v_squared
        # a cost that is small beside its three terms has lost as many digits
        if not (cost.min(axis=1) < 1e-4 * (u_squared + v_squared.max())).any():
            return cost
        u, v = _rows(x), _rows(y)
    return cdist(u, v, "sqeuclidean")


def _prices(cost: np.ndarray) -> np.ndarray:
    """Return the columns' potentials g of the entropic plan, after a few iterations at each ε.

    In single precision, since any numbers will do.
    """
    scale = np.abs(cost).max() or 1.0
    centred = (cost / scale).astype(np.float32)
    centred -= centred.mean(axis=1, keepdims=True)
    offset = centred.mean(axis=0)
    centred -= offset
    spread = centred.std()
    g = np.zeros_like(offset)
    epsilon = 0.3 * spread
    while epsilon > 2 * spread / len(cost):  # about what neighbours differ by, in the plane
        kernel = g - centred
        kernel -= kernel.max(axis=1, keepdims=True)
        kernel /= epsilon
        np.exp(np.maximum(kernel, -70, out=kernel), out=kernel)  # above 0, as are all sums
        right = np.ones_like(g)
        for _ in range(5):
            left = 1 / (kernel @ right)
            right = 1 / (left @ kernel)
        g += epsilon * np.log(right)
        epsilon /= 3
    prices = scale * (offset + g).astype(np.float64)
    return prices - prices.mean()
