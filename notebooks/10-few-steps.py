# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab: Few steps
#
# A flow map jumps from one time to another along the solutions of a flow. Three equations say what it is, and each is a loss. You test them on a Gaussian, where the map has a closed form, compare their noise on the ring, and look at the surprises that MeanFlow has for those who train it.
#
# After this lab you can
#
# - write the three losses of a flow map in plain PyTorch,
# - say what floor each of them has, and measure it,
# - tell a loss that stands still from a training that stands still,
# - find out why two jumps are worse than one,
# - take a derivative through attention, and train a map of a guided flow.

# %%
# On Colab this cell installs the book's package; elsewhere it does nothing.
import sys

if "google.colab" in sys.modules:
    print("Installing the book's package")
    # %pip install -q git+https://github.com/fmtutorial/fmtutorial

# %%
import copy
import math
import warnings

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# %%
from fmtutorial import distributions, plotting
from fmtutorial.exact import ExactField
from fmtutorial.labs import default_device, record, stored_results
from fmtutorial.metrics import energy_distance
from fmtutorial.networks import MeanFlowMLP
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.training import EMA, train

# PyTorch warns of its own use of torch.jit when torch.func.jvp is first called
warnings.filterwarnings("ignore", category=FutureWarning)

# %%
from fmtutorial.flow_maps import (
    consistency_loss,
    gaussian_flow_map,
    improved_mean_flow_loss,
    jump,
    jump_along,
    lagrangian_loss,
    shortcut_loss,
)
from fmtutorial.reflow import mean_flow_loss
from fmtutorial.solvers import heun, solve

# %%
device = default_device()
torch.set_default_device(device)
generator = torch.Generator(device).manual_seed(0)
torch.manual_seed(0)  # the networks' first weights

path = AffinePath(LINEAR)
double = {"dtype": torch.float64}

# %% [markdown]
# ## The map of a Gaussian
#
# For data $\mathcal N(m,\Sigma)$ the flow keeps each point where it is among the others: standardise it at time $s$, and put it back at time $t$. With $C_t=\alpha_t^2\Sigma+\sigma_t^2I$,
#
# $$\varphi_{s,t}(x)=\alpha_tm+C_t^{1/2}C_s^{-1/2}(x-\alpha_sm).$$
#
# **Check 10.1** (three equations). The derivative in $t$ is the velocity where the jump ends. The derivative in $s$, taken along the flow, is zero. Two jumps in a row are one. Derivatives are by automatic differentiation, the velocity is that of `ExactField`, and $10^{-10}$ is rounding in double precision. The map of *another* Gaussian fails the first two equations and passes the third.

# %%
covariance = torch.tensor([[2.0, 0.6], [0.6, 0.5]], **double)
target = distributions.Gaussian(torch.tensor([1.0, -1.0], **double), covariance)
v, phi = ExactField(path, target), gaussian_flow_map(path, target)
other = gaussian_flow_map(path, distributions.Gaussian(target.mean, 0.3))

x = torch.randn(1000, 2, generator=generator, **double)
times = torch.rand(3, 1000, generator=generator, **double)
s, r, t = (0.1 + 0.8 * times).sort(dim=0).values
one = torch.ones_like(s)


# %%
def residuals(flow):
    """Return by how much a map misses each of its three equations."""
    landed, in_end = torch.func.jvp(lambda t: flow(x, s, t), (t,), (one,))
    along = torch.func.jvp(lambda x, s: flow(x, s, t), (x, s), (v(x, s), one))[1]
    twice = flow(flow(x, s, r), r, t)
    misses = (in_end - v(landed, t), along, twice - landed)
    return [miss.abs().max().item() for miss in misses]


for name, flow in {"the map": phi, "another": other}.items():
    passed = [miss < 1e-10 for miss in residuals(flow)]
    print(f"{name}: end {passed[0]}, start {passed[1]}, two jumps {passed[2]}")
assert max(residuals(phi)) < 1e-10 and residuals(other)[2] < 1e-10
assert min(residuals(other)[:2]) > 0.1

# %% [markdown]
# **Check 10.2** (halving is enough). The third equation does not know the velocity. With the condition that a jump of no length moves with $v$, it does: start from the worst candidate that satisfies it, one Euler step $x+(t-s)\,v_s(x)$, and replace each jump by two of half the length, again and again. That is Euler's method with $2^n$ steps, so the error must halve each time.


# %%
def halved(n, x, s, t):
    """Return the jump from s to t by 2^n Euler steps, made by halving n times."""
    if n == 0:
        return x + (t - s)[:, None] * v(x, s)
    middle = (s + t) / 2
    return halved(n - 1, halved(n - 1, x, s, middle), middle, t)


misses = [(halved(n, x, s, t) - phi(x, s, t)).norm().item() for n in (6, 7, 8)]
print(f"halving once more: the error falls by {misses[0] / misses[1]:.1f}", end=" ")
print(f"and {misses[1] / misses[2]:.1f}")
assert all(1.9 < a / b < 2.1 for a, b in zip(misses[:-1], misses[1:], strict=True))

# %% [markdown]
# ## Four losses
#
# The network gives a mean velocity, and the jump is $X=x+(t-s)\,u$. Each equation becomes a regression. What stands for the truth is frozen.
#
# In $t$, the Lagrangian loss. `jvp` gives the jump and its derivative in one pass:


# %% tags=["quote-lagrangian"]
def in_the_end(u, x_s, s, t):
    def X(t):
        return x_s + (t - s)[:, None] * u(x_s, s, t)

    landed, rate = torch.func.jvp(X, (t,), (torch.ones_like(t),))
    velocity = u(landed, t, t).detach()
    return (rate - velocity).square().sum(dim=1).mean()


# %% [markdown]
# In $s$, improved MeanFlow. The derivative goes along the network's own velocity, and the velocity of the line is the target:


# %% tags=["quote-improved"]
def in_the_start(u, x0, x1, s, t):
    x_s = (1 - s[:, None]) * x0 + s[:, None] * x1
    with torch.no_grad():
        along = u(x_s, s, s), torch.ones_like(s)
        here = lambda x, s: u(x, s, t)  # noqa: E731
        rate = torch.func.jvp(here, (x_s, s), along)[1]
    guess = u(x_s, s, t) - (t - s)[:, None] * rate
    return (guess - (x1 - x0)).square().sum(dim=1).mean()


# %% [markdown]
# The semigroup at the midpoint, which shortcut models use. No derivative:


# %% tags=["quote-shortcut"]
def in_two_halves(u, x_s, s, t):
    m = (s + t) / 2
    half = (m - s)[:, None]
    with torch.no_grad():
        first = u(x_s, s, m)
        second = u(x_s + half * first, m, t)
    error = u(x_s, s, t) - (first + second) / 2
    return error.square().sum(dim=1).mean()


# %% [markdown]
# And consistency, with $t=1$ always: two points of one line go to the same end.


# %% tags=["quote-consistency"]
def at_the_data(u, x0, x1, s, later):
    def to_the_end(s):
        x_s = (1 - s[:, None]) * x0 + s[:, None] * x1
        return x_s + (1 - s[:, None]) * u(x_s, s, torch.ones_like(s))

    error = to_the_end(s) - to_the_end(later).detach()
    return error.square().sum(dim=1).mean()


# %% [markdown]
# **Check 10.3** (against the package). The same values and the same gradients, to double precision.

# %%
small = MeanFlowMLP(width=32, depth=2).double()
parameters = list(small.parameters())
x0, x1 = torch.randn(1000, 2, generator=generator, **double), target.sample(1000)
batch, x_s = (small, path, x0, x1, s, t), path.sample(x0, x1, s).x_t
both = {
    "Lagrangian": (in_the_end(small, x_s, s, t), lagrangian_loss(*batch)),
    "improved": (in_the_start(small, x0, x1, s, t), improved_mean_flow_loss(*batch)),
    "shortcut": (in_two_halves(small, x_s, s, t), shortcut_loss(*batch)),
    "consistency": (at_the_data(small, x0, x1, s, t), consistency_loss(*batch)),
}

# %%
for name, losses in both.items():
    grads = [
        torch.autograd.grad(loss, parameters, materialize_grads=True) for loss in losses
    ]
    print(f"{name}: same value {torch.allclose(*losses, rtol=1e-10)}")
    assert torch.allclose(*losses, rtol=1e-10)
    for a, b in zip(*grads, strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)

# %% [markdown]
# ## Rest, floors and noise
#
# **Check 10.4** (where they rest). Put the exact map into each loss, and let each jump be a little longer or shorter. On fresh pairs the slope must be zero within four standard errors. For a map that goes too far by a third, it is not.


# %%
def mean_velocity(x, s, t):
    """Return that of the Gaussian; v itself where s = t."""
    length = (t - s)[:, None]
    jumped = (phi(x, s, t) - x) / torch.where(length == 0, 1, length)
    return torch.where(length == 0, v(x, s), jumped)


# %%
def score_of(loss_of, factor, n=20_000):
    """Return the mean slope over n pairs, in standard errors."""
    s, t = (0.05 + 0.9 * torch.rand(2, n, generator=generator, **double)).sort(dim=0)[0]
    weights = torch.zeros(n, requires_grad=True, **double)
    x0, x1 = torch.randn(n, 2, generator=generator, **double), target.sample(n)

    def u(x, s, t):
        return (factor + weights[:, None]) * mean_velocity(x, s, t)

    slope = torch.autograd.grad(loss_of(u, path, x0, x1, s, t), weights)[0] * n
    return (slope.mean() / slope.std() * math.sqrt(n)).abs().item()


# %%
members = {
    "MeanFlow": mean_flow_loss,
    "improved MeanFlow": improved_mean_flow_loss,
    "shortcut": shortcut_loss,
    "Lagrangian": lagrangian_loss,
}
for name, loss_of in members.items():
    exact = name in ("shortcut", "Lagrangian")  # no noise: the slope itself is 0
    rests = exact or score_of(loss_of, 1.0) < 4
    print(f"{name}: rests at the truth {rests}")
    assert rests and score_of(loss_of, 4 / 3) > 6

# %% [markdown]
# **Check 10.5** (floors). The same losses at the exact map, for $a^2I$ in the place of $\Sigma$, where everything can be written down. Given $x_s$ the velocity of the line has the variance $2a^2/g_s^2$ in the plane, with $g_s^2=(1-s)^2+s^2a^2$. That is improved MeanFlow's floor. MeanFlow's is the same times the stretch $(g_t/g_s)^2$ of the map. The other two have none. The tolerance is four standard errors of 200,000 pairs.

# %%
a, n = 1.7, 200_000
target = distributions.Gaussian(torch.zeros(2, **double), a**2)
v, phi = ExactField(path, target), gaussian_flow_map(path, target)
s, t = (0.9 * torch.rand(2, n, generator=generator, **double)).sort(dim=0).values
x0, x1 = torch.randn(n, 2, generator=generator, **double), target.sample(n)
g = lambda t: ((1 - t) ** 2 + (a * t) ** 2).sqrt()  # noqa: E731
spread = 2 * a**2 / g(s) ** 2
floors = {"MeanFlow": spread * (g(t) / g(s)) ** 2, "improved MeanFlow": spread}

# %%
for name, loss_of in members.items():
    value = loss_of(mean_velocity, path, x0, x1, s, t).item()
    floor = floors.get(name, 0 * s)
    print(f"{name}: loss {value:.1f}, closed form {floor.mean():.1f}")
    record(f"floor_{name.replace(' ', '_')}", round(value, 1))
    # of a square of a normal variable the deviation is that of its mean
    assert (
        abs(value - floor.mean()) <= 4 * floor.square().mean().sqrt() / n**0.5 + 1e-12
    )

# %% [markdown]
# **Check 10.6** (consistency is MeanFlow to $t=1$). For a small gap the gradient of the consistency loss, divided by the gap, is that of MeanFlow with $t=1$, each pair weighted by $1-s$. Here all pairs have one $s$, so that the weight is a number. The gap of $10^{-6}$ leaves as much.

# %%
s, gap = torch.full((1000,), 0.3, **double), 1e-6
pairs = x0[:1000], x1[:1000]
losses = {
    "consistency": consistency_loss(small, path, *pairs, s, s + gap) / gap,
    "weighted": 0.7 * mean_flow_loss(small, path, *pairs, s, torch.ones_like(s)),
}
flat = {
    name: torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
    for name, loss in losses.items()
}
apart = (flat["consistency"] - flat["weighted"]).norm() / flat["weighted"].norm()
print("gradients agree to 0.1 %:", apart.item() < 1e-3)
assert apart < 1e-3 < 0.1 < (flat["consistency"] + flat["weighted"]).norm()

# %% [markdown]
# ## MeanFlow on the ring, with its loss in view
#
# Train as in chapter 6, half of the pairs with $t=s$. Every 100 steps note the mean loss since the last note, and the energy distance of one jump to the data.

# %%
ring = distributions.ring_of_gaussians()
exact = ExactField(path, ring)
noise, data = torch.randn(2000, 2, generator=generator), ring.sample(2000, generator)


# %%
def ring_batch(n, same=0.5):
    s, t = torch.rand(2, n, generator=generator).sort(dim=0).values
    t = torch.where(torch.rand(n, generator=generator) < same, s, t)
    return torch.randn(n, 2, generator=generator), ring.sample(n, generator), s, t


def fit(network, loss, steps, see=lambda network, step: None):
    ema = EMA(network, decay=0.99)
    for step in train(network, loss, steps, 3e-3, ema):
        see(ema.network, step)
    return ema.network


# %%
@torch.no_grad()
def distance(network, jumps=1):
    x = jump_along(network, noise, torch.linspace(0, 1, jumps + 1))
    return energy_distance(x, data)


notes, since = [], []


def see(network, step):
    since.append(step.loss)
    if step.number % 100 == 0:
        notes.append((step.number, sum(since) / len(since), distance(network)))
        since.clear()


# %% tags=["nbval-ignore-output"]
network = MeanFlowMLP(width=96, depth=3)
network = fit(
    network, lambda: mean_flow_loss(network, path, *ring_batch(256)), 800, see
)
for number, loss, far in notes:
    print(f"step {number:4d}: loss {loss:5.1f}, distance of one jump {far:.2f}")
record("loss_first", round(notes[0][1]))
record("loss_last", round(notes[-1][1]))
record("distance_first", round(notes[0][2], 2))
record("distance_last", round(notes[-1][2], 2))

# %% [markdown]
# **Check 10.7** (a loss that does not fall). It rises, while the samples come nearer. What would the exact map have? Its floor is the mean of $\lVert\nabla\varphi_{s,t}(x_s)\,(w-v)\rVert^2$ with $w$ the velocity of the line. The product is a derivative of the solution in its start, which one `jvp` through Heun's method gives. A hundredth of the pairs, those that start between two modes, makes up most of it; so its own error is large.


# %%
def floor_of(s, t, x_s, difference, steps=30):
    def flow(x):
        h = (t - s) / steps
        for i in range(steps):
            now, then = s + i * h, s + (i + 1) * h
            k = exact(x, now)
            x = x + h[:, None] / 2 * (k + exact(x + h[:, None] * k, then))
        return x

    carried = torch.func.jvp(flow, (x_s,), (difference,))[1]
    return carried.square().sum(dim=1)


# %%
x0, x1, s, t = ring_batch(6000)
at = path.sample(x0, x1, s)
floor = floor_of(s, t, at.x_t, at.velocity - exact(at.x_t, s))

# %% tags=["nbval-ignore-output"]
error = (floor.std() / len(floor) ** 0.5).item()
few = floor.sort(descending=True).values[: len(floor) // 100].sum() / floor.sum()
print(f"floor of MeanFlow's loss on the ring: {floor.mean():.0f} ± {error:.0f}")
print(f"median {floor.median():.0f}; {100 * few:.0f} % of it in 1 % of the pairs")
record("ring_floor", round(floor.mean().item() / 10) * 10)
record("ring_floor_error", round(error / 10) * 10)
record("ring_floor_few", round(100 * few.item()))

# %%
first, last = notes[0], notes[-1]
print("the loss is higher at the end:", last[1] > first[1])
print("and the samples are nearer:", last[2] < 0.9 * first[2])
assert last[1] > first[1] and last[2] < 0.9 * first[2]
assert floor.mean() > last[1] / 2 and few > 0.3

# %% tags=["hide-input"]
figure, axes = plotting.panels(["loss of MeanFlow", "distance of one jump"])
numbers, values, fars = zip(*notes, strict=True)
for ax, seen in zip(axes, (values, fars), strict=True):
    ax.plot(numbers, seen, color=plotting.MODEL, marker="o")
    ax.set(xlabel="step", ylim=(0, 1.15 * max(seen)))
fresh = energy_distance(ring.sample(2000, generator), data)
axes[1].axhline(fresh, color="#9ca3af", linestyle=":")
plotting.show(
    figure,
    "standing_still",
    "Two panels over the training steps. The loss rises and then stays where it is. "
    "The distance of one jump to the data falls from note to note towards a dotted "
    "line near zero, the distance of fresh data.",
)

# %% [markdown]
# *Figure 10.1.* The same training, seen by its loss and by its samples. Dotted: the distance of fresh data.
#
# **Check 10.8** (the noise of a gradient). One network, the one just trained, and 40 batches of 256 jumps for each loss. The total variance of the gradient is the sum over all parameters. The conditional velocity enters the first two losses and not the last two, and MeanFlow multiplies it by the slope of the map, which is steep between the modes.


# %%
probe = copy.deepcopy(network).requires_grad_(True)


def gradient_of(loss_of):
    loss = loss_of(probe, path, *ring_batch(256, same=0.0))
    gradients = torch.autograd.grad(loss, list(probe.parameters()))
    return torch.cat([g.flatten() for g in gradients])


# %% tags=["nbval-ignore-output"]
variance = {}
for name, loss_of in members.items():
    drawn = torch.stack([gradient_of(loss_of) for _ in range(40)])
    variance[name] = drawn.var(dim=0).sum().item()
for name, value in variance.items():
    times_as = variance["MeanFlow"] / value
    rounded = f"{float(f'{times_as:.2g}'):,.0f}"
    print(f"{name}: MeanFlow has {rounded} times its variance")
    record(f"variance_{name.replace(' ', '_')}", rounded)

# %%
print("least noise without data in the target:", end=" ")
print(max(variance["shortcut"], variance["Lagrangian"]) < variance["MeanFlow"])
assert max(variance["shortcut"], variance["Lagrangian"]) < variance["MeanFlow"]

# %% [markdown]
# ## Two jumps worse than one
#
# Where two jumps end, less where the flow ends, is a sum of two errors: the second jump's own, at the point where the first has landed, and that of the first, carried on by the exact flow.
#
# Teach a network the one jump from 0 to 1 and nothing else: solve the exact flow from 4000 points of noise, and regress the jump from each on its end. Two jumps ask this network for $u_{0,1/2}$ and $u_{1/2,1}$, which it has never seen.

# %%
begun = torch.randn(4000, 2, generator=generator)
ends = solve(exact, begun, torch.linspace(0, 1, 31), heun, last_only=True).last


def one_jump_loss():
    rows = torch.randint(4000, (256,), generator=generator, device=device)
    x, one = begun[rows], torch.ones(256)
    landed = jump(one_jump, x, 0 * one, one)
    return (landed - ends[rows]).square().sum(dim=1).mean()


one_jump = MeanFlowMLP(width=96, depth=3)
one_jump = fit(one_jump, one_jump_loss, 500)

# %% tags=["nbval-ignore-output"]
for name, some in {"one": one_jump, "all": network}.items():
    far = [distance(some, jumps) for jumps in (1, 2)]
    print(f"{name}: distance {far[0]:.2f} after one jump, {far[1]:.2f} after two")
    record(f"jump_{name}_1", round(far[0], 2))
    record(f"jump_{name}_2", round(far[1], 2))

# %% [markdown]
# **Check 10.9** (whose error it is). The identity above holds to rounding. For the network that has learned the one jump only, two miss the end of the exact flow by more than one does; for the network that has seen all pairs, by less.


# %%
@torch.no_grad()
def errors(network, n=1000):
    """Return the errors of one jump, of two, and the two parts of the latter."""
    z, one = noise[:n], torch.ones(n)
    grid, half = torch.linspace(0, 1, 41), torch.linspace(0.5, 1, 21)
    y = jump(network, z, 0 * one, one / 2)
    landed = jump(network, y, one / 2, one)
    truth = solve(exact, z, grid, heun, last_only=True).last
    carried = solve(exact, y, half, heun, last_only=True).last
    once = jump(network, z, 0 * one, one)
    return once - truth, landed - truth, landed - carried, carried - truth


# %% tags=["nbval-ignore-output"]
sizes = {}
for name, some in {"one": one_jump, "all": network}.items():
    every = errors(some)
    assert (every[1] - every[2] - every[3]).abs().max() < 1e-4
    sizes[name] = [e.square().sum(dim=1).mean().sqrt().item() for e in every]
    for part, size in zip(("1", "2", "own", "carried"), sizes[name], strict=True):
        print(f"{name}, {part}: {size:.2f}", end="  ")
        record(f"error_{name}_{part}", round(size, 2))
    print()

# %%
print("one jump learned: two miss by more", sizes["one"][1] > sizes["one"][0])
print("all pairs learned: two miss by less", sizes["all"][1] < sizes["all"][0])
assert sizes["one"][1] > sizes["one"][0] and sizes["all"][1] < sizes["all"][0]

# %% [markdown]
# ## A derivative through attention
#
# MeanFlow and the Lagrangian loss need forward mode. PyTorch's fused attention has none. Its plain form, matrix products and a softmax, has one, and `sdpa_kernel` asks for it.

# %% tags=["nbval-ignore-output"]
tokens, along = torch.randn(2, 1, 1, 16, 8, generator=generator)


def attend(x):
    return F.scaled_dot_product_attention(x, x, x)


try:
    torch.func.jvp(attend, (tokens,), (along,))
    print("this PyTorch has a derivative here")
except NotImplementedError as error:
    print(str(error).split(". ")[0][:80])

# %% [markdown]
# **Check 10.10** (the plain form). Against central differences in double precision; the step of $10^{-5}$ leaves $10^{-9}$.

# %%
tokens, along, h = tokens.double(), along.double(), 1e-5
with sdpa_kernel(SDPBackend.MATH):
    rate = torch.func.jvp(attend, (tokens,), (along,))[1]
    central = (attend(tokens + h * along) - attend(tokens - h * along)) / (2 * h)
print("agrees with differences:", (rate - central).abs().max().item() < 1e-8)
assert (rate - central).abs().max() < 1e-8 < 1e-2 < rate.abs().max()

# %% [markdown]
# ## Guidance inside the target
#
# Two classes that overlap, $\mathcal N(m,\tfrac12I)$ and $\mathcal N(-m,\tfrac12I)$ with $m=(1,0)$. The guided field $(1-\omega)\,v+\omega\,v^y$ with $\omega=3$ is exact here. Give it to the Lagrangian loss as the teacher, which is asked where the jump lands: the map learns to jump along the *guided* flow, at one evaluation a jump where the field costs two.

# %%
centre = torch.tensor([1.0, 0.0])
both = distributions.GaussianMixture(
    torch.stack([centre, -centre]), torch.full((2,), 0.5)
)
one_class = distributions.Gaussian(centre, 0.5)
free, labelled = ExactField(path, both), ExactField(path, one_class)


def guided_field(x, t, scale=3.0):
    return torch.lerp(free(x, t), labelled(x, t), scale)


# %%
def guided_loss():
    s, t = torch.rand(2, 256, generator=generator).sort(dim=0).values
    pairs = torch.randn(256, 2, generator=generator), one_class.sample(256, generator)
    return lagrangian_loss(guided_map, path, *pairs, s, t, guided_field)


guided_map = MeanFlowMLP(width=64, depth=3)
guided_map = fit(guided_map, guided_loss, 500)

# %% [markdown]
# **Check 10.11** (one jump of the guided map). It must land near the end of the guided flow, which 50 steps of Heun's method follow: nearer by three times than the end of the flow without guidance is.

# %% tags=["nbval-ignore-output"]
grid, start = torch.linspace(0, 1, 51), noise[:500]
with torch.no_grad():
    jumped = jump_along(guided_map, start, grid[[0, -1]])
    followed = solve(guided_field, start, grid, heun, last_only=True).last
    plain = solve(labelled, start, grid, heun, last_only=True).last
away = (jumped - followed).square().sum(dim=1).mean().sqrt().item()
moved = (plain - followed).square().sum(dim=1).mean().sqrt().item()
print(f"from the end of the guided flow: {away:.3f}, without guidance {moved:.2f}")
record("guided_away", round(away, 2))
record("guided_moved", round(moved, 2))
assert away < moved / 3

# %% [markdown]
# ## One table at equal budget
#
# The package keeps the results of an experiment that is too long for a lab: each method has the same number of multiplications to spend, teachers and pairs included.

# %%
stored = stored_results("few_steps")
methods = stored["methods"]


def cell(name, key):
    """Write mean ± standard deviation over the seeds."""
    if key not in methods[name]:
        return ""
    strays = key.startswith("strays")
    middle, spread = ((100 if strays else 1) * number for number in methods[name][key])
    digits = 0 if strays or key in ("seconds", "updates") else 2
    return f"{middle:.{digits}f} ± {spread:.{digits}f}" + " %" * strays


# %%
for kind in ("energy", "strays"):
    print(
        "\n" + " " * 19 + "".join(f"{kind}_{n}".ljust(14) for n in (1, 2, 4)).rstrip()
    )
    for name in methods:
        cells = [cell(name, f"{kind}_{n}") for n in (1, 2, 4)]
        print(f"{name:19s}" + "".join(f"{c:14s}" for c in cells).rstrip())
print("\n".join(f"{key}: {value}" for key, value in stored["provenance"].items()))

# %%
for name, row in methods.items():
    for key in row:
        record(f"{name}_{key}".replace(" ", "_"), cell(name, key))
for key, value in stored["settings"].items():
    record(f"setting_{key}", value)

# %% tags=["hide-input"]
figure, axes = plotting.panels(["distance to the data", "share of strays"])
looks = {"flow matching": "#6b7280", "ReFlow": plotting.NOISE}
looks |= {"consistency": plotting.TRUTH, "MeanFlow": plotting.DATA}
looks |= {"improved MeanFlow": "#b45309", "shortcut": plotting.MODEL}
looks |= {"Lagrangian": "#60a5fa"}
for ax, kind in zip(axes, ("energy", "strays"), strict=True):
    for name, color in looks.items():
        rows = [methods[name][f"{kind}_{n}"] for n in (1, 2, 4)]
        middle, spread = zip(*rows, strict=True)
        ax.errorbar(
            (1, 2, 4), middle, spread, color=color, marker="o", ms=3, label=name
        )
    level = methods["fresh data"][f"{kind}_1"][0]
    ax.axhline(level, color="#9ca3af", linestyle=":", label="fresh data")
    ax.set(xscale="log", yscale="log", xlabel="steps", xticks=(1, 2, 4))
    ax.set_xticklabels(["1", "2", "4"])
axes[0].legend(fontsize=6)
plotting.show(
    figure,
    "few",
    "Two panels on log scales over one, two and four steps: energy distance to the data "
    "and share of strays, for seven methods, with fresh data as a dotted line. Flow "
    "matching with Euler steps is far above all others at one step.",
)

# %% [markdown]
# *Figure 10.2.* Energy distance to the data and share of samples more than 2.5 from every centre, after one, two and four steps. Mean and standard deviation of three seeds; dotted: fresh data.
#
# **Check 10.12** (the stored results). In every run each method that learns a map is nearer in one step than an Euler step of flow matching is, by three times; and improved MeanFlow gains in four steps over one.

# %%
maps = [name for name in methods if name not in ("fresh data", "flow matching")]
for run in stored["runs"]:
    for name in maps:
        assert run[name]["energy_1"] < run["flow matching"]["energy_1"] / 3, name
print("one step of a map beats one of Euler in every run:", True)

# %% [markdown]
# ## Summary
#
# - A flow map is known by its derivative in the end, by its derivative in the start, or by two jumps in a row with the velocity on the diagonal. Each is a loss.
# - Where the target contains the velocity of a line, the loss has a floor. MeanFlow's floor is stretched by the map itself, so it rises as the network learns.
# - Consistency training is MeanFlow with $t=1$.
# - Two jumps make two errors. They pay if the training has seen them.
# - A guided flow can be learned as a map; ask the teacher where the jump lands.
#
# ## Questions
#
# 1. In Check 10.1, which equation does a map fail that jumps with the right velocity and lands 1 % too far?
# 2. Train with `improved_mean_flow_loss` in the place of `mean_flow_loss`. Does its loss fall?
# 3. Set `same=0` in the training of MeanFlow. What becomes of one jump, and of the loss?
# 4. In Check 10.8 draw only pairs with $t-s<0.1$. What happens to the ratio of the first two variances, and why?
# 5. Guide by $\omega=6$. Is one jump still near the end of the guided flow?
