"""Solvers against exact solutions, SciPy and torchdiffeq."""

import math

import pytest
import scipy.linalg
import torch
import torchdiffeq
from scipy.integrate import solve_ivp

from fmtutorial.solvers import Solution, euler, heun, midpoint, rk4, solve

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
