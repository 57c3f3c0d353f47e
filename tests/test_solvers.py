"""Solvers against exact solutions, SciPy and torchdiffeq."""

import functools
import math
import weakref

import pytest
import scipy.linalg
import torch
import torchdiffeq
from point_mass import point_mass
from scipy.integrate import solve_ivp

from fmtutorial.diffusion import ddim, solve_sde
from fmtutorial.distributions import GaussianMixture
from fmtutorial.exact import ExactField
from fmtutorial.paths import COSINE, LINEAR, SQRT, VP, AffinePath
from fmtutorial.solvers import (
    Solution,
    dpm_solver,
    euler,
    heun,
    log_snr_grid,
    midpoint,
    rk4,
    solve,
    solve_adaptive,
)

DOUBLE = torch.float64
# order and evaluations a step
STEPS = {euler: (1, 1), midpoint: (2, 2), heun: (2, 2), rk4: (4, 4)}
every_step = pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)


def grid(start, end, steps):
    return torch.linspace(start, end, steps + 1, dtype=DOUBLE)


def falling(x, t):
    """dx/dt = −2 t x², solved by x = x₀ / (1 + x₀ t²): neither linear nor autonomous."""
    return -2 * t.reshape(-1, *[1] * (x.ndim - 1)) * x**2


@every_step
def test_error_falls_with_the_order(step, event, generator):
    """Slope of log error over log step between 40 and 80 steps, within 0.15."""
    x0 = 0.5 + torch.rand(3, *event, generator=generator, dtype=DOUBLE)
    truth = x0 / (1 + x0)
    errors = [(solve(falling, x0, grid(0, 1, n), step).last - truth).norm() for n in (40, 80)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(STEPS[step][0], abs=0.15)


START = torch.tensor([[0.4, -1.1], [-0.7, 0.2]], dtype=DOUBLE)


def exact_ring(schedule):
    """Of the ring of eleven Gaussians in double precision."""
    angles = torch.arange(11, dtype=DOUBLE) * (2 * math.pi / 11)
    means = 10 * torch.stack([angles.cos(), angles.sin()], dim=1)
    return ExactField(AffinePath(schedule), GaussianMixture(means, torch.ones(11, dtype=DOUBLE)))


@functools.cache
def ring_solution(schedule):
    """SciPy's DOP853 at 1e-11, from START at t = 0.05 to 0.95."""
    field = exact_ring(schedule)

    def velocity(t, x):
        x = torch.from_numpy(x).reshape(2, 2)
        return field(x, torch.full((2,), t, dtype=DOUBLE)).flatten().numpy()

    flat = START.flatten().numpy()
    end = solve_ivp(velocity, (0.05, 0.95), flat, method="DOP853", rtol=1e-11, atol=1e-11)
    return torch.from_numpy(end.y[:, -1]).reshape(2, 2)


curved = pytest.mark.parametrize("schedule", [LINEAR, COSINE, VP, SQRT], ids=repr)


@every_step
@curved
def test_order_on_the_exact_field_of_the_ring(step, schedule):
    """Slope of log error over log step within 0.15 where paths bend, on several schedules."""
    field, truth = exact_ring(schedule), ring_solution(schedule)
    errors = [
        (solve(field, START, grid(0.05, 0.95, n), step).last - truth).norm() for n in (70, 140)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(STEPS[step][0], abs=0.15)


@every_step
def test_a_decreasing_grid_undoes_an_increasing_one(step, event, generator):
    """Backwards with the same field and steps: back at the start up to the global error C hᵖ."""
    x0 = 0.5 + torch.rand(3, *event, generator=generator, dtype=DOUBLE)
    order = STEPS[step][0]
    x1 = x0 / (1 + x0)
    back = solve(falling, x1, grid(1, 0, 50), step).last
    torch.testing.assert_close(back, x0, rtol=0, atol=50 * (1 / 50) ** order)
    there_and_back = solve(
        falling, solve(falling, x0, grid(0, 1, 50), step).last, grid(1, 0, 50), step
    )
    torch.testing.assert_close(there_and_back.last, x0, rtol=0, atol=50 * (1 / 50) ** order)


@every_step
def test_one_step_on_a_linear_field_is_the_taylor_polynomial(step):
    """Of e^h, up to the order, which for a linear field is the number of stages."""
    h = 0.3
    last = solve(lambda x, t: x, torch.ones(1, dtype=DOUBLE), grid(0, h, 1), step).last
    expected = sum(h**k / math.factorial(k) for k in range(STEPS[step][0] + 1))
    assert last.item() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    "step, integral", [(euler, 0.0), (midpoint, 1 / 16), (heun, 1 / 2), (rk4, 5 / 24)]
)
def test_one_step_on_a_field_of_time_is_the_quadrature_rule(step, integral):
    """∫₀¹ t⁴ dt by the left end, the midpoint, the trapezium and Simpson's rule."""
    last = solve(lambda x, t: t**4, torch.zeros(1, dtype=DOUBLE), grid(0, 1, 1), step).last
    assert last.item() == pytest.approx(integral, rel=1e-14)


@pytest.mark.parametrize(
    "step, method", [(euler, "euler"), (midpoint, "midpoint"), (heun, "heun2")]
)
@pytest.mark.parametrize("direction", [1, -1])
def test_torchdiffeq_takes_the_same_steps(step, method, direction, generator):
    x0 = 0.5 + torch.rand(3, 2, generator=generator, dtype=DOUBLE)
    times = torch.tensor([0.0, 0.1, 0.35, 0.5, 1.0], dtype=DOUBLE)
    times = times if direction == 1 else times.flip(0)
    ours = solve(falling, x0, times, step).states
    theirs = torchdiffeq.odeint(lambda t, x: falling(x, t.expand(3)), x0, times, method=method)
    # the same additions in another order
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


def test_scipy_arrives_at_the_same_place(generator):
    x0 = 0.5 + torch.rand(4, dtype=DOUBLE, generator=generator)

    def field(x, t):
        return torch.sin(3 * x) * torch.cos(2 * t) + 0.2 * x**2

    def scipy_field(t, x):
        return field(torch.from_numpy(x), torch.full((4,), t, dtype=DOUBLE)).numpy()

    for start, end in [(0.0, 1.0), (1.0, -0.5)]:
        truth = solve_ivp(scipy_field, (start, end), x0.numpy(), rtol=1e-11, atol=1e-11).y[:, -1]
        last = solve(field, x0, grid(start, end, 200), rk4).last
        # h⁴ = 6e-10 to 3e-9 times derivatives of order 10
        torch.testing.assert_close(last, torch.from_numpy(truth), rtol=0, atol=1e-7)


def test_linear_field_against_the_matrix_exponential(generator):
    matrix = torch.randn(3, 3, generator=generator, dtype=DOUBLE)
    x0 = torch.randn(3, 3, generator=generator, dtype=DOUBLE)
    last = solve(lambda x, t: x @ matrix.T, x0, grid(0, 1, 100), rk4).last
    expected = x0 @ torch.from_numpy(scipy.linalg.expm(matrix.numpy())).T
    torch.testing.assert_close(last, expected, rtol=1e-7, atol=1e-7)  # h⁴ = 1e-8


@every_step
@pytest.mark.parametrize("steps", [1, 7])
def test_evaluations_are_counted(step, steps):
    calls = []

    def field(x, t):
        calls.append(t)
        return x

    solution = solve(field, torch.ones(3, 2), torch.linspace(0, 1, steps + 1), step)
    assert solution.evaluations == len(calls) == steps * STEPS[step][1]


def test_solution_holds_every_state_of_the_grid(event, generator):
    """Each state is Euler's from the one before, on steps of different lengths."""
    x0 = torch.rand(3, *event, generator=generator, dtype=DOUBLE)
    times = torch.tensor([0.0, 0.1, 0.5, 0.6], dtype=DOUBLE)
    solution = solve(falling, x0, times)
    assert isinstance(solution, Solution)
    assert solution.states.shape == (4, 3, *event)
    assert torch.equal(solution.times, times)
    assert torch.equal(solution.states[0], x0)
    assert torch.equal(solution.last, solution.states[-1])
    for i, (t, end) in enumerate([(0.0, 0.1), (0.1, 0.5), (0.5, 0.6)]):
        expected = solution.states[i] * (1 - 2 * t * (end - t) * solution.states[i])
        torch.testing.assert_close(solution.states[i + 1], expected)


def test_field_sees_one_time_for_each_sample():
    """Of shape (B,) and the type of x, also where B = D."""
    seen = []

    def field(x, t):
        seen.append(t)
        return 0 * x

    solve(field, torch.zeros(3, 3), torch.tensor([0.0, 1.0], dtype=DOUBLE), heun)
    assert [t.shape for t in seen] == [(3,), (3,)]
    assert all(t.dtype == torch.float32 for t in seen)
    assert [t.tolist() for t in seen] == [[0.0] * 3, [1.0] * 3]


def test_gradients_flow_through_the_solution():
    """d/da of x₀ eᵃ is x₀ eᵃ; under no_grad there is no graph."""
    a = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    x0 = torch.tensor([2.0], dtype=DOUBLE)
    last = solve(lambda x, t: a * x, x0, grid(0, 1, 50), rk4).last
    (gradient,) = torch.autograd.grad(last.sum(), a)
    assert gradient.item() == pytest.approx(2 * math.exp(0.7), rel=1e-6)  # h⁴ = 2e-7
    with torch.no_grad():
        assert not solve(lambda x, t: a * x, x0, grid(0, 1, 5), rk4).last.requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_state_that_is_not_finite_stops_at_its_step(value):
    def field(x, t):
        wrong = torch.zeros_like(x)
        wrong[1, 0] = value if t[0] > 0.5 else 0.0
        return wrong

    with pytest.raises(FloatingPointError, match=r"after step 4 of 5, from t = 0.6 to 0.8"):
        solve(field, torch.zeros(3, 2), torch.linspace(0, 1, 6))


@pytest.mark.parametrize(
    "times, error, match",
    [
        ([0.0, 1.0], TypeError, "floating-point tensor"),
        (torch.tensor([0, 1]), TypeError, "floating-point tensor"),
        (torch.tensor(1.0), ValueError, r"shape \(\); pass \(T,\) with T ≥ 2"),
        (torch.tensor([0.0]), ValueError, r"shape \(1,\)"),
        (torch.zeros(2, 2), ValueError, r"shape \(2, 2\)"),
        (torch.tensor([0.0, 0.5, 0.5, 1.0]), ValueError, "strictly increasing or strictly"),
        (torch.tensor([1.0, 0.5, 0.5, 0.0]), ValueError, "strictly increasing or strictly"),
        (torch.tensor([0.0, 1.0, 0.5]), ValueError, "strictly"),
        (torch.tensor([0.0, float("nan"), 1.0]), ValueError, "finite"),
        (torch.tensor([0.0, float("inf")]), ValueError, "finite"),
    ],
    ids=range(10),
)
def test_wrong_grids_are_refused(times, error, match):
    with pytest.raises(error, match=match):
        solve(falling, torch.zeros(3, 2), times)


@pytest.mark.parametrize(
    "x, error, match",
    [
        ([0.0], TypeError, "x is a list"),
        (torch.tensor(0.0), ValueError, "x has no batch dimension"),
        (torch.tensor([0]), TypeError, "x has dtype torch.int64"),
    ],
    ids=["list", "scalar", "integer"],
)
def test_wrong_states_are_refused(x, error, match):
    with pytest.raises(error, match=match):
        solve(falling, x, torch.tensor([0.0, 1.0]))


def test_an_unknown_step_is_refused():
    with pytest.raises(TypeError, match="step is 'heun'; pass a function such as"):
        solve(falling, torch.zeros(3, 2), torch.tensor([0.0, 1.0]), "heun")


def test_a_field_of_another_shape_is_refused():
    """With B = D the sum of shapes (B,) and (B, D) would be accepted and wrong."""
    with pytest.raises(ValueError, match=r"has shape \(3,\)"):
        solve(lambda x, t: t, torch.zeros(3, 3), torch.tensor([0.0, 1.0]))


@pytest.mark.parametrize("times", [[0.0, 1.0], [0.0, 0.6, 1.0], [0.1, 0.2, 0.5, 0.55, 0.9]])
def test_dpm_solver_is_exact_for_a_point_mass(times, schedule, event, generator):
    """In any number of steps, the ends of infinite log(α/σ) included: x_t = α c + σ x₀."""
    x0 = torch.randn(3, *event, generator=generator, dtype=DOUBLE)
    point = torch.randn(event, generator=generator, dtype=DOUBLE)
    times = torch.tensor(times, dtype=DOUBLE)
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    start = alpha[0] * point + sigma[0] * x0
    solution = dpm_solver(point_mass(schedule, point), start, times, AffinePath(schedule))
    assert isinstance(solution, Solution) and torch.equal(solution.times, times)
    assert solution.states.shape == (len(times), 3, *event)
    for i, state in enumerate(solution.states):
        # α̇σ − ασ̇ divides roundings, by 0.03 for VP at t = 0
        torch.testing.assert_close(state, alpha[i] * point + sigma[i] * x0, rtol=0, atol=1e-12)


@curved
def test_dpm_solver_is_of_order_two_on_grids_of_log_snr(schedule):
    field, path, truth = exact_ring(schedule), AffinePath(schedule), ring_solution(schedule)

    def error(steps):
        times = log_snr_grid(schedule, 0.05, 0.95, steps, DOUBLE)
        return (dpm_solver(field, START, times, path).last - truth).norm()

    assert math.log2(error(70) / error(140)) == pytest.approx(2, abs=0.15)


def ring_data(x, alpha, sigma):
    """E[x₁ | x] for the ring by Bayes' rule: eleven modes of variance 1, added up one by one."""
    total, mean = 0.0, torch.zeros(2, dtype=DOUBLE)
    variance = alpha**2 + sigma**2
    for k in range(11):
        angle = 2 * math.pi * k / 11
        mode = torch.tensor([10 * math.cos(angle), 10 * math.sin(angle)], dtype=DOUBLE)
        offset = x - alpha * mode
        weight = math.exp(-0.5 * (offset**2).sum().item() / variance)
        total += weight
        mean += weight * (mode + alpha / variance * offset)
    return mean / total


# log(α/σ) is infinite at both ends of linear: first order there and beside them
@pytest.mark.parametrize(
    "schedule, times, second",
    [
        (LINEAR, [0.1, 0.25, 0.45, 0.5, 0.8], [1, 2, 3]),
        (COSINE, [0.1, 0.25, 0.45, 0.5, 0.8], [1, 2, 3]),
        (VP, [0.0, 0.25, 0.45, 0.5, 0.8, 1.0], [1, 2, 3]),
        (LINEAR, [0.0, 0.3, 0.4, 0.7, 0.9, 1.0], [2, 3]),
    ],
    ids=["linear", "cosine", "VP", "both ends"],
)
def test_dpm_solver_takes_the_steps_of_the_paper(schedule, times, second):
    """Algorithm 2 of DPM-Solver++ in its notation, in Python's numbers, on an uneven grid.

    λ = log(α/σ), h_i = λ_i − λ_{i−1}, r_i = h_{i−1}/h_i, D_i = (1 + 1/(2 r_i)) x_θ(t_{i−1})
    − 1/(2 r_i) x_θ(t_{i−2}), x_i = (σ_i/σ_{i−1}) x_{i−1} − α_i (e^{−h_i} − 1) D_i.
    """
    alphas = [schedule.alpha(torch.tensor(t, dtype=DOUBLE)).item() for t in times]
    sigmas = [schedule.sigma(torch.tensor(t, dtype=DOUBLE)).item() for t in times]

    def ratio(i):
        if alphas[i] == 0 or sigmas[i] == 0:
            return -math.inf if alphas[i] == 0 else math.inf
        return math.log(alphas[i] / sigmas[i])

    x, predictions, states = START[0], [], [START[0]]
    for i in range(1, len(times)):
        predictions.append(ring_data(x, alphas[i - 1], sigmas[i - 1]))
        h, d = ratio(i) - ratio(i - 1), predictions[-1]
        if i - 1 in second:
            r = (ratio(i - 1) - ratio(i - 2)) / h
            d = (1 + 1 / (2 * r)) * predictions[-1] - 1 / (2 * r) * predictions[-2]
        x = sigmas[i] / sigmas[i - 1] * x - alphas[i] * math.expm1(-h) * d
        states.append(x)
    ours = dpm_solver(
        exact_ring(schedule),
        START[:1],
        torch.tensor(times, dtype=DOUBLE),
        AffinePath(schedule),
    )
    torch.testing.assert_close(ours.states[:, 0], torch.stack(states), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_dpm_solver_evaluates_once_a_step_and_not_at_the_end(steps, generator):
    seen = []

    def field(x, t):
        seen.append(t)
        return x

    x = torch.randn(3, 3, generator=generator)
    times = torch.linspace(0, 1, steps + 1)
    solution = dpm_solver(field, x, times, AffinePath(LINEAR))
    assert solution.evaluations == len(seen) == steps
    assert [t.tolist() for t in seen] == [[t] * 3 for t in times[:-1].tolist()]
    assert solution.states.dtype == torch.float32


@pytest.mark.parametrize(
    "times, match",
    [
        ([0.9, 0.1], "times must increase: DPM-Solver"),
        ([-0.1, 0.5], r"t = -0\.1.* is outside \[0, 1\]"),
        ([0.5, 1.1], r"t = 1\.1.* is outside \[0, 1\]"),
        ([0.1, 0.1], "strictly increasing"),
        ([0.1], r"pass \(T,\) with T ≥ 2"),
    ],
    ids=range(5),
)
def test_dpm_solver_refuses_wrong_grids(times, match):
    with pytest.raises(ValueError, match=match):
        dpm_solver(falling, torch.zeros(3, 2), torch.tensor(times), AffinePath(LINEAR))


def test_dpm_solver_refuses_wrong_states_and_fields():
    path, times = AffinePath(LINEAR), torch.tensor([0.1, 0.5])
    with pytest.raises(TypeError, match="x has dtype torch.int64"):
        dpm_solver(falling, torch.tensor([0]), times, path)
    with pytest.raises(ValueError, match=r"v has shape \(3,\)"):
        dpm_solver(lambda x, t: t, torch.zeros(3, 3), times, path)
    with pytest.raises(TypeError, match="times must be a floating-point tensor"):
        dpm_solver(falling, torch.zeros(3, 2), [0.1, 0.5], path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_dpm_solver_stops_at_a_state_that_is_not_finite(value):
    def field(x, t):
        wrong = torch.zeros_like(x)
        wrong[1, 0] = value if t[0] > 0.3 else 0.0
        return wrong

    with pytest.raises(FloatingPointError, match="the last state is not finite"):
        dpm_solver(field, torch.zeros(3, 2), torch.linspace(0, 0.9, 4), AffinePath(LINEAR))


# Precision of clock and state, memory, empty batches.


RUNS = {
    "solve": lambda x, grid, **o: solve(rising, x, grid, **o),
    "dpm_solver": lambda x, grid, **o: dpm_solver(rising, x, grid, PATH, **o),
    "solve_sde": lambda x, grid, **o: solve_sde(rising, x, grid, PATH, lambda t: 0.0, **o),
    "ddim": lambda x, grid, **o: solve(rising, x, grid, ddim(PATH), **o),
    "solve_adaptive": lambda x, grid, **o: solve_adaptive(
        rising, x, grid[0].item(), grid[-1].item(), **o
    ),
}
PATH = AffinePath(LINEAR)


def rising(x, t):
    return torch.ones_like(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_states_in_half_precision_are_refused(run, dtype):
    """In bfloat16 a thousand steps of 1/1000 from 1 end at 1."""
    with pytest.raises(TypeError, match=r"small steps vanish; integrate x\.float\(\)"):
        run(torch.ones(1, 1, dtype=dtype), torch.linspace(0, 0.9, 11))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("run", list(RUNS.values())[:4], ids=list(RUNS)[:4])
def test_grids_in_half_precision_are_refused(run, dtype):
    with pytest.raises(TypeError, match="single or double precision"):
        run(torch.ones(1, 1), torch.linspace(0, 0.9, 11, dtype=dtype))


def test_a_network_in_half_precision_runs_in_the_way_that_the_message_names():
    half = lambda x, t: rising(x.bfloat16(), t.bfloat16()).float()  # noqa: E731
    for n in (10, 100, 1000):
        last = solve(half, torch.ones(1, 1), torch.linspace(0, 1, n + 1)).last
        # n roundings of float32 near 2
        assert last.item() == pytest.approx(2, abs=2e-7 * n)


def test_a_grid_in_double_precision_stays_inside_its_ends_for_states_in_single():
    """1 − 1e-9 rounds to 1, where this field is not defined."""
    seen = []

    def field(x, t):
        seen.append(t.max().item())
        return x / (1 - t)[:, None]

    for end, start in ((1 - 1e-9, 0.0), (0.0, 1 - 1e-9)):
        grid = torch.tensor([start, 0.5, end], dtype=DOUBLE)
        assert solve(field, torch.ones(1, 1), grid, heun).last.isfinite().all()
    assert max(seen) == 1 - 2**-24


def test_times_that_single_precision_cannot_tell_apart_are_refused():
    grid = torch.tensor([0.0, 0.5, 0.5 + 1e-9], dtype=DOUBLE)
    with pytest.raises(ValueError, match=r"the same in single precision.*x\.double\(\)"):
        solve(rising, torch.ones(1, 1), grid)
    assert solve(rising, torch.ones(1, 1, dtype=DOUBLE), grid).last.item() == pytest.approx(1.5)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_the_last_state_alone_is_the_same_and_keeps_no_other(run):
    x, grid = torch.ones(3, 4), torch.linspace(0, 0.9, 11)
    whole, end = run(x, grid), run(x, grid, last_only=True)
    assert torch.equal(end.last, whole.last) and end.evaluations == whole.evaluations
    assert end.states.shape == (1, 3, 4) and end.times.tolist() == whole.times[-1:].tolist()
    for last in (whole.last, end.last):
        assert last.untyped_storage().nbytes() == x.untyped_storage().nbytes()


def test_memory_of_the_last_state_alone_does_not_grow_with_the_steps():
    """States that die are counted by their finalisers, as the allocator's figures are not ours."""
    alive, most = set(), 0

    def field(x, t):
        nonlocal most
        alive.add(id(x))
        weakref.finalize(x, alive.discard, id(x))
        most = max(most, len(alive))
        return torch.zeros_like(x)

    with torch.no_grad():
        solve(field, torch.ones(1, 1), torch.linspace(0, 1, 101), last_only=True)
    assert most <= 3
    with torch.no_grad():
        solve(field, torch.ones(1, 1), torch.linspace(0, 1, 101))
    assert most >= 100


@pytest.mark.parametrize("run", list(RUNS.values())[:4], ids=list(RUNS)[:4])
def test_an_empty_batch_stays_empty(run):
    assert run(torch.ones(0, 2), torch.linspace(0, 0.9, 5)).states.shape == (5, 0, 2)


def test_an_empty_batch_cannot_choose_its_step():
    with pytest.raises(ValueError, match="holds no sample.*use solve"):
        RUNS["solve_adaptive"](torch.ones(0, 2), torch.linspace(0, 0.9, 5))
