# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: ReFlow
#
# You measure how straight a flow is, distil it into one step, and write the target of MeanFlow. You need the definition of straightness, the section on distillation and the one on mean velocities of chapter 6. The line below each function checks it on random inputs; `check(..., seed=1)` draws others.
#
# Work with `torch` alone. A squared norm $\lVert\cdot\rVert^2$ is the sum over all entries of an event, whatever its shape: numbers, points or images. An expectation is the mean over the batch.

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
# ## Straightness (1 point)
#
# A solver has returned the states $Z_{t_0},\dots,Z_{t_n}$ at times $0=t_0<\dots<t_n=1$, which are not evenly spaced. Join the states of each sample by straight lines. Along this polygon the velocity $\dot Z_t$ is constant in each step. Return
#
# $$S=\mathbb E\int_0^1\lVert(Z_1-Z_0)-\dot Z_t\rVert^2\,dt.$$
#
# `states` has shape $(n+1,B,\dots)$ and `times` shape $(n+1,)$. Sum over the event, average over the batch, and integrate over the time exactly.


# %%
def straightness(states, times):
    """Return S, shape (); states: shape (n + 1, B, ...), times: shape (n + 1,)."""
    # YOUR CODE HERE
    raise NotImplementedError


check("reflow.straightness", straightness)

# %% [markdown]
# ## Distillation (1 point)
#
# The pairs of $x_0$ and $x_1$ come from a teacher: $x_1$ is where its flow takes the noise $x_0$. A student is to get there in one Euler step of length 1 from $t=0$. Return its loss, $\mathbb E\lVert x_0+v_0(x_0)-x_1\rVert^2$.
#
# `v(x, t)` takes states of shape $(B,\dots)$ and a time for each, shape $(B,)$. Sum over the event and average over the batch.


# %%
def distillation_loss(v, x0, x1):
    """Return the loss, shape (); x0 and x1 have shape (B, ...)."""
    # YOUR CODE HERE
    raise NotImplementedError


check("reflow.distillation_loss", distillation_loss)

# %% [markdown]
# ## The target of MeanFlow (2 points)
#
# `u(x, start, end)` is a network for the mean velocity from time $s$ = `start` to time $t$ = `end`. It takes states of shape $(B,\dots)$ and two times for each, both of shape $(B,)$, with $s\le t$. `velocity` is the velocity $w$ of the line at $x$. Return the target of its regression,
#
# $$\Psi(w)=w+(t-s)\,\bigl(\partial_su_{s,t}(x)+(w\cdot\nabla)\,u_{s,t}(x)\bigr),$$
#
# in the shape of `x`. The bracket is the derivative of $u$ in the direction $(w,1,0)$ of its arguments $(x,s,t)$. `torch.func.jvp(function, arguments, direction)` takes two tuples of tensors of the same shapes, so that 1 and 0 stand for tensors of ones and zeros, and returns the value and this derivative. You need not stop the gradient here.


# %%
def mean_velocity_target(u, x, start, end, velocity):
    """Return Ψ(velocity), shaped like x; start and end have shape (B,)."""
    # YOUR CODE HERE
    raise NotImplementedError


check("reflow.mean_velocity_target", mean_velocity_target)

# %% [markdown]
# ## An experiment: rays that are not straight
#
# Independent pairs with $x_0\sim\mathcal N(0,I)$ and $x_1\sim\mathcal N(0,a^2I)$ have the flow $Z_t=b_t\,x_0$ with the spread $b_t=\sqrt{(1-t)^2+t^2a^2}$. Its velocity is $v_t(x)=\frac{\dot b_t}{b_t}\,x$, and its mean velocity is $\bar u_{s,t}(x)=\frac1{t-s}\bigl(\frac{b_t}{b_s}-1\bigr)\,x$. Take 1000 points in the plane, in double precision, and $a=0.5,1,4$.
#
# First compute the states at 1001 even times and their $S$. Divide it by $a$ and by the mean of $\lVert x_0\rVert^2$. Every particle moves on a ray through the origin: why is $S$ not zero?
#
# Then compute the distillation loss of two students on the pairs $(x_0,Z_1)$: the velocity $v_t$ itself, and one that answers with $\bar u_{0,1}$. Divide by the mean of $\lVert x_0\rVert^2$ too. Where does the one step of $v_0$ land?
#
# Last, take the points $x=x_0$ themselves as states, at random times $s<0.8$ and with ends $t=s+0.2$. Let `velocity` be $v_s(x)$. How far is your target from $\bar u_{s,t}(x)$? Give the norm of the difference, over all points, relative to the norm of $\bar u$. And how far is the target with a minus sign, $2w-\Psi(w)$?
