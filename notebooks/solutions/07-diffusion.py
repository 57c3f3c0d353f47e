# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Diffusion
#
# You turn a noise prediction into a velocity, add noise to a flow, and write the step of DDIM. You need the sections on conversions, on the family of noisy flows and on DDIM of chapter 7. The line below each function checks it on random inputs; `check(..., seed=1)` draws others.
#
# Work with `torch` alone. As everywhere in this book, $t=0$ is noise and $t=1$ is data, $x_t=\alpha_tx_1+\sigma_tx_0$. The linear schedule is $\alpha_t=t$, $\sigma_t=1-t$; the cosine schedule is $\alpha_t=\sin\frac{\pi t}2$, $\sigma_t=\cos\frac{\pi t}2$. States have the shape $(B,\dots)$: numbers, points or images.

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
# ## Velocity from noise (1 point)
#
# A network predicts the noise, $\hat x_0$ = `noise`, at the states `x` and the times `t`, on the **cosine** schedule. Return the velocity $v_t(x)=\dot\alpha_t\hat x_1+\dot\sigma_t\hat x_0$, in the shape of `x`. The prediction of the data, $\hat x_1$, comes from $x=\alpha_t\hat x_1+\sigma_t\hat x_0$.
#
# `noise` and `x` have the same shape $(B,\dots)$, and `t` has the shape $(B,)$, with $0<t<1$.


# %%
def velocity_from_noise(noise, x, t):
    """Return the velocity, shaped like x; t has shape (B,)."""
    # BEGIN SOLUTION
    angle = math.pi / 2 * t.reshape(-1, *[1] * (x.ndim - 1))
    alpha, sigma = torch.sin(angle), torch.cos(angle)
    data = (x - sigma * noise) / alpha
    return math.pi / 2 * (sigma * data - alpha * noise)
    # END SOLUTION


check("diffusion.velocity_from_noise", velocity_from_noise)

# %% [markdown]
# ## A step with noise (1 point)
#
# Take one step of Euler and Maruyama from $t$ to $t+h$, with $h>0$, for
#
# $$dx=\bigl[v_t(x)+\tfrac12w^2\,\nabla\log p_t(x)\bigr]\,dt+w\,dW$$
#
# on the **linear** schedule. Here `v(x, t)` takes one time for the whole batch. `t`, `h` and the noise level `w` have shape `()` and are tensors, and $0\le t<1$. `xi` is standard normal noise, in the shape of `x`, and already drawn. The score is minus the predicted noise over $\sigma_t$. The predicted noise comes from the velocity by $\hat x_0=x-t\,v_t(x)$.


# %%
def euler_maruyama_step(v, x, t, h, w, xi):
    """Return the state at t + h; x and xi have shape (B, ...), t, h and w are ()."""
    # BEGIN SOLUTION
    velocity = v(x, t)
    score = -(x - t * velocity) / (1 - t)
    return x + h * (velocity + w**2 / 2 * score) + w * torch.sqrt(h) * xi
    # END SOLUTION


check("diffusion.euler_maruyama_step", euler_maruyama_step)

# %% [markdown]
# ## A step of DDIM (2 points)
#
# Take one step of DDIM without fresh noise, on the **cosine** schedule, from the times $t$ = `t` of the states to the times $s$ = `s`. Both have the shape $(B,)$, with a time for each sample, between 0 and 1. A step may go backwards, $s<t$. `network(x, t)` is a network that predicts the noise, in the shape of `x`. Evaluate it once. Find the prediction of the data, and return the state that both predictions make with the weights of time $s$.


# %%
def ddim_step(network, x, t, s):
    """Return the states at the times s, shaped like x; t and s have shape (B,)."""
    # BEGIN SOLUTION
    begin = math.pi / 2 * t.reshape(-1, *[1] * (x.ndim - 1))
    end = math.pi / 2 * s.reshape(-1, *[1] * (x.ndim - 1))
    noise = network(x, t)
    data = (x - torch.cos(begin) * noise) / torch.sin(begin)
    return torch.sin(end) * data + torch.cos(end) * noise
    # END SOLUTION


check("diffusion.ddim_step", ddim_step)

# %% [markdown]
# ## An experiment: which step for which data?
#
# Let the data be $\mathcal N(m,a^2)$ on the line. A perfect network on the cosine schedule predicts the noise $\hat x_0=\frac{\sigma_t}{c_t}(x-\alpha_tm)$ with $c_t=\alpha_t^2a^2+\sigma_t^2$, and the flow is $x_t=\alpha_tm+\sqrt{c_t}\,x_0$. Follow the point $x_0=1$ from $t=0.01$ to $t=1$ in $n$ even steps, in double precision. It should end at $m+a$. Do it with Euler's step, $x+h\,v_t(x)$ with your velocity, and with DDIM, for $(m,a)=(1,0)$, $(0,1)$ and $(1,0.3)$. Print the errors for $n=10,20,40$. Where is DDIM exact, where is Euler's step, and why?
#
# Then take noise, on the linear schedule with $m=0$ and $a=0.3$. There $v_t(x)=\frac{ta^2-(1-t)}{t^2a^2+(1-t)^2}\,x$. Your step is linear in the state and in the noise, $x'=Ax+B\xi$, so you need no random numbers: it takes a variance $V$ to $A^2V+B^2$. Find $A$ and $B$ of each step by calling your function twice. Start with $V=1$ at $t=0$ and take $n$ even steps to $t=1$. Print the standard deviation at the end, divided by $a$, for $w=0,1,2,4$ and $n=25,50,100,200$. What does noise cost, and does it always?


# %% tags=["solution"]
def end(kind, m, a, n):
    """Where the point x_0 = 1 is at t = 1 after n steps from t = 0.01."""
    alpha = lambda t: torch.sin(math.pi / 2 * t)  # noqa: E731
    sigma = lambda t: torch.cos(math.pi / 2 * t)  # noqa: E731
    c = lambda t: (alpha(t) * a) ** 2 + sigma(t) ** 2  # noqa: E731
    noise = lambda x, t: sigma(t) / c(t) * (x - alpha(t) * m)  # noqa: E731
    times = torch.linspace(0.01, 1, n + 1, dtype=torch.float64).reshape(-1, 1)
    x = alpha(times[0]) * m + c(times[0]).sqrt()
    for t, s in zip(times[:-1], times[1:], strict=True):
        euler = x + (s - t) * velocity_from_noise(noise(x, t), x, t)
        x = euler if kind == "Euler" else ddim_step(noise, x, t, s)
    return x.item()


# %% tags=["solution"]
for m, a in ((1, 0), (0, 1), (1, 0.3)):
    for kind in ("Euler", "DDIM"):
        errors = ", ".join(
            f"{abs(end(kind, m, a, n) - m - a):.4f}" for n in (10, 20, 40)
        )
        print(f"m = {m}, a = {a}, {kind:5s} {errors}")


# %% tags=["solution"]
def spread(w, n, a=0.3):
    """Standard deviation at t = 1 after n steps, over a."""

    def v(x, t):
        return (t * a**2 - (1 - t)) / ((t * a) ** 2 + (1 - t) ** 2) * x

    one, w = torch.ones(1, dtype=torch.float64), torch.tensor(w, dtype=torch.float64)
    times, variance = torch.linspace(0, 1, n + 1, dtype=torch.float64), 1.0
    for t in times[:-1]:
        kept = euler_maruyama_step(v, one, t, times[1], w, 0 * one).item()
        added = euler_maruyama_step(v, 0 * one, t, times[1], w, one).item()
        variance = kept**2 * variance + added**2
    return variance**0.5 / a


# %% tags=["solution"]
for w in (0.0, 1.0, 2.0, 4.0):
    print(f"w = {w}: " + ", ".join(f"{spread(w, n):.2f}" for n in (25, 50, 100, 200)))

# %% [markdown] tags=["solution"]
# DDIM is exact if the prediction of the data does not change along the way. For data in one point it is always that point. Euler's step is exact if the velocity does not change. For $m=0$, $a=1$ it is zero: the variance is 1 all the time, the point stands still, and DDIM makes an error where there is nothing to do. With $(1,0.3)$ neither is exact, and both errors are halved with the step: order 1. Narrow data in many places look like one point as soon as the noise is small, and that is where DDIM gains. For one broad Gaussian it is not the better step.
#
# With 25 steps the spread is wrong by 7 % without noise, by 4 % with $w=1$ and by 34 % with $w=2$. A little noise is better than none here. More of it costs steps. Once the steps are short, halving them halves the error. Stronger noise needs shorter steps: 200 with $w=4$ do as well as 50 with $w=2$, and with 25 the variance runs away. There $\lambda h=0.32$ is more than twice the smallest variance of $x_t$, $a^2/(1+a^2)=0.083$, and every step throws the points further out than they were.
