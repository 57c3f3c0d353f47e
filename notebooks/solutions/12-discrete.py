# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Discrete
#
# You write the rates of a chain that turns noise into tokens, a step of Euler's method for the law of two tokens, and the bound on the likelihood of a model that fills in masked tokens. You need the excursion's sections on the marginal rate, on the loss and on steps. The line below each function checks it on random inputs; `check(..., seed=1)` draws others.
#
# Work with `torch` alone. As everywhere in this book, $t=0$ is noise and $t=1$ is data. There are $S$ tokens, $0$ to $S-1$. The schedule is $\alpha_t=t^2$ on this sheet, the probability that a token has reached its value in the data by time $t$: $p_t(x\mid x_1)=(1-\alpha_t)\,p_0(x)+\alpha_t\,\delta_{x_1}(x)$ for each position, where $\delta_a(b)$ is 1 for $a=b$ and 0 elsewhere. Sequences have the shape $(B,\dots)$ and hold whole numbers. Times have the shape $(B,)$, one for each sequence.

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
# ## The marginal rate (1 point)
#
# A token at $x$ whose value in the data is $x_1$ jumps to $y$ with the rate
#
# $$\nu_t\,\bigl(\delta_{x_1}(y)-\delta_x(y)\bigr),\qquad\nu_t=\frac{\dot\alpha_t}{1-\alpha_t}.$$
#
# A rate at the present token, $y=x$, is minus the sum of those to all others. The data are not known, but `posterior` holds what the present sequence says of them: entry $j$ of its last dimension is the probability of $x_1=j$ at that position. Average the rate with it.
#
# `x` has shape $(B,\dots)$, `posterior` shape $(B,\dots,S)$, and `t` shape $(B,)$ with $0<t<1$. Return the rates to each token in the shape of `posterior`.


# %%
def marginal_rate(posterior, x, t):
    """Return the rates, (B, ..., S); x is (B, ...) and t is (B,)."""
    # BEGIN SOLUTION
    now = torch.nn.functional.one_hot(x, posterior.shape[-1])
    time = t.reshape(-1, *[1] * x.ndim)
    return 2 * time / (1 - time**2) * (posterior - now)
    # END SOLUTION


check("discrete.marginal_rate", marginal_rate)

# %% [markdown]
# ## A step for the law of two tokens (1 point)
#
# In a step of Euler's method a token at $a$ that has the rate $Q(j)$ to token $j$ goes there with probability $hQ(j)$, and stays with probability $1+hQ(a)$, where $Q(a)$ is negative. In a sequence each token has its own rates, which depend on the whole sequence. All of them are taken at the state **before** the step, and then each token draws for itself, independently of the others. So both of two tokens may jump.
#
# `law` has shape $(S,S)$: entry $a,b$ is the probability of the sequence $(a,b)$ before the step. `rate` has shape $(S,S,2,S)$: `rate[a, b, 0]` holds the rates of the first token in the sequence $(a,b)$ to each token, `rate[a, b, 1]` those of the second. `h` has shape `()`. Return the law after the step, shape $(S,S)$. No sample is drawn: sum over all sequences before the step.


# %%
def euler_law(law, rate, h):
    """Return the law after the step, (S, S); rate is (S, S, 2, S)."""
    # BEGIN SOLUTION
    one = torch.eye(len(law), dtype=law.dtype)
    first = one[:, None, :] + h * rate[:, :, 0]
    second = one[None, :, :] + h * rate[:, :, 1]
    return torch.einsum("ab,abi,abj->ij", law, first, second)
    # END SOLUTION


check("discrete.euler_law", euler_law)

# %% [markdown]
# ## The bound of a masked model (2 points)
#
# Now the noise is a mask, one more token with the number $S$. At time $t$ each position of $x_1$ is still hidden with probability $1-\alpha_t$, and then holds the mask. `model(x, t)` takes such sequences and returns **logits** of shape $(B,\dots,S)$; their softmax $q^i(\cdot\mid x_t)$ is the model's posterior of the token at position $i$. For $t$ uniform in $(0,1)$
#
# $$-\log m_1(x_1)\ \le\ \mathbb E\Bigl[-\nu_t\sum_{i\ \text{hidden}}\log q^i\bigl(x_1^i\mid x_t\bigr)\Bigr],$$
#
# where $m_1$ is the law of the samples that the model's chain makes, and the sum is over the positions that are hidden in $x_t$.
#
# Return the right-hand side for a batch: the mean over its sequences, **in bits, and for each token**, so divided by the number of positions of a sequence, hidden or not. `x1` has shape $(B,\dots)$, `mask` is $S$, `u` holds uniform numbers in $[0,1)$ in the shape of `x1`, and `t` has shape $(B,)$. Hide the positions where $u\ge\alpha_t$. The result has shape `()`, and gradients flow into the model.


# %%
def likelihood_bound(model, x1, mask, u, t):
    """Return the bound in bits a token, (); x1 and u are (B, ...), t is (B,)."""
    # BEGIN SOLUTION
    time = t.reshape(-1, *[1] * (x1.ndim - 1))
    hidden = u >= time**2
    log_q = model(x1.masked_fill(hidden, mask), t).log_softmax(dim=-1)
    cost = -log_q.gather(-1, x1.unsqueeze(-1)).squeeze(-1)
    weight = 2 * time / (1 - time**2)
    return (weight * hidden * cost).mean() / math.log(2)
    # END SOLUTION


check("discrete.likelihood_bound", likelihood_bound)

# %% [markdown]
# ## An experiment: two tokens that mostly agree
#
# Let the first of two tokens be 0, 1 or 2 with probability $0.5,\ 0.3,\ 0.2$, and let the second be the same with probability $0.9$, else each of the others with $0.05$. This is `data`, a table of shape $(3,3)$. All in double precision.
#
# *Few steps.* Take the uniform law as noise. By Bayes' rule the data are $(i,j)$, given the sequence $(a,b)$ at time $t$, with a probability proportional to $\mathrm{data}_{ij}\,k_t(a\mid i)\,k_t(b\mid j)$, where $k_t(a\mid i)=\alpha_t\,\delta_i(a)+(1-\alpha_t)/3$. Its sums over $j$ and over $i$ are the posteriors of the two tokens. Put all nine sequences in a batch, compute your rates, and push the uniform law through $n$ equal steps from $t=0$ to $t=1$, for $n=1,2,4,\dots,64$. How far is the result from `data`, in total variation $\frac12\sum_{ij}\lvert p_{ij}-\mathrm{data}_{ij}\rvert$? Why does $n=1$ do nothing?
#
# A token that still waits at $t$ has jumped by $t+h$ with probability $(\alpha_{t+h}-\alpha_t)/(1-\alpha_t)$. Use this share in the place of $h\nu_t$: your `euler_law` takes it as its `h`, with rates that lack the factor $\nu_t$. Your `marginal_rate` gives those when it is asked at $t=\sqrt2-1$, where this factor is 1. What is now the law after one step, and what is missing in it? How does the error fall with $n$?
#
# *The bound.* Draw 100 000 sequences from `data`, and take the times $(k+\frac12)/100\,000$. Compute your bound for two models of masked tokens: the exact one, which gives each hidden token its probability in `data` given the other token, if that is shown; and one that always gives the token's own probability and never looks at the other. Compare with the entropy of `data`, and with the entropies of each token by itself, all in bits a token. What does the bound become if you leave the weight out, and can you still compare the two models with it?

# %% tags=["solution"]
first = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
agree = torch.full((3, 3), 0.05, dtype=torch.float64).fill_diagonal_(0.9)
data = first[:, None] * agree
one = torch.eye(3, dtype=torch.float64)
states = torch.cartesian_prod(torch.arange(3), torch.arange(3))


def posterior(t):
    """The two posteriors in each of the nine sequences, shape (9, 2, 3)."""
    k = t**2 * one + (1 - t**2) / 3
    joint = torch.einsum("ij,ai,bj->abij", data, k, k).reshape(9, 3, 3)
    joint = joint / joint.sum(dim=(1, 2), keepdim=True)
    return torch.stack([joint.sum(dim=2), joint.sum(dim=1)], dim=1)


# %% tags=["solution"]
def pushed(n, exact):
    """The law after n steps, with the exact share of jumps or with Euler's."""
    law = torch.full((3, 3), 1 / 9, dtype=torch.float64)
    for k in range(n):
        t, h = k / n, 1 / n
        when = 2**0.5 - 1 if exact else t
        times = torch.full((9,), when, dtype=torch.float64)
        rate = marginal_rate(posterior(t), states, times).reshape(3, 3, 2, 3)
        share = ((t + h) ** 2 - t**2) / (1 - t**2) if exact else h
        law = euler_law(law, rate, share)
    return law


# %% tags=["solution"]
far = lambda law: (law - data).abs().sum().item() / 2  # noqa: E731
for n in (1, 2, 4, 8, 16, 32, 64):
    euler, exact = (far(pushed(n, kind)) for kind in (False, True))
    print(
        f"{n:2} steps: {euler:.4f} with Euler's share, {exact:.4f} with the exact one"
    )
after = pushed(1, True)
apart = torch.outer(data.sum(dim=1), data.sum(dim=0))
print("one step gives independent tokens:", torch.allclose(after, apart))


# %% tags=["solution"]
def exact(x, t):
    """Logits of the exact model; the mask is token 3."""
    table = torch.zeros(2, 4, 3, dtype=torch.float64)
    table[0, :3] = (data / data.sum(dim=0)).T.log()  # of the first, given the second
    table[1, :3] = (data / data.sum(dim=1, keepdim=True)).log()
    table[:, 3] = torch.stack([data.sum(dim=1), data.sum(dim=0)]).log()
    return torch.stack([table[0, x[:, 1]], table[1, x[:, 0]]], dim=1)


def alone(x, t):
    """Logits of the model that never looks at the other token."""
    return exact(torch.full_like(x, 3), t)


# %% tags=["solution"]
N = 100_000
g = torch.Generator().manual_seed(0)
x1 = states[torch.multinomial(data.flatten(), N, replacement=True, generator=g)]
u = torch.rand(N, 2, generator=g, dtype=torch.float64)
t = (torch.arange(N, dtype=torch.float64) + 0.5) / N
entropy = lambda p: -(p * p.log2()).sum().item() / 2  # noqa: E731
apart = entropy(data.sum(dim=0)) + entropy(data.sum(dim=1))
for name, model, truth in (("exact", exact, entropy(data)), ("alone", alone, apart)):
    bound = likelihood_bound(model, x1, 3, u, t)
    print(f"{name}: bound {bound:.2f}, entropy {truth:.2f}")

# %% tags=["solution"]
hidden = u >= t[:, None] ** 2
for name, model in (("exact", exact), ("alone", alone)):
    log_q = model(x1.masked_fill(hidden, 3), t).log_softmax(dim=-1)
    cost = -log_q.gather(-1, x1.unsqueeze(-1)).squeeze(-1)
    print(f"{name}: {(hidden * cost).mean() / math.log(2):.2f} without the weight")

# %% [markdown] tags=["solution"]
# *Few steps.* At $t=0$ Euler's share $h\nu_0$ is zero, for the schedule starts at rest. So the first step is lost, and with $n=1$ it is the only one. The exact share of one step is 1: every token jumps to a draw from its own posterior. Each token by itself then has exactly its law in `data`. But both drew before the other was known, so they are independent, and agree only as often as chance has it. That is all that is missing, and it is more than half of the mass.
#
# With both shares the error is halved when $n$ is doubled, once $n$ is large enough: a method of first order. The exact share does not change the order, for it repairs the schedule only. What remains is that two tokens may jump in one step, and that neither sees the other's jump. In a step this has a probability of the order $h^2$, and there are $1/h$ steps.
#
# *The bound.* For the exact model the bound is the entropy of `data`, up to the noise of the draw. No model of these sequences can need fewer bits on average, so the bound is tight here: hiding tokens and filling them in one by one loses nothing. The model that never looks needs the entropy of each token by itself. The difference is what one token says of the other, half of it for each.
#
# Without the weight the numbers are no bits of anything. The one of the exact model lies below the entropy, so it bounds nothing. The order of the two models is right still: at each sequence with hidden tokens the exact posterior has the least cross-entropy, whatever the weight. But the distance between them is too small, for without the weight late times count too little, and late times are those at which one token is shown and the other is not.
