# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab: Curved spaces
#
# Points of a globe, angles and rotations are numbers with a constraint, and a straight line from one to another breaks it. Replace the line by the shortest path on the space, and flow matching goes on as before. You do that on the globe in plain PyTorch, hold every step against a closed form, and end with a density of the world's airports.
#
# After this lab you can
#
# - say how far straight lines leave a space, and write the path that stays,
# - compute angles and directions without losing digits,
# - say where a shortest path is not the only one, and what that does to the fields,
# - write the exact field of a data set on a torus, a globe or among rotations,
# - integrate on a space without leaving it, at the order you are used to,
# - compute a divergence and a likelihood that belong to the space.

# %%
# On Colab this cell installs the book's package; elsewhere it does nothing.
import sys

if "google.colab" in sys.modules:
    print("Installing the book's package")
    # this lab's own version where it is released, else the newest there is
    home, v = "https://github.com/fmtutorial/fmtutorial", "0.1.0"
    wheel = f"{home}/releases/download/v{v}/fmtutorial-{v}-py3-none-any.whl"
    # %pip install -q {wheel} 2> /dev/null || pip install -q git+{home}

# %%
import math
import warnings

import torch
from torch import nn

from fmtutorial import likelihood, manifolds, plotting
from fmtutorial.labs import airports, record, stored_results, use_default_device
from fmtutorial.manifolds import Rotations, Sphere, Torus, VonMisesFisher, WrappedField

device = use_default_device()

# %%
from fmtutorial.manifolds import (
    GeodesicField,
    geodesic,
    geodesic_euler,
    geodesic_matching_loss,
    staying,
)
from fmtutorial.networks import MLP
from fmtutorial.solvers import euler, heun, rk4, solve
from fmtutorial.training import EMA, train

# PyTorch warns of its own use of torch.jit when torch.func.jvp is first called
warnings.filterwarnings("ignore", category=FutureWarning)

# %%
generator = torch.Generator(device).manual_seed(0)
torch.manual_seed(0)  # the network's first weights

double = {"dtype": torch.float64}
circle, globe, rotations = Torus((1.0,)), Sphere(2), Rotations()


def draw(space, n):
    """Return n points of the uniform law in double precision."""
    return space.project(space.uniform(n, generator).double())


# %% [markdown]
# ## Straight lines leave
#
# **Check 14.1** (how far). Join two points of a circle, or of a globe, by a straight line, and look at its middle. For independent uniform points its mean distance from the circle is $1-2/\pi$ and from the globe $1-2/3$. The tolerance is four standard errors; a distance deviates by less than 1/3.

# %%
n = 100_000
for name, space, exact in [("circle", Sphere(1), 2 / math.pi), ("globe", globe, 2 / 3)]:
    x0, x1 = draw(space, n), draw(space, n)
    gap = 1 - ((x0 + x1) / 2).norm(dim=1).mean().item()
    print(f"{name}: in the middle {gap:.2f} off, in closed form {1 - exact:.2f}")
    record(f"gap_{name}", f"{gap:.2f}")
    assert abs(gap - (1 - exact)) < 4 / 3 / n**0.5

# %% [markdown]
# ## The path that stays
#
# On the globe the shortest path is a great circle. `log` says which way and how far, `exp` goes there.


# %% tags=["quote-globe"]
def exp(x, v):
    angle = v.norm(dim=1, keepdim=True)
    return angle.cos() * x + (angle.sin() / angle) * v


def log(x, y):
    cosine = (x * y).sum(dim=1, keepdim=True)
    leg = y - cosine * x  # the part of y that is tangent at x
    sine = leg.norm(dim=1, keepdim=True)
    return torch.atan2(sine, cosine) / sine * leg


def path(x0, x1, t):
    return exp(x0, t[:, None] * log(x0, x1))


# %% [markdown]
# **Check 14.2** (one path). It is that of the package, it begins at $x_0$, ends at $x_1$, stays on the globe, and its speed is the same at all times: $t$ times the whole length has been covered. The velocity of the package is the derivative, at both ends too, and where some time is left it is $\log_{x_t}(x_1)/(1-t)$. $10^{-12}$ is rounding in double precision, here and below; the quotient is taken up to $t=0.99$.

# %%
x0, x1, t = draw(globe, 1000), draw(globe, 1000), torch.rand(1000, **double)
t[:2] = torch.tensor([1e-9, 1.0])  # at 0 the lines above divide 0 by 0
x_t, ours = path(x0, x1, t), geodesic(globe, x0, x1, t)
covered, length = globe.distance(x0, ours.x_t), globe.distance(x0, x1)
rate = torch.func.jvp(lambda t: path(x0, x1, t), (t,), (torch.ones_like(t),))[1]
print("the package's path:", torch.allclose(x_t, ours.x_t, atol=1e-12))
print("the velocity by autograd:", torch.allclose(rate, ours.velocity, atol=1e-12))
print("constant speed:", torch.allclose(covered, t * length, atol=1e-12))
assert torch.allclose(x_t, ours.x_t, atol=1e-12)
assert torch.allclose(rate, ours.velocity, atol=1e-12)
assert torch.allclose(covered, t * length, atol=1e-12)

# %%
early = t < 0.99
left = globe.log(ours.x_t[early], x1[early]) / (1 - t[early])[:, None]
print("what is left over the time left:", torch.allclose(left, rate[early], atol=1e-12))
assert torch.allclose(left, rate[early], atol=1e-12)
ends = geodesic(globe, x0[:2], x1[:2], torch.tensor([0.0, 1.0], **double))
assert torch.allclose(ends.x_t, torch.stack([x0[0], x1[1]]), atol=1e-12)
assert torch.allclose(ends.velocity[0], globe.log(x0[:1], x1[:1])[0], atol=1e-12)

# %%
states = torch.linspace(0, 1, 60, **double)
pair = draw(globe, 5), draw(globe, 5)
arcs = torch.stack([path(*pair, t.expand(5)) for t in states]).cpu()
lines = torch.stack([(1 - t) * pair[0] + t * pair[1] for t in states]).cpu()
off = (lines.norm(dim=2) - 1).abs(), (arcs.norm(dim=2) - 1).abs()

# %% tags=["hide-input"]
figure, axes = plotting.panels(["seen from above", "distance from the globe"])
rim = torch.linspace(0, 2 * math.pi, 200)
axes[0].plot(rim.cos().cpu(), rim.sin().cpu(), color="#9ca3af", linewidth=0.7)
for way, color in [(lines, plotting.NOISE), (arcs, plotting.MODEL)]:
    axes[0].plot(way[:, :, 0], way[:, :, 1], color=color)
axes[0].set(aspect="equal")
axes[0].axis("off")
for gap, color, name in [
    (off[0], plotting.NOISE, "straight lines"),
    (off[1], plotting.MODEL, "geodesics"),
]:
    axes[1].plot(states.cpu(), gap[:, :1], color=color, label=name)
    axes[1].plot(states.cpu(), gap[:, 1:], color=color)
axes[1].set(xlabel="t", ylim=(-0.02, 1.25))
axes[1].legend(frameon=False)
plotting.show(
    figure,
    "chords",
    "Left, a globe from above: five pairs of points, each joined by a straight grey "
    "line and by a blue arc. Right, over time: the distance of the grey lines from "
    "the globe rises and falls again, that of the arcs is zero.",
)

# %% [markdown]
# *Figure 14.1.* Five pairs on a globe, joined by straight lines and by geodesics.
#
# **Check 14.3** (digits). The inverse cosine is steep where the cosine is 1, and there it loses half of all digits: of an angle of $10^{-8}$ nothing is left. Sine and cosine together keep all: what is left, $10^{-15}$, is the rounding of the points. Near $\pi$ it is the same; there `distance` is held to $2\cdot10^{-15}$, since $\pi$ is rounded too.

# %%
x = draw(globe, 1000)
v = globe.tangent(x, torch.randn(1000, 3, generator=generator, **double))
v = v / v.norm(dim=1, keepdim=True)
for name, angle in [("1e-4", 1e-4), ("1e-8", 1e-8)]:
    y = globe.exp(x, angle * v)
    ours = (globe.log(x, y) - angle * v).norm(dim=1).max().item()
    far = globe.distance(x, globe.exp(x, (math.pi - angle) * v)) - (math.pi - angle)
    cosine = (x * y).sum(dim=1).clamp(-1, 1)
    theirs = (torch.acos(cosine) - angle).abs().max().item()
    print(f"angle {name}: log is off by rounding only: {ours < 1e-15}")
    print(f"the inverse cosine by more than 1e-10 of it: {theirs > 1e-10 * angle}")
    assert ours < 1e-15 and far.abs().max() < 2e-15 and theirs > 1e-10 * angle
assert theirs > 0.4 * angle  # next to 0 the inverse cosine has the values 0 and 1.5e-8

# %% [markdown]
# Two libraries have spheres too. A script beside the package's tests, `tests/benchmarks/manifolds.py`, has compared digits and times; these are its results.

# %%
peers = stored_results("manifolds")
raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
for name, row in peers["near zero"]["1e-5"].items():
    print(f"points 1e-5 apart: log of {name} is off by {row:.0e} of its length")
    power = str(math.floor(math.log10(row))).translate(raised)
    written = f"{row / 10 ** math.floor(math.log10(row)):.0f}·10{power}"
    record(f"peer_digits_{name}", written if row < 1 else f"{row:.0f}")
# %%
for work in ("path", "solver"):
    print(f"{work}: flow_matching takes {peers[work]['times_as_fast']} times as long")
    record(f"peer_{work}", f"{peers[work]['times_as_fast']:.1f}")
record("peer_pairs", peers["settings"]["pairs"])
record("peer_steps", peers["settings"]["steps"])
for name, version in peers["versions"].items():
    record(f"peer_version_{name}", version)

# %% [markdown]
# ## Rotations
#
# **Check 14.4** (an axis and an angle). A rotation goes to another by a turn about one axis. The package takes the axis from a quaternion. On the other side stand the matrix exponential, and the angle from the trace. That has the weakness of Check 14.3, so these pairs are random ones; half a turn has two shortest paths, and `log` refuses it.

# %%
r0, r1 = draw(rotations, 1000), draw(rotations, 1000)
v, t = rotations.log(r0, r1), torch.rand(1000, **double)
by_series = r0 @ torch.linalg.matrix_exp(t[:, None, None] * (r0.mT @ v))
trace = (r0 * r1).sum(dim=(1, 2))
angle = torch.acos((trace - 1) / 2)
apart = (geodesic(rotations, r0, r1, t).x_t - by_series).abs().max().item()
print("the matrix exponential:", apart < 1e-12)
print("distance is the angle:", torch.allclose(rotations.distance(r0, r1), angle))
assert apart < 1e-12 and torch.allclose(rotations.distance(r0, r1), angle, atol=1e-6)

# %%
half_turn = r0 @ torch.diag(torch.tensor([1.0, -1.0, -1.0], **double))
try:
    rotations.log(r0, half_turn)
except ValueError as error:
    print(str(error)[:20], "…", str(error)[-36:])
else:
    raise AssertionError("half a turn has no single shortest path")

# %% [markdown]
# ## The exact field
#
# Noise uniform on the globe, three data points. Towards a data point $y$ the geodesics shrink the angle $r_0$ to $y$ by the factor $1-t$: $r=(1-t)\,r_0$. On the globe the ring at the angle $r$ has the circumference $2\pi\sin r$, so that
#
# $$p_t(x\mid y)=\frac{1}{4\pi\,(1-t)}\,\frac{\sin\bigl(r/(1-t)\bigr)}{\sin r}\qquad\text{for }r<(1-t)\,\pi,$$
#
# and 0 beyond. The marginal velocity is the mean of the conditional ones with these weights.


# %% tags=["quote-field"]
def marginal_velocity(x, t, data):
    left = (1 - t)[:, None]
    angle = torch.acos(x @ data.T)  # (B, N)
    reached = angle < left * math.pi
    weight = torch.where(reached, (angle / left).sin() / angle.sin(), 0)
    weight = weight / weight.sum(dim=1, keepdim=True)
    towards = torch.stack([log(x, y.expand_as(x)) for y in data], dim=1)
    return (weight[:, :, None] * towards).sum(dim=1) / left


# %% [markdown]
# **Check 14.5** (the field). It is the package's `GeodesicField`, to what the inverse cosine leaves. And density, field and divergence obey the continuity equation on the globe, $\partial_t\log p_t+\nabla\cdot v_t+\langle v_t,\nabla\log p_t\rangle=0$, with all derivatives by automatic differentiation: the same for rotations, where another factor stands in the place of the sine.

# %%
data = [[1.0, 0.2, 0.4], [-0.5, 1.0, -0.3], [-0.4, -0.9, 0.3]]
data = globe.project(torch.tensor(data, **double))
exact = GeodesicField(globe, data)
t = 0.7 * torch.rand(999, **double)
x = geodesic(globe, draw(globe, 999), data.repeat(333, 1), t).x_t
same = (marginal_velocity(x, t, data) - exact(x, t)).abs().max().item()
print("the package's field:", same < 1e-6)
assert same < 1e-6


# %%
def continuity(space, field, x, t):
    """Return what is left of the continuity equation at each point."""
    x, t = x.clone().requires_grad_(), t.clone().requires_grad_()
    log_p = field.log_prob(space.project(x), t)
    in_x, in_t = torch.autograd.grad(log_p.sum(), (x, t))
    v, spread = field(x, t), manifolds.divergence(field, space, x.detach(), t.detach())
    return in_t + spread.detach() + (in_x * v).flatten(1).sum(dim=1).detach()


# %%
turns = draw(rotations, 3)
some = geodesic(rotations, draw(rotations, 99), turns.repeat(33, 1, 1), t[:99]).x_t
left = {
    "globe": continuity(globe, exact, x, t),
    "rotations": continuity(rotations, GeodesicField(rotations, turns), some, t[:99]),
}
for name, rest in left.items():
    print(f"{name}: nothing is left: {rest.abs().max().item() < 1e-9}")
    assert rest.abs().max() < 1e-9  # terms of order 10, more where the sine is small

# %% [markdown]
# **Check 14.6** (they arrive). Follow the field from uniform noise to $t=0.95$. Nothing is farther than $0.05\,\pi$ from a data point, but for an error of the solver where the reach of a point ends and the field has a kink. Each point gets a third, within four standard errors.

# %%
start = draw(globe, 2000)
grid = torch.linspace(0, 0.95, 61, **double)
flow = solve(exact, start, grid, staying(globe, heun)).states
near = torch.stack([globe.distance(flow[-1], y.expand_as(start)) for y in data], dim=1)
arrived = (near.amin(dim=1) < 0.05 * math.pi + 0.02).double().mean().item()
shares = torch.bincount(near.argmin(dim=1), minlength=3) / 2000
print(f"near a data point: all but 1 %: {arrived > 0.99}")
print("a third each:", (shares - 1 / 3).abs().max().item() < 4 * (2 / 9 / 2000) ** 0.5)
assert arrived > 0.99 and (shares - 1 / 3).abs().max() < 4 * (2 / 9 / 2000) ** 0.5

# %%
latitude = torch.linspace(-89, 89, 90, **double) * math.pi / 180
longitude = torch.linspace(-179, 179, 180, **double) * math.pi / 180
lat, lon = torch.meshgrid(latitude, longitude, indexing="ij")
sheet = torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], dim=2)
sheet = globe.project(sheet.reshape(-1, 3))


def on_map(x):
    """Return longitude and latitude in degrees, for a picture."""
    angles = torch.atan2(x[..., 1], x[..., 0]), torch.asin(x[..., 2].clamp(-1, 1))
    return [(angle * 180 / math.pi).cpu() for angle in angles]


# %% tags=["hide-input"]
figure, axes = plotting.panels([f"t = {t}" for t in (0.3, 0.6, 0.85)], width=6.4)
for ax, time in zip(axes, (0.3, 0.6, 0.85), strict=True):
    moment = torch.full((len(sheet),), time, **double)
    density = exact.log_prob(sheet, moment).exp().reshape(lat.shape).cpu()
    ax.imshow(density, origin="lower", extent=(-180, 180, -90, 90), cmap="Blues")
    few = flow[(grid - time).abs().argmin(), :150]
    ax.scatter(*on_map(few), s=2, color=plotting.MODEL)
    ax.scatter(*on_map(data), s=14, color=plotting.DATA, marker="x")
    ax.set(xticks=[], yticks=[], aspect="equal")
plotting.show(
    figure,
    "shrinking",
    "Three maps of a globe. Three overlapping discs of density around three crosses "
    "shrink towards them, and blue points, moved by the field, stay where the density "
    "is. In the last map the discs are apart.",
)

# %% [markdown]
# *Figure 14.2.* The density $p_t$ of three data points as a map, and points that the exact field has brought there from uniform noise.
#
# ## Wrapped sums, and the cut
#
# On a circle or a torus the way from data to noise is uniform whatever the data: $x_t=x_1+(1-t)\,w$ with $w$ uniform in $[-\pi,\pi)^d$. So the marginal velocity is a mean over the data within a window,
#
# $$v_t(x)=\frac{\mathbb E\bigl[y-x\;\big|\;|y-x|<(1-t)\,\pi\bigr]}{1-t}.$$
#
# For normal data that are wrapped around the circle the mean is a sum over turns of integrals of the normal law: `WrappedField`.
#
# **Check 14.7** (wrapped sums). Against the same mean with 20,000 equidistant points $y$ of the window in the place of the integrals. $10^{-6}$ is far above the error of that rule.

# %%
means = torch.tensor([[-2.0], [0.4]], **double)
smooth = WrappedField(circle, means, 0.5)
x, time = torch.linspace(-math.pi, 3.1, 40, **double)[:, None], 0.4
window = (torch.arange(20_000, **double) + 0.5) / 10_000 - 1
gap = window * (1 - time) * math.pi
law = 0
for turn in range(-3, 4):
    for mean in means:
        law = law + (-((x + gap + 2 * math.pi * turn - mean) ** 2) / 2 / 0.25).exp()
brute = (gap * law).sum(dim=1) / law.sum(dim=1) / (1 - time)
apart = (smooth(x, torch.full((40,), time, **double))[:, 0] - brute).abs().max().item()
print("wrapped sums are the mean over the window:", apart < 1e-6)
record("window_points", f"{len(window):,}")
assert apart < 1e-6

# %% [markdown]
# **Check 14.8** (no kink at the cut). Opposite a data point there are two shortest paths. The conditional velocity jumps there, from $-\pi$ to $\pi$ at $t=0$. At $t=0$ the marginal velocity of points jumps too; that of smooth data does not, and neither does its slope. A difference of $10^{-6}$ in $x$ may change them by some multiple of it. At $t=0$ the slope there is $2\pi\,p_1-1$ with the density opposite, at 0, where other turns of this normal law add less than $10^{-12}$.

# %%
near_cut = torch.tensor([[math.pi - 5e-7], [5e-7 - math.pi]], **double)
one = WrappedField(circle, torch.zeros(1, 1, **double), 0.8)
points = GeodesicField(circle, torch.zeros(1, 1, **double))
for name, field, time in [("point", points, 0.0), ("smooth", one, 0.0), ("", one, 0.5)]:
    x = near_cut.clone().requires_grad_()
    v = field(x, torch.full((2,), time, **double))
    slope = torch.autograd.grad(v.sum(), x)[0]
    jump = (v[0] - v[1]).abs().item()
    kink = (slope[0] - slope[1]).abs().item()
    print(f"{name or 'smooth'} data, t = {time}: jump below 1e-4: {jump < 1e-4}")
    assert (jump > 6) == (name == "point") and (jump < 1e-4 and kink < 1e-4) == (
        name != "point"
    )

# %%
v_0 = lambda x: one(x, torch.zeros(2, **double))  # noqa: E731
rise = torch.func.jvp(v_0, (near_cut,), (torch.ones_like(near_cut),))[1]
density = 1 / (0.8 * math.sqrt(2 * math.pi))
print(
    f"slope at the cut {rise[0, 0]:.2f}, by the formula {2 * math.pi * density - 1:.2f}"
)
assert (rise - (2 * math.pi * density - 1)).abs().max() < 1e-5

# %% tags=["hide-input"]
figure, axes = plotting.panels(["one data point", "smooth data"])
edge = math.pi - 1e-6
angles = torch.linspace(-edge, edge, 400, **double)[:, None]
for ax, field in zip(axes, (points, one), strict=True):
    for time, color in [(0.0, plotting.NOISE), (0.4, plotting.MODEL), (0.7, "#c2410c")]:
        moment = torch.full((400,), time, **double)
        v = field(angles, moment)[:, 0].cpu()
        reached = field.log_prob(angles, moment).cpu() > -math.inf
        v[~reached] = math.nan
        ax.plot(angles.cpu(), v, color=color, label=f"t = {time}")
    ax.set(xlabel="angle to the middle of the data", ylim=(-3.6, 3.6))
    ax.axvline(math.pi, color="#9ca3af", linestyle=":")
    ax.axvline(-math.pi, color="#9ca3af", linestyle=":")
axes[0].set_ylabel("velocity")
axes[1].legend(frameon=False)
plotting.show(
    figure,
    "cut",
    "Two panels: the velocity over the angle, at three times, with dotted lines at "
    "minus pi and pi, which are the same point. For one data point it falls in a "
    "straight line from pi to minus pi at t = 0, and at later times ends before the "
    "dotted lines. For smooth data it is zero at both, a smooth wave.",
)

# %% [markdown]
# *Figure 14.3.* The field on a circle at three times, for one data point (drawn where the density is positive) and for smooth data. The dotted lines are one point of the circle, the cut.
#
# ## The loss
#
# In plain PyTorch, for the globe. Only the tangent part of the network's answer counts.


# %% tags=["quote-loss"]
def loss_on_the_globe(network, x0, x1, t):
    way = log(x0, x1)
    length = way.norm(dim=1, keepdim=True)
    turn = t[:, None] * length
    x_t = turn.cos() * x0 + turn.sin() / length * way
    velocity = turn.cos() * way - length * turn.sin() * x0  # the derivative of x_t
    v = network(x_t, t)
    v = v - (v * x_t).sum(dim=1, keepdim=True) * x_t
    return (v - velocity).square().sum(dim=1).mean()


# %% [markdown]
# **Check 14.9** (the loss and its floor). It is the package's. The exact field has the least loss, which is not zero; a field that is off by a factor pays in addition the mean square of its error, in the metric. The two sides are means over the same 40,000 draws, whose cross term has mean zero: four of its standard errors.

# %%
n = 40_000
x0, x1 = draw(globe, n), data[torch.randint(3, (n,), generator=generator)]
t = 0.9 * torch.rand(n, generator=generator, **double)
at = geodesic(globe, x0, x1, t)
v = exact(at.x_t, t)
floor = (v - at.velocity).square().sum(dim=1)
slower = (0.5 * v - at.velocity).square().sum(dim=1)
cross = 2 * (v - at.velocity).mul(-0.5 * v).sum(dim=1)
extra = (0.5 * v).square().sum(dim=1).mean().item()
ours = geodesic_matching_loss(exact, globe, x0, x1, t)
print("plain PyTorch:", torch.allclose(loss_on_the_globe(exact, x0, x1, t), ours))
print(f"floor {floor.mean():.1f}, at half the speed {slower.mean():.1f}")
assert torch.allclose(loss_on_the_globe(exact, x0, x1, t), ours)
gained = (slower - floor).mean().item()
assert abs(gained - extra) < 4 * cross.std().item() / n**0.5 and extra > 0.05

# %% [markdown]
# **Check 14.10** (the metric). On a torus with the radii 1 and 3 a velocity of an angle counts by its radius. A field at rest pays the mean squared distance of the pairs, $\tfrac{\pi^2}3(1^2+3^2)$ for uniform ones; without the metric it would be $\tfrac{\pi^2}3\cdot2$. Four standard errors of 100,000 pairs.

# %%
torus, n = Torus((1.0, 3.0)), 100_000
ends, t = (draw(torus, n), draw(torus, n)), torch.rand(n, **double)
at_rest = geodesic_matching_loss(lambda x, t: 0 * x, torus, *ends, t).item()
print(f"at rest: {at_rest:.0f}, in closed form {math.pi**2 / 3 * 10:.0f}")
error = torus.distance(*ends).square().std().item() / n**0.5
assert abs(at_rest - math.pi**2 / 3 * 10) < 4 * error

# %% [markdown]
# ## Solvers that stay
#
# Two ways. Euler's step becomes $x\leftarrow\exp_x(hv)$. Any other step is taken in the coordinates, along the tangent part of the field at the nearest point, and its end is projected.


# %% tags=["quote-stay"]
def heun_on_the_globe(v, x, t, h):
    def on(x):
        return x / x.norm(dim=1, keepdim=True)

    first = v(x, t)
    second = v(on(x + h * first), t + h)
    return on(x + h / 2 * (first + second))


# %% [markdown]
# **Check 14.11** (orders). The field that points up, $v(x)=e-(e\cdot x)\,x$ with $e$ the north pole, has the flow $z\mapsto\tanh(t+\operatorname{artanh}z)$ for the height $z$. Halving the step divides the error by $2^p$. Slopes are measured between 40 and 80 steps, to 0.2.

# %%
pole = torch.tensor([0.0, 0.0, 1.0], **double)


def up(x, t):
    return pole - x[:, 2:] * x


def risen(x, t):
    z = torch.tanh(t + torch.atanh(x[:, 2:]))
    around = x[:, :2] / x[:, :2].norm(dim=1, keepdim=True)
    return torch.cat([(1 - z**2).sqrt() * around, z], dim=1)


# %%
steps = {
    "geodesic Euler": (geodesic_euler(globe), 1),
    "projected Heun": (staying(globe, heun), 2),
    "projected RK4": (staying(globe, rk4), 4),
    "Heun in plain PyTorch": (heun_on_the_globe, 2),
}
start, counts, errors = draw(globe, 200), (5, 10, 20, 40, 80), {}

# %%
for name, (step, order) in steps.items():
    errors[name] = [
        globe.distance(
            solve(up, start, torch.linspace(0, 1, n + 1, **double), step).last,
            globe.project(risen(start, 1.0)),
        ).max()
        for n in counts
    ]
    slope = math.log2(errors[name][-2] / errors[name][-1])
    print(f"{name}: order {slope:.1f}")
    assert abs(slope - order) < 0.2

# %% [markdown]
# **Check 14.12** (they stay). A thousand steps, as long as from $t=0$ to 3, in single precision, on each of the three spaces: what is left is rounding, eight units in the last place. Euler's step without projection leaves the globe, in thirty steps already.

# %%
spaces = {"torus": torus, "globe": globe, "rotations": rotations}
fields = {"torus": lambda x, t: x.sin(), "globe": lambda x, t: up(x, t).float()}
fields["rotations"] = lambda x, t: torch.flip(x, (0,))  # any matrices will do
grid, eps = torch.linspace(0, 3, 1001), torch.finfo(torch.float32).eps
for name, space in spaces.items():
    x = space.uniform(10, generator)
    x = solve(fields[name], x, grid, geodesic_euler(space), last_only=True).last
    off = (x - space.project(x)).abs().max().item()
    print(f"{name}: nothing but rounding after 1000 steps: {off < 8 * eps}")
    assert off < 8 * eps

# %%
moments = torch.linspace(0, 3, 31, **double)
plain = solve(up, start, moments, euler).states
kept = solve(up, start, moments, geodesic_euler(globe)).states
lost = (plain.norm(dim=2) - 1).abs().amax(dim=1)
print("plain Euler leaves:", lost.max().item() > 1e-2)
assert lost.max() > 1e-2
record("lost_euler", f"{lost.max().item():.2f}")

# %% tags=["hide-input"]
figure, axes = plotting.panels(["error at t = 1", "distance from the globe"])
colors = [plotting.NOISE, plotting.MODEL, plotting.DATA]
for (name, found), color in zip(list(errors.items())[:3], colors, strict=True):
    found = [error.item() for error in found]
    axes[0].loglog(counts, found, marker="o", color=color, label=name)
axes[0].set_xticks(counts, counts)
axes[0].minorticks_off()
axes[0].set(xlabel="steps")
axes[0].legend(frameon=False, fontsize=7)
for way, color, name in [
    (plain, plotting.NOISE, "plain Euler"),
    (kept, plotting.MODEL, "geodesic Euler"),
]:
    gap = (way.norm(dim=2) - 1).abs().amax(dim=1).cpu()
    axes[1].plot(torch.linspace(0, 3, 31).cpu(), gap, color=color, label=name)
axes[1].set(xlabel="t")
axes[1].legend(frameon=False, fontsize=7)
plotting.show(
    figure,
    "orders",
    "Left: errors over the number of steps, both axes logarithmic: three straight "
    "lines, the steeper the higher the order. Right: the distance from the globe "
    "rises to a tenth with plain Euler and is zero with geodesic Euler.",
)

# %% [markdown]
# *Figure 14.4.* Left: three solvers on the globe. Right: the largest distance from it of 200 points in thirty steps.
#
# ## Divergence and likelihood
#
# **Check 14.13** (which divergence). The field that points up has the divergence $-2z$ on the globe: what it gathers at the pole. The same formula $e-(e\cdot x)\,x$ as a field of space has $-4z$, since it also changes across the globe. Continue it by its values at the nearest point, and the two agree.

# %%
x, t = draw(globe, 100), torch.zeros(100, **double)
on_globe = manifolds.divergence(up, globe, x, t)
in_space = likelihood.divergence(up, x, t)
print("on the globe −2z:", torch.allclose(on_globe, -2 * x[:, 2]))
print("in space −4z:", torch.allclose(in_space, -4 * x[:, 2]))
assert torch.allclose(on_globe, -2 * x[:, 2], atol=1e-12)
assert torch.allclose(in_space, -4 * x[:, 2], atol=1e-12)

# %% [markdown]
# **Check 14.14** (likelihood). With it, the likelihood along the flow from uniform noise is $\frac1{4\pi}\,\frac{1-z_0^2}{1-z^2}$ with $z_0=\tanh(\operatorname{artanh}z-1)$, by the change of variables on the globe. Forty steps of order four leave less than $10^{-5}$. The divergence of space is twice as large: with it the density over that of the noise would be squared, and the integral more than one.

# %%
grid = torch.linspace(1, 0, 41, **double)
z = x[:, 2]
z0 = torch.tanh(torch.atanh(z) - 1)
truth = torch.log((1 - z0**2) / (1 - z**2)) - math.log(4 * math.pi)
with torch.no_grad():
    found = manifolds.log_likelihood(up, globe, x, grid)
    of_map = manifolds.log_likelihood(up, globe, sheet, grid).reshape(lat.shape)
area = lat.cos() * (math.pi / 90) ** 2  # of two degrees by two
print("the change of variables:", (found - truth).abs().max().item() < 1e-5)
print(f"integral over the globe: {(of_map.exp() * area).sum().item():.2f}")
assert (found - truth).abs().max() < 1e-5
assert abs((of_map.exp() * area).sum().item() - 1) < 0.01

# %% [markdown]
# ## Airports
#
# 7884 airports with a code of IATA, from the Python package airportsdata (MIT licence): 6000 to train with, 884 to choose the width of a kernel by, 1000 to judge by. The network sees the point, and waves of it in random directions: without them it would be too smooth for coasts.

# %%
world = airports().to(device)
train_set, choose_set, test_set = world[:6000], world[6000:6884], world[6884:]
record("airport_count", len(world))


# %%
class Waves(nn.Module):
    """A network of a point of the globe and of waves in 64 directions of space."""

    def __init__(self, width=128, waves=64, frequency=6.0):
        super().__init__()
        self.register_buffer("directions", frequency * torch.randn(3, waves))
        self.body = MLP((3 + 2 * waves,), width, depth=3)

    def forward(self, x, t):
        phase = x @ self.directions
        return self.body(torch.cat([x, phase.sin(), phase.cos()], dim=1), t)[:, :3]


# %%
network = Waves()
ema = EMA(network, decay=0.99)


def loss():
    rows = torch.randint(len(train_set), (512,), generator=generator)
    x0, t = globe.uniform(512, generator), torch.rand(512, generator=generator)
    return geodesic_matching_loss(network, globe, x0, train_set[rows], t)


losses = [step.loss for step in train(network, loss, 800, 3e-3, ema)]
first, last = sum(losses[:50]) / 50, sum(losses[-200:]) / 200
print("the loss falls:", last < 0.97 * first)
assert last < 0.97 * first

# %% [markdown]
# **Check 14.15** (held out). The mean log-likelihood of the 1000 airports, in nats per unit of solid angle, for the flow, for a von Mises–Fisher kernel around each airport of the training with the best concentration for the 884, and for the uniform law. The flow knows much more than the uniform law, and less than the kernels.

# %%
with torch.no_grad():
    of_flow = manifolds.log_likelihood(
        ema.network, globe, test_set, torch.linspace(1, 0, 11)
    )
grid = [50.0, 100.0, 200.0, 400.0, 600.0, 800.0, 1200.0, 2000.0]
scores = {k: VonMisesFisher(train_set, k).log_prob(choose_set).mean() for k in grid}
best = max(scores, key=scores.get)
kernels = VonMisesFisher(train_set, best)
of_kernels = kernels.log_prob(test_set)
uniform = -globe.log_volume

# %% tags=["nbval-ignore-output"]
for name, values in [("flow", of_flow), ("kernels", of_kernels)]:
    mean, error = values.mean().item(), values.std().item() / len(values) ** 0.5
    print(f"{name}: {mean:.2f} ± {error:.2f}")
    record(f"nats_{name}", f"{mean:.2f} ± {error:.2f}".replace("-", "−"))
print(f"uniform: {uniform:.2f}")
record("nats_uniform", f"{uniform:.2f}".replace("-", "−"))
ahead = of_kernels - of_flow
error = ahead.std().item() / len(ahead) ** 0.5
print(f"kernels ahead: {ahead.mean():.2f} ± {error:.2f}")
record("nats_ahead", f"{ahead.mean().item():.2f} ± {error:.2f}")
record("kernel_width", round(math.degrees(best**-0.5), 1))

# %%
print("better than uniform by 0.7:", of_flow.mean().item() > uniform + 0.7)
print("kernels are better:", ahead.mean().item() > 3 * error)
assert of_flow.mean() > uniform + 0.7 and ahead.mean() > 3 * error

# %% [markdown]
# **Check 14.16** (samples). 1000 samples of the flow stay on the globe, and lie within 3° of an airport of the training far more often than points at random; less often than the airports that were held out.

# %%
noise = globe.uniform(1000, generator)
with torch.no_grad():
    samples = solve(
        ema.network, noise, torch.linspace(0, 1, 21), staying(globe, heun)
    ).last
globe.check(samples)
near = {}
for name, x in [("samples", samples), ("random", noise), ("held out", test_set)]:
    nearest = (x @ train_set.T).amax(dim=1).clamp(max=1).acos()
    near[name] = (nearest < math.radians(3)).float().mean().item()

# %% tags=["nbval-ignore-output"]
for name, share in near.items():
    print(f"{name}: {share:.0%} within 3° of an airport")
    record(f"near_{name.replace(' ', '_')}", round(100 * share))

# %%
print("in this order:", near["random"] + 0.2 < near["samples"] < near["held out"])
assert near["random"] + 0.2 < near["samples"] < near["held out"]

# %%
coarse = sheet.reshape(*lat.shape, 3)[::2, ::2]  # every second row
with torch.no_grad():
    learned = manifolds.log_likelihood(
        ema.network,
        globe,
        globe.project(coarse.reshape(-1, 3).float()),
        torch.linspace(1, 0, 7),
    ).reshape(coarse.shape[:2])
smeared = kernels.log_prob(globe.project(sheet.float())).reshape(lat.shape)

# %% tags=["hide-input"]
names = ["1000 airports", "samples of the flow", "density of the flow", "kernels"]
figure, axes = plotting.panels(names, rows=2, width=6.4)
for ax, x, color in [
    (axes[0], world[:1000], plotting.DATA),
    (axes[1], samples, plotting.MODEL),
]:
    ax.scatter(*on_map(x), s=1, color=color, linewidths=0)
for ax, log_p in [(axes[2], learned), (axes[3], smeared)]:
    shown = log_p.exp().clamp(max=2).sqrt().cpu()
    ax.imshow(shown, origin="lower", extent=(-180, 180, -90, 90), cmap="Blues")
for ax in axes:
    ax.set(xticks=[], yticks=[], xlim=(-180, 180), ylim=(-90, 90), aspect="equal")
plotting.show(
    figure,
    "airports",
    "Four maps of the world. Airports as points draw the continents. The samples of "
    "the flow show the same continents, with more strays in the oceans. The density "
    "of the flow is a smooth picture of them, that of the kernels a sharper one.",
)

# %% [markdown]
# *Figure 14.5.* Airports, samples of the flow, and two densities on one scale (square roots, cut at 2).
#
# ## Summary
#
# - Put the geodesic in the place of the line: $x_t=\exp_{x_0}(t\log_{x_0}x_1)$. The regression, its floor and the marginal field stay as they were.
# - Angles by sine and cosine together. The cut, where a shortest path is not the only one, has no volume; smooth data leave no kink there.
# - The loss is in the metric of the space, and sees the tangent part of the network only.
# - Project after each step of a solver: it stays, and its order too.
# - The divergence is that of the space: continue the field by its values at the nearest point, then differentiate.
# - For 7884 points on a globe, kernels are hard to beat.
#
# ## Questions
#
# 1. Let the noise in Check 14.6 be a von Mises–Fisher law around the north pole. Which formula changes?
# 2. In Check 14.11 leave out the projection inside `heun_on_the_globe`, and keep that at the end. Which order do you measure?
# 3. Train on longitude and latitude as if they were a plane. Where on the map do the samples go wrong?
# 4. Why does the density of rotations have $\sin^2(\theta/2)$ where that of the globe has $\sin r$?
# 5. How many airports would the kernels need to be worse than the flow? Train both with 500.
