"""Fields of bridges against sums over pairs, conditioning, autograd, Sinkhorn and quadrature."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.linalg import expm
from test_bridges import DOUBLE, T, double

from fmtutorial.bridges import (
    Bridge,
    ExactBridge,
    drifts,
    gaussian_bridge_cost,
    gaussian_ends,
    independent_ends,
    markovian_ends,
    solve_bridge,
    static_bridge,
)
from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.paths import COSINE, LINEAR, SQRT, AffinePath
from fmtutorial.solvers import rk4, solve


def covariance(size, generator):
    root = torch.randn(size, size, generator=generator, dtype=DOUBLE) / size**0.5
    return root @ root.T + 0.2 * torch.eye(size, dtype=DOUBLE)


def gaussian(event, generator):
    mean = torch.randn(event, generator=generator, dtype=DOUBLE)
    return Gaussian(mean, covariance(math.prod(event), generator))


def mixture(generator, components=2):
    return GaussianMixture(
        torch.randn(components, 2, generator=generator, dtype=DOUBLE),
        torch.stack([covariance(2, generator) for _ in range(components)]),
        torch.linspace(1, 2, components, dtype=DOUBLE).softmax(dim=0),
    )


def states(event, generator):
    return torch.randn(3, *event, generator=generator, dtype=DOUBLE)


def blocks(ends):
    """Return A, C, B of a Gaussian law of ends."""
    d = len(ends.covariance) // 2
    return ends.covariance[:d, :d], ends.covariance[:d, d:], ends.covariance[d:, d:]


# The field


def test_pairs_of_points_by_brute_force(schedule, event, generator):
    """Averages of the conditional fields, by Bayes' rule from their densities."""
    pairs = torch.randn(4, 2, *event, generator=generator, dtype=DOUBLE)
    weights = double([0.1, 0.2, 0.3, 0.4])
    bridge, x = Bridge(0.7, schedule), states(event, generator)
    exact = ExactBridge(bridge, GaussianMixture(pairs, torch.zeros(4, dtype=DOUBLE), weights))
    logits, velocities, scores = [], [], []
    for k in range(4):
        x0, x1 = (pairs[k, end].expand_as(x) for end in (0, 1))
        mean = bridge.sample(x0, x1, T, torch.zeros_like(x)).x_t
        gamma = (0.7 * (T * (1 - T)).sqrt()).reshape(-1, *[1] * len(event)).expand_as(x)
        density = torch.distributions.Normal(mean, gamma).log_prob(x).reshape(3, -1).sum(dim=1)
        logits.append(weights[k].log() + density)
        velocities.append(bridge.conditional_velocity(x, x0, x1, T))
        scores.append(bridge.conditional_score(x, x0, x1, T))
    r = torch.stack(logits).softmax(dim=0).reshape(4, 3, *[1] * len(event))
    v, s = ((r * torch.stack(part)).sum(dim=0) for part in (velocities, scores))
    torch.testing.assert_close(exact(x, T), v, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(exact.score(x, T), s, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(exact.drift(x, T), v + 0.49 / 2 * s, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(exact.log_prob(x, T), torch.stack(logits).logsumexp(dim=0))


def test_gaussian_ends_by_conditioning(event, generator):
    """E[(x₁ − x)/(1 − t) | x_t = x] and E[(x − x₀)/t | x_t = x] from the joint law of all three."""
    d = math.prod(event)
    mean = torch.randn(2, *event, generator=generator, dtype=DOUBLE)
    ends, sigma = Gaussian(mean, covariance(2 * d, generator)), 0.6
    exact, x = ExactBridge(Bridge(sigma), ends), states(event, generator)
    forward, backward = drifts(exact, exact.score, sigma)
    m0, m1 = mean.reshape(2, d)
    a, c, b = blocks(ends)
    one = torch.eye(d, dtype=DOUBLE)
    for k, t in enumerate(T.tolist()):
        total = (1 - t) ** 2 * a + t**2 * b + t * (1 - t) * (c + c.T + sigma**2 * one)
        offset = torch.linalg.inv(total) @ (x[k].reshape(d) - (1 - t) * m0 - t * m1)
        first = m0 + ((1 - t) * a + t * c) @ offset  # Cov(x₀, x_t) = (1 − t) A + t C
        last = m1 + ((1 - t) * c.T + t * b) @ offset
        ahead, behind = (last - x[k].reshape(d)) / (1 - t), (x[k].reshape(d) - first) / t
        for field, expected in ((forward, ahead), (exact.drift, ahead), (backward, behind)):
            found = field(x, T)[k].reshape(d)
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=repr)
def test_independent_mixtures_stay_a_mixture(schedule, generator):
    """The density by PyTorch's own, and the Fokker–Planck equation by autograd."""
    source, target = mixture(generator), mixture(generator, 3)
    bridge = Bridge(0.8, schedule)
    exact, x = ExactBridge(bridge, independent_ends(source, target)), states((2,), generator)
    t = T[1:2]
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    logits = []
    for j in range(2):
        for k in range(3):
            cov = alpha**2 * target.covariances[k] + sigma**2 * source.covariances[j]
            cov = cov + 0.64 * t * (1 - t) * torch.eye(2, dtype=DOUBLE)
            normal = torch.distributions.MultivariateNormal(
                alpha * target.means[k] + sigma * source.means[j], cov
            )
            logits.append(normal.log_prob(x) + source.weights[j].log() + target.weights[k].log())
    expected = torch.stack(logits).logsumexp(dim=0)
    torch.testing.assert_close(exact.log_prob(x, t.expand(3)), expected)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=repr)
def test_densities_obey_fokker_planck(schedule, generator):
    """∂_t p = −∇·(b p) + (σ²/2) Δp, divided by p, for a mixture of joint Gaussians of the ends."""
    ends = GaussianMixture(
        torch.randn(2, 2, 2, generator=generator, dtype=DOUBLE),
        torch.stack([covariance(4, generator) for _ in range(2)]),
    )
    exact = ExactBridge(Bridge(0.8, schedule), ends)

    def log_p(x, t):
        return exact.log_prob(x[None], t[None])[0]

    def drift(x, t):
        return exact.drift(x[None], t[None])[0]

    for x, t in zip(states((2,), generator), T, strict=True):
        rate = torch.func.grad(log_p, 1)(x, t)
        score, second = torch.func.grad(log_p)(x, t), torch.func.hessian(log_p)(x, t)
        divergence = torch.func.jacrev(drift)(x, t).trace()
        spread = 0.32 * (second.trace() + score @ score)
        assert (rate + divergence + drift(x, t) @ score - spread).abs() < 1e-10
        torch.testing.assert_close(score, exact.score(x[None], t[None])[0])


def test_noise_one_and_independent_normal_ends_are_the_square_root_schedule(event, generator):
    """t x₁ + (1 − t) x₀ + √(t(1 − t)) z has the law of t x₁ + √(1 − t) z: an affine path."""
    target = gaussian(event, generator)
    noise = Gaussian(torch.zeros(event, dtype=DOUBLE))
    exact = ExactBridge(Bridge(1.0), independent_ends(noise, target))
    peer, x = ExactField(AffinePath(SQRT), target), states(event, generator)
    torch.testing.assert_close(exact(x, T), peer(x, T), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(exact.score(x, T), peer.score(x, T), rtol=1e-9, atol=1e-9)


def test_an_isotropic_law_of_ends_is_taken_as_it_is(generator):
    means = torch.randn(2, 2, 2, generator=generator, dtype=DOUBLE)
    full = 0.3 * torch.eye(4, dtype=DOUBLE).expand(2, 4, 4)
    x = states((2,), generator)
    one, other = (
        ExactBridge(Bridge(1.0), GaussianMixture(means, cov))
        for cov in (torch.full((2,), 0.3, dtype=DOUBLE), full)
    )
    torch.testing.assert_close(one(x, T), other(x, T))


def test_points_are_singular_at_their_ends():
    exact = ExactBridge(Bridge(1.0), GaussianMixture(torch.zeros(1, 2, 2), torch.zeros(1)))
    for end in (0.0, 1.0):
        for field in (exact, exact.score, exact.drift, exact.log_prob):
            with pytest.raises(ValueError, match="no density here"):
                field(torch.zeros(1, 2), torch.full((1,), end))


def test_ends_that_are_no_ends_are_refused():
    with pytest.raises(ValueError, match=r"event shape \(3,\); pass \(2, \*event\)"):
        ExactBridge(Bridge(1.0), Gaussian(torch.zeros(3)))
    with pytest.raises(ValueError, match=r"event shape \(3,\); that of an end is \(2,\)"):
        ExactBridge(Bridge(1.0), Gaussian(torch.zeros(2, 2)))(torch.zeros(1, 3), torch.ones(1) / 2)
    with pytest.raises(ValueError, match="source has event shape"):
        independent_ends(Gaussian(torch.zeros(2)), Gaussian(torch.zeros(3)))


# The Gaussian Schrödinger bridge


@pytest.mark.parametrize("sigma", [0.1, 1.0, 10.0])
def test_the_plan_has_the_form_that_schroedinger_asks_for(sigma, event, generator):
    """Marginals A and B, and a density e^{f(x₀) + g(x₁) + x₀·x₁/σ²}: the precision between."""
    source, target = gaussian(event, generator), gaussian(event, generator)
    ends = gaussian_ends(source, target, sigma)
    a, _, b = blocks(ends)
    torch.testing.assert_close(a, source.covariance)
    torch.testing.assert_close(b, target.covariance)
    assert torch.equal(ends.mean, torch.stack([source.mean, target.mean]))
    d = len(a)
    precision = torch.linalg.inv(ends.covariance)[:d, d:]
    # with little noise the joint covariance is nearly singular, by the factor σ²
    expected = -torch.eye(d, dtype=DOUBLE) / sigma**2
    torch.testing.assert_close(precision, expected, rtol=1e-7, atol=1e-7 / sigma**2)


def line(mean, std):
    return Gaussian(double(mean), double(std**2))


def test_the_plan_and_its_cost_against_sinkhorn_on_a_grid():
    """On 241 points, where sums over a grid of normal densities err by less than 1e-12."""
    source, target, sigma = line(0.3, 0.8), line(-0.5, 1.2), 0.9
    grid = torch.linspace(-9, 9, 241, dtype=DOUBLE)
    step = (grid[1] - grid[0]).item()
    first, last = (law.log_prob(grid).exp() * step for law in (source, target))
    kernel = -((grid[:, None] - grid) ** 2) / (2 * sigma**2)
    log_normal = kernel - 0.5 * math.log(2 * math.pi * sigma**2) + math.log(step)
    first, last = ((w + 1e-300) / w.sum() for w in (first, last))
    plan = static_bridge(kernel, first, last, 300)
    ends = gaussian_ends(source, target, sigma)
    cross = (plan * (grid[:, None] - 0.3) * (grid + 0.5)).sum().item()
    assert ends.covariance[0, 1].item() == pytest.approx(cross, abs=1e-6)
    pairs = torch.cartesian_prod(grid, grid)
    expected = ends.log_prob(pairs).exp().reshape(241, 241) * step**2
    torch.testing.assert_close(plan, expected, rtol=0, atol=1e-6)
    entropy = (plan * (plan.clamp(min=1e-300).log() - first.log()[:, None] - log_normal)).sum()
    assert gaussian_bridge_cost(source, target, sigma) == pytest.approx(entropy.item(), abs=1e-6)


def test_the_cost_is_the_relative_entropy_of_the_plan(event, generator):
    source, target, sigma = gaussian(event, generator), gaussian(event, generator), 0.7
    ends, a = gaussian_ends(source, target, sigma), source.covariance
    normal = torch.distributions.MultivariateNormal
    noise = sigma**2 * torch.eye(len(a), dtype=DOUBLE)
    reference = torch.cat([torch.cat([a, a], 1), torch.cat([a, a + noise], 1)])
    start = source.mean.flatten()
    expected = torch.distributions.kl_divergence(
        normal(ends.mean.flatten(), ends.covariance), normal(torch.cat([start, start]), reference)
    )
    found = gaussian_bridge_cost(source, target, sigma)
    assert found == pytest.approx(expected.item(), rel=1e-8)


def affine(field, t, d):
    """Return b and J of a field b + J x at one time."""
    x = torch.cat([torch.zeros(1, d, dtype=DOUBLE), torch.eye(d, dtype=DOUBLE)])
    values = field(x, torch.full((d + 1,), t, dtype=DOUBLE))
    return values[0], (values[1:] - values[0]).T


def test_the_cost_is_the_energy_of_the_drift(generator):
    """E ∫ ‖b‖² dt / 2σ² by Gauss–Legendre with 20 nodes, which is exact to 1e-10 here."""
    source, target, sigma = gaussian((2,), generator), gaussian((2,), generator), 0.9
    ends = gaussian_ends(source, target, sigma)
    exact = ExactBridge(Bridge(sigma), ends)
    a, c, b = blocks(ends)
    energy, one = 0.0, torch.eye(2, dtype=DOUBLE)
    for node, weight in zip(*np.polynomial.legendre.leggauss(20), strict=True):
        t = (node + 1) / 2
        mean = (1 - t) * source.mean + t * target.mean
        cov = (1 - t) ** 2 * a + t**2 * b + t * (1 - t) * (c + c.T + sigma**2 * one)
        constant, jacobian = affine(exact.drift, t, 2)
        here = constant + jacobian @ mean
        energy += weight / 2 * (here @ here + (jacobian @ cov @ jacobian.T).trace())
    expected = energy.item() / (2 * sigma**2)
    assert gaussian_bridge_cost(source, target, sigma) == pytest.approx(expected, abs=1e-8)


def test_moments_of_the_sde_arrive_at_the_target(event, generator):
    """dm = b + J m, dS = J S + S Jᵀ + σ² I, and dC = C Jᵀ for Cov(x₀, x_t), by RK4."""
    source, target, sigma = gaussian(event, generator), gaussian(event, generator), 0.9
    ends, d = gaussian_ends(source, target, sigma), math.prod(event)
    exact = ExactBridge(Bridge(sigma), ends)

    def moving(state, t):
        b, j = affine(
            lambda x, t: exact.drift(x.reshape(-1, *event), t).reshape(-1, d), t[0].item(), d
        )
        m, s, c = state.split([1, d, d], dim=1)
        noise = sigma**2 * torch.eye(d, dtype=DOUBLE)
        return torch.cat([b[:, None] + j @ m, j @ s + s @ j.T + noise, c @ j.T], dim=1)

    start = [source.mean.reshape(d, 1), source.covariance, source.covariance]
    end = solve(moving, torch.cat(start, 1), torch.linspace(0, 1, 41, dtype=DOUBLE), rk4).last
    m, s, c = end.split([1, d, d], dim=1)
    torch.testing.assert_close(m, target.mean.reshape(d, 1), rtol=0, atol=1e-6)
    torch.testing.assert_close(s, target.covariance, rtol=0, atol=1e-6)
    # the process is Markov: its ends are the plan that it was made from
    torch.testing.assert_close(c, blocks(ends)[1], rtol=0, atol=1e-6)


def test_paths_arrive_forward_and_backward(generator):
    """4000 paths in 50 steps: mean and variance within 5 standard errors, and 4 % for steps."""
    source, target, sigma, n = line(0.3, 0.8), line(-1.5, 1.2), 0.9, 4000
    exact = ExactBridge(Bridge(sigma), gaussian_ends(source, target, sigma))
    forward, backward = drifts(exact, exact.score, sigma)
    grid = torch.linspace(0, 1, 51, dtype=DOUBLE)
    for drift, start, end, times in (
        (forward, source, target, grid),
        (backward, target, source, grid.flip(0)),
    ):
        x = start.sample(n, generator)
        x = solve_bridge(drift, x, times, sigma, generator, last_only=True).last
        variance = end.covariance.item()
        error = 5 * (variance / n) ** 0.5 + 0.02
        assert x.mean().item() == pytest.approx(end.mean.item(), abs=error)
        assert x.var().item() == pytest.approx(variance, rel=5 * (2 / n) ** 0.5 + 0.04)


def test_little_noise_is_optimal_transport_and_much_noise_is_independence(generator):
    """Cov tends to that of the optimal map, A^½ (A^½ B A^½)^½ A^-½, and to AB/σ²."""
    source, target = gaussian((2,), generator), gaussian((2,), generator)
    a, b = source.covariance, target.covariance
    values, vectors = torch.linalg.eigh(a)
    root = vectors @ values.sqrt().diag() @ vectors.T
    values, vectors = torch.linalg.eigh(root @ b @ root)
    optimal = root @ vectors @ values.sqrt().diag() @ vectors.T @ torch.linalg.inv(root)
    _, little, _ = blocks(gaussian_ends(source, target, 1e-3))
    half = 0.5e-6 * torch.eye(2, dtype=DOUBLE)
    torch.testing.assert_close(little, optimal - half, rtol=0, atol=1e-11)
    _, much, _ = blocks(gaussian_ends(source, target, 1e3))
    torch.testing.assert_close(1e6 * much, a @ b, rtol=0, atol=1e-5)


def test_singular_gaussians():
    point, wide = Gaussian(torch.ones(2), 0.0), Gaussian(torch.zeros(2), 1.0)
    with pytest.raises(ValueError, match="the source has a singular covariance"):
        gaussian_ends(point, wide, 1.0)
    ends = gaussian_ends(wide, point, 1.0)
    assert not ends.covariance[:2, 2:].any()
    with pytest.raises(ValueError, match="the relative entropy is infinite"):
        gaussian_bridge_cost(wide, point, 1.0)


# Iterated Markovian fitting


def ends_of(a, c, b):
    return Gaussian(double([0.4, -1.0]), double([[a, c], [c, b]]))


@pytest.mark.parametrize("c", [0.0, 0.5, -0.6])
def test_one_round_in_one_dimension_by_quadrature(c):
    """√(AB) exp(−(σ²/2) ∫ dt/S_t), with S_t the variance of the mixture of bridges."""
    a, b, sigma = 0.7, 1.6, 0.8

    def inverse(t):
        return 1 / ((1 - t) ** 2 * a + t**2 * b + t * (1 - t) * (2 * c + sigma**2))

    expected = math.sqrt(a * b) * math.exp(-(sigma**2) / 2 * quad(inverse, 0, 1)[0])
    after = markovian_ends(ends_of(a, c, b), sigma)
    assert after.covariance[0, 1].item() == pytest.approx(expected, abs=1e-6)
    assert after.covariance.diagonal().tolist() == [a, b]
    assert torch.equal(after.mean, double([0.4, -1.0]))


def test_one_round_in_the_plane_by_matrix_exponentials(generator):
    """exp(J h) of 400 steps, J by conditioning x₁ on x_t; their error is 1e-5."""
    ends, sigma, n = Gaussian(torch.zeros(2, 2, dtype=DOUBLE), covariance(4, generator)), 0.8, 400
    a, c, b = (part.numpy() for part in blocks(ends))
    flow, one = np.eye(2), np.eye(2)
    for k in range(n):
        t = (k + 0.5) / n
        total = (1 - t) ** 2 * a + t**2 * b + t * (1 - t) * (c + c.T + sigma**2 * one)
        gain = ((1 - t) * c.T + t * b) @ np.linalg.inv(total)
        flow = expm((gain - one) / (1 - t) / n) @ flow
    after = markovian_ends(ends, sigma)
    np.testing.assert_allclose(blocks(after)[1], a @ flow.T, atol=3e-5)


def test_fitting_converges_to_the_schroedinger_bridge(event, generator):
    """It stays there, and from independent ends the relative entropy to it falls each round."""
    source, target, sigma = gaussian(event, generator), gaussian(event, generator), 1.2
    goal = gaussian_ends(source, target, sigma)
    torch.testing.assert_close(
        markovian_ends(goal, sigma).covariance, goal.covariance, rtol=0, atol=1e-7
    )
    start = independent_ends(source, target)
    ends, normal = (
        Gaussian(start.means[0], start.covariances[0]),
        (torch.distributions.MultivariateNormal),
    )
    wanted = normal(goal.mean.flatten(), goal.covariance)
    left = []
    for _ in range(4):
        here = normal(ends.mean.flatten(), ends.covariance)
        left.append(torch.distributions.kl_divergence(here, wanted).item())
        ends = markovian_ends(ends, sigma)
    assert all(b < 0.9 * a for a, b in zip(left[:-1], left[1:], strict=True))
