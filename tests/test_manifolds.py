"""Torus, sphere and rotations against autograd, quadrature, SciPy and brute force."""

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from fmtutorial.manifolds import Rotations, Sphere, Torus

DOUBLE = torch.float64
CIRCLE, TORUS = Torus((1.0,)), Torus((0.5, 1.0, 2.0))
SPACES = [CIRCLE, TORUS, Sphere(1), Sphere(2), Sphere(4), Rotations()]
"""With batches of 3, the second and the fourth are the case B = D."""
every_space = pytest.mark.parametrize("space", SPACES, ids=str)


def points(space, n, generator):
    return space.project(space.uniform(n, generator).double())


def normal(x, generator):
    return torch.randn(x.shape, generator=generator, dtype=x.dtype)


def column(t, x):
    return t.reshape(-1, *[1] * (x.ndim - 1))


def directions(space, x, generator):
    """Return tangent vectors that reach the cut at length π: there a torus has its largest π."""
    v = space.tangent(x, normal(x, generator))
    if isinstance(space, Torus):
        return v / v.abs().amax(dim=1, keepdim=True)
    return v / column(space.squared_norm(v).sqrt(), x)


def product(space, v, w):
    """The metric, from lengths."""
    return (space.squared_norm(v + w) - space.squared_norm(v - w)) / 4


def basis(space, x):
    """Return vectors at one point that are orthonormal in the metric, shape (d, *event)."""
    size = x.numel()
    every = torch.eye(size, dtype=x.dtype).reshape(size, *x.shape)
    found = []
    for v in space.tangent(x.expand(size, *x.shape), every):
        v = v[None]
        for e in found:
            v = v - product(space, v, e) * e
        length = space.squared_norm(v).sqrt()
        if length > 1e-3:
            found.append(v / length)
    return torch.cat(found)


# Shortest paths


@every_space
def test_log_and_exp_undo_each_other_and_the_length_is_the_distance(space, generator):
    for n in (3, 500):
        x, y = points(space, n, generator), points(space, n, generator)
        v = space.log(x, y)
        torch.testing.assert_close(space.exp(x, v), y, rtol=0, atol=1e-14)
        torch.testing.assert_close(space.tangent(x, v), v, rtol=0, atol=1e-14)
        lengths = space.squared_norm(v).sqrt()
        torch.testing.assert_close(space.distance(x, y), lengths, rtol=1e-13, atol=0)
        torch.testing.assert_close(space.distance(y, x), lengths, rtol=1e-13, atol=0)
        again = space.log(x, space.exp(x, 0.9 * v))
        torch.testing.assert_close(again, 0.9 * v, rtol=0, atol=1e-13)


def test_torus_takes_the_shortest_of_all_turns(generator):
    x, y = points(TORUS, 200, generator), points(TORUS, 200, generator)
    turns = 2 * math.pi * torch.cartesian_prod(*[torch.arange(-1.0, 2.0)] * 3).double()
    radii = torch.tensor(TORUS.radii, dtype=DOUBLE)
    every = (radii * ((y - x)[:, None] + turns)).norm(dim=2)
    torch.testing.assert_close(TORUS.distance(x, y), every.amin(dim=1))


def test_rotations_are_those_of_scipy(generator):
    x, y = (points(Rotations(), 200, generator) for _ in range(2))
    v = Rotations().log(x, y)
    turn = x.mT @ v
    axis = torch.stack([turn[:, 2, 1], turn[:, 0, 2], turn[:, 1, 0]], dim=1)
    theirs = Rotation.from_matrix((x.mT @ y).numpy())
    torch.testing.assert_close(axis, torch.from_numpy(theirs.as_rotvec()), rtol=0, atol=1e-12)
    angles = torch.from_numpy(theirs.magnitude())
    torch.testing.assert_close(Rotations().distance(x, y), angles, rtol=1e-12, atol=0)


def test_sphere_distance_is_the_angle_also_where_log_has_no_answer(generator):
    space = Sphere(2)
    x, y = points(space, 200, generator), points(space, 200, generator)
    angle = torch.acos((x * y).sum(dim=1))  # loses digits near 0 and π, where random pairs are not
    torch.testing.assert_close(space.distance(x, y), angle, rtol=1e-9, atol=1e-9)
    assert (space.distance(x, -x) == math.pi).all() and (space.distance(x, x) == 0).all()


@every_space
def test_paths_have_their_velocity_and_constant_speed(space, generator):
    x, y = points(space, 30, generator), points(space, 30, generator)
    v, t = space.log(x, y), torch.linspace(0, 1, 30, dtype=DOUBLE)
    at = space.follow(x, v, t)
    _, rate = torch.func.jvp(lambda t: space.follow(x, v, t).x_t, (t,), (torch.ones_like(t),))
    torch.testing.assert_close(rate, at.velocity, rtol=0, atol=1e-13)
    torch.testing.assert_close(
        space.squared_norm(at.velocity), space.squared_norm(v), rtol=1e-12, atol=0
    )
    space.check(at.x_t)
    end = space.follow(x, v, torch.ones_like(t)).velocity
    torch.testing.assert_close(end, -space.log(y, x), rtol=0, atol=1e-12)
    half = space.exp(x, v / 2)  # straightest: what is left is half of the way
    torch.testing.assert_close(space.distance(half, y), space.distance(x, y) / 2)


@every_space
@pytest.mark.parametrize("length", [1e-12, 1e-6, 1e-3, 0.0099, 0.0101, 3.1, math.pi - 1e-6])
def test_no_digits_are_lost_near_zero_and_near_the_cut(space, length, generator):
    """At any length the error is that of rounding the ends, times 1 / sin where that is large."""
    x = points(space, 100, generator)
    v = length * directions(space, x, generator)
    found = space.log(x, space.exp(x, v))
    allowed = 1e-14 * length / max(math.sin(length), 1e-300)
    torch.testing.assert_close(found, v, rtol=0, atol=max(allowed, 2e-15))
    distance = space.distance(x, space.exp(x, v))
    torch.testing.assert_close(distance, space.squared_norm(v).sqrt(), rtol=0, atol=2e-15)


@every_space
@pytest.mark.parametrize("apart", [0.0, 0.5])
def test_log_is_differentiable_also_where_points_coincide(space, apart, generator):
    """The derivative of d² along w is −2 ⟨log, w⟩ in the metric."""
    x = points(space, 20, generator)
    y = space.exp(x, apart * directions(space, x, generator))
    w = space.tangent(x, normal(x, generator))
    start = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(space.squared_norm(space.log(start, y)).sum(), start)
    along = (slope * w).flatten(1).sum(dim=1)
    torch.testing.assert_close(along, -2 * product(space, space.log(x, y), w), atol=1e-12, rtol=0)


# The cut


@every_space
def test_log_refuses_pairs_on_the_cut_and_names_them(space, generator):
    x = points(space, 3, generator)
    y = space.exp(x, math.pi * directions(space, x, generator))
    y[0] = x[0]
    with pytest.raises(ValueError, match="no single path from .*; move one") as error:
        space.log(x, y)
    assert str(x[1].tolist()) in str(error.value) and str(y[1].tolist()) in str(error.value)


@pytest.mark.parametrize("space", [CIRCLE, TORUS, Rotations()], ids=str)
def test_half_a_turn_has_a_shortest_path_all_the_same(space, generator):
    """So that training never stops: in single precision one pair in 10⁷ is half a turn apart."""
    x = points(space, 50, generator)
    v = math.pi * directions(space, x, generator)
    y = space.exp(x, v)
    found = space.shortest(x, y)
    assert space.distance(space.exp(x, found), y).max() < 1e-12
    torch.testing.assert_close(space.squared_norm(found), space.squared_norm(v))


# Volume


@every_space
def test_volume_factor_is_the_determinant_of_exp(space, generator):
    for x in points(space, 4, generator):
        length = math.pi * torch.rand(1, generator=generator, dtype=DOUBLE)
        v = length * directions(space, x[None], generator)[0]
        frame, y = basis(space, x), space.exp(x[None], v[None])[0]
        assert len(frame) == space.dimension
        there = basis(space, y)

        def moved(a, x=x, v=v, frame=frame):
            turned = torch.tensordot(a, frame, dims=1)
            return space.follow(x[None], (v + turned)[None], x.new_ones(1)).x_t[0]

        zero = torch.zeros(space.dimension, dtype=DOUBLE)
        columns = [torch.func.jvp(moved, (zero,), (e,))[1] for e in torch.eye(len(zero)).double()]
        jacobian = torch.stack([product(space, c.expand_as(there), there) for c in columns], dim=1)
        factor = space.volume_factor(v[None])
        torch.testing.assert_close(factor[0], jacobian.det().abs(), rtol=1e-9, atol=1e-12)
        beyond = 1.01 * math.pi * directions(space, x[None], generator)
        assert space.volume_factor(beyond).item() == 0


@pytest.mark.parametrize("space", [Sphere(1), Sphere(2), Sphere(3), Rotations()], ids=str)
def test_volume_is_that_of_the_tangent_ball_under_exp(space):
    """By the midpoint rule along one direction, which all others are like."""
    n = 20000
    r = (torch.arange(n, dtype=DOUBLE) + 0.5) * math.pi / n
    x = torch.eye(3).double()[None] if space == Rotations() else None
    x = torch.eye(space.event_shape[0]).double()[:1] if x is None else x
    v = column(r, x) * basis(space, x[0])[:1]
    around = {1: 2, 2: 2 * math.pi, 3: 4 * math.pi}[space.dimension]
    total = around * (space.volume_factor(v) * r ** (space.dimension - 1)).mean() * math.pi
    assert total.item() == pytest.approx(math.exp(space.log_volume), rel=1e-7)


def test_volume_of_a_torus_has_its_radii_in_it():
    assert math.exp(TORUS.log_volume) == pytest.approx((2 * math.pi) ** 3)
    assert math.exp(Torus((3.0,)).log_volume) == pytest.approx(6 * math.pi)


def test_radii_are_the_metric_of_a_torus():
    v = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    assert TORUS.squared_norm(v).tolist() == [1.25, 36.0]
    assert TORUS.distance(0 * v, torch.tensor([[3.0, 0, 0], [0, 0, -1.0]])).tolist() == [1.5, 2.0]


def test_uniform_laws(generator):
    """By moments, four standard errors of 20 000 draws; a rotation's angle by its distribution."""
    n, wide = 20000, 4 / math.sqrt(20000)
    for d in (1, 2, 4):
        x = Sphere(d).uniform(n, generator)
        assert x.mean(dim=0).abs().max() < wide
        torch.testing.assert_close(x.T @ x / n, torch.eye(d + 1) / (d + 1), rtol=0, atol=wide)
    angles = TORUS.uniform(n, generator)
    assert (angles >= -math.pi).all() and (angles < math.pi).all()
    for k in (1, 2):
        assert torch.stack([(k * angles).cos(), (k * angles).sin()]).mean(dim=1).abs().max() < wide
    x = Rotations().uniform(n, generator)
    trace = x.diagonal(dim1=1, dim2=2).sum(dim=1)  # a character: mean 0 and mean square 1
    assert trace.mean().abs() < wide and (trace.square().mean() - 1).abs() < 2 * wide
    angle = Rotations().distance(x, torch.eye(3).expand_as(x)).sort().values
    share = (torch.arange(n) + 0.5) / n
    assert ((angle - angle.sin()) / math.pi - share).abs().max() < 1.95 / math.sqrt(n)  # 1 in 1000


# Points and what is none


@every_space
def test_project_takes_the_nearest_point_and_its_derivative_is_the_tangent_part(space, generator):
    x, w = points(space, 20, generator), None
    w = normal(x, generator)
    kept, rate = torch.func.jvp(space.project, (x,), (w,))
    torch.testing.assert_close(kept, x, rtol=0, atol=1e-15)
    torch.testing.assert_close(rate, space.tangent(x, w), rtol=0, atol=1e-13)


def test_projections_of_points_far_off(generator):
    x = 10 * normal(torch.empty(100, 3, dtype=DOUBLE), generator)
    torch.testing.assert_close(TORUS.project(x), torch.atan2(x.sin(), x.cos()))
    torch.testing.assert_close(Sphere(2).project(x), torch.nn.functional.normalize(x, dim=1))
    x = normal(torch.empty(300, 3, 3, dtype=DOUBLE), generator)
    x = x[(x.det() > 0) & (torch.linalg.cond(x) < 50)]
    u, _, vt = torch.linalg.svd(x)
    torch.testing.assert_close(Rotations().project(x), u @ vt, rtol=0, atol=1e-12)


def test_ends_of_the_circle():
    angles = torch.tensor([[math.pi], [-math.pi], [3 * math.pi], [1e-20]], dtype=DOUBLE)
    assert CIRCLE.project(angles).flatten().tolist() == [-math.pi] * 3 + [1e-20]
    CIRCLE.check(CIRCLE.project(angles.float()))


@every_space
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_points_off_the_space_are_refused(space, dtype, generator):
    x = space.uniform(3, generator).to(dtype)
    x = space.project(x)
    off = torch.full_like(x, 4.0) if isinstance(space, Torus) else 1.01 * x
    for name in ("exp", "shortest", "log", "distance"):
        with pytest.raises(ValueError, match=r"x is .* off .*; pass project\(x\)"):
            getattr(space, name)(off, x)
        if name != "exp":
            with pytest.raises(ValueError, match=r"y is .* off"):
                getattr(space, name)(x, off)
    space.check(x)
    with pytest.raises(ValueError, match="off"):
        space.check(x * math.nan)


@pytest.mark.parametrize("space", [Sphere(1), Sphere(2), Rotations()], ids=str)
def test_vectors_that_are_not_tangent_are_refused(space, generator):
    x = points(space, 3, generator)
    with pytest.raises(ValueError, match=r"v leaves .*; pass tangent\(x, v\)"):
        space.exp(x, normal(x, generator))
    space.exp(x, space.tangent(x, 1e6 * normal(x, generator)))


def test_a_reflection_is_no_rotation():
    mirror = torch.diag(torch.tensor([1.0, 1.0, -1.0]))[None]
    with pytest.raises(ValueError, match="2 off"):
        Rotations().check(mirror)
    with pytest.raises(ValueError, match="determinant is not positive"):
        Rotations().project(mirror)
    for size in (1e-5, 1e6):  # far off, Newton's steps only halve or double
        with pytest.raises(ValueError, match="times too large or small"):
            Rotations().project(size * torch.eye(3)[None])
    with pytest.raises(ValueError, match="row of zeros"):
        Sphere(2).project(torch.zeros(2, 3))


def test_spaces_that_do_not_exist():
    for radii in ((), [1.0], (0.0,), (-1.0,), (math.nan,)):
        with pytest.raises(ValueError, match="radi"):
            Torus(radii)
    with pytest.raises(ValueError, match="dimension"):
        Sphere(0)


def test_half_precision_and_other_shapes_are_refused():
    with pytest.raises(TypeError, match="too coarse"):
        Sphere(2).check(torch.eye(3).half())
    with pytest.raises(ValueError, match=r"pass \(B, 3, 3\)"):
        Rotations().check(torch.eye(3))


@every_space
def test_single_precision_stays_single(space, generator):
    x, y = space.uniform(100, generator), space.uniform(100, generator)
    v = space.log(x, y)
    assert v.dtype == space.exp(x, v).dtype == torch.float32
    torch.testing.assert_close(
        v.double(), space.log(*map(space.project, (x.double(), y.double()))), rtol=0, atol=2e-5
    )
