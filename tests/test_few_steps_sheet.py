"""The answers of the sheet "Few steps" against other truths, and other ways of writing them."""

import math

import pytest
import torch

from fmtutorial.coursework import few_steps
from fmtutorial.coursework.catalogue import EXERCISES
from fmtutorial.coursework.checking import judge, outcomes
from fmtutorial.distributions import Gaussian
from fmtutorial.exact import ExactField
from fmtutorial.fields import expand_time
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.solvers import rk4, solve

SHAPES = [(), (2,), (3,), (1, 4, 4)]


def gaussian(event, generator):
    """Three states, times in both orders, and a Gaussian."""
    like = {"generator": generator, "dtype": torch.float64}
    s, t = (torch.tensor(a, dtype=torch.float64) for a in ([0.1, 0.4, 0.8], [0.7, 0.9, 0.2]))
    return (
        torch.randn(3, *event, **like),
        s,
        t,
        torch.randn(event, **like),
        0.4 * torch.ones_like(s[0]),
    )


@pytest.mark.parametrize("event", SHAPES)
def test_flow_map_is_where_a_fine_solver_ends(event, generator):
    x, s, t, mean, std = gaussian(event, generator)
    field = ExactField(AffinePath(LINEAR), Gaussian(mean, std**2))
    for b in range(3):
        grid = torch.linspace(s[b].item(), t[b].item(), 101, dtype=torch.float64)
        expected = solve(field, x[b : b + 1], grid, rk4).states[-1]
        found = few_steps.gaussian_flow_map(x[b : b + 1], s[b : b + 1], t[b : b + 1], mean, std)
        # Fourth order: steps of 0.006 leave some 1e-8
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("event", SHAPES)
def test_flow_map_satisfies_the_three_equations(event, generator):
    x, s, t, mean, std = gaussian(event, generator)
    jump = lambda x, s, t: few_steps.gaussian_flow_map(x, s, t, mean, std)  # noqa: E731
    field = ExactField(AffinePath(LINEAR), Gaussian(mean, std**2))
    still, one = torch.zeros_like(s), torch.ones_like(s)
    landed, along_end = torch.func.jvp(jump, (x, s, t), (torch.zeros_like(x), still, one))
    torch.testing.assert_close(along_end, field(landed, t))
    _, along_start = torch.func.jvp(jump, (x, s, t), (field(x, s), one, still))
    torch.testing.assert_close(along_start, torch.zeros_like(x))
    middle = torch.full_like(s, 0.5)
    torch.testing.assert_close(jump(jump(x, s, middle), middle, t), landed)
    torch.testing.assert_close(jump(x, s, s), x)


class Line:
    """A student c + b z with both numbers in one tensor."""

    def __init__(self, c, b):
        self.weight = torch.tensor([c, b], dtype=torch.float64, requires_grad=True)

    def __call__(self, z):
        return self.weight[0] + self.weight[1] * z


def test_matching_gradient_is_that_of_the_divergence_of_two_gaussians():
    """Quadratic in z and noise, so that the four points (±1, ±1) have its expectation."""
    z = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    noise = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    for time in (0.2, 0.5, 0.9):
        line = Line(0.7, 1.3)
        center, width = line.weight.detach()
        student, data = (
            ExactField(AffinePath(LINEAR), Gaussian(m, c))
            for m, c in ((center, width**2), (torch.tensor(-0.4).double(), 0.25))
        )
        t = torch.full((4,), time, dtype=torch.float64)
        found = few_steps.matching_gradient(line, student, data, z, noise, t)
        parameters = line.weight.detach().clone().requires_grad_()
        one = (time * parameters[1]) ** 2 + (1 - time) ** 2
        other = (time * 0.5) ** 2 + (1 - time) ** 2
        shift = time * (parameters[0] + 0.4)
        divergence = (one + shift**2) / (2 * other) - one.log() / 2 + math.log(other) / 2 - 0.5
        torch.testing.assert_close(found, torch.autograd.grad(divergence, parameters)[0])


def test_semigroup_gradient_is_a_difference_quotient_with_the_target_held(generator):
    """The loss of a network beside a copy of it that does not move."""
    exercise = EXERCISES["few_steps.semigroup_gradient"]
    u, x, s, m, t = exercise.arguments(5)[0]
    found = exercise.answer(u, x, s, m, t)
    before = u.weight.detach().clone()

    @torch.no_grad()
    def at(weight, *arguments):
        u.weight.copy_(weight)
        return u(*arguments)

    half = x + expand_time(m - s, x) * at(before, x, s, m)
    landed = half + expand_time(t - m, x) * at(before, half, m, t)
    target = (landed - x) / expand_time(t - s, x)
    for i in range(len(before)):
        step = torch.zeros_like(before)
        step[i] = 1e-5
        up, down = (
            (at(before + sign * step, x, s, t) - target).square().sum() / len(x) for sign in (1, -1)
        )
        # Central differences: the square of the step, and rounding over it
        torch.testing.assert_close(found[i], (up - down) / 2e-5, rtol=1e-7, atol=1e-8)


# Other ways of writing the same, as students will.


def like(t, x):
    return t.reshape(len(x), *[1] * (x.ndim - 1))


def by_noise(x, start, end, mean, std):
    """Back to the noise, and forward."""
    s, t = like(start, x), like(end, x)
    noise = (x - s * mean) / torch.sqrt((1 - s) ** 2 + s**2 * std**2)
    return t * mean + torch.sqrt((1 - t) ** 2 + t**2 * std**2) * noise


def one_by_one(x, start, end, mean, std):
    spread = lambda t: ((1 - t) ** 2 + (t * std) ** 2) ** 0.5  # noqa: E731
    rows = [
        e * mean + (a - s * mean) * spread(e) / spread(s)
        for a, s, e in zip(x, start, end, strict=True)
    ]
    return torch.stack(rows)


def under_no_grad(u, x, start, middle, end):
    with torch.no_grad():
        y = x + like(middle - start, x) * u(x, start, middle)
        y = y + like(end - middle, x) * u(y, middle, end)
        target = (y - x) / like(end - start, x)
    loss = (
        ((u(x, start, end) - target) ** 2).flatten(1).sum(1).mean()
        if x.ndim > 1
        else ((u(x, start, end) - target) ** 2).mean()
    )
    loss.backward()
    return u.weight.grad


def as_a_share(u, x, start, middle, end):
    share = like((middle - start) / (end - start), x)
    first = u(x, start, middle).detach()
    second = u(x + like(middle - start, x) * first, middle, end).detach()
    miss = u(x, start, end) - share * first - (1 - share) * second
    return torch.autograd.grad((miss * miss).sum() / len(x), u.weight)[0]


def by_scores(g, student, data, z, noise, t):
    time, y = like(t, z), g(z)
    with torch.no_grad():
        x = time * y + (1 - time) * noise
        one, other = (-(x - time * v(x, t)) / (1 - time) for v in (student, data))
        pull = time * (one - other)
    (y * pull).sum().div(len(z)).backward()
    return g.weight.grad


def by_means(g, student, data, z, noise, t):
    time, y = like(t, z), g(z)
    x = (time * y + (1 - time) * noise).detach()
    one, other = (x + (1 - time) * v(x, t) for v in (student, data))
    pull = (time / (1 - time)) ** 2 * (one - other)
    return torch.autograd.grad(y, g.weight, pull / len(z))[0]


def by_a_square(g, student, data, z, noise, t):
    """Half a squared distance to where the sample should go, as is often seen."""
    time, y = like(t, z), g(z)
    x = time * y.detach() + (1 - time) * noise
    wanted = (y - time**2 / (1 - time) * (student(x, t) - data(x, t))).detach()
    return torch.autograd.grad(((y - wanted) ** 2).sum() / (2 * len(z)), g.weight)[0]


def through_the_noisy_state(g, student, data, z, noise, t):
    """The chain rule through x_t brings the factor t."""
    time = like(t, z)
    x = time * g(z) + (1 - time) * noise
    pull = (time / (1 - time) * (student(x, t) - data(x, t))).detach()
    return torch.autograd.grad(x, g.weight, pull / len(z))[0]


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("gaussian_flow_map", by_noise),
        ("gaussian_flow_map", one_by_one),
        ("semigroup_gradient", under_no_grad),
        ("semigroup_gradient", as_a_share),
        ("matching_gradient", by_scores),
        ("matching_gradient", by_means),
        ("matching_gradient", by_a_square),
        ("matching_gradient", through_the_noisy_state),
    ],
)
def test_other_ways_of_writing_it_are_right(name, function):
    exercise = EXERCISES[f"few_steps.{name}"]
    for seed in range(10):
        verdict = judge(exercise, outcomes(exercise, function, seed), seed)
        assert verdict.status == "right", verdict.text


def test_a_target_that_is_not_held_is_named_in_other_words():
    def with_gradient(g, student, data, z, noise, t):
        time = like(t, z)
        x = time * g(z) + (1 - time) * noise
        loss = (g(z) * time**2 / (1 - time) * (student(x, t) - data(x, t))).sum() / len(z)
        return torch.autograd.grad(loss, g.weight)[0]

    exercise = EXERCISES["few_steps.matching_gradient"]
    verdict = judge(exercise, outcomes(exercise, with_gradient, 0), 0)
    assert "flows through the fields" in verdict.text
