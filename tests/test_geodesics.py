"""Flow matching on curved spaces against autograd, brute force, quadrature and closed flows."""

import math

import pytest
import torch
from test_manifolds import basis, column, directions, every_space, normal, points, product

from fmtutorial import manifolds
from fmtutorial.manifolds import (
    GeodesicField,
    Rotations,
    Sphere,
    Torus,
    geodesic,
    geodesic_euler,
    geodesic_matching_loss,
    staying,
    tangent_part,
)
from fmtutorial.solvers import euler, heun, midpoint, rk4, solve

DOUBLE = torch.float64
FOUR = pytest.mark.parametrize(
    "space", [Torus((0.5, 2.0)), Sphere(2), Sphere(3), Rotations()], ids=str
)


def double(values):
    return torch.tensor(values, dtype=DOUBLE)


# Path and loss


@every_space
def test_path_leads_from_noise_to_data_at_constant_speed(space, generator):
    for n in (3, 40):
        x0, x1 = points(space, n, generator), points(space, n, generator)
        t = torch.linspace(0, 1, n, dtype=DOUBLE)
        at = geodesic(space, x0, x1, t)
        _, rate = torch.func.jvp(
            lambda t, ends=(x0, x1): geodesic(space, *ends, t).x_t, (t,), (torch.ones_like(t),)
        )
        torch.testing.assert_close(at.velocity, rate, rtol=0, atol=1e-13)
        whole = space.distance(x0, x1)
        torch.testing.assert_close(space.distance(x0, at.x_t), t * whole, rtol=0, atol=1e-14)
        torch.testing.assert_close(space.distance(at.x_t, x1), (1 - t) * whole, rtol=0, atol=1e-14)


@every_space
def test_loss_is_in_the_metric_and_sees_the_tangent_part_only(space, generator):
    """A field at rest pays the mean squared distance, and one to the data nothing."""
    x0, x1 = points(space, 50, generator), points(space, 50, generator)
    t = torch.rand(50, generator=generator, dtype=DOUBLE)
    still = geodesic_matching_loss(lambda x, t: 0 * x, space, x0, x1, t)
    torch.testing.assert_close(still, space.distance(x0, x1).square().mean())

    def to_data(x, t):
        return space.log(x, x1) / column(1 - t, x)

    assert geodesic_matching_loss(to_data, space, x0, x1, t) < 1e-20
    if not isinstance(space, Torus):  # where all directions are tangent
        outwards = geodesic_matching_loss(lambda x, t: to_data(x, t) + 3 * x, space, x0, x1, t)
        assert outwards < 1e-20
    off = lambda x, t: to_data(x, t) + space.tangent(x, torch.ones_like(x))  # noqa: E731
    at = geodesic(space, x0, x1, t).x_t
    extra = space.squared_norm(space.tangent(at, torch.ones_like(at))).mean()
    torch.testing.assert_close(geodesic_matching_loss(off, space, x0, x1, t), extra)


def test_loss_trains_a_network_and_leaves_its_data_alone(generator):
    weight = torch.zeros(3, 3, requires_grad=True)
    x0, x1 = Sphere(2).uniform(64, generator), Sphere(2).uniform(64, generator)
    t = torch.rand(64, generator=generator)
    geodesic_matching_loss(lambda x, t: x @ weight, Sphere(2), x0, x1, t).backward()
    assert weight.grad.isfinite().all() and weight.grad.abs().max() > 1e-3
    assert not x1.requires_grad


def test_antipodes_points_off_and_empty_batches_are_refused(generator):
    x = points(Sphere(2), 3, generator)
    t = torch.full((3,), 0.5, dtype=DOUBLE)
    with pytest.raises(ValueError, match="no single path"):
        geodesic(Sphere(2), x, -x, t)
    with pytest.raises(ValueError, match="off"):
        geodesic(Sphere(2), 2 * x, x, t)
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        geodesic(Sphere(2), x, x, 1 + t)
    with pytest.raises(ValueError, match="no rows"):
        geodesic_matching_loss(lambda x, t: x, Sphere(2), x[:0], x[:0], t[:0])
    with pytest.raises(TypeError, match="manifold"):
        geodesic("sphere", x, x, t)
    with pytest.raises(ValueError, match="off"):
        GeodesicField(Sphere(2), 2 * x)
    with pytest.raises(ValueError, match="no rows"):
        GeodesicField(Sphere(2), x[:0])
    with pytest.raises(ValueError, match=r"outside \[0, 1\)"):
        GeodesicField(Sphere(2), x)(x, 2 * t)
    with pytest.raises(ValueError, match="decrease to 0"):
        manifolds.log_likelihood(lambda x, t: x, Sphere(2), x, torch.linspace(1, 0.1, 3))


# The exact field


def brute_force(space, data, x, t):
    """Return density and velocity at one point by inverting the path and differentiating it."""
    densities, velocities = [], []
    for y in data:
        u = space.log(y[None], x[None]) / (1 - t)
        reach = u.abs().amax() if isinstance(space, Torus) else space.squared_norm(u).sqrt()
        if reach >= math.pi:
            densities.append(x.new_zeros(()))
            velocities.append(torch.zeros_like(x))
            continue
        x0, time = space.exp(y[None], u), x.new_tensor([t])
        at, velocity = torch.func.jvp(
            lambda t, x0=x0, y=y: geodesic(space, x0, y[None], t).x_t,
            (time,),
            (torch.ones_like(time),),
        )
        torch.testing.assert_close(at[0], x, rtol=0, atol=1e-12)
        frame, there = basis(space, x0[0]), basis(space, x)
        columns = [
            torch.func.jvp(
                lambda x0, y=y, time=time: geodesic(space, space.project(x0), y[None], time).x_t,
                (x0,),
                (e[None],),
            )[1]
            for e in frame
        ]
        jacobian = torch.stack([product(space, c.expand_as(there), there) for c in columns])
        densities.append(1 / jacobian.det().abs())
        velocities.append(velocity[0])
    density = torch.stack(densities)
    total = density.sum()
    mean = (column(density, data) * torch.stack(velocities)).sum(dim=0) / total
    return total / len(data) / math.exp(space.log_volume), mean


@FOUR
def test_exact_field_is_that_of_brute_force(space, generator):
    data = points(space, 4, generator)
    field = GeodesicField(space, data)
    for t in (0.0, 0.6):
        time = torch.full((2,), t, dtype=DOUBLE)
        x = geodesic(space, points(space, 2, generator), data[:2], time).x_t
        for at, density, v in zip(x, field.log_prob(x, time).exp(), field(x, time), strict=True):
            expected, mean = brute_force(space, data, at, t)
            torch.testing.assert_close(density, expected, rtol=1e-9, atol=0)
            torch.testing.assert_close(v, mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("space", [Sphere(2), Sphere(3), Rotations()], ids=str)
def test_exact_density_and_field_obey_the_continuity_equation(space, generator):
    """∂_t log p + div v + ⟨grad log p, v⟩ = 0 by autograd, wherever p is positive."""
    data, n = points(space, 3, generator), 200
    field = GeodesicField(space, data)
    x = space.exp(
        data.repeat(n, *[1] * (data.ndim - 1)),
        0.5 * directions(space, data.repeat(n, *[1] * (data.ndim - 1)), generator),
    )
    t = 0.1 + 0.6 * torch.rand(len(x), generator=generator, dtype=DOUBLE)
    x.requires_grad_(), t.requires_grad_()
    value = field.log_prob(space.project(x), t)
    seen = value > -math.inf
    in_x, in_t = torch.autograd.grad(value[seen].sum(), (x, t))
    v, spread = field(x, t), manifolds.divergence(field, space, x.detach(), t.detach())
    rest = in_t + spread + (in_x * v).flatten(1).sum(dim=1)
    assert seen.float().mean() > 0.5
    # the terms are of order 10
    torch.testing.assert_close(rest[seen], 0 * rest[seen], rtol=0, atol=1e-11)


def test_density_on_the_globe_integrates_to_one(generator):
    """By Gauss and the midpoint rule; below t = 0.8 the grid resolves it."""
    nodes, weights = torch.linalg.eigh(
        torch.diag_embed(double([k / math.sqrt(4 * k * k - 1) for k in range(1, 60)]), 1)
        + torch.diag_embed(double([k / math.sqrt(4 * k * k - 1) for k in range(1, 60)]), -1)
    )
    weights = 2 * weights[0] ** 2
    turn = torch.arange(120, dtype=DOUBLE) * math.pi / 60
    z, a = torch.meshgrid(nodes, turn, indexing="ij")
    r = (1 - z**2).sqrt()
    grid = torch.stack([r * a.cos(), r * a.sin(), z], dim=2).reshape(-1, 3)
    area = (weights[:, None] * (math.pi / 60)).expand(60, 120).reshape(-1)
    field = GeodesicField(Sphere(2), points(Sphere(2), 3, generator))
    for t in (0.0, 0.4, 0.8):
        density = field.log_prob(grid, torch.full((len(grid),), t, dtype=DOUBLE)).exp()
        assert (area * density).sum().item() == pytest.approx(1, abs=0.005)


@FOUR
def test_flow_of_the_exact_field_ends_at_the_data(space, generator):
    """At time t nothing is farther from its point than what is left of the way; shares are equal.

    The field jumps where the reach of a point ends, on all but the 2-sphere and above: Heun in 40
    steps misses by a step there.
    """
    data = points(space, 3, generator)
    x = points(space, 600, generator)
    grid = torch.linspace(0, 0.95, 41, dtype=DOUBLE)
    x = solve(GeodesicField(space, data), x, grid, staying(space, heun), last_only=True).last
    space.check(x)
    each = torch.stack([space.distance(x, y.expand_as(x)) for y in data], dim=1)
    reach = 0.05 * math.pi * (math.hypot(0.5, 2.0) if isinstance(space, Torus) else 1)
    assert (each.amin(dim=1) < reach + 0.05).float().mean() > 0.98
    shares = torch.bincount(each.argmin(dim=1), minlength=3) / 600
    assert (shares - 1 / 3).abs().max() < 4 * math.sqrt(2 / 9 / 600)


def test_where_no_point_reaches_the_nearest_one_leads():
    data = double([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    field, x = GeodesicField(Sphere(2), data), double([[0.6, 0.0, -0.8]])
    t = double([0.9])
    assert field.log_prob(x, t).item() == -math.inf
    torch.testing.assert_close(field(x, t), Sphere(2).log(x, data[1:]) / (1 - 0.9))


# Solvers


def height(x, t):
    """Up, with something across the sphere that must not matter."""
    return torch.tensor([0.0, 0.0, 1.0]).to(x) + (1 + x.sum(dim=1, keepdim=True)) * x


def risen(x, t):
    """Return where the flow of ``height`` takes points in time t: z ↦ tanh(t + artanh z)."""
    z = torch.tanh(t + torch.atanh(x[:, 2:]))
    around = x[:, :2] / x[:, :2].norm(dim=1, keepdim=True)
    return torch.cat([(1 - z**2).sqrt() * around, z], dim=1)


def pulled(x, t):
    return x.sin()


def stretched(x, t):
    """Return the flow of θ' = sin θ: tan(θ/2) grows by e^t."""
    return 2 * torch.atan(math.exp(t) * torch.tan(x / 2))


AXIS = torch.tensor([[0.0, -0.3, 0.8], [0.3, 0.0, -0.5], [-0.8, 0.5, 0.0]], dtype=DOUBLE)


def spun(x, t):
    """Turn about an axis, faster and faster; with something across the rotations."""
    return (1 + t[:, None, None]) * (AXIS @ x) + x @ torch.diag(torch.ones(3).to(x))


def turned(x, t):
    return torch.linalg.matrix_exp((t + t**2 / 2) * AXIS) @ x


FLOWS = {
    "globe": (Sphere(2), height, risen),
    "torus": (Torus((1.0, 3.0)), pulled, stretched),
    "rotations": (Rotations(), spun, turned),
}
every_flow = pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS)


@every_flow
@pytest.mark.parametrize(
    ("method", "order"),
    [(geodesic_euler, 1), (euler, 1), (heun, 2), (midpoint, 2), (rk4, 4)],
    ids=["geodesic", "euler", "heun", "midpoint", "rk4"],
)
def test_solvers_stay_and_keep_their_order(flow, method, order, generator):
    space, field, exact = flow
    step = method(space) if method is geodesic_euler else staying(space, method)
    x = points(space, 40, generator)
    errors = []
    for n in (20, 40):
        end = solve(field, x, torch.linspace(0, 1, n + 1, dtype=DOUBLE), step).last
        space.check(end)
        errors.append(space.squared_norm(space.shortest(exact(x, 1.0), end)).mean().sqrt())
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.25)
    back = solve(field, end, torch.linspace(1, 0, n + 1, dtype=DOUBLE), step).last
    assert space.distance(back, x).max() < 4 * max(space.distance(end, exact(x, 1.0)).max(), 1e-9)


@every_flow
def test_a_thousand_steps_leave_nothing_but_rounding(flow, generator):
    space, field, _ = flow
    dtype = torch.float32
    if space == Rotations():
        field = lambda x, t: AXIS.to(x) @ x  # noqa: E731
    x = space.project(space.uniform(20, generator).to(dtype))
    for step in (geodesic_euler(space), staying(space, heun)):
        grid = torch.linspace(0, 3, 1001, dtype=dtype)
        end = solve(field, x, grid, step, last_only=True).last
        # a point's own rounding, and that of measuring it
        assert space._off(end).max() < 8 * torch.finfo(dtype).eps


def test_a_plain_solver_leaves_the_globe(generator):
    x = points(Sphere(2), 20, generator)
    grid = torch.linspace(0, 3, 31, dtype=DOUBLE)
    end = solve(lambda x, t: Sphere(2).tangent(x, height(x, t)), x, grid, euler).last
    assert (end.norm(dim=1) - 1).abs().max() > 1e-3


# Divergence and likelihood


def test_divergences_known_in_closed_form(generator):
    """Gradients of linear functions are eigenfunctions of the Laplacian; a turn keeps volume."""
    t = torch.full((20,), 0.5, dtype=DOUBLE)
    for d in (1, 2, 4):
        x = points(Sphere(d), 20, generator)
        up = torch.eye(d + 1, dtype=DOUBLE)[-1]
        found = manifolds.divergence(lambda x, t, up=up: up + 2 * x, Sphere(d), x, t)
        torch.testing.assert_close(found, -d * x[:, -1], rtol=1e-12, atol=1e-12)
    x = points(Rotations(), 20, generator)
    a = normal(x[0], generator)
    found = manifolds.divergence(lambda x, t: a.expand_as(x) + x, Rotations(), x, t)
    torch.testing.assert_close(found, -(a * x).sum(dim=(1, 2)), rtol=1e-12, atol=1e-12)
    for turn in (lambda x, t: AXIS @ x, lambda x, t: x @ AXIS):
        found = manifolds.divergence(turn, Rotations(), x, t)
        torch.testing.assert_close(found, 0 * t, rtol=0, atol=1e-13)
    x = points(Torus((1.0, 3.0)), 20, generator)
    found = manifolds.divergence(pulled, Torus((1.0, 3.0)), x, t)
    torch.testing.assert_close(found, x.cos().sum(dim=1))


def test_log_likelihood_of_a_flow_on_the_globe(generator):
    """p_1(x) = p_0 dz₀/dz, with z₀ = tanh(artanh z − 1)."""
    x = points(Sphere(2), 20, generator)
    z = x[:, 2]
    before = torch.tanh(torch.atanh(z) - 1)
    exact = torch.log((1 - before**2) / (1 - z**2)) - math.log(4 * math.pi)
    grid = torch.linspace(1, 0, 41, dtype=DOUBLE)
    found = manifolds.log_likelihood(height, Sphere(2), x, grid)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)  # h⁴ = 4e-7


def test_log_likelihood_on_a_torus_counts_its_volume(generator):
    """θ' = sin θ on both circles: p_1 = p_0 Π dθ₀/dθ, with tan(θ₀/2) = tan(θ/2) / e."""
    space, x = Torus((1.0, 3.0)), points(Torus((1.0, 3.0)), 20, generator)
    half = x / 2
    slope = math.e / (math.e**2 * half.cos() ** 2 + half.sin() ** 2)
    exact = slope.log().sum(dim=1) - math.log((2 * math.pi) ** 2 * 3)
    grid = torch.linspace(1, 0, 41, dtype=DOUBLE)
    found = manifolds.log_likelihood(pulled, space, x, grid)
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-6)


def test_log_likelihood_on_rotations_is_that_of_the_exact_field(generator):
    """For one data point the field is smooth on the reach of it."""
    data = points(Rotations(), 1, generator)
    field, t = GeodesicField(Rotations(), data), torch.full((3,), 0.3, dtype=DOUBLE)
    w = directions(Rotations(), data.expand(3, 3, 3), generator)
    x = Rotations().exp(data.expand(3, 3, 3), w)
    found = manifolds.log_likelihood(field, Rotations(), x, torch.linspace(0.3, 0, 11).double())
    torch.testing.assert_close(found, field.log_prob(x, t), rtol=0, atol=1e-6)


def test_tangent_part_is_constant_across(generator):
    x = points(Sphere(2), 20, generator)
    t = torch.zeros(20, dtype=DOUBLE)
    field = tangent_part(Sphere(2), height)
    torch.testing.assert_close(field(x, t), Sphere(2).tangent(x, height(x, t)))
    torch.testing.assert_close(field(1.1 * x, t), field(x, t))
