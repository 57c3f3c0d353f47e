"""Distances against POT, SciPy, brute force and numbers worked out by hand."""

import itertools
import math

import numpy as np
import ot
import pytest
import scipy.linalg
import scipy.stats
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fmtutorial.distributions import ring_of_gaussians
from fmtutorial.metrics import (
    Moments,
    energy_distance,
    frechet_between,
    frechet_distance,
    fresh_ratio,
    mode_shares,
    moments,
    relative_error,
    two_sample_test,
    wasserstein,
)

DOUBLE = torch.float64


def pair(n, event, generator):
    x, y = (torch.randn(n, *event, generator=generator, dtype=DOUBLE) for _ in range(2))
    return x, 0.5 * y + 1


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_wasserstein_over_all_permutations(n, event, generator):
    x, y = pair(n, event, generator)
    best = min(
        sum(((x[i] - y[j]) ** 2).sum().item() for i, j in enumerate(order)) / n
        for order in itertools.permutations(range(n))
    )
    assert wasserstein(x, y) == pytest.approx(math.sqrt(best), rel=1e-12)


def test_wasserstein_against_pot(event, generator):
    x, y = pair(60, event, generator)
    cost = ot.dist(x.reshape(60, -1).numpy(), y.reshape(60, -1).numpy())
    weights = np.full(60, 1 / 60)
    # the network simplex stops within 1e-9 or so
    assert wasserstein(x, y) ** 2 == pytest.approx(ot.emd2(weights, weights, cost), rel=1e-7)


def test_wasserstein_of_a_shift_is_its_length(generator):
    """Optimal for any set; the unit of x, and one million-fold closer than the spread."""
    x = torch.randn(50, 2, generator=generator, dtype=DOUBLE)
    order = torch.randperm(50, generator=generator)
    assert wasserstein(x, x[order] + torch.tensor([3.0, 4.0])) == pytest.approx(5)
    assert wasserstein(x, x[order]) == 0
    assert wasserstein(x + 1e3, x[order] + 1e3 + 1e-6) == pytest.approx(2**0.5 * 1e-6, rel=1e-4)


def test_energy_distance_is_scipys_in_one_dimension(generator):
    """SciPy integrates the squared difference of the distribution functions."""
    for event in [(), (1,)]:
        x, y = pair(40, event, generator)
        expected = scipy.stats.energy_distance(x.flatten().numpy(), y.flatten().numpy())
        assert energy_distance(x, y) == pytest.approx(expected, rel=1e-10)


def test_energy_distance_over_all_pairs(event, generator):
    x, y = pair(5, event, generator)

    def mean(a, b):
        return sum((p - q).square().sum().sqrt().item() for p in a for q in b) / 25

    expected = math.sqrt(2 * mean(x, y) - mean(x, x) - mean(y, y))
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-12)
    # the root of roundings of 1e-16
    assert energy_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-7)


def test_two_sample_test_over_all_splits(generator):
    """4 and 5 points on a line have 126 splits: SciPy tries them all, with its own distance."""
    x, y = torch.randn(4, generator=generator), torch.randn(5, generator=generator) + 2
    exact = scipy.stats.permutation_test(
        (x.double().numpy(), y.double().numpy()),
        scipy.stats.energy_distance,
        alternative="greater",
        n_resamples=np.inf,
    )
    assert 0.1 < exact.pvalue < 0.5  # neither end hides an error
    draws = 4000
    found = two_sample_test(x, y, draws, generator)
    assert found.distance == pytest.approx(exact.statistic, rel=1e-10)
    # five standard errors of a share and of a mean
    error = math.sqrt(exact.pvalue * (1 - exact.pvalue) / draws)
    assert abs(found.p_value - exact.pvalue) < 5 * error
    null = exact.null_distribution
    assert abs(found.floor - null.mean()) < 5 * null.std() / math.sqrt(draws)
    # between the quantiles of 94 % and 96 %: five standard errors of the 95 % are 1.7 %
    low, high = np.quantile(null, [0.93, 0.97])
    assert low <= found.limit <= high


def test_two_sample_test_has_uniform_p_values(generator):
    """Kolmogorov's bound: of 400 uniform numbers the shares stray by 0.1 once in 1500 trials."""
    event = (2,)
    values = [
        two_sample_test(
            torch.rand(12, *event, generator=generator),
            torch.rand(20, *event, generator=generator),
            99,
            generator,
        ).p_value
        for _ in range(400)
    ]
    levels = torch.arange(1, 101) / 100  # what 99 splits can give
    shares = torch.stack(
        [(torch.tensor(values) <= level + 1e-6).float().mean() for level in levels]
    )
    assert (shares - levels).abs().max() < 0.1
    assert min(values) >= 0.01 - 1e-12


@pytest.mark.parametrize("sizes", [(60, 60), (30, 90)], ids=str)
def test_two_sample_test_finds_a_shift(sizes, event, generator):
    x, y = (torch.randn(n, *event, generator=generator) for n in sizes)
    found = two_sample_test(x, y + 1.5, 199, generator)
    assert found.p_value == 1 / 200 and found.distance > 1.5 * found.limit > found.floor > 0
    assert found == pytest.approx(two_sample_test(y + 1.5, x, 199, generator), rel=0.3)


def test_two_sample_test_counts_ties(generator):
    """Of 10 and 10 points 7 and 3 are 0.3, the rest 0: a split is as large if it is as uneven."""
    x, y = (torch.tensor([0.3] * n + [0.0] * (10 - n)) for n in (7, 3))
    uneven = scipy.stats.hypergeom(20, 10, 10)
    expected = 2 * uneven.cdf(3)  # 3 or fewer, 7 or more
    found = two_sample_test(x, y, 4000, generator).p_value
    assert abs(found - expected) < 5 * math.sqrt(expected * (1 - expected) / 4000)


def test_two_sample_test_of_equal_points_finds_nothing(generator):
    """Every split is as large: each counts, whatever the rounding."""
    x = torch.randn(10, 3, generator=generator).repeat(2, 1)
    assert two_sample_test(x[:10], x[10:], 99, generator).p_value > 0.99
    ones = torch.ones(4, 2)
    assert two_sample_test(ones, ones, 9, generator) == (0.0, 1.0, 0.0, 0.0)


def test_two_sample_test_has_its_own_seed():
    x, y = torch.randn(20, 2), torch.randn(20, 2)
    first, again, other = (
        two_sample_test(x, y, 20, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first == again and first.floor != other.floor


RING = ring_of_gaussians(modes=11, radius=10.0, std=1.0)


def ratio_on_the_ring(samples, generator):
    return fresh_ratio(samples, lambda n: RING.sample(n, generator), parts=8)


def test_fresh_ratio_of_data_is_one(generator):
    """And its error is the scatter that it has: twelve ratios over their errors."""
    ratios = [ratio_on_the_ring(RING.sample(800, generator), generator) for _ in range(12)]
    scores = torch.tensor([(found.value - 1) / found.error for found in ratios])
    # Student's t with 7 degrees of freedom: beyond 5.4 once in 1000; 12 have a spread near 1.2
    assert scores.abs().max() < 5.4
    assert 0.6 < scores.square().mean().sqrt() < 2.0


@pytest.mark.parametrize("scale", [0.87, 1.15])
def test_fresh_ratio_finds_a_ring_of_another_size(scale, generator):
    """The former test, one distance below a mean plus four spreads, let both pass."""
    value, error, *_ = ratio_on_the_ring(scale * RING.sample(8000, generator), generator)
    assert value > 1.25 and value > 1 + 4 * error


def test_fresh_ratio_by_hand(event):
    """Samples at 3 and 6, data at 0, fresh data at 1 and 2: 4.5 / 1.5; the ratios are all 3."""
    samples = torch.cat([torch.full((2, *event), v) for v in (3.0, 6.0)])
    unit = math.sqrt(math.prod(event))  # the distance of 0 and 1
    draws = iter(torch.full((2, *event), v) for v in (0.0, 1.0, 0.0, 2.0))
    found = fresh_ratio(samples, lambda n: next(draws), parts=2)
    assert found == pytest.approx((3, 0, 4.5 * unit, 1.5 * unit))
    # 3 and 3, fresh 1 and 2: 2; residuals 3 − 2 and 3 − 4 have the spread √2, over 1.5 √2
    draws = iter(torch.full((2, *event), v) for v in (0.0, 1.0, 0.0, 2.0))
    found = fresh_ratio(samples[[0, 1, 0, 1]], lambda n: next(draws), parts=2)
    assert found == pytest.approx((2, 2 / 3, 3 * unit, 1.5 * unit))


def test_fresh_ratio_refuses_what_it_cannot_cut(generator):
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match="3 samples cannot be cut into 4 parts"):
        fresh_ratio(x, lambda n: torch.randn(n, 2), parts=4)
    with pytest.raises(ValueError, match="parts is 1; it must be at least 2"):
        fresh_ratio(x, lambda n: torch.randn(n, 2), parts=1)
    with pytest.raises(ValueError, match="draw_data must draw anew"):
        fresh_ratio(x, lambda n: torch.ones(n, 2), parts=3)
    with pytest.raises(ValueError, match=r"\(1, 2\).*\(1, 3\)"):
        fresh_ratio(x, lambda n: torch.randn(n, 3), parts=3)


@pytest.mark.parametrize("d, n, m", [(1, 30, 20), (2, 50, 50), (3, 3, 10), (16, 40, 60)])
def test_frechet_against_scipys_matrix_root(d, n, m, generator):
    x = torch.randn(n, d, generator=generator, dtype=DOUBLE) + 1
    y = torch.randn(m, d, generator=generator, dtype=DOUBLE) @ torch.randn(
        d, d, generator=generator, dtype=DOUBLE
    )
    cov_x, cov_y = (np.cov(a.numpy(), rowvar=False).reshape(d, d) for a in (x, y))
    mean_x, mean_y = x.numpy().mean(axis=0), y.numpy().mean(axis=0)
    root = np.real(scipy.linalg.sqrtm(cov_x @ cov_y))
    expected = ((mean_x - mean_y) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root)
    # 3 samples in 3 dimensions are singular, where a matrix root has half the digits
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_singular_covariances(generator):
    """A feature written down r times counts r times; rounding below zero must not make a NaN."""
    x, y = torch.randn(20, 1, generator=generator), 2 * torch.randn(20, 1, generator=generator)
    for r in (2, 5, 16):
        repeated = frechet_distance(x.repeat(1, r), y.repeat(1, r))
        assert repeated == pytest.approx(r * frechet_distance(x, y), rel=1e-6)


def test_frechet_by_hand():
    """Means 0 and 3, standard deviations √2 and 3√2: 9 + 2 + 18 − 2 · 6 = 17."""
    x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.0], [6.0]])
    assert frechet_distance(x, y) == pytest.approx(17)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("n, d", [(2, 1), (30, 1), (5, 3), (4, 4), (3, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
def test_moments_are_numpys(n, d, dtype, generator):
    """Far from 0, where a covariance in float32 would be wrong in its first digit."""
    x = 1e4 + torch.randn(n, d, generator=generator, dtype=dtype)
    mean, covariance = moments(x)
    assert mean.dtype == covariance.dtype == DOUBLE
    assert mean.shape == (d,) and covariance.shape == (d, d)
    exact = x.numpy().astype(np.float64)
    np.testing.assert_allclose(mean.numpy(), exact.mean(axis=0), rtol=1e-14)
    expected = np.cov(exact, rowvar=False).reshape(d, d)
    # 1e4 is known to 1e-12, and so is a difference of order 1 from it
    np.testing.assert_allclose(covariance.numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [(3,), (1, 2), (0, 2), (3, 2, 1), ()], ids=str)
def test_moments_refuse_what_is_no_matrix_of_features(shape):
    with pytest.raises(ValueError):
        moments(torch.zeros(shape))


def test_moments_refuse_integers_and_what_is_not_finite():
    with pytest.raises(TypeError, match="torch.uint8; states are real numbers"):
        moments(torch.zeros(3, 2, dtype=torch.uint8))
    for value in (float("nan"), -float("inf")):
        with pytest.raises(ValueError, match="not finite"):
            moments(torch.tensor([[0.0, 1.0], [2.0, value]]))


def random_moments(d, rank, generator):
    """Moments of any Gaussian, with a covariance of some rank."""
    factor = torch.randn(d, rank, generator=generator, dtype=DOUBLE)
    return Moments(torch.randn(d, generator=generator, dtype=DOUBLE), factor @ factor.T)


@pytest.mark.parametrize("d, rank", [(1, 1), (2, 2), (7, 7), (7, 3)])
def test_frechet_between_moments_against_scipys_matrix_root(d, rank, generator):
    first, second = random_moments(d, rank, generator), random_moments(d, d, generator)
    root = np.real(scipy.linalg.sqrtm((first.covariance @ second.covariance).numpy()))
    expected = ((first.mean - second.mean) ** 2).sum().item() + np.trace(
        first.covariance.numpy() + second.covariance.numpy() - 2 * root
    )
    # a singular covariance leaves a matrix root half the digits
    assert frechet_between(first, second) == pytest.approx(expected, rel=1e-6)
    assert frechet_between(second, first) == pytest.approx(expected, rel=1e-6)


def test_frechet_between_moments_by_hand():
    """Independent features add up: (1 − 3)² of the first, 5² + (4 − 2)² of the second."""
    first = Moments(torch.tensor([0.0, 5.0]).double(), torch.tensor([1.0, 16.0]).double().diag())
    second = Moments(torch.tensor([0.0, 0.0]).double(), torch.tensor([9.0, 4.0]).double().diag())
    assert frechet_between(first, second) == pytest.approx(2**2 + 5**2 + 2**2)
    assert frechet_between(first, first) == pytest.approx(0, abs=1e-12)


def test_frechet_of_samples_is_that_between_their_moments(generator):
    x, y = (torch.randn(n, 3, generator=generator) * (1 + n / 50) for n in (20, 30))
    assert frechet_distance(x, y) == frechet_between(moments(x), moments(y))


def test_frechet_between_different_features_is_refused(generator):
    one, three = random_moments(1, 1, generator), random_moments(3, 3, generator)
    with pytest.raises(ValueError, match=r"shapes \(1,\) and \(3,\): .*the same features"):
        frechet_between(one, three)
    with pytest.raises(ValueError, match=r"shapes \(3,\) and \(1,\): .*the same features"):
        frechet_between(three, one)


def test_relative_error_by_hand(event):
    """Errors 1, −2, 0 beside truths 2, 2, 2: √(5/12); signs do not cancel."""
    truth = torch.full((3, *event), 2.0)
    estimate = truth.clone()
    estimate[0] += 1
    assert relative_error(estimate, truth) == pytest.approx(math.sqrt(1 / 12))
    estimate[1] -= 2
    assert relative_error(estimate, truth) == pytest.approx(math.sqrt(5 / 12))
    assert relative_error(truth, truth) == 0


def test_mode_shares_count_the_nearest_centre(event):
    """Three near −2, one near 0, none near 100, two near 5, none near 200."""
    values = [-2.1, 0.2, -1.9, 4.0, 5.5, -7.0]
    x = torch.stack([torch.full(event, v) for v in values])
    centres = torch.stack([torch.full(event, v) for v in (-2.0, 0.0, 100.0, 5.0, 200.0)])
    shares = mode_shares(x, centres)
    torch.testing.assert_close(shares, torch.tensor([3.0, 1.0, 0.0, 2.0, 0.0]) / 6)


def test_mode_shares_of_many_samples(generator):
    """More than 25 rows, where cdist would turn to matrix products."""
    x = torch.randn(200, 2, generator=generator)
    centres = torch.randn(5, 2, generator=generator)
    nearest = [min(range(5), key=lambda k, p=p: (p - centres[k]).norm().item()) for p in x]
    expected = torch.tensor([nearest.count(k) / 200 for k in range(5)])
    torch.testing.assert_close(mode_shares(x, centres), expected)


PAIRS = [
    wasserstein,
    energy_distance,
    relative_error,
    frechet_distance,
    mode_shares,
    two_sample_test,
]


@pytest.mark.parametrize("metric", PAIRS)
def test_wrong_samples_are_refused(metric):
    x = torch.zeros(3, 3)
    with pytest.raises(TypeError, match="torch.int64; states are real numbers"):
        metric(x, x.long())
    with pytest.raises(TypeError, match="torch.int64; states are real numbers"):
        metric(x.long(), x)
    with pytest.raises(TypeError, match="is a list; pass a torch.Tensor"):
        metric(x, [[0.0]])
    with pytest.raises(ValueError, match=r"shapes? .*3,.*2"):
        metric(x, torch.zeros(3, 2))


@pytest.mark.parametrize("metric", PAIRS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_finite_are_refused(metric, value):
    """A diverged sample must not be counted to some mode."""
    x, wrong = torch.zeros(3, 3), torch.zeros(3, 3)
    wrong[1, 2] = value
    for arguments in ((x, wrong), (wrong, x)):
        with pytest.raises(ValueError, match="a sample is not finite"):
            metric(*arguments)


@pytest.mark.parametrize("metric", PAIRS)
@pytest.mark.parametrize("shape", [(0, 2), (3, 0)], ids=str)
def test_no_samples_are_refused(metric, shape):
    with pytest.raises(ValueError, match=r"pass (at least one sample|\(B, D\))"):
        metric(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize("metric", [wasserstein, energy_distance, relative_error])
def test_sets_of_unequal_size_are_refused(metric):
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(1, 2\)"):
        metric(torch.zeros(3, 2), torch.zeros(1, 2))


@pytest.mark.parametrize("shape", [(3,), (1, 2), (3, 2, 1)], ids=str)
def test_frechet_refuses_what_is_no_matrix_of_features(shape):
    with pytest.raises(ValueError, match=r"features have shape .*pass \(B, D\)"):
        frechet_distance(torch.zeros(3, 2), torch.zeros(shape))


def test_frechet_refuses_what_are_no_moments():
    good = Moments(torch.zeros(2), torch.eye(2))
    with pytest.raises(TypeError, match="second is a Tensor; pass moments"):
        frechet_between(good, torch.zeros(5, 2))
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3, 3\); pass a mean"):
        frechet_between(Moments(torch.zeros(2), torch.eye(3)), good)
    with pytest.raises(ValueError, match="not finite: .* in second"):
        frechet_between(good, Moments(torch.zeros(2), torch.eye(2) / 0))


def test_relative_error_to_nothing_is_refused():
    with pytest.raises(ValueError, match="truth is zero everywhere"):
        relative_error(torch.ones(3, 2), torch.zeros(3, 2))


@pytest.mark.parametrize("permutations", [0, -1])
def test_two_sample_test_needs_splits(permutations):
    with pytest.raises(ValueError, match="permutations is .*; it must be at least 1"):
        two_sample_test(torch.zeros(3, 2), torch.ones(3, 2), permutations)


class WithoutDouble(TorchDispatchMode):
    """A device without float64, such as Apple's: every tensor that has it is refused."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if getattr(result, "dtype", None) == torch.float64:
            raise TypeError("this device has no float64")
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("metric", PAIRS)
def test_metrics_need_no_device_with_float64(metric, dtype, generator):
    x, y = (torch.randn(5, 2, generator=generator).to(dtype) for _ in range(2))
    first, second = (generator.clone_state() for _ in range(2))
    options = [(first,), (second,)] if metric is two_sample_test else [(), ()]
    options = [(99, *option) if option else () for option in options]
    with WithoutDouble():
        found = metric(x, y, *options[0])
    expected = metric(x.double(), y.double(), *options[1])
    if metric is mode_shares:
        torch.testing.assert_close(found, expected)
    else:
        assert found == pytest.approx(expected, rel=1e-12)
