# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: optimal transport
#
# You write the two ways of chapter 4 to find partners for a batch: the assignment and Sinkhorn's algorithm. Each exercise has a statement, a function with a blank, and a line that checks it on random inputs. If something is wrong, it says what it looks like. Another seed draws other inputs: `check(..., seed=1)`.
#
# You need the chapter's sections on pairs, plans and permutations and on Sinkhorn's algorithm. It shows both in a few lines for one case; here events have any shape and the two sets may differ in size. Work without the package's own couplings: `torch` and SciPy's solver of the assignment problem are all you need. Noise is $x_0$, data is $x_1$, and both have the shape $(B,\dots)$.

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
from scipy.optimize import linear_sum_assignment

from fmtutorial.coursework import check

# %% [markdown]
# ## The matrix of costs (1 point)
#
# The cost of sending noise $i$ to data point $j$ is $c_{ij}=\lVert x_0^{(i)}-x_1^{(j)}\rVert^2$, the sum of the squared differences over all entries of an event.
#
# `x0` has the shape $(N,\dots)$ and `x1` the shape $(M,\dots)$. The two numbers may differ, and the events may have any number of dimensions, also none. Return the matrix $c$ of shape $(N,M)$, in the precision of the arguments.


# %%
def squared_distances(x0, x1):
    """Return all squared distances, (N, M); x0 is (N, ...), x1 is (M, ...)."""
    # BEGIN SOLUTION
    x, y = x0.reshape(len(x0), 1, -1), x1.reshape(1, len(x1), -1)
    return (x - y).square().sum(dim=2)
    # END SOLUTION


check("transport.squared_distances", squared_distances)

# %% [markdown]
# ## The cheapest pairs (1 point)
#
# Find the permutation $\pi$ that minimises $\sum_j\lVert x_0^{(\pi(j))}-x_1^{(j)}\rVert^2$, so that data point $j$ gets the noise $\pi(j)$. Return the noise in this order: row $j$ of the result is $x_0^{(\pi(j))}$, the partner of row $j$ of `x1`. Both batches have the same shape here.
#
# You may use `linear_sum_assignment(cost.numpy())`. It returns two arrays, the rows and the columns of the cheapest assignment: entry `k` of the first belongs to entry `k` of the second, and the rows come in the order 0, 1, 2 and so on. Think about which of the two is the data.


# %%
def pair_noise(x0, x1):
    """Return a permutation of the rows of x0; x0 and x1 have shape (B, ...)."""
    # BEGIN SOLUTION
    noise, data = linear_sum_assignment(squared_distances(x0, x1).numpy())
    paired = torch.empty_like(x0)
    paired[data] = x0[noise]
    return paired
    # END SOLUTION


check("transport.pair_noise", pair_noise)

# %% [markdown]
# ## Sinkhorn's algorithm with logarithms (2 points)
#
# Here the matrix $c$ has the shape $(N,M)$. Every row of the plan should sum to $1/N$ and every column to $1/M$, so that the plan sums to 1. The chapter has $N=M$. Its regularisation $\rho$ is `epsilon` here, of shape `()` and in the unit of the cost. Start with $g_j=0$. In each of the `iterations` first update $f$, then $g$ from the new $f$:
#
# $$f_i=-\rho\log N-\rho\log\sum_je^{(g_j-c_{ij})/\rho},\qquad g_j=-\rho\log M-\rho\log\sum_ie^{(f_i-c_{ij})/\rho}.$$
#
# Return the plan $P_{ij}=e^{(f_i+g_j-c_{ij})/\rho}$ after the last update of $g$, shape $(N,M)$. In some cases $e^{-c_{ij}/\rho}$ is zero in floating point for all $i$ and $j$. Your function must work there too.


# %%
def sinkhorn_log(cost, epsilon, iterations):
    """Return the plan, (N, M); cost is (N, M), iterations a whole number."""
    # BEGIN SOLUTION
    scaled = cost / epsilon
    log_n, log_m = (math.log(n) for n in cost.shape)
    g = torch.zeros_like(scaled[0])  # f and g are in units of epsilon
    for _ in range(iterations):
        f = -log_n - torch.logsumexp(g - scaled, dim=1)
        g = -log_m - torch.logsumexp(f[:, None] - scaled, dim=0)
    return torch.exp(f[:, None] + g - scaled)
    # END SOLUTION


check("transport.sinkhorn_log", sinkhorn_log)

# %% [markdown]
# ## An experiment: may you normalise the data?
#
# Data are often shifted and scaled before training. Does that change the partners? Take 64 points $x_0$ of standard normal noise and 64 normal data points $x_1$, both in two dimensions and in double precision. Change the data in four ways: add 5 to both coordinates; multiply both by 3; multiply the first coordinate only by 3; exchange the two coordinates. For which share of the data does `pair_noise` find the same partner as before?
#
# Then look at the plan of your `sinkhorn_log` with $\rho=\frac12$ and 1000 iterations. Compare the plan $P$ for $x_1$ with the plan $Q$ for $x_1+5$ and for $3x_1$, always from the same $x_0$, by the share of mass that has moved, $\frac12\sum_{ij}\lvert P_{ij}-Q_{ij}\rvert$. For $3x_1$ try $\rho=\frac12$, $\rho=\frac32$ and $\rho=\frac92$. Expand the square in the cost to explain all that you see.

# %% tags=["solution"]
g = torch.Generator().manual_seed(0)
x0, x1 = torch.randn(2, 64, 2, generator=g, dtype=torch.float64)
stretch = torch.tensor([3.0, 1.0], dtype=torch.float64)
changed = {
    "add 5": x1 + 5,
    "times 3": 3 * x1,
    "first coordinate times 3": stretch * x1,
    "coordinates exchanged": x1.flip(1),
}
for name, y in changed.items():
    same = (pair_noise(x0, y) == pair_noise(x0, x1)).all(dim=1)
    print(f"{name:25s} the same partner for {same.double().mean():.2f}")


# %% tags=["solution"]
def plan(y, rho):
    return sinkhorn_log(squared_distances(x0, y), torch.tensor(rho), 1000)


p = plan(x1, 0.5)
for name, rho in (("add 5", 0.5), ("times 3", 0.5), ("times 3", 1.5), ("times 3", 4.5)):
    moved = (p - plan(changed[name], rho)).abs().sum() / 2
    print(f"{name}, rho {rho}: share of mass moved {moved:.2f}")

# %% [markdown] tags=["solution"]
# Expand the cost: $\lVert x_0\rVert^2+\lVert x_1\rVert^2-2\langle x_0,x_1\rangle$. Summed over a permutation, the first two terms do not depend on it. The cheapest pairs are those with the largest sum of inner products.
#
# Adding the same vector $a$ to all data adds $\langle x_0,a\rangle$ to the inner products, which is the same in any order. Multiplying all data by 3 multiplies the sum by 3. Neither changes the partners. A factor for one coordinate gives it more weight, and here about half of the data get another partner. After an exchange of coordinates almost nothing is left.
#
# For the plan, terms that depend on $i$ alone or on $j$ alone disappear in $f$ and $g$. So a shift leaves the converged plan as it is. A factor 3 on the data multiplies the inner product by 3, and the plan is the same if $\rho$ is 3 times as large. A factor 9 would be right if the noise were scaled too. You may subtract the mean and divide by one number, if $\rho$ follows. Dividing each coordinate by its own standard deviation is another transport problem.
