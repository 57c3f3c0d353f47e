# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Probability paths
#
# You write the velocities of chapter 2: of one conditional path, and of the path to a mixture of two Gaussians. In between you turn a velocity into a score. You need the table of schedules, the theorem on the conditional velocity, the table of conversions, and the closed form for mixtures. Each exercise has a statement, a function with a blank, and a line that checks it: on random states of several shapes, against the right answer. If something is wrong, it says what it looks like. Another seed draws other inputs: `check(..., seed=1)`.
#
# `torch` is all you need. The path is $x_t=\alpha_tx_1+\sigma_tx_0$ with noise $x_0\sim\mathcal N(0,I)$ at $t=0$ and data $x_1$ at $t=1$. A batch of states has the shape $(B,\dots)$, where any event shape may follow $B$, also none. There is a time for each sample: `t` has shape $(B,)$. Think about what `t * x` does with these shapes.

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

import torch

from fmtutorial.coursework import check

# %% [markdown]
# ## The conditional velocity of the cosine schedule (1 point)
#
# Let $\alpha_t=\sin\frac{\pi t}2$ and $\sigma_t=\cos\frac{\pi t}2$, with $0<t<1$. Return $u_t(x\mid x_1)$, in the shape of `x`: the velocity of the path to $x_1$ where it passes $x$ at time $t$. You know $x$, not the noise $x_0$.


# %%
def conditional_velocity(x, x1, t):
    """Return the velocity at x, shaped like x; x and x1 are (B, ...), t is (B,)."""
    # BEGIN SOLUTION
    t = t.reshape(-1, *[1] * (x.ndim - 1))
    alpha, sigma = torch.sin(math.pi / 2 * t), torch.cos(math.pi / 2 * t)
    noise = (x - alpha * x1) / sigma
    return math.pi / 2 * (sigma * x1 - alpha * noise)
    # END SOLUTION


check("paths.conditional_velocity", conditional_velocity)

# %% [markdown]
# ## From velocity to score (1 point)
#
# From here on the schedule is linear: $\alpha_t=t$ and $\sigma_t=1-t$, with $0<t<1$. Somebody has computed the marginal velocities $v_t(x)$ at the states of a batch: `v` is a tensor of the shape of `x`. Return the scores $\nabla\log p_t(x)$ at the same states, in the same shape.


# %%
def score_from_velocity(v, x, t):
    """Return the score at x, shaped like x; v and x are (B, ...), t is (B,)."""
    # BEGIN SOLUTION
    t = t.reshape(-1, *[1] * (x.ndim - 1))
    noise = x - t * v
    return -noise / (1 - t)
    # END SOLUTION


check("paths.score_from_velocity", score_from_velocity)

# %% [markdown]
# ## Two Gaussians (2 points)
#
# The data come from $p_1=w\,\mathcal N(m_1,s^2I)+(1-w)\,\mathcal N(m_2,s^2I)$, with $w$ = `weight` and $s$ = `std`. The schedule is linear, $0<t<1$. Return the marginal velocity $v_t(x)=\mathbb E[x_1-x_0\mid x_t=x]$, in the shape of `x`. The squared distance in a density is a sum over all entries of an event.
#
# One state of the batch is so far from both means that the densities of both components are zero in the computer. The result must be right there too.


# %%
def two_gaussians(x, t, m1, m2, std, weight):
    """Return v_t(x), shaped like x; m1, m2 are an event, std and weight numbers."""
    # BEGIN SOLUTION
    time = t.reshape(-1, *[1] * (x.ndim - 1))
    variance = time**2 * std**2 + (1 - time) ** 2
    means, weights = torch.stack([m1, m2])[:, None], torch.stack([weight, 1 - weight])
    offset = x - time * means
    squares = (offset**2 / variance).reshape(2, len(x), -1).sum(dim=2)
    shares = torch.softmax(torch.log(weights)[:, None] - squares / 2, dim=0)
    velocities = means + (time * std**2 - (1 - time)) / variance * offset
    return (shares.reshape(2, *time.shape) * velocities).sum(dim=0)
    # END SOLUTION


check("paths.two_gaussians", two_gaussians)

# %% [markdown]
# ## An experiment: the same densities with noise
#
# Chapter 1 says that a flow may be made noisy without changing its densities, if a multiple of the score is added to the drift. Take the two Gaussians in the plane with $m_1=(3,0)$, $m_2=(-3,0)$, $s=0.5$ and $w=0.3$. Start 20,000 points at $\mathcal N(0,I)$ and go to $t=1$ in 400 even steps of length $h$, in double precision. Do it in three ways. *ODE:* $x\leftarrow x+h\,v_t(x)$. *SDE:* $x\leftarrow x+h\,[v_t(x)+\lambda\,\nabla\log p_t(x)]+\sqrt{2\lambda h}\,\xi$ with $\lambda=0.5$ and fresh standard normal $\xi$ in each step; the score comes from your function. *Noise only:* the same without the score. The velocity is taken at the beginning of each step, so at $t=0$ but never at $t=1$; both functions work there. They want `std` and `weight` as tensors.
#
# Print for each: the share of points whose first coordinate is positive at the end, the standard deviation of the second coordinate there, and the correlation between the second coordinates of start and end. What should the first two be? What tells the ODE and the SDE apart, though they have the same $p_t$?


# %% tags=["solution"]
def journey(noise, drift, n=400):
    """Start and end of 20,000 points; noise and drift are the two factors λ."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([3.0, 0.0], dtype=torch.float64)
    std, weight = mean.new_tensor(0.5), mean.new_tensor(0.3)
    draw = lambda: torch.randn(20_000, 2, generator=generator).to(mean)  # noqa: E731
    x = start = draw()
    for i in range(n):
        t = x.new_full((len(x),), i / n)
        v = two_gaussians(x, t, mean, -mean, std, weight)
        x = x + (v + drift * score_from_velocity(v, x, t)) / n
        x = x + (2 * noise / n) ** 0.5 * draw() if noise else x
    return start, x


# %% tags=["solution"]
for name, noise, drift in (("ODE", 0, 0), ("SDE", 0.5, 0.5), ("noise only", 0.5, 0)):
    start, end = journey(noise, drift)
    share, spread = (end[:, 0] > 0).double().mean(), end[:, 1].std()
    both = torch.corrcoef(torch.stack([start[:, 1], end[:, 1]]))[0, 1]
    print(f"{name:10s} share {share:.2f}, std {spread:.2f}, correlation {both:.2f}")

# %% [markdown] tags=["solution"]
# The share should be $w=0.3$ and the standard deviation $s=0.5$. The ODE and the SDE have both. So $p_1$ is right with and without noise.
#
# What differs is who goes where. The second coordinate of the ODE is multiplied by the same number for all points, so its correlation is 1.00. In the SDE it has nearly forgotten its start, with a correlation of about 0.2. Noise without the score spreads the points: the standard deviation is 1.01, twice what it should be, and the share is wrong too. The score takes back what the noise spreads.
