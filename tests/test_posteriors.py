"""Posteriors of tokens against Bayes' rule by loops, and their losses against entropies."""

import itertools
import math

import pytest
import torch
from test_discrete import PATHS, distance, double, exact_for, law_for, patient, pushed

from fmtutorial.discrete import (
    Denoiser,
    ExactRate,
    all_states,
    denoising_loss,
    guided_posterior,
    likelihood_bound,
    masking_path,
    one_hot,
    uniform_path,
)
from fmtutorial.paths import COSINE

DOUBLE = torch.float64
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def by_hand(path, law, x, t):
    """Bayes' rule with loops: the posterior of each position, and p_t(x)."""
    alpha, source = path.schedule.alpha(double(t)).item(), path.noise(law).tolist()
    found, total = torch.zeros(len(x), path.size, dtype=DOUBLE), 0.0
    for x1 in itertools.product(range(path.size), repeat=len(x)):
        weight = law[x1].item()
        for a, b in zip(x, x1, strict=True):
            weight *= (1 - alpha) * source[a] + alpha * (a == b)
        total += weight
        for i, a in enumerate(x1):
            found[i, a] += weight
    return found / total, total


@every_path
def test_posterior_and_marginal_by_loops(path):
    exact, states = exact_for(path), all_states(path.size, 3)
    for t in (0.2, 0.7):
        times = torch.full((len(states),), t, dtype=DOUBLE)
        posterior, log_p = exact.posterior(states, times), exact.log_prob(states, times)
        entropy, table = exact.target_entropy(states, times), exact.law_at(times[:1])
        for b, x in enumerate(states.tolist()):
            expected, total = by_hand(path, exact.law, x, t)
            torch.testing.assert_close(posterior[b], expected, rtol=1e-10, atol=1e-14)
            assert log_p[b].exp().item() == pytest.approx(total)
            assert table[0][tuple(x)].item() == pytest.approx(total)
            held = -(expected[expected > 0] * expected[expected > 0].log()).sum().item()
            assert entropy[b].item() == pytest.approx(held, abs=1e-12)


def test_every_sample_has_its_own_time(event):
    """Positions (3,) and three samples; also one position, with and without a dimension."""
    if math.prod(event) > 4:
        event = (1, 2, 2)
    path = uniform_path(2)
    exact = ExactRate(path, law_for(path, math.prod(event)))
    x = torch.randint(2, (3, *event), generator=torch.Generator().manual_seed(1))
    t = double([0.1, 0.5, 0.9])
    rates = exact(x, t)
    assert rates.shape == (3, *event, 2)
    for b in range(3):
        expected, _ = by_hand(path, exact.law, x[b].flatten().tolist(), t[b].item())
        expected = path.hazard(t[b : b + 1]) * (
            expected - one_hot(x[b].reshape(-1), t.new_empty(2))
        )
        torch.testing.assert_close(rates[b].reshape(-1, 2), expected)


@every_path
def test_the_path_leads_from_noise_to_the_law(path):
    exact = exact_for(path, 2)
    ends = exact.law_at(double([0.0, 1.0]))
    noise = path.noise(exact.law)
    torch.testing.assert_close(ends[0], noise[:, None] * noise, atol=1e-15, rtol=1e-12)
    torch.testing.assert_close(ends[1], exact.law)


def test_what_is_never_seen_has_no_posterior():
    exact = exact_for(masking_path(2), 2)
    x = torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match=r"never shows \[0, 1\]"):
        exact.posterior(x, torch.zeros(1))
    assert exact.log_prob(x, torch.zeros(1)).item() == -math.inf
    with pytest.raises(ValueError, match=r"outside \[0, 1\)"):
        exact(x, torch.ones(1))


@pytest.mark.parametrize(
    "law, said",
    [
        (torch.full((3, 3), 0.2), "does not sum to 1"),
        (torch.full((3, 3), 1 / 9), "which is the mask"),
        (torch.full((2, 2), 1 / 4), "path has 3 tokens"),
        (torch.tensor([[2.0, -1, 0], [0, 0, 0], [0, 0, 0]]), "negative entry"),
        (torch.full((3, 3), math.nan), "does not sum to 1"),
        (torch.tensor(1.0), "path has 3 tokens"),
    ],
)
def test_laws_that_are_none_are_refused(law, said):
    with pytest.raises(ValueError, match=said):
        ExactRate(masking_path(2), law)


# Losses


def data_of(exact, n, generator):
    states = all_states(exact.path.size, exact.law.ndim)
    return states[torch.multinomial(exact.law.flatten(), n, True, generator=generator)]


@pytest.mark.parametrize("name", ["masks", "uniform", "uniform, cosine"])
def test_the_floor_of_the_loss_is_the_entropy_of_the_posterior(name, generator):
    """By 100 000 samples at one time; another posterior lies above it by its divergence."""
    exact, n = exact_for(PATHS[name], 2), 100_000
    x1, t = data_of(exact, n, generator), torch.full((n,), 0.4, dtype=DOUBLE)
    states = all_states(exact.path.size, 2)
    p = exact.law_at(t[:1]).flatten()
    p_hat = exact.posterior(states, t[: len(states)])
    floor = p @ exact.target_entropy(states, t[: len(states)])
    found = denoising_loss(Denoiser(exact.log_posterior, exact.path), x1, t, generator)
    # the loss of a sequence deviates by less than 1.5: four standard errors
    assert abs(found - floor).item() < 4 * 1.5 / math.sqrt(n)
    flat = Denoiser(lambda x, t: torch.zeros(*x.shape, exact.path.size), exact.path)
    worse = denoising_loss(flat, x1, t.float(), generator)
    q_hat = flat(states, t[: len(states)]).double()
    kl = torch.where(p_hat > 0, p_hat * (p_hat / q_hat).log(), 0).sum((1, 2))
    assert abs(worse - floor - p @ kl).item() < 4 * 1.5 / math.sqrt(n)


def mean_bound(exact, x1, generator, n=40_000):
    model = Denoiser(exact.log_posterior, exact.path)
    t = torch.rand(n, generator=generator, dtype=DOUBLE) * 0.999
    terms = likelihood_bound(model, x1.expand(n, -1), t, generator)
    return terms.mean().item(), 4 * terms.std().item() / math.sqrt(n)


@pytest.mark.parametrize("schedule", ["masks", "masks, cosine"])
def test_with_masks_the_bound_is_the_likelihood(schedule, generator):
    """Of every sequence, under the law of the posteriors, whatever the schedule."""
    exact = exact_for(PATHS[schedule], 2)
    for x1 in all_states(2, 2):
        found, error = mean_bound(exact, x1, generator)
        assert found == pytest.approx(-exact.law[tuple(x1)].log().item(), abs=error + 0.01)


def test_with_other_noise_the_bound_is_above(generator):
    """For one of two tokens by quadrature of the same expectation, written out."""
    exact = exact_for(uniform_path(2), 1)
    p, t = exact.law, torch.linspace(0, 1, 20_001, dtype=DOUBLE)[:-1] + 2.5e-5
    for x1 in (0, 1):
        same, other = (1 + t) / 2, (1 - t) / 2  # probabilities of x_t = x₁ and of the other
        stays = p[x1] * same / (p[x1] * same + p[1 - x1] * other)  # p̂(x₁) at x_t = x₁
        moves = p[x1] * other / (p[x1] * other + p[1 - x1] * same)  # p̂(x₁) at the other
        terms = (same * (1 - stays) - other * moves.log()) / (1 - t)
        # the other's two terms besides, 1 − p̂(x_t) − 1, with p̂(x_t) = 1 − p̂(x₁)
        terms = terms + other * (-(1 - moves)) / (1 - t)
        found, error = mean_bound(exact, torch.tensor([x1]), generator)
        assert found == pytest.approx(terms.mean().item(), abs=error + 0.01)
        assert terms.mean() > -p[x1].log() + 0.01


@every_path
def test_terms_of_the_bound_by_hand(path, generator):
    """The rates of leaving and the logarithm of two rates, position by position."""
    exact, x1 = exact_for(path, 2), torch.randint(2, (40, 2), generator=generator)
    t = torch.rand(40, generator=generator, dtype=DOUBLE) * 0.9
    x = path.sample(x1, t, generator.manual_seed(1))
    model = Denoiser(exact.log_posterior, path)
    found = likelihood_bound(model, x1, t, generator.manual_seed(1))
    ours, wanted = exact(x, t), path.conditional_rate(x, x1, t)
    for b in range(40):
        total = 0.0
        for i, a in itertools.product(range(2), range(path.size)):
            if a != x[b, i]:
                r, q = ours[b, i, a].item(), wanted[b, i, a].item()
                total += r - q + (q * math.log(q / r) if q > 0 else 0.0)
        assert found[b].item() == pytest.approx(total, rel=1e-9, abs=1e-9)
    assert (x == x1).any() and (x != x1).any()


def test_losses_of_a_network(event, generator):
    """They have gradients, and the mean over a batch is that over its rows."""
    weight = torch.randn(4, 4, generator=generator, requires_grad=True)
    path = masking_path(3, COSINE)
    model = Denoiser(lambda x, t: weight[x] * (1 + t.reshape(-1, *[1] * x.ndim)), path)
    x1, t = torch.randint(3, (3, *event), generator=generator), torch.zeros(3)
    loss = denoising_loss(model, x1, t)  # at t = 0 all is masked: nothing is drawn
    by_row = [denoising_loss(model, x1[b : b + 1], t[b : b + 1]) for b in range(3)]
    torch.testing.assert_close(loss, torch.stack(by_row).mean())
    terms = likelihood_bound(model, x1, t)
    assert terms.shape == (3,)
    # ν_0 = π/2 for the cosine schedule
    torch.testing.assert_close(terms.mean(), loss * math.pi / 2)
    loss.backward()
    assert weight.grad.abs().max() > 0
    with pytest.raises(ValueError, match="no sequences"):
        denoising_loss(model, x1[:0], t[:0])


# Guidance


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_guidance_tilts_the_law_of_one_masked_token(scale):
    path = masking_path(3)
    plain, labelled = exact_for(path, 1), ExactRate(path, law_for(path, 1, seed=1))
    guided = guided_posterior(patient(plain), patient(labelled), scale)
    for n in (1, 4):
        grid = torch.linspace(0, 1, n + 1, dtype=DOUBLE)
        found = pushed(plain, lambda *at: path.step(guided, *at), grid)
        expected = plain.law[:3] ** (1 - scale) * labelled.law[:3] ** scale
        torch.testing.assert_close(found[:3], expected / expected.sum())
    assert distance(plain.law, labelled.law) > 0.05


def test_guidance_cannot_divide_by_nothing():
    one, two = double([[1.0, 0.0]]), double([[0.5, 0.5]])
    x, t = torch.zeros(1, dtype=torch.int64), torch.zeros(1)
    with pytest.raises(ValueError, match="0 at a token"):
        guided_posterior(lambda x, t: one, lambda x, t: two, 2.0)(x, t)
    for scale, expected in ((0.0, two), (0.5, one), (1.0, one), (2.0, one)):
        found = guided_posterior(lambda x, t: two, lambda x, t: one, scale)(x, t)
        torch.testing.assert_close(found, expected)
    three = double([[0.2, 0.3, 0.5]])
    with pytest.raises(ValueError, match="posterior has 3 tokens, conditional 2"):
        guided_posterior(lambda x, t: three, lambda x, t: one, 2.0)(x, t)
