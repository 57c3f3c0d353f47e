"""Markov chains on tokens against Kronecker sums, brute force, and the matrix exponential."""

import math
from functools import partial

import pytest
import torch
from scipy.stats import chisquare

from fmtutorial.discrete import (
    all_states,
    check_probabilities,
    check_rates,
    check_tokens,
    draw_tokens,
    euler_step,
    leap_step,
    one_hot,
    rate_matrix,
    simulate,
    step_matrix,
)

DOUBLE = torch.float64
SIZE, PLACES = 3, 2
STATES = all_states(SIZE, PLACES)


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


def random_rates(x, size=SIZE, seed=0):
    """Rates of each position that depend on all the others, the same for the same state."""
    flat = x.reshape(len(x), -1)
    places = flat.shape[1]
    table = torch.rand(
        size**places, places, size, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE
    )
    row = (flat * size ** torch.arange(places - 1, -1, -1)).sum(1)
    leaving = table[row].reshape(*x.shape, size) * (1 - one_hot(x, table))
    return leaving - leaving.sum(-1, keepdim=True) * one_hot(x, table)


def chain(x, t):
    return random_rates(x)


def tokens(event, n=3, size=SIZE, seed=0):
    return torch.randint(size, (n, *event), generator=torch.Generator().manual_seed(seed))


def fits(x, law, size=SIZE):
    """The p-value of samples of sequences under a law on all of them."""
    flat = x.reshape(len(x), -1)
    row = (flat * size ** torch.arange(flat.shape[1] - 1, -1, -1)).sum(1)
    seen = torch.bincount(row, minlength=law.numel())
    assert not seen[law.flatten() == 0].any()
    kept = law.flatten() > 0
    expected = law.flatten()[kept] / law.sum() * len(x)
    return chisquare(seen[kept].numpy(), expected.numpy()).pvalue


# What is a rate


def test_states_are_listed_once_in_the_order_of_a_table():
    assert STATES.tolist() == [[a, b] for a in range(3) for b in range(3)]
    assert all_states(2, 1).tolist() == [[0], [1]]
    with pytest.raises(ValueError, match="20 000"):
        all_states(3, 10)


@pytest.mark.parametrize(
    "rates, said",
    [
        ([[-1.0, 1.5, -0.5]], "-0.5; none is negative"),
        ([[-1.0, 1.5, 0.5]], r"sum to ± 1; put minus"),
        ([[-1.0, 0.501, 0.5]], r"sum to ± 0.00\d*; put minus"),
        ([[1.0, -1.5, 0.5]], "-1.5; none is negative"),  # the entries at the token of another
        ([[-math.inf, 1.0, 0.5]], "not finite"),
        ([[-math.nan, 1.0, 0.5]], "not finite"),
        ([[-2.0, math.inf, 0.5]], "not finite"),
        ([-1.0, 0.5, 0.5], "shape"),
    ],
)
def test_rates_that_are_none_are_refused(rates, said):
    with pytest.raises(ValueError, match=said):
        check_rates(torch.tensor(rates), torch.tensor([0]))


def test_rates_and_laws_may_miss_their_sum_by_rounding():
    x = torch.zeros(1, dtype=torch.int64)
    rates = torch.full((1, 1000), 0.1)
    rates[0, 0] = -99.9
    check_rates(rates, x)
    check_probabilities(torch.full((1, 1000), 1e-3), x)
    with pytest.raises(ValueError, match="sum over the tokens is 1 ± 0.0"):
        check_probabilities(torch.full((1, 1000), 1.01e-3), x)
    with pytest.raises(ValueError, match="below 0"):
        check_probabilities(torch.tensor([[1.5, -0.5]]), x)


def test_tokens_are_whole_numbers_below_the_size():
    for x in (torch.tensor([3]), torch.tensor([-1])):
        with pytest.raises(ValueError, match="tokens 0 to 2"):
            check_tokens(x, 3)
    with pytest.raises(TypeError, match="float32"):
        check_tokens(torch.zeros(3), 3)
    with pytest.raises(ValueError, match="at least 2"):
        check_tokens(torch.zeros(1, dtype=torch.int64), 0)


# Matrices


def test_rates_of_independent_positions_are_a_kronecker_sum():
    """Q ⊗ I + I ⊗ Q, and the matrix of a step is a Kronecker product."""
    single = random_rates(all_states(SIZE, 1))[:, 0]  # (S, S), row: from
    rates, eye = single[STATES], torch.eye(SIZE, dtype=DOUBLE)
    expected = torch.kron(single, eye) + torch.kron(eye, single)
    torch.testing.assert_close(rate_matrix(rates), expected, rtol=0, atol=1e-14)
    step = torch.softmax(single, dim=1)
    torch.testing.assert_close(step_matrix(step[STATES]), torch.kron(step, step))


def test_matrices_by_brute_force():
    """Entry by entry, for rates and laws that depend on the whole state."""
    states, table = all_states(2, 3), random_rates(all_states(2, 3), size=2)
    found, law = rate_matrix(table), torch.softmax(table, dim=-1)
    step = step_matrix(law)
    for i, x in enumerate(states.tolist()):
        for j, y in enumerate(states.tolist()):
            differ = [k for k in range(3) if x[k] != y[k]]
            if not differ:
                rate = sum(table[i, k, x[k]].item() for k in range(3))
            else:
                rate = table[i, differ[0], y[differ[0]]].item() if len(differ) == 1 else 0.0
            assert found[i, j].item() == pytest.approx(rate, abs=1e-14)
            product = math.prod(law[i, k, y[k]].item() for k in range(3))
            assert step[i, j].item() == pytest.approx(product)
    torch.testing.assert_close(found.sum(1), torch.zeros(8, dtype=DOUBLE), rtol=0, atol=1e-14)


# Steps


def test_steps_by_hand():
    """Rates 1 and 3 away from token 0, for a quarter: Euler stays with 0, the leap with 1/e."""
    x, t = torch.zeros(1, dtype=torch.int64), double([0.0])
    rate = lambda x, t: double([[-4.0, 1.0, 3.0]])  # noqa: E731
    euler = euler_step(rate, x, t, t + 0.25)
    leap = leap_step(rate, x, t, t + 0.25)
    torch.testing.assert_close(euler, double([[0.0, 0.25, 0.75]]))
    left = 1 - math.exp(-1)
    torch.testing.assert_close(leap, double([[math.exp(-1), left / 4, left * 3 / 4]]))
    with pytest.raises(ValueError, match="its probability is -0.2"):
        euler_step(rate, x, t, t + 0.3)
    with pytest.raises(ValueError, match="its probability is -0.001"):
        euler_step(rate, x, t, t + 0.25025)
    still = leap_step(lambda x, t: double([[0.0, 0.0, 0.0]]), x, t, t + 0.5)
    assert still.tolist() == [[1.0, 0.0, 0.0]]


@pytest.mark.parametrize("step", [euler_step, leap_step])
def test_steps_are_of_order_one(step):
    """Against the matrix exponential, with no sampling: half the step, half the error."""
    q, p = rate_matrix(chain(STATES, None)), torch.zeros(9, dtype=DOUBLE)
    p[4] = 1.0
    exact, errors = p @ torch.matrix_exp(q), []
    for n in (16, 32, 64):
        zero = torch.zeros(len(STATES), dtype=DOUBLE)
        matrix = step_matrix(step(chain, STATES, zero, zero + 1 / n))
        errors.append((p @ torch.linalg.matrix_power(matrix, n) - exact).abs().sum().item())
    assert errors[0] > 1e-3
    for coarse, fine in zip(errors[:-1], errors[1:], strict=True):
        assert 1.9 < coarse / fine < 2.2


def test_steps_read_the_rates_at_their_start():
    seen = []

    def rate(x, t):
        seen.append(t.tolist())
        return random_rates(x)

    for step in (euler_step, leap_step):
        step(rate, STATES[:2], double([0.25, 0.5]), double([0.5, 0.75]))
    assert seen == [[0.25, 0.5]] * 2
    with pytest.raises(ValueError, match="runs forward"):
        leap_step(rate, STATES[:2], double([0.5, 0.5]), double([0.25, 0.75]))
    with pytest.raises(ValueError, match="outside"):
        euler_step(rate, STATES[:2], double([0.5, 0.5]), double([0.75, 1.25]))


@pytest.mark.parametrize("step", [euler_step, leap_step])
def test_each_sample_has_its_own_time_and_rates(step, event):
    """One row of a batch at a time gives the same as all; (3,) has as many samples as positions."""
    x, t = tokens(event, size=2), double([0.0, 0.3, 0.9])
    end = double([0.1, 0.5, 1.0])

    def rate(x, t):
        few = math.prod(event) <= 8  # else too many states for a table of rates
        rates = random_rates(x, 2) if few else 0.5 - one_hot(x, t.new_empty(2))
        return rates * t.reshape(-1, *[1] * x.ndim)

    found = step(rate, x, t, end)
    assert found.shape == (3, *event, 2)
    for b in range(3):
        alone = step(rate, x[b : b + 1], t[b : b + 1], end[b : b + 1])
        torch.testing.assert_close(found[b : b + 1], alone)


# Draws


def test_draws_have_the_given_frequencies(generator):
    weights = double([2.0, 0.0, 1.0, 0.0, 3.0, 0.0])
    drawn = draw_tokens(weights.expand(6000, 6), generator)
    seen = torch.bincount(drawn, minlength=6)
    assert seen[[1, 3, 5]].tolist() == [0, 0, 0]
    assert chisquare(seen[[0, 2, 4]].numpy(), [2000, 1000, 3000]).pvalue > 1e-3


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_draws_at_the_ends_have_positive_probability(uniform, monkeypatch):
    monkeypatch.setattr("torch.rand", lambda shape, **options: torch.full(shape, uniform))
    for dtype in (torch.float32, DOUBLE):
        weights = torch.tensor([0.0, 0.1, 0.7, 0.1, 0.0], dtype=dtype)
        assert draw_tokens(weights).item() == (1 if uniform == 0 else 3)


def test_simulation_has_the_law_of_its_matrices(generator):
    """Three unequal steps with rates that grow with time, by chi-square over nine states."""
    rate = lambda x, t: random_rates(x) * t[:, None, None]  # noqa: E731
    grid = double([0.0, 0.2, 0.7, 1.0])
    law = torch.zeros(9, dtype=DOUBLE)
    law[5] = 1.0
    for t, end in zip(grid[:-1], grid[1:], strict=True):
        law = law @ step_matrix(leap_step(rate, STATES, t.expand(9), end.expand(9)))
    x = STATES[5].expand(20_000, 2)
    found = simulate(partial(leap_step, rate), x, grid, generator)
    assert fits(found, law) > 1e-3
    again = simulate(partial(leap_step, rate), x, grid, generator.manual_seed(0))
    assert torch.equal(found, again)


def test_simulation_keeps_shapes_and_runs_forward_only(event, generator):
    rate = lambda x, t: 0.5 - one_hot(x, t.new_empty(2))  # noqa: E731
    x = tokens(event, size=2)
    found = simulate(partial(euler_step, rate), x, torch.linspace(0, 1, 3), generator)
    assert found.shape == x.shape and found.dtype == torch.int64
    with pytest.raises(ValueError, match="runs forward"):
        simulate(partial(euler_step, rate), x, torch.linspace(1, 0, 3))
    with pytest.raises(ValueError, match="sum over the tokens"):
        simulate(lambda x, t, end: 0 * one_hot(x, t.new_empty(2)), x, torch.linspace(0, 1, 3))
