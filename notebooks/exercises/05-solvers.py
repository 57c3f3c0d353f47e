# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: ODE solvers
#
# You write the solvers of chapter 5. Each exercise has a statement, a function with a blank, and a line that checks it: on random states of several shapes, against the right answer. If something is wrong, it says what it looks like. Another seed draws other inputs: `check(..., seed=1)`.
#
# Work without the package's own solvers: `torch` is all you need. States have shape $(B,\dots)$. The velocity field $v_t(x)$ of the book comes in two forms here. In the first exercise `v(x, t)` wants a time for each sample, `t` of shape $(B,)$. In the others it wants one time for the whole batch, of shape `()`. Each statement says which.

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
# ## Euler's method (1 point)
#
# Follow the tangents over a grid of times $t_0,\dots,t_n$: from $t_i$ to $t_{i+1}$ the state moves by $(t_{i+1}-t_i)\,v_{t_i}(x)$. The grid is not even, and it may run backwards.
#
# `v(x, t)` takes states of shape $(B,\dots)$ and a time for each, shape $(B,)$. Return the state at the last time.


# %%
def euler_solve(v, x, times):
    """Return the state at times[-1]; x is at times[0], times has shape (n + 1,)."""
    # YOUR CODE HERE
    raise NotImplementedError


check("solvers.euler_solve", euler_solve)

# %% [markdown]
# ## Heun's method (1 point)
#
# One step from $t$ to $t+h$. Take Euler's step, look at the velocity where it ends, and take the mean of that and of the first velocity instead. Here `v(x, t)` takes one time for the whole batch, of shape `()`; `h` may be negative.


# %%
def heun_step(v, x, t, h):
    """Return the state at t + h; x has shape (B, ...), t and h have shape ()."""
    # YOUR CODE HERE
    raise NotImplementedError


check("solvers.heun_step", heun_step)

# %% [markdown]
# ## The classical Runge–Kutta method (2 points)
#
# Four velocities: $k_1$ at the beginning; $k_2$ after half a step along $k_1$; $k_3$ after half a step along $k_2$; $k_4$ after a whole step along $k_3$. The state moves by $h\,(k_1+2k_2+2k_3+k_4)/6$.


# %%
def rk4_step(v, x, t, h):
    """Return the state at t + h; x has shape (B, ...), t and h have shape ()."""
    # YOUR CODE HERE
    raise NotImplementedError


check("solvers.rk4_step", rk4_step)

# %% [markdown]
# ## An experiment: which order?
#
# Solve $\dot x=-2tx$ from $x=1$ at $t=0$ to $t=1$ with 10, 20, 40 and 80 steps of each of your three methods, in double precision. The solution is $e^{-t^2}$. Heun's method and Runge–Kutta's need a loop of your own around the step. By what factor does the error fall when the number of steps is doubled? Which order does that show? And which method is best if every method may evaluate the field 80 times?
