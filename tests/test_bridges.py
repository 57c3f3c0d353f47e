"""Bridges against Brownian motion that is conditioned, plans against POT, losses at the truth."""

import math

import numpy as np
import ot
import pytest
import torch

from fmtutorial.bridges import (
    Bridge,
    ExactBridge,
    bridge_matching_loss,
    draw_pairs,
    drifts,
    independent_ends,
    solve_bridge,
    static_bridge,
)
from fmtutorial.couplings import sinkhorn_log, squared_distances
from fmtutorial.distributions import GaussianMixture

DOUBLE = torch.float64


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


T = double([0.1, 0.5, 0.8])


def column(t, x):
    return t.reshape(-1, *[1] * (x.ndim - 1))


def states(event, generator, n=3):
    return [torch.randn(3, *event, generator=generator, dtype=DOUBLE) for _ in range(n)]


def test_a_brownian_bridge_is_brownian_motion_given_its_end():
    """Mean and variance of σW_t given σW_1 = x₁ − x₀, by conditioning their joint law."""
    sigma, start, end = 1.7, 0.4, -2.1
    x0, x1 = torch.full((3,), start, dtype=DOUBLE), torch.full((3,), end, dtype=DOUBLE)
    still, one = (Bridge(sigma).sample(x0, x1, T, z * torch.ones_like(T)).x_t for z in (0.0, 1.0))
    for b, t in enumerate(T.tolist()):
        cov = sigma**2 * np.array([[t, t], [t, 1.0]])  # of (W_t, W_1)
        gain = cov[0, 1] / cov[1, 1]
        assert still[b].item() == pytest.approx(start + gain * (end - start), rel=1e-12)
        variance = cov[0, 0] - gain * cov[1, 0]
        assert (one[b] - still[b]).item() ** 2 == pytest.approx(variance, rel=1e-12)


def test_the_velocity_is_the_derivative_of_the_path(schedule, event, generator):
    x0, x1, z = states(event, generator)
    bridge = Bridge(0.7, schedule)
    at = bridge.sample(x0, x1, T, z)
    path = lambda t: bridge.sample(x0, x1, t, z).x_t  # noqa: E731
    _, rate = torch.func.jvp(path, (T,), (torch.ones_like(T),))
    torch.testing.assert_close(at.velocity, rate, rtol=1e-10, atol=1e-10)
    field = bridge.conditional_velocity(at.x_t, x0, x1, T)
    torch.testing.assert_close(field, rate, rtol=1e-10, atol=1e-10)


def test_the_score_is_that_of_the_normal_density(schedule, event, generator):
    x0, x1, z = states(event, generator)
    bridge = Bridge(0.7, schedule)
    at = bridge.sample(x0, x1, T, z)
    mean = bridge.sample(x0, x1, T, 0 * z).x_t
    deviation = (0.7 * (T * (1 - T)).sqrt()).reshape(-1, *[1] * (x0.ndim - 1))
    x = at.x_t.clone().requires_grad_()
    density = torch.distributions.Normal(mean, deviation.expand_as(mean)).log_prob(x).sum()
    (expected,) = torch.autograd.grad(density, x)
    torch.testing.assert_close(at.score, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(bridge.conditional_score(at.x_t, x0, x1, T), expected)


def test_drifts_of_one_brownian_bridge(event, generator):
    """(x₁ − x)/(1 − t) forward, (x − x₀)/t backward, for every σ."""
    x0, x1, x = states(event, generator)
    for sigma in (0.3, 2.0):
        bridge = Bridge(sigma)
        forward, backward = drifts(
            lambda x, t, b=bridge: b.conditional_velocity(x, x0, x1, t),
            lambda x, t, b=bridge: b.conditional_score(x, x0, x1, t),
            sigma,
        )
        time = column(T, x)
        torch.testing.assert_close(forward(x, T), (x1 - x) / (1 - time), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(backward(x, T), (x - x0) / time, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sigma", [0, 0.0])
def test_no_noise_is_no_bridge(sigma):
    with pytest.raises(ValueError, match="sigma is 0: without noise .* couplings.exact_ot"):
        Bridge(sigma)
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="sigma is 0"):
        drifts(lambda x, t: x, lambda x, t: x, sigma)
    with pytest.raises(ValueError, match="sigma is 0"):
        solve_bridge(lambda x, t: x, x, torch.tensor([0.0, 1.0]), sigma)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_the_ends_are_singular(end):
    x, t = torch.zeros(2, 3), torch.tensor([0.5, end])
    for call in (
        lambda: Bridge(1.0).sample(x, x, t, x),
        lambda: Bridge(1.0).conditional_velocity(x, x, x, t),
        lambda: Bridge(1.0).conditional_score(x, x, x, t),
    ):
        with pytest.raises(ValueError, match="keep t inside"):
            call()


# The SDE


def test_steps_by_hand(event):
    """x + h b + σ √|h| ξ with the generator's ξ, forward and backward."""
    x = torch.ones(3, *event, dtype=DOUBLE)
    for grid in ([0.0, 0.25, 1.0], [1.0, 0.75, 0.0]):
        made = solve_bridge(
            lambda x, t: x * column(t + 1, x),
            x,
            double(grid),
            2.0,
            torch.Generator().manual_seed(3),
        )
        same = torch.Generator().manual_seed(3)
        expected = x
        for t, end in zip(grid[:-1], grid[1:], strict=True):
            noise = torch.randn(x.shape, generator=same, dtype=DOUBLE)
            expected = expected + (end - t) * expected * (t + 1) + 2 * abs(end - t) ** 0.5 * noise
        torch.testing.assert_close(made.last, expected)
        assert made.evaluations == 2 and len(made.states) == 3


def test_the_pinned_process_has_the_bridges_law(generator):
    """10 000 paths of dX = (x₁ − X)/(1 − t) dt + σ dW, at t = 0.6, within 5 standard errors."""
    n, sigma = 10_000, 1.3
    x0, x1 = torch.full((n,), -1.0, dtype=DOUBLE), torch.full((n,), 2.0, dtype=DOUBLE)
    grid = torch.linspace(0, 0.6, 61, dtype=DOUBLE)
    x = solve_bridge(lambda x, t: (x1 - x) / (1 - t), x0, grid, sigma, generator).last
    still = torch.zeros_like(x0)
    mean = Bridge(sigma).sample(x0, x1, still + 0.6, still).x_t[0].item()
    variance = sigma**2 * 0.24
    assert x.mean().item() == pytest.approx(mean, abs=5 * (variance / n) ** 0.5)
    # and 1 % for steps of 0.01
    assert x.var().item() == pytest.approx(variance, rel=5 * (2 / n) ** 0.5 + 0.01)


def test_only_the_last_state_if_asked():
    x, grid = torch.zeros(4), torch.linspace(0, 1, 6)
    both = [
        solve_bridge(lambda x, t: -x, x, grid, 1.0, torch.Generator().manual_seed(0), last)
        for last in (False, True)
    ]
    assert torch.equal(both[0].last, both[1].last)
    assert len(both[0].states) == 6 and len(both[1].states) == 1


def test_a_state_that_is_not_finite_is_refused():
    times = torch.tensor([0.0, 0.5, 0.7, 1.0])
    with pytest.raises(FloatingPointError, match="not finite after step 2 of 3"):
        solve_bridge(lambda x, t: x / (0.5 - column(t, x)), torch.ones(2), times, 1.0)


# The two regressions


def test_losses_by_hand(event, generator):
    """Of v = x + t and s = −x, summed over an event and averaged over the batch."""
    x0, x1, z = states(event, generator)
    at = Bridge(0.7).sample(x0, x1, T, z)
    losses = bridge_matching_loss(
        lambda x, t: x + column(t, x), lambda x, t: -x, Bridge(0.7), x0, x1, T, z
    )
    gamma = column(0.7 * (T * (1 - T)).sqrt(), x0)
    differences = (at.x_t + column(T, x0) - at.velocity, gamma * (-at.x_t - at.score))
    for loss, difference in zip(losses, differences, strict=True):
        torch.testing.assert_close(loss, sum(row.square().sum() for row in difference) / 3)
        assert loss.shape == ()


@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_the_losses_rest_at_the_mixture_of_bridges_and_nowhere_near(factor, generator):
    """Mean slopes in standard errors, for fields scaled by one factor for each sample."""
    n = 20_000
    source = GaussianMixture(double([[0.0, 1.0]]), double([0.5]))
    target = GaussianMixture(double([[2.0, 0.0], [-2.0, 1.0]]), double([0.3, 0.2]))
    exact = ExactBridge(Bridge(0.8), independent_ends(source, target))
    x0, x1 = source.sample(n, generator), target.sample(n, generator)
    t = 0.1 + 0.8 * torch.rand(n, generator=generator, dtype=DOUBLE)
    z = torch.randn(n, 2, generator=generator, dtype=DOUBLE)
    weights = torch.zeros(n, 1, dtype=DOUBLE, requires_grad=True)
    losses = bridge_matching_loss(
        lambda x, t: (factor + weights) * exact(x, t),
        lambda x, t: (factor + weights) * exact.score(x, t),
        exact.bridge,
        *(x0, x1, t, z),
    )
    for loss in losses:
        (slope,) = torch.autograd.grad(n * loss, weights, retain_graph=True)
        score = (slope.mean() / slope.std() * math.sqrt(n)).abs().item()
        assert score < 4.5 if factor == 1 else score > 10


def test_the_losses_train_both_fields():
    """Nothing is frozen."""
    a, b = torch.ones(2, requires_grad=True).unbind()
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    losses = bridge_matching_loss(
        lambda x, t: a * x, lambda x, t: b * x, Bridge(1.0), x, -x, torch.full((3,), 0.5), x.flip(0)
    )
    assert all(torch.autograd.grad(sum(losses), (a, b)))


# Plans


def weights(n, generator):
    w = 0.1 + torch.rand(n, generator=generator, dtype=DOUBLE)
    return w / w.sum()


def test_the_static_bridge_of_points_is_sinkhorn_with_twice_the_squared_noise(event, generator):
    x0, x1, _ = states(event, generator)
    sigma, uniform = 0.9, torch.full((3,), 1 / 3, dtype=DOUBLE)
    cost = squared_distances(x0, x1)
    plan = static_bridge(-cost / (2 * sigma**2), uniform, uniform, 200)
    torch.testing.assert_close(plan, sinkhorn_log(cost, 2 * sigma**2, 200), rtol=1e-9, atol=0)
    other = sinkhorn_log(cost, sigma**2, 200)
    assert (plan - other).abs().max() > 1e-3


def test_the_static_bridge_against_pot(generator):
    first, last = weights(5, generator), weights(7, generator)
    cost = torch.rand(5, 7, generator=generator, dtype=DOUBLE)
    plan = static_bridge(-cost / 0.3, first, last, 300)
    peer = ot.sinkhorn(first.numpy(), last.numpy(), cost.numpy(), 0.3, stopThr=1e-14)
    np.testing.assert_allclose(plan.numpy(), peer, rtol=1e-7)


def test_the_static_bridge_keeps_what_the_reference_says_of_pairs_of_pairs(generator):
    """P_ij P_kl / (P_il P_kj) is that of the kernel, and the marginals are those asked for."""
    first, last = weights(5, generator), weights(7, generator)
    k = torch.randn(5, 7, generator=generator, dtype=DOUBLE)
    plan = static_bridge(k, first, last, 500)
    torch.testing.assert_close(plan.sum(dim=1), first)
    torch.testing.assert_close(plan.sum(dim=0), last)
    ratios = plan.log() - plan.log()[:1] - plan.log()[:, :1] + plan.log()[0, 0]
    torch.testing.assert_close(ratios, k - k[:1] - k[:, :1] + k[0, 0])


def test_the_right_reference_gives_the_truth_back(generator):
    first, k = weights(5, generator), torch.randn(5, 7, generator=generator, dtype=DOUBLE)
    truth = first[:, None] * k.softmax(dim=1)
    plan = static_bridge(k.log_softmax(dim=1), first, truth.sum(dim=0), 500)
    torch.testing.assert_close(plan, truth)


def test_pairs_come_with_the_probabilities_of_the_plan(generator):
    plan, n = double([[0.5, 0.1, 0.0], [0.05, 0.05, 0.3]]), 40_000
    i, j = draw_pairs(plan, n, generator)
    share = torch.zeros_like(plan).index_put((i, j), double(1.0 / n), accumulate=True)
    assert ((share - plan).abs() <= 5 * (plan * (1 - plan) / n).sqrt()).all()
    again = draw_pairs(plan, n, torch.Generator().manual_seed(0))
    assert torch.equal(again[0], draw_pairs(plan, n, torch.Generator().manual_seed(0))[0])


@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"first": double([0.5, 0.6])}, "first must be a vector of positive weights"),
        ({"first": double([1.0, 0.0])}, "first must be a vector of positive weights"),
        ({"first": double([])}, "first must be a vector of positive weights"),
        ({"last": double([[0.5, 0.5]])}, "last must be a vector of positive weights"),
        ({"log_kernel": torch.zeros(3, 2, dtype=DOUBLE)}, r"pass a matrix \(2, 2\)"),
        ({"log_kernel": double([[0.0, -math.inf], [0, 0]])}, "clamp logarithms of zero"),
    ],
)
def test_static_bridges_refuse(wrong, match):
    half = double([0.5, 0.5])
    good = {"log_kernel": torch.zeros(2, 2, dtype=DOUBLE), "first": half, "last": half}
    with pytest.raises(ValueError, match=match):
        static_bridge(**good | wrong, iterations=3)
