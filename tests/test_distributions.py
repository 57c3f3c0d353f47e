"""Mixtures against torch.distributions, toy data sets against their geometry."""

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.stats
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from fmtutorial.distributions import (
    Gaussian,
    GaussianMixture,
    Samples,
    checkerboard,
    circles,
    eight_gaussians,
    ring_of_gaussians,
    s_curve,
    two_moons,
)

DOUBLE = torch.float64
# Rounding in float64 through an eigendecomposition of 16 × 16.
EXACTLY = {"rtol": 1e-9, "atol": 1e-9}
TOYS = [two_moons(), circles(), checkerboard(), s_curve()]


def random_mixture(event, kind, weighted, generator):
    """A mixture of two components and the same one built by torch.distributions."""
    d = math.prod(event)
    means = torch.randn(2, *event, generator=generator, dtype=DOUBLE)
    if kind == "isotropic":
        covariances = torch.tensor([0.3, 1.7], dtype=DOUBLE)
        matrices = covariances[:, None, None] * torch.eye(d, dtype=DOUBLE)
    else:
        factors = torch.randn(2, d, d, generator=generator, dtype=DOUBLE)
        covariances = matrices = factors @ factors.mT / d + 0.2 * torch.eye(d, dtype=DOUBLE)
    weights = torch.tensor([0.2, 0.8], dtype=DOUBLE) if weighted else None
    peer = MixtureSameFamily(
        Categorical(torch.full((2,), 0.5, dtype=DOUBLE) if weights is None else weights),
        MultivariateNormal(means.reshape(2, d), matrices),
    )
    return GaussianMixture(means, covariances, weights), peer


@pytest.mark.parametrize("kind", ["isotropic", "full"])
@pytest.mark.parametrize("weighted", [False, True])
def test_mixture_density_and_score(event, kind, weighted, generator):
    mixture, peer = random_mixture(event, kind, weighted, generator)
    x = 2 * torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    flat = x.reshape(3, -1).clone().requires_grad_()
    expected = peer.log_prob(flat)
    (score,) = torch.autograd.grad(expected.sum(), flat)
    torch.testing.assert_close(mixture.log_prob(x), expected.detach(), **EXACTLY)
    torch.testing.assert_close(mixture.score(x), score.reshape(x.shape), **EXACTLY)


@pytest.mark.parametrize("kind", ["isotropic", "full"])
def test_mixture_samples_have_its_moments(event, kind, generator):
    mixture, peer = random_mixture(event, kind, True, generator)
    n = 20000
    x = mixture.sample(n, generator)
    assert x.shape == (n, *event) and x.dtype == DOUBLE
    flat = x.reshape(n, -1)
    # five standard errors of a mean, over at most 16 entries
    error = (flat.mean(dim=0) - peer.mean).abs() / (peer.variance / n).sqrt()
    assert error.max() < 5
    weights, parts = peer.mixture_distribution.probs, peer.component_distribution
    between = parts.mean - peer.mean
    covariance = torch.einsum("k,kde->de", weights, parts.covariance_matrix)
    covariance = covariance + torch.einsum("k,kd,ke->de", weights, between, between)
    products = (flat - peer.mean)[:, :, None] * (flat - peer.mean)[:, None, :]
    # five standard errors of a mean of products, over at most 256 entries
    error = (products.mean(dim=0) - covariance).abs() / (products.std(dim=0) / n**0.5)
    assert error.max() < 5


def test_mixture_draws_its_components_by_weight(generator):
    mixture = GaussianMixture(
        torch.tensor([[-10.0], [0.0], [10.0]]), torch.ones(3), torch.tensor([0.1, 0.3, 0.6])
    )
    counts = np.histogram(mixture.sample(5000, generator), [-15, -5, 5, 15])[0]
    assert scipy.stats.chisquare(counts, [500, 1500, 3000]).pvalue > 0.001


@pytest.mark.parametrize("covariance", [1.0, 0.3, torch.tensor(0.25), "matrix"], ids=str)
def test_gaussian(event, covariance, generator):
    d = math.prod(event)
    mean = torch.randn(event, generator=generator, dtype=DOUBLE)
    if isinstance(covariance, str):
        factor = torch.randn(d, d, generator=generator, dtype=DOUBLE)
        covariance = matrix = factor @ factor.T + torch.eye(d, dtype=DOUBLE)
    else:
        matrix = covariance * torch.eye(d, dtype=DOUBLE)
    gaussian, peer = Gaussian(mean, covariance), MultivariateNormal(mean.reshape(d), matrix)
    x = torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    torch.testing.assert_close(gaussian.log_prob(x), peer.log_prob(x.reshape(3, d)), **EXACTLY)
    expected = -torch.linalg.solve(matrix, (x - mean).reshape(3, d).T).T.reshape(x.shape)
    torch.testing.assert_close(gaussian.score(x), expected, **EXACTLY)
    samples = gaussian.sample(4000, generator).reshape(4000, d)
    # N(0, I) once whitened; Bonferroni over at most 16 coordinates
    white = torch.linalg.solve(torch.linalg.cholesky(matrix), (samples - peer.mean).T)
    assert min(scipy.stats.kstest(row, "norm").pvalue for row in white) > 0.001 / 16


def test_gaussian_is_standard_by_default():
    gaussian = Gaussian(torch.zeros(2))
    expected = torch.tensor([-math.log(2 * math.pi), -math.log(2 * math.pi) - 2.5])
    torch.testing.assert_close(gaussian.log_prob(torch.tensor([[0.0, 0.0], [1.0, 2.0]])), expected)


def test_ring_is_where_it_should_be():
    ring = ring_of_gaussians()
    assert ring.means.shape == (11, 2)
    points = torch.view_as_complex(ring.means)
    # the eleventh roots of 10¹¹; eleven roundings of float32
    torch.testing.assert_close(points**11 / 1e11, torch.ones_like(points), rtol=0, atol=1e-5)
    assert len(torch.unique(points.angle().round(decimals=3))) == 11
    torch.testing.assert_close(ring.covariances, torch.ones(11))


def test_ring_takes_a_standard_deviation_and_not_a_variance(generator):
    ring = ring_of_gaussians(modes=3, radius=0.0, std=0.1)
    std = ring.sample(10000, generator).std().item()
    # 20000 numbers: the relative standard error is 1/√40000 = 0.005, times four
    assert std == pytest.approx(0.1, rel=0.02)


def test_eight_gaussians():
    mixture = eight_gaussians()
    directions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    for point in torch.cat([5 * directions, 5 * (directions + directions.roll(1, 0)) / 2**0.5]):
        assert torch.cdist(point[None], mixture.means).min() < 1e-5
    torch.testing.assert_close(mixture.covariances, torch.full((8,), 0.25))


def test_two_moons_without_noise_are_two_half_circles(generator):
    x = two_moons(noise=0.0, scale=1.0).sample(4000, generator)
    x, y = x[:, 0] + 0.5, x[:, 1] + 0.25
    # half circles about (0, 0) above and about (1, ½) below
    upper = ((x**2 + y**2 - 1).abs() < 1e-5) & (y > -1e-6)
    lower = (((x - 1) ** 2 + (y - 0.5) ** 2 - 1).abs() < 1e-5) & (y < 0.5 + 1e-6)
    assert bool((upper | lower).all())
    # the angle on the upper one is uniform, and each is drawn half of the time
    angles = torch.atan2(y[upper], x[upper]).clamp(min=0) / math.pi
    assert scipy.stats.kstest(angles, "uniform").pvalue > 0.001
    assert scipy.stats.binomtest(int(upper.sum()), 4000).pvalue > 0.001
    angles = torch.atan2(0.5 - y[lower], 1 - x[lower]).clamp(min=0) / math.pi
    assert scipy.stats.kstest(angles, "uniform").pvalue > 0.001


def test_two_moons_scale_and_centre(generator):
    x = two_moons(noise=0.0, scale=2.0).sample(2000, generator)
    # 4 and 2 half-widths less than the sampled ends miss, of order (π/n)²
    torch.testing.assert_close(x.amax(dim=0), torch.tensor([3.0, 1.5]), rtol=0, atol=1e-3)
    torch.testing.assert_close(x.amin(dim=0), torch.tensor([-3.0, -1.5]), rtol=0, atol=1e-3)


def test_circles_without_noise(generator):
    x = circles(noise=0.0).sample(4000, generator)
    inner = x.norm(dim=1) < 2
    torch.testing.assert_close(x[inner].norm(dim=1), torch.full((int(inner.sum()),), 1.5))
    torch.testing.assert_close(x[~inner].norm(dim=1), torch.full((int((~inner).sum()),), 3.0))
    assert scipy.stats.binomtest(int(inner.sum()), 4000).pvalue > 0.001
    for part in (x[inner], x[~inner]):
        angles = torch.atan2(part[:, 1], part[:, 0]) / (2 * math.pi) + 0.5
        assert scipy.stats.kstest(angles, "uniform").pvalue > 0.001


@pytest.mark.parametrize("squares, width", [(4, 8.0), (2, 1.0)])
def test_checkerboard_is_uniform_over_the_dark_squares(squares, width, generator):
    x = checkerboard(squares, width).sample(8000, generator)
    place = (x / width + 0.5) * squares
    square = place.floor().long()
    assert bool(((0 <= square) & (square < squares)).all())
    assert bool((square.sum(dim=1) % 2 == 0).all())
    counts = torch.bincount(square[:, 0] * squares + square[:, 1])
    assert scipy.stats.chisquare(counts[counts > 0]).pvalue > 0.001
    assert int((counts > 0).sum()) == squares**2 // 2
    for coordinate in (place - square).T:
        assert scipy.stats.kstest(coordinate, "uniform").pvalue > 0.001


def test_s_curve_without_noise_is_the_letter(generator):
    x, y = s_curve(noise=0.0, scale=1.0).sample(4000, generator).T
    # circles of radius 1 about (0, 1) and (0, −1)
    on_circle = (x**2 + (y.abs() - 1) ** 2 - 1).abs() < 1e-5
    assert bool(on_circle.all())
    # S and not its mirror image: open on the right above, on the left below
    angle = torch.where(y > 0, torch.atan2(y - 1, x), torch.atan2(y + 1, x))
    assert not bool(((y > 0) & (x > 1e-3) & (y < 1)).any())
    assert not bool(((y < 0) & (x < -1e-3) & (y > -1)).any())
    for half in (angle[y > 0] % (2 * math.pi), (angle[y < 0] + math.pi) % (2 * math.pi)):
        assert scipy.stats.kstest(half / (1.5 * math.pi), "uniform").pvalue > 0.001


@pytest.mark.parametrize(
    "draw, radii",
    [
        (lambda noise: circles(noise), (1.5, 3.0)),
        (lambda noise: circles(noise, radii=(10.0, 20.0)), (10.0, 20.0)),
    ],
)
def test_noise_is_a_standard_deviation(draw, radii, generator):
    x = draw(0.05).sample(10000, generator)
    distance = x.norm(dim=1)
    residual = torch.minimum((distance - radii[0]).abs(), (distance - radii[1]).abs())
    # relative standard error 1/√20000 = 0.007, times four
    assert residual.square().mean().sqrt().item() == pytest.approx(0.05, rel=0.03)


@pytest.mark.parametrize("make", [two_moons, s_curve])
def test_noise_is_added_to_the_same_curve(make):
    """With one seed only the noise differs, by N(0, noise²) in each coordinate."""
    smooth, rough = (
        make(noise=noise).sample(5000, torch.Generator().manual_seed(0)) for noise in (0.0, 0.3)
    )
    for coordinate in (rough - smooth).T:
        assert scipy.stats.kstest(coordinate / 0.3, "norm").pvalue > 0.001


@pytest.mark.parametrize(
    "law", [*TOYS, ring_of_gaussians(), Gaussian(torch.zeros(2), torch.eye(2))], ids=range(6)
)
def test_one_generator_draws_everything(law):
    """Same seed, same samples, and the global generator is left alone."""

    def draw(seed):
        return law.sample(50, torch.Generator().manual_seed(seed))

    state = torch.get_rng_state()
    first, again, other = draw(0), draw(0), draw(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.shape == (50, 2) and first.dtype == torch.float32
    torch.manual_seed(0)
    first = law.sample(50)
    torch.manual_seed(0)
    assert torch.equal(law.sample(50), first)


MEANS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    "make, match",
    [
        (lambda: GaussianMixture(MEANS, torch.ones(3)), r"covariances have shape \(3,\).*\(2,\)"),
        (lambda: GaussianMixture(MEANS, torch.ones(2, 3)), r"\(2, 3, 3\)"),
        (lambda: GaussianMixture(MEANS, torch.ones(2).diag()), "covariances have shape"),
        (
            lambda: GaussianMixture(MEANS, torch.ones(3, 3).triu().expand(2, 3, 3)),
            "not symmetric",
        ),
        (lambda: GaussianMixture(MEANS, torch.tensor([1.0, -1.0])), "negative eigenvalue -1"),
        (
            lambda: GaussianMixture(MEANS, torch.tensor([1.0, 1.0, -2.0]).diag().expand(2, 3, 3)),
            "negative eigenvalue -2",
        ),
        (lambda: GaussianMixture(MEANS, torch.tensor([1.0, float("nan")])), "covariances.*finite"),
        (
            lambda: GaussianMixture(MEANS, torch.ones(2), torch.ones(1)),
            r"weights have shape \(1,\)",
        ),
        (lambda: GaussianMixture(MEANS, torch.ones(2), torch.tensor([0.5, 0.6])), "sum to 1.1"),
        (lambda: GaussianMixture(MEANS, torch.ones(2), torch.tensor([1.5, -0.5])), "positive"),
        (lambda: GaussianMixture(MEANS, torch.ones(2), torch.tensor([1.0, 0.0])), "positive"),
        (lambda: GaussianMixture(MEANS, torch.ones(2), torch.full((2,), float("nan"))), "nan"),
        (lambda: Gaussian(torch.zeros(3), torch.ones(3)), "covariances have shape"),
        (lambda: Gaussian(torch.zeros(3), -1.0), "covariance is -1.0"),
        (lambda: Gaussian(torch.zeros(3), torch.tensor(-1.0)), "negative eigenvalue"),
        (lambda: checkerboard(3), "squares is 3.*even"),
        (lambda: checkerboard(0), "squares is 0"),
    ],
    ids=range(17),
)
def test_wrong_parameters_are_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("name", ["log_prob", "score"])
def test_wrong_events_and_singular_covariances_are_refused(name):
    mixture = GaussianMixture(MEANS, torch.ones(2))
    with pytest.raises(ValueError, match=r"x has event shape \(2,\).*distribution's is \(3,\)"):
        getattr(mixture, name)(torch.zeros(2, 2))
    flat = GaussianMixture(MEANS, torch.tensor([1.0, 1.0, 0.0]).diag().expand(2, 3, 3))
    with pytest.raises(ValueError, match="no density here: its covariance is singular"):
        getattr(flat, name)(torch.zeros(2, 3))
    assert flat.sample(5).isfinite().all()


LAWS = [
    *TOYS,
    ring_of_gaussians(),
    Gaussian(torch.tensor([1.0, 2.0]), torch.tensor([[2.0, 0.5], [0.5, 1.0]])),
    GaussianMixture(torch.eye(2), torch.ones(2), torch.tensor([0.2, 0.8])),
]


@pytest.mark.parametrize("law", LAWS, ids=range(len(LAWS)))
@pytest.mark.parametrize("remade", [copy.deepcopy, lambda law: pickle.loads(pickle.dumps(law))])
def test_a_copy_in_another_process_draws_the_same(law, remade):
    """What a worker of a data loader gets, on systems that start it afresh."""
    again = remade(law)
    one, two = (thing.sample(20, torch.Generator().manual_seed(0)) for thing in (law, again))
    assert torch.equal(one, two)
    if hasattr(law, "log_prob"):
        assert torch.equal(law.log_prob(one), again.log_prob(one))


@pytest.mark.parametrize("law", LAWS, ids=range(len(LAWS)))
def test_no_samples(law):
    assert law.sample(0).shape == (0, 2)
    if hasattr(law, "log_prob"):
        assert law.log_prob(law.sample(0)).shape == (0,)
        assert law.score(law.sample(0)).shape == (0, 2)


@pytest.mark.parametrize("std", [2, np.float64(2.0), np.int64(2)], ids=repr)
def test_whole_numbers_and_those_of_numpy_are_numbers(std):
    ring = ring_of_gaussians(np.int64(3), np.int64(5), std)
    assert torch.equal(ring.means, ring_of_gaussians(3, 5.0, 2.0).means)
    assert torch.equal(ring.covariances, torch.full((3,), 4.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixtures_in_half_precision(dtype):
    """An eigendecomposition is done in single precision; the rest has the digits of the type."""
    means, covariance = torch.tensor([[1.0, -1.0]]), torch.tensor([[[2.0, 0.5], [0.5, 1.0]]])
    x = torch.tensor([[0.5, 0.25], [-1.0, 2.0]])
    half = GaussianMixture(means.to(dtype), covariance.to(dtype)).log_prob(x.to(dtype))
    assert half.dtype == dtype
    expected = MultivariateNormal(means[0], covariance[0]).log_prob(x)
    # a few roundings of the largest term, which is below 8
    torch.testing.assert_close(half.float(), expected, rtol=0, atol=24 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("points", [torch.zeros(3, 1), torch.zeros(2, 2), None], ids=str)
def test_a_data_set_that_draws_something_else_is_refused(points):
    with pytest.raises((TypeError, ValueError), match="points|draw returned shape"):
        Samples(lambda n, generator: points).sample(3)
