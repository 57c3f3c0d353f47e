"""Couplings and plans against all permutations, POT and closed forms."""

import itertools
import math
import warnings

import numpy as np
import ot
import pytest
import torch

from fmtutorial.couplings import (
    ConvergenceWarning,
    exact_ot,
    independent,
    sinkhorn,
    sinkhorn_kernel,
    sinkhorn_log,
    squared_distances,
    within_labels,
)

DOUBLE = torch.float64
COUPLINGS = [independent, exact_ot, sinkhorn]
PLANS = [sinkhorn_kernel, sinkhorn_log]
every_coupling = pytest.mark.parametrize("coupling", COUPLINGS)
every_plan = pytest.mark.parametrize("plan", PLANS)


def pair(n, event, generator):
    """Noise, and data elsewhere and on another scale."""
    x0, x1 = (torch.randn(n, *event, generator=generator, dtype=DOUBLE) for _ in range(2))
    return x0, 0.5 * x1 + 1


def costs(n, m, generator):
    """Between two sets in the plane; about 1 to 5."""
    x = torch.randn(n, 2, generator=generator, dtype=DOUBLE)
    y = torch.randn(m, 2, generator=generator, dtype=DOUBLE) + 1
    return torch.from_numpy(ot.dist(x.numpy(), y.numpy()))


def total(x0, x1):
    return sum((p - q).square().sum().item() for p, q in zip(x0, x1, strict=True))


def best_total(x0, x1):
    orders = itertools.permutations(range(len(x0)))
    return min(total([x0[i] for i in order], x1) for order in orders)


def rows(x):
    """The rows as a sorted list: equal for two tensors if one permutes the rows of the other."""
    return sorted(x.reshape(len(x), -1).tolist())


def pot(solver, cost, epsilon, iterations):
    """POT's plan after as many iterations. It scales columns first, so it gets the transpose."""
    a, b = (np.full(n, 1 / n) for n in cost.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of iterations that have not converged
        plan = solver(b, a, cost.T.numpy(), epsilon, numItermax=iterations, stopThr=0)
    return torch.from_numpy(plan.T)


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_exact_ot_over_all_permutations(n, event, generator):
    x0, x1 = pair(n, event, generator)
    assert total(exact_ot(x0, x1), x1) == pytest.approx(best_total(x0, x1), rel=1e-12)


def test_exact_ot_of_seven_over_all_permutations(generator):
    """Twelve batches: a search that is good, not best, would lose one."""
    for _ in range(12):
        x0, x1 = pair(7, (2,), generator)
        cost = squared_distances(x0, x1).tolist()
        best = min(
            sum(cost[i][j] for j, i in enumerate(order))
            for order in itertools.permutations(range(7))
        )
        assert total(exact_ot(x0, x1), x1) == pytest.approx(best, rel=1e-12)


def test_exact_ot_is_pots_plan(event, generator):
    """The plan of the network simplex is a permutation matrix, the same one."""
    x0, x1 = pair(60, event, generator)
    cost = ot.dist(x0.reshape(60, -1).numpy(), x1.reshape(60, -1).numpy())
    plan = ot.emd([], [], cost)
    assert torch.equal(exact_ot(x0, x1), x0[plan.argmax(axis=0)])


def test_exact_ot_in_one_dimension_sorts(generator):
    """For a convex cost the optimal map is monotone."""
    for event in [(), (1,)]:
        x0, x1 = pair(300, event, generator)
        order = exact_ot(x0, x1).flatten()[x1.flatten().argsort()]
        assert torch.equal(order, x0.flatten().sort().values)


@every_coupling
@pytest.mark.parametrize("n", [1, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_noise_is_permuted_and_data_is_left_alone(coupling, n, dtype, event, generator):
    x0, x1 = (x.to(dtype) for x in pair(n, event, generator))
    before = x0.clone(), x1.clone()
    paired = coupling(x0, x1)
    assert paired.shape == x0.shape and paired.dtype == dtype
    assert rows(paired) == rows(x0)
    assert torch.equal(x0, before[0]) and torch.equal(x1, before[1])


def test_independent_keeps_the_order(event, generator):
    x0, x1 = pair(5, event, generator)
    assert torch.equal(independent(x0, x1), x0)


@pytest.mark.parametrize("coupling", [exact_ot, sinkhorn])
def test_a_pairing_follows_its_data(coupling, event, generator):
    """Move the rows of x1, and their partners move along; the order of x0 does not matter."""
    x0, x1 = pair(9, event, generator)
    paired = coupling(x0, x1)
    order = torch.randperm(9, generator=generator)
    assert torch.equal(coupling(x0, x1[order]), paired[order])
    assert torch.equal(coupling(x0[order], x1), paired)


@every_coupling
def test_gradients_reach_the_noise_in_its_own_rows(coupling, generator):
    """Row b of x0' weighted by b + 1: the gradient at a row of x0 is the place it moved to."""
    x0, x1 = pair(5, (2,), generator)
    x0, x1 = x0.requires_grad_(), x1.requires_grad_()
    paired = coupling(x0, x1)
    places = torch.arange(1.0, 6.0, dtype=DOUBLE)
    (gradient,) = torch.autograd.grad((places[:, None] * paired).sum(), x0)
    for b in range(5):
        source = [i for i in range(5) if torch.equal(x0[i], paired[b])]
        assert gradient[source].tolist() == [[b + 1.0, b + 1.0]]


@pytest.mark.filterwarnings("ignore::fmtutorial.couplings.ConvergenceWarning")
@pytest.mark.parametrize("epsilon, iterations", [(0.1, 1), (0.5, 7), (2.0, 3)])
def test_sinkhorn_is_the_permutation_nearest_to_pots_plan(epsilon, iterations, event, generator):
    """Over all permutations of six, ‖Π/6 − P‖², with ε in units of the mean cost.

    Few iterations leave P unfinished, so that their number shows. After a single one the answer
    is often another than that of exact transport.
    """
    orders = torch.tensor(list(itertools.permutations(range(6))))
    matrices = torch.nn.functional.one_hot(orders, 6).mT.double() / 6  # rows to orders' columns
    differ = 0
    for _ in range(40):
        x0, x1 = pair(6, event, generator)
        cost = torch.from_numpy(ot.dist(x0.reshape(6, -1).numpy(), x1.reshape(6, -1).numpy()))
        plan = pot(ot.sinkhorn, cost, epsilon * cost.mean().item(), iterations)
        nearest = orders[(matrices - plan).square().sum(dim=(1, 2)).argmin()]
        paired = sinkhorn(x0, x1, epsilon, iterations)
        assert torch.equal(paired, x0[nearest])
        differ += not torch.equal(paired, exact_ot(x0, x1))
    assert differ > 0 or iterations > 1


def test_sinkhorn_with_little_regularisation_is_exact_ot(event, generator):
    """Relative ε = 0.002; gaps between the best two assignments are larger here."""
    x0, x1 = pair(10, event, generator)
    assert torch.equal(sinkhorn(x0, x1, 0.002, 3000), exact_ot(x0, x1))


def test_sinkhorn_tends_to_exact_ot_if_the_iterations_keep_up(generator):
    """Noise to a ring: with 100 iterations a smaller ε makes it worse, and that is said.

    With 4000 one of 0.003 is finished, which leaves no warning, and the excess is small.
    """
    x0 = torch.randn(32, 2, generator=generator, dtype=DOUBLE)
    angle = 2 * math.pi * torch.arange(32, dtype=DOUBLE) / 32
    x1 = 4 * torch.stack([angle.cos(), angle.sin()], dim=1)
    best = total(exact_ot(x0, x1), x1)

    def excess(epsilon, iterations):
        return total(sinkhorn(x0, x1, epsilon, iterations), x1) / best - 1

    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        coarse, fine = excess(0.1, 100), excess(0.003, 4000)
    for epsilon in (1e-4, 1e-6):
        with pytest.warns(ConvergenceWarning, match="in wrong rows after 100 iterations") as caught:
            unfinished = excess(epsilon, 100)
        assert caught[0].filename == __file__
        assert unfinished > 10 * coarse
    assert fine < 0.1 * coarse


@pytest.mark.parametrize("wrong", [0.009, 0.011])
def test_where_the_warning_begins(wrong, monkeypatch, generator):
    """At one hundredth of the mass: row 0 of a given plan has that much too much."""
    plan = torch.full((4, 4), 1 / 16, dtype=DOUBLE)
    plan[0] += wrong / 4
    plan[1] -= wrong / 4
    monkeypatch.setattr("fmtutorial.couplings.sinkhorn_log", lambda *_: plan)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sinkhorn(*pair(4, (2,), generator))
    assert [w.category for w in caught] == [ConvergenceWarning] * (wrong > 0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, DOUBLE])
def test_sinkhorn_of_one_point_keeps_it(dtype):
    """All costs are 0, and so would be ε."""
    x = torch.full((3, 2), 0.5, dtype=dtype)
    assert torch.equal(sinkhorn(x, x.clone()), x)
    assert torch.equal(exact_ot(x, x.clone()), x)


def test_sinkhorn_does_not_depend_on_the_unit(generator):
    """From squares that are nearly denormal to some that nearly overflow, in single precision."""
    x0, x1 = (x.float() for x in pair(20, (2,), generator))
    expected = sinkhorn(x0, x1)
    for unit in (2.0**-120, 2.0**120):
        assert torch.equal(sinkhorn(x0 * unit, x1 * unit), expected * unit)


def test_within_labels_is_best_in_each_class(event, generator):
    """Classes of sizes 4, 3, 1 and 5, mixed up and with gaps between their numbers."""
    x0, x1 = pair(13, event, generator)
    label = torch.tensor([5, -2, 5, 9, 0, 9, 9, -2, 5, 9, -2, 5, 9])
    paired = within_labels(exact_ot, x0, x1, label)
    for value, size in ((5, 4), (-2, 3), (0, 1), (9, 5)):
        own = label == value
        assert int(own.sum()) == size
        assert rows(paired[own]) == rows(x0[own])
        assert total(paired[own], x1[own]) == pytest.approx(best_total(x0[own], x1[own]), rel=1e-12)
    # the whole batch has a better pairing, which mixes the classes
    assert total(exact_ot(x0, x1), x1) < total(paired, x1) - 1e-3


def test_within_labels_asks_the_coupling_once_a_class(event, generator):
    x0, x1 = pair(6, event, generator)
    label, calls = torch.tensor([1, 0, 1, 2, 1, 0]), []

    def backwards(noise, data):
        calls.append((noise, data))
        return noise.flip(0)

    paired = within_labels(backwards, x0, x1, label)
    assert torch.equal(paired, x0[[4, 5, 2, 3, 0, 1]])
    expected = [[1, 5], [0, 2, 4], [3]]
    assert len(calls) == 3
    for own, (noise, data) in zip(expected, calls, strict=True):
        assert torch.equal(noise, x0[own]) and torch.equal(data, x1[own])


@pytest.mark.parametrize("coupling", [exact_ot, sinkhorn])
def test_one_class_is_the_whole_batch(coupling, event, generator):
    x0, x1 = pair(8, event, generator)
    whole = within_labels(coupling, x0, x1, torch.full((8,), 3))
    assert torch.equal(whole, coupling(x0, x1))


def test_noise_of_a_class_stays_normal_only_within_labels():
    """Two classes left and right: pairing the batch gives the right one the right half of noise.

    Its mean is then that of a half-normal, √(2/π) = 0.80; within labels it is 0. 4000 samples of
    a class have a standard error of 1/√4000 = 0.016.
    """
    generator = torch.Generator().manual_seed(1)
    label = torch.arange(8000) % 2
    x1 = (20.0 * label - 10.0) + torch.randn(8000, generator=generator)
    x0 = torch.randn(8000, generator=generator)
    right = label == 1

    def sorting(noise, data):
        """Exact in one dimension, and fast."""
        return noise.sort().values[data.argsort().argsort()]

    assert sorting(x0, x1)[right].mean().item() == pytest.approx(math.sqrt(2 / math.pi), abs=0.05)
    within = within_labels(sorting, x0, x1, label)
    assert abs(within[right].mean().item()) < 4 * 0.016


@pytest.mark.parametrize("m", [3, 5])
def test_costs_of_all_pairs(event, m, generator):
    """Row i is noise i, column j data j; in double precision also for float32."""
    x0, x1 = pair(5, event, generator)
    x0, x1 = x0[:3].requires_grad_(), x1[:m]
    expected = [[(p - q).square().sum().item() for q in x1] for p in x0]
    torch.testing.assert_close(squared_distances(x0, x1), torch.tensor(expected, dtype=DOUBLE))
    low = squared_distances(x0.float(), x1.float())
    assert low.dtype == DOUBLE and not low.requires_grad
    high = squared_distances(x0.float().double(), x1.float().double())
    assert torch.equal(low, high)


@pytest.mark.parametrize(
    "plan, solver", [(sinkhorn_kernel, ot.sinkhorn), (sinkhorn_log, ot.bregman.sinkhorn_log)]
)
@pytest.mark.parametrize("n, m", [(1, 1), (5, 5), (4, 7), (7, 4), (1, 3), (3, 1)])
@pytest.mark.parametrize("iterations", [1, 2, 50])
def test_plan_against_pot(plan, solver, n, m, iterations, generator):
    """The same iterations, unfinished ones too: rows first, columns last."""
    cost = costs(n, m, generator)
    expected = pot(solver, cost, 0.4, iterations)
    torch.testing.assert_close(plan(cost, 0.4, iterations), expected, rtol=1e-11, atol=1e-14)


@every_plan
@pytest.mark.parametrize("n, m", [(6, 6), (4, 9), (9, 4)])
def test_marginals(plan, n, m, generator):
    """Columns are exact after any iteration, rows after many."""
    cost = costs(n, m, generator)
    first, last = plan(cost, 0.5, 1), plan(cost, 0.5, 500)
    columns, thin = torch.full((m,), 1 / m, dtype=DOUBLE), torch.full((n,), 1 / n, dtype=DOUBLE)
    for result in (first, last):
        torch.testing.assert_close(result.sum(dim=0), columns, rtol=1e-13, atol=0)
        assert bool((result > 0).all())
    assert (first.sum(dim=1) - thin).abs().max() > 1e-3
    torch.testing.assert_close(last.sum(dim=1), thin, rtol=1e-10, atol=0)


@every_plan
def test_plan_of_two_by_hand(plan):
    """Staying is free and swapping costs c: P = ½ [[p, 1 − p], [1 − p, p]], p = 1/(1 + e^(−c/ε)).

    By symmetry one iteration is enough.
    """
    cost = torch.tensor([[0.0, 3.0], [3.0, 0.0]], dtype=DOUBLE)
    stay = 0.5 / (1 + math.exp(-3 / 0.7))
    expected = torch.tensor([[stay, 0.5 - stay], [0.5 - stay, stay]], dtype=DOUBLE)
    torch.testing.assert_close(plan(cost, 0.7, 1), expected, rtol=1e-13, atol=0)


@every_plan
def test_no_move_along_the_constraints_lowers_the_objective(plan, generator):
    """Σ P·cost + ε Σ P log P has at the plan a gradient of the form f_i + g_j, by autograd.

    That is zero once its means over rows and columns are taken off.
    """
    cost, epsilon = costs(4, 6, generator), 0.6
    result = plan(cost, epsilon, 500).requires_grad_()
    objective = (result * cost).sum() + epsilon * (result * result.log()).sum()
    (slope,) = torch.autograd.grad(objective, result)
    rest = slope - slope.mean(dim=0) - slope.mean(dim=1, keepdim=True) + slope.mean()
    # log P is down to −30 and is rounded to 1e-14
    torch.testing.assert_close(rest, torch.zeros_like(rest), rtol=0, atol=1e-11)


@every_plan
def test_much_regularisation_gives_the_product(plan, generator):
    """P = 1/(NM) (1 + O(cost/ε))."""
    cost = costs(4, 6, generator)
    product = torch.full((4, 6), 1 / 24, dtype=DOUBLE)
    far, near = ((plan(cost, epsilon, 20) - product).abs().max() for epsilon in (1e4, 1e5))
    assert far < 1e-2 / 24
    # to first order a tenth of the distance, and the next order is cost/ε = 1e-3
    assert near.item() == pytest.approx(far.item() / 10, rel=1e-2)


def test_little_regularisation_gives_exact_transport(generator):
    """Square: a permutation matrix over N. Not square: the vertex that the simplex method finds."""
    for n, m in [(6, 6), (3, 6)]:
        cost = costs(n, m, generator)
        exact = torch.from_numpy(ot.emd([], [], cost.numpy()))
        plan = sinkhorn_log(cost, 0.02, 1000)
        # for small ε the iterations close in like 1 over their number; entries are 0.17
        torch.testing.assert_close(plan, exact, rtol=0, atol=2e-3)


@pytest.mark.parametrize("n, m", [(5, 5), (4, 7), (30, 20)])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 10.0])
def test_kernel_and_logarithms_agree(n, m, epsilon, generator):
    """In double precision. Logarithms are off by 1e-16 · cost/ε, here up to 2e-14."""
    cost = costs(n, m, generator)
    torch.testing.assert_close(
        sinkhorn_kernel(cost, epsilon, 30), sinkhorn_log(cost, epsilon, 30), rtol=1e-11, atol=1e-14
    )


@every_plan
def test_plan_of_float32(plan, generator):
    """Of its own type; float64's plan to 100 roundings of 1e-7 times cost/ε of 20."""
    cost = costs(5, 7, generator)
    low = plan(cost.float(), 1.0, 30)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), plan(cost, 1.0, 30), rtol=1e-5, atol=1e-7)


FAR_ROW = torch.tensor([[1.0, 2.0], [1001.0, 1000.0]], dtype=DOUBLE)
# e^(−720) is not zero, but the inverse of a row's sum overflows
BARELY_FAR_ROW = torch.tensor([[1.0, 2.0], [721.0, 720.0]], dtype=DOUBLE)


@pytest.mark.parametrize("cost", [FAR_ROW, FAR_ROW.T, BARELY_FAR_ROW], ids=["row", "column", "inf"])
@pytest.mark.parametrize("iterations", [1, 5])
def test_underflow_stops_the_kernel_and_not_the_logarithms(cost, iterations):
    """A constant beside a row or column changes no plan: it is that of costs 1, 2, 1, 0."""
    with pytest.raises(FloatingPointError, match=r"ε = 1 and costs go up to .*use sinkhorn_log"):
        sinkhorn_kernel(cost, 1.0, iterations)
    near = cost - cost.min(dim=1, keepdim=True).values
    near = near - near.min(dim=0).values
    # near is 1 off the diagonal at most, so both iterations end at the same plan
    converged = sinkhorn_kernel(near, 1.0, 60)
    torch.testing.assert_close(sinkhorn_log(cost, 1.0, 60), converged, rtol=1e-11, atol=0)


def test_far_noise_is_paired_too(generator):
    """Relative ε = 1e-4: costs up to 1e5 ε, at which the kernel underflows."""
    x0, x1 = pair(12, (2,), generator)
    with pytest.raises(FloatingPointError, match="underflows"):
        cost = squared_distances(x0, x1)
        sinkhorn_kernel(cost, 1e-4 * cost.mean().item(), 10)
    with pytest.warns(ConvergenceWarning):
        assert rows(sinkhorn(x0, x1, 1e-4, 50)) == rows(x0)


HUGE = torch.full((2, 2), 1e300, dtype=DOUBLE)


@every_plan
@pytest.mark.parametrize(
    "cost, epsilon, iterations, error, match",
    [
        (torch.ones(2, 2), 0.0, 5, ValueError, r"epsilon is 0.0; .* in \(0, ∞\)"),
        (torch.ones(2, 2), -1.0, 5, ValueError, "epsilon is -1.0"),
        (torch.ones(2, 2), math.nan, 5, ValueError, "epsilon is nan"),
        (torch.ones(2, 2), math.inf, 5, ValueError, "epsilon is inf"),
        (torch.ones(2, 2), "1", 5, TypeError, "epsilon is '1'; pass a number"),
        (torch.ones(2, 2), torch.tensor(1.0), 5, TypeError, "epsilon is tensor"),
        (torch.ones(2, 2), 1.0, 0, ValueError, "iterations is 0; it must be at least 1"),
        (torch.ones(2, 2), 1.0, 2.0, TypeError, "iterations is 2.0; pass a whole number"),
        (torch.ones(2, 2), 1.0, True, TypeError, "iterations is True"),
        (torch.ones(2), 1.0, 5, ValueError, r"cost has shape \(2,\); pass a matrix \(N, M\)"),
        (torch.ones(1, 2, 2), 1.0, 5, ValueError, r"cost has shape \(1, 2, 2\)"),
        (torch.ones(0, 2), 1.0, 5, ValueError, r"cost has shape \(0, 2\)"),
        (torch.ones(2, 2).long(), 1.0, 5, TypeError, "32 or 64 bits, not torch.int64"),
        (torch.ones(2, 2).half(), 1.0, 5, TypeError, "32 or 64 bits, not torch.float16"),
        ([[1.0]], 1.0, 5, TypeError, "cost must be a floating-point tensor .*, not list"),
        (torch.tensor([[1.0, math.nan]]), 1.0, 5, ValueError, "cost / epsilon is not finite"),
        (torch.tensor([[1.0, math.inf]]), 1.0, 5, ValueError, "cost / epsilon is not finite"),
        (HUGE, 1e-10, 5, ValueError, "take a larger epsilon than 1e-10"),
    ],
)
def test_wrong_costs_and_parameters_are_refused(plan, cost, epsilon, iterations, error, match):
    with pytest.raises(error, match=match):
        plan(cost, epsilon, iterations)


@every_plan
def test_costs_may_be_negative(plan, generator):
    """A constant beside all of them changes nothing."""
    cost = costs(4, 5, generator)
    torch.testing.assert_close(plan(cost - 9, 0.5, 20), plan(cost, 0.5, 20), rtol=1e-11, atol=0)


@pytest.mark.parametrize(
    "epsilon, iterations, error, match",
    [
        (0.0, 5, ValueError, "relative_epsilon is 0.0"),
        (math.nan, 5, ValueError, "relative_epsilon is nan"),
        (None, 5, TypeError, "relative_epsilon is None"),
        (0.1, 0, ValueError, "iterations is 0"),
        (0.1, 2.5, TypeError, "iterations is 2.5"),
        (1e-320, 5, ValueError, "cost / epsilon is not finite"),
    ],
)
def test_sinkhorn_refuses_wrong_parameters(epsilon, iterations, error, match, generator):
    with pytest.raises(error, match=match):
        sinkhorn(*pair(3, (2,), generator), epsilon, iterations)


def labelled(x0, x1):
    return within_labels(exact_ot, x0, x1, torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("coupling", [*COUPLINGS, labelled])
def test_wrong_batches_are_refused(coupling):
    x = torch.zeros(3, 3)
    with pytest.raises(ValueError, match=r"x0 has shape \(3, 3\) and x1 has shape \(3, 2\)"):
        coupling(x, torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"x0 has shape \(2, 3\) and x1 has shape \(3, 3\)"):
        coupling(x[:2], x)
    with pytest.raises(ValueError, match="x0 and x1 have no rows"):
        coupling(x[:0], x[:0])
    with pytest.raises(TypeError, match="x1 has dtype torch.int64"):
        coupling(x, x.long())
    with pytest.raises(TypeError, match="x0 is a list"):
        coupling([[0.0]], x)
    with pytest.raises(ValueError, match="x0 has no batch dimension"):
        coupling(torch.tensor(0.0), torch.tensor(0.0))


@pytest.mark.parametrize("coupling", [exact_ot, sinkhorn, labelled])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_batches_that_are_not_finite_are_refused(coupling, value):
    x, wrong = torch.ones(3, 2), torch.ones(3, 2)
    wrong[1, 0] = value
    for arguments in ((x, wrong), (wrong, x)):
        with pytest.raises(ValueError, match="a cost is not finite: look for NaN or infinity"):
            coupling(*arguments)


@pytest.mark.parametrize(
    "label, error, match",
    [
        (torch.zeros(2).long(), ValueError, r"label has shape \(2,\); pass \(3,\)"),
        (torch.zeros(3, 1).long(), ValueError, r"label has shape \(3, 1\); pass \(3,\)"),
        (torch.tensor(0), ValueError, r"label has shape \(\); pass \(3,\)"),
        (torch.zeros(3), TypeError, r"not integers; convert it with label.long\(\)"),
        (torch.tensor([0.0, math.nan, 0.0]), TypeError, "label has dtype torch.float32"),
        (torch.zeros(3, dtype=torch.bool), TypeError, "label has dtype torch.bool"),
        (torch.zeros(3, dtype=torch.complex64), TypeError, "label has dtype torch.complex64"),
        ([0, 1, 0], TypeError, "label is a list; pass a (dense )?tensor of integers"),
        (torch.zeros(3, device="meta").long(), ValueError, "label is on meta and x1 on cpu"),
    ],
)
def test_wrong_labels_are_refused(label, error, match):
    with pytest.raises(error, match=match):
        within_labels(independent, torch.zeros(3, 3), torch.zeros(3, 3), label)


@pytest.mark.parametrize(
    "coupling, error, match",
    [
        (lambda x0, x1: x0[:1], ValueError, r"returned shape \(1, 2\) for x0 of shape \(3, 2\)"),
        (lambda x0, x1: x0[0], ValueError, r"returned shape \(2,\)"),
        (lambda x0, x1: x0.double(), TypeError, "returned torch.float64 for x0 of torch.float32"),
        (lambda x0, x1: (x0, x1), TypeError, "returned tuple"),
    ],
)
def test_a_coupling_that_returns_something_else_is_refused(coupling, error, match):
    with pytest.raises(error, match=match):
        within_labels(coupling, torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3).long())
