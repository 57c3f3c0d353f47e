# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Bridges
#
# You write what [SF]²M regresses on, the Schrödinger bridge between two Gaussians, and the drifts of a mixture of bridges between points that a plan pairs. You need the excursion's sections on one bridge, on mixtures of bridges, on Gaussians and, for the experiment, on fitting again and again. The line below each function checks it on random inputs; `check(..., seed=1)` draws others.
#
# Work with `torch` alone. The law at $t=0$ is that of `x0`, the law at $t=1$ that of `x1`. States have the shape $(B,\dots)$: numbers, points or images. Times have the shape $(B,)$, one for each sample, with $0<t<1$. The noise level $\sigma>0$ is one number, `sigma`, of shape `()`.

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
import torch

from fmtutorial.coursework import check

# %% [markdown]
# ## A point of a bridge and what to regress on (1 point)
#
# A Brownian bridge of noise $\sigma$ from $x_0$ to $x_1$ is at time $t$ at
#
# $$x_t=(1-t)\,x_0+t\,x_1+\sigma\sqrt{t(1-t)}\;z,\qquad z\sim\mathcal N(0,I).$$
#
# For fixed $x_0$ and $x_1$ its law is a Gaussian that moves and changes its width. A particle that moves along with it keeps its $z$. So the **velocity** at $x_t$ is the derivative of $x_t$ in $t$ with $x_0,x_1,z$ held, and the **score** is the gradient of the logarithm of this Gaussian's density at $x_t$. These two are what the networks of [SF]²M are trained on.
#
# Return $x_t$, the velocity and the score, in this order, as one tensor of shape $(3,B,\dots)$: `torch.stack` makes it. `noise` is $z$ and has the shape of `x0` and `x1`.


# %%
def bridge_targets(x0, x1, noise, t, sigma):
    """Return state, velocity and score, (3, B, ...); t has shape (B,)."""
    # BEGIN SOLUTION
    time = t.reshape(-1, *[1] * (x0.ndim - 1))
    std = sigma * torch.sqrt(time * (1 - time))
    x = (1 - time) * x0 + time * x1 + std * noise
    std_dot = sigma**2 * (1 - 2 * time) / (2 * std)
    return torch.stack([x, x1 - x0 + std_dot * noise, -noise / std])
    # END SOLUTION


check("bridges.bridge_targets", bridge_targets)

# %% [markdown]
# ## The bridge between two Gaussians (1 point)
#
# On the line, let $x_0\sim\mathcal N(m_0,a^2)$ and $x_1\sim\mathcal N(m_1,b^2)$. The entropic plan for the cost $|x_0-x_1|^2$ and $\rho=2\sigma^2$ pairs them as two Gaussian variables with the covariance
#
# $$c=\tfrac12\Bigl(\sqrt{4a^2b^2+\sigma^4}-\sigma^2\Bigr).$$
#
# Put a Brownian bridge of noise $\sigma$ between the two of each pair. What you get is the Schrödinger bridge. Return its mean and its variance at the times $t$.
#
# `mean0`, `std0` ($a$), `mean1`, `std1` ($b$) have the shape of one event. Each entry of the event is a line of its own, so compute entry by entry. Return the mean and the variance as one tensor of shape $(2,B,\dots)$.


# %%
def gaussian_bridge(mean0, std0, mean1, std1, sigma, t):
    """Return mean and variance, (2, B, ...); t has shape (B,)."""
    # BEGIN SOLUTION
    time = t.reshape(-1, *[1] * mean0.ndim)
    covariance = (torch.sqrt(4 * (std0 * std1) ** 2 + sigma**4) - sigma**2) / 2
    variance = ((1 - time) * std0) ** 2 + (time * std1) ** 2
    variance = variance + time * (1 - time) * (2 * covariance + sigma**2)
    return torch.stack([(1 - time) * mean0 + time * mean1, variance])
    # END SOLUTION


check("bridges.gaussian_bridge", gaussian_bridge)

# %% [markdown]
# ## The drifts that a plan makes (2 points)
#
# Now there are $N$ points $x_0^{(i)}$ and $M$ points $x_1^{(j)}$, and a plan $P_{ij}>0$ with the sum 1 says how often each two are a pair. Between the two of a pair runs a Brownian bridge of noise $\sigma$. Someone sees at time $t$ a particle at $x$, and does not know its pair. The pair is $(i,j)$ with a probability $w_{ij}$ that is proportional to $P_{ij}$ times the density of that bridge at $x$:
#
# $$w_{ij}\ \propto\ P_{ij}\;\exp\Bigl(-\frac{\lVert x-(1-t)\,x_0^{(i)}-t\,x_1^{(j)}\rVert^2}{2\,\sigma^2\,t(1-t)}\Bigr).$$
#
# A bridge that ends at $x_1$ drifts by $(x_1-x)/(1-t)$. Averaged over the pairs, the **forward drift** is
#
# $$b_t(x)=\frac{\sum_{ij}w_{ij}\,x_1^{(j)}-x}{1-t}.$$
#
# It is what a network would learn, and a process that has this drift for all its particles needs no pairs any more: it is the Markovian projection of the mixture. A film of the mixture that is shown backwards has a drift too. A step from $t$ to $t-h$ moves a particle by $-h$ times the **backward drift**, the average of $(x-x_0)/t$.
#
# Return the forward and the backward drift at `x` of shape $(B,\dots)$ and `t` of shape $(B,)$, as one tensor of shape $(2,B,\dots)$. `x0` has the shape $(N,\dots)$, `x1` $(M,\dots)$ and `plan` $(N,M)$. The excursion has a short program for one of the two, in the plane and at one time. In some cases here $x$ is so far from all the bridges that every exponential above is zero in floating point. Your function must work there too.


# %%
def plan_drifts(x, t, x0, x1, plan, sigma):
    """Return forward and backward drift, (2, B, ...); plan has shape (N, M)."""
    # BEGIN SOLUTION
    time = t.reshape(-1, 1, 1, 1)
    place, begin, end = (a.reshape(len(a), -1) for a in (x, x0, x1))
    miss = place[:, None, None] - (1 - time) * begin[:, None] - time * end
    square = miss.square().sum(dim=3) / (2 * sigma**2 * (time * (1 - time))[..., 0])
    weights = (plan.log() - square).flatten(1).softmax(dim=1).reshape(square.shape)
    forward = (weights.sum(dim=1) @ end - place) / (1 - t)[:, None]
    backward = (place - weights.sum(dim=2) @ begin) / t[:, None]
    return torch.stack([forward, backward]).reshape(2, *x.shape)
    # END SOLUTION


check("bridges.plan_drifts", plan_drifts)

# %% [markdown]
# ## An experiment: which pairs come back?
#
# First two looks at what you have. Take 1000 pairs of numbers, noise, and times in $(0.1,0.9)$, all in double precision, and $\sigma=0.7$. Add $\sigma^2/2$ times the score to the velocity, and subtract it. Are these $(x_1-x)/(1-t)$ and $(x-x_0)/t$? Then let $a=1$ and $b=\frac12$. Print the variance at $t=\frac12$ and the covariance $c$ of the ends, which you get back from it, for $\sigma=0.01,\ 0.3,\ 1,\ 3$ and $100$. Which pairings are the two limits?
#
# Now the process of a plan. Let $x_0^{(i)}$ be 12 quantiles of a standard normal variable. Of the 12 points $x_1^{(j)}$ let six be quantiles of $\mathcal N(-1.5,0.3^2)$ and six of $\mathcal N(1.5,0.3^2)$, in increasing order; $\sigma=1$. Send 200 particles from each $x_0^{(i)}$. Give each a partner, drawn from row $i$ of the plan, place it on their bridge at the first time by `bridge_targets`, and **forget the partner**. From there on only the drift counts: to go from $t$ to $t+h$, move by $h\,b_t(x)$ and add noise of the standard deviation $\sigma\sqrt{h(1-t-h)/(1-t)}$, that of a bridge which ends at 1. Take the times $1-(1-k/50)^2$, whose last steps are short. At the end count, for each start $i$, which of the $x_1^{(j)}$ its particles are next to. That is a new plan.
#
# Do this for three plans: every pair alike; the entropic plan for $\rho=2\sigma^2$, from `sinkhorn_log` of `fmtutorial.couplings` with 1000 iterations; and the sorted one, $i=j$. Add $10^{-9}$ to every entry before you use a plan, so that it has a logarithm. Print $\sum_{ij}P_{ij}\,x_0^{(i)}x_1^{(j)}$ before and after. Does the right share of the particles come to each end? Which plan comes back as it was? Then put the new plan in the place of the old one, and go on like this for three rounds. Where do the others go?

# %% tags=["solution"]
generator = torch.Generator().manual_seed(0)
x0, x1, noise = torch.randn(3, 1000, generator=generator, dtype=torch.float64)
t = 0.1 + 0.8 * torch.rand(1000, generator=generator, dtype=torch.float64)
sigma = torch.tensor(0.7, dtype=torch.float64)
x, velocity, score = bridge_targets(x0, x1, noise, t, sigma)
forward = velocity + sigma**2 / 2 * score - (x1 - x) / (1 - t)
backward = velocity - sigma**2 / 2 * score - (x - x0) / t
print("below 1e-12:", [bool(e.abs().max() < 1e-12) for e in (forward, backward)])

# %% tags=["solution"]
zero, one, half = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
for number in (0.01, 0.3, 1.0, 3.0, 100.0):
    sigma = torch.tensor(number, dtype=torch.float64)
    variance = gaussian_bridge(zero, one, zero, half, sigma, half[None])[1].item()
    covariance = 2 * (variance - 1 / 4 - 1 / 16 - number**2 / 4)
    print(f"sigma {number}: variance {variance:.2f}, covariance {covariance:.3f}")

# %% tags=["solution"]
normal = torch.distributions.Normal(zero, one)
starts = normal.icdf((torch.arange(12, dtype=torch.float64) + 0.5) / 12)
mode = 0.3 * normal.icdf((torch.arange(6, dtype=torch.float64) + 0.5) / 6)
ends = torch.cat([mode - 1.5, mode + 1.5])
sigma, times = one, 1 - torch.linspace(1, 0, 51, dtype=torch.float64) ** 2


# %% tags=["solution"]
def returned(plan):
    """Run the process of a plan; return how often each start came to each end."""
    i = torch.arange(12).repeat_interleave(200)
    j = torch.multinomial(plan[i], 1, generator=generator)[:, 0]
    noise = torch.randn(50, len(i), generator=generator, dtype=torch.float64)
    x = bridge_targets(starts[i], ends[j], noise[0], times[1].expand(len(i)), sigma)[0]
    for k in range(1, 50):
        t, h, left = times[k].expand(len(i)), times[k + 1] - times[k], 1 - times[k]
        x = x + h * plan_drifts(x, t, starts, ends, plan, sigma)[0]
        x = x + sigma * torch.sqrt(h * (left - h) / left) * noise[k]
    j = (x[:, None] - ends).abs().argmin(dim=1)
    counts = torch.bincount(12 * i + j, minlength=12 * 12).double()
    return counts.reshape(12, 12) / len(i)


# %% tags=["solution"]
from fmtutorial.couplings import sinkhorn_log, squared_distances

plans = {
    "alike": torch.full((12, 12), 1 / 12**2, dtype=torch.float64),
    "entropic": sinkhorn_log(squared_distances(starts, ends), 2.0, 1000),
    "sorted": torch.eye(12, dtype=torch.float64) / 12,
}
for name, plan in plans.items():
    values, misplaced = [(starts @ plan @ ends).item()], []
    for _ in range(3):
        plan = returned(plan + 1e-9)
        values.append((starts @ plan @ ends).item())
        misplaced.append((plan.sum(dim=0) - 1 / 12).abs().sum().item() / 2)
    said = ", ".join(f"{value:.2f}" for value in values)
    print(f"{name}: {said}; misplaced in the first round {misplaced[0]:.2f}")

# %% [markdown] tags=["solution"]
# The velocity and the score of a bridge hold both drifts, up to rounding: $v+\frac{\sigma^2}2s$ leads to $x_1$, and $v-\frac{\sigma^2}2s$ comes from $x_0$. That is why [SF]²M learns these two. With the velocity alone you can sample without noise, and with both you can sample with it, in either direction.
#
# For small $\sigma$ the covariance is $ab=0.5$. The ends are then equal up to a factor, $x_1=bx_0/a$, and that is optimal transport. For large $\sigma$ it is 0, the independent pairs; the variance in the middle is almost all noise, $\sigma^2/4$. In between, the pairs are loose: the noise takes particles from one place to another anyway.
#
# After one round the particles are at the right ends for all three plans: a few per cent are misplaced, little more than counting 2400 particles in 12 places brings with it. Forgetting the partner changes no marginal. But it changes the pairs. The independent plan comes back with strong dependence: a particle that was seen on the right will most likely end on the right. The sorted plan comes back looser, as its particles meet on the way and mix. The entropic plan comes back as it was, up to the error of the sample.
#
# That is what characterises the Schrödinger bridge. It is made of Brownian bridges, and it forgets where it came from: only for one plan are both true at once. The others go towards it, most of the way in the first round. This is iterated Markovian fitting. With networks instead of sums, each round is one training.
