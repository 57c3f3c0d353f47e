"""Tilted laws and values against quadrature, Bayes' rule for Gaussians and autograd."""

import math

import pytest
import torch

from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.steering import ExactValue, QuadraticReward, observed, tilted

DOUBLE = torch.float64
PATH = AffinePath(LINEAR)
LINE = torch.linspace(-30, 30, 60_001, dtype=DOUBLE)


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


def matrix(size, generator, low=0.2):
    root = torch.randn(size, size, generator=generator, dtype=DOUBLE) / size**0.5
    return root @ root.T + low * torch.eye(size, dtype=DOUBLE)


def mixture(event, generator, full=False):
    size = math.prod(event)
    means = torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    wide = double([0.5, 0.2, 1.0])
    if full:
        wide = torch.stack([matrix(size, generator) for _ in range(3)])
    return GaussianMixture(means, wide, double([0.2, 0.5, 0.3]))


def reward(event, generator, kind):
    """One with a number, with a matrix of both signs that the mixtures bear, or none."""
    size = math.prod(event)
    bent = {"none": 0.0, "number": 0.7, "convex": -0.1}.get(kind)
    if bent is None:
        bent = matrix(size, generator, -0.05)
    return QuadraticReward(torch.randn(event, generator=generator, dtype=DOUBLE), bent)


every_kind = pytest.mark.parametrize("kind", ["none", "number", "convex", "matrix"])


# The reward


def test_reward_worked_out_by_hand():
    """b = (1, −2), K = ((2, 1), (1, 0)): at (1, 3) it is 1 − 6 − ½ (2 + 6) = −9."""
    found = QuadraticReward(double([1.0, -2.0]), double([[2.0, 1.0], [1.0, 0.0]]))
    x = double([[1.0, 3.0], [0.0, 0.0]])
    assert found(x).tolist() == [-9.0, 0.0]
    assert found.gradient(x).tolist() == [[-4.0, -3.0], [1.0, -2.0]]


@every_kind
def test_gradient_is_that_of_the_reward(event, generator, kind):
    found = reward(event, generator, kind)
    x = torch.randn(3, *event, generator=generator, dtype=DOUBLE, requires_grad=True)
    slope = torch.autograd.grad(found(x).sum(), x)[0]
    assert found(x).shape == (3,)
    torch.testing.assert_close(found.gradient(x), slope, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bent", [0.0, 0.7, -0.3])
def test_log_mean_on_the_line_by_quadrature(bent):
    found = QuadraticReward(double(0.8), bent)
    mean, variance = double([-1.0, 0.5, 2.0]), double([0.0, 0.3, 1.5])
    for m, v, value in zip(mean, variance, found.log_mean(mean, variance), strict=True):
        if v == 0:
            assert value == found(m[None])
            continue
        density = torch.exp(-((LINE - m) ** 2) / (2 * v)) / (2 * math.pi * v).sqrt()
        expected = torch.trapezoid(density * found(LINE).exp(), LINE).log()
        # a smooth integrand that is 0 at the ends: to rounding
        assert value.item() == pytest.approx(expected.item(), abs=1e-10)


def test_log_mean_in_space_is_the_normaliser_of_the_tilted_gaussian(generator):
    """p e^r / p̃ is constant, and that is E[e^r]."""
    found = QuadraticReward(double([0.5, -1.0, 0.3]), matrix(3, generator, -0.1))
    x, m = torch.randn(2, 3, 3, generator=generator, dtype=DOUBLE)
    for variance in (0.4, 1.3):
        values = found.log_mean(m, torch.full((3,), variance, dtype=DOUBLE))
        for mean, value in zip(m, values, strict=True):
            law = Gaussian(mean, variance)
            ratio = law.log_prob(x) + found(x) - tilted(law, found).log_prob(x)
            torch.testing.assert_close(ratio, value.expand(3), rtol=1e-10, atol=1e-10)


# The tilted law


@every_kind
@pytest.mark.parametrize("full", [False, True], ids=["isotropic", "full"])
def test_the_tilted_density_is_the_old_one_times_exp_r(event, generator, kind, full):
    """Up to one constant, which is then right since both integrate to 1."""
    law, found = mixture(event, generator, full), reward(event, generator, kind)
    x = 2 * torch.randn(7, *event, generator=generator, dtype=DOUBLE)
    new = tilted(law, found)
    ratio = new.log_prob(x) - law.log_prob(x) - found(x)
    torch.testing.assert_close(ratio, ratio[:1].expand(7), rtol=1e-9, atol=1e-9)
    isotropic = not full and kind != "matrix"
    assert (new.covariances.ndim == 1) == isotropic
    assert (new.means - law.means).abs().max() > 0.05


def test_a_number_and_a_multiple_of_the_unit_matrix_are_the_same(generator):
    law, b = mixture((2,), generator), double([0.4, 0.9])
    for bent in (0.0, 0.6):
        one, other = (
            tilted(law, QuadraticReward(b, k)) for k in (bent, bent * torch.eye(2, dtype=DOUBLE))
        )
        torch.testing.assert_close(other.means, one.means)
        torch.testing.assert_close(other.weights, one.weights)
        unit = torch.eye(2, dtype=DOUBLE)
        torch.testing.assert_close(other.covariances, one.covariances[:, None, None] * unit)


def test_points_are_weighed_by_exp_r_and_stay_where_they_are():
    points = double([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    law = GaussianMixture(points, torch.zeros(3, dtype=DOUBLE))
    for bent in (0.5, 0.5 * torch.eye(2, dtype=DOUBLE)):
        new = tilted(law, QuadraticReward(double([1.0, 1.0]), bent))
        weights = double([0.0, 1 - 0.25, 2 - 1.0]).exp()
        torch.testing.assert_close(new.weights, weights / weights.sum())
        assert torch.equal(new.means, points) and not new.covariances.any()


def test_a_component_without_weight_is_left_out():
    means = torch.tensor([[0.0], [500.0]])
    new = tilted(GaussianMixture(means, torch.ones(2)), QuadraticReward(torch.tensor([1.0])))
    assert new.means.tolist() == [[501.0]] and new.weights.tolist() == [1.0]


@pytest.mark.parametrize("full", [False, True])
def test_a_reward_that_grows_too_fast_is_refused(full):
    """N(0, 2) bears a curvature above −½."""
    wide = 2.0 * torch.eye(2) if full else torch.tensor(2.0)
    law = Gaussian(torch.zeros(2), wide)
    tilted(law, QuadraticReward(torch.zeros(2), -0.49))
    for bent in (-0.51, -3.0):
        with pytest.raises(ValueError, match="the tilted law does not exist"):
            tilted(law, QuadraticReward(torch.zeros(2), bent))
    with pytest.raises(ValueError, match=r"E\[exp r\] is infinite"):
        QuadraticReward(torch.zeros(2), -0.5).log_mean(torch.zeros(1, 2), torch.full((1,), 2.0))


# The value


def posterior_mean_of_exp(path, law, found, x, t):
    """log E[e^r | x_t = x] by the trapezoidal rule over x₁, on the line."""
    alpha, sigma = path.schedule.alpha(t), path.schedule.sigma(t)
    log = law.log_prob(LINE) - (x - alpha * LINE) ** 2 / (2 * sigma**2)
    weight = (log - log.max()).exp()
    return (torch.trapezoid(weight * found(LINE).exp(), LINE) / weight.sum()).log() - math.log(
        LINE[1] - LINE[0]
    )


@pytest.mark.parametrize("bent", [0.0, 0.8, -0.2])
def test_value_on_the_line_by_quadrature_over_the_data(schedule, generator, bent):
    path, law = AffinePath(schedule), mixture((), generator)
    found = QuadraticReward(double(0.7), bent)
    value = ExactValue(path, law, found)
    x, t = double([-2.0, 0.3, 1.5]), double([0.15, 0.5, 0.9])
    for one, time, v in zip(x, t, value(x, t), strict=True):
        expected = posterior_mean_of_exp(path, law, found, one, time)
        # smooth, with steps of 1/1000 where the narrowest scale is 0.1
        assert v.item() == pytest.approx(expected.item(), abs=1e-9)


def test_value_begins_at_log_z_and_ends_at_the_reward(generator):
    law, found = mixture((), generator), QuadraticReward(double(0.7), 0.4)
    value, x = ExactValue(PATH, law, found), double([-1.0, 0.0, 2.0])
    log_z = torch.trapezoid(law.log_prob(LINE).exp() * found(LINE).exp(), LINE).log()
    zero = torch.zeros(3, dtype=DOUBLE)
    torch.testing.assert_close(value(x, zero), log_z.expand(3), rtol=0, atol=1e-10)
    torch.testing.assert_close(value(x, zero + 1), found(x), rtol=0, atol=1e-10)


def test_slope_of_the_value_is_the_mean_of_the_slopes_at_the_data(event, generator):
    """For r = ⟨b, x⟩ and one Gaussian, E[e^r | x] by Gaussian conditioning: ∇V = α Σ C⁻¹ b."""
    size = math.prod(event)
    cov = matrix(size, generator)
    law = Gaussian(torch.randn(event, generator=generator, dtype=DOUBLE), cov)
    b = torch.randn(event, generator=generator, dtype=DOUBLE)
    x = torch.randn(3, *event, generator=generator, dtype=DOUBLE, requires_grad=True)
    t = torch.full((3,), 0.6, dtype=DOUBLE)
    slope = torch.autograd.grad(ExactValue(PATH, law, QuadraticReward(b))(x, t).sum(), x)[0]
    total = 0.36 * cov + 0.16 * torch.eye(size, dtype=DOUBLE)
    wanted = 0.6 * cov @ torch.linalg.solve(total, b.flatten())
    torch.testing.assert_close(slope, wanted.reshape(event).expand_as(x), rtol=1e-9, atol=1e-9)


# Observations


def test_posterior_of_a_gaussian_is_bayes_rule(generator):
    """Mean m + G (y − m_S) and covariance Σ − G Σ_S with the gain G, in textbook form."""
    cov, m = matrix(3, generator), torch.randn(3, generator=generator, dtype=DOUBLE)
    mask, y, noise = torch.tensor([True, False, True]), double([0.5, math.nan, -1.0]), 0.3
    new = tilted(Gaussian(m, cov), observed(y, mask, noise))
    seen = cov[mask][:, mask] + noise**2 * torch.eye(2, dtype=DOUBLE)
    gain = cov[:, mask] @ torch.linalg.inv(seen)
    torch.testing.assert_close(new.means[0], m + gain @ (y[mask] - m[mask]))
    torch.testing.assert_close(new.covariances[0], cov - gain @ cov[mask])


def test_observation_is_a_log_likelihood(event, generator):
    known = torch.randn(event, generator=generator, dtype=DOUBLE)
    mask = torch.rand(event, generator=generator) < 0.7
    x = torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    misses = torch.where(mask, x - known, 0).flatten(1) if event else (x - known)[:, None] * mask
    expected = -misses.square().sum(dim=1) / (2 * 0.5**2)
    found = observed(known, mask, 0.5)(x)
    constant = torch.where(mask, known, 0).square().sum() / (2 * 0.5**2)
    torch.testing.assert_close(found - constant, expected)


def test_weights_of_a_mixture_after_seeing_one_coordinate():
    """Two points' worth of evidence: N(±2, 1) in x, seen at 1 with noise 1: odds e^(2·2·1/2)."""
    law = GaussianMixture(double([[2.0, 1.0], [-2.0, -1.0]]), double([1.0, 1.0]))
    new = tilted(law, observed(double([1.0, 0.0]), torch.tensor([True, False]), 1.0))
    odds = (new.weights[0] / new.weights[1]).log().item()
    assert odds == pytest.approx(((1 + 2) ** 2 - (1 - 2) ** 2) / (2 * 2))
    torch.testing.assert_close(new.means[:, 1], double([1.0, -1.0]))


# Bad input


@pytest.mark.parametrize(
    "bent, words",
    [
        (torch.eye(3), r"curvature has shape \(3, 3\)"),
        (torch.tensor([[0.0, 1.0], [0.0, 0.0]]), "curvature is not symmetric"),
        (torch.full((2, 2), math.nan), "not finite"),
        (math.inf, "curvature is inf"),
    ],
)
def test_a_curvature_is_a_number_or_a_symmetric_matrix(bent, words):
    with pytest.raises(ValueError, match=words):
        QuadraticReward(torch.zeros(2), bent)


def test_shapes_that_do_not_meet_are_named():
    found = QuadraticReward(torch.zeros(2))
    with pytest.raises(ValueError, match=r"x has event shape \(3,\); the reward's is \(2,\)"):
        found(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="event shape"):
        tilted(Gaussian(torch.zeros(3)), found)
    with pytest.raises(ValueError, match=r"mask has shape \(3,\) and known \(2,\)"):
        observed(torch.zeros(2), torch.ones(3, dtype=torch.bool), 1.0)
    with pytest.raises(TypeError, match="mask must be a dense tensor of booleans"):
        observed(torch.zeros(2), torch.ones(2), 1.0)
    with pytest.raises(ValueError, match="noise is 0"):
        observed(torch.zeros(2), torch.ones(2, dtype=torch.bool), 0.0)
    with pytest.raises(ValueError, match="negative or NaN"):
        found.log_mean(torch.zeros(1, 2), -torch.ones(1))
