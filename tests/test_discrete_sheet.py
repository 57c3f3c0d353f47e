"""The answers of the sheet "Discrete" against other truths, and other ways of writing them."""

import math

import numpy
import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from fmtutorial.coursework import discrete
from fmtutorial.coursework.catalogue import EXERCISES
from fmtutorial.coursework.checking import judge, outcomes

SIZE = 3
STATES = torch.cartesian_prod(torch.arange(SIZE), torch.arange(SIZE))


@pytest.fixture
def law(generator):
    """A law of two tokens, which depend on each other."""
    table = torch.rand(SIZE, SIZE, generator=generator, dtype=torch.float64) ** 2 + 0.01
    return table / table.sum()


def reached(t):
    """p_t(x | x1) of one token for uniform noise, x down and x1 across; in plain numbers."""
    return t**2 * torch.eye(SIZE, dtype=torch.float64) + (1 - t**2) / SIZE


def marginal(law, t):
    return torch.einsum("ij,ai,bj->ab", law, reached(t), reached(t))


def sheet_rates(law, t):
    """The sheet's rates in all nine sequences, (9, 2, 3), with the posterior from Bayes' rule."""
    joint = torch.einsum("ij,ai,bj->abij", law, reached(t), reached(t)).reshape(9, SIZE, SIZE)
    joint = joint / joint.sum(dim=(1, 2), keepdim=True)
    posterior = torch.stack([joint.sum(dim=2), joint.sum(dim=1)], dim=1)
    times = torch.full((9,), t, dtype=torch.float64)
    return discrete.marginal_rate(posterior, STATES, times)


def generator_matrix(rates):
    """The rates from each of the nine sequences, down, to each other one, across."""
    matrix = torch.zeros(9, 9, dtype=torch.float64)
    for s, state in enumerate(STATES.tolist()):
        for position in (0, 1):
            for token in range(SIZE):
                other = list(state)
                other[position] = token
                matrix[s, other[0] * SIZE + other[1]] += rates[s, position, token]
    return matrix


@pytest.mark.parametrize("t", [0.2, 0.5, 0.9])
def test_marginal_rate_moves_the_marginal_path(law, t):
    """Kolmogorov's equation for two dependent tokens; the left side is a difference quotient."""
    step = 1e-5
    change = (marginal(law, t + step) - marginal(law, t - step)) / (2 * step)
    flow = marginal(law, t).flatten() @ generator_matrix(sheet_rates(law, t))
    # The square of the step, and rounding over it: some 1e-10
    torch.testing.assert_close(flow.reshape(SIZE, SIZE), change, rtol=0, atol=1e-8)


@pytest.mark.parametrize("event", [(), (2,), (3,), (1, 4, 4)])
def test_marginal_rate_is_a_rate_of_every_position(event, generator):
    x = torch.randint(4, (3, *event), generator=generator)
    posterior = torch.rand(3, *event, 4, generator=generator, dtype=torch.float64)
    posterior = posterior / posterior.sum(dim=-1, keepdim=True)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    found = discrete.marginal_rate(posterior, x, t)
    torch.testing.assert_close(found.sum(dim=-1), torch.zeros(3, *event, dtype=torch.float64))
    for place in numpy.ndindex(3, *event):
        pace = 2 * t[place[0]] / (1 - t[place[0]] ** 2)
        for token in set(range(4)) - {int(x[place])}:
            assert found[place][token].item() == pytest.approx(
                (pace * posterior[place][token]).item(), rel=1e-12
            )


def test_euler_law_is_the_kolmogorov_equation_to_first_order(law):
    """What is left is the chance of two jumps in one step, h² times the product of the rates."""
    rates = sheet_rates(law, 0.5)
    before, matrix = marginal(law, 0.5), generator_matrix(rates)
    first, second = rates.reshape(SIZE, SIZE, 2, SIZE).unbind(dim=2)
    for h in (0.1, 1e-3):
        after = discrete.euler_law(
            before, rates.reshape(SIZE, SIZE, 2, SIZE), torch.tensor(h, dtype=torch.float64)
        )
        assert after.sum().item() == pytest.approx(1, rel=1e-12) and (after >= 0).all()
        one_jump = before + h * (before.flatten() @ matrix).reshape(SIZE, SIZE)
        both = torch.zeros_like(law)
        for s, (a, b) in enumerate(STATES.tolist()):
            both += before.flatten()[s] * first[a, b][:, None] * second[a, b]
        torch.testing.assert_close(after, one_jump + h**2 * both)


def test_euler_law_is_that_of_samples(law):
    """Draws of the step, each token by itself."""
    rates, h = sheet_rates(law, 0.5), torch.tensor(0.2, dtype=torch.float64)
    after = discrete.euler_law(law, rates.reshape(SIZE, SIZE, 2, SIZE), h)
    generator = torch.Generator().manual_seed(1)
    n = 40_000
    start = torch.multinomial(law.flatten(), n, replacement=True, generator=generator)
    chances = one_hot(STATES, SIZE) + h * rates
    ends = torch.stack(
        [torch.multinomial(chances[start, i], 1, generator=generator)[:, 0] for i in (0, 1)]
    )
    shares = torch.bincount(ends[0] * SIZE + ends[1], minlength=9) / n
    # Five standard deviations of a share, of which there are nine
    assert ((shares - after.flatten()).abs() < 5 * (after.flatten() / n).sqrt()).all()


class Filling:
    """The exact model of two masked tokens, or one that never looks at the other token."""

    def __init__(self, law, looks):
        self.law, self.looks = law, looks

    def __call__(self, x, t):
        seen = one_hot(x, SIZE + 1)[..., :SIZE].double()
        seen[x == SIZE] = 1
        other = seen.flip(1) if self.looks else torch.ones_like(seen)
        given = [other[:, 0] @ self.law.T, other[:, 1] @ self.law]
        return torch.stack(given, dim=1).log()


@pytest.mark.parametrize("looks", [True, False])
def test_bound_is_an_entropy_in_the_mean(law, looks):
    """The exact model's is that of the law; all masks and sequences, quadrature over the time."""
    nodes, weights = numpy.polynomial.legendre.leggauss(40)
    bound = 0.0
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        for a, b in STATES.tolist():
            for hidden in [(0, 0), (0, 1), (1, 0), (1, 1)]:
                chance = math.prod(1 - node**2 if one else node**2 for one in hidden)
                u = torch.tensor([hidden], dtype=torch.float64) * (1 - 1e-9)
                one = discrete.likelihood_bound(
                    Filling(law, looks),
                    torch.tensor([[a, b]]),
                    SIZE,
                    u,
                    torch.tensor([node], dtype=torch.float64),
                )
                bound += weight * chance * law[a, b].item() * one.item()
    laws = [law] if looks else [law.sum(dim=0), law.sum(dim=1)]
    entropy = sum(-(p * p.log2()).sum().item() for p in laws)
    # The chance (1 − t²) cancels the pole of the weight: a polynomial is integrated
    assert bound == pytest.approx(entropy / 2, abs=1e-10)


# Other ways of writing the same, as students will.


def by_scatter(posterior, x, t):
    rate = posterior.clone()
    rate.scatter_add_(-1, x[..., None], -torch.ones_like(posterior[..., :1]))
    factor = torch.stack([2 * s / (1 - s * s) for s in t])
    return torch.einsum("b,b...->b...", factor, rate)


def by_the_sum_of_the_others(posterior, x, t):
    kappa, slope = t**2, 2 * t
    factor = (slope / (1 - kappa)).view(-1, *[1] * (posterior.ndim - 1))
    others = factor * posterior * (1 - one_hot(x, posterior.shape[-1]))
    return torch.where(
        one_hot(x, posterior.shape[-1]).bool(), -others.sum(-1, keepdim=True), others
    )


def one_by_one(posterior, x, t):
    rows = []
    for p, tokens, s in zip(posterior, x, t, strict=True):
        now = torch.eye(posterior.shape[-1], dtype=p.dtype)[tokens]
        rows.append((p - now) * 2 * s / (1 - s**2))
    return torch.stack(rows)


def by_loops(law, rate, h):
    after = torch.zeros_like(law)
    for a, b in numpy.ndindex(*law.shape):
        for i, j in numpy.ndindex(*law.shape):
            first = (i == a) + h * rate[a, b, 0, i]
            second = (j == b) + h * rate[a, b, 1, j]
            after[i, j] += law[a, b] * first * second
    return after


def by_clamped_tables(law, rate, h):
    size = len(law)
    states = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    chances = (one_hot(states, size) + h * rate.reshape(-1, 2, size)).clamp(min=0)
    pairs = chances[:, 0, :, None] * chances[:, 1, None, :]
    return (law.reshape(-1, 1, 1) * pairs).sum(dim=0)


def of_hidden_tokens_alone(model, x1, mask, u, t):
    kappa = (t**2).reshape(-1, *[1] * (x1.ndim - 1)).expand(x1.shape)
    x = x1.clone()
    x[u >= kappa] = mask
    hidden = x == mask
    cost = cross_entropy(model(x, t)[hidden], x1[hidden], reduction="none")
    weight = 2 * kappa.sqrt() / (1 - kappa)
    return (weight[hidden] * cost).sum() / x1.numel() / math.log(2)


def sequence_by_sequence(model, x1, mask, u, t):
    time = t.reshape(-1, *[1] * (x1.ndim - 1))
    shown = u < time**2
    q = torch.softmax(model(torch.where(shown, x1, torch.full_like(x1, mask)), t), dim=-1)
    cost = -(q * one_hot(x1, mask)).sum(dim=-1).log2() * ~shown
    costs = cost.reshape(len(x1), -1).mean(dim=1) * 2 * t / ((1 - t) * (1 + t))
    return costs.mean()


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("marginal_rate", by_scatter),
        ("marginal_rate", by_the_sum_of_the_others),
        ("marginal_rate", one_by_one),
        ("euler_law", by_loops),
        ("euler_law", by_clamped_tables),
        ("likelihood_bound", of_hidden_tokens_alone),
        ("likelihood_bound", sequence_by_sequence),
    ],
)
def test_other_ways_of_writing_it_are_right(name, function):
    exercise = EXERCISES[f"discrete.{name}"]
    for seed in range(10):
        verdict = judge(exercise, outcomes(exercise, function, seed), seed)
        assert verdict.status == "right", verdict.text


def said(name, function):
    exercise = EXERCISES[f"discrete.{name}"]
    return judge(exercise, outcomes(exercise, function, 0), 0).text


def test_a_model_is_given_whole_numbers_up_to_the_mask():
    def with_minus_one(model, x1, mask, u, t):
        return model(x1.masked_fill(u > 0.5, -1), t).sum()

    assert "whole numbers from 0 to the mask" in said("likelihood_bound", with_minus_one)


def test_a_diagonal_that_is_overwritten_is_named_in_other_words():
    def overwritten(posterior, x, t):
        factor = (2 * t / (1 - t**2)).reshape(-1, *[1] * x.ndim)
        rate = factor * posterior
        return rate.scatter(-1, x[..., None], -factor.expand(*x.shape, 1))

    assert "Add the posterior's share" in said("marginal_rate", overwritten)
