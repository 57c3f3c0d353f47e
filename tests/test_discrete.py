"""Paths of tokens against Kolmogorov's equation, enumeration, and closed forms of small laws."""

from functools import partial

import pytest
import torch
from scipy.stats import chisquare
from test_chains import fits

from fmtutorial.discrete import (
    ExactRate,
    TokenPath,
    all_states,
    check_rates,
    euler_step,
    gillespie,
    leap_step,
    masking_path,
    one_hot,
    rate_matrix,
    step_matrix,
    uniform_path,
)
from fmtutorial.paths import COSINE, LINEAR, SQRT
from fmtutorial.solvers import rk4, solve

DOUBLE = torch.float64
PATHS = {
    "masks": masking_path(2),
    "uniform": uniform_path(3),
    "own noise": TokenPath(torch.tensor([0.5, 0.2, 0.3])),
    "masks, cosine": masking_path(2, COSINE),
    "uniform, cosine": uniform_path(3, COSINE),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


def law_for(path, positions=3, seed=0):
    """A law on sequences of data tokens, with dependence and no zero."""
    data = path.size - (path.mask is not None)
    table = 0.1 + torch.rand(
        [data] * positions, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE
    )
    padded = torch.zeros([path.size] * positions, dtype=DOUBLE)
    padded[(slice(data),) * positions] = table / table.sum()
    return padded


def exact_for(path, positions=3):
    return ExactRate(path, law_for(path, positions))


def everywhere(exact, t, what="__call__"):
    """Every state with the rates or posteriors there, at one time inside (0, 1)."""
    states = all_states(exact.path.size, exact.law.ndim)
    return states, getattr(exact, what)(states, torch.full((len(states),), t, dtype=DOUBLE))


def pushed(exact, step, grid):
    """The law of a simulation: all states' probability through the matrices of its steps."""
    p = exact.law_at(grid[:1]).flatten()
    states = all_states(exact.path.size, exact.law.ndim)
    for t, end in zip(grid[:-1], grid[1:], strict=True):
        p = p @ step_matrix(step(states, t.expand(len(states)), end.expand(len(states))))
    return p


def distance(p, q):
    return 0.5 * (p.flatten() - q.flatten()).abs().sum().item()


# Paths


@every_path
def test_samples_are_noise_or_data(path, generator):
    """By chi-square, for two data tokens and two times in one batch."""
    x1, t = double([0, 1] * 4000).long(), double([0.3, 0.8] * 4000)
    x = path.sample(x1, t, generator)
    for b in range(2):
        alpha = path.schedule.alpha(t[b])
        law = (1 - alpha) * path.noise(t) + alpha * one_hot(x1[b : b + 1], path.noise(t))[0]
        seen = torch.bincount(x[b::2], minlength=path.size)
        kept = law > 0
        assert not seen[~kept].any()
        assert chisquare(seen[kept].numpy(), (4000 * law[kept]).numpy()).pvalue > 1e-3


def test_samples_at_the_ends_and_of_any_event(event, generator):
    x1 = torch.randint(3, (3, *event), generator=generator)
    path = masking_path(3)
    assert torch.equal(path.sample(x1, torch.ones(3), generator), x1)
    assert (path.sample(x1, torch.zeros(3), generator) == 3).all()
    half = path.sample(x1, torch.tensor([0.0, 1.0, 0.0]), generator)
    assert torch.equal(half[1], x1[1]) and (half[[0, 2]] == 3).all()


@pytest.mark.parametrize("schedule", [LINEAR, COSINE, SQRT], ids=repr)
def test_hazard_is_the_derivative_of_a_logarithm(schedule):
    t = double([0.1, 0.5, 0.9]).requires_grad_()
    (slope,) = torch.autograd.grad(-(1 - schedule.alpha(t)).log().sum(), t)
    torch.testing.assert_close(masking_path(2, schedule).hazard(t), slope)
    for path in (masking_path(2, schedule), uniform_path(2, schedule)):
        with pytest.raises(ValueError, match=r"outside \[0, 1\)"):
            path.hazard(torch.ones(1))


@every_path
def test_conditional_rates_generate_the_conditional_path(path):
    """For one token: p R = dp/dt, with the derivative by autograd."""
    tokens = torch.arange(path.size)
    for x1 in (0, 1):
        t = double(0.37)
        target = one_hot(torch.tensor([x1]), t.new_empty(path.size))[0]

        def law(t, target=target):
            alpha = path.schedule.alpha(t)
            return (1 - alpha) * path.noise(target) + alpha * target

        p, p_dot = torch.func.jvp(law, (t,), (torch.ones_like(t),))
        data, times = torch.full_like(tokens, x1), t.expand(path.size)
        rates = path.conditional_rate(tokens, data, times)
        torch.testing.assert_close(p @ rates, p_dot, rtol=0, atol=1e-14)
        assert (rates * (1 - one_hot(tokens, rates))).min() >= 0


@every_path
def test_kolmogorovs_equation_gives_the_marginals(path):
    """From the law at 0.05 to that at 0.9, by rk4 with the matrix of the exact rates."""
    exact = exact_for(path)
    grid = torch.linspace(0.05, 0.9, 171, dtype=DOUBLE)

    def field(p, t):
        return p @ rate_matrix(everywhere(exact, t[0].item())[1])

    p = solve(field, exact.law_at(grid[:1]).flatten(1), grid, rk4).last
    # of order 4: (h ν)⁴ with h = 0.005 and ν up to 20 for cosine, in few steps
    torch.testing.assert_close(p, exact.law_at(grid[-1:]).flatten(1), rtol=0, atol=1e-8)


@every_path
def test_correctors_keep_the_law_in_detailed_balance(path):
    """p(x) Q(x, y) = p(y) Q(y, x); and they do jump."""
    exact = exact_for(path)
    states, posterior = everywhere(exact, 0.6, "posterior")
    rates = path.corrector_rate(posterior, states, torch.full((len(states),), 0.6, dtype=DOUBLE))
    matrix = rate_matrix(rates)
    flow = exact.law_at(double([0.6])).flatten()[:, None] * matrix
    torch.testing.assert_close(flow, flow.T, rtol=0, atol=1e-16)
    assert matrix.diagonal().max() < -0.1


# Steps


def patient(exact):
    """Masks: the posterior does not depend on t, but at t = 0 most states are never seen."""
    return lambda x, t: exact.posterior(x, t.clamp(min=1e-3))


def test_one_masked_token_has_no_error_of_steps():
    """For any schedule and any grid, to t = 1; Euler too on the linear one."""
    for schedule in (LINEAR, COSINE):
        exact = exact_for(masking_path(3, schedule), positions=1)
        for grid in (double([0.0, 1.0]), double([0.0, 0.3, 0.5, 1.0])):
            step = partial(exact.path.step, patient(exact))
            torch.testing.assert_close(pushed(exact, step, grid), exact.law)
    path = masking_path(3)
    exact = exact_for(path, 1)
    rate = lambda x, t: path.rate(patient(exact)(x, t), x, t)  # noqa: E731
    grid = double([0.0, 0.25, 0.75, 1.0])
    torch.testing.assert_close(pushed(exact, partial(euler_step, rate), grid), exact.law)
    left = pushed(exact, partial(leap_step, rate), grid)[path.mask].item()
    assert left == pytest.approx(torch.tensor(-0.25 - 0.5 / 0.75 - 1).exp().item(), abs=1e-6)


@pytest.mark.parametrize("kind", ["euler", "leap", "path"])
def test_steps_of_the_marginal_chain_are_of_order_one(kind):
    for name in ("masks", "uniform", "uniform, cosine"):
        exact = exact_for(PATHS[name], positions=2)
        step = {"euler": partial(euler_step, exact), "leap": partial(leap_step, exact)}.get(
            kind, partial(exact.path.step, exact.posterior)
        )
        errors = []
        for n in (16, 32, 64):
            grid = torch.linspace(0.1, 0.8, n + 1, dtype=DOUBLE)
            errors.append(distance(pushed(exact, step, grid), exact.law_at(grid[-1:])))
        for coarse, fine in zip(errors[:-1], errors[1:], strict=True):
            assert 1.85 < coarse / fine < 2.2, (name, errors)


def test_two_tokens_unmasked_together_are_independent():
    """The law of n even steps is (1 − 1/n) p + (1/n) times the product of its marginals."""
    exact = exact_for(masking_path(3), positions=2)
    product = exact.law.sum(1)[:, None] * exact.law.sum(0)
    for n in (1, 2, 5):
        grid = torch.linspace(0, 1, n + 1, dtype=DOUBLE)
        found = pushed(exact, partial(exact.path.step, patient(exact)), grid)
        expected = (1 - 1 / n) * exact.law + product / n
        torch.testing.assert_close(found, expected.flatten(), rtol=0, atol=1e-14)


def test_a_corrector_in_the_rate_changes_no_marginal():
    """However strong; with many short leaps, whose error is some hundredths of their length."""
    exact, grid = exact_for(uniform_path(3), positions=2), torch.linspace(0, 0.8, 401)

    def rate(x, t):
        posterior = exact.posterior(x, t)
        corrected = exact.path.corrector_rate(posterior, x, t)
        return exact.path.rate(posterior, x, t) + 3 * corrected

    found = pushed(exact, partial(leap_step, rate), grid.double())
    assert distance(found, exact.law_at(double([0.8]))) < 1e-3


def test_a_corrector_mends_a_wrong_law():
    """At a fixed time it leads any law to the path's, by the matrix exponential."""
    exact, t = exact_for(uniform_path(3), positions=2), 0.8
    states, posterior = everywhere(exact, t, "posterior")
    rates = exact.path.corrector_rate(posterior, states, torch.full((9,), t, dtype=DOUBLE))
    p = torch.full((9,), 1 / 9, dtype=DOUBLE) @ torch.matrix_exp(60 * rate_matrix(rates))
    assert distance(p, exact.law_at(double([t]))) < 1e-6


# Bells


@pytest.mark.parametrize(
    "name, start, end",
    [("masks", 0.0, 1.0), ("masks, cosine", 0.2, 0.7), ("uniform, cosine", 0.1, 0.9)],
)
def test_bells_have_the_exact_law(name, start, end, generator):
    exact = exact_for(PATHS[name])
    states = all_states(exact.path.size, 3)
    p0 = exact.law_at(double([start])).flatten()
    x = states[torch.multinomial(p0, 20_000, replacement=True, generator=generator)]
    found = gillespie(exact.posterior, exact.path, x, start, end, generator)
    assert fits(found, exact.law_at(double([end])), exact.path.size) > 1e-3


def test_masks_fall_one_at_a_time_in_every_order(event, generator):
    """As many evaluations as positions; no position is unmasked together with another."""
    path, seen = masking_path(3), []

    def posterior(x, t):
        seen.append((x == 3).flatten(1).sum(1) if event else (x == 3).long())
        allowed = torch.tensor([0.2, 0.3, 0.5, 0.0]).expand(*x.shape, 4)
        return torch.where((x == 3).unsqueeze(-1), allowed, one_hot(x, allowed))

    x = torch.full((3, *event), 3)
    found = gillespie(posterior, path, x, 0.0, 1.0, generator)
    assert found.shape == x.shape and (found < 3).all()
    size = x[0].numel()
    assert [masked.tolist() for masked in seen] == [[size - k] * 3 for k in range(size)]
    assert torch.equal(gillespie(posterior, path, found, 0.5, 1.0, generator), found)


def test_bells_need_an_end_below_one_without_a_mask():
    exact = exact_for(uniform_path(2), positions=2)
    with pytest.raises(ValueError, match=r"end is 1.0; it must be a finite number in \[0, 1\)"):
        gillespie(exact.posterior, exact.path, torch.zeros(1, 2, dtype=torch.int64), 0.0, 1.0)


# Logits


def test_logits_of_a_masked_path_know_what_is_known(event, generator):
    path, x = masking_path(2), torch.randint(3, (3, *event), generator=generator)
    logits = torch.randn(3, *event, 3, generator=generator, dtype=DOUBLE, requires_grad=True)
    found = path.log_posterior(logits, x).exp()
    masked = x == 2
    assert torch.equal(found[~masked], one_hot(x, found)[~masked])
    expected = logits[masked][:, :2].softmax(-1)
    torch.testing.assert_close(found[masked][:, :2], expected)
    assert (found[masked][:, 2] == 0).all()
    torch.testing.assert_close(uniform_path(3).log_posterior(logits, x), logits.log_softmax(-1))


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda: masking_path(0), "tokens is 0"),
        (lambda: uniform_path(1), "tokens is 1"),
        (lambda: TokenPath(torch.tensor([0.5, 0.6])), "sum over the tokens"),
        (lambda: TokenPath(torch.tensor([1.5, -0.5])), "below 0"),
        (lambda: TokenPath(torch.ones(1)), "size is 1"),
        (lambda: masking_path(2).sample(torch.tensor([2]), torch.ones(1)), "is the mask"),
        (lambda: masking_path(2).sample(torch.tensor([3]), torch.ones(1)), "tokens 0 to 2"),
        (lambda: masking_path(2).sample(torch.tensor([1]), torch.tensor([1.5])), "outside"),
    ],
)
def test_what_is_no_path_is_refused_in_words(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@every_path
def test_rates_are_those_of_a_chain_wherever_they_are_large(path):
    """Near t = 1 the rounding of the posterior's sum, times ν, was no longer small."""
    exact, states = exact_for(path), all_states(path.size, 3)
    for near in (1e-2, 1e-4, 1e-6):
        t = torch.full((len(states),), 1 - near, dtype=DOUBLE)
        posterior = exact.posterior(states, t)
        check_rates(path.rate(posterior, states, t), states)
        check_rates(path.corrector_rate(posterior, states, t), states)


@pytest.mark.parametrize("path", [masking_path(2), uniform_path(3)], ids=["masks", "uniform"])
def test_tables_for_another_number_of_tokens_are_refused(path):
    """Also with too many, where nothing would be out of range."""
    x, t = torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1)
    for wrong in (2, 4):
        table = torch.full((1, 2, wrong), 1 / wrong)
        calls = (
            lambda table=table: path.rate(table, x, t),
            lambda table=table: path.corrector_rate(table, x, t),
            lambda table=table: path.step(lambda x, t: table, x, t, t + 0.5),
            lambda table=table: path.log_posterior(table, x),
            lambda table=table: gillespie(lambda x, t: table, path, x + 2, 0.0, 0.99),
        )
        for call in calls:
            with pytest.raises(ValueError, match="tokens"):
                call()


def test_a_step_does_not_start_at_the_end():
    path, one = masking_path(2), torch.ones(1)
    with pytest.raises(ValueError, match=r"outside \[0, 1\)"):
        path.step(lambda x, t: one_hot(x, torch.ones(3)), torch.tensor([0]), one, one)
