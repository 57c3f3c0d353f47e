# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: flow matching
#
# You write the pieces of a training step of chapter 3: the times, the loss and the average of the weights. Each exercise has a statement, a function with a blank, and a line that checks it on random inputs. If something is wrong, it says what it looks like. Another seed draws other inputs: `check(..., seed=1)`.
#
# You need the chapter's sections on training, on the choice of times and on averaging the weights. Work without the package's own losses: `torch` is all you need. Time runs from noise, $t=0$, to data, $t=1$; states have the shape $(B,\dots)$, and every sample has its own time, so that `t` has the shape $(B,)$.

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
# ## Logit-normal times (1 point)
#
# A logit-normal time has a normal logit: $\log\frac{t}{1-t}$ is normal with mean $\mu$ and standard deviation $\varsigma$. The normal numbers are drawn for you. `z` has the shape $(B,)$ and standard normal entries, `mean` is $\mu$ and `std` is $\varsigma$, both of shape `()`.
#
# Return the times that belong to `z`, of shape $(B,)$, strictly between 0 and 1. A larger entry of `z` gives a later time, and a positive mean moves the times towards data.


# %%
def logit_normal(z, mean, std):
    """Return the times, shape (B,); z has shape (B,), mean and std have shape ()."""
    # BEGIN SOLUTION
    return 1 / (1 + torch.exp(-(mean + std * z)))
    # END SOLUTION


check("matching.logit_normal", logit_normal)

# %% [markdown]
# ## The moving average (1 point)
#
# An exponential moving average of the weights is updated after each training step: $\bar\theta\leftarrow\gamma\,\bar\theta+(1-\gamma)\,\theta$. Here `average` is the old $\bar\theta$, `weights` is the new $\theta$ of the same shape, and `decay` is $\gamma$, of shape `()`, between 0 and 1.
#
# Return the new average as a new tensor, and leave the arguments as they are. Take the decay as it is given, without a smaller one for the first steps.


# %%
def ema_update(average, weights, decay):
    """Return the new average, of the shape of average; decay has shape ()."""
    # BEGIN SOLUTION
    return decay * average + (1 - decay) * weights
    # END SOLUTION


check("matching.ema_update", ema_update)

# %% [markdown]
# ## The conditional flow matching loss (2 points)
#
# The path is the straight line $x_t=(1-t)\,x_0+t\,x_1$ from noise $x_0$ to data $x_1$, and the target is its velocity $\dot x_t$. The loss is $\frac1B\sum_b\lVert v(x_t^{(b)},t^{(b)})-\dot x_t^{(b)}\rVert^2$. A squared norm is the sum over all entries of an event; only the batch is averaged.
#
# `v(x, t)` takes states of shape $(B,\dots)$ and a time for each, shape $(B,)$. `x0` and `x1` have the shape $(B,\dots)$ with any number of dimensions, also with none after $B$, and `t` has the shape $(B,)$. Return a number of shape `()`.


# %%
def cfm_loss(v, x0, x1, t):
    """Return the loss, shape (); x0 and x1 have shape (B, ...), t has shape (B,)."""
    # BEGIN SOLUTION
    time = t.reshape(-1, *[1] * (x0.ndim - 1))
    x = (1 - time) * x0 + time * x1
    error = v(x, t) - (x1 - x0)
    return error.square().reshape(len(x0), -1).sum(dim=1).mean()
    # END SOLUTION


check("matching.cfm_loss", cfm_loss)

# %% [markdown]
# ## An experiment: a lower loss, a worse field
#
# The data are normal in $d=2$ dimensions, with mean zero and standard deviation $s=5$. The marginal velocity is then known: $v_t(x)=\frac{ts^2-(1-t)}{t^2s^2+(1-t)^2}\,x$. Take this exact field, and a wrong one that adds 1 to each entry of the velocity.
#
# Measure the loss of both with three kinds of times: uniform, and logit-normal with $\mu=0$ and $\varsigma=1$ or $\varsigma=\frac12$. The loss of one batch is noisy. So draw 500 batches of 2048, the same for both fields, and follow the loss with your moving average of decay 0.99, begun with the loss of the first batch. Which loss does the chapter predict for the exact field and uniform times? By how much is the loss of the wrong field higher, and why is that the same for all times? Can you tell from the losses of two training runs which field is better?

# %% tags=["solution"]
s = torch.tensor(5.0)


def exact(x, t):
    t = t.unsqueeze(1)
    return (t * s**2 - (1 - t)) / (t**2 * s**2 + (1 - t) ** 2) * x


def wrong(x, t):
    return exact(x, t) + 1


# %% tags=["solution"]
def smoothed(v, times, g):
    """The moving average of the losses of 500 batches."""
    average, decay = None, torch.tensor(0.99)
    for _ in range(500):
        x0, x1 = torch.randn(2, 2048, 2, generator=g)
        loss = cfm_loss(v, x0, s * x1, times(g))
        average = loss if average is None else ema_update(average, loss, decay)
    return average.item()


# %% tags=["solution"]
def normal_logit(std):
    zero, std = torch.tensor(0.0), torch.tensor(std)
    return lambda g: logit_normal(torch.randn(2048, generator=g), zero, std)


print(f"predicted, exact field and uniform times: {torch.pi / 2 * 2 * s:.1f}")
kinds = {"uniform": lambda g: torch.rand(2048, generator=g)}
kinds |= {f"logit-normal, std {std}": normal_logit(std) for std in (1.0, 0.5)}
for name, times in kinds.items():
    a, b = (
        smoothed(v, times, torch.Generator().manual_seed(0)) for v in (exact, wrong)
    )
    print(f"{name:21s} exact field {a:4.1f}, wrong field {b:4.1f}")

# %% [markdown] tags=["solution"]
# The chapter predicts $\frac\pi2ds=15.7$ for the exact field and uniform times, and that is what you see. A loss of zero is out of reach, for this field as for any other.
#
# The wrong field costs 2 more, whatever the times. The difference to the exact field is the flow matching loss, the mean of $\lVert v^{\mathrm{wrong}}_t(x_t)-v_t(x_t)\rVert^2$. Here this is $1+1$ at every point and every time, and the density of the times integrates to 1. For an error that depends on $t$ the difference would depend on the density.
#
# From two losses alone you cannot tell. The wrong field with narrow times, 10.9, has a lower loss than the exact field with uniform times, 15.7: the floor depends on the times. Compare losses only if the path, the pairs and the density of the times are the same. Then their difference is a difference of flow matching losses.
