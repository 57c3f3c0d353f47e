"""Schedules and affine paths against autograd, quadrature and joint Gaussians."""

import copy
import math
import pickle

import pytest
import torch
from scipy.integrate import quad, solve_ivp

from fmtutorial.paths import COSINE, LINEAR, QUANTITIES, SQRT, VP, AffinePath, Schedule, lipman

DOUBLE = torch.float64
# Rounding of a few operations in float64, with a margin for division by small σ.
EXACTLY = {"rtol": 1e-10, "atol": 1e-12}


def column(values):
    return torch.tensor(values, dtype=DOUBLE)


# α_0, σ_0, α_1, σ_1
ENDPOINTS = {
    "linear": (0, 1, 1, 0),
    "lipman(0.1)": (0, 1, 1, 0.1),
    "cosine": (0, 1, 1, 0),
    "square-root": (0, 1, 1, 0),
    # log α_0 = −½ ∫ β = −½ (0.1 + 20) / 2
    "variance-preserving": (math.exp(-5.025), math.sqrt(1 - math.exp(-10.05)), 1, 0),
}


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_schedules_start_in_noise_and_end_in_data(schedule, dtype):
    alpha_0, sigma_0, alpha_1, sigma_1 = ENDPOINTS[schedule.name]
    start, end = torch.zeros(1, dtype=dtype), torch.ones(1, dtype=dtype)
    # float32 carries the exponent −5.025 to 2e-7
    assert schedule.alpha(start).item() == pytest.approx(alpha_0, rel=1e-6, abs=0)
    assert schedule.sigma(start).item() == pytest.approx(sigma_0, rel=1e-6)
    assert schedule.alpha(end).item() == alpha_1
    assert schedule.sigma(end).item() == pytest.approx(sigma_1, rel=1e-7, abs=0)


@pytest.mark.parametrize(
    "schedule, t, alpha, sigma",
    [
        (LINEAR, 0.25, 0.25, 0.75),
        (lipman(0.1), 0.5, 0.5, 0.55),
        (COSINE, 1 / 3, 0.5, math.sqrt(3) / 2),
        (SQRT, 0.36, 0.36, 0.8),
    ],
    ids=str,
)
def test_schedules_at_a_time_worked_out_by_hand(schedule, t, alpha, sigma):
    assert schedule.alpha(column([t])).item() == pytest.approx(alpha, rel=1e-14)
    assert schedule.sigma(column([t])).item() == pytest.approx(sigma, rel=1e-14)


@pytest.mark.parametrize("t", [0.0, 0.2, 0.7, 0.99])
def test_vp_integrates_the_rate_of_the_diffusion(t):
    """dx = −½β x ds + √β dW from s = 0 (data) to s = 1 − t, with β from 0.1 to 20."""

    def beta(s):
        return 0.1 + s * (20 - 0.1)

    alpha = math.exp(-0.5 * quad(beta, 0, 1 - t)[0])
    # the variance of the noise solves dV/ds = β (1 − V)
    variance = solve_ivp(
        lambda s, v: beta(s) * (1 - v), (0, 1 - t), [0.0], rtol=1e-12, atol=1e-14
    ).y[0, -1]
    assert VP.alpha(column([t])).item() == pytest.approx(alpha, rel=1e-12)
    # the tolerances of the integrator, with a margin
    assert VP.sigma(column([t])).item() ** 2 == pytest.approx(variance, rel=1e-9)


def test_derivatives_of_the_schedules(schedule):
    """By autograd, on the closed interval where σ has a derivative at 1."""
    last = 1.0 if schedule.finite_at_one else 0.999
    t = torch.linspace(0, last, 50, dtype=DOUBLE).requires_grad_()
    for value, derivative in [
        (schedule.alpha, schedule.alpha_dot),
        (schedule.sigma, schedule.sigma_dot),
    ]:
        (expected,) = torch.autograd.grad(value(t).sum(), t)
        torch.testing.assert_close(derivative(t), expected, **EXACTLY)


def test_finite_at_one_says_whether_sigma_dot_is_finite(schedule):
    at_one = schedule.sigma_dot(column([1.0]))
    assert bool(torch.isfinite(at_one).all()) == schedule.finite_at_one


def test_alpha_rises_and_sigma_falls(schedule):
    t = torch.linspace(0, 1, 200, dtype=DOUBLE)
    assert bool((schedule.alpha(t).diff() > 0).all())
    assert bool((schedule.sigma(t).diff() < 0).all())


def test_sigma_keeps_its_digits_near_one(schedule):
    """float32 at 1 − 1e-6 against float64 at the same number: a few roundings, 1e-6."""
    t = torch.tensor([1 - 1e-6, 1 - 1e-4], dtype=torch.float32)
    torch.testing.assert_close(
        schedule.sigma(t).double(), schedule.sigma(t.double()), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("wrong", [-0.1, 1.0, 1.5, float("nan")])
def test_lipman_refuses_a_sigma_min_outside_its_interval(wrong):
    with pytest.raises(ValueError, match=r"sigma_min is .*\[0, 1\)"):
        lipman(wrong)


def triple(event, generator):
    """x0, x1 and times, of which no two are equal."""
    x0, x1 = (torch.randn(3, *event, generator=generator, dtype=DOUBLE) for _ in range(2))
    return x0, x1, column([0.1, 0.5, 0.9])


def test_sample_interpolates_each_sample_at_its_own_time(schedule, event, generator):
    x0, x1, t = triple(event, generator)
    x_t = AffinePath(schedule).sample(x0, x1, t).x_t
    assert x_t.shape == x0.shape
    for b in range(3):
        alpha, sigma = schedule.alpha(t[b]).item(), schedule.sigma(t[b]).item()
        torch.testing.assert_close(x_t[b], alpha * x1[b] + sigma * x0[b], **EXACTLY)


def test_sample_velocity_is_the_time_derivative(schedule, event, generator):
    x0, x1, t = triple(event, generator)
    path = AffinePath(schedule)
    _, derivative = torch.autograd.functional.jvp(
        lambda t: path.sample(x0, x1, t).x_t, t, torch.ones_like(t)
    )
    torch.testing.assert_close(path.sample(x0, x1, t).velocity, derivative, **EXACTLY)


def test_sample_at_the_ends_is_noise_and_data(event, generator):
    x0, x1, _ = triple(event, generator)
    for schedule in (LINEAR, COSINE):
        path = AffinePath(schedule)
        assert torch.equal(path.sample(x0, x1, torch.zeros(3, dtype=DOUBLE)).x_t, x0)
        assert torch.equal(path.sample(x0, x1, torch.ones(3, dtype=DOUBLE)).x_t, x1)


def test_conditional_velocity_is_that_of_the_passing_sample(schedule, event, generator):
    x0, x1, t = triple(event, generator)
    path = AffinePath(schedule)
    sample = path.sample(x0, x1, t)
    torch.testing.assert_close(
        path.conditional_velocity(sample.x_t, x1, t), sample.velocity, **EXACTLY
    )


def test_conditional_velocity_drives_noise_along_the_path(schedule):
    """SciPy integrates u_t(x | x₁) from x₀; it must arrive where the path says."""
    path = AffinePath(schedule)
    x0, x1 = column([[-0.7, 1.2]]), column([[2.0, -0.5]])
    start = path.sample(x0, x1, column([0.1])).x_t

    def velocity(t, x):
        return path.conditional_velocity(torch.from_numpy(x)[None], x1, column([t]))[0].numpy()

    end = solve_ivp(velocity, (0.1, 0.9), start[0].numpy(), rtol=1e-10, atol=1e-10).y[:, -1]
    expected = path.sample(x0, x1, column([0.9])).x_t[0]
    torch.testing.assert_close(torch.from_numpy(end), expected, rtol=1e-7, atol=1e-7)


def test_conditional_score_is_the_gradient_of_the_log_density(schedule, event, generator):
    x, x1, t = triple(event, generator)
    x.requires_grad_()
    for b in range(3):
        density = torch.distributions.Normal(schedule.alpha(t[b]) * x1[b], schedule.sigma(t[b]))
        (expected,) = torch.autograd.grad(density.log_prob(x[b]).sum(), x)
        score = AffinePath(schedule).conditional_score(x, x1, t)
        torch.testing.assert_close(score[b], expected[b], **EXACTLY)


def conditional_means(schedule, event, generator):
    """All four quantities for x₁ ~ N(m, S) by conditioning of the joint Gaussian (x₁, x₀, x_t)."""
    d = math.prod(event)
    mean = torch.randn(d, generator=generator, dtype=DOUBLE)
    factor = torch.randn(d, d, generator=generator, dtype=DOUBLE)
    covariance = factor @ factor.T / d + 0.1 * torch.eye(d, dtype=DOUBLE)
    x, _, t = triple(event, generator)
    x.requires_grad_()
    values = {name: [] for name in QUANTITIES}
    for b in range(3):
        alpha, sigma = schedule.alpha(t[b]), schedule.sigma(t[b])
        total = alpha**2 * covariance + sigma**2 * torch.eye(d, dtype=DOUBLE)
        offset = torch.linalg.solve(total, x[b].reshape(d) - alpha * mean)
        data, noise = mean + alpha * covariance @ offset, sigma * offset
        law = torch.distributions.MultivariateNormal(alpha * mean, total)
        (score,) = torch.autograd.grad(law.log_prob(x[b].reshape(d)), x)
        values["data"].append(data)
        values["noise"].append(noise)
        values["score"].append(score[b].reshape(d))
        values["velocity"].append(
            schedule.alpha_dot(t[b]) * data + schedule.sigma_dot(t[b]) * noise
        )
    stacked = {n: torch.stack(v).reshape(x.shape).detach() for n, v in values.items()}
    return stacked, x.detach(), t


def test_convert_among_the_conditional_means_of_a_gaussian(schedule, event, generator):
    """All 16 pairs, 12 of them conversions."""
    values, x, t = conditional_means(schedule, event, generator)
    path = AffinePath(schedule)
    for given in QUANTITIES:
        for want in QUANTITIES:
            result = path.convert(values[given], x, t, given, want)
            torch.testing.assert_close(
                # VP's α is 0.017 at t = 0.1: two divisions by it cost four digits
                result,
                values[want],
                rtol=1e-9,
                atol=1e-9,
                msg=lambda m, w=(given, want): f"{w} {m}",
            )


def test_convert_there_and_back(schedule, event, generator):
    """For any value, not only for one that is a conditional mean."""
    value, x, t = triple(event, generator)
    path = AffinePath(schedule)
    for given in QUANTITIES:
        for want in QUANTITIES:
            there = path.convert(value, x, t, given, want)
            back = path.convert(there, x, t, want, given)
            torch.testing.assert_close(back, value, rtol=1e-9, atol=1e-9)


AT_NOISE = [(given, want) for given in ("score", "noise") for want in ("data", "velocity")]
AT_DATA = [("data", want) for want in ("noise", "score", "velocity")] + [
    (given, "score") for given in ("noise", "velocity")
]


@pytest.mark.parametrize(
    "t, pairs, word", [(0.0, AT_NOISE, "alpha"), (1.0, AT_DATA, "sigma")], ids=["0", "1"]
)
def test_convert_refuses_exactly_the_ends_where_it_divides_by_zero(t, pairs, word, generator):
    path = AffinePath(LINEAR)
    value, x, times = torch.randn(3, 2), torch.randn(3, 2), torch.tensor([0.5, t, 0.5])
    for given in QUANTITIES:
        for want in QUANTITIES:
            if (given, want) in pairs:
                with pytest.raises(ValueError, match=f"divides by {word}, which is 0 at t = {t:g}"):
                    path.convert(value, x, times, given, want)
            else:
                assert path.convert(value, x, times, given, want).isfinite().all()


def test_convert_knows_the_schedules_whose_ends_differ(generator):
    value, x = torch.randn(3, 2), torch.randn(3, 2)
    zero, one = torch.zeros(3), torch.ones(3)
    # VP keeps a little data at t = 0, lipman a little noise at t = 1
    assert AffinePath(VP).convert(value, x, zero, "noise", "data").isfinite().all()
    assert AffinePath(lipman(0.1)).convert(value, x, one, "data", "score").isfinite().all()
    # noise and data do not ask for σ̇
    assert torch.equal(AffinePath(SQRT).convert(value, x, one, "noise", "data"), x)


@pytest.mark.parametrize("name", ["conditional_velocity", "conditional_score"])
def test_conditional_quantities_refuse_the_point_where_sigma_vanishes(name):
    x = torch.zeros(3, 2)
    t = torch.tensor([0.5, 1.0, 0.5])
    with pytest.raises(ValueError, match="divides by sigma, which is 0 at t = 1"):
        getattr(AffinePath(LINEAR), name)(x, x, t)
    assert getattr(AffinePath(lipman(0.1)), name)(x, x, t).isfinite().all()


@pytest.mark.parametrize("call", ["sample", "conditional_velocity", "conditional_score", "convert"])
def test_shapes_that_differ_are_refused(call):
    function = getattr(AffinePath(LINEAR), call)
    names = ("data", "noise") if call == "convert" else ()
    with pytest.raises(ValueError, match=r"has shape \(3, 1\) and .* has shape \(3, 3\)"):
        function(torch.zeros(3, 1), torch.zeros(3, 3), torch.full((3,), 0.5), *names)


@pytest.mark.parametrize("remade", [copy.deepcopy, lambda path: pickle.loads(pickle.dumps(path))])
def test_a_copy_in_another_process_is_the_same_path(schedule, remade, generator):
    path, again = AffinePath(schedule), remade(AffinePath(schedule))
    x0, x1, t = triple((2,), generator)
    first, second = path.sample(x0, x1, t), again.sample(x0, x1, t)
    assert torch.equal(first.x_t, second.x_t) and torch.equal(first.velocity, second.velocity)
    assert repr(again) == repr(path)
    assert again.schedule.finite_at_one == schedule.finite_at_one


@pytest.mark.parametrize("name", ["alpha", "sigma", "alpha_dot", "sigma_dot"])
@pytest.mark.parametrize("wrong", [None, 1.0, lambda t: 1.0, lambda t: t.sum()], ids=range(4))
def test_a_schedule_of_other_than_functions_of_time_is_refused(name, wrong):
    functions = {key: getattr(LINEAR, key) for key in ("alpha", "sigma", "alpha_dot", "sigma_dot")}
    with pytest.raises((TypeError, ValueError), match=rf"^{name}(\(t\) | )"):
        Schedule("mine", **functions | {name: wrong})
