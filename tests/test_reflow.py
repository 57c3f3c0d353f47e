"""Straightness of known curves, pairs of a linear flow, and the mean velocity of a Gaussian."""

import math
import subprocess
import sys

import pytest
import scipy.linalg
import torch

from fmtutorial.losses import flow_matching_loss
from fmtutorial.networks import DiT, MeanFlowMLP, UNet
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.reflow import (
    distillation_loss,
    mean_flow_loss,
    model_pairs,
    path_energy,
    straightness,
)
from fmtutorial.solvers import Solution, euler, rk4, solve

DOUBLE = torch.float64
PATH = AffinePath(LINEAR)


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


def solution(times, curve):
    return Solution(times, torch.stack([curve(t) for t in times.tolist()]), 0)


GRIDS = {
    "even": torch.linspace(0, 1, 9, dtype=DOUBLE),
    "uneven": double([0.0, 0.05, 0.3, 0.35, 0.9, 1.0]),
    "decreasing": double([1.0, 0.9, 0.35, 0.3, 0.05, 0.0]),
    "part": double([0.2, 0.3, 0.7]),
    "long": double([-1.0, 0.0, 0.5, 3.0]),
}
every_grid = pytest.mark.parametrize("times", GRIDS.values(), ids=GRIDS)


@every_grid
def test_straight_lines_at_constant_speed(times, event, generator):
    """Speed w for T: energy ‖w‖² T, and nothing beyond it."""
    start, w = (torch.randn(3, *event, generator=generator, dtype=DOUBLE) for _ in range(2))
    line = solution(times, lambda t: start + t * w)
    took = (times[-1] - times[0]).abs().item()
    squares = sum(row.square().sum().item() for row in w) / 3
    assert path_energy(line) == pytest.approx(squares * took, rel=1e-12)
    assert straightness(line) == pytest.approx(0, abs=1e-24)  # squares of roundings


@pytest.mark.parametrize("direction", [1, -1])
@pytest.mark.parametrize("n", [1, 2, 7, 200])
def test_parabola(n, direction, event):
    """x = w t² on n even steps: ‖w‖² (4/3 − 1/(3n²)), of which the chord takes ‖w‖².

    Σ (2k + 1)² over k < n is n (4n² − 1)/3; n → ∞ is ∫ (2t)² dt.
    """
    w = torch.stack([torch.full(event, b, dtype=DOUBLE) for b in (1.0, 2.0, 3.0)])
    squares = math.prod(event) * (1 + 4 + 9) / 3
    times = torch.linspace(0, 1, n + 1, dtype=DOUBLE)
    curve = solution(times if direction == 1 else times.flip(0), lambda t: w * t**2)
    energy = squares * (4 / 3 - 1 / (3 * n**2))
    assert path_energy(curve) == pytest.approx(energy, rel=1e-12)
    assert straightness(curve) == pytest.approx(energy - squares, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("took", [1.0, 0.5, 3.0])
def test_arc_of_a_circle(took, generator):
    """n chords of 2 sin(θ/2n) in T/n each: 4n² sin²(θ/2n)/T, of which 4 sin²(θ/2)/T is needed."""
    n, angle = 11, 2.0
    phase = torch.rand(5, generator=generator, dtype=DOUBLE)

    def curve(t):
        turned = phase + angle * t / took
        return torch.stack([turned.cos(), turned.sin()], dim=1)

    arc = solution(torch.linspace(0, took, n + 1, dtype=DOUBLE), curve)
    energy = 4 * n**2 * math.sin(angle / (2 * n)) ** 2 / took
    needed = 4 * math.sin(angle / 2) ** 2 / took
    assert path_energy(arc) == pytest.approx(energy, rel=1e-12)
    assert straightness(arc) == pytest.approx(energy - needed, rel=1e-12)
    # the polygon's energy from below, to second order: the circle's is θ²/T
    assert 0 < angle**2 / took - energy < angle**4 / (12 * n**2 * took) * 1.01


def test_uneven_speed_on_a_straight_line():
    """From 0 to 1: first at speed 4 for a tenth, then at 2/3 for the rest. By hand.

    16 · 0.1 + (2/3)² · 0.9 = 2; the straight line takes 1, so S = 3² · 0.1 + (1/3)² · 0.9 = 1.
    """
    line = Solution(double([0.0, 0.1, 1.0]), double([[0.0], [0.4], [1.0]]), 0)
    assert path_energy(line) == pytest.approx(2)
    assert straightness(line) == pytest.approx(1)
    # backwards the same
    back = Solution(line.times.flip(0), line.states.flip(0), 0)
    assert (path_energy(back), straightness(back)) == (pytest.approx(2), pytest.approx(1))


def test_mean_over_the_batch_and_sum_over_the_event(event):
    """Bends of 1, 2 and 3 at half time: S = 4 b² in each entry; the mean of b² is 14/3."""
    bend = torch.stack([torch.full(event, b, dtype=DOUBLE) for b in (1.0, 2.0, 3.0)])
    states = torch.stack([0 * bend, bend, 0 * bend])
    result = straightness(Solution(double([0.0, 0.5, 1.0]), states, 0))
    assert result == pytest.approx(math.prod(event) * 4 * 14 / 3)


@every_grid
def test_energy_is_the_chord_and_what_is_beyond(times, event, generator):
    """‖x_T − x_0‖²/T + S, for any states: the cross term sums to zero."""
    states = torch.randn(len(times), 3, *event, generator=generator, dtype=DOUBLE)
    took = (times[-1] - times[0]).abs().item()
    chord = sum((states[-1, b] - states[0, b]).square().sum().item() for b in range(3)) / 3 / took
    jagged = Solution(times, states, 0)
    assert path_energy(jagged) == pytest.approx(chord + straightness(jagged), rel=1e-12)


def test_model_pairs_of_a_linear_field(generator):
    """x₀ and e^A x₀, on the grid's step and method; backwards e^(−A)."""
    matrix = torch.randn(3, 3, generator=generator, dtype=DOUBLE)
    x0 = torch.randn(3, 3, generator=generator, dtype=DOUBLE)
    times = torch.linspace(0, 1, 201, dtype=DOUBLE)
    for grid, sign in ((times, 1), (times.flip(0), -1)):
        noise, data = model_pairs(lambda x, t: x @ matrix.T, x0, grid)
        expected = x0 @ torch.from_numpy(scipy.linalg.expm(sign * matrix.numpy())).T
        assert torch.equal(noise, x0)
        # Heun's h² = 2.5e-5 times ‖A‖³/6 of order 3; Euler's h would be off by 1e-2
        torch.testing.assert_close(data, expected, rtol=0, atol=2e-3)
        _, better = model_pairs(lambda x, t: x @ matrix.T, x0, grid, rk4)
        torch.testing.assert_close(better, expected, rtol=0, atol=1e-7)  # h⁴ = 6e-10


def test_model_pairs_keep_their_rows_and_take_the_step_asked_for(event, generator):
    """v = x + t² in one step to 1: Euler doubles x₀, and Heun, the default, adds (x₀ + 1)/2."""
    x0 = torch.randn(3, *event, generator=generator, dtype=DOUBLE)

    def field(x, t):
        return x + t.reshape(-1, *[1] * (x.ndim - 1)) ** 2

    times = double([0.0, 1.0])
    torch.testing.assert_close(model_pairs(field, x0, times, euler)[1], 2 * x0)
    torch.testing.assert_close(model_pairs(field, x0, times)[1], 2.5 * x0 + 0.5)


def test_model_pairs_hold_no_graph():
    a = torch.tensor(0.5, requires_grad=True)
    x0 = torch.ones(3, 2)
    noise, data = model_pairs(lambda x, t: a * x, x0, torch.tensor([0.0, 0.5, 1.0]))
    assert not data.requires_grad and not noise.requires_grad
    assert torch.is_grad_enabled()


def test_model_pairs_refuse_what_solve_refuses():
    times = torch.tensor([0.0, 1.0])
    with pytest.raises(ValueError, match="strictly increasing or strictly"):
        model_pairs(lambda x, t: x, torch.zeros(3, 2), torch.tensor([0.0, 1.0, 0.5]))
    with pytest.raises(TypeError, match="x is a list"):
        model_pairs(lambda x, t: x, [0.0], times)
    with pytest.raises(ValueError, match=r"has shape \(3,\)"):
        model_pairs(lambda x, t: t, torch.zeros(3, 3), times)
    with pytest.raises(FloatingPointError, match="not finite after step 1"):
        model_pairs(lambda x, t: x / 0, torch.zeros(3, 2), times)


def test_distillation_by_hand():
    """x₀ + v = (3, 0) and (2, 5) beside x₁ = (1, 1) and (2, 3): (4 + 1 + 0 + 4)/2."""
    x0, x1 = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [2.0, 3.0]])
    v = torch.tensor([[2.0, 0.0], [2.0, 3.0]])
    loss = distillation_loss(lambda x, t: v, x0, x1)
    assert loss.item() == 4.5 and loss.shape == ()


def test_distillation_sums_over_an_event_and_averages_over_the_batch(event):
    x1 = torch.stack([torch.full(event, float(b)) for b in (1, 2, 3)])
    loss = distillation_loss(lambda x, t: 0 * x, torch.zeros_like(x1), x1)
    assert loss.item() == pytest.approx(math.prod(event) * 14 / 3, rel=1e-6)


def test_distillation_sees_the_field_at_time_zero_only(event, generator):
    """One call, at x₀ and t = 0 for each sample; so a parameter that acts later gets nothing."""
    x0, x1 = (torch.randn(3, *event, generator=generator, dtype=DOUBLE) for _ in range(2))
    a, b = (torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (0.5, 2.0))
    calls = []

    def field(x, t):
        calls.append((x, t))
        return a * x.cos() + b * t.reshape(-1, *[1] * (x.ndim - 1))

    slope_a, slope_b = torch.autograd.grad(distillation_loss(field, x0, x1), [a, b])
    ((x, t),) = calls
    assert torch.equal(x, x0) and t.tolist() == [0.0] * 3 and t.dtype == DOUBLE
    # d/da ‖x₀ + a cos x₀ − x₁‖², sample by sample
    rest = x0 + 0.5 * x0.cos() - x1
    expected = sum(2 * (r * c).sum().item() for r, c in zip(rest, x0.cos(), strict=True)) / 3
    assert slope_a.item() == pytest.approx(expected, rel=1e-12) and slope_b.item() == 0


def test_distillation_vanishes_on_one_step_that_arrives(event, generator):
    x0, x1 = (torch.randn(3, *event, generator=generator, dtype=DOUBLE) for _ in range(2))
    assert distillation_loss(lambda x, t: x1 - x, x0, x1).item() < 1e-24  # squares of roundings


@pytest.mark.parametrize(
    "field", [lambda x, t: t, lambda x, t: x[:, :1], lambda x, t: x.flatten()], ids=range(3)
)
def test_distillation_refuses_a_field_of_another_shape(field):
    with pytest.raises(ValueError, match="v has shape .* and x0 has shape"):
        distillation_loss(field, torch.zeros(3, 3), torch.zeros(3, 3))


def test_distillation_refuses_unequal_noise_and_data():
    with pytest.raises(ValueError, match=r"x0 has shape \(1, 2\) and x1 has shape \(3, 2\)"):
        distillation_loss(lambda x, t: x, torch.zeros(1, 2), torch.zeros(3, 2))
    with pytest.raises(TypeError, match="x1 has dtype torch.int64"):
        distillation_loss(lambda x, t: x, torch.zeros(3, 2), torch.zeros(3, 2).long())


START, END = double([0.1, 0.4, 0.6]), double([0.5, 0.45, 1.0])


class GaussianFlow:
    """Data N(m, s²) in each entry: p_t = N(α m, g²) with g² = α² s² + σ².

    The flow keeps x standardised: φ_{s,t}(x) = α_t m + (g_t/g_s)(x − α_s m). Times have shape
    (B, 1, …, 1) here.
    """

    mean, scale = 0.8, 0.6

    def __init__(self, schedule):
        self.schedule = schedule

    def width(self, t):
        return (self.schedule.alpha(t) ** 2 * self.scale**2 + self.schedule.sigma(t) ** 2).sqrt()

    def mean_velocity(self, x, start, end):
        start, end = (t.reshape(-1, *[1] * (x.ndim - 1)) for t in (start, end))
        alpha = self.schedule.alpha
        stretched = self.width(end) / self.width(start) * (x - alpha(start) * self.mean)
        return (alpha(end) * self.mean + stretched - x) / (end - start)

    def pairs(self, x, t, offset):
        """Noise and data that meet in x at time t, with x₁ at its conditional mean + offset."""
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        gain = alpha * self.scale**2 / self.width(t) ** 2
        x1 = self.mean + gain * (x - alpha * self.mean) + offset
        return (x - alpha * x1) / sigma, x1


def antithetic(schedule, event, generator):
    """A batch in which each x_s is met twice, so that its conditional velocities average to v."""
    flow = GaussianFlow(schedule)
    x, offset = (torch.randn(3, *event, generator=generator, dtype=DOUBLE) for _ in range(2))
    ahead, behind = flow.pairs(x, START, offset), flow.pairs(x, START, -offset)
    x0, x1 = (torch.cat(both) for both in zip(ahead, behind, strict=True))
    return flow, x, offset, x0, x1, START.repeat(2), END.repeat(2)


def test_gaussian_flow_map_is_the_flow(schedule, generator):
    """Of the truth below: from start to end by way of the middle, and its slope is v = E[u | x]."""
    flow, x, _, x0, x1, start, _ = antithetic(schedule, (2,), generator)
    middle = (START + END) / 2

    def move(x, start, end):
        return x + (end - start)[:, None] * flow.mean_velocity(x, start, end)

    there = move(move(x, START, middle), middle, END)
    torch.testing.assert_close(there, move(x, START, END), rtol=1e-12, atol=1e-12)
    velocity = AffinePath(schedule).sample(x0, x1, start).velocity
    velocity = (velocity[:3] + velocity[3:]) / 2
    slope = (move(x, START, START + 1e-5) - move(x, START, START - 1e-5)) / 2e-5
    # a central difference: h² = 1e-10, and 1e-16/h of rounding
    torch.testing.assert_close(slope, velocity, rtol=1e-7, atol=1e-7)


def test_mean_flow_loss_of_the_true_mean_velocity(schedule, event, generator):
    """It is not zero: what is left is the spread of u around v, times ∂φ/∂x = g_end/g_start.

    u − v is (α̇ − σ̇α/σ) (x₁ − E[x₁ | x]), with an offset that is known here.
    """
    flow, _, offset, x0, x1, start, end = antithetic(schedule, event, generator)
    loss = mean_flow_loss(flow.mean_velocity, AffinePath(schedule), x0, x1, start, end)
    s = schedule
    slope = s.alpha_dot(START) - s.sigma_dot(START) * s.alpha(START) / s.sigma(START)
    factor = (slope * flow.width(END) / flow.width(START)) ** 2
    squares = torch.stack([row.square().sum() for row in offset])
    assert loss.item() == pytest.approx((factor * squares).mean().item(), rel=1e-11)


@pytest.mark.parametrize("wrong", [None, "sign", "end", "velocity"])
def test_true_mean_velocity_is_where_the_gradient_vanishes(wrong, schedule, event, generator):
    """For each direction of u, given x, exactly: the two targets at x average to u.

    Not so for a mean velocity of the other sign, to another end, or v at start in its place.
    """
    flow, _, _, x0, x1, start, end = antithetic(schedule, event, generator)
    # u + a w₁ + b w₂ + c w₃, at a = b = c = 0
    weights = torch.zeros(3, dtype=DOUBLE, requires_grad=True)

    def perturbed(x, start, end):
        t, e = (t.reshape(-1, *[1] * (x.ndim - 1)) for t in (start, end))
        u = {
            None: lambda: flow.mean_velocity(x, start, end),
            "sign": lambda: -flow.mean_velocity(x, start, end),
            "end": lambda: flow.mean_velocity(x, start, (start + end) / 2),
            "velocity": lambda: flow.mean_velocity(x, start, start + 1e-4),
        }[wrong]()
        return u + weights[0] * x.sin() + weights[1] * (e - t) * x + weights[2] * t.cos()

    loss = mean_flow_loss(perturbed, AffinePath(schedule), x0, x1, start, end)
    (gradient,) = torch.autograd.grad(loss, weights)
    if wrong is None:
        # targets are up to 30 (VP at its start) and round to 1e-14
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-11)
    else:
        assert gradient.abs().max() > 0.01


def test_gradient_of_the_mean_flow_loss_vanishes_on_fresh_pairs(generator):
    """The same by sampling: noise, data and times at random, to four standard errors."""
    flow, n = GaussianFlow(LINEAR), 20000
    x0, z, first, second = torch.randn(4, n, generator=generator, dtype=DOUBLE)
    x1 = flow.mean + flow.scale * z
    first, second = first.sigmoid(), second.sigmoid()
    start, end = torch.minimum(first, second), torch.maximum(first, second)
    # a weight for each pair: its derivative is that of this pair's share of the loss
    weights = torch.zeros(n, dtype=DOUBLE, requires_grad=True)

    def slopes(sign):
        def perturbed(x, start, end):
            return sign * flow.mean_velocity(x, start, end) + weights * (1 + x + start)

        loss = mean_flow_loss(perturbed, PATH, x0, x1, start, end)
        return n * torch.autograd.grad(loss, weights)[0]

    right, wrong = slopes(1), slopes(-1)
    assert right.mean().abs() < 4 * right.std() / n**0.5
    assert wrong.mean().abs() > 20 * wrong.std() / n**0.5


def test_mean_flow_loss_by_hand():
    """u = x² + s e at x₀ = 1, x₁ = 3, s = 1/2, e = 1: x_s = 2 and the velocity is 2.

    u = 4.5, du/ds = 2 · 2 · 2 + 1 = 9, the target 2 + 9/2 = 6.5, the loss 4.
    """
    one = torch.ones(1)
    loss = mean_flow_loss(lambda x, s, e: x**2 + s * e, PATH, one, 3 * one, one / 2, one)
    assert loss.item() == 4 and loss.shape == ()


def test_mean_flow_loss_sums_over_an_event_and_averages_over_the_batch(event):
    x1 = torch.stack([torch.full(event, float(b)) for b in (1, 2, 3)])
    t = torch.tensor([0.2, 0.4, 0.9])
    loss = mean_flow_loss(
        lambda x, s, e: 0 * x, PATH, torch.zeros_like(x1), x1, t, torch.ones_like(t)
    )
    assert loss.item() == pytest.approx(math.prod(event) * 14 / 3, rel=1e-6)


def test_mean_flow_of_no_length_is_flow_matching(schedule, event, generator):
    """For end = start: the same number and the same gradient, to the last bit."""
    torch.manual_seed(0)
    net = MeanFlowMLP(event, width=16, depth=2).double()
    x0, x1 = (torch.randn(3, *event, generator=generator, dtype=DOUBLE) for _ in range(2))
    t, path = double([0.1, 0.5, 0.9]), AffinePath(schedule)
    mean_flow = mean_flow_loss(net, path, x0, x1, t, t)
    matching = flow_matching_loss(lambda x, t: net(x, t, t), path, x0, x1, t)
    assert torch.equal(mean_flow, matching)
    for ours, theirs in zip(
        *(torch.autograd.grad(loss, list(net.parameters())) for loss in (mean_flow, matching)),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


def test_no_gradient_through_the_target(event, generator):
    """Against the gradient of a regression on a target that finite differences give.

    Of u along (velocity, 1) in x and start, with w fixed: central differences of 1e-5 leave
    1e-10 and 1e-16/1e-5 of rounding.
    """
    x0, x1 = (torch.randn(3, *event, generator=generator, dtype=DOUBLE) for _ in range(2))
    w = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True)

    def u(x, start, end):
        start, end = (t.reshape(-1, *[1] * (x.ndim - 1)) for t in (start, end))
        return (w * x * (1 + start)).sin() + w**2 * end * start

    sample = PATH.sample(x0, x1, START)
    h, v = 1e-5, sample.velocity
    with torch.no_grad():
        ahead, behind = (u(sample.x_t + d * v, START + d, END) for d in (h, -h))
        length = (END - START).reshape(-1, *[1] * (x0.ndim - 1))
        target = v + length * (ahead - behind) / (2 * h)
    regression = sum((u(sample.x_t, START, END) - target)[b].square().sum() / 3 for b in range(3))
    loss = mean_flow_loss(u, PATH, x0, x1, START, END)
    gradients = [torch.autograd.grad(value, w)[0].item() for value in (loss, regression)]
    assert loss.item() == pytest.approx(regression.item(), rel=1e-7)
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-7)


def test_mean_flow_trains_a_network_of_float32(event, generator):
    """Every parameter gets a gradient, in its own type."""
    net = MeanFlowMLP(event, width=8, depth=2)
    x0, x1 = (torch.randn(3, *event, generator=generator) for _ in range(2))
    loss = mean_flow_loss(net, PATH, x0, x1, START.float(), END.float())
    loss.backward()
    assert loss.dtype == torch.float32
    for parameter in net.parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0


def test_mean_flow_loss_lets_no_warning_through():
    """In a fresh interpreter: PyTorch warns when it loads forward mode, once."""
    code = """
import torch
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.reflow import mean_flow_loss
x, t = torch.ones(3, 2), torch.full((3,), 0.5)
mean_flow_loss(lambda x, s, e: x.sin(), AffinePath(LINEAR), x, x, t, t)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def mean_flow(x0=None, x1=None, start=START, end=END, u=lambda x, s, e: x):
    x0, x1 = (torch.zeros(3, 3, dtype=DOUBLE) if x is None else x for x in (x0, x1))
    return mean_flow_loss(u, PATH, x0, x1, start, end)


@pytest.mark.parametrize(
    "wrong, error, match",
    [
        ({"start": END, "end": START}, ValueError, "a start lies after its end; swap them"),
        ({"end": double([0.5, 0.3, 1.0])}, ValueError, "a start lies after its end"),
        ({"end": double([0.5, 0.5, 1.1])}, ValueError, r"t = 1.1 is outside \[0, 1\]"),
        ({"start": double([-0.1, 0.4, 0.6])}, ValueError, r"t = -0.1 is outside \[0, 1\]"),
        ({"start": double([0.1, math.nan, 0.6])}, ValueError, r"t = nan is outside \[0, 1\]"),
        ({"end": double([0.5, math.nan, 1.0])}, ValueError, r"t = nan is outside \[0, 1\]"),
        ({"end": 1.0}, TypeError, "t is of type float"),
        ({"start": torch.zeros(3).long()}, TypeError, "t is of type torch.int64"),
        ({"end": double([1.0])}, ValueError, r"t has shape \(1,\)"),
        ({"end": double(1.0)}, ValueError, r"t has shape \(\)"),
        ({"end": END[:, None]}, ValueError, r"t has shape \(3, 1\)"),
        ({"start": double([0.1])}, ValueError, r"t has shape \(1,\)"),
        ({"x1": torch.zeros(3, 2, dtype=DOUBLE)}, ValueError, r"x0 has shape \(3, 3\) and x1"),
        ({"x1": torch.zeros(3, 3).long()}, TypeError, "x1 has dtype torch.int64"),
        ({"u": lambda x, s, e: s}, ValueError, r"u has shape \(3,\) and x0 has shape \(3, 3\)"),
        ({"u": lambda x, s, e: x[:, :1]}, ValueError, r"u has shape \(3, 1\)"),
    ],
    ids=range(16),
)
def test_mean_flow_loss_refuses(wrong, error, match):
    with pytest.raises(error, match=match):
        mean_flow(**wrong)


def test_mean_flow_may_end_at_one_but_not_start_there(schedule):
    """Where σ̇ diverges at 1: the velocity is needed at start only."""
    x, one = torch.ones(3, 2), torch.ones(3)
    path = AffinePath(schedule)
    assert mean_flow_loss(lambda x, s, e: x, path, x, x, 0.5 * one, one).isfinite()
    if not schedule.finite_at_one:
        with pytest.raises(ValueError, match=r"outside \[0, 1\)"):
            mean_flow_loss(lambda x, s, e: x, path, x, x, one, one)


# Mean velocities through attention and checkpointing, and without gradients.


def images_and_times():
    generator = torch.Generator().manual_seed(0)
    x0, x1 = (torch.randn(2, 1, 8, 8, generator=generator, dtype=DOUBLE) for _ in range(2))
    return x0, x1, double([0.2, 0.5]), double([0.8, 0.5])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", [UNet, DiT], ids=["unet", "dit"])
def test_mean_flow_through_the_packages_own_image_networks(kind, checkpointing):
    """The loss by central differences of u, the gradient by autograd on that loss."""
    torch.manual_seed(0)
    network = kind((1, 8, 8), width=16, checkpointing=checkpointing)
    for parameter in network.double().parameters():  # the last layers start at 0
        torch.nn.init.normal_(parameter, std=0.1)
    x0, x1, start, end = images_and_times()
    path = AffinePath(LINEAR)

    def mean_velocity(x, s, e):
        return network(x, s)

    loss = mean_flow_loss(mean_velocity, path, x0, x1, start, end)
    parameters = list(network.parameters())
    found = torch.autograd.grad(loss, parameters, materialize_grads=True)

    pair, h = path.sample(x0, x1, start), 1e-4
    with torch.no_grad():
        ahead = network(pair.x_t + h * pair.velocity, start + h)
        behind = network(pair.x_t - h * pair.velocity, start - h)
        target = pair.velocity + (end - start)[:, None, None, None] * (ahead - behind) / (2 * h)
    expected = (network(pair.x_t, start) - target).square().reshape(2, -1).sum(dim=1).mean()
    # h² = 1e-8 times a third derivative of order 100: the times enter with frequencies up to 100
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for one, other in zip(
        found, torch.autograd.grad(expected, parameters, materialize_grads=True), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_mean_flow_without_gradients_is_the_same_number(off):
    torch.manual_seed(0)
    network, x = MeanFlowMLP(width=8, depth=1), torch.randn(3, 2)
    arguments = (AffinePath(LINEAR), x, x.flip(0), torch.zeros(3), torch.ones(3))
    expected = mean_flow_loss(network, *arguments).item()
    with off():
        assert mean_flow_loss(network, *arguments).item() == expected
    frozen = torch.no_grad()(network.forward)  # forward mode does not mind
    assert mean_flow_loss(frozen, *arguments).item() == expected
    with pytest.raises(ValueError, match="runs under torch.inference_mode"):
        mean_flow_loss(torch.inference_mode()(network.forward), *arguments)


@pytest.mark.parametrize("measure", [path_energy, straightness])
def test_the_way_of_a_single_state_has_no_length(measure):
    x = torch.ones(3, 2)
    end = solve(lambda x, t: x, x, torch.linspace(0, 1, 5), last_only=True)
    with pytest.raises(ValueError, match="leave last_only out"):
        measure(end)
