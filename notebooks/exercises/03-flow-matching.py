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
    # YOUR CODE HERE
    raise NotImplementedError


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
    # YOUR CODE HERE
    raise NotImplementedError


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
    # YOUR CODE HERE
    raise NotImplementedError


check("matching.cfm_loss", cfm_loss)

# %% [markdown]
# ## An experiment: a lower loss, a worse field
#
# The data are normal in $d=2$ dimensions, with mean zero and standard deviation $s=5$. The marginal velocity is then known: $v_t(x)=\frac{ts^2-(1-t)}{t^2s^2+(1-t)^2}\,x$. Take this exact field, and a wrong one that adds 1 to each entry of the velocity.
#
# Measure the loss of both with three kinds of times: uniform, and logit-normal with $\mu=0$ and $\varsigma=1$ or $\varsigma=\frac12$. The loss of one batch is noisy. So draw 500 batches of 2048, the same for both fields, and follow the loss with your moving average of decay 0.99, begun with the loss of the first batch. Which loss does the chapter predict for the exact field and uniform times? By how much is the loss of the wrong field higher, and why is that the same for all times? Can you tell from the losses of two training runs which field is better?
