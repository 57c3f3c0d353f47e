"""The answers of the sheet "Curved spaces" against other truths, and other ways of writing them."""

import math

import pytest
import torch
from scipy.spatial import geometric_slerp

from fmtutorial.coursework import manifolds
from fmtutorial.coursework.catalogue import EXERCISES
from fmtutorial.coursework.checking import judge, outcomes
from fmtutorial.coursework.exercises import Field, Setting
from fmtutorial.likelihood import divergence


def sphere(count, size, generator):
    x = torch.randn(count, size, generator=generator, dtype=torch.float64)
    return x / x.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_geodesic_is_scipys(size, generator):
    x0, x1 = sphere(5, size, generator), sphere(5, size, generator)
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    point, velocity = manifolds.geodesic(x0, x1, t)
    for b in range(5):
        expected = torch.as_tensor(geometric_slerp(x0[b].numpy(), x1[b].numpy(), t[b].item()))
        torch.testing.assert_close(point[b], expected)
    moving = torch.autograd.functional.jvp(
        lambda s: manifolds.geodesic(x0, x1, s)[0], t, torch.ones_like(t)
    )
    torch.testing.assert_close(velocity, moving[1])


@pytest.mark.parametrize("size", [1, 2])
def test_torus_velocity_is_the_mean_of_brute_force(size, generator):
    """All noise of a fine grid to all points; the mean over what is close to x at time t."""
    data = 6.28 * torch.rand(5, size, generator=generator, dtype=torch.float64) - math.pi
    count = 100_000 if size == 1 else 600  # a side
    side = (2 * (torch.arange(count).double() + 0.5) / count - 1) * math.pi
    x0 = torch.cartesian_prod(*[side] * size).reshape(-1, size)
    for time in (0.0, 0.3, 0.6):
        x = wrap(data[:1] + 0.4 * (1 - time))
        found = manifolds.torus_velocity(x, torch.tensor([time]).double(), data)
        ways = torch.cat([wrap(y - x0) for y in data])
        ends = data.repeat_interleave(len(x0), dim=0)
        away = wrap(ends - (1 - time) * ways - x)
        close = (away.abs() < 0.05).all(dim=1)
        # across the box the velocity is linear, so its mean is that of the middle, up to the grid
        assert not on_an_edge(x, data, time, 0.05)
        torch.testing.assert_close(found[0], ways[close].mean(dim=0), rtol=0, atol=0.03)


def wrap(angle):
    return torch.atan2(angle.sin(), angle.cos())


def on_an_edge(x, data, time, width):
    """Whether the reach of a point, in some angle, ends within the box around x."""
    return ((wrap(data - x).abs() - (1 - time) * math.pi).abs() < width).any()


def test_divergence_of_a_linear_field_is_known(generator):
    """Of A x: tr A − D x·A x, from spherical harmonics of degree 2."""
    x = sphere(6, 4, generator)
    matrix = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    found = manifolds.sphere_divergence(lambda x, t: x @ matrix.T, x, torch.zeros(6).double())
    expected = matrix.trace() - 4 * torch.einsum("bi,ij,bj->b", x, matrix, x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_divergence_is_the_growth_of_a_small_area(size, generator):
    field = Field(Setting(3, (size,), torch.float64), generator)
    x, t = sphere(3, size, generator), torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    found = manifolds.sphere_divergence(field, x, t)

    def area(b, step):
        """Of a unit cube of tangent vectors at x, moved along the field."""
        moved = lambda y: y + step * field(y[None], t[b : b + 1])[0]  # noqa: E731
        on_sphere = lambda y: moved(y / y.norm()) / moved(y / y.norm()).norm()  # noqa: E731
        frame = torch.linalg.svd(x[b : b + 1]).Vh[1:]
        edges = torch.autograd.functional.jacobian(on_sphere, x[b]) @ frame.T
        return torch.linalg.svdvals(edges).log().sum()

    for b in range(3):
        # Central differences: the square of the step, and rounding over it
        quotient = (area(b, 1e-5) - area(b, -1e-5)) / 2e-5
        torch.testing.assert_close(found[b], quotient, rtol=0, atol=1e-8)


# Other ways of writing the same, as students will.


def slerp(x0, x1, t):
    t = t.unsqueeze(1)
    angle = torch.acos(torch.sum(x0 * x1, dim=-1, keepdim=True))
    first, second = torch.sin((1 - t) * angle), torch.sin(t * angle)
    slower, faster = -angle * torch.cos((1 - t) * angle), angle * torch.cos(t * angle)
    return torch.stack([first * x0 + second * x1, slower * x0 + faster * x1]) / torch.sin(angle)


def by_exponential_and_logarithm(x0, x1, t):
    def log(x, y):
        w = y - (x * y).sum(1, keepdim=True) * x
        angle = 2 * torch.asin(((x - y).norm(dim=1, keepdim=True) / 2).clamp(max=1))
        return angle * w / w.norm(dim=1, keepdim=True)

    w = t[:, None] * log(x0, x1)
    length = w.norm(dim=1, keepdim=True)
    x = torch.cos(length) * x0 + torch.sinc(length / math.pi) * w
    return torch.stack([x, log(x, x1) / (1 - t[:, None])])


def by_rotation(x0, x1, t):
    """One by one, with the matrix exponential of the rotation's generator."""
    rows = []
    for a, b, s in zip(x0, x1, t, strict=True):
        side = b - (a @ b) * a
        side = side / side.norm()
        turn = torch.atan2(side @ b, a @ b) * (torch.outer(side, a) - torch.outer(a, side))
        x = torch.linalg.matrix_exp(s * turn) @ a
        rows.append(torch.stack([x, turn @ x]))
    return torch.stack(rows, dim=1)


def by_atan2(x, t, data):
    t = t.reshape(-1, 1)
    difference = data.unsqueeze(0) - x.unsqueeze(1)
    way = torch.atan2(torch.sin(difference), torch.cos(difference))
    u = way / (1 - t.unsqueeze(1))
    density = (u.abs() < math.pi).all(-1).to(x) / (1 - t) ** x.shape[1]
    return torch.einsum("bn,bnd->bd", density / density.sum(1, keepdim=True), u)


def one_by_one(x, t, data):
    rows = []
    for position, time in zip(x, t, strict=True):
        way = (data - position + math.pi) % (2 * math.pi) - math.pi
        rows.append(way[(way.abs() < (1 - time) * math.pi).all(1)].mean(0) / (1 - time))
    return torch.stack(rows)


def by_sums_over_turns(x, t, data):
    """Each copy of a point in the plane, as far as the noise reaches."""
    turns = torch.tensor([-1.0, 0.0, 1.0]).to(x) * 2 * math.pi
    shifts = torch.cartesian_prod(*[turns] * x.shape[1]).reshape(-1, x.shape[1])
    ways = (data + shifts.unsqueeze(1)).reshape(-1, x.shape[1]) - x.unsqueeze(1)
    near = (ways.abs() < (1 - t.reshape(-1, 1, 1)) * math.pi).all(dim=2).to(x)
    mean = (near.unsqueeze(2) * ways).sum(dim=1) / near.sum(dim=1, keepdim=True)
    return mean / (1 - t.unsqueeze(1))


def by_homogeneity(field, x, t):
    """A tangential field that does not change along x has its divergence in space."""

    def tangential(y, t):
        y = y / y.norm(dim=1, keepdim=True)
        v = field(y, t)
        return v - (y * v).sum(dim=1, keepdim=True) * y

    return divergence(tangential, x, t)


def in_a_frame(field, x, t):
    """The sum over orthonormal tangent directions, as the sheet defines it."""

    def tangential(y):
        v = field(y, t)
        return v - (y * v).sum(dim=1, keepdim=True) * y

    frame = torch.linalg.svd(x.unsqueeze(1)).Vh[:, 1:]
    total = torch.zeros_like(t)
    for i in range(x.shape[1] - 1):
        change = torch.autograd.functional.jvp(tangential, x, frame[:, i].contiguous())[1]
        total = total + (frame[:, i] * change).sum(dim=1)
    return total


def by_a_jacobian_of_the_batch(field, x, t):
    J = torch.autograd.functional.jacobian(lambda y: field(y, t).sum(0), x).permute(1, 0, 2)
    project = torch.eye(x.shape[1]).to(x) - x.unsqueeze(2) * x.unsqueeze(1)
    return (project * J.mT).sum((1, 2)) - (x.shape[1] - 1) * (x * field(x, t)).sum(1)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("geodesic", slerp),
        ("geodesic", by_exponential_and_logarithm),
        ("geodesic", by_rotation),
        ("torus_velocity", by_atan2),
        ("torus_velocity", one_by_one),
        ("torus_velocity", by_sums_over_turns),
        ("sphere_divergence", by_homogeneity),
        ("sphere_divergence", in_a_frame),
        ("sphere_divergence", by_a_jacobian_of_the_batch),
    ],
)
def test_other_ways_of_writing_it_are_right(name, function):
    exercise = EXERCISES[f"manifolds.{name}"]
    for seed in range(10):
        verdict = judge(exercise, outcomes(exercise, function, seed), seed)
        assert verdict.status == "right", verdict.text


# The same mistakes, in other words than the catalogue's.


def line_on_the_sphere(x0, x1, t):
    line = (1 - t[:, None]) * x0 + t[:, None] * x1
    length = line.norm(dim=1, keepdim=True)
    x, change = line / length, x1 - x0
    return torch.stack([x, (change - (x * change).sum(1, keepdim=True) * x) / length])


def short_logarithm(x0, x1, t):
    w = x1 - (x0 * x1).sum(1, keepdim=True) * x0
    length, t = w.norm(dim=1, keepdim=True), t[:, None]
    x = torch.cos(t * length) * x0 + torch.sin(t * length) / length * w
    return torch.stack([x, -length * torch.sin(t * length) * x0 + torch.cos(t * length) * w])


def unwrapped(x, t, data):
    rows = []
    for position, time in zip(x, t, strict=True):
        way = data - position
        rows.append(way[(way.abs() < (1 - time) * math.pi).all(1)].mean(0) / (1 - time))
    return torch.stack(rows)


def held_projection(field, x, t):
    project = torch.eye(x.shape[1]).to(x) - x.unsqueeze(2) * x.unsqueeze(1)
    return divergence(lambda y, t: torch.einsum("bij,bj->bi", project, field(y, t)), x, t)


def every_direction(field, x, t):
    def tangential(y, t):
        v = field(y, t)
        return v - (y * v).sum(dim=1, keepdim=True) * y

    return divergence(tangential, x, t)


@pytest.mark.parametrize(
    ("name", "function", "hint"),
    [
        ("geodesic", line_on_the_sphere, "pushed out to the sphere"),
        ("geodesic", short_logarithm, "has the length sin θ"),
        ("torus_velocity", unwrapped, "not wrapped"),
        ("sphere_divergence", held_projection, "projection was held fixed"),
        ("sphere_divergence", every_direction, "differentiated in all directions"),
    ],
)
def test_mistakes_are_named_in_other_words(name, function, hint):
    exercise = EXERCISES[f"manifolds.{name}"]
    for seed in range(5):
        assert hint in judge(exercise, outcomes(exercise, function, seed), seed).text


def test_noise_arrives_with_the_weights_of_the_points():
    """A third at each of three points, whatever the arcs between them."""
    points = torch.tensor([[-1.7], [0.0], [0.7]], dtype=torch.float64)
    x = (2 * (torch.arange(300).double() + 0.5) / 300 - 1)[:, None] * math.pi
    for i in range(300):
        t = torch.full((300,), i / 300, dtype=torch.float64)
        x = wrap(x + manifolds.torus_velocity(x, t, points) / 300)
    shares = (wrap(x - points.T).abs() < 1e-9).double().mean(dim=0)
    # Euler steps of 1/300 leave the borders between the points within a few of 300 particles
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3).double(), rtol=0, atol=0.02)
