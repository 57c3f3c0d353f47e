"""The map of a Gaussian against its ODE, and every loss against finite differences at that map."""

import math
import pickle
import subprocess
import sys

import pytest
import torch

from fmtutorial.distributions import Gaussian
from fmtutorial.exact import ExactField
from fmtutorial.flow_maps import (
    consistency_loss,
    gaussian_flow_map,
    improved_mean_flow_loss,
    jump,
    jump_along,
    lagrangian_loss,
    shortcut_loss,
)
from fmtutorial.losses import flow_matching_loss
from fmtutorial.networks import DiT, MeanFlowMLP, UNet
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.reflow import mean_flow_loss
from fmtutorial.solvers import rk4, solve

DOUBLE = torch.float64
PATH = AffinePath(LINEAR)
LOSSES = {
    "improved": improved_mean_flow_loss,
    "lagrangian": lagrangian_loss,
    "shortcut": shortcut_loss,
}
every_loss = pytest.mark.parametrize("loss_of", LOSSES.values(), ids=LOSSES)


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


START, END = double([0.1, 0.4, 0.6]), double([0.5, 0.9, 0.95])


def column(t, x):
    return t.reshape(-1, *[1] * (x.ndim - 1))


def target_of(event, generator):
    """Return a Gaussian with a full covariance and a mean that is not 0."""
    size = math.prod(event)
    root = torch.randn(size, size, generator=generator, dtype=DOUBLE) / size**0.5
    mean = torch.randn(event, generator=generator, dtype=DOUBLE)
    return Gaussian(mean, root @ root.T + 0.2 * torch.eye(size, dtype=DOUBLE))


def states(event, generator, n=1):
    drawn = [torch.randn(3, *event, generator=generator, dtype=DOUBLE) for _ in range(n)]
    return drawn[0] if n == 1 else drawn


class Truth:
    """A Gaussian's flow, its velocity, and its mean velocity also for jumps of no length."""

    def __init__(self, schedule, event, generator):
        self.target = target_of(event, generator)
        self.path = AffinePath(schedule)
        self.flow_map = gaussian_flow_map(self.path, self.target)
        self.field = ExactField(self.path, self.target)

    def mean_velocity(self, x, start, end):
        length = column(end - start, x)
        still = length == 0
        u = (self.flow_map(x, start, end) - x) / torch.where(still, 1, length)
        return torch.where(still, self.field(x, start), u)

    def meeting(self, x, t, offset):
        """Return noise and data that meet in x at time t, x₁ an offset from E[x₁ | x]."""
        alpha, sigma = (f(column(t, x)) for f in (self.schedule.alpha, self.schedule.sigma))
        x1 = self.field.posterior_mean(x, t) + offset
        return (x - alpha * x1) / sigma, x1

    @property
    def schedule(self):
        return self.path.schedule


def antithetic(truth, event, generator, start, end):
    """A batch in which each x is met twice, so that its two conditional velocities average to v."""
    x, offset = states(event, generator, 2)
    twice = [truth.meeting(x, start, sign * offset) for sign in (1, -1)]
    x0, x1 = (torch.cat(both) for both in zip(*twice, strict=True))
    return x0, x1, start.repeat(2), end.repeat(2)


# The flow map of a Gaussian


def test_gaussian_map_obeys_its_three_equations(schedule, event, generator):
    """With derivatives by autograd and the velocity of ``ExactField``, to rounding."""
    truth, x = Truth(schedule, event, generator), states(event, generator)
    flow, v, one = truth.flow_map, truth.field, torch.ones_like(START)
    landed, in_end = torch.func.jvp(lambda e: flow(x, START, e), (END,), (one,))
    torch.testing.assert_close(in_end, v(landed, END), rtol=1e-9, atol=1e-9)
    _, in_start = torch.func.jvp(lambda x, s: flow(x, s, END), (x, START), (v(x, START), one))
    # velocities are of order 10 for VP and cancel
    torch.testing.assert_close(in_start, torch.zeros_like(x), rtol=0, atol=1e-11)
    middle = double([0.3, 0.5, 0.7])
    by_way = flow(flow(x, START, middle), middle, END)
    torch.testing.assert_close(by_way, landed, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(flow(landed, END, START), x, rtol=1e-11, atol=1e-11)
    assert torch.allclose(flow(x, START, START), x, rtol=1e-14, atol=1e-14)


def test_gaussian_map_is_where_the_solver_arrives(event, generator):
    truth, x = Truth(LINEAR, event, generator), states(event, generator)
    grid = torch.linspace(0.0, 0.9, 401, dtype=DOUBLE)
    start, end = torch.zeros(3, dtype=DOUBLE), torch.full((3,), 0.9, dtype=DOUBLE)
    arrived = solve(truth.field, x, grid, rk4).last
    # of order 4: h⁴ = 3e-11
    torch.testing.assert_close(truth.flow_map(x, start, end), arrived, rtol=0, atol=1e-8)


def test_gaussian_map_takes_noise_to_data(schedule, generator):
    """From moments of x_0, which VP starts a little off N(0, I), to those of the data."""
    target = target_of((2,), generator)
    flow = gaussian_flow_map(AffinePath(schedule), target)
    zero, one = torch.zeros(1, dtype=DOUBLE), torch.ones(1, dtype=DOUBLE)
    alpha = schedule.alpha(zero)
    jacobian = torch.func.jacfwd(lambda x: flow(x[None], zero, one)[0])(double([0.3, -0.2]))
    before = alpha**2 * target.covariance + schedule.sigma(zero) ** 2 * torch.eye(2, dtype=DOUBLE)
    left = schedule.sigma(one) ** 2 * torch.eye(2, dtype=DOUBLE)
    torch.testing.assert_close(jacobian @ before @ jacobian.T, target.covariance + left)
    torch.testing.assert_close(flow((alpha * target.mean)[None], zero, one)[0], target.mean)


def test_gaussian_map_of_one_variance_and_of_a_point(generator):
    """Data N(m, s²): stretched by s. Without variance: everything lands on m, and stays."""
    x, m = states((2,), generator), double([1.0, -2.0])
    zero, one = torch.zeros(3, dtype=DOUBLE), torch.ones(3, dtype=DOUBLE)
    wide = gaussian_flow_map(PATH, Gaussian(m, 2.25))
    torch.testing.assert_close(wide(x, zero, one), m + 1.5 * x)
    point = gaussian_flow_map(PATH, Gaussian(m, 0.0))
    torch.testing.assert_close(point(x, zero, one), m.expand(3, 2))
    with pytest.raises(ValueError, match="no density"):
        point(x, one, zero)


def test_gaussian_map_keeps_the_type_of_the_states_and_can_be_pickled():
    flow = gaussian_flow_map(PATH, Gaussian(double([1.0, -2.0]), 2.0))
    again = pickle.loads(pickle.dumps(flow))
    x, t = torch.ones(3, 2), torch.full((3,), 0.5)
    assert flow(x, t, t + 0.2).dtype == torch.float32
    assert torch.equal(again(x, t, t + 0.2), flow(x, t, t + 0.2))


# Jumps


def test_jump_by_hand():
    """From x = (1, 2), (3, 4) by u = x + s + 10 e over 1/2 and −1/4."""
    x, start, end = double([[1.0, 2.0], [3.0, 4.0]]), double([0.0, 1.0]), double([0.5, 0.75])
    landed = jump(lambda x, s, e: x + column(s + 10 * e, x), x, start, end)
    expected = double([[1 + 0.5 * 6, 2 + 0.5 * 7], [3 - 0.25 * 11.5, 4 - 0.25 * 12.5]])
    torch.testing.assert_close(landed, expected)
    assert torch.equal(jump(lambda x, s, e: x, x, start, start), x)


def test_jumps_of_the_truth_land_in_one_place(schedule, event, generator):
    """However many, on any grid, and back."""
    truth, x = Truth(schedule, event, generator), states(event, generator)
    once = jump_along(truth.mean_velocity, x, double([0.1, 0.9]))
    for grid in ([0.1, 0.5, 0.9], [0.1, 0.2, 0.25, 0.7, 0.9]):
        torch.testing.assert_close(jump_along(truth.mean_velocity, x, double(grid)), once)
    back = jump_along(truth.mean_velocity, once, double([0.9, 0.4, 0.1]))
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)


def test_jumps_of_a_velocity_are_eulers(event, generator):
    """For u(x, s, e) = v(x, s)."""
    x, grid = states(event, generator), double([0.0, 0.3, 0.4, 1.0])

    def field(x, t):
        return x.sin() + column(t, x)

    landed = jump_along(lambda x, s, e: field(x, s), x, grid)
    torch.testing.assert_close(landed, solve(field, x, grid).last, rtol=1e-14, atol=1e-14)


def test_jumps_name_the_one_that_fails():
    def u(x, s, e):
        return x / (s[:1] == 0) if x.ndim > 1 else x

    with pytest.raises(FloatingPointError, match=r"jump from t = 0.5 to 1"):
        jump_along(u, torch.ones(3, 2), torch.tensor([0.0, 0.5, 1.0]))
    with pytest.raises(ValueError, match="strictly increasing or strictly"):
        jump_along(u, torch.ones(3, 2), torch.tensor([0.0, 0.5, 0.5]))
    with pytest.raises(ValueError, match=r"t = 1.5 is outside"):
        jump_along(u, torch.ones(3, 2), torch.tensor([0.0, 1.5]))


# The losses, at the truth


@pytest.mark.parametrize("wrong", [None, "sign", "end", "velocity"])
@every_loss
def test_the_gradient_vanishes_at_the_truth_and_nowhere_near(
    loss_of, wrong, schedule, event, generator
):
    """Exactly, as the two conditional velocities at each x average to v.

    Not so for a mean velocity of the other sign, to another end, or v at start in its place; of
    the latter two each jump of no length is right, so that the equation itself must find it.
    """
    truth = Truth(schedule, event, generator)
    batch = antithetic(truth, event, generator, START, END)
    weights = torch.zeros(3, dtype=DOUBLE, requires_grad=True)

    def perturbed(x, start, end):
        u = {
            None: lambda: truth.mean_velocity(x, start, end),
            "sign": lambda: -truth.mean_velocity(x, start, end),
            "end": lambda: truth.mean_velocity(x, start, torch.lerp(start, end, 0.5)),
            "velocity": lambda: truth.field(x, start),
        }[wrong]()
        s, e = column(start, x), column(end, x)
        return u + weights[0] * x.sin() + weights[1] * (e - s) * x + weights[2] * s.cos()

    loss = loss_of(perturbed, truth.path, *batch)
    (gradient,) = torch.autograd.grad(loss, weights)
    if wrong is None:
        # velocities are up to 30 (VP at its start) and cancel
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-10)
    elif not (wrong == "sign" and loss_of is shortcut_loss):
        assert gradient.abs().max() > 1e-3


def test_floors(schedule, event, generator):
    """At the truth Lagrangian and shortcut are 0; improved MeanFlow is the spread of w around v."""
    truth = Truth(schedule, event, generator)
    batch = x0, x1, start, end = antithetic(truth, event, generator, START, END)
    for loss_of in (lagrangian_loss, shortcut_loss):
        # squares of roundings of velocities up to 30
        assert loss_of(truth.mean_velocity, truth.path, *batch).item() < 1e-18
    at = truth.path.sample(x0, x1, start)
    spread = (at.velocity - truth.field(at.x_t, start)).square().flatten(1 if event else 0)
    spread = spread.sum(dim=1).mean() if event else spread.mean()
    improved = improved_mean_flow_loss(truth.mean_velocity, truth.path, *batch)
    torch.testing.assert_close(improved, spread, rtol=1e-10, atol=0)
    # MeanFlow's is another one: the same, times the derivative of the map
    difference = at.velocity - truth.field(at.x_t, start)
    _, carried = torch.func.jvp(lambda x: truth.flow_map(x, start, end), (at.x_t,), (difference,))
    floor = sum(row.square().sum() for row in carried) / len(carried)
    ours = mean_flow_loss(truth.mean_velocity, truth.path, *batch)
    torch.testing.assert_close(ours, floor, rtol=1e-9, atol=0)


def test_shortcuts_alone_accept_any_flow(generator):
    """The semigroup does not know the velocity: the flow of another Gaussian satisfies it too."""
    other, x = Truth(LINEAR, (2,), torch.Generator().manual_seed(5)), states((2,), generator, 2)
    assert shortcut_loss(other.mean_velocity, PATH, *x, START, END).item() < 1e-20
    still = shortcut_loss(other.mean_velocity, PATH, *x, START, START)
    assert still.item() > 0.01


# The losses, for any network


def smooth(w):
    """A mean velocity with a parameter, nonlinear in all that it sees."""

    def u(x, start, end):
        s, e = column(start, x), column(end, x)
        return (w * x * (1 + s)).sin() + w**2 * e * s * x.cos() + w * (e**2 - s)

    return u


def frozen_target(loss_of, u, at, start, end):
    """Return the residual's frozen part by central differences of 1e-5, which leave 1e-9."""
    h, x = 1e-5, at.x_t
    length = column(end - start, x)
    with torch.no_grad():
        if loss_of is improved_mean_flow_loss:
            v = u(x, start, start)
            ahead, behind = (u(x + d * v, start + d, end) for d in (h, -h))
            return at.velocity + length * (ahead - behind) / (2 * h)
        if loss_of is lagrangian_loss:
            return u(x + length * u(x, start, end), end, end)
        middle = (start + end) / 2
        half = x + length / 2 * u(x, start, middle)
        return (half + length / 2 * u(half, middle, end) - x) / length


@every_loss
def test_value_and_gradient_by_finite_differences(loss_of, event, generator):
    """What is frozen is frozen, and what is not is not: Lagrangian's derivative has a gradient."""
    x0, x1 = states(event, generator, 2)
    w = double(0.7).requires_grad_()
    at, h = PATH.sample(x0, x1, START), 1e-5
    target = frozen_target(loss_of, smooth(w), at, START, END)
    answer = smooth(w)(at.x_t, START, END)
    if loss_of is lagrangian_loss:
        ahead, behind = (
            column(END + d - START, x0) * smooth(w)(at.x_t, START, END + d) for d in (h, -h)
        )
        answer = (ahead - behind) / (2 * h)
    regression = sum(row.square().sum() for row in answer - target) / 3
    loss = loss_of(smooth(w), PATH, x0, x1, START, END)
    slopes = [torch.autograd.grad(value, w)[0].item() for value in (loss, regression)]
    assert loss.shape == ()
    assert loss.item() == pytest.approx(regression.item(), rel=1e-7)
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-6)


@every_loss
def test_jumps_of_no_length_are_flow_matching(loss_of, schedule, event, generator):
    """The same number and the same gradient, to the last bits."""
    torch.manual_seed(0)
    net = MeanFlowMLP(event, width=16, depth=2).double()
    x0, x1 = states(event, generator, 2)
    path = AffinePath(schedule)
    losses = (
        loss_of(net, path, x0, x1, START, START),
        flow_matching_loss(lambda x, t: net(x, t, t), path, x0, x1, START),
    )
    both = [torch.autograd.grad(loss, list(net.parameters())) for loss in losses]
    torch.testing.assert_close(*losses, rtol=1e-14, atol=0)
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@every_loss
def test_rows_of_a_batch_do_not_meet(loss_of, event, generator):
    """The loss is the mean of those of its rows; one of them is a jump of no length."""
    x0, x1 = states(event, generator, 2)
    end = double([0.5, 0.4, 0.95])
    u = smooth(double(0.7))
    rows = [loss_of(u, PATH, *(part[b : b + 1] for part in (x0, x1, START, end))) for b in range(3)]
    torch.testing.assert_close(
        loss_of(u, PATH, x0, x1, START, end), sum(rows) / 3, rtol=1e-13, atol=0
    )


@every_loss
def test_a_teacher_takes_the_place_of_the_data(loss_of, schedule, event, generator):
    """With the exact field for teacher, the truth has loss 0 and any x₁ will do."""
    truth, (x0, x1) = Truth(schedule, event, generator), states(event, generator, 2)
    end = double([0.5, 0.4, 0.95])
    loss = loss_of(truth.mean_velocity, truth.path, x0, x1, START, end, truth.field)
    assert loss.item() < 1e-18  # squares of roundings of velocities up to 30
    wrong = loss_of(truth.mean_velocity, truth.path, x0, x1, START, end, lambda x, t: -x)
    assert wrong.item() > 1e-3


@pytest.mark.parametrize("loss_of", [improved_mean_flow_loss, lagrangian_loss])
def test_a_teacher_is_asked_in_the_place_of_the_network(loss_of, event, generator):
    """Another field than the network's own: along it, and where a jump ends. By differences."""
    x0, x1 = states(event, generator, 2)
    u, h = smooth(double(0.7)), 1e-5

    def field(x, t):
        return x.cos() + column(t, x)

    x, length = PATH.sample(x0, x1, START).x_t, column(END - START, x0)
    if loss_of is improved_mean_flow_loss:
        v = field(x, START)
        ahead, behind = (u(x + d * v, START + d, END) for d in (h, -h))
        wanted = u(x, START, END) - length * (ahead - behind) / (2 * h) - v
    else:
        ahead, behind = (column(END + d - START, x0) * u(x, START, END + d) for d in (h, -h))
        landed = x + length * u(x, START, END)
        wanted = (ahead - behind) / (2 * h) - field(landed, END)
    expected = sum(row.square().sum() for row in wanted) / 3
    loss = loss_of(u, PATH, x0, x1, START, END, field)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-7)  # of central differences


def test_a_teacher_is_not_trained(generator):
    x0, x1 = states((2,), generator, 2)
    w = double(0.7).requires_grad_()
    for loss_of in LOSSES.values():
        loss = loss_of(lambda x, s, e: x.sin(), PATH, x0, x1, START, END, lambda x, t: w * x)
        assert not loss.requires_grad


@every_loss
def test_every_parameter_of_a_network_of_float32_is_trained(loss_of, event, generator):
    torch.manual_seed(0)
    net = MeanFlowMLP(event, width=8, depth=2)
    x0, x1 = (part.float() for part in states(event, generator, 2))
    loss = loss_of(net, PATH, x0, x1, START.float(), END.float())
    loss.backward()
    assert loss.dtype == torch.float32
    for parameter in net.parameters():
        # the last row of the last layer is the coordinate of the end, which is not used
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0


@every_loss
@pytest.mark.parametrize("kind", [UNet, DiT], ids=["unet", "dit"])
def test_attention(loss_of, kind):
    """Value against the plain definition with central differences of the network."""
    torch.manual_seed(0)
    network = kind((1, 8, 8), width=16)
    for parameter in network.double().parameters():  # the last layers start at 0
        torch.nn.init.normal_(parameter, std=0.1)

    def u(x, s, e):
        return network(x, (s + e) / 2)

    x0, x1 = torch.randn(2, 2, 1, 8, 8, dtype=DOUBLE)
    start, end = double([0.2, 0.5]), double([0.8, 0.7])
    at, h = PATH.sample(x0, x1, start), 1e-5
    target, answer = frozen_target(loss_of, u, at, start, end), u(at.x_t, start, end)
    if loss_of is lagrangian_loss:
        ahead, behind = (column(end + d - start, x0) * u(at.x_t, start, end + d) for d in (h, -h))
        answer = (ahead - behind) / (2 * h)
    expected = (answer - target).square().flatten(1).sum(dim=1).mean()
    loss = loss_of(u, PATH, x0, x1, start, end)
    # h² = 1e-10 times a third derivative of order 1e6: times enter with frequencies up to 100
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=0)
    slopes = torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)
    assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@every_loss
def test_without_gradients_it_is_the_same_number(loss_of, off):
    torch.manual_seed(0)
    network, x = MeanFlowMLP(width=8, depth=1), torch.randn(3, 2)
    arguments = (PATH, x, x.flip(0), torch.zeros(3), torch.ones(3))
    expected = loss_of(network, *arguments).item()
    with off():
        assert loss_of(network, *arguments).item() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="runs under torch.inference_mode"):
        loss_of(torch.inference_mode()(network.forward), *arguments)


# Consistency


def test_consistency_by_hand():
    """u = x + s at x₀ = 1, x₁ = 3 from s = 0 and 1/2: 1 + 1 and 2 + (1/2) 5/2, so 1.25²."""
    one = torch.ones(1)
    loss = consistency_loss(lambda x, s, e: x + s, PATH, one, 3 * one, 0 * one, one / 2)
    assert loss.item() == 1.25**2 and loss.shape == ()


def test_consistency_at_the_last_time_is_a_regression_on_the_data(event, generator):
    x0, x1 = states(event, generator, 2)
    loss = consistency_loss(smooth(double(0.7)), PATH, x0, x1, START, torch.ones_like(START))
    at = PATH.sample(x0, x1, START).x_t
    guess = at + column(1 - START, x0) * smooth(double(0.7))(at, START, torch.ones_like(START))
    expected = sum(row.square().sum() for row in guess - x1) / 3
    torch.testing.assert_close(loss, expected)


def test_consistency_with_a_small_gap_is_mean_flow_to_the_data(schedule, event, generator):
    """Its gradient over the gap, and (1 − start) times that of MeanFlow with end = 1."""
    x0, x1 = states(event, generator, 2)
    path, one, gap = AffinePath(schedule), torch.ones_like(START), 1e-6
    w = double(0.7).requires_grad_()
    (slope,) = torch.autograd.grad(consistency_loss(smooth(w), path, x0, x1, START, START + gap), w)
    expected = 0.0
    for b in range(3):
        row = (part[b : b + 1] for part in (x0, x1, START, one))
        (mine,) = torch.autograd.grad(mean_flow_loss(smooth(w), path, *row), w)
        expected += (1 - START[b].item()) * mine.item() / 3
    # of first order in the gap, times second derivatives of order 100 (VP); 1e-16/gap of rounding
    assert slope.item() / gap == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_truth_is_where_consistency_rests(schedule, event, generator):
    """In the limit of small gaps, as the two lines through each x average to v."""
    truth, one = Truth(schedule, event, generator), torch.ones(3, dtype=DOUBLE)
    x0, x1, start, _ = antithetic(truth, event, generator, START, one)
    weight, gap = double(0.0).requires_grad_(), 1e-6

    def slope(factor):
        def u(x, s, e):
            return factor * truth.mean_velocity(x, s, e) + weight * x.cos()

        loss = consistency_loss(u, truth.path, x0, x1, start, start + gap)
        return torch.autograd.grad(loss, weight)[0].item() / gap

    # of first order in the gap, times second derivatives of order 100 (VP); 1e-16/gap of rounding
    assert abs(slope(1.0)) < 1e-3 < 1e-2 < abs(slope(-1.0))


@every_loss
def test_no_warning_gets_through(loss_of):
    """In a fresh interpreter: PyTorch warns when it loads forward mode, once."""
    code = f"""
import torch
from fmtutorial.flow_maps import {loss_of.__name__}
from fmtutorial.paths import LINEAR, AffinePath
x, t = torch.ones(3, 2), torch.full((3,), 0.5)
{loss_of.__name__}(lambda x, s, e: x.sin(), AffinePath(LINEAR), x, x, t, t + 0.2)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    "wrong, error, match",
    [
        ({"start": END, "end": START}, ValueError, "a start lies after its end; swap them"),
        ({"end": double([0.5, 0.9, 1.1])}, ValueError, r"t = 1.1 is outside \[0, 1\]"),
        ({"start": double([0.1, math.nan, 0.6])}, ValueError, r"t = nan is outside \[0, 1\]"),
        ({"end": 1.0}, TypeError, "t is of type float"),
        ({"end": double([1.0])}, ValueError, r"t has shape \(1,\)"),
        ({"start": double([0.1])}, ValueError, r"t has shape \(1,\)"),
        ({"x1": torch.zeros(3, 2, dtype=DOUBLE)}, ValueError, r"x0 has shape \(3, 3\) and x1"),
        ({"u": lambda x, s, e: s}, ValueError, r"u has shape \(3,\) and x has shape \(3, 3\)"),
        ({"field": lambda x, t: t}, ValueError, r"v has shape \(3,\) and x has shape \(3, 3\)"),
        ({"field": 3}, TypeError, "v is of type int"),
    ],
    ids=range(10),
)
@every_loss
def test_losses_refuse(loss_of, wrong, error, match):
    zeros = torch.zeros(3, 3, dtype=DOUBLE)
    call = {"u": lambda x, s, e: x, "x0": zeros, "x1": zeros, "start": START, "end": END} | wrong
    u, rest = call.pop("u"), {"path": PATH} | call
    with pytest.raises(error, match=match):
        loss_of(u, **rest)
