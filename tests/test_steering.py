"""Steering against exact tilted fields, the equation of the value, and autograd through a chain."""

import math
import pickle

import pytest
import torch

from fmtutorial.diffusion import reversal_noise_level, solve_sde
from fmtutorial.distributions import Gaussian, GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.likelihood import divergence
from fmtutorial.paths import COSINE, LINEAR, AffinePath
from fmtutorial.solvers import Solution, euler, solve
from fmtutorial.steering import (
    ExactValue,
    QuadraticReward,
    adjoint_matching_loss,
    guessed_value,
    lean_adjoint,
    memoryless_strength,
    observed,
    replaced,
    steered,
    tilted,
)

DOUBLE = torch.float64
PATH = AffinePath(LINEAR)
TIMES = torch.tensor([0.15, 0.5, 0.9], dtype=DOUBLE)


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


def column(t, x):
    return t.reshape(-1, *[1] * (x.ndim - 1))


def mixture(event, generator):
    means = torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    return GaussianMixture(means, double([0.5, 0.2, 1.0]), double([0.2, 0.5, 0.3]))


def states(event, generator, n=3):
    return torch.randn(n, *event, generator=generator, dtype=DOUBLE)


def a_reward(event, generator, bent=0.6):
    return QuadraticReward(torch.randn(event, generator=generator, dtype=DOUBLE), bent)


# Along a value


def test_memoryless_strength_from_differences_of_the_schedule(schedule):
    """λ* = σ² d/dt log(α/σ), with the derivative by central differences; linear: (1 − t)/t."""
    h = 1e-6

    def log_ratio(t):
        return (schedule.alpha(t) / schedule.sigma(t)).log()

    rise = (log_ratio(TIMES + h) - log_ratio(TIMES - h)) / (2 * h)
    expected = schedule.sigma(TIMES) ** 2 * rise
    torch.testing.assert_close(memoryless_strength(schedule, TIMES), expected, rtol=1e-7, atol=0)
    torch.testing.assert_close(memoryless_strength(LINEAR, TIMES), (1 - TIMES) / TIMES)


@pytest.mark.parametrize("bent", [0.0, 0.6, -0.1])
def test_steered_by_the_exact_value_is_the_exact_field_of_the_tilted_law(
    schedule, event, generator, bent
):
    path, law, reward = AffinePath(schedule), mixture(event, generator), a_reward(event, generator)
    reward = QuadraticReward(reward.linear, bent)
    field = steered(ExactField(path, law), path, ExactValue(path, law, reward))
    x = states(event, generator)
    wanted = ExactField(path, tilted(law, reward))(x, TIMES)
    # VP's velocities are of order 10 and cancel
    torch.testing.assert_close(field(x, TIMES), wanted, rtol=1e-9, atol=1e-9)
    assert (wanted - ExactField(path, law)(x, TIMES)).abs().max() > 0.02


def test_the_value_solves_the_equation_of_optimal_control(schedule, generator):
    """∂V/∂t + bV' + λV'' + λV'² = 0 on the line, b = v + λ s, for memoryless and other λ.

    Derivatives by autograd. That of the memoryless noise holds for V; with twice the strength the
    same V fails: V is the value of one process only.
    """
    path, law, reward = AffinePath(schedule), mixture((), generator), a_reward((), generator)
    value, exact = ExactValue(path, law, reward), ExactField(path, law)
    x, t = states((), generator).requires_grad_(), TIMES.clone().requires_grad_()
    v = value(x, t)
    slope, rate = torch.autograd.grad(v.sum(), (x, t), create_graph=True)
    bend = torch.autograd.grad(slope.sum(), x)[0]
    strength = memoryless_strength(schedule, TIMES)
    left = {}
    for factor in (1, 2):
        lam = factor * strength
        drift = exact(x, TIMES) + lam * exact.score(x, TIMES)
        left[factor] = (rate + drift * slope + lam * (bend + slope**2)).abs().max().item()
    assert left[1] < 1e-8 and left[2] > 1e-2


@pytest.mark.parametrize("variance", [1.0, 0.3])
def test_the_guess_with_the_right_spread_is_exact_for_a_gaussian(event, generator, variance):
    """N(m, s²) leaves x₁ a variance s²σ²/(α²s² + σ²) given x_t; with another the law is another."""
    law = Gaussian(torch.randn(event, generator=generator, dtype=DOUBLE), variance)
    reward, exact, x = a_reward(event, generator), ExactField(PATH, law), states(event, generator)

    def spread(t):
        return variance * (1 - t) ** 2 / (t**2 * variance + (1 - t) ** 2)

    wanted = ExactField(PATH, tilted(law, reward))(x, TIMES)
    field = steered(exact, PATH, guessed_value(exact, PATH, reward, spread))
    torch.testing.assert_close(field(x, TIMES), wanted, rtol=1e-9, atol=1e-9)
    plain = steered(exact, PATH, guessed_value(exact, PATH, reward))(x, TIMES)
    assert (plain - wanted).abs().max() > 1e-2


def test_the_guess_without_spread_is_the_reward_of_the_posterior_mean(event, generator):
    exact, reward = ExactField(PATH, mixture(event, generator)), a_reward(event, generator)
    x = states(event, generator)
    value = guessed_value(exact, PATH, reward)(x, TIMES)
    torch.testing.assert_close(value, reward(exact.posterior_mean(x, TIMES)))


def test_steering_leaves_no_graph_and_works_without_one(generator):
    law, reward = mixture((2,), generator), a_reward((2,), generator)
    field = steered(ExactField(PATH, law), PATH, ExactValue(PATH, law, reward))
    x = states((2,), generator)
    with torch.no_grad():
        quiet = field(x, TIMES)
    assert not quiet.requires_grad and torch.equal(quiet, field(x, TIMES))


def test_the_divergence_of_a_steered_field_is_that_of_the_tilted_one(event, generator):
    """The gradient of a value must be differentiated too where somebody asks."""
    law, reward = mixture(event, generator), a_reward(event, generator)
    field = steered(ExactField(PATH, law), PATH, ExactValue(PATH, law, reward))
    wanted, x = ExactField(PATH, tilted(law, reward)), states(event, generator)
    found = divergence(field, x, TIMES)
    torch.testing.assert_close(found, divergence(wanted, x, TIMES), rtol=1e-8, atol=1e-8)
    t = TIMES.clone().requires_grad_()
    rates = [torch.autograd.grad(v(x, t).sum(), t)[0] for v in (field, wanted)]
    torch.testing.assert_close(*rates, rtol=1e-8, atol=1e-8)


def test_steering_and_the_adjoint_work_in_inference_mode(generator):
    law, reward = mixture((2,), generator), a_reward((2,), generator)
    exact, x = ExactField(PATH, law), states((2,), generator)
    field, times = steered(exact, PATH, ExactValue(PATH, law, reward)), double([0.5, 0.8])
    solution = Solution(times, torch.stack([x, x + 1]), 1)
    wanted = field(x, TIMES), lean_adjoint(exact, PATH, solution, x)
    with torch.inference_mode():
        copy = Solution(times.clone(), solution.states.clone(), 1)
        found = field(x.clone(), TIMES.clone()), lean_adjoint(exact, PATH, copy, x.clone())
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


# Adjoint matching


def chain(field, x, times, noise):
    """Euler–Maruyama for αx with memoryless noise: αx ← αx + 2hαv + α√(2λh) ξ."""
    for t, end, one in zip(times[:-1], times[1:], noise, strict=True):
        h, time = end - t, t.expand(len(x))
        kick = (2 * memoryless_strength(LINEAR, time)[0] * h).sqrt() * one
        x = t / end * (x + 2 * h * field(x, time) + kick)
        yield x


def test_lean_adjoint_is_the_derivative_of_the_reward_through_the_chain(event, generator):
    """By autograd from the last state to the first, with the noise held fixed."""
    exact, reward = ExactField(PATH, mixture(event, generator)), a_reward(event, generator)
    times = torch.linspace(0.2, 1, 9, dtype=DOUBLE)
    noise = states(event, generator, 8 * 3).reshape(8, 3, *event)
    x = states(event, generator).requires_grad_()
    made = [x, *chain(exact, x, times, noise)]
    adjoint = lean_adjoint(
        exact,
        PATH,
        Solution(times, torch.stack(made).detach(), 8),
        reward.gradient(made[-1]).detach(),
    )
    slopes = torch.autograd.grad(reward(made[-1]).sum(), made)
    torch.testing.assert_close(adjoint, torch.stack(slopes), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("schedule", [LINEAR, COSINE], ids=repr)
def test_lean_adjoint_of_a_gaussian_is_the_slope_of_the_value(schedule):
    """Data N(m, s²), r = bx: on every solution a = α s² b/C, to the first order in the step."""
    law, b, s2 = Gaussian(double([0.5]), 0.49), double([0.8]), 0.49
    path = AffinePath(schedule)
    misses = []
    for n in (100, 200):
        times = torch.linspace(0.1, 0.99, n + 1, dtype=DOUBLE)
        wild = Solution(times, torch.randn(n + 1, 2, 1, dtype=DOUBLE), n)
        adjoint = lean_adjoint(ExactField(path, law), path, wild, b.expand(2, 1))
        alpha, sigma = schedule.alpha(times), schedule.sigma(times)
        wanted = alpha * s2 * b / (alpha**2 * s2 + sigma**2)
        end = wanted[-1] / b
        misses.append((adjoint[:, 0, 0] * end - wanted).abs().max().item())
    assert misses[0] < 0.02 and 1.7 < misses[0] / misses[1] < 2.3


def test_adjoint_matching_loss_worked_out_by_hand():
    """At t = ½ and ⅘: λ = 1 and ¼, steps 0.3 and 0.2; v = 0, network 1, a = 3, 2 and 7.

    One sample: 0.3·(2/1)·(1 − 3)² + 0.2·(2/¼)·(1 − ½)² = 2.4 + 0.4; the last time has no part.
    """
    times = double([0.5, 0.8, 1.0])
    solution = Solution(times, torch.zeros(3, 1, 1, dtype=DOUBLE), 2)
    adjoint = double([3.0, 2.0, 7.0]).reshape(3, 1, 1)
    loss = adjoint_matching_loss(lambda x, t: x + 1, lambda x, t: 0 * x, PATH, solution, adjoint)
    assert loss.item() == pytest.approx(2.8) and loss.shape == ()


def test_adjoint_matching_asks_both_fields_where_each_step_began():
    """As above, but x = 2 and 3 and then 9, v = x and the network 2x + t.

    0.3·(2/1)·(2 + ½ − 3)² + 0.2·(2/¼)·(3 + ⅘ − ½)² = 0.15 + 17.424.
    """
    times, x = double([0.5, 0.8, 1.0]), double([2.0, 3.0, 9.0]).reshape(3, 1, 1)
    adjoint = double([3.0, 2.0, 7.0]).reshape(3, 1, 1)
    loss = adjoint_matching_loss(
        lambda x, t: 2 * x + t[:, None], lambda x, t: x, PATH, Solution(times, x, 2), adjoint
    )
    assert loss.item() == pytest.approx(17.574)


def test_adjoint_matching_sums_over_an_event_and_averages_over_the_batch(event):
    x = torch.zeros(2, 3, *event)
    adjoint = torch.stack([torch.full(event, float(b)) for b in (1, 2, 3)]).expand(2, 3, *event)
    solution = Solution(torch.tensor([0.5, 1.0]), x, 1)
    loss = adjoint_matching_loss(lambda x, t: x, lambda x, t: x, PATH, solution, adjoint)
    assert loss.item() == pytest.approx(math.prod(event) * 14 / 3, rel=1e-5)


def test_adjoint_matching_rests_at_the_tilted_field(generator):
    """For one Gaussian and r = ⟨b, x⟩ nothing is random: the loss itself vanishes with the step,
    and its gradient is not that of another field. Nothing is learned through the solution."""
    law = Gaussian(double([0.5, -0.2]), 0.49)
    reward = QuadraticReward(double([0.8, 0.4]))
    base, wanted = ExactField(PATH, law), ExactField(PATH, tilted(law, reward))
    found = {}
    for n in (50, 100):
        times = torch.linspace(0.05, 1, n + 1, dtype=DOUBLE)
        solution = solve_sde(
            wanted,
            states((2,), generator, 64),
            times,
            PATH,
            reversal_noise_level(LINEAR),
            generator,
        )
        solution = solution._replace(states=solution.states.requires_grad_())
        adjoint = lean_adjoint(base, PATH, solution, reward.gradient(solution.last)).detach()
        found[n] = adjoint_matching_loss(wanted, base, PATH, solution, adjoint).item()
        other = adjoint_matching_loss(base, base, PATH, solution, adjoint.requires_grad_())
        assert not other.requires_grad and other.item() > 100 * found[n]
    assert 3 < found[50] / found[100] < 5  # the square of an error of first order


def test_no_gradient_reaches_the_adjoint_or_the_base(generator):
    weight = torch.ones((), dtype=DOUBLE, requires_grad=True)
    frozen = torch.ones((), dtype=DOUBLE, requires_grad=True)
    solution = Solution(double([0.5, 0.7, 1.0]), states((2,), generator, 9).reshape(3, 3, 2), 2)
    adjoint = (solution.states * frozen).detach() + 0 * frozen
    loss = adjoint_matching_loss(
        lambda x, t: weight * x, lambda x, t: frozen * x, PATH, solution, adjoint
    )
    by_weight, by_frozen = torch.autograd.grad(loss, (weight, frozen), allow_unused=True)
    assert by_weight != 0 and by_frozen is None


# What is known is replaced


def half():
    return torch.tensor([True, False]), double([3.0, math.nan])


def test_the_known_entries_are_there_in_the_end_and_the_step_moves_the_others(generator):
    mask, known = half()
    x = states((2,), generator)
    end = solve(
        lambda x, t: 2 * x, x, double([0.0, 0.5, 1.0]), replaced(euler, PATH, known, mask)
    ).last
    assert torch.equal(end[:, 0], torch.full((3,), 3.0).double())
    torch.testing.assert_close(end[:, 1], 4 * x[:, 1])


def test_on_the_way_they_are_noised_copies(generator):
    """Mean α'y and standard deviation σ', within five standard errors of 20 000."""
    mask, known = half()
    step = replaced(euler, PATH, known, mask, generator=generator)
    x = solve(lambda x, t: x, torch.zeros(20_000, 2).double(), double([0.0, 0.25]), step).last
    assert x[:, 0].mean().item() == pytest.approx(0.75, abs=5 * 0.75 / 20_000**0.5)
    assert x[:, 0].std().item() == pytest.approx(0.75, rel=5 / 40_000**0.5)


def test_a_repeated_step_goes_back_by_the_noise_between():
    """Nothing known, v = 0, x = 1 at t = ½, to ¾: back to (½/¾) x + √(¼ − (½/¾)²/16) ξ, once."""
    mask, generator = torch.tensor([False]), torch.Generator().manual_seed(5)
    step = replaced(euler, AffinePath(LINEAR), double([0.0]), mask, 2, generator)
    ones = torch.ones(20_000, 1).double()
    x = solve(lambda x, t: 0 * x, ones, double([0.5, 0.75]), step).last
    deviation = (0.25 - (2 / 3) ** 2 / 16) ** 0.5
    assert x.mean().item() == pytest.approx(2 / 3, abs=5 * deviation / 20_000**0.5)
    assert x.std().item() == pytest.approx(deviation, rel=5 / 40_000**0.5)


def test_where_the_known_half_says_nothing_replacing_is_right(generator):
    """Independent coordinates: the other one must have its own law; 400 quantiles of noise."""
    law = Gaussian(double([1.0, -0.5]), torch.diag(double([0.3, 0.6])))
    mask, known = half()
    quantiles = torch.special.ndtri((torch.arange(400, dtype=DOUBLE) + 0.5) / 400)
    x = torch.stack([torch.zeros(400).double(), quantiles], dim=1)
    step = replaced(euler, PATH, known, mask, generator=generator)
    end = solve(ExactField(PATH, law), x, torch.linspace(0, 1, 401, dtype=DOUBLE), step).last
    # Euler's method with 400 steps
    torch.testing.assert_close(end[:, 1], -0.5 + 0.6**0.5 * quantiles, rtol=0, atol=0.01)


# Copies and bad input


def test_what_is_made_can_be_pickled(generator):
    law, reward = mixture((2,), generator), a_reward((2,), generator)
    exact, x = ExactField(PATH, law), states((2,), generator)
    for value in (ExactValue(PATH, law, reward), guessed_value(exact, PATH, reward)):
        field = steered(exact, PATH, value)
        assert torch.equal(pickle.loads(pickle.dumps(field))(x, TIMES), field(x, TIMES))


def test_times_without_data_are_refused(generator):
    law, reward = mixture((2,), generator), a_reward((2,), generator)
    field = steered(ExactField(PATH, law), PATH, ExactValue(PATH, law, reward))
    x = states((2,), generator)
    with pytest.raises(ValueError, match="memoryless noise is infinite: begin later"):
        field(x, 0 * TIMES)
    solution = Solution(double([0.0, 1.0]), torch.stack([x, x]), 1)
    with pytest.raises(ValueError, match="begin later"):
        lean_adjoint(ExactField(PATH, law), PATH, solution, x)


def test_a_field_without_a_graph_has_no_adjoint():
    solution = Solution(double([0.5, 1.0]), torch.zeros(2, 3, 1, dtype=DOUBLE), 1)
    with pytest.raises(ValueError, match="field must return .* with its graph"):
        lean_adjoint(lambda x, t: x.detach(), PATH, solution, torch.zeros(3, 1, dtype=DOUBLE))


@pytest.mark.parametrize("times", [[1.0, 0.5], [0.5, 0.7, 1.0], [0.5]])
def test_a_solution_has_all_its_states_and_goes_forward(times):
    solution = Solution(double(times), torch.zeros(2, 3, 1, dtype=DOUBLE), 1)
    with pytest.raises(ValueError, match="states at all of its times"):
        lean_adjoint(lambda x, t: x, PATH, solution, torch.zeros(3, 1, dtype=DOUBLE))


@pytest.mark.parametrize(
    "value", [lambda x, t: x, lambda x, t: t, lambda x, t: None, lambda x, t: x.detach().sum(1)]
)
def test_a_value_is_one_number_for_each_sample_with_its_graph(value):
    with pytest.raises(ValueError, match="value must return a tensor of shape"):
        steered(lambda x, t: x, PATH, value)(torch.zeros(3, 2), torch.full((3,), 0.5))


def test_replacing_needs_the_shape_of_the_states_and_a_step_forward():
    mask, known = half()
    step = replaced(euler, PATH, known, mask)
    x = torch.zeros(3, 2, dtype=DOUBLE)
    with pytest.raises(ValueError, match=r"x has event shape \(3,\); known \(2,\)"):
        solve(lambda x, t: x, torch.zeros(3, 3, dtype=DOUBLE), double([0.0, 1.0]), step)
    with pytest.raises(ValueError, match="times must increase"):
        solve(lambda x, t: x, x, double([1.0, 0.0]), step)


def test_an_observation_steers_as_the_posterior_does(generator):
    """Through the value, to the field of the conditional mixture."""
    law = mixture((2,), generator)
    reward = observed(double([0.4, 0.0]), torch.tensor([True, False]), 0.2)
    x = states((2,), generator)
    field = steered(ExactField(PATH, law), PATH, ExactValue(PATH, law, reward))
    wanted = ExactField(PATH, tilted(law, reward))(x, TIMES)
    torch.testing.assert_close(field(x, TIMES), wanted, rtol=1e-9, atol=1e-9)
