# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Lab: Discrete
#
# Flow matching for tokens. A velocity becomes a rate of jumps, the continuity equation becomes Kolmogorov's, and the rest of chapters 1 to 3 comes again. You test every statement on sequences of three tokens, where all probabilities fit into a table. Then a small network learns words, letter by letter in any order.
#
# After this lab you can
#
# - simulate a Markov chain, and compute its law with a matrix,
# - average conditional rates to the marginal one, by enumeration,
# - train on masked tokens, and turn the loss into a bound on the likelihood,
# - tell the error of a step in time from that of unmasking tokens together,
# - sample with no error of steps at all,
# - fill the gaps in a word with a model that was never trained to.

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
from collections import Counter
from functools import partial
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import torch
from scipy.stats import chisquare
from torch import nn

# %%
from fmtutorial import plotting
from fmtutorial.discrete import (
    all_states,
    draw_tokens,
    euler_step,
    gillespie,
    leap_step,
    one_hot,
    rate_matrix,
    simulate,
    step_matrix,
)

# %%
from fmtutorial.labs import (
    record,
    shakespeare_words,
    stored_results,
    use_default_device,
)
from fmtutorial.paths import COSINE, LINEAR
from fmtutorial.solvers import rk4, solve
from fmtutorial.training import train

device = use_default_device()

# %%
from fmtutorial.discrete import (
    Denoiser,
    ExactRate,
    guided_posterior,
    likelihood_bound,
    masking_path,
    uniform_path,
)

generator = torch.Generator(device).manual_seed(0)
torch.manual_seed(0)  # draws without a generator, and first weights
double = {"dtype": torch.float64}

# %% [markdown]
# ## A chain and its law
#
# A Markov chain stays at a token for a while, and jumps. Row $x$ of the matrix $Q$ has the rates from $x$: in a short time $h$ it jumps to $y$ with probability $h\,Q(x,y)$. On the diagonal stands minus the sum of the others, so that rows sum to zero.

# %%
Q = torch.tensor([[-1.0, 0.6, 0.4], [0.2, -0.5, 0.3], [0.5, 1.5, -2.0]], **double)


# %% tags=["quote-chain"]
def run_chain(x, Q, h, steps):
    rows = torch.arange(len(x))
    for _ in range(steps):
        law = h * Q[x]
        law[rows, x] += 1  # or stay
        x = law.multinomial(1)[:, 0]
    return x


# %% [markdown]
# **Check 12.1** (Kolmogorov). The law of the chain, a row $p$, obeys $\dot p=pQ$, so that $p_t=p_0e^{tQ}$. An ODE solver finds the same to $10^{-10}$. The law after $n$ steps of length $1/n$ is $p_0(I+Q/n)^n$; half the step, half the error. And 20 000 chains have that law, by a chi-square test.

# %%
start = torch.tensor([[1.0, 0.0, 0.0]], **double)
law = start @ torch.matrix_exp(Q)
solved = solve(lambda p, t: p @ Q, start, torch.linspace(0, 1, 201, **double), rk4).last
print(
    "the ODE has the law of the exponential:", (solved - law).abs().max().item() < 1e-10
)
assert (solved - law).abs().max() < 1e-10


# %%
def after(n):
    return start @ torch.linalg.matrix_power(torch.eye(3, **double) + Q / n, n)


errors = [(after(n) - law).abs().sum().item() for n in (50, 100, 200)]
print(f"half the step: the error falls by {errors[0] / errors[1]:.2f}", end=" ")
print(f"and {errors[1] / errors[2]:.2f}")
assert all(1.9 < a / b < 2.1 for a, b in zip(errors[:-1], errors[1:], strict=True))

# %%
x = run_chain(torch.zeros(20_000, dtype=torch.int64), Q, 0.02, 50)
seen = torch.bincount(x, minlength=3).cpu().numpy()
p_value = chisquare(seen, (20_000 * after(50)[0]).cpu().numpy()).pvalue
print("the chains have that law:", p_value > 1e-4)
assert p_value > 1e-4

# %% [markdown]
# ## A path for tokens
#
# There is no point halfway between two letters. So the path mixes laws: a token is the data's with probability $\alpha_t$, and noise otherwise. Noise is a **mask**, a token of its own, or any token at random.


# %% tags=["quote-path"]
def noised(x1, t, noise):
    u = torch.rand(x1.shape)
    keep = u < t[:, None]
    return torch.where(keep, x1, noise)


# %% [markdown]
# **Check 12.2** (conditional rate). From any token that is not the data's, jump there at rate $\nu_t=\dot\alpha_t/(1-\alpha_t)$, and nowhere else. For one token, two sources and two schedules: $p_t(\cdot\mid x_1)\,Q_t$ is the time derivative of $p_t(\cdot\mid x_1)$, which finite differences give to $10^{-8}$. And the function above draws from $p_t(\cdot\mid x_1)$, as `path.sample` does: 20 000 tokens of each, by chi-square tests.

# %%
one = torch.ones(4, **double)
for path in (masking_path(3), uniform_path(4)):
    path = type(path)(path.source, COSINE) if path.mask is None else path
    data = one_hot(torch.tensor([1]), one[None])[0]

    def law_of_token(t, path=path, data=data):
        alpha = path.schedule.alpha(torch.tensor(t, **double))
        return (1 - alpha) * path.noise(data) + alpha * data

    tokens = torch.arange(4)
    rates = path.conditional_rate(tokens, torch.ones_like(tokens), 0.4 * one)
    slope = (law_of_token(0.4 + 1e-5) - law_of_token(0.4 - 1e-5)) / 2e-5
    miss = (law_of_token(0.4) @ rates - slope).abs().max().item()
    print(f"{path.schedule.name}: the conditional rate moves the path", miss < 1e-8)
    assert miss < 1e-8

# %%
path, at = uniform_path(3), torch.full((20_000,), 0.4)
x1, noise = torch.ones(20_000, 1, dtype=torch.int64), torch.randint(3, (20_000, 1))
wanted = 20_000 * np.array([0.2, 0.6, 0.2])  # 0.6 / 3, and 0.4 more for the data's
for x in (noised(x1, at, noise), path.sample(x1, at, generator)):
    seen = torch.bincount(x.flatten(), minlength=3).cpu().numpy()
    p_value = chisquare(seen, wanted).pvalue
    print("the draws have the law of the path:", p_value > 1e-4)
    assert p_value > 1e-4

# %% [markdown]
# ## The marginal rate
#
# A law on sequences of three positions, with three tokens, that prefers neighbours which agree. It is a table of 27 numbers. With masks there are four tokens, and the table has zeros where one is a mask.

# %%
a, b, c = torch.cartesian_prod(*3 * [torch.arange(3)]).T
scores = 1.5 * (a == b) + 1.0 * (b == c) + 0.3 * a - 0.2 * c * (a == 1)
table = scores.double().exp().reshape(3, 3, 3)
table = table / table.sum()


def with_mask(table):
    return nn.functional.pad(table, table.ndim * (0, 1))


# %% [markdown]
# By Bayes' rule each sequence $x_1$ has a weight given $x_t=x$. The marginal rate is the weighted mean of the conditional ones, by enumeration:

# %%
path = uniform_path(3)
source, sequences, law = path.noise(table), all_states(3, 3), table.flatten()


# %% tags=["quote-marginal"]
def marginal_rate(x, t):
    same = sequences == x[:, None]
    kept = t * same.double()
    noise = (1 - t) * source[x][:, None]
    w = law * (kept + noise).prod(2)
    w = w / w.sum(1, keepdim=True)
    data = one_hot(sequences, table)
    p = torch.tensordot(w, data, 1)
    return (p - one_hot(x, p)) / (1 - t)


# %% [markdown]
# **Check 12.3** (marginalisation). The same as `ExactRate`, which sums position by position, to $10^{-12}$. And it moves the marginal path: with the matrix $Q_t$ of all 27 states, $p_tQ_t=\dot p_t$, by finite differences, to $10^{-8}$.

# %%
exact = ExactRate(path, table)
t = torch.full((27,), 0.6, **double)
rates = marginal_rate(sequences, 0.6)
miss = (rates - exact(sequences, t)).abs().max().item()
print("enumeration has the rates of the package:", miss < 1e-12)
before, now, later = exact.law_at(t[:3] + torch.tensor([-1e-5, 0, 1e-5])).flatten(1)
slope = (later - before) / 2e-5
moved = (now @ rate_matrix(rates) - slope).abs().max().item()
transposed = (rate_matrix(rates) @ now - slope).abs().max().item()
print("the marginal rate moves the marginals:", moved < 1e-8)
print(f"with the transposed matrix they would be off by {transposed:.1f}")
assert miss < 1e-12 and moved < 1e-8 and transposed > 0.1

# %% [markdown]
# **Check 12.4** (from noise to data). Solve $\dot p=pQ_t$ from near noise to near data, with rk4 in 100 steps, and compare with the closed form at the end: to $10^{-8}$, for masks and for uniform noise, two schedules each.

# %%
grid = torch.linspace(0.1, 0.8, 101, **double)
for schedule in (LINEAR, COSINE):
    for path in (masking_path(3, schedule), uniform_path(3, schedule)):
        law = table if path.mask is None else with_mask(table)
        known, states = ExactRate(path, law), all_states(path.size, 3)

        def field(p, t, known=known, states=states):
            return p @ rate_matrix(known(states, t.expand(len(states))))

        p = solve(field, known.law_at(grid[:1]).flatten(1), grid, rk4).last
        miss = (p - known.law_at(grid[-1:]).flatten(1)).abs().max().item()
        print(f"{schedule.name}, {path.size} tokens: arrives {miss < 1e-8}")
        assert miss < 1e-8

# %%
single, times = torch.tensor([0.5, 0.3, 0.2]), torch.linspace(0, 1, 121)
kinds = {"masks": masking_path(3), "uniform noise": uniform_path(3)}
bands, chains = [], []
for path in kinds.values():
    target = one_hot(torch.arange(3), torch.ones(1, path.size)).T @ single
    bands.append(times[:, None] * target + (1 - times[:, None]) * path.noise(target))
    known, found = ExactRate(path, target), [draw_tokens(path.source.expand(5, 1, -1))]
    at = lambda x, t, k=known: k.posterior(x, t + 1e-6)  # noqa: E731
    for now, end in zip(times[:-1], times[1:], strict=True):
        pair = torch.stack([now, end])
        found.append(simulate(partial(path.step, at), found[-1], pair, generator))
    chains.append(torch.stack(found)[:, :, 0])

# %% tags=["hide-input"]
figure, axes = plotting.panels([*kinds, "five chains", "five chains"], rows=2)
colors = ["#1d4ed8", "#f59e0b", "#0f766e", "#9ca3af"]
for i, path in enumerate(kinds.values()):
    axes[i].stackplot(times.cpu(), bands[i].T.cpu().numpy(), colors=colors[: path.size])
    axes[i].set(xlim=(0, 1), ylim=(0, 1), xlabel="t")
    for k, chain in enumerate(chains[i].T.cpu().numpy()):
        axes[2 + i].plot(times.cpu(), chain + 0.12 * (k - 2), lw=1.2)
    axes[2 + i].set(xlim=(0, 1), xlabel="t", yticks=range(4), ylim=(-0.5, 3.5))
    axes[2 + i].set_yticklabels(["a", "b", "c", "mask" if path.size == 4 else ""])
plotting.show(
    figure,
    "discrete-paths",
    "Above: shares of the tokens over time, as stacked areas. With masks a grey area "
    "shrinks from all to nothing while those of a, b and c grow to 0.5, 0.3 and 0.2. "
    "With uniform noise all three begin at a third. Below: five chains each. With "
    "masks every chain jumps once, from the mask to a letter; with uniform noise most "
    "stay where they are.",
)

# %% [markdown]
# *Figure 12.1.* One token with the probabilities 0.5, 0.3 and 0.2 (blue a, orange b, green c; grey is the mask). Above: its law over time. Below: chains with the marginal rates. A mask falls once and for good. With uniform noise a token may jump several times, or never.

# %% [markdown]
# ## The loss, its floor and the bound
#
# A network sees $x_t$ and gives a law for each position. The loss is the cross entropy with the token that was there.
#
# **Check 12.5** (floor). Let the "network" be a free table: logits for each of the 27 states. Its loss, by enumeration of all pairs, is the mean divergence from the exact posterior plus the mean entropy of the latter, so that both have the same gradient. To $10^{-12}$.

# %%
path, t = uniform_path(3), torch.full((27,), 0.4, **double)
exact = ExactRate(path, table)
same = (sequences[:, None] == sequences).double()  # (x, x₁, position)
joint = table.flatten() * (0.4 * same + 0.6 / 3).prod(2)
posterior, p = exact.posterior(sequences, t), exact.law_at(t[:1]).flatten()
logits = torch.randn(27, 3, 3, generator=generator, **double, requires_grad=True)

# %%
log_q = logits.log_softmax(2)
right = log_q[:, torch.arange(3), sequences].sum(2)  # of all tokens of x₁, given x
loss = -(joint * right).sum()
kl = (p[:, None, None] * posterior * (posterior.log() - log_q)).sum()
floor = p @ exact.target_entropy(sequences, t)
slopes = [
    torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (loss, kl)
]
print("loss = divergence + floor:", (loss - kl - floor).abs().item() < 1e-12)
print("the same gradient:", (slopes[0] - slopes[1]).abs().max().item() < 1e-12)
print(f"floor: {floor:.3f} nats of {3 * math.log(3):.3f}")
assert (loss - kl - floor).abs() < 1e-12
assert (slopes[0] - slopes[1]).abs().max() < 1e-12

# %% [markdown]
# With masks, each hidden token counts $\nu_t$ times its surprise. In plain PyTorch, for the linear schedule:


# %% tags=["quote-bound"]
def masked_bound(network, x1, x, t, mask):
    logits = network(x, t)[..., :mask]
    log_p = logits.log_softmax(-1)
    right = log_p.gather(2, x1[..., None])
    loss = -right[..., 0] * (x == mask)
    return loss.sum(1) / (1 - t)


# %% [markdown]
# **Check 12.6** (the bound in code). The same terms as the package's `likelihood_bound`, for a random network and the same masks.

# %%
weight = torch.randn(4, 4, generator=generator)
path, x1 = masking_path(3), sequences
t = torch.rand(27, generator=generator)
network = lambda x, t: weight[x] + x.sum(1)[:, None, None] * weight[0]  # noqa: E731
x = path.sample(x1, t, generator.manual_seed(1))
ours = likelihood_bound(Denoiser(network, path), x1, t, generator.manual_seed(1))
close = torch.allclose(ours, masked_bound(network, x1, x, t, 3), rtol=1e-4)
print("same terms:", close)
assert close

# %% [markdown]
# **Check 12.7** (how tight). Put the exact posterior into the bound and average over data, $x_t$ and $t$, by enumeration and quadrature. With masks the result is the entropy of the data, to $10^{-8}$, for both schedules: nothing is lost. With uniform noise much is, although the marginals are exact: the bound is above that of guessing. Then a model of random numbers, with masks: its bound is its mean surprise over the six orders in which three tokens can be read, to $10^{-8}$.


# %%
def mean_bound(known, t):
    """Return the bound's integrand at a time, its mean over all x₁ and all x."""
    states = all_states(known.path.size, 3)
    alpha, time = known.path.schedule.alpha(t), t.expand(len(states))
    hazard, posterior = known.path.hazard(t), known.posterior(states, time)
    same = sequences[:, None] == states  # (x₁, x, position)
    noise = (1 - alpha) * known.path.noise(table)[states]
    chance = table.flatten()[:, None] * (alpha * same + noise).prod(2)
    right = torch.stack([posterior[:, i, sequences[:, i]].T for i in range(3)], 2)
    here = posterior.gather(2, states[..., None])[..., 0]
    terms = torch.where(same, 1.0, -right.log()) - here
    return torch.where(chance > 0, hazard * chance * terms.sum(2), 0).sum()


# %%
nodes, weights = np.polynomial.legendre.leggauss(40)


def over_time(known):
    values = [mean_bound(known, torch.tensor((z + 1) / 2, **double)) for z in nodes]
    return sum(w * v.item() for w, v in zip(weights, values, strict=True)) / 2


# %%
entropy = torch.special.entr(table).sum().item()
print(f"entropy {entropy:.4f}")
for schedule in (LINEAR, COSINE):
    bounds = []
    for path in (masking_path(3, schedule), uniform_path(3, schedule)):
        known = ExactRate(path, table if path.mask is None else with_mask(table))
        bounds.append(over_time(known))
    print(f"{schedule.name}: masks {bounds[0]:.4f}, uniform noise {bounds[1]:.2f}")
    assert abs(bounds[0] - entropy) < 1e-8 and bounds[1] > 3 * math.log(3)

# %%
record("entropy", f"{entropy:.2f}")
record("bound_uniform", f"{bounds[1]:.2f}")
record("guess", f"{3 * math.log(3):.2f}")

# %%
path, numbers = masking_path(3), torch.Generator(device).manual_seed(1)
logits = torch.randn(4, 4, 4, 3, 4, generator=numbers, **double)
model = Denoiser(lambda x, t: logits[x.unbind(dim=1)], path)
surprise = torch.zeros(27, **double)  # summed over all orders
for order in permutations(range(3)):
    x = torch.full((27, 3), 3)
    for i in order:
        log_q = model.log_prob(x, torch.zeros(27))[:, i]
        surprise -= log_q.gather(1, sequences[:, i : i + 1])[:, 0]
        x[:, i] = sequences[:, i]
orders = (table.flatten() @ surprise).item() / 6
bound = over_time(SimpleNamespace(path=path, posterior=model))
print(f"a model of random numbers: bound {bound:.2f}, over orders {orders:.2f}")
assert abs(bound - orders) < 1e-8

# %% [markdown]
# ## Steps
#
# Positions jump independently within a step. So a step has a matrix, a product over positions, and the law of a whole simulation is a row times matrices: errors without any sampling noise.


# %%
def pushed(known, step, grid):
    """Return the law at the end of a simulation with a step on a grid."""
    states = all_states(known.path.size, known.law.ndim)
    p = known.law_at(grid[:1]).flatten()
    for now, end in zip(grid[:-1], grid[1:], strict=True):
        p = p @ step_matrix(step(states, now.expand(len(p)), end.expand(len(p))))
    return p


def total_variation(p, q):
    return 0.5 * (p.flatten() - q.flatten()).abs().sum().item()


# %% [markdown]
# **Check 12.8** (order). Euler's step $I+hQ$, the leap that freezes the rates, and the path's step that freezes the posterior only: each halves its error with the step.

# %%
LADDER = (16, 32, 64, 128)
known = ExactRate(uniform_path(3, COSINE), table)
STEPS = {"Euler": partial(euler_step, known), "leap": partial(leap_step, known)}
STEPS["path"] = partial(known.path.step, known.posterior)
ladders = {}
for name, step in STEPS.items():
    grids = [torch.linspace(0.0, 0.9, n + 1, **double) for n in LADDER]
    errors = [
        total_variation(pushed(known, step, g), known.law_at(g[-1:])) for g in grids
    ]
    ladders[name] = errors
    print(
        f"{name:5s}: 64 to 128 steps, the error falls by {errors[-2] / errors[-1]:.2f}"
    )
    assert 1.9 < errors[-2] / errors[-1] < 2.2

# %%
masks = ExactRate(masking_path(3), with_mask(table))
late = lambda x, t: masks.posterior(x, t.clamp(min=1e-3))  # noqa: E731
counts, falling = (1, 2, 4, 8, 16, 32, 64), []
for n in counts:
    grid = torch.linspace(0, 1, n + 1, **double)
    found = pushed(masks, partial(masks.path.step, late), grid)
    falling.append(total_variation(found, masks.law))

# %% tags=["hide-input"]
titles = ["uniform noise, to t = 0.9", "masks, to t = 1"]
figure, (left, right) = plotting.panels(titles)
looks = zip(ladders.items(), ("#c2410c", "#6b7280", "#1d4ed8"), strict=True)
for (name, errors), color in looks:
    left.plot(LADDER, errors, color=color, marker=".", label=name)
right.plot(counts, falling, color="#1d4ed8", marker=".", label="path")
slope = [falling[0] / n for n in counts]
right.plot(counts, slope, color="#6b7280", ls=":", label="1/n")
for ax, ticks in ((left, LADDER), (right, (1, 4, 16, 64))):
    ax.set(xscale="log", yscale="log", xlabel="steps")
    ax.set_xticks(ticks, ticks)
    ax.set_xticks([], minor=True)
    ax.legend(fontsize=7)
left.set_ylabel("error of the law")
plotting.show(
    figure,
    "discrete-orders",
    "Errors of the law against steps, on log scales. Left: path, leap and Euler fall "
    "in parallel lines of slope one, Euler lowest. Right: with masks the path's step "
    "falls like one over the number of steps from the first step on.",
)

# %% [markdown]
# *Figure 12.2.* Total variation between the law of a simulation and the exact one, three positions, without sampling noise. Left: cosine schedule. Right: linear schedule; the dotted line has slope one.

# %% [markdown]
# **Check 12.9** (the last step). With masks and the linear schedule, Euler's last step unmasks everything, and is the path's step. A leap that freezes the rate leaves each mask with probability $e^{-h\nu}$, so that $e^{-H_n}$ of them are there at the end, with $H_n=1+\frac12+\dots+\frac1n$. With the cosine schedule $h\nu$ is above 1 near the end, and Euler is refused.

# %%
path = masking_path(3)
single = nn.functional.pad(table.sum((1, 2)), (0, 1))
known = ExactRate(path, single)
rate = lambda x, t: path.rate(known.posterior(x, t + 1e-9), x, t)  # noqa: E731
grid = torch.linspace(0, 1, 11, **double)
masks_left = pushed(known, partial(leap_step, rate), grid)[3].item()
harmonic = sum(1 / k for k in range(1, 11))
print(
    f"after ten leaps {100 * masks_left:.1f} % are masked, after ten Euler steps none"
)
record("masks_left", f"{100 * masks_left:.1f}")
assert abs(masks_left - math.exp(-harmonic)) < 1e-8
assert total_variation(pushed(known, partial(euler_step, rate), grid), single) < 1e-8

# %%
path = masking_path(3, COSINE)
x, last = torch.full((1,), 3), torch.tensor([0.9])
try:
    euler_step(lambda x, t: path.rate(single[None], x, t), x, last, torch.ones(1))
    refused = False
except ValueError as error:
    refused = True
    print(error)
assert refused

# %% [markdown]
# ## Tokens that fall together
#
# **Check 12.10** (two tokens). A pair of tokens agrees with probability 0.8. In $n$ even steps both masks fall in the same step with probability $1/n$, and are then drawn independently. So the result is $(1-\frac1n)\,p+\frac1n\,p_1\otimes p_2$, to rounding. No step in time is wrong here: one token alone has no error at all.

# %%
pair = 0.1 / 3 + (0.8 - 0.1) / 3 * torch.eye(3, **double)
path, product = masking_path(3), pair.sum(1)[:, None] * pair.sum(0)
known = ExactRate(path, with_mask(pair))
patient = lambda x, t: known.posterior(x, t.clamp(min=1e-3))  # noqa: E731
grids_of_two = {}
for n in (1, 2, 4, 8):
    grid = torch.linspace(0, 1, n + 1, **double)
    found = pushed(known, partial(path.step, patient), grid).reshape(4, 4)[:3, :3]
    expected = (1 - 1 / n) * pair + product / n
    assert (found - expected).abs().max() < 1e-12
    grids_of_two[n] = found.cpu()
    print(f"{n} steps: error {total_variation(found, pair):.4f}", end=", ")
    print(f"closed form {total_variation(product, pair) / n:.4f}")
    record(f"together_{n}", f"{total_variation(found, pair):.2f}")

# %% tags=["hide-input"]
titles = ["one step", "two steps", "four steps", "data"]
figure, axes = plotting.panels(titles, rows=2)
shown = [grids_of_two[1], grids_of_two[2], grids_of_two[4], pair.cpu()]
for ax, law in zip(axes, shown, strict=True):
    ax.imshow(law, cmap="Blues", vmin=0, vmax=0.3)
    for i in range(3):
        for j in range(3):
            value = law[i, j].item()
            ink = "white" if value > 0.17 else "black"
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink)
    ax.set_xticks(range(3), ["a", "b", "c"])
    ax.set_yticks(range(3), ["a", "b", "c"])
plotting.show(
    figure,
    "discrete-together",
    "Four tables of three by three probabilities, first token against second. In one "
    "step all are 0.11. In two and four steps the diagonal grows to 0.19 and 0.23. In "
    "the data it is 0.27 and the rest 0.03.",
)

# %% [markdown]
# *Figure 12.3.* The law of a pair of tokens after unmasking in one, two and four steps, and in the data. In one step each token has the right law, and the pair has lost its dependence.
#
# **Check 12.11** (bells). One token at a time has no such error. `gillespie` draws the times at which bells ring and asks the posterior anew for each. 20 000 sequences of three tokens have the exact law by a chi-square test: with masks at $t=1$, with uniform noise at $t=0.9$. With masks three evaluations are enough; in three even steps the same test rejects.


# %%
def p_value_of(x, law):
    full, one = torch.zeros(law.shape), torch.ones(())
    full = full.index_put(x.unbind(dim=1), one, accumulate=True).flatten()
    kept = law.flatten() > 0
    expected = len(x) * law.flatten()[kept]
    return chisquare(full[kept].cpu(), expected.cpu(), sum_check=False).pvalue


# %%
masked = ExactRate(masking_path(3), with_mask(table))
patient = lambda x, t: masked.posterior(x, t.clamp(min=1e-3))  # noqa: E731
blank = torch.full((20_000, 3), 3)
by_bells = gillespie(patient, masked.path, blank, 0.0, 1.0, generator)
step, grid = partial(masked.path.step, patient), torch.linspace(0, 1, 4, **double)
by_steps = simulate(step, blank, grid, generator)
known, noise = ExactRate(uniform_path(3), table), torch.full((20_000, 3, 3), 1 / 3)
x = draw_tokens(noise, generator)
x = gillespie(known.posterior, known.path, x, 0, 0.9, generator)
late = known.law_at(torch.tensor([0.9], **double))[0]
print("bells are exact, masks:", p_value_of(by_bells, masked.law) > 1e-4)
print("bells are exact, uniform noise:", p_value_of(x, late) > 1e-4)
print("three steps are not:", p_value_of(by_steps, masked.law) < 1e-4)
assert min(p_value_of(by_bells, masked.law), p_value_of(x, late)) > 1e-4
assert p_value_of(by_steps, masked.law) < 1e-4

# %% [markdown]
# ## Other chains with the same marginals
#
# Draw each position anew from $\alpha_t\hat p+(1-\alpha_t)p_0$, at any rate: that is the **corrector**.
#
# **Check 12.12** (corrector). Its flow of probability is the same in both directions, $p_t(x)Q(x,y)=p_t(y)Q(y,x)$, to rounding. So it may be added to the marginal rate with any factor: with 3, Kolmogorov's equation arrives at the same law.

# %%
states, at = all_states(4, 3), torch.full((64,), 0.6, **double)
mended = masked.path.corrector_rate(masked.posterior(states, at), states, at)
flow = masked.law_at(at[:1]).flatten()[:, None] * rate_matrix(mended)
print("detailed balance:", (flow - flow.T).abs().max().item() < 1e-15)
assert (flow - flow.T).abs().max() < 1e-15


def corrected_rate(x, t, strength=3.0):
    posterior = masked.posterior(x, t)
    extra = masked.path.corrector_rate(posterior, x, t)
    return masked.path.rate(posterior, x, t) + strength * extra


# %%
def field(p, t):
    return p @ rate_matrix(corrected_rate(states, t.expand(64)))


grid = torch.linspace(0.1, 0.7, 151, **double)
p = solve(field, masked.law_at(grid[:1]).flatten(1), grid, rk4).last
miss = (p - masked.law_at(grid[-1:]).flatten(1)).abs().max().item()
print("the corrected chain has the same marginals:", miss < 1e-8)
assert miss < 1e-8

# %% [markdown]
# **Check 12.13** (what it buys). With masks: $n$ steps of the path's, or half as many, each but the last followed by a corrector leap of length $\frac12$. At equal evaluations of an exact posterior shorter steps win. But suppose that the posterior is wrong before $t=\frac12$, as if the positions were independent. Shorter steps do not help then. A corrector forgets what came before.


# %%
def corrected_law(posterior, n, leaps, length=0.5):
    """Return the law after n steps, each but the last with corrector leaps."""
    grid, path = torch.linspace(0, 1, n + 1, **double), masked.path
    p, half = masked.law_at(grid[:1]).flatten(), torch.full((64,), length, **double)
    for now, end in zip(grid[:-1], grid[1:], strict=True):
        p = p @ step_matrix(
            path.step(posterior, states, now.expand(64), end.expand(64))
        )
        for _ in range(leaps if end < 1 else 0):
            laws = posterior(states, end.expand(64))
            rates = path.corrector_rate(laws, states, end.expand(64))
            p = p @ step_matrix(
                leap_step(lambda *a, r=rates: r, states, 0 * half, half)
            )
    return p


# %%
one_by_one = [table.sum(d) for d in ((1, 2), (0, 2), (0, 1))]
loose = torch.einsum("a,b,c->abc", *one_by_one)
apart = ExactRate(masked.path, with_mask(loose))


def wrong_early(x, t):
    return (apart if t[0] < 0.5 else masked).posterior(x, t.clamp(min=1e-3))


# %%
for name, posterior in {"exact": patient, "wrong early": wrong_early}.items():
    for n in (16, 64):
        plans = {"plain": (n, 0), "corrected": (n // 2, 1)}
        miss = {k: corrected_law(posterior, *plan) for k, plan in plans.items()}
        miss = {k: total_variation(p, masked.law) for k, p in miss.items()}
        print(f"{name}, {n} evaluations: plain {miss['plain']:.3f},", end=" ")
        print(f"corrected {miss['corrected']:.3f}")
        key = name.replace(" ", "-")
        record(f"{key}_plain_{n}", f"{miss['plain']:.3f}")
        record(f"{key}_corrected_{n}", f"{miss['corrected']:.3f}")
        better = "plain" if posterior is patient else "corrected"
        assert miss[better] == min(miss.values())

# %% [markdown]
# ## Guidance
#
# Two laws, one with a label; the guided posterior is $\propto\hat p^{\,1-\omega}\,\hat p(\cdot\mid y)^\omega$.
#
# **Check 12.14** (one token, and three). For one masked token the samples have the law $\propto p^{1-\omega}p(\cdot\mid y)^\omega$, to rounding. For three they do not, even one token at a time: the guided posterior of a position knows nothing of the positions that are still masked.

# %%
liked = table * torch.tensor([1.0, 1.0, 4.0], **double)  # the label likes a last c
liked = liked / liked.sum()
scale = 3.0


def guided_by(plain, labelled):
    known = [ExactRate(masking_path(3), with_mask(law)) for law in (plain, labelled)]
    late = [lambda x, t, k=k: k.posterior(x, t.clamp(min=1e-3)) for k in known]
    return known[0], guided_posterior(*late, scale)


def tilted(plain, labelled):
    law = plain ** (1 - scale) * labelled**scale
    return law / law.sum()


# %%
singles = table.sum((0, 1)), liked.sum((0, 1))
known, guided = guided_by(*singles)
grid = torch.linspace(0, 1, 5, **double)
found = pushed(known, partial(known.path.step, guided), grid)[:3]
print("one token, the tilted law:", total_variation(found, tilted(*singles)) < 1e-12)
assert total_variation(found, tilted(*singles)) < 1e-12

# %%
known, guided = guided_by(table, liked)
rates = known.path.rate(guided(states, at), states, 0 * at)  # ν = 1 at t = 0
hidden = (states == 3).sum(1, keepdim=True)
one_falls = rate_matrix(rates).fill_diagonal_(0) / hidden.clamp(min=1)
start = one_hot(torch.tensor([63]), table.new_ones(1, 64))
found = (start @ one_falls @ one_falls @ one_falls).reshape(4, 4, 4)[:3, :3, :3]
wanted = tilted(table, liked)
print(f"three tokens, one at a time: off by {total_variation(found, wanted):.2f}")
record("guidance_off", f"{total_variation(found, wanted):.2f}")
assert abs(found.sum() - 1) < 1e-12 and total_variation(found, wanted) > 0.02

# %% [markdown]
# ## Words
#
# The package ships 8107 words of three to eight letters from Shakespeare's plays. A word is a sequence of eight tokens, 26 letters and a blank that fills up the end. A thousand words are held out.

# %%
words = np.array(shakespeare_words())
order = np.random.default_rng(0).permutation(len(words))
held, known_words = words[order[:1000]], words[order[1000:]]
ALPHABET, MASK = "abcdefghijklmnopqrstuvwxyz_", 27


def encode(some):
    return torch.tensor([[ALPHABET.index(c) for c in w.ljust(8, "_")] for w in some])


def decode(x):
    return ["".join((ALPHABET + "?")[c] for c in row).rstrip("_") for row in x.tolist()]


# %%
train_set, held_set = encode(known_words), encode(held)
letters = sum(map(len, held))
print(len(known_words), "words to learn from,", len(held), "held out")
print(", ".join(known_words[:8]))

# %% [markdown]
# The rivals count. A bigram model knows how often a letter follows another, an $n$-gram model how often it follows the $n-1$ before it; where it has seen little, it leans on the shorter one.


# %%
def count_grams(n, strength=5.0):
    """Return the n-gram law of the next letter, learned from the training words."""
    counts = Counter()
    for word in known_words:
        text = "^" * 7 + word.ljust(8, "_")
        for i in range(7, min(len(text), 8 + len(word))):
            counts.update(text[i - m : i + 1] for m in range(n))
            counts.update(text[i - m : i] + "*" for m in range(n))
    return partial(law_of_next, counts, n, strength)


# %%
def law_of_next(counts, n, strength, before, letter):
    """Return the probability of a letter after a text, n - 1 letters of which count."""
    p = 1 / 27
    for m in range(n):
        context = before[len(before) - m :]
        seen = counts[context + "*"] + strength
        p = (counts[context + letter] + strength * p) / seen
    return p


# %%
def bits_of(law):
    """Return bits a letter on the held-out words, blanks paid for."""
    bits = 0.0
    for word in held:
        text = "^" * 7 + word.ljust(8, "_")
        for i in range(7, min(len(text), 8 + len(word))):
            bits -= math.log2(law(text[:i], text[i]))
    return bits / letters


rivals = {n: bits_of(count_grams(n)) for n in (1, 2, 3, 4)}
for n, bits in rivals.items():
    print(f"{n}-gram: {bits:.2f} bits a letter")
    record(f"bits_{n}", f"{bits:.2f}")

# %% [markdown]
# The network sees eight tokens, some of them masks, and gives logits for each position. It is not told $t$: with masks the posterior does not depend on it.


# %%
class Speller(nn.Module):
    def __init__(self, width=256):
        super().__init__()
        self.read = nn.Linear(8 * 28, width)
        blocks = [nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU()]
        self.first = nn.Sequential(*blocks)
        blocks = [nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU()]
        self.second = nn.Sequential(*blocks)
        self.write = nn.Linear(width, 8 * 28)

    def forward(self, x, t):
        h = self.read(one_hot(x, self.read.weight.new_ones(1, 28)).flatten(1))
        h = h + self.first(h)
        h = h + self.second(h)
        return self.write(h).reshape(len(x), 8, 28)


# %% [markdown]
# The loss is the bound itself, with times spread evenly over the batch. `Denoiser` makes the logits a posterior: no mask, and what is known stays.


# %%
def even_times(n):
    """Return a time from each of n equal parts of [0, 1)."""
    return (torch.arange(n) + torch.rand(n, generator=generator)).clamp(
        max=n - 1e-3
    ) / n


def word_loss(n=256):
    rows = torch.randint(len(train_set), (n,), generator=generator)
    return likelihood_bound(model, train_set[rows], even_times(n), generator).mean()


# %%
UPDATES = 1000
network = Speller()
model = Denoiser(network, masking_path(27))
options = {"warm_up": 50, "max_gradient_norm": 1.0}
for step in train(network, word_loss, UPDATES, 2e-3, **options):
    if step.number % 500 == 0:
        print(step.number, "updates")

# %% [markdown]
# **Check 12.15** (bits a letter). The bound on the held-out words, averaged over 20 draws of times and masks for each. It beats counts of pairs clearly, is about level with those of triples, and loses to those of four letters. The margins are several times what another seed changes.

# %%
with torch.no_grad():
    terms = [
        likelihood_bound(model, held_set, even_times(1000), generator) for _ in "x" * 20
    ]
bits = torch.stack(terms).mean().item() * 1000 / math.log(2) / letters
print(
    "below two-grams:", bits < rivals[2] - 0.2, " above four-grams:", bits > rivals[4]
)
record("bits_network", f"{bits:.1f}")
assert rivals[4] < bits < rivals[2] - 0.2 and abs(bits - rivals[3]) < 0.15

# %% [markdown]
# Words in different numbers of steps. With one step all letters are drawn at once, each as if it were alone. Letter by letter, `gillespie`, needs eight evaluations.


# %%
@torch.no_grad()
def spell(n, steps=None):
    """Return words, letter by letter or in even steps."""
    x = torch.full((n, 8), MASK)
    if steps is None:
        return gillespie(model, model.path, x, 0.0, 1.0, generator)
    grid = torch.linspace(0, 1, steps + 1)
    return simulate(partial(model.path.step, model), x, grid, generator)


# %% tags=["nbval-ignore-output"]
PLANS = {"1": 1, "2": 2, "4": 4, "8": 8, "16": 16, "letter by letter": None}
spelled = {name: decode(spell(4000, steps)) for name, steps in PLANS.items()}
for name in ("1", "4", "letter by letter"):
    print(f"{name}:", ", ".join(spelled[name][:14]))
record("words_one_step", ", ".join(spelled["1"][:6]))
record("words_letter", ", ".join(spelled["letter by letter"][:10]))

# %% [markdown]
# **Check 12.16** (together again). A word is broken if it has a blank inside. That is a dependence which tokens that fall together do not see. Letter by letter the share of broken words is the network's own error. What steps add to it is roughly as $1/n$. The bounds hold for several seeds.

# %% tags=["nbval-ignore-output"]
broken = {k: sum("_" in w for w in found) / 40 for k, found in spelled.items()}
listed = set(words)
real = {k: sum(w in listed for w in found) / 40 for k, found in spelled.items()}
for name in PLANS:
    print(f"{name:>16s}: {broken[name]:4.1f} % broken, {real[name]:3.1f} % in the list")
    record(f"broken_{name.replace(' ', '-')}", round(broken[name]))
record("real_letter", round(real["letter by letter"]))
unseen = set(held) & set(spelled["letter by letter"])
record("unseen", ", ".join(sorted(unseen)[:4]))
own = broken["letter by letter"]
assert broken["1"] - own > 3 * (broken["4"] - own)
assert broken["4"] - own > 2 * (broken["16"] - own) and own < 0.2 * broken["1"]

# %% tags=["hide-input"]
figure, (left, right) = plotting.panels(
    ["words with a blank inside", "words in the list"]
)
steps = [1, 2, 4, 8, 16]
for ax, values in ((left, broken), (right, real)):
    ax.plot(steps, [values[str(n)] for n in steps], color=plotting.MODEL, marker=".")
    level = values["letter by letter"]
    ax.axhline(level, color=plotting.DATA, ls="--", label="letter by letter")
    ax.set(xscale="log", xlabel="steps", ylim=(0, None))
    ax.set_xticks(steps, steps)
    ax.set_xticks([], minor=True)
    ax.legend(fontsize=7)
left.set_ylabel("%")
plotting.show(
    figure,
    "discrete-words",
    "Left: the share of words with a blank inside falls from about a third in one step "
    "towards the dashed line of letter by letter. Right: the share of words that are "
    "in the list rises from near zero to the dashed line.",
)

# %% [markdown]
# *Figure 12.4.* 4000 words in each number of steps, and letter by letter (dashed). Left: broken ones. Right: those among Shakespeare's, which are few, as most of the network's words are new.
#
# **Check 12.17** (gaps). Nothing was trained for it, but a masked model fills gaps: put masks where letters are missing, and start at the share that is known. What is known stays.


# %%
@torch.no_grad()
def fill(pattern, n=400):
    x = torch.tensor([[(ALPHABET + "?").index(c) for c in pattern.ljust(8, "_")]])
    start = 1 - pattern.count("?") / 8
    return decode(gillespie(model, model.path, x.repeat(n, 1), start, 1.0, generator))


# %% tags=["nbval-ignore-output"]
for pattern in ("s????ing", "l??e", "un????ed"):
    common = Counter(fill(pattern)).most_common(8)
    print(pattern, "→", ", ".join(word for word, _ in common))
    record(f"gap_{len(pattern)}_{pattern[0]}", ", ".join(w for w, _ in common[:6]))

# %%
found = fill("l??e")
kept = all(word[0] == "l" and word[3] == "e" and len(word) == 4 for word in found)
print("what is known stays:", kept)
assert kept

# %% [markdown]
# ## Beside another library
#
# A script samples one law of three tokens with this package and with Facebook's `flow_matching`, from the same exact posterior, 100 000 times. Errors are total variations, means of three runs; fresh data have some too.

# %%
beside = stored_results("discrete")
for source in ("masks", "uniform noise"):
    print(f"{source}: fresh data {beside['rows'][f'{source}, data']['error'][0]:.3f}")
    for steps in (4, 16):
        for name in ("path's step", "flow_matching"):
            error = beside["rows"][f"{source}, {steps}, {name}"]["error"][0]
            print(f"  {steps:2d} evaluations, {name}: {error:.3f}")
            record(f"{source.split()[0]}_{steps}_{name[:4]}", f"{error:.3f}")
record("beside_data", f"{beside['rows']['uniform noise, data']['error'][0]:.3f}")
record("beside_bells", f"{beside['rows']['masks, bells']['error'][0]:.3f}")
ratio = beside["times_as_fast"]
record("beside_ratio", f"{sum(ratio) / len(ratio):.2f}")
print(f"its time over ours: {sum(ratio) / len(ratio):.2f}")

# %% [markdown]
# ## Summary
#
# - Rates take the place of velocities, and $\dot p=pQ_t$ that of the continuity equation. The marginal rate is $\nu_t(\hat p-\delta_x)$, whatever the noise.
# - The loss is a cross entropy. With masks, weighted by $\nu_t$, it bounds the likelihood, and the exact posterior makes the bound tight.
# - Two errors: that of steps in time, which a step of the path's own avoids for one token, and that of tokens that fall together, which is of order $1/n$.
# - One bell at a time there is neither. With masks that is autoregression in random order.
# - Correctors keep the marginals. They mend a model's earlier errors; for errors of steps, shorter steps are the better use of evaluations here.
# - Guidance tilts the law of one token exactly, and that of a sequence only roughly.
#
# ## Questions
#
# 1. In Check 12.3, why must the transposed matrix fail?
# 2. Why does the exact posterior of a masked path not depend on $t$?
# 3. In Check 12.7, which conditional process is not Markov once $x_1$ is forgotten, and what does that cost?
# 4. In Check 12.10, which grid of $n$ steps is best for the cosine schedule?
# 5. Train the speller with uniform noise. What does its bound say, and what do the words look like?
