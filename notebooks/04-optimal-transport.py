# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab: Optimal transport
#
# Which noise should travel to which data point? So far chance decided. Here you decide, and measure what it buys and what it may break.
#
# After this lab you can
#
# - pair a batch at the least cost, and check the result against all permutations,
# - compute an entropic plan without underflow, and say when its iterations are enough,
# - tell which ways of using a plan change the distribution of the noise,
# - measure the energy and the straightness of a flow, and its quality against the number of steps,
# - recognise a forgotten target, a stale cache and a plan that ignores the labels.

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
import itertools
import math
import warnings

import torch
from scipy.optimize import linear_sum_assignment, linprog

from fmtutorial import distributions, plotting

# %%
from fmtutorial.couplings import (
    ConvergenceWarning,
    exact_ot,
    independent,
    sinkhorn,
    sinkhorn_kernel,
    sinkhorn_log,
    squared_distances,
    within_labels,
)

# %%
from fmtutorial.exact import ExactField
from fmtutorial.labs import record, stored_results, use_default_device
from fmtutorial.losses import flow_matching_loss, uniform_times
from fmtutorial.metrics import wasserstein
from fmtutorial.networks import MLP
from fmtutorial.paths import LINEAR, AffinePath
from fmtutorial.reflow import path_energy, straightness
from fmtutorial.solvers import euler, heun, solve
from fmtutorial.training import EMA, train

# %%
device = use_default_device()
generator = torch.Generator(device).manual_seed(0)
path = AffinePath(LINEAR)
ring = distributions.ring_of_gaussians()


def draw(target, n, dimension=2):
    """Draw n points of noise and n of data."""
    return torch.randn(n, dimension, generator=generator), target.sample(n, generator)


# %% [markdown]
# ## The cheapest pairing
#
# A batch holds $B$ noise points and $B$ data points. A pairing is a permutation $\pi$: data point $j$ gets the noise $x_0^{(\pi(j))}$. Its cost is the mean of $\lVert x_0^{(\pi(j))}-x_1^{(j)}\rVert^2$. `exact_ot` returns the noise in the order that makes this smallest.
#
# **Check 4.1** (against brute force). For small batches you can try all $B!$ permutations. You can also relax the problem: spread each point over several partners by a plan $P_{ij}\ge0$ with rows and columns that sum to $1/B$, and minimise $\sum_{ij}P_{ij}c_{ij}$, a linear program. Birkhoff's theorem says that the relaxation gains nothing. All three costs must agree, to rounding. The obvious shortcut, where each data point in turn takes the nearest noise that is left, must lose.


# %%
def cost_of(x0, x1):
    """Mean squared distance of the pairs in equal rows."""
    return (x0 - x1).double().square().sum(dim=1).mean().item()


def brute_force(cost):
    """Least mean cost over all permutations."""
    orders = torch.tensor(list(itertools.permutations(range(len(cost)))))
    return cost[orders, torch.arange(len(cost))].mean(dim=1).min().item()


# %%
def linear_program(cost):
    """Least mean cost over all plans."""
    n = len(cost)
    rows = torch.eye(n).repeat_interleave(n, dim=1)
    sums = torch.cat([rows, torch.eye(n).repeat(1, n)]).cpu().numpy()
    return linprog(cost.flatten().cpu().numpy(), A_eq=sums, b_eq=[1 / n] * 2 * n).fun


# %%
def greedy(x0, x1):
    """Each data point in turn takes the nearest noise that is left."""
    cost, order = squared_distances(x0, x1), []
    for j in range(len(cost)):
        order.append(cost[:, j].argmin().item())
        cost[order[-1]] = math.inf
    return x0[order]


# %%
greedy_loss = []
for size in range(2, 8):
    for _ in range(5):
        x0, x1 = draw(ring, size)
        cost, best = squared_distances(x0, x1), cost_of(exact_ot(x0, x1), x1)
        # the points are in single precision
        assert abs(best - brute_force(cost)) < 1e-4 * best
        assert abs(best - linear_program(cost)) < 1e-4 * best
        greedy_loss.append(cost_of(greedy(x0, x1), x1) / best - 1)

# %%
print("exact assignment = best permutation = best plan, for B = 2 to 7")
print(f"the greedy pairing costs more, at worst by {100 * max(greedy_loss):.0f} %")
assert max(greedy_loss) > 0.01

# %% [markdown]
# **Check 4.2** (a permutation). Each coupling returns every row of the noise exactly once and leaves the data where they are. Labels stay with their data, since nothing moves the data.


# %%
def same_rows(a, b):
    """Whether two batches hold the same rows in some order."""
    return sorted(a.tolist()) == sorted(b.tolist())


# %%
x0, x1 = draw(ring, 128)
before = x1.clone()
label = torch.arange(128) % 3
results = {c.__name__: c(x0, x1) for c in (independent, exact_ot, sinkhorn)}
results["within_labels"] = within_labels(exact_ot, x0, x1, label)
for name, paired in results.items():
    print(f"{name:14s} mean cost {cost_of(paired, x1):5.1f}")
    assert same_rows(paired, x0) and torch.equal(x1, before), name
twice = torch.cat([x0[:1], x0[:-1]])  # the test can fail: one row twice
assert not same_rows(twice, x0)

# %% [markdown]
# This is all that pairing adds to a training: a matrix of costs, an assignment, and an index for the noise. What follows is the loss of chapter 3.


# %% tags=["quote-pairing"]
def paired_loss(v, x0, x1, t):
    """Flow matching with optimal pairs; x0, x1: (B, d), t: (B,)."""
    # (B, B): the cost of sending noise i to data point j
    cost = (x0[:, None] - x1).square().sum(dim=2)
    # (B,): order[j] is the noise for data point j
    _, order = linear_sum_assignment(cost.T.cpu())
    x0 = x0[torch.as_tensor(order, device=x0.device)]
    # from here on it is the loss of chapter 3
    x_t = (1 - t)[:, None] * x0 + t[:, None] * x1
    return (v(x_t, t) - (x1 - x0)).square().sum(dim=1).mean()


# %% [markdown]
# **Check 4.17** (the lines above are the package's). For any field, the loss must be that of `flow_matching_loss` after `exact_ot`, to rounding in single precision. Without the pairing it must differ: the same field has another loss on other pairs.

# %%
t = (torch.arange(128) + 0.5) / 128
field = ExactField(path, ring)
by_hand = paired_loss(field, x0, x1, t).item()
by_package = flow_matching_loss(field, path, exact_ot(x0, x1), x1, t).item()
unpaired = flow_matching_loss(field, path, x0, x1, t).item()
print(f"loss by hand {by_hand:.1f}, by the package {by_package:.1f}")
print(f"on independent pairs {unpaired:.1f}")
assert abs(by_hand - by_package) < 1e-4 * by_package
assert abs(by_hand - unpaired) > 0.01 * unpaired

# %% [markdown]
# ## Straight lines that do not meet
#
# **Check 4.3.** In an optimal pairing no swap of two partners helps. This means $\langle x_0^{(i)}-x_0^{(j)},\,x_1^{(i)}-x_1^{(j)}\rangle\ge0$ for all pairs, after pairing. Then the lines stay apart: their squared distance at time $t$ is at least $(1-t)^2$ times that of the starts plus $t^2$ times that of the ends. You test both for all pairs of a batch. Random pairs must fail, about half of the time.


# %%
def swaps_that_help(x0, x1):
    """Return the share of pairs of lines that would gain by swapping partners."""
    a, b = x0[:, None] - x0, x1[:, None] - x1
    return ((a * b).sum(dim=2) < -1e-4).double().mean().item()


def too_close(x0, x1, t):
    """Return the share of pairs of lines nearer at time t than the bound allows."""
    a, b, x = ((1 - t) * x0, t * x1, (1 - t) * x0 + t * x1)
    a, b, x = (squared_distances(y, y) for y in (a, b, x))
    return (x < a + b - 1e-3).double().mean().item()


# %%
for name in ("independent", "exact_ot"):
    helpful = swaps_that_help(results[name], x1)
    close = max(too_close(results[name], x1, t) for t in (0.1, 0.3, 0.5, 0.7, 0.9))
    print(f"{name:12s} swaps that help: {helpful:.2f}   lines too close: {close:.2f}")
assert helpful == 0 and close == 0
assert swaps_that_help(x0, x1) > 0.4

# %% [markdown]
# ## Sinkhorn's algorithm
#
# Add $\rho\sum_{ij}P_{ij}\log P_{ij}$ to the cost of a plan. The minimiser is $P_{ij}=a_i\,e^{-c_{ij}/\rho}\,b_j$, and Sinkhorn's algorithm finds $a$ and $b$ by scaling rows and columns in turn. `sinkhorn_kernel` does this. `sinkhorn_log` does the same with logarithms.
#
# **Check 4.4** (two forms, one plan). The two agree to rounding. The columns, scaled last, are exact; the rows become exact with the iterations.

# %%
cost = squared_distances(x0, x1)
mean_cost = cost.mean().item()
by_kernel = sinkhorn_kernel(cost, 0.1 * mean_cost, 200)
by_log = sinkhorn_log(cost, 0.1 * mean_cost, 200)
too_few = sinkhorn_log(cost, 0.1 * mean_cost, 2)


def row_error(plan):
    """Total deviation of the row sums from 1/B."""
    return (plan.sum(dim=1) - 1 / len(plan)).abs().sum().item()


# %%
difference = (by_kernel - by_log).abs().max().item()
print("largest difference below 1e-12:", difference < 1e-12)
assert difference < 1e-12
assert (by_log.sum(dim=0) - 1 / 128).abs().max() < 1e-12
assert row_error(by_log) < 1e-6 < 1e-3 < row_error(too_few)

# %% [markdown]
# In the log domain the algorithm is a dozen lines. `log_sum` is the logarithm of what a row must sum to.


# %% tags=["quote-sinkhorn"]
def entropic_plan(cost, rho, iterations):
    """Return the plan, (B, B), as cost; rho > 0."""
    log_sum = -math.log(len(cost))
    g = torch.zeros_like(cost[0])
    for _ in range(iterations):
        rows = torch.logsumexp((g - cost) / rho, dim=1)
        f = rho * (log_sum - rows)
        columns = torch.logsumexp((f[:, None] - cost) / rho, dim=0)
        g = rho * (log_sum - columns)
    return torch.exp((f[:, None] + g - cost) / rho)


# %% [markdown]
# **Check 4.18** (the same plan). The package's plan and this one agree to rounding in double precision, also with a $\rho$ for which the kernel is zero almost everywhere.

# %%
for rho in (0.1 * mean_cost, 0.05):
    difference = entropic_plan(cost, rho, 50) - sinkhorn_log(cost, rho, 50)
    # an entry is at most 1/128, from an exponent of up to thousands
    print("agree to 1e-12:", difference.abs().max().item() < 1e-12)
    assert difference.abs().max() < 1e-12

# %% [markdown]
# **Check 4.5** (iterations and $\rho$). Two errors pull in opposite directions. A small $\rho$ needs many iterations. A large $\rho$ gives a blurred plan, whose cost lies above the optimum, but by no more than $\rho\log B$. The left panel shows the first error, the right one the second with its bound. Both use a batch of 64.

# %%
x0_small, x1_small = draw(ring, 64)
cost_small = squared_distances(x0_small, x1_small)
unit = cost_small.mean().item()
best = cost_of(exact_ot(x0_small, x1_small), x1_small)
counts = [1, 3, 10, 30, 100, 300, 1000]
curves = {
    relative: [row_error(sinkhorn_log(cost_small, relative * unit, n)) for n in counts]
    for relative in (0.5, 0.1, 0.02)
}
for n in (3, 10, 30):
    record(f"rows_{n}", f"{100 * curves[0.02][counts.index(n)] / 2:.2g}")

# %%
levels = [1.0, 0.3, 0.1, 0.03, 0.01]
gaps = []
for relative in levels:
    plan = sinkhorn_log(cost_small, relative * unit, 1500)
    gaps.append((plan * cost_small).sum().item() - best)
    # what unfinished rows may gain or lose
    slack = row_error(plan) * cost_small.max().item()
    assert -slack - 1e-3 < gaps[-1] < relative * unit * math.log(64) + slack
    above = f"{100 * gaps[-1] / best:5.1f} %"
    print(f"rho / mean cost {relative:4.2f}: cost above the optimum {above}")
assert gaps[0] > 10 * gaps[-1] > 0

# %% tags=["hide-input"]
figure, (left, right) = plotting.panels(["error of the rows", "cost above the optimum"])
colors = (plotting.NOISE, plotting.MODEL, plotting.DATA)
for color, (relative, errors) in zip(colors, curves.items(), strict=True):
    errors = [max(e, 1e-15) for e in errors]
    name = f"ρ = {relative} mean cost"
    left.plot(counts, errors, "o-", markersize=3, color=color, label=name)
left.set(xscale="log", yscale="log", xlabel="iterations")
left.legend(fontsize=7, loc="lower left")
bound = [relative * unit * math.log(64) for relative in levels]
right.plot(levels, gaps, "o-", markersize=3, color=plotting.MODEL, label="plan")
right.plot(levels, bound, "--", color=plotting.NOISE, label="bound ρ log B")
right.set(xscale="log", yscale="log", xlabel="ρ / mean cost")
right.legend(fontsize=7)
plotting.show(
    figure,
    "sinkhorn",
    "Left: the error of the row sums against iterations for three regularisations; "
    "with half the mean cost it is at rounding error after thirty iterations, with "
    "0.02 only after three hundred. Right: the cost of the plan above the optimum "
    "falls with the regularisation and stays below the bound rho log B.",
)

# %% [markdown]
# *Figure 4.1.* Left: the smaller $\rho$, the more iterations. Right: the larger $\rho$, the more the plan costs.
#
# **Check 4.6** (the unit of $\rho$). A plan depends on $c/\rho$ only. If you measure $x$ in other units, $c$ changes with the square, and a fixed $\rho=0.05$ means something else. As a measure of blur take the number of partners that a data point has in effect: $e^{H}$ with $H$ the entropy of its column. In the kernel form a small $\rho$ is worse than useless: $e^{-c/\rho}$ is zero in double precision once $c/\rho$ exceeds 745. The package raises an error.


# %%
def partners(plan):
    """Return the effective number of noise partners of a data point."""
    columns = plan / plan.sum(dim=0)
    return torch.special.entr(columns).sum(dim=0).exp().mean().item()


for scale in (0.1, 1.0, 10.0):
    scaled = scale**2 * cost_small
    fixed = partners(sinkhorn_log(scaled, 0.05, 300))
    relative = partners(sinkhorn_log(scaled, 0.05 * scaled.mean().item(), 300))
    print(f"x in units of {1 / scale:4.1f}: {fixed:4.1f} partners", end="; ")
    print(f"relative rho: {relative:4.1f}")
    record(f"partners_{scale:g}", f"{fixed:.1f}")
record("partners_relative", f"{relative:.1f}")

# %%
try:
    sinkhorn_kernel(cost_small, 0.05, 300)
    raise AssertionError("the kernel form did not notice its underflow")
except FloatingPointError as error:
    print("kernel form:", error)
zeros = (torch.exp(-cost_small / 0.05) == 0).double().mean().item()
print(f"share of the kernel that is exactly zero: {zeros:.2f}")
assert torch.isfinite(sinkhorn_log(cost_small, 0.05, 300)).all()
record("kernel_zeros", round(100 * zeros))

# %% [markdown]
# **Check 4.7** (the detour through the log plan). Some texts turn the entropic plan into a pairing by the permutation with the largest product of entries, a hard assignment on $\log P$. The chapter proves that this is the exact optimum whatever $\rho$ and the iterations are. One single iteration with a huge $\rho$ must do. The permutation nearest to $P$ in the sum of squares, which `sinkhorn` takes, does depend on $\rho$.

# %%
# a plan that is far from done is the point
warnings.simplefilter("ignore", ConvergenceWarning)
exact_cost = cost_of(exact_ot(x0, x1), x1)
for relative, iterations in ((10.0, 1), (0.3, 1), (0.05, 20)):
    plan = sinkhorn_log(cost, relative * mean_cost, iterations)
    _, order = linear_sum_assignment(-plan.log().T.cpu().numpy())
    by_product = cost_of(x0[torch.as_tensor(order, device=device)], x1)
    nearest = cost_of(sinkhorn(x0, x1, relative, iterations), x1)
    assert abs(by_product - exact_cost) < 1e-6
    print(f"rho {relative:5.2f}, {iterations:2d} iterations:", end=" ")
    print("largest product is optimal;", end=" ")
    print(f"nearest costs {nearest - exact_cost:.3f} more")
assert cost_of(sinkhorn(x0, x1, 0.3, 1), x1) > exact_cost + 1e-3

# %% [markdown]
# ## From a plan to pairs
#
# A plan is a matrix, training wants pairs. Three ways are in use: each data point takes its most likely noise (argmax), or $B$ pairs are drawn from the plan, or a permutation.
#
# **Check 4.8** (what each way loses). You count the noise points and the data points that a batch never uses, and look at the noise that is used: is its mean squared norm still $d=2$? Drawing $B$ times with replacement from $B$ equally likely rows misses each with probability $(1-1/B)^B\approx1/e$.


# %%
def by_argmax(plan):
    return plan.argmax(dim=0), torch.arange(len(plan))


def by_draws(plan):
    flat = torch.multinomial(
        plan.flatten(), len(plan), replacement=True, generator=generator
    )
    return flat // len(plan), flat % len(plan)


def by_permutation(plan):
    noise_rows, data_rows = linear_sum_assignment(-plan.cpu().numpy())
    return torch.as_tensor(noise_rows), torch.as_tensor(data_rows)


# %%
ways = {
    "argmax": by_argmax,
    "draws from the plan": by_draws,
    "permutation": by_permutation,
}
lost = {name: [] for name in ways}
for _ in range(60):
    a, b = draw(ring, 128)
    c = squared_distances(a, b)
    plan = sinkhorn_log(c, 0.05 * c.mean().item(), 100)
    for name, way in ways.items():
        noise_rows, data_rows = way(plan)
        unused = [1 - len(rows.unique()) / 128 for rows in (noise_rows, data_rows)]
        lost[name].append([*unused, (a[noise_rows].square().sum(1) - 2).mean().item()])

# %%
excess = {}
for name, rows in lost.items():
    rows = torch.tensor(rows, dtype=torch.float64)
    noise_lost, data_lost, shift = rows.mean(dim=0).tolist()
    standard_error = rows[:, 2].std().item() / math.sqrt(len(rows))
    excess[name] = shift / standard_error
    print(f"{name:20s} unused noise {noise_lost:.2f}, data {data_lost:.2f}", end=", ")
    print(f"mean squared norm of the noise {2 + shift:.2f}")
    for key, value in (("noise", noise_lost), ("data", data_lost)):
        record(f"{name.replace(' ', '_')}_{key}", round(100 * value))
    record(f"{name.replace(' ', '_')}_norm", round(2 + shift, 2))

# %%
expected = (1 - 1 / 128) ** 128
drawn = torch.tensor(lost["draws from the plan"])[:, :2].mean(dim=0)
assert (drawn - expected).abs().max() < 0.02  # 60 batches: the standard error is 0.004
assert torch.tensor(lost["permutation"])[:, :2].abs().max() == 0
kept = max(abs(excess[name]) for name in ("permutation", "draws from the plan"))
assert kept < 4 < abs(excess["argmax"])

# %% [markdown]
# Argmax changes the law of the noise: the sampler will start from another distribution than the one the field was trained on. Draws from the plan keep the law in the mean over batches, and waste a third of each batch. A permutation keeps everything.
#
# ## What changes and what does not
#
# **Check 4.9** (the path between the ends). Take one Gaussian, $p_1=\mathcal N(m,s^2I)$ with $s=\tfrac12$. Every coupling has the same ends. Between them the path differs. With independent pairs $x_t$ has the variance $(1-t)^2+t^2s^2$ in each coordinate. With optimal pairs, $x_1=m+s\,x_0$ for large batches, and the standard deviation is $1-t+ts$. The slope of the velocity, $\operatorname{Cov}(u_t,x_t)/\operatorname{Var}(x_t)$, differs too. `ExactField` has the slope of the independent pairs: it is not the field that you learn from optimal ones.

# %%
s, mean = 0.5, torch.tensor([4.0, 0.0])
normal = distributions.Gaussian(mean, s**2)
batches = [draw(normal, 512) for _ in range(8)]
data = torch.cat([b for _, b in batches])
noise = {c: torch.cat([c(a, b) for a, b in batches]) for c in (independent, exact_ot)}


def slope(x, u):
    """Regress the velocity on the state, pooled over the coordinates."""
    x, u = x - x.mean(dim=0), u - u.mean(dim=0)
    return ((x * u).sum() / (x * x).sum()).item()


# %%
for t in (0.0, 0.5, 1.0):
    forms = {
        independent: ((1 - t) ** 2 + t**2 * s**2, t * s**2 - (1 - t)),
        exact_ot: ((1 - t + t * s) ** 2, (s - 1) * (1 - t + t * s)),
    }
    for coupling, (variance, covariance) in forms.items():
        x, u = (1 - t) * noise[coupling] + t * data, data - noise[coupling]
        found, a = x.var(dim=0).mean().item(), slope(x, u)
        print(f"t = {t}: {coupling.__name__:12s} variance {found:.2f}, slope {a:5.2f}")
        # a standard error of 1.6 %; batches of 512 are not quite optimal
        assert abs(found - variance) < 0.08 * variance
        assert abs(a - covariance / variance) < 0.08

# %%
points = torch.full((4096,), 0.5)
for coupling in (independent, exact_ot):
    x = 0.5 * noise[coupling] + 0.5 * data
    a = slope(x, ExactField(path, normal)(x, points))
    print(f"{coupling.__name__:12s} slope of ExactField {a:.2f}")

# %% [markdown]
# **Check 4.10** (a target that forgets the pairing). Suppose the path uses the paired noise and the target the noise as it was drawn: `x_t = (1 - t) * paired + t * x1`, but `target = x1 - x0`. In a large batch the unpaired noise has next to nothing to do with $x_t$, so its mean is learned, which is about zero: the field becomes $\hat x_1(x,t)$, and the pull away from the noise is missing. On the Gaussian above its slope is $s/(1-t+ts)$, and the spread at $t=1$ comes out as $s^{-s/(1-s)}=2$ instead of $\tfrac12$.

# %%
unpaired, midpoints = noise[independent], (torch.arange(50) + 0.5) / 50
spreads = {}
for name, start in (("right", noise[exact_ot]), ("forgotten", unpaired)):
    # a linear field with slope a(t) multiplies the spread by exp(integral of a)
    slopes = [
        slope((1 - t) * noise[exact_ot] + t * data, data - start) for t in midpoints
    ]
    spreads[name] = math.exp(sum(slopes) / 50)
    print(f"{name:9s} target: standard deviation of the samples {spreads[name]:.2f}")
    record(f"spread_{name}", f"{spreads[name]:.2f}")
assert abs(spreads["right"] - s) < 0.03
# slopes have noise of 1/sqrt(8192)
assert abs(spreads["forgotten"] - s ** (-s / (1 - s))) < 0.2

# %% [markdown]
# The smallest case shows why. Two noise points on the line, $-1$ and $1$, and two data points, $-2$ and $4$. Whichever noise was drawn first, the pairing is the same. The forgotten target is not, and over the two orders its mean is the data minus the mean of *all* the noise.

# %%
two, ends = torch.tensor([[-1.0], [1.0]]), torch.tensor([[-2.0], [4.0]])
right, targets = ends - exact_ot(two, ends), []
for drawn in (two, two.flip(0)):
    assert torch.equal(exact_ot(drawn, ends), two)  # the order drawn has no say
    targets.append(ends - drawn)
    print("forgotten targets:", targets[-1].flatten().tolist())
average = sum(targets) / 2
print("their mean:", average.flatten().tolist())
print("right targets:", right.flatten().tolist())
assert torch.equal(average, ends - two.mean())

# %% [markdown]
# ## Energy
#
# **Check 4.11** (the sandwich). For any coupling, $W_2^2(p_0,p_1)\le\mathbb E\int_0^1\lVert v_t\rVert^2dt\le\mathbb E\lVert x_1-x_0\rVert^2$: the flow costs at most what the pairs cost, and at least what the best pairs would. For the Gaussian and independent pairs all three are known: $\lVert m\rVert^2+d(1-s)^2$, then $\lVert m\rVert^2+d(1+s^2)-\tfrac\pi2ds$ (the cost of the pairs minus the floor of the loss), then $\lVert m\rVert^2+d(1+s^2)$. `path_energy` measures the middle one on 4000 trajectories. `straightness` must be its difference from the mean squared distance of the ends.

# %%
start = torch.randn(4000, 2, generator=generator)
solution = solve(ExactField(path, normal), start, torch.linspace(0, 1, 101), heun)
energy, bend = path_energy(solution), straightness(solution)
lowest, highest = 16 + 2 * (1 - s) ** 2, 16 + 2 * (1 + s**2)
middle = highest - math.pi / 2 * 2 * s
ends = cost_of(start, solution.last)

# %%
print(f"W2² {lowest:.2f} <= energy {middle:.2f} <= pairs {highest:.2f}")
print(f"measured energy {energy:.2f}")
print(f"straightness {bend:.3f}, energy minus ends {energy - ends:.3f}")
assert abs(energy - middle) < 0.16  # 4000 points: four standard errors
assert lowest < energy < highest
assert energy < cost_of(start, normal.sample(4000, generator))
assert abs(energy - ends - bend) < 1e-3
few = solve(ExactField(path, normal), start[:1000], torch.linspace(0, 1, 101), heun)
# of the same points
assert wasserstein(start[:1000], few.last) ** 2 <= path_energy(few)

# %% [markdown]
# ## Minibatches
#
# **Check 4.12** (the bias). The pairing is optimal within a batch only. On average it costs more than $W_2^2$, less in larger batches, and at $B=1$ as much as independent pairs. For Gaussians you know the limit, $W_2^2=\lVert m\rVert^2+d(1-s)^2$. Here $m=0$, so that all of the cost is at stake, and the question is which share of the possible saving a batch gets. Dimension matters more than anything.

# %%
sizes = [1, 4, 16, 64, 256]
savings = {}
for dimension in (2, 8, 32):
    wide = distributions.Gaussian(torch.zeros(dimension), s**2)
    most, least = dimension * (1 + s**2), dimension * (1 - s) ** 2
    costs = []
    for size in sizes:
        trials = [
            draw(wide, size, dimension)
            for _ in range(max(4, (2048 if size < 4 else 1024) // size))
        ]
        costs.append(sum(cost_of(exact_ot(a, b), b) for a, b in trials) / len(trials))
    savings[dimension] = [(most - c) / (most - least) for c in costs]

# %%
for dimension, share in savings.items():
    chosen = ", ".join(f"{share[sizes.index(n)]:.2f}" for n in (1, 16, 256))
    print(f"d = {dimension:2d}: share of the saving at B = 1, 16, 256: {chosen}")
    record(f"saving_{dimension}", f"{100 * share[-1]:.0f}")
    assert abs(share[0]) < 0.1  # 2048 pairs: the standard error is at most 0.03
    assert share == sorted(share) and share[-1] < 1.02
assert savings[2][-1] > savings[8][-1] > savings[32][-1]

# %% tags=["hide-input"]
figure, (left,) = plotting.panels(["share of the possible saving"], width=4.5)
for color, (dimension, share) in zip(colors, savings.items(), strict=True):
    left.plot(sizes, share, "o-", markersize=3, color=color, label=f"d = {dimension}")
left.axhline(1, color=plotting.TRUTH, linewidth=0.7)
left.set(xscale="log", xlabel="batch size", ylim=(-0.05, 1.1))
left.legend(fontsize=7)
plotting.show(
    figure,
    "minibatch",
    "The share of the possible saving against the batch size in 2, 8 and 32 "
    "dimensions. In two dimensions a batch of 256 gets nearly all of it; in 32 "
    "dimensions less than half.",
)

# %% [markdown]
# *Figure 4.2.* What pairing within a batch saves, as a share of what the best coupling of the distributions would save.
#
# ## Quality against steps
#
# A script trains 24 networks: four tasks, two couplings, three seeds. Each network takes 2000 steps with batches of 128. Then 1000 samples are drawn with 1 to 100 Euler steps. The figures below are Wasserstein distances to fresh data, mean and standard deviation over the seeds; "fresh" is the distance of fresh data to each other, below which no sampler can be told from the data.

# %%
stored = stored_results("couplings")


def print_origin(results):
    """Say where stored results come from."""
    origin = results["provenance"]
    print(f"{origin['script']}, seeds {origin['seeds']}, {origin['minutes']} minutes,")
    print(f"torch {origin['torch']}, {origin['threads']} thread, {origin['cpu']}")


print_origin(stored)

# %%
steps = [str(n) for n in stored["euler_steps"]]
for task, result in stored["tasks"].items():
    print(f"\n{task}: fresh {result['fresh'][0]:.2f} ± {result['fresh'][1]:.2f}")
    print("Euler steps ", *(f"{n:>12s}" for n in steps))
    for name in ("independent", "optimal"):
        print(
            f"{name:12s}",
            *("{:5.2f} ± {:4.2f}".format(*result[name][n]) for n in steps),
        )

# %% tags=["hide-input"]
figure, axes = plotting.panels(list(stored["tasks"]), rows=2)
for ax, result in zip(axes, stored["tasks"].values(), strict=True):
    for name, color in (("independent", plotting.NOISE), ("optimal", plotting.MODEL)):
        middle, spread = zip(*(result[name][n] for n in steps), strict=True)
        n = stored["euler_steps"]
        ax.errorbar(n, middle, spread, color=color, capsize=2, label=name)
    floor = result["fresh"][0]
    ax.axhline(floor, color=plotting.DATA, linestyle="--", label="fresh data")
    ax.set(xscale="log", yscale="log", xlabel="Euler steps")
axes[0].set_ylabel("distance to data")
axes[2].set_ylabel("distance to data")
axes[0].legend(fontsize=7)
plotting.show(
    figure,
    "quality",
    "Four tasks: distance of the samples to fresh data against the number of Euler "
    "steps, with error bars over three seeds. At one to five steps the optimal pairing "
    "is far better; at fifty and more the two curves meet near the dashed line of "
    "fresh data.",
)

# %% [markdown]
# *Figure 4.3.* Optimal pairs pay at few steps. With many steps both come near the floor.
#
# The energies of the same networks' paths, beside the cost of independent pairs and $W_2^2$ (of 1000 points, which lies a little above the true value):

# %%
for task, result in stored["tasks"].items():
    print(f"{task:25s} pairs {result['independent_cost']:6.2f}", end="   ")
    for name in ("independent", "optimal"):
        print(name, "{:6.2f} ± {:.2f}".format(*result[name]["energy"]), end="   ")
    print(f"W2² {result['w2_squared'][0]:.2f}")

# %%
runs = [(n, r[n]) for r in stored["tasks"].values() for n in ("independent", "optimal")]
for task, result in stored["tasks"].items():
    key = task.replace(" ", "_")
    record(f"{key}_pairs", f"{result['independent_cost']:.3g}")
    record(f"{key}_w2", f"{result['w2_squared'][0]:.3g}")
    for name in ("independent", "optimal"):
        for what in ("energy", "straightness"):
            digits = "#.3g" if what == "energy" else ".2f"
            record(f"{key}_{name}_{what}", f"{result[name][what][0]:{digits}}")
record("spread_energy", f"{max(result['energy'][1] for _, result in runs):.1g}")

# %%
shown = stored["tasks"]["moons to eight Gaussians"]
record("fresh", "{:.2f} ± {:.2f}".format(*shown["fresh"]))
for name in ("independent", "optimal"):
    for n in ("1", "2", "10", "100"):
        record(f"{name}_{n}", "{:.2f} ± {:.2f}".format(*shown[name][n]))

# %% [markdown]
# **Check 4.13** (one row again). You train both couplings on one task, two moons to eight Gaussians, once more. The distance after two steps and the energy must lie in the spread of the stored ones, widened because three seeds say little about it: within five standard deviations or 20 % of the mean, whichever is more. The two couplings must be farther apart than that. And the energy of the polygons must be at least the squared distance of their ends.

# %%
task = "moons to eight Gaussians"
moons, eight = distributions.two_moons(), distributions.eight_gaussians()


# %%
def trained(coupling, steps=2000, size=128):
    """Train as the script does."""
    network = MLP(width=128)
    ema = EMA(network, decay=0.99)

    def loss():
        x0, x1 = moons.sample(size, generator), eight.sample(size, generator)
        t = uniform_times(size, generator)
        return flow_matching_loss(network, path, coupling(x0, x1), x1, t)

    for _ in train(network, loss, steps, learning_rate=3e-3, ema=ema):
        pass
    return ema.network


# %%
torch.manual_seed(7)  # the networks' first weights
fields = {"independent": trained(independent), "optimal": trained(exact_ot)}
start, fresh = moons.sample(1000, generator), eight.sample(1000, generator)
flows, coarse = {}, {}
with torch.no_grad():
    for name, field in fields.items():
        flows[name] = solve(field, start, torch.linspace(0, 1, 101), euler)
        coarse[name] = solve(field, start, torch.linspace(0, 1, 3), euler)

# %% tags=["nbval-ignore-output"]
live, room = {}, {}
for name in fields:
    live[name, "2"] = wasserstein(coarse[name].last, fresh)
    live[name, "energy"] = path_energy(flows[name])
    for key in ("2", "energy"):
        value, (centre, spread) = live[name, key], stored["tasks"][task][name][key]
        room[name, key] = max(5 * spread, 0.2 * centre)
        print(f"{name:12s} {key:6s} now {value:5.2f}", end=", ")
        print(f"stored {centre:5.2f} ± {spread:.2f}")
        assert abs(value - centre) < room[name, key], (name, key)
    assert live[name, "energy"] >= wasserstein(start, flows[name].last) ** 2
for key in ("2", "energy"):
    apart = live["independent", key] - live["optimal", key]
    assert apart > max(room["independent", key], room["optimal", key]), (key, apart)

# %% tags=["hide-input"]
titles = ["independent pairs", "optimal pairs", *["learned from them"] * 2]
figure, axes = plotting.panels(titles, extent=6.5, rows=2)
a, b = moons.sample(128, generator), eight.sample(128, generator)
for ax, coupling in zip(axes, (independent, exact_ot), strict=False):
    lines = torch.stack([coupling(a, b), b])
    plotting.draw_trajectories(ax, lines)
for ax, flow in zip(axes[2:], flows.values(), strict=True):
    plotting.draw_trajectories(ax, flow.states[::4, :128])
plotting.show(
    figure,
    "pairs",
    "Top: 128 lines from two moons to eight Gaussians. Independent pairs cross "
    "everywhere; optimal pairs fan out without crossing. Bottom: trajectories of the "
    "fields learned from them; the left ones start towards the middle and bend, the "
    "right ones are nearly straight.",
)

# %% [markdown]
# *Figure 4.4.* Pairs (top) and the trajectories of the fields learned from such pairs (bottom). Where lines cross, the field has to average, and its trajectories bend.
#
# ## What a pairing costs
#
# Processor time in milliseconds on one thread, measured by another script: the exact pairing, a hundred iterations of Sinkhorn, and a training step of the small network. `without_prices` is SciPy's solver on the costs as they are, before `exact_ot` takes a price off each column. Exact assignment grows like $B^3$ at worst, Sinkhorn like $B^2$ for each iteration.

# %%
costs = stored_results("pairing_costs")
print_origin(costs)
for size, times in costs["by_size"].items():
    print(f"B = {size:>4s}:", *(f"{name} {ms:.1f}" for name, ms in times.items()))
    for name in ("exact", "sinkhorn", "training"):
        digits = 0 if times[name] >= 20 else 1
        record(f"ms_{name}_{size}", f"{times[name]:.{digits}f}")
    assert times["exact"] < times["sinkhorn"]

# %%
gains = {
    size: times["without_prices"] / times["exact"]
    for size, times in costs["by_size"].items()
}
print("gain by prices:", *(f"{size}: {gain:.1f}" for size, gain in gains.items()))
record("prices_256", f"{gains['256']:.1f}")
record("prices_2048", f"{gains['2048']:.0f}")
assert costs["by_size"]["128"]["exact"] < costs["by_size"]["128"]["training"]

# %% [markdown]
# ## One batch on several devices
#
# If several devices share a batch, each can pair its own rows, or they can pair the whole. **Check 4.19** (what the whole batch adds). The pairs of the shares are one pairing of the whole among others, so the whole never costs more, batch by batch. On average it gains what a larger batch gains. You measure, for Gaussians in the plane and in 32 dimensions, the share of the possible saving, and what is left of the variance of the target $x_1-x_0$ around the best linear prediction from $x_t$, in units of that of independent pairs, $\tfrac\pi2ds$.


# %%
def by_shares(x0, x1, devices=2):
    """Pair the rows of each device, as if it knew no others."""
    shares = zip(x0.chunk(devices), x1.chunk(devices), strict=True)
    return torch.cat([exact_ot(a, b) for a, b in shares])


def left_over(x0, x1):
    """Return the mean over t of the variance of the target, given x_t linearly."""
    u, variance = x1 - x0, 0
    for t in midpoints:
        x = (1 - t) * x0 + t * x1
        variance += (u * u).sum() - (u * x).sum() ** 2 / (x * x).sum()
    return (variance / (len(midpoints) * len(x0))).item()


# %%
own = torch.Generator(device).manual_seed(0)
live = {}
for dimension in (2, 32):
    most, least = dimension * (1 + s**2), dimension * (1 - s) ** 2
    a, b = torch.randn(2, 16, 128, dimension, generator=own)
    b = s * b
    for way in (by_shares, exact_ot):
        paired = torch.stack([way(x, y) for x, y in zip(a, b, strict=True)])
        each = (paired - b).square().sum(dim=2).mean(dim=1)
        variance = left_over(paired.flatten(0, 1), b.flatten(0, 1))
        floor = math.pi / 2 * dimension * s
        saving = (most - each.mean().item()) / (most - least)
        live[dimension, way] = each, 100 * saving, 100 * variance / floor

# %%
for dimension in (2, 32):
    stored_rows = costs["shared"][str(dimension)]["128"]
    for name, way in (("own share", by_shares), ("all points", exact_ot)):
        _, saving, left = live[dimension, way]
        print(f"d = {dimension:2d}, {name:10s}: saving {saving:.0f} %", end=", ")
        print(f"variance left {left:.0f} %")
        # 2048 pairs here, 8192 for each of three seeds there
        assert abs(saving - stored_rows[name]["saving_percent"][0]) < 5
        assert abs(left - stored_rows[name]["variance_percent"][0]) < 3
    whole, shares = live[dimension, exact_ot][0], live[dimension, by_shares][0]
    assert (whole <= shares + 1e-4).all() and whole.mean() < shares.mean()

# %% [markdown]
# What it costs takes real processes. A script starts two, joined by PyTorch's `gloo`, on one machine. Each holds half of a batch. *Own share*: nothing is sent. *All points*: both gather all points and solve the same problem. *Split costs*: both gather the noise, each computes the costs of its own data, and the first solves for both. The times are processor time of the busier one, the bytes those of both processes together.

# %%
for dimension, sizes_shared in costs["shared"].items():
    for size, ways_shared in sizes_shared.items():
        print(f"d = {dimension}, B = {size}")
        for name, row in ways_shared.items():
            print(f"  {name:11s} {row['milliseconds']:6.1f} ms", end=", ")
            print(f"{row['bytes'] / 1e6:6.2f} MB", end=", ")
            print("saving {:.1f} ± {:.1f} %".format(*row["saving_percent"]), end=", ")
            print("variance {:.1f} ± {:.1f} %".format(*row["variance_percent"]))

# %%
for dimension, sizes_shared in costs["shared"].items():
    for size, ways_shared in sizes_shared.items():
        d, n = int(dimension), int(size)
        expected = {"own share": 0, "all points": 8 * n * d}
        expected["split costs"] = 4 * n * d + 8 * n * n // 2 + 8 * n // 2
        assert expected == {name: row["bytes"] for name, row in ways_shared.items()}
        least = min(row["milliseconds"] for row in ways_shared.values())
        assert ways_shared["own share"]["milliseconds"] == least
print("bytes are as counted by hand; nothing is faster than own shares")

# %%
for dimension in ("2", "784"):
    for name, row in costs["shared"][dimension]["512"].items():
        key = f"devices_{dimension}_{name.replace(' ', '_')}"
        record(f"{key}_ms", f"{row['milliseconds']:.2g}")
        record(f"{key}_bytes", f"{row['bytes'] / 1e6:.2g}")
        record(f"{key}_saving", f"{row['saving_percent'][0]:.1f}")
        record(f"{key}_variance", f"{row['variance_percent'][0]:.1f}")

# %% [markdown]
# ## Warm-up
#
# Should a training start with one coupling and go on with the other? The script tries three mixtures on two moons to eight Gaussians, with as many steps in all. The columns are the distance after 2, 10 and 100 Euler steps, and the energy.

# %%
mixtures = {name: stored["tasks"][task][name] for name in ("independent", "optimal")}
mixtures |= stored["warm_up"]
columns = ("2", "10", "100", "energy")
for number, (name, result) in enumerate(mixtures.items()):
    row = {n: "{:.2f} ± {:.2f}".format(*result[n]) for n in columns}
    print(f"{name:32s}", "   ".join(row.values()))
    for n in ("2", "100"):
        record(f"warm_{number}_{n}", row[n])

# %% [markdown]
# ## A cache of pairs
#
# **Check 4.14** (the stale one and the right one). Pairing costs time, so you may want to store it. A cache keyed by the address of the noise, `x0.data_ptr()`, is wrong. An address names a place in memory, and the next batch may lie in the same place. With buffers that are refilled it always does: from the second batch on the cache returns noise of the first one.

# %%
cache = {}


def cached_by_address(x0, x1):
    """Do not use this."""
    key = x0.data_ptr()
    if key not in cache:
        cache[key] = exact_ot(x0, x1)
    return cache[key]


# %%
buffer0, buffer1, stale, costs = torch.empty(128, 2), torch.empty(128, 2), [], []
for _ in range(50):
    a, b = draw(ring, 128)
    buffer0.copy_(a)
    buffer1.copy_(b)
    paired = cached_by_address(buffer0, buffer1)
    stale.append(not same_rows(paired, buffer0))
    costs.append([cost_of(x, b) for x in (exact_ot(a, b), paired, a)])
right, cached, unpaired = torch.tensor(costs)[1:].mean(dim=0).tolist()
print(f"stale batches: {sum(stale)} of 50")
print(f"mean cost: fresh pairs {right:.0f}, from the cache {cached:.0f}", end=", ")
print(f"unpaired {unpaired:.0f}")
record("stale", sum(stale))

# %%
assert sum(stale) == 49
assert right < 0.95 * cached and abs(cached - unpaired) < 0.05 * unpaired
in_words = f"{right:.0f} for fresh pairs, {cached:.0f} from the cache, "
record("stale_cost", in_words + f"{unpaired:.0f} unpaired")

# %% [markdown]
# Without a buffer it depends on the allocator: a new tensor often gets the memory of the one that was just freed. Here is the share on this machine.

# %% tags=["nbval-ignore-output"]
cache.clear()
stale = []
for _ in range(200):
    a, b = draw(ring, 128)
    stale.append(not same_rows(cached_by_address(a, b), a))
    del a, b
print(f"stale batches without a buffer: {100 * sum(stale) / 200:.0f} %")

# %% [markdown]
# The right cache stores the pairs themselves. Pair a large pool once, draw minibatches of its rows, and renew the pool before its noise gets stale. A row keeps its partner whatever the memory does. And the pool's pairs are better than those of its minibatches, since the pool is larger.

# %%
pool_x0, pool_x1 = draw(ring, 1024)
pool_x0 = exact_ot(pool_x0, pool_x1)
rows = torch.randperm(1024, generator=generator).reshape(8, 128)
by_pool = sum(cost_of(pool_x0[i], pool_x1[i]) for i in rows) / 8
again = sum(cost_of(exact_ot(pool_x0[i], pool_x1[i]), pool_x1[i]) for i in rows) / 8
unchanged = abs(again / by_pool - 1) < 1e-6
print("pairing a minibatch of the pool again changes nothing:", unchanged)
assert unchanged
mixed = pool_x0[torch.randperm(1024, generator=generator)]
by_batch = sum(cost_of(exact_ot(mixed[i], pool_x1[i]), pool_x1[i]) for i in rows) / 8
print(f"mean cost by pool {by_pool:.1f}, by minibatch {by_batch:.1f}")
assert by_pool < by_batch

# %% [markdown]
# ## Labels
#
# **Check 4.15** (a plan that does not see the labels). Two classes, one far to the left and one far to the right. A pairing of the whole batch gives the left half of the noise to the left class. In the limit of point masses the first coordinate of its noise has the mean $-\sqrt{2/\pi}$. `within_labels` pairs inside each class: its noise has mean zero, as it should.

# %%
centres = torch.tensor([[-3.0, 0.0], [3.0, 0.0]])


def two_classes(n):
    """Draw noise, data and labels."""
    label = torch.randint(2, (n,), generator=generator)
    x0, x1 = torch.randn(2, n, 2, generator=generator)
    return x0, centres[label] + 0.5 * x1, label


# %%
def blind(x0, x1, label):
    return exact_ot(x0, x1)


def aware(x0, x1, label):
    return within_labels(exact_ot, x0, x1, label)


# %%
for pairing in (blind, aware):
    means = []
    for _ in range(100):
        x0, x1, label = two_classes(128)
        means.append(pairing(x0, x1, label)[label == 0, 0].mean())
    value = torch.stack(means).mean().item()
    error = torch.stack(means).std().item() / 10
    print(f"{pairing.__name__}: mean of the noise of the left class {value:5.2f}")
    record(f"noise_{pairing.__name__}", f"{value:.2f}")
    if pairing is aware:
        assert abs(value) < 4 * error
    else:
        # the classes of a batch are not equally large, and not points
        assert abs(value + math.sqrt(2 / math.pi)) < 0.05

# %% [markdown]
# **Check 4.16** (the damage). Train a network with labels on each, and ask for the left class, starting from $\mathcal N(0,I)$ as one does. The label-blind network has never seen this class start from the right half. Its samples must be farther from fresh data than the mean of fresh pairs plus four standard deviations. How far the class-aware one comes is printed beside it, in units of fresh data.


# %%
def trained_with_labels(pairing, steps=600):
    network = MLP(width=64, labels=2)
    ema = EMA(network, decay=0.99)

    def loss():
        x0, x1, label = two_classes(128)
        t = uniform_times(128, generator)
        conditional = lambda x, t: network(x, t, label)  # noqa: E731
        return flow_matching_loss(conditional, path, pairing(x0, x1, label), x1, t)

    for _ in train(network, loss, steps, learning_rate=3e-3, ema=ema):
        pass
    return ema.network


# %%
start = torch.randn(1000, 2, generator=generator)
left, times = torch.zeros(1000, dtype=torch.int64), torch.linspace(0, 1, 51)
by_label = {}
for pairing in (blind, aware):
    network = trained_with_labels(pairing)
    with torch.no_grad():
        bound = lambda x, t, f=network: f(x, t, left)  # noqa: E731
        by_label[pairing] = solve(bound, start, times, heun).last


def left_class():
    return centres[0] + 0.5 * torch.randn(1000, 2, generator=generator)


# %% tags=["nbval-ignore-output"]
floor = torch.tensor([wasserstein(left_class(), left_class()) for _ in range(8)])
distances = {p: wasserstein(x, left_class()) for p, x in by_label.items()}
for pairing, distance in distances.items():
    x = by_label[pairing]
    print(f"{pairing.__name__}: distance {distance:.2f}", end=", ")
    print(f"fresh data {floor.mean():.2f}", end="; ")
    print(f"standard deviation across {x[:, 0].std():.2f} instead of 0.50")
    record(f"label_{pairing.__name__}", f"{distance / floor.mean():.1f}")
    record(f"label_std_{pairing.__name__}", f"{x[:, 0].std():.2f}")
assert distances[blind] > floor.mean() + 4 * floor.std()
assert distances[blind] > 2 * distances[aware]

# %% tags=["hide-input"]
titles = ["noise of the left class", "blind", "class-aware"]
figure, axes = plotting.panels(titles, extent=5)
x0, x1, label = two_classes(1024)
plotting.draw_samples(axes[0], x0[label == 0], "#9ca3af", size=3)
plotting.draw_samples(axes[0], blind(x0, x1, label)[label == 0], plotting.MODEL, size=3)
for ax, pairing in zip(axes[1:], (blind, aware), strict=True):
    plotting.draw_samples(ax, left_class(), plotting.DATA, size=3)
    plotting.draw_samples(ax, by_label[pairing], plotting.MODEL, size=3)
plotting.show(
    figure,
    "labels",
    "Left: the noise that the left class sees in training; all of the plane in grey "
    "with class-aware pairs, the left half in blue with label-blind ones. Middle: "
    "samples of the blind network in blue spread far beyond the class in orange. "
    "Right: those of the class-aware network cover it.",
)

# %% [markdown]
# *Figure 4.5.* Left: noise seen by the left class in training, label-blind in blue, class-aware in grey. Middle and right: samples of that class (blue) over fresh data (orange).
#
# ## Summary
#
# - The cheapest pairing of a batch is an assignment problem. Its lines do not meet.
# - An entropic plan needs log-domain arithmetic and a regularisation in units of the cost. To turn it into pairs, take a permutation.
# - Permuting the noise keeps both marginals. It changes the path between them, and the field.
# - Pairing pays where steps are few. It costs little for batches of a hundred or two, and buys less in high dimension.
# - With labels, pair within each class. Several devices may pair each its own rows.
#
# ## Questions
#
# 1. Which coupling has the largest mean cost of all permutations, and what would its lines look like? Try `exact_ot(x0, -x1)`.
# 2. One Euler step from independent pairs ends in one point. Which, and why?
# 3. In Check 4.8, how does the share lost by argmax change with $\rho$?
# 4. What happens to Check 4.15 if one class has nine times as many data as the other?
