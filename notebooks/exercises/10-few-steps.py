# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Few steps
#
# You write the flow map of a Gaussian, train long jumps by short ones, and pull samples towards the data by a difference of two scores. You need the sections on flow maps, on their three equations and on distribution matching of the excursion. The line below each function checks it on random inputs; `check(..., seed=1)` draws others.
#
# Work with `torch` alone. As everywhere in this book, $t=0$ is noise and $t=1$ is data, and the path is the linear one, $x_t=t\,x_1+(1-t)\,x_0$. States have the shape $(B,\dots)$: numbers, points or images. Times have the shape $(B,)$, one for each sample. A squared norm $\lVert\cdot\rVert^2$ is the sum over all entries of an event, and an expectation is the mean over the batch.

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
import warnings

import torch

from fmtutorial.coursework import check

# PyTorch warns of its own use of torch.jit when torch.func.jvp is first called
warnings.filterwarnings("ignore", category=FutureWarning)

# %% [markdown]
# ## The flow map of a Gaussian (1 point)
#
# Let the noise be $\mathcal N(0,I)$, the data $\mathcal N(m,a^2I)$, and both independent. Then $x_t$ is Gaussian at every time, and the flow keeps every particle at the same place within it, measured in standard deviations from the mean. Return $X_{s,t}(x)$: where a particle is at time $t$ = `end` that is at `x` at time $s$ = `start`. The end may lie before the start.
#
# `x` has shape $(B,\dots)$, `start` and `end` have shape $(B,)$, `mean` has the shape of one event, and `std` is $a$, of shape `()`.


# %%
def gaussian_flow_map(x, start, end, mean, std):
    """Return where the flow takes x, shaped like x; start and end have shape (B,)."""
    # YOUR CODE HERE
    raise NotImplementedError


check("few_steps.gaussian_flow_map", gaussian_flow_map)

# %% [markdown]
# ## Two short jumps teach a long one (1 point)
#
# `u(x, start, end)` is a network for the mean velocity: its jump from $s$ to $t$ takes $x$ to $x+(t-s)\,u_{s,t}(x)$. Take two jumps, from $s$ = `start` to $r$ = `middle` and from there to $t$ = `end`. Where they land, $x''$, the long jump should land too. So its mean velocity is trained to be
#
# $$\hat u=\frac{x''-x}{t-s},\qquad L=\mathbb E\,\bigl\lVert u_{s,t}(x)-\hat u\bigr\rVert^2,$$
#
# and the target $\hat u$ is **held fixed**: no gradient flows into it. The middle is not half-way.
#
# Return the gradient of $L$ with respect to `u.weight`, a tensor of the network: for a loss it is `torch.autograd.grad(loss, u.weight)[0]`.


# %%
def semigroup_gradient(u, x, start, middle, end):
    """Return the gradient of L, shaped like u.weight; the times have shape (B,)."""
    # YOUR CODE HERE
    raise NotImplementedError


check("few_steps.semigroup_gradient", semigroup_gradient)

# %% [markdown]
# ## The gradient of distribution matching (2 points)
#
# A student makes samples in one step, $y=g(z)$ with $z\sim\mathcal N(0,I)$. Add noise to them, $x_t=t\,y+(1-t)\,x_0$, as one does to the data. Let $q_t$ be the density of the noisy samples and $p_t$ that of the noisy data. For the weights $\theta$ of the student,
#
# $$\nabla_\theta\,\mathrm{KL}(q_t\,\Vert\,p_t)=\mathbb E\Bigl[\alpha_t\,\bigl(\nabla\log q_t(x_t)-\nabla\log p_t(x_t)\bigr)\cdot\partial_\theta\,g(z)\Bigr],\qquad\alpha_t=t.$$
#
# You have velocity fields for both, `student(x, t)` and `data(x, t)`, of the linear path. A score is minus the predicted noise over $\sigma_t=1-t$, and the predicted noise comes from the velocity by $\hat x_0=x-t\,v_t(x)$.
#
# Return this gradient with respect to `g.weight`, for a batch of `z`, `noise` ($x_0$) and `t`, which has shape $(B,)$ with $0<t<1$. The bracket is the gradient already: nothing is to be differentiated but $g$.


# %%
def matching_gradient(g, student, data, z, noise, t):
    """Return the gradient, shaped like g.weight; z and noise have shape (B, ...)."""
    # YOUR CODE HERE
    raise NotImplementedError


check("few_steps.matching_gradient", matching_gradient)

# %% [markdown]
# ## An experiment: one mode, or all?
#
# First test your flow map. Take $m=1$, $a=0.3$ and 1000 numbers $x$ at time $s=0.2$, in double precision. The velocity is $v_t(x)=m+\frac{ta^2-(1-t)}{b_t^2}(x-tm)$ with $b_t^2=t^2a^2+(1-t)^2$. By `torch.func.jvp`, is $\partial_tX_{s,t}(x)=v_t(X_{s,t}(x))$ at $t=0.9$? Is $\partial_sX_{s,t}(x)+v_s(x)\,\partial_xX_{s,t}(x)=0$? And do two jumps, by way of $r=0.5$, make one?
#
# Then give a network a single number $w$ as its weight, $u_{s,t}(x)=w\,\frac{X_{s,t}(x)-x}{t-s}$. Compute your semigroup gradient for $w=0,\ 0.5,\ 1,\ 1.5$ with these $x$ and $s,r,t$. Where is it zero? What more does a network need in order to learn this flow?
#
# Last, let the data on the line be $\frac12\mathcal N(-2,0.3^2)+\frac12\mathcal N(2,0.3^2)$, and let the student know a single Gaussian, $g(z)=c+bz$ with `weight` $(c,b)$. Both velocities are known: each Gaussian has the one above, and the mixture averages those of its two components with their responsibilities; the one at 2 has $1/(1+e^{-4tx/b_t^2})$. Descend with your gradient: 1000 steps of length $0.1\,\frac{1-t}t$, all at one noise level $t$. For $z$ and the noise take all pairs of 40 quantiles of a standard normal variable. Do it for $t=0.4,\ 0.6,\ 0.8,\ 0.9$, once from $(c,b)=(0.5,0.5)$ and once from $(0.5,2)$. Where does the student end?
