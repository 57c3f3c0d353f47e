"""The closed forms against quadrature of Bayes' rule, torch.distributions and their equation."""

import math
import pickle

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from fmtutorial.distributions import Gaussian, GaussianMixture, ring_of_gaussians
from fmtutorial.exact import ExactField
from fmtutorial.paths import COSINE, LINEAR, SQRT, VP, AffinePath, lipman

DOUBLE = torch.float64
METHODS = ("__call__", "score", "log_prob", "posterior_mean", "target_variance")


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


def normal(x, mean, variance):
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.7, 0.95])
def test_everything_against_quadrature_of_bayes_rule(schedule, t):
    """In one dimension p(x₁ | x_t = x) ∝ p₁(x₁) N(x; α x₁, σ²), integrated by the trapezium rule.

    The integrands are Gaussian and the step is a tenth of the smallest width: error below 1e-10.
    """
    means, variances, weights = [-2.0, 0.5, 1.5], [0.3, 0.05, 1.0], [0.5, 0.2, 0.3]
    target = GaussianMixture(double(means), double(variances), double(weights))
    alpha, sigma, alpha_dot, sigma_dot = (
        f(double([t])).item()
        for f in (schedule.alpha, schedule.sigma, schedule.alpha_dot, schedule.sigma_dot)
    )
    grid = np.linspace(-12, 12, 24001)
    prior = sum(w * normal(grid, m, v) for w, m, v in zip(weights, means, variances, strict=True))
    x = double([-3.0, -0.4, 0.0, 0.9, 4.0])
    times = torch.full_like(x, t)
    exact = ExactField(AffinePath(schedule), target)
    results = {name: getattr(exact, name)(x, times) for name in METHODS}
    for b, point in enumerate(x.tolist()):
        joint = prior * normal(point, alpha * grid, sigma**2)
        evidence = np.trapezoid(joint, grid)
        noise = (point - alpha * grid) / sigma
        u = alpha_dot * grid + sigma_dot * noise

        def mean(values, joint=joint, evidence=evidence):
            return np.trapezoid(values * joint, grid) / evidence

        expected = {
            "log_prob": np.log(evidence),
            "posterior_mean": mean(grid),
            "score": mean(-noise / sigma),
            "__call__": mean(u),
            "target_variance": mean((u - mean(u)) ** 2),
        }
        for name in METHODS:
            # SQRT's u is of order 10 near 1, its variance the difference of such squares
            assert results[name][b].item() == pytest.approx(expected[name], rel=1e-8, abs=1e-8), (
                name
            )


def full_mixture(event, generator):
    d = math.prod(event)
    means = torch.randn(2, *event, generator=generator, dtype=DOUBLE)
    factors = torch.randn(2, d, d, generator=generator, dtype=DOUBLE)
    return GaussianMixture(means, factors @ factors.mT / d, double([0.3, 0.7]))


def test_full_covariances_against_torch_distributions(schedule, event, generator):
    """p_t is a mixture of N(α m, α² Σ + σ² I); mean and velocity follow from its score by Tweedie.

    The covariances of one sample's time are built one by one, so a wrong pairing of samples with
    times shows, B = D included.
    """
    target = full_mixture(event, generator)
    d = math.prod(event)
    x = torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    t = double([0.2, 0.6, 0.9])
    exact = ExactField(AffinePath(schedule), target)
    log_prob, score = exact.log_prob(x, t), exact.score(x, t)
    mean, velocity = exact.posterior_mean(x, t), exact(x, t)
    assert score.shape == mean.shape == velocity.shape == x.shape and log_prob.shape == (3,)
    for b in range(3):
        alpha, sigma = schedule.alpha(t[b]), schedule.sigma(t[b])
        peer = MixtureSameFamily(
            Categorical(target.weights),
            MultivariateNormal(
                alpha * target.means.reshape(2, d),
                alpha**2 * target.covariances + sigma**2 * torch.eye(d, dtype=DOUBLE),
            ),
        )
        point = x[b].reshape(d).clone().requires_grad_()
        value = peer.log_prob(point)
        (expected,) = torch.autograd.grad(value, point)
        tweedie = (x[b].reshape(d) + sigma**2 * expected) / alpha
        u = schedule.alpha_dot(t[b]) * tweedie - schedule.sigma_dot(t[b]) * sigma * expected
        # float64 through Cholesky here and an eigendecomposition there; VP divides by α = 0.04
        close = {"rtol": 1e-8, "atol": 1e-8}
        torch.testing.assert_close(log_prob[b], value.detach(), **close)
        torch.testing.assert_close(score[b].reshape(d), expected, **close)
        torch.testing.assert_close(mean[b].reshape(d), tweedie, **close)
        torch.testing.assert_close(velocity[b].reshape(d), u, **close)


def test_target_variance_of_full_covariances_against_quadrature():
    """E‖u − v‖² for two tilted Gaussians in the plane, on a grid of x₁."""
    covariances = double([[[1.0, 0.6], [0.6, 0.5]], [[0.4, -0.3], [-0.3, 0.9]]])
    means, weights = double([[-1.0, 0.5], [1.0, 0.0]]), double([0.4, 0.6])
    target = GaussianMixture(means, covariances, weights)
    peer = MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances))
    side = torch.linspace(-7, 7, 561, dtype=DOUBLE)  # step 0.025, widths above 0.3
    grid = torch.cartesian_prod(side, side)
    prior = peer.log_prob(grid).exp()
    x, t = double([[0.3, 0.2], [-0.5, 0.4]]), double([0.4, 0.7])
    for schedule in (LINEAR, COSINE):
        result = ExactField(AffinePath(schedule), target).target_variance(x, t)
        for b in range(2):
            alpha, sigma = schedule.alpha(t[b]), schedule.sigma(t[b])
            noise = (x[b] - alpha * grid) / sigma
            posterior = prior * (-0.5 * (noise**2).sum(dim=1)).exp()
            posterior /= posterior.sum()
            u = schedule.alpha_dot(t[b]) * grid + schedule.sigma_dot(t[b]) * noise
            mean = (posterior[:, None] * u).sum(dim=0)
            expected = (posterior * ((u - mean) ** 2).sum(dim=1)).sum()
            assert result[b].item() == pytest.approx(expected.item(), rel=1e-8)


def test_data_set_against_the_explicit_softmax(schedule, event, generator):
    """E[x₁ | x] = Σ softmax(−‖x − α x_k‖² / 2σ²) x_k, one sample and one point at a time."""
    points = torch.randn(5, *event, generator=generator, dtype=DOUBLE)
    x = torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    t = double([0.2, 0.6, 0.8])
    exact = ExactField(AffinePath(schedule), points)
    for b in range(3):
        alpha, sigma = schedule.alpha(t[b]).item(), schedule.sigma(t[b]).item()
        logits = [-((x[b] - alpha * p) ** 2).sum().item() / (2 * sigma**2) for p in points]
        share = [math.exp(logit - max(logits)) for logit in logits]
        mean = sum(s / sum(share) * p for s, p in zip(share, points, strict=True))
        noise = (x[b] - alpha * mean) / sigma
        u = schedule.alpha_dot(t[b]) * mean + schedule.sigma_dot(t[b]) * noise
        factor = schedule.alpha_dot(t[b]) - schedule.sigma_dot(t[b]) * alpha / sigma
        spread = sum(
            s / sum(share) * ((p - mean) ** 2).sum() for s, p in zip(share, points, strict=True)
        )
        d = points[0].numel()
        density = sum(math.exp(logit) for logit in logits) / 5 / (2 * math.pi * sigma**2) ** (d / 2)
        close = {"rtol": 1e-9, "atol": 1e-9}
        torch.testing.assert_close(exact.posterior_mean(x, t)[b], mean, **close)
        torch.testing.assert_close(exact.score(x, t)[b], -noise / sigma, **close)
        torch.testing.assert_close(exact(x, t)[b], u, **close)
        torch.testing.assert_close(exact.target_variance(x, t)[b], factor**2 * spread, **close)
        torch.testing.assert_close(exact.log_prob(x, t)[b], torch.log(double(density)), **close)


def test_data_set_is_the_limit_of_narrow_components(generator):
    points = torch.randn(6, 2, generator=generator, dtype=DOUBLE)
    x, t = torch.randn(4, 2, generator=generator, dtype=DOUBLE), double([0.0, 0.3, 0.6, 0.9])
    path = AffinePath(LINEAR)
    narrow = ExactField(path, GaussianMixture(points, torch.full((6,), 1e-12, dtype=DOUBLE)))
    for name in METHODS:
        # first order in variance / σ² = 1e-10, times factors 1/σ²
        torch.testing.assert_close(
            getattr(ExactField(path, points), name)(x, t),
            getattr(narrow, name)(x, t),
            rtol=1e-7,
            atol=1e-7,
        )


@pytest.mark.parametrize("kind", ["mixture", "data set"])
def test_continuity_equation(schedule, kind, generator):
    """∂ₜ log p + v·∇ log p + div v = 0, every derivative by central differences of step 1e-5.

    Their error is h² = 1e-10 times third derivatives of order 1e3, and rounding 1e-16/h.
    """
    target = full_mixture((2,), generator)
    exact = ExactField(AffinePath(schedule), target if kind == "mixture" else target.means)
    x = torch.randn(50, 2, generator=generator, dtype=DOUBLE)
    t = torch.linspace(0.05, 0.9, 50, dtype=DOUBLE)
    h = 1e-5
    residual = (exact.log_prob(x, t + h) - exact.log_prob(x, t - h)) / (2 * h)
    v = exact(x, t)
    scale = residual.abs() + 1
    for i in range(2):
        step = h * torch.eye(2, dtype=DOUBLE)[i]
        slope = (exact.log_prob(x + step, t) - exact.log_prob(x - step, t)) / (2 * h)
        residual = residual + v[:, i] * slope
        residual = residual + (exact(x + step, t) - exact(x - step, t))[:, i] / (2 * h)
    assert (residual.abs() / scale).max() < 1e-6


def test_a_gaussian_target_is_a_mixture_of_one(event, generator):
    mean = torch.randn(event, generator=generator, dtype=DOUBLE)
    x, t = torch.randn(3, *event, generator=generator, dtype=DOUBLE), double([0.1, 0.5, 0.9])
    path = AffinePath(COSINE)
    one, other = Gaussian(mean, 0.3), GaussianMixture(mean[None], double([0.3]))
    for name in METHODS:
        assert torch.equal(
            getattr(ExactField(path, one), name)(x, t), getattr(ExactField(path, other), name)(x, t)
        )


def test_at_one_the_path_is_the_target(event, generator):
    target = full_mixture(event, generator)
    x, t = torch.randn(3, *event, generator=generator, dtype=DOUBLE), torch.ones(3, dtype=DOUBLE)
    close = {"rtol": 1e-9, "atol": 1e-9}
    for schedule in (LINEAR, COSINE, SQRT, VP):
        exact = ExactField(AffinePath(schedule), target)
        torch.testing.assert_close(exact.posterior_mean(x, t), x, **close)
        torch.testing.assert_close(exact.log_prob(x, t), target.log_prob(x), **close)
        torch.testing.assert_close(exact.score(x, t), target.score(x), **close)
    # E[x₀ | x₁] = 0, so the velocity is α̇ x: x when linear, 0 with a cosine
    torch.testing.assert_close(ExactField(AffinePath(LINEAR), target)(x, t), x, **close)
    cosine = ExactField(AffinePath(COSINE), target)(x, t)
    torch.testing.assert_close(cosine, torch.zeros_like(x), **close)


def test_at_zero_nothing_is_known_of_the_data(event, generator):
    target = full_mixture(event, generator)
    x, t = torch.randn(3, *event, generator=generator, dtype=DOUBLE), torch.zeros(3, dtype=DOUBLE)
    exact = ExactField(AffinePath(LINEAR), target)
    mean = (target.means.reshape(2, -1) * target.weights[:, None]).sum(dim=0).reshape(event)
    torch.testing.assert_close(exact.posterior_mean(x, t), mean.expand_as(x))
    torch.testing.assert_close(exact(x, t), mean - x)
    torch.testing.assert_close(exact.score(x, t), -x)


def test_float32_near_the_end_of_the_interval(schedule, generator):
    """At t = 1 − 1e-6 against float64 at the same inputs.

    x − α m rounds to eps = 6e-8 · 10 beside components of width 1: relative errors of 1e-6 or so
    in the offsets, some 1e-5 where sixteen of them are squared. SQRT and VP multiply x₀'s part
    by σ̇σ, which is of order 1, not by σ̇.
    """
    ring = ring_of_gaussians()
    x = ring.sample(200, generator)
    t = torch.full((200,), 1 - 1e-6)
    exact = ExactField(AffinePath(schedule), ring)
    for name in METHODS:
        low, high = getattr(exact, name)(x, t), getattr(exact, name)(x.double(), t.double())
        assert low.dtype == torch.float32
        torch.testing.assert_close(low.double(), high, rtol=1e-4, atol=1e-4)


def test_float32_data_set_near_the_end_of_the_interval(generator):
    """x_t = t x₁ + (1 − t) x₀ comes from its own point, and the velocity points from there."""
    points = torch.randn(100, 2, generator=generator)
    t = torch.full((100,), 1 - 1e-3)
    x = AffinePath(LINEAR).sample(torch.randn(100, 2, generator=generator), points, t).x_t
    exact = ExactField(AffinePath(LINEAR), points)
    torch.testing.assert_close(exact.posterior_mean(x, t), points, rtol=0, atol=1e-6)
    # x − t x₁ rounds to 1e-7, divided by σ = 1e-3
    torch.testing.assert_close(exact(x, t), (points - x) / 1e-3, rtol=0, atol=2e-3)
    t = torch.full((100,), 1 - 1e-6)
    for name in METHODS:
        assert getattr(exact, name)(x, t).isfinite().all()


@pytest.mark.parametrize("t", [0.01, 0.5, 1 - 1e-6])
def test_far_away_nothing_overflows(schedule, t):
    """From 1e4 away along a direction the farthest point in it takes the whole posterior."""
    points = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, -2.0]])
    x, times = 1e4 * torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]]), torch.full((3,), t)
    exact = ExactField(AffinePath(schedule), points)
    for name in METHODS:
        assert getattr(exact, name)(x, times).isfinite().all(), name
    torch.testing.assert_close(exact.posterior_mean(x, times), points)
    ring = ExactField(AffinePath(schedule), ring_of_gaussians())
    for name in METHODS:
        assert getattr(ring, name)(x, times).isfinite().all(), name


def test_target_variance_is_the_floor_of_the_loss(schedule, generator):
    """E‖u − v(x_t)‖² over fresh pairs equals the mean of the closed form, to four standard errors.

    t stops at 0.9, beyond which the square-root schedule has heavy tails.
    """
    n = 40000
    target = GaussianMixture(double([[-2.0, 0.0], [2.0, 1.0]]), double([0.2, 0.6]))
    path = AffinePath(schedule)
    exact = ExactField(path, target)
    x0 = torch.randn(n, 2, generator=generator, dtype=DOUBLE)
    t = 0.9 * torch.rand(n, generator=generator, dtype=DOUBLE)
    sample = path.sample(x0, target.sample(n, generator), t)
    squared = ((sample.velocity - exact(sample.x_t, t)) ** 2).sum(dim=1)
    difference = squared - exact.target_variance(sample.x_t, t)
    assert difference.mean().abs() < 4 * difference.std() / n**0.5


def test_target_variance_of_one_gaussian(schedule, event, generator):
    """For N(0, s² I): Var(x₁ | x_t) = s²σ²/(α²s² + σ²) in each of d entries, whatever x is."""
    s, d = 0.7, math.prod(event)
    exact = ExactField(AffinePath(schedule), Gaussian(torch.zeros(event, dtype=DOUBLE), s**2))
    x, t = torch.randn(3, *event, generator=generator, dtype=DOUBLE), double([0.1, 0.5, 0.9])
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    of_data = s**2 * sigma**2 / (alpha**2 * s**2 + sigma**2)
    # given x, noise moves against data: u = (α̇ − σ̇α/σ) x₁ + …
    slope = schedule.alpha_dot(t) - schedule.sigma_dot(t) * alpha / sigma
    torch.testing.assert_close(exact.target_variance(x, t), d * slope**2 * of_data)


@pytest.mark.parametrize("s", [0.5, 2.0])
def test_floor_of_a_gaussian_integrates_to_a_right_angle(s, event):
    """∫₀¹ d s² / (t²s² + (1 − t)²) dt = d s π / 2 for the linear schedule."""
    exact = ExactField(AffinePath(LINEAR), Gaussian(torch.zeros(event, dtype=DOUBLE), s**2))
    nodes, weights = np.polynomial.legendre.leggauss(60)
    t = torch.from_numpy((nodes + 1) / 2)
    floor = exact.target_variance(torch.zeros(60, *event, dtype=DOUBLE), t)
    integral = (floor * torch.from_numpy(weights / 2)).sum().item()
    # Gauss-Legendre converges geometrically; 60 nodes leave less than 1e-9 here
    assert integral == pytest.approx(math.prod(event) * s * math.pi / 2, rel=1e-9)


def test_samples_of_a_batch_do_not_meet(schedule, event, generator):
    """A batch gives what its samples give alone, each at its own time."""
    exact = ExactField(AffinePath(schedule), full_mixture(event, generator))
    x, t = torch.randn(3, *event, generator=generator, dtype=DOUBLE), double([0.1, 0.5, 0.9])
    for name in METHODS:
        method = getattr(exact, name)
        alone = torch.cat([method(x[b : b + 1], t[b : b + 1]) for b in range(3)])
        torch.testing.assert_close(method(x, t), alone, rtol=1e-12, atol=1e-12)


def test_methods_refuse_the_times_at_which_they_are_not_defined():
    x, one = torch.zeros(3, 2), torch.tensor([0.5, 1.0, 0.5])
    data = ExactField(AffinePath(LINEAR), torch.ones(4, 2))
    for name in METHODS:
        with pytest.raises(ValueError, match="no density here"):
            getattr(data, name)(x, one)
    noisy = ExactField(AffinePath(lipman(0.1)), torch.ones(4, 2))
    for name in METHODS:
        assert getattr(noisy, name)(x, one).isfinite().all()
    for schedule in (SQRT, VP):
        ring = ExactField(AffinePath(schedule), ring_of_gaussians())
        for name in ("score", "log_prob", "posterior_mean"):
            assert getattr(ring, name)(x, one).isfinite().all()


def test_a_target_of_integers_is_refused():
    with pytest.raises(TypeError, match="target has dtype torch.int64"):
        ExactField(AffinePath(LINEAR), torch.zeros(3, 2).long())(torch.zeros(3, 2), torch.zeros(3))


@pytest.mark.parametrize("name", METHODS)
def test_methods_refuse_another_event_shape(name):
    exact = ExactField(AffinePath(LINEAR), ring_of_gaussians())
    with pytest.raises(ValueError, match=r"event shape \(3,\); the distribution's is \(2,\)"):
        getattr(exact, name)(torch.zeros(3, 3), torch.full((3,), 0.5))


@pytest.mark.parametrize("target", [ring_of_gaussians(5), Gaussian(torch.ones(2)), torch.eye(2)])
def test_a_copy_in_another_process_gives_the_same(target, generator):
    exact = ExactField(AffinePath(COSINE), target)
    again = pickle.loads(pickle.dumps(exact))
    x, t = torch.randn(3, 2, generator=generator), torch.tensor([0.1, 0.5, 0.9])
    for name in METHODS:
        assert torch.equal(getattr(again, name)(x, t), getattr(exact, name)(x, t))


@pytest.mark.parametrize("name", METHODS)
def test_the_answer_has_the_type_of_the_states(name, generator):
    """Times in double precision, as from ``log_snr_grid``, with full covariances too."""
    means, covariance = (
        torch.randn(2, 2, generator=generator),
        torch.tensor([[2.0, 1.0], [1.0, 2.0]]),
    )
    exact = ExactField(AffinePath(VP), GaussianMixture(means, covariance.repeat(2, 1, 1)))
    x, t = torch.randn(3, 2, generator=generator), torch.tensor([0.1, 0.5, 0.9])
    found = getattr(exact, name)(x, t.double())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, getattr(exact, name)(x, t), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_an_empty_batch_has_an_empty_answer(name):
    exact = ExactField(AffinePath(LINEAR), ring_of_gaussians(5))
    found = getattr(exact, name)(torch.zeros(0, 2), torch.zeros(0))
    assert found.shape in ((0,), (0, 2))


@pytest.mark.parametrize(
    "path, target, match",
    [
        (LINEAR, torch.zeros(3, 2), "path is of type Schedule"),
        (AffinePath(LINEAR), "ring", "target is a str"),
        (AffinePath(LINEAR), torch.zeros(0, 2), r"means have shape \(0, 2\)"),
        (AffinePath(LINEAR), torch.full((3, 2), math.nan), "not finite"),
    ],
)
def test_no_field_of_nothing_known(path, target, match):
    with pytest.raises((TypeError, ValueError), match=match):
        ExactField(path, target)
