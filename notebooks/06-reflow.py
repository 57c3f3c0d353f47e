# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab: ReFlow
#
# You make pairs with a model, train on them, and get a flow that is nearly straight: one Euler step does most of the work of a hundred. You check what this changes (the pairs) and what it must not change (the marginals). At the end you train a one-step sampler without any teacher.
#
# After this lab you can
#
# - rectify a coupling, and test that the marginals stay and the transport costs fall,
# - measure straightness, and say what floor the training error puts under it,
# - generate in one step after ReFlow or distillation, and tell the two apart,
# - read a table of rounds, seeds and budgets,
# - train a mean velocity with a Jacobian-vector product, and test its identity.

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

from fmtutorial import distributions, plotting
from fmtutorial.exact import ExactField
from fmtutorial.labs import record, stored_results, use_default_device
from fmtutorial.losses import flow_matching_loss, uniform_times
from fmtutorial.metrics import fresh_ratio
from fmtutorial.networks import MLP, MeanFlowMLP
from fmtutorial.paths import LINEAR, AffinePath, PathSample

# PyTorch warns of its own use of torch.jit when torch.func.jvp is first called
warnings.filterwarnings("ignore", category=FutureWarning)

# %%
from fmtutorial.reflow import (
    distillation_loss,
    mean_flow_loss,
    model_pairs,
    straightness,
)
from fmtutorial.solvers import euler, heun, rk4, solve
from fmtutorial.training import EMA, train

# %%
device = use_default_device()
generator = torch.Generator(device).manual_seed(0)
torch.manual_seed(0)  # the networks' first weights

ring = distributions.ring_of_gaussians()
path = AffinePath(LINEAR)
exact = ExactField(path, ring)

# %% [markdown]
# ## Lines cross, solutions do not
#
# Twelve points of noise on a line, twelve partners drawn independently from two narrow clumps. The straight lines between partners cross. The exact field answers with the mean velocity of all lines through a place, and its solutions bend.

# %%
clumps = distributions.GaussianMixture(
    torch.tensor([[-2.0], [2.0]]), torch.full((2,), 0.04)
)
noise = torch.randn(12, 1, generator=generator)
partner = clumps.sample(12, generator)
times = torch.linspace(0, 1, 101)
bent = solve(ExactField(path, clumps), noise, times, heun)
lines = torch.lerp(noise, partner, times[:, None, None])
rectified = torch.lerp(noise, bent.last, times[:, None, None])


def crossings(x0, x1):
    """Count the pairs of lines that change sides on the way."""
    return ((x0 < x0.T) & (x1 > x1.T)).sum().item()


# %% [markdown]
# **Check 6.1** (who crosses whom). On the line two paths cross if and only if they change sides. The lines of the drawn pairs do. Solutions of an ODE cannot, so the pairs (noise, where the flow takes it) have straight lines without a crossing.

# %%
print("crossings of the drawn pairs:", crossings(noise, partner))
print("crossings of the pairs made by the flow:", crossings(noise, bent.last))
assert crossings(noise, partner) > 0 == crossings(noise, bent.last)

# %% tags=["hide-input"]
titles = ["drawn pairs", "solutions of the field", "pairs made by the flow"]
figure, axes = plotting.panels(titles)
for ax, states in zip(axes, (lines, bent.states, rectified), strict=True):
    ax.plot(
        times.cpu(), states[:, :, 0].cpu(), color=plotting.MODEL, alpha=0.6, linewidth=1
    )
    ax.scatter([0] * 12, states[0].cpu(), color=plotting.NOISE, s=10, zorder=3)
    ax.scatter([1] * 12, states[-1].cpu(), color=plotting.DATA, s=10, zorder=3)
    ax.set(xlabel="t", ylim=(-3, 3), xticks=[0, 1])
axes[0].set_ylabel("x")
plotting.show(
    figure,
    "crossing",
    "Position against time for twelve particles. Left: straight lines from noise to "
    "two clumps, many of which cross. Middle: solutions of the marginal field start "
    "flat, bend, and split into an upper and a lower bundle without crossing. Right: "
    "straight lines between the ends of those solutions; none cross.",
)

# %% [markdown]
# *Figure 6.1.* Left: straight lines that cross. Middle: what a perfectly trained field does with the same noise. Right: pair each noise point with the end of its solution. These lines can be followed by a flow as they stand. That is ReFlow.
#
# ## Two clumps that change places
#
# The smallest example of a coupling that is neither independent nor straight. Half of the noise is near $-1$ and goes to data near $+1$; the other half is near $+1$ and goes to $-1$. Each clump is normal with standard deviation $\tau$ at both ends, independently. The mean velocity at a place has a closed form,
#
# $$v_t(x)=\frac1{g_t}\Bigl((2t-1)\,x-\tanh\frac{(1-2t)\,x}{\tau^2g_t}\Bigr),\qquad g_t=(1-t)^2+t^2 .$$
#
# **Check 6.12** (they turn back). First the formula: of 400,000 pairs, the mean velocity of those that pass near a place. Then the flow. No solution crosses $x=0$, where the field is zero at all times. So each clump runs towards the middle, meets the other one there, and turns back: $Z_1=Z_0$. The cost falls from $4+2\tau^2$ to 0, and all of that is $S+C$.


# %%
def meeting(x, t, tau=0.3):
    """Return the mean velocity of the pairs at x, t."""
    t = t[:, None]
    g = (1 - t) ** 2 + t**2
    return ((2 * t - 1) * x - torch.tanh((1 - 2 * t) * x / (tau**2 * g))) / g


# %%
side = torch.randint(0, 2, (400_000, 1), generator=generator, device=device) * 2.0 - 1
bumps = 0.3 * torch.randn(2, 400_000, 1, generator=generator)
old, new = side + bumps[0], -side + bumps[1]
for t, place in ((0.2, 0.5), (0.4, 0.1), (0.5, 0.2), (0.7, -0.3)):
    near = (torch.lerp(old, new, t) - place).abs() < 0.02
    found, wanted = (
        (new - old)[near],
        meeting(torch.tensor([[place]]), torch.tensor([t])),
    )
    # five standard errors, and 0.1 for the width of the window
    assert abs(found.mean() - wanted) < 5 * found.std() / len(found) ** 0.5 + 0.1

# %%
turned = solve(meeting, old[:4000], torch.linspace(0, 1, 1001), rk4)
print("each ends where it began:", (turned.last - old[:4000]).abs().max().item() < 0.01)
assert (turned.last - old[:4000]).abs().max() < 0.01
t = torch.rand(400_000, generator=generator)
floor = (new - old - meeting(torch.lerp(old, new, t[:, None]), t)).square().mean()
cost = (new - old).square().mean()
print(f"cost {cost:.2f}; S = {straightness(turned):.1f}, C = {floor:.1f}")
record("turned_S", round(straightness(turned), 1))
record("turned_C", round(floor.item(), 1))
assert abs(cost - 4 - 2 * 0.3**2) < 0.02
assert abs(straightness(turned) + floor - cost) < 0.1  # S is from 4000 starts

# %% [markdown]
# ## What rectification keeps
#
# Take any coupling $(x_0,x_1)$, put $x_t=(1-t)x_0+tx_1$ and $v_t(x)=\mathbb E[x_1-x_0\mid x_t=x]$. The rectified flow follows $v$ from $Z_0=x_0$. It has the marginals of $x_t$, and $\mathbb E\,c(Z_1-Z_0)\le\mathbb E\,c(x_1-x_0)$ for every convex $c$.
#
# For Gaussian couplings all of this is a matter of matrices. Let $x_1=Mx_0+N\xi$ with $x_0,\xi\sim\mathcal N(0,I)$ independent. With $A_t=(1-t)I+tM$ the field is linear, $v_t(x)=G_tx$, where
#
# $$G_t=\bigl((M-I)A_t^{\mathsf T}+t\,NN^{\mathsf T}\bigr)\,\bigl(A_tA_t^{\mathsf T}+t^2NN^{\mathsf T}\bigr)^{-1}.$$
#
# If you start the solver at the two unit vectors, it returns the columns of the matrix $\Phi_t$ with $Z_t=\Phi_tx_0$.

# %%
eye = torch.eye(2, dtype=torch.float64)
fine = torch.linspace(0, 1, 201, dtype=torch.float64)


def moments(mixing, spread, t):
    """Return Cov(x1 - x0, x_t) and Cov(x_t) of the pairs x1 = mixing x0 + spread xi."""
    a, noise = (1 - t) * eye + t * mixing, spread @ spread.T
    return (mixing - eye) @ a.T + t * noise, a @ a.T + t**2 * noise


# %%
def rectify(mixing, spread, factor=1.0):
    """Follow the exact field (or factor times it) from the unit vectors."""

    def field(x, t):
        cross, covariance = moments(mixing, spread, t[0])
        return factor * x @ (cross @ torch.linalg.inv(covariance)).T

    return solve(field, eye, fine, rk4)


# %% [markdown]
# **Check 6.2** (the marginals). $Z_t=\Phi_tx_0$ must have the covariance of $x_t$ at every time. The coupling is a turned, stretched copy of the noise plus correlated noise of its own: nothing about it is symmetric or independent. Runge–Kutta with 200 steps leaves an error far below $10^{-6}$. A field that is 1 % too fast must fail.


# %%
def turn(angle):
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=torch.float64)


mixing = 1.5 * turn(1.9)
spread = torch.tensor([[0.6, 0.0], [0.9, 0.3]], dtype=torch.float64)


# %%
def worst_marginal(solution):
    wanted = torch.stack([moments(mixing, spread, t)[1] for t in fine])
    maps = solution.states.mT
    return (maps @ maps.mT - wanted).abs().max().item()


flow = rectify(mixing, spread)
print("covariances agree at all times:", worst_marginal(flow) < 1e-6)
assert worst_marginal(flow) < 1e-6
assert worst_marginal(rectify(mixing, spread, factor=1.01)) > 1e-2

# %% [markdown]
# **Check 6.3** (where the saved cost goes). The theorem of the chapter is sharper than an inequality for the squared cost:
#
# $$\mathbb E\lVert x_1-x_0\rVert^2-\mathbb E\lVert Z_1-Z_0\rVert^2=S+C,$$
#
# where $S$ is the straightness of the flow and $C$ the floor of the loss on the old pairs. Here all four are sums over matrix entries; $S$ and $C$ are integrals over time by the trapezoidal rule, exact to about $10^{-4}$.

# %%
unexplained = []
for t in fine:
    cross, covariance = moments(mixing, spread, t)
    total = (mixing - eye).square().sum() + spread.square().sum()
    unexplained.append(total - (cross @ torch.linalg.inv(covariance) @ cross.T).trace())
floor = torch.trapezoid(torch.stack(unexplained), fine).item()
before, after = total.item(), (flow.last.T - eye).square().sum().item()
bends = 2 * straightness(flow)  # the mean over two unit vectors is half the sum
print(f"cost before {before:.3f}, after {after:.3f}; S = {bends:.3f}, C = {floor:.3f}")
assert abs(before - after - bends - floor) < 1e-3
assert min(bends, floor) > 0.01

# %% [markdown]
# For independent $\mathcal N(0,I)$ and $\mathcal N(0,a^2I)$ in $d$ dimensions the integrals can be done: the cost falls from $d(1+a^2)$ to $d(a-1)^2$, $S=(2-\tfrac\pi2)\,da$ and $C=\tfrac\pi2\,da$. `ExactField` is a first rectification without any learning error.

# %%
a = 1.7
normal = ExactField(
    path, distributions.Gaussian(torch.zeros(2, dtype=torch.float64), a**2)
)
solution = solve(normal, eye, fine, rk4)
cost = (solution.last - eye).square().sum().item()
bends = 2 * straightness(solution)
print(f"cost {cost:.4f}, closed form {2 * (a - 1) ** 2:.4f}")
print(f"S    {bends:.4f}, closed form {(2 - math.pi / 2) * 2 * a:.4f}")
assert abs(cost - 2 * (a - 1) ** 2) < 1e-4
assert abs(bends - (2 - math.pi / 2) * 2 * a) < 1e-3  # the polygon through 201 states

# %% [markdown]
# ## The ring
#
# Now the ring, with the exact field in place of a trained first round. You make pairs, and measure two convex costs before and after.

# %%
x0, x1 = torch.randn(20_000, 2, generator=generator), ring.sample(20_000, generator)
made = z0, z1 = model_pairs(exact, x0, torch.linspace(0, 1, 31), heun)
probe = torch.randn(2000, 2, generator=generator)
exact_way = solve(exact, probe, times, heun)
bends = straightness(exact_way)
t = uniform_times(20_000, generator)
floor = exact.target_variance(path.sample(x0, x1, t).x_t, t).mean().item()

# %% [markdown]
# **Check 6.4** (costs on the ring). Both costs fall, by many standard errors. For the squared cost the identity must hold again: $\mathbb E\lVert x_1-x_0\rVert^2=102+2=104$ in closed form, and the rest is measured. The tolerance is four standard errors of the parts added.

# %%
costs = {
    "squared distance": lambda move: move.square().sum(dim=1),
    "distance": lambda m: m.norm(dim=1),
}
for name, cost in costs.items():
    old, new = cost(x1 - x0), cost(z1 - z0)
    print(f"{name:17s} {old.mean():6.1f} before, {new.mean():5.1f} after")
    record(f"{name.replace(' ', '_')}_before", round(old.mean().item(), 1))
    record(f"{name.replace(' ', '_')}_after", round(new.mean().item(), 1))
    assert (old.mean() - new.mean()) > 10 * (old.var() / 2e4 + new.var() / 2e4).sqrt()
squared = costs["squared distance"](z1 - z0)
print(f"saved {104 - squared.mean():.0f}; S = {bends:.1f} and C = {floor:.0f}")
record("ring_bends", round(bends, 1))
record("ring_floor", round(floor))
assert abs(104 - squared.mean().item() - bends - floor) < 1.5

# %% [markdown]
# **Check 6.5** (straight is not optimal). Turn the plane: $x_1=Rx_0$ with a rotation $R$ by 120 degrees. The lines of these pairs do not cross, so rectification changes nothing, the flow is straight, and one Euler step is exact. But noise and data have the same distribution, and the optimal transport is to stay.

# %%
rotation = turn(2 * math.pi / 3)
none = torch.zeros(2, 2, dtype=torch.float64)
flow = rectify(rotation, none)
cross, covariance = moments(rotation, none, torch.tensor(0.0, dtype=torch.float64))
one_step = eye + (cross @ torch.linalg.inv(covariance)).T
changed = torch.dist(flow.last.T, rotation).item()
print("rectification changes the pairs by less than 1e-6:", changed < 1e-6)
print("straight:", straightness(flow) < 1e-9)
print(f"cost {(flow.last - eye).square().sum():.2f}, cost of the optimal transport 0")
assert changed < 1e-6 and torch.dist(one_step.T, rotation) < 1e-12
assert straightness(flow) < 1e-9 < 0.01 < straightness(rectify(mixing, spread))

# %% [markdown]
# ## Learn the second round
#
# First in plain PyTorch. Let the old flow take noise to its end, and keep both.

# %% tags=["quote-pairs"]
old_flow, n = exact, 60
z0 = torch.randn(20_000, 2)
z1 = z0
with torch.no_grad():
    for i in range(n):
        t_i = torch.full((len(z1),), i / n)
        z1 = z1 + old_flow(z1, t_i) / n

# %% [markdown]
# Then train as in chapter 3. Only the pairs are new.


# %% tags=["quote-reflow"]
def reflow_loss(network, z0, z1):
    rows = torch.randint(len(z0), (256,))
    x0, x1 = z0[rows], z1[rows]  # both ends
    t = torch.rand(256)
    s = t[:, None]
    x_t = (1 - s) * x0 + s * x1
    error = network(x_t, t) - (x1 - x0)
    return error.square().sum(dim=1).mean()


# %% [markdown]
# Distillation has the same pairs, and regresses only the one step from noise.


# %% tags=["quote-distillation"]
def one_step_loss(student, z0, z1):
    t = torch.zeros(len(z0))
    error = z0 + student(z0, t) - z1
    return error.square().sum(dim=1).mean()


# %% [markdown]
# **Check 6.13** (against the package). `model_pairs` with the same steps ends at the same places. On the same batch `flow_matching_loss` and `distillation_loss` are the losses above; the tolerance is that of single precision.

# %%
grid = torch.linspace(0, 1, n + 1)
gap = (model_pairs(exact, z0, grid, euler)[1] - z1).abs().max().item()
print("same pairs:", gap < 1e-2)  # between two modes the map stretches rounding errors
assert gap < 1e-2
small = MLP(width=16, depth=1)
torch.manual_seed(1)
ours = reflow_loss(small, z0, z1)
torch.manual_seed(1)  # the same rows and times again
rows = torch.randint(len(z0), (256,))
batch = z0[rows], z1[rows]
theirs = flow_matching_loss(small, path, *batch, torch.rand(256))
assert abs(ours - theirs) < 1e-5 * theirs
ours, theirs = one_step_loss(small, *batch), distillation_loss(small, *batch)
assert abs(ours - theirs) < 1e-5 * theirs

# %% [markdown]
# Now in earnest, with the package: pairs by thirty steps of Heun's method, which Check 6.4 has made already, and weights that are averaged.


# %%
def fit(network, loss, steps, rate=4e-3):
    """Train a network and return its averaged weights."""
    ema = EMA(network, decay=0.995)
    for _ in train(network, loss, steps, learning_rate=rate, ema=ema):
        pass
    return ema.network


def fit_flow(draw, steps=1000):
    network = MLP(width=128, depth=4)
    times = lambda: uniform_times(256, generator)  # noqa: E731
    loss = lambda: flow_matching_loss(network, path, *draw(), times())  # noqa: E731
    return fit(network, loss, steps)


# %%
z0, z1 = made


def stored_pairs():
    """Draw a batch of the pairs that the exact flow made."""
    rows = torch.randint(len(z0), (256,), generator=generator, device=device)
    return z0[rows], z1[rows]


straight = fit_flow(stored_pairs)

# %% [markdown]
# How straight can a learned flow be? Learn pairs whose lines cannot cross, and see what is left. Let $T(x)=x+\sum_km_k\operatorname{softmax}_k(3\,m_k\cdot x)$ with the centres $m_k$ of the ring. It is the gradient of a strictly convex function, so the lines from $x$ to $T(x)$ never meet, and $S=0$. It sends noise to eleven clumps, and stretches about as much as the flow of the ring does. What a network of the same size with the same training makes of it is the *floor* that training error sets.


# %%
def never_crossing():
    x = torch.randn(256, 2, generator=generator)
    return x, x + torch.softmax(3 * x @ ring.means.T, dim=1) @ ring.means


floor_network = fit_flow(never_crossing)

# %%
with torch.no_grad():
    learned_way = solve(straight, probe, times, heun)
    floor_way = solve(floor_network, probe, times, heun)
    one_step = probe + straight(probe, torch.zeros(2000))

# %% [markdown]
# **Check 6.6** (straightness). The second round must be at least fifty times straighter than the first. What is left must be training error: no more than one and a half times the floor, which came from other pairs and so is a guide, not a bound.

# %% tags=["nbval-ignore-output"]
now, least = straightness(learned_way), straightness(floor_way)
print(
    f"S of round one {bends:.2f}, of round two {now:.3f}, floor of training {least:.3f}"
)
print(f"round two is straighter by a factor of {bends / now:.0f}")
record("bends_learned", round(now, 3))
record("bends_floor", round(least, 3))
record("straighter", round(bends / now))
assert now < bends / 50 and now < 1.5 * least

# %% tags=["hide-input"]
titles = ["round one, exact", "round two, learned"]
titles += ["one Euler step of round one", "of round two"]
figure, axes = plotting.panels(titles, extent=13, rows=2)
for ax, way in zip(axes, (exact_way, learned_way), strict=False):
    plotting.draw_trajectories(ax, way.states[::2, :80])
jump = probe + exact(probe, torch.zeros(2000))
for ax, x in zip(axes[2:], (jump, one_step), strict=True):
    plotting.draw_samples(ax, ring.sample(2000, generator), plotting.NOISE, size=1.5)
    plotting.draw_samples(ax, x, plotting.MODEL, size=3)
plotting.show(
    figure,
    "rounds",
    "Top: eighty paths from noise to the ring. In round one they start towards the "
    "middle and bend outwards, in round two they are straight spokes. Bottom: one "
    "Euler step over the data in grey. In round one all samples land on one point in "
    "the middle, in round two on a ring over the data, with its eleven modes blurred "
    "together.",
)

# %% [markdown]
# *Figure 6.2.* Above: paths of round one (exact field) and round two (learned). Below: where one Euler step lands (blue), over data (grey). Before ReFlow every sample lands on the mean of the data.
#
# ## One step, two ways to learn it
#
# Distillation takes the same pairs, and regresses only what one Euler step from noise needs: $x_0+v(x_0,0)$ against the other end.


# %%
student = MLP(width=128, depth=4)
distilled = fit(student, lambda: distillation_loss(student, *stored_pairs()), 1000)


@torch.no_grad()
def after(field, steps):
    return solve(field, many, torch.linspace(0, 1, steps + 1), euler).last


# %%
many = torch.randn(8000, 2, generator=generator)


def fresh_ring(n):
    return ring.sample(n, generator)


def strays(x):
    """Return the share of samples more than 2.5 from every centre."""
    return (torch.cdist(x, ring.means).amin(dim=1) > 2.5).float().mean().item()


# %% [markdown]
# **Check 6.7** (one step). Before ReFlow one step lands on the mean, and its squared distance from the data is $\operatorname{tr}\operatorname{Cov}(x_1)=102$ in closed form. After ReFlow the distance may be at most 0.2 times that. Beside it: 100 steps, and fresh data. `fresh_ratio` averages the Wasserstein distances of eight sets of 1000 samples to fresh data, and of eight pairs of fresh sets (four after one step, where nobody asks for the last digit). With a hundred steps both rounds must end at a ratio below 1.25, where a ring that is 13 % too small does not (sixteen sets, so that this is beyond chance).
#
# Such a distance comes mostly from how many points fall into each mode. It hardly notices points between the modes, so count these too: `strays` is the share of samples more than 2.5 from every centre. Of the data it is nearly $e^{-2.5^2/2}=4\,\%$; the hundred steps of round two may leave 17 %.

# %% tags=["nbval-ignore-output"]
flows = {"round one": exact, "round two": straight, "distilled": distilled}
table = {(name, n): after(field, n) for name, field in flows.items() for n in (1, 100)}
parts = {1: 4, 100: 8}
far = {
    k: fresh_ratio(x[: 1000 * parts[k[1]]], fresh_ring, parts[k[1]])
    for k, x in table.items()
}
for (name, n), x in table.items():
    found, key = far[name, n], f"{name.replace(' ', '_')}_{n}"
    print(f"{name:9s} {n:3d} steps: distance {found.distance:5.2f},", end=" ")
    print(
        f"ratio {found.value:.2f} ± {found.error:.2f}, strays {100 * strays(x):3.0f} %"
    )
    record(key, round(found.distance, 2))
    record(f"strays_{key}", round(100 * strays(x)))

# %% tags=["nbval-ignore-output"]
small = fresh_ratio(0.87 * fresh_ring(16_000), fresh_ring, parts=16)
print(f"a ring 13 % too small: ratio {small.value:.2f} ± {small.error:.2f}")
fresh_strays = strays(fresh_ring(8000))
print(f"fresh data: distance {small.floor:.2f}, strays {100 * fresh_strays:.0f} %")
record("fresh", round(small.floor, 2))
record("fresh_strays", round(100 * fresh_strays))

# %%
one_step_of = {name: far[name, 1].distance for name in flows}
assert abs(one_step_of["round one"] - math.sqrt(102)) < 0.2  # four standard errors
assert one_step_of["round two"] < 0.2 * math.sqrt(102)
assert one_step_of["distilled"] < 0.2 * math.sqrt(102)
assert max(far[name, 100].value for name in ("round one", "round two")) < 1.25
assert small.value > max(1.25, 1 + 4 * small.error)
assert strays(table["round one", 100]) < 0.06 and strays(table["round two", 100]) < 0.17
assert far["distilled", 100].distance > 1.3 * far["distilled", 1].distance
assert abs(fresh_strays - math.exp(-(2.5**2) / 2)) < 0.01  # four standard errors

# %% [markdown]
# Read the second column. One step of round two has the right distance and the wrong picture: the modes run together, because the network is not steep enough where the noise decides between two modes. More steps sharpen them.
#
# The last two lines say how ReFlow and distillation differ. Round two is a flow: more steps are allowed, and bring it nearer to its teacher. The distilled network was trained at $t=0$ only. It knows nothing of other times, and with 100 steps it goes astray.
#
# ## Rounds, seeds and budgets
#
# In the lab the first round was exact. In earnest every round is learned, from pairs that carry the errors of the round before. The package keeps the results of an experiment that is too long for a lab: each flow is a network of the same size, trained with three seeds; one round is 1500 steps, and what is trained in one piece (independent pairs, OT pairs, MeanFlow) gets 3000.

# %%
stored = stored_results("reflow")
flows = stored["flows"]


def cell(name, key):
    """Write mean ± standard deviation over the seeds."""
    if key not in flows[name]:
        return ""
    kind = key.split("_")[0]
    scale, digits = {"strays": (100, 0), "training": (1, 0), "pairs": (1, 0)}.get(
        kind, (1, 2)
    )
    digits = 3 if kind == "straightness" else digits
    middle, spread = (scale * number for number in flows[name][key])
    return f"{middle:.{digits}f} ± {spread:.{digits}f}" + " %" * (kind == "strays")


# %%
def show(*columns, width=14):
    """Print these columns of the flows that have them."""
    print("\n" + " " * 27 + "".join(f"{key:{width}s}" for key in columns).rstrip())
    for name in flows:
        cells = [cell(name, key) for key in columns]
        if any(cells):
            print(f"{name:27s}" + "".join(f"{c:{width}s}" for c in cells).rstrip())


# %%
show("w2_1", "w2_2", "w2_10", "w2_100")
show("strays_1", "strays_2", "strays_10", "strays_100")
show("straightness", "squared_cost", "cost")
show("from_exact", "from_teacher")

# %%
for name in ("1-rectified", "2-rectified", "OT, long", "MeanFlow"):
    seconds = cell(name, "training"), cell(name, "pairs") or "none"
    print(f"{name:11s} seconds: training {seconds[0]}, pairs {seconds[1]}")
print("\n".join(f"{key}: {value}" for key, value in stored["provenance"].items()))

# %%
for name, row in flows.items():
    for key in row:
        record(f"{name}_{key}".replace(",", "").replace(" ", "_"), cell(name, key))

# %% tags=["hide-input"]
drawn = {"1-rectified": plotting.NOISE, "OT, long": plotting.TRUTH}
drawn |= {"2-rectified": plotting.MODEL, "3-rectified": "#60a5fa"}
drawn |= {"MeanFlow": plotting.DATA}
counts = (1, 2, 10, 100)
figure, axes = plotting.panels(["distance to the data", "share of strays"])
for ax, kind in zip(axes, ("w2", "strays"), strict=True):
    for name, color in drawn.items():
        rows = [flows[name][f"{kind}_{n}"] for n in counts]
        middle, spread = zip(*rows, strict=True)
        look = {"color": color, "marker": "o", "ms": 3, "label": name}
        ax.errorbar(counts, middle, spread, **look)
    level = flows["fresh"][f"{kind}_100"][0]
    ax.axhline(level, color="#9ca3af", linestyle=":", label="fresh data")
    ax.set(xscale="log", yscale="log", xlabel="steps", xticks=counts)
    ax.set_xticklabels([str(n) for n in counts])
axes[0].legend(fontsize=7)
plotting.show(
    figure,
    "steps",
    "Two panels on log scales over the number of steps. With few steps plain flow "
    "matching is far from the data; ReFlow, OT pairing and MeanFlow lie near the level "
    "of fresh data. The share of strays separates them: only MeanFlow falls to the "
    "level of data.",
)

# %% [markdown]
# *Figure 6.3.* Distance to the data and share of samples more than 2.5 from every centre, against Euler steps (for MeanFlow: jumps, and Euler steps of its velocity at 100). Mean and standard deviation of three seeds. Dotted: fresh data.
#
# **Check 6.8** (the stored results). The theorems ask that costs do not rise from round to round; learned flows may break this by their errors, which stay below 1 %. The straightness of the exact first round is measured again here, and must lie within four of the stored standard deviations or 5 %, whichever is more.

# %%
first = {"squared_cost": 104.0, "cost": costs["distance"](x1 - x0).mean().item()}
for key, value in first.items():
    for name in ("1-rectified", "2-rectified", "3-rectified"):
        assert flows[name][key][0] < 1.01 * value, (name, key)
        value = flows[name][key][0]
for run in stored["runs"]:
    assert run["2-rectified"]["straightness"] < run["1-rectified"]["straightness"] / 5
    assert run["2-rectified"]["w2_1"] < 0.2 * run["1-rectified"]["w2_1"]
middle, spread = flows["exact"]["straightness"]
agree = abs(bends - middle) < max(4 * spread, 0.05 * middle)
print("live and stored straightness agree:", agree)
assert agree

# %% [markdown]
# ## Mean velocities
#
# One step needs the mean of the velocity along the solution, $\bar u_{s,t}(x)=\frac{\varphi_{s,t}(x)-x}{t-s}$. It obeys
#
# $$\bar u_{s,t}(x)=v_s(x)+(t-s)\,\bigl(\partial_s+v_s(x)\cdot\nabla\bigr)\,\bar u_{s,t}(x).$$
#
# The bracket is a derivative along the solution: a Jacobian-vector product with the tangent $(v,1,0)$ for the arguments $(x,s,t)$.
#
# **Check 6.9** (the identity). For data $\mathcal N(0,a^2I)$ the flow map is $\varphi_{s,t}(x)=x\,b_t/b_s$ with the spread $b_t=\sqrt{(1-t)^2+t^2a^2}$ of $x_t$. Both sides are compared in double precision. With a minus sign, as it stands in texts whose time runs from data to noise, the identity fails.


# %%
def mean_velocity(x, start, end, a=1.7):
    spread = lambda t: ((1 - t) ** 2 + (t * a) ** 2).sqrt()  # noqa: E731
    return x * ((spread(end) / spread(start) - 1) / (end - start))[:, None]


# %%
start, end = (0.1 + 0.8 * torch.rand(2, 1000, dtype=torch.float64)).sort(dim=0).values
end = end + 0.05  # keeps the division by end − start harmless
x = torch.randn(1000, 2, dtype=torch.float64)
v = normal(x, start)
along = (v, torch.ones_like(start), torch.zeros_like(end))
u, rate = torch.func.jvp(mean_velocity, (x, start, end), along)
gap = (end - start)[:, None] * rate
print("identity holds:", (u - v - gap).abs().max().item() < 1e-10)
assert (u - v - gap).abs().max() < 1e-10 < 0.1 < (u - v + gap).abs().max()

# %% [markdown]
# As a loss this is short. The network is asked at $x_s$ for the mean velocity up to $t$; its answer and its derivative along the line come from one call of `jvp`; the right-hand side of the identity, frozen, is the target.


# %% tags=["quote-meanflow"]
def jvp_loss(u, x0, x1, s, t):
    x_s = (1 - s[:, None]) * x0 + s[:, None] * x1
    w = x1 - x0  # in the place of v, twice
    along = w, torch.ones_like(s), torch.zeros_like(t)
    mean, rate = torch.func.jvp(u, (x_s, s, t), along)
    target = w + (t - s)[:, None] * rate
    error = mean - target.detach()
    return error.square().sum(dim=1).mean()


# %% [markdown]
# **Check 6.14** (against the package). `mean_flow_loss` gives the same value and the same gradients on the same batch, to single precision.


# %%
def mean_flow_batch(n, same=0.0):
    """Draw noise, data and two times in order; a share of the times are equal."""
    start, end = torch.rand(2, n, generator=generator).sort(dim=0).values
    end = torch.where(torch.rand(n, generator=generator) < same, start, end)
    noise = torch.randn(n, 2, generator=generator)
    return noise, ring.sample(n, generator), start, end


# %%
small = MeanFlowMLP(width=32, depth=2)
parameters = list(small.parameters())
batch = mean_flow_batch(512)
losses = jvp_loss(small, *batch), mean_flow_loss(small, path, *batch)
ours, theirs = (torch.autograd.grad(loss, parameters) for loss in losses)
print("same loss as the package's:", torch.allclose(*losses, rtol=1e-4))
assert torch.allclose(*losses, rtol=1e-4)
for a, b in zip(ours, theirs, strict=True):
    assert (a - b).norm() <= 1e-4 * b.norm()

# %% [markdown]
# **Check 6.10** (the conditional velocity may replace $v$). The target of the regression is linear in the velocity, so its mean given $x_s$ does not notice whether you insert $v_s(x_s)$ or $x_1-x_0$. The gradients of the two losses then agree in expectation. As in Check 3.1 you project their difference on random directions, over 200 batches. The losses themselves are far apart.


# %%
class MarginalPath(AffinePath):
    """The same points, with the marginal velocity in place of that of the line."""

    def sample(self, x0, x1, t):
        x_t = super().sample(x0, x1, t).x_t
        return PathSample(x_t, exact(x_t, t))


# %%
directions = torch.randn(sum(p.numel() for p in parameters), 20, generator=generator)
directions /= directions.norm(dim=0)


def gradient(route, batch):
    loss = mean_flow_loss(small, route, *batch)
    gradients = torch.autograd.grad(loss, parameters)
    return torch.cat([g.flatten() for g in gradients]) @ directions


def largest_score(difference):
    """Return the largest mean over the batches, in standard errors."""
    error = difference.std(dim=0) / math.sqrt(len(difference))
    return (difference.mean(dim=0) / error).abs().max().item()


# %%
routes = (path, MarginalPath(LINEAR))
both = []
for _ in range(200):
    batch = mean_flow_batch(512)
    both.append(torch.stack([gradient(route, batch) for route in routes]))
lines, means = torch.stack(both, dim=1)
print("gradients agree within their standard error:", largest_score(lines - means) < 4)
assert largest_score(lines - means) < 4 < largest_score(lines - 0.9 * means)

# %% [markdown]
# ## MeanFlow on the ring
#
# No teacher, no pairs, no solver in training: noise, data, and two times. For three quarters of the batch the times are equal, which is flow matching.

# %%
mean_network = MeanFlowMLP(width=128, depth=3)


def mean_loss():
    return mean_flow_loss(mean_network, path, *mean_flow_batch(256, same=0.75))


mean_network = fit(mean_network, mean_loss, steps=1200, rate=3e-3)


# %%
@torch.no_grad()
def jumps(n):
    x, grid = many, torch.linspace(0, 1, n + 1)
    for start, end in zip(grid[:-1], grid[1:], strict=True):
        between = start.expand(len(x)), end.expand(len(x))
        x = x + (end - start) * mean_network(x, *between)
    return x


# %% [markdown]
# **Check 6.11** (one step without a teacher). One jump of the mean velocity must land at most 0.3 times as far from the data as one Euler step of the flow did. This is less than half the training of the stored experiment, so more error is left.

# %% tags=["nbval-ignore-output"]
landed = {n: jumps(n) for n in (1, 2, 4)}
for n, x in landed.items():
    miss, stray = fresh_ratio(x[:4000], fresh_ring, parts=4), round(100 * strays(x))
    print(f"{n} jumps: distance {miss.distance:.2f},", end=" ")
    print(f"ratio {miss.value:.2f} ± {miss.error:.2f}, strays {stray} %")
    record(f"jumps_{n}", round(miss.distance, 2))
    record(f"strays_jumps_{n}", stray)
    assert miss.distance < 0.3 * far["round one", 1].distance

# %% tags=["hide-input"]
shown = {"data": fresh_ring(2000), "ReFlow, 100 steps": table["round two", 100]}
shown |= {"ReFlow, 1 step": one_step, "distilled, 1 step": table["distilled", 1]}
shown |= {"MeanFlow, 1 step": landed[1], "MeanFlow, 4 steps": landed[4]}
figure, axes = plotting.panels(list(shown), extent=13, rows=2)
for ax, (name, x) in zip(axes, shown.items(), strict=True):
    color = plotting.DATA if name == "data" else plotting.MODEL
    plotting.draw_samples(ax, x[:2000], color, size=2)
plotting.show(
    figure,
    "one_step",
    "Six panels of two thousand points. The data are eleven round clumps on a ring. A "
    "hundred steps of ReFlow show them with bridges between them. One step blurs them "
    "into a ring with some points inside; the distilled network keeps them apart "
    "better, MeanFlow needs four steps for it.",
)

# %% [markdown]
# *Figure 6.4.* Data (orange) and samples (blue) from the same noise. What one step gets wrong is the gaps between the modes: there the map from noise to data is steepest, and a briefly trained network is not steep enough.
#
# ## Summary
#
# - Rectification pairs noise with the end of its solution. The marginals stay; every convex transport cost falls or stays. For the squared cost the saving is $S+C$.
# - Straight means that the lines of the pairs do not cross. It does not mean optimal, and it does not mean that the samples are good.
# - After one round one step is about as far from the data as a hundred. What is left, the blur between the modes, is training error.
# - Later rounds learn from samples, not from data. They cannot undo an error of an earlier one.
# - MeanFlow learns the mean velocity with one Jacobian-vector product and no teacher.
#
# ## Questions
#
# 1. In Check 6.5 turn by 175 degrees. What happens to the field at half time? And at 180?
# 2. Make pairs with 5 Euler steps instead of 30 Heun steps. Is round two still straight? What are its marginals?
# 3. Train round two on 500 stored pairs instead of 20,000. Which of straightness and distance suffers?
# 4. In Check 6.10, how much larger is the loss with $x_1-x_0$ than with $v$? Why does it matter little?
# 5. Set `same=0` in the training of MeanFlow. What becomes of 1 and of 100 steps?
