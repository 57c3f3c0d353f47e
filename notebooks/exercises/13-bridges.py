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
    # YOUR CODE HERE
    raise NotImplementedError


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
    # YOUR CODE HERE
    raise NotImplementedError


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
    # YOUR CODE HERE
    raise NotImplementedError


check("bridges.plan_drifts", plan_drifts)

# %% [markdown]
# ## An experiment: which pairs come back?
#
# First two looks at what you have. Take 1000 pairs of numbers, noise, and times in $(0.1,0.9)$, all in double precision, and $\sigma=0.7$. Add $\sigma^2/2$ times the score to the velocity, and subtract it. Are these $(x_1-x)/(1-t)$ and $(x-x_0)/t$? Then let $a=1$ and $b=\frac12$. Print the variance at $t=\frac12$ and the covariance $c$ of the ends, which you get back from it, for $\sigma=0.01,\ 0.3,\ 1,\ 3$ and $100$. Which pairings are the two limits?
#
# Now the process of a plan. Let $x_0^{(i)}$ be 12 quantiles of a standard normal variable. Of the 12 points $x_1^{(j)}$ let six be quantiles of $\mathcal N(-1.5,0.3^2)$ and six of $\mathcal N(1.5,0.3^2)$, in increasing order; $\sigma=1$. Send 200 particles from each $x_0^{(i)}$. Give each a partner, drawn from row $i$ of the plan, place it on their bridge at the first time by `bridge_targets`, and **forget the partner**. From there on only the drift counts: to go from $t$ to $t+h$, move by $h\,b_t(x)$ and add noise of the standard deviation $\sigma\sqrt{h(1-t-h)/(1-t)}$, that of a bridge which ends at 1. Take the times $1-(1-k/50)^2$, whose last steps are short. At the end count, for each start $i$, which of the $x_1^{(j)}$ its particles are next to. That is a new plan.
#
# Do this for three plans: every pair alike; the entropic plan for $\rho=2\sigma^2$, from `sinkhorn_log` of `fmtutorial.couplings` with 1000 iterations; and the sorted one, $i=j$. Add $10^{-9}$ to every entry before you use a plan, so that it has a logarithm. Print $\sum_{ij}P_{ij}\,x_0^{(i)}x_1^{(j)}$ before and after. Does the right share of the particles come to each end? Which plan comes back as it was? Then put the new plan in the place of the old one, and go on like this for three rounds. Where do the others go?
