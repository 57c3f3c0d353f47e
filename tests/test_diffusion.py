"""Diffusion against the papers' formulas, brute-force conditioning and closed Gaussian moments."""

import itertools
import math
import pickle

import pytest
import torch
from point_mass import point_mass

from fmtutorial.diffusion import (
    as_velocity,
    change_schedule,
    ddim,
    noise_prediction_loss,
    reversal_noise_level,
    solve_sde,
)
from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.losses import flow_matching_loss
from fmtutorial.paths import COSINE, LINEAR, SQRT, VP, AffinePath, lipman
from fmtutorial.solvers import Solution, euler, log_snr_grid, rk4, solve

DOUBLE = torch.float64
SCHEDULES = [LINEAR, lipman(0.1), COSINE, SQRT, VP]


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def mixture(event=(2,)):
    """Three components of different widths and weights."""
    means = torch.randn(3, *event, generator=seeded(7), dtype=DOUBLE) * 2
    return GaussianMixture(means, double([0.5, 0.2, 1.0]), double([0.2, 0.5, 0.3]))


# Noise prediction.


def test_noise_loss_worked_out_by_hand():
    """x_t = (1, 0) and (1, 1.5); the prediction is x + t.

    The squared distances from the noise are 1.5² + 0.5² and 0.25² + 0.75².
    """
    x0, x1 = double([[0.0, 0.0], [1.0, 1.0]]), double([[2.0, 0.0], [1.0, 3.0]])
    loss = noise_prediction_loss(
        lambda x, t: x + t[:, None], AffinePath(LINEAR), x0, x1, double([0.5, 0.25])
    )
    assert loss.item() == (2.5 + 0.625) / 2 and loss.shape == ()


def test_noise_loss_sums_over_an_event_and_averages_over_the_batch(event):
    x0 = torch.stack([torch.full(event, float(b)) for b in (1, 2, 3)])
    loss = noise_prediction_loss(
        lambda x, t: 0 * x, AffinePath(COSINE), x0, torch.zeros_like(x0), torch.rand(3)
    )
    assert loss.item() == pytest.approx(math.prod(event) * 14 / 3, rel=1e-6)


def test_noise_loss_is_the_weighted_flow_matching_loss(schedule, event, generator):
    """(α/Δ)² at each time; Δ = α̇σ − ασ̇ from central differences of the two coefficients.

    The network is any function, not a conditional mean.
    """
    path = AffinePath(schedule)
    x0, x1 = (torch.randn(1, *event, generator=generator, dtype=DOUBLE) for _ in range(2))

    def network(x, t):
        return torch.sin(2 * x) + t.reshape(-1, *[1] * (x.ndim - 1))

    h = 1e-6
    for time in (0.1, 0.5, 0.9):
        t, around = double([time]), double([time - h, time + h])
        alpha, sigma = schedule.alpha(t).item(), schedule.sigma(t).item()
        rises = (schedule.alpha(around).diff() / (2 * h)).item()
        falls = (schedule.sigma(around).diff() / (2 * h)).item()
        weight = (alpha / (rises * sigma - alpha * falls)) ** 2
        of_noise = noise_prediction_loss(network, path, x0, x1, t).item()
        of_velocity = flow_matching_loss(as_velocity(network, path, "noise"), path, x0, x1, t)
        assert of_noise == pytest.approx(weight * of_velocity.item(), rel=1e-8)


def test_noise_loss_refuses_wrong_input():
    path, x, t = AffinePath(LINEAR), torch.zeros(3, 3), torch.full((3,), 0.5)
    with pytest.raises(ValueError, match=r"prediction has shape \(3,\) and x0 has shape \(3, 3\)"):
        noise_prediction_loss(lambda x, t: t, path, x, x, t)
    with pytest.raises(ValueError, match=r"x0 has shape \(3, 3\) and x1 has shape \(3, 1\)"):
        noise_prediction_loss(lambda x, t: x, path, x, torch.zeros(3, 1), t)
    with pytest.raises(ValueError, match=r"outside \[0, 1\)"):
        noise_prediction_loss(lambda x, t: x, AffinePath(VP), x, x, torch.ones(3))


def test_as_velocity_of_exact_predictions(schedule, event, generator):
    """E[x₁ | x], ∇ log p and E[x₀ | x] = −σ ∇ log p of a mixture, each gives the exact field."""
    path = AffinePath(schedule)
    exact = ExactField(path, mixture(event))
    x = torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    t = double([0.15, 0.5, 0.9])

    def noise(x, t):
        return -schedule.sigma(t).reshape(-1, *[1] * (x.ndim - 1)) * exact.score(x, t)

    predictions = {"data": exact.posterior_mean, "score": exact.score, "noise": noise}
    for name, network in predictions.items():
        # VP divides by α = 0.025
        torch.testing.assert_close(
            as_velocity(network, path, name)(x, t), exact(x, t), rtol=1e-9, atol=1e-9
        )
    with pytest.raises(ValueError, match='unknown quantity "epsilon"'):
        as_velocity(noise, path, "epsilon")(x, t)


# Another schedule.


@pytest.mark.parametrize(
    "trained, wanted",
    list(itertools.product(SCHEDULES, SCHEDULES)),
    ids=lambda schedule: schedule.name,
)
def test_change_schedule_between_all_pairs(trained, wanted, generator):
    """The field of one mixture under one schedule becomes its field under the other.

    Where lipman(0.1) is trained, log(α/σ) up to 2 is used; it ends at log 10 = 2.3.
    """
    target = mixture()
    x = torch.randn(4, 2, generator=generator, dtype=DOUBLE)
    t = double([0.1, 0.35, 0.6, 0.8])
    changed = change_schedule(
        ExactField(AffinePath(trained), target), AffinePath(trained), AffinePath(wanted)
    )
    expected = ExactField(AffinePath(wanted), target)(x, t)
    torch.testing.assert_close(changed(x, t), expected, rtol=1e-6, atol=1e-6)


def test_change_schedule_of_other_event_shapes(event, generator):
    target = mixture(event)
    x = torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    t = double([0.2, 0.5, 0.8])
    changed = change_schedule(
        ExactField(AffinePath(VP), target), AffinePath(VP), AffinePath(LINEAR)
    )
    expected = ExactField(AffinePath(LINEAR), target)(x, t)
    torch.testing.assert_close(changed(x, t), expected, rtol=1e-6, atol=1e-6)


def test_change_schedule_uses_the_nearer_end_where_the_ratio_is_out_of_reach(generator):
    """VP knows nothing noisier than t = 0, where α = 0.0066; linear starts in pure noise.

    There the prediction D of the data at VP's t = 0 and the state as it is give
    v = α̇ D + σ̇ (x − α D)/σ with VP's α and σ and linear's derivatives 1 and −1.
    """
    target = mixture()
    x = torch.randn(4, 2, generator=generator, dtype=DOUBLE)
    zero = torch.zeros(4, dtype=DOUBLE)
    exact = ExactField(AffinePath(VP), target)
    changed = change_schedule(exact, AffinePath(VP), AffinePath(LINEAR))
    data = exact.posterior_mean(x, zero)
    alpha = math.exp(-5.025)
    expected = data - (x - alpha * data) / math.sqrt(1 - alpha**2)
    torch.testing.assert_close(changed(x, zero), expected, rtol=1e-9, atol=1e-9)
    # which is not far from the truth
    truth = ExactField(AffinePath(LINEAR), target)(x, zero)
    assert 1e-4 < (changed(x, zero) - truth).abs().max() < 0.05


def test_change_schedule_refuses_the_times_at_which_a_velocity_is_undefined():
    x, one = torch.zeros(2, 2, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)
    for trained, wanted, name in [(LINEAR, SQRT, "square-root"), (VP, LINEAR, "variance-")]:
        exact = ExactField(AffinePath(trained), mixture())
        changed = change_schedule(exact, AffinePath(trained), AffinePath(wanted))
        with pytest.raises(ValueError, match=rf"t = 1\.0 is outside \[0, 1\).*{name}"):
            changed(x, one)


# DDIM.


def coefficients(path, eta, x, times, field):
    """Mean and standard deviation of a step's result, from two seeds whose noise is known."""
    results, noises = [], []
    for seed in (1, 2):
        step = ddim(path, eta, seeded(seed))
        results.append(solve(field, x, times, step).last)
        noises.append(torch.randn(x.shape, generator=seeded(seed), dtype=x.dtype))
    deviation = (results[0] - results[1]) / (noises[0] - noises[1])
    return results[0] - deviation * noises[0], deviation


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_the_formula_of_the_paper(eta, event, generator):
    """Song, Meng and Ermon 2021, Eq. 12 with σ of Eq. 16, in ᾱ, for VP: several steps.

    x' = √ᾱ' (x − √(1−ᾱ) ε)/√ᾱ + √(1 − ᾱ' − σ²) ε + σ ξ,
    σ = η √((1−ᾱ')/(1−ᾱ)) √(1 − ᾱ/ᾱ'), ᾱ = exp(−∫β).
    """
    exact = ExactField(AffinePath(VP), mixture(event))
    times = [0.1, 0.3, 0.45, 0.8, 0.99]
    x = torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    ours = solve(exact, x, double(times), ddim(AffinePath(VP), eta, seeded())).states
    assert ours.shape == (5, 3, *event)

    totals = [math.exp(-(19.9 * (1 - t) ** 2 / 2 + 0.1 * (1 - t))) for t in times]
    noises = seeded()
    for i in range(4):
        old, new = totals[i], totals[i + 1]
        epsilon = -math.sqrt(1 - old) * exact.score(x, torch.full((3,), times[i], dtype=DOUBLE))
        s = eta * math.sqrt((1 - new) / (1 - old)) * math.sqrt(1 - old / new)
        fresh = torch.randn(x.shape, generator=noises, dtype=DOUBLE)
        x = (
            math.sqrt(new) * (x - math.sqrt(1 - old) * epsilon) / math.sqrt(old)
            + math.sqrt(1 - new - s**2) * epsilon
            + s * fresh
        )
        torch.testing.assert_close(ours[i + 1], x, rtol=1e-9, atol=1e-9)


def test_ddim_is_eulers_step_on_straight_schedules_only(generator):
    x = torch.randn(4, 2, generator=generator, dtype=DOUBLE)
    for schedule in (LINEAR, lipman(0.1), COSINE):
        path = AffinePath(schedule)
        exact = ExactField(path, mixture())
        for times in (double([0.0, 0.2, 0.5, 0.99]), double([0.99, 0.4, 0.0])):
            ours = solve(exact, x, times, ddim(path)).states
            theirs = solve(exact, x, times, euler).states
            if schedule is COSINE:
                assert (ours[-1] - theirs[-1]).norm() > 0.1
            else:
                torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("times", [[0.0, 1.0], [0.0, 0.6, 1.0], [0.9, 0.5, 0.1, 0.0]])
def test_ddim_is_exact_for_a_point_mass(times, schedule, event, generator):
    """In any number of steps and both directions: x_t = α c + σ x₀."""
    x0 = torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    point = torch.randn(event, generator=generator, dtype=DOUBLE)
    times = double(times)
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    start = alpha[0] * point + sigma[0] * x0
    solution = solve(point_mass(schedule, point), start, times, ddim(AffinePath(schedule)))
    assert solution.evaluations == len(times) - 1
    for i, state in enumerate(solution.states):
        torch.testing.assert_close(state, alpha[i] * point + sigma[i] * x0, rtol=0, atol=1e-11)


def test_ddim_is_of_order_one(generator):
    """Slope within 0.15 on a curved schedule, up and down; rk4 in 100 steps is the truth."""
    x = torch.randn(4, 2, generator=generator, dtype=DOUBLE)
    for schedule, ends in [(COSINE, (0.05, 0.95)), (VP, (0.95, 0.05))]:
        path = AffinePath(schedule)
        exact = ExactField(path, mixture())
        truth = solve(exact, x, torch.linspace(*ends, 101, dtype=DOUBLE), rk4).last
        errors = [
            (
                solve(exact, x, log_snr_grid(schedule, *ends, n, DOUBLE), ddim(path)).last - truth
            ).norm()
            for n in (50, 100)
        ]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("t, end", [(0.2, 0.5), (0.05, 0.9), (0.7, 0.71)])
def test_ddim_with_eta_one_samples_the_posterior_of_the_diffusion(t, end, schedule, event):
    """q(x' | x, x₁) for x' = α' x₁ + σ' n and x = (α/α') x' + √(σ² − (α/α')²σ'²) m.

    By brute force: the joint covariance of (x', x) given x₁, then Gaussian conditioning.
    """
    times = double([t, end])
    (alpha, new_alpha), (sigma, new_sigma) = (
        f(times).tolist() for f in (schedule.alpha, schedule.sigma)
    )
    ratio = alpha / new_alpha
    mixing = double(
        [[new_sigma, 0.0], [ratio * new_sigma, math.sqrt(sigma**2 - (ratio * new_sigma) ** 2)]]
    )
    joint = mixing @ mixing.T
    assert joint[1, 1].item() == pytest.approx(sigma**2)  # the marginal of the path
    gain = (joint[0, 1] / joint[1, 1]).item()
    variance = (joint[0, 0] - gain * joint[0, 1]).item()

    point = torch.randn(event, generator=seeded(), dtype=DOUBLE)
    x = torch.randn(3, *event, generator=seeded(9), dtype=DOUBLE)
    mean, deviation = coefficients(AffinePath(schedule), 1.0, x, times, point_mass(schedule, point))
    expected = new_alpha * point + gain * (x - alpha * point)
    torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        deviation, torch.full_like(x, math.sqrt(variance)), rtol=1e-8, atol=1e-9
    )


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_keeps_the_marginals_of_a_point_mass(eta, schedule):
    """x ~ N(α c, σ²) goes to N(α' c, σ'²), whatever η is, also over several steps and to the end.

    The step is x' = mean(x) + b ξ with a mean that is linear in x: two states give its slope.
    """
    variance = schedule.sigma(double([0.1])).item() ** 2
    times, path, point = [0.1, 0.3, 0.8, 1.0], AffinePath(schedule), double(1.5)
    centre = schedule.alpha(double([0.1])).item() * 1.5
    for t, end in itertools.pairwise(times):
        x = double([centre, centre + 1])
        mean, deviation = coefficients(path, eta, x, double([t, end]), point_mass(schedule, point))
        variance = (mean[1] - mean[0]).item() ** 2 * variance + deviation[0].item() ** 2
        centre = mean[0].item()
        assert centre == pytest.approx(schedule.alpha(double([end])).item() * 1.5, abs=1e-9)
        assert variance == pytest.approx(schedule.sigma(double([end])).item() ** 2, abs=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("schedule", [LINEAR, COSINE, VP], ids=repr)
def test_ddim_is_of_order_one_in_distribution(schedule, eta):
    """For a Gaussian target a step maps N(m, V) to N(a m + c, a² V + b²), without sampling.

    The error of the variance at the end falls with slope 1, within 0.15.
    """
    path, target = AffinePath(schedule), Gaussian(double(0.7), 0.3**2)
    exact = ExactField(path, target)

    def error(steps):
        times = log_snr_grid(schedule, 0.1, 0.95, steps, DOUBLE)
        alpha, sigma = schedule.alpha(times), schedule.sigma(times)
        variance = (alpha[0] ** 2 * 0.09 + sigma[0] ** 2).item()
        for i in range(steps):
            pair = double([0.0, 1.0])
            if eta > 0:
                mean, deviation = coefficients(path, eta, pair, times[i : i + 2], exact)
            else:
                mean, deviation = solve(exact, pair, times[i : i + 2], ddim(path)).last, 0 * pair
            variance = ((mean[1] - mean[0]) ** 2 * variance + deviation[0] ** 2).item()
        return abs(variance - (alpha[-1] ** 2 * 0.09 + sigma[-1] ** 2).item())

    assert math.log2(error(30) / error(60)) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_ddim_survives_rounding(dtype, schedule):
    """Steps of a few ulps, and steps from pure noise: no root of a negative number."""
    x = torch.randn(3, 2, generator=seeded(), dtype=dtype)
    starts = torch.linspace(0.0, 0.95, 20, dtype=dtype)
    for t in starts.tolist():
        for h in (4 * torch.finfo(dtype).eps, 1e-3, 0.03):
            times = torch.tensor([t, t + h], dtype=dtype)
            last = solve(point_mass(schedule, 1.0), x, times, ddim(AffinePath(schedule), 1.0)).last
            assert last.isfinite().all()
    for end in torch.linspace(0.01, 1, 60, dtype=dtype).tolist():
        times = torch.tensor([0.0, end], dtype=dtype)
        last = solve(point_mass(schedule, 1.0), x, times, ddim(AffinePath(schedule), 1.0)).last
        assert last.isfinite().all()


@pytest.mark.parametrize(
    "schedule, t, end",
    [(LINEAR, 0.00020236047566868365, 0.9375048279762268), (COSINE, 0.22180464863, 0.99969017505)],
    ids=repr,
)
def test_ddim_survives_noise_that_rounds_above_the_whole(schedule, t, end):
    """Long steps in float32 for which η²b² comes out above σ'², found by search."""
    x, times = torch.ones(3, 2), torch.tensor([t, end])
    last = solve(point_mass(schedule, 1.0), x, times, ddim(AffinePath(schedule), 1.0)).last
    assert last.isfinite().all()


def test_ddim_does_not_step_past_the_data():
    x, times = torch.zeros(3, 2), torch.tensor([0.5, 1.1])
    with pytest.raises(ValueError, match="outside"):
        solve(point_mass(LINEAR, 1.0), x, times, ddim(AffinePath(LINEAR)))


def test_ddim_repeats_with_its_generator():
    exact, path = ExactField(AffinePath(COSINE), mixture()), AffinePath(COSINE)
    x, times = torch.randn(3, 2, generator=seeded(), dtype=DOUBLE), double([0.1, 0.5, 0.9])
    before = torch.get_rng_state()
    runs = [solve(exact, x, times, ddim(path, 1.0, seeded(s))).last for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), before)
    # with eta = 0 no noise is drawn
    generator = seeded()
    solve(exact, x, times, ddim(path, 0.0, generator))
    assert torch.equal(generator.get_state(), seeded().get_state())


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_ddim_refuses_eta_outside_its_interval(eta):
    with pytest.raises(ValueError, match=rf"eta is {eta}; it must be a finite number in \[0, 1\]"):
        ddim(AffinePath(LINEAR), eta)


def test_ddim_with_noise_refuses_to_go_backwards():
    exact = ExactField(AffinePath(LINEAR), mixture())
    x, times = torch.zeros(3, 2, dtype=DOUBLE), double([0.9, 0.5])
    with pytest.raises(ValueError, match="with eta > 0 times must increase"):
        solve(exact, x, times, ddim(AffinePath(LINEAR), 0.5))


# The noise level of the reversed diffusion.

BY_HAND = {
    LINEAR: lambda t: 2 * (1 - t) / t,  # Δ = 1
    lipman(0.1): lambda t: 2 * (1 - 0.9 * t) / t,  # Δ = 1
    COSINE: lambda t: math.pi / math.tan(math.pi * t / 2),  # Δ = π/2
    SQRT: lambda t: (2 - t) / t,  # Δ = (1 − t/2)/√(1 − t)
    VP: lambda t: 0.1 + 19.9 * (1 - t),  # β
}


@pytest.mark.parametrize("schedule", BY_HAND, ids=repr)
def test_reversal_noise_level_by_hand(schedule):
    for t in (0.1, 0.4, 0.75, 0.95):
        level = reversal_noise_level(schedule)(double(t))
        assert level.shape == ()
        assert level.item() ** 2 == pytest.approx(BY_HAND[schedule](t), rel=1e-9)


def test_reversal_noise_level_at_the_ends():
    assert reversal_noise_level(LINEAR)(double(0.0)).item() == math.inf
    assert reversal_noise_level(COSINE)(double(0.0)).item() == math.inf
    assert reversal_noise_level(VP)(double(0.0)).item() ** 2 == pytest.approx(20.0)
    assert reversal_noise_level(LINEAR)(double(1.0)).item() == 0
    x, times = torch.zeros(3, 2, dtype=DOUBLE), double([0.0, 0.5])
    with pytest.raises(ValueError, match="the noise level is inf at t = 0; it must be finite"):
        solve_sde(lambda x, t: x, x, times, AffinePath(LINEAR), reversal_noise_level(LINEAR))


@pytest.mark.parametrize("schedule", BY_HAND, ids=repr)
def test_ancestral_steps_tend_to_the_reversed_diffusion(schedule):
    """b²/h → w² and (E x' − x)/h → v + (w²/2) ∇log p, with an error in proportion to h."""
    path, t = AffinePath(schedule), 0.4
    exact = ExactField(path, mixture())
    x, time = double([[0.3, -0.8]]), double([t])
    squared = BY_HAND[schedule](t)
    drift = exact(x, time) + squared / 2 * exact.score(x, time)
    errors = []
    for h in (1e-3, 5e-4):
        mean, deviation = coefficients(path, 1.0, x, double([t, t + h]), exact)
        errors.append(
            (
                (deviation**2 / h - squared).abs().max().item(),
                ((mean - x) / h - drift).norm().item(),
            )
        )
    for coarse, fine in zip(*errors, strict=True):
        assert fine < 0.05 and coarse / fine == pytest.approx(2, abs=0.1)


# The SDE family.


def gaussian_field(schedule, mean, variance):
    """v = α̇ m + (α̇ α s² + σ̇ σ)/(α² s² + σ²) (x − α m), written out."""

    def field(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        rate = schedule.alpha_dot(t) * alpha * variance + schedule.sigma_dot(t) * sigma
        total = alpha**2 * variance + sigma**2
        return schedule.alpha_dot(t) * mean + rate / total * (x - alpha * mean)

    return field


def constant(level):
    return lambda t: torch.full_like(t, level)


LEVELS = {
    "0": constant(0.0),
    "0.5": constant(0.5),
    "1": constant(1.0),
    "2": constant(2.0),
    "1.5 sin(3t)": lambda t: 1.5 * torch.sin(3 * t),
}


@pytest.mark.parametrize(
    "schedule, ends", [(LINEAR, (0.0, 0.96)), (COSINE, (0.96, 0.0))], ids=["forward", "backward"]
)
@pytest.mark.parametrize("level", LEVELS)
def test_sde_has_the_marginals_of_the_ode(level, schedule, ends):
    """Mean and variance of a Gaussian at four times, within four standard errors.

    The mean of n samples has the standard error √(V/n), their variance V √(2/n). With 240 steps
    the bias of the scheme is below one of them.
    """
    n, mean, variance, steps = 10000, 1.5, 0.4**2, 240
    times = torch.linspace(*ends, steps + 1, dtype=DOUBLE)
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    means, variances = alpha * mean, alpha**2 * variance + sigma**2
    start = means[0] + variances[0].sqrt() * torch.randn(n, generator=seeded(), dtype=DOUBLE)
    solution = solve_sde(
        gaussian_field(schedule, mean, variance),
        start,
        times,
        AffinePath(schedule),
        LEVELS[level],
        seeded(4),
    )
    assert isinstance(solution, Solution) and solution.states.shape == (steps + 1, n)
    assert solution.evaluations == steps
    for i in (60, 120, 180, 240):
        off = (solution.states[i].mean() - means[i]) / (variances[i] / n).sqrt()
        assert abs(off) < 4, f"mean at t = {times[i]:.2f}"
        off = (solution.states[i].var() / variances[i] - 1) / math.sqrt(2 / n)
        assert abs(off) < 4, f"variance at t = {times[i]:.2f}"


@pytest.mark.parametrize("h", [0.07, -0.07])
def test_drift_and_noise_of_one_step(h, schedule, event, generator, monkeypatch):
    """Opposite noises: half their sum is the drift, half their difference is w √|h| ξ.

    v and the score are those of a mixture; the score does not come through the velocity.
    """
    exact = ExactField(AffinePath(schedule), mixture(event))
    x = torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    fresh = torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    t, level, ends = double([0.4] * 3), 1.3, []
    for sign in (1, -1):
        monkeypatch.setattr(torch, "randn", lambda *shape, sign=sign, **options: sign * fresh)
        ends.append(
            solve_sde(exact, x, double([0.4, 0.4 + h]), AffinePath(schedule), constant(level)).last
        )
    monkeypatch.undo()
    drift = h * exact(x, t) + abs(h) * level**2 / 2 * exact.score(x, t)
    torch.testing.assert_close((ends[0] + ends[1]) / 2, x + drift, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        (ends[0] - ends[1]) / 2, level * math.sqrt(abs(h)) * fresh, rtol=1e-9, atol=1e-9
    )


def test_increments_are_independent_and_normal():
    """Kurtosis 3 within 4 √(24/n), variance w² h within 4 √(2/n), correlation 0 within 4/√n.

    The path is that of the target N(0, 1) with α² + σ² = 1: v = 0, and the drift is −(w²/2) x.
    """
    n, h, level = 100000, 0.01, 1.2
    times = double([0.5, 0.5 + h, 0.5 + 2 * h])
    x = torch.randn(n, generator=seeded(), dtype=DOUBLE)
    states = solve_sde(
        lambda x, t: 0 * x, x, times, AffinePath(COSINE), constant(level), seeded(5)
    ).states
    increments = states.diff(dim=0) + level**2 / 2 * h * states[:-1]
    for row in increments:
        assert abs(row.mean() / (level * math.sqrt(h))) < 4 / math.sqrt(n)
        assert row.var() / (level**2 * h) == pytest.approx(1, abs=4 * math.sqrt(2 / n))
        centred = row - row.mean()
        kurtosis = (centred**4).mean() / (centred**2).mean() ** 2
        assert kurtosis.item() == pytest.approx(3, abs=4 * math.sqrt(24 / n))
    for pair in ([increments[0], increments[1]], [increments[0], x]):
        assert torch.corrcoef(torch.stack(pair))[0, 1].abs() < 4 / math.sqrt(n)


def test_sde_draws_another_number_for_every_entry(event):
    x = torch.zeros(3, *event, dtype=DOUBLE)
    states = solve_sde(
        lambda x, t: 0 * x, x, double([0.2, 0.3, 0.4]), AffinePath(LINEAR), constant(1.0), seeded()
    ).states
    assert states[1:].unique().numel() == states[1:].numel()


def test_sde_without_noise_is_eulers_method(schedule, event, generator):
    """Exactly, up to the end of the path, and no number is drawn."""
    exact = ExactField(AffinePath(schedule), mixture(event))
    x = torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    for times in (double([0.0, 0.3, 0.5, 1.0]), double([0.99, 0.3, 0.0])):
        fresh = seeded()
        ours = solve_sde(exact, x, times, AffinePath(schedule), constant(0.0), fresh)
        assert torch.equal(ours.states, solve(exact, x, times, euler).states)
        assert torch.equal(ours.times, times)
        assert torch.equal(fresh.get_state(), seeded().get_state())


def test_sde_repeats_with_its_generator():
    exact, path = ExactField(AffinePath(LINEAR), mixture()), AffinePath(LINEAR)
    x, times = torch.randn(3, 2, generator=seeded(), dtype=DOUBLE), double([0.1, 0.5, 0.9])
    before = torch.get_rng_state()
    runs = [solve_sde(exact, x, times, path, constant(1.0), seeded(s)).last for s in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_sde_calls_the_field_and_the_noise_level_where_a_step_begins():
    times, of_field, of_level = torch.tensor([0.1, 0.3, 0.9]), [], []

    def field(x, t):
        of_field.append(t.tolist())
        return x

    def level(t):
        of_level.append(t)
        return t

    x = torch.zeros(3, 3)
    solution = solve_sde(field, x, times.double(), AffinePath(LINEAR), level)
    assert solution.evaluations == 2 and solution.states.dtype == torch.float32
    assert of_field == [[t] * 3 for t in times[:2].tolist()]
    assert [t.shape for t in of_level] == [(), ()]
    assert [t.item() for t in of_level] == times[:2].tolist()


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_sde_refuses_a_wrong_noise_level(wrong):
    def level(t):
        return torch.where(t > 0.4, wrong, 1.0)

    x, times = torch.zeros(3, 2), torch.tensor([0.2, 0.5, 0.6])
    with pytest.raises(ValueError, match=rf"noise level is {wrong:g} at t = 0\.5; it must be"):
        solve_sde(lambda x, t: x, x, times, AffinePath(LINEAR), level)


def test_sde_refuses_noise_where_the_score_is_not_defined():
    """At t = 1 of linear; without noise the same grid is fine."""
    x, times = torch.zeros(3, 2), torch.tensor([1.0, 0.5])
    with pytest.raises(ValueError, match="divides by sigma, which is 0 at t = 1"):
        solve_sde(lambda x, t: x, x, times, AffinePath(LINEAR), constant(1.0))
    assert (
        solve_sde(lambda x, t: x, x, times, AffinePath(LINEAR), constant(0.0)).last.isfinite().all()
    )


def test_sde_refuses_wrong_input():
    path, x, times = AffinePath(LINEAR), torch.zeros(3, 3), torch.tensor([0.2, 0.5])
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        solve_sde(lambda x, t: x, x.long(), times, path, constant(1.0))
    with pytest.raises(TypeError, match="times must be a floating-point tensor"):
        solve_sde(lambda x, t: x, x, [0.2, 0.5], path, constant(1.0))
    with pytest.raises(ValueError, match="strictly increasing or strictly decreasing"):
        solve_sde(lambda x, t: x, x, torch.tensor([0.2, 0.2]), path, constant(1.0))
    with pytest.raises(ValueError, match=r"v has shape \(3,\)"):
        solve_sde(lambda x, t: t, x, times, path, constant(1.0))
    with pytest.raises(FloatingPointError, match="the last state is not finite"):
        solve_sde(lambda x, t: x / 0, x, times, path, constant(0.0))


# What a user sends to a worker process.


def falling(x, t):
    return -x


@pytest.mark.parametrize(
    "make",
    [
        lambda: as_velocity(falling, AffinePath(COSINE), "noise"),
        lambda: change_schedule(falling, AffinePath(COSINE), AffinePath(LINEAR)),
    ],
    ids=["as_velocity", "change_schedule"],
)
def test_fields_can_be_pickled(make):
    x, t = torch.ones(3, 2), torch.full((3,), 0.4)
    made = make()
    assert torch.equal(made(x, t), pickle.loads(pickle.dumps(made))(x, t))


def test_steps_and_noise_levels_can_be_pickled():
    path, grid, x = AffinePath(VP), torch.linspace(0, 0.9, 5), torch.ones(3, 2)
    step, level = (
        pickle.loads(pickle.dumps(made)) for made in (ddim(path), reversal_noise_level(VP))
    )
    assert torch.equal(solve(falling, x, grid, step).last, solve(falling, x, grid, ddim(path)).last)
    assert torch.equal(level(grid), reversal_noise_level(VP)(grid))


@pytest.mark.parametrize(
    "call",
    [
        lambda: ddim(AffinePath(VP), 1.0, 7),
        lambda: solve_sde(
            falling, torch.ones(1, 1), torch.linspace(0, 0.9, 3), AffinePath(VP), lambda t: 1.0, 7
        ),
    ],
)
def test_a_seed_is_no_generator(call):
    with pytest.raises(TypeError, match="generator is of type int; pass a torch.Generator"):
        call()
