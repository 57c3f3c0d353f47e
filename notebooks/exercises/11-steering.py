# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Steering
#
# You tilt a mixture by a reward, carry the reward's gradient back along noisy paths, and complete vectors of which a part is known. You need the sections on rewards and on editing of the excursion. The line below each function checks it on random inputs; `check(..., seed=1)` draws others.
#
# Work with `torch` alone. As everywhere in this book, $t=0$ is noise and $t=1$ is data, and the path is the linear one, $x_t=t\,x_1+(1-t)\,x_0$.

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
# ## A mixture and a reward (1 point)
#
# Let $p=\sum_kw_k\,\mathcal N(m_k,v_kI)$ in $\mathbb R^D$, and let the reward be $r(x)=\langle b,x\rangle-\frac12k\lVert x\rVert^2$. The tilted law has the density
#
# $$\frac{p(x)\,e^{r(x)}}{\int p(y)\,e^{r(y)}\,dy},$$
#
# and it is again a mixture of as many Gaussians. Complete the square: what are the new weights, means and variances? Rewards can be so large that $e^r$ is infinite in floating point, and the right weights are finite still.
#
# `weights` and `variances` have shape $(K,)$, `means` has shape $(K,D)$, `linear` is $b$, shape $(D,)$, and `curvature` is $k$, shape `()`. It may be negative or zero; all $1+kv_k$ are positive. Return one tensor of shape $(K,D+2)$, with a row for each component: its weight, its mean, its variance.


# %%
def tilted_mixture(weights, means, variances, linear, curvature):
    """Return the rows (weight, mean, variance) of the tilted law, shape (K, D + 2)."""
    # YOUR CODE HERE
    raise NotImplementedError


check("steering.tilted_mixture", tilted_mixture)

# %% [markdown]
# ## The target of adjoint matching (2 points)
#
# A trained velocity $v$ is to be moved towards the law tilted by $e^r$. The excursion samples with the memoryless noise, $dX=b_t(X)\,dt+\sigma_t\,dW$ with $b_t(x)=2v_t(x)-x/t$ and $\sigma_t^2=2(1-t)/t$. You are given a path of it at the times $t_0<\dots<t_n=1$, and ask: if the noise of every step stays the same, how does the reward at the end change with $X_i$? A step is $X_{i+1}=X_i+h_i\,b_{t_i}(X_i)+\text{noise}$ with $h_i=t_{i+1}-t_i$. So the gradient $a_i$ of $r(X_n)$ for $X_i$ comes from behind,
#
# $$a_n=\nabla r(X_n),\qquad a_i=a_{i+1}+h_i\,J_i^\top a_{i+1},\qquad J_i=\frac{\partial b_{t_i}}{\partial x}(X_i).$$
#
# It is called the lean adjoint. (The lab follows the term $-x/t$ exactly from one time to the next; here the plain step is meant.) Adjoint matching trains a new velocity, which starts as a copy of $v$, by a regression on
#
# $$v_{t_i}(X_i)+\frac{1-t_i}{t_i}\,a_i,\qquad i=0,\dots,n-1.$$
#
# Return these targets, shape $(n,B,\dots)$. `velocity(x, t)` is $v$ and wants times of shape $(B,)$; `gradient(x)` is $\nabla r$. `states` has shape $(n+1,B,\dots)$, and `times` has shape $(n+1,)$ with uneven steps. Multiply by $J^\top$ with `torch.autograd.grad(b, x, a)`; no matrix is needed.


# %%
def adjoint_target(velocity, gradient, states, times):
    """Return the targets at all states but the last, shape (n, B, ...)."""
    # YOUR CODE HERE
    raise NotImplementedError


check("steering.adjoint_target", adjoint_target)

# %% [markdown]
# ## When a part is known (1 point)
#
# The data are Gaussian, $x_1\sim\mathcal N(m,C)$ in $\mathbb R^D$, and of each sample the first coordinate of $x_1$ is known to be $y$. Given that, $x_1$ is Gaussian still: its first coordinate is $y$, with variance zero, and the others have learned from $y$. Find its mean $m'$ and covariance $C'$, and return the velocity of the linear path from noise $\mathcal N(0,I)$ to $\mathcal N(m',C')$,
#
# $$v_t(x)=m'+\bigl(tC'-(1-t)I\bigr)\bigl(t^2C'+(1-t)^2I\bigr)^{-1}(x-tm').$$
#
# All $D$ coordinates start as noise and move, the first one too. `x` has shape $(B,D)$, `t` and `known` ($y$, one for each sample) have shape $(B,)$, `mean` has shape $(D,)$, and `covariance` has shape $(D,D)$.


# %%
def velocity_given_first(x, t, mean, covariance, known):
    """Return the velocity, shaped like x; t and known have shape (B,)."""
    # YOUR CODE HERE
    raise NotImplementedError


check("editing.velocity_given_first", velocity_given_first)

# %% [markdown]
# ## An experiment: which law comes out?
#
# Let the data on the line be $\frac12\mathcal N(-1,0.5^2)+\frac12\mathcal N(1,0.5^2)$. Tilt them by $r(x)=bx$ for $b=0,1,4,16$, and by $r(x)=-\frac12kx^2$ for $k=12$. Where are the new components, and what do they weigh? How many standard deviations of the data lie between the mean of the component on the right and where it was? Which rewards keep to the data?
#
# Then test adjoint matching for $b=1$. The mixtures' velocities are known, that of the data and that of the tilted law, as in exercise 2.3. Start 4000 paths of the memoryless noise in $x=0$ at $t=0.4$, with 200 equal steps to $t=1$, in double precision. Compute your targets at the start. Average them (a) when the paths follow the drift $2v-x/t$ of the data's velocity, (b) over the same paths, each weighted with $e^{r(X_1)}$, and (c) when they follow that of the tilted velocity; the targets are made from the data's velocity in all three. Which averages are the tilted velocity at $x=0$, $t=0.4$? What does this say of the paths on which one trains?
#
# Last, let $m=0$ and $C$ have ones on the diagonal and 0.9 beside it, in the plane, and let $y=2$. Send 4000 noises to $t=1$ by Euler's method with 20, 100 and 500 steps: with your velocity, and with another one whose first coordinate is led to $y$ by $(y-x^{(1)})/(1-t)$ while the second follows the velocity of the whole law, which knows of no $y$. Print mean and variance of the second coordinate. What should they be? Do more steps help?
