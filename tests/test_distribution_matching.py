"""The gradient against autograd on divergences in closed form, the drift against exact scores."""

import math

import numpy as np
import pytest
import torch

from fmtutorial.distribution_matching import distribution_matching_loss, kernel_drift, renoise
from fmtutorial.distributions import GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.networks import MLP
from fmtutorial.paths import LINEAR, SQRT, AffinePath
from fmtutorial.solvers import solve

DOUBLE = torch.float64
PATH = AffinePath(LINEAR)


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


def mixture(means, variances, weights=None):
    """A mixture on the line, whose samples are numbers."""
    return GaussianMixture(
        double(means), double(variances), None if weights is None else double(weights)
    )


def steps(x1, student, target, path, t, x0, **options):
    """Return g, one row for each sample: B times the gradient in x₁."""
    x1 = x1.clone().requires_grad_()
    loss = distribution_matching_loss(x1, student, target, path, t, x0, **options)
    return len(x1) * torch.autograd.grad(loss, x1)[0]


def nodes(order):
    """Return points z and x₀ on a grid, with the weights of two independent N(0, 1)."""
    point, weight = np.polynomial.hermite_e.hermegauss(order)
    z, x0 = (torch.from_numpy(part.flatten()) for part in np.meshgrid(point, point))
    return z, x0, torch.from_numpy(np.outer(weight, weight).flatten()) / (2 * math.pi)


def noised(schedule, t, mean, variance):
    """Return mean and variance of x_t for data of these."""
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return alpha * mean, alpha**2 * variance + sigma**2


# The gradient of a divergence.


@pytest.mark.parametrize("time", [0.2, 0.5, 0.9])
def test_gradient_of_the_divergence_of_two_gaussians(schedule, time):
    """A student a + b z and data N(m, s²): (α²/σ²) E[g · (1, z)] is the gradient in (a, b).

    KL(N(μ, r) ‖ N(ν, u)) = ½ (r/u + (μ − ν)²/u − 1 + log(u/r)), differentiated by autograd. The
    mean over z and x₀ is of a polynomial of degree two: exact by Gauss and Hermite.
    """
    t, m, s = double(time), 0.8, 0.6
    a, b = (double(value).requires_grad_() for value in (-0.5, 1.3))
    (mu, r), (nu, u) = noised(schedule, t, a, b**2), noised(schedule, t, m, s**2)
    divergence = 0.5 * (r / u + (mu - nu) ** 2 / u - 1 + (u / r).log())
    expected = torch.autograd.grad(divergence, [a, b])

    path = AffinePath(schedule)
    student = ExactField(path, mixture([-0.5], [1.3**2]))
    target = ExactField(path, mixture([m], [s**2]))
    z, x0, weight = nodes(6)
    g = steps(-0.5 + 1.3 * z, student, target, path, t.expand(len(z)), x0, normalised=False)
    ratio = (schedule.alpha(t) / schedule.sigma(t)) ** 2
    for along, wanted in zip((1, z), expected, strict=True):
        found = ratio * (weight * g * along).sum()
        # sums of 36 numbers of order 1 to 100 in double precision
        assert found.item() == pytest.approx(wanted.item(), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("time", [0.3, 0.6, 0.8])
def test_gradient_of_the_divergence_from_a_mixture(schedule, time):
    """The same for data of three clumps; KL by the trapezoidal rule, then autograd through it.

    Both rules converge faster than any power here; the integrands are smooth on the scale 0.1.
    """
    t = double(time)
    target = mixture([-1.5, 0.2, 2.0], [0.3, 0.2, 0.5], [0.3, 0.5, 0.2])
    a, b = (double(value).requires_grad_() for value in (0.4, 0.9))
    x = torch.linspace(-16, 16, 4001, dtype=DOUBLE)
    mu, r = noised(schedule, t, a, b**2)
    log_q = -0.5 * ((x - mu) ** 2 / r + (2 * math.pi * r).log())
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    clumps = GaussianMixture(
        alpha * target.means, alpha**2 * target.covariances + sigma**2, target.weights
    )
    divergence = torch.trapezoid(log_q.exp() * (log_q - clumps.log_prob(x)), x)
    expected = torch.autograd.grad(divergence, [a, b])

    path = AffinePath(schedule)
    side = torch.linspace(-8, 8, 201, dtype=DOUBLE)
    z, x0 = (part.flatten() for part in torch.meshgrid(side, side, indexing="ij"))
    weight = (side[1] - side[0]) ** 2 * torch.exp(-0.5 * (z**2 + x0**2)) / (2 * math.pi)
    student = ExactField(path, mixture([0.4], [0.9**2]))
    fields = student, ExactField(path, target)
    g = steps(0.4 + 0.9 * z, *fields, path, t.expand(len(z)), x0, normalised=False)
    for along, wanted in zip((1, z), expected, strict=True):
        found = (alpha / sigma) ** 2 * (weight * g * along).sum()
        assert found.item() == pytest.approx(wanted.item(), rel=1e-7)


def test_gradient_in_the_students_parameters_is_a_mean_over_the_batch(event, generator):
    """Data in one point q, a student believed in one point p: E[x₁ | x_t] is p or q for any x_t.

    For x₁ = a + b z it follows that the gradient is mean_b (p − q) · (1, z_b), summed over events.
    """
    p, q, z, x0 = (torch.randn(3, *event, generator=generator, dtype=DOUBLE) for _ in range(4))
    p, q = p[0], q[0]
    a, b = (double(value).requires_grad_() for value in (0.3, 1.2))
    fields = [ExactField(PATH, point[None]) for point in (p, q)]
    t = double([0.1, 0.5, 0.9])
    loss = distribution_matching_loss(a + b * z, *fields, PATH, t, x0, normalised=False)
    found = torch.autograd.grad(loss, [a, b])
    assert loss.shape == ()
    assert loss.item() == pytest.approx(0.5 * (p - q).square().sum().item())
    assert found[0].item() == pytest.approx((p - q).sum().item())
    assert found[1].item() == pytest.approx(((p - q) * z).sum().item() / 3)


def test_steps_of_point_masses(schedule, event, generator):
    """p − q for every path; normalised, over the mean absolute value of x₁ − q, row by row."""
    p, q = (torch.randn(event, generator=generator, dtype=DOUBLE) for _ in range(2))
    x1, x0 = (torch.randn(3, *event, generator=generator, dtype=DOUBLE) for _ in range(2))
    path, t = AffinePath(schedule), double([0.2, 0.5, 0.9])
    fields = [ExactField(path, point[None]) for point in (p, q)]
    plain = steps(x1, *fields, path, t, x0, normalised=False)
    scaled = steps(x1, *fields, path, t, x0)
    for b in range(3):
        # D divides by α̇σ − ασ̇, down to 0.02 here
        torch.testing.assert_close(plain[b], p - q, rtol=1e-10, atol=1e-10)
        mean = sum(abs(x1[b] - q).flatten().tolist()) / math.prod(event)
        torch.testing.assert_close(scaled[b], (p - q) / mean, rtol=1e-10, atol=1e-10)


def test_fields_see_the_same_noised_samples_once_and_without_gradients(event, generator):
    x1, x0 = (torch.randn(3, *event, generator=generator, dtype=DOUBLE) for _ in range(2))
    t, seen = double([0.25, 0.5, 0.75]), []

    def watched(x, times):
        assert not torch.is_grad_enabled()
        seen.append((x, times))
        return 0 * x

    x1.requires_grad_()
    distribution_matching_loss(x1, watched, lambda x, t: watched(x, t) + x, PATH, t, x0)
    assert len(seen) == 2
    for x, times in seen:
        assert torch.equal(times, t)
        for b in range(3):
            mixed = t[b] * x1[b] + (1 - t[b]) * x0[b]
            torch.testing.assert_close(x[b], mixed, rtol=1e-14, atol=1e-14)


def test_only_the_generator_learns(generator):
    """Three networks: the gradient of the generator is that of ⟨g, G⟩/B with g frozen."""
    torch.manual_seed(0)
    student, target, made = (MLP(width=8, depth=1) for _ in range(3))
    z, x0 = (torch.randn(5, 2, generator=generator) for _ in range(2))
    t, start = torch.linspace(0.1, 0.9, 5), torch.zeros(5)
    arguments = (student, target, PATH, t, x0)
    distribution_matching_loss(z + made(z, start), *arguments).backward()
    assert all(p.grad is None for net in (student, target) for p in net.parameters())
    g = steps((z + made(z, start)).detach(), *arguments)
    expected = torch.autograd.grad((g * made(z, start)).sum() / 5, list(made.parameters()))
    for parameter, wanted in zip(made.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-5, atol=1e-7)  # of float32
        assert wanted.abs().max() > 0


@pytest.mark.parametrize("normalised", [True, False])
def test_nothing_moves_where_the_fields_agree(normalised, schedule, generator):
    x1, x0 = torch.randn(2, 4, 2, generator=generator, dtype=DOUBLE)
    path, t = AffinePath(schedule), double([0.05, 0.3, 0.6, 0.9])
    fields = [lambda x, t: x.sin()] * 2
    found = steps(x1, *fields, path, t, x0, normalised=normalised)
    assert torch.equal(found, torch.zeros_like(found))


def test_sign_moves_samples_to_the_data():
    """Samples near 0, data at 1: a step against the gradient goes up."""
    fields = [ExactField(PATH, mixture([centre], [0.01])) for centre in (0.0, 1.0)]
    x1, x0 = double([-0.1, 0.0, 0.1]), double([0.5, -1.0, 0.2])
    for t in (0.1, 0.5, 0.9):
        assert (steps(x1, *fields, PATH, double([t] * 3), x0) < 0).all()


def test_no_error_to_divide_by():
    """At t = 1 the linear path shows the sample itself, and every field knows it."""
    x1, x0, one = torch.ones(3, 2), torch.zeros(3, 2), torch.tensor([0.5, 1.0, 0.5])
    fields = [lambda x, t: x, lambda x, t: 3 * x]
    with pytest.raises(ValueError, match="the error to divide by is 0; keep t below 1"):
        distribution_matching_loss(x1, *fields, PATH, one, x0)
    found = steps(x1, *fields, PATH, one, x0, normalised=False)
    assert found[1].tolist() == [0, 0] and found[0].abs().min() > 0


@pytest.mark.parametrize(
    "wrong, error, match",
    [
        ({"t": double([0.1, 1.2, 0.5])}, ValueError, r"t = 1.2\d* is outside \[0, 1\]"),
        ({"t": double([0.1, math.nan, 0.5])}, ValueError, "t = nan is outside"),
        ({"t": double([0.5])}, ValueError, r"t has shape \(1,\)"),
        ({"path": AffinePath(SQRT), "t": double([0.1, 0.5, 1.0])}, ValueError, r"\[0, 1\)"),
        ({"x0": torch.zeros(3, 1, dtype=DOUBLE)}, ValueError, r"x0 has shape \(3, 1\) and x1"),
        ({"student": lambda x, t: x[:, :1]}, ValueError, r"v has shape \(3, 1\)"),
        ({"target": lambda x, t: t}, ValueError, r"v has shape \(3,\)"),
        ({"target": None}, TypeError, "target is of type NoneType"),
        ({"student": None}, TypeError, "student is of type NoneType"),
        ({"path": LINEAR}, TypeError, "path is of type Schedule"),
    ],
    ids=range(10),
)
def test_loss_refuses(wrong, error, match):
    x = torch.ones(3, 2, dtype=DOUBLE)
    valid = {"x1": x, "x0": x, "t": double([0.1, 0.5, 0.9]), "path": PATH}
    valid |= {"student": lambda x, t: x, "target": lambda x, t: 2 * x}
    with pytest.raises(error, match=match):
        distribution_matching_loss(**valid | wrong)


# The drift of a kernel.


@pytest.mark.parametrize("width", [0.3, 1.0, 4.0])
def test_drift_is_the_difference_of_two_scores(width, event, generator):
    """h² (∇ log p_h − ∇ log q_h), the scores those of mixtures of N(point, h² I)."""
    x, data, own = (torch.randn(n, *event, generator=generator, dtype=DOUBLE) for n in (3, 5, 4))

    def score(points):
        return GaussianMixture(points, torch.full((len(points),), width**2, dtype=DOUBLE)).score(x)

    found = kernel_drift(x, data, own, width)
    assert found.shape == x.shape
    # the scores are divided by h², and multiplied by it again
    torch.testing.assert_close(found, width**2 * (score(data) - score(own)), rtol=0, atol=1e-12)


def test_drift_is_the_slope_of_the_blurred_densities(event, generator):
    """The same by autograd on log Σ_j exp(−‖x − y_j‖²/2h²), written out."""
    data, own = (torch.randn(n, *event, generator=generator, dtype=DOUBLE) for n in (5, 3))
    x, h = torch.randn(3, *event, generator=generator, dtype=DOUBLE).requires_grad_(), 0.7
    total = 0
    for b in range(3):
        for points, sign in ((data, 1), (own, -1)):
            bumps = [torch.exp(-((x[b] - y) ** 2).sum() / (2 * h**2)) for y in points]
            total = total + sign * torch.log(sum(bumps))
    expected = h**2 * torch.autograd.grad(total, x)[0]
    found = kernel_drift(x, data, own, h)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_drift_is_the_step_of_distribution_matching(schedule, event, generator):
    """−g for the exact fields of both batches, where σ = h α: x₁ and x₀ that meet in α x."""
    x, x0, data, own = (torch.randn(n, *event, generator=generator, dtype=DOUBLE) for n in (3,) * 4)
    path, t = AffinePath(schedule), double([0.6] * 3)
    alpha, sigma = (part(t[0]).item() for part in (schedule.alpha, schedule.sigma))
    x1 = x - sigma / alpha * x0
    fields = [ExactField(path, points) for points in (own, data)]
    found = steps(x1, *fields, path, t, x0, normalised=False)
    expected = -kernel_drift(x, data, own, sigma / alpha)
    # through the velocity and back: divided by α̇σ − ασ̇, 0.5 or more here
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_drift_of_single_points_and_of_equal_sets(event, generator):
    """One point each: data − own wherever x is and whatever h. Equal sets push nowhere."""
    x, data, own = (torch.randn(3, *event, generator=generator, dtype=DOUBLE) for _ in range(3))
    found = kernel_drift(x, data[:1], own[:1], 0.1)
    torch.testing.assert_close(found, (data[0] - own[0]).expand(x.shape), rtol=1e-12, atol=1e-12)
    assert torch.equal(kernel_drift(x, data, data, 0.5), torch.zeros_like(x))
    there, back = kernel_drift(x, data, own, 0.5), kernel_drift(x, own, data, 0.5)
    torch.testing.assert_close(there, -back, rtol=0, atol=0)


def test_wide_and_narrow_kernels():
    """Very wide: the difference of the means. Very narrow: of the nearest points, without NaN."""
    x, data, own = (
        torch.tensor([[0.0], [1e4]]),
        torch.tensor([[1.0], [4.0]]),
        torch.tensor([[-3.0]]),
    )
    wide, narrow = kernel_drift(x, data, own, 1e6), kernel_drift(x, data, own, 1e-3)
    torch.testing.assert_close(wide, torch.tensor([[5.5], [5.5]]), rtol=1e-3, atol=0)
    assert narrow.tolist() == [[4.0], [7.0]]


def test_drift_has_the_unit_of_x_and_no_origin(generator):
    """Everything ten times as large, or moved by 1000 in single precision (steps of 6e-5)."""
    x, data, own = (torch.randn(n, 2, generator=generator, dtype=DOUBLE) for n in (40, 50, 60))
    drift = kernel_drift(x, data, own, 0.5)
    large = kernel_drift(10 * x, 10 * data, 10 * own, 5.0)
    torch.testing.assert_close(large, 10 * drift, rtol=1e-12, atol=1e-12)
    moved = kernel_drift(*((part + 1000).float() for part in (x, data, own)), 0.5)
    torch.testing.assert_close(moved.double(), drift, rtol=0, atol=2e-3)


def test_drift_at_no_place():
    assert kernel_drift(torch.zeros(0, 2), torch.zeros(3, 2), torch.zeros(4, 2), 1.0).shape == (
        0,
        2,
    )


@pytest.mark.parametrize(
    "wrong, error, match",
    [
        ({"width": 0.0}, ValueError, r"width is 0.0; it must be a finite number in \(0, ∞\)"),
        ({"width": -1.0}, ValueError, "width is -1.0"),
        ({"width": torch.tensor(1.0)}, TypeError, "pass a number"),
        ({"data": torch.zeros(0, 2)}, ValueError, r"data has shape \(0, 2\).*one or more points"),
        (
            {"own": torch.zeros(4, 1)},
            ValueError,
            r"own has shape \(4, 1\); for x of shape \(3, 2\)",
        ),
        ({"own": torch.zeros(4, 2).long()}, TypeError, "own has dtype torch.int64"),
        ({"x": torch.zeros(())}, ValueError, "x has no batch dimension"),
    ],
    ids=range(7),
)
def test_drift_refuses(wrong, error, match):
    valid = {"x": torch.zeros(3, 2), "data": torch.zeros(5, 2), "own": torch.zeros(4, 2)}
    with pytest.raises(error, match=match):
        kernel_drift(**valid | {"width": 1.0} | wrong)


# New noise between jumps.


@pytest.mark.parametrize("event", [(), (2,), (3,), (1, 4, 4)], ids=str)
def test_jumps_with_new_noise_keep_the_distribution(schedule, event):
    """A jump that is right from each time ends at data, however many come before it.

    The jump is the flow of chapter 2 to N(m, s²), x₁ = m + s (x − α m)/√(α² s² + σ²), written as
    a velocity. Mean and variance of N numbers have standard errors s/√N and s² √(2/N).
    """
    m, s, path = 0.7, 0.4, AffinePath(schedule)

    def field(x, t):
        a, b = (f(t).view(-1, *[1] * (x.ndim - 1)) for f in (schedule.alpha, schedule.sigma))
        x1 = m + s * (x - a * m) / (a**2 * s**2 + b**2).sqrt()
        return path.convert(x1, x, t, "data", "velocity")

    generator = torch.Generator().manual_seed(3)
    n = 40_000 // math.prod(event)
    x0 = torch.randn(n, *event, generator=generator, dtype=DOUBLE)
    times = torch.tensor([0.1, 0.4, 0.7, 0.95])
    start = path.sample(x0, m + s * torch.randn_like(x0), times[0].double().expand(n)).x_t
    solution = solve(field, start, times, renoise(path, generator=generator))
    for t, states in zip(times, solution.states, strict=True):
        mean, variance = noised(schedule, t.double(), m, s**2)
        size = states.numel()
        assert abs(states.mean() - mean) < 5 * (variance / size) ** 0.5
        assert abs(states.var() - variance) < 5 * variance * (2 / size) ** 0.5


def test_one_jump_by_hand(schedule):
    """The answer in closed form: the data that the field predicts, cut, and the noise drawn."""
    path, t = AffinePath(schedule), torch.tensor([0.3, 0.6])
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)

    def field(x, t):
        return path.convert(3 * x, x, t, "data", "velocity")

    for bound in (math.inf, 0.5):
        jump = renoise(path, bound, torch.Generator().manual_seed(2))
        fresh = torch.randn(5, 2, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
        data = torch.tensor([[min(max(3 * a, -bound), bound) for a in row] for row in x.tolist()])
        end = t[1].double()
        expected = schedule.alpha(end) * data + schedule.sigma(end) * fresh
        torch.testing.assert_close(solve(field, x, t, jump).last, expected, rtol=1e-6, atol=1e-6)


def test_new_noise_cannot_be_undone():
    with pytest.raises(ValueError, match="times must increase"):
        solve(lambda x, t: x, torch.zeros(2, 2), torch.tensor([0.6, 0.3]), renoise(PATH))
