"""Cost matrices in fractions, and assignments of degenerate costs against SciPy's."""

import itertools
import math
from fractions import Fraction

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.utils._python_dispatch import TorchDispatchMode

from fmtutorial import assignment as module
from fmtutorial.assignment import assignment, cost_matrix
from fmtutorial.couplings import exact_ot, sinkhorn

DOUBLE = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def exact_cost(x, y):
    """‖x − y‖² in fractions."""
    return sum(
        (Fraction(p) - Fraction(q)) ** 2 for p, q in zip(x.tolist(), y.tolist(), strict=True)
    )


def least(cost):
    return cost[linear_sum_assignment(cost)].sum()


def total(cost, rows):
    assert sorted(rows) == list(range(len(cost)))
    return cost[rows, np.arange(len(cost))].sum()


@pytest.mark.parametrize("width", [2, 16, 17, 40])
@pytest.mark.parametrize(
    "offset, gap", [(0.0, 1.0), (1e6, 1.0), (1e6, 1e-3), (0.0, 1e-7), (0.0, 0.0)]
)
def test_costs_in_fractions(width, offset, gap):
    """Eleven digits, far from the origin, and between points that nearly coincide.

    Matrix products would lose them all at a gap of 1e-7: 1e-16 · 40 beside 1e-14 · 40.
    """
    x0 = normal(6, width) + offset
    x1 = torch.cat([x0[:3] + gap * normal(3, width, seed=1), normal(2, width, seed=2) + offset])
    cost = cost_matrix(x0, x1)
    for i, j in itertools.product(range(6), range(5)):
        wanted = exact_cost(x0[i], x1[j])
        assert abs(Fraction(cost[i, j]) - wanted) <= wanted * Fraction(1, 10**11)


def test_few_and_no_points_have_costs_too():
    for n, m in [(0, 3), (3, 0), (1, 1)]:
        for event in [(2,), (30,), (0,), ()]:
            assert cost_matrix(normal(n, *event), normal(m, *event)).shape == (n, m)
    assert not cost_matrix(normal(2, 0), normal(3, 0)).any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_costs_of_half_precision(dtype):
    x0, x1 = normal(4, 20).to(dtype), normal(4, 20, seed=1).to(dtype)
    cost = cost_matrix(x0, x1)
    torch.testing.assert_close(cost, cost_matrix(x0.double(), x1.double()), rtol=1e-14, atol=0)


def test_wrong_points_are_refused():
    x = torch.zeros(3, 2)
    with pytest.raises(
        ValueError, match=r"shapes \(3, 2\) and \(3, 3\) may differ in .* rows only"
    ):
        cost_matrix(x, torch.zeros(3, 3))
    with pytest.raises(TypeError, match="y has dtype torch.int64"):
        cost_matrix(x, x.long())
    with pytest.raises(ValueError, match="x has no batch dimension"):
        cost_matrix(torch.tensor(0.0), x)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e200])
@pytest.mark.parametrize("width", [2, 30])
def test_costs_that_are_not_finite_are_refused(value, width):
    x, wrong = normal(3, width), normal(3, width)
    wrong[1, 0] = value
    for pair in ((x, wrong), (wrong, x)):
        with pytest.raises(ValueError, match="a cost is not finite: look for NaN or infinity"):
            cost_matrix(*pair)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_assignment_over_all_permutations(n):
    """Costs of either sign, which are no distances."""
    for seed in range(10):
        cost = normal(n, n, seed=seed).numpy()
        every = (total(cost, list(order)) for order in itertools.permutations(range(n)))
        assert total(cost, assignment(cost)) == pytest.approx(min(every), rel=1e-12)


def clusters(n, distance):
    """Half of the points far from the other half, noise beside data at 1e-3."""
    centre = distance * (torch.arange(n)[:, None] % 2).double()
    return centre + 1e-3 * normal(n, 2, seed=3), centre + 1e-3 * normal(n, 2, seed=4)


def grid(n):
    """Whole numbers, each many times: nearly all assignments tie with others."""
    return normal(n, 2).round(), normal(n, 2, seed=1).round()


BATCHES = {
    "plane": (normal(300, 2), 0.3 * normal(300, 2, seed=1) + 2),
    "one law": (normal(300, 2), normal(300, 2, seed=1)),
    "pixels": (normal(150, 784), 0.5 * normal(150, 784, seed=1)),
    "line": (normal(300), normal(300, seed=1)),
    "ties": grid(200),
    "duplicates": (normal(1, 2).repeat(150, 1), normal(150, 2, seed=1)),
    "the same points": (normal(150, 2), normal(150, 2)),
    "one point": (torch.ones(100, 2), torch.ones(100, 2)),
    "tiny": (1e-150 * normal(150, 2), 1e-150 * normal(150, 2, seed=1)),
    "huge": (1e150 * normal(150, 2), 1e150 * normal(150, 2, seed=1)),
    "an outlier": (torch.cat([normal(149, 2), 1e6 * normal(1, 2)]), normal(150, 2, seed=1)),
    "clusters": clusters(150, 1.0),
    "far clusters": clusters(150, 1e6),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BATCHES)
def test_assignment_costs_what_scipys_does(name):
    """SciPy's solver on the plain costs. Ten digits are promised; sums of 300 round to 1e-14."""
    cost = cost_matrix(*BATCHES[name])
    assert total(cost, assignment(cost)) == pytest.approx(least(cost), rel=1e-12, abs=0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(6))
def test_assignment_of_costs_on_all_scales(seed):
    """From 1e-30 to 1e30 in one matrix."""
    cost = 10 ** (10 * normal(80, 80, seed=seed).numpy())
    assert total(cost, assignment(cost)) == pytest.approx(least(cost), rel=1e-10, abs=0)


@pytest.mark.filterwarnings("error")
def test_assignment_of_a_column_that_no_row_wants():
    """Every row wants its own column and row 0 that of row 1, by 31 standard deviations.

    In single precision column 0 of the rough plan would be e^(−31 / 0.3) = 0.
    """
    cost = -np.eye(1000)
    cost[0, :2] = 0, -1
    assert total(cost, assignment(cost)) == -999


def test_assignment_is_the_network_simplex():
    """And whole numbers are taken too."""
    cost = np.random.default_rng(0).integers(0, 10**6, (120, 120))
    plan = ot.emd([], [], cost.astype(float))
    assert np.array_equal(assignment(cost), plan.argmax(axis=0))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("prices", [0.0, 1e3, 1e9, 1e18])
def test_any_prices_give_the_best_assignment(prices, monkeypatch):
    """Those of 1e18 round the costs of 1 away, which must be noticed."""
    cost = cost_matrix(*BATCHES["plane"])
    wrong = prices * np.random.default_rng(0).standard_normal(len(cost))
    monkeypatch.setattr(module, "_prices", lambda _: wrong)
    assert total(cost, assignment(cost)) == pytest.approx(least(cost), rel=1e-10)


@pytest.mark.parametrize("name", ["plane", "one law", "pixels"])
def test_prices_are_nearly_dual(name):
    """Σ_j p_j + Σ_i min_j (c_ij − p_j) bounds the least cost from below, for good prices closely.

    That makes the search short. No prices leave at least three times the gap of these.
    """
    cost = cost_matrix(*BATCHES[name])
    best = least(cost)

    def gap(prices):
        return best - prices.sum() - (cost - prices).min(axis=1).sum()

    assert -1e-9 * best < gap(module._prices(cost)) < gap(np.zeros(len(cost))) / 3


@pytest.mark.parametrize(
    "cost, error, match",
    [
        (np.ones((2, 3)), ValueError, r"cost has shape \(2, 3\); pass a square matrix"),
        (np.ones((0, 0)), ValueError, r"cost has shape \(0, 0\)"),
        (np.ones(2), ValueError, r"cost has shape \(2,\)"),
        (np.array([[math.nan]]), ValueError, "a cost is not finite"),
        (np.array([[-math.inf]]), ValueError, "a cost is not finite"),
        (torch.ones(2, 2), TypeError, "cost is a Tensor; pass an array"),
    ],
)
def test_wrong_costs_are_refused(cost, error, match):
    with pytest.raises(error, match=match):
        assignment(cost)


class NoDouble(TorchDispatchMode):
    """A device without double precision, played by the CPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if getattr(result, "dtype", None) == DOUBLE:
            raise TypeError(f"{function} asks for double precision")
        return result


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_devices_are_not_asked_for_double_precision(dtype):
    x0, x1 = (normal(20, 30, seed=seed).to(dtype) for seed in (0, 1))
    expected = exact_ot(x0, x1), sinkhorn(x0, x1)
    with NoDouble():
        assert cost_matrix(x0, x1).dtype == np.float64
        paired = exact_ot(x0, x1), sinkhorn(x0, x1)
    assert all(map(torch.equal, paired, expected))
