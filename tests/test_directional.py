"""Laws on the torus and the globe against quadrature, SciPy and the field of points."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from test_manifolds import points

from fmtutorial import manifolds
from fmtutorial.manifolds import GeodesicField, Sphere, Torus, VonMisesFisher, WrappedField

DOUBLE = torch.float64
CIRCLE, TORUS, GLOBE = Torus((1.0,)), Torus((0.5, 2.0)), Sphere(2)


def at(t, n):
    return torch.full((n,), t, dtype=DOUBLE)


def wrapped(angle, mean, std):
    """Density of a normal law wrapped around the circle, by its Fourier series."""
    k = np.arange(1, 60)[:, None]
    waves = np.exp(-0.5 * (k * std) ** 2) * np.cos(k * (angle - mean))
    return (1 + 2 * waves.sum(axis=0)) / (2 * math.pi)


@pytest.mark.parametrize("std", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("t", [0.0, 0.5, 0.95])
def test_field_on_the_circle_is_that_of_quadrature(std, t, generator):
    """p_t and v_t over the window |y − x| < (1 − t) π, with the data's law by Fourier series."""
    means, reach = torch.tensor([[-2.5], [1.0]], dtype=DOUBLE), math.pi * (1 - t)
    field = WrappedField(CIRCLE, means, std)
    x = torch.cat([points(CIRCLE, 5, generator), torch.full((1, 1), -math.pi, dtype=DOUBLE)])
    found = zip(x, field(x, at(t, 6)), field.log_prob(x, at(t, 6)), strict=True)
    for angle, v, log_p in found:
        c = angle.item()

        def law(offset, c=c):
            y = np.array([c + offset])
            return sum(wrapped(y, m.item(), std)[0] for m in means) / 2

        def pull(offset, law=law):
            return offset * law(offset)

        mass, drawn = (integrate.quad(f, -reach, reach, limit=200)[0] for f in (law, pull))
        assert log_p.exp().item() == pytest.approx(mass / (2 * reach), rel=1e-7)
        assert v.item() == pytest.approx(drawn / mass / (1 - t), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-4), (DOUBLE, 1e-9)])
@pytest.mark.parametrize("left", [0.3, 1e-2, 1e-4, 1e-6])
def test_no_digits_are_lost_in_narrow_windows_and_far_out(dtype, allowed, left):
    """As t goes to 1 the window shrinks to a point, and its error functions cancel."""
    means = torch.tensor([[-2.0], [0.4]], dtype=dtype)
    x = torch.linspace(-3, 3, 13, dtype=dtype)[:, None]
    t = torch.full((13,), 1 - left, dtype=dtype)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(200))
    offset = math.pi * nodes * (1 - t[:1].double())  # of the time that rounding has left
    to_means = x.double() + offset - means.double()[:, None]  # (K, B, nodes)
    for std in (0.2, 2.0):
        law = torch.stack([-((to_means + 2 * math.pi * k) ** 2) / 2 / std**2 for k in range(-4, 5)])
        log_law = law.logsumexp(dim=(0, 1)) + weights.log()
        mean = (log_law.softmax(dim=1) * offset).sum(dim=1) / (1 - t.double())
        log_p = log_law.logsumexp(dim=1) - math.log(4 * std * math.sqrt(2 * math.pi))
        field = WrappedField(CIRCLE, means, std)
        torch.testing.assert_close(field(x, t)[:, 0].double(), mean, rtol=0, atol=allowed)
        torch.testing.assert_close(field.log_prob(x, t).double(), log_p, rtol=allowed, atol=allowed)


def test_mixtures_on_a_torus_mix_by_their_joint_mass(generator):
    """By the continuity equation, which holds for no other weights; the volume is the metric's."""
    field = WrappedField(TORUS, points(TORUS, 3, generator), 0.4)
    x = points(TORUS, 60, generator).requires_grad_()
    t = (0.95 * torch.rand(60, generator=generator, dtype=DOUBLE)).requires_grad_()
    value = field.log_prob(x, t)
    in_x, in_t = torch.autograd.grad(value.sum(), (x, t))
    spread = manifolds.divergence(field, TORUS, x.detach(), t.detach())
    rest = in_t + spread + (in_x * field(x, t)).sum(dim=1)
    torch.testing.assert_close(rest, 0 * rest, rtol=0, atol=1e-10)  # terms of order 10
    side = (torch.arange(60, dtype=DOUBLE) + 0.5) * math.pi / 30 - math.pi
    grid = torch.cartesian_prod(side, side)
    for time in (0.0, 0.5, 0.9):
        mean = field.log_prob(grid, at(time, len(grid))).exp().mean()
        assert mean.item() * math.exp(TORUS.log_volume) == pytest.approx(1, rel=1e-9)


def test_narrow_laws_have_the_field_of_points(generator):
    """Away from the ends of a reach, which they round off."""
    data, x = points(TORUS, 4, generator), points(TORUS, 300, generator)
    for t in (0.2, 0.6):
        narrow, sharp = WrappedField(TORUS, data, 1e-3), GeodesicField(TORUS, data)
        edge = (
            (
                TORUS.shortest(x.repeat_interleave(4, 0), data.repeat(300, 1)).abs()
                - math.pi * (1 - t)
            )
            .abs()
            .reshape(300, -1)
            .amin(dim=1)
        )
        seen = (edge > 0.01) & (sharp.log_prob(x, at(t, 300)) > -math.inf)
        assert seen.sum() > 100
        inside, time = x[seen], at(t, int(seen.sum()))
        torch.testing.assert_close(narrow(inside, time), sharp(inside, time), rtol=0, atol=1e-4)
        torch.testing.assert_close(narrow.log_prob(inside, time), sharp.log_prob(inside, time))


def test_smooth_data_have_no_kink_at_the_cut():
    """Opposite the only mean, v and its slope are the same from both sides."""
    field = WrappedField(CIRCLE, torch.zeros(1, 1, dtype=DOUBLE), 0.5)
    x = torch.tensor([[math.pi - 1e-7], [-math.pi + 1e-7]], dtype=DOUBLE, requires_grad=True)
    v = field(x, at(0.4, 2))
    (slope,) = torch.autograd.grad(v.sum(), x)
    assert (v[0] - v[1]).abs() < 1e-5 and (slope[0] - slope[1]).abs() < 1e-5
    points_only = GeodesicField(CIRCLE, torch.zeros(1, 1, dtype=DOUBLE))(x.detach(), at(0.0, 2))
    assert (points_only[0] - points_only[1]).abs() > 6


def test_far_from_all_data_the_field_is_finite():
    field = WrappedField(CIRCLE, torch.zeros(1, 1), 0.05)
    x, t = torch.tensor([[3.1], [-2.0]]), torch.tensor([0.9, 0.99])
    v = field(x, t)
    assert v.isfinite().all() and field.log_prob(x, t).isfinite().all()
    # in a window far out in the tail the nearest end has the mass
    assert v[0].item() == pytest.approx(-math.pi, abs=0.1) and v[1].item() > 0


# von Mises-Fisher


def test_von_mises_fisher_is_that_of_scipy(generator):
    x, mean = points(GLOBE, 50, generator), points(GLOBE, 1, generator)
    for kappa in (1e-3, 1.0, 30.0, 2000.0):
        ours = VonMisesFisher(mean, kappa).log_prob(x)
        theirs = stats.vonmises_fisher(mean[0].numpy(), kappa).logpdf(x.numpy())
        torch.testing.assert_close(ours, torch.from_numpy(theirs), rtol=1e-9, atol=1e-9)


def test_mixture_of_von_mises_fisher_integrates_to_one(generator):
    means = points(GLOBE, 3, generator)
    z, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(80))
    turn = torch.arange(160, dtype=DOUBLE) * math.pi / 80
    z, a = torch.meshgrid(z, turn, indexing="ij")
    r = (1 - z**2).sqrt()
    grid = torch.stack([r * a.cos(), r * a.sin(), z], dim=2).reshape(-1, 3)
    density = VonMisesFisher(means, 25.0).log_prob(grid).exp().reshape(z.shape)
    total = (weights[:, None] * density).sum() * math.pi / 80
    assert total.item() == pytest.approx(1, rel=1e-10)


def test_samples_of_von_mises_fisher(generator):
    """The cosine by its distribution function, the turn around the mean by moments."""
    mean, n = points(GLOBE, 1, generator), 20000
    for kappa in (0.5, 200.0):
        x = VonMisesFisher(mean, kappa).sample(n, generator)
        GLOBE.check(x)
        cosine = (x @ mean[0]).sort().values
        below = torch.expm1(kappa * (cosine + 1)) / math.expm1(2 * kappa)
        share = (torch.arange(n) + 0.5) / n
        assert (below - share).abs().max() < 1.95 / math.sqrt(n)  # 1 in 1000
        side = torch.nn.functional.normalize(GLOBE.tangent(mean.expand(n, 3), x), dim=1)
        assert side.mean(dim=0).abs().max() < 4 / math.sqrt(2 * n)


def test_mixtures_draw_all_components(generator):
    means = torch.eye(3)
    x = VonMisesFisher(means, 1e4).sample(3000, generator)
    shares = torch.bincount((x @ means.T).argmax(dim=1), minlength=3) / 3000
    assert (shares - 1 / 3).abs().max() < 4 * math.sqrt(2 / 9 / 3000)


def test_laws_that_do_not_exist(generator):
    means = points(GLOBE, 3, generator)
    for kappa in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="concentration"):
            VonMisesFisher(means, kappa)
    with pytest.raises(ValueError, match="off"):
        VonMisesFisher(2 * means, 1.0)
    with pytest.raises(ValueError, match="no rows"):
        VonMisesFisher(means[:0], 1.0)
    with pytest.raises(ValueError, match="no rows"):
        WrappedField(CIRCLE, torch.zeros(0, 1), 1.0)
    with pytest.raises(ValueError, match="std"):
        WrappedField(CIRCLE, torch.zeros(1, 1), 0.0)
    with pytest.raises(TypeError, match="torus"):
        WrappedField(GLOBE, means, 1.0)
    with pytest.raises(ValueError, match=r"outside \[0, 1\)"):
        WrappedField(CIRCLE, torch.zeros(1, 1), 1.0)(torch.zeros(2, 1), torch.ones(2))


def test_a_law_wrapped_often_stands_still(generator):
    """It is uniform, as noise is."""
    field = WrappedField(TORUS, points(TORUS, 2, generator), 8.0)
    x = points(TORUS, 20, generator)
    torch.testing.assert_close(field(x, at(0.5, 20)), 0 * x, rtol=0, atol=1e-10)
