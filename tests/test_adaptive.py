"""The adaptive solver against SciPy's RK45, torchdiffeq's dopri5 and closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch
import torchdiffeq
from scipy.integrate import RK45, solve_ivp

from fmtutorial.distributions import GaussianMixture, ring_of_gaussians
from fmtutorial.exact import ExactField
from fmtutorial.paths import COSINE, LINEAR, VP, AffinePath
from fmtutorial.solvers import Solution, adaptive, solve_adaptive

DOUBLE = torch.float64


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


def falling(x, t):
    """dx/dt = −2 t x², solved by x = x₀ / (1 + x₀ t²)."""
    return -2 * t.reshape(-1, *[1] * (x.ndim - 1)) * x**2


def turning(x, t):
    """The rotation of the plane: (x, y) turns by t radians."""
    return torch.stack([-x[:, 1], x[:, 0]], dim=1)


def turned(x, angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.stack([c * x[:, 0] - s * x[:, 1], s * x[:, 0] + c * x[:, 1]], dim=1)


def waving(x, t):
    """dx/dt = a cos(a t) with a = x₁ of shape (B, 2): x₀ + sin(a t), harder the larger a is."""
    a = x[:, 1]
    return torch.stack([a * torch.cos(a * t), 0 * a], dim=1)


def hump(height):
    """A field that looks constant from t = 0 and from t = 0.1, and is not between them."""
    return lambda x, t: 1 + height * torch.sin(10 * math.pi * t)[:, None] ** 2 + 0 * x


def limited(field, calls=3000):
    """The same field; a solver that calls it without end fails instead of hanging."""
    count = itertools.count()

    def counted(x, t):
        assert next(count) < calls, "the step shrinks without end"
        return field(x, t)

    return counted


def scipy_solution(field, x, t0, t1, tolerance, method="RK45"):
    """SciPy's solution of one trajectory, x of shape (1, D)."""

    def velocity(t, x):
        return field(torch.from_numpy(x)[None], double([t]))[0].numpy()

    return solve_ivp(
        velocity, (t0, t1), x[0].numpy(), method=method, rtol=tolerance, atol=tolerance
    )


def exact_ring(schedule):
    ring = ring_of_gaussians()
    return ExactField(
        AffinePath(schedule), GaussianMixture(ring.means.double(), ring.covariances.double())
    )


@pytest.mark.parametrize("ends", [(0.0, 0.99), (0.99, 0.0)], ids=["forward", "backward"])
@pytest.mark.parametrize("schedule", [LINEAR, COSINE, VP], ids=repr)
def test_as_good_and_as_cheap_as_scipy(schedule, ends):
    """On one trajectory of the ring, at equal tolerances: error and evaluations within 20 %.

    DOP853 at 1e-10 is the truth; it is two digits better than the best result here.
    """
    field = exact_ring(schedule)
    x = double([[0.4, -1.1]]) if ends[0] == 0 else double([[7.3, 6.1]])
    truth = scipy_solution(field, x, *ends, 1e-10, "DOP853").y[:, -1]
    for tolerance in (1e-4, 1e-6):
        theirs = scipy_solution(field, x, *ends, tolerance)
        ours = solve_adaptive(field, x, *ends, rtol=tolerance, atol=tolerance)
        errors = [np.abs(end - truth).max() for end in (ours.last[0].numpy(), theirs.y[:, -1])]
        assert errors[0] == pytest.approx(errors[1], rel=0.2)
        assert ours.evaluations == pytest.approx(theirs.nfev, rel=0.2)
        assert errors[0] < 200 * tolerance


@pytest.mark.parametrize(
    "field, x, t0, t1, tolerance",
    [
        (falling, [[1.5, 0.6]], 0.5, 3.0, 1e-6),
        (falling, [[0.3, 0.6]], 1.0, 0.0, 1e-3),
        (turning, [[0.6, 0.8]], -2.0, 5.0, 1e-8),
        (waving, [[0.5, 4.0]], 1.0, -1.0, 1e-5),
        (falling, [[1.5, 0.6]], 0.0, 1.0, 1e-5),  # from rest
        # the first step tried is too long: the whole interval by a little, another by far
        (hump(50), [[10.0, 10.0]], 0.0, 0.1, 1e-3),
        (hump(50000), [[10.0, 10.0]], 0.0, 0.1, 1e-8),
        (lambda x, t: 50 * (torch.cos(t)[:, None] - x), [[1.0, 1.1]], 0.0, 2.0, 1e-4),  # stiff
        (lambda x, t: torch.ones_like(x), [[1e3, 2e3]], 0.0, 1e-3, 1e-3),  # one step is enough
    ],
    ids=["fall", "rise", "turn", "wave", "rest", "hump", "high hump", "stiff", "short"],
)
def test_takes_the_steps_of_scipy(field, x, t0, t1, tolerance):
    """The same step control, rejections and first step included.

    A relative 1e-6 of the times is far above rounding and far below a change of the rule.
    """
    x = double(x)
    theirs = scipy_solution(field, x, t0, t1, tolerance)
    ours = solve_adaptive(field, x, t0, t1, rtol=tolerance, atol=tolerance)
    assert ours.evaluations == theirs.nfev
    np.testing.assert_allclose(ours.times.numpy(), theirs.t, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours.states[:, 0].numpy(), theirs.y.T, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("end", [6.0, -6.0])
def test_torchdiffeq_agrees(end):
    """dopri5 has the same step and another estimate of the error: the same work within 20 %.

    Each point turns by |x|² (t + 1 − cos t), the faster the farther out it is.
    """
    x, calls = double([[0.6, 0.8], [0.7, -0.2]]), []

    def field(t, x):
        calls.append(t)
        return (x**2).sum(dim=1, keepdim=True) * (1 + torch.sin(t)) * turning(x, t)

    theirs = torchdiffeq.odeint(
        field, x, double([0.0, end]), method="dopri5", rtol=1e-7, atol=1e-7,
        options={"step_t": double([end])},
    )[-1]  # fmt: skip
    work = len(calls)
    ours = solve_adaptive(lambda x, t: field(t[0], x), x, 0.0, end, rtol=1e-7, atol=1e-7)
    assert ours.evaluations == len(calls) - work == pytest.approx(work, rel=0.2)
    angles = (x**2).sum(dim=1) * (end + 1 - math.cos(end))
    truth = torch.cat([turned(x[b : b + 1], angles[b].item()) for b in range(2)])
    # seventy steps, each within the tolerance
    for last in (ours.last, theirs):
        torch.testing.assert_close(last, truth, rtol=0, atol=7e-6)


def test_tableau_is_that_of_dormand_and_prince():
    """Entry by entry against SciPy's arrays."""
    for row, weights in enumerate(adaptive._WEIGHTS[:5], start=1):
        np.testing.assert_allclose(weights, RK45.A[row, :row], rtol=1e-15, atol=0)
    np.testing.assert_allclose(adaptive._WEIGHTS[5], RK45.B, rtol=1e-15, atol=0)
    np.testing.assert_allclose(adaptive._NODES[:5], RK45.C[1:], rtol=1e-15, atol=0)
    assert adaptive._NODES[5] == 1
    # SciPy's error is order 4 minus order 5
    np.testing.assert_allclose(adaptive._ERROR, -RK45.E, rtol=1e-14, atol=1e-17)


def test_one_step_of_a_linear_field_is_the_known_polynomial():
    """eʰ up to h⁵, then h⁶/600 (Hairer and Wanner, Solving ODEs II, Sec. IV.2)."""
    h = 0.3
    # tolerances so wide that the interval is one step
    solution = solve_adaptive(lambda x, t: x, double([1.0]), 0.0, h, rtol=1e3, atol=1e3)
    assert solution.evaluations == 2 + 6
    expected = sum(h**k / math.factorial(k) for k in range(6)) + h**6 / 600
    assert solution.last.item() == pytest.approx(expected, rel=1e-14)


def test_one_step_integrates_a_power_of_time():
    """∫ t⁴ dt exactly; the nodes 1/5, 3/10, 4/5, 8/9 and 1 lie between the ends."""
    seen = []

    def field(x, t):
        seen.append(t.item())
        return t**4

    # the state is large beside the velocity, so that the first step may be as long as it likes
    solution = solve_adaptive(field, double([100.0]), 1.0, 3.0, rtol=1e3, atol=1e3)
    assert solution.last.item() == pytest.approx(100 + (3**5 - 1) / 5, rel=1e-14)
    assert seen[2:] == pytest.approx([1.4, 1.6, 2.6, 1 + 16 / 9, 3.0, 3.0], rel=1e-14)


def test_error_falls_with_the_fifth_power_of_the_number_of_steps():
    """On the rotation, where all steps are equal; slope over shrinking tolerances within 0.15."""
    x, tolerances = double([[0.6, 0.8]]), (1e-6, 1e-7, 1e-8, 1e-9)
    errors, evaluations = [], []
    for tolerance in tolerances:
        solution = solve_adaptive(turning, x, 0.0, 20.0, rtol=tolerance, atol=tolerance)
        errors.append((solution.last - turned(x, 20.0)).norm().item())
        evaluations.append(solution.evaluations)
    slope, _ = np.polyfit(np.log(evaluations), np.log(errors), 1)
    assert slope == pytest.approx(-5, abs=0.15)
    # the error is in proportion to the tolerance
    slope, _ = np.polyfit(np.log(tolerances), np.log(errors), 1)
    assert slope == pytest.approx(1, abs=0.1)


def test_one_hard_sample_cannot_hide_in_a_batch():
    """999 samples that barely move and one that swings ten times: as accurate as alone.

    A mean over the batch would let its error grow by √1000.
    """
    hard = double([[0.0, 60.0]])
    speeds = torch.linspace(0.01, 0.5, 999, dtype=DOUBLE)
    easy = torch.stack([torch.zeros_like(speeds), speeds], dim=1)
    alone = solve_adaptive(waving, hard, 0.0, 1.0, rtol=1e-6, atol=1e-6)
    for place in (0, 500, 999):
        x = torch.cat([easy[:place], hard, easy[place:]])
        together = solve_adaptive(waving, x, 0.0, 1.0, rtol=1e-6, atol=1e-6)
        ends = (together.last[place, 0], alone.last[0, 0])
        errors = [abs(end.item() - math.sin(60)) for end in ends]
        assert errors[0] <= 1.2 * errors[1] and errors[0] < 1e-4
        # for less than a tenth more work
        assert together.evaluations < 1.1 * alone.evaluations


@pytest.mark.parametrize("growth", [0.0, 1000.0], ids=["speed", "change of speed"])
def test_first_step_is_that_of_the_hardest_sample(growth):
    """dy/dt = a (1 + growth · t) for ten values of a: the batch starts as its fastest sample would.

    The second evaluation is at the end of the small Euler step, the third a fifth of a step on.
    """

    def second_and_third(x):
        seen = []

        def field(x, t):
            seen.append(t[0].item())
            return torch.stack([x[:, 1] * (1 + growth * t), 0 * x[:, 1]], dim=1)

        solve_adaptive(field, x, 0.0, 200.0, rtol=1e-5, atol=1.0)
        return seen[1:3]

    speeds = torch.linspace(0.1, 1, 9, dtype=DOUBLE)
    x = torch.stack([torch.full((10,), 100.0), torch.cat([speeds, double([50.0])])], dim=1)
    alone = double([second_and_third(sample[None]) for sample in x])
    for order in (slice(None), range(9, -1, -1)):
        together = double(second_and_third(x[order]))
        torch.testing.assert_close(together, alone.amin(dim=0), rtol=1e-12, atol=0)


def test_samples_of_another_scale_have_their_own_tolerance():
    """rtol belongs to the size of each entry: 1e6 times the state, 1e6 times the error."""
    x = double([[0.6, 0.8]])
    one = solve_adaptive(turning, x, 0.0, 5.0, rtol=1e-6, atol=1e-300)
    large = solve_adaptive(turning, 2.0**20 * x, 0.0, 5.0, rtol=1e-6, atol=1e-300)
    torch.testing.assert_close(large.states, 2.0**20 * one.states, rtol=1e-12, atol=0)
    # with atol alone the same states ask for more steps
    strict = solve_adaptive(turning, 2.0**20 * x, 0.0, 5.0, rtol=1e-300, atol=1e-6)
    assert strict.evaluations > 5 * one.evaluations


@pytest.mark.parametrize("ends", [(0.0, 1.0), (1.0, 0.0)], ids=["forward", "backward"])
def test_event_shapes(event, ends, generator):
    x0 = 0.5 + torch.rand(3, *event, generator=generator, dtype=DOUBLE)
    x1 = x0 / (1 + x0)
    start, end = (x0, x1) if ends[0] == 0 else (x1, x0)
    solution = solve_adaptive(falling, start, *ends, rtol=1e-9, atol=1e-9)
    assert isinstance(solution, Solution)
    assert solution.states.shape == (len(solution.times), 3, *event)
    assert torch.equal(solution.states[0], start)
    assert (solution.times[0].item(), solution.times[-1].item()) == ends
    torch.testing.assert_close(solution.last, end, rtol=0, atol=1e-7)
    # every state lies on the solution, not only the last
    for t, state in zip(solution.times, solution.states, strict=True):
        torch.testing.assert_close(state, x0 / (1 + x0 * t**2), rtol=0, atol=1e-7)


def test_norm_is_the_root_mean_square_of_an_event(generator):
    """Copies of an entry in a larger event change nothing; the maximum or the sum would."""
    x = 0.5 + torch.rand(3, 1, generator=generator, dtype=DOUBLE)
    one = solve_adaptive(falling, x, 0.0, 1.0)
    many = solve_adaptive(falling, x.reshape(3, 1, 1, 1).expand(3, 1, 4, 4).clone(), 0.0, 1.0)
    torch.testing.assert_close(many.times, one.times, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (DOUBLE, 1e-11)])
def test_precision_of_the_states_is_that_of_x(dtype, tolerance):
    seen = []

    def field(x, t):
        seen.append((x.dtype, t.dtype, tuple(t.shape)))
        return falling(x, t)

    x = torch.tensor([[0.6, 0.8], [1.0, 2.0], [3.0, 0.1]], dtype=dtype)
    solution = solve_adaptive(field, x, 0.0, 1.0, rtol=tolerance, atol=tolerance)
    assert solution.states.dtype == solution.times.dtype == dtype
    assert set(seen) == {(dtype, dtype, (3,))}
    assert solution.evaluations == len(seen)
    # a dozen steps, or a hundred, each within the tolerance
    torch.testing.assert_close(solution.last, x / (1 + x), rtol=0, atol=20 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("t0, t1", [(0.0, 1.0), (1.0, 0.0), (0.1, 0.9), (0.7, 0.3), (1 / 3, 1.0)])
def test_field_is_never_called_outside_the_interval(t0, t1, dtype):
    """Nor does the solution end beside t1, whatever the lengths of its steps are."""
    ends = torch.tensor(sorted([t0, t1]), dtype=dtype)

    def field(x, t):
        if not bool(((t >= ends[0]) & (t <= ends[1])).all()):
            raise ValueError(f"called at {t[0].item()}")
        return 30 * torch.cos(30 * t)[:, None] - 0 * x

    for tolerance in (1e-1, 1e-3, 1e-5):
        x = torch.zeros(3, 2, dtype=dtype)
        solution = solve_adaptive(field, x, t0, t1, rtol=tolerance, atol=tolerance)
        assert solution.times[-1] == torch.tensor(t1, dtype=dtype)
        gaps = solution.times.diff() * math.copysign(1, t1 - t0)
        assert bool((gaps > 0).all())


@pytest.mark.parametrize("t0, t1", [(0.06, 0.67), (0.32, 0.93), (0.2, 0.86), (0.19, 0.91)])
def test_one_step_ends_exactly_where_it_should(t0, t1):
    """Here t0 + (t1 − t0) is not t1 in double precision, twice above it and twice below."""
    assert t0 + (t1 - t0) != t1
    seen = []

    def field(x, t):
        seen.append(t.item())
        return 0 * x + 1

    # the state is so large that the first step may be as long as it likes
    solution = solve_adaptive(limited(field), double([1e6]), t0, t1, rtol=1e3, atol=1e3)
    assert solution.times.tolist() == [t0, t1]
    assert max(seen) == t1


@pytest.mark.parametrize(
    "t0, t1",
    [(0.5, 0.5 + 1e-12), (0.5, 0.5 - 1e-15), (0.0, 1e-12), (1e-12, 0.0), (0.0, 1e-200)],
)
def test_tiny_intervals(t0, t1):
    """One step, or two where the first is kept small; x moves by the velocity times the length."""
    solution = solve_adaptive(lambda x, t: 3 + 0 * x, torch.zeros(2, 2, dtype=DOUBLE), t0, t1)
    assert len(solution.times) == 2
    assert solution.times.tolist() == [t0, t1]
    torch.testing.assert_close(
        solution.last, torch.full((2, 2), 3 * (t1 - t0), dtype=DOUBLE), rtol=1e-12, atol=0
    )


def test_zero_field():
    x = double([[1.0, -2.0], [0.0, 0.0], [1e8, 1e-8]])
    solution = solve_adaptive(lambda x, t: 0 * x, x, 0.0, 1.0)
    assert torch.equal(solution.last, x)
    # steps grow tenfold from 1e-4
    assert solution.evaluations <= 2 + 6 * 6


def test_state_zero_does_not_stop_the_first_step():
    """The size of x tells nothing about the step where x is 0."""
    solution = solve_adaptive(
        lambda x, t: torch.ones_like(x), torch.zeros(3, 2, dtype=DOUBLE), 0.0, 1.0
    )
    torch.testing.assert_close(solution.last, torch.ones(3, 2, dtype=DOUBLE))
    assert solution.evaluations < 60


@pytest.mark.parametrize("t0, t1", [(-2.0, -1.0), (2.0, 1.0), (-1.0, -2.0), (1.0, 2.0)])
def test_singular_ends_on_both_sides_of_zero(t0, t1):
    """Where the times are negative, or fall, the smallest step is as large as elsewhere."""
    field = limited(lambda x, t: (1 / (t1 - t))[:, None] + 0 * x)
    with pytest.raises(FloatingPointError, match="step size underflow"):
        solve_adaptive(field, torch.zeros(2, 2, dtype=DOUBLE), t0, t1)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_singular_end_underflows(dtype):
    """dx/dt = 1/(1 − t) runs off to infinity; the message says where and what to do."""

    @limited
    def field(x, t):
        return (1 / (1 - t))[:, None] + 0 * x

    x = torch.zeros(2, 2, dtype=dtype)
    with pytest.raises(FloatingPointError, match=r"step size underflow.* at t = (1|0\.99).*") as e:
        solve_adaptive(field, x, 0.0, 1.0, rtol=1e-4, atol=1e-4)
    assert f"out of reach in {dtype}" in str(e.value)
    assert "stop before a singular end" in str(e.value)
    last = solve_adaptive(field, x, 0.0, 0.99, rtol=1e-4, atol=1e-4).last
    assert last[0, 0].item() == pytest.approx(math.log(100), rel=1e-3)


def test_data_set_at_the_end_of_a_path_underflows():
    """A point mass at c has v = (c − x)/(1 − t): from 0.9 to 1 − 1e-9 it works, to 1 it is 0/0."""

    @limited
    def field(x, t):
        return (2 - x) / (1 - t)[:, None]

    x = double([[0.3, -0.5]])
    last = solve_adaptive(field, x, 0.9, 1 - 1e-9).last
    torch.testing.assert_close(last, torch.full_like(last, 2.0), rtol=0, atol=1e-4)
    with pytest.raises(FloatingPointError, match="step size underflow"):
        solve_adaptive(field, x, 0.9, 1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("since", [-1.0, 0.5], ids=["always", "later"])
def test_field_that_is_not_finite_stops_the_run(value, since):
    """One entry of one sample is enough."""

    @limited
    def field(x, t):
        wrong = torch.ones_like(x)
        wrong[1, 0] = value if t[0] > since else 1.0
        return wrong

    place = "0" if since < 0 else r"0\.(5|49)"
    with pytest.raises(FloatingPointError, match=rf"step size underflow.* at t = {place}"):
        solve_adaptive(field, torch.zeros(3, 2, dtype=DOUBLE), 0.0, 1.0)


def test_tolerance_out_of_reach_underflows():
    """The velocities of float32 cancel to 1e-7, not to 1e-15."""
    x = torch.tensor([[0.6, 0.8]])
    with pytest.raises(FloatingPointError, match="out of reach in torch.float32"):
        solve_adaptive(limited(turning), x, 0.0, 1.0, rtol=1e-15, atol=1e-15)


def test_gradients_flow_through_the_solution():
    a = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)
    last = solve_adaptive(lambda x, t: a * x, double([2.0]), 0.0, 1.0, rtol=1e-9, atol=1e-9).last
    (gradient,) = torch.autograd.grad(last.sum(), a)
    assert gradient.item() == pytest.approx(2 * math.exp(0.7), rel=1e-7)


@pytest.mark.parametrize(
    "t0, t1", [(0.0, 0.0), (1.0, 1.0), (math.nan, 1.0), (0.0, math.inf), (-math.inf, 0.0)]
)
def test_wrong_times_are_refused(t0, t1):
    match = "pass two different times" if t0 == t1 else r"t[01] is .*; it must be a finite number"
    with pytest.raises(ValueError, match=match):
        solve_adaptive(falling, torch.zeros(3, 2), t0, t1)


@pytest.mark.parametrize("wrong", [0.0, -1e-5, math.nan])
@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_wrong_tolerances_are_refused(name, wrong):
    with pytest.raises(
        ValueError, match=rf"{name} is {wrong}; it must be a finite number in \(0, ∞\)"
    ):
        solve_adaptive(falling, torch.zeros(3, 2), 0.0, 1.0, **{name: wrong})


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
        solve_adaptive(falling, x, 0.0, 1.0)


def test_a_field_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"v has shape \(3,\) and x has shape \(3, 3\)"):
        solve_adaptive(lambda x, t: t, torch.zeros(3, 3), 0.0, 1.0)


def test_a_long_interval_is_no_singularity():
    """Nothing moves but a bend at the start, whose steps are below 10 · eps of the interval."""
    end, x = 30_000.0, torch.zeros(1, 1)

    def field(x, t):
        return torch.exp(-100 * t)[:, None] + 0 * x

    found = solve_adaptive(field, x, 0.0, end, 1e-6, 1e-6)
    assert found.times.diff().min() < 10 * torch.finfo(torch.float32).eps * end  # 0.04
    assert found.last.item() == pytest.approx(0.01, abs=1e-5)  # ten steps of 1e-6
