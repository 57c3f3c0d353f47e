# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab: Flows
#
# A velocity field moves points, and a crowd of moving points is a moving density. You will check the theorems of the chapter by computing both sides of their formulas, then train a flow by maximum likelihood and see what that costs.
#
# After this lab you can
#
# - integrate a velocity field and say how far the result can be trusted,
# - test whether a field and a family of densities belong together,
# - compute the exact log-likelihood of a flow, and estimate its divergence with random probes,
# - train a continuous normalizing flow and a coupling flow, and compare them in nats,
# - count what a step of maximum likelihood costs beside a step of regression.

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
import time
from functools import partial

import torch
from torch import nn

# %%
from fmtutorial import plotting
from fmtutorial.distributions import Gaussian, GaussianMixture, two_moons
from fmtutorial.exact import ExactField
from fmtutorial.fields import expand_time
from fmtutorial.labs import default_device, record
from fmtutorial.likelihood import divergence, log_likelihood, rademacher_like, transport
from fmtutorial.losses import flow_matching_loss, uniform_times
from fmtutorial.metrics import relative_error
from fmtutorial.networks import MLP
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.solvers import euler, rk4, solve
from fmtutorial.training import train

# %%
device = default_device()
generator = torch.Generator(device).manual_seed(0)
torch.manual_seed(0)  # the networks' first weights
exactly = {"dtype": torch.float64, "device": device}  # for checks of formulas

# %% [markdown]
# ## A field moves points
#
# A velocity field $v_t(x)$ tells a point at $x$ at time $t$ how fast to move and where to. Following it from $x_0$ means solving
#
# $$\frac{dx_t}{dt}=v_t(x_t),\qquad t\in[0,1].$$
#
# For a linear field $v_t(x)=Ax$ the answer is known: $\varphi_t(x)=e^{tA}x$. Here are a spiral and a saddle, and a third field that depends on time only, $v_t(x)=5\,(\cos 2\pi t,\ \sin 2\pi t)+(1.5,0)$.

# %%
spiral = torch.tensor([[-0.5, -4.0], [4.0, -0.5]], **exactly)
saddle = torch.tensor([[1.2, 0.0], [0.0, -1.2]], **exactly)


def linear(matrix):
    """Return the field v_t(x) = A x."""
    return lambda x, t: x @ matrix.to(x).T


def wheel(x, t):
    """Return a velocity that depends on time only: a point on a rolling wheel."""
    angle = 2 * math.pi * expand_time(t, x)
    return torch.cat([1.5 + 5 * angle.cos(), 5 * angle.sin()], dim=1)


# %% tags=["hide-input"]
figure, axes = plotting.panels(["spiral", "saddle", "time only"], extent=3)
angle = torch.arange(12, device=device) * math.pi / 6
row = torch.linspace(-0.75, 0.75, 6, device=device)
starts = [
    2.5 * torch.stack([angle.cos(), angle.sin()], dim=1),
    torch.cat([torch.stack([row, 0 * row + y], dim=1) for y in (-2.7, 2.7)]),
    torch.stack([1.5 * row - 1.1, 0 * row - 0.8], dim=1),
]
fields = [linear(spiral), linear(saddle), wheel]
for ax, field, start in zip(axes, fields, starts, strict=True):
    plotting.draw_field(ax, field, 0.0, 3, resolution=13, color="#9ca3af")
    plotting.draw_trajectories(
        ax, solve(field, start, torch.linspace(0, 1, 101), rk4).states
    )
plotting.show(
    figure,
    "flows_fields",
    "Three panels of arrows with trajectories. In the spiral and the saddle no two "
    "trajectories touch. In the third all are copies of one loop, shifted sideways, "
    "and their curves cross.",
)

# %% [markdown]
# *Figure 1.1.* Grey dots are starts, orange dots are ends, arrows show the field at $t=0$. In the third panel the drawn curves do cross, yet no two points are ever at the same place at the same time: each is a shifted copy of the other. "Trajectories do not cross" is a statement about $(t,x)$, not about the curves in the plane.
#
# **Check 1.1** (flow of a linear field). The reference is the matrix exponential. One step of the fourth-order method errs by about $(h\lVert A\rVert)^5/120$, so 200 steps err by about $10^{-8}$; you ask for $10^{-7}$.

# %%
x0 = torch.randn(500, 2, generator=generator, **exactly)
times = torch.linspace(0, 1, 201, **exactly)
for name, matrix in {"spiral": spiral, "saddle": saddle}.items():
    forward = solve(linear(matrix), x0, times, rk4).last
    truth = x0 @ torch.matrix_exp(matrix).T
    back = solve(linear(matrix), forward, times.flip(0), rk4).last
    print(f"{name}: error < 1e-7:", bool((forward - truth).abs().max() < 1e-7))
    assert (forward - truth).abs().max() < 1e-7
    assert (back - x0).abs().max() < 1e-7  # a decreasing grid undoes the flow

# %%
coarse = solve(linear(spiral), x0, torch.linspace(0, 1, 801), euler).last
error = relative_error(coarse, x0 @ torch.matrix_exp(spiral).T)
print(f"Euler with as many evaluations on the spiral: relative error {error:.2f}")
assert error > 1e-3  # the test can fail: a cheaper solver is noticed

# %% [markdown]
# ## Why trajectories do not cross
#
# If $v_t$ is Lipschitz in $x$ with constant $L$, Grönwall's inequality holds two trajectories apart and together:
#
# $$e^{-Lt}\,\lVert x_0-y_0\rVert\le\lVert x_t-y_t\rVert\le e^{Lt}\,\lVert x_0-y_0\rVert .$$
#
# **Check 1.2** (stability and uniqueness). A field that bends in space and time, $v_t(x)=(\sin(2x_2+t),\ \cos(2x_1-t))$, has the Jacobian $\begin{pmatrix}0&2\cos(\cdot)\\-2\sin(\cdot)&0\end{pmatrix}$, whose norm is at most $L=2$. All 5000 pairs must obey both bounds. The field $v(x)=(2x_1,-2x_2)$ has the same $L$ and shows that the bounds cannot be improved: it attains both.


# %%
def bending(x, t):
    time = expand_time(t, x)
    return torch.cat([(2 * x[:, 1:] + time).sin(), (2 * x[:, :1] - time).cos()], dim=1)


def stretch(field, x, y):
    """Return how many times farther apart x and y are after unit time."""
    ends = [solve(field, start, times, rk4).last for start in (x, y)]
    return (ends[0] - ends[1]).norm(dim=1) / (x - y).norm(dim=1)


# %%
x0 = 3 * torch.randn(5000, 2, generator=generator, **exactly)
y0 = x0 + 0.1 * torch.randn(5000, 2, generator=generator, **exactly)
ratio = stretch(bending, x0, y0)
print(f"bounds {math.exp(-2):.2f} and {math.exp(2):.2f}")
print(f"bending field: between {ratio.min():.1f} and {ratio.max():.1f}")
assert math.exp(-2) < ratio.min() and ratio.max() < math.exp(2)

sharp = torch.diag(torch.tensor([2.0, -2.0], **exactly))
unit = torch.eye(2, **exactly)
ratio = stretch(linear(sharp), unit, 0 * unit)
print(f"stretching field: {ratio[1]:.2f} and {ratio[0]:.2f}")
# along its two axes the bounds hold with equality, up to the solver's error
assert (ratio - torch.tensor([math.exp(2), math.exp(-2)], **exactly)).abs().max() < 1e-5

# %% [markdown]
# **Check 1.3** (what goes wrong without Lipschitz). For $v(x)=3\,|x|^{2/3}$ the cubic $x_t=(t-c)^3$ and the resting solution $x_t=0$ both pass through $x=0$ at $t=c$. You insert both into the equation by finite differences. Then you let two points start $10^{-12}$ apart: for a Lipschitz field they would stay together.


# %%
def cusp(x, t):
    return 3 * x.abs().pow(2 / 3)


def misfit(curve, h=1e-5):
    """Return the largest |dx/dt - v(x)| along a curve, by central differences."""
    slope = (curve(times + h) - curve(times - h)) / (2 * h)
    return (slope - cusp(curve(times), times)).abs().max().item()


# %%
cubic, rest = misfit(lambda t: (t - 0.5) ** 3), misfit(lambda t: 0 * t)
print(
    "both curves through (t, x) = (0.5, 0) solve the equation:", max(cubic, rest) < 1e-8
)
assert max(cubic, rest) < 1e-8  # the difference quotient's own error is h^2 = 1e-10

near = torch.tensor([[0.0], [1e-12]], **exactly)
gap = solve(cusp, near, times, rk4).last.diff(dim=0).item()
print(f"two points start 1e-12 apart and end {gap:.1f} apart")
assert gap > 0.9  # x_t = (t + 1e-4)^3 ends at 1.0003; the point at 0 rests

# %% tags=["hide-input"]
figure, (left, right) = plotting.panels(
    ["Lipschitz: $x' = \\sin 3x + 1/2$", "not Lipschitz: $x' = 3|x|^{2/3}$"]
)
span = torch.linspace(0, 1, 201)
start = torch.linspace(-1.2, 1.0, 12)[:, None]
tame = solve(lambda x, t: (3 * x).sin() + 0.5, start, span, rk4).states[:, :, 0]
left.plot(span, tame, color=plotting.MODEL)
for c in (0.2, 0.35, 0.5, 0.65, 0.8):
    right.plot(span, (span - c) ** 3, color=plotting.DATA)
right.plot(span, 0 * span, color=plotting.TRUTH)
left.set(xlabel="t", ylabel="x")
right.set(xlabel="t", ylim=(-0.3, 0.3))
plotting.show(
    figure,
    "flows_crossing",
    "Left: twelve curves over time that bend towards each other and never touch. "
    "Right: five cubic curves that all touch the line x = 0, each at another time.",
)

# %% [markdown]
# *Figure 1.2.* Left: trajectories of a Lipschitz field come close and never meet. Right: a continuous field whose trajectories (orange) run into the resting solution $x_t=0$ (black). From a point on the black line the future is not determined.
#
# ## Moving a crowd: the continuity equation
#
# Draw $x_0\sim p_0$, let it flow, and call $p_t$ the density of $x_t$. Mass is neither made nor lost, so
#
# $$\partial_t p_t+\nabla\cdot(p_t\,v_t)=0 .$$
#
# For a Gaussian start and a linear field every $p_t$ is Gaussian, with covariance $e^{tA}e^{tA^{\top}}$.

# %% tags=["hide-input"]
shear = torch.tensor([[0.6, -2.2], [0.8, -1.0]], **exactly)
figure, axes = plotting.panels(["t = 0", "t = 0.5", "t = 1"], extent=5)
cloud = torch.randn(400, 2, generator=generator, **exactly)
states = solve(linear(shear), cloud, torch.linspace(0, 1, 21), rk4).states
for ax, t, x in zip(axes, (0.0, 0.5, 1.0), states[::10], strict=True):
    root = torch.matrix_exp(t * shear).cpu().float()
    density = Gaussian(torch.zeros(2), root @ root.T)
    plotting.draw_density(ax, density.log_prob, 5)
    ax.images[0].set_clim(0, 0.24)  # one scale for all three
    plotting.draw_samples(ax, x)
plotting.show(
    figure,
    "flows_cloud",
    "A round cloud of 400 points turns and is squeezed into an ellipse at later times; "
    "the shaded density follows it and grows darker.",
)

# %% [markdown]
# *Figure 1.3.* A cloud carried by a linear field whose divergence is $\operatorname{tr}A=-0.4$. The shading is the closed-form density. The cloud shrinks, so the density rises.
#
# For the checks you want densities that are not Gaussian. `ExactField` knows the field and the density of a mixture that grows out of noise (chapter 2 derives it; here it is a given pair $v_t$, $p_t$).
#
# **Check 1.4** (mass between trajectories, one dimension). No trajectory overtakes another, so the mass to the left of a moving point never changes: $F_t(\varphi_t(x))=F_0(x)$ with $F_t$ the distribution function. In closed form, $F_t(x)=\sum_k w_k\,\Phi\bigl((x-t\,m_k)/\sqrt{t^2\varsigma_k^2+(1-t)^2}\bigr)$ with the widths $\varsigma_k$ of the components and the normal distribution function $\Phi$. Fourth order with 200 steps leaves an error far below the tolerance of $10^{-5}$.

# %%
centres = torch.tensor([-2.0, 1.0, 2.5], **exactly)
widths = torch.tensor([0.5, 0.3, 0.4], **exactly)
shares = torch.tensor([0.5, 0.2, 0.3], **exactly)
line = ExactField(
    AffinePath(LINEAR), GaussianMixture(centres[:, None], widths**2, shares)
)


def mass_left_of(x, t):
    """Return F_t(x) for x of shape (B, 1)."""
    spread = (t**2 * widths**2 + (1 - t) ** 2).sqrt()
    return (shares * torch.special.ndtr((x - t * centres) / spread)).sum(dim=1)


# %%
levels = torch.linspace(0.02, 0.98, 25, **exactly)
paths = solve(line, torch.special.ndtri(levels)[:, None], times, rk4).states
kept = torch.stack([mass_left_of(x, t) for x, t in zip(paths, times, strict=True)])
print(
    "the mass left of each trajectory is constant to 1e-5:",
    bool((kept - levels).abs().max() < 1e-5),
)
assert (kept - levels).abs().max() < 1e-5

# %% tags=["hide-input"]
figure, (ax,) = plotting.panels(["density over time, with 25 trajectories"])
height = torch.linspace(-3.6, 3.6, 300, **exactly)
columns = [line.log_prob(height[:, None], t.expand(300)).exp() for t in times]
image = torch.stack(columns, dim=1).cpu()
ax.imshow(
    image,
    origin="lower",
    extent=(0, 1, -3.6, 3.6),
    aspect="auto",
    cmap="Blues",
    vmax=0.8,
)
ax.plot(times.cpu(), paths[:, :, 0].cpu(), color=plotting.DATA, linewidth=0.8)
ax.set(xlabel="t", ylabel="x")
plotting.show(
    figure,
    "flows_mass",
    "Heat map with time to the right: one broad band of density at t = 0 splits into "
    "three narrow ones at t = 1. Lines that start as quantiles of the normal follow "
    "the bands and do not cross.",
)

# %% [markdown]
# *Figure 1.4.* A normal density splits into three modes. The orange lines are trajectories. Between two neighbours lies the same mass at all times: where they crowd together the density is high, where they part it is low. That is the continuity equation in one dimension.
#
# **Check 1.5** (continuity equation). In two dimensions, with three components of different shape. You compute $\partial_t p_t$ and $\nabla\cdot(p_tv_t)$ by central differences and compare their sum with the size of $\partial_t p_t$. The differences err by $h^2=10^{-6}$ times third derivatives, here about $2\cdot10^{-5}$; the tolerance is $10^{-4}$.

# %%
means = torch.tensor([[-1.5, 0.5], [1.0, 1.5], [0.5, -1.5]], **exactly)
factors = torch.tensor(
    [[[0.6, 0.0], [0.3, 0.3]], [[0.4, 0.0], [0.0, 0.4]], [[0.8, 0.0], [-0.4, 0.3]]],
    **exactly,
)
weights = torch.tensor([0.5, 0.3, 0.2], **exactly)
pair = ExactField(
    AffinePath(LINEAR), GaussianMixture(means, factors @ factors.mT, weights)
)


# %%
def p(x, t):
    """Return the density of the exact pair."""
    return pair.log_prob(x, t).exp()


def continuity_terms(field, x, t, h=1e-3):
    """Return dp/dt and div(p v) by central differences."""
    rate = (p(x, t + h) - p(x, t - h)) / (2 * h)
    outflow = torch.zeros_like(rate)
    for i, e in enumerate(h * torch.eye(2, **exactly)):
        flux = [p(x + s * e, t) * field(x + s * e, t)[:, i] for s in (1, -1)]
        outflow += (flux[0] - flux[1]) / (2 * h)
    return rate, outflow


# %%
def residual(field):
    rate, outflow = continuity_terms(field, at_x, at_t)
    return relative_error(-outflow, rate)


at_t = 0.05 + 0.9 * torch.rand(4000, generator=generator, **exactly)
at_noise = torch.randn(4000, 2, generator=generator, **exactly)
at_x = pair.path.sample(at_noise, pair.target.sample(4000, generator), at_t).x_t
wrong = residual(lambda x, t: -pair(x, t))
print("exact field: residual < 1e-4:", residual(pair) < 1e-4)
print(f"field with the wrong sign: {wrong:.2f}")
assert residual(pair) < 1e-4
assert abs(wrong - 2) < 1e-3  # the terms add up instead of cancelling
record("wrong_sign", round(wrong, 2))

# %% [markdown]
# **Check 1.6** (weak form). For a smooth function $f$ that vanishes far out, $\frac{d}{dt}\int f\,p_t\,dx=\int\nabla f\cdot v_t\,p_t\,dx$. No derivative of $p_t$ is needed. Here $f$ only decays, but $f\,p_t$ at the edge of the grid is negligible. Both integrals are sums over a grid, which are very accurate for smooth functions that decay. The central difference in time errs by a multiple of $h^2=10^{-6}$; the tolerance is $10^{-4}$.

# %%
side = torch.linspace(-6, 6, 241, **exactly)
grid, cell = torch.cartesian_prod(side, side).requires_grad_(), (side[1] - side[0]) ** 2
f = torch.sin(grid[:, 0] + 0.5) * torch.exp(-(grid**2).sum(dim=1) / 8)
(slope,) = torch.autograd.grad(f.sum(), grid)
grid, f = grid.detach(), f.detach()


def average(values, t):
    return (values * p(grid, t.expand(len(grid)))).sum() * cell


# %%
for t in torch.tensor([0.2, 0.5, 0.8], **exactly):
    left = (average(f, t + 1e-3) - average(f, t - 1e-3)) / 2e-3
    right = average((slope * pair(grid, t.expand(len(grid)))).sum(dim=1), t)
    print(f"t = {t:.1f}: {left:.4f} and {right:.4f}")
    assert abs(left - right) < 1e-4

# %% [markdown]
# **Check 1.7** (many fields, one path of densities). Add $R\,\nabla\log p_t(x)$ to the field, with $R$ a rotation by a right angle. The current $p_tR\nabla\log p_t=R\nabla p_t$ has no divergence, so the continuity equation holds as before, and by the converse of the theorem the densities stay the same. The trajectories are other ones.

# %%
turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], **exactly)


def swirling(x, t):
    return pair(x, t) + pair.score(x, t) @ turn.T


change = relative_error(swirling(at_x, at_t), pair(at_x, at_t))
print("residual < 1e-4:", residual(swirling) < 1e-4)
print(f"relative change of the field: {change:.1f}")
assert residual(swirling) < 1e-4 and change > 0.5

# %% [markdown]
# ## The log-density along a trajectory
#
# Two statements, one behind the other. The determinant of the flow map grows at the rate of the divergence (Liouville), and so the log-density falls at that rate:
#
# $$\frac{d}{dt}\log\det D\varphi_t(x)=(\nabla\cdot v_t)(\varphi_t(x)),\qquad \frac{d}{dt}\log p_t(x_t)=-(\nabla\cdot v_t)(x_t).$$
#
# **Check 1.8** (Liouville's formula). Brute force: differentiate the solver's output with respect to its input and take the determinant. Against it the integral of the divergence along the way.

# %%
start = torch.randn(300, 2, generator=generator, **exactly).requires_grad_()
end = solve(pair, start, times, rk4).last
rows = [
    torch.autograd.grad(end[:, i].sum(), start, retain_graph=True)[0] for i in range(2)
]
brute_force = torch.linalg.slogdet(torch.stack(rows, dim=1))
with torch.no_grad():
    integral = -transport(pair, start.detach(), torch.zeros(300, **exactly), times)[1]
difference = (brute_force.logabsdet - integral).abs().max()
print("log-determinant and integral agree to 1e-4:", bool(difference < 1e-4))
assert difference < 1e-4  # two discretisations of one integral, each of fourth order
assert (brute_force.sign == 1).all()  # a flow never turns space inside out

# %% [markdown]
# **Check 1.9** (instantaneous change of variables). From $\mathcal N(0,I)$ to $\mathcal N(m,\Sigma)$, where the log-density is a formula you can look up; `torch.distributions` has it. Once forward: draw noise, carry it and its log-density to $t=1$ with `transport`. Once backward: take data, run it to noise with `log_likelihood`. 50 steps of the fourth-order method leave an error of about $3\cdot10^{-8}$; both must be right to $10^{-6}$ nats at every point.

# %%
factor = torch.tensor([[1.5, 0.0], [-0.8, 0.4]], **exactly)
goal = torch.distributions.MultivariateNormal(
    torch.tensor([2.0, -1.0], **exactly), scale_tril=factor
)
normal = Gaussian(goal.mean, goal.covariance_matrix)
field = ExactField(AffinePath(LINEAR), normal)
base = Gaussian(torch.zeros(2, **exactly))
fifty_steps = torch.linspace(0, 1, 51, **exactly)

# %%
noise = base.sample(1000, generator)
data, log_prob = transport(field, noise, base.log_prob(noise), fifty_steps)
forward = (log_prob - goal.log_prob(data)).abs().max()

fresh = normal.sample(1000, generator)
log_prob = log_likelihood(field, fresh, base, fifty_steps.flip(0))
backward = (log_prob - goal.log_prob(fresh)).abs().max()
right = bool(max(forward, backward) < 1e-6)
print("both ways agree with the closed form to 1e-6 nats:", right)
assert forward < 1e-6 and backward < 1e-6

# %%
# the test can fail: with the sign of the divergence turned round the answer is far off
noise, gained = transport(
    field, fresh, torch.zeros(1000, **exactly), fifty_steps.flip(0)
)
wrong = (base.log_prob(noise) + gained - goal.log_prob(fresh)).abs().mean()
print(f"with + in place of -: off by {wrong:.2f} nats on average")
assert wrong > 0.5
record("sign_damage", round(wrong.item(), 2))

# %% [markdown]
# The idea without a library: Euler's method, and a divergence by one backward pass for each coordinate. It takes the same steps as the package does with `euler`, so the two must agree to rounding. Beside the closed form both err in proportion to the step, with 200 steps by about a hundredth of a nat.


# %% tags=["quote-likelihood"]
def euler_log_prob(v, x, steps=200):
    """Return log p_1(x): run x back to noise and add up the divergence."""
    h, added = 1 / steps, torch.zeros_like(x[:, 0])
    for k in range(steps, 0, -1):
        x = x.detach().requires_grad_()
        velocity = v(x, torch.full_like(added, k * h))
        for i in range(x.shape[1]):  # the diagonal of the Jacobian
            (row,) = torch.autograd.grad(velocity[:, i].sum(), x, retain_graph=True)
            added += h * row[:, i]
        x = x - h * velocity  # backwards in time
    d = x.shape[1]
    log_normal = -x.square().sum(dim=1) / 2 - d / 2 * math.log(2 * math.pi)
    return (log_normal - added).detach()


# %%
grid = torch.linspace(1, 0, 201, **exactly)
by_hand = euler_log_prob(field, fresh)
package = log_likelihood(field, fresh, base, grid, step=euler)
off = (by_hand - goal.log_prob(fresh)).abs().mean().item()
print("by hand as the package:", bool((by_hand - package).abs().max() < 1e-9))
print(f"off the closed form by {off:.2f} nats on average")
assert (by_hand - package).abs().max() < 1e-9  # rounding of 200 steps
assert off < 0.1

# %% [markdown]
# ## The divergence, exact and estimated
#
# Exactly, $\nabla\cdot v=\operatorname{tr}J$ costs one backward pass for each dimension. Hutchinson's estimate $\varepsilon^{\top}J\varepsilon$ costs one in all. It has the right mean for any probe with mean 0 and covariance $I$, and the variance
#
# $$\tfrac12\sum_{i\ne j}(J_{ij}+J_{ji})^2\ \text{ for entries }\pm1,\qquad 2\,\lVert\operatorname{sym}J\rVert_F^2\ \text{ for Gaussian entries}$$
#
# with $\operatorname{sym}J=\tfrac12(J+J^{\top})$.
#
# **Check 1.10** (bias and variance). A random network in 16 dimensions with a gentle pull to the middle, $-x/20$, as flows that gather data have. At one point, you draw 100,000 probes of each kind. The Jacobian that enters the formulas comes from `torch.autograd.functional.jacobian`. Means must agree within three standard errors, variances within 3 %: the relative standard error of a variance from $n$ draws is about $\sqrt{2/n}=0.4\,\%$, and a few times that for heavier tails.

# %%
n, d = 100_000, 16
network = MLP((d,), width=64, depth=2).to(device).double()


def pulled(x, t):
    """Return a random velocity and a gentle pull to the middle."""
    return network(x, t) - x / 20


# %%
point = torch.randn(1, d, generator=generator, **exactly)
now = torch.full((1,), 0.5, **exactly)
J = torch.autograd.functional.jacobian(lambda x: pulled(x, now)[0], point)[:, 0]
symmetric = (J + J.T) / 2
off_diagonal = J + J.T - 2 * J.diag().diag()
formula = {
    "Rademacher": 0.5 * off_diagonal.square().sum(),
    "Gaussian": 2 * symmetric.square().sum(),
}
probes = {
    "Rademacher": rademacher_like(point.expand(n, d), generator),
    "Gaussian": torch.randn(n, d, generator=generator, **exactly),
}

# %%
estimates = {}
with torch.no_grad():
    exact = divergence(pulled, point, now)
    for name, probe in probes.items():
        many = point.expand(n, d), now.expand(n)
        value = estimates[name] = divergence(
            pulled, *many, method="hutchinson", probe=probe
        )
        z = (value.mean() - J.trace()) / (value.std() / math.sqrt(n))
        ratio = value.var() / formula[name]
        print(
            f"{name}: |z| < 3: {bool(z.abs() < 3)}, variance within 3 %:",
            bool(abs(ratio - 1) < 0.03),
        )
        assert z.abs() < 3 and abs(ratio - 1) < 0.03

# %%
assert (exact - J.trace()).abs() < 1e-10
# on the field -x, whose Jacobian is diagonal, a Rademacher probe makes no error at all
shrink = divergence(
    lambda x, t: -x, *many, method="hutchinson", probe=probes["Rademacher"]
)
assert (shrink == -d).all()
saving = (formula["Gaussian"] / formula["Rademacher"]).item()
bare = symmetric + torch.eye(d, **exactly) / 20  # without the pull
bare_saving = (2 * bare.square().sum() / formula["Rademacher"]).item()
print(f"variance of Gaussian over Rademacher probes: {saving:.1f}")
print(f"and without the pull: {bare_saving:.1f}")
record("probe_ratio", round(saving, 1))
record("bare_ratio", round(bare_saving, 1))

# %% tags=["hide-input"]
figure, (ax,) = plotting.panels(["100,000 estimates of one divergence"])
for (name, value), color in zip(
    estimates.items(), (plotting.MODEL, plotting.DATA), strict=True
):
    ax.hist(
        value.cpu(), bins=100, density=True, histtype="step", color=color, label=name
    )
ax.axvline(J.trace().item(), color=plotting.TRUTH, label="exact trace")
spread = 4 * formula["Gaussian"].sqrt().item()
ax.set(
    xlim=(J.trace().item() - spread, J.trace().item() + spread),
    yticks=[],
    xlabel="estimate",
)
ax.legend(frameon=False)
plotting.show(
    figure,
    "flows_hutchinson",
    "Two histograms whose mean is the exact trace; the one of Rademacher probes is "
    "about half as wide as that of Gaussian probes.",
)

# %% [markdown]
# *Figure 1.5.* Both kinds of probe are right on average. Rademacher probes spread less, because $\varepsilon_i^2=1$ leaves no noise on the diagonal of $J$.
#
# ## Maximum likelihood on two moons
#
# Now the field is a network. Its log-likelihood is differentiable, so you can maximise it. Each step draws 256 points, runs them back to noise through 6 Runge-Kutta steps with the divergence alongside, and differentiates the whole computation.
#
# The moons have no density written down, but a very good one can be made: put 300 narrow Gaussians along each arc. It tells you the best average any model can reach.

# %%
moons = two_moons()
angle = (torch.arange(300, device=device) + 0.5) * math.pi / 300
upper = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], dim=1)
# the lower moon is the upper one turned by 180 degrees
arcs = 2 * torch.cat([upper, -upper])
moons_density = GaussianMixture(arcs, torch.full((600,), 0.1**2, device=device))
test_set = moons.sample(4000, generator)
base = Gaussian(torch.zeros(2, device=device))


def decreasing(steps):
    return torch.linspace(1, 0, steps + 1, device=device)


# %%
cnf = MLP(width=64, depth=3, frequencies=2).to(device)


def cnf_log_prob(x, steps, **estimate):
    """Return log p_1(x) of the network's flow; x comes from any device."""
    return log_likelihood(cnf, x.to(device), base, decreasing(steps), **estimate)


def negative_log_likelihood():
    x1 = moons.sample(256, generator)
    return -cnf_log_prob(x1, steps=6).mean()


history = train(cnf, negative_log_likelihood, steps=250, learning_rate=1e-2)
curve = [step.loss for step in history]


# %% [markdown]
# **Check 1.11** (a density integrates to one). Sum $e^{\log p_1(x)}$ over the cells of a grid that holds all the mass. Three things err: the solver, the sum over cells, and what lies outside the grid. The last two do not depend on the number of solver steps, so you look at several grids of time. Too coarse a grid of time gives a "density" whose total mass is not one, and its log-likelihood means nothing. With 20 steps the mass must be 1 within 1 %, and the average on the test set must lie below that of the true density.

# %%
middles = (torch.arange(120, device=device) + 0.5) / 120 * 8 - 4
plane, area = torch.cartesian_prod(middles, middles), (8 / 120) ** 2


@torch.no_grad()
def mass_and_nats(log_prob):
    """Return the integral over [-4, 4]^2 and the average on the test set."""
    return (log_prob(plane).exp().sum() * area).item(), log_prob(test_set).mean().item()


best_mass, best = mass_and_nats(moons_density.log_prob)
print(f"true density: mass {best_mass:.3f}, {best:.2f} nats on the test set")
assert abs(best_mass - 1) < 1e-3  # the arcs and their noise fit on the grid
record("best_nats", round(best, 2))

# %% tags=["nbval-ignore-output"]
for steps in (2, 3, 6, 20):
    mass, nats = mass_and_nats(partial(cnf_log_prob, steps=steps))
    print(f"{steps:2d} steps: mass {mass:.4f}, {nats:.3f} nats")
    record(f"cnf_mass_{steps}", round(mass, 3))
    record(f"cnf_nats_{steps}", round(nats, 2))
assert abs(mass - 1) < 0.01 and nats < best
assert nats > best - 0.3  # it did learn: the untrained network is near -3.8
cnf_nats = nats

# %% [markdown]
# A network that is trained with two solver steps learns to use their error. Its numbers look better than the truth allows, until you integrate its "density" or solve it with more steps.

# %% tags=["nbval-ignore-output"]
cheat = MLP(width=64, depth=3, frequencies=2).to(device)


def cheat_log_prob(x, steps):
    return log_likelihood(cheat, x.to(device), base, decreasing(steps))


def cheat_loss():
    return -cheat_log_prob(moons.sample(256, generator), steps=2).mean()


for _ in train(cheat, cheat_loss, steps=250, learning_rate=1e-2):
    pass

# %% tags=["nbval-ignore-output"]
for steps in (2, 40):
    mass, nats = mass_and_nats(partial(cheat_log_prob, steps=steps))
    print(
        f"trained with 2 steps, solved with {steps}: mass {mass:.1f}, {nats:.1f} nats"
    )
    record(f"cheat_mass_{steps}", round(mass))
    record(f"cheat_nats_{steps}", round(nats, 1))
    # above the truth with two steps, far below it with forty
    assert (nats > best + 1) if steps == 2 else (nats < best - 1)

# %% tags=["nbval-ignore-output"]
hutchinson = partial(
    cnf_log_prob, steps=20, method="hutchinson", probe=rademacher_like(plane, generator)
)
with torch.no_grad():
    noisy_mass = (hutchinson(plane).exp().sum() * area).item()
print(f"with one probe for each point the mass is {noisy_mass:.0f}")
record("hutchinson_mass", round(noisy_mass))
assert noisy_mass > 1.2  # e to the power of an unbiased estimate is biased upwards

# %% tags=["hide-input"]
titles = ["negative log-likelihood", "density of the CNF", "samples of the CNF"]
figure, (left, middle, right) = plotting.panels(titles, extent=4)
left.set(
    aspect="auto",
    xlim=(0, len(curve)),
    ylim=(1.2, 4.5),
    xticks=[0, 100, 200],
    yticks=[2, 3, 4],
)
left.plot(curve, color=plotting.MODEL, linewidth=0.8)
left.axhline(-best, color=plotting.DATA)
left.text(100, -best - 0.32, "best possible", color=plotting.DATA, fontsize=8)
left.set(xlabel="step")
plotting.draw_density(middle, partial(cnf_log_prob, steps=10), 4)
with torch.no_grad():
    noise = base.sample(2000, generator)
    drawn = solve(cnf, noise, decreasing(20).flip(0), rk4)
plotting.draw_samples(right, drawn.last)
plotting.show(
    figure,
    "flows_cnf",
    "Left: the negative log-likelihood falls from about 3.9 towards the best possible "
    "value. Middle and right: density and samples form two moons joined by faint "
    "threads.",
)

# %% [markdown]
# *Figure 1.6.* A continuous normalizing flow trained by maximum likelihood. Faint threads join the moons: this field is not steep enough to separate them.
#
# **Check 1.12** (what a step costs). Count the evaluations of the network and the gradients that pass back through its output, for a step of maximum likelihood and for a step of regression on velocities (chapter 3) with the same network and batch. With 6 steps of four stages each, $24$ evaluations, each with two backward passes for the divergence and one more for the training: $72$ gradients. The regression needs one and one. The arithmetic is counted by PyTorch itself.

# %%
count = {"evaluations": 0, "gradients": 0}


def counted(x, t):
    v = cnf(x, t)
    count["evaluations"] += 1
    v.register_hook(lambda gradient: count.update(gradients=count["gradients"] + 1))
    return v


# %%
def likelihood_loss(field):
    return -log_likelihood(
        field, moons.sample(256, generator), base, decreasing(6)
    ).mean()


def regression_loss(field):
    x1, t = moons.sample(256, generator), uniform_times(256, generator)
    return flow_matching_loss(
        field, AffinePath(LINEAR), base.sample(256, generator), x1, t
    )


# %% [markdown]
# PyTorch has a rule for the number of operations of each matrix product. The class below applies it to every product that runs, in the backward passes too.

# %%
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Arithmetic(TorchDispatchMode):
    """Add up the floating-point operations of all matrix products run inside."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if rule := flop_registry.get(function._overloadpacket):
            self.total += rule(*args, **(kwargs or {}), out_val=result)
        return result


# %%
def arithmetic_of(loss):
    """Return the operations of one step, forward and backward."""
    with Arithmetic() as counter:
        loss().backward()
    return counter.total


# %%
cost, losses = {}, {"likelihood": likelihood_loss, "regression": regression_loss}
for name, loss in losses.items():
    count.update(evaluations=0, gradients=0)
    cost[name] = arithmetic_of(lambda loss=loss: loss(counted))
    print(f"{name}: {count['evaluations']} evaluations, {count['gradients']} gradients")
    for what, number in count.items():
        record(f"{name}_{what}", number)
    assert tuple(count.values()) == ((24, 72) if name == "likelihood" else (1, 1))

arithmetic = cost["likelihood"] / cost["regression"]
print(f"arithmetic of a likelihood step / regression step: {arithmetic:.0f}")
record("arithmetic_ratio", round(arithmetic))
assert arithmetic > 20

# %% [markdown]
# ## A flow in steps: coupling layers
#
# A discrete normalizing flow builds the map from layers. A small Euler step $x+h\,v(x)$ is one such layer, with $\log\det(I+hJ)=h\operatorname{tr}J+O(h^2)$: many small layers make a continuous flow.
#
# **Check 1.13** (one small step). With $J$ the $16\times16$ Jacobian of Check 1.10: halving $h$ must divide the error of $h\operatorname{tr}J$ by four, up to the next term of the expansion.

# %%
small = torch.tensor([0.1, 0.05, 0.025], **exactly)
layers = torch.eye(d, **exactly) + small[:, None, None] * J
error = (torch.linalg.slogdet(layers).logabsdet - small * J.trace()).abs()
ratios = error[:-1] / error[1:]
print("halving the step divides the error by", [f"{ratio:.1f}" for ratio in ratios])
assert (ratios - 4).abs().max() < 0.2

# %% [markdown]
# A layer can also take a large step, if its inverse and determinant are cheap by construction. A coupling layer keeps one coordinate and moves the other by a scale and a shift that a network computes from the kept one. Its Jacobian is triangular, so the log-determinant is the log-scale. There is no ODE and no divergence.


# %%
class Coupling(nn.Module):
    """Move one coordinate of the plane by what a network reads from the other."""

    def __init__(self, kept, width=64):
        super().__init__()
        self.register_buffer("moves", (torch.arange(2) != kept).float())
        hidden = nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        self.body = nn.Sequential(*hidden, nn.Linear(width, 4))

    def forward(self, x):
        """Return the log-scales and shifts, both 0 for the coordinate that is kept."""
        log_scale, shift = self.body(x * (1 - self.moves)).chunk(2, dim=1)
        return 2 * torch.tanh(log_scale / 2) * self.moves, shift * self.moves


# %%
def to_noise(layers, x):
    """Return z and log |det dz/dx|."""
    log_det = 0
    for layer in layers:
        log_scale, shift = layer(x)
        x, log_det = x * log_scale.exp() + shift, log_det + log_scale.sum(dim=1)
    return x, log_det


# %%
def to_data(layers, z):
    for layer in reversed(layers):
        # it reads the kept coordinate, which is the same on both sides
        log_scale, shift = layer(z)
        z = (z - shift) * (-log_scale).exp()
    return z


# %%
coupling = nn.ModuleList([Coupling(kept=i % 2) for i in range(8)]).to(device)


def coupling_log_prob(x):
    z, log_det = to_noise(coupling, x.to(device))
    return base.log_prob(z) + log_det


def coupling_loss():
    return -coupling_log_prob(moons.sample(256, generator)).mean()


for _ in train(coupling, coupling_loss, steps=1000, learning_rate=5e-3):
    pass

# %% [markdown]
# **Check 1.14** (a coupling flow). Three things: sampling and then evaluating closes the circle, the claimed log-determinant is the one of the Jacobian that autograd finds, and the density integrates to one. The first two tolerances are those of single precision: each coordinate is scaled in four layers, by at most $e^2$ each, so that rounding of $6\cdot10^{-8}$ may grow by up to $e^8\approx3000$.

# %%
z = base.sample(1000, generator)
x = to_data(coupling, z).detach().requires_grad_()
image, log_det = to_noise(coupling, x)
rows = [
    torch.autograd.grad(image[:, i].sum(), x, retain_graph=True)[0] for i in range(2)
]
brute_force = torch.linalg.slogdet(torch.stack(rows, dim=1)).logabsdet
print("round trip to 1e-3:", bool((image - z).abs().max() < 1e-3))
print("log-determinant to 1e-3:", bool((brute_force - log_det).abs().max() < 1e-3))
assert (image - z).abs().max() < 1e-3
assert (brute_force - log_det).abs().max() < 1e-3

mass, coupling_nats = mass_and_nats(coupling_log_prob)
print("mass is 1 within 1 %:", abs(mass - 1) < 0.01)
assert abs(mass - 1) < 0.01

# %% [markdown]
# Now the same yardstick for all: nats on the test set, and how much computing each took. As a third model take the network of the section before with new weights, trained by regression. How that works is the subject of the next two chapters; here only its price and its likelihood matter.

# %%
regressed = MLP(width=64, depth=3, frequencies=2).to(device)
for _ in train(
    regressed, lambda: regression_loss(regressed), steps=3000, learning_rate=5e-3
):
    pass


# %%
def milliseconds(loss, repeats=20):
    """Return the processor time of the fastest of several steps."""
    taken = []
    for _ in range(repeats):
        begin = time.process_time()
        loss().backward()
        taken.append(time.process_time() - begin)
    return 1e3 * min(taken)


def regressed_log_prob(x, steps=20):
    return log_likelihood(regressed, x.to(device), base, decreasing(steps))


# %%
mass, regressed_nats = mass_and_nats(regressed_log_prob)
assert abs(mass - 1) < 0.01
models = {
    "cnf": (cnf_nats, 250, lambda: likelihood_loss(cnf)),
    "coupling": (coupling_nats, 1000, coupling_loss),
    "regressed": (regressed_nats, 3000, lambda: regression_loss(regressed)),
}

# %% tags=["nbval-ignore-output"]
clock = {}
for name, (nats, steps, loss) in models.items():
    total = steps * arithmetic_of(loss) / 1e9
    clock[name] = milliseconds(loss)
    print(f"{name:9s} {nats:.2f} nats after {steps} steps")
    print(f"{total:18.0f} GFLOP, {clock[name]:.1f} ms a step")
    for what, value in {"nats": nats, "gap": best - nats}.items():
        record(f"{name}_{what}", round(value, 2))
    record(f"{name}_gflop", round(total))
    record(f"{name}_milliseconds", round(clock[name], 1))
    assert best - 0.3 < nats < best
record("wall_ratio", round(clock["cnf"] / clock["regressed"], -1))
# a loose bound; the ratio depends on the machine
assert clock["cnf"] > 5 * clock["regressed"]

# %% tags=["hide-input"]
names = ["data", "CNF, likelihood", "coupling flow", "CNF, regression"]
figure, axes = plotting.panels(names, extent=3.6)
densities = [
    lambda x: moons_density.log_prob(x),
    partial(cnf_log_prob, steps=10),
    coupling_log_prob,
    partial(regressed_log_prob, steps=10),
]
for ax, density in zip(axes, densities, strict=True):
    plotting.draw_density(ax, density, 3.6)
    ax.images[0].set_clim(0, 0.45)  # one scale for all four
plotting.show(
    figure,
    "flows_models",
    "Four densities of two moons side by side. All have the two arcs; the three models "
    "also show faint threads between the arcs or at their tips, which the data do not "
    "have.",
)

# %% [markdown]
# *Figure 1.7.* The density of the data and of three flows, on one scale. All three models leave a thread of mass between the moons. A steeper field would leave less.
#
# ## Are flows always deterministic?
#
# The trajectories of an ODE are. The family of densities $p_t$ does not ask for it: for any $\lambda\ge0$ the noisy motion
#
# $$dx_t=\bigl[v_t(x_t)+\lambda\,\nabla\log p_t(x_t)\bigr]dt+\sqrt{2\lambda}\,dW_t$$
#
# has the same $p_t$ at every time. **Check 1.15** (same densities, other journeys): 20,000 points in one dimension with $\lambda=1$. You compare the distribution at five times with the closed form by the Kolmogorov-Smirnov distance, the largest gap between two distribution functions. For 20,000 draws from the right distribution it stays below $1.95/\sqrt{20000}=0.014$ in 999 of 1000 trials; the tolerance of 0.02 leaves room for 250 steps of finite size. And you ask how much of the order of the points survives, by the rank correlation of start and end.


# %%
def wander(x, score_weight, strength=1.0, steps=250):
    """Return noisy trajectories by small steps; chapter 7 says more of this method."""
    h, way = 1 / steps, [x]
    for k in range(steps):
        t = torch.full((len(x),), k * h, **exactly)
        drift = line(x, t) + score_weight * line.score(x, t)
        noise = torch.randn(x.shape, generator=generator, **exactly)
        x = x + h * drift + math.sqrt(2 * strength * h) * noise
        way.append(x)
    return torch.stack(way)


# %%
def distance_to_truth(way):
    """Return the largest Kolmogorov-Smirnov distance to p_t at five times."""
    n, worst = way.shape[1], 0.0
    found = (torch.arange(n, device=device) + 0.5) / n
    fifths = way[len(way) // 5 :: len(way) // 5]
    for t, x in zip((0.2, 0.4, 0.6, 0.8, 1.0), fifths, strict=True):
        exact = mass_left_of(x.sort(dim=0).values, torch.tensor(t, **exactly))
        worst = max(worst, (exact - found).abs().max().item())
    return worst


def rank_correlation(x, y):
    ranks = torch.cat([v.argsort(dim=0).argsort(dim=0) for v in (x, y)], dim=1)
    return torch.corrcoef(ranks.T.double())[0, 1].item()


# %%
start = torch.randn(20_000, 1, generator=generator, **exactly)
smooth = solve(line, start, torch.linspace(0, 1, 51), rk4).states
walks = wander(start, score_weight=1.0)
rank = {}
for name, way in {"ODE": smooth, "SDE": walks}.items():
    distance, rank[name] = distance_to_truth(way), rank_correlation(start, way[-1])
    print(f"{name} has the right distribution at all five times:", distance < 0.02)
    print(f"{name} rank correlation of start and end: {rank[name]:.1f}")
    assert distance < 0.02
assert rank["ODE"] > 0.9999 and rank["SDE"] < 0.9
record("sde_rank", round(rank["SDE"], 1))

# %%
forgot = distance_to_truth(wander(start, score_weight=0.0))
print(f"noise without the score term: distance {forgot:.1f}")
assert forgot > 0.05  # the test can fail

# %% tags=["hide-input"]
figure, axes = plotting.panels(["the ODE", "an SDE", "at t = 1"])
figure.set_figheight(2.4)
for ax, way in zip(axes, (smooth, walks), strict=False):
    axis = torch.linspace(0, 1, len(way))
    ax.plot(axis, way[:, :40, 0].cpu(), color=plotting.MODEL, linewidth=0.5, alpha=0.6)
    ax.set(xlabel="t", ylim=(-4.5, 4.5))
style = {"bins": 80, "density": True, "histtype": "step"}
runs = ((smooth, plotting.MODEL, "ODE"), (walks, plotting.DATA, "SDE"))
for way, color, name in runs:
    axes[2].hist(way[-1, :, 0].cpu(), color=color, label=name, **style)
height = torch.linspace(-4.5, 4.5, 400, **exactly)
truth = line.log_prob(height[:, None], torch.ones_like(height)).exp()
axes[2].plot(
    height.cpu(), truth.cpu(), color=plotting.TRUTH, linewidth=0.8, label="exact"
)
axes[2].set(xlabel="x", yticks=[], ylim=(0, 0.75))
axes[2].legend(frameon=False, fontsize=7, loc="upper right")
plotting.show(
    figure,
    "flows_sde",
    "Left: smooth trajectories that fan out into three bundles without crossing. "
    "Middle: jagged paths that cross all the time and end in the same bundles. Right: "
    "equal histograms.",
)

# %% [markdown]
# *Figure 1.8.* Forty trajectories of the ODE and of the SDE, and the histograms of all 20,000 ends. The two crowds have the same distribution at every time. The journeys differ.
#
# ## Summary
#
# - A Lipschitz field has one trajectory through each point of time and space. Going back along it undoes the flow.
# - A field belongs to a family of densities if the continuity equation holds. Many fields belong to the same family.
# - Along a trajectory the log-density falls at the rate of the divergence. This gives exact likelihoods in both directions.
# - Hutchinson's estimate replaces $d$ backward passes by one. It is unbiased for the log-density, not for the density.
# - Maximum likelihood has to solve and differentiate an ODE at each step. A regression step does not.
#
# ## Questions
#
# 1. In Figure 1.1, third panel: what is the divergence, and what happens to the density of a cloud?
# 2. Which of the checks 1.4 to 1.9 would notice that the field is multiplied by a rotation about the origin?
# 3. A model trained with two solver steps reports a log-likelihood above that of the true density. What would you compute before you believe it?
# 4. Write down a smooth field whose flow has no visible thread between the moons. (Hint: `ExactField`.)
