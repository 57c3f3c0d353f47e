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
    # BEGIN SOLUTION
    t, cosine = t[:, None], (x0 * x1).sum(dim=1, keepdim=True)
    side = x1 - cosine * x0
    sine = side.norm(dim=1, keepdim=True)
    angle, side = torch.atan2(sine, cosine), side / sine
    point = torch.cos(t * angle) * x0 + torch.sin(t * angle) * side
    velocity = angle * (torch.cos(t * angle) * side - torch.sin(t * angle) * x0)
    return torch.stack([point, velocity])
    # END SOLUTION


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
    # BEGIN SOLUTION
    t = t[:, None]
    way = torch.remainder(data - x[:, None] + math.pi, 2 * math.pi) - math.pi
    near = (way.abs() < (1 - t[:, None]) * math.pi).all(dim=2)
    mean = (near[:, :, None] * way).sum(dim=1) / near.sum(dim=1, keepdim=True)
    return mean / (1 - t)
    # END SOLUTION


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
    # BEGIN SOLUTION
    one = lambda y, time: field(y[None], time[None])[0]  # noqa: E731
    J = torch.func.vmap(torch.func.jacrev(one))(x, t)
    trace = J.diagonal(dim1=1, dim2=2).sum(dim=1)
    along = torch.einsum("bi,bij,bj->b", x, J, x)
    return trace - along - (x.shape[1] - 1) * (x * field(x, t)).sum(dim=1)
    # END SOLUTION


check("manifolds.sphere_divergence", sphere_divergence)

# %% [markdown]
# ## An experiment: the angle, the cut and the mass
#
# Work in double precision. First the angle. Take $x_0=(1,0)$ and $x_1=(\cos\theta,\sin\theta)$ with $\theta=10^{-4},10^{-6}$ and $10^{-8}$. How far from $\theta$, relative to it, is `torch.acos` of $x_0\cdot x_1$? How far is the length of the velocity that your geodesic has?
#
# Then the cut. Let the data be three points of the circle, at $-100°$, $0°$ and $40°$. Start 3600 particles on a regular grid of the whole circle and move each by 500 Euler steps with your velocity. Which share of them arrives at each point? Which share would arrive if every particle went to the point that is nearest when it starts? Now look at $v_0$ on a grid of 36 000 angles: how large is the largest jump from one angle to the next? Replace the three points by $n=30$, 300 and 3000 that are the quantiles of $\mathcal N(0,1)$, wrapped. What becomes of the jump, and why?
#
# Last, the mass. On the sphere in $\mathbb R^3$, let the field be the constant vector $c=(0,0,1.5)$. Its tangential part takes the height $z$ of a particle from $z_0$ to $z_1$, where $\operatorname{artanh}z_1=\operatorname{artanh}z_0+1.5$. Take 2000 points that cover the sphere evenly as the ends $x_1$: $z=1-\frac{2i+1}{2000}$ at the longitude $i\,\pi(3-\sqrt5)$. Follow them back to $t=0$ with 100 steps of the midpoint method, pulling each stage to the sphere, and add up the divergence. With uniform noise, what density do you find at the ends? Compare it with the closed form, which you get from Archimedes: equal heights have equal areas. Does it integrate to 1? What do you find with the divergence in space, the trace of $J$? And how far from the sphere do 100 Euler steps end that are not pulled back?

# %% tags=["solution"]
north, one = torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.ones(1).double()
for theta in (1e-4, 1e-6, 1e-8):
    angle = torch.tensor(theta, dtype=torch.float64)
    end = torch.stack([angle.cos(), angle.sin()])[None]
    by_cosine = torch.acos((north * end).sum())
    by_geodesic = geodesic(north, end, one)[1].norm()
    errors = [abs(found.item() / theta - 1) for found in (by_cosine, by_geodesic)]
    said = ["less than 1e-12" if e < 1e-12 else "more than 1e-10" for e in errors]
    said[0] = "all of it" if errors[0] > 0.99 else said[0]
    print(f"{theta:g}: acos is off by {said[0]}, the velocity by {said[1]}")


# %% tags=["solution"]
def wrap(angle):
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def circle(count):
    return (2 * (torch.arange(count).double() + 0.5) / count - 1)[:, None] * math.pi


def shares(ends):
    nearest = wrap(ends - points.T).abs().argmin(dim=1)
    return [f"{(nearest == k).double().mean():.2f}" for k in range(len(points))]


# %% tags=["solution"]
points = torch.deg2rad(torch.tensor([[-100.0], [0.0], [40.0]], dtype=torch.float64))
x = circle(3600)
print("nearest at the start:", *shares(x))
for i in range(500):
    t = torch.full((3600,), i / 500, dtype=torch.float64)
    x = wrap(x + torus_velocity(x, t, points) / 500)
print("after the flow:      ", *shares(x))

# %% tags=["solution"]
grid = circle(36_000)
for count in (3, 30, 300, 3000):
    levels = (torch.arange(count).double() + 0.5) / count
    data = wrap(2**0.5 * torch.erfinv(2 * levels - 1))[:, None]
    v = torus_velocity(grid, torch.zeros(36_000), points if count == 3 else data)
    jump = (v - v.roll(1, dims=0)).abs().max()
    print(f"n = {count}: {jump:.3f}, and 2π/n = {2 * math.pi / count:.3f}")

# %% tags=["solution"]
i, count = torch.arange(2000).double(), 2000
height, longitude = 1 - (2 * i + 1) / count, i * math.pi * (3 - 5**0.5)
radius = (1 - height**2).sqrt()
ends = torch.stack([radius * longitude.cos(), radius * longitude.sin(), height], 1)

# %% tags=["solution"]
c, h = torch.tensor([0.0, 0.0, 1.5], dtype=torch.float64), 0.01


def constant(x, t):
    return c + 0 * x


def tangential(x):
    return c - (x @ c)[:, None] * x


def pulled(x):
    return x / x.norm(dim=1, keepdim=True)


# %% tags=["solution"]
x, time = ends, torch.zeros(count).double()
log_density = torch.full((count,), -math.log(4 * math.pi), dtype=torch.float64)
for _ in range(100):
    middle = pulled(x - h / 2 * tangential(x))
    log_density -= h * sphere_divergence(constant, middle, time)
    x = pulled(x - h * tangential(middle))
start = torch.tanh(torch.atanh(height) - 1.5)
exact = ((1 - start**2) / (1 - height**2)).log() - math.log(4 * math.pi)
print("log density below 1e-3:", bool((log_density - exact).abs().max() < 1e-3))
print(f"largest {log_density.exp().max():.2f}, smallest {log_density.exp().min():.4f}")
print(f"mass {4 * math.pi * log_density.exp().mean():.3f}")

# %% tags=["solution"]
x = ends
for _ in range(100):
    x = x + h * (c - (x @ c)[:, None] * x / (x * x).sum(dim=1, keepdim=True))
print(f"off the sphere by {(x.norm(dim=1) - 1).max():.4f}")

# %% [markdown] tags=["solution"]
# The arc cosine loses digits as the angle falls: $\cos\theta$ differs from 1 by $\theta^2/2$, and double precision has no digit of that left at $10^{-8}$. The sine has them all, and `atan2` of both uses whichever is better. At the other end, near the opposite point, it is the same.
#
# A third of the particles arrives at each point, although the nearest-point rule would send less than a fifth to the middle one. This is what a marginal field promises: noise becomes the data with its weights, whatever the arcs between them are.
#
# At $t=0$ all points are within reach, and the velocity is the mean of all ways. Where $x$ passes the place opposite a point, the way to it turns from $+\pi$ to $-\pi$: a jump by $2\pi$ in one of $n$ ways, $2\pi/n$ in the mean. With more points the jumps become smaller, and for data with a smooth density there is none left. The cut is one of the conditional fields, not one of the marginal field.
#
# In terms of $v$, the divergence is $\operatorname{tr}J-x\cdot Jx-(D-1)\,x\cdot v$. Here $J=0$, so it is $-2\,x\cdot c=-3z$. It needs no Jacobian at all, and the trace of $J$ knows nothing of it: with that the density would stay $\frac1{4\pi}$ everywhere, which has mass 1 too, and is wrong by a factor of up to twenty. Archimedes gives the truth: areas go as heights, so the density at the end is $\frac1{4\pi}\frac{dz_0}{dz_1}=\frac1{4\pi}\frac{1-z_0^2}{1-z_1^2}$. Steps along the tangent leave the sphere by a fraction of their square each, always outwards, and 100 of them add up.
