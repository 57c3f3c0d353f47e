# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Flows
#
# You compute what chapter 1 proves: the density of points that a map has moved, and the divergence of a field, exact and estimated. You need the change of variables for an affine map, which the chapter has under "Moving a crowd", the density of the standard normal distribution, and the section on the divergence. Each exercise has a statement, a function with a blank, and a line that checks it: on random states of several shapes, against the right answer. If something is wrong, it says what it looks like. Another seed draws other inputs: `check(..., seed=1)`.
#
# `torch` is all you need. A batch of states has the shape $(B,\dots)$. What follows $B$ is the shape of an event: `(2,)` for points of the plane, `(1, 4, 4)` for small images, `()` for numbers. $D$ is the number of entries of an event. The density of an image is that of the vector of its entries.

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
# ## The density of moved points (1 point)
#
# Let $x_0\sim\mathcal N(0,I)$ in $D$ dimensions and $x=e^a\,x_0+b$, with one number $a$ and a shift $b$ of the shape of an event. Find $x_0$ from $x$, and use that $p(x)\,\lvert\det\rvert=p_0(x_0)$ with the determinant of the map.
#
# Return the log-density $\log p(x)$ of each sample, with the natural logarithm and with all constants, in the shape $(B,)$.


# %%
def affine_log_prob(x, a, b):
    """Return log p(x), shape (B,); x has shape (B, ...), a (), b that of an event."""
    # BEGIN SOLUTION
    noise = ((x - b) * torch.exp(-a)).reshape(len(x), -1)
    size = noise.shape[1]
    log_normal = -(noise**2).sum(dim=1) / 2 - size / 2 * math.log(2 * math.pi)
    return log_normal - size * a
    # END SOLUTION


check("flows.affine_log_prob", affine_log_prob)

# %% [markdown]
# ## The divergence (1 point)
#
# `v(x, t)` takes states of shape $(B,\dots)$ and a time for each, shape $(B,)$, and returns velocities of the shape of the states. The velocity of a sample depends on that sample only. Let $J=\partial v_t/\partial x$ be the Jacobian of one sample, $D\times D$ for an event of $D$ entries. Return its trace $\sum_iJ_{ii}$ for each sample, shape $(B,)$.
#
# Use `torch.autograd.grad`. One call gives you one row $i$ of the Jacobians of all samples, if you sum $v_i$ over the batch. You need $D$ of them, and all but the last need `retain_graph=True`. Autograd follows `x` only if you ask for it: begin with `x = x.detach().requires_grad_()`.


# %%
def exact_divergence(v, x, t):
    """Return the trace of the Jacobian of v at (x, t), shape (B,); t has shape (B,)."""
    # BEGIN SOLUTION
    x = x.detach().requires_grad_()
    flat = v(x, t).reshape(len(x), -1)
    trace = torch.zeros_like(flat[:, 0])
    for i in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True)
        trace = trace + row.reshape(len(x), -1)[:, i]
    return trace.detach()
    # END SOLUTION


check("flows.exact_divergence", exact_divergence)

# %% [markdown]
# ## Hutchinson's estimate (2 points)
#
# Now with a single backward pass. `probe` has the shape of `x` and holds a vector $\varepsilon$ for each sample. Return $\varepsilon^{\top}J\varepsilon=\sum_{ij}\varepsilon_iJ_{ij}\varepsilon_j$ for each sample, shape $(B,)$. Do not build $J$.
#
# The probe is given, and nothing is averaged here: the estimate of one probe is wanted, whatever its entries are.


# %%
def hutchinson(v, x, t, probe):
    """Return the estimate of each sample, shape (B,); the probe has the shape of x."""
    # BEGIN SOLUTION
    x = x.detach().requires_grad_()
    (product,) = torch.autograd.grad((probe * v(x, t)).sum(), x)
    return (product * probe).reshape(len(x), -1).sum(dim=1)
    # END SOLUTION


check("flows.hutchinson", hutchinson)

# %% [markdown]
# ## An experiment: what does one probe cost?
#
# Take the field $v_t(x)=0.3\,x$ in 10 dimensions, and noise $x_0\sim\mathcal N(0,I)$ at $t=0$. The flow map at $t=1$ is $x_1=e^{0.3}x_0$, and the divergence is the same everywhere. So $\log p_1(x_1)=\log p_0(x_0)-\nabla\cdot v$.
#
# Compute $\log p_1$ at the point $x_1=(1,\dots,1)$ in three ways: in closed form with `affine_log_prob`; with your exact divergence; and with your estimate, for 100,000 Gaussian probes and for 100,000 probes with entries $\pm1$. Print mean and standard deviation of the estimates $\hat\ell$, and the mean of $e^{\hat\ell}$ divided by the true density. Which of these numbers does chapter 1 predict, and of which does it only know on which side of 1 it lies? Would you report the mean of $e^{\hat\ell}$? Are signs always so much better?

# %% tags=["solution"]
a, zero = torch.tensor(0.3, dtype=torch.float64), torch.zeros(10, dtype=torch.float64)
field = lambda x, t: a * x  # noqa: E731
n, generator = 100_000, torch.Generator().manual_seed(0)
end, t = torch.ones(n, 10, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
start = affine_log_prob(end * torch.exp(-a), 0 * a, zero)
truth = affine_log_prob(end[:1], a, zero).item()
exact = (start[:1] - exact_divergence(field, end[:1], t[:1])).item()
print(f"closed form {truth:.3f}, exact divergence {exact:.3f}")

# %% tags=["solution"]
gaussian = torch.randn(end.shape, generator=generator, dtype=torch.float64)
for name, probe in (("Gaussian", gaussian), ("signs", gaussian.sign())):
    found = start - hutchinson(field, end, t, probe)
    ratio = (found - truth).exp().mean()
    print(f"{name}: mean {found.mean():.2f}, std {found.std():.2f}, ratio {ratio:.1f}")

# %% [markdown] tags=["solution"]
# All three agree at −14.93, the estimates on average. With $J=0.3\,I$ the chapter predicts the variance $2\,\lVert\operatorname{sym}J\rVert_F^2=2\cdot10\cdot0.09=1.8$ for Gaussian probes, which is the standard deviation 1.34, and 0 for signs: $\varepsilon^{\top}J\varepsilon=0.3\cdot10$ whatever the signs are.
#
# The mean of $e^{\hat\ell}$ is about 1.9 times the true density. The chapter only says that it is above 1, by Jensen's inequality: $\hat\ell$ is unbiased, $e^{\hat\ell}$ is not. So you report the mean of $\hat\ell$, and do not exponentiate it.
#
# Signs leave no noise on the diagonal, and here there is nothing else. On a Jacobian without a diagonal both kinds of probe have the same variance. Signs are never worse, and often only a little better.
