"""The exercises of chapter 4."""

import math

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fmtutorial import couplings
from fmtutorial.coursework.exercises import Draw, Exercise, Function, Setting


def squared_distances(x0: Tensor, x1: Tensor) -> Tensor:
    """Go through the data: each has a distance to all of the noise."""
    columns = [(x0 - y).square().reshape(len(x0), -1).sum(dim=1) for y in x1]
    return torch.stack(columns, dim=1)


def pair_noise(x0: Tensor, x1: Tensor) -> Tensor:
    """Return the noise in the order of the package's assignment."""
    return couplings.exact_ot(x0, x1)


def sinkhorn_log(cost: Tensor, epsilon: Tensor, iterations: int) -> Tensor:
    """Return the package's plan."""
    return couplings.sinkhorn_log(cost, epsilon.item(), iterations)


def _difference(x0: Tensor, x1: Tensor) -> Tensor:
    """Return all differences, shape (B0, B1, *event)."""
    return x0.unsqueeze(1) - x1.unsqueeze(0)


def _mean_over_entries(x0: Tensor, x1: Tensor) -> Tensor:
    return _difference(x0, x1).square().reshape(len(x0), len(x1), -1).mean(dim=2)


def _own_partner(x0: Tensor, x1: Tensor) -> Tensor:
    return (x0 - x1).square().reshape(len(x0), -1).sum(dim=1)


def _once(x0: Tensor, x1: Tensor) -> Tensor:
    x, y = x0.reshape(len(x0), -1), x1.reshape(len(x1), -1)
    return x.square().sum(dim=1, keepdim=True) + y.square().sum(dim=1) - x @ y.T


def _assigned(cost: Tensor, maximize: bool = False) -> Tensor:
    """Return the data's row for each noise."""
    return torch.as_tensor(linear_sum_assignment(cost.numpy(), maximize=maximize)[1])


def _nearest(x0: Tensor, x1: Tensor) -> Tensor:
    return x0[squared_distances(x0, x1).argmin(dim=0)]


def _one_after_another(x0: Tensor, x1: Tensor) -> Tensor:
    cost = squared_distances(x0, x1)
    rows = []
    for j in range(len(x1)):
        rows.append(int(cost[:, j].argmin()))
        cost[rows[-1]] = torch.inf
    return x0[rows]


def _most_expensive(x0: Tensor, x1: Tensor) -> Tensor:
    return x0[_assigned(squared_distances(x0, x1), maximize=True).argsort()]


def _unsquared(x0: Tensor, x1: Tensor) -> Tensor:
    return x0[_assigned(squared_distances(x0, x1).sqrt()).argsort()]


def _kernel(cost: Tensor, epsilon: Tensor, iterations: int) -> Tensor:
    kernel = torch.exp(-cost / epsilon)
    b = torch.ones_like(cost[0])
    for _ in range(iterations):
        a = 1 / (len(cost) * (kernel @ b))
        b = 1 / (len(b) * (kernel.T @ a))
    return a[:, None] * kernel * b


def _columns_first(cost: Tensor, epsilon: Tensor, iterations: int) -> Tensor:
    return sinkhorn_log(cost.T, epsilon, iterations).T


def _log_domain(
    rows: float | None = None,
    columns: float | None = None,
    *,
    square: bool = False,
    stale: bool = False,
    factor: bool = True,
) -> Function:
    def plan(cost: Tensor, epsilon: Tensor, iterations: int) -> Tensor:
        n, m = cost.shape
        log_row = math.log(rows or 1 / n)
        log_column = math.log(columns or 1 / (n if square else m))
        f, g = torch.zeros_like(cost[:, 0]), torch.zeros_like(cost[0])
        scale = epsilon if factor else torch.ones_like(epsilon)
        for _ in range(iterations):
            old = f
            f = scale * (log_row - torch.logsumexp((g - cost) / epsilon, dim=1))
            start = (old if stale else f)[:, None]
            g = scale * (log_column - torch.logsumexp((start - cost) / epsilon, dim=0))
        return torch.exp((f[:, None] + g - cost) / epsilon)

    return plan


def _constant(cost: Tensor, epsilon: Tensor, iterations: int) -> Tensor:
    n, m = cost.shape
    f, g = torch.zeros_like(cost[:, 0]), torch.zeros_like(cost[0])
    for _ in range(iterations):
        rows = torch.exp((g - cost) / epsilon).sum(dim=1)
        f = -epsilon * (math.log(n) + torch.log(rows + 1e-30))
        columns = torch.exp((f[:, None] - cost) / epsilon).sum(dim=0)
        g = -epsilon * (math.log(m) + torch.log(columns + 1e-30))
    return torch.exp((f[:, None] + g - cost) / epsilon)


PAIRS = (
    Setting(16, (2,), torch.float64),
    Setting(9, (3,), torch.float64),
    Setting(24, (2,), torch.float32),
    Setting(6, (1, 4, 4), torch.float64),
    Setting(6, (6,), torch.float32),
)
"""Batches in which a permutation is hardly ever its own inverse."""

COSTS = (
    Setting(6, (2,), torch.float64),
    Setting(4, (3,), torch.float64),
    Setting(5, (2,), torch.float32),
    Setting(4, (), torch.float32),
    Setting(8, (1, 4, 4), torch.float64),
)
"""Batches of five and more lie far from the data: the exponential of such a cost underflows."""


def _two_batches(draw: Draw) -> tuple:
    """Draw as many data as noise in single precision, and more in double precision."""
    setting = draw.setting
    more = draw.integer(1, 3) if setting.dtype == torch.float64 else 0
    return draw.normal(), draw.normal(setting.batch + more, *setting.event)


def _pairs(draw: Draw) -> tuple:
    return draw.normal(), 2 * draw.normal()


def _costs(draw: Draw) -> tuple:
    """Draw a matrix that is square in single precision and has a column more in double."""
    batch, event, dtype = draw.setting
    data = draw.normal(batch + (dtype == torch.float64), *event)
    cost = squared_distances(draw.normal(), data)
    epsilon = draw.uniform(0.1, 0.3) * cost.mean()
    if batch > 4:
        low = 900 if dtype == torch.float64 else 130
        cost = cost + epsilon * draw.uniform(low, 1.2 * low)
    return cost, epsilon, draw.integer(2, 4)


EXERCISES = (
    Exercise(
        "transport.squared_distances",
        squared_distances,
        _two_batches,
        {
            "These are distances. The cost is their square.": lambda x0, x1: squared_distances(
                x0, x1
            ).sqrt(),
            "The matrix is transposed. Noise belongs to the rows, data to the columns.": (
                lambda x0, x1: squared_distances(x1, x0)
            ),
            "The squares are averaged over the entries of an event. A squared distance is "
            "their sum.": _mean_over_entries,
            "Each noise is compared with the data in its own row only. Compare it with all "
            "data: the differences need a dimension for each of the two batches.": _own_partner,
            "The inner product is subtracted once. Expand the square: it comes twice.": _once,
            "The squares are added up over the last dimension. That is right only for events "
            "of shape (D,): sum over all dimensions of an event.": (
                lambda x0, x1: _difference(x0, x1).square().sum(dim=-1)
            ),
        },
    ),
    Exercise(
        "transport.pair_noise",
        pair_noise,
        _pairs,
        {
            "This is the inverse permutation. It lists for each noise its data point, and what "
            "you need is for each data point its noise.": (
                lambda x0, x1: x0[_assigned(squared_distances(x0, x1))]
            ),
            "The data are reordered. They stay in their rows, with their labels; it is the "
            "noise that moves.": lambda x0, x1: x1[_assigned(squared_distances(x0, x1))],
            "The noise comes back as it was. Row j of the result is the noise that goes to data "
            "point j; the first of SciPy's two arrays only counts.": lambda x0, x1: x0.clone(),
            "Each data point takes the nearest noise, and some noise is used more than once. "
            "Every row of x0 must come exactly once.": _nearest,
            "One data point after another takes the nearest noise that is left. The last ones "
            "pay for it: minimise the sum over all pairs.": _one_after_another,
            "These are the most expensive pairs. Minimise the cost.": _most_expensive,
            "The distances are not squared. The cost is the squared distance, and it has "
            "another best permutation.": _unsquared,
        },
        settings=PAIRS,
    ),
    Exercise(
        "transport.sinkhorn_log",
        sinkhorn_log,
        _costs,
        {
            "It works only where exp(−cost/epsilon) is not zero; elsewhere this divides zero "
            "by zero. Keep the logarithms f and g, and use torch.logsumexp.": _kernel,
            "The columns are updated first. Every iteration begins with f, from the g before "
            "it.": _columns_first,
            "The plan has columns with the sum 1. It is the whole plan that sums to 1: a row to "
            "1/N, a column to 1/M.": _log_domain(1.0, 1.0),
            "The columns sum to 1/N. A row sums to 1/N and a column to 1/M, where cost has the "
            "shape (N, M).": _log_domain(square=True),
            "A small constant in the logarithm replaces what underflows. torch.logsumexp needs "
            "none.": _constant,
            "There is an iteration too few.": lambda cost, epsilon, iterations: sinkhorn_log(
                cost, epsilon, iterations - 1
            ),
            "There is an iteration too many.": lambda cost, epsilon, iterations: sinkhorn_log(
                cost, epsilon, iterations + 1
            ),
            "g is computed from the f of the iteration before. Update f first and use it at "
            "once.": _log_domain(stale=True),
            "f and g lack the factor epsilon in front of the logarithms: they are in the unit "
            "of the cost, and are divided by epsilon in the plan.": _log_domain(factor=False),
        },
        settings=COSTS,
        points=2,
    ),
)
