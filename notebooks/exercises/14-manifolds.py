# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises: Curved spaces
#
# You write the geodesic of the sphere, the marginal velocity on a torus, and the divergence of a field on the sphere. You need the sections on the exponential and the logarithm, on marginal fields and on the likelihood of the excursion. The line below each function checks it on random inputs; `check(..., seed=1)` draws others.
#
# Work with `torch` alone. As everywhere in this book, $t=0$ is noise and $t=1$ is data. States have the shape $(B,D)$ and times the shape $(B,)$, one for each sample. Points of the sphere are vectors of length 1 in $\mathbb R^D$, with $D\ge2$, and points of the torus are $D$ angles in $[-\pi,\pi)$.

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
# ## Along the great circle (1 point)
#
# Two points $x_0$ and $x_1$ of the sphere have an angle $\theta$ between them, $0<\theta<\pi$. The shortest way from one to the other is a piece of a great circle, gone at constant speed:
#
# $$x_t=\exp_{x_0}\bigl(t\log_{x_0}x_1\bigr).$$
#
# The logarithm $\log_{x_0}x_1$ is the tangent vector at $x_0$ that points to $x_1$ and has the length $\theta$. The exponential goes from $x_0$ along a tangent vector $w$, as far as $w$ is long:
#
# $$\exp_{x_0}(w)=\cos\lVert w\rVert\,x_0+\sin\lVert w\rVert\,\frac w{\lVert w\rVert}.$$
#
# Return the point $x_t$ and its velocity $\dot x_t$, stacked in this order: `torch.stack([point, velocity])`, of shape $(2,B,D)$. The ends are neither equal nor opposite.


# %%
def geodesic(x0, x1, t):
    """Return x_t and its velocity, shape (2, B, D); x0 and x1 are (B, D), t is (B,)."""
    # YOUR CODE HERE
    raise NotImplementedError


check("manifolds.geodesic", geodesic)

# %% [markdown]
# ## From uniform noise to points of a torus (1 point)
#
# The noise on the torus is uniform, so each of the $D$ angles is uniform on the circle. The data are $n$ points with equal weights. Every angle goes the shorter way round, at constant speed: to a point $y$ the velocity at $x$ is
#
# $$u_t(x\mid y)=\frac{\operatorname{wrap}(y-x)}{1-t},$$
#
# where wrap adds the multiple of $2\pi$ that brings a difference into $[-\pi,\pi)$. At time $t$ the noise that goes to $y$ fills a smaller box around it, uniformly: all $x$ that are less than $(1-t)\pi$ from $y$ in every angle.
#
# Return the marginal velocity $v_t(x)$, the mean of $u_t(x\mid y)$ over the posterior of $y$ given $x_t=x$. `data` has shape $(n,D)$; each `x` lies in the box of at least one point. With $D=1$ the torus is the circle.


# %%
def torus_velocity(x, t, data):
    """Return the marginal velocity, shaped like x; x is (B, D), t (B,), data (n, D)."""
    # YOUR CODE HERE
    raise NotImplementedError


check("manifolds.torus_velocity", torus_velocity)

# %% [markdown]
# ## The divergence on the sphere (2 points)
#
# A network knows nothing of the sphere: `field(x, t)` returns any vector of $\mathbb R^D$, also at points off the sphere. Only its tangential part moves a particle,
#
# $$w(x)=v_t(x)-\bigl(x\cdot v_t(x)\bigr)\,x.$$
#
# The log density of a particle falls at the rate $\operatorname{div}w$. This is the divergence on the sphere: at $x$, the sum of $e_i\cdot\partial_{e_i}w$ over $D-1$ orthonormal directions $e_i$ that are tangent there.
#
# Return $\operatorname{div}w$ at each `x`, of shape $(B,)$. Derive first what it is in terms of $v$ and of its Jacobian $J=\partial v/\partial x$, or find a way to get it by differentiation alone. Each sample of `field` depends on that sample of `x` only.


# %%
def sphere_divergence(field, x, t):
    """Return the divergence of the tangential part, shape (B,); x is (B, D)."""
    # YOUR CODE HERE
    raise NotImplementedError


check("manifolds.sphere_divergence", sphere_divergence)

# %% [markdown]
# ## An experiment: the angle, the cut and the mass
#
# Work in double precision. First the angle. Take $x_0=(1,0)$ and $x_1=(\cos\theta,\sin\theta)$ with $\theta=10^{-4},10^{-6}$ and $10^{-8}$. How far from $\theta$, relative to it, is `torch.acos` of $x_0\cdot x_1$? How far is the length of the velocity that your geodesic has?
#
# Then the cut. Let the data be three points of the circle, at $-100°$, $0°$ and $40°$. Start 3600 particles on a regular grid of the whole circle and move each by 500 Euler steps with your velocity. Which share of them arrives at each point? Which share would arrive if every particle went to the point that is nearest when it starts? Now look at $v_0$ on a grid of 36 000 angles: how large is the largest jump from one angle to the next? Replace the three points by $n=30$, 300 and 3000 that are the quantiles of $\mathcal N(0,1)$, wrapped. What becomes of the jump, and why?
#
# Last, the mass. On the sphere in $\mathbb R^3$, let the field be the constant vector $c=(0,0,1.5)$. Its tangential part takes the height $z$ of a particle from $z_0$ to $z_1$, where $\operatorname{artanh}z_1=\operatorname{artanh}z_0+1.5$. Take 2000 points that cover the sphere evenly as the ends $x_1$: $z=1-\frac{2i+1}{2000}$ at the longitude $i\,\pi(3-\sqrt5)$. Follow them back to $t=0$ with 100 steps of the midpoint method, pulling each stage to the sphere, and add up the divergence. With uniform noise, what density do you find at the ends? Compare it with the closed form, which you get from Archimedes: equal heights have equal areas. Does it integrate to 1? What do you find with the divergence in space, the trace of $J$? And how far from the sphere do 100 Euler steps end that are not pulled back?
